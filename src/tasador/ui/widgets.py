"""What the pages have in common: the language, the service and its model, the form and the charts.

The form of one row is made from the contract. The charts are drawn from what the API said; none
loads anything from another host.
"""

from __future__ import annotations

import datetime as dt
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from tasador.contract.model import Column, TableContract, people_label
from tasador.contract.reader import from_dict
from tasador.core.escape import chart
from tasador.core.languages import Language, amount, digits_in, translated
from tasador.ops.api_client import ApiClient, ServiceRefusedError
from tasador.reporting.appraisal import texts as reports
from tasador.reporting.appraisal.outline import outline
from tasador.ui.texts import LANGUAGES, TEXTS, escaped, money, step_of_size, text

API_URL = "TASADOR_UI__API_URL"
API_KEY = "TASADOR_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"
_NONE = "—"


@dataclass(frozen=True)
class Model:
    """The model that answers, as a page needs it.

    Attributes:
        version: Its version.
        contract: Its table's contract, with its texts in the language chosen.
        info: Everything that ``/api/v1/model/info`` says.
        example: A row in the middle of the training rows.
    """

    version: str
    contract: TableContract
    info: dict[str, Any]
    example: dict[str, Any]


def client() -> ApiClient:
    """Return the client of the service that the environment names."""
    return ApiClient(
        os.environ.get(API_URL, DEFAULT_URL), os.environ.get(API_KEY) or None, timeout_s=15.0
    )


def model() -> Model:
    """Return the model that answers now; contract and example are read once a version.

    Raises:
        ServiceAwayError: The service does not answer.
        ServiceRefusedError: It refuses, e.g. for want of a key.
        ServingError: It has no model yet.
    """
    info = client().model_info()
    version = str(info["model_version"])
    example = _example(client().url, version)
    contract = from_dict(info["contract"]).in_language(language())
    return Model(version, contract, info, example)


@st.cache_data(show_spinner=False, max_entries=8)
def _example(url: str, version: str) -> dict[str, Any]:  # noqa: ARG001 - the cache's key
    schemas = client().get("/openapi.json")["components"]["schemas"]
    examples = schemas.get("Row", {}).get("examples") or [{}]
    return dict(examples[0])


@st.cache_data(show_spinner=False, max_entries=8)
def places(url: str, version: str) -> dict[str, Any] | None:  # noqa: ARG001 - the cache's key
    """Return where the training rows lie; None for a table without coordinates."""
    try:
        found: dict[str, Any] = client().get("/api/v1/models/density")
    except ServiceRefusedError:
        return None
    return found


@st.cache_data(show_spinner=False, max_entries=8)
def report_kinds(url: str, version: str) -> list[str]:  # noqa: ARG001 - the cache's key
    """Return the types of valuation reports that the service can write."""
    paths = client().get("/openapi.json")["paths"]
    route = paths.get("/api/v1/appraise", {}).get("post", {})
    content = route.get("responses", {}).get("200", {}).get("content", {})
    return [kind.rsplit("/", 1)[-1] for kind in content]


def language() -> Language:
    """Return the language chosen; at first the address's ``lang``, then the browser's."""
    if "language" not in st.session_state:
        asked = st.query_params.get("lang") or (st.context.locale or "en")
        code = asked[:2].lower()
        st.session_state["language"] = code if code in LANGUAGES else "en"
    return cast(Language, st.session_state["language"])


def say(key: str, **values: object) -> str:
    """Return a text of the catalogue in the language chosen."""
    return text(key, language(), **values)


@st.cache_data(show_spinner=False, max_entries=8, ttl=15)
def registered(url: str, version: str) -> dict[str, Any] | None:  # noqa: ARG001 - the cache's key
    """Return what the registry says of the model that answers; None where it does not know it."""
    try:
        listed = client().get("/api/v1/models/versions")["versions"]
    except ServiceRefusedError:
        return None
    return next((dict(one) for one in listed if one["bundle"] == version), None)


