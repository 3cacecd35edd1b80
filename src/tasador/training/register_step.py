"""Register: fit on train, evaluate once on the held-out test set, bundle, register."""

from __future__ import annotations

import logging
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core import seeds
from tasador.core.errors import BundleError, TrainingError
from tasador.core.hashing import code_version, to_plain, without_nan
from tasador.data import sources
from tasador.data.profile import reference_profile
from tasador.data.row_groups import declared_groups
from tasador.data.table import Origin, Part
from tasador.metrics.ratio_study import By
from tasador.modeling.confidence import LEAST_COVERAGE, MOST_COVERAGE, ConfidenceModel
from tasador.modeling.conformal import ConformalInterval, calibrate
from tasador.modeling.monotone import MonotoneCheck, check_monotone, promise
from tasador.modeling.training_rows import TrainingRows
from tasador.monitoring.error_estimation import error_inputs, fit_error_model
from tasador.monitoring.reference import build_reference
from tasador.registry.known_sales import KnownSales, short_text
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.registry.writer import BundleParts, write_bundle
from tasador.reporting.model_card import ModelFacts, decision_table, to_markdown, write_model_card
from tasador.selection.diagnostics import Diagnostics, diagnose
from tasador.selection.feature_worth import BASELINE_PARAMS
from tasador.selection.folds import assign_folds
from tasador.selection.test_metrics import CrossValidation, EvaluationReport, evaluate
from tasador.settings.run import ModelSettings
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
    Estimates,
    FinalChoice,
    FinalModel,
    FittedModel,
    all_rows,
    choose_final,
    expected_errors,
    fit_final,
    is_refitted,
    prove,
    segments_of,
    spatial_cross_validation,
)
from tasador.training.model_steps import pipeline_of
from tasador.training.register_card import (
    comparison,
    confidence_figures,
    decisions,
    describe_member,
    document_of,
    evenness,
    fill_card,
    headline,
    show_choice,
    show_diagnostics,
    show_intervals,
    show_known_again,
    show_stretch,
    with_bundle,
)
from tasador.trees.onnx_model import OnnxRegressor

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shipped:
    """What the bundle is made from.

    Attributes:
        made: The rows that its model learned from, and their features.
        final: The model.
        interval: The interval, calibrated on errors of the model that was evaluated.
        confidence: How large its errors are where, and the graph of that model's trees.
        estimates: Estimates of rows by models that had not seen them, forward in time.
        own: What training rows are valued by later; None where they are not known again.
        refitted: Whether another model was evaluated, which had not seen the test part.
    """

    made: Evidence
    final: FinalModel
    interval: ConformalInterval
    confidence: tuple[ConfidenceModel, bytes] | None
    estimates: Estimates
    own: TrainingRows | None
    refitted: bool


def watched_parts(run: RunContext, train: Part, found: Estimates) -> dict[str, Any]:
    """Return the arguments of `BundleParts` that monitoring needs, from out-of-fold estimates.

    Too few rows, or errors that are all zero, ship without an error model.
    """
    transform = run.transform
    X, y = train.X[found.rows], train.y[found.rows]
    log = transform.kind == "log"
    predicted = transform.inverse(found.score)
    half = found.half_widths
    low, high = transform.inverse(found.score - half), transform.inverse(found.score + half)
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
        held=found.rows,
        prediction=predicted,
        actual=y,
        log=log,
        error_model=model,
    )
    return {"reference": reference.state(), "error_model": graph}


_log = logging.getLogger(__name__)
_SCALE = "comparables_spread"
_PROMISES = (0.5, 0.8, 0.9, 0.95)
_PAIRS = 10_000
#: Most training rows that are valued again.
_VALUED_AGAIN = 5000


