"""`CompactTrees`: a `TreeEnsemble` laid out for `row_kernel.c`, which values rows with it.

Per node 16 bytes: a rank, a cell, the left child and a value. Thresholds are replaced by their
ranks among their column's, rows by the ranks of their values, which compare the same: ``x <= t_i``
of ascending t exactly when fewer than i + 1 of them are below x. Ranks are 16 bits; a column with
more thresholds becomes several *virtual columns*, and one whose NaN goes left here and right there
becomes two. Virtual column 0 is that of leaves, in which every row has rank 0. A set of category
codes holds some ranks of a virtual column of its own kind: it is a table of a bit for each rank.

The nodes are rearranged from the roots, breadth first, children of a node side by side, so that
whatever the ensemble's arrays held, the kernel follows no index that was read from a file.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import TrainingError
from tasador.core.kernels import MISFIT, Kernel, Library
from tasador.trees.ensemble import CategorySets, TreeEnsemble, breadth_first
from tasador.trees.errors import TooLargeError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_LANES = 16
_MOST_COLUMNS = 65_536 // _LANES
_MOST_RANKS = 65_535
#: A segment of trees stays in the processor's second cache while a block of rows goes through it.
_SEGMENT_BYTES = 256 * 1024
#: Most bits of all tables of sets: 16 MB.
_MOST_BITS = 2**27

_COLUMN = np.dtype([("column", "u4"), ("first", "u4"), ("count", "u4"), ("nan_rank", "u4")])
_SEGMENT = np.dtype([("root", "u4"), ("gate", "u4"), ("first_tree", "u4"), ("n_trees", "u4")])


class _Trees(ctypes.Structure):
    _fields_ = (
        ("words", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("thresholds", ctypes.c_void_p),
        ("segments", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        ("bits", ctypes.c_void_p),
        ("n_columns", ctypes.c_uint32),
        ("n_segments", ctypes.c_uint32),
        ("n_trees", ctypes.c_uint32),
        ("n_features", ctypes.c_uint32),
        ("most_trees", ctypes.c_uint32),
        ("float32_inputs", ctypes.c_uint32),
        ("n_bits", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("scale", ctypes.c_double),
        ("base", ctypes.c_double),
    )


class TreesKernel:
    """Values rows with a C kernel; may be used from several threads at once.

    Args:
        call: The kernel: ``(trees, rows, n, scores, width)``, not 0 where there is no memory.
        trees: What it takes, which points into arrays that its maker keeps.
    """

    def __init__(self, call: Kernel, trees: ctypes.Structure) -> None:
        self._call, self._trees = call, trees
        self._pointer = ctypes.addressof(trees)

    def predict(self, Z: Floats) -> Floats:
        """Return the scores (n,) of rows `Z` (n, q): C-contiguous doubles, which is not checked.

        Raises:
            ValueError: The rows have another width than the trees.
            MemoryError: No memory for the work arrays.
        """
        n, width = Z.shape
        scores = np.empty(n)
        failed = self._call(self._pointer, Z.ctypes.data, n, scores.ctypes.data, width)
        if failed == MISFIT:
            raise ValueError(f"rows of {width} features do not fit the trees")
        if failed:
            raise MemoryError
        return scores


class CompactTrees(TreesKernel):
    """Values rows with the C kernel; may be used from several threads at once.

    Args:
        trees: The ensemble.
        library: The compiled kernels.

    Raises:
        TrainingError: The trees are no trees, or more columns are split on than 16 bits can name.
    """

    def __init__(self, trees: TreeEnsemble, library: Library) -> None:
        self.n_features = trees.n_features
        order, tree_of, left = breadth_first(trees)
        found = ranked(trees, order, _MOST_RANKS, _MOST_COLUMNS)
        columns, thresholds = found.columns, found.thresholds
        cell = found.column * np.uint16(_LANES)
        words, values, segments, place = _chained(trees, order, tree_of, left, cell, found.rank)
        tables, bits = _tables(found, place, len(words))
        self._arrays = words, values, columns, thresholds, segments, tables, bits
        compact = _Trees(
            *(array.ctypes.data if len(array) else None for array in self._arrays),
            n_columns=len(columns),
            n_bits=len(bits),
            n_segments=len(segments),
            n_trees=trees.n_trees,
            n_features=trees.n_features,
            most_trees=int(segments["n_trees"].max()),
            float32_inputs=int(trees.float32_inputs),
            scale=trees.scale,
            base=trees.base,
        )
        if library.check_trees(ctypes.addressof(compact), len(words), len(thresholds)):
            raise TrainingError("the trees do not fit the kernel")
        super().__init__(library.trees_predict, compact)


@dataclass(frozen=True)
class SetTables:
    """The sets of one column.

    Attributes:
        goes_right: Whether a row of each rank goes right, NaN last; shape (k, ranks + 1).
        parts: Where split values are shared out: the first one, how many, the virtual column.
            Those of two parts that follow each other have one in common.
    """

    goes_right: NDArray[np.bool_]
    parts: list[tuple[int, int, int]]


@dataclass(frozen=True)
class Ranked:
    """Nodes that compare ranks in virtual columns.

    Attributes:
        columns: The virtual columns.
        thresholds: Theirs, side by side.
        column: Each node's virtual column, the first of several parts; 0 for a leaf.
        rank: Each node's rank; 0 for a leaf, and the highest for a node with a set, which is
            greater than no row's.
        sets: The columns that are split on sets.
        of_sets: Which of `sets` a node asks; -1 for one without a set.
        table: Which table of these.
    """

    columns: NDArray[Any]
    thresholds: Floats
    column: NDArray[np.uint16]
    rank: NDArray[np.uint16]
    sets: list[SetTables]
    of_sets: Indices
    table: Indices


def ranked(trees: TreeEnsemble, order: Indices, most_ranks: int, most_columns: int) -> Ranked:
    """Replace thresholds and sets by ranks in virtual columns.

    Args:
        trees: The ensemble.
        order: Its nodes, in the order of the results.
        most_ranks: How many thresholds a virtual column may have, one less where it has sets; also
            the rank of NaN that goes right.
        most_columns: How many virtual columns there may be.

    Raises:
        TrainingError: There are more virtual columns, or too many categories in the sets.
    """
    feature, threshold = trees.feature[order], trees.threshold[order]
    numbers = np.full(len(order), -1) if trees.sets is None else trees.sets.of_node[order]
    columns: list[tuple[int, int, int, int]] = [(0, 0, 0, 0), (0, 0, 0, 0)]
    thresholds: list[Floats] = []
    sets: list[SetTables] = []
    column_of = np.zeros(len(order), dtype=np.uint16)
    rank = np.zeros(len(order), dtype=np.uint16)
    of_sets, table = np.full(len(order), -1), np.full(len(order), -1)

    def add(column: int, part: Floats, nan_rank: int) -> int:
        if len(columns) == most_columns:
            raise TooLargeError.of("the trees are too wide", f"{most_columns} columns")
        columns.append(
            (column, sum(map(len, thresholds[-1:])) + columns[-1][1], len(part), nan_rank)
        )
        thresholds.append(part)
        return len(columns) - 1

    # one key for a column and where its NaN goes, one for its sets; -1 for a leaf
    kind = np.where(numbers >= 0, 2, trees.missing_left[order])
    key = np.where(feature >= 0, feature.astype(np.int64) * 3 + kind, -1)
    by_key = np.argsort(key, kind="stable")
    keys, starts = np.unique(key[by_key], return_index=True)
    for k, nodes in zip(keys.tolist(), np.split(by_key, starts[1:]), strict=True):
        if k < 0:
            continue
        if trees.sets is not None and k % 3 == 2:
            missing_left = trees.missing_left[order[nodes]]
            edges, right, at = _set_tables(trees.sets, numbers[nodes], missing_left)
            parts = []
            for start in range(0, len(edges) - 1, most_ranks - 2):
                part = edges[start : start + most_ranks - 1]
                parts.append((start, len(part), add(k // 3, part, len(part) + 1)))
            of_sets[nodes], table[nodes] = len(sets), at
            column_of[nodes], rank[nodes] = parts[0][2], most_ranks
            sets.append(SetTables(right, parts))
            continue
        known, at = np.unique(threshold[nodes], return_inverse=True)
        for start in range(0, len(known), most_ranks):
            part = known[start : start + most_ranks]
            mine = (at >= start) & (at < start + len(part))
            column_of[nodes[mine]] = add(k // 3, part, 0 if k % 3 else most_ranks)
            rank[nodes[mine]] = at[mine] - start
    found = np.concatenate(thresholds).astype(np.float64) if thresholds else np.zeros(1)
    return Ranked(np.array(columns, dtype=_COLUMN), found, column_of, rank, sets, of_sets, table)


def _set_tables(
    sets: CategorySets, numbers: NDArray[np.int32], missing_left: NDArray[np.bool_]
) -> tuple[Floats, NDArray[np.bool_], Indices]:
    """Lay out the sets of one column by rank.

    Args:
        sets: All sets.
        numbers: The set of each node that splits this column.
        missing_left: Where NaN goes at each of them.

    Returns:
        The column's split values; tables of which ranks go right, NaN last; each node's table.

    Raises:
        TrainingError: The tables would be too large.
    """
    used, at = np.unique(numbers * 2 + missing_left, return_inverse=True)
    different, which = np.unique(used // 2, return_inverse=True)
    edges = sets.edges(different)
    if len(used) * len(edges) > _MOST_BITS:
        raise TooLargeError.of("the sets of categories are too large", f"{_MOST_BITS} bits")
    return edges, np.column_stack([~sets.by_rank(different, edges)[which], used % 2 == 0]), at


def _tables(
    found: Ranked, place: Indices, n_words: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Return where each node's bits begin, and the bits of all tables; empty without sets.

    Nodes without a set ask the first words, which are 0 for any rank.

    Raises:
        TrainingError: A column has more categories than ranks, or all have too many.
    """
    if not found.sets:
        return np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.uint64)
    bits = [np.zeros((_MOST_RANKS + 1) // 64, dtype=np.uint64)]
    tables, first = np.zeros(n_words, dtype=np.uint32), len(bits[0])
    for number, sets in enumerate(found.sets):
        right = sets.goes_right
        packed = np.packbits(
            np.pad(right, ((0, 0), (0, -right.shape[1] % 64))), axis=1, bitorder="little"
        )
        bits.append(packed.view("<u8").astype(np.uint64).ravel())
        mine = found.of_sets == number
        tables[place[mine]] = first + found.table[mine] * (packed.shape[1] // 8)
        first += len(bits[-1])
        if len(sets.parts) > 1 or 64 * first > _MOST_BITS:
            most = f"{_MOST_RANKS} bounds of codes, {_MOST_BITS} bits"
            raise TooLargeError.of("the sets of categories are too large", most)
    return tables, np.concatenate(bits)


def _chained(
    trees: TreeEnsemble,
    order: Indices,
    tree_of: Indices,
    left: Indices,
    cell: NDArray[np.uint16],
    rank: NDArray[np.uint16],
) -> tuple[NDArray[np.uint64], Floats, NDArray[Any], Indices]:
    """Return words and values of the nodes and of a gate behind each segment of trees.

    Then the segments, and the nodes' places.
    """
    n_trees = trees.n_trees
    n_segments = _LANES * max(1, -(-len(order) * 16 // (_LANES * _SEGMENT_BYTES)))
    bounds = np.arange(n_segments + 1) * n_trees // n_segments
    filled = np.diff(bounds) > 0
    first = np.searchsorted(tree_of, np.arange(n_trees + 1))  # place of each tree's root
    segment_of = np.searchsorted(bounds, np.arange(n_trees), side="right") - 1
    root = first[:-1] + segment_of  # a gate stands behind each earlier segment
    gate = first[bounds[1:]] + np.arange(n_segments)
    size = len(order) + n_segments
    if size >= 2**32:
        raise TrainingError("the trees are too many for the kernel")
    place = np.arange(len(order)) + segment_of[tree_of]
    follows = np.append(root[1:], 0)
    follows[bounds[1:][filled] - 1] = gate[filled]
    leaf = left < 0
    words, values = np.zeros(size, dtype=np.uint64), np.zeros(size)
    words[place] = _words(rank, cell, np.where(leaf, follows[tree_of], place[left]))
    values[place] = np.where(leaf, trees.value[order], 0.0)
    words[gate] = _words(_MOST_RANKS, _LANES, gate)
    segments = np.zeros(n_segments, dtype=_SEGMENT)
    segments["gate"] = segments["root"] = gate
    segments["root"][filled] = root[bounds[:-1][filled]]
    segments["first_tree"], segments["n_trees"] = bounds[:-1], np.diff(bounds)
    return words, values, segments, place


def _words(rank: Any, cell: Any, left: Indices) -> NDArray[np.uint64]:
    reverse = np.uint64(_MOST_RANKS) - np.asarray(rank, np.uint64)
    low = reverse << np.uint64(16) | np.asarray(cell, np.uint64)
    words: NDArray[np.uint64] = left.astype(np.uint64) << np.uint64(32) | low
    return words
