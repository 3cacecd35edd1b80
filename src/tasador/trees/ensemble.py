"""`TreeEnsemble`: a sum of regression trees as flat arrays, whatever library grew them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import TrainingError
from tasador.trees.errors import LinearError, TreesError

Floats = NDArray[np.float64]

#: Mark of a leaf in `TreeEnsemble.feature`, `left` and `right`.
LEAF = -1
#: A deeper tree was grown by nobody: onnxruntime goes down level by level on the stack.
MOST_LEVELS = 4096
#: Largest category code of a set.
HIGHEST_CODE = 2**20 - 1
#: Most nodes times different codes: a table of all of them has to fit in memory, as bits.
_MOST_MEMBERSHIPS = 2**32
#: Rows times trees that are stepped down at a time: what is in use has to fit in the cache.
_AT_ONCE = 2**17


@dataclass(frozen=True)
class CategorySets:
    """The sets of category codes that trees split on.

    A row's code is x without its fraction, as LightGBM takes it: 2 for 2.9, 0 for -0.9. Numbers
    up to -1 are in no set.

    Attributes:
        of_node: The set of each node, -1 where the node compares with its threshold.
        start: Where each set's codes begin, and where the last one's end: shape (number of sets
            + 1,).
        codes: In [0, `HIGHEST_CODE`], ascending within each set.
    """

    of_node: NDArray[np.int32]
    start: NDArray[np.int32]
    codes: NDArray[np.int32]

    @classmethod
    def of_nodes(
        cls, n_nodes: int, sets: Iterable[tuple[int, NDArray[np.integer]]]
    ) -> CategorySets | None:
        """Return the sets of `n_nodes` nodes, equal ones once; None where there are none.

        Args:
            n_nodes: Number of nodes of all trees.
            sets: Nodes and the codes of their sets, ascending.
        """
        numbers: dict[bytes, int] = {}
        parts: list[NDArray[np.int32]] = []
        of_node = np.full(n_nodes, -1, dtype=np.int32)
        for node, found in sets:
            codes = found.astype(np.int32)
            of_node[node] = numbers.setdefault(codes.tobytes(), len(numbers))
            if len(numbers) > len(parts):
                parts.append(codes)
        if not parts:
            return None
        start = np.cumsum([0, *map(len, parts)]).astype(np.int32)
        return cls(of_node, start, np.concatenate(parts))

    def __post_init__(self) -> None:
        start, codes, n_sets = self.start, self.codes, len(self.start) - 1
        within = np.ones(max(len(codes) - 1, 0), dtype=bool)
        if n_sets > 0 and start[0] == 0 and start[-1] == len(codes) and (np.diff(start) > 0).all():
            within[start[1:-1] - 1] = False
        else:
            raise TreesError.sets("every code in one set, none empty", "other bounds of the sets")
        if codes.min() < 0 or codes.max() > HIGHEST_CODE or (np.diff(codes)[within] <= 0).any():
            raise TreesError.sets(
                f"ascending category codes in [0, {HIGHEST_CODE}]",
                f"codes in [{int(codes.min())}, {int(codes.max())}], or not ascending",
            )
        if len(self.of_node) and not -1 <= self.of_node.min() <= self.of_node.max() < n_sets:
            raise TreesError.sets(f"sets below {n_sets}", f"set {int(self.of_node.max())}")
        different = len(np.unique(codes))
        if len(self.of_node) * different > _MOST_MEMBERSHIPS:
            raise TreesError.sets(
                "fewer nodes or categories", f"{len(self.of_node)} nodes, {different} categories"
            )

    @property
    def n_sets(self) -> int:
        """Number of different sets."""
        return len(self.start) - 1

    def codes_of(self, number: int) -> NDArray[np.int32]:
        """Return the codes of set `number`, ascending."""
        return self.codes[self.start[number] : self.start[number + 1]]

    @cached_property
    def _set_of_code(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(self.n_sets), np.diff(self.start))

    @cached_property
    def _keys(self) -> NDArray[np.int64]:
        return self._set_of_code * (HIGHEST_CODE + 1) + self.codes

    def hold(self, numbers: NDArray[np.integer], x: Floats) -> NDArray[np.bool_]:
        """Return whether the sets `numbers`, any shape, hold the codes of `x`, the same shape."""
        coded = (x > -1.0) & (x < HIGHEST_CODE + 1)
        key = numbers.astype(np.int64) * (HIGHEST_CODE + 1)
        key += np.where(coded, x, 0.0).astype(np.int64)
        at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        found: NDArray[np.bool_] = coded & (self._keys[at] == key)
        return found

    def edges(self, numbers: NDArray[np.integer], others: Floats | None = None) -> Floats:
        """Return the split values that tell the codes of the sets `numbers` apart, ascending.

        They are the numbers next below each code, and next below the number that follows it; and
        `others` among them.
        """
        codes = np.unique(self.codes[np.isin(self._set_of_code, numbers)]).astype(np.float64)
        low = np.where(codes == 0.0, -1.0, np.nextafter(codes, -np.inf))
        high = np.nextafter(codes + 1.0, -np.inf)
        return np.unique(np.concatenate([low, high, np.empty(0) if others is None else others]))

    def by_rank(self, numbers: NDArray[np.integer], edges: Floats) -> NDArray[np.bool_]:
        """Return whether each of k different sets holds the numbers of each rank.

        The rank of x is how many of `edges` are below it, as numeric splits have it.

        Args:
            numbers: The sets.
            edges: What `edges` returned for them, with any others.

        Returns:
            Shape (k, len(edges) + 1).
        """
        place = np.full(self.n_sets, -1)
        place[numbers] = np.arange(len(numbers))
        place = place[self._set_of_code]
        codes, which = np.unique(self.codes[place >= 0], return_inverse=True)
        held = np.zeros((len(numbers), len(codes) + 1), dtype=bool)
        held[place[place >= 0], which] = True
        # all numbers of a rank have one code, that of its last, or codes that are in no set
        last = np.trunc(edges)
        at = np.searchsorted(codes, last)
        known = (edges > -1.0) & (codes[np.minimum(at, len(codes) - 1)] == last)
        of_rank = np.append(np.where(known, at, len(codes)), len(codes))
        result: NDArray[np.bool_] = held[:, of_rank]
        return result


@dataclass(frozen=True)
class TreeEnsemble:
    """Regression trees over q features; all arrays but `roots` have one entry per node.

    A row's score is ``base + scale * sum of the leaf values it reaches``, one leaf per tree. At an
    inner node it goes left when ``x <= threshold``, right when it is greater, and to the side that
    `missing_left` names when x is NaN. How a library treats missing values is folded into that
    flag: "NaN counts as 0.0" is the same as ``missing_left = 0.0 <= threshold``. At a node with a
    set it goes left when the set holds x, whatever the threshold.

    Attributes:
        feature: Column compared at the node, in [0, q); `LEAF` for a leaf.
        threshold: Split value, not NaN (inf separates missing from the rest); 0.0 for a leaf.
        left: Index of the node for ``x <= threshold``; `LEAF` for a leaf.
        right: Index of the node for ``x > threshold``; `LEAF` for a leaf.
        value: What a leaf adds to the sum; an inner node has its expected value, or 0.0 when the
            library does not keep one. Only leaves count in a prediction.
        missing_left: Whether NaN goes left.
        cover: Training weight (or number of rows) that reached the node, as exact TreeSHAP needs.
        roots: Index of each tree's root, in the order in which trees are summed.
        n_features: q, the number of columns of a row.
        base: Added once.
        scale: Factor of the sum: 1/n for the mean of a forest.
        float32_inputs: Whether the library rounds its inputs to float32 first (scikit-learn); not
            together with sets.
        sets: Sets of category codes that nodes split on; None where all compare.
    """

    feature: NDArray[np.int32]
    threshold: Floats
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Floats
    missing_left: NDArray[np.bool_]
    cover: Floats
    roots: NDArray[np.int32]
    n_features: int
    base: float = 0.0
    scale: float = 1.0
    float32_inputs: bool = False
    sets: CategorySets | None = None

    def __post_init__(self) -> None:
        nodes = (self.feature, self.threshold, self.left, self.right)
        lengths = {len(array) for array in (*nodes, self.value, self.missing_left, self.cover)}
        if len(lengths) != 1 or not len(self.roots):
            raise TreesError.lengths(lengths, len(self.roots))
        inner = self.feature >= 0
        if inner.any() and int(self.feature.max()) >= self.n_features:
            raise TreesError.column(int(self.feature.max()), self.n_features)
        if np.isnan(self.threshold).any() or not np.isfinite(self.value).all():
            raise TreesError.no_number()
        if self.sets is not None:
            with_set = self.sets.of_node >= 0
            if len(with_set) != self.n_nodes or (with_set & ~inner).any() or self.float32_inputs:
                raise TreesError.sets(
                    "an entry for each node, sets at inner nodes only, inputs in double precision",
                    f"{len(with_set)} entries for {self.n_nodes} nodes, or a set elsewhere",
                )

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.roots)

    @property
    def n_nodes(self) -> int:
        """Number of nodes of all trees, leaves included."""
        return len(self.feature)

    @property
    def depth(self) -> int:
        """Steps to the deepest leaf.

        Raises:
            TrainingError: A branch leads outside the arrays, or into a circle.
        """
        return self._steps[-1]

    def thresholds(self) -> dict[int, Floats]:
        """Return the distinct split values of each column that is split on, ascending.

        Those of sets are `CategorySets.edges`.
        """
        inner = self.feature >= 0
        found = {}
        for column in np.unique(self.feature[inner]):
            mine = inner & (self.feature == column)
            if self.sets is None:
                found[int(column)] = np.unique(self.threshold[mine])
                continue
            compared = self.threshold[mine & (self.sets.of_node < 0)]
            numbers = np.unique(self.sets.of_node[mine & (self.sets.of_node >= 0)])
            found[int(column)] = self.sets.edges(numbers, compared)
        return found

    @cached_property
    def _steps(self) -> tuple[NDArray[np.intp], Floats, NDArray[np.intp], int]:
        """Feature, threshold and children of each node, and the steps to the deepest leaf.

        A leaf is its own child here, so that all trees are stepped down together.
        """
        leaf, own = self.feature < 0, np.arange(self.n_nodes)
        sides = [np.where(leaf, own, side) for side in (self.left, self.right)]
        level, steps = self.roots[~leaf[self.roots]], 0
        while len(level):
            level = np.concatenate([self.left[level], self.right[level]])
            _check_inside(level, self.n_nodes)
            level, steps = level[~leaf[level]], steps + 1
            if len(level) > self.n_nodes or steps > MOST_LEVELS:
                raise TreesError.no_trees("a node with two parents, or a circle")
        feature = np.where(leaf, 0, self.feature).astype(np.intp)
        return feature, self.threshold, np.stack(sides, axis=1).ravel().astype(np.intp), steps

    def leaves(self, X: Floats) -> NDArray[np.intp]:
        """Return the leaf that each row reaches in each tree.

        Args:
            X: Shape (n, q); NaN follows `missing_left`, infinities compare as numbers.

        Returns:
            Node indices, shape (n, number of trees).
        """
        if self.float32_inputs:
            with np.errstate(over="ignore"):
                X = X.astype(np.float32).astype(np.float64)
        feature, threshold, children, steps = self._steps
        flat, gaps = np.ascontiguousarray(X).ravel(), bool(np.isnan(X).any())
        start = (np.arange(len(X)) * self.n_features)[:, None]
        node = np.repeat(self.roots[None, :].astype(np.intp), len(X), axis=0)
        for _ in range(steps):
            x = flat.take(feature.take(node) + start)
            goes_right = x > threshold.take(node)
            if self.sets is not None:
                number = self.sets.of_node.take(node)
                held = self.sets.hold(np.maximum(number, 0), x)
                goes_right = np.where(number >= 0, ~held, goes_right)
            if gaps:  # NaN compares as false and would go left
                goes_right = np.where(np.isnan(x), ~self.missing_left.take(node), goes_right)
            node = children.take(2 * node + goes_right)
        return node

    def predict(self, X: Floats) -> Floats:
        """Return the scores of the rows of `X`: the reference for the ONNX form and the kernels.

        Args:
            X: Shape (n, q), n >= 0; NaN follows `missing_left`.

        Returns:
            Scores, shape (n,). A row's score is the same bits alone and among others: trees are
            added in their order.

        Raises:
            TrainingError: The rows have another number of columns.
        """
        X = np.ascontiguousarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise TreesError.rows(X.shape, self.n_features)
        size = max(1, _AT_ONCE // self.n_trees)
        if len(X) <= size:
            return self._predict(X)
        return np.concatenate([self._predict(X[i : i + size]) for i in range(0, len(X), size)])

    def _predict(self, X: Floats) -> Floats:
        total = np.cumsum(self.value.take(self.leaves(X)), axis=1)[:, -1]
        result: Floats = self.base + self.scale * total
        return result


def breadth_first(
    trees: TreeEnsemble,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the nodes tree by tree, breadth first, children side by side.

    Returns:
        The nodes in their new order, the tree of each, and the place of each one's left child (-1
        for a leaf).

    Raises:
        TrainingError: A branch leads outside the arrays, into a circle, two lead to one node, or a
            tree is deeper than `MOST_LEVELS`.
    """
    left, right = trees.left.astype(np.int64), trees.right.astype(np.int64)
    level, tree = trees.roots.astype(np.int64), np.arange(trees.n_trees)
    levels, owners, seen = [level], [tree], len(level)
    _check_inside(level, trees.n_nodes)
    while True:
        inner = trees.feature[level] >= 0
        parents = level[inner]
        if not len(parents):
            break
        level = np.stack((left[parents], right[parents]), axis=1).ravel()
        tree = np.repeat(tree[inner], 2)
        seen += len(level)
        _check_inside(level, trees.n_nodes)
        if len(levels) > MOST_LEVELS:
            raise TreesError.no_trees(f"a tree of more than {MOST_LEVELS} levels")
        if seen > trees.n_nodes:
            raise TreesError.no_trees("a node with two parents, or a circle")
        levels.append(level)
        owners.append(tree)
    order, owner = np.concatenate(levels), np.concatenate(owners)
    by_tree = np.argsort(owner, kind="stable")
    order, owner = order[by_tree], owner[by_tree]
    place = np.full(trees.n_nodes, -1)
    place[order] = np.arange(len(order))
    if np.bincount(order).max() > 1:
        raise TreesError.no_trees("a node with two parents")
    inner = trees.feature[order] >= 0
    return order, owner, np.where(inner, place[np.where(inner, left[order], 0)], -1)


