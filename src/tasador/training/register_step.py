"""Register: fit on train, evaluate once on the held-out test set, bundle, register."""

from __future__ import annotations

import logging
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import BundleError, TrainingError
from tasador.core.hashing import code_version, to_plain
from tasador.data.profile import reference_profile
from tasador.modeling.conformal import ConformalInterval, calibrate
from tasador.monitoring.error_estimation import error_inputs, fit_error_model
from tasador.monitoring.reference import build_reference
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.registry.writer import BundleParts, write_bundle
from tasador.reporting.cards import CardBuilder
from tasador.reporting.model_card import ModelFacts, to_markdown, write_model_card
from tasador.selection.diagnostics import Diagnostics, diagnose
from tasador.selection.feature_worth import BASELINE_PARAMS
from tasador.selection.folds import random_assignment
from tasador.selection.test_metrics import CrossValidation, EvaluationReport, evaluate
from tasador.training.context import (
    RunState,
    code_commit,
    library_versions,
    load_json,
    needed,
    save_json,
)
from tasador.training.final_model import (
    FinalChoice,
    FinalModel,
    choose_final,
    fit_final,
    spatial_cross_validation,
)
from tasador.training.model_steps import pipeline_of
from tasador.training.register_card import (
    comparison,
    decisions,
    describe_member,
    document_of,
    fill_card,
    headline,
    show_choice,
    show_decisions,
    show_diagnostics,
    show_intervals,
    with_bundle,
)
from tasador.trees.onnx_model import OnnxRegressor

Floats = NDArray[np.float64]


def watched_parts(
    state: RunState, cv: CrossValidation, interval: ConformalInterval
) -> dict[str, Any]:
    """Return the arguments of `BundleParts` that monitoring needs, from out-of-fold estimates.

    Too few rows, or errors that are all zero, ship without an error model.
    """
    train, transform = needed(state.train, "segregate"), state.transform
    X, y = train.X[cv.rows], train.y[cv.rows]
    log = transform.kind == "log"
    predicted = transform.inverse(cv.score)
    low, high = (transform.inverse(bound) for bound in interval.bounds(cv.score, cv.Z))
    model = graph = None
    with suppress(TrainingError):  # estimated performance is then "cannot tell"
        model, graph = fit_error_model(
            error_inputs(X, predicted, low, high, log=log),
            y,
            predicted,
            log=log,
            seed=seeds.derive_seed(state.settings.seed, "errors"),
        )
    reference = build_reference(
        state.settings.contract.features,
        train.X,
        held=cv.rows,
        prediction=predicted,
        actual=y,
        log=log,
        error_model=model,
    )
    return {"reference": reference.state(), "error_model": graph}


_log = logging.getLogger(__name__)
_SCALE = "comparables_spread"
_PROMISES = (0.5, 0.8, 0.9, 0.95)


def register(state: RunState, folder: Path, card: CardBuilder) -> None:
    """Make the bundle and everything that vouches for it."""
    sweep = needed(state.sweep, "sweep")
    name, params, contract = sweep.family, sweep.final_params, state.settings.contract
    choice = choose_final(state)
    random_cv = choice.random_cv
    spatial_cv = spatial_cross_validation(state, choice)
    final = fit_final(state, choice, seeds.derive_seed(state.settings.seed, "parity"))
    interval = _interval(state, random_cv, spatial_cv)
    report = _evaluate(state, final.onnx, interval, random_cv, spatial_cv)
    made = decisions(state, choice, interval)
    document = document_of(contract, _model_facts(state, choice, report), report, made, choice)
    draft = write_bundle_of(
        folder / "bundle", state, choice, final, interval, report, to_markdown(document)
    )
    bundle = _move_in(draft, state.bundles)
    write_model_card(folder, with_bundle(document, state, bundle, report))
    metrics = metrics_of(state, report, choice)
    save_json(
        folder / "outcome.json",
        {
            "version": bundle.version,
            "folder": bundle.folder.name,
            "family": name,
            "params": params,
            "metrics": metrics,
            "headline": headline(contract, report),
            "baseline": choice.baseline.sentence,
            "comparison": comparison(contract, report, choice),
        },
    )
    fill_card(contract, card, bundle, final.parity, report)
    show_decisions(card, made, report.openings)
    show_choice(card, choice, final.microseconds, state.settings.sweep.metric)
    show_diagnostics(card, _diagnose(state))
    show_intervals(card, _calibration(state, random_cv, interval, report), interval.coverage)


