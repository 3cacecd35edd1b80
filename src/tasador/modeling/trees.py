"""`TreeEnsemble`: a sum of regression trees as flat arrays, whatever library grew them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import TrainingError

Floats = NDArray[np.float64]

#: Mark of a leaf in `TreeEnsemble.feature`, `left` and `right`.
LEAF = -1
#: A deeper tree was grown by nobody: onnxruntime goes down level by level on the stack.
MOST_LEVELS = 4096


@dataclass(frozen=True)
class TreeEnsemble:
    """Regression trees over q features; all arrays but `roots` have one entry per node.

    A row's score is ``base + scale * sum of the leaf values it reaches``, one leaf per tree. At an
    inner node it goes left when ``x <= threshold``, right when it is greater, and to the side that
    `missing_left` names when x is NaN. How a library treats missing values is folded into that
    flag: "NaN counts as 0.0" is the same as ``missing_left = 0.0 <= threshold``.

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
        float32_inputs: Whether the library rounds its inputs to float32 first (scikit-learn).
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

    def __post_init__(self) -> None:
        nodes = (self.feature, self.threshold, self.left, self.right)
        lengths = {len(array) for array in (*nodes, self.value, self.missing_left, self.cover)}
        if len(lengths) != 1 or not len(self.roots):
            raise TrainingError(
                "the trees cannot be read",
                expected="one entry per node in every array and at least one root",
                got=f"lengths {sorted(lengths)} and {len(self.roots)} roots",
            )
        inner = self.feature >= 0
        if inner.any() and int(self.feature.max()) >= self.n_features:
            raise TrainingError(
                "a tree splits on a column that does not exist",
                expected=f"columns below {self.n_features}",
                got=f"column {int(self.feature.max())}",
            )
        if np.isnan(self.threshold).any() or not np.isfinite(self.value).all():
            raise TrainingError(
                "a tree holds a value that is not a number",
                expected="no NaN in thresholds, finite leaf values",
                remedy="look for inf or NaN in the training target",
            )

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.roots)

    @property
    def n_nodes(self) -> int:
        """Number of nodes of all trees, leaves included."""
        return len(self.feature)

    def thresholds(self) -> dict[int, Floats]:
        """Return the distinct split values of each column that is split on, ascending."""
        inner = self.feature >= 0
        return {
            int(column): np.unique(self.threshold[inner & (self.feature == column)])
            for column in np.unique(self.feature[inner])
        }

    def leaves(self, X: Floats) -> NDArray[np.int32]:
        """Return the leaf that each row reaches in each tree.

        Args:
            X: Shape (n, q); NaN follows `missing_left`, infinities compare as numbers.

        Returns:
            Node indices, shape (n, number of trees).
        """
        if self.float32_inputs:
            with np.errstate(over="ignore"):
                X = X.astype(np.float32).astype(np.float64)
        node = np.tile(self.roots, (len(X), 1))
        rows = np.arange(len(X))[:, None]
        while (inner := self.feature[node] >= 0).any():
            x = X[rows, np.where(inner, self.feature[node], 0)]
            goes_left = np.where(np.isnan(x), self.missing_left[node], x <= self.threshold[node])
            node = np.where(inner, np.where(goes_left, self.left[node], self.right[node]), node)
        return node

    def predict(self, X: Floats) -> Floats:
        """Return the scores of the rows of `X`: plain and slow, the reference for the ONNX form.

        Args:
            X: Shape (n, q), n >= 0; NaN follows `missing_left`.

        Returns:
            Scores, shape (n,). A row's score is the same bits alone and among others: trees are
            added in their order.
        """
        X = np.ascontiguousarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise TrainingError(
                "the rows do not fit the trees",
                expected=f"shape (n, {self.n_features})",
                got=f"shape {X.shape}",
            )
        total = np.zeros(len(X))
        reached = self.value[self.leaves(X)]
        for tree in range(self.n_trees):
            total += reached[:, tree]
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
            raise _no_trees(f"a tree of more than {MOST_LEVELS} levels")
        if seen > trees.n_nodes:
            raise _no_trees("a node with two parents, or a circle")
        levels.append(level)
        owners.append(tree)
    order, owner = np.concatenate(levels), np.concatenate(owners)
    by_tree = np.argsort(owner, kind="stable")
    order, owner = order[by_tree], owner[by_tree]
    place = np.full(trees.n_nodes, -1)
    place[order] = np.arange(len(order))
    if np.bincount(order).max() > 1:
        raise _no_trees("a node with two parents")
    inner = trees.feature[order] >= 0
    return order, owner, np.where(inner, place[np.where(inner, left[order], 0)], -1)


def _check_inside(nodes: NDArray[np.int64], n: int) -> None:
    if len(nodes) and not 0 <= nodes.min() <= nodes.max() < n:
        raise _no_trees(f"a node {int(nodes.min())} or {int(nodes.max())} of {n}")


def _no_trees(got: str) -> TrainingError:
    return TrainingError("the trees are no trees", expected="every node below one root", got=got)


@dataclass(frozen=True)
class LinearModel:
    """``intercept + sum of coef * x`` on unscaled inputs; any NaN input gives NaN.

    Attributes:
        coef: Shape (q,).
        intercept: Added once.
    """

    coef: Floats
    intercept: float

    @property
    def n_features(self) -> int:
        """Number of columns of a row."""
        return len(self.coef)

    def predict(self, X: Floats) -> Floats:
        """Return the scores of the rows of `X`, shape (n, q), as shape (n,)."""
        terms = np.ascontiguousarray(X, dtype=np.float64) * self.coef
        result: Floats = self.intercept + np.cumsum(terms, axis=1)[:, -1]
        return result
