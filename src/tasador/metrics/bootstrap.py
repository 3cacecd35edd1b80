"""Bootstrap confidence intervals of the metrics (Efron's percentile method)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.metrics.ratio_study import RATIO_STUDY
from tasador.metrics.regression import METRICS

Floats = NDArray[np.float64]


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

    The interval is that of `draws` resamples of the rows.

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
