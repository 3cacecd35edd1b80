"""Register: fit on train, evaluate once on the sealed part, bundle, register."""

from __future__ import annotations

import logging
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import BundleError
from tasador.core.fingerprints import code_version, to_plain
from tasador.data.profile import reference_profile
from tasador.flows import evaluation_plots
from tasador.flows.cards import CardBuilder
from tasador.flows.lineage import code_commit, library_versions
from tasador.flows.model_card import ModelFacts, SegmentFigure, model_card
from tasador.flows.report import Comparison, Headline
from tasador.flows.state import RunState, load_json, needed, save_json
from tasador.flows.steps.model_steps import pipeline_of, random_folds
from tasador.metrics.regression import HIGHER_IS_BETTER, IN_TARGET_UNIT, label
from tasador.modeling.interval import ConformalInterval, calibrate
from tasador.modeling.onnx_export import to_onnx
from tasador.modeling.onnx_model import OnnxRegressor
from tasador.modeling.parity import Parity, check_parity, lightgbm_predictor
from tasador.modeling.trees import TreeEnsemble
from tasador.registry.bundle import BundleParts, ModelBundle, load_bundle, write_bundle
from tasador.selection.evaluate import (
    CrossValidation,
    EvaluationReport,
    cross_validate,
    evaluate,
)
from tasador.selection.families import family
from tasador.selection.folds import blocked_assignment, make_folds

_log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
HEADLINE = ("rmse", "mae", "r2", "mape", "wmape", "median_ape", "within_10")
_SCALE = "comparables_spread"


def register(state: RunState, folder: Path, card: CardBuilder) -> None:
    """Make the bundle and everything that vouches for it."""
    sweep = needed(state.sweep, "sweep")
    name, params = sweep.family, sweep.final_params
    random_cv = _cross_validate(state, name, params, blocked=False)
    spatial_cv = None
    if state.settings.contract.coordinates is not None:
        spatial_cv = _cross_validate(state, name, params, blocked=True)
    model, onnx, parity = _fit(state, name, params)
    interval = _interval(state, random_cv)
    report = _evaluate(state, onnx, interval, random_cv, spatial_cv)
    draft = write_bundle_of(folder / "bundle", state, name, params, model, parity, interval, report)
    bundle = _move_in(draft, state.bundles)
    metrics = metrics_of(state, report)
    save_json(
        folder / "outcome.json",
        {
            "version": bundle.version,
            "folder": bundle.folder.name,
            "family": name,
            "params": params,
            "metrics": metrics,
            "headline": headline(state, report),
            "comparison": comparison(state, report),
        },
    )
    _fill_card(state, card, bundle, parity, report)


def load_register(state: RunState, folder: Path) -> None:
    """Take the outcome; a bundle that is gone or damaged makes the step run again."""
    outcome = load_json(folder / "outcome.json")
    load_bundle(state.bundles / outcome["folder"])
    state.outcome = outcome


def _cross_validate(
    state: RunState, name: str, params: dict[str, Any], *, blocked: bool
) -> CrossValidation:
    settings, train = state.settings, needed(state.train, "segregate")
    if blocked:
        points = needed(state.fitted, "features").points(train.X)
        n_folds = settings.register.spatial_folds
        assignment = blocked_assignment(points, n_folds, settings.seed)
        folds: Any = make_folds(train, assignment, pipeline_of(state), state.transform)
    else:
        n_folds = settings.selection.folds
        folds = random_folds(state)
    return cross_validate(
        name,
        params,
        folds,
        train,
        state.transform,
        settings.seed,
        names=needed(state.fitted, "features").names,
        n_folds=n_folds,
        description="spatial cross-validation" if blocked else "cross-validation",
    )


