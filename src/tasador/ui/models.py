"""*Models*: the versions, their figures and gates, what happened to them, and changing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from tasador.core.escape import chart
from tasador.core.languages import moment, translated
from tasador.ops.api_client import ServiceRefusedError
from tasador.ui.texts import escaped, step_of_size
from tasador.ui.widgets import (
    CONFIG,
    DOWN,
    LEVELS,
    PLAIN,
    UP,
    Shown,
    client,
    draw_header,
    draw_table,
    laid_out,
    language,
    model,
    rejection,
    say,
    version_title,
)

#: Metric: its heading, its unit, and digits behind the point; amounts are rounded by their size.
_METRICS: dict[str, tuple[str, str, int | None]] = {
    "mape": ("MAPE", "%", 2),
    "wmape": ("wMAPE", "%", 2),
    "median_ape": ("", "%", 2),
    "within_10": ("", "%", 1),
    "mae": ("MAE", "", None),
    "rmse": ("RMSE", "", None),
    "r2": ("R²", "", 3),
}
_DONE, _ASKED, _REFUSED = "models done", "models asked", "models refused"
_PLACES = ("champion", "challenger", "staging")
_STATES = {
    "fail": ("red", ":material/cancel:", LEVELS["alert"]),
    "cannot tell": ("orange", ":material/help:", LEVELS["warn"]),
    "pass": ("green", ":material/check_circle:", LEVELS["ok"]),
}


def draw() -> None:
    """Draw the page."""
    found = model()
    draw_header(say("models.title"), found)
    try:
        listed = client().get("/api/v1/models/versions")
        entries = client().get("/api/v1/models/history", {"limit": 100})["entries"]
    except ServiceRefusedError as error:
        st.info(say("models.no_registry"), icon=":material/info:")
        st.caption(escaped(rejection(error)))
        return
    for note in listed["notes"]:
        st.warning(escaped(translated(note, language())), icon=":material/info:")
    board, gates, history, change = st.tabs(
        [say(f"models.{name}") for name in ("board", "gates", "history", "change")]
    )
    with board:
        _draw_board(listed["versions"], found.version)
    with gates:
        _draw_gates(entries)
    with history:
        _draw_history(entries)
    with change:
        _draw_change(listed, entries)


def _heading(name: str, money: str) -> str:
    title, unit, digits = _METRICS[name]
    title = title or say(f"metric.{name}")
    unit = unit or (money if digits is None else "")
    return f"{title} ({unit})" if unit else title


def _draw_board(versions: Sequence[Mapping[str, Any]], answering: str) -> None:
    if not versions:
        return
    lang, units = language(), {one.get("unit") or "" for one in versions}
    money = units.pop() if len(units) == 1 else ""  # else versions are in different units
    known = [name for name in _METRICS if any(name in one["metrics"] for one in versions)]
    names = [
        version_title(one["number"], one["aliases"])
        + (f" · {translated(one['status'], lang)}" if one["status"] in _ENDED else "")
        + (" ●" if one["bundle"] == answering else "")
        for one in versions
    ]

    def figures(name: str) -> Shown:
        values = [one["metrics"].get(name) for one in versions]
        step = step_of_size(max((abs(v) for v in values if v), default=1.0))
        digits = _METRICS[name][2]
        return Shown(_heading(name, money), values, digits, step if digits is None else None)

    if known:
        metric = st.selectbox(
            say("models.metric"), known, format_func=lambda one: _heading(one, money)
        )
        st.plotly_chart(versions_chart(versions, metric, money), key="versions", config=CONFIG)
        st.caption(say("models.over", metric=_heading(metric, money)))
    origins = [say(f"origin.{one['origin']}") if one["origin"] else "" for one in versions]
    draw_table(
        [
            Shown(say("models.version"), names),
            *(figures(name) for name in known),
            Shown(say("models.origin"), origins),
            Shown(say("models.release"), [one.get("release") or "" for one in versions]),
            Shown(say("models.created"), [moment(one["created"], lang) for one in versions]),
            Shown(say("models.run"), [one["run"] for one in versions]),
            Shown(say("models.bundle"), [one["bundle"] for one in versions]),
        ]
    )
    st.caption(say("models.board_help"))
    if any(one.get("segments") for one in versions):
        st.subheader(say("models.by_segment"))
        st.plotly_chart(segments_chart(versions), key="by segment", config=CONFIG)


#: Statuses that no alias says.
_ENDED = ("rejected", "rolled back")


def versions_chart(
    versions: Sequence[Mapping[str, Any]], metric: str, money: str = ""
) -> go.Figure:
    """Return a metric over the versions, oldest first, with its 95% interval where it is known."""
    known = [one for one in reversed(versions) if one["metrics"].get(metric) is not None]
    values = [one["metrics"][metric] for one in known]
    ends = [one.get("intervals", {}).get(metric) or (v, v)
            for one, v in zip(known, values, strict=True)]  # fmt: skip
    figure = go.Figure(
        go.Scatter(
            x=[version_title(one["number"], one["aliases"]) for one in known], y=values,
            mode="lines+markers", line={"color": PLAIN, "width": 1, "dash": "dot"},
            marker={"size": 12, "color": [
                UP if "champion" in one["aliases"] else PLAIN for one in known
            ]},
            error_y={
                "type": "data", "symmetric": False, "color": UP, "thickness": 2,
                "array": [high - v for (_, high), v in zip(ends, values, strict=True)],
                "arrayminus": [v - low for (low, _), v in zip(ends, values, strict=True)],
            },
            customdata=ends,
            hovertemplate="%{x}: %{y:,.4~g} (%{customdata[0]:,.4~g} – %{customdata[1]:,.4~g})"
            "<extra></extra>",
        )
    )  # fmt: skip
    laid_out(figure, 300)
    figure.update_yaxes(title=chart(_heading(metric, money)))
    figure.update_xaxes(type="category", range=[-0.6, len(known) - 0.4])
    return figure


def segments_chart(versions: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return the MAPE of each segment, the versions beside each other; the latest four of them."""
    shown = [one for one in versions if one.get("segments")][:4]
    names = list(dict.fromkeys(name for one in shown for name in one["segments"]))
    figure = go.Figure()
    for one, colour in zip(shown, (UP, DOWN, PLAIN, "#94a3b8"), strict=False):
        figure.add_scatter(
            y=[chart(name.strip("_")) for name in names],
            x=[one["segments"].get(name, {}).get("mape") for name in names],
            mode="markers", marker={"size": 11, "color": colour},
            name=version_title(one["number"], one["aliases"]),
            hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
        )  # fmt: skip
    laid_out(figure, 110 + 34 * len(names), showlegend=True)
    figure.update_xaxes(title="MAPE (%)", rangemode="tozero")
    figure.update_yaxes(automargin=True, autorange="reversed")
    return figure


