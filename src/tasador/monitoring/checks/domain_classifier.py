"""Columns together: can a classifier tell the window's rows from the reference's?

The classifier two-sample test (Lopez-Paz and Oquab 2017): boosted trees learn on one half of the
rows to tell the two apart and are judged on the other, by the area under the ROC curve, and the
other way round. When nothing has changed, the area on rows that were not learnt from is that of the
Mann-Whitney statistic: mean one half, variance (m + n + 1) / (12 m n). It sees what no column shows
alone, such as two columns that no longer go together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tasador.core import seeds

Floats = NDArray[np.float64]

#: Rows taken from each side; more would show differences that do not matter.
MOST_ROWS = 4000
FEWEST_ROWS = 100
_SEED = 20_240_816
_ROUNDS = 40
_SETTINGS = {
    "objective": "binary",
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_child_samples": 20,
    "feature_fraction": 0.8,
    "feature_fraction_seed": 1,
    "lambda_l2": 1.0,
    "max_bin": 63,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


@dataclass(frozen=True)
class Separation:
    """How well the two can be told apart.

    Attributes:
        auc: Area under the ROC curve; one half is not at all.
        p_value: Chance of one as large when nothing has changed.
        importance: Shape (p,): each column's share in telling them apart; sums to one.
    """

    auc: float
    p_value: float
    importance: Floats


def separate(reference: Floats, window: Floats) -> Separation:
    """Try to tell `window` (n, p) from `reference` (m, p); NaN is a value like any other.

    Raises:
        ImportError: LightGBM is not installed.
        ValueError: Fewer than `FEWEST_ROWS` rows on a side.
    """
    import lightgbm

    if min(len(reference), len(window)) < FEWEST_ROWS:
        raise ValueError(f"at least {FEWEST_ROWS} rows are needed on each side")
    random = seeds.generator(_SEED, "together", len(reference), len(window))
    sides = [_halves(rows[:MOST_ROWS], random) for rows in (reference, window)]
    areas, variances = [], []
    importance = np.zeros(reference.shape[1])
    for half in (0, 1):
        X = np.concatenate([side[half] for side in sides])
        label = np.repeat([0.0, 1.0], [len(side[half]) for side in sides])
        data = lightgbm.Dataset(X, label, params={"verbosity": -1, "max_bin": 63})
        model = lightgbm.train(_SETTINGS, data, num_boost_round=_ROUNDS)
        scores = [model.predict(side[1 - half], num_threads=1) for side in sides]
        areas.append(area_under_curve(*scores))
        m, n = len(scores[0]), len(scores[1])
        variances.append((m + n + 1) / (12 * m * n))
        importance += model.feature_importance("gain")
    auc = sum(areas) / 2
    # the halves are scored by models of each other's rows: taken as independent
    z = (auc - 0.5) / math.sqrt(sum(variances) / 4)
    total = importance.sum()
    shares = importance / total if total > 0 else importance
    return Separation(auc, float(special.ndtr(-z)), shares)


def _halves(rows: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    order = random.permutation(len(rows))
    return rows[order[::2]], rows[order[1::2]]


def area_under_curve(negative: Floats, positive: Floats) -> float:
    """Return the chance that a positive scores above a negative; ties count half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    upto = np.searchsorted(ordered, positive, side="right")
    return float((below + upto).mean() / 2 / len(negative))
