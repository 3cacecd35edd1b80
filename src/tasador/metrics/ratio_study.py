"""A ratio study: the figures of a roll of estimates, by group, against what the IAAO accepts.

The figures are those of `metrics.regression`; the ratio of a sale is its estimate over its price.
Source: IAAO *Standard on Ratio Studies* (2013); trimming is its appendix B.1, sales chasing its
appendix E. A comparison of the level between groups asks for medians within 5% of the overall one
(section 9.2.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasador.metrics.regression import (
    ACCEPTED,
    RATIO_STUDY,
    Estimate,
    Metric,
    bootstrap_metrics,
    cod,
    mape,
    median_ape,
    median_ratio,
    prb,
    prd,
    share_interval,
    within_10,
)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ranges = Mapping[str, tuple[float, float]]
#: The rows (n,) of each group, by what the groups go by and by name.
By = Mapping[str, Mapping[str, Flags]]

#: Sales without which no study is made, and without which a group's figures prove nothing.
FEWEST, FEWEST_OF_GROUP = 5, 30
#: By how much, relatively, a group's median ratio may differ from that of all.
LEVEL_GAP = 0.05
#: A ratio is an outlier beyond so many interquartile ranges from the quartiles.
IQR_TIMES = 3.0
#: Ratios that count as "at the price", and what share of all may lie there without a suspicion.
CHASED, CHASED_SHARE = (0.98, 1.02), 0.05
#: The grouping by prices, which each study has.
PRICE = "price"
#: The names of the groups of rows without a value, and with one that few rows have.
MISSING, OTHERS = "(missing)", "(others)"
_DRAWS, _RESAMPLED = 500, 5000


def is_met(name: str, value: float, ranges: Ranges = ACCEPTED, times: float = 1.0) -> bool | None:
    """Tell whether a figure lies in its range, made `times` as wide.

    None for a figure without a range and for NaN.
    """
    if name not in ranges or math.isnan(value):
        return None
    low, high = ranges[name]
    if times == 1.0:
        return low <= value <= high
    return abs(value - (low + high) / 2) <= times * (high - low) / 2


def meets_level(ratio: float, overall: float, gap: float = LEVEL_GAP) -> bool | None:
    """Tell whether a group's median ratio is near enough to that of all; None for NaN."""
    if math.isnan(ratio) or math.isnan(overall):
        return None
    return abs(ratio - overall) <= gap * abs(overall)


def within_quartiles(ratio: Floats, times: float = IQR_TIMES) -> NDArray[np.bool_]:
    """Return for each ratio (n,) whether it lies within `times` interquartile ranges."""
    if not len(ratio):
        return np.zeros(0, dtype=bool)
    low, high = np.quantile(ratio, [0.25, 0.75])
    spread = times * (high - low)
    found: NDArray[np.bool_] = (ratio >= low - spread) & (ratio <= high + spread)
    return found


