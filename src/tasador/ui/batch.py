"""*Batch*: a file of rows in, a file of values out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import IO, Any

import streamlit as st

from tasador.core.escape import cell
from tasador.core.languages import amount, number
from tasador.ops.api_client import ScoredRow, ServiceRefusedError
from tasador.ui.texts import escaped, label, rounded
from tasador.ui.widgets import Model, client, hint, language, model, say

_SHOWN = 1000
_DONE = "batch done"
_KINDS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


def draw() -> None:
    """Draw the page."""
    st.title(say("batch.title"))
    found = model()
    st.markdown(say("batch.help"))
    with st.expander(say("batch.columns")):
        st.dataframe(_columns(found), hide_index=True)
        st.download_button(
            say("batch.template"), template(found), "template.csv", "text/csv",
            icon=":material/download:",
        )  # fmt: skip
    file = st.file_uploader(say("batch.file"), type=list(_KINDS), key="batch file")
    if file is None:
        st.session_state.pop(_DONE, None)
        return
    asked = st.button(say("batch.ask"), type="primary", icon=":material/play_arrow:")
    if asked:
        _score(file, file.name, _lines(file))
    done = st.session_state.get(_DONE)
    if done is not None and done["file"] == file.file_id:
        _draw_done(found, done["rows"], file.name)


def _columns(found: Model) -> list[dict[str, Any]]:
    return [
        {
            say("batch.column"): column.name,
            say("batch.kind"): column.kind,
            say("batch.unit"): column.unit or "",
            say("batch.meaning"): hint(column),
        }
        for column in found.contract.fields
    ]


def template(found: Model) -> str:
    """Return a CSV of one line that meets the contract."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = found.contract.field_names
    writer.writerow(map(cell, names))
    writer.writerow([cell(found.example.get(name, "")) for name in names])
    return out.getvalue()


def _lines(file: IO[bytes]) -> int:
    """Return about how many rows a CSV holds; for the progress bar only."""
    file.seek(0)
    count = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    file.seek(0)
    return max(1, count - 1)


def _score(file: Any, name: str, total: int) -> None:
    kind = _KINDS.get(name.rsplit(".", 1)[-1].lower(), "text/csv")
    bar = st.progress(0.0, text=say("batch.sending"))
    rows: list[ScoredRow] = []
    every = max(1, total // 100)
    try:
        for row in client().score(file.getvalue(), kind):
            rows.append(row)
            if len(rows) % every == 0:
                text = say("batch.progress", done=number(len(rows), 0, language()))
                bar.progress(min(1.0, len(rows) / total), text=text)
    except ServiceRefusedError as error:
        bar.empty()
        st.session_state.pop(_DONE, None)
        st.error(escaped(error.said), icon=":material/error:")
        if error.faults:
            faults = [{say("batch.place"): " ".join(map(str, one["loc"])),
                       say("batch.error"): one["msg"], say("batch.todo"): one.get("remedy", "")}
                      for one in error.faults]  # fmt: skip
            st.dataframe(faults, hide_index=True)
        return
    bar.empty()
    st.session_state[_DONE] = {"file": file.file_id, "rows": rows}


def _draw_done(found: Model, rows: Sequence[ScoredRow], name: str) -> None:
    lang, unit = language(), found.contract.target.unit
    valued = [row.prediction for row in rows if row.prediction is not None]
    bad = [row for row in rows if row.error]
    first, second, third = st.columns(3)
    first.metric(say("batch.valued"), number(len(valued), 0, lang))
    second.metric(say("batch.bad"), number(len(bad), 0, lang))
    middle = sorted(valued)[len(valued) // 2] if valued else None
    third.metric(say("batch.median"), amount(middle, unit, lang))
    st.download_button(
        say("batch.download"), to_csv(rows), f"values-{name.rsplit('.', 1)[0]}.csv", "text/csv",
        type="primary", icon=":material/download:",
    )  # fmt: skip
    if bad:
        st.subheader(say("batch.errors"))
        st.dataframe(
            [{say("batch.row"): row.row, say("batch.error"): row.error} for row in bad[:_SHOWN]],
            hide_index=True,
        )
    st.subheader(say("batch.values"))
    if len(rows) > _SHOWN:
        st.caption(say("batch.first", count=number(_SHOWN, 0, lang)))
    st.dataframe(
        [
            {
                say("batch.row"): row.row,
                label(found.contract.target.prediction_name): rounded(row.prediction),
                say("batch.lower"): rounded(row.lower),
                say("batch.upper"): rounded(row.upper),
                say("batch.warnings"): row.warnings,
            }
            for row in rows[:_SHOWN] if not row.error
        ],
        hide_index=True,
        column_config={
            name: st.column_config.NumberColumn(format="localized")
            for name in (label(found.contract.target.prediction_name), say("batch.lower"),
                         say("batch.upper"))
        },
    )  # fmt: skip


def to_csv(rows: Sequence[ScoredRow]) -> str:
    """Return all rows as CSV for people, as ``/api/v1/score`` has them; no text is a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("row", "prediction", "lower", "upper", "warnings", "error", "prediction_id", "fsd",
             "confidence_class", "no_value")  # fmt: skip
    writer.writerow(names)
    for row in rows:
        values = [getattr(row, name) for name in names]
        writer.writerow(["" if value is None else cell(value) for value in values])
    return out.getvalue()
