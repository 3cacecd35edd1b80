"""Derived columns: ratios of two numbers, and the parts of a date."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LAST_SECOND = 1e15  # some 30 million years: what lies beyond does not fit NumPy's dates
_SECONDS_A_YEAR = 365.2425 * 86400.0
DATE_PARTS = ("year", "month", "weekday")


def ratios(numerators: Floats, denominators: Floats) -> Floats:
    """Return numerators / denominators (n, r), NaN where a denominator is zero or too near it."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        quotient: Floats = numerators / denominators
    quotient[~np.isfinite(quotient)] = np.nan
    return quotient


def date_parts(seconds: Floats) -> Floats:
    """Return (n, 3): fractional year, month 1-12, weekday 0-6 (Monday 0) of seconds since 1970.

    The moment is read in UTC; NaN is not allowed (impute first).
    """
    seconds = np.clip(seconds, -_LAST_SECOND, _LAST_SECOND)
    moments = np.floor(seconds).astype(np.int64).astype("datetime64[s]")
    months = moments.astype("datetime64[M]").astype(np.int64) % 12 + 1
    days = moments.astype("datetime64[D]").astype(np.int64)
    year = 1970.0 + seconds / _SECONDS_A_YEAR
    return np.stack([year, months.astype(np.float64), ((days + 3) % 7).astype(np.float64)], axis=1)