def _check_inside(nodes: NDArray[np.integer], n: int) -> None:
    if len(nodes) and not 0 <= nodes.min() <= nodes.max() < n:
        raise TreesError.no_trees(f"a node {int(nodes.min())} or {int(nodes.max())} of {n}")


@dataclass(frozen=True)
class LinearModel:
    """``intercept + sum of coef * clip(x, low, high)`` on unscaled inputs; NaN gives NaN.

    Attributes:
        coef: Shape (q,).
        intercept: Added once.
        low: Shape (q,), finite: smaller inputs count as this; None, as in bundles of before, where
            inputs are taken as they are.
        high: The same for greater ones; not without `low`, and nowhere below it.
    """

    coef: Floats
    intercept: float
    low: Floats | None = None
    high: Floats | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            return
        ends = [np.empty(0) if end is None else end for end in (self.low, self.high)]
        if any(end.shape != self.coef.shape or not np.isfinite(end).all() for end in ends):
            raise LinearError.range()
        if (ends[0] > ends[1]).any():
            raise LinearError.range()

    @property
    def n_features(self) -> int:
        """Number of columns of a row."""
        return len(self.coef)

    def clip(self, X: Floats) -> Floats:
        """Return inputs (..., q) as they count, within the range; NaN stays NaN."""
        if self.low is None or self.high is None:
            return X
        result: Floats = np.clip(X, self.low, self.high)
        return result

    def predict(self, X: Floats) -> Floats:
        """Return the scores of the rows of `X`, shape (n, q), as shape (n,)."""
        terms = np.ascontiguousarray(self.clip(X), dtype=np.float64) * self.coef
        result: Floats = self.intercept + np.cumsum(terms, axis=1)[:, -1]
        return result


