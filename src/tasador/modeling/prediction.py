"""`Valuation` and `Explanation`: the answers to "what is this worth?" and "why?"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasador.settings.serving import ServeLimits

Floats = NDArray[np.float64]
Class = Literal["H", "M", "L"]


@dataclass(frozen=True, slots=True)
class Support:
    """What the training rows say about a place like that of the row.

    Attributes:
        nearest: Distance to the nearest comparable; None where none informs the row.
        unit: Unit of `nearest`: ``km`` where comparables are found by coordinates in degrees; None
            where it is that of the comparables' scaled space.
        within_reach: Comparables no farther than nearly all training rows have their fourth; of
            more than 64 it says 64.
        outside: Columns whose values lie outside the training range, alone or beside the others.
    """

    nearest: float | None
    unit: str | None
    within_reach: int
    outside: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "nearest_km" if self.unit == "km" else "nearest": self.nearest,
            "within_reach": self.within_reach,
            "outside": list(self.outside),
        }

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Support:
        """Read what `plain` wrote.

        Raises:
            KeyError, TypeError: It is something else.
        """
        km = "nearest_km" in plain
        nearest = plain["nearest_km" if km else "nearest"]
        return cls(nearest, "km" if km else None, plain["within_reach"], tuple(plain["outside"]))


def no_value(fsd: float | None, support: Support | None, limits: ServeLimits) -> str | None:
    """Return why a row gets no value within `limits`; None where it gets one.

    What is not known, as from older bundles, speaks against no row.
    """
    if fsd is not None and limits.max_fsd is not None and fsd > limits.max_fsd:
        return (
            f"no value: an error of {fsd:.1%} is to be expected, at most {limits.max_fsd:.1%} is "
            "accepted (serve.max_fsd)"
        )
    if support is not None and support.within_reach < limits.min_support:
        return (
            f"no value: {support.within_reach} comparables lie within reach, at least "
            f"{limits.min_support} are asked for (serve.min_support)"
        )
    return None


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
        fsd: Forecast standard deviation of the relative error: for 68% of rows like this one
            ``|estimate - truth| / truth`` is at most that. None from older bundles.
        confidence: ``100 (1 - fsd)``, from 0 to 100; None from older bundles.
        confidence_class: ``H``, ``M`` or ``L``, by the confidence; None from older bundles.
        support: What the estimate rests on; None without comparables, and from older bundles.

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
    fsd: float | None = None
    confidence: float | None = None
    confidence_class: Class | None = None
    support: Support | None = None


class Appraised(NamedTuple):
    """Values of n encoded rows.

    Attributes:
        prediction, lower, upper: Shape (n,), in the target's unit.
        notes: By row, only for rows that have any: what their senders should know.
        fsd: Shape (n,): forecast standard deviations; None from older bundles.
        outside: Shape (n, p): which values are outside the training range; None where none is.
    """

    prediction: Floats
    lower: Floats
    upper: Floats
    notes: dict[int, list[str]]
    fsd: Floats | None
    outside: NDArray[np.bool_] | None


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
