"""*Health*: whether the model is still right, and why it is thought so."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from tasador.contract.model import people_label
from tasador.core import clock
from tasador.core.escape import chart
from tasador.core.languages import Language, digits_of, moment, number, translated
from tasador.metrics.regression import METRICS
from tasador.metrics.regression import label as metric_label
from tasador.ops.api_client import ServiceRefusedError
from tasador.ui.texts import TEXTS, escaped
from tasador.ui.widgets import (
    ACCENT,
    CONFIG,
    DOWN,
    LEVELS,
    PLAIN,
    UP,
    Model,
    Shown,
    client,
    draw_header,
    draw_table,
    laid_out,
    language,
    model,
    rejection,
    say,
)


def subject_name(name: str) -> str:
    """Return what people call what was looked at: a column, a metric, a segment."""
    if f"subject.{name}" in TEXTS:
        return say(f"subject.{name}")
    if name in METRICS:
        return translated(metric_label(name), language())
    shown = translated(name, language())
    return people_label(shown) if shown == name else shown


def about(check: str, subject: str) -> str:
    """Return what a finding or an alert is about, in words: ``Quality: Total bedrooms``."""
    known = say(f"check.{check}") if f"check.{check}" in TEXTS else people_label(check)
    if check == "together":
        return known
    return f"{known}: {subject_name(subject.removeprefix('segment '))}"


def reason_of(check: str, subject: str, reason: str) -> str:
    """Return a finding's reason without what `about` says already, in the language chosen."""
    if check in ("performance", "estimate"):
        known = f"{subject.removeprefix('segment ')}: " if subject.startswith("segment ") else (
            f"{metric_label(subject) if subject in METRICS else subject} "
        )  # fmt: skip
        reason = reason.removeprefix(known)
    return translated(reason, language())


def timeline_chart(lines: Sequence[Mapping[str, Any]], usual: float | None) -> go.Figure:
    """Return the error over time, each evaluation a point coloured by its level.

    Args:
        lines: Verdicts, newest first; where none has an error their rows are drawn.
        usual: The error on the rows that the model was evaluated with; None when it is not known.
    """
    ordered = list(reversed(lines))
    times = [dt.datetime.fromisoformat(one["time"]) for one in ordered]
    known = {
        say("health.measured"): ([one["figures"].get("mape") for one in ordered], "solid"),
        say("health.guessed"): ([one["estimated"].get("mape") for one in ordered], "dot"),
    }
    drawn = {n: one for n, one in known.items() if any(v is not None for v in one[0])}
    title = "MAPE (%)" if drawn else say("health.rows")
    figure = go.Figure()
    for name, (values, dash) in (
        drawn or {say("health.rows"): ([one["rows"] for one in ordered], "solid")}
    ).items():
        figure.add_scatter(
            x=times, y=values, mode="lines+markers", name=name,
            line={"dash": dash, "color": UP if dash == "solid" else PLAIN},
            marker={"size": 9, "color": [LEVELS[one["level"]] for one in ordered]},
            text=[
                f"{moment(one['time'], language())} · {say('level.' + one['level'])} · "
                f"{say('health.rows')}: {number(one['rows'], 0, language())}" for one in ordered
            ],
            hovertemplate="%{y:,.1f}<br>%{text}<extra></extra>",
        )  # fmt: skip
    if drawn and usual is not None:
        figure.add_hline(
            y=usual, line={"dash": "dash", "color": ACCENT, "width": 1},
            annotation_text=f"{say('health.usual')} {number(usual, 1, language())}",
            annotation_position="bottom right",
        )  # fmt: skip
    laid_out(figure, 340, showlegend=True)
    figure.update_xaxes(tickformat="%d/%m<br>%H:%M")
    figure.update_yaxes(title=title, rangemode="tozero")
    return figure