def average(
    models: Sequence[TreeEnsemble | LinearModel], shift: float = 0.0
) -> TreeEnsemble | LinearModel:
    """Return one model whose score is the mean of the models' scores, plus `shift`.

    Args:
        models: Trees only, or linear models only; at least one, over the same columns.
        shift: Added to every score.

    Raises:
        TrainingError: Trees and linear models together, or linear models of which two weight a
            column that they clip to different ranges.
    """
    if not shift and len(models) == 1:
        return models[0]
    trees = [model for model in models if isinstance(model, TreeEnsemble)]
    linear = [model for model in models if isinstance(model, LinearModel)]
    if trees and linear:
        raise TrainingError("trees and linear models cannot be averaged into one model")
    if linear:
        low, high = _common_range(linear)
        return LinearModel(
            coef=np.mean([model.coef for model in linear], axis=0),
            intercept=float(np.mean([model.intercept for model in linear])) + shift,
            low=low,
            high=high,
        )
    if len(trees) == 1:
        return dataclasses.replace(trees[0], base=trees[0].base + shift)
    return joined([in_double_precision(model) for model in trees], len(trees), shift)


def stretched(
    model: TreeEnsemble | LinearModel, factor: float, shift: float
) -> TreeEnsemble | LinearModel:
    """Return the model whose score is `factor`, above 0, times that of `model`, plus `shift`."""
    if isinstance(model, LinearModel):
        intercept = factor * model.intercept + shift
        return dataclasses.replace(model, coef=factor * model.coef, intercept=intercept)
    base = factor * model.base + shift
    return dataclasses.replace(model, base=base, scale=factor * model.scale)


