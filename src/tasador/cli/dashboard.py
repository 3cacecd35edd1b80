"""A verdict on a terminal."""

from __future__ import annotations

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tasador.cli.output import escape
from tasador.metrics.regression import label
from tasador.monitoring.verdict import ColumnDrift, Figure, Level, Verdict

_STYLE: dict[Level, str] = {
    "ok": "green", "warn": "yellow", "alert": "bold red", "cannot_tell": "cyan"
}  # fmt: skip
_WORD: dict[Level, str] = {
    "ok": "ok",
    "warn": "warn",
    "alert": "ALERT",
    "cannot_tell": "cannot tell",
}
_TITLES = {
    "input": "Input", "refused": "Refused rows", "quality": "Data quality",
    "drift": "Drift of columns",
    "together": "Columns together", "performance": "Performance",
    "estimate": "Estimated performance",
    "label": "Label drift", "concept": "Concept drift", "prediction": "Predictions",
    "latency": "Latency", "failures": "Failures",
}  # fmt: skip
_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = (
    "mape",
    "wmape",
    "median_ape",
    "within_10",
    "within_20",
    "mae",
    "coverage",
    "cod",
    "prd",
    "prb",
)


def dashboard(verdict: Verdict) -> RenderableType:
    """Return the health of a window, the worst first."""
    head = Text.assemble(
        ("Health: ", "bold"),
        (_WORD[verdict.level], _STYLE[verdict.level]),
        f"   {verdict.rows:,} rows against {verdict.reference_rows:,} of {verdict.reference}",
    )
    if verdict.begins:
        head.append(f"\n{verdict.begins} to {verdict.ends}", "dim")
    for found in verdict.of_check("input"):
        if found.subject == "outcomes" and "joined" in found.numbers:
            head.append(f"\n{found.reason}", _STYLE[found.level])
    parts: list[RenderableType] = [head, "", _checks(verdict)]
    if verdict.drift:
        parts += ["", _drift(verdict.drift)]
    if verdict.figures:
        parts += ["", _figures(verdict.figures)]
    if verdict.trouble:
        parts += ["", Text("What to look at", "bold")]
        parts += [
            Text.assemble(
                "  ", (f"{_WORD[f.level]:<6}", _STYLE[f.level]), f" {f.subject}: {f.reason}"
            )
            for f in verdict.trouble
        ]
    return Lines(*parts)


def _checks(verdict: Verdict) -> Table:
    table = Table("check", "level", "looked at", box=None, pad_edge=False)
    levels = verdict.by_check
    for check in sorted(levels, key=list(_TITLES).index):
        level, some = levels[check], verdict.of_check(check)
        bad = sum(f.level in ("warn", "alert") for f in some)
        text = f"{len(some)}" + (f", {bad} bad" if bad else "")
        table.add_row(_TITLES.get(check, check), Text(_WORD[level], _STYLE[level]), text)
    return table


def _drift(columns: tuple[ColumnDrift, ...]) -> Table:
    heads = ("column", "level", "PSI", "p adj.", "KS", "W", "reference", "window")
    table = Table(*heads, box=None, pad_edge=False)
    for column in table.columns[2:6]:
        column.justify = "right"
    for column in table.columns[6:]:
        column.no_wrap, column.min_width = True, 11
    table.columns[0].overflow = "fold"
    for one in columns:
        table.add_row(
            escape(one.name),
            Text(_WORD[one.level], _STYLE[one.level]),
            *(_number(v) for v in (one.psi, one.p_adjusted, one.ks, one.wasserstein)),
            _spark(one.reference_share, one.window_share),
            _spark(one.window_share, one.reference_share),
        )
    return table


def _spark(shares: tuple[float, ...], others: tuple[float, ...]) -> str:
    """Return the bins as small bars, on one scale with the other side's."""
    if len(shares) > 24:
        return ""
    top = max((*shares, *others), default=0.0)
    return "".join(
        "·" if share == 0 else _BARS[min(int(share / top * len(_BARS)), len(_BARS) - 1)]
        for share in shares
    )


def _figures(figures: tuple[Figure, ...]) -> Table:
    table = Table("metric", "value", "95%", "reference", "limit", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for figure in figures:
        if figure.name in _SHOWN:
            title = "coverage" if figure.name == "coverage" else label(figure.name)
            table.add_row(
                title + (" (estimated)" if figure.estimated else ""),
                _number(figure.value),
                f"{_number(figure.low)} to {_number(figure.high)}",
                _number(figure.reference),
                _number(figure.limit),
            )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value != 0 and abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
