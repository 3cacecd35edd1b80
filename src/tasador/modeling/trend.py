"""`Trend`: how the level of all prices moved, month by month, and how well that is known.

Fitting takes three steps, all on the target's transformed scale:

1. What the attributes explain is taken out: a robust regression on them with one level a month
   (the time-dummy method; Eurostat, Handbook on Residential Property Prices Indices, 2013, ch. 5).
2. The residuals say where each month stands. Two sales of one property say how far two months are
   apart, whatever the property is like (repeat sales; Case and Shiller 1989, weights for the gap
   between the two). Both enter one least-squares problem, each weighed by its precision.
3. Between months the level is smoothed: its change a month is an autoregression of order one, the
   state of which is estimated from all months at once. That is the Kalman smoother's answer, here
   as one linear system, which also holds months without sales. Sales and months that are far off
   the level are weighed down (Student's t), so that they widen the interval and hardly move it.
   From three years on, prices may have seasons: waves of a year and of half a year (Harvey 1989,
   Forecasting, Structural Time Series Models and the Kalman Filter, ch. 2).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core.clock import MONTH_S
from tasador.core.input_checks import Expected, check_arrays
from tasador.metrics.regression import robust_spread
from tasador.modeling.time_dummies import (
    basis_of,
    ordered,
    sample,
    student_weights,
    without_attributes,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Carry = Literal["flat", "drift"]
CARRIES: tuple[Carry, ...] = get_args(Carry)

#: A trend takes so many months with so many sales each; the newest `_MOST_MONTHS` are used.
FEWEST_MONTHS, FEWEST_SALES, _MOST_MONTHS = 12, 5, 600

_LEVEL_ROUNDS = 12
#: Resales within so many months are left out, as in S&P's Case-Shiller indices.
_QUICK_RESALE = 6
# What is tried for the level's movement: deviations of its change a month and of single months, in
# those of a sale, and how much of a change lasts.
_STEPS = np.geomspace(5e-3, 0.25, 8)
_PERSISTENCE = (0.5, 0.8, 0.9, 0.95, 0.98)
_SHOCKS = (0.0, 0.04, 0.08, 0.16)
#: The same of the months of the calendar, and the fewest months that show them.
_SEASONS, _FEWEST_FOR_SEASONS = (0.0, 0.03, 0.1), 36
# Shape (12, w): waves of a year and of half a year, of which the second is half as high.
_ANGLES = 2.0 * np.pi * np.arange(12) / 12.0
_WAVES = np.column_stack(
    [wave(h * _ANGLES) / h for h in (1, 2) for wave in (np.cos, np.sin)]
) / math.sqrt(1.25)  # fmt: skip
_DIFFUSE = 1e4  # variance of the first month's level, in the variances of the residuals
_FIRST_ORIGIN, _HORIZON, _MOST_ORIGINS = 24, 12, 40
_FEWEST_PAIRS, _MOST_LIKELIHOOD = 30, 240
#: Times the usual spread from which a month's sales are odd; a normal's tenths in deviations.
_ODD, _ODD_LASTS, _TENTHS = 1.5, 0.95, 2.563


@dataclass(frozen=True)
class Trend:
    """The level of prices by month, relative to the newest month.

    Attributes:
        first: The first month, counted from January 1970; the others follow without a gap.
        level: Shape (m,): level of each month on the target's transformed scale; the last is 0.
        error: Shape (m,): standard error of each level, against the mean level of all sales.
        sales: Shape (m,): number of sales of each month.
        carry: Beyond the last month the level stays (``flat``) or goes on (``drift``).
        drift: Change in the month after the last one, under ``drift``.
        persistence: Share of its change that each month beyond passes on to the next, in [0, 1).
        growth: Standard error that each month beyond the last one adds, up to `horizon` of them.
        horizon: After so many months the error grows as that of changes of which `persistence`
            lasts, if that is slower; None in older bundles, where it always grows by `growth`.
        season: Shape (12,): what January to December add to the level beyond the last month,
            against that one; None where the table shows no seasons. `level` holds them already.
    """

    first: int
    level: Floats
    error: Floats
    sales: Integers
    carry: Carry
    drift: float
    persistence: float
    growth: float
    horizon: int | None = None
    season: Floats | None = None

    @classmethod
    def fit(
        cls,
        seconds: Floats,
        target: Floats,
        X: Floats,
        categories: Collection[int] = (),
        property_codes: NDArray[Any] | None = None,
        *,
        carry: Carry = "drift",
        seed: int = 42,
    ) -> Trend | None:
        """Fit the trend of some sales; their order does not matter, to the last bit.

        Of more than 60 000 sales a sample is taken, of whole properties where those are known.

        Args:
            seconds: Shape (n,): date of each sale, seconds since 1970 UTC; NaN rows are left out.
            target: Shape (n,): transformed targets; rows that are not finite are left out.
            X: Shape (n, p): attributes without the date, NaN for unknown ones.
            categories: Columns of `X` that hold codes of categories.
            property_codes: Shape (n,): what was sold, or None where that is unknown.
            carry: ``flat`` or ``drift``.
            seed: Of the sample.

        Returns:
            The trend; None where fewer than 12 months have five sales each.
        """
        known = np.flatnonzero(np.isfinite(seconds) & np.isfinite(target))
        rows = known[ordered(seconds[known], target[known], X[known])]
        codes = None if property_codes is None else property_codes[rows]
        rows = rows[sample(len(rows), codes, seed)]
        months = _months_of(seconds[rows])
        if not len(rows):
            return None
        rows = rows[months > months.max() - _MOST_MONTHS]
        months = _months_of(seconds[rows])
        place = months - months.min()
        counts = np.bincount(place)
        if int((counts >= FEWEST_SALES).sum()) < FEWEST_MONTHS:
            return None
        basis = basis_of(X[rows], target[rows], categories)
        residual = without_attributes(target[rows], basis, place)
        codes = None if property_codes is None else property_codes[rows]
        first = int(months.min())
        calendar = (first + np.arange(len(counts))) % 12
        movement, level, season, error, growth = _levels(residual, place, calendar, codes, carry)
        total = level + season[calendar]
        return cls(
            first=first,
            level=total - total[-1],
            error=error,
            sales=counts.astype(np.int64),
            carry=carry,
            drift=movement.next_change(level),
            persistence=movement.persistence,
            growth=growth,
            horizon=_HORIZON,
            season=season - season[calendar[-1]] if season.any() else None,
        )

    def at(self, seconds: Floats) -> Floats:
        """Return the level at some dates, shape (n,), relative to the newest month.

        Linear between the middles of months. Before the first the level is the first one's; beyond
        the last it is carried, with the season. A date that is NaN means the newest one.
        """
        known = self._known(seconds)
        found: Floats = np.interp(known, self._middles, self.level)
        if self._seasons_ahead is not None:
            found += np.interp(known, *self._seasons_ahead)
        return found + self.carried(self._ahead(seconds))

    def carried(self, months: Floats) -> Floats:
        """Return by how much the level goes on in so many months beyond the last one."""
        if self.carry == "flat":
            return np.zeros(len(months))
        found: Floats = _passed_on(self.drift, self.persistence, months)
        return found

    def error_at(self, seconds: Floats) -> Floats:
        """Return the standard error of `at`, shape (n,), on the target's transformed scale."""
        error = np.interp(self._known(seconds), self._middles, self.error)
        ahead, horizon = self._ahead(seconds), self.horizon
        if horizon is not None and (ahead > horizon).any():
            slower = horizon * np.sqrt(self._spread(ahead) / self._spread(horizon))
            ahead = np.where(ahead > horizon, np.minimum(ahead, slower), ahead)
        found: Floats = np.hypot(error, self.growth * ahead)
        return found

    def _spread(self, months: Any) -> Any:
        """Return the variance of a level some months ahead, in that of what is new in a change.

        The sum over j of ((1 - p^j) / (1 - p))^2 for persistence p, an integrated autoregression of
        order one (Box and Jenkins, Time Series Analysis, ch. 5).
        """
        p = self.persistence
        first, second = p * (1.0 - p**months), p**2 * (1.0 - p ** (2 * months))
        return (months - 2.0 * first / (1.0 - p) + second / (1.0 - p**2)) / (1.0 - p) ** 2

    @cached_property
    def _middles(self) -> Floats:
        """The middles of the months, (m,), in seconds since 1970 UTC."""
        starts = _month_starts(self.first, len(self.level) + 1)
        edges = starts.astype("datetime64[s]").astype(np.float64)
        middles: Floats = (edges[:-1] + edges[1:]) / 2.0
        return middles

    @cached_property
    def _seasons_ahead(self) -> tuple[Floats, Floats] | None:
        """The middles of the last month and those of fifty years beyond, and their seasons."""
        if self.season is None:
            return None
        last, count = self.first + len(self.level) - 1, 600
        edges = _month_starts(last, count + 1).astype("datetime64[s]").astype(np.float64)
        return (edges[:-1] + edges[1:]) / 2.0, self.season[(last + np.arange(count)) % 12]

    def _known(self, seconds: Floats) -> Floats:
        """Return dates (n,) with the newest month for one that is NaN."""
        return np.where(np.isnan(seconds), self._middles[-1], seconds)

    def _ahead(self, seconds: Floats) -> Floats:
        """Return by how many months each date (n,) lies beyond the last one."""
        months: Floats = np.maximum((self._known(seconds) - self._middles[-1]) / MONTH_S, 0.0)
        return months

    def table(self) -> list[dict[str, Any]]:
        """Return a plain row a month: month, level, error and sales."""
        names = np.datetime_as_string(_month_starts(self.first, len(self.level)), "M")
        return [
            {"month": str(names[i]), "level": level, "error": error, "sales": sales}
            for i, (level, error, sales) in enumerate(
                zip(self.level.tolist(), self.error.tolist(), self.sales.tolist(), strict=True)
            )
        ]

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the trend as plain JSON types and arrays, for a bundle."""
        numbers = ("first", "carry", "drift", "persistence", "growth", "horizon")
        arrays = {"level": self.level, "error": self.error, "sales": self.sales}
        if self.season is not None:
            arrays["season"] = self.season
        kept = {name: getattr(self, name) for name in numbers}
        return {name: value for name, value in kept.items() if value is not None}, arrays

    @classmethod
    def from_state(cls, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Trend:
        """Rebuild from `state`, which may come from a file that anybody has written.

        Raises:
            KeyError, TypeError, ValueError: It is none that `state` gives; says where.
        """
        m = len(arrays["level"])
        shape = (m,)
        expected = {
            "level": Expected(shape),
            "error": Expected(shape, low=0.0),
            "sales": Expected(shape, ("int64",), low=0),
        } | ({"season": Expected((12,))} if "season" in arrays else {})
        check_arrays({name: arrays[name] for name in expected}, expected)
        first, numbers = spec["first"], [spec[n] for n in ("drift", "persistence", "growth")]
        if type(first) is not int or not -12 * 1970 <= first <= 12 * 8000:
            raise ValueError(f"the trend's first month is {first!r}")
        if not 1 <= m <= _MOST_MONTHS or arrays["level"][-1] != 0.0:
            raise ValueError("the trend's last level is not 0")
        if spec["carry"] not in CARRIES:
            raise ValueError(f"the trend is carried {spec['carry']!r}")
        if not all(type(number) is float and math.isfinite(number) for number in numbers):
            raise ValueError(f"the trend's numbers are {numbers}")
        drift, persistence, growth = numbers
        if not 0.0 <= persistence < 1.0 or growth < 0.0:
            raise ValueError(f"the trend's persistence and growth are {persistence}, {growth}")
        horizon = spec.get("horizon")
        if horizon is not None and (type(horizon) is not int or not 1 <= horizon <= _MOST_MONTHS):
            raise ValueError(f"the trend's horizon is {horizon!r}")
        return cls(
            first, arrays["level"], arrays["error"], arrays["sales"],
            spec["carry"], drift, persistence, growth, horizon, arrays.get("season"),
        )  # fmt: skip


def _months_of(seconds: Floats) -> Integers:
    """Return the month of each date, counted from January 1970."""
    days = np.floor(seconds / 86_400.0).astype("datetime64[D]")
    months: Integers = days.astype("datetime64[M]").astype(np.int64)
    return months


def _month_starts(first: int, count: int) -> NDArray[np.datetime64]:
    months: NDArray[np.datetime64] = np.arange(first, first + count).astype("datetime64[M]")
    return months


@dataclass(frozen=True)
class _Movement:
    """How the level moves.

    Deviation of its change, what of that lasts, deviation of single months and of the calendar's.
    """

    step: float
    persistence: float
    shock: float
    season: float = 0.0

    def precision(self, months: int, variance: float) -> Floats:
        """Return the inverse of the levels' covariance before any sale is seen, (months, months).

        The change of the level is an autoregression of order one, stationary from the start; the
        first level is anything, within `variance`.
        """
        change = np.diff(np.eye(months), axis=0)
        innovation = change.copy()
        innovation[1:] -= self.persistence * change[:-1]
        innovation[:1] *= math.sqrt(1.0 - self.persistence**2)
        found: Floats = innovation.T @ innovation / self.step**2
        found[0, 0] += 1.0 / variance
        return found

    def smoothed(self, known: Floats, calendar: Integers, wide: float) -> tuple[Floats, Floats]:
        """Return months' levels and the sizes of waves, (months + w,), and their covariance.

        Args:
            known: Shape (months, months + 1): what is known of the months' levels with their
                seasons, as an inverse covariance and a right side.
            calendar: Shape (months,): each month's place in the year.
            wide: Variance of the first level.
        """
        months = len(known)
        both = np.hstack([np.eye(months), _WAVES[calendar]])
        prior = np.diag(np.full(both.shape[1], max(self.season, 1e-9) ** -2.0))
        prior[:months, :months] = self.precision(months, wide)
        covariance = np.linalg.inv(prior + both.T @ known[:, :months] @ both)
        state: Floats = covariance @ (both.T @ known[:, -1])
        return state, np.asarray(covariance, np.float64)

    def next_change(self, level: Floats) -> float:
        """Return by how much the level is expected to change in the month after the last one."""
        return self.persistence * float(level[-1] - level[-2])


@dataclass(frozen=True)
class _Observations:
    """What the residuals say of the levels: ``design @ level = value``, with these variances."""

    design: Any
    value: Floats
    variance: Floats

    def weighed(self, level: Floats) -> tuple[Floats, Floats]:
        """Return the normal equations' matrix and right side; what is far off weighs less."""
        weight = student_weights(self.value - self.design @ level, self.variance) / self.variance
        weighed = self.design.multiply(weight[:, None]).tocsr()
        matrix: Floats = (weighed.T @ self.design).toarray()
        return matrix, weighed.T @ self.value


