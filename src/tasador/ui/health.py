"""*Health*: whether the model is still right, and why it is thought so."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from tasador.core.escape import chart
from tasador.core.languages import Language, digits_of, number
from tasador.ops.api_client import ServiceRefusedError
from tasador.ui.texts import escaped, label, moment
from tasador.ui.widgets import (
    ACCENT,
    CONFIG,
    DOWN,
    LEVELS,
    PLAIN,
    UP,
    client,
    laid_out,
    language,
    model,
    say,
)


def timeline_chart(lines: Sequence[Mapping[str, Any]]) -> go.Figure:
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
    laid_out(
        figure, 340, showlegend=True,
        yaxis={"title": "MAPE (%)", "rangemode": "tozero"},
        yaxis2={"title": say("health.rows"), "overlaying": "y", "side": "right",
                "showgrid": False, "rangemode": "tozero"},
    )  # fmt: skip
    return figure


def drift_chart(columns: Sequence[Mapping[str, Any]]) -> go.Figure:
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
    laid_out(figure, 90 + 28 * len(names), showlegend=True)
    figure.update_xaxes(title="PSI", rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure


def bins_chart(column: Mapping[str, Any]) -> go.Figure:
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
    laid_out(figure, 320, showlegend=True, barmode="group")
    figure.update_yaxes(title=say("health.share"))
    figure.update_xaxes(type="category", tickangle=-40)
    return figure


def segments_chart(groups: Sequence[Mapping[str, Any]]) -> go.Figure:
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
    laid_out(figure, 80 + 34 * len(known))
    figure.update_xaxes(title="MAPE (%)", rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure


def latency_chart(lines: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return the slow requests' time, verdict by verdict."""
    ordered = list(reversed(lines))
    figure = go.Figure(
        go.Scatter(
            x=[dt.datetime.fromisoformat(one["time"]) for one in ordered],
            y=[one["latency_p95"] for one in ordered], mode="lines+markers",
            line={"color": UP}, hovertemplate="%{x|%H:%M}: %{y:.1f} ms<extra></extra>",
        )
    )  # fmt: skip
    laid_out(figure, 300)
    figure.update_yaxes(title="p95 (ms)", rangemode="tozero")
    return figure


_ICONS = {
    "ok": ":material/check_circle:",
    "cannot_tell": ":material/help:",
    "warn": ":material/warning:",
    "alert": ":material/error:",
}
_COLOURS = {"ok": "green", "cannot_tell": "gray", "warn": "orange", "alert": "red"}
_REFRESH_S = 30
_IN_A_ROW = 3


def draw() -> None:
    """Draw the page; what is watched is asked again every half minute."""
    st.title(say("health.title"))
    model()
    _live()


@st.fragment(run_every=_REFRESH_S)
def _live() -> None:
    _draw_service(client().health())
    try:
        whole = client().get("/api/v1/monitoring/verdicts/latest")
    except ServiceRefusedError as error:
        if error.word not in ("no_verdict", "records_off"):
            st.error(escaped(error.said), icon=":material/error:")
            return
        st.info(say("health.no_verdict"), icon=":material/hourglass_empty:")
        st.code("tasador watch", language="sh")
        return
    lines = client().get("/api/v1/monitoring/verdicts", {"limit": 200})["verdicts"]
    known = client().get("/api/v1/monitoring/alerts")
    alerts, verdict = known["alerts"], whole["verdict"]
    _draw_reach(known.get("reach"))
    _draw_verdict(whole, alerts)
    _draw_indicators(verdict.get("indicators", ()))
    _draw_trouble(verdict["findings"])
    tabs = st.tabs([say(f"health.{name}") for name in
                    ("timeline", "drift", "segments", "latency", "alerts")])  # fmt: skip
    with tabs[0]:
        _draw_timeline(lines)
    with tabs[1]:
        _draw_drift(verdict["drift"])
    with tabs[2]:
        _draw_segments(verdict["segments"])
    with tabs[3]:
        _draw_latency(verdict, lines)
    with tabs[4]:
        _draw_alerts(alerts)


def _draw_service(found: Mapping[str, Any]) -> None:
    colours = {"healthy": "green", "degraded": "orange", "unhealthy": "red"}
    with st.container(horizontal=True):
        for one in [{"name": say("health.service"), **found}, *found["checks"]]:
            st.badge(
                escaped(f"{one['name']}: {say('status.' + one['status'])}"),
                color=colours[one["status"]],  # type: ignore[arg-type]
                help=escaped(one.get("detail") or "") or None,
            )


def _draw_verdict(whole: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]]) -> None:
    verdict, lang = whole["verdict"], language()
    level = verdict["level"]
    show = {"ok": st.success, "cannot_tell": st.info, "warn": st.warning, "alert": st.error}[level]
    show(
        say(f"verdict.{level}", since=moment(whole["since"]), until=moment(whole["until"])),
        icon=_ICONS[level],
    )
    outcomes = sum(one["outcomes"] for one in verdict["timeline"])
    cells = st.columns(3)
    cells[0].metric(say("health.rows"), number(verdict["rows"], 0, lang))
    cells[1].metric(say("health.outcomes"), number(outcomes, 0, lang))
    firing = sum(one["state"] == "firing" for one in alerts)
    cells[2].metric(say("health.firing"), number(firing, 0, lang))
    if not outcomes:
        st.info(say("health.no_outcomes"), icon=":material/hourglass_empty:")


def _draw_reach(reach: Sequence[str] | None) -> None:
    """Say so where alerts reach nobody."""
    if not reach:
        st.warning(say("health.nobody"), icon=":material/notifications_off:")
    else:
        st.caption(say("health.reach", routes=escaped(", ".join(reach))))


