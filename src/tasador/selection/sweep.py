"""Bayesian sweep of the winning family's parameters, by cross-validation on the training part."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasador.core import seeds
from tasador.core.errors import TrainingError
from tasador.core.progress import progress
from tasador.data.table import Part
from tasador.modeling.target import TargetTransform
from tasador.selection.families import family
from tasador.selection.folds import Fold
from tasador.selection.search import CandidateResult, evaluate_candidate


@dataclass(frozen=True)
class SweepSettings:
    """How long and on what the sweep searches.

    Attributes:
        trials: Number of parameter sets to try, the selection's winner first; 0 skips the sweep.
        folds: How many of the selection's folds each trial is judged on.
        metric: The metric to minimise.
        slowdown: The final model takes this many times more boosting steps, each that much
            smaller, than the sweep, which only has to rank parameters.
    """

    trials: int = 20
    folds: int = 3
    metric: str = "wmape"
    slowdown: float = 4.0


@dataclass(frozen=True)
class SweepResult:
    """The parameters found, and every trial on the way.

    Attributes:
        family: The family swept.
        metric: What was minimised.
        best: The trial with the smallest mean.
        trials: All trials in the order tried.
        final_params: The parameters of the final model.
    """

    family: str
    metric: str
    best: CandidateResult
    trials: tuple[CandidateResult, ...]
    final_params: dict[str, Any]


def sweep(
    name: str,
    start: dict[str, Any],
    settings: SweepSettings,
    folds: Sequence[Fold],
    part: Part,
    transform: TargetTransform,
    seed: int,
) -> SweepResult:
    """Search the family's space with Optuna's TPE, starting from the selection's winner.

    The test part is not in reach: `folds` and `part` are the training part's.

    Raises:
        TrainingError: Every trial failed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen = family(name)
    used = folds[: settings.folds]
    trials = [evaluate_candidate(name, start, used, part, transform, seed)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seeds.derive_seed(seed, "sweep"), multivariate=True
        )
    study = optuna.create_study(direction="minimize", sampler=sampler)
    with progress("sweeping parameters", settings.trials) as advance:
        advance(1 if settings.trials else 0)
        for _ in range(settings.trials - 1):
            trial = study.ask()
            result = evaluate_candidate(name, chosen.space(trial), used, part, transform, seed)
            trials.append(result)
            score = result.mean(settings.metric)
            if np.isfinite(score):
                study.tell(trial, score)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            advance(note=f"{settings.metric} {min(t.mean(settings.metric) for t in trials):.3f}")
    best = min(trials, key=lambda result: result.mean(settings.metric))
    if best.error is not None:
        raise TrainingError(f"every trial of the sweep failed, the first with: {trials[0].error}")
    final = chosen.slow(best.params, settings.slowdown)
    return SweepResult(name, settings.metric, best, tuple(trials), final)
