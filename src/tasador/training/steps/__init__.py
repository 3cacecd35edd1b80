"""The seven steps of a training run, in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasador.core.hashing import fingerprint
from tasador.reporting.cards import CardBuilder
from tasador.training.context import RunState
from tasador.training.steps import (
    data_steps,
    features_step,
    impute_step,
    model_steps,
    register_step,
)


@dataclass(frozen=True)
class Step:
    """One step of the pipeline.

    Attributes:
        name: Its name on the command line.
        title: Its name for people.
        packages: The packages and modules whose code decides its result.
        inputs: What beside the earlier steps decides its result, as plain values.
        run: Does the work: fills a folder with the result and a card with the evidence.
        load: Takes the result from a filled folder into the run's state.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    inputs: Callable[[RunState], Any]
    run: Callable[[RunState, Path, CardBuilder], None]
    load: Callable[[RunState, Path], None]


_DATA = ("core", "contract", "settings", "data")
_FEATURES = (*_DATA, "features")
_MODELS = (*_FEATURES, "metrics", "trees", "modeling", "selection", "training.steps.model_steps")


def _contract(state: RunState) -> str:
    """Hash of the contract without its source: where a table lies does not change its result."""
    plain = state.settings.contract.to_dict()
    return fingerprint({key: value for key, value in plain.items() if key != "source"})


def _recording(state: RunState) -> list[str]:
    """What a sweep's result holds beside its trials: where they were recorded, when they were."""
    tracking = state.settings.tracking
    return [] if tracking.wandb == "off" else [tracking.wandb, tracking.wandb_project]


STEPS: tuple[Step, ...] = (
    Step(
        "download",
        "Download: find the table and keep it",
        (*_DATA, "training.steps.data_steps"),
        data_steps.download_inputs,
        data_steps.download,
        data_steps.load_download,
    ),
    Step(
        "segregate",
        "Segregate: validate, then set the test part aside",
        (*_DATA, "training.steps.data_steps"),
        lambda s: [s.content_hash, s.origin, _contract(s), s.settings.segregate],
        data_steps.segregate,
        data_steps.load_segregate,
    ),
    Step(
        "impute",
        "Impute: what stands in for missing values",
        (*_FEATURES, "metrics", "trees", "modeling", "selection", "training.steps.impute_step"),
        lambda s: [s.settings.impute, s.settings.seed],
        impute_step.impute,
        impute_step.load_impute,
    ),
    Step(
        "features",
        "Features: encode, derive, cluster, compare",
        (*_MODELS, "training.steps.features_step"),
        lambda s: [
            s.settings.features,
            s.settings.seed,
            s.settings.selection.scoring,
            s.settings.selection.folds,
            s.settings.selection.max_rows,
        ],
        features_step.features,
        features_step.load_features,
    ),
    Step(
        "select",
        "Select: compare model families",
        (*_MODELS, "training.steps.selection_card"),
        lambda s: [s.settings.selection, s.settings.seed],
        model_steps.select,
        model_steps.load_select,
    ),
    Step(
        "sweep",
        "Sweep: tune the winner",
        (*_MODELS, "training.steps.selection_card", "training.wandb_trials"),
        lambda s: [s.settings.sweep, s.settings.seed, *_recording(s)],
        model_steps.run_sweep,
        model_steps.load_sweep_step,
    ),
    Step(
        "register",
        "Register: fit, evaluate, bundle, register",
        (
            *_MODELS,
            "registry",
            "training.steps.register_step",
            "training.steps.register_card",
            "training.steps.final_model",
            "monitoring.error_estimation",
            "monitoring.reference",
            "monitoring.column_summary",
            "training.steps.selection_card",
            "reporting.model_card",
            "training.steps.model_documents",
        ),
        lambda s: [s.settings.register, s.settings.tracking, s.settings.contract.model_name],
        register_step.register,
        register_step.load_register,
    ),
)
