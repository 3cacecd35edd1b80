"""`WideTrees`: a `TreeEnsemble` laid out for `batch_kernel.c`, which values 128 rows at a time.

It takes trees of at most 64 leaves, and columns whose thresholds have few enough ranks for a byte
(several virtual columns where one byte is not enough, as in `row_kernel`). Boosted trees mostly
are like that: LightGBM's have 31 leaves and 255 bins if nobody asks for others. Everything else
stays with `CompactTrees`. Sets of category codes are tables of 256 bits, one for each rank.

As there, the nodes are arranged anew from the roots, and no index that was read from a file is
followed.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import TrainingError
from tasador.core.kernels import Library
from tasador.trees.ensemble import TreeEnsemble, breadth_first
from tasador.trees.row_kernel import Ranked, TreesKernel, ranked

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Rows below which a walk is faster.
LEAST_ROWS = 24
_GROUP = 128
_MOST_LEAVES = 64
_MOST_RANKS = 255
#: A group's ranks, 128 bytes a column, have to stay in the processor's first cache.
_MOST_COLUMNS = 256  # and 16 bits for the place of the last
_SEGMENT_BYTES = 512 * 1024

_NODE = np.dtype(
    [("column", "u2"), ("less", "u2"), ("greater", "u2"), ("has_set", "u2"), ("rank", "u4")]
)
_ARRAYS = ("nodes", "counts", "leaves", "columns", "thresholds", "segments", "sets")


class _WideTrees(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        ("n_columns", ctypes.c_uint32),
        ("n_segments", ctypes.c_uint32),
        ("n_features", ctypes.c_uint32),
        ("table", ctypes.c_uint32),
        ("float32_inputs", ctypes.c_uint32),
        ("n_sets", ctypes.c_uint32),
        ("scale", ctypes.c_double),
        ("base", ctypes.c_double),
    )


class WideTrees(TreesKernel):
    """Values many rows with the C kernel; may be used from several threads at once.

    Args:
        trees: The ensemble.
        library: The compiled kernels.

    Raises:
        TrainingError: The trees are too large for it, or the processor lacks what it takes.
    """

    def __init__(self, trees: TreeEnsemble, library: Library) -> None:
        call = library.wide_trees_predict
        if call(None, None, 0, None, 0):
            raise TrainingError("the kernel needs AVX-512")
        order, tree_of, left = breadth_first(trees)
        leaf = left < 0
        n_leaves = np.bincount(tree_of[leaf], minlength=trees.n_trees)
        if n_leaves.max() > _MOST_LEAVES:
            raise TrainingError(
                "the trees are too large for the kernel", expected=f"{_MOST_LEAVES} leaves"
            )
        found = ranked(trees, order, _MOST_RANKS, _MOST_COLUMNS)
        columns, thresholds = found.columns, found.thresholds
        table = 32 if n_leaves.max() <= 32 else _MOST_LEAVES
        counts = np.bincount(tree_of[~leaf], minlength=trees.n_trees).astype(np.uint32)
        operand = _operands(tree_of, leaf, counts)
        self._arrays = {
            "nodes": _nodes(leaf, left, tree_of, operand, found),
            "counts": counts,
            "leaves": _tables(trees, order[leaf], tree_of[leaf], operand[leaf], table),
            "columns": columns,
            "thresholds": thresholds,
            "segments": _segments(counts, table),
            "sets": _sets(found.goes_right),
        }
        wide = _WideTrees(
            **{name: array.ctypes.data for name, array in self._arrays.items()},
            n_columns=len(columns),
            n_segments=len(self._arrays["segments"]),
            n_features=trees.n_features,
            table=table,
            float32_inputs=int(trees.float32_inputs),
            n_sets=len(self._arrays["sets"]),
            scale=trees.scale,
            base=trees.base,
        )
        sizes = (len(self._arrays[name]) for name in ("nodes", "counts"))
        if library.check_wide_trees(
            ctypes.addressof(wide), *sizes, self._arrays["leaves"].size, len(thresholds)
        ):
            raise TrainingError("the trees do not fit the kernel")
        super().__init__(call, wide)


def _operands(tree_of: Indices, leaf: NDArray[np.bool_], counts: NDArray[np.uint32]) -> Indices:
    """Return each node's number in its tree: leaves from 0, inner nodes from 64, children first."""
    operand = np.zeros(len(leaf), dtype=np.int64)
    for mask in (leaf, ~leaf):
        trees = tree_of[mask]
        first = np.searchsorted(trees, trees)  # the nodes of a tree stand side by side
        operand[mask] = np.arange(len(trees)) - first
    inner = ~leaf
    operand[inner] = _MOST_LEAVES + counts[tree_of[inner]].astype(np.int64) - 1 - operand[inner]
    return operand


def _nodes(
    leaf: NDArray[np.bool_],
    left: Indices,
    tree_of: Indices,
    operand: Indices,
    found: Ranked,
) -> NDArray[Any]:
    """Return the inner nodes, tree by tree, children before their parents."""
    inner = np.flatnonzero(~leaf)
    inner = inner[np.lexsort((operand[inner], tree_of[inner]))]
    nodes = np.zeros(len(inner), dtype=_NODE)
    nodes["column"] = found.column[inner] * _GROUP
    nodes["less"] = operand[left[inner]] * _GROUP
    nodes["greater"] = operand[left[inner] + 1] * _GROUP
    table = found.table[inner]
    rank = found.rank[inner].astype(np.uint32) * np.uint32(0x01010101)
    nodes["has_set"] = table >= 0
    nodes["rank"] = np.where(table >= 0, table, rank)
    return nodes


def _sets(goes_right: list[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Return a table of 256 bits for each set."""
    bits = np.zeros((len(goes_right), _MOST_RANKS + 1), dtype=bool)
    for row, right in zip(bits, goes_right, strict=True):
        row[: len(right)] = right
    return np.packbits(bits, axis=1, bitorder="little")


def _tables(
    trees: TreeEnsemble, leaves: Indices, tree_of: Indices, number: Indices, table: int
) -> NDArray[np.uint32]:
    """Return the leaves' values (trees, 2, table): their low words, then their high ones."""
    words = np.ascontiguousarray(trees.value[leaves], dtype=np.float64).view(np.uint64)
    tables = np.zeros((trees.n_trees, 2, table), dtype=np.uint32)
    tables[tree_of, 0, number] = words & np.uint64(0xFFFFFFFF)
    tables[tree_of, 1, number] = words >> np.uint64(32)
    return tables


def _segments(counts: NDArray[np.uint32], table: int) -> NDArray[np.uint32]:
    """Return how many trees each segment has, so that it stays in the second cache."""
    size = np.cumsum(counts.astype(np.int64) * _NODE.itemsize + 8 * table)
    n_segments = max(1, -(-int(size[-1]) // _SEGMENT_BYTES))
    segment = (size - 1) * n_segments // int(size[-1])
    return np.bincount(segment, minlength=n_segments).astype(np.uint32)
