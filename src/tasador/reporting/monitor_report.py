"""The report of a monitor's verdict, one HTML file that loads nothing: first what is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasador.core import storage
from tasador.core.languages import Language
from tasador.metrics.regression import ACCEPTED, METRICS, label
from tasador.monitoring.verdict import LEVELS, ColumnDrift, Group, Verdict
from tasador.reporting.cards import (
    CardTable,
    Figure,
    amount,
    render,
    verdict_text,
    without_empty,
)
from tasador.reporting.plots import (
    ACCENT,
    INK,
    MUTED,
    SECOND,
    SOFT,
    TROUBLE,
    bars,
    drawn,
    format_axes,
    short,
)
from tasador.reporting.spanish import in_language

_MOST_BINS = 24
_PLOTTED_COLUMNS = 30
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")
_COLOUR = {"ok": ACCENT, "warn": SECOND, "alert": TROUBLE, "cannot_tell": SOFT}


def drift_overview(columns: tuple[ColumnDrift, ...]) -> Figure:
    """Show the columns' PSI, the largest first, each in the colour of its level."""
    known = sorted((c for c in columns if c.psi is not None), key=lambda c: -(c.psi or 0.0))
    known = known[:_PLOTTED_COLUMNS]

    def draw(axes: Any) -> None:
        values = np.array([c.psi for c in known], dtype=float)
        # a missing feed reaches 15: without a ceiling nothing else could be seen
        shown = np.minimum(values, 1.0)
        limits = np.array([c.psi_limit for c in known], dtype=float)
        span = max(float(shown.max()), float(limits.max()) * 1.02)
        bars(axes, [c.name for c in known], shown, colours=[_COLOUR[c.level] for c in known],
             texts=[""] * len(known))  # fmt: skip
        axes.set_xlim(0, span * 1.18)
        axes.scatter(limits, np.arange(len(known)), marker="|", s=120, color=INK, linewidth=1.2)
        for place, (value, length) in enumerate(zip(values, shown, strict=True)):
            axes.text(length + span * 0.015, place, f"{value:.3g}", va="center", color=MUTED,
                      fontsize=7.5)  # fmt: skip

    caption = "Population stability index; the mark is what counts as drift at this window's size."
    return drawn("Drift by column", caption, draw, height=0.9 + 0.26 * max(len(known), 1))


class Bin(NamedTuple):
    """A bin of a column, with its share of the rows in percent; widths are of the longest bar."""

    name: str
    before: float
    now: float
    before_width: float
    now_width: float


def column_bins(column: ColumnDrift) -> list[Bin]:
    """Return the bins of one column, reference beside window; of many, those that changed most."""
    before = np.array(column.reference_share) * 100.0
    now = np.array(column.window_share) * 100.0
    order = np.arange(len(before))
    if len(order) > _MOST_BINS:
        order = np.sort(np.argsort(-np.abs(now - before), kind="stable")[:_MOST_BINS])
    longest = float(max(before[order].max(), now[order].max())) or 1.0
    names = [_bin_name(column, column.bins[i]) for i in order.tolist()]
    shares = zip(before[order].tolist(), now[order].tolist(), strict=True)
    return [
        Bin(name, was, now_, 100.0 * was / longest, 100.0 * now_ / longest)
        for name, (was, now_) in zip(names, shares, strict=True)
    ]


def _bin_name(column: ColumnDrift, name: str) -> str:
    return short(name, 40) if column.kind == "category" else readable(name)


def readable(text: str) -> str:
    """Return a text with its large numbers written out: ``1.073e+05`` is ``107,300``."""
    return _NUMBER.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    text = match[0]
    value = float(text)
    large = abs(value) >= 10_000 or ("e" in text and abs(value) >= 1)
    return amount(float(f"{value:.6g}")) if large and math.isfinite(value) else text