def _common_range(models: Sequence[LinearModel]) -> tuple[Floats, Floats] | tuple[None, None]:
    """Return the range of all; of a column that a model does not weight, the others' counts."""
    low, high = models[0].low, models[0].high
    weighted = models[0].coef != 0.0
    for model in models[1:]:
        if low is None or high is None or model.low is None or model.high is None:
            if low is not model.low or high is not model.high:
                raise LinearError.ranges()
            continue
        same, own = (low == model.low) & (high == model.high), model.coef != 0.0
        if (weighted & own & ~same).any():
            raise LinearError.ranges()
        low, high = np.where(own, model.low, low), np.where(own, model.high, high)
        weighted = weighted | own
    return (None, None) if low is None or high is None else (low, high)


def in_double_precision(model: TreeEnsemble) -> TreeEnsemble:
    """Return the same trees over inputs that are not rounded to float32 first.

    A library that rounds its inputs sends x left when round(x) <= t. With f the largest float32 up
    to t, these are the x that round to f or less: those below the middle between f and the next
    float32, and the middle itself when rounding to even takes it down.
    """
    if not model.float32_inputs:
        return model
    inner = model.feature >= 0
    with np.errstate(over="ignore"):
        f = model.threshold.astype(np.float32)
        f = np.where(
            f.astype(np.float64) > model.threshold, np.nextafter(f, np.float32(-np.inf)), f
        )
        above = np.nextafter(f, np.float32(np.inf))
    finite = np.isfinite(f) & np.isfinite(above)
    low = np.where(finite, f, np.float32(0)).astype(np.float64)
    middle = low + (np.where(finite, above, np.float32(0)).astype(np.float64) - low) / 2.0
    down = np.where(finite, middle, 0.0).astype(np.float32).astype(np.float64) <= low
    edge = np.where(down, middle, np.nextafter(middle, -np.inf))
    # past the largest float32 there is no next one: what is not rounded to infinity stays left
    largest = np.float64(np.finfo(np.float32).max)
    beyond = np.nextafter(largest + 2.0**103, -np.inf)
    edge = np.where(finite, edge, np.where(f == np.float32(largest), beyond, model.threshold))
    threshold = np.where(inner, edge, 0.0)
    return dataclasses.replace(model, threshold=threshold, float32_inputs=False)


