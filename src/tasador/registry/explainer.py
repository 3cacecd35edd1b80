"""`Explainer`: why a bundle's estimate is what it is, in money and by comparables.

Comparables are found among the nearest training rows, adjusted by the model's own differences (its
score at the valued row less that at the comparable, by meaning, of TreeSHAP's parts) and weighed
against each other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tasador.contract.formats import date_text, seconds_of
from tasador.contract.model import TableContract
from tasador.core.clock import MONTH_S
from tasador.core.errors import ValidationError
from tasador.features import meaning
from tasador.features.fitted import FittedFeatures, NearRow
from tasador.features.neighbours_kernel import Found
from tasador.features.plan import kilometres
from tasador.modeling.prediction import (
    Adjustment,
    Comparable,
    Group,
    Reasons,
    Reconciled,
    Support,
    money_per_score,
)
from tasador.modeling.target_transform import TargetTransform
from tasador.modeling.training_rows import NOT_LEARNT
from tasador.registry.known_sales import KnownSales, short_text
from tasador.trees.tree_shap import Contributions

Floats = NDArray[np.float64]

TREND = "trend"
OTHER = "other"
#: Of so many nearest rows the most similar ones are shown; with filters more are looked at.
_CANDIDATES, _MOST_SEARCHED = 64, 16_384
_MOST_COMPARABLES = 64
_MOST_ADJUSTMENTS = 8
#: Rows that tell by how much each column moves estimates.
_TYPICAL_ROWS = 60
_RANGE_ROWS = 20_000
#: Rows whose comparables are looked for at a time.
_TOGETHER = 256
#: Gross adjustment, as a share of the price, that halves a comparable's weight.
_HALVING = 0.1
#: Column distance, of 0 to 1, up to which rows are alike in it.
_ALIKE = 0.1


class FilterError(ValidationError):
    """A filter of comparables that this bundle cannot apply.

    Attributes:
        name: The filter, as `Wanted` names it.
    """

    name = "same"

    @classmethod
    def needs(cls, name: str, expected: str, remedy: str) -> FilterError:
        """Return the error of a filter by what the bundle does not know."""
        made = cls(
            f"comparables cannot be chosen by {name}", expected=expected, got="none", remedy=remedy
        )
        made.name = name
        return made

    @classmethod
    def unknown(cls, name: str, known: Sequence[str]) -> FilterError:
        """Return the error of a column that is none."""
        return cls(
            f"comparables cannot be the same in {name!r}",
            expected=f"one of {', '.join(known[:40])}",
            got=repr(name),
            remedy="name columns that the model uses",
        )


@dataclass(frozen=True)
class Wanted:
    """Which comparables are asked for.

    Attributes:
        n: How many, at most 64.
        radius_km: Greatest great-circle distance; None for any.
        since: First day of their sales; None for any. Those without a date are left out.
        same: Columns in which they have the value of the row that is valued.
    """

    n: int = 5
    radius_km: float | None = None
    since: dt.date | None = None
    same: tuple[str, ...] = ()


class Explainer:
    """Explains the estimates of one bundle; may be used from several threads at once.

    Args:
        features: The bundle's features.
        contributions: What tells each feature's part.
        target: The target's transform.
        sales: What is kept of the comparables; None in bundles of before it was.
    """

    def __init__(
        self,
        features: FittedFeatures,
        contributions: Contributions,
        target: TargetTransform,
        sales: KnownSales | None,
    ) -> None:
        self._features, self._contributions = features, contributions
        self._target, self._sales = target, sales
        self._searched = features
        if sales is not None and sales.index is not None:
            self._searched = replace(features, index=sales.index)
        self._contract: TableContract = features.contract
        self._log = target.kind == "log"
        index = self._searched.index
        # filled as comparables are asked for: each one's parts are worked out once
        self._parts = np.empty((0 if index is None else index.size, len(self.groups)))
        self._known = np.zeros(len(self._parts), np.bool_)

    def support(
        self, X: Floats, outside: NDArray[np.bool_] | None, found: Found | None = None
    ) -> list[Support] | None:
        """Return what the estimates of encoded rows (n, p) rest on; None without comparables.

        Args:
            X: The rows.
            outside: Shape (n, p): which values lie outside the training range; None for none.
            found: Their neighbours where `features` have found them; None searches.
        """
        searched = self._searched
        if found is None or searched is not self._features:
            found = searched.neighbours(X)
        if found is None or searched.plan is None or searched.index is None:
            return None
        count, nearest, unit = searched.plan.support(
            searched.index, found, self._contract.coordinates
        )
        unusual: list[tuple[str, ...]] = [()] * len(X)
        if outside is not None:
            names = np.array(self._contract.feature_names)
            unusual = [tuple(names[row].tolist()) for row in outside]
        each = zip(nearest.tolist(), count.tolist(), unusual, strict=True)
        return [Support(None if far != far else far, unit, n, of) for far, n, of in each]

    @cached_property
    def groups(self) -> tuple[meaning.Meaning, ...]:
        """The model's features by meaning."""
        return meaning.meanings(self._features)

    @cached_property
    def base(self) -> float:
        """What the model's mean score comes to in money, at the newest level of prices."""
        return float(self._target.inverse(np.array([self._contributions.expected]))[0])

    @cached_property
    def money_groups(self) -> tuple[meaning.Meaning, ...]:
        """The groups of `in_money`: those of features, time, and what was not learnt."""
        found = list(self.groups)
        if all(group.name != meaning.TIME for group in found):
            column = self._contract.with_role("timestamp")
            if column is not None:
                label = meaning.LABELS[meaning.TIME]
                found.append(meaning.Meaning(meaning.TIME, label, (column.name,), ()))
        label = "Valued by models that did not learn from it"
        return (*found, meaning.Meaning(NOT_LEARNT, label, (), ()))

    def in_money(self, parts: Floats, score: Floats, dates: Floats | None) -> Floats:
        """Return the parts of `money_groups` in money (n, groups): with `base` the estimates.

        Args:
            parts: Shape (n, q): the features' contributions.
            score: Shape (n,): what the rows are valued by, on the model's scale.
            dates: Shape (n,): as of when, in seconds; None for a model without a trend.
        """
        grouped = np.zeros((len(parts), len(self.money_groups)))
        grouped[:, : len(self.groups)] = meaning.sums(parts, self.groups)
        left = score - self._contributions.expected - parts.sum(axis=1)
        grouped[:, -1] = np.where(np.abs(left) > 1e-9 * (1.0 + np.abs(score)), left, 0.0)
        if self._target.trend is not None and dates is not None:
            names = [group.name for group in self.money_groups]
            grouped[:, names.index(meaning.TIME)] += self._target.trend.at(dates)
        start = np.full(len(parts), self.base)
        rate = money_per_score(start, grouped.sum(axis=1), log=self._log)
        if not self._log:
            rate = rate * self._target.smearing
        return np.asarray(grouped * rate[:, None])

    def reasons(
        self,
        X: Floats,
        Z: Floats,
        score: float,
        dates: Floats | None,
        wanted: Wanted,
        identifier: Any = None,
    ) -> Reasons:
        """Say why one encoded row (1, p) has its value.

        Args:
            X: The row.
            Z: Shape (1, q): its features.
            score: What it is valued by: the model's score, or that of models that did not learn it.
            dates: Shape (1,): as of when, in seconds; None for a model without a trend.
            wanted: Which comparables.
            identifier: The row's value of the contract's ``comparables.identifier``, if it has one.

        Raises:
            ValidationError: The bundle does not know what comparables are to be chosen by.
        """
        expected, trend = self._contributions.expected, self._target.trend
        parts = self._contributions.of(Z[0])
        named = dict(zip(self._features.names, parts.tolist(), strict=True))
        money = self.in_money(parts[None], np.array([score]), dates)[0]
        if money[-1]:
            named[NOT_LEARNT] = score - expected - sum(parts.tolist())
        if trend is not None and dates is not None:
            named[TREND] = float(trend.at(dates)[0])
        groups = [
            Group(group.name, group.label, group.columns, amount)
            for group, amount in zip(self.money_groups, money.tolist(), strict=True)
            if amount or group.name != NOT_LEARNT
        ]
        groups.sort(key=lambda group: -abs(group.amount))
        grouped = meaning.sums(parts[None], self.groups)[0]
        name = short_text(identifier)
        near = self._chosen(X, wanted, name)
        comparables = self._described(X, dates, grouped, near, name)
        return Reasons(
            transform=self._target.kind,
            expected=expected,
            contributions=named,
            comparables=comparables,
            base=self.base,
            groups=tuple(groups),
            reconciled=_reconciled(comparables),
        )

    def comparables_of_rows(
        self, X: Floats, parts: Floats, dates: Floats | None, n: int, identifiers: Sequence[Any]
    ) -> Iterator[tuple[tuple[Comparable, ...], Reconciled | None]]:
        """Yield what `reasons` says of `n` comparables of each encoded row (m, p).

        `parts` are the features' contributions (m, q), `dates` as of when (m,), the rest as there.
        """
        grouped, wanted = meaning.sums(parts, self.groups), Wanted(n)
        names = [short_text(identifier) for identifier in identifiers]
        for start in range(0, len(X), _TOGETHER):
            rows = range(start, min(start + _TOGETHER, len(X)))
            found = self._searched.nearest_of_rows(X[rows.start : rows.stop], self._looked_at(n))
            chosen = [
                self._chosen(X[i : i + 1], wanted, names[i], near)
                for i, near in zip(rows, found, strict=True)
            ]
            if self._sales is not None:  # worked out together, for they are kept
                places = sorted({one.position for near in chosen for one in near})
                self._parts_of(np.array(places, np.intp))
            for i, near in zip(rows, chosen, strict=True):
                day = None if dates is None else dates[i : i + 1]
                made = self._described(X[i : i + 1], day, grouped[i], near, names[i])
                yield made, _reconciled(made)

    def _described(
        self,
        X: Floats,
        dates: Floats | None,
        parts: Floats,
        near: Sequence[NearRow],
        identifier: str | None,
    ) -> tuple[Comparable, ...]:
        """Return the chosen rows as comparables of a row (1, p)."""
        if not near:
            return ()
        places = np.array([found.position for found in near])
        targets = np.array([found.target for found in near])
        values = self._target.inverse(targets, None if dates is None else dates.repeat(len(near)))
        sold, day = self._sold(places), self._as_of(X)
        prices = self._target.recorded(targets, sold)
        km, likeness = self._kilometres(X, near), self._likeness(X, places)
        adjusted = self._adjusted(X, parts, places, prices, sold)
        rows = []
        for i, found in enumerate(near):
            date = None if sold is None or np.isnan(sold[i]) else float(sold[i])
            mine = self._text("identifiers", found.position)
            own = identifier is not None and mine == identifier
            away = None if km is None or np.isnan(km[i]) else round(float(km[i]), 3)
            months = None if date is None or day is None else round((day - date) / MONTH_S, 1)
            rows.append(
                Comparable(
                    distance=found.distance,
                    value=float(values[i]),
                    attributes=self._attributes(found),
                    n=i + 1,
                    id=mine,
                    label=self._text("labels", found.position),
                    date=None if date is None else date_text(date)[:10],
                    price=float(f"{prices[i]:.12g}"),
                    distance_km=away,
                    age_months=months,
                    similarity=None if likeness is None else likeness.of(i),
                    why=_why(away, months, () if likeness is None else likeness.alike(i), own),
                    own_earlier_sale=own,
                    **({} if adjusted is None else adjusted.of(i)),
                )
            )
        return tuple(rows)

    def _looked_at(self, n: int) -> int:
        """Return of how many of the nearest rows `n` are chosen where nothing is filtered."""
        return min(n, _MOST_COMPARABLES) if self._sales is None else _CANDIDATES

    def _chosen(
        self, X: Floats, wanted: Wanted, identifier: str | None, near: list[NearRow] | None = None
    ) -> list[NearRow]:
        """Return the comparables to show: of the nearest that pass the filters the most similar.

        `near` are the nearest where they are known and nothing is filtered.
        """
        self.check(wanted)
        n, size = min(wanted.n, _MOST_COMPARABLES), len(self._parts)
        asked = self._looked_at(n)
        filtered = wanted.radius_km is not None or wanted.since is not None or wanted.same
        asked = max(asked, _CANDIDATES) if filtered else asked
        found: list[NearRow] = []
        while n > 0:
            near = self._searched.nearest(X, asked) if near is None or filtered else near
            found = self._passing(X, near, wanted, identifier)
            if not filtered or len(found) >= n or asked >= min(size, _MOST_SEARCHED):
                break
            asked *= 4
        likeness = self._likeness(X, np.array([one.position for one in found], np.intp))
        if likeness is None:
            return found[:n]
        order = np.argsort(likeness.distance, kind="stable")[:n]
        return [found[i] for i in order.tolist()]

    def check(self, wanted: Wanted) -> None:
        """Refuse filters that the bundle cannot apply.

        Raises:
            FilterError: It cannot; `name` says which.
        """
        names = self._contract.feature_names
        if wanted.radius_km is not None and self._contract.coordinates is None:
            raise FilterError.needs(
                "radius_km",
                "columns with the roles longitude and latitude in the contract",
                "leave the radius out",
            )
        index = self._searched.index
        if wanted.since is not None and (index is None or index.times is None):
            raise FilterError.needs(
                "since", "a column with the role timestamp in the contract", "leave the day out"
            )
        for name in wanted.same:
            if name not in names:
                raise FilterError.unknown(name, names)
            if self._sales is None:
                raise FilterError.needs(
                    "same", "a bundle that keeps its comparables' columns", "train the model again"
                )

    def _passing(
        self, X: Floats, near: list[NearRow], wanted: Wanted, identifier: str | None
    ) -> list[NearRow]:
        places = np.array([found.position for found in near], np.intp)
        passing = np.ones(len(near), np.bool_)
        if wanted.radius_km is not None and (km := self._kilometres(X, near)) is not None:
            passing &= km <= wanted.radius_km
        sold = self._sold(places)
        if wanted.since is not None and sold is not None:
            passing &= sold >= seconds_of(wanted.since)
        if self._sales is not None:
            for name in wanted.same:
                at = self._contract.position(name)
                passing &= self._sales.X[places, at] == X[0, at]
            if sold is None and identifier is not None:  # which sale is the row's own is not known
                mine = [self._text("identifiers", place) for place in places.tolist()]
                passing &= np.array([one != identifier for one in mine], np.bool_)
        return [found for found, passes in zip(near, passing.tolist(), strict=True) if passes]

    def _sold(self, places: NDArray[np.intp]) -> Floats | None:
        """Return when comparables were sold, in seconds, NaN where unknown; None without dates."""
        index, at = self._searched.index, self._contract.timestamp_position
        if index is None or index.times is None or at is None:
            return None
        return index.times[places] if self._sales is None else self._sales.X[places, at]

    def _as_of(self, X: Floats) -> float | None:
        index, at = self._searched.index, self._searched.time_position
        if index is None or index.times is None or at is None:
            return None
        return float(index.times[-1] if np.isnan(X[0, at]) else X[0, at])

    def _text(self, kind: str, place: int) -> str | None:
        texts = () if self._sales is None else getattr(self._sales, kind)
        return texts[place] if texts else None

    def _kilometres(self, X: Floats, near: Sequence[NearRow]) -> Floats | None:
        """Return great-circle distances (n,); None without coordinates that can be degrees."""
        coordinates = self._contract.coordinates
        if coordinates is None or not near:
            return None
        names = [column.name for column in coordinates]
        at = [self._contract.position(name) for name in names]
        here = np.repeat(X[:, at], len(near), axis=0)
        if self._sales is not None:
            there = self._sales.X[[found.position for found in near]][:, at]
        elif all(name in near[0].attributes for name in names):
            there = np.array([[found.attributes[name] for name in names] for found in near])
        else:
            return None
        if not (np.abs(here) <= 360.0).all() or (np.abs(there) > 360.0).any():
            return None
        return kilometres(here, there)

    def _attributes(self, found: NearRow) -> dict[str, float | str | None]:
        """Return the numbers that the index keeps, and the sale's other columns."""
        kept: dict[str, float | str | None] = dict(found.attributes)
        if self._sales is None:
            return kept
        row = self._sales.X[found.position].tolist()
        for column, value in zip(self._contract.features, row, strict=True):
            if column.role == "timestamp" or column.name in kept:
                continue
            kept[column.name] = column.plain_of(value)
        return kept

    @cached_property
    def _comparison(self) -> tuple[Floats, Floats]:
        """Weights and usual ranges (p,) of the encoded columns, by which rows are compared."""
        assert self._sales is not None  # noqa: S101 - asked only where there are
        m = len(self._sales.X)
        typical = np.linspace(0, m - 1, min(m, _TYPICAL_ROWS)).astype(np.intp)
        weights = meaning.column_weights(self._contract, self.groups, self._parts_of(typical))
        some = np.linspace(0, m - 1, min(m, _RANGE_ROWS)).astype(np.intp)
        rows = self._sales.X[some]
        ranges = np.zeros(rows.shape[1])
        for at, column in enumerate(self._contract.features):
            known = rows[~np.isnan(rows[:, at]), at]
            if len(known) and column.kind != "category":  # levels are the same or not
                ranges[at] = np.ptp(np.quantile(known, [0.05, 0.95]))
        return weights, ranges

    def _likeness(self, X: Floats, places: NDArray[np.intp]) -> _Likeness | None:
        if self._sales is None:
            return None
        weights, ranges = self._comparison
        gap = np.abs(self._sales.X[places] - X)
        unknown = np.isnan(self._sales.X[places]) ^ np.isnan(X)
        with np.errstate(divide="ignore", invalid="ignore"):
            far = np.where(ranges > 0, np.minimum(gap / ranges, 1.0), gap > 0)
        far = np.where(unknown, 1.0, np.nan_to_num(far))
        return _Likeness(far @ weights, far, self._contract, self.groups)

    def _parts_of(self, places: NDArray[np.intp]) -> Floats:
        """Return the comparables' parts by group (n, groups), each as its own sale was valued."""
        new = places[~self._known[places]]
        index = self._searched.index
        if len(new) and self._sales is not None and index is not None:
            rows, at = self._sales.X[new].copy(), self._contract.timestamp_position
            if at is not None and index.times is not None:
                # without its date, which the index assumes, a sale would inform itself
                rows[:, at] = index.times[new]
            parts = self._contributions.of_rows(self._features.transform(rows))
            self._parts[new] = meaning.sums(parts, self.groups)
            self._known[new] = True  # last: another thread may look at it meanwhile
        return self._parts[places]

    def _adjusted(
        self,
        X: Floats,
        parts: Floats,
        places: NDArray[np.intp],
        prices: Floats,
        sold: Floats | None,
    ) -> _Adjusted | None:
        """Adjust prices (n,) by what the model makes of each difference, in money."""
        if self._sales is None:
            return None
        steps = parts - self._parts_of(places)
        names = [group.name for group in self.groups]
        trend, at = self._target.trend, self._contract.timestamp_position
        if trend is not None and sold is not None and at is not None:
            moved = trend.at(X[:, at]) - trend.at(sold)
            if meaning.TIME not in names:
                names.append(meaning.TIME)
                steps = np.column_stack([steps, np.zeros(len(steps))])
            steps[:, names.index(meaning.TIME)] += moved
        first = [meaning.TIME, meaning.SIZE]
        size = np.abs(steps).sum(axis=0)
        order = sorted(range(len(names)), key=lambda j: (names[j] not in first, -size[j]))
        shown = [j for j in order if size[j] > 0][:_MOST_ADJUSTMENTS]
        rest = [j for j in order if j not in shown]
        total = steps.sum(axis=1)
        rate = money_per_score(prices, total, log=self._log)
        money = np.column_stack([steps[:, shown], steps[:, rest].sum(axis=1)]) * rate[:, None]
        gross = np.abs(money).sum(axis=1) / np.maximum(np.abs(prices), 1e-300)
        weights = 1.0 / (np.square(gross) + _HALVING**2)
        labels = [names[j] for j in shown]
        if money[:, -1].any():
            labels.append(OTHER)
        return _Adjusted(labels, money[:, : len(labels)], prices, weights / weights.sum())