def version_title(number: object, aliases: Sequence[str]) -> str:
    """Return what people call a registered version: ``Version 3 · champion``."""
    names = [say(f"alias.{name}") if f"alias.{name}" in TEXTS else name for name in aliases]
    first = ["champion"] if "champion" in aliases else aliases
    shown = [name for alias, name in zip(aliases, names, strict=True) if alias in first]
    return " · ".join([say("model.version", number=number), *shown])


def draw_header(title: str, found: Model) -> None:
    """Draw a page's title, the model that it is about, and whether that knows generated rows only.

    Args:
        title: The page's.
        found: The model that answers.
    """
    st.title(title)
    known, release = registered(client().url, found.version), found.info.get("release")
    called = (
        version_title(known["number"], known["aliases"]) if known is not None
        else say("model.release", release=release) if release else ""
    )  # fmt: skip
    said = " · ".join(escaped(part) for part in (found.contract.title, called) if part)
    st.markdown(said, help=escaped(found.version))
    if found.info["origin"] == "synthetic":
        st.warning(say("models.synthetic"), icon=":material/science:")


def rejection(error: ServiceRefusedError) -> str:
    """Return what the service said, in the language chosen, without the command line's remedies."""
    return translated(error.detail or error.said or str(error), language())


def field_key(column: Column, version: str) -> str:
    """Return the widget's key; another model's form starts afresh."""
    return f"field {version} {column.name}"


def draw_fields(
    contract: TableContract, example: Mapping[str, Any], version: str
) -> tuple[dict[str, Any], dict[str, DeltaGenerator]]:
    """Draw one field a column; returns the row as the API takes it, and a place below each field.

    Bounds are named but not enforced here: a number that a browser refuses would leave the value
    of the number before it in place. The service checks, so that there is one check.

    Args:
        contract: The table's.
        example: What the fields hold at first.
        version: The model's, part of each widget's key.
    """
    row: dict[str, Any] = {}
    slots: dict[str, DeltaGenerator] = {}
    pair = st.columns(2)
    for place, column in enumerate(contract.fields):
        if place and place % 2 == 0:
            pair = st.columns(2)  # pair by pair: on a phone the order stays the contract's
        with pair[place % 2]:
            name = contract.heading_of(column.name)
            row[column.name] = _draw(column, name, example.get(column.name), version)
            slots[column.name] = st.empty()
    return row, slots


def _draw(column: Column, name: str, example: Any, version: str) -> Any:
    if column.role == "timestamp":
        name = say("field.as_of", column=name)
    key, help_text = field_key(column, version), escaped(hint(column))
    if column.kind == "category":
        return _choice(column, name, key, help_text, example)
    if column.kind in ("datetime", "text"):
        day = _day(example) if column.kind == "datetime" and not column.format_or_part else None
        if day is not None:
            return _date(column, name, key, help_text, day)
        given = st.text_input(escaped(name), value=str(example or ""), key=key, help=help_text)
        return given or None
    if key not in st.session_state:
        st.session_state[key] = None if example is None else _typed(column, example)
    step = 1 if column.kind == "integer" else step_of(column)
    return st.number_input(
        escaped(name), value=None, step=step, key=key, help=help_text,
        format="%d" if column.kind == "integer" else "%.10g",
    )  # fmt: skip


def _day(example: Any) -> dt.date | None:
    try:
        return dt.datetime.fromisoformat(str(example)).date()
    except ValueError:
        return None


def _date(column: Column, name: str, key: str, help_text: str, day: dt.date) -> str | None:
    low, high = (None if bound is None else _day(column.text_of(bound)) for bound in column.bounds)
    if key not in st.session_state:
        st.session_state[key] = day
    given = st.date_input(
        escaped(name), value=None, min_value=low or dt.date(1800, 1, 1),
        max_value=high or dt.date(2199, 12, 31), key=key, help=help_text, format="YYYY-MM-DD",
    )  # fmt: skip
    return given.isoformat() if isinstance(given, dt.date) else None


def _choice(column: Column, name: str, key: str, help_text: str, example: Any) -> str | None:
    options = [*([_NONE] if column.nullable else []), *column.categories]
    index = options.index(example) if example in options else 0
    chosen = st.selectbox(
        escaped(name), options, index=index, key=key, help=help_text, accept_new_options=column.open
    )
    return None if chosen == _NONE else chosen


