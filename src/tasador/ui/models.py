"""*Models*: the versions, their figures and gates, what happened to them, and changing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from tasador.ops.api_client import ServiceRefusedError
from tasador.ui.texts import escaped, moment
from tasador.ui.widgets import client, draw_header, model, say

#: Metric: its heading, and how it is printed.
_METRICS = {
    "mape": ("MAPE %", "%.2f"),
    "wmape": ("wMAPE %", "%.2f"),
    "median_ape": ("Median APE %", "%.2f"),
    "within_10": ("≤ 10 %", "%.1f"),
    "rmse": ("RMSE", "localized"),
    "mae": ("MAE", "localized"),
    "r2": ("R²", "%.3f"),
}
_DONE = "models done"


def draw() -> None:
    """Draw the page."""
    found = model()
    draw_header(say("models.title"), found)
    cells = st.columns(3)
    digits = found.version.rsplit("-", 1)[-1]
    said = found.info.get("release") or digits
    cells[0].metric(say("models.answers"), said, help=escaped(found.version))
    cells[1].metric(say("models.source"), str(found.info["source"]))
    cells[2].metric(say("models.origin"), say(f"origin.{found.info['origin']}"))
    try:
        listed = client().get("/api/v1/models/versions")
        entries = client().get("/api/v1/models/history", {"limit": 100})["entries"]
    except ServiceRefusedError as error:
        st.info(say("models.no_registry"), icon=":material/info:")
        st.caption(escaped(error.said))
        return
    for note in listed["notes"]:
        st.warning(escaped(note), icon=":material/info:")
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
        _draw_change(listed)


def _draw_board(versions: Sequence[Mapping[str, Any]], answering: str) -> None:
    ordered = sorted(versions, key=lambda one: one["metrics"].get("mape", float("inf")))
    st.dataframe(
        [
            {
                say("models.version"): int(one["number"]),
                say("models.release"): one.get("release", ""),
                say("models.place"): ", ".join(one["aliases"])
                + (" ●" if one["bundle"] == answering else ""),
                say("models.status"): one["status"],
                say("models.origin"): say(f"origin.{one['origin']}") if one["origin"] else "",
                **{head: one["metrics"].get(name) for name, (head, _) in _METRICS.items()},
                say("models.created"): moment(one["created"]),
                say("models.bundle"): one["bundle"],
                say("models.run"): one["run"],
            }
            for one in ordered
        ],
        hide_index=True,
        column_config={
            head: st.column_config.NumberColumn(format=form) for head, form in _METRICS.values()
        },
    )
    st.caption(say("models.board_help"))


def _draw_gates(entries: Sequence[Mapping[str, Any]]) -> None:
    evaluated = [one for one in entries if one["details"].get("gates")]
    if not evaluated:
        st.info(say("models.no_gates"), icon=":material/info:")
        return
    names = [
        f"{moment(one['time'])} · {one['action']} {one['details'].get('version', '')} · "
        f"{one['details'].get('phase', '')}"
        for one in evaluated
    ]
    place = st.selectbox(
        say("models.gate_results"), range(len(evaluated)), format_func=names.__getitem__
    )
    report = evaluated[place]["details"]["gates"]
    st.markdown(f"**{escaped(report['summary'])}**" if "summary" in report else "")
    st.caption(escaped(str(report.get("rows", ""))))
    st.dataframe(
        [
            {
                say("models.gate"): gate["name"],
                say("models.result"): say(f"gate.{gate['state'].replace(' ', '_')}"),
                say("models.numbers"): gate["text"],
            }
            for gate in report.get("gates", ())
        ],
        hide_index=True,
    )


def _draw_history(entries: Sequence[Mapping[str, Any]]) -> None:
    if not entries:
        st.info(say("models.no_history"), icon=":material/info:")
        return
    st.dataframe(
        [
            {
                say("models.time"): moment(one["time"]),
                say("models.who"): one["actor"],
                say("models.action"): one["action"],
                say("models.version"): str(one["details"].get("version", "")),
                say("models.champion"): _moved(one),
                say("models.result"): one["details"].get("phase", ""),
                say("models.reason"): one["reason"],
            }
            for one in entries
        ],
        hide_index=True,
    )


def _moved(entry: Mapping[str, Any]) -> str:
    before, after = entry["from_value"] or "–", entry["to_value"] or "–"
    return after if before == after else f"{before} → {after}"


def _draw_change(listed: Mapping[str, Any]) -> None:
    if (done := st.session_state.pop(_DONE, None)) is not None:
        st.success(escaped(done), icon=":material/check_circle:")
    st.caption(say("models.change_help"))
    if listed["follows"] not in (None, "champion"):
        st.info(say("models.follows", alias=escaped(listed["follows"])), icon=":material/info:")
    elif listed["follows"] is None:
        st.info(say("models.follows_none"), icon=":material/info:")
    left, right = st.columns(2, gap="large")
    numbers = [one["number"] for one in listed["versions"]]
    with left, st.form("promote", clear_on_submit=True):
        st.subheader(say("models.promote"))
        version = st.selectbox(say("models.version"), numbers)
        alias = st.selectbox(say("models.place"), ["champion", "challenger", "staging"])
        reason = st.text_input(say("models.reason"))
        force = st.checkbox(say("models.force"), help=say("models.force_help"))
        key = st.text_input(say("models.key"), type="password", autocomplete="off")
        if st.form_submit_button(say("models.promote"), type="primary"):
            request = {"version": version, "alias": alias, "reason": reason, "force": force}
            _change("promote", request, key)
    with right, st.form("rollback", clear_on_submit=True):
        st.subheader(say("models.rollback"))
        to = st.selectbox(
            say("models.to"), [None, *numbers],
            format_func=lambda one: say("models.previous") if one is None else one,
        )  # fmt: skip
        reason = st.text_input(say("models.reason"), key="rollback reason")
        key = st.text_input(
            say("models.key"), type="password", autocomplete="off", key="rollback key"
        )
        if st.form_submit_button(say("models.rollback"), type="primary"):
            _change("rollback", {"to": to, "reason": reason}, key)


def _change(verb: str, request: Mapping[str, Any], key: str) -> None:
    """Ask for a change with a key that is used for this one request and kept nowhere."""
    if not key.strip():
        st.error(say("models.no_key"), icon=":material/key:")
        return
    try:
        with st.spinner(say("models.working")):
            done = client().with_key(key.strip()).change(f"/api/v1/admin/models/{verb}", request)
    except ServiceRefusedError as error:
        st.error(escaped(error.said), icon=":material/block:")
        return
    st.session_state[_DONE] = say(
        f"models.done_{verb}", version=done["version"],
        before=done["before"] or "–", after=done["after"] or "–",
    )  # fmt: skip
    st.rerun()
