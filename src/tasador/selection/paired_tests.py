"""Is one model better than another, or may it be the folds' luck?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.metrics.regression import Estimate

Floats = NDArray[np.float64]


def corrected_standard_error(differences: Sequence[float], held_share: float) -> float:
    """Return the standard error of the mean of fold differences, corrected for shared rows.

    Folds share most of their fitting rows, so their scores are not independent and the plain
    standard error is too small. Nadeau and Bengio (2003), "Inference for the generalization
    error": the variance is multiplied by 1/J + (held-out rows / fitting rows) in place of 1/J.

    Args:
        differences: One for each of J folds.
        held_share: Share of the rows that a fold holds out, in (0, 1).

    Returns:
        The standard error; infinite for fewer than two folds.
    """
    if len(differences) < 2:
        return float("inf")
    variance = float(np.var(differences, ddof=1))
    return float(np.sqrt((1.0 / len(differences) + held_share / (1.0 - held_share)) * variance))


def corrected_paired_test(
    first: Sequence[float], second: Sequence[float], held_share: float
) -> float:
    """Return the two-sided p-value that two models' mean scores over the same folds are equal.

    Nadeau and Bengio's corrected resampled t-test with J - 1 degrees of freedom. 1 for equal
    scores and for fewer than two folds: nothing speaks against equality.

    Raises:
        ValueError: The two have not the same number of folds.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} folds against {len(second)}")
    differences = np.subtract(first, second)
    error = corrected_standard_error(differences.tolist(), held_share)
    mean = abs(float(np.mean(differences))) if len(differences) else 0.0
    if not np.isfinite(error) or mean == 0.0:
        return 1.0
    if error == 0.0:
        return 0.0
    from scipy.stats import t

    return float(2.0 * t.sf(mean / error, len(differences) - 1))


def row_test_limit(
    losses: Floats, leader: Floats, folds_seen: int, folds: int, quantile: float
) -> float:
    """Return by how much a candidate's mean loss may exceed the leader's by chance.

    The test of a race: row by row, a candidate's loss minus the leader's has a standard
    deviation s over the m rows held out so far. If both were equally good, their mean difference
    would lie below quantile * s / sqrt(m) * sqrt(1 + seen / (folds - 1)), where the last factor is
    Nadeau and Bengio's correction for fitting rows that folds share.

    Args:
        losses: Shape (m,): the candidate's loss on each held-out row.
        leader: Shape (m,): the leader's on the same rows.
        folds_seen: Folds that these rows make up.
        folds: All folds.
        quantile: How many standard errors are chance.
    """
    spread = float(np.std(losses - leader, ddof=1)) if len(losses) > 1 else float("inf")
    return quantile * spread * float(np.sqrt((1.0 + folds_seen / (folds - 1)) / len(losses)))


def median_differences(
    pairs: Sequence[tuple[Floats, Floats]], *, draws: int = 1000, seed: int
) -> tuple[list[Estimate], Estimate]:
    """Return by how much the median of the first values exceeds that of the second.

    The 95% intervals are those of a paired bootstrap (percentiles): rows are drawn with both of
    their values, within each group. They do not depend on the order of the rows.

    Args:
        pairs: For each group of rows the values (n,) of both, without NaN.
        draws: How often rows are drawn.
        seed: Of the draws; those of a group do not depend on the other groups.

    Returns:
        The difference of each group, and the mean over the groups; NaN without groups.
    """
    values = np.full((len(pairs), 1 + draws), np.nan)
    for place, (first, second) in enumerate(pairs):
        order = np.lexsort((second, first))
        both = np.stack([first[order], second[order]])
        values[place, 0] = np.subtract(*np.median(both, axis=1))
        # groups of one size get draws of their own too: equal ones would not average out
        random = seeds.generator(seed, "paired", len(first), float(values[place, 0]))
        for draw in range(draws):
            rows = random.integers(0, len(first), len(first))
            values[place, 1 + draw] = np.subtract(*np.median(both[:, rows], axis=1))
    mean = values.mean(axis=0) if len(pairs) else np.full(1 + draws, np.nan)
    *each, overall = (
        Estimate(float(one[0]), *np.quantile(one[1:], [0.025, 0.975]).tolist())
        for one in (*values, mean)
    )
    return each, overall