def _typed(column: Column, example: Any) -> float | int:
    return int(example) if column.kind == "integer" else float(f"{float(example):.6g}")


def group_name(contract: TableContract, group: Mapping[str, Any]) -> str:
    """Return what people call a group of features, as ``/api/v1/explain`` has it."""
    key = f"group.{group['name']}"
    return (
        reports.text(key, language()) if key in reports.TEXTS else contract.label_of(group["name"])
    )


def _bounds(column: Column) -> tuple[str, str, str] | None:
    """Return the last part of a text's key, and the bounds in words; None without bounds."""
    low, high = (
        "" if bound is None
        else column.text_of(bound) if column.kind == "datetime"
        else digits_in(f"{bound:,.10g}", language())
        for bound in column.bounds
    )  # fmt: skip
    if not low and not high:
        return None
    return ("between" if low and high else "least" if low else "most"), low, high


def hint(column: Column) -> str:
    """Return what a field says about itself: what it is, its bounds, whether it may be empty."""
    said, bounds = (
        [column.description or column.label or people_label(column.name)],
        _bounds(column),
    )
    if bounds is not None:
        said.append(say(f"field.{bounds[0]}", low=bounds[1], high=bounds[2]))
    if column.nullable:
        said.append(say("field.optional"))
    return ". ".join(part.rstrip(".") for part in said) + "."


def fault_text(column: Column, said: str) -> str:
    """Return what is wrong with a value, in words: what its column takes.

    Args:
        column: The column.
        said: What the service said; it is shown where the contract alone does not tell.
    """
    bounds = _bounds(column)
    if column.kind == "category":
        return say("fault.category", known=", ".join(column.categories[:20]))
    if column.kind not in ("integer", "number") or bounds is None:
        return said
    whole = "whole_" if column.kind == "integer" else ""
    return say(f"fault.{whole}{bounds[0]}", low=bounds[1], high=bounds[2])


def step_of(column: Column) -> float:
    """Return how far one press of a field's buttons goes: about a hundredth of its range."""
    low, high = column.bounds
    if column.role in ("longitude", "latitude"):
        return 0.01
    if low is None or high is None:
        return 1.0
    for step in (0.01, 0.1, 1.0, 10.0, 100.0):
        if (high - low) / step <= 1000:
            return step
    return 1000.0


#: Readable for people who do not tell red from green: blue up, orange down.
UP, DOWN, PLAIN, ACCENT = "#2b6cb0", "#c05621", "#64748b", "#b42318"
LEVELS = {"ok": "#1e7a46", "cannot_tell": "#64748b", "warn": "#b7791f", "alert": "#b42318"}
_HERE = {"size": 15, "color": ACCENT, "symbol": "x", "line": {"width": 2, "color": "white"}}
CONFIG = {"displayModeBar": False, "scrollZoom": False}


def laid_out(figure: go.Figure, height: int, **options: Any) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        showlegend=options.pop("showlegend", False),
        dragmode=options.pop("dragmode", False),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        separators=",." if language() == "es" else ".,",
        **options,
    )
    return figure


