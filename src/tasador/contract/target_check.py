"""Whether a number can be the target's value: the one check of outcomes, wherever they arrive."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.encoding import encode_values
from tasador.contract.model import Column, Target
from tasador.contract.row_check import expectation, shown

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Numbers above this are no measurement of anything.
_LARGEST = 1e18


@dataclass(frozen=True, slots=True)
class TargetBounds:
    """What the contract says of the target's values.

    Attributes:
        low: Least value; None for any.
        high: Greatest value; None for any.
        positive: Whether only numbers above zero have a meaning, as on a logarithmic scale.
        unit: Its unit, for messages.
    """

    low: float | None = None
    high: float | None = None
    positive: bool = False
    unit: str | None = None

    @classmethod
    def of(cls, target: Target) -> TargetBounds:
        """Take them from a contract's target."""
        low, high = target.bounds
        return cls(low, high, target.transform == "log", target.unit)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TargetBounds:
        """Read what `plain` gave."""
        return cls(**plain)

    def plain(self) -> dict[str, Any]:
        """Return JSON's own types."""
        return asdict(self)

    def accepts(self, values: Floats) -> Flags:
        """Tell which of n values are possible, shape (n,)."""
        right: Flags = np.isfinite(values) & (np.abs(values) < _LARGEST)
        if self.positive:
            right &= values > 0
        if self.low is not None:
            right &= values >= self.low
        if self.high is not None:
            right &= values <= self.high
        return right

    @property
    def expected(self) -> str:
        """What a value has to be, for people."""
        if self.positive and (self.low is None or self.low <= 0):
            most = "" if self.high is None else f" and at most {self.high:g}"
            return f"a number above 0{most}" + (f" ({self.unit})" if self.unit else "")
        column = Column("target", "number", unit=self.unit, bounds=(self.low, self.high))
        return expectation(column)

    def reason(self, value: Any) -> str | None:
        """Return why `value` cannot be the target's; None when it can."""
        number = type(value) in (int, float) and math.isfinite(_as_float(value))
        if number and self.accepts(np.array([_as_float(value)]))[0]:
            return None
        return f"expected {self.expected}, got {shown(value)}"


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def read_number(text: str) -> float | None:
    """Read a number as every other cell of a table is read; None when it is none or missing.

    Underscores and other scripts' digits, which Python's own `float` takes, are no number.
    """
    values, wrong = encode_values(Column("target", "number"), [text])
    return None if wrong[0] or math.isnan(values[0]) else float(values[0])