def _levels(
    residual: Floats, place: Integers, calendar: Integers, codes: NDArray[Any] | None, carry: Carry
) -> tuple[_Movement, Floats, Floats, Floats, float]:
    """Return movement, levels (months,), seasons (12,), the error of their sum and its growth.

    `calendar` holds each month's place in the year. The growth is what a month beyond the last
    one adds to the error.
    """
    months = len(calendar)
    counts = np.bincount(place, minlength=months)
    total = _medians(residual, place, counts)
    within = robust_spread(residual - total[place], 0.0)
    size = max(within, robust_spread(np.diff(total), 0.0), 1e-9)
    spread = max(within, 1e-3 * size)
    seen = _observations(residual, place, months, codes, total, spread)
    odd = _oddness(residual, place, counts)
    apart = np.abs(np.subtract.outer(np.arange(months), np.arange(months)))
    alike = np.sqrt(np.outer(odd, odd)) * _ODD_LASTS**apart
    own, movement = np.ones(months), _Movement(0.05 * size, 0.8, 0.0)
    wide = _DIFFUSE * size**2
    for number in range(_LEVEL_ROUNDS):
        matrix, right = seen.weighed(total)
        alone = 1.0 / np.maximum(np.diag(matrix), 1e-300)
        noise = alone + odd
        if number in (0, 3, 6):
            found = total + (right - matrix @ total) * alone
            movement = _likeliest(found, noise, own, counts > 0, calendar, size)
        # a month's own deviation: (S^-1 + D)^-1 = (I + S D)^-1 S, which holds months without sales
        own = np.where(counts > 0, student_weights((right - matrix @ total) * alone,
                                            noise + movement.shock**2), 1.0)  # fmt: skip
        shared = alike + np.diag(np.maximum((noise + movement.shock**2) / own - noise, 0.0))
        known = np.linalg.solve(np.eye(months) + matrix @ shared, np.column_stack([matrix, right]))
        state, covariance = movement.smoothed(known, calendar, wide)
        level, season = state[:months], _WAVES @ state[months:]
        total = level + season[calendar]
    share = counts / counts.sum()
    both = np.hstack([np.eye(months), _WAVES[calendar]])
    contrast = both - share @ both
    error: Floats = np.sqrt(
        np.maximum(np.einsum("ij,jk,ik->i", contrast, covariance, contrast), 0.0)
    )
    growth = _growth(known, total, share, calendar, movement, wide, carry)
    return movement, level, season if movement.season else np.zeros(12), error, growth


