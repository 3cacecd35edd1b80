"""Drop the candidates that cannot win any more, by a test on the rows held out so far.

The test is `comparison.row_test_limit`: one-sided, at 5% in all for the whole search (Bonferroni's
correction for the number of candidates and of rounds), against the leader of the moment. It sees
chance in the held-out rows and, by Nadeau and Bengio's correction, in the fitting rows; a candidate
that is only a little worse stays and is measured on all folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import ConfigError
from tasador.selection.comparison import row_test_limit

Floats = NDArray[np.float64]
ERROR_RATE = 0.05
_FEWEST_ROWS = 30

#: What a row adds to a metric that is a mean over rows, or grows with one.
ROW_LOSSES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "mae": lambda actual, predicted: np.abs(predicted - actual),
    "wmape": lambda actual, predicted: np.abs(predicted - actual),
    "rmse": lambda actual, predicted: np.square(predicted - actual),
    "mape": lambda actual, predicted: np.divide(
        np.abs(predicted - actual), np.abs(actual), out=np.zeros(len(actual)), where=actual != 0
    ),
}


def check_scoring(scoring: str) -> None:
    """Refuse a metric that is no mean over rows.

    Raises:
        ConfigError: Naming those that are.
    """
    if scoring not in ROW_LOSSES:
        raise ConfigError(
            f"selection.racing cannot compare candidates row by row by {scoring}",
            expected=f"selection.scoring to be one of {', '.join(ROW_LOSSES)}",
            remedy="choose one of them, or set selection.racing=false",
        )


@dataclass(frozen=True)
class Drop:
    """Why a candidate was dropped.

    Attributes:
        candidate: Its position.
        after: The number of folds after which it was.
        behind: By how much its mean row loss exceeded the leader's.
        limit: What could still have been chance.
    """

    candidate: int
    after: int
    behind: float
    limit: float


def find_drops(
    losses: Mapping[int, Sequence[NDArray[np.float32]]],
    candidates: Iterable[int],
    total: int,
    folds: int,
) -> list[Drop]:
    """Return which of the candidates still in the race cannot win.

    Args:
        losses: For each candidate, its row losses on each fold seen so far.
        candidates: Those still in the race.
        total: All candidates of the search.
        folds: All folds.
    """
    from scipy.stats import norm

    joined = {c: np.concatenate(losses[c]).astype(np.float64) for c in candidates}
    if len(joined) < 2:
        return []
    quantile = float(norm.isf(ERROR_RATE / (total * max(folds - 1, 1))))
    leader = min(joined, key=lambda c: (float(joined[c].mean()), c))
    seen = len(losses[leader])
    if len(joined[leader]) < _FEWEST_ROWS:
        return []
    drops = []
    for candidate, found in joined.items():
        behind = float(found.mean() - joined[leader].mean())
        limit = row_test_limit(found, joined[leader], seen, folds, quantile)
        if candidate != leader and behind > limit:
            drops.append(Drop(candidate, seen, behind, limit))
    return drops