def _fit(state: RunState, name: str, params: dict[str, Any]) -> tuple[bytes, OnnxRegressor, Parity]:
    """Fit on all training rows, export, and prove that the export answers as the library does."""
    settings, train = state.settings, needed(state.train, "segregate")
    Z, chosen = needed(state.Z, "features"), family(name)
    fitted = chosen.fit(
        params, Z, state.transform.forward(train.y), seeds.derive_seed(settings.seed, name)
    )
    exported = chosen.export(fitted)
    model = to_onnx(exported)
    onnx = OnnxRegressor(model, threads=2)
    library = lightgbm_predictor(fitted) if name == "lightgbm" else fitted.predict
    thresholds = exported.thresholds() if isinstance(exported, TreeEnsemble) else None
    parity = check_parity(
        library,
        onnx,
        Z,
        rows=settings.register.parity_rows,
        seed=seeds.derive_seed(settings.seed, "parity"),
        thresholds=thresholds,
    )
    return model, onnx, parity


def _interval(state: RunState, cv: CrossValidation) -> ConformalInterval:
    """Calibrate on out-of-fold errors, scaled by how much a row's comparables differ."""
    names = needed(state.fitted, "features").names
    target = state.transform.forward(needed(state.train, "segregate").y)
    scale = names.index(_SCALE) if _SCALE in names else None
    return calibrate(target - cv.score, cv.Z, state.settings.register.coverage, scale)


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
        lower, upper = interval.bounds(score, Z)
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


def metrics_of(state: RunState, report: EvaluationReport) -> dict[str, Any]:
    """Return what goes into ``metrics.json``; equal runs give equal bytes."""
    return {
        "origin": state.origin,
        "test": {name: estimate.value for name, estimate in report.test.items()},
        "test_intervals": {n: [e.low, e.high] for n, e in report.test.items()},
        "random_cv": report.random_cv,
        "spatial_cv": report.spatial_cv,
        "interval": {"promised": report.promised, "coverage": report.coverage},
        "segments": to_plain(report.segments),
    }


def _unit(state: RunState, metric: str) -> str:
    if metric in IN_TARGET_UNIT:
        return state.settings.contract.target.unit or ""
    return "" if metric == "r2" else "%"


def headline(state: RunState, report: EvaluationReport) -> tuple[Headline, ...]:
    """Return the test metrics for the report's tiles."""
    return tuple(
        Headline(
            metric=label(name),
            value=report.test[name].value,
            low=report.test[name].low,
            high=report.test[name].high,
            unit=_unit(state, name),
            better="higher" if name in HIGHER_IS_BETTER else "lower",
        )
        for name in HEADLINE
    )


def comparison(state: RunState, report: EvaluationReport) -> tuple[Comparison, ...]:
    """Return each metric on the test part beside its cross-validated values."""
    spatial = report.spatial_cv or {}
    return tuple(
        Comparison(
            label(name),
            report.test[name].value,
            report.random_cv[name],
            spatial.get(name),
            _unit(state, name),
        )
        for name in HEADLINE
    )


def write_bundle_of(
    folder: Path,
    state: RunState,
    name: str,
    params: dict[str, Any],
    model: bytes,
    parity: Parity,
    interval: ConformalInterval,
    report: EvaluationReport,
) -> ModelBundle:
    """Write the run's bundle into `folder`."""
    settings, contract = state.settings, state.settings.contract
    train = needed(state.train, "segregate")
    lineage = {
        "data_hash": state.content_hash,
        "source": state.source,
        "code_commit": code_commit(),
        "code_version": code_version(["core", "data", "features", "modeling", "selection"]),
        "config": {
            "features": to_plain(settings.features),
            "segregate": to_plain(settings.segregate),
            "impute": {**to_plain(settings.impute), "chosen": dict(state.imputation)},
            "selection": to_plain(settings.selection),
            "sweep": to_plain(settings.sweep),
        },
        "seed": settings.seed,
        "libraries": library_versions(),
        "family": name,
        "params": params,
    }
    parts = BundleParts(
        name=contract.model_name,
        origin=needed(state.origin, "download"),
        contract=contract,
        features=needed(state.fitted, "features"),
        model=model,
        model_kind=name,
        target=state.transform,
        interval=interval,
        parity=parity,
        golden=train.X[:20],
        metrics=metrics_of(state, report),
        lineage=lineage,
        profile=reference_profile(train.X, train.y, contract),
        card=_model_card(state, name, params, report, lineage),
    )
    return write_bundle(folder, parts)


