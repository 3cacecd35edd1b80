"""`Valuation` and `Explanation`: the answers to "what is this worth?" and "why?"."""

from __future__ import annotations

from collections.abc import Mapping
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
        warnings: What is unusual about the row: imputed values, values outside the training range,
            comparables that are far away, that it is one of the training rows.

    Example:
        >>> import tasador
        >>> row = {"mass": 1200, "power": 85, "doors": 5, "built": "2016-03-01", "fuel": "petrol"}
        >>> answer = tasador.load_bundle("cars").value(row)
        >>> isinstance(answer, tasador.Valuation)
        True
        >>> round(answer.lower), round(answer.prediction), round(answer.upper), answer.coverage
        (2007, 3919, 5830, 0.9)
    """

    prediction: float
    lower: float
    upper: float
    coverage: float
    version: str
    unit: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparable:
    """A training row near the one that was valued.

    Attributes:
        distance: How far it lies, in the comparables' scaled space.
        value: Its recorded target, in the target's unit.
        attributes: What the bundle keeps of it: the columns that span the space, the attribute of
            resemblance and the columns whose neighbourhood means are features.
    """

    distance: float
    value: float
    attributes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why a row is worth what it is.

    Attributes:
        transform: Scale of the contributions: on ``log`` they multiply (exp of each is a factor),
            on ``none`` they add up, in the target's unit.
        expected: The model's mean score, on that scale.
        contributions: Part of each feature; with `expected` they add up to the estimate's score.
            That of a training row has one more, `training_rows.NOT_LEARNT`: what is left of its
            value where the models did not learn from the row itself.
        comparables: The nearest training rows, nearest first; empty when there is no index.
    """

    transform: str
    expected: float
    contributions: Mapping[str, float]
    comparables: tuple[Comparable, ...]


@dataclass(frozen=True, slots=True)
class Explanation(Reasons):
    """A valuation, and why it is what it is.

    Attributes:
        valuation: The estimate and its interval.
    """

    valuation: Valuation
