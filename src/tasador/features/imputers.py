"""`Imputer`: fills in missing values as fitted on the training rows, with numpy and scipy alone.

Every column has one number that may stand in for it. A column may also have a predictor, which
works it out from the row's other columns; those that lack too count with their one number, and
iterative strategies then go over them again.

A predictor, kept as plain arrays, takes standardised inputs Z (m, d) without NaN and returns
standardised values (m,). A row gets the same bits alone and among others: sums run along the row,
and no matrix product is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import TrainingError
from tasador.features.encoders import levels_of, one_hot_table
from tasador.features.neighbours_kernel import tree_of
from tasador.trees.ensemble import LEAF, TreeEnsemble, breadth_first, in_double_precision

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]

NEIGHBOURS = 10
_SOFTENING = 0.05  # in standard deviations: two rows that agree do not drown the other eight
_MOST_STEPS = 64
#: How often an iterative strategy goes over the columns when several of them lack.
ROUNDS = 2


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
        return tree_of(self.points)

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
    """Trees over the inputs, which lack nothing.

    Attributes:
        trees: The ensemble.
    """

    trees: TreeEnsemble
    kind: ClassVar[str] = "trees"

    @property
    def n_inputs(self) -> int:
        """d, the number of inputs."""
        return self.trees.n_features

    def predict(self, Z: Floats) -> Floats:
        """Return the values (m,) of rows `Z` (m, d)."""
        return self.trees.predict(Z)

    @classmethod
    def of_model(cls, trees: TreeEnsemble) -> TreesFiller:
        """Take a library's trees in the form in which they are stored, so that bits stay."""
        trees = in_double_precision(trees)
        return cls(dataclasses.replace(trees, value=trees.value * trees.scale, scale=1.0))

    def state(self) -> Arrays:
        """Return the fitted arrays; in them, a leaf is its own child and splits at infinity."""
        trees = self.trees
        leaf, own = trees.feature < 0, np.arange(trees.n_nodes)
        sides = [np.where(leaf, own, side) for side in (trees.left, trees.right)]
        return {
            "feature": np.where(leaf, 0, trees.feature).astype(np.int32),
            "threshold": np.where(leaf, np.inf, trees.threshold),
            "children": np.stack(sides, axis=1).ravel().astype(np.int32),
            "value": np.where(leaf, trees.value, 0.0),
            "roots": trees.roots,
            "base": np.array([trees.base]),
            "shape": np.array([trees.n_features, trees.depth], np.int32),
        }

    @classmethod
    def from_arrays(
        cls,
        feature: NDArray[np.int32],
        threshold: Floats,
        children: NDArray[np.int32],
        value: Floats,
        roots: NDArray[np.int32],
        base: Floats,
        shape: NDArray[np.int32],
    ) -> TreesFiller:
        """Rebuild from `state`.

        Raises:
            ValueError: The arrays are not what they should be.
        """
        k = len(feature)
        if (
            not (k == len(threshold) == len(value))
            or (len(children), base.shape, shape.shape) != (2 * k, (1,), (2,))
            or not 0 <= shape[1] <= _MOST_STEPS
            or not len(roots)
        ):
            raise ValueError("the arrays of a filler by trees do not fit together")
        for pointers, most in ((feature, shape[0]), (children, k), (roots, k)):
            if pointers.dtype.kind != "i" or pointers.min() < 0 or pointers.max() >= most:
                raise ValueError("a filler by trees points outside its arrays")
        left, right = children.reshape(k, 2).T
        leaf = (left == np.arange(k)) & (right == left)
        try:
            trees = TreeEnsemble(
                feature=np.where(leaf, LEAF, feature).astype(np.int32),
                threshold=np.where(leaf, 0.0, threshold),
                left=np.where(leaf, LEAF, left).astype(np.int32),
                right=np.where(leaf, LEAF, right).astype(np.int32),
                value=value,
                missing_left=np.zeros(k, dtype=bool),
                cover=np.zeros(k),
                roots=roots.astype(np.int32),
                n_features=int(shape[0]),
                base=float(base[0]),
            )
            breadth_first(trees)  # refuses circles, in which a row would not come to an end
        except TrainingError as error:
            raise ValueError(f"a filler by trees: {error}") from None
        return cls(trees)