def _move_in(draft: ModelBundle, bundles: Path) -> ModelBundle:
    """Move a bundle to the folder of its version; an equal one that is there already is kept.

    What is left of a damaged one is moved aside: nothing is deleted.
    """
    folder = bundles / draft.version
    bundles.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        try:
            bundle = load_bundle(folder)
        except BundleError as error:
            kept = folder.with_name(f"{folder.name}.damaged-{secrets.token_hex(3)}")
            folder.rename(kept)
            _log.warning("%s: moved to %s", error, kept.name)
        else:
            shutil.rmtree(draft.folder)
            return bundle
    draft.folder.rename(folder)
    return load_bundle(folder)


def _model_card(
    state: RunState,
    name: str,
    params: dict[str, Any],
    report: EvaluationReport,
    lineage: dict[str, Any],
) -> str:
    train, contract = needed(state.train, "segregate"), state.settings.contract
    cap = contract.target.cap
    facts = ModelFacts(
        model=f"{family(name).title} ({', '.join(f'{k}={v}' for k, v in params.items())})",
        version="the version in this bundle's manifest.json",
        trained="the time in this bundle's manifest.json",
        origin=needed(state.origin, "download"),
        source=needed(state.source, "download"),
        data_hash=needed(state.content_hash, "download"),
        code_commit=lineage["code_commit"],
        bundle_hash="in this bundle's manifest.json",
        train_rows=len(train),
        test_rows=len(report.actual),
        refused_rows=state.refused,
        train_range=(float(train.y.min()), float(train.y.max())),
        capped_share=None if cap is None else float(np.mean(train.y >= cap)),
        interval_coverage=(report.coverage, report.promised),
        test_openings=report.openings,
    )
    segments = [SegmentFigure(s.name, s.rows, s.mape, s.within_10) for s in report.segments]
    return model_card(contract, facts, headline(state, report), comparison(state, report), segments)


def _fill_card(
    state: RunState,
    card: CardBuilder,
    bundle: ModelBundle,
    parity: Parity,
    report: EvaluationReport,
) -> None:
    contract = state.settings.contract
    card.fact("Bundle", bundle.version, str(bundle.folder))
    card.fact(
        "Parity with the training library",
        f"{parity.max_relative:.1e}",
        f"largest difference on {parity.rows:,} generated rows",
    )
    card.fact(
        f"{report.promised:.0%} interval holds",
        f"{report.coverage:.1%} of the test rows",
    )
    card.table(
        "Test part, opened once",
        ("metric", "value", "95% from", "to", "random CV", "spatial CV"),
        [
            (
                label(n),
                e.value,
                e.low,
                e.high,
                report.random_cv[n],
                (report.spatial_cv or {}).get(n),
            )
            for n, e in report.test.items()
        ],
        note="Intervals by bootstrap over the test rows.",
    )
    if report.segments:
        card.table(
            "By segment",
            ("segment", "rows", "MAPE", "within 10%", "interval holds"),
            [(s.name, s.rows, s.mape, s.within_10, s.coverage * 100) for s in report.segments],
        )
        card.figure(
            evaluation_plots.segment_bars(
                [s.name for s in report.segments],
                np.array([s.mape for s in report.segments]),
                [s.rows for s in report.segments],
                metric="MAPE",
            )
        )
    card.figure(
        evaluation_plots.predicted_actual(
            report.actual, report.predicted, unit=contract.target.unit, cap=contract.target.cap
        ),
        evaluation_plots.decile_errors(report.actual, report.predicted),
    )
    if contract.coordinates is not None:
        longitude, latitude = (report.X[:, contract.position(c.name)] for c in contract.coordinates)
        percent = (report.predicted - report.actual) / report.actual * 100.0
        card.figure(evaluation_plots.residual_map(longitude, latitude, percent))
