"""Two models on the same rows: how much better or worse, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.metrics.ratio_study import prb, prd
from tasador.metrics.regression import HIGHER_IS_BETTER, METRICS

Floats = NDArray[np.float64]
_CHUNK = 200
_RATIO_DRAWS = 400


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same rows.

    Attributes:
        challenger: The new model's figure.
        champion: The other's.
        worse: By how much the new model is worse; negative when it is better.
        low: Lower bound of `worse`, one-sided, at the asked confidence.
        high: Upper bound of `worse`, likewise.
    """

    challenger: float
    champion: float
    worse: float
    low: float
    high: float


def paired_bootstrap(
    actual: Floats,
    challenger: Floats,
    champion: Floats,
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare MAPE, wMAPE and the share within 10%.

    Both models are measured on the same resampled rows, so that what rows have in common cancels:
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 16.4, with percentile
    bounds.
    All three are ratios of sums over rows, so a draw is a vector of counts and no row is copied.

    Args:
        actual: Shape (n,): true values; rows where it is zero have no percentage error.
        challenger: Shape (n,): the new model's estimates.
        champion: Shape (n,): the other's.
        confidence: Of each one-sided bound.
        draws: How many resamples.
        seed: Of the resamples.

    Returns:
        ``mape``, ``wmape``, ``within_10``, the last with `worse` as champion minus challenger. NaN
        where no row has a percentage error.
    """
    n = len(actual)
    some = (actual != 0).astype(np.float64)
    scale = np.where(actual != 0, np.abs(actual), 1.0)
    new, old = np.abs(challenger - actual), np.abs(champion - actual)
    percent = [some * 100 * error / scale for error in (new, old)]
    within = [some * 100 * (one <= 10.0) for one in percent]
    table = np.column_stack([some, *percent, *within, np.abs(actual), 100 * new, 100 * old])
    random = seeds.generator(seed, "paired")
    sums = []
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        counts = random.multinomial(n, np.full(n, 1.0 / n), size).astype(np.float64)
        sums.append(counts @ table)
    drawn = np.vstack(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        differences = {
            "mape": (drawn[:, 1] - drawn[:, 2]) / drawn[:, 0],
            "wmape": (drawn[:, 6] - drawn[:, 7]) / drawn[:, 5],
            "within_10": (drawn[:, 4] - drawn[:, 3]) / drawn[:, 0],
        }
    result = {}
    for name, drawn_worse in differences.items():
        metric = METRICS[name]
        a, b = metric(actual, challenger), metric(actual, champion)
        worse = b - a if name in HIGHER_IS_BETTER else a - b
        result[name] = Difference(a, b, worse, *_bounds(drawn_worse, confidence))
    return result


def ratio_differences(
    actual: Floats, challenger: Floats, champion: Floats, *, confidence: float, seed: int
) -> dict[str, Difference]:
    """Compare how far PRD lies from 1 and PRB from 0; `worse` is the difference of distances."""
    random, n = seeds.generator(seed, "ratios"), len(actual)
    drawn = np.empty((_RATIO_DRAWS, 2))
    for draw in range(_RATIO_DRAWS):
        rows = random.integers(0, n, n)
        y, a, b = actual[rows], challenger[rows], champion[rows]
        drawn[draw] = (
            abs(prd(y, a) - 1) - abs(prd(y, b) - 1),
            abs(prb(y, a)) - abs(prb(y, b)),
        )
    result = {}
    for column, (name, metric, ideal) in enumerate((("prd", prd, 1.0), ("prb", prb, 0.0))):
        own, other = metric(actual, challenger), metric(actual, champion)
        worse = abs(own - ideal) - abs(other - ideal)
        result[name] = Difference(own, other, worse, *_bounds(drawn[:, column], confidence))
    return result


def _bounds(drawn: Floats, confidence: float) -> tuple[float, float]:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [1.0 - confidence, confidence])
    return float(low), float(high)
