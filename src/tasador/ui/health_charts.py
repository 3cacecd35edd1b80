"""The charts of *Health*."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from tasador.core.escape import chart
from tasador.ui.charts import ACCENT, CONFIG, DOWN, LEVELS, PLAIN, UP, _laid
from tasador.ui.formats import label
from tasador.ui.session import say

__all__ = ["CONFIG", "bins", "drift", "latency", "segments", "timeline"]


def timeline(lines: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return the error over time, each verdict a point coloured by its level.

    Args:
        lines: Verdicts, newest first.
    """
    ordered = list(reversed(lines))
    times = [dt.datetime.fromisoformat(one["time"]) for one in ordered]
    figure = go.Figure()
    for name, values, dash in (
        (say("health.measured"), [one["figures"].get("mape") for one in ordered], "solid"),
        (
            say("health.guessed"),
            [one["estimated"].get("mape") for one in ordered],
            "dot",
        ),
    ):
        if any(value is not None for value in values):
            figure.add_scatter(
                x=times, y=values, mode="lines+markers", name=f"MAPE, {name}",
                line={"dash": dash, "color": UP if dash == "solid" else PLAIN},
                hovertemplate="%{x|%Y-%m-%d %H:%M}: %{y:.1f} %<extra></extra>",
            )  # fmt: skip
    figure.add_bar(
        showlegend=False,
        x=times, y=[one["rows"] for one in ordered], yaxis="y2", name=say("health.rows"),
        marker={"color": [LEVELS[one["level"]] for one in ordered], "opacity": 0.35},
        hovertext=[say(f"level.{one['level']}") for one in ordered],
        hovertemplate="%{x|%Y-%m-%d %H:%M}: %{y:,} · %{hovertext}<extra></extra>",
    )  # fmt: skip
    _laid(
        figure, 340, showlegend=True,
        yaxis={"title": "MAPE (%)", "rangemode": "tozero"},
        yaxis2={"title": say("health.rows"), "overlaying": "y", "side": "right",
                "showgrid": False, "rangemode": "tozero"},
    )  # fmt: skip
    return figure


def drift(columns: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return every column's stability index beside what chance alone gives at this size."""
    ordered = sorted(columns, key=lambda one: float(one["psi"]))
    names = [chart(label(one["name"])) for one in ordered]
    figure = go.Figure(
        go.Bar(
            orientation="h", y=names, x=[one["psi"] for one in ordered], name="PSI",
            marker={"color": [LEVELS[one["level"]] for one in ordered]},
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_scatter(
        y=names, x=[one["psi_limit"] for one in ordered], mode="markers",
        name=say("health.limit"),
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": ACCENT}},
        hovertemplate="%{x:.3f}<extra></extra>",
    )  # fmt: skip
    _laid(figure, 90 + 28 * len(names), showlegend=True)
    figure.update_xaxes(title="PSI", rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure


def bins(column: Mapping[str, Any]) -> go.Figure:
    """Return how one column was in training and is in the window, by bin."""
    figure = go.Figure()
    for name, key, colour in (
        (say("health.training"), "reference_share", PLAIN),
        (say("health.window"), "window_share", DOWN),
    ):
        figure.add_bar(
            x=[chart(bin_) for bin_ in column["bins"]],
            y=[100 * share for share in column[key]], name=name,
            marker={"color": colour}, hovertemplate="%{x}: %{y:.1f} %<extra></extra>",
        )  # fmt: skip
    _laid(figure, 320, showlegend=True, barmode="group")
    figure.update_yaxes(title=say("health.share"))
    figure.update_xaxes(type="category", tickangle=-40)
    return figure


def segments(groups: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return the error of each segment with its interval."""
    known = [one for one in groups if one["mape"] is not None]
    figure = go.Figure(
        go.Scatter(
            x=[one["mape"] for one in known], y=[chart(one["name"]) for one in known],
            mode="markers",
            marker={"size": 11, "color": UP},
            error_x={
                "type": "data", "symmetric": False, "color": PLAIN,
                "array": [(one["mape_high"] or one["mape"]) - one["mape"] for one in known],
                "arrayminus": [one["mape"] - (one["mape_low"] or one["mape"]) for one in known],
            },
            hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
        )
    )  # fmt: skip
    _laid(figure, 80 + 34 * len(known))
    figure.update_xaxes(title="MAPE (%)", rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure


def latency(lines: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return the slow requests' time, verdict by verdict."""
    ordered = list(reversed(lines))
    figure = go.Figure(
        go.Scatter(
            x=[dt.datetime.fromisoformat(one["time"]) for one in ordered],
            y=[one["latency_p95"] for one in ordered], mode="lines+markers",
            line={"color": UP}, hovertemplate="%{x|%H:%M}: %{y:.1f} ms<extra></extra>",
        )
    )  # fmt: skip
    _laid(figure, 300)
    figure.update_yaxes(title="p95 (ms)", rangemode="tozero")
    return figure
