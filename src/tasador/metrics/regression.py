"""Metrics of a regression, the ratio study, and how sure each figure is.

All metrics take ``actual`` and ``predicted``, both (n,) and finite with n >= 1, and return a float.
Those of `METRICS` are in the target's unit or in percent. Percentage metrics leave out rows whose
actual value is zero, where a percentage has no meaning; without any other row they are NaN.

The ratio study says how level and how even estimates are, as assessors measure it, by the
definitions of the IAAO *Standard on Ratio Studies* (2013), section 9.2 and appendix D; the ratio of
a row is its estimate over its actual value. Its figures leave out rows whose actual value is not
positive, where a ratio has no meaning, and are NaN where they are undefined.
"""

from __future__ import annotations

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
UNITLESS = frozenset({"r2", "prd", "prb"})


def unit_of(name: str, target_unit: str | None) -> str:
    """Return the unit of a metric, empty when it has none."""
    if name in IN_TARGET_UNIT:
        return target_unit or ""
    return "" if name in UNITLESS else "%"


def label(name: str) -> str:
    """Return the name of a metric for people: ``within_10`` is "within 10%"."""
    special = {"wmape": "wMAPE", "r2": "R²", "median_ape": "median APE"}
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
    return float(np.sum(size * (ratio - median))) / median / spread if spread > 0 else float("nan")


def fsd(actual: Floats, predicted: Floats) -> float:
    """Forecast standard deviation: standard deviation of the percentage errors (n - 1)."""
    actual, predicted = _positive(actual, predicted)
    if len(actual) < 2:
        return float("nan")
    return float(np.std((predicted - actual) / actual, ddof=1)) * 100


RATIO_STUDY: Mapping[str, Metric] = {"cod": cod, "prd": prd, "prb": prb, "fsd": fsd}
#: What the IAAO accepts (residential property): lowest and highest value.
ACCEPTED: Mapping[str, tuple[float, float]] = {
    "cod": (5.0, 15.0),
    "prd": (0.98, 1.03),
    "prb": (-0.05, 0.05),
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric and the interval in which resampling the rows leaves it."""

    value: float
    low: float
    high: float


def bootstrap_metrics(
    actual: Floats, predicted: Floats, *, draws: int = 1000, confidence: float = 0.95, seed: int
) -> dict[str, Estimate]:
    """Return every metric and ratio-study figure of (n,) rows with its percentile interval.

    The interval is that of `draws` resamples of the rows (Efron's percentile method).

    Draws in which a metric is undefined are left out of its interval; with none left it is NaN.
    """
    metrics = {**METRICS, **RATIO_STUDY}
    random = seeds.generator(seed, "bootstrap")
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
