"""`Valuation` and `Explanation`: the answers to "what is this worth?" and "why?"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasador.core.hashing import to_plain
from tasador.settings.serving import ServeLimits

Floats = NDArray[np.float64]
_FloatsT = TypeVar("_FloatsT", float, Floats)
Class = Literal["H", "M", "L"]
CLASSES: tuple[Class, ...] = ("H", "M", "L")


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

    def graded(self) -> dict[str, Any]:
        """Return how sure it is as JSON has it."""
        support = None if self.support is None else self.support.plain()
        names = ("fsd", "confidence", "confidence_class")
        return {**{name: getattr(self, name) for name in names}, "support": support}


class Appraised(NamedTuple):
    """Values of n encoded rows.

    Attributes:
        prediction, lower, upper: Shape (n,), in the target's unit.
        notes: By row, only for rows that have any: what their senders should know.
        fsd: Shape (n,): forecast standard deviations; None from older bundles.
        outside: Shape (n, p): which values are outside the training range; None where none is.
        support: What the n estimates rest on; None where that was not asked for, without
            comparables, and from older bundles.
    """

    prediction: Floats
    lower: Floats
    upper: Floats
    notes: dict[int, list[str]]
    fsd: Floats | None
    outside: NDArray[np.bool_] | None
    support: list[Support] | None = None


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What one difference between a comparable and the row that was valued comes to.

    Attributes:
        name: ``time`` (the movement of prices between the two dates), or the name of a `Group`.
        amount: What it adds to the comparable's price, in the target's unit.
    """

    name: str
    amount: float


@dataclass(frozen=True, slots=True)
class Comparable:
    """A training row near the one that was valued.

    Fields from `adjusted_price` on, and what the contract does not name, are None or empty in
    bundles of before they were kept.

    Attributes:
        distance: How far it lies, in the comparables' scaled space.
        value: Its recorded target, in the target's unit, brought to the date of the valuation.
        attributes: What the bundle keeps of it: numbers, and the texts of categories.
        n: Its number, from 1.
        id: Its identifier, where the contract names a column for it.
        label: What people call it, where the contract names columns for that.
        date: Day of its sale, such as ``2014-06-30``; None where it is unknown.
        price: Its recorded target as it was.
        distance_km: Great-circle distance; None without coordinates in degrees.
        age_months: Months from its sale to the date of the valuation, of 30.4375 days.
        similarity: From 0 to 100: Gower's coefficient (Gower 1971, "A general coefficient of
            similarity and some of its properties") of the columns, each counting as much as the
            model's estimates move by it.
        why: Why it was chosen, for people.
        adjustments: By what its price is adjusted; their sum is `adjusted_price` less `price`.
        adjusted_price: What it would have fetched as the row that was valued.
        weight: Its part of `Reasons.reconciled`; those of all comparables add up to 1.
        own_earlier_sale: Whether it is an earlier sale of the same thing, by its identifier.
    """

    distance: float
    value: float
    attributes: Mapping[str, float | str | None]
    n: int
    id: str | None
    label: str | None
    date: str | None
    price: float
    distance_km: float | None
    age_months: float | None
    similarity: float | None
    why: str
    adjustments: tuple[Adjustment, ...] = ()
    adjusted_price: float | None = None
    weight: float | None = None
    own_earlier_sale: bool = False


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What the comparables come to together.

    Attributes:
        value: Mean of their adjusted prices by their weights.
        spread_raw: Standard deviation of their prices over their mean.
        spread_adjusted: The same of their adjusted prices.
    """

    value: float
    spread_raw: float
    spread_adjusted: float


@dataclass(frozen=True, slots=True)
class Group:
    """Features that mean the same thing to people, and their part of an estimate in money.

    Attributes:
        name: ``location``, ``size``, ``time``, ``age_and_condition``, ``similar_sales``, or the
            name of the column that they are made from.
        label: The same for people, in English.
        columns: The table's columns in it.
        amount: Their part, in the target's unit.
    """

    name: str
    label: str
    columns: tuple[str, ...]
    amount: float


def money_per_score(start: _FloatsT, total: _FloatsT, *, log: bool) -> _FloatsT:
    """Return what a unit of score comes to in money, so that parts of a score add up in money.

    On a log scale a part is a factor, and what it comes to depends on what it is applied to. The
    logarithmic mean of both ends, ``(end - start) / (log(end) - log(start))``, is the one rate
    that holds for all parts alike: they add up to ``end - start`` exactly, in no order (the
    additive LMDI-I of Ang 2005, "The LMDI approach to decomposition analysis: a practical guide",
    Energy Policy 33).

    Args:
        start: Where the parts begin, in money; a number, or an array of any shape.
        total: Sum of the parts' scores.
        log: Whether scores are logarithms.
    """
    if not log:
        return start * 0.0 + 1.0
    total_ = np.asarray(total, dtype=np.float64)
    none = np.abs(total_) < 1e-12
    with np.errstate(over="ignore", invalid="ignore"):
        rate = np.where(none, 1.0, np.expm1(total_) / np.where(none, 1.0, total_))
        found = start * rate
    return found if isinstance(start, np.ndarray) else float(found)


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
        comparables: Training rows near it, the most similar first (in bundles that keep no more of
            them than their places: the nearest first); empty when there is no index.
        base: The model's typical value in money: what `expected` comes to.
        groups: The contributions by meaning, in money, largest first: with `base` they add up to
            the estimate. See `money_per_score`.
        reconciled: What the comparables come to; None without adjusted prices.
    """

    transform: str
    expected: float
    contributions: Mapping[str, float]
    comparables: tuple[Comparable, ...]
    base: float
    groups: tuple[Group, ...]
    reconciled: Reconciled | None

    def plain(self) -> dict[str, Any]:
        """Return the reasons as JSON has them, the largest contributions first."""
        parts = sorted(self.contributions.items(), key=lambda part: -abs(part[1]))
        return {
            "scale": self.transform,
            "expected": self.expected,
            "contributions": [{"feature": name, "value": value} for name, value in parts],
            "comparables": to_plain(self.comparables),
            "base": self.base,
            "groups": to_plain(self.groups),
            "reconciled": to_plain(self.reconciled),
        }


@dataclass(frozen=True, slots=True)
class Explanation(Reasons):
    """A valuation, and why it is what it is.

    Attributes:
        valuation: The estimate and its interval.
    """

    valuation: Valuation
