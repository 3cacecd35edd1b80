"""The compiled kernels: found, opened and described; everything works without them, only slower.

`hatch_build.py` compiles the packages' C files into one library beside this module when a
C compiler is there. Calls go through ctypes, which lets other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: Changes with any function's signature or any structure's layout, here and in `kernels.c`.
ABI = 6
#: Set to 0 to do without the kernels.
SWITCH = "TASADOR_NATIVE"
#: What a kernel returns where it would read or write outside of its arrays.
MISFIT = 3
PATH = Path(__file__).with_name("_native.so")

Kernel = Callable[..., int]


@dataclass(frozen=True)
class Library:
    """The opened library; its functions take addresses, and the sizes of what is there.

    Those named ``check`` are asked once, when a structure is made: they go through all of it. The
    others compare sizes at every call. All return 3 (`MISFIT`) and write nothing where they would
    leave an array.

    Attributes:
        trees_predict: ``(trees, rows, n, scores, width)``, see `trees/row_kernel.c`.
        plain: ``(plain, X, filled, n, columns, out, width, points, dimensions, similar, context)``,
            see `features/columns_kernel.c`.
        nearest: ``(index, points, dimensions, similar, limits, context, n, nearest, distances,
            gaps, exponents)``, see `features/neighbours_kernel.c`.
        comparables: ``(index, nearest, distances, gaps, kernels, n, out, width, stride)``.
        check_trees: ``(trees, n_words, n_thresholds)``.
        check_index: ``(index)``.
        check_paths: ``(groups, n_groups)``.
        check_wide_trees: ``(trees, n_nodes, n_trees, n_words, n_thresholds)``.
        contributions: ``(groups, n_groups, z, total, width)``, see `trees/tree_shap.c`.
        wide_trees_predict: As `trees_predict`, see `trees/batch_kernel.c`.
    """

    trees_predict: Kernel
    plain: Kernel
    nearest: Kernel
    comparables: Kernel
    check_trees: Kernel
    check_index: Kernel
    check_paths: Kernel
    check_wide_trees: Kernel
    contributions: Kernel
    wide_trees_predict: Kernel

    @classmethod
    def open(cls, path: Path) -> Library:
        """Open the library at `path`.

        Raises:
            OSError: It is not there, was built for another machine, or from other sources.
        """
        library = ctypes.CDLL(str(path))
        address, size = ctypes.c_void_p, ctypes.c_size_t
        signatures = {
            "trees_predict": (address, address, size, address, size),
            "wide_trees_predict": (address, address, size, address, size),
            "plain": (
                address, address, address, size, size, address, size, address, size, address,
                address,
            ),
            "nearest": (
                address, address, size, address, address, address, size,
                address, address, address, address,
            ),
            "comparables": (
                address, address, address, address, address, size, address, size, size,
            ),
            "contributions": (address, size, address, address, size),
            "check_trees": (address, size, size),
            "check_index": (address,),
            "check_paths": (address, size),
            "check_wide_trees": (address, size, size, size, size),
        }  # fmt: skip
        try:
            found = library.tasador_abi()
            _ = library.tasador_trees_predict  # a library of something else has no kernels at all
            if found != ABI:
                raise OSError(f"built from other sources (interface {found}, not {ABI})")
            functions = {name: library[f"tasador_{name}"] for name in signatures}
        except AttributeError as error:
            raise OSError(str(error)) from None
        for name, kinds in signatures.items():
            functions[name].argtypes = kinds
        return cls(**functions)


@dataclass(frozen=True)
class Native:
    """The library, or the reason why there is none."""

    library: Library | None
    reason: str


@cache
def native() -> Native:
    """Look for the compiled kernels, once per process."""
    if os.environ.get(SWITCH) == "0":
        return Native(None, f"switched off by {SWITCH}=0")
    if not PATH.exists():
        return Native(None, "not compiled: there was no C compiler when tasador was installed")
    try:
        return Native(Library.open(PATH), str(PATH))
    except OSError as error:
        return Native(None, f"{PATH.name} cannot be used, install tasador again: {error}")