def load_register(state: RunState, folder: Path) -> None:
    """Take the outcome; a bundle that is gone or damaged makes the step run again."""
    outcome = load_json(folder / "outcome.json")
    load_bundle(state.bundles / outcome["folder"], trusted=None)
    state.outcome = outcome
    state.documents = folder


def _interval(
    state: RunState, cv: CrossValidation, spatial: CrossValidation | None
) -> ConformalInterval:
    """Calibrate on out-of-fold errors, scaled by how much a row's comparables differ.

    How much wider it is far from every comparable is measured with whole areas held out.
    """
    fitted = needed(state.fitted, "features")
    names, target = fitted.names, state.transform.forward(needed(state.train, "segregate").y)
    scale = names.index(_SCALE) if _SCALE in names else None
    coverage = state.settings.register.coverage
    interval = calibrate(target[cv.rows] - cv.score, cv.Z, coverage, scale)
    if spatial is None:
        return interval
    errors = target[spatial.rows] - spatial.score
    return interval.widened(errors, spatial.Z, fitted.far(spatial.Z))


def _calibration(
    state: RunState, cv: CrossValidation, interval: ConformalInterval, report: EvaluationReport
) -> list[tuple[float, float, float, float]]:
    """Return, for several promises: promised, held of the test rows, mean width, constant width.

    Each is calibrated on the out-of-fold errors. Widths are those of the out-of-fold rows, in the
    target's unit; the constant one is what the same promise takes without a scale.
    """
    transform = state.transform
    errors = transform.forward(needed(state.train, "segregate").y[cv.rows]) - cv.score
    score = transform.forward(report.predicted)
    off = np.abs(transform.forward(report.actual) - score)
    half = transform.forward(report.upper) - score
    rows = []
    for promised in sorted({*_PROMISES, interval.coverage}):
        try:
            own = calibrate(errors, cv.Z, promised, interval.scale_index)
            constant = calibrate(errors, cv.Z, promised, None)
        except TrainingError:  # too few rows for so high a promise
            continue
        factor = own.quantile / interval.quantile if interval.quantile else 1.0
        held = float(np.mean(off <= half * factor))
        widths = (_mean_width(state, cv, found) for found in (own, constant))
        rows.append((promised, held, *widths))
    return rows  # type: ignore[return-value]


def _mean_width(state: RunState, cv: CrossValidation, interval: ConformalInterval) -> float:
    """Return the mean width of the out-of-fold rows' intervals, in the target's unit."""
    low, high = interval.bounds(cv.score, cv.Z)
    return float(np.mean(state.transform.inverse(high) - state.transform.inverse(low)))


def _diagnose(state: RunState) -> Diagnostics:
    """Look at the sweep's model, which is quicker to fit than the final one and ranks the same."""
    settings, train = state.settings, needed(state.train, "segregate")
    sweep = needed(state.sweep, "sweep")
    assignment = random_assignment(len(train), settings.selection.folds, settings.seed)
    return diagnose(
        sweep.family,
        sweep.best.params,
        pipeline_of(state),
        train,
        np.flatnonzero(assignment == 0),
        state.transform,
        metric=settings.sweep.metric,
        seed=settings.seed,
    )


def _evaluate(
    state: RunState,
    onnx: OnnxRegressor,
    interval: ConformalInterval,
    random_cv: CrossValidation,
    spatial_cv: CrossValidation | None,
) -> EvaluationReport:
    fitted, transform = needed(state.fitted, "features"), state.transform

    def value(X: Floats) -> tuple[Floats, Floats, Floats]:
        Z = fitted.transform(X)
        score = onnx.predict(Z)
        lower, upper = interval.bounds(score, Z, fitted.far(Z))
        return transform.inverse(score), transform.inverse(lower), transform.inverse(upper)

    return evaluate(
        value,
        needed(state.sealed, "segregate"),
        state.settings.contract,
        random_cv=random_cv.metrics,
        spatial_cv=None if spatial_cv is None else spatial_cv.metrics,
        promised=state.settings.register.coverage,
        draws=state.settings.register.bootstrap_draws,
        seed=state.settings.seed,
        reason="final figures of the registered model",
    )


