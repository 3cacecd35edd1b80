"""Ratio study: how level and how even estimates are, as assessors measure it.

Definitions of the IAAO *Standard on Ratio Studies* (2013), section 9.2 and appendix D; the ratio of
a row is its estimate over its actual value. All take ``actual`` and ``predicted``, both (n,) and
finite with n >= 1, leave out rows whose actual value is not positive, where a ratio has no meaning,
and are NaN where they are undefined.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tasador.metrics.regression import Metric

Floats = NDArray[np.float64]


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
