"""`TargetTransform`: the scale on which models are fitted, and the inverse transform."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import ValidationError
from tasador.modeling.errors import TransformError, UnreadableError
from tasador.modeling.trend import Trend

Floats = NDArray[np.float64]
Kind = Literal["log", "none"]


@dataclass(frozen=True)
class TargetTransform:
    """Between the target's own scale and the model's.

    Attributes:
        kind: ``log`` fits the natural logarithm, which makes errors relative; ``none`` fits the
            target as it is.
        smearing: Factor of the inverse transform; 1.0 keeps the estimate of the median, a
            mean of ``exp(residual)`` (Duan 1983) turns it into one of the mean.
        trend: How the level of prices moved; scores are at its newest level. None where dates say
            nothing.
    """

    kind: Kind
    smearing: float = 1.0
    trend: Trend | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("log", "none"):
            raise TransformError.unknown(self.kind)
        if not (math.isfinite(self.smearing) and self.smearing > 0.0):
            raise TransformError.smearing(self.smearing)

    def forward(self, y: Floats) -> Floats:
        """Return targets (n,) on the model's scale.

        Raises:
            ValidationError: Zero, negative, NaN or infinite targets under a log; NaN or infinite
                ones without; the message names the first row.
        """
        y = np.ascontiguousarray(y, dtype=np.float64)
        bad = ~np.isfinite(y) if self.kind == "none" else ~(np.isfinite(y) & (y > 0.0))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            first, log = float(y[row]), self.kind == "log"
            raise TransformError.targets(int(bad.sum()), first, row, log=log)
        return np.log(y) if self.kind == "log" else y.copy()

    def at_newest_level(self, y: Floats, dates: Floats) -> Floats:
        """Return targets (n,) of these dates (n,) as they would be at the newest level.

        A date that is NaN is the newest one; NaN and infinite targets stay what they are.
        """
        if self.trend is None:
            return y
        level = self.trend.at(dates)
        return y * np.exp(-level) if self.kind == "log" else y - level

    def level_error(self, dates: Floats | None) -> Floats | None:
        """Return the standard error of the level at dates (n,); None where nothing is dated."""
        return None if self.trend is None or dates is None else self.trend.error_at(dates)

    def inverse(self, score: Floats, dates: Floats | None = None) -> Floats:
        """Return scores (n,) on the target's own scale, the same bits for one row as for many.

        With `dates` (n,), in seconds since 1970 UTC, at the level of those; else at the newest.

        A log score above 709.78 gives inf; NaN stays NaN.
        """
        # numpy may take another code path, with other roundings, for memory with gaps
        score = np.ascontiguousarray(score, dtype=np.float64)
        if self.trend is not None and dates is not None:
            score = score + self.trend.at(dates)
        if self.kind == "none":
            return score * self.smearing
        with np.errstate(over="ignore"):
            result: Floats = np.exp(score) * self.smearing
        return result

    def recorded(self, score: Floats, dates: Floats | None = None) -> Floats:
        """Return targets (n,) as they were recorded: what `forward` and the trend made scores of.

        `inverse` without the smearing, which corrects estimates.
        """
        return replace(self, smearing=1.0).inverse(score, dates)

    def to_dict(self) -> dict[str, Any]:
        """Return the transform as plain JSON types."""
        plain: dict[str, Any] = {"kind": self.kind, "smearing": self.smearing}
        return plain if self.trend is None else {**plain, "trend": trend_to_dict(self.trend)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TargetTransform:
        """Read what `to_dict` wrote.

        Raises:
            BundleError: Keys are missing or unknown, or a value is invalid.
        """
        try:
            if set(plain) - {"trend"} != {"kind", "smearing"}:
                raise ValueError(f"keys {sorted(plain)}")
            trend = trend_from_dict(plain["trend"]) if "trend" in plain else None
            return cls(kind=plain["kind"], smearing=float(plain["smearing"]), trend=trend)
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise UnreadableError.of("the target transform", "kind and smearing", error) from None


def trend_to_dict(trend: Trend) -> dict[str, Any]:
    """Return a trend as plain JSON types; numbers keep their bits."""
    spec, arrays = trend.state()
    return {**spec, **{name: values.tolist() for name, values in arrays.items()}}


def trend_from_dict(plain: Mapping[str, Any]) -> Trend:
    """Read what `trend_to_dict` wrote.

    Raises:
        KeyError, TypeError, ValueError: It is none of that.
    """
    kinds = {"level": np.float64, "error": np.float64, "sales": np.int64}
    if not isinstance(plain, Mapping) or not all(isinstance(plain[n], list) for n in kinds):
        raise ValueError("a trend without levels")
    arrays = {name: np.array(plain[name], dtype=kind) for name, kind in kinds.items()}
    return Trend.from_state({k: v for k, v in plain.items() if k not in kinds}, arrays)