def place_map(
    contract: TableContract,
    places: Mapping[str, Any],
    here: tuple[float | None, float | None],
) -> go.Figure:
    """Return a map of the training rows and this row, on plain axes.

    Args:
        contract: The table's; it has coordinates.
        places: What ``/api/v1/models/density`` said.
        here: Longitude and latitude of this row; None where a field is empty.
    """
    unit, lang = contract.target.unit, language()
    cells = places["cells"]
    known = [cell for cell in cells if cell[3] is not None]
    rest = [cell for cell in cells if cell[3] is None]
    figure = go.Figure(_outline([(cell[0], cell[1]) for cell in cells]))
    for part, colour in (
        (rest, {"color": "#cbd5e1"}),
        (
            known,
            {
                "color": [cell[3] for cell in known],
                "colorscale": "Viridis",
                "colorbar": {"title": {"text": chart(unit or "")}, "thickness": 10, "len": 0.7},
            },
        ),
    ):
        figure.add_scatter(
            x=[cell[0] for cell in part],
            y=[cell[1] for cell in part],
            mode="markers",
            marker={
                "size": [4 + 1.2 * math.log1p(cell[2]) for cell in part],
                "opacity": 0.75,
                "symbol": "square",
                **colour,
            },
            text=[
                f"{chart(amount(cell[3], unit, lang))}<br>{say('map.rows', rows=cell[2])}"
                for cell in part
            ],
            hovertemplate="%{x:.2f}, %{y:.2f}<br>%{text}<extra></extra>",
        )
    longitude, latitude = (column.name for column in contract.coordinates or ())
    if None not in here:
        figure.add_scatter(
            x=[here[0]], y=[here[1]], mode="markers",
            marker=_HERE,
            hovertemplate=say("map.here") + "<extra></extra>", name=say("map.here"),
        )  # fmt: skip
    middle = sum(cell[1] for cell in cells) / len(cells) if cells else 0.0
    ratio = 1 / max(0.2, math.cos(math.radians(middle)))
    laid_out(figure, 420)
    figure.update_xaxes(
        title=chart(contract.label_of(longitude)), constrain="domain", zeroline=False
    )
    figure.update_yaxes(
        title=chart(contract.label_of(latitude)), scaleanchor="x", scaleratio=ratio,
        constrain="domain", zeroline=False,
    )  # fmt: skip
    return figure


def _outline(places: Sequence[tuple[float | None, float | None]]) -> list[go.Scatter]:
    """Return coasts and borders around places in degrees; none where they are close together."""
    known = [(x, y) for x, y in places if x is not None and y is not None]
    if not known or any(abs(x) > 180 or abs(y) > 90 for x, y in known):
        return []
    xs, ys = zip(*known, strict=True)
    more = 0.04 * max(max(xs) - min(xs), max(ys) - min(ys))
    lines = outline(min(xs) - more, min(ys) - more, max(xs) + more, max(ys) + more)
    points = [point for line in lines for point in (*line.tolist(), (None, None))]
    style = {"color": "#94a3b8", "width": 1}
    return [
        go.Scatter(
            x=[x for x, _ in points], y=[y for _, y in points], mode="lines", line=style,
            hoverinfo="skip", name="outline",
        )
    ] if points else []  # fmt: skip


