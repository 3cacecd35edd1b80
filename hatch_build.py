"""Build hook: compiles the kernels beside `core/kernels.py` where a C compiler is there.

Without one, or when it fails, tasador installs all the same and values rows with onnxruntime and
numpy; `tasador doctor` says which. ``CC`` names another compiler; ``TASADOR_NATIVE=0`` skips it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

LIBRARY = "tasador/core/_native.so"
# No option may change a rounding: no -ffast-math, no fused multiply-add, no -march of the builder.
# The kernels interleave scalar walks by hand; vectorising them again makes them slower.
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-tree-vectorize", "-fPIC", "-shared"]


def compiler() -> list[str] | None:
    """Return the C compiler's command, or None."""
    named = os.environ.get("CC")
    if named:
        return shlex.split(named)
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return [found] if found else None


def compile_kernels(root: Path, target: Path, command: list[str], flags: list[str] = FLAGS) -> None:
    """Compile all C files under `root`/src/tasador into the library `target`, whole or not at all.

    Raises:
        OSError, subprocess.CalledProcessError: The compiler is not there or refuses.
    """
    sources = sorted(str(path) for path in (root / "src/tasador").glob("*/*.c"))
    partial = target.with_suffix(".partial")
    try:
        subprocess.run(
            [*command, *flags, "-o", str(partial), *sources, "-lm"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


class CustomBuildHook(BuildHookInterface):
    """Puts the compiled library into the wheel, or into the sources of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; `version` is ``standard`` or ``editable``."""
        command, root = compiler(), Path(self.root)
        if os.environ.get("TASADOR_NATIVE") == "0" or command is None:
            self._say("no C compiler" if command is None else "TASADOR_NATIVE=0")
            return
        if version == "editable":
            target = root / "src" / LIBRARY
        else:
            self.folder = tempfile.mkdtemp()
            target = Path(self.folder, "_native.so")
        try:
            compile_kernels(root, target, command)
        except (OSError, subprocess.CalledProcessError) as error:
            self._say(f"{' '.join(command)}: {getattr(error, 'stderr', '') or error}")
            return
        if version != "editable":
            build_data["force_include"][str(target)] = LIBRARY
        build_data["pure_python"] = False
        # the library speaks to no Python, only to the machine
        names = (tag.platform for tag in sys_tags())
        platform = next(name for name in names if "manylinux" not in name and "musl" not in name)
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, *_: Any) -> None:
        """Drop what was compiled for the wheel."""
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)

    @staticmethod
    def _say(why: str) -> None:
        sys.stderr.write(f"tasador: the kernels are not compiled ({why}); onnxruntime serves\n")
