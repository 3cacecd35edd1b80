"""Register: fit on train, evaluate once on the held-out test set, bundle, register."""

from __future__ import annotations

import logging
import secrets
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core import seeds
from tasador.core.errors import BundleError, TrainingError
from tasador.core.hashing import code_version, to_plain
from tasador.data.profile import reference_profile
from tasador.data.table import Origin, Part
from tasador.modeling.confidence import (
    LEAST_COVERAGE,
    MOST_COVERAGE,
    ConfidenceModel,
    JointRange,
)
from tasador.modeling.conformal import ConformalInterval, calibrate
from tasador.modeling.expected_errors import fit_confidence
from tasador.modeling.training_rows import TrainingRows
from tasador.monitoring.error_estimation import error_inputs, fit_error_model
from tasador.monitoring.reference import build_reference
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.registry.writer import BundleParts, write_bundle
from tasador.reporting.model_card import ModelFacts, decision_table, to_markdown, write_model_card
from tasador.selection.diagnostics import Diagnostics, diagnose
from tasador.selection.feature_worth import BASELINE_PARAMS
from tasador.selection.folds import assign_folds
from tasador.selection.test_metrics import CrossValidation, EvaluationReport, evaluate
from tasador.training.context import (
    Evidence,
    RunContext,
    StepOutput,
    TrainedModel,
    code_commit,
    library_versions,
    load_json,
    save_json,
)
from tasador.training.final_model import (
    FinalChoice,
    FinalModel,
    choose_final,
    fit_final,
    random_cross_validation,
    spatial_cross_validation,
)
from tasador.training.model_steps import pipeline_of
from tasador.training.register_card import (
    comparison,
    confidence_figures,
    decisions,
    describe_member,
    document_of,
    fill_card,
    headline,
    show_choice,
    show_diagnostics,
    show_intervals,
    with_bundle,
)
from tasador.trees.onnx_model import OnnxRegressor

Floats = NDArray[np.float64]


