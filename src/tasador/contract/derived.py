"""Columns that follow from others: differences, ratios, sums, logarithms, distances, lookups.

They are computed from the encoded values, before gaps are filled: what follows from a missing value
is missing. A caller never sends them, and everything that looks at columns (gaps, drift,
explanations) sees them as it sees the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasador.contract.formats import DURATION_DAYS

Floats = NDArray[np.float64]

Operation = Literal["difference", "ratio", "sum", "product", "log", "distance_to", "lookup"]
#: How many columns each operation takes: (fewest, most).
OPERATIONS: Mapping[str, tuple[int, int]] = {
    "difference": (2, 2),
    "ratio": (2, 2),
    "sum": (2, 100),
    "product": (2, 100),
    "log": (1, 1),
    "distance_to": (2, 2),
    "lookup": (1, 1),
}
_DAY_S = 86_400.0
_YEAR_S = 365.2425 * _DAY_S
#: Mean radius of the earth in kilometres (IUGG).
_EARTH_KM = 6371.0088


@dataclass(frozen=True, slots=True)
class Derive:
    """How a column follows from others.

    Attributes:
        operation: ``difference`` of the first and the second, of two dates in `unit`, of a date and
            a year in years; ``ratio``; ``sum``; ``product``; ``log``, the natural logarithm of a
            positive number; ``distance_to``, the kilometres from (longitude, latitude) to the
            nearest of `points`; ``lookup``, the number that `table` has for a category or
            a number.
        columns: The columns that it takes.
        unit: Unit of a difference of two dates: years, months, weeks, days, hours...
        points: (longitude, latitude) in degrees.
        table: (level, number) pairs of a lookup.
        file: Where points or table are read from when the contract is read for training.
        value: The column of `file` that a lookup takes.
        key: The column of `file` that is compared with the category.
    """

    operation: Operation
    columns: tuple[str, ...]
    unit: str = "years"
    points: tuple[tuple[float, float], ...] = ()
    table: tuple[tuple[str, float], ...] = ()
    file: str | None = None
    value: str | None = None
    key: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types, as the contract's ``derive`` section holds it."""
        plain: dict[str, Any] = {self.operation: list(self.columns)}
        if self.operation == "difference" and self.unit != "years":
            plain["in"] = self.unit
        if self.points:
            plain["points"] = [list(point) for point in self.points]
        if self.table:
            plain["table"] = dict(self.table)
        for name in ("file", "key", "value"):
            if getattr(self, name) is not None:
                plain[name] = getattr(self, name)
        return plain


class Deriver:
    """Computes one derived column.

    Args:
        derive: How it follows.
        kinds: Kind of each of its columns.
        levels: For a lookup by a category, the level of each of its codes.
    """

    def __init__(
        self, derive: Derive, kinds: tuple[str, ...], levels: tuple[str, ...] = ()
    ) -> None:
        self._derive, self._kinds = derive, kinds
        self._points = np.radians(np.array(derive.points, dtype=np.float64).reshape(-1, 2))
        self._levels, self._numbers = _keys(derive, levels if kinds == ("category",) else None)

    def __call__(self, values: Floats) -> Floats:
        """Return the column (n,) from those that it takes (n, k), NaN where it has no value."""
        operation = self._derive.operation
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            result = getattr(self, f"_{operation}")(values)
        found: Floats = np.where(np.isfinite(result), result, np.nan)
        return found

    def _difference(self, values: Floats) -> Floats:
        first, second = values[:, 0], values[:, 1]
        if self._kinds == ("datetime", "datetime"):
            return (first - second) / (_DAY_S * DURATION_DAYS[self._derive.unit])
        if self._kinds[0] == "datetime":
            first = 1970 + first / _YEAR_S
        elif self._kinds[1] == "datetime":
            second = 1970 + second / _YEAR_S
        return first - second

    def _ratio(self, values: Floats) -> Floats:
        return values[:, 0] / values[:, 1]

    def _sum(self, values: Floats) -> Floats:
        total = values[:, 0]
        for at in range(1, values.shape[1]):  # one row sums as many do
            total = total + values[:, at]
        return total

    def _product(self, values: Floats) -> Floats:
        total = values[:, 0]
        for at in range(1, values.shape[1]):
            total = total * values[:, at]
        return total

    def _log(self, values: Floats) -> Floats:
        return np.log(values[:, 0])

    def _distance_to(self, values: Floats) -> Floats:
        # the haversine formula (Sinnott 1984), row by row so that memory holds one row of points
        place = np.radians(values)
        nearest = np.full(len(values), np.inf)
        for longitude, latitude in self._points.tolist():
            half = (
                np.sin((place[:, 1] - latitude) / 2) ** 2
                + np.cos(place[:, 1]) * math.cos(latitude)
                * np.sin((place[:, 0] - longitude) / 2) ** 2
            )  # fmt: skip
            nearest = np.fmin(nearest, half)
        nearest[np.isnan(values).any(axis=1)] = np.nan
        result: Floats = 2 * _EARTH_KM * np.arcsin(np.sqrt(np.minimum(nearest, 1.0)))
        return result

    def _lookup(self, values: Floats) -> Floats:
        codes = values[:, 0]
        at = np.searchsorted(self._levels, codes)
        at = np.minimum(at, len(self._levels) - 1)
        found: Floats = np.where(self._levels[at] == codes, self._numbers[at], np.nan)
        return found


def _keys(derive: Derive, levels: tuple[str, ...] | None) -> tuple[Floats, Floats]:
    """Return the codes for which a lookup has a number, ascending, and those numbers."""
    pairs: list[tuple[float, float]] = []
    if levels is not None:
        found = {level.casefold().strip(): number for level, number in derive.table}
        texts = enumerate(level.casefold().strip() for level in levels)
        pairs = [(float(code), found[text]) for code, text in texts if text in found]
    else:
        for level, number in derive.table:
            try:
                pairs.append((float(level), number))
            except ValueError:
                continue
    ordered = np.array(sorted(pairs) or [(math.nan, math.nan)], dtype=np.float64)
    return ordered[:, 0], ordered[:, 1]