def _oddness(residual: Floats, place: Integers, counts: Integers) -> Floats:
    """Return the variance that a month's sales may have in common, for being odd ones.

    Where residuals spread far more than in the usual month, other sales than usual were made: a
    part of another market, forced sales. What spread they have beyond the usual is not noise that
    averages out; the level of all may be off by as much. Months are taken with their neighbours,
    and months in a row are odd in the same way.
    """
    parts = np.split(residual[np.argsort(place, kind="stable")], np.cumsum(counts)[:-1])
    centred = [part - np.median(part) if len(part) else part for part in parts]
    around = [np.concatenate(centred[max(i - 1, 0) : i + 2]) for i in range(len(parts))]
    number = np.array([max(len(part), 1) for part in around])
    spread = np.array([
        float(np.diff(np.quantile(part, (0.1, 0.9)))[0]) / _TENTHS if len(part) > 1 else 0.0
        for part in around
    ])  # fmt: skip
    usual = float(np.median(spread[counts > 0]))
    # 0.9 over the root of n: the standard error of such a spread, relative to it
    allowed = usual * (_ODD + 2.0 * 0.9 / np.sqrt(number))
    found: Floats = np.maximum(spread**2 - allowed**2, 0.0)
    return found


def _medians(residual: Floats, place: Integers, counts: Integers) -> Floats:
    """Return each month's median residual; between neighbours for a month without sales."""
    order = np.argsort(place, kind="stable")
    parts = np.split(residual[order], np.cumsum(counts)[:-1])
    known = np.flatnonzero(counts)
    found: Floats = np.interp(
        np.arange(len(counts)), known, [float(np.median(parts[i])) for i in known.tolist()]
    )
    return found


