"""`Reference`: what later rows are compared with, made once from rows that are known to be good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column
from tasador.contract.target_check import TargetBounds
from tasador.core import seeds
from tasador.core.errors import BundleError
from tasador.core.input_checks import INTEGER, Expected, check_arrays
from tasador.modeling.target_transform import TargetTransform
from tasador.monitoring.column_summary import ColumnSummary, Grid
from tasador.monitoring.error_estimation import ErrorModel, residuals

if TYPE_CHECKING:
    from tasador.registry.model_bundle import ModelBundle

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]

#: Rows kept whole, for the checks that look at columns together.
SAMPLE = 4000
_SEED = 20_240_816
_FORMAT = 1
_ANY = Expected((None,), low=-np.inf, high=np.inf, ascending=True)


@dataclass(frozen=True)
class Profile:
    """One column of the reference: the grid it is counted on, and the counts."""

    grid: Grid
    summary: ColumnSummary

    @classmethod
    def of(cls, values: Floats, column: Column) -> Profile:
        """Describe `values` (n,), encoded as `column` says."""
        if column.kind == "category":
            grid = Grid.of_categories(len(column.categories))
        else:
            grid = Grid.of_numbers(values)
        return cls(grid, ColumnSummary.of(values, grid))

    def state(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the arrays that `from_state` takes, each name beginning with ``<name>.``."""
        arrays = {**self.grid.state(), **self.summary.state()}
        return {f"{name}.{key}": array for key, array in arrays.items()}

    @classmethod
    def from_state(cls, arrays: Arrays, name: str) -> Profile:
        """Rebuild from `state`.

        Raises:
            KeyError, OverflowError, ValueError: The arrays are not what they should be.
        """
        own = {
            key.removeprefix(f"{name}."): array
            for key, array in arrays.items()
            if key.startswith(f"{name}.")
        }
        _ANY.check("edges", own["edges"])
        cells = Grid(own["edges"], own["starts"], 0.0).cells
        summed = Expected((cells,), low=-np.inf, high=np.inf, gaps=True)
        expected = {
            "edges": _ANY,
            "starts": Expected((None,), INTEGER, 0, cells - 1, ascending=True),
            "center": Expected((1,), low=-np.inf, high=np.inf),
            "counts": Expected((cells,), INTEGER, 0),
            "sums": summed,
            "numbers": Expected((7,), low=-np.inf, high=np.inf, gaps=True),
        }
        if "lost" in own:
            expected["lost"] = replace(summed, shape=(cells + 1,))
        check_arrays(own, expected)
        # arrays come from a file: a wrong start would make reduceat count other cells
        if not len(own["starts"]) or own["starts"][0] != 0:
            raise ValueError(f"the bins of {name} do not begin at the first cell")
        return cls(Grid.from_state(own), ColumnSummary.from_state(own))


