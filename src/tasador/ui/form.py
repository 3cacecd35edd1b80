"""The form of one row, made from the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from tasador.contract.model import Column, TableContract
from tasador.ui.session import say
from tasador.ui.texts import escaped, label

_NONE = "—"


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