def metrics_of(state: RunState, report: EvaluationReport, choice: FinalChoice) -> dict[str, Any]:
    """Return what goes into ``metrics.json``; equal runs give equal bytes."""
    return {
        "origin": state.origin,
        "test": {name: estimate.value for name, estimate in report.test.items()},
        "test_intervals": {n: [e.low, e.high] for n, e in report.test.items()},
        "random_cv": report.random_cv,
        "random_cv_spread": choice.random_cv.spread,
        "baseline": {
            "model": "plain LightGBM",
            "random_cv": choice.baseline.metrics,
            "outcome": choice.baseline.outcome,
        },
        "spatial_cv": report.spatial_cv,
        "interval": {"promised": report.promised, "coverage": report.coverage},
        "segments": to_plain(report.segments),
        "deciles": to_plain(report.deciles),
        "capped": to_plain(report.capped),
    }


def write_bundle_of(
    folder: Path,
    state: RunState,
    choice: FinalChoice,
    final: FinalModel,
    interval: ConformalInterval,
    report: EvaluationReport,
    card: str,
) -> ModelBundle:
    """Write the run's bundle into `folder`, with the model card `card`, Markdown."""
    settings, contract = state.settings, state.settings.contract
    train, members = needed(state.train, "segregate"), choice.members
    name, params = members[0].family, members[0].params
    lineage = {
        "data_hash": state.content_hash,
        "source": state.source,
        "rows": {"train": len(train), "test": len(report.actual), "refused": state.refused},
        "code_commit": code_commit(),
        "code_version": code_version(
            ["core", "contract", "settings", "data", "trees", "features", "modeling", "selection"]
        ),
        "config": {
            "features": to_plain(settings.features),
            "segregate": to_plain(settings.segregate),
            "impute": {**to_plain(settings.impute), "chosen": dict(state.imputation)},
            "selection": to_plain(settings.selection),
            # where trials and versions are kept changes no model, and may hold a password
            "sweep": _without(settings.sweep, "storage", "study"),
            "register": _without(settings.register, "alias"),
        },
        "seed": settings.seed,
        "libraries": library_versions(),
        "family": name,
        "params": params,
        "members": to_plain(members),
        "bias_factor": choice.bias.factor,
        "baseline": {"params": BASELINE_PARAMS, "outcome": choice.baseline.outcome},
    }
    parts = BundleParts(
        name=contract.model_name,
        origin=needed(state.origin, "download"),
        contract=contract,
        features=needed(state.fitted, "features"),
        model=final.model,
        model_kind=name,
        contributions=final.contributions,
        target=state.transform,
        interval=interval,
        parity=final.parity,
        golden=train.X[:20],
        metrics=metrics_of(state, report, choice),
        lineage=lineage,
        profile=reference_profile(
            train.X, train.y, contract, state.transform.inverse(choice.random_cv.score)
        ),
        card=card,
        **watched_parts(state, choice.random_cv, interval),
    )
    return write_bundle(folder, parts)


def _without(settings: Any, *names: str) -> dict[str, Any]:
    return {key: value for key, value in to_plain(settings).items() if key not in names}


def _move_in(draft: ModelBundle, bundles: Path) -> ModelBundle:
    """Move a bundle to the folder of its version; an equal one that is there already is kept.

    What is left of a damaged one is moved aside: nothing is deleted.
    """
    folder = bundles / draft.version
    bundles.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        try:
            bundle = load_bundle(folder, trusted=None)
        except BundleError as error:
            kept = folder.with_name(f"{folder.name}.damaged-{secrets.token_hex(3)}")
            folder.rename(kept)
            _log.warning("%s: moved to %s", error, kept.name)
        else:
            shutil.rmtree(draft.folder)
            return bundle
    draft.folder.rename(folder)
    return load_bundle(folder, trusted=None)


def _model_facts(state: RunState, choice: FinalChoice, report: EvaluationReport) -> ModelFacts:
    train, contract = needed(state.train, "segregate"), state.settings.contract
    cap = contract.target.cap
    return ModelFacts(
        model=" and ".join(describe_member(member) for member in choice.members),
        version="the version in this bundle's manifest.json",
        trained="the time in this bundle's manifest.json",
        origin=needed(state.origin, "download"),
        source=needed(state.source, "download"),
        data_hash=needed(state.content_hash, "download"),
        code_commit=code_commit(),
        bundle_hash="in this bundle's manifest.json",
        train_rows=len(train),
        test_rows=len(report.actual),
        refused_rows=state.refused,
        train_range=(float(train.y.min()), float(train.y.max())),
        capped_share=None if cap is None else float(np.mean(train.y >= cap)),
        interval_coverage=(report.coverage, report.promised),
        test_openings=report.openings,
    )
