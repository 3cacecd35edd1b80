"""What the pages have in common: the language, the service and its model, the form and the charts.

The form of one row is made from the contract. The charts are drawn from what the API said; none
loads anything from another host.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import plotly.graph_objects as go
import streamlit as st

from tasador.contract.model import Column, TableContract
from tasador.contract.reader import from_dict
from tasador.core.escape import chart
from tasador.core.languages import Language, amount, digits_of, number
from tasador.ops.api_client import ApiClient, ServiceRefusedError
from tasador.reporting.appraisal.outline import outline
from tasador.ui.texts import LANGUAGES, escaped, label, text

API_URL = "TASADOR_UI__API_URL"
API_KEY = "TASADOR_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"
_NONE = "—"


@dataclass(frozen=True)
class Model:
    """The model that answers, as a page needs it.

    Attributes:
        version: Its version.
        contract: Its table's contract.
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
    return Model(version, from_dict(info["contract"]), info, example)


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


def field_key(column: Column, version: str) -> str:
    """Return the widget's key; another model's form starts afresh."""
    return f"field {version} {column.name}"


def draw_fields(
    contract: TableContract, example: Mapping[str, Any], version: str, faults: Mapping[str, str]
) -> dict[str, Any]:
    """Draw one field a column and return the row as the API takes it.

    Bounds are named but not enforced here: the service checks, and its message is shown at the
    field, so that there is one check.

    Args:
        contract: The table's.
        example: What the fields hold at first.
        version: The model's, part of each widget's key.
        faults: What the service said about a column's value, by column.
    """
    row: dict[str, Any] = {}
    pair = st.columns(2)
    for place, column in enumerate(contract.fields):
        if place and place % 2 == 0:
            pair = st.columns(2)  # pair by pair: on a phone the order stays the contract's
        with pair[place % 2]:
            row[column.name] = _draw(column, example.get(column.name), version)
            if column.name in faults:
                st.error(escaped(faults[column.name]), icon=":material/priority_high:")
    return row


def _draw(column: Column, example: Any, version: str) -> Any:
    name = label(column.name) + (f" ({column.unit})" if column.unit else "")
    if column.role == "timestamp":
        name = say("field.as_of", column=name)
    key, help_text = field_key(column, version), escaped(hint(column))
    if column.kind == "category":
        return _choice(column, name, key, help_text, example)
    if column.kind in ("datetime", "text"):
        given = st.text_input(escaped(name), value=str(example or ""), key=key, help=help_text)
        return given or None
    if key not in st.session_state:
        st.session_state[key] = None if example is None else _typed(column, example)
    step = 1 if column.kind == "integer" else step_of(column)
    return st.number_input(
        escaped(name), value=None, step=step, format=number_format(column), key=key, help=help_text
    )


def _choice(column: Column, name: str, key: str, help_text: str, example: Any) -> str | None:
    options = [*([_NONE] if column.nullable else []), *column.categories]
    index = options.index(example) if example in options else 0
    chosen = st.selectbox(
        escaped(name), options, index=index, key=key, help=help_text, accept_new_options=column.open
    )
    return None if chosen == _NONE else chosen


def _typed(column: Column, example: Any) -> float | int:
    return int(example) if column.kind == "integer" else float(example)


def hint(column: Column) -> str:
    """Return what a field says about itself: what it is, its bounds, whether it may be empty."""
    low, high = (
        None if bound is None
        else column.text_of(bound) if column.kind == "datetime" else f"{bound:,g}"
        for bound in column.bounds
    )  # fmt: skip
    said = [column.description or label(column.name)]
    if low is not None and high is not None:
        said.append(say("field.between", low=low, high=high))
    elif low is not None:
        said.append(say("field.least", low=low))
    elif high is not None:
        said.append(say("field.most", high=high))
    if column.nullable:
        said.append(say("field.optional"))
    return ". ".join(part.rstrip(".") for part in said) + "."


def number_format(column: Column) -> str:
    """Return how a number is shown while it is not edited."""
    if column.kind == "integer":
        return "%d"
    if column.role in ("longitude", "latitude"):
        return "%.4f"
    high = column.bounds[1]
    return "%.2f" if high is None or high < 1000 else "%.1f"


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
        **options,
    )
    return figure


