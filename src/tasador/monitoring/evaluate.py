"""From a counted window to a `Verdict`: every check, none of which stops another."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tasador.contract.model import Column
from tasador.core import clock
from tasador.core.errors import install_command
from tasador.monitoring.checks import slices
from tasador.monitoring.checks.data_quality import judge_quality
from tasador.monitoring.checks.domain_classifier import FEWEST_ROWS, Separation, separate
from tasador.monitoring.checks.drift import Measured, judge_columns, measure
from tasador.monitoring.checks.performance import (
    estimated_figures,
    judge_concept,
    judge_segments,
    measured_figures,
)
from tasador.monitoring.checks.service_levels import judge_answers, judge_refused, judge_service
from tasador.monitoring.indicators import indicators
from tasador.monitoring.summaries.reference import Reference
from tasador.monitoring.summaries.window_summary import Tally
from tasador.monitoring.thresholds import Rules
from tasador.monitoring.verdict import LEVELS, ColumnDrift, Finding, Level, Verdict, overall
from tasador.monitoring.window import Window
from tasador.records.refused import RefusedCounts

_TOGETHER = "all columns together"


def judge(reference: Reference, windows: Window | Iterable[Window], rules: Rules | None = None,
          *, together: bool = True, refused: RefusedCounts | None = None) -> Verdict:  # fmt: skip
    """Judge a window given whole or in batches.

    Args:
        reference: Known good rows.
        windows: The window's rows.
        rules: The limits; the defaults when None.
        together: Whether to look at columns together, which takes some tenths of a second.
        refused: What was refused in the window's time; None when that is not known.
    """
    tally = Tally(reference)
    for window in [windows] if isinstance(windows, Window) else windows:
        tally.add(window)
    return judge_tally(tally, rules or Rules(), together=together, refused=refused)


def judge_tally(
    tally: Tally, rules: Rules, *, together: bool = True, refused: RefusedCounts | None = None
) -> Verdict:
    """Judge what was counted; see `judge`."""
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
    separation, note = _separation(tally, rules) if together else (None, "not asked for")
    drift, more = _drift(tally, rules, separation, note)
    findings += [*judge_quality(tally, rules), *more]
    measured, about = measured_figures(tally, rules)
    estimated, foreseen = estimated_figures(tally, rules)
    if measured and not estimated:  # what is known need not be estimated
        foreseen = []
    findings += [*about, *judge_segments(tally, rules), *foreseen, *judge_concept(tally, rules)]
    findings += [*judge_answers(tally, rules), *judge_service(tally, rules)]
    if refused is not None:
        findings.append(judge_refused(refused, tally.n, rules))
    findings.sort(key=lambda finding: -LEVELS.index(finding.level))
    timed = tally.begins <= tally.ends
    figures = (*measured, *estimated)
    return Verdict(
        level=overall(findings),
        rows=tally.n,
        reference=reference.version,
        reference_rows=reference.n,
        made=clock.timestamp(),
        begins=slices.iso(tally.begins) if timed else None,
        ends=slices.iso(tally.ends) if timed else None,
        findings=tuple(findings),
        drift=drift,
        figures=figures,
        segments=slices.segments(tally),
        timeline=slices.timeline(tally),
        versions=slices.versions(tally),
        indicators=indicators(findings, drift, figures, reference.unit or ""),
    )


def _drift(
    tally: Tally, rules: Rules, separation: Separation | None, note: str
) -> tuple[tuple[ColumnDrift, ...], list[Finding]]:
    """Judge columns and estimates as one family, known values and errors as another."""
    reference = tally.reference
    inputs = [
        measure(column, profile, window)
        for column, profile, window in zip(
            reference.columns, reference.profiles, tally.columns, strict=True
        )
    ]
    number = {"kind": "number"}
    if reference.prediction is not None and tally.prediction is not None and tally.prediction.n:
        column = Column("(prediction)", **number)  # type: ignore[arg-type]
        inputs.append(measure(column, reference.prediction, tally.prediction))
    others = [] if separation is None else [separation.p_value]
    drift, corrected = judge_columns(inputs, rules, others)
    outcomes: list[Measured] = []
    for name, profile, summary in (
        ("(target)", reference.target, tally.target),
        ("(error)", reference.residual, tally.residual),
    ):
        if profile is not None and summary is not None and summary.n:
            column = Column(name, **number)  # type: ignore[arg-type]
            outcomes.append(measure(column, profile, summary))
    late, _ = judge_columns(outcomes, rules)
    findings = [_of_column(one) for one in (*drift, *late)]
    findings.append(_together(tally, separation, corrected, note, rules))
    return (*drift, *late), findings


_NUMBERS = ("psi", "psi_chance", "psi_limit", "p_value", "p_adjusted", "ks", "wasserstein",
            "jensen_shannon", "cramers_v")  # fmt: skip
_CHECKS = {"(target)": "label", "(error)": "concept"}


def _of_column(drift: ColumnDrift) -> Finding:
    numbers = {name: getattr(drift, name) for name in _NUMBERS}
    check = _CHECKS.get(drift.name, "drift")
    return Finding(check, drift.name, drift.level, drift.reason, numbers)


def _separation(tally: Tally, rules: Rules) -> tuple[Separation | None, str]:
    looked_at = _looked_at_together(tally.reference)
    if not looked_at:
        return None, "there is nothing but the rows' time"
    window = tally.rows.rows()[:, looked_at]
    fewest = min(len(window), len(tally.reference.rows))
    if fewest < max(FEWEST_ROWS, rules.min_rows):
        return None, f"{fewest} rows are too few for it, at least {FEWEST_ROWS} are needed"
    try:
        return separate(tally.reference.rows[:, looked_at], window), ""
    except ImportError:
        return None, f"it needs LightGBM: {install_command('train')}"


def _looked_at_together(reference: Reference) -> list[int]:
    """Return the places of the columns; without the rows' time, by which any two windows differ."""
    return [i for i, column in enumerate(reference.columns) if column.role != "timestamp"]


def _together(
    tally: Tally,
    separation: Separation | None,
    corrected: tuple[float, ...],
    note: str,
    rules: Rules,
) -> Finding:
    if separation is None:
        return Finding("together", _TOGETHER, "cannot_tell", note)
    auc, p = separation.auc, corrected[0]
    level: Level = "ok"
    if p <= rules.chance and auc >= rules.auc_warn:
        level = "alert" if auc >= rules.auc_alert else "warn"
    names = [tally.reference.names[i] for i in _looked_at_together(tally.reference)]
    most = [names[i] for i in np.argsort(-separation.importance)[:3]]
    text = f"a classifier tells the window from the reference with an AUC of {auc:.3f}"
    if level != "ok":
        text += f", most by {', '.join(most)}"
    numbers = {"auc": auc, "p_value": separation.p_value, "p_adjusted": p}
    return Finding("together", _TOGETHER, level, text, numbers)