def drift_chart(columns: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return every column's stability index beside what chance alone gives at this size.

    Args:
        columns: In the order of the table below the chart.
    """
    names = [chart(subject_name(one["name"])) for one in columns]
    figure = go.Figure()
    for level in dict.fromkeys(one["level"] for one in columns):
        figure.add_bar(
            orientation="h", name=say(f"level.{level}"), marker={"color": LEVELS[level]},
            y=[n for n, one in zip(names, columns, strict=True) if one["level"] == level],
            x=[one["psi"] for one in columns if one["level"] == level],
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        y=names, x=[one["psi_limit"] for one in columns], mode="markers",
        name=say("health.limit"),
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": ACCENT}},
        hovertemplate="%{x:.3f}<extra></extra>",
    )  # fmt: skip
    laid_out(figure, 110 + 28 * len(names), showlegend=True)
    figure.update_xaxes(title="PSI", rangemode="tozero")
    figure.update_yaxes(automargin=True, categoryorder="array", categoryarray=names[::-1])
    return figure


_IN_BIN = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def bin_names(column: Mapping[str, Any], *, relative: bool) -> list[str]:
    """Return the bins of a column in words.

    Args:
        column: What a verdict says of the column.
        relative: Whether errors are logarithms of ratios, which are shown in percent.
    """
    names, lang = column["bins"], language()
    if column["kind"] not in ("number", "integer"):
        return [translated(name, lang) if name[:1] == "(" else name for name in names]
    percent = relative and column["name"] == "(error)"

    def shown(found: re.Match[str]) -> str:
        value = float(found[0])
        if percent:
            return f"{100 * math.expm1(value):+.0f} %"
        return number(value, 0 if value == round(value) else digits_of(value), "en")

    between = " a " if lang == "es" else " to "
    return [translated(_IN_BIN.sub(shown, name), lang).replace(" to ", between) for name in names]


def bins_chart(column: Mapping[str, Any], *, relative: bool) -> go.Figure:
    """Return how one column was in training and is in the window, by bin; see `bin_names`."""
    figure = go.Figure()
    for name, key, colour in (
        (say("health.training"), "reference_share", PLAIN),
        (say("health.window"), "window_share", DOWN),
    ):
        figure.add_bar(
            x=[chart(bin_) for bin_ in bin_names(column, relative=relative)],
            y=[100 * share for share in column[key]], name=name,
            marker={"color": colour}, hovertemplate="%{x}: %{y:.1f} %<extra></extra>",
        )  # fmt: skip
    laid_out(figure, 340, showlegend=True, barmode="group")
    figure.update_yaxes(title=say("health.share"))
    title = say("health.error_bins") if column["name"] == "(error)" else ""
    figure.update_xaxes(type="category", tickangle=-40, automargin=True, title=title)
    return figure


def segments_chart(groups: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return the error of each segment with its interval, in the order of the groups."""
    known = [one for one in groups if one["mape"] is not None]
    figure = go.Figure(
        go.Scatter(
            x=[one["mape"] for one in known], y=[chart(subject_name(one["name"])) for one in known],
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
    figure.update_yaxes(automargin=True, autorange="reversed")
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
    figure.update_xaxes(tickformat="%d/%m<br>%H:%M")
    figure.update_yaxes(title="p95 (ms)", rangemode="tozero")
    return figure


_ICONS = {
    "ok": ":material/check_circle:",
    "cannot_tell": ":material/help:",
    "warn": ":material/warning:",
    "alert": ":material/error:",
}
_COLOURS = {"ok": "green", "cannot_tell": "gray", "warn": "orange", "alert": "red"}
#: Of words in a table, readable on a light and on a dark page.
_TEXT_COLOURS = {"ok": "#2f9e61", "cannot_tell": "#8a94a6", "warn": "#c4841d", "alert": "#e5484d"}
_REFRESH_S = 30
_IN_A_ROW = 3
#: Checks of what comes in, of measured errors, and of what the service answers.
_INPUTS = frozenset({"input", "refused", "quality", "drift", "together", "label"})
_ERRORS = frozenset({"performance", "concept"})
_ASKED = "alert to answer"
_ANSWERED = "alert answered"


def draw() -> None:
    """Draw the page; what is watched is asked again every half minute."""
    found = model()
    draw_header(say("health.title"), found)
    if (done := st.session_state.pop(_ANSWERED, None)) is not None:
        st.success(escaped(done), icon=":material/check_circle:")
    # from here and not from the part that is drawn again: that would close it every half minute
    if (asked := st.session_state.pop(_ASKED, None)) is not None:
        alert, verb = asked
        st.dialog(say(f"alert.{verb}"))(_draw_answer)(alert, verb)
    _live(found)


@st.fragment(run_every=_REFRESH_S)
def _live(found: Model) -> None:
    _draw_service(client().health())
    try:
        whole = client().get("/api/v1/monitoring/verdicts/latest")
    except ServiceRefusedError as error:
        if error.word not in ("no_verdict", "records_off"):
            st.error(escaped(rejection(error)), icon=":material/error:")
            return
        st.info(say("health.no_verdict"), icon=":material/hourglass_empty:")
        st.code("tasador watch", language="sh")
        return
    lines = client().get("/api/v1/monitoring/verdicts", {"limit": 200})["verdicts"]
    known = client().get("/api/v1/monitoring/alerts")
    name = found.contract.model_name
    alerts = [one for one in known["alerts"] if one["key"].startswith(f"{name}/")]
    verdict = whole["verdict"]
    usual = next((one["reference"] for one in verdict["figures"] if one["name"] == "mape"), None)
    _draw_verdict(whole, alerts)
    _draw_reach(known.get("reach"))
    _draw_indicators(verdict.get("indicators", ()), usual)
    _draw_trouble(verdict["findings"])
    tabs = st.tabs([say(f"health.{name}") for name in
                    ("timeline", "drift", "segments", "latency", "alerts")])  # fmt: skip
    with tabs[0]:
        st.plotly_chart(timeline_chart(lines, usual), key="timeline", config=CONFIG)
        st.caption(say("health.timeline_help"))
    with tabs[1]:
        _draw_drift(verdict["drift"], relative=found.contract.target.transform == "log")
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
            name = translated(one["name"], language())
            st.badge(
                escaped(f"{name}: {say('status.' + one['status'])}"),
                color=colours[one["status"]],  # type: ignore[arg-type]
                help=escaped(translated(one.get("detail") or "", language())) or None,
            )


def period(since: str, until: str, now: float) -> str:
    """Return a span of time in words: ``in the last 7 days`` where it has only just ended.

    Args:
        since: Its start, ISO 8601.
        until: Its end.
        now: The present, in seconds since 1970.
    """
    start, end = (dt.datetime.fromisoformat(one).timestamp() for one in (since, until))
    length = end - start
    if now - end > 0.1 * length + 120:
        times = {"since": moment(start, language()), "until": moment(end, language())}
        return say("period.between", **times)
    units = {"days": 86400, "hours": 3600, "minutes": 60}
    unit = next((name for name, size in units.items() if length >= 2 * size), "minutes")
    count = max(round(length / units[unit]), 1)
    return say("period.last", length=say(f"period.{unit}", count=count))


def headline(verdict: Mapping[str, Any], when: str, outcomes: int) -> str:
    """Return what was found, in one or two sentences: changed inputs are no less accurate model.

    Args:
        verdict: The verdict.
        when: The window, in words.
        outcomes: For how many rows the actual value is known.
    """
    level = verdict["level"]
    found = [one for one in verdict["findings"] if one["level"] in ("warn", "alert")]
    checks = {one["check"] for one in found}
    worse = [one["level"] for one in found if one["check"] in _ERRORS]
    if worse:
        said = say(f"verdict.errors_{'alert' if 'alert' in worse else 'warn'}", period=when)
        return f"{said} {say('verdict.inputs_too')}" if checks & _INPUTS else said
    if checks & _INPUTS:
        known = any(one["check"] == "performance" and one["level"] == "ok"
                    for one in verdict["findings"])  # fmt: skip
        if known:
            errors = say("verdict.errors_usual", count=number(outcomes, 0, language()))
        else:
            errors = say(f"verdict.errors_{'estimated' if 'estimate' in checks else 'unknown'}")
        return say("verdict.inputs", period=when, errors=errors)
    return say(f"verdict.{'service' if checks else level}", period=when)


def _draw_verdict(whole: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]]) -> None:
    verdict, lang = whole["verdict"], language()
    level = verdict["level"]
    outcomes = sum(one["outcomes"] for one in verdict["timeline"])
    show = {"ok": st.success, "cannot_tell": st.info, "warn": st.warning, "alert": st.error}[level]
    when = period(whole["since"], whole["until"], clock.seconds())
    show(headline(verdict, when, outcomes), icon=_ICONS[level])
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


def _draw_indicators(found: Sequence[Mapping[str, Any]], usual: float | None) -> None:
    """Show the few numbers that sum up health, each with OK, WARN or ALERT."""
    for start in range(0, len(found), _IN_A_ROW):
        cells = st.columns(_IN_A_ROW)
        for cell, one in zip(cells, found[start : start + _IN_A_ROW], strict=False):
            _draw_indicator(cell, one, usual if one["name"] == "mape" else None)


def _draw_indicator(cell: Any, one: Mapping[str, Any], usual: float | None) -> None:
    lang, value, name = language(), one["value"], say(f"indicator.{one['name']}")
    if one["estimated"]:
        name = say("health.estimated", name=name)
    notes = [say("health.estimated_help")] if one["estimated"] else []
    if one["limit"] is not None:
        notes.append(say("health.breach", value=_amount(one["limit"], one["unit"], lang)))
    if one["column"]:
        notes.append(f"{say('health.column')}: {subject_name(one['column'])}")
    level = one["level"]
    said = f"{_ICONS[level]} {say(f'badge.{level}')}"
    if usual is not None and value is not None:
        sign = "+" if value >= usual else "−"
        points = sign + number(abs(value - usual), 1, lang)
        said += " · " + say("health.against", points=points, usual=number(usual, 1, lang))
    cell.metric(
        name, _amount(value, one["unit"], lang), said,
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
                _draw_finding(one, named=True)


def _draw_finding(one: Mapping[str, Any], *, named: bool = False) -> None:
    check, subject = one.get("check", "drift"), one.get("subject", "")
    bold = f"**{escaped(about(check, subject))}** " if named else ""
    st.markdown(
        f":{_COLOURS[one['level']]}[{_ICONS[one['level']]}] {bold}"
        f"{escaped(reason_of(check, subject, one['reason']))}"
    )


def _draw_drift(drift: Sequence[Mapping[str, Any]], *, relative: bool) -> None:
    known = [one for one in drift if one["psi"] is not None]
    if not known:
        st.info(say("health.no_drift"), icon=":material/help:")
        return
    known.sort(key=lambda one: -float(one["psi"]))
    st.plotly_chart(drift_chart(known), key="drift", config=CONFIG)
    st.caption(say("health.drift_help"))
    levels = {say(f"level.{name}"): colour for name, colour in _TEXT_COLOURS.items()}
    draw_table(
        [
            Shown(say("health.column"), [subject_name(one["name"]) for one in known]),
            Shown("PSI", [one["psi"] for one in known], 3),
            Shown(say("health.limit"), [one["psi_limit"] for one in known], 3),
            Shown(say("health.level"), [say(f"level.{one['level']}") for one in known],
                  colours=levels),
        ]
    )  # fmt: skip
    names = [one["name"] for one in known]
    worst = max(range(len(known)), key=lambda i: known[i]["psi"] - (known[i]["psi_limit"] or 0))
    chosen = st.selectbox(
        say("health.column"), names, index=worst, key="drift column", format_func=subject_name
    )
    one = next(one for one in known if one["name"] == chosen)
    _draw_finding(one)
    st.plotly_chart(bins_chart(one, relative=relative), key="bins", config=CONFIG)


def _draw_segments(segments: Sequence[Mapping[str, Any]]) -> None:
    if not segments:
        st.info(say("health.no_segments"), icon=":material/help:")
        return
    ordered = sorted(segments, key=lambda one: -(one["mape"] or -1.0))
    if any(one["mape"] is not None for one in segments):
        st.plotly_chart(segments_chart(ordered), key="segments", config=CONFIG)

    def values(name: str, scale: float = 1.0) -> list[float | None]:
        return [None if one[name] is None else scale * one[name] for one in ordered]

    draw_table(
        [
            Shown(say("health.segment"), [subject_name(one["name"]) for one in ordered]),
            Shown(say("health.rows"), values("rows"), 0),
            Shown(say("health.outcomes"), values("outcomes"), 0),
            Shown("MAPE (%)", values("mape"), 1),
            Shown(f"{say('health.within')} (%)", values("within_10"), 1),
            Shown(say("health.ratio"), values("ratio"), 3),
            Shown(say("health.coverage"), values("coverage", 100.0), 1),
        ]
    )


def _draw_latency(verdict: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    for one in verdict["findings"]:
        if one["check"] == "latency":
            _draw_finding(one)
    if any(one["latency_p95"] is not None for one in lines):
        st.plotly_chart(latency_chart(lines), key="latency", config=CONFIG)
    else:
        st.info(say("health.no_latency"), icon=":material/help:")


def alert_subject(alert: Mapping[str, Any]) -> tuple[str, str]:
    """Return the check and subject of an alert, whose key is ``model/rule/check:subject``."""
    check, _, subject = alert["key"].split("/", 2)[-1].partition(":")
    return check, subject


def _draw_alerts(alerts: Sequence[Mapping[str, Any]]) -> None:
    present = [one for one in alerts if one["state"] != "ok"]
    over = [one for one in alerts if one["state"] == "ok"]
    if not present:
        st.success(say("health.no_alerts"), icon=":material/check_circle:")
    for place, one in enumerate(present):
        with st.container(border=True):
            _draw_alert(one)
            with st.container(horizontal=True):
                for verb in ("acknowledge", "silence"):
                    if verb == "acknowledge" and one["state"] != "firing":
                        continue
                    if st.button(say(f"alert.{verb}"), key=f"{verb} {place} {one['key']}"):
                        st.session_state[_ASKED] = (one, verb)
                        st.rerun()
    if over:
        with st.expander(say("health.over", count=len(over))):
            for one in over:
                _draw_alert(one)


def _draw_alert(one: Mapping[str, Any]) -> None:
    lang, state, subject = language(), one["state"], alert_subject(one)
    colour = {"firing": "red", "pending": "orange"}.get(state, "green")
    st.markdown(f":{colour}-badge[{say(f'state.{state}')}] **{escaped(about(*subject))}**")
    st.markdown(escaped(reason_of(*subject, one["reason"])))
    notes = [
        say(f"severity.{one['severity']}") if f"severity.{one['severity']}" in TEXTS
        else one["severity"],
        say("alert.since", time=moment(one["since"], lang)),
    ]  # fmt: skip
    if one["acknowledged_by"]:
        notes.append(say("alert.seen", who=one["acknowledged_by"]))
    until = one["silent_until"]
    if until and dt.datetime.fromisoformat(until).timestamp() > clock.seconds():
        notes.append(say("alert.silent", time=moment(until, lang)))
    st.caption(escaped(" · ".join(notes)))


def _draw_answer(alert: Mapping[str, Any], verb: str) -> None:
    """Draw the form that answers an alert; a refusal leaves it as it was filled in."""
    st.markdown(f"**{escaped(about(*alert_subject(alert)))}**")
    st.caption(say(f"alert.{verb}_help"))
    request: dict[str, Any] = {"key": alert["key"]}
    with st.form("answer", border=False):
        request["by"] = st.text_input(say("alert.who"), max_chars=100).strip()
        request["reason"] = st.text_input(say("models.reason"), max_chars=500).strip()
        if verb == "silence":
            request["seconds"] = 3600 * st.number_input(say("alert.hours"), 1, 744, 4)
        key = st.text_input(say("models.key"), type="password", autocomplete="off").strip()
        sent = st.form_submit_button(say(f"alert.{verb}"), type="primary")
    if not sent:
        return
    if not (request["by"] and request["reason"] and key):
        st.error(say("alert.incomplete"), icon=":material/edit:")
        return
    try:
        client().with_key(key).change(f"/api/v1/admin/alerts/{verb}", request, timeout_s=15.0)
    except ServiceRefusedError as error:
        st.error(escaped(rejection(error)), icon=":material/block:")
        return
    st.session_state[_ANSWERED] = say(f"alert.done_{verb}", about=about(*alert_subject(alert)))
    st.rerun()