def median_interval(values: Floats) -> tuple[float, float]:
    """Return the 95% interval of a median by order statistics, as the IAAO's appendix has it.

    The normal approximation of the binomial; the whole range where the values are few.
    """
    n = len(values)
    if not n:
        return float("nan"), float("nan")
    ordered, reach = np.sort(values), math.ceil(1.959964 * math.sqrt(n) / 2 + 0.5 * (n % 2 == 0))
    first = max((n - 1) // 2 - reach + (n % 2 == 0), 0)
    return float(ordered[first]), float(ordered[n - 1 - first])


@dataclass(frozen=True, slots=True)
class RatioFigure:
    """One figure of a study.

    Attributes:
        name: As in `RATIO_STUDY`.
        value: Of all rows.
        low: Lower end of the 95% bootstrap interval.
        high: Upper end.
        trimmed: The same figure without the outliers among the ratios.
        accepted: The accepted range, or None.
        met: Whether the value lies in it; None without a range.
        met_trimmed: Whether the trimmed one does.
    """

    name: str
    value: float
    low: float
    high: float
    trimmed: float
    accepted: tuple[float, float] | None = None
    met: bool | None = None
    met_trimmed: bool | None = None


@dataclass(frozen=True, slots=True)
class RatioGroup:
    """The figures of some rows.

    Attributes:
        by: What the groups go by.
        name: What the rows have in common.
        rows: How many they are.
        figures: median_ratio, cod, prd, prb, mape, median_ape, within_10, and coverage, the share
            of the intervals in [0, 1] that hold the price, where there are intervals.
        low: Lower end of the 95% interval of the median ratio.
        high: Upper end.
        met: Whether each figure meets its range, and as ``level`` whether the median ratio is
            near enough to that of all; None throughout for fewer than `FEWEST_OF_GROUP` rows.
            Groups of prices have no PRD and PRB, which would say nothing. Coverage is not met
            where it is surely, by Wilson's 95% interval, below what was promised.
        gap: By how much the median ratio differs, relatively, from that of all.
    """

    by: str
    name: str
    rows: int
    figures: Mapping[str, float]
    low: float
    high: float
    met: Mapping[str, bool | None]
    gap: float

    @property
    def off(self) -> bool:
        """Whether its level is not that of all, and not by chance alone (95% interval)."""
        level = self.figures["median_ratio"] / (1.0 + self.gap)
        return self.met["level"] is False and not self.low <= level <= self.high


@dataclass(frozen=True, slots=True)
class SalesChasing:
    """Whether estimates were moved to the prices of what was sold; two signs, no proof.

    Attributes:
        jump: Largest share of the rows at one ratio, where that ratio is near 1; else 0.
        jumps: Whether it is suspicious: too many estimates equal their price.
        share: Share of the ratios near 1.
        expected: The same share of a normal distribution of their mean and deviation.
        bunched: Whether the two are suspiciously far apart.
    """

    jump: float
    jumps: bool
    share: float
    expected: float
    bunched: bool

    @property
    def signs(self) -> int:
        """How many of the two are there."""
        return self.jumps + self.bunched

    @property
    def suspected(self) -> bool:
        """Whether both are."""
        return self.signs == 2


@dataclass(frozen=True, slots=True)
class RatioStudy:
    """What a study of one roll found.

    Attributes:
        rows: Sales studied.
        outliers: How many of them the trimmed figures leave out.
        figures: The figures, in the order of `RATIO_STUDY`.
        groups: The groups, by what they go by, then in order.
        chasing: The signs of sales chasing; None for fewer rows than `FEWEST_OF_GROUP`.
        drift: Change of the ratio a month, in percent, with its 95% interval; None without dates.
    """

    rows: int
    outliers: int
    figures: tuple[RatioFigure, ...]
    groups: tuple[RatioGroup, ...] = ()
    chasing: SalesChasing | None = None
    drift: Estimate | None = None

    def __getitem__(self, name: str) -> RatioFigure:
        return next(figure for figure in self.figures if figure.name == name)

    def not_met(self, *, trimmed: bool = False) -> tuple[RatioFigure, ...]:
        """Return the figures outside of their ranges."""
        return tuple(f for f in self.figures if (f.met_trimmed if trimmed else f.met) is False)


@dataclass(frozen=True, slots=True)
class RivalFigures:
    """The figures of somebody's estimates of the rows of a study, and those of the model there.

    Attributes:
        name: Whose they are.
        rows: How many of the rows they have a positive estimate of.
        left_out: How many they have none of.
        figures: median_ratio, cod, prd, prb, mape, median_ape, within_10;
            empty for fewer than `FEWEST` rows.
        levelled: The same once all estimates are divided by their median ratio.
        model: The model's figures on these rows.
        model_levelled: The same once these are levelled.
    """

    name: str
    rows: int
    left_out: int
    figures: Mapping[str, float]
    levelled: Mapping[str, float]
    model: Mapping[str, float]
    model_levelled: Mapping[str, float]


def rival_figures(
    price: Floats, estimate: Floats, rivals: Mapping[str, Floats]
) -> tuple[RivalFigures, ...]:
    """Compare other people's estimates with those of the model, each on the rows that it has.

    Levelling is by the median ratio of these same rows: it says how even estimates are, whatever
    day they were made for.

    Args:
        price: Shape (n,): rows where it is not positive are left out of everything.
        estimate: Shape (n,): what the model says.
        rivals: Other estimates (n,) by name; NaN, infinity, 0 and less are none.

    Example:
        >>> import numpy as np
        >>> price = np.array([100.0, 200.0, 300.0, 400.0, 500.0, 600.0])
        >>> roll = 0.8 * price
        >>> roll[0] = np.nan
        >>> (found,) = rival_figures(price, price, {"roll": roll})
        >>> found.rows, found.left_out, round(found.figures["mape"]), round(found.levelled["mape"])
        (5, 1, 20, 0)
    """
    some, found = price > 0, []
    for name, values in rivals.items():
        rows = some & np.isfinite(values) & (values > 0)
        known = int(rows.sum())
        figures: list[Mapping[str, float]] = [{}, {}, {}, {}]
        if known >= FEWEST:
            paid = price[rows]
            figures = [
                _group("", "", paid, one, math.nan, ACCEPTED, LEVEL_GAP).figures
                for own in (values[rows], estimate[rows])
                for one in (own, own / median_ratio(paid, own))
            ]
        found.append(RivalFigures(name, known, int(some.sum()) - known, *figures))
    return tuple(found)


def ratio_figures(
    actual: Floats,
    predicted: Floats,
    estimates: Mapping[str, Estimate],
    ranges: Ranges = ACCEPTED,
) -> tuple[RatioFigure, ...]:
    """Return the figures whose values and intervals are known, with the trimmed ones.

    Args:
        actual: Shape (n,): prices; rows where they are not positive are left out.
        predicted: Shape (n,): the estimates.
        estimates: The values by name; others than those of `RATIO_STUDY` are ignored.
        ranges: What is accepted, by name.
    """
    some = actual > 0
    actual, predicted = actual[some], predicted[some]
    kept = within_quartiles(predicted / actual)
    found = []
    for name, metric in RATIO_STUDY.items():
        if name in estimates:
            one, trimmed = estimates[name], metric(actual[kept], predicted[kept])
            mets = (is_met(name, value, ranges) for value in (one.value, trimmed))
            found.append(
                RatioFigure(name, one.value, one.low, one.high, trimmed, ranges.get(name), *mets)
            )
    return tuple(found)


def ratio_study(
    price: Floats,
    estimate: Floats,
    *,
    by: By | None = None,
    months: Floats | None = None,
    ranges: Ranges = ACCEPTED,
    gap: float = LEVEL_GAP,
    seed: int = 0,
) -> RatioStudy:
    """Study the ratios of estimates to prices.

    Args:
        price: Shape (n,), positive and finite.
        estimate: Shape (n,), positive and finite.
        by: The rows (n,) of each group, by what they go by and by name; groups of prices come
            first.
        months: Shape (n,): months of the sales, fractions included, NaN where unknown.
        ranges: What is accepted, by the figure's name.
        gap: By how much, relatively, a group's median ratio may differ from that of all.
        seed: Of the bootstrap.

    Example:
        >>> import numpy as np
        >>> price = np.array([100.0, 200.0, 300.0, 400.0, 500.0])
        >>> study = ratio_study(price, 0.8 * price)
        >>> study["median_ratio"].met, [figure.name for figure in study.not_met()]
        (False, ['median_ratio', 'cod'])
    """
    ratio, n = estimate / price, len(price)
    study = RatioStudy(
        rows=n,
        outliers=int(n - within_quartiles(ratio).sum()),
        figures=ratio_figures(price, estimate, _estimates(price, estimate, seed), ranges),
    )
    every = {PRICE: _price_groups(price), **(by or {})}
    groups = ratio_groups(price, estimate, every, ranges=ranges, gap=gap)
    return RatioStudy(
        n,
        study.outliers,
        study.figures,
        groups,
        sales_chasing(ratio) if n >= FEWEST_OF_GROUP else None,
        None if months is None else _drift(ratio, months),
    )


def ratio_groups(
    price: Floats,
    estimate: Floats,
    by: By,
    *,
    inside: Flags | None = None,
    promised: float = 0.0,
    ranges: Ranges = ACCEPTED,
    gap: float = LEVEL_GAP,
) -> tuple[RatioGroup, ...]:
    """Return the figures of each group.

    Args:
        price: Shape (n,), positive and finite.
        estimate: Shape (n,), positive and finite.
        by: The rows (n,) of each group; groups without rows are left out.
        inside: Shape (n,): whether each row's interval holds its price, where there are intervals.
        promised: The share of them that is promised to, in [0, 1].
        ranges: As in `ratio_study`.
        gap: As in `ratio_study`.
    """
    overall = median_ratio(price, estimate)
    found = []
    for title, some in by.items():
        for name, rows in some.items():
            if not rows.any():
                continue
            group = _group(title, name, price[rows], estimate[rows], overall, ranges, gap)
            found.append(group if inside is None else _with_coverage(group, inside[rows], promised))
    return tuple(found)


def _with_coverage(group: RatioGroup, inside: Flags, promised: float) -> RatioGroup:
    share, met = float(np.mean(inside)), None
    if group.rows >= FEWEST_OF_GROUP:
        met = share_interval(share, group.rows)[1] >= promised
    return replace(
        group,
        figures={**group.figures, "coverage": share},
        met={**group.met, "coverage": met},
    )


def _estimates(price: Floats, estimate: Floats, seed: int) -> dict[str, Estimate]:
    n = len(price)
    rows = np.linspace(0, n - 1, min(n, _RESAMPLED)).astype(np.intp)
    # of many rows an even part is resampled, and its interval narrowed by the root of the rows
    drawn = bootstrap_metrics(
        price[rows], estimate[rows], draws=_DRAWS, seed=seed, metrics=RATIO_STUDY
    )
    narrower = math.sqrt(len(rows) / n)
    found = {}
    for name, metric in RATIO_STUDY.items():
        value, one = metric(price, estimate), drawn[name]
        low, high = ((end - one.value) * narrower + value for end in (one.low, one.high))
        found[name] = Estimate(value, low, high)
    return found


def _price_groups(price: Floats) -> dict[str, Flags]:
    return quantile_groups(price, 10 if len(price) >= 10 * FEWEST_OF_GROUP else 4)


def quantile_groups(values: Floats, parts: int, *, spans: bool = False) -> dict[str, Flags]:
    """Return the rows of `parts` groups of equal size; equal values (n,) stay together.

    Rows without a value, NaN, are in none. Groups are named by their upper ends, or with `spans` by
    both.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return {}
    edges = np.unique(np.quantile(known, np.arange(1, parts + 1) / parts, method="higher"))
    place = np.searchsorted(edges, values)  # NaN is behind the last
    smallest = float(np.min(np.abs(edges)))
    form = ",.0f" if smallest >= 10_000 else ".0f" if smallest >= 1000 else ",.4g"
    names = [format(edge, form) for edge in edges.tolist()]
    before = [None, *names[:-1]] if spans else [None] * len(names)
    return {
        f"up to {name}" if low is None else f"{low} to {name}": place == i
        for i, (low, name) in enumerate(zip(before, names, strict=True))
    }


def level_groups(values: Sequence[str | None], fewest: int = 1) -> dict[str, Flags]:
    """Return the rows of each value, in the order of numbers where all are numbers.

    Args:
        values: Shape (n,); rows without a value, None, are in no group.
        fewest: Values of fewer rows are one group, the last, called `OTHERS`.
    """
    known = np.array([value is not None for value in values], dtype=np.bool_)
    texts = np.array([value for value in values if value is not None], dtype=np.str_)
    names, codes, counts = np.unique(texts, return_inverse=True, return_counts=True)
    place = np.full(len(values), -1)
    place[known] = codes
    try:
        order = np.argsort([float(name) for name in names.tolist()], kind="stable")
    except ValueError:
        order = np.arange(len(names))
    large = [i for i in order.tolist() if counts[i] >= fewest]
    found = {str(names[i]): place == i for i in large}
    if len(large) < len(names):
        found[OTHERS] = known & ~np.isin(place, large)
    return found


def _group(
    by: str, name: str, price: Floats, estimate: Floats, overall: float, ranges: Ranges, gap: float
) -> RatioGroup:
    metrics: dict[str, Metric] = {"median_ratio": median_ratio, "cod": cod}
    if by != PRICE:
        metrics |= {"prd": prd, "prb": prb}
    metrics |= {"mape": mape, "median_ape": median_ape, "within_10": within_10}
    figures = {key: metric(price, estimate) for key, metric in metrics.items()}
    met: dict[str, bool | None] = dict.fromkeys((*figures, "level"))
    if len(price) >= FEWEST_OF_GROUP:
        met = {key: is_met(key, value, ranges) for key, value in figures.items()}
        met["level"] = meets_level(figures["median_ratio"], overall, gap)
    off = figures["median_ratio"] / overall - 1.0 if overall else float("nan")
    return RatioGroup(by, name, len(price), figures, *median_interval(estimate / price), met, off)


def sales_chasing(ratio: Floats) -> SalesChasing:
    """Look for estimates that follow the prices, by a jump of the distribution and by its middle.

    Args:
        ratio: Shape (n,), n >= 1.
    """
    low, high = CHASED
    values, count = np.unique(ratio, return_counts=True)
    most = int(np.argmax(count))
    jump = float(count[most] / len(ratio)) if low < values[most] < high else 0.0
    share = float(np.mean((ratio >= low) & (ratio <= high)))
    mean, spread = float(np.mean(ratio)), float(np.std(ratio))

    def below(end: float) -> float:
        if spread == 0:
            return float(mean <= end)
        return 0.5 * (1.0 + math.erf((end - mean) / spread / math.sqrt(2.0)))

    expected = below(high) - below(low)
    far = abs(share - expected) > CHASED_SHARE
    return SalesChasing(jump, jump > CHASED_SHARE, share, expected, far)


def _drift(ratio: Floats, months: Floats) -> Estimate | None:
    """Return by how much the ratio changes a month, in percent: the slope of its logarithm."""
    known = np.isfinite(months)
    at, level = months[known], np.log(ratio[known])
    n, spread = len(at), float(np.var(at)) * len(at) if len(at) else 0.0
    if n < FEWEST_OF_GROUP or spread <= 0:
        return None
    slope = float(np.sum((at - at.mean()) * level)) / spread
    residual = level - level.mean() - slope * (at - at.mean())
    error = 1.959964 * math.sqrt(float(np.sum(residual**2)) / (n - 2) / spread)
    value, low, high = (100 * math.expm1(s) for s in (slope, slope - error, slope + error))
    return Estimate(value, low, high)