@dataclass(frozen=True)
class _Likeness:
    """How like the valued row its comparables are.

    Attributes:
        distance: Shape (n,): Gower's, from 0 to 1.
        far: Shape (n, p): the same by encoded column.
        contract: Names the columns.
        groups: What they mean.
    """

    distance: Floats
    far: Floats
    contract: TableContract
    groups: tuple[meaning.Meaning, ...]

    def of(self, i: int) -> float:
        return round(100.0 * (1.0 - float(np.clip(self.distance[i], 0.0, 1.0))), 1)

    def alike(self, i: int) -> list[str]:
        """Return the labels of what comparable `i` shares with the row."""
        names = self.contract.feature_names
        found = []
        order = list(meaning.LABELS)
        named = [group for group in self.groups if group.name in order]
        named.sort(key=lambda group: order.index(group.name))
        for group in (*named, *(group for group in self.groups if group.name not in order)):
            at = [names.index(name) for name in group.columns if name in names]
            time = group.name in (meaning.TIME, meaning.SIMILAR)
            if at and not time and self.far[i, at].max() <= _ALIKE:
                found.append(group.label)
        return found


@dataclass(frozen=True)
class _Adjusted:
    """The comparables' adjustments.

    Attributes:
        names: What each is for.
        money: Shape (n, len(names)).
        prices: Shape (n,): before them.
        weights: Shape (n,): add up to 1.
    """

    names: list[str]
    money: Floats
    prices: Floats
    weights: Floats

    def of(self, i: int) -> dict[str, Any]:
        """Return the fields of comparable `i`."""
        amounts = self.money[i].tolist()
        return {
            "adjustments": tuple(map(Adjustment, self.names, amounts)),
            "adjusted_price": float(f"{self.prices[i]:.12g}") + sum(amounts),
            "weight": float(self.weights[i]),
        }


def _why(km: float | None, months: float | None, alike: Sequence[str], own: bool) -> str:
    said = ["an earlier sale of the same thing"] if own else []
    said += [] if km is None else [f"{km:,.0f} km away" if km >= 100 else f"{km:.3g} km away"]
    said += [] if months is None else [f"sold {months:.0f} months before"]
    if alike:
        said.append("alike in " + ", ".join(label.lower() for label in alike[:4]))
    return "; ".join(said) or "one of the nearest"


def _reconciled(comparables: Sequence[Comparable]) -> Reconciled | None:
    adjusted = [one.adjusted_price for one in comparables if one.adjusted_price is not None]
    if not adjusted or len(adjusted) < len(comparables):
        return None
    weights = np.array([cast(float, one.weight) for one in comparables])
    raw = [one.price for one in comparables]
    return Reconciled(float(weights @ adjusted), _spread(raw), _spread(adjusted))


def _spread(prices: Sequence[float]) -> float:
    mean = float(np.mean(prices))
    return float(np.std(prices)) / abs(mean) if mean else 0.0