@dataclass(frozen=True)
class Reference:
    """Known good rows, counted.

    Attributes:
        columns: What the columns are, in the order of the encoded matrix.
        profiles: Their profiles, in the same order.
        rows: Shape (k, p), k <= `SAMPLE`: whole rows, for checks that look at columns together.
        n: How many rows it was made from.
        prediction: Profile of the estimates, if there were any.
        target: Profile of the known values, if there were any.
        residual: Profile of `residuals` of those rows, if there were both.
        actual, predicted: Up to `SAMPLE` pairs, from which the reference's own figures come.
        log: Whether errors are relative: residuals are differences of logarithms.
        error_model: Tells how large an error to expect where, if it was fitted.
        coverage: Share of truths that the intervals promise to hold, if known.
        unit: The target's unit.
        version: The model's version, or what else the reference is called.
        target_bounds: What the target's values may be, if known.
        transform: Of a model that knows how the level of prices moved: the profiles of estimates
            and known values are then at its newest level; else None.
    """

    columns: tuple[Column, ...]
    profiles: tuple[Profile, ...]
    rows: Floats
    n: int
    prediction: Profile | None = None
    target: Profile | None = None
    residual: Profile | None = None
    actual: Floats | None = None
    predicted: Floats | None = None
    log: bool = False
    error_model: ErrorModel | None = None
    coverage: float | None = None
    unit: str | None = None
    version: str = "reference"
    target_bounds: TargetBounds | None = None
    transform: TargetTransform | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    def at_newest_level(self, values: Floats, X: Floats) -> Floats:
        """Return values (n,) of rows (n, p) at the level of prices of the profiles."""
        dates = self.dates(X)
        if self.transform is None or dates is None:
            return values
        return self.transform.at_newest_level(values, dates)

    def dates(self, X: Floats) -> Floats | None:
        """Return the dates of rows (n, p), (n,) in seconds since 1970 UTC; None without a trend."""
        at = next((i for i, one in enumerate(self.columns) if one.role == "timestamp"), None)
        return None if self.transform is None or at is None else X[:, at]

    @property
    def segment(self) -> Column | None:
        """The column by whose values figures are reported apart, or None."""
        return next((column for column in self.columns if column.role == "segment"), None)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return plain arrays for `ModelBundle.reference`; columns and names are the contract's."""
        arrays: dict[str, NDArray[Any]] = {
            "format": np.array([_FORMAT]),
            "n": np.array([self.n]),
            "rows": self.rows,
        }
        for i, profile in enumerate(self.profiles):
            arrays |= profile.state(f"column{i}")
        for name in ("prediction", "target", "residual"):
            profile = getattr(self, name)
            if profile is not None:
                arrays |= profile.state(name)
        if self.actual is not None and self.predicted is not None:
            arrays |= {"actual": self.actual, "predicted": self.predicted}
        if self.error_model is not None:
            arrays |= self.error_model.state()
        return arrays

    @classmethod
    def of_bundle(cls, bundle: ModelBundle) -> Reference:
        """Read what a bundle ships.

        Raises:
            BundleError: It ships nothing to compare with (a bundle of an older version), or
                something that cannot be read.
        """
        if bundle.reference is None:
            raise BundleError(
                f"the bundle {bundle.version} ships no reference for monitoring",
                remedy="register the model again with this version of tasador",
            )
        arrays = bundle.reference
        try:
            Expected((None, len(bundle.contract.features)), gaps=True).check("rows", arrays["rows"])
            if "actual" in arrays or "predicted" in arrays:
                pairs = Expected((len(arrays["actual"]),), gaps=True)
                pairs.check("actual", arrays["actual"])
                pairs.check("predicted", arrays["predicted"])
            if int(arrays["format"][0]) != _FORMAT:
                raise ValueError(f"format {int(arrays['format'][0])}, expected {_FORMAT}")
            return cls(
                columns=bundle.contract.features,
                profiles=tuple(
                    Profile.from_state(arrays, f"column{i}")
                    for i in range(len(bundle.contract.features))
                ),
                rows=arrays["rows"],
                n=int(arrays["n"][0]),
                **{
                    name: Profile.from_state(arrays, name)
                    for name in ("prediction", "target", "residual")
                    if f"{name}.counts" in arrays
                },
                actual=arrays.get("actual"),
                predicted=arrays.get("predicted"),
                log=bundle.target.kind == "log",
                error_model=None
                if bundle.error_model is None
                else ErrorModel.from_state(bundle.error_model, arrays),
                coverage=bundle.interval.coverage,
                unit=bundle.contract.target.unit,
                version=bundle.version,
                target_bounds=TargetBounds.of(bundle.contract.target),
                transform=None if bundle.target.trend is None else bundle.target,
            )
        except Exception as error:  # arrays from outside: whatever they raise is the bundle's error
            raise BundleError(
                f"the reference in {bundle.version} cannot be read: {error}",
                remedy="register the model again",
            ) from None


def build_reference(
    columns: Sequence[Column],
    X: Floats,
    *,
    held: NDArray[np.intp] | None = None,
    prediction: Floats | None = None,
    actual: Floats | None = None,
    log: bool = False,
    error_model: ErrorModel | None = None,
    **names: Any,
) -> Reference:
    """Count known good rows.

    Args:
        columns: What the columns of `X` are.
        X: Shape (n, p), encoded; NaN is missing.
        held: Shape (m,): positions of the rows that were estimated; all n when None.
        prediction: Shape (m,): their estimates, by models that did not see the row; NaN for none.
        actual: Shape (m,): their known values; NaN for none.
        log: Whether errors are relative.
        error_model: Fitted on the same rows.
        **names: Further attributes of `Reference`: coverage, unit, version.
    """
    number = Column("number", "number")
    # the same rows every time: the bundle's hash must not depend on chance
    chosen = sample_places(len(X if held is None else held), SAMPLE)
    pairs: dict[str, Any] = {}
    if prediction is not None:
        pairs["prediction"] = Profile.of(prediction, number)
    if actual is not None:
        pairs["target"] = Profile.of(actual, number)
    if prediction is not None and actual is not None:
        pairs["residual"] = Profile.of(residuals(actual, prediction, log=log), number)
        pairs |= {"actual": actual[chosen], "predicted": prediction[chosen]}
    return Reference(
        columns=tuple(columns),
        profiles=tuple(Profile.of(X[:, i], column) for i, column in enumerate(columns)),
        rows=np.ascontiguousarray(X[chosen if held is None else held[chosen]]),
        n=len(X),
        log=log,
        error_model=error_model,
        **pairs,
        **names,
    )


def sample_places(n: int, most: int) -> NDArray[np.intp]:
    """Return at most `most` of the places 0..n-1, ascending, the same ones every time."""
    return seeds.sample_places(n, most, _SEED, "sample", n)
