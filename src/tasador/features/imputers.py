"""Predictors of one column from the others, as plain arrays; applying them needs numpy and scipy.

Each takes standardised inputs Z (m, d) without NaN and returns standardised values (m,). A row gets
the same bits alone and among others: sums run along the row, and no matrix product is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]

NEIGHBOURS = 10
_SOFTENING = 0.05  # in standard deviations: two rows that agree do not drown the other eight
_MOST_STEPS = 64
_CHUNK = 4096


class Filler(Protocol):
    """What all kinds of predictor have in common."""

    kind: ClassVar[str]

    @property
    def n_inputs(self) -> int:
        """d, the number of inputs."""
        ...

    def predict(self, Z: Floats) -> Floats:
        """Return the values (m,) of rows `Z` (m, d)."""
        ...

    def state(self) -> Arrays:
        """Return the fitted arrays."""
        ...


@dataclass(frozen=True)
class LinearFiller:
    """``intercept + sum of coef * z``.

    Attributes:
        coef: Shape (d,).
        intercept: Shape (1,).
    """

    coef: Floats
    intercept: Floats
    kind: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        if self.coef.ndim != 1 or not len(self.coef) or self.intercept.shape != (1,):
            raise ValueError("a linear filler needs coefficients and one intercept")

    @property
    def n_inputs(self) -> int:
        """d, the number of inputs."""
        return len(self.coef)

    def predict(self, Z: Floats) -> Floats:
        """Return the values (m,) of rows `Z` (m, d)."""
        total: Floats = self.intercept + np.cumsum(Z * self.coef, axis=1)[:, -1]
        return total

    def state(self) -> Arrays:
        """Return the fitted arrays."""
        return {"coef": self.coef, "intercept": self.intercept}


@dataclass(frozen=True)
class NeighboursFiller:
    """The mean over the nearest kept training rows, nearer ones weighing more.

    Attributes:
        points: Shape (k, d): the kept rows.
        values: Shape (k,): what they have in the column.
    """

    points: Floats
    values: Floats
    kind: ClassVar[str] = "neighbours"

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.values.shape != (len(self.points),):
            raise ValueError("a filler by neighbours needs one value for each kept row")
        if len(self.points) < NEIGHBOURS or not np.isfinite(self.points).all():
            raise ValueError(f"a filler by neighbours needs {NEIGHBOURS} finite rows or more")

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.points)

    @property
    def n_inputs(self) -> int:
        """d, the number of inputs."""
        return int(self.points.shape[1])

    def predict(self, Z: Floats) -> Floats:
        """Return the values (m,) of rows `Z` (m, d)."""
        distance, index = self._tree.query(Z, k=NEIGHBOURS)
        weight = 1.0 / (distance + _SOFTENING)
        total = np.cumsum(weight * self.values.take(index), axis=1)[:, -1]
        mean: Floats = total / np.cumsum(weight, axis=1)[:, -1]
        return mean

    def state(self) -> Arrays:
        """Return the fitted arrays."""
        return {"points": self.points, "values": self.values}


@dataclass(frozen=True)
class TreesFiller:
    """``base + sum of the leaves reached``, all trees stepped down together.

    A leaf is its own child, so that every tree may be stepped down as often as the deepest needs.

    Attributes:
        feature: Shape (k,): the input compared at each node; 0 at a leaf.
        threshold: Shape (k,): it goes left up to this value, right above; inf at a leaf.
        children: Shape (2 k,): left and right child of each node.
        value: Shape (k,): what a leaf adds.
        roots: Shape (t,): the trees' first nodes.
        base: Shape (1,): added once.
        shape: Shape (2,): the number of inputs, and of steps to the deepest leaf.
    """

    feature: NDArray[np.int32]
    threshold: Floats
    children: NDArray[np.int32]
    value: Floats
    roots: NDArray[np.int32]
    base: Floats
    shape: NDArray[np.int32]
    kind: ClassVar[str] = "trees"

    def __post_init__(self) -> None:
        k = len(self.feature)
        if not (
            k == len(self.threshold) == len(self.value)
            and len(self.children) == 2 * k
            and len(self.roots)
            and self.base.shape == (1,)
            and self.shape.shape == (2,)
            and 0 <= self.steps <= _MOST_STEPS
        ):
            raise ValueError("the arrays of a filler by trees do not fit together")
        for pointers, most in (
            (self.feature, self.n_inputs),
            (self.children, k),
            (self.roots, k),
        ):
            if pointers.dtype.kind != "i" or pointers.min() < 0 or pointers.max() >= most:
                raise ValueError("a filler by trees points outside its arrays")

    @property
    def n_inputs(self) -> int:
        """d, the number of inputs."""
        return int(self.shape[0])

    @property
    def steps(self) -> int:
        """Steps to the deepest leaf."""
        return int(self.shape[1])

    def predict(self, Z: Floats) -> Floats:
        """Return the values (m,) of rows `Z` (m, d)."""
        if len(Z) <= _CHUNK:
            return self._predict(Z)
        parts = [self._predict(Z[i : i + _CHUNK]) for i in range(0, len(Z), _CHUNK)]
        return np.concatenate(parts)

    def _predict(self, Z: Floats) -> Floats:
        flat = np.ascontiguousarray(Z).ravel()
        start = (np.arange(len(Z)) * Z.shape[1])[:, None]
        node = np.repeat(self.roots[None, :], len(Z), axis=0)
        for _ in range(self.steps):
            x = flat.take(self.feature.take(node) + start)
            node = self.children.take(2 * node + (x > self.threshold.take(node)))
        total: Floats = self.base + np.cumsum(self.value.take(node), axis=1)[:, -1]
        return total

    def state(self) -> Arrays:
        """Return the fitted arrays."""
        names = ("feature", "threshold", "children", "value", "roots", "base", "shape")
        return {name: getattr(self, name) for name in names}


_KINDS: Mapping[str, type[LinearFiller | NeighboursFiller | TreesFiller]] = {
    kind.kind: kind for kind in (LinearFiller, NeighboursFiller, TreesFiller)
}


def filler_from_state(kind: str, arrays: Mapping[str, NDArray[Any]]) -> Filler:
    """Rebuild a predictor from the arrays of its `state`.

    Raises:
        KeyError, TypeError, ValueError: The kind is unknown, or its arrays are not what they
            should be.
    """
    return _KINDS[kind](**arrays)
