"""Whether estimates keep to rise, or to fall, with a column: counted on pairs of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core import seeds
from tasador.settings.run import Direction

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MonotoneCheck:
    """What was counted for one column.

    Attributes:
        column: Its name.
        direction: ``up`` where estimates may not fall when it rises, ``down`` where not rise.
        pairs: Pairs of rows that differ in this column only.
        violations: Those of which the estimates go the other way.
        largest: By which share of the estimate they do at most.
    """

    column: str
    direction: Direction
    pairs: int
    violations: int
    largest: float

    @property
    def sentence(self) -> str:
        """What was counted, for people."""
        return (
            f"{promise(self.column, self.direction)}: of {self.pairs:,} pairs of held-out rows "
            f"that differ in it alone, {self.violations:,} have estimates the other way."
        )


def promise(column: str, direction: Direction) -> str:
    """Say what estimates keep to, for people."""
    way = "falls" if direction == "up" else "rises"
    return f"No estimate {way} when {column} alone rises"


def check_monotone(
    predict: Callable[[Floats], Floats],
    contract: TableContract,
    X: Floats,
    monotone: Mapping[str, Direction],
    *,
    pairs: int,
    seed: int,
) -> list[MonotoneCheck]:
    """Count for each column the pairs of rows whose estimates go the other way.

    A pair is a row of `X` with two values of the column: half of the pairs have two that rows of
    `X` have, half have neighbouring ones, between which the steps of a model are smallest.

    Args:
        predict: Values encoded rows (n, p).
        contract: Names the columns.
        X: Shape (n, p): rows; those without a value in the column give no value, and take some.
        monotone: Direction by column. One without two values in `X` is not checked.
        pairs: How many pairs of each.
        seed: Seed of the draw.
    """
    found = []
    for column, direction in monotone.items():
        at, random = contract.position(column), seeds.generator(seed, "monotone", column)
        known = np.unique(X[~np.isnan(X[:, at]), at])
        if len(known) < 2:
            continue
        low = random.integers(0, len(known) - 1, pairs)
        high = random.integers(low + 1, len(known))
        high[::2] = low[::2] + 1
        lower = X[random.integers(0, len(X), pairs)]
        upper = lower.copy()
        lower[:, at], upper[:, at] = known[low], known[high]
        change = predict(upper) - (before := predict(lower))
        off = -change if direction == "up" else change
        wrong = off > 0
        share = off[wrong] / np.maximum(np.abs(before[wrong]), np.finfo(np.float64).tiny)
        found.append(
            MonotoneCheck(column, direction, pairs, int(wrong.sum()), float(share.max(initial=0.0)))
        )
    return found