def _observations(
    residual: Floats,
    place: Integers,
    months: int,
    codes: NDArray[Any] | None,
    level: Floats,
    spread: float,
) -> _Observations:
    """Return what single sales, means of a property's sales and pairs of them say of the levels.

    Of two errors of one property what they share cancels in the difference and stays in the mean:
    the two are independent, each with a variance of its own (Fuller and Battese 1973).
    """
    from scipy import sparse

    rows = np.arange(len(place))
    sales = sparse.csr_matrix((np.ones(len(place)), (rows, place)), (len(place), months))
    single = _Observations(sales, residual, np.full(len(place), spread**2))
    if codes is None:
        return single
    _, owner, number = np.unique(codes, return_inverse=True, return_counts=True)
    order = np.lexsort((rows, place, owner))
    earlier, later = order[:-1], order[1:]
    gap = place[later] - place[earlier]
    pair = (owner[earlier] == owner[later]) & (gap >= _QUICK_RESALE)
    earlier, later, gap = earlier[pair], later[pair], gap[pair]
    if len(gap) < _FEWEST_PAIRS:
        return single
    difference = residual[later] - residual[earlier]
    noise = _pair_variance(difference - level[place[later]] + level[place[earlier]], gap)
    inside = min(float(np.median(noise)) / 2.0, spread**2)
    average = sparse.csr_matrix((1.0 / number[owner], (owner, rows)), (len(number), len(rows)))
    return _Observations(
        sparse.vstack([average @ sales, sales[later] - sales[earlier]]).tocsr(),
        np.concatenate([average @ residual, difference]),
        np.concatenate([spread**2 - inside + inside / number, noise]),
    )