def close_map(
    contract: TableContract,
    here: tuple[float | None, float | None],
    comparables: Sequence[Mapping[str, Any]],
) -> go.Figure:
    """Return a row and its comparables, close up and numbered as in the table."""
    unit, lang = contract.target.unit, language()
    longitude, latitude = (column.name for column in contract.coordinates or ())
    near = [one["attributes"] for one in comparables]
    places = [(one.get(longitude), one.get(latitude)) for one in near]
    figure = go.Figure(_outline([here, *places]))
    figure.add_trace(
        go.Scatter(
            x=[one.get(longitude) for one in near],
            y=[one.get(latitude) for one in near],
            mode="markers+text",
            text=[str(one["n"]) for one in comparables],
            textposition="top center",
            marker={
                "size": 12,
                "color": [one["value"] for one in comparables],
                "colorscale": "Viridis",
                "colorbar": {"title": {"text": chart(unit or "")}, "thickness": 10},
                "line": {"width": 1, "color": "white"},
            },
            hovertext=[
                f"{one['n']}: {chart(amount(one['value'], unit, lang))}" for one in comparables
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    figure.add_scatter(
        x=[here[0]], y=[here[1]], mode="markers", hovertemplate=say("map.here") + "<extra></extra>",
        marker=_HERE,
    )  # fmt: skip
    ratio = 1 / max(0.2, math.cos(math.radians(here[1] or 0.0)))
    laid_out(figure, 320)
    figure.update_xaxes(title=chart(contract.label_of(longitude)), zeroline=False)
    figure.update_yaxes(
        title=chart(contract.label_of(latitude)), scaleanchor="x", scaleratio=ratio, zeroline=False
    )
    return figure


def waterfall(steps: Sequence[tuple[str, float]], start: float, unit: str | None) -> go.Figure:
    """Return how an estimate comes about, step by step from the typical value, which is the zero.

    Args:
        steps: Name and amount of each, in the target's unit.
        start: The typical value.
        unit: The target's.
    """
    lang = language()
    total = sum(value for _, value in steps)
    size = step_of_size(start + total)
    values = [*(value for _, value in steps), total]
    labels = [money(value, None, lang, size, signed=True) for value in values]
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            y=[*(chart(name) for name, _ in steps), say("waterfall.total")],
            x=values,
            measure=[*["relative"] * len(steps), "total"],
            text=labels,
            textposition="outside",
            cliponaxis=False,
            increasing={"marker": {"color": UP}},
            decreasing={"marker": {"color": DOWN}},
            totals={"marker": {"color": PLAIN}},
            connector={"line": {"color": "#94a3b8", "width": 1}},
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )
    reached = [0.0, *(sum(values[: n + 1]) for n in range(len(steps)))]
    spread = max(max(reached) - min(reached), 1e-9)
    laid_out(figure, 70 + 30 * len(values))
    figure.update_yaxes(autorange="reversed", automargin=True)
    typical = chart(money(start, unit, lang, size))
    figure.update_xaxes(
        title=say("waterfall.axis", typical=typical), nticks=6, zeroline=True, zerolinewidth=2,
        zerolinecolor=PLAIN, tickformat="+,~r",
        range=[min(reached) - 0.22 * spread, max(reached) + 0.22 * spread],
    )  # fmt: skip
    return figure


def histogram(values: Sequence[float], unit: str | None, name: str) -> go.Figure:
    """Return how many of the values lie where, in bars of one width.

    Args:
        values: In the target's unit.
        unit: The target's.
        name: What they are.
    """
    figure = go.Figure(
        go.Histogram(
            x=list(values), nbinsx=min(40, 4 + math.isqrt(len(values))), marker={"color": UP}
        )
    )
    laid_out(figure, 240, bargap=0.04)
    figure.update_xaxes(title=chart(f"{name} ({unit})" if unit else name), tickformat=",")
    figure.update_yaxes(title=say("batch.rows"))
    return figure


@dataclass(frozen=True)
class Shown:
    """A column of a table on a page.

    Attributes:
        name: Its heading.
        values: Numbers, texts, or None for nothing.
        digits: Digits behind the decimal point; None for as many as the numbers have, at most 2.
        step: What amounts are rounded to, instead of `digits`.
        colours: Of its texts.
    """

    name: str
    values: Sequence[Any]
    digits: int | None = None
    step: float | None = None
    colours: Mapping[str, str] = field(default_factory=dict)


def draw_table(columns: Sequence[Shown]) -> None:
    """Draw a table; numbers are written as the language writes them and sorted as numbers."""
    lang = language()
    frame = pd.DataFrame({column.name: column.values for column in columns})
    style = frame.style.format(
        {column.name: _writer(column, lang) for column in columns}, na_rep="–"
    )
    for column in columns:
        if column.colours:
            colour = column.colours.get
            style = style.map(lambda value, c=colour: f"color: {c(value, '')}", [column.name])
    texts = {column.name: st.column_config.TextColumn(width="large")
             for column in columns if any(len(str(v)) > 40 for v in column.values)}  # fmt: skip
    st.dataframe(style, hide_index=True, column_config=texts)


def _writer(column: Shown, lang: Language) -> Any:
    """Return what writes one of the column's values."""
    numbers = [v for v in column.values if isinstance(v, int | float) and math.isfinite(v)]
    if column.step is not None:
        return lambda value: money(value, None, lang, column.step)
    if not numbers:
        return str
    digits = column.digits
    if digits is None:
        digits = next((d for d in (0, 1) if all(abs(v - round(v, d)) < 1e-6 for v in numbers)), 2)
    grouped = max(map(abs, numbers)) >= 10_000  # smaller whole numbers may be years
    comma = "," if grouped else ""
    return lambda value: digits_in(f"{value:{comma}.{digits}f}", lang)
