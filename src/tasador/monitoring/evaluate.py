"""From a counted window to a `Verdict`: every check, and none of them stops another."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tasador.contract.model import Column
from tasador.core import clock
from tasador.core.errors import install_command
from tasador.monitoring.checks import performance
from tasador.monitoring.checks.data_quality import check_quality
from tasador.monitoring.checks.drift import (
    FEWEST_ROWS,
    ColumnComparison,
    DomainClassifierResult,
    check_columns,
    classify_domain,
    compare_column,
)
from tasador.monitoring.checks.performance import (
    check_concept,
    check_segments,
    estimated_figures,
    measured_figures,
)
from tasador.monitoring.checks.service_levels import (
    check_predictions,
    check_refused,
    check_service,
    hit_rate,
)
from tasador.monitoring.metrics import indicators
from tasador.monitoring.reference import Reference
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.verdict import LEVELS, ColumnDrift, Finding, Level, Verdict, overall
from tasador.monitoring.window import Window
from tasador.monitoring.window_summary import WindowSummary
from tasador.records.refused import RefusedCounts

_TOGETHER = "all columns together"


def evaluate(
    reference: Reference,
    windows: Window | Iterable[Window],
    thresholds: Thresholds | None = None,
    *,
    domain_classifier: bool = True,
    refused: RefusedCounts | None = None,
) -> Verdict:
    """Evaluate a window given whole or in batches.

    Args:
        reference: Known good rows.
        windows: The window's rows.
        thresholds: The limits; the defaults when None.
        domain_classifier: Whether to look at columns together, which takes some tenths of a second.
        refused: What was refused in the window's time; None when that is not known.
    """
    tally = WindowSummary(reference)
    for window in [windows] if isinstance(windows, Window) else windows:
        tally.add(window)
    return evaluate_summary(
        tally, thresholds or Thresholds(), domain_classifier=domain_classifier, refused=refused
    )


def evaluate_summary(
    tally: WindowSummary,
    thresholds: Thresholds,
    *,
    domain_classifier: bool = True,
    refused: RefusedCounts | None = None,
) -> Verdict:
    """Evaluate what was counted; see `evaluate`."""
    reference = tally.reference
    findings = [*tally.problems]
    if tally.impossible_outcomes:
        text = (
            f"{tally.impossible_outcomes} outcomes are no possible value of the target, "
            f"expected {tally.target_bounds.expected}: left out"
        )
        numbers = {"rows": tally.impossible_outcomes}
        findings.append(Finding("input", "outcomes", "warn", text, numbers))
    if not tally.n:
        findings.append(Finding("input", "window", "cannot_tell", "the window has no rows"))
    classified, note = (
        _classified(tally, thresholds) if domain_classifier else (None, "not asked for")
    )
    drift, more = _drift(tally, thresholds, classified, note)
    findings += [*check_quality(tally, thresholds), *more]
    measured, about = measured_figures(tally, thresholds)
    estimated, foreseen = estimated_figures(tally, thresholds)
    if measured and not estimated:  # what is known need not be estimated
        foreseen = []
    findings += [
        *about,
        *check_segments(tally, thresholds),
        *foreseen,
        *check_concept(tally, thresholds),
    ]
    findings += [*check_predictions(tally, thresholds), *check_service(tally, thresholds)]
    if refused is not None:
        findings.append(check_refused(refused, tally.n, thresholds))
        findings += hit_rate(refused, tally.n)
    # stable: findings of one level keep the order of the checks
    findings.sort(key=lambda finding: -LEVELS.index(finding.level))
    timed = tally.begins <= tally.ends
    figures = (*measured, *estimated)
    return Verdict(
        level=overall(findings),
        rows=tally.n,
        reference=reference.version,
        reference_rows=reference.n,
        made=clock.timestamp(),
        begins=clock.show_moment(tally.begins) if timed else None,
        ends=clock.show_moment(tally.ends) if timed else None,
        findings=tuple(findings),
        drift=drift,
        figures=figures,
        segments=performance.segments(tally),
        timeline=performance.timeline(tally),
        versions=performance.versions(tally),
        indicators=indicators(findings, drift, figures, reference.unit or ""),
    )


def _drift(
    tally: WindowSummary,
    thresholds: Thresholds,
    classified: DomainClassifierResult | None,
    note: str,
) -> tuple[tuple[ColumnDrift, ...], list[Finding]]:
    """Evaluate columns and estimates as one family, known values and errors as another."""
    reference = tally.reference
    inputs = [
        compare_column(column, profile, window)
        for column, profile, window in zip(
            reference.columns, reference.profiles, tally.columns, strict=True
        )
    ]
    number = {"kind": "number"}
    if reference.prediction is not None and tally.prediction is not None and tally.prediction.n:
        column = Column("(prediction)", **number)  # type: ignore[arg-type]
        # in one family with the columns: estimates follow from them
        inputs.append(compare_column(column, reference.prediction, tally.prediction))
    others = [] if classified is None else [classified.p_value]
    drift, corrected = check_columns(inputs, thresholds, others)
    outcomes: list[ColumnComparison] = []
    for name, profile, summary in (
        ("(target)", reference.target, tally.target),
        ("(error)", reference.residual, tally.residual),
    ):
        if profile is not None and summary is not None and summary.n:
            column = Column(name, **number)  # type: ignore[arg-type]
            outcomes.append(compare_column(column, profile, summary))
    # a family of its own: outcomes come weeks later and must not weaken the tests of inputs
    outcome_drift, _ = check_columns(outcomes, thresholds)
    findings = [_of_column(one) for one in (*drift, *outcome_drift)]
    if outcomes and (level := _level_of_prices(tally)) is not None:
        findings.append(level)
    findings.append(_domain_classifier(tally, classified, corrected, note, thresholds))
    return (*drift, *outcome_drift), findings


_NUMBERS = ("psi", "psi_chance", "psi_limit", "p_value", "p_adjusted", "ks", "wasserstein",
            "jensen_shannon", "cramers_v")  # fmt: skip
_CHECKS = {"(target)": "label", "(error)": "concept"}


def _level_of_prices(tally: WindowSummary) -> Finding | None:
    """Say what the trend of prices, which the model knows, explains of a shift of the target."""
    reference, transform = tally.reference, tally.reference.transform
    if transform is None or transform.trend is None:
        return None
    dates = reference.dates(tally.with_outcomes.rows()[:, : len(reference.columns)])
    if dates is None or not len(dates):
        return None
    level = float(transform.trend.at(dates).mean())
    change = f"{100 * np.expm1(level):+.1f}%" if transform.kind == "log" else f"{level:+,.4g}"
    text = (
        f"the model's trend has the window's sales at {change} of its newest level; estimates and "
        "outcomes are compared at that level"
    )
    return Finding("label", "level of prices", "ok", text, {"level": level})


def _of_column(drift: ColumnDrift) -> Finding:
    numbers = {name: getattr(drift, name) for name in _NUMBERS}
    check = _CHECKS.get(drift.name, "drift")
    return Finding(check, drift.name, drift.level, drift.reason, numbers)


def _classified(
    tally: WindowSummary, thresholds: Thresholds
) -> tuple[DomainClassifierResult | None, str]:
    looked_at = _classified_columns(tally.reference)
    if not looked_at:
        return None, "there is nothing but the rows' time"
    window = tally.rows.rows()[:, looked_at]
    fewest = min(len(window), len(tally.reference.rows))
    if fewest < max(FEWEST_ROWS, thresholds.min_rows):
        return None, f"{fewest} rows are too few for it, at least {FEWEST_ROWS} are needed"
    try:
        return classify_domain(tally.reference.rows[:, looked_at], window), ""
    except ImportError:
        return None, f"it needs LightGBM: {install_command('train')}"


def _classified_columns(reference: Reference) -> list[int]:
    """Return the places of the columns; without the rows' time, by which any two windows differ."""
    return [i for i, column in enumerate(reference.columns) if column.role != "timestamp"]


def _domain_classifier(
    tally: WindowSummary,
    classified: DomainClassifierResult | None,
    corrected: tuple[float, ...],
    note: str,
    thresholds: Thresholds,
) -> Finding:
    if classified is None:
        return Finding("together", _TOGETHER, "cannot_tell", note)
    auc, p = classified.auc, corrected[0]
    level: Level = "ok"
    if p <= thresholds.chance and auc >= thresholds.auc_warn:
        level = "alert" if auc >= thresholds.auc_alert else "warn"
    names = [tally.reference.names[i] for i in _classified_columns(tally.reference)]
    most = [names[i] for i in np.argsort(-classified.importance)[:3]]
    text = f"a classifier tells the window from the reference with an AUC of {auc:.3f}"
    if level != "ok":
        text += f", most by {', '.join(most)}"
    numbers = {"auc": auc, "p_value": classified.p_value, "p_adjusted": p}
    return Finding("together", _TOGETHER, level, text, numbers)