def place_map(
    contract: TableContract,
    places: Mapping[str, Any],
    here: tuple[float | None, float | None],
    comparables: Sequence[Mapping[str, Any]] = (),
) -> go.Figure:
    """Return a map of the training rows, this row, and its comparables, on plain axes.

    Args:
        contract: The table's; it has coordinates.
        places: What ``/api/v1/models/density`` said.
        here: Longitude and latitude of this row; None where a field is empty.
        comparables: What ``/api/v1/explain`` said.
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
    if comparables:
        near = [one["attributes"] for one in comparables]
        figure.add_scatter(
            x=[one.get(longitude) for one in near],
            y=[one.get(latitude) for one in near],
            mode="markers",
            marker={"size": 9, "color": DOWN, "line": {"width": 1, "color": "white"}},
            text=[chart(amount(one["value"], unit, lang)) for one in comparables],
            hovertemplate="%{text}<extra></extra>",
            name=say("value.comparables"),
        )
    if None not in here:
        figure.add_scatter(
            x=[here[0]], y=[here[1]], mode="markers",
            marker=_HERE,
            hovertemplate=say("map.here") + "<extra></extra>", name=say("map.here"),
        )  # fmt: skip
    middle = sum(cell[1] for cell in cells) / len(cells) if cells else 0.0
    ratio = 1 / max(0.2, math.cos(math.radians(middle)))
    laid_out(figure, 420)
    figure.update_xaxes(title=chart(label(longitude)), constrain="domain", zeroline=False)
    figure.update_yaxes(
        title=chart(label(latitude)), scaleanchor="x", scaleratio=ratio, constrain="domain",
        zeroline=False,
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
    figure.update_xaxes(title=chart(label(longitude)), zeroline=False)
    figure.update_yaxes(
        title=chart(label(latitude)), scaleanchor="x", scaleratio=ratio, zeroline=False
    )
    return figure


def waterfall(steps: Sequence[tuple[str, float]], start: float, unit: str | None) -> go.Figure:
    """Return how an estimate comes about: from the typical value, step by step.

    Args:
        steps: Name and amount of each, in the target's unit.
        start: Where it begins.
        unit: The target's.
    """
    lang = language()
    names = [say("waterfall.start"), *[chart(name) for name, _ in steps], say("waterfall.end")]
    end = start + sum(value for _, value in steps)
    values = [start, *[value for _, value in steps], end]
    digits = digits_of(end)
    labels = [number(start, digits, lang)]
    labels += [("+" if value >= 0 else "") + number(value, digits, lang) for _, value in steps]
    labels.append(number(end, digits, lang))
    reached = [start, *(start + sum(v for _, v in steps[:n]) for n in range(1, len(steps) + 1))]
    spread = max(max(reached) - min(reached), 0.02 * abs(end))
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            y=names,
            x=values,
            measure=["absolute", *["relative"] * len(steps), "total"],
            text=labels,
            textposition="outside",
            cliponaxis=False,
            increasing={"marker": {"color": UP}},
            decreasing={"marker": {"color": DOWN}},
            totals={"marker": {"color": PLAIN}},
            connector={"line": {"color": "#cbd5e1", "width": 1}},
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )
    laid_out(figure, 60 + 34 * len(names))
    figure.update_yaxes(autorange="reversed", automargin=True)
    # from nearly where it begins: the steps are what is to be seen
    figure.update_xaxes(
        title=chart(unit or ""), nticks=5,
        range=[min(reached) - 0.35 * spread, max(reached) + 0.45 * spread],
    )  # fmt: skip
    return figure


def interval_bar(lower: float, estimate: float, upper: float, unit: str | None) -> go.Figure:
    """Return an estimate within its interval."""
    lang = language()
    figure = go.Figure(
        go.Scatter(
            x=[lower, upper], y=[0, 0], mode="lines", line={"width": 14, "color": "#bcd3ee"},
            hoverinfo="skip",
        )
    )  # fmt: skip
    figure.add_scatter(
        x=[lower, estimate, upper], y=[0, 0, 0], mode="markers+text",
        marker={"size": [10, 18, 10], "color": [PLAIN, UP, PLAIN]},
        text=[amount(value, None, lang) for value in (lower, estimate, upper)],
        textposition=["bottom center", "top center", "bottom center"],
        hovertemplate="%{x:,.0f} " + chart(unit or "") + "<extra></extra>", cliponaxis=False,
    )  # fmt: skip
    spread = upper - lower
    laid_out(figure, 110)
    figure.update_yaxes(visible=False, range=[-1, 1])
    figure.update_xaxes(visible=False, range=[lower - 0.12 * spread, upper + 0.12 * spread])
    return figure
