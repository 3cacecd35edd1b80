"""Where a model errs most: rules on the table's own columns, found by a shallow tree on its errors.

The tree (CART, Breiman et al. 1984) is fitted on out-of-fold errors of training rows. What it finds
is then looked for among other rows, and dropped unless these show it too: a tree always finds
leaves that are worse than others, if only by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column, TableContract
from tasador.metrics.ratio_study import FEWEST_OF_GROUP
from tasador.metrics.regression import mape, median_ratio, relative_errors

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_DEPTH, _LEAF_SHARE, _MOST = 3, 0.02, 5
#: Errors beyond this quantile count as it: a few absurd ones would be all that a tree looks at.
_CLIPPED = 0.99
#: So many levels of a category, the worst ones, are told apart: a rule that names 40 helps nobody.
_NAMED = 4
#: Rows' worth of the overall error mixed into that of a level.
_SHRINKAGE = 30.0
#: Share of a node's rows that may change sides for a rounder limit.
_MOVED = 0.01
#: One-sided 95% quantile of the normal distribution.
_Z = 1.644854
#: A split counts whose two sides differ by so many standard errors: of all splits that a tree looks
#: at, the best reaches 3 to 4 where errors depend on nothing.
_SPLIT_Z = 4.0


@dataclass(frozen=True, slots=True)
class Condition:
    """What a rule asks of one column.

    Attributes:
        column: Its name.
        low: Exclusive lower limit of a number or date; None where there is none.
        high: Inclusive upper limit.
        levels: Levels of a category, the most frequent first; empty for other columns.
        others: The levels that do not meet it.
        missing: Whether rows without a value meet it.
        known: Whether rows with a value may meet it.
        dates: Whether the limits are dates, in seconds since 1970 UTC.
    """

    column: str
    low: float | None = None
    high: float | None = None
    levels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    missing: bool = True
    known: bool = True
    dates: bool = False

    def holds(self, contract: TableContract, X: Floats) -> Flags:
        """Return which encoded rows `X` (n, p) meet it; an unknown level is a missing value."""
        column, x = contract.column(self.column), X[:, contract.position(self.column)]
        nothing = np.isnan(x)
        if column.kind == "category":
            nothing = nothing | (x >= len(column.categories))
            found = np.isin(x, [column.categories.index(level) for level in self.levels])
        else:
            found = np.full(len(x), self.known)
            if self.low is not None:
                found &= x > self.low
            if self.high is not None:
                found &= x <= self.high
        result: Flags = np.where(nothing, self.missing, found)
        return result


@dataclass(frozen=True, slots=True)
class WeakSegment:
    """Rows that are valued worse than others.

    Attributes:
        rule: What they have in common; all conditions hold.
        rows: How many of the held-out rows they are.
        mape: Their mean absolute percentage error.
        median_ratio: Median of their estimates over actual values.
        found: Their MAPE among the rows on which they were found.
    """

    rule: tuple[Condition, ...]
    rows: int
    mape: float
    median_ratio: float
    found: float


@dataclass(frozen=True, slots=True)
class WeakestSegments:
    """The weakest segments beside all held-out rows.

    Attributes:
        segments: The weakest first; empty where none is worse beyond chance.
        rows: Held-out rows.
        mape: Of all of them.
        median_ratio: Of all of them.
    """

    segments: tuple[WeakSegment, ...]
    rows: int
    mape: float
    median_ratio: float


def weakest_segments(
    contract: TableContract,
    X: Floats,
    errors: Floats,
    held: tuple[Floats, Floats, Floats],
    *,
    dated: bool,
) -> WeakestSegments:
    """Find the rules whose rows have the largest errors.

    Args:
        contract: Names the columns of the rows.
        X: Shape (n, p): encoded rows on which rules are found.
        errors: Shape (n,): their absolute percentage errors by models that had not seen them; NaN
            where a percentage has no meaning.
        held: Other encoded rows (m, p), their actual values (m,) and estimates (m,). A rule stays
            where at least `FEWEST_OF_GROUP` of them meet it, whose errors are larger than the
            others' (Welch's test, one-sided, 5%).
        dated: Whether the other rows are newer: a rule about the date of the sale then says nothing
            about them.
    """
    Z, actual, predicted = held
    own = relative_errors(actual, predicted)
    every = WeakestSegments(
        (), len(actual), mape(actual, predicted), median_ratio(actual, predicted)
    )
    some = np.isfinite(errors)
    found = []
    for rule, error in _rules(contract, X[some], errors[some], dated=dated):
        rows = np.logical_and.reduce([condition.holds(contract, Z) for condition in rule])
        if int(rows.sum()) < FEWEST_OF_GROUP or not _larger(own[rows], own[~rows]):
            continue
        segment = WeakSegment(
            rule, int(rows.sum()), mape(actual[rows], predicted[rows]),
            median_ratio(actual[rows], predicted[rows]), error,
        )  # fmt: skip
        found.append(segment)
    found.sort(key=lambda segment: -segment.mape)
    return replace(every, segments=tuple(found[:_MOST]))


def _larger(errors: Floats, others: Floats, z: float = _Z) -> bool:
    """Tell whether the mean of errors is larger than that of others, and not by chance."""
    errors, others = (values[np.isfinite(values)] for values in (errors, others))
    if min(len(errors), len(others)) < 2:
        return False
    spread = sum(float(np.var(values, ddof=1)) / len(values) for values in (errors, others))
    mean, other = float(np.mean(errors)), float(np.mean(others))
    return mean - other > max(z * math.sqrt(spread), 1e-9 * mean)  # equal, but for rounding


@dataclass(frozen=True)
class _Seen:
    """A column as the tree sees it: a category's levels by the errors of their rows."""

    column: Column
    values: Floats
    ranks: tuple[int, ...] = ()
    frequency: Mapping[int, int] = field(default_factory=dict)