def register(run: RunContext, out: StepOutput, made: Evidence) -> None:
    """Make the bundle and everything that vouches for it."""
    sweep, folder, card = made.sweep.result, out.folder, out.card
    name, params, contract = sweep.family, sweep.final_params, run.settings.contract
    choice = choose_final(run, made)
    cv, random_cv = choice.cv, choice.random_cv
    spatial_cv = spatial_cross_validation(run, made, choice)
    evaluated = fit_final(run, made, choice)
    interval = _interval(run, made, cv, spatial_cv)
    learnt = expected_errors(run, made, cv, spatial_cv)
    confidence = None if learnt is None else learnt[0]
    report = _evaluate(run, made, evaluated.onnx, interval, cv, random_cv, spatial_cv, confidence)
    shipped = _shipped(run, made, choice, evaluated, interval, learnt)
    report = replace(report, openings=tuple(made.rows.test.openings))
    decided = decisions(run.settings, made, choice, interval, confidence)
    checks = _check_monotone(run, made, evaluated.onnx, report)
    unstretched = _unstretched(run, made, evaluated.onnx, report, choice)
    cuts = run.settings.register.confidence_cuts
    facts = replace(
        _model_facts(made, choice, report, contract, shipped),
        kept=(*(check.sentence for check in checks), *evenness(choice, report, unstretched)),
    )
    document = document_of(contract, facts, report, decided, choice, cuts)
    card_text = to_markdown(document)
    metrics = metrics_of(made.table.origin, report, choice, cuts)
    if checks:
        metrics["monotone"] = to_plain(checks)
    if shipped.refitted:
        metrics["measured"] = facts.refit_note
    draft = write_bundle_of(
        folder / "bundle", run, made, choice, shipped, report, metrics, card_text
    )
    bundle = _move_in(draft, run.bundles)
    write_model_card(folder, with_bundle(document, run.settings.seed, bundle, report))
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
            "measured": facts.refit_note,
            "comparison": comparison(contract, report, choice),
        },
    )
    fill_card(document, card, bundle, shipped.final.parity, report)
    for check in checks:
        card.fact(
            f"{promise(check.column, check.direction)}: violations",
            check.violations,
            f"of {check.pairs:,} pairs of held-out rows that differ in it alone",
        )
    if choice.stretch is not None:
        show_stretch(card, choice.stretch, report, unstretched)
    card.add(decision_table(document, "How the model was chosen"))
    show_choice(card, choice, shipped.final.microseconds, run.settings.sweep.metric)
    show_diagnostics(card, _diagnose(run, made))
    show_known_again(card, *_known_again(run, made, bundle), report.test["median_ape"].value)
    calibration = _calibration(run, made, cv, interval, report, confidence)
    show_intervals(card, calibration, interval.coverage)


def load_register(run: RunContext, folder: Path) -> TrainedModel:
    """Read the outcome; a bundle that is gone or damaged makes the step run again."""
    outcome = load_json(folder / "outcome.json")
    load_bundle(run.bundles / outcome["folder"], trusted=None)
    return TrainedModel(outcome, folder)


def _shipped(
    run: RunContext,
    made: Evidence,
    choice: FinalChoice,
    evaluated: FittedModel,
    interval: ConformalInterval,
    learnt: tuple[ConfidenceModel, bytes] | None,
) -> Shipped:
    """Return the evaluated model, or where that is wanted one fitted again on all rows."""
    cv, settings, every, fitted = choice.cv, run.settings, made, evaluated
    confidence = None if learnt is None else learnt[0]
    low, high = _bounds_of(run, made, cv, interval, confidence)
    estimates = Estimates(cv.rows, cv.score, (high - low) / 2.0)
    own, refitted = _out_of_fold(cv, choice.random_cv), is_refitted(settings, made.rows)
    if refitted:
        every, gain, held = all_rows(run, made, evaluated.onnx, interval, confidence)
        estimates, own = (found.moved(gain).joined(held) for found in (estimates, own))
        if interval.scale_index is not None:  # features may differ where other gaps are known
            scale = every.features.fitted.names.index(_SCALE)
            interval = replace(interval, scale_index=scale)
        if learnt is not None:
            names = every.features.fitted.names
            learnt = learnt[0].of_features(made.features.fitted.names, names), learnt[1]
        fitted = fit_final(run, every, choice)
    final = prove(run, fitted, every.features.Z, seeds.derive_seed(settings.seed, "parity"))
    rows = None
    if settings.register.out_of_fold and settings.contract.rows_have_identity:
        half = own.half_widths if refitted else None
        rows = TrainingRows.of(every.train.X[own.rows], own.score, half)
    return Shipped(every, final, interval, learnt, estimates, rows, refitted)


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
    segments = segments_of(run.settings.contract, made.train.X[cv.rows])
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
        ends = own.bounds(cv.score, cv.Z)
        if confidence is not None:
            asked = min(max(promised, LEAST_COVERAGE), MOST_COVERAGE)
            ends = _bounds_of(run, made, cv, interval, confidence, asked)
            Z, segments = fitted.transform(report.X), segments_of(run.settings.contract, report.X)
            factor = confidence.times_usual(Z, score, segments, asked)
        held = float(np.mean(off <= half * factor))
        widths = (_mean_width(run, found) for found in (ends, constant.bounds(cv.score, cv.Z)))
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
        far, level_error, fsd = fitted.far(Z), transform.level_error(dates), None
        if confidence is None:
            lower, upper = interval.bounds(score, Z, far, level_error)
        else:
            segments = segments_of(run.settings.contract, X)
            lower, upper, fsd = confidence.bounds(Z, score, segments, far, level_error)
        estimate, low, high = (transform.inverse(s, dates) for s in (score, lower, upper))
        return estimate, low, high, fsd

    def groups(part: Part) -> By:
        contract = run.settings.contract
        if not contract.fairness:
            return {}
        frame = sources.read_stored(run.workspace / "data", made.table.content_hash)
        return declared_groups(contract, part, frame)

    actual = made.train.y[cv.rows]
    errors = np.full(len(actual), np.nan)
    off = 100.0 * np.abs(run.transform.inverse(cv.score) - actual)
    np.divide(off, np.abs(actual), out=errors, where=actual != 0)
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
        found_on=(made.train.X[cv.rows], errors),
        by=groups,
    )


