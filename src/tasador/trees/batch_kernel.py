"""`WideTrees`: a `TreeEnsemble` laid out for `batch_kernel.c`, which values 128 rows at a time.

It takes trees of at most 64 leaves, and columns whose thresholds have few enough ranks for a byte
(several virtual columns where one byte is not enough, as in `row_kernel`). Boosted trees mostly
are like that: LightGBM's have 31 leaves and 255 bins if nobody asks for others. Everything else
stays with `CompactTrees`. Sets of category codes are tables of 256 bits, one for each rank; where
a column has more ranks, a node becomes several, one below the other, each of which asks for a part.

As there, the nodes are rearranged from the roots, and no index that was read from a file is
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
from tasador.trees.errors import TooLargeError
from tasador.trees.row_kernel import Ranked, SetTables, TreesKernel, ranked

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Rows below which a walk is faster.
LEAST_ROWS = 24
_GROUP = 128
_MOST_LEAVES = 64
#: Of a tree, with the several that a set may need.
_MOST_NODES = 192
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
            raise TooLargeError.of("the trees are too large", f"{_MOST_LEAVES} leaves")
        found = ranked(trees, order, _MOST_RANKS, _MOST_COLUMNS)
        columns, thresholds = found.columns, found.thresholds
        table = 32 if n_leaves.max() <= 32 else _MOST_LEAVES
        sets, rows = _sets(found.sets)
        size = _sizes(found, rows)
        counts = np.bincount(tree_of[~leaf], size[~leaf], trees.n_trees).astype(np.uint32)
        if counts.max() > _MOST_NODES:
            most = f"{_MOST_NODES} nodes of a tree"
            raise TooLargeError.of("the sets of categories are too large", most)
        operand = _operands(tree_of, leaf, counts, size)
        self._arrays = {
            "nodes": _nodes(leaf, left, tree_of, operand, size, found, rows),
            "counts": counts,
            "leaves": _tables(trees, order[leaf], tree_of[leaf], operand[leaf], table),
            "columns": columns,
            "thresholds": thresholds,
            "segments": _segments(counts, table),
            "sets": sets,
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


def _sets(columns: list[SetTables]) -> tuple[NDArray[np.uint8], list[Indices]]:
    """Return tables of 256 bits, and which of them each set asks in each part of its column.

    A part says of the ranks within it whether they go right; the ones at its ends, of which it does
    not know how far they go, are its neighbours' or nobody's. Where all go right it is not asked,
    which is -1.
    """
    tables, rows, first = [np.zeros((0, 32), np.uint8)], [], 0
    for sets in columns:
        of_column = np.full((len(sets.goes_right), len(sets.parts)), -1)
        for number, (start, size, _) in enumerate(sets.parts):
            right = np.full((len(of_column), _MOST_RANKS + 1), True)
            right[:, 1:size] = sets.goes_right[:, start + 1 : start + size]
            right[:, size + 1] = sets.goes_right[:, -1]
            asked = ~right.all(axis=1)
            tables.append(np.packbits(right[asked], axis=1, bitorder="little"))
            of_column[asked, number] = first + np.arange(len(tables[-1]))
            first += len(tables[-1])
        rows.append(of_column)
    return np.concatenate(tables), rows


def _sizes(found: Ranked, rows: list[Indices]) -> Indices:
    """Return as how many nodes each node is laid out."""
    size = np.ones(len(found.table), dtype=np.int64)
    for number, of_column in enumerate(rows):
        mine = found.of_sets == number
        size[mine] = (of_column >= 0).sum(axis=1)[found.table[mine]]
    return size


def _operands(
    tree_of: Indices, leaf: NDArray[np.bool_], counts: NDArray[np.uint32], size: Indices
) -> Indices:
    """Return each node's number in its tree: leaves from 0, inner nodes from 64, children first.

    An inner node that is several has the number of the last.
    """
    operand = np.zeros(len(leaf), dtype=np.int64)
    for mask, sizes in ((leaf, np.ones_like(size)), (~leaf, size)):
        trees, before = tree_of[mask], np.cumsum(sizes[mask]) - sizes[mask]
        first = np.searchsorted(trees, trees)  # the nodes of a tree stand side by side
        operand[mask] = before - before[first] if len(trees) else 0
    inner = ~leaf
    operand[inner] = _MOST_LEAVES + counts[tree_of[inner]].astype(np.int64) - 1 - operand[inner]
    return operand


def _nodes(
    leaf: NDArray[np.bool_],
    left: Indices,
    tree_of: Indices,
    operand: Indices,
    size: Indices,
    found: Ranked,
    rows: list[Indices],
) -> NDArray[Any]:
    """Return the inner nodes, tree by tree, children before their parents.

    Of the several that ask for one set, a row goes left at the first that holds it; the others send
    it on to the one before.
    """
    inner = np.flatnonzero(~leaf)
    inner = inner[np.lexsort((operand[inner], tree_of[inner]))]
    owner = np.repeat(inner, size[inner])
    step = np.arange(len(owner)) - np.repeat(np.cumsum(size[inner]) - size[inner], size[inner])
    before = operand[owner] - size[owner] + step
    nodes = np.zeros(len(owner), dtype=_NODE)
    nodes["column"] = found.column[owner] * _GROUP
    nodes["less"] = operand[left[owner]] * _GROUP
    nodes["greater"] = np.where(step == 0, operand[left[owner] + 1], before) * _GROUP
    nodes["rank"] = found.rank[owner].astype(np.uint32) * np.uint32(0x01010101)
    for number, (sets, of_column) in enumerate(zip(found.sets, rows, strict=True)):
        tables = of_column[found.table[inner[found.of_sets[inner] == number]]]
        mine = found.of_sets[owner] == number
        columns = np.array([column for *_, column in sets.parts])
        nodes["column"][mine] = columns[np.nonzero(tables >= 0)[1]] * _GROUP
        nodes["rank"][mine] = tables[tables >= 0]
        nodes["has_set"][mine] = 1
    return nodes


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