def joined(models: Sequence[TreeEnsemble], parts: int, shift: float = 0.0) -> TreeEnsemble:
    """Return all trees as one ensemble: the sum of scores over `parts`, plus `shift`.

    Args:
        models: At least one, over the same columns, none with `float32_inputs`.
        parts: How many models it is the mean of; 1 for the sum.
        shift: Added to every score.
    """
    offsets = np.cumsum([0, *(model.n_nodes for model in models)])[:-1]

    def moved(name: str) -> NDArray[np.int32]:
        parts = [
            np.where(getattr(m, name) == LEAF, LEAF, getattr(m, name) + offset)
            for m, offset in zip(models, offsets, strict=True)
        ]
        return np.concatenate(parts).astype(np.int32)

    def values() -> Floats:
        return np.concatenate([m.value * (m.scale / parts) for m in models])

    return TreeEnsemble(
        feature=np.concatenate([m.feature for m in models]),
        threshold=np.concatenate([m.threshold for m in models]),
        left=moved("left"),
        right=moved("right"),
        value=values(),
        missing_left=np.concatenate([m.missing_left for m in models]),
        cover=np.concatenate([m.cover for m in models]),
        roots=np.concatenate(
            [m.roots + offset for m, offset in zip(models, offsets, strict=True)]
        ).astype(np.int32),
        n_features=models[0].n_features,
        base=float(np.sum([m.base for m in models])) / parts + shift,
        sets=CategorySets.of_nodes(
            sum(m.n_nodes for m in models),
            (
                (int(node) + int(offset), m.sets.codes_of(m.sets.of_node[node]))
                for m, offset in zip(models, offsets, strict=True)
                if m.sets is not None
                for node in np.flatnonzero(m.sets.of_node >= 0)
            ),
        ),
    )