_KINDS: Mapping[str, Callable[..., Filler]] = {
    LinearFiller.kind: LinearFiller,
    NeighboursFiller.kind: NeighboursFiller,
    TreesFiller.kind: TreesFiller.from_arrays,
}


def filler_from_state(kind: str, arrays: Mapping[str, NDArray[Any]]) -> Filler:
    """Rebuild a predictor from the arrays of its `state`.

    Raises:
        KeyError, TypeError, ValueError: The kind is unknown, or its arrays are not what they
            should be.
    """
    return _KINDS[kind](**arrays)


@dataclass(frozen=True)
class FillerInputs:
    """The other columns as a predictor takes them: standardised numbers, categories as 0/1.

    Attributes:
        numeric: Shape (a,): positions of the numbers.
        centre: Shape (a,): their means.
        factor: Shape (a,): 1 / their standard deviations; 0 for a constant column.
        low: Shape (a,): smallest value known in training; smaller ones count as this.
        high: Shape (a,): largest.
        categories: Shape (b, 2): position and number of levels of each category.
    """

    numeric: NDArray[np.intp]
    centre: Floats
    factor: Floats
    low: Floats
    high: Floats
    categories: NDArray[np.intp]

    def __post_init__(self) -> None:
        shape = self.numeric.shape
        if any(array.shape != shape for array in (self.centre, self.factor, self.low, self.high)):
            raise ValueError("the inputs of a filler do not fit together")
        if len(shape) != 1 or self.categories.ndim != 2 or self.categories.shape[1] != 2:
            raise ValueError("the inputs of a filler have the wrong shape")

    @cached_property
    def _tables(self) -> list[tuple[int, int, Floats]]:
        return [(int(i), int(n), one_hot_table(int(n))) for i, n in self.categories]

    @property
    def size(self) -> int:
        """Number of inputs."""
        return len(self.numeric) + int(self.categories[:, 1].sum())

    def of(self, X: Floats, filled: Floats) -> Floats:
        """Return the inputs (m, d) of rows `X` (m, p) whose numbers are filled in `filled`."""
        numbers = filled.take(self.numeric, axis=1)
        np.minimum(np.maximum(numbers, self.low, out=numbers), self.high, out=numbers)
        numbers -= self.centre
        numbers *= self.factor
        if not self._tables:
            return numbers
        blocks = [table.take(levels_of(X[:, i], n), axis=0) for i, n, table in self._tables]
        return np.concatenate([numbers, *blocks], axis=1)

    def state(self) -> Arrays:
        """Return the fitted arrays."""
        names = ("numeric", "centre", "factor", "low", "high", "categories")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ColumnFiller:
    """A fitted predictor of one column.

    Attributes:
        column: Its position.
        chained: Whether it sees other columns as they were filled in (iterative strategies).
        inputs: What it sees of a row.
        model: The predictor.
        scale: Shape (4,): mean and standard deviation of the known values, the smallest and the
            largest of them; what is filled in stays within these two.
    """

    column: int
    chained: bool
    inputs: FillerInputs
    model: Filler
    scale: Floats

    def __post_init__(self) -> None:
        if self.scale.shape != (4,) or self.inputs.size != self.model.n_inputs:
            raise ValueError("the parts of a filler do not fit together")

    def values(self, X: Floats, filled: Floats) -> Floats:
        """Return what stands in for the column (m,) in rows `X` (m, p)."""
        mean, spread, low, high = self.scale
        found = mean + spread * self.model.predict(self.inputs.of(X, filled))
        result: Floats = np.minimum(np.maximum(found, low), high)
        return result

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return the fitted state as JSON values and arrays."""
        spec = {"column": self.column, "chained": self.chained, "kind": self.model.kind}
        arrays = {f"inputs.{name}": array for name, array in self.inputs.state().items()}
        arrays |= {f"model.{name}": array for name, array in self.model.state().items()}
        return spec, {**arrays, "scale": self.scale}

    @classmethod
    def from_state(
        cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> ColumnFiller:
        """Rebuild from `state`.

        Raises:
            KeyError, TypeError, ValueError: The state is not what it should be.
        """
        return cls(
            column=int(spec["column"]),
            chained=bool(spec["chained"]),
            inputs=FillerInputs(**_section(arrays, "inputs.")),
            model=filler_from_state(spec["kind"], _section(arrays, "model.")),
            scale=arrays["scale"],
        )


@dataclass(frozen=True)
class Imputer:
    """What stands in for each column, and the columns whose absence is worth a feature.

    Attributes:
        fills: Shape (p,): one number for each column; 0 where nothing was ever seen.
        indicated: Positions of the columns that were missing in training; each gets a 0/1 column.
        fillers: Predictors, in the order in which they are applied.
        native: Positions of the columns whose gaps the model itself takes; where it needs a
            number all the same (ratios, comparables), their median stands in.
    """

    fills: Floats
    indicated: list[int]
    fillers: tuple[ColumnFiller, ...] = field(default=())
    native: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        p = len(self.fills)
        if self.native and not 0 <= min(self.native) <= max(self.native) < p:
            raise ValueError(f"a column taken as it is lies outside the {p} columns")
        for filler in self.fillers:
            seen = [filler.column, *filler.inputs.numeric, *filler.inputs.categories[:, 0]]
            if min(seen) < 0 or max(seen) >= p:
                raise ValueError(f"a filler points outside the {p} columns")

    @cached_property
    def _chained(self) -> list[int]:
        return [filler.column for filler in self.fillers if filler.chained]

    def fill(self, X: Floats) -> Floats:
        """Return `X` (n, p) with NaN filled in: a copy, or `X` itself when nothing is missing.

        A missing category gets 0 here; features read categories from `X`.
        """
        missing = np.isnan(X)
        if not missing.any():
            return X
        plain = np.where(missing, self.fills, X)
        return self._predicted(X, missing, plain) if self.fillers else plain

    def _predicted(self, X: Floats, missing: NDArray[np.bool_], plain: Floats) -> Floats:
        filled = plain.copy()
        for filler in self.fillers:
            rows = np.flatnonzero(missing[:, filler.column])
            if len(rows):
                source = filled if filler.chained else plain
                filled[rows, filler.column] = filler.values(X[rows], source[rows])
        if len(self._chained) < 2:
            return filled
        several = missing.take(self._chained, axis=1).sum(axis=1) > 1
        for filler in (ROUNDS - 1) * [f for f in self.fillers if f.chained]:
            rows = np.flatnonzero(several & missing[:, filler.column])
            if len(rows):
                filled[rows, filler.column] = filler.values(X[rows], filled[rows])
        return filled

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return the fitted state as JSON values and arrays."""
        specs = []
        arrays: Arrays = {"fills": self.fills}
        for filler in self.fillers:
            spec, parts = filler.state()
            specs.append(spec)
            arrays |= {f"{filler.column}.{name}": array for name, array in parts.items()}
        plain = {"indicated": self.indicated, "fillers": specs, "native": self.native}
        return plain, arrays

    @classmethod
    def from_state(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Imputer:
        """Rebuild from `state`; bundles from before there were fillers are read too.

        Raises:
            KeyError, TypeError, ValueError: The state is not what it should be.
        """
        return cls(
            fills=arrays["fills"] if "fills" in arrays else arrays["medians"],
            indicated=list(spec["indicated"]),
            fillers=tuple(
                ColumnFiller.from_state(found, _section(arrays, f"{found['column']}."))
                for found in spec.get("fillers", [])
            ),
            native=list(spec.get("native", [])),
        )


def _section(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
