"""Which features pay, by a small LightGBM on the same folds; the plain baseline of every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.parallel import Engine, in_parallel
from tasador.data.table import Part
from tasador.features.fitted import Kind
from tasador.metrics.regression import METRICS
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import INPUTS, fit_model, hide
from tasador.selection.folds import Fold
from tasador.selection.search.grid_search import CandidateResult, grid_search
from tasador.selection.search.racing import ROW_LOSSES
from tasador.settings.run import SelectionSettings

Floats = NDArray[np.float64]
_MODEL = {
    "n_estimators": 200,
    "num_leaves": 23,
    "learning_rate": 0.1,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.8,
}


@dataclass(frozen=True)
class FeatureWorth:
    """What features of one kind are worth to a small LightGBM.

    Attributes:
        metric: The error that decides.
        error: Its mean over the folds with the features.
        error_without: Its mean over the folds without them.
        gain: By how much they lower the mean loss of a row.
    """

    metric: str
    error: float
    error_without: float
    gain: float

    @property
    def pays(self) -> bool:
        """Whether the error with the features is lower, be it by little.

        Few rows tell little apart, and comparables are also what explains a valuation.
        """
        return self.gain > 0


def measure_worth(
    kind: Kind,
    folds: Sequence[Fold],
    part: Part,
    transform: TargetTransform,
    *,
    metric: str,
    seed: int,
) -> FeatureWorth | None:
    """Fit the small model on each fold with the features of a kind and without them.

    Args:
        kind: The features that are in question.
        folds: Some folds of the training part, or all.
        part: The training part.
        transform: The target's transform.
        metric: Name of the error, less is better; one that is no mean over rows is decided by MAE.
        seed: Seed of the models.

    Returns:
        None where no feature is of that kind.
    """
    if not any(kind in fold.kinds for fold in folds):
        return None
    metric = metric if metric in ROW_LOSSES else "mae"
    shown = (frozenset[Kind](), frozenset({kind}))
    tasks = [(fold, _MODEL, hidden) for fold in folds for hidden in shown]
    found = _held_out(tasks, part, transform, seeds.derive_seed(seed, "worth", kind))
    actual = [part.y[fold.held_rows] for fold, *_ in tasks]
    errors = [METRICS[metric](actual[i], found[i]) for i in range(len(tasks))]
    losses = [ROW_LOSSES[metric](actual[i], found[i]) for i in range(len(tasks))]
    using, without = np.concatenate(losses[::2]), np.concatenate(losses[1::2])
    return FeatureWorth(
        metric,
        float(np.mean(errors[::2])),
        float(np.mean(errors[1::2])),
        float(np.mean(without - using)),
    )


def _held_out(
    tasks: Sequence[tuple[Fold, Mapping[str, Any], frozenset[Kind]]],
    part: Part,
    transform: TargetTransform,
    seed: int,
) -> list[Floats]:
    """Return a small model's estimates (m,) of a fold's held-out rows, for each task.

    A task is the fold, the parameters, and the kinds of features that are hidden.
    """
    chosen = family("lightgbm")

    def estimate(task: tuple[Fold, Mapping[str, Any], frozenset[Kind]]) -> Floats:
        fold, params, hidden = task
        target = transform.forward(part.y[fold.fit_rows])
        Z = hide(fold.Z_fit, fold.kinds, hidden)
        model = fit_model(chosen, params, Z, fold.kinds, target, seed, 1, fold.weight)
        return transform.inverse(chosen.predict(model, fold.Z_held))

    found = dict(in_parallel(estimate, tasks))
    return [found[i] for i in range(len(tasks))]


#: How a model may see categories of many levels; of equals the first is taken. LightGBM smooths
#: what it knows of a level by ten rows' worth: right for levels of chance (suburbs), too much for
#: those that say nearly all by themselves (models of cars).
WAYS: Mapping[str, Mapping[str, Any]] = {
    "statistics": {INPUTS: "statistics"},
    "both": {INPUTS: "both"},
    "native": {INPUTS: "native"},
    "both, smoothed less": {INPUTS: "both", "cat_smooth": 1.0},
    "native, smoothed less": {INPUTS: "native", "cat_smooth": 1.0},
}


@dataclass(frozen=True)
class InputsChoice:
    """How models see categories of many levels, and the errors that decided.

    Attributes:
        metric: The error.
        errors: Its mean over the folds for each of `WAYS`.
    """

    metric: str
    errors: Mapping[str, float]

    @property
    def chosen(self) -> str:
        """The way with the smallest error."""
        return min(self.errors, key=self.errors.__getitem__)


def choose_inputs(
    folds: Sequence[Fold], part: Part, transform: TargetTransform, *, metric: str, seed: int
) -> InputsChoice | None:
    """Fit the small model on each fold for each way of seeing categories of many levels.

    Statistics of the target by level, codes split on as sets of levels, or both: which one errs
    least depends on the table, by more than their tuning changes.

    Args:
        folds: Some folds of the training part, or all.
        part: The training part.
        transform: The target's transform.
        metric: Name of the error, less is better.
        seed: Seed of the models.

    Returns:
        None where no category has many levels.
    """
    if not any("code" in fold.kinds for fold in folds):
        return None
    tasks = [
        (fold, {**_MODEL, **way}, frozenset[Kind]()) for way in WAYS.values() for fold in folds
    ]
    found = _held_out(tasks, part, transform, seeds.derive_seed(seed, "inputs"))
    errors = [
        METRICS[metric](part.y[fold.held_rows], estimate)
        for (fold, *_), estimate in zip(tasks, found, strict=True)
    ]
    means = np.reshape(errors, (len(WAYS), len(folds))).mean(axis=1)
    return InputsChoice(metric, dict(zip(WAYS, means.tolist(), strict=True)))


BASELINE_FAMILY = "lightgbm"
#: As a user of LightGBM begins, with its defaults for what is not named.
BASELINE_PARAMS: dict[str, Any] = {
    "n_estimators": 500,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "objective": "l2",
    "inputs": "plain",
}


def measure_baseline(
    settings: SelectionSettings,
    folds: Sequence[Fold],
    part: Part,
    transform: TargetTransform,
    seed: int,
    engine: Engine | None = None,
) -> CandidateResult:
    """Cross-validate the baseline on the folds of the candidates.

    It sees numbers, dates and categories (0/1 columns of few levels, codes of many): no
    comparables, clusters, ratios or statistics made from the target.

    Raises:
        TrainingError: It could not be fitted.
    """
    alone = SelectionSettings(
        families={BASELINE_FAMILY: {name: [value] for name, value in BASELINE_PARAMS.items()}},
        folds=settings.folds,
        scoring=settings.scoring,
    )
    return grid_search(alone, folds, part, transform, seed, engine=engine).best
