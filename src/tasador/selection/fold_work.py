"""Candidates that share work, measured on one fold: what an engine does of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.metrics.regression import all_metrics
from tasador.modeling.target import TargetTransform
from tasador.selection import race
from tasador.selection.folds import FoldRows
from tasador.selection.growing import Growth, grow_group
from tasador.selection.journal import FoldScore
from tasador.selection.shared_work import Drop, Estimates, Group, estimate_group

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ground:
    """What candidates are measured on, the same for all of them.

    Attributes:
        folds: The folds, features made.
        y: Shape (n,): the training part's target.
        target: Shape (n,): the same on the transformed scale.
        transform: The target's transform.
        scoring: The metric that decides.
        racing: Whether row losses are kept.
        seed: Seed of the models.
    """

    folds: tuple[FoldRows, ...]
    y: Floats
    target: Floats
    transform: TargetTransform
    scoring: str
    racing: bool
    seed: int


@dataclass(frozen=True)
class FoldTask:
    """Some candidates that share work, on one fold.

    Attributes:
        group: The candidates.
        fold: The fold's number.
        leader: Shape (m,): the row losses that growing models must come up to, or None.
    """

    group: Group
    fold: int
    leader: Floats | None = None


def measure_task(ground: Ground, task: FoldTask) -> list[FoldScore]:
    """Fit a group's candidates on a fold and measure each."""
    fold = ground.folds[task.fold]
    seed = seeds.derive_seed(ground.seed, task.group.family)
    matrices = (fold.Z_held, fold.Z_fit)
    common = (task.group, fold.Z_fit, ground.target[fold.fit_rows], matrices, seed)
    if task.leader is None:
        estimates = estimate_group(*common)
    else:
        estimates = grow_group(*common, _watch(ground, fold, task.leader))
    return [_score(ground, found, task.fold) for found in estimates]


def _watch(ground: Ground, fold: FoldRows, leader: Floats) -> Callable[[Growth], Drop | None]:
    actual, row_losses = ground.y[fold.held_rows], race.ROW_LOSSES[ground.scoring]

    def loss(score: Floats) -> Floats:
        return row_losses(actual, ground.transform.inverse(score))

    return lambda growth: race.find_hopeless(growth, loss, leader, len(ground.folds))


def _score(ground: Ground, found: Estimates, number: int) -> FoldScore:
    fold, error = ground.folds[number], found.error
    if found.given_up is not None:
        return FoldScore(found.candidate, number, {}, {}, found.seconds, drop=found.given_up)
    values = [ground.transform.inverse(value) for value in found.values]
    if error is None and not all(np.isfinite(value).all() for value in values):
        error = "the model's estimates are not finite"
    if error is not None:
        return FoldScore(found.candidate, number, {}, {}, found.seconds, None, error)
    actual = ground.y[fold.held_rows]
    losses = None
    if ground.racing:
        losses = race.ROW_LOSSES[ground.scoring](actual, values[0]).astype(np.float32)
    return FoldScore(
        found.candidate,
        number,
        all_metrics(actual, values[0]),
        all_metrics(ground.y[fold.fit_rows], values[1]),
        found.seconds,
        losses,
    )
