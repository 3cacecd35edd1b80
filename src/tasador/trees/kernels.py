"""Trees laid out for the C kernels: `row_kernel.c` values rows, `batch_kernel.c` 128 at a time.

`CompactTrees`, for the former, has per node 16 bytes: a rank, a cell, the left child and a value.
Thresholds are replaced by their ranks among their column's, rows by the ranks of their values,
which compare the same: ``x <= t_i`` of ascending t exactly when fewer than i + 1 of them are below
x. Ranks are 16 bits; a column with more thresholds becomes several *virtual columns*, and one whose
NaN goes left here and right there becomes two. Virtual column 0 is that of leaves, in which every
row has rank 0. A set of category codes holds some ranks of a virtual column of its own kind: it is
a table of a bit for each rank.

`WideTrees`, for the latter, takes trees of at most 64 leaves, and columns whose thresholds have few
enough ranks for a byte (several virtual columns where one byte is not enough). Boosted trees mostly
are like that: LightGBM's have 31 leaves and 255 bins if nobody asks for others. Everything else
stays with `CompactTrees`. Sets of category codes are tables of 256 bits, one for each rank; where
a column has more ranks, a node becomes several, one below the other, each of which asks for a part.

In both the nodes are rearranged from the roots, breadth first, children of a node side by side, so
that whatever the ensemble's arrays held, the kernel follows no index that was read from a file.
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

#: Rows below which a walk is faster.
LEAST_ROWS = 24
_GROUP = 128
_MOST_LEAVES = 64
#: Of a tree, with the several that a set may need.
_MOST_NODES = 192
_WIDE_RANKS = 255
#: A group's ranks, 128 bytes a column, have to stay in the processor's first cache.
_WIDE_COLUMNS = 256  # and 16 bits for the place of the last
_WIDE_SEGMENT_BYTES = 512 * 1024

_NODE = np.dtype(
    [("column", "u2"), ("less", "u2"), ("greater", "u2"), ("has_set", "u2"), ("rank", "u4")]
)
_ARRAYS = ("nodes", "counts", "leaves", "columns", "thresholds", "segments", "sets")


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
    """Values rows one by one; may be used from several threads at once.

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
    """Values rows in groups; may be used from several threads at once.

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
        found = ranked(trees, order, _WIDE_RANKS, _WIDE_COLUMNS)
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
            "leaves": _leaf_tables(trees, order[leaf], tree_of[leaf], operand[leaf], table),
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
            right = np.full((len(of_column), _WIDE_RANKS + 1), True)
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


def _leaf_tables(
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
    n_segments = max(1, -(-int(size[-1]) // _WIDE_SEGMENT_BYTES))
    segment = (size - 1) * n_segments // int(size[-1])
    return np.bincount(segment, minlength=n_segments).astype(np.uint32)
