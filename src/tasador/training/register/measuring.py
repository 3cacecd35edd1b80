"""Register: what the fitted model is measured by: intervals, the test part, promises kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import TrainingError
from tasador.data import sources
from tasador.data.row_groups import declared_groups, rival_values
from tasador.data.table import Part, Table
from tasador.data.validation import validate_table
from tasador.metrics.ratio_study import By
from tasador.metrics.regression import relative_errors
from tasador.modeling.confidence import LEAST_COVERAGE, MOST_COVERAGE, ConfidenceModel
from tasador.modeling.conformal import ConformalInterval, calibrate
from tasador.modeling.monotone import MonotoneCheck, check_monotone
from tasador.registry.model_bundle import ModelBundle
from tasador.selection.diagnostics import Diagnostics, diagnose
from tasador.selection.folds import assign_folds
from tasador.selection.test_metrics import CrossValidation, EvaluationReport, evaluate
from tasador.training.backtest import Backtest, value_spans
from tasador.training.context import (
    Evidence,
    RunContext,
)
from tasador.training.final_model import (
    FinalChoice,
    interval_ends,
    segments_of,
)
from tasador.training.model_steps import pipeline_of
from tasador.trees.onnx_model import OnnxRegressor

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]

#: The feature by which intervals are scaled.
SCALE = "comparables_spread"
_PROMISES = (0.5, 0.8, 0.9, 0.95)
_PAIRS = 10_000
#: Most training rows that are valued again.
_VALUED_AGAIN = 5000


def interval_of(
    run: RunContext, made: Evidence, cv: CrossValidation, spatial: CrossValidation | None
) -> ConformalInterval:
    """Calibrate on out-of-fold errors, scaled by how much a row's comparables differ.

    How much wider it is far from every comparable is measured with whole areas held out.
    """
    fitted = made.features.fitted
    names, target = fitted.names, run.transform.forward(made.train.y)
    scale = names.index(SCALE) if SCALE in names else None
    coverage = run.settings.register.coverage
    interval = calibrate(target[cv.rows] - cv.score, cv.Z, coverage, scale)
    if spatial is None:
        return interval
    errors = target[spatial.rows] - spatial.score
    return interval.widened(errors, spatial.Z, fitted.far(spatial.Z))


def bounds_of(
    run: RunContext,
    made: Evidence,
    cv: CrossValidation,
    interval: ConformalInterval,
    confidence: ConfidenceModel | None,
    coverage: float | None = None,
) -> tuple[Floats, Floats]:
    """Return the ends of the out-of-fold rows' intervals, on the model's scale."""
    X, contract = made.train.X[cv.rows], run.settings.contract
    ends = interval_ends(contract, interval, confidence, X, cv.Z, cv.score, coverage=coverage)
    return ends[:2]


def calibration(
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
    Z, segments = fitted.transform(report.X), segments_of(run.settings.contract, report.X)
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
            ends = bounds_of(run, made, cv, interval, confidence, asked)
            factor = confidence.times_usual(Z, score, segments, asked)
        held = float(np.mean(off <= half * factor))
        widths = (_mean_width(run, found) for found in (ends, constant.bounds(cv.score, cv.Z)))
        rows.append((promised, held, *widths))
    return rows  # type: ignore[return-value]


def _mean_width(run: RunContext, ends: tuple[Floats, Floats]) -> float:
    """Return the mean width of intervals given on the model's scale, in the target's unit."""
    low, high = ends
    return float(np.mean(run.transform.inverse(high) - run.transform.inverse(low)))


def diagnose_model(run: RunContext, made: Evidence) -> Diagnostics:
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


def evaluate_model(
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
        beside = fitted.far(Z), transform.level_error(dates)
        lower, upper, fsd = interval_ends(
            run.settings.contract, interval, confidence, X, Z, score, *beside
        )
        estimate, low, high = (transform.inverse(s, dates) for s in (score, lower, upper))
        return estimate, low, high, fsd

    def groups(part: Part) -> By:
        contract = run.settings.contract
        if not contract.fairness:
            return {}
        return declared_groups(contract, part, table())

    def rivals(part: Part) -> Mapping[str, Floats]:
        contract = run.settings.contract
        return rival_values(contract, part, table()) if contract.rivals else {}

    @cache
    def table() -> pl.DataFrame:
        return sources.read_stored(run.workspace / "data", made.table.content_hash)

    errors = 100.0 * relative_errors(made.train.y[cv.rows], run.transform.inverse(cv.score))
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
        rivals=rivals,
    )


def count_violations(
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


def unstretched(
    run: RunContext,
    made: Evidence,
    onnx: OnnxRegressor,
    report: EvaluationReport,
    choice: FinalChoice,
) -> Floats:
    """Return what the test rows (n,) are estimated as without the stretch of `even_ratios`."""
    at = run.settings.contract.timestamp_position
    score = choice.unstretched(onnx.predict(made.features.fitted.transform(report.X)))
    transform = replace(run.transform, trend=made.rows.trend)
    return transform.inverse(score, None if at is None else report.X[:, at])


def backtest_of(run: RunContext, made: Evidence, bundle: ModelBundle) -> Backtest:
    """Value the newest years by what was known before them.

    All rows of the table are taken, as by `tasador backtest`.

    Raises:
        BacktestError: There are too few sales before each year.
        TrainingError: Too little was known for a model of that kind.
    """
    settings, how, stored = run.settings, run.settings.segregate, made.table
    frame = sources.read_stored(run.workspace / "data", stored.content_hash)
    table = validate_table(
        Table(frame, stored.content_hash, stored.origin, stored.source),
        settings.contract,
        max_refused_share=how.max_refused_share,
        min_rows=how.min_rows,
    )
    newest = settings.register.backtest
    return value_spans(bundle, settings, table, run.workspace / "data", newest=newest)


def known_again(run: RunContext, made: Evidence, bundle: ModelBundle) -> tuple[Floats, Floats]:
    """Return what training rows cost and what the bundle says that they are worth, each (k,).

    Of many rows, an even part; none without a positive price.
    """
    train, transform = made.train, replace(run.transform, trend=made.rows.trend)
    rows = np.linspace(0, len(train) - 1, min(len(train), _VALUED_AGAIN)).astype(np.intp)
    rows = rows[train.y[rows] > 0]
    dates = None if train.time is None else train.time[rows]
    paid = transform.recorded(transform.forward(train.y[rows]), dates)
    return paid, bundle.predict(train.X[rows])