def _draw_indicators(found: Sequence[Mapping[str, Any]]) -> None:
    """Show the few numbers that sum up health, each with OK, WARN or ALERT."""
    for start in range(0, len(found), _IN_A_ROW):
        cells = st.columns(_IN_A_ROW)
        for cell, one in zip(cells, found[start : start + _IN_A_ROW], strict=False):
            _draw_indicator(cell, one)


def _draw_indicator(cell: Any, one: Mapping[str, Any]) -> None:
    lang, value, name = language(), one["value"], say(f"indicator.{one['name']}")
    if one["estimated"]:
        name = say("health.estimated", name=name)
    notes = [say("health.estimated_help")] if one["estimated"] else []
    if one["limit"] is not None:
        notes.append(say("health.breach", value=_amount(one["limit"], one["unit"], lang)))
    if one["column"]:
        notes.append(f"{say('health.column')}: {label(one['column'])}")
    level = one["level"]
    cell.metric(
        name, _amount(value, one["unit"], lang), f"{_ICONS[level]} {say(f'badge.{level}')}",
        delta_color=_COLOURS[level], delta_arrow="off",
        help=escaped(" ".join(notes)) or None,
    )  # fmt: skip


def _amount(value: float | None, unit: str, lang: Language) -> str:
    """Return a figure with as many digits as it deserves beside the others."""
    if value is None:
        return "–"
    digits = 1 if unit == "%" else min(digits_of(value), 3)
    return f"{number(value, digits, lang)} {unit}".rstrip()


def _draw_trouble(findings: Sequence[Mapping[str, Any]]) -> None:
    trouble = [one for one in findings if one["level"] in ("warn", "alert")]
    if trouble:
        with st.expander(say("health.trouble", count=len(trouble)), expanded=True):
            for one in trouble[:12]:
                st.markdown(
                    f":{_COLOURS[one['level']]}[{_ICONS[one['level']]} **{_about(one)}**] "
                    f"{escaped(one['reason'])}"
                )


def _about(finding: Mapping[str, Any]) -> str:
    """Return what a finding is about; a metric or segment is named in its reason already."""
    if finding["check"] in ("performance", "together"):
        return label(finding["check"])
    return escaped(f"{label(finding['check'])}: {label(finding['subject'])}")


def _draw_timeline(lines: Sequence[Mapping[str, Any]]) -> None:
    st.plotly_chart(timeline_chart(lines), key="timeline", config=CONFIG)
    st.caption(say("health.timeline_help"))


def _draw_drift(drift: Sequence[Mapping[str, Any]]) -> None:
    known = [one for one in drift if one["psi"] is not None]
    if not known:
        st.info(say("health.no_drift"), icon=":material/help:")
        return
    st.plotly_chart(drift_chart(known), key="drift", config=CONFIG)
    st.caption(say("health.drift_help"))
    st.dataframe(
        [
            {
                say("health.column"): label(one["name"]),
                "PSI": one["psi"],
                say("health.limit"): one["psi_limit"],
                say("health.level"): say(f"badge.{one['level']}"),
            }
            for one in sorted(known, key=lambda one: -float(one["psi"]))
        ],
        hide_index=True,
    )
    names = [one["name"] for one in known]
    worst = max(range(len(known)), key=lambda i: known[i]["psi"] - (known[i]["psi_limit"] or 0))
    chosen = st.selectbox(say("health.column"), names, index=worst, key="drift column")
    one = next(one for one in known if one["name"] == chosen)
    st.markdown(f":{_COLOURS[one['level']]}[{_ICONS[one['level']]}] {escaped(one['reason'])}")
    st.plotly_chart(bins_chart(one), key="bins", config=CONFIG)


def _draw_segments(segments: Sequence[Mapping[str, Any]]) -> None:
    if not segments:
        st.info(say("health.no_segments"), icon=":material/help:")
        return
    if any(one["mape"] is not None for one in segments):
        st.plotly_chart(segments_chart(segments), key="segments", config=CONFIG)
    st.dataframe(
        [
            {
                say("health.segment"): one["name"],
                say("health.rows"): one["rows"],
                say("health.outcomes"): one["outcomes"],
                "MAPE": one["mape"],
                say("health.within"): one["within_10"],
                say("health.ratio"): one["ratio"],
                say("health.coverage"): None if one["coverage"] is None else 100 * one["coverage"],
            }
            for one in segments
        ],
        hide_index=True,
    )


def _draw_latency(verdict: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    said = [one for one in verdict["findings"] if one["check"] == "latency"]
    for one in said:
        st.markdown(f":{_COLOURS[one['level']]}[{_ICONS[one['level']]}] {escaped(one['reason'])}")
    if any(one["latency_p95"] is not None for one in lines):
        st.plotly_chart(latency_chart(lines), key="latency", config=CONFIG)
    else:
        st.info(say("health.no_latency"), icon=":material/help:")


def _draw_alerts(alerts: Sequence[Mapping[str, Any]]) -> None:
    if not alerts:
        st.success(say("health.no_alerts"), icon=":material/check_circle:")
        return
    st.dataframe(
        [
            {
                say("alert.state"): say(f"state.{one['state']}"),
                say("alert.severity"): one["severity"],
                say("alert.about"): one["key"].split("/", 1)[-1],
                say("alert.since"): moment(one["since"]),
                say("alert.reason"): one["reason"],
                say("alert.seen"): one["acknowledged_by"] or "",
                say("alert.silent"): moment(one["silent_until"]),
            }
            for one in alerts
        ],
        hide_index=True,
    )
    st.caption(say("health.alerts_help"))
