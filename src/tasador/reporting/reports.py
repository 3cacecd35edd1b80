"""The reports, each one HTML file that loads nothing: of a run, and of a monitor's verdict.

A run's report shows what the run saw, chose and reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasador.core import storage
from tasador.metrics.regression import ACCEPTED, label
from tasador.monitoring.verdict import LEVELS, ColumnDrift, Group, Verdict
from tasador.reporting.cards import Card, CardTable, Figure, number, render, verdict_text
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

#: The order in which steps are shown; others follow in the order given.
STEP_ORDER = ("download", "segregate", "impute", "features", "select", "sweep", "register")


@dataclass(frozen=True, slots=True)
class Headline:
    """One test metric with its interval.

    Attributes:
        metric: Its label, e.g. ``RMSE``.
        value: On the held-out test set.
        low: Lower end of the 95% bootstrap interval.
        high: Upper end.
        unit: ``%``, the target's unit, or empty.
        better: Which direction is better.
    """

    metric: str
    value: float
    low: float
    high: float
    unit: str
    better: Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A metric on the test part beside its cross-validated values; None where not measured.

    `cv` is by folds that go forward in time where the rows were split by time, and `random_cv` then
    by random ones; else `cv` is by random folds. `spread` is the standard deviation between the
    folds of `cv`, `baseline` what a plain LightGBM reaches in them.
    """

    metric: str
    test: float | None
    cv: float | None
    spatial_cv: float | None
    unit: str = ""
    spread: float | None = None
    baseline: float | None = None
    random_cv: float | None = None

    @property
    def spatial_change(self) -> str | None:
        """How much the spatially blocked figure differs from the one by `cv`, in percent."""
        return _change(self.cv, self.spatial_cv)

    @property
    def optimism(self) -> str | None:
        """How much the figure by random folds differs from the one forward in time, in percent."""
        return _change(self.cv, self.random_cv)


def _change(before: float | None, after: float | None) -> str | None:
    if not before or after is None:
        return None
    change = (after / before - 1.0) * 100.0
    return ("+" if change >= 0 else "") + number(round(change)) + " %"


@dataclass(frozen=True, slots=True)
class BundleReference:
    """The bundle that a run made."""

    name: str
    version: str
    folder: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Everything that the report shows.

    Attributes:
        run_id: The run's id.
        dataset: The contract's name.
        title: What the table holds, for people.
        started: ISO 8601 in UTC.
        seconds: How long the run took.
        origin: ``real`` or ``synthetic``; None when no table was read.
        source: Where the table came from.
        content_hash: The table's content hash.
        unit: The target's unit.
        headline: Test metrics, the most important first.
        measured: By which model, where it is not the one in the bundle.
        comparison: The same metrics under cross-validation.
        bundle: What was made, or None when the run did not get there.
        sample: Lines of one sample valuation.
        cards: The steps' cards.
    """

    run_id: str
    dataset: str
    title: str
    started: str
    seconds: float
    origin: Literal["real", "synthetic"] | None
    source: str | None
    content_hash: str | None
    unit: str | None
    headline: tuple[Headline, ...] = ()
    comparison: tuple[Comparison, ...] = ()
    bundle: BundleReference | None = None
    sample: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
    measured: str = ""

    @property
    def steps(self) -> tuple[Card, ...]:
        """The cards in the order of the pipeline."""
        order = {step: position for position, step in enumerate(STEP_ORDER)}
        return tuple(sorted(self.cards, key=lambda card: order.get(card.step, len(order))))

    @property
    def trouble(self) -> tuple[Card, ...]:
        """The cards of steps that failed or were interrupted."""
        return tuple(card for card in self.steps if card.status in ("failed", "interrupted"))

    @property
    def by_time(self) -> bool:
        """Whether rows were split by time."""
        return any(row.random_cv is not None for row in self.comparison)


def write_report(path: Path, run: RunSummary) -> Path:
    """Write the report of a run and return its path.

    Raises:
        StorageError: The file cannot be written.
    """
    storage.write_text(path, render("report.html.j2", run=run))
    return path


_MOST_BINS = 24
_PLOTTED_COLUMNS = 30
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


def column_bins(column: ColumnDrift) -> Figure:
    """Show the bins of one column, reference and window side by side."""
    order = np.arange(len(column.bins))
    if len(order) > _MOST_BINS:
        gap = np.abs(np.subtract(column.window_share, column.reference_share))
        order = np.sort(np.argsort(-gap)[:_MOST_BINS])
    before = np.array(column.reference_share)[order] * 100
    now = np.array(column.window_share)[order] * 100

    def draw(axes: Any) -> None:
        place = np.arange(len(order))
        axes.bar(place - 0.2, before, width=0.38, color=SOFT, label="reference")
        axes.bar(place + 0.2, now, width=0.38, color=_COLOUR[column.level], label="window")
        names = [short(column.bins[i], 18) for i in order]
        axes.set_xticks(place, names, rotation=40, ha="right")
        axes.set_ylabel("share of the rows, %")
        format_axes(axes)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)

    return drawn(column.name, f"{column.level}: {column.reason}", draw, height=2.7)


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


def write_monitor_report(path: Path, verdict: Verdict) -> Path:
    """Write the report and return its path.

    Raises:
        StorageError: The file cannot be written.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    columns = [c for c in verdict.drift if c.bins]
    columns.sort(key=lambda c: (-LEVELS.index(c.level), -(c.psi or 0.0)))
    text = render(
        "monitor.html.j2",
        verdict=verdict,
        words=_WORDS,
        pictures=pictures(verdict),
        columns=[(c, column_bins(c)) for c in columns[:_MOST_COLUMNS]],
        tables=_tables(verdict),
    )
    storage.write_text(path, text)
    return path


def _tables(verdict: Verdict) -> tuple[CardTable, ...]:
    drift = CardTable(
        "Drift of every column",
        ("column", "level", "PSI", "by chance", "limit", "p adjusted", "KS", "KS p",
         "Wasserstein / std", "Jensen-Shannon", "Cramér's V"),
        tuple(
            (c.name, _WORDS[c.level], c.psi, c.psi_chance, c.psi_limit, c.p_adjusted, c.ks, c.ks_p,
             c.wasserstein, c.jensen_shannon, c.cramers_v)
            for c in verdict.drift
        ),
        note="A column drifts when its PSI is past the limit and the corrected p-value is small.",
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
        tuple((f.check, f.subject, _WORDS[f.level], f.reason) for f in verdict.findings),
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
    return CardTable(
        title,
        ("name", "rows", "outcomes", "mean estimate", "MAPE", "low", "high", "within 10%", "ratio",
         "coverage", "latency p95", "failed"),
        tuple(
            (g.name, g.rows, g.outcomes, g.prediction, g.mape, g.mape_low, g.mape_high,
             g.within_10, g.ratio, g.coverage, g.latency_p95, g.failures)
            for g in groups
        ),
    )  # fmt: skip