def _check_monotone(
    run: RunContext, made: Evidence, onnx: OnnxRegressor, report: EvaluationReport
) -> list[MonotoneCheck]:
    """Count on held-out rows where estimates go the other way than `model.monotone` asks."""
    monotone = run.settings.model.monotone
    if not monotone:
        return []
    fitted = made.features.fitted
    return check_monotone(
        lambda X: run.transform.inverse(onnx.predict(fitted.transform(X))),
        run.settings.contract,
        report.X,
        monotone,
        pairs=_PAIRS,
        seed=run.settings.seed,
    )


def _unstretched(
    run: RunContext,
    made: Evidence,
    onnx: OnnxRegressor,
    report: EvaluationReport,
    choice: FinalChoice,
) -> Floats:
    """Return what the test rows (n,) are estimated as without the stretch of `even_ratios`."""
    if choice.stretch is None:
        return report.predicted
    at = run.settings.contract.timestamp_position
    score = choice.unstretched(onnx.predict(made.features.fitted.transform(report.X)))
    transform = replace(run.transform, trend=made.rows.trend)
    return transform.inverse(score, None if at is None else report.X[:, at])


def _known_again(run: RunContext, made: Evidence, bundle: ModelBundle) -> tuple[Floats, Floats]:
    """Return what training rows cost and what the bundle says that they are worth, each (k,).

    Of many rows, an even part; none without a positive price.
    """
    train, transform = made.train, replace(run.transform, trend=made.rows.trend)
    rows = np.linspace(0, len(train) - 1, min(len(train), _VALUED_AGAIN)).astype(np.intp)
    rows = rows[train.y[rows] > 0]
    dates = None if train.time is None else train.time[rows]
    paid = transform.recorded(transform.forward(train.y[rows]), dates)
    return paid, bundle.predict(train.X[rows])


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
        "weakest_segments": without_nan(to_plain(report.weakest)),
        **({"fairness": without_nan(to_plain(report.fairness))} if report.fairness else {}),
    } | ({} if report.fsd is None else {"confidence": confidence_figures(report, cuts)})