def watched_parts(
    run: RunContext,
    made: Evidence,
    cv: CrossValidation,
    interval: ConformalInterval,
    confidence: ConfidenceModel | None = None,
) -> dict[str, Any]:
    """Return the arguments of `BundleParts` that monitoring needs, from out-of-fold estimates.

    Too few rows, or errors that are all zero, ship without an error model.
    """
    train, transform = made.train, run.transform
    X, y = train.X[cv.rows], train.y[cv.rows]
    log = transform.kind == "log"
    predicted = transform.inverse(cv.score)
    ends = _bounds_of(run, made, cv, interval, confidence)
    low, high = (transform.inverse(bound) for bound in ends)
    model = graph = None
    with suppress(TrainingError):  # estimated performance is then "cannot tell"
        model, graph = fit_error_model(
            error_inputs(X, predicted, low, high, log=log),
            y,
            predicted,
            log=log,
            seed=seeds.derive_seed(run.settings.seed, "errors"),
        )
    reference = build_reference(
        run.settings.contract.features,
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


def register(run: RunContext, out: StepOutput, made: Evidence) -> None:
    """Make the bundle and everything that vouches for it."""
    sweep, folder, card = made.sweep.result, out.folder, out.card
    name, params, contract = sweep.family, sweep.final_params, run.settings.contract
    choice = choose_final(run, made)
    cv, random_cv = choice.cv, random_cross_validation(run, made, choice)
    spatial_cv = spatial_cross_validation(run, made, choice)
    final = fit_final(run, made, choice, seeds.derive_seed(run.settings.seed, "parity"))
    interval = _interval(run, made, cv, spatial_cv)
    confidence = _confidence(run, made, cv, spatial_cv)
    shipped = None if confidence is None else confidence[0]
    report = _evaluate(run, made, final.onnx, interval, cv, random_cv, spatial_cv, shipped)
    decided = decisions(run.settings, made, choice, interval, shipped)
    document = document_of(
        contract, _model_facts(made, choice, report, contract), report, decided, choice,
        run.settings.register.confidence_cuts,
    )  # fmt: skip
    kept = run.settings.register.out_of_fold and contract.rows_have_identity
    own = _training_rows(made.train, cv, random_cv) if kept else None
    draft = write_bundle_of(
        folder / "bundle", run, made, choice, final, interval, report, own, to_markdown(document),
        confidence,
    )  # fmt: skip
    bundle = _move_in(draft, run.bundles)
    write_model_card(folder, with_bundle(document, run.settings.seed, bundle, report))
    cuts = run.settings.register.confidence_cuts
    metrics = metrics_of(made.table.origin, report, choice, cuts)
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
    fill_card(document, card, bundle, final.parity, report)
    card.add(decision_table(document, "How the model was chosen"))
    show_choice(card, choice, final.microseconds, run.settings.sweep.metric)
    show_diagnostics(card, _diagnose(run, made))
    calibration = _calibration(run, made, cv, interval, report, shipped)
    show_intervals(card, calibration, interval.coverage)


def load_register(run: RunContext, folder: Path) -> TrainedModel:
    """Read the outcome; a bundle that is gone or damaged makes the step run again."""
    outcome = load_json(folder / "outcome.json")
    load_bundle(run.bundles / outcome["folder"], trusted=None)
    return TrainedModel(outcome, folder)


def _interval(
    run: RunContext, made: Evidence, cv: CrossValidation, spatial: CrossValidation | None
) -> ConformalInterval:
    """Calibrate on out-of-fold errors, scaled by how much a row's comparables differ.

    How much wider it is far from every comparable is measured with whole areas held out.
    """
    fitted = made.features.fitted
    names, target = fitted.names, run.transform.forward(made.train.y)
    scale = names.index(_SCALE) if _SCALE in names else None
    coverage = run.settings.register.coverage
    interval = calibrate(target[cv.rows] - cv.score, cv.Z, coverage, scale)
    if spatial is None:
        return interval
    errors = target[spatial.rows] - spatial.score
    return interval.widened(errors, spatial.Z, fitted.far(spatial.Z))


def _confidence(
    run: RunContext, made: Evidence, cv: CrossValidation, spatial: CrossValidation | None
) -> tuple[ConfidenceModel, bytes] | None:
    """Learn the size of errors out of fold; None where there are too few rows for it."""
    settings, train, contract = run.settings.register, made.train, run.settings.contract
    target = run.transform.forward(train.y)
    numbers = [
        position
        for position, column in enumerate(contract.features)
        if column.kind in ("number", "integer")
    ]
    try:
        model, graph = fit_confidence(
            cv.Z,
            cv.score,
            target[cv.rows],
            _segments(contract, train.X[cv.rows]),
            JointRange.of(train.X, np.array(numbers, dtype=np.intp)),
            log=run.transform.kind == "log",
            coverage=settings.coverage,
            cuts=settings.confidence_cuts,
            seed=seeds.derive_seed(run.settings.seed, "confidence"),
        )
    except TrainingError as error:
        _log.warning("estimates get no confidence: %s", error)
        return None
    if spatial is not None:
        rows, Z, score = spatial.rows, spatial.Z, spatial.score
        segments, far = _segments(contract, train.X[rows]), made.features.fitted.far(Z)
        model = model.widened(Z, score, segments, target[rows] - score, far)
    return model, graph


def _segments(contract: TableContract, X: Floats) -> Floats | None:
    column = contract.with_role("segment")
    return None if column is None else X[:, contract.position(column.name)]


def _bounds_of(
    run: RunContext,
    made: Evidence,
    cv: CrossValidation,
    interval: ConformalInterval,
    confidence: ConfidenceModel | None,
    coverage: float | None = None,
) -> tuple[Floats, Floats]:
    """Return the ends of the out-of-fold rows' intervals, on the model's scale."""
    if confidence is None:
        return interval.bounds(cv.score, cv.Z)
    segments = _segments(run.settings.contract, made.train.X[cv.rows])
    return confidence.bounds(cv.Z, cv.score, segments, coverage=coverage)[:2]


def _calibration(
    run: RunContext,
    made: Evidence,
    cv: CrossValidation,
    interval: ConformalInterval,
    report: EvaluationReport,
    confidence: ConfidenceModel | None,
) -> list[tuple[float, float, float, float]]:
    """Return, for several promises: promised, held of the test rows, mean width, constant width.

    Each is calibrated on the out-of-fold errors. Widths are those of the out-of-fold rows, in the
    target's unit; the constant one is what the same promise takes without a scale.
    """
    transform, fitted = run.transform, made.features.fitted
    errors = transform.forward(made.train.y[cv.rows]) - cv.score
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
        factor = np.array(own.quantile / interval.quantile if interval.quantile else 1.0)
        own_bounds = own.bounds(cv.score, cv.Z)
        if confidence is not None:
            asked = min(max(promised, LEAST_COVERAGE), MOST_COVERAGE)
            own_bounds = _bounds_of(run, made, cv, interval, confidence, asked)
            Z, segments = fitted.transform(report.X), _segments(run.settings.contract, report.X)
            sizes = [confidence.sizes(Z, score, segments, coverage=c).half for c in (asked, None)]
            factor = sizes[0] / sizes[1]
        held = float(np.mean(off <= half * factor))
        widths = (_mean_width(run, ends) for ends in (own_bounds, constant.bounds(cv.score, cv.Z)))
        rows.append((promised, held, *widths))
    return rows  # type: ignore[return-value]


def _mean_width(run: RunContext, ends: tuple[Floats, Floats]) -> float:
    """Return the mean width of intervals given on the model's scale, in the target's unit."""
    low, high = ends
    return float(np.mean(run.transform.inverse(high) - run.transform.inverse(low)))


def _diagnose(run: RunContext, made: Evidence) -> Diagnostics:
    """Look at the sweep's model, which is quicker to fit than the final one and ranks the same."""
    settings, train = run.settings, made.train
    sweep = made.sweep.result
    assignment = assign_folds(train, settings.selection.folds, settings.seed)
    return diagnose(
        sweep.family,
        sweep.best.params,
        pipeline_of(run, made.features.choice),
        train,
        assignment.rows(0),
        run.transform,
        metric=settings.sweep.metric,
        seed=settings.seed,
    )


def _evaluate(
    run: RunContext,
    made: Evidence,
    onnx: OnnxRegressor,
    interval: ConformalInterval,
    cv: CrossValidation,
    random_cv: CrossValidation | None,
    spatial_cv: CrossValidation | None,
    confidence: ConfidenceModel | None,
) -> EvaluationReport:
    fitted, at = made.features.fitted, run.settings.contract.timestamp_position
    transform = replace(run.transform, trend=made.rows.trend)

    def value(X: Floats) -> tuple[Floats, Floats, Floats, Floats | None]:
        Z, dates = fitted.transform(X), None if at is None else X[:, at]
        score = onnx.predict(Z)
        far, level_error = fitted.far(Z), transform.level_error(dates)
        fsd: Floats | None = None
        if confidence is None:
            lower, upper = interval.bounds(score, Z, far, level_error)
        else:
            segments = _segments(run.settings.contract, X)
            lower, upper, fsd = confidence.bounds(Z, score, segments, far, level_error)
        estimate, low, high = (transform.inverse(s, dates) for s in (score, lower, upper))
        return estimate, low, high, fsd

    return evaluate(
        value,
        made.rows.test,
        run.settings.contract,
        random_cv=(cv if random_cv is None else random_cv).metrics,
        time_cv=None if random_cv is None else cv.metrics,
        spatial_cv=None if spatial_cv is None else spatial_cv.metrics,
        promised=run.settings.register.coverage,
        draws=run.settings.register.bootstrap_draws,
        seed=run.settings.seed,
        reason="final figures of the registered model",
    )


def metrics_of(
    origin: Origin, report: EvaluationReport, choice: FinalChoice, cuts: tuple[float, float]
) -> dict[str, Any]:
    """Return what goes into ``metrics.json``; equal runs give equal bytes."""
    return {
        "origin": origin,
        "test": {name: estimate.value for name, estimate in report.test.items()},
        "test_intervals": {n: [e.low, e.high] for n, e in report.test.items()},
        "random_cv": report.random_cv,
        "time_cv": report.time_cv,
        "cv_spread": choice.cv.spread,
        "baseline": {
            "model": "plain LightGBM",
            "cv": choice.baseline.metrics,
            "outcome": choice.baseline.outcome,
        },
        "spatial_cv": report.spatial_cv,
        "interval": {"promised": report.promised, "coverage": report.coverage},
        "segments": to_plain(report.segments),
        "deciles": to_plain(report.deciles),
        "capped": to_plain(report.capped),
    } | ({} if report.fsd is None else {"confidence": confidence_figures(report, cuts)})


def write_bundle_of(
    folder: Path,
    run: RunContext,
    made: Evidence,
    choice: FinalChoice,
    final: FinalModel,
    interval: ConformalInterval,
    report: EvaluationReport,
    own: TrainingRows | None,
    card: str,
    confidence: tuple[ConfidenceModel, bytes] | None = None,
) -> ModelBundle:
    """Write the run's bundle into `folder`, with the model card `card`, Markdown."""
    settings, contract = run.settings, run.settings.contract
    train, members = made.train, choice.members
    name, params = members[0].family, members[0].params
    lineage = {
        "data_hash": made.table.content_hash,
        "source": made.table.source,
        "rows": {"train": len(train), "test": len(report.actual), "refused": made.rows.refused}
        | ({"left_out": dict(made.rows.left_out)} if made.rows.left_out else {}),
        "code_commit": code_commit(),
        "code_version": code_version(
            ["core", "contract", "settings", "data", "trees", "features", "modeling", "selection"]
        ),
        "config": {
            "features": to_plain(settings.features),
            "segregate": to_plain(settings.segregate),
            "impute": {**to_plain(settings.impute), "chosen": made.features.choice.imputation},
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
        origin=made.table.origin,
        contract=contract,
        features=made.features.fitted,
        model=final.model,
        model_kind=name,
        contributions=final.contributions,
        target=replace(run.transform, trend=made.rows.trend),
        interval=interval,
        parity=final.parity,
        golden=train.X[:20],  # valued again at each load: few enough to take no time
        metrics=metrics_of(made.table.origin, report, choice, settings.register.confidence_cuts),
        lineage=lineage,
        profile=reference_profile(
            train.X, train.y, contract, run.transform.inverse(choice.cv.score)
        ),
        card=card,
        training_rows=own,
        confidence=confidence,
        **watched_parts(
            run, made, choice.cv, interval, None if confidence is None else confidence[0]
        ),
    )
    return write_bundle(folder, parts)


def _training_rows(
    train: Part, cv: CrossValidation, random_cv: CrossValidation | None
) -> TrainingRows:
    """Keep out-of-fold scores; of rows that no fold forward in time held out, the random ones."""
    rows, scores = cv.rows, cv.score
    if random_cv is not None:
        rest = ~np.isin(random_cv.rows, rows)
        rows = np.concatenate([rows, random_cv.rows[rest]])
        scores = np.concatenate([scores, random_cv.score[rest]])
    return TrainingRows.of(train.X[rows], scores)


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


def _model_facts(
    made: Evidence, choice: FinalChoice, report: EvaluationReport, contract: TableContract
) -> ModelFacts:
    train = made.train
    cap = contract.target.cap
    return ModelFacts(
        model=" and ".join(describe_member(member) for member in choice.members),
        version="the version in this bundle's manifest.json",
        trained="the time in this bundle's manifest.json",
        origin=made.table.origin,
        source=made.table.source,
        data_hash=made.table.content_hash,
        code_commit=code_commit(),
        bundle_hash="in this bundle's manifest.json",
        train_rows=len(train),
        test_rows=len(report.actual),
        refused_rows=made.rows.refused,
        left_out=tuple(made.rows.left_out.items()),
        train_range=(float(train.y.min()), float(train.y.max())),
        capped_share=None if cap is None else float(np.mean(train.y >= cap)),
        interval_coverage=(report.coverage, report.promised),
        test_openings=report.openings,
    )
