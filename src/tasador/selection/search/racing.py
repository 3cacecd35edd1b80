"""Drop the candidates that cannot win any more, by a test on the rows held out so far.

The test is `paired_tests.row_test_limit`: one-sided, against the leader so far, at 5% for each
pair in all rounds together (Bonferroni's correction for the rounds). It sees chance in the held-out
rows and, by Nadeau and Bengio's correction, in the fitting rows. A candidate as good as the leader
is so dropped once in twenty searches at most, which costs nothing; one that is a little worse stays
and is measured on all folds.

On the first fold forests and boosted models are tested while they grow. What they have yet to gain
is granted to them: a mean of trees errs like a + b/n, so that all further trees bring less than the
second half of those there are, and twice that is granted; in a sum of trees each further step is
granted what the steps of the last quarter brought. Only what is behind even so is given up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tasador.core.hashing import fingerprint
from tasador.metrics.regression import relative_errors
from tasador.selection.errors import GridError
from tasador.selection.paired_tests import row_test_limit
from tasador.selection.search.early_stopping import Growth
from tasador.selection.search.shared_work import Drop, Group

Floats = NDArray[np.float64]
ERROR_RATE = 0.05
_FEWEST_ROWS = 30
_CHEAP = 0.02  # of the dearest group: what is run before anything is given up

#: What a row adds to a metric that is a mean over rows, or grows with one.
ROW_LOSSES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "mae": lambda actual, predicted: np.abs(predicted - actual),
    "wmape": lambda actual, predicted: np.abs(predicted - actual),
    "rmse": lambda actual, predicted: np.square(predicted - actual),
    "mape": lambda actual, predicted: relative_errors(actual, predicted, 0.0),
}


def check_scoring(scoring: str) -> None:
    """Refuse a metric that is no mean over rows.

    Raises:
        ConfigError: Naming those that are.
    """
    if scoring not in ROW_LOSSES:
        raise GridError.no_race(scoring, ROW_LOSSES)


def find_drops(
    losses: Mapping[int, Sequence[NDArray[np.float32]]],
    candidates: Iterable[int],
    folds: int,
) -> dict[int, Drop]:
    """Return which of the candidates still in the race cannot win.

    Args:
        losses: For each candidate, its row losses on each fold seen so far.
        candidates: Those still in the race.
        folds: All folds.
    """
    joined = {c: np.concatenate(losses[c]).astype(np.float64) for c in candidates}
    if len(joined) < 2:
        return {}
    leader = min(joined, key=lambda c: (float(joined[c].mean()), c))
    seen = len(losses[leader])
    if len(joined[leader]) < _FEWEST_ROWS:
        return {}
    drops = {}
    for candidate, found in joined.items():
        behind = float(found.mean() - joined[leader].mean())
        limit = row_test_limit(found, joined[leader], seen, folds, _quantile(folds))
        if candidate != leader and behind > limit:
            drops[candidate] = Drop(seen, behind, limit)
    return drops


def find_hopeless(
    growth: Growth,
    loss: Callable[[Floats], Floats],
    leader: Floats,
    folds: int,
) -> Drop | None:
    """Return why a growing candidate cannot win, or None.

    Args:
        growth: How far it has come on the first fold.
        loss: Estimates (m,) on the transformed scale -> the rows' losses (m,).
        leader: Shape (m,): the leader's losses on the same rows.
        folds: All folds.
    """
    if len(leader) < _FEWEST_ROWS:
        return None
    now = loss(growth.now)
    gained = max(float(loss(growth.earlier).mean() - now.mean()), 0.0)
    if growth.averages:
        granted = 2.0 * gained
    else:
        granted = gained * (growth.whole - growth.steps) / (growth.steps - growth.earlier_steps)
    behind = float(now.mean() - leader.mean()) - granted
    limit = row_test_limit(now, leader, 1, folds, _quantile(folds))
    if not behind > limit:  # NaN gives nothing up
        return None
    return Drop(0, behind, limit, (growth.steps, growth.whole))


def rounds(groups: Sequence[Group]) -> list[list[Group]]:
    """Return the order in which groups run on the first fold, in up to four rounds.

    The leader after each is what the next one's models are watched against. What is cheap comes
    first, and where nothing is, the cheapest; then a tenth of what is not, spread over it; then
    three tenths; then the rest. It depends on the groups alone, so that a race gives the same on
    every run.
    """
    costs = [group.cost for group in groups]
    limit = max(_CHEAP * max(costs, default=0.0), min(costs, default=0.0))
    cheap = [group for group in groups if group.cost <= limit]
    dear = [group for group in groups if group.cost > limit]
    spread = sorted(dear, key=lambda group: fingerprint(group.key))
    first, second = math.ceil(0.1 * len(spread)), math.ceil(0.4 * len(spread))
    found = [cheap, spread[:first], spread[first:second], spread[second:]]
    return [heat for heat in found if heat]


def _quantile(folds: int) -> float:
    from scipy.stats import norm

    return float(norm.isf(ERROR_RATE / max(folds - 1, 1)))