def write_bundle_of(
    folder: Path,
    run: RunContext,
    made: Evidence,
    choice: FinalChoice,
    shipped: Shipped,
    report: EvaluationReport,
    metrics: dict[str, Any],
    card: str,
) -> ModelBundle:
    """Write the run's bundle into `folder`, with the model card `card`, Markdown."""
    settings, contract = run.settings, run.settings.contract
    every, final, members = shipped.made, shipped.final, choice.members
    train = every.train
    name, params = members[0].family, members[0].params
    lineage = {
        "data_hash": made.table.content_hash,
        "source": made.table.source,
        "rows": _row_counts(made, report, shipped),
        "code_commit": code_commit(),
        "code_version": code_version(
            ["core", "contract", "settings", "data", "trees", "features", "modeling", "selection"]
        ),
        "config": {
            "features": to_plain(settings.features),
            "segregate": {**to_plain(settings.segregate), "method": made.rows.method},
            "impute": {**to_plain(settings.impute), "chosen": made.features.choice.imputation},
            "selection": to_plain(settings.selection),
            # where trials and versions are kept changes no model, and may hold a password
            "sweep": _without(settings.sweep, "storage", "study"),
            "register": _without(settings.register, "alias"),
        }
        | ({} if settings.model == ModelSettings() else {"model": to_plain(settings.model)}),
        "seed": settings.seed,
        "libraries": library_versions(),
        "family": name,
        "params": params,
        "members": to_plain(members),
        "bias_factor": choice.bias.factor,
        "baseline": {"params": BASELINE_PARAMS, "outcome": choice.baseline.outcome},
    }
    if choice.stretch is not None:
        lineage["stretch"] = {"factor": choice.stretch.factor, "shift": choice.stretch.shift}
    parts = BundleParts(
        name=contract.model_name,
        origin=made.table.origin,
        contract=contract,
        features=every.features.fitted,
        model=final.model,
        model_kind=name,
        contributions=final.contributions,
        target=replace(run.transform, trend=every.rows.trend),
        interval=shipped.interval,
        parity=final.parity,
        golden=train.X[:20],  # valued again at each load: few enough to take no time
        metrics=metrics,
        lineage=lineage,
        profile=reference_profile(
            train.X, train.y, contract, run.transform.inverse(shipped.estimates.score)
        ),
        card=card,
        training_rows=shipped.own,
        confidence=shipped.confidence,
        known_sales=_known_sales(run, every),
        **watched_parts(run, train, shipped.estimates),
    )
    return write_bundle(folder, parts)


def _row_counts(made: Evidence, report: EvaluationReport, shipped: Shipped) -> dict[str, Any]:
    """Return how many rows each part has; `refit` are all those that the shipped model knows."""
    rows = {"train": len(made.train), "test": len(report.actual), "refused": made.rows.refused}
    again = {"refit": len(shipped.made.train)} if shipped.refitted else {}
    left_out = {"left_out": dict(made.rows.left_out)} if made.rows.left_out else {}
    return {**rows, **again, **left_out}


def _out_of_fold(cv: CrossValidation, random_cv: CrossValidation | None) -> Estimates:
    """Return out-of-fold scores; of rows that no fold forward in time held out, the random ones."""
    rows, scores = cv.rows, cv.score
    if random_cv is not None:
        rest = ~np.isin(random_cv.rows, rows)
        rows = np.concatenate([rows, random_cv.rows[rest]])
        scores = np.concatenate([scores, random_cv.score[rest]])
    return Estimates(rows, scores, np.full(len(rows), np.nan))


def _known_sales(run: RunContext, made: Evidence) -> KnownSales | None:
    """Return what explanations say of comparables; None where there are none."""
    fitted, train, contract = made.features.fitted, made.train, run.settings.contract
    pipeline, target = pipeline_of(run, made.features.choice), run.transform.forward(train.y)
    index = None
    # comparables that do not pay as features are evidence all the same, unless switched off
    if fitted.index is None and run.settings.features.comparables is None:
        fitted = pipeline.with_index(fitted, train.X, target)
        index = fitted.index
    if fitted.index is None:
        return None
    order = pipeline.comparables_rows(fitted, train.X, target)
    named = contract.comparables
    columns = [*([] if named.identifier is None else [named.identifier]), *named.label]
    if not columns or train.row is None:
        return KnownSales(train.X[order], index=index)
    frame = sources.read_stored(run.workspace / "data", made.table.content_hash)
    texts = {
        name: [short_text(value) for value in frame[name].gather(train.row[order])]
        for name in dict.fromkeys(columns)
    }
    parts = [texts[name] for name in named.label]
    labels = [short_text(", ".join(filter(None, cells))) for cells in zip(*parts, strict=True)]
    identifiers = tuple(texts.get(named.identifier or "", ()))
    return KnownSales(train.X[order], identifiers, tuple(labels), index)


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
    made: Evidence,
    choice: FinalChoice,
    report: EvaluationReport,
    contract: TableContract,
    shipped: Shipped,
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
        refitted=shipped.refitted,
    )
