"""One trial of a sweep: a set of parameters measured on the folds, or given up on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import TrainingError
from tasador.core.workers import in_parallel
from tasador.data.table import Part
from tasador.metrics.regression import METRICS, all_metrics
from tasador.modeling.target import TargetTransform
from tasador.selection.families import family
from tasador.selection.folds import Fold
from tasador.selection.search import CandidateResult

_log = logging.getLogger(__name__)
Floats = NDArray[np.float64]

#: The rungs, in ninths of a trial's own steps, after which it may be given up.
RUNGS = (1, 3, 9)
#: On so many folds a trial is grown rung by rung; the others only measure what is left.
_GROWN_FOLDS = 2
#: (rung, error so far) -> whether to give the trial up.
GiveUp = Callable[[int, float], bool]


@dataclass(frozen=True)
class Task:
    """What a trial is measured on, the same for all trials.

    Attributes:
        family: The family.
        folds: The folds, features made.
        part: The training part.
        transform: The target's transform.
        metric: The metric that decides.
        seed: Seed of the models.
    """

    family: str
    folds: Sequence[Fold]
    part: Part
    transform: TargetTransform
    metric: str
    seed: int

    def error(self, fold: Fold, model: Any) -> float:
        """Return the metric of a model on a fold's held-out rows."""
        estimate = self._estimate(model, fold.Z_held)
        return METRICS[self.metric](self.part.y[fold.held_rows], estimate)

    def measure(self, fold: Fold, model: Any) -> tuple[dict[str, float], dict[str, float]]:
        """Return every metric of a model on a fold's held-out and fitting rows."""
        held, fitted = (self._estimate(model, Z) for Z in (fold.Z_held, fold.Z_fit))
        y = self.part.y
        return all_metrics(y[fold.held_rows], held), all_metrics(y[fold.fit_rows], fitted)

    def grow(self, params: Mapping[str, Any], fold: Fold) -> Iterator[Any]:
        """Yield the model on a fold at each rung; the whole one at all where it cannot grow."""
        chosen = family(self.family)
        target = self.transform.forward(self.part.y[fold.fit_rows])
        seed = seeds.derive_seed(self.seed, self.family)
        model, left = None, len(RUNGS)
        if chosen.grow is None or chosen.prefix is None:
            model = chosen.fit(params, fold.Z_fit, target, seed, 1)
        else:
            whole = int(chosen.canonical(params)[chosen.prefix])
            steps = sorted({max(1, whole * rung // RUNGS[-1]) for rung in RUNGS})
            for model in chosen.grow(params, fold.Z_fit, target, seed, steps):
                left -= 1
                yield model
        yield from left * [model]

    def _estimate(self, model: Any, Z: Floats) -> Floats:
        estimate = self.transform.inverse(family(self.family).predict(model, Z))
        if not np.isfinite(estimate).all():
            raise TrainingError("the model's estimates are not finite")
        return estimate


def run_trial(task: Task, params: Mapping[str, Any], give_up: GiveUp) -> CandidateResult:
    """Measure a set of parameters; a fit that fails is recorded, not raised.

    The first two folds grow side by side. At each rung their mean error goes to `give_up`; a trial
    that is given up keeps what its two folds measured last.
    """
    started, cpu = time.perf_counter(), time.process_time()
    held: list[dict[str, float]] = []
    fitted: list[dict[str, float]] = []
    dropped = None
    try:
        grown = task.folds[:_GROWN_FOLDS]
        growing = [task.grow(params, fold) for fold in grown]
        models: list[Any] = []
        for rung in RUNGS:
            found = dict(in_parallel(next, growing))
            models = [found[i] for i in range(len(grown))]
            error = float(np.mean([task.error(f, m) for f, m in zip(grown, models, strict=True)]))
            if give_up(rung, error):
                dropped = f"given up after {rung}/{RUNGS[-1]} of its steps"
                break
        measured = [task.measure(f, m) for f, m in zip(grown, models, strict=True)]
        if dropped is None:
            rest = list(task.folds[_GROWN_FOLDS:])
            others = dict(in_parallel(lambda fold: _whole(task, params, fold), rest))
            measured += [others[i] for i in range(len(rest))]
        held = [pair[0] for pair in measured]
        fitted = [pair[1] for pair in measured]
    except Exception as error_:  # one trial's failure must not lose the others
        _log.warning("%s %s failed: %s", task.family, dict(params), error_)
        wall = time.perf_counter() - started
        return CandidateResult(task.family, dict(params), (), (), wall, f"{error_}")
    seconds = time.process_time() - cpu
    return CandidateResult(
        task.family, dict(params), tuple(held), tuple(fitted), seconds, dropped=dropped
    )


def _whole(
    task: Task, params: Mapping[str, Any], fold: Fold
) -> tuple[dict[str, float], dict[str, float]]:
    *_, model = task.grow(params, fold)
    return task.measure(fold, model)