def _pair_variance(difference: Floats, gap: Integers) -> Floats:
    """Return the variance of pairs by the months between their sales: a line, never falling."""
    cut = np.median(gap)
    short, long = gap <= cut, gap > cut
    low = robust_spread(difference[short], 0.0) ** 2
    if not long.any():
        return np.full(len(gap), max(low, 1e-18))
    run = float(gap[long].mean() - gap[short].mean())
    slope = max((robust_spread(difference[long], 0.0) ** 2 - low) / run, 0.0)
    found: Floats = np.maximum(low + slope * (gap - gap[short].mean()), max(0.25 * low, 1e-18))
    return found


def _likeliest(
    found: Floats,
    noise: Floats,
    own: Floats,
    seen: NDArray[np.bool_],
    calendar: Integers,
    size: float,
) -> _Movement:
    """Return the movement under which the months' own levels are likeliest.

    Args:
        found: Shape (months,): the level that each month's sales give by themselves.
        noise: Shape (months,): the variance of that.
        own: Shape (months,): weight of each month.
        seen: Shape (months,): which months have sales.
        calendar: Shape (months,): each month's place in the year.
        size: Standard deviation of a sale, or of the level's changes where that is more.
    """
    at = np.flatnonzero(seen)[-_MOST_LIKELIHOOD:]
    first = int(at[0])
    best, movement = -math.inf, _Movement(0.05 * size, 0.8, 0.0)
    alike = _WAVES[calendar[at]] @ _WAVES[calendar[at]].T
    seasons = _SEASONS if len(at) >= _FEWEST_FOR_SEASONS else (0.0,)
    for persistence in _PERSISTENCE:
        unit = _Movement(1.0, persistence, 0.0).precision(int(at[-1]) - first + 1, 1.0)
        # the covariance of a walk that starts at 0, and the step's square times that
        shape = np.linalg.inv(unit)[np.ix_(at - first, at - first)] - 1.0
        for step, shock, season in product((_STEPS * size).tolist(), _SHOCKS, seasons):
            V = shape * step**2 + _DIFFUSE * size**2 + alike * (season * size) ** 2
            V[np.diag_indices(len(at))] += (noise[at] + (shock * size) ** 2) / own[at]
            root = np.linalg.cholesky(V)
            off = np.linalg.solve(root, found[at] - found[at].mean())
            score = -0.5 * float(off @ off) - float(np.log(np.diag(root)).sum())
            if score > best:
                best = score
                movement = _Movement(step, persistence, shock * size, season * size)
    return movement


