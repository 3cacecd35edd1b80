"""*Value*: one row in, its estimate out, with where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from tasador.core.languages import number
from tasador.ops.api_client import ServiceRefusedError
from tasador.reporting.appraisal import texts as reports
from tasador.ui import widgets
from tasador.ui.texts import escaped, money, step_of_size
from tasador.ui.widgets import Model, client, draw_fields, field_key, language, model, places, say

_LAST = "value last"
_COMPARABLES = 12
_GROUPS = 8
_FAMILY = {"html": "text", "pdf": "application"}
#: On a phone the columns' blocks are one list: the estimate stays in sight above the fields.
_STYLE = """<style>
@media (max-width: 640px) {
  .st-key-row_and_value > * > [data-testid=stHorizontalBlock] {flex-direction: column;
    flex-wrap: nowrap; gap: 1rem;}
  .st-key-row_and_value [data-testid=stColumn]:has(.st-key-headline),
  .st-key-row_and_value [data-testid=stColumn]:has(.st-key-headline) > div {display: contents;}
  [data-testid=stLayoutWrapper]:has(> .st-key-headline) {order: -1; position: sticky; top: 3.2rem;
    z-index: 9; background: Canvas;}
  .st-key-row_and_value [data-testid=stColumn] {width: 100%; min-width: 100%;}
  .st-key-headline {gap: 0.25rem; padding: 0.5rem 1rem;}
}
</style>"""


def draw() -> None:
    """Draw the page."""
    found = model()
    widgets.draw_header(say("value.title"), found)
    st.html(_STYLE)
    with st.container(key="row_and_value"):
        left, right = st.columns([5, 6], gap="large")
    with left:
        row, slots = draw_fields(found.contract, found.example, found.version)
        below = st.container()
    with right:
        answer = _answer(found, row, slots)
    with below:
        _draw_map(found, row)
    if answer is not None:
        _draw_comparables(found, row, answer)


def _answer(found: Model, row: dict[str, Any], slots: Mapping[str, Any]) -> dict[str, Any] | None:
    """Draw what the row is worth, or what is wrong in its fields; returns the explanation."""
    last = st.session_state.get(_LAST)
    with st.container(key="headline", border=True):
        try:
            answer: dict[str, Any] = json.loads(
                explained(client().url, found.version, json.dumps(row, default=str))
            )
        except ServiceRefusedError as error:
            faults = faults_by_column(error.faults)
            if not faults:
                raise
            for name in slots.keys() & faults.keys():
                said = widgets.fault_text(found.contract.column(name), faults[name])
                slots[name].error(escaped(said), icon=":material/priority_high:")
            st.error(say("value.refused", count=len(faults)), icon=":material/error:")
            if last is not None and last["version"] == found.version:
                st.caption(say("value.last", value=escaped(last["value"])))
            return None
        valuation = answer["valuation"]
        if valuation[found.contract.target.prediction_name] is None:
            st.info(escaped(valuation["no_value"]), icon=":material/block:")
            return answer
        _draw_estimate(found, valuation)
    _draw_confidence(valuation)
    for warning in valuation["warnings"]:
        st.warning(escaped(reports.warning(warning, language())), icon=":material/info:")
    _draw_groups(found, answer)
    _draw_reports(found, row)
    return answer


@st.cache_data(show_spinner=False, max_entries=256, ttl=600)
def explained(url: str, version: str, row: str) -> str:  # noqa: ARG001 - the cache's key
    """Return the explanation of a row, both as JSON; a row is valued, and recorded, once.

    Raises:
        ServiceAwayError: The service does not answer.
        ServiceRefusedError: It refuses the row.
    """
    return json.dumps(client().explain(json.loads(row), _COMPARABLES))


def faults_by_column(faults: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what the service said, by the column it is about."""
    return {str(one["loc"][-1]): str(one["msg"]) for one in faults if one.get("loc")}


def _draw_map(found: Model, row: Mapping[str, Any]) -> None:
    coordinates = found.contract.coordinates
    rows = None if coordinates is None else places(client().url, found.version)
    if coordinates is None or rows is None:
        return
    longitude, latitude = (field_key(column, found.version) for column in coordinates)

    def take() -> None:
        points = st.session_state["map"]["selection"]["points"]
        if points:
            st.session_state[longitude] = round(float(points[0]["x"]), 4)
            st.session_state[latitude] = round(float(points[0]["y"]), 4)

    here = (row.get(coordinates[0].name), row.get(coordinates[1].name))
    figure = widgets.place_map(found.contract, rows, here)
    st.plotly_chart(
        figure, key="map", on_select=take, selection_mode="points", config=widgets.CONFIG,
        alt=say("map.alt"),
    )  # fmt: skip
    st.caption(say("map.help"))


