"""Whether encoded rows meet their contract: at once for many rows, fault by fault for one.

`validate` checks tables before training and needs polars; this needs numpy alone and is what a
service asks for every row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import ValidationError
from tasador.data.contract import Column, TableContract
from tasador.data.encode import Encoder, cut_repr

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_LARGEST = float(np.finfo(np.float64).max)
_SHOWN_CATEGORIES = 20

Cause = Literal["missing", "wrong_kind", "out_of_bounds", "unknown_level"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field of a row, in words for its sender, and as a cause to count."""

    field: str
    expected: str
    got: str
    remedy: str
    cause: Cause


class RowCheck:
    """Checks rows of one table.

    Args:
        encoder: Encodes rows of the same contract.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._contract: TableContract = encoder.contract
        columns = self._contract.features
        limits = [_limits(column) for column in columns]
        self._low = np.array([low for low, _ in limits])
        self._high = np.array([high for _, high in limits])
        self._nullable = np.array([column.nullable for column in columns])
        self._any_nullable = bool(self._nullable.any())
        self._whole = np.array([i for i, c in enumerate(columns) if c.kind == "integer"], np.intp)

    def accepts(self, X: Floats) -> Flags:
        """Tell for encoded rows (n, p) which meet the contract, shape (n,).

        Refused are values out of bounds, unknown categories, infinities, fractions in a column of
        whole numbers, and NaN where the contract wants a value.
        """
        right: Flags = np.logical_and(self._low <= X, self._high >= X)
        if self._any_nullable:
            right = right | (np.isnan(X) & self._nullable)
        if len(self._whole):
            whole = X.take(self._whole, axis=1)
            right[:, self._whole] &= (whole == np.floor(whole)) | np.isnan(whole)
        accepted: Flags = np.all(right, axis=1)
        return accepted

    def faults(self, values: Mapping[str, Any]) -> list[Fault]:
        """Return everything that is wrong with one row as it was sent; empty when it is right."""
        found = []
        for column in self._contract.features:
            fault = self._fault(column, values)
            if fault is not None:
                found.append(fault)
        return found

    def reasons(self, values: Mapping[str, Any]) -> str:
        """Return `faults` as one line of text."""
        return described(self.faults(values))

    def _fault(self, column: Column, values: Mapping[str, Any]) -> Fault | None:
        name = column.name
        if name not in values:
            if column.nullable:
                return None
            remedy = f"send the field {name!r}"
            return Fault(name, expectation(column), "nothing", remedy, "missing")
        value = values[name]
        try:
            code = self._encoder.cell(name, value)
        except ValidationError as error:
            got = error.got or shown(value)
            remedy = "send a value of that kind"
            return Fault(name, expectation(column), got, remedy, "wrong_kind")
        if math.isnan(code):
            if column.nullable:
                return None
            return Fault(name, expectation(column), shown(value), "send a value", "missing")
        low, high = _limits(column)
        fraction = column.kind == "integer" and math.isfinite(code) and not code.is_integer()
        if low <= code <= high and not fraction:
            return None
        remedy = "check the value and its unit"
        cause: Cause = "wrong_kind" if fraction and low <= code <= high else "out_of_bounds"
        if column.kind == "category":
            remedy, cause = "send one of the known categories", "unknown_level"
        return Fault(name, expectation(column), shown(value), remedy, cause)

    def unknown_fields(self, values: Mapping[str, Any]) -> list[str]:
        """Return the fields of a row that the contract does not name, at most 20."""
        known = {column.name for column in self._contract.columns}
        return [name for name in values if name not in known][:20]


def described(faults: Sequence[Fault]) -> str:
    """Return faults as one line of text."""
    return "; ".join(f"{f.field}: expected {f.expected}, got {f.got}" for f in faults)


def _limits(column: Column) -> tuple[float, float]:
    """Return the least and the greatest code that is right."""
    if column.kind == "category":
        return 0.0, float(len(column.categories) - 1)
    low, high = column.bounds
    return -_LARGEST if low is None else low, _LARGEST if high is None else high


def expectation(column: Column) -> str:
    """Say what a column's values are: ``a number in [0.1, 20] (tens of thousands of USD)``."""
    if column.kind == "category":
        names = ", ".join(column.categories[:_SHOWN_CATEGORIES])
        more = len(column.categories) - _SHOWN_CATEGORIES
        text = f"one of {names}" + (f" and {more} more" if more > 0 else "")
    elif column.kind == "datetime":
        text = "a date and time in ISO 8601"
    else:
        low, high = column.bounds
        text = "a whole number" if column.kind == "integer" else "a number"
        if low is not None and high is not None:
            text += f" in [{low:g}, {high:g}]"
        elif low is not None:
            text += f" of at least {low:g}"
        elif high is not None:
            text += f" of at most {high:g}"
        if column.unit:
            text += f" ({column.unit})"
    return text + (" or null" if column.nullable else "")


def shown(value: Any) -> str:
    """Return a value as a message shows it: JSON's words for nothing, cut when long or deep."""
    return "null" if value is None else cut_repr(value)
