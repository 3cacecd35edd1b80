"""Bootstrap confidence intervals of the metrics (Efron's percentile method)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.metrics.regression import METRICS, all_metrics

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
    """Return every metric of (n,) rows with its percentile interval over `draws` resamples.

    Draws in which a metric is undefined are left out of its interval; with none left it is NaN.
    """
    point = all_metrics(actual, predicted)
    random = seeds.generator(seed, "bootstrap")
    samples = np.empty((draws, len(METRICS)))
    for draw in range(draws):
        rows = random.integers(0, len(actual), len(actual))
        samples[draw] = list(all_metrics(actual[rows], predicted[rows]).values())
    tail = (1.0 - confidence) / 2.0
    result = {}
    for position, name in enumerate(METRICS):
        defined = samples[~np.isnan(samples[:, position]), position]
        if len(defined):
            low, high = np.quantile(defined, [tail, 1.0 - tail])
        else:
            low = high = float("nan")
        result[name] = Estimate(point[name], float(low), float(high))
    return result