def gates_chart(gates: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    """Return each comparison with the champion: estimate, 95% bounds and margin, worst first.

    Losses are divided by their margin, so that gates of different units have one axis. None where
    no gate has the numbers.

    Args:
        gates: In the order of the list beside the chart.
    """
    known = [one for one in gates if (one.get("figures") or {}).get("margin")]
    if not known:
        return None
    names = [chart(translated(one["name"], language())) for one in known]
    parts = [
        [one["figures"][key] / one["figures"]["margin"] for key in ("low", "worse", "high")]
        for one in known
    ]
    figure = go.Figure(
        go.Scatter(
            y=names, x=[worse for _, worse, _ in parts], mode="markers",
            marker={"size": 11, "color": [_STATES[one["state"]][2] for one in known]},
            error_x={
                "type": "data", "symmetric": False, "color": PLAIN, "thickness": 2,
                "array": [high - worse for _, worse, high in parts],
                "arrayminus": [worse - low for low, worse, _ in parts],
            },
            text=[
                f"{one['figures']['worse']:+.3g} ({one['figures']['low']:+.3g} – "
                f"{one['figures']['high']:+.3g}), {say('models.gates_margin')} "
                f"{one['figures']['margin']:.3g}"
                for one in known
            ],
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": PLAIN, "width": 1})
    figure.add_vline(
        x=1, line={"color": LEVELS["alert"], "width": 2, "dash": "dash"},
        annotation_text=say("models.gates_margin"), annotation_position="top",
    )  # fmt: skip
    laid_out(figure, 110 + 34 * len(known))
    figure.update_layout(margin={"t": 28})
    figure.update_xaxes(title=say("models.gates_axis"), tickformat=".0%")
    figure.update_yaxes(automargin=True, autorange="reversed")
    return figure


def _draw_gates(entries: Sequence[Mapping[str, Any]]) -> None:
    evaluated = [one for one in entries if one["details"].get("gates")]
    if not evaluated:
        st.info(say("models.no_gates"), icon=":material/info:")
        return
    lang = language()
    names = [
        " · ".join(
            (
                say("model.version", number=one["details"].get("version", "")),
                translated(one["action"], lang),
                translated(one["details"].get("phase", ""), lang),
                moment(one["time"], lang),
            )
        )
        for one in evaluated
    ]
    place = st.selectbox(
        say("models.gate_results"), range(len(evaluated)), format_func=names.__getitem__
    )
    _draw_report(evaluated[place]["details"]["gates"], "gates")


def _draw_report(report: Mapping[str, Any], key: str, *, failures: bool = False) -> None:
    """Draw gates, those that do not pass first; or only these."""
    lang, order = language(), list(_STATES)
    gates = sorted(report.get("gates", ()), key=lambda gate: order.index(gate["state"]))
    passed = sum(gate["state"] == "pass" for gate in gates)
    if failures:
        gates = [gate for gate in gates if gate["state"] != "pass"]
    else:
        colour = "green" if passed == len(gates) else "red"
        counts = say("models.gates_pass", passed=passed, all=len(gates))
        st.markdown(f":{colour}[**{counts}**]")
        st.caption(escaped(translated(str(report.get("rows", "")), lang)))
    figure = gates_chart(gates)
    if figure is not None:
        st.plotly_chart(figure, key=f"{key} chart", config=CONFIG)
        st.caption(say("models.gates_help"))
    for gate in gates:
        colour, icon, _ = _STATES[gate["state"]]
        name = translated(gate["name"], lang)
        capital = name[:1].upper() if name[1:2].islower() else name[:1]  # wMAPE stays wMAPE
        st.markdown(
            f":{colour}[{icon} **{escaped(capital + name[1:])}** · "
            f"{say('gate.' + gate['state'].replace(' ', '_'))}]  \n"
            f"{escaped(translated(gate['text'], lang))}"
        )


def _draw_history(entries: Sequence[Mapping[str, Any]]) -> None:
    if not entries:
        st.info(say("models.no_history"), icon=":material/info:")
        return
    lang = language()
    draw_table(
        [
            Shown(say("models.time"), [moment(one["time"], lang) for one in entries]),
            Shown(say("models.who"), [translated(one["actor"], lang) for one in entries]),
            Shown(say("models.action"), [translated(one["action"], lang) for one in entries]),
            Shown(
                say("models.version"), [str(one["details"].get("version", "")) for one in entries]
            ),
            Shown(say("models.champion"), [_moved(one) for one in entries]),
            Shown(
                say("models.result"),
                [translated(one["details"].get("phase", ""), lang) for one in entries],
            ),
            Shown(say("models.reason"), [translated(one["reason"], lang) for one in entries]),
        ]
    )


def _moved(entry: Mapping[str, Any]) -> str:
    before, after = entry["from_value"] or "–", entry["to_value"] or "–"
    return after if before == after else f"{before} → {after}"


def _draw_change(listed: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
    if (done := st.session_state.pop(_DONE, None)) is not None:
        st.success(escaped(done), icon=":material/check_circle:")
    st.caption(say("models.change_help"))
    if listed["follows"] not in (None, "champion"):
        st.info(say("models.follows", alias=escaped(listed["follows"])), icon=":material/info:")
    elif listed["follows"] is None:
        st.info(say("models.follows_none"), icon=":material/info:")
    titles = {one["number"]: version_title(one["number"], one["aliases"])
              for one in listed["versions"]}  # fmt: skip
    left, right = st.columns(2, gap="large")
    with left, st.form("promote"):
        st.subheader(say("models.promote"))
        version = st.selectbox(say("models.version"), titles, None, titles.__getitem__)
        alias = st.selectbox(
            say("models.place"), _PLACES, format_func=lambda one: say(f"alias.{one}")
        )
        request = {"version": version, "alias": alias}
        request["reason"] = st.text_input(say("models.reason"), max_chars=500)
        request["force"] = st.checkbox(say("models.force"), help=say("models.force_help"))
        key = st.text_input(say("models.key"), type="password", autocomplete="off")
        if st.form_submit_button(say("models.review"), type="primary"):
            _review("promote", request, key)
    with right, st.form("rollback"):
        st.subheader(say("models.rollback"))
        to = st.selectbox(
            say("models.to"), [None, *titles],
            format_func=lambda one: say("models.previous") if one is None else titles[one],
        )  # fmt: skip
        reason = st.text_input(say("models.reason"), key="rollback reason", max_chars=500)
        key = st.text_input(
            say("models.key"), type="password", autocomplete="off", key="rollback key"
        )
        if st.form_submit_button(say("models.review"), type="primary"):
            _review("rollback", {"to": to, "reason": reason}, key)
    if (asked := st.session_state.get(_ASKED)) is not None:
        _draw_confirmation(listed, *asked)
    if (refused := st.session_state.pop(_REFUSED, None)) is not None:
        version, said = refused
        _draw_rejection(version, said, entries)


def _review(verb: str, request: Mapping[str, Any], key: str) -> None:
    """Take what the form holds to the confirmation, or say what is missing."""
    st.session_state.pop(_ASKED, None)
    missing = (
        "no_version" if verb == "promote" and request["version"] is None
        else "no_key" if not key.strip()
        else "no_reason" if request.get("force") and not request["reason"].strip()
        else None
    )  # fmt: skip
    if missing is not None:
        st.error(say(f"models.{missing}"), icon=":material/edit:")
    else:
        # for the request that the next press sends; it is dropped then
        st.session_state[_ASKED] = (verb, dict(request), key.strip())


def consequences(listed: Mapping[str, Any], verb: str, request: Mapping[str, Any]) -> list[str]:
    """Return what a change will do, a sentence each.

    Args:
        listed: What ``/api/v1/models/versions`` said.
        verb: ``promote`` or ``rollback``.
        request: What will be sent.
    """
    holders = {alias: one["number"] for one in listed["versions"] for alias in one["aliases"]}
    champion = holders.get("champion")
    follows = listed["follows"]
    if verb == "promote":
        version, alias = request["version"], request["alias"]
        if holders.get(alias) == version:
            return [say("models.same", version=version)]
        said = []
        if alias != "staging":
            key = "models.will_force" if request["force"] else "models.will_gates"
            said.append(say(key, version=version))
        if alias != "champion":
            place = say(f"alias.{alias}")
            values = {"champion": champion or "–", "version": version, "place": place}
            return [*said, say("models.will_not_answer", **values)]
    else:
        version = request["to"] or say("models.previous")
        said = []
    if follows == "champion":
        said.append(
            say("models.will_answer", version=version) if verb == "promote" or request["to"]
            else say("models.will_answer_previous")
        )  # fmt: skip
    if champion:
        said.append(
            say(
                "models.will_retire" if verb == "promote" else "models.will_mark", champion=champion
            )
        )
    back = "models.will_return" if verb == "promote" and champion else "models.will_promote"
    return [*said, say(back, champion=champion)]


def _draw_confirmation(
    listed: Mapping[str, Any], verb: str, request: Mapping[str, Any], key: str
) -> None:
    with st.container(border=True):
        st.subheader(say("models.will"))
        st.markdown("\n".join(f"- {escaped(one)}" for one in consequences(listed, verb, request)))
        with st.container(horizontal=True):
            if st.button(say(f"models.{verb}"), type="primary", icon=":material/check:"):
                st.session_state.pop(_ASKED)
                _change(verb, request, key)
            if st.button(say("models.cancel")):
                st.session_state.pop(_ASKED)
                st.rerun()


def _change(verb: str, request: Mapping[str, Any], key: str) -> None:
    """Ask for a change with a key that is used for this one request."""
    try:
        with st.spinner(say("models.working")):
            done = client().with_key(key).change(f"/api/v1/admin/models/{verb}", request)
    except ServiceRefusedError as error:
        gates = error.word == "gates_refuse"
        st.session_state[_REFUSED] = (
            str(request.get("version")),
            None if gates else rejection(error),
        )
    else:
        st.session_state[_DONE] = say(
            f"models.done_{verb}", version=done["version"],
            before=done["before"] or "–", after=done["after"] or "–",
        )  # fmt: skip
    st.rerun()  # versions and history are others now


def _draw_rejection(version: str, said: str | None, entries: Sequence[Mapping[str, Any]]) -> None:
    """Say why a change was refused; without a text it was the gates, as the history has them."""
    if said is not None:
        st.error(escaped(said), icon=":material/block:")
        return
    st.error(say("models.refused", version=version), icon=":material/block:")
    found = next(
        (one for one in entries if one["details"].get("gates")
         and str(one["details"].get("version")) == version), None,
    )  # fmt: skip
    if found is not None:
        _draw_report(found["details"]["gates"], "refused", failures=True)
    st.markdown(escaped(say("models.refused_help", force=say("models.force"))))