def _growth(
    known: Floats,
    total: Floats,
    share: Floats,
    calendar: Integers,
    movement: _Movement,
    wide: float,
    carry: Carry,
) -> float:
    """Return the error that a month beyond the last sale adds, as met within the table.

    At earlier months the level is estimated from the sales until then and carried for up to a
    year; the errors against the levels of all sales give the slope through 0. Where there are too
    few months for that, it is the usual change of a month.
    """
    months = len(total)
    origins = np.arange(_FIRST_ORIGIN, months - _HORIZON)
    if not len(origins):
        return movement.step / math.sqrt(1.0 - movement.persistence**2)
    every = -(-len(origins) // _MOST_ORIGINS)
    ahead = np.arange(1, _HORIZON + 1)
    errors = []
    for m in origins[::every].tolist():
        past = np.column_stack([known[:m, :m], known[:m, -1]])
        state, _ = movement.smoothed(past, calendar[:m], wide)
        then, season = state[:m], _WAVES @ state[m:]
        # a model learns the mean level of the sales that it has seen
        before = then + season[calendar[:m]]
        mean = float(share[:m] @ (total[:m] - before)) / float(share[:m].sum())
        carried = then[-1] + mean + season[calendar[m - 1 + ahead]]
        if carry == "drift":
            carried = carried + _passed_on(movement.next_change(then), movement.persistence, ahead)
        errors.append(total[m - 1 + ahead] - carried)
    rms = np.sqrt(np.mean(np.square(errors), axis=0))
    return float(rms @ ahead / (ahead @ ahead))


def _passed_on(change: float, persistence: float, months: Any) -> Any:
    """Return by how much the level has moved after some months, or parts of them."""
    return change * (1.0 - persistence**months) / (1.0 - persistence)


def trend_of(
    contract: TableContract,
    X: Floats,
    target: Floats,
    property_hash: NDArray[Any] | None,
    *,
    carry: Carry,
    seed: int,
) -> Trend | None:
    """Fit the trend of encoded rows `X` (n, p) and their transformed targets (n,); see `Trend.fit`.

    None where the contract names no date of the sale, or the months are too few.
    """
    at = contract.timestamp_position
    if at is None:
        return None
    others = [column for i, column in enumerate(contract.features) if i != at]
    categories = [i for i, column in enumerate(others) if column.kind == "category"]
    rest = np.delete(X, at, axis=1)
    return Trend.fit(X[:, at], target, rest, categories, property_hash, carry=carry, seed=seed)
