"""`Valuation`: the answer to "what is this worth?"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Valuation:
    """One estimate with its interval.

    Attributes:
        prediction: The estimate, in `unit`.
        lower: Lower end of the interval, in `unit`.
        upper: Upper end of the interval, in `unit`.
        coverage: Share of truths that such intervals hold, in (0, 1).
        version: Name and content hash of the bundle that answered.
        unit: Unit of the target, e.g. ``"USD"``; None when the contract names none.
    """

    prediction: float
    lower: float
    upper: float
    coverage: float
    version: str
    unit: str | None = None
