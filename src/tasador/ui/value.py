"""*Value*: one row in, its estimate out, with where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from tasador.contract.model import TableContract
from tasador.core.languages import amount, number
from tasador.ops.api_client import ServiceRefusedError
from tasador.ui import widgets
from tasador.ui.texts import escaped, label, rounded
from tasador.ui.widgets import Model, client, draw_fields, field_key, language, model, places, say

#: Names of steps that sum several features; pages translate them.
COMPARABLES, AREA, OTHERS = "comparables", "area", "others"


def grouped(
    contributions: Sequence[Mapping[str, Any]], contract: TableContract
) -> list[tuple[str, float]]:
    """Return each source of information with the sum of its features' parts, largest first.

    Features made from comparables count together, so do those made from one column: its own value,
    its one-hot columns and its target mean.

    Args:
        contributions: What ``/api/v1/explain`` said, on the model's scale.
        contract: Names the columns and ratios.
    """
    sources = [column.name for column in contract.features]
    sources += [ratio.name for ratio in contract.ratios]
    sources.sort(key=len, reverse=True)
    sums: dict[str, float] = {}
    for one in contributions:
        source = _source(str(one["feature"]), sources)
        sums[source] = sums.get(source, 0.0) + float(one["value"])
    return sorted(sums.items(), key=lambda item: -abs(item[1]))


def _source(feature: str, sources: Sequence[str]) -> str:
    if feature.startswith("comparables"):
        return COMPARABLES
    if feature.startswith("cluster"):
        return AREA
    for source in sources:  # the longest first: one name may begin with another
        if feature == source or feature.startswith((f"{source}=", f"{source}_")):
            return source
    return feature


def in_money(
    parts: Sequence[tuple[str, float]],
    *,
    expected: float,
    estimate: float,
    scale: str,
    most: int = 8,
) -> tuple[float, list[tuple[str, float]]]:
    """Return where an estimate begins and its steps, in the target's unit; they end at it exactly.

    On a log scale each part is a factor; what it comes to in money depends on what it is applied
    to, so the parts are applied one after the other, the largest first.

    Args:
        parts: Sums on the model's scale, largest first.
        expected: The model's mean score, on that scale.
        estimate: The estimate, in the target's unit.
        scale: ``log`` or ``none``.
        most: Steps to show; the rest become one.
    """
    value = math.exp if scale == "log" else float
    start = value(expected)
    score, at = expected, start
    steps = []
    for name, part in parts[:most]:
        score += part
        steps.append((name, value(score) - at))
        at = value(score)
    rest = estimate - at
    if len(parts) > most or abs(rest) > 1e-6 * abs(estimate):
        steps.append((OTHERS, rest))
    return start, steps


_FOUND, _FAULTS = "value found", "value faults"
_COMPARABLES = 12
_FAMILY = {"html": "text", "pdf": "application"}


def draw() -> None:
    """Draw the page."""
    st.title(say("value.title"))
    found = model()
    st.caption(escaped(found.contract.title))
    left, right = st.columns([5, 6], gap="large")
    with right:
        _draw_map(found)
    with left:
        _draw_form(found)
    answer = st.session_state.get(_FOUND)
    if answer is None or answer["model_version"] != found.version:
        return
    with left:
        _draw_estimate(found, answer)
    st.divider()
    first, second = st.columns([6, 5], gap="large")
    with first:
        if answer["valuation"][found.contract.target.prediction_name] is not None:
            st.subheader(say("value.why"))
            _draw_waterfall(found, answer)
    with second:
        _draw_near(found, answer)
    _draw_comparables(found, answer)


def _draw_form(found: Model) -> None:
    faults: dict[str, str] = st.session_state.get(_FAULTS, {})
    with st.form("row", border=False):
        row = draw_fields(found.contract, found.example, found.version, faults)
        asked = st.form_submit_button(
            say("value.ask"), type="primary", icon=":material/calculate:", width="stretch"
        )
    if faults:
        st.error(say("value.refused", count=len(faults)), icon=":material/error:")
    if asked:
        _ask(found, row)
        st.rerun()


def _ask(found: Model, row: dict[str, Any]) -> None:
    st.session_state.pop(_FOUND, None)
    st.session_state[_FAULTS] = {}
    try:
        with st.spinner(say("value.asking")):
            answer = client().explain(row, _COMPARABLES)
    except ServiceRefusedError as error:
        faults = faults_by_column(error.faults)
        if not faults:
            raise
        st.session_state[_FAULTS] = faults
        return
    st.session_state[_FOUND] = {**answer, "row": row, "model_version": found.version}


def faults_by_column(faults: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what the service said, by the column it is about."""
    return {str(one["loc"][-1]): str(one["msg"]) for one in faults if one.get("loc")}


