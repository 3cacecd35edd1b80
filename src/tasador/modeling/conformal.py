"""`ConformalInterval`: how far around an estimate the truth lies, calibrated on held-out errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import TrainingError
from tasador.modeling.errors import IntervalError, UnreadableError

Floats = NDArray[np.float64]

#: Share of the calibration rows whose scale lies below the floor.
_FLOOR_QUANTILE = 0.05


@dataclass(frozen=True)
class ConformalInterval:
    """``score +- quantile * (scale_offset + max(Z[:, scale_index], scale_floor))``.

    Rows far from every comparable get `far_factor` times that.

    The scale is a feature that tells hard rows from easy ones, such as the spread of the nearest
    sales. All on the model's scale: under a log target the bounds are relative to the value.

    Attributes:
        coverage: Share of truths that the interval is meant to hold, in (0, 1).
        quantile: Multiple of the scale; half the width itself when there is no scale.
        scale_index: Column of the features that scales the width; None for a constant width.
        scale_floor: Smallest scale; also taken for NaN.
        scale_offset: Added to the scale, so that a scale near zero gives no zero width.
        far_factor: How much wider intervals are of rows far from every comparable; see `widened`.
    """

    coverage: float
    quantile: float
    scale_index: int | None = None
    scale_floor: float = 0.0
    scale_offset: float = 0.0
    far_factor: float = 1.0

    def __post_init__(self) -> None:
        numbers = (
            self.coverage, self.quantile, self.scale_floor, self.scale_offset, self.far_factor
        )  # fmt: skip
        right = (
            all(math.isfinite(number) for number in numbers)
            and 0.0 < self.coverage < 1.0
            and min(numbers[1:]) >= 0.0
            and self.far_factor >= 1.0
            and (self.scale_index is None or self.scale_index >= 0)
        )
        if not right:
            raise IntervalError.invalid(asdict(self))

    def half_width(self, Z: Floats) -> Floats:
        """Return half the interval's width for feature rows (n, q), shape (n,)."""
        if self.scale_index is None:
            return np.full(len(Z), self.quantile)
        # fmax passes NaN by: a row without a scale gets the floor
        scale = np.fmax(Z[:, self.scale_index], self.scale_floor)
        result: Floats = self.quantile * (self.scale_offset + scale)
        return result

    def bounds(
        self,
        score: Floats,
        Z: Floats,
        far: NDArray[np.bool_] | None = None,
        level_error: Floats | None = None,
    ) -> tuple[Floats, Floats]:
        """Return the (low, high) scores around `score` (n,) for feature rows `Z` (n, q).

        Args:
            score: The estimates.
            Z: Their features.
            far: Shape (n,): which rows lie far from every comparable; None for none.
            level_error: Shape (n,): standard error of the level of prices at the rows' dates, which
                is independent of the model's own error; None for none.
        """
        half = self.half_width(Z)
        if far is not None:
            half = np.where(far, half * self.far_factor, half)
        if level_error is not None:
            half = np.hypot(half, self._deviations * level_error)
        return score - half, score + half

    @cached_property
    def _deviations(self) -> float:
        """Standard deviations on either side that hold `coverage` of a normal distribution."""
        return NormalDist().inv_cdf((1.0 + self.coverage) / 2.0)

    def widened(
        self, residuals: Floats, Z: Floats, far: NDArray[np.bool_] | None
    ) -> ConformalInterval:
        """Return the interval with `far_factor` fitted to errors in places never seen.

        The factor is what it takes to hold `coverage` of the errors of the rows that are far from
        comparables, or of all of them where those are too few to tell.

        Args:
            residuals: Errors on the model's scale with whole areas held out, shape (n,).
            Z: Features of the same rows, shape (n, q).
            far: Which of them lie far from every comparable, shape (n,); None for none.
        """
        half = self.half_width(Z)
        known = (half > 0.0) & np.isfinite(residuals)
        for rows in (known & far if far is not None else np.zeros_like(known), known):
            ratios = np.abs(residuals[rows]) / half[rows]
            rank = _ceil((len(ratios) + 1) * self.coverage)
            if 0 < rank <= len(ratios):
                factor = float(np.partition(ratios, rank - 1)[rank - 1])
                return replace(self, far_factor=max(1.0, factor))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the interval as plain JSON types; a factor of 1 is left out, as it used to be."""
        plain = asdict(self)
        if self.far_factor == 1.0:
            del plain["far_factor"]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ConformalInterval:
        """Read what `to_dict` wrote.

        Raises:
            BundleError: Keys are missing or unknown, or a value is invalid.
        """
        names = {field.name for field in fields(cls)}
        try:
            plain = {"far_factor": 1.0, **plain}
            if set(plain) != names:
                raise ValueError(f"keys {sorted(plain)}")
            index = plain["scale_index"]
            if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
                raise ValueError(f"scale_index {index!r}")
            rest = {name: float(plain[name]) for name in names - {"scale_index"}}
            return cls(scale_index=index, **rest)
        except (TypeError, ValueError, TrainingError) as error:
            raise UnreadableError.of("the interval", ", ".join(sorted(names)), error) from None


def calibrate(
    residuals: Floats, Z: Floats, coverage: float, scale_index: int | None
) -> ConformalInterval:
    """Fit an interval to errors on rows that the model was not fitted on.

    The quantile is the ceil((n + 1) * coverage)-th smallest ratio of error to scale, which holds a
    new exchangeable row with probability of at least `coverage` (split conformal prediction, Lei
    et al. 2018). The offset is the median of the scale: ratios of rows with a scale near zero would
    otherwise decide the width of all others.

    Args:
        residuals: Out-of-fold errors on the model's scale, shape (n,).
        Z: Features of the same rows, shape (n, q).
        coverage: Share of truths to hold, in (0, 1).
        scale_index: Column of `Z` that scales the width, or None.

    Returns:
        The calibrated interval.

    Raises:
        TrainingError: `coverage` out of range, errors that are not finite or not one a row, or too
            few rows for that coverage.
    """
    errors = np.abs(np.asarray(residuals, dtype=np.float64))
    n = len(errors)
    if not 0.0 < coverage < 1.0:
        raise TrainingError("the coverage is invalid", expected="(0, 1)", got=repr(coverage))
    if errors.shape != (len(Z),) or not np.isfinite(errors).all():
        raise IntervalError.errors(len(Z), errors.shape, int((~np.isfinite(errors)).sum()))
    rank = _ceil((n + 1) * coverage)
    if rank > n:
        raise IntervalError.too_few_rows(_ceil(coverage / (1.0 - coverage)), coverage, n)
    bare = _scale(Z, scale_index)
    ratios = errors / bare.half_width(Z)
    quantile = float(np.partition(ratios, rank - 1)[rank - 1])
    return ConformalInterval(
        coverage=coverage,
        quantile=quantile,
        scale_index=bare.scale_index,
        scale_floor=bare.scale_floor,
        scale_offset=bare.scale_offset,
    )


def _ceil(number: float) -> int:
    """Round up, but not for the last digit's rounding: 0.9 / (1 - 0.9) is 9.000000000000002."""
    return math.ceil(number * (1.0 - 1e-12))


def _scale(Z: Floats, scale_index: int | None) -> ConformalInterval:
    """Return an interval of quantile 1; constant when the scale column tells rows apart nowhere."""
    constant = ConformalInterval(coverage=0.5, quantile=1.0)
    if scale_index is None:
        return constant
    values = Z[:, scale_index]
    values = values[np.isfinite(values) & (values > 0.0)]
    if not len(values):
        return constant
    return ConformalInterval(
        coverage=0.5,
        quantile=1.0,
        scale_index=scale_index,
        scale_floor=float(np.quantile(values, _FLOOR_QUANTILE)),
        scale_offset=float(np.median(values)),
    )