def _rules(
    contract: TableContract, X: Floats, errors: Floats, *, dated: bool
) -> Iterator[tuple[tuple[Condition, ...], float]]:
    """Yield each leaf with errors above the mean, as conditions, with its mean error."""
    from sklearn.tree import DecisionTreeRegressor

    columns = [
        _seen(column, X[:, place], errors)
        for place, column in enumerate(contract.features)
        if not (dated and column.role == "timestamp")
    ]
    least = max(FEWEST_OF_GROUP, math.ceil(_LEAF_SHARE * len(X)))
    if not columns or len(X) < 2 * least:
        return
    seen = np.column_stack([one.values for one in columns]).astype(np.float32)
    tree = DecisionTreeRegressor(max_depth=_DEPTH, min_samples_leaf=least, random_state=0)
    clipped = np.minimum(errors, np.quantile(errors, _CLIPPED))
    tree.fit(seen, clipped)
    mean = float(np.mean(errors))

    def below(
        node: int, rows: Flags, rule: dict[str, Condition]
    ) -> Iterator[tuple[tuple[Condition, ...], float]]:
        place, grown = int(tree.tree_.feature[node]), tree.tree_
        left, differ = rows, False
        if place >= 0:
            one, x = columns[place], columns[place].values
            missing_left = bool(grown.missing_go_to_left[node])
            # the limit in double precision, as rows are compared later: the tree's is in single
            limit = _limit(one, x[rows], float(grown.threshold[node]))
            left = np.where(np.isnan(x), missing_left, x <= limit)
            parts = clipped[rows & left], clipped[rows & ~left]
            differ = _larger(*parts, _SPLIT_Z) or _larger(*parts[::-1], _SPLIT_Z)
        if not differ:
            error = float(np.mean(errors[rows]))
            if rule and error > mean:
                yield tuple(rule.values()), error
            return
        gaps = bool(np.isnan(x).any())
        for child, side, low in (
            (grown.children_left[node], left, False),
            (grown.children_right[node], ~left, True),
        ):
            dates = one.column.kind == "datetime"
            before = rule.get(one.column.name, Condition(one.column.name, dates=dates))
            meets = _narrowed(before, one, limit, low=low, missing=gaps and missing_left != low)
            yield from below(int(child), rows & side, {**rule, one.column.name: meets})

    yield from below(0, np.ones(len(X), np.bool_), {})


def _seen(column: Column, x: Floats, errors: Floats) -> _Seen:
    """Return a column for the tree; levels are numbered by the mean error of their rows.

    Of squared errors the best set of levels is then a range (Fisher 1958). Few rows say little: the
    mean of a level is drawn towards that of all, and a level that no row has gets the latter.
    """
    if column.kind != "category":
        return _Seen(column, np.where(np.isfinite(x), x, np.nan))
    n = len(column.categories)
    known = ~np.isnan(x) & (x < n)
    codes = x[known].astype(np.intp)
    count, mean = np.bincount(codes, minlength=n), float(np.mean(errors))
    total = np.bincount(codes, errors[known], minlength=n)
    order = np.argsort((total + _SHRINKAGE * mean) / (count + _SHRINKAGE), kind="stable")
    ranks = np.empty(n, np.intp)
    ranks[order] = np.maximum(np.arange(n) - max(n - _NAMED - 1, 0), 0)
    values = np.full(len(x), np.nan)
    values[known] = ranks[codes]
    return _Seen(column, values, tuple(ranks.tolist()), dict(enumerate(count.tolist())))


def _limit(one: _Seen, x: Floats, threshold: float) -> float:
    """Return the roundest limit near a threshold, which parts the values `x` as it does, or nearly.

    People read 60 more easily than 59.11; of numbers, a few may change sides for it.
    """
    if not math.isfinite(threshold):  # parted by whether there is a value
        return threshold
    if one.column.kind == "category":
        return math.floor(threshold)
    most = _MOVED * np.isfinite(x).sum()
    unit = 86_400.0 if one.column.kind == "datetime" else 1.0
    for digits in range(1, 17):
        limit = float(f"{threshold / unit:.{digits}g}") * unit
        if ((x <= limit) != (x <= threshold)).sum() <= most:
            return math.floor(limit) if one.column.kind == "integer" else limit
    return threshold


def _narrowed(
    before: Condition, one: _Seen, limit: float, *, low: bool, missing: bool
) -> Condition:
    """Return a condition with one more limit, on the same column."""
    missing = missing and before.missing
    if one.column.kind != "category":
        if not math.isfinite(limit):
            return replace(before, known=before.known and not low, missing=missing)
        if low:
            return replace(before, low=limit, missing=missing)
        return replace(before, high=limit, missing=missing)
    names = one.column.categories
    levels: list[str] = []
    others: list[str] = []
    for code in sorted(range(len(names)), key=lambda code: (-one.frequency[code], code)):
        meets = (one.ranks[code] > limit) == low and names[code] not in before.others
        (levels if meets else others).append(names[code])
    return replace(before, levels=tuple(levels), others=tuple(others), missing=missing)