def segment_errors(segments: tuple[Group, ...]) -> Figure | None:
    """Show each segment's MAPE with its interval; None without outcomes."""
    some = [g for g in segments if g.mape is not None]
    if not some:
        return None
    spread = np.array([[g.mape_low or g.mape, g.mape_high or g.mape] for g in some], dtype=float)

    def draw(axes: Any) -> None:
        values = np.array([g.mape for g in some], dtype=float)
        bars(axes, [g.name for g in some], values, spread=spread,
             texts=[f"{g.mape:.1f}%  ({g.outcomes})" for g in some])  # fmt: skip

    caption = "Mean absolute percentage error with its 95% interval; in brackets the outcomes."
    return drawn("Error by segment", caption, draw, height=0.9 + 0.3 * len(some))


def over_time(timeline: tuple[Group, ...]) -> Figure | None:
    """Show rows, mean estimate and error by span of time; None without times."""
    if len(timeline) < 2:
        return None
    place = np.arange(len(timeline))
    series: list[tuple[str, list[float | None]]] = [("rows", [float(g.rows) for g in timeline])]
    series += [
        (name, values)
        for name, values in (
            ("mean estimate", [g.prediction for g in timeline]),
            ("MAPE, %", [g.mape for g in timeline]),
            ("latency p95, ms", [g.latency_p95 for g in timeline]),
        )
        if any(v is not None for v in values)
    ]

    def draw(axes: Any) -> None:
        for ax, (name, values) in zip(np.atleast_1d(axes), series, strict=True):
            ax.plot(place, np.array(values, dtype=float), color=ACCENT, marker="o", markersize=2)
            ax.set_ylabel(name)
            ax.set_xticks([])
            format_axes(ax, y=True)
        last = np.atleast_1d(axes)[-1]
        ticks = np.unique(np.linspace(0, len(place) - 1, min(6, len(place))).astype(int))
        last.set_xticks(ticks, [timeline[i].name[:16].replace("T", " ") for i in ticks],
                        rotation=30, ha="right")  # fmt: skip

    title, caption = "Over time", "By span of time, each named by its start in UTC."
    return drawn(title, caption, draw, height=0.5 + 1.15 * len(series), shape=(len(series), 1))


def pictures(verdict: Verdict) -> tuple[Figure, ...]:
    """Return the pictures that the whole window has."""
    found = [segment_errors(verdict.segments), over_time(verdict.timeline)]
    if any(column.psi is not None for column in verdict.drift):
        found.insert(0, drift_overview(verdict.drift))
    return tuple(figure for figure in found if figure is not None)


_MOST_COLUMNS = 40
_WORDS = {"ok": "ok", "warn": "warning", "alert": "alert", "cannot_tell": "cannot tell"}
#: What checks look at, for people; in the order in which the headline names them.
CHECKS = {
    "performance": "Errors",
    "concept": "Errors beyond the rows' own",
    "prediction": "Estimates",
    "input": "Reading the rows",
    "refused": "Refused rows",
    "quality": "Quality of the inputs",
    "drift": "Change of the inputs",
    "together": "Inputs taken together",
    "estimate": "Estimated errors",
    "latency": "Speed of the service",
    "answers": "Rows with an answer",
    "label": "Known outcomes",
}
_HEADLINES = {
    "performance": "The model errs more than it may",
    "concept": "The model errs more than rows like these explain",
    "prediction": "The estimates are not what they used to be",
    "input": "The rows cannot be read as they should",
    "refused": "Rows are refused",
    "quality": "The inputs have faults",
    "drift": "The inputs have changed",
    "together": "The inputs have changed",
    "estimate": "The model probably errs more than it may",
    "latency": "The service is slow or fails",
}
_CALM = {
    "ok": "The rows look like the reference",
    "cannot_tell": "Cannot tell whether anything has changed",
}


def headline(verdict: Verdict) -> tuple[str, str]:
    """Return what is wrong in a few words, and the finding that says so with its figures.

    Of the worst findings, errors that are too large come before changed inputs.
    """
    worst = [f for f in verdict.trouble if f.level == verdict.level]
    if not worst:
        return _CALM.get(verdict.level, "Something has changed"), ""
    order = list(CHECKS)
    first = min(worst, key=lambda f: order.index(f.check) if f.check in order else len(order))
    same = [f.subject for f in worst if f.check == first.check]
    title = _HEADLINES.get(first.check, "Something has changed")
    if first.check in ("drift", "quality"):
        title += f": {_listed([short(name, 40) for name in same])}"
    # metrics are named in their reason
    named = first.check in ("performance", "estimate")
    subject = "" if named else f"{short(first.subject, 60)}: "
    return title, f"{subject}{readable(first.reason)}"


