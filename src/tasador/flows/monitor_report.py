"""The report of a verdict: one HTML file that loads nothing."""

from __future__ import annotations

from pathlib import Path

from tasador.core import files
from tasador.flows.cards import CardTable
from tasador.flows.monitor_plots import column_bins, pictures
from tasador.flows.pages import render
from tasador.metrics.regression import label
from tasador.monitoring.verdict import LEVELS, Group, Verdict

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
    files.write_text(path, text)
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
        ("metric", "value", "low", "high", "reference", "limit"),
        tuple(
            (_title(f.name) + (" (estimated)" if f.estimated else ""), f.value, f.low, f.high,
             f.reference, f.limit)
            for f in verdict.figures
        ),
        note="95% intervals. Estimated figures come from the model of the error, without outcomes.",
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
