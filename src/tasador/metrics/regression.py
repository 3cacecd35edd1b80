"""Metrics of a regression, the ratio study, and how sure each figure is.

All metrics take ``actual`` and ``predicted``, both (n,) and finite with n >= 1, and return a float.
Those of `METRICS` are in the target's unit or in percent. Percentage metrics leave out rows whose
actual value is zero, where a percentage has no meaning; without any other row they are NaN.

The ratio study says how level and how even estimates are, as assessors measure it, by the
definitions of the IAAO *Standard on Ratio Studies* (2013), section 9.2 and appendix D; the ratio of
a row is its estimate over its actual value. Its figures leave out rows whose actual value is not
positive, where a ratio has no meaning, and are NaN where they are undefined. None depends on the
order of the rows. `metrics.ratio_study` puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds

Floats = NDArray[np.float64]
Metric = Callable[[Floats, Floats], float]


def _absolute_percentage_errors(actual: Floats, predicted: Floats) -> Floats:
    some = actual != 0
    errors: Floats = np.abs((predicted[some] - actual[some]) / actual[some]) * 100.0
    return errors


def relative_errors(actual: Floats, predicted: Floats, at_zero: float = np.nan) -> Floats:
    """Return absolute errors (n,) over the absolute actual values; `at_zero` where those are 0."""
    errors = np.abs(predicted - actual)
    relative: Floats = np.divide(
        errors, np.abs(actual), out=np.full(len(errors), at_zero), where=actual != 0
    )
    return relative


def _mean(values: Floats) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def rmse(actual: Floats, predicted: Floats) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean(np.square(predicted - actual))))


def mae(actual: Floats, predicted: Floats) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(predicted - actual)))


def r2(actual: Floats, predicted: Floats) -> float:
    """Coefficient of determination, 1 - SSE/SST; NaN when the actual values are all equal."""
    total = float(np.sum(np.square(actual - np.mean(actual))))
    return 1.0 - float(np.sum(np.square(predicted - actual))) / total if total > 0 else float("nan")


def mape(actual: Floats, predicted: Floats) -> float:
    """Mean absolute percentage error."""
    return _mean(_absolute_percentage_errors(actual, predicted))


def smape(actual: Floats, predicted: Floats) -> float:
    """Symmetric MAPE: mean of |e| / ((|y| + |p|) / 2); a row where both are zero counts as 0."""
    scale = (np.abs(actual) + np.abs(predicted)) / 2.0
    error = np.abs(predicted - actual)
    return float(np.mean(np.divide(error, scale, out=np.zeros_like(error), where=scale > 0))) * 100


def wmape(actual: Floats, predicted: Floats) -> float:
    """Weighted MAPE: sum of |e| over sum of |y|; NaN when every actual value is zero."""
    total = float(np.sum(np.abs(actual)))
    return float(np.sum(np.abs(predicted - actual))) / total * 100 if total > 0 else float("nan")


def median_ape(actual: Floats, predicted: Floats) -> float:
    """Median absolute percentage error."""
    errors = _absolute_percentage_errors(actual, predicted)
    return float(np.median(errors)) if len(errors) else float("nan")


def _within(percent: float) -> Metric:
    def share(actual: Floats, predicted: Floats) -> float:
        return _mean((_absolute_percentage_errors(actual, predicted) <= percent) * np.float64(100))

    share.__doc__ = f"Share of rows, in percent, estimated within {percent:g}% of the actual value."
    return share


within_10 = _within(10)

METRICS: Mapping[str, Metric] = {
    "mape": mape,
    "wmape": wmape,
    "smape": smape,
    "median_ape": median_ape,
    "within_5": _within(5),
    "within_10": within_10,
    "within_15": _within(15),
    "within_20": _within(20),
    "mae": mae,
    "rmse": rmse,
    "r2": r2,
}
#: Metrics for which more is better; for all others less is.
HIGHER_IS_BETTER = frozenset({"r2", "within_5", "within_10", "within_15", "within_20"})
#: Metrics in the target's unit, and metrics without one, the ratio study's included; all others
#: are percentages.
IN_TARGET_UNIT = frozenset({"mae", "rmse"})
UNITLESS = frozenset({"r2", "prd", "prb", "median_ratio", "weighted_mean_ratio", "mki", "ki"})


def unit_of(name: str, target_unit: str | None) -> str:
    """Return the unit of a metric, empty when it has none."""
    if name in IN_TARGET_UNIT:
        return target_unit or ""
    return "" if name in UNITLESS else "%"


def label(name: str) -> str:
    """Return the name of a metric for people: ``within_10`` is "within 10%"."""
    special = {"wmape": "wMAPE", "r2": "R²", "median_ape": "median APE"}
    special |= {"median_ratio": "median ratio", "weighted_mean_ratio": "weighted mean ratio"}
    if name.startswith("within_"):
        return f"within {name.removeprefix('within_')}%"
    return special.get(name, name.upper())


def all_metrics(actual: Floats, predicted: Floats) -> dict[str, float]:
    """Return every metric by name.

    Example:
        >>> import numpy as np, tasador
        >>> found = tasador.all_metrics(np.array([100.0, 200.0]), np.array([110.0, 190.0]))
        >>> found["mape"], found["within_10"], found["mae"]
        (7.5, 100.0, 10.0)
    """
    return {name: metric(actual, predicted) for name, metric in METRICS.items()}


#: A normal distribution's standard deviation is so many of its median absolute deviations.
MAD_TO_DEVIATION = 1.4826


def robust_spread(values: Floats, centre: float | None = None) -> float:
    """Return the standard deviation of values (n,), which few far ones do not move.

    That of a normal distribution with their median absolute deviation from `centre`, by default
    their median; 0 without values.
    """
    if not len(values):
        return 0.0
    centre = float(np.median(values)) if centre is None else centre
    return MAD_TO_DEVIATION * float(np.median(np.abs(values - centre)))


def _positive(actual: Floats, predicted: Floats) -> tuple[Floats, Floats]:
    some = actual > 0
    return actual[some], predicted[some]


def median_ratio(actual: Floats, predicted: Floats) -> float:
    """Median of the ratios: the level of the estimates."""
    actual, predicted = _positive(actual, predicted)
    return float(np.median(predicted / actual)) if len(actual) else float("nan")


def weighted_mean_ratio(actual: Floats, predicted: Floats) -> float:
    """Sum of the estimates over the sum of the actual values."""
    actual, predicted = _positive(actual, predicted)
    return float(np.sum(predicted) / np.sum(actual)) if len(actual) else float("nan")


def cod(actual: Floats, predicted: Floats) -> float:
    """Coefficient of dispersion: mean distance of the ratios from their median, in % of it."""
    actual, predicted = _positive(actual, predicted)
    if not len(actual):
        return float("nan")
    ratio = predicted / actual
    median = float(np.median(ratio))
    return float(np.mean(np.abs(ratio - median))) / median * 100 if median > 0 else float("nan")


def prd(actual: Floats, predicted: Floats) -> float:
    """Price-related differential: mean ratio over weighted mean ratio; above 1 favours the dear."""
    actual, predicted = _positive(actual, predicted)
    total = float(np.sum(predicted))
    if not len(actual) or total <= 0:
        return float("nan")
    return float(np.mean(predicted / actual)) / (total / float(np.sum(actual)))


def prb(actual: Floats, predicted: Floats) -> float:
    """Price-related bias: change of the ratio, as a share of its median, when the value doubles.

    The slope of ``(ratio - median) / median`` on the logarithm to the base 2 of the mean of the
    actual value and the estimate over the median ratio.
    """
    actual, predicted = _positive(actual, predicted)
    if len(actual) < 2:
        return float("nan")
    ratio = predicted / actual
    median = float(np.median(ratio))
    proxy = 0.5 * (actual + predicted / median) if median > 0 else np.zeros(1)
    if not (proxy > 0).all():
        return float("nan")
    size = np.log2(proxy)
    size -= np.mean(size)
    spread = float(np.sum(size * size))
    # of equal sizes rounding leaves some 1e-29 a row
    if spread <= 1e-20 * len(size):
        return float("nan")
    return float(np.sum(size * (ratio - median))) / median / spread


def _ginis(actual: Floats, predicted: Floats) -> tuple[float, float]:
    """Return the Gini coefficients of the estimates and the actual values, by the latter's order.

    Equal actual values share the mean of their ranks: estimates that differ at one price would
    otherwise count in the order in which the rows happen to stand.
    """
    actual, predicted = _positive(actual, predicted)
    n, total = len(actual), float(np.sum(predicted))
    if n < 2 or total <= 0:
        return float("nan"), float("nan")
    _, place, count = np.unique(actual, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2.0)[place]
    ginis = [
        2.0 * float(np.sum(rank * v)) / float(np.sum(v)) - (n + 1) for v in (predicted, actual)
    ]
    return ginis[0] / n, ginis[1] / n


def mki(actual: Floats, predicted: Floats) -> float:
    """Modified Kakwani index: Gini of the estimates over that of the values; below 1 is regressive.

    Both in the order of the actual values: Quintos (2020), "A Gini measure for vertical equity in
    property assessments", Journal of Property Tax Assessment & Administration 17(2).
    """
    own, ideal = _ginis(actual, predicted)
    return own / ideal if ideal > 1e-12 else float("nan")  # equal values, but for rounding


def ki(actual: Floats, predicted: Floats) -> float:
    """Kakwani index: Gini of the estimates less that of the values; below 0 is regressive."""
    own, ideal = _ginis(actual, predicted)
    return own - ideal


def vei(actual: Floats, predicted: Floats) -> float:
    """Vertical equity indicator: by how much, in %, ratios of high values exceed those of low ones.

    The difference of the median ratios of the last and the first group over the overall median.
    Groups of equal size go by the mean of the actual value and the estimate over the median ratio:
    2 of up to 50 rows, 4 of up to 500, else 10. NaN with fewer than 10 rows. Below 0 is regressive.
    Source: the vertical equity indicator of the IAAO's new standard, as openratiostudy.com and
    JohnKossa/vertical_equity_app describe it.
    """
    actual, predicted = _positive(actual, predicted)
    n = len(actual)
    if n < _FEWEST_OF_VEI:
        return float("nan")
    ratio = predicted / actual
    median = float(np.median(ratio))
    if median <= 0:
        return float("nan")
    groups, value = 2 if n <= 50 else 4 if n <= 500 else 10, actual + predicted / median
    fewest, more = divmod(n, groups)  # the first groups have one row more
    low = _median_of_least(value, ratio, fewest + bool(more))
    high = -_median_of_least(-value, -ratio, fewest)
    return (high - low) / median * 100


def _median_of_least(value: Floats, ratio: Floats, k: int) -> float:
    """Return the median ratio of the `k` rows of least value; of equal values, of least ratio."""
    last = np.partition(value, k - 1)[k - 1]
    below, ties = ratio[value < last], ratio[value == last]
    return float(np.median(np.concatenate([below, np.sort(ties)[: k - len(below)]])))


_FEWEST_OF_VEI = 10
_LEAST_DRAWS, _DRAWN_ROWS = 200, 20_000_000  # of a bootstrap


def fsd(actual: Floats, predicted: Floats) -> float:
    """Forecast standard deviation: standard deviation of the percentage errors (n - 1)."""
    actual, predicted = _positive(actual, predicted)
    if len(actual) < 2:
        return float("nan")
    return float(np.std((predicted - actual) / actual, ddof=1)) * 100


RATIO_STUDY: Mapping[str, Metric] = {
    "median_ratio": median_ratio,
    "weighted_mean_ratio": weighted_mean_ratio,
    "cod": cod,
    "prd": prd,
    "prb": prb,
    "mki": mki,
    "ki": ki,
    "vei": vei,
    "fsd": fsd,
}
#: What the IAAO accepts (residential property): lowest and highest value.
ACCEPTED: Mapping[str, tuple[float, float]] = {
    "median_ratio": (0.9, 1.1),
    "cod": (5.0, 15.0),
    "prd": (0.98, 1.03),
    "prb": (-0.05, 0.05),
}


def share_interval(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's interval (1927) of a share, in [0, 1]; NaN without rows."""
    if n == 0:
        return math.nan, math.nan
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max((middle - half) / (1 + z * z / n), 0.0), min((middle + half) / (1 + z * z / n), 1.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric and the interval in which resampling the rows leaves it."""

    value: float
    low: float
    high: float


def bootstrap_metrics(
    actual: Floats,
    predicted: Floats,
    *,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int,
    metrics: Mapping[str, Metric] | None = None,
) -> dict[str, Estimate]:
    """Return every metric and ratio-study figure of (n,) rows with its percentile interval.

    The interval is that of `draws` resamples of the rows (Efron's percentile method), of fewer
    above 20 000 rows, down to 200 from 100 000 on; `metrics` names others than all.

    Draws in which a metric is undefined are left out of its interval; with none left it is NaN.
    """
    metrics = {**METRICS, **RATIO_STUDY} if metrics is None else metrics
    random = seeds.generator(seed, "bootstrap")
    # the intervals of so many rows are narrow: their ends need not be known to a hundredth
    draws = min(draws, max(_LEAST_DRAWS, _DRAWN_ROWS // max(len(actual), 1)))
    samples = np.empty((draws, len(metrics)))
    for draw in range(draws):
        rows = random.integers(0, len(actual), len(actual))
        y, p = actual[rows], predicted[rows]
        samples[draw] = [metric(y, p) for metric in metrics.values()]
    tail = (1.0 - confidence) / 2.0
    result = {}
    for position, (name, metric) in enumerate(metrics.items()):
        defined = samples[~np.isnan(samples[:, position]), position]
        if len(defined):
            low, high = np.quantile(defined, [tail, 1.0 - tail])
        else:
            low = high = float("nan")
        result[name] = Estimate(metric(actual, predicted), float(low), float(high))
    return result