def _subject(name: str) -> str:
    """Return what a finding is about, a metric by its label."""
    return label(name) if name in METRICS else name


def _listed(names: Sequence[str]) -> str:
    shown, more = ", ".join(names[:3]), len(names) - 3
    return shown + (f" and {more} more" if more > 0 else "")


def write_monitor_report(path: Path, verdict: Verdict, language: Language = "en") -> Path:
    """Write the report and return its path.

    Raises:
        StorageError: The file cannot be written.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    columns = [c for c in verdict.drift if c.bins]
    columns.sort(key=lambda c: (-LEVELS.index(c.level), -(c.psi or 0.0)))
    title, detail = headline(verdict)
    text = render(
        "monitor.html.j2",
        verdict=verdict,
        words=_WORDS,
        checks=CHECKS,
        headline=title,
        detail=detail,
        readable=readable,
        subject=_subject,
        pictures=pictures(verdict),
        columns=[(c, column_bins(c)) for c in columns[:_MOST_COLUMNS]],
        tables=_tables(verdict),
    )
    names = {c.name for c in verdict.drift if not c.name.startswith("(")}
    storage.write_text(path, in_language(text, language, names))
    return path


def _tables(verdict: Verdict) -> tuple[CardTable, ...]:
    drift = CardTable(
        "Drift of every column",
        ("column", "level", "PSI", "counts from", "p adjusted", "KS",
         "Wasserstein / std", "Jensen-Shannon", "Cramér's V"),
        tuple(
            (c.name, _WORDS[c.level], c.psi, c.psi_limit, c.p_adjusted, c.ks, c.wasserstein,
             c.jensen_shannon, c.cramers_v)
            for c in verdict.drift
        ),
        note="A column drifts when its PSI is past what counts at this window's size and its "
        "p-value, corrected for the number of columns, is small.",
    )  # fmt: skip
    figures = CardTable(
        "Metrics",
        ("metric", "value", "low", "high", "reference", "limit", "IAAO's range"),
        tuple(
            (_title(f.name) + (" (estimated)" if f.estimated else ""), f.value, f.low, f.high,
             f.reference, f.limit, verdict_text(f.met))
            for f in verdict.figures
        ),
        note="95% intervals. Estimated figures come from the model of the error, without outcomes. "
        f"The IAAO accepts {_ranges()}.",
    )  # fmt: skip
    findings = CardTable(
        "Everything that was looked at",
        ("check", "what", "level", "why"),
        tuple(
            (CHECKS.get(f.check, f.check), _subject(f.subject), _WORDS[f.level], readable(f.reason))
            for f in verdict.findings
        ),
    )
    groups = [
        _group_table(title, some)
        for title, some in (
            ("Segments", verdict.segments),
            ("Versions", verdict.versions),
            ("Timeline", verdict.timeline),
        )
        if some
    ]
    some = [drift, figures] if verdict.figures else [drift]
    return (*some, *groups, findings)


def _ranges() -> str:
    return ", ".join(f"{label(n)} {low:g} to {high:g}" for n, (low, high) in ACCEPTED.items())


def _title(name: str) -> str:
    return "coverage" if name == "coverage" else label(name)


def _group_table(title: str, groups: tuple[Group, ...]) -> CardTable:
    return without_empty(CardTable(
        title,
        ("name", "rows", "outcomes", "mean estimate", "MAPE", "low", "high", "within 10%", "ratio",
         "coverage", "latency p95", "failed"),
        tuple(
            (g.name, g.rows, g.outcomes, g.prediction, g.mape, g.mape_low, g.mape_high,
             g.within_10, g.ratio, g.coverage, g.latency_p95, g.failures)
            for g in groups
        ),
    ))  # fmt: skip