def _draw_map(found: Model) -> None:
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
            st.session_state.pop(_FOUND, None)

    for key, column in zip((longitude, latitude), coordinates, strict=True):
        if key not in st.session_state and found.example.get(column.name) is not None:
            st.session_state[key] = float(found.example[column.name])
    here = (st.session_state.get(longitude), st.session_state.get(latitude))
    answer = st.session_state.get(_FOUND) or {}
    figure = widgets.place_map(found.contract, rows, here, answer.get("comparables", ()))
    st.plotly_chart(
        figure, key="map", on_select=take, selection_mode="points", config=widgets.CONFIG,
        alt=say("map.alt"),
    )  # fmt: skip
    st.caption(say("map.help"))


def _draw_estimate(found: Model, answer: Mapping[str, Any]) -> None:
    target, lang, valuation = found.contract.target, language(), answer["valuation"]
    estimate, interval = valuation[target.prediction_name], valuation["interval"]
    with st.container(border=True):
        if estimate is None:
            st.info(escaped(valuation["no_value"]), icon=":material/block:")
            return
        st.metric(
            say("value.estimate", target=escaped(label(target.name))),
            amount(estimate, target.unit, lang),
        )
        share = number(100 * interval["coverage"], 0, lang)
        low, high = (amount(interval[key], target.unit, lang) for key in ("lower", "upper"))
        st.markdown(say("value.interval", share=share, low=escaped(low), high=escaped(high)))
        figure = widgets.interval_bar(interval["lower"], estimate, interval["upper"], target.unit)
        st.plotly_chart(figure, key="interval", config=widgets.CONFIG)
        if valuation.get("fsd") is not None:
            grade, share = valuation["confidence_class"], number(100 * valuation["fsd"], 1, lang)
            confidence = number(valuation["confidence"], 0, lang)
            st.markdown(say("value.confidence", grade=grade, confidence=confidence, fsd=share))
        if valuation.get("support") is not None:
            within = valuation["support"]["within_reach"]
            st.caption(say("value.support", count=f"{within}+" if within == 64 else within))
        for warning in valuation["warnings"]:
            st.warning(escaped(warning), icon=":material/info:")
        st.caption(f"{escaped(found.version)} · {escaped(valuation['prediction_id'])}")
        _draw_reports(found, answer["row"])


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


def _draw_waterfall(found: Model, answer: Mapping[str, Any]) -> None:
    estimate = answer["valuation"][found.contract.target.prediction_name]
    names = {key: say(f"part.{key}") for key in
             (COMPARABLES, AREA, OTHERS)}  # fmt: skip
    parts = grouped(answer["contributions"], found.contract)
    start, steps = in_money(
        parts, expected=answer["expected"], estimate=estimate, scale=answer["scale"]
    )
    labels = [(names.get(name, label(name)), value) for name, value in steps]
    figure = widgets.waterfall(labels, start, found.contract.target.unit)
    st.plotly_chart(figure, key="waterfall", config=widgets.CONFIG)
    st.caption(say("waterfall.help"))


def _draw_comparables(found: Model, answer: Mapping[str, Any]) -> None:
    near = answer["comparables"]
    if not near:
        return
    st.subheader(say("value.comparables"))
    st.caption(say("value.comparables_help", count=len(near)))
    target = found.contract.target
    heading = label(target.name) + (f" ({target.unit})" if target.unit else "")
    table = [
        {
            "#": place,
            heading: rounded(one["price"]),
            **{
                say(f"value.{name}"): one[name]
                for name in ("label", "id", "date", "distance_km", "similarity")
                if one[name] is not None
            },
            **(
                {}
                if one["adjusted_price"] is None
                else {say("value.adjusted"): rounded(one["adjusted_price"])}
            ),
            **{label(name): value for name, value in one["attributes"].items()},
        }
        for place, one in enumerate(near, 1)
    ]  # fmt: skip
    st.dataframe(
        table, hide_index=True,
        column_config={heading: st.column_config.NumberColumn(format="localized")},
    )  # fmt: skip


def _draw_near(found: Model, answer: Mapping[str, Any]) -> None:
    near, coordinates = answer["comparables"], found.contract.coordinates
    if coordinates is None or not near:
        return
    st.subheader(say("value.near"))
    here = (answer["row"].get(coordinates[0].name), answer["row"].get(coordinates[1].name))
    figure = widgets.close_map(found.contract, here, near)
    st.plotly_chart(figure, key="close map", config=widgets.CONFIG)