def _draw_estimate(found: Model, valuation: Mapping[str, Any]) -> None:
    target, lang = found.contract.target, language()
    estimate, interval = valuation[target.prediction_name], valuation["interval"]
    value = money(estimate, target.unit, lang)
    st.session_state[_LAST] = {"version": found.version, "value": value}
    st.metric(
        say("value.estimate", target=escaped(found.contract.label_of(target.name))), value,
        help=escaped(f"{say('value.exact')}: {number(estimate, 2, lang)} {target.unit or ''}"
                     f" · {valuation['prediction_id']}"),
    )  # fmt: skip
    step = step_of_size(estimate)
    low = money(interval["lower"], None, lang, step)
    high = money(interval["upper"], target.unit, lang, step)
    share = reports.percent(100 * interval["coverage"], 0, lang)
    st.markdown(say("value.interval", share=share, low=escaped(low), high=escaped(high)))


def _draw_confidence(valuation: Mapping[str, Any]) -> None:
    said, lang = [], language()
    if valuation.get("fsd") is not None:
        grade = valuation["confidence_class"]
        words = reports.text(f"class.{grade}", lang)
        fsd = reports.percent(100 * valuation["fsd"], 1, lang)
        said.append(say("value.confidence", grade=grade, words=words, fsd=fsd))
    if valuation.get("support") is not None:
        said.append(escaped(reports.reach_text(valuation["support"], lang)))
    if said:
        st.markdown("  \n".join(said).replace(" %", "\u00a0%"))


def _draw_reports(found: Model, row: Mapping[str, Any]) -> None:
    """Draw what downloads the row's valuation report; it is written when it is asked for."""
    service = client()
    kinds = widgets.report_kinds(service.url, found.version)
    for column, kind in zip(st.columns(max(len(kinds), 1)), kinds, strict=False):
        column.download_button(
            say("value.report", kind=kind.upper()),
            partial(service.appraise, row, language(), kind),
            f"{say('value.report_file')}.{kind}", f"{_FAMILY[kind]}/{kind}", key=f"report {kind}",
            icon=":material/description:", width="stretch", on_click="ignore",
            help=say("value.report_help"),
        )  # fmt: skip


def _draw_groups(found: Model, answer: Mapping[str, Any]) -> None:
    groups = [
        (widgets.group_name(found.contract, one), float(one["amount"])) for one in answer["groups"]
    ]
    if len(groups) > _GROUPS:
        rest = sum(amount for _, amount in groups[_GROUPS - 1 :])
        groups = [*groups[: _GROUPS - 1], (say("group.others"), rest)]
    st.subheader(say("value.why"))
    figure = widgets.waterfall(groups, answer["base"], found.contract.target.unit)
    st.plotly_chart(figure, key="waterfall", config=widgets.CONFIG)
    st.caption(say("waterfall.help"))


def _draw_comparables(found: Model, row: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    near, coordinates = answer["comparables"], found.contract.coordinates
    if not near:
        return
    st.subheader(say("value.comparables"))
    st.caption(say("value.comparables_help", count=len(near)))
    if coordinates is not None:
        here = (row.get(coordinates[0].name), row.get(coordinates[1].name))
        figure = widgets.close_map(found.contract, here, near)
        st.plotly_chart(figure, key="close map", config=widgets.CONFIG)
    widgets.draw_table(_comparables_table(found, near))


def _comparables_table(found: Model, near: Sequence[Mapping[str, Any]]) -> list[widgets.Shown]:
    """Return the columns of the comparables; those that no comparable has are left out."""
    target = found.contract.target
    unit = f" ({target.unit})" if target.unit else ""
    step = step_of_size(max(one["price"] for one in near))
    shown = [
        widgets.Shown("#", [one["n"] for one in near], 0),
        widgets.Shown(found.contract.label_of(target.name) + unit, [one["price"] for one in near]),
        widgets.Shown(
            say("value.adjusted") + unit, [one["adjusted_price"] for one in near], step=step
        ),
        widgets.Shown(say("value.distance_km"), [one["distance_km"] for one in near], 2),
        widgets.Shown(say("value.similarity"), [one["similarity"] for one in near], 1),
    ]
    shown[2:2] = [
        widgets.Shown(say(f"value.{name}"), [one[name] for one in near])
        for name in ("label", "id", "date")
    ]
    for name in near[0]["attributes"]:
        values = [one["attributes"].get(name) for one in near]
        shown.append(widgets.Shown(found.contract.heading_of(name), values))
    return [column for column in shown if any(value is not None for value in column.values)]
