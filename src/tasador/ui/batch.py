"""*Batch*: a file of rows in, a file of values out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import IO, Any

import polars as pl
import streamlit as st

from tasador.contract.model import TableContract
from tasador.core.errors import TasadorError
from tasador.core.escape import cell
from tasador.core.languages import number
from tasador.data.readers import parse_table
from tasador.data.text.decimal_commas import columns_with_commas, plain_numbers, with_comma
from tasador.ops.api_client import ScoredRow, ServiceRefusedError
from tasador.reporting.appraisal import texts as reports
from tasador.ui import widgets
from tasador.ui.texts import escaped, money, step_of_size
from tasador.ui.widgets import Model, client, hint, language, model, say

_SHOWN, _SHOWN_ERRORS = 1000, 100
_DONE = "batch done"
_KINDS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


def draw() -> None:
    """Draw the page."""
    found = model()
    widgets.draw_header(say("batch.title"), found)
    st.markdown(say("batch.help"))
    with st.expander(say("batch.columns")):
        st.table(_columns(found), hide_index=True)
        st.download_button(
            say("batch.template"), template(found), "template.csv", "text/csv",
            icon=":material/download:",
        )  # fmt: skip
    file = st.file_uploader(say("batch.file"), type=list(_KINDS), key="batch file")
    if file is None:
        st.session_state.pop(_DONE, None)
        st.info(say("batch.none"), icon=":material/upload_file:")
        return
    asked = st.button(say("batch.ask"), type="primary", icon=":material/play_arrow:")
    if asked:
        _score(file, file.name, _lines(file))
    done = st.session_state.get(_DONE)
    if done is not None and done["file"] == file.file_id:
        _draw_done(found, done["rows"], _inputs(found, file, len(done["rows"])), file.name)


def _columns(found: Model) -> list[dict[str, Any]]:
    return [
        {
            say("batch.column"): escaped(column.name),
            say("batch.kind"): say(f"kind.{column.kind}"),
            say("batch.unit"): escaped(column.unit or ""),
            say("batch.meaning"): escaped(hint(column)),
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
            faults = [{say("batch.place"): escaped(" ".join(map(str, one["loc"]))),
                       say("batch.error"): escaped(str(one["msg"])),
                       say("batch.todo"): escaped(str(one.get("remedy", "")))}
                      for one in error.faults]  # fmt: skip
            st.table(faults, hide_index=True)
        return
    bar.empty()
    st.session_state[_DONE] = {"file": file.file_id, "rows": rows}


def _inputs(found: Model, file: Any, rows: int) -> pl.DataFrame | None:
    """Return the uploaded rows as texts and numbers; None where they are not those valued."""
    try:
        frame = parse_table(file.getvalue(), file.name, known=found.contract.readable_names)
    except TasadorError:  # a broken line, which the service lists as an error of its row
        return None
    return frame if frame.height == rows else None


def _draw_done(
    found: Model, rows: Sequence[ScoredRow], inputs: pl.DataFrame | None, name: str
) -> None:
    lang, target = language(), found.contract.target
    valued = [row.prediction for row in rows if row.prediction is not None]
    bad = [row for row in rows if row.error]
    first, second, third = st.columns(3)
    first.metric(say("batch.valued"), number(len(valued), 0, lang))
    second.metric(say("batch.bad"), number(len(bad), 0, lang))
    middle = sorted(valued)[len(valued) // 2] if valued else None
    third.metric(say("batch.median"), money(middle, target.unit, lang))
    if not rows:
        st.info(say("batch.empty"), icon=":material/info:")
        return
    st.download_button(
        say("batch.download"), _download(found, rows, inputs),
        f"values-{name.rsplit('.', 1)[0]}.csv", "text/csv",
        type="primary", icon=":material/download:",
    )  # fmt: skip
    if inputs is None:
        st.caption(say("batch.no_inputs"))
    if bad:
        st.subheader(say("batch.errors"))
        _draw_first(len(bad), _SHOWN_ERRORS)
        st.table(
            [{say("batch.row"): number(row.row, 0, lang),
              say("batch.error"): escaped(error_text(found.contract, row.error))}
             for row in bad[:_SHOWN_ERRORS]],
            hide_index=True,
        )  # fmt: skip
    if not valued:
        st.info(say("batch.none_valued"), icon=":material/info:")
        return
    st.subheader(say("batch.values"))
    if len(valued) > 1:
        figure = widgets.histogram(valued, target.unit, say("batch.estimate"))
        st.plotly_chart(figure, key="histogram", config=widgets.CONFIG)
    _draw_first(len(rows) - len(bad), _SHOWN)
    _draw_values(found, [row for row in rows if not row.error][:_SHOWN], max(valued))


def _draw_first(count: int, most: int) -> None:
    if count > most:
        st.caption(say("batch.first", count=number(most, 0, language())))


def _draw_values(found: Model, rows: Sequence[ScoredRow], largest: float) -> None:
    lang, step = language(), step_of_size(largest) / 10
    unit = f" ({found.contract.target.unit})" if found.contract.target.unit else ""
    warnings = [
        "; ".join(reports.warning(one, lang) for one in row.warnings.split("; ") if one)
        or row.no_value or ""
        for row in rows
    ]  # fmt: skip
    widgets.draw_table(
        [
            widgets.Shown(say("batch.row"), [row.row for row in rows], 0),
            widgets.Shown(
                say("batch.estimate") + unit,
                [row.prediction for row in rows], step=step,
            ),
            widgets.Shown(say("batch.lower") + unit, [row.lower for row in rows], step=step),
            widgets.Shown(say("batch.upper") + unit, [row.upper for row in rows], step=step),
            *(
                [widgets.Shown(say("batch.class"), [row.confidence_class for row in rows])]
                if any(row.confidence_class for row in rows) else []
            ),
            widgets.Shown(say("batch.warnings"), warnings),
        ]
    )  # fmt: skip


_DECIMAL_COMMA = re.compile(r"got '(-?\d+,\d+)'")
_FAULT = re.compile(r"(?P<name>.+?): expected .*?, got (?P<got>.*)")


def error_text(contract: TableContract, said: str) -> str:
    """Return what is wrong with a row in words, field by field; as it was said where not known."""
    columns: Mapping[str, Any] = {column.name: column for column in contract.columns}
    parts = []
    for part in said.split("; "):
        found = _FAULT.fullmatch(part)
        column = columns.get(found["name"]) if found else None
        if found is None or column is None:
            parts.append(part)
            continue
        expected = widgets.fault_text(column, part.partition(": ")[2])
        got = say("batch.got", got=found["got"])
        parts.append(
            f"{contract.label_of(column.name)}: {expected[:1].lower()}{expected[1:]} {got}"
        )
    comma = _DECIMAL_COMMA.search(said)
    if comma is not None:
        parts.append(say("batch.comma", given=comma[1], point=comma[1].replace(",", ".")))
    return " ".join(parts)


def _download(found: Model, rows: Sequence[ScoredRow], inputs: pl.DataFrame | None) -> str:
    if language() == "en":
        return to_csv(rows, inputs)
    numbers = plain_numbers(found.contract)
    if inputs is not None:  # a file that has decimal commas keeps its texts
        lines = inputs.cast(pl.String).fill_null("").iter_rows()
        numbers -= columns_with_commas(inputs.columns, lines, ";", found.contract)
    return to_csv(rows, inputs, numbers)


def to_csv(
    rows: Sequence[ScoredRow], inputs: pl.DataFrame | None, commas: frozenset[str] | None = None
) -> str:
    """Return all rows as CSV for people: what was sent, then what ``/api/v1/score`` has.

    No text is a formula. An input whose name is one of the answer's gets `` (input)`` behind it.

    Args:
        rows: As they were answered.
        inputs: As they were sent, in the same order; None leaves them out.
        commas: Inputs whose texts are numbers with points: all numbers get a decimal comma, cells
            a semicolon between them. None writes decimal points and commas.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", delimiter="," if commas is None else ";")
    names = ("prediction", "lower", "upper", "warnings", "error", "prediction_id", "fsd",
             "confidence_class", "no_value")  # fmt: skip
    own = [] if inputs is None else inputs.columns
    taken = {"row", *names}
    writer.writerow(["row", *(cell(f"{n} (input)" if n in taken else n) for n in own), *names])
    sent = [()] * len(rows) if inputs is None else inputs.iter_rows()
    for row, given in zip(rows, sent, strict=True):
        values = [row.row, *given, *(getattr(row, name) for name in names)]
        if commas is not None:
            values = [
                with_comma(value) if name in commas or isinstance(value, float) else value
                for name, value in zip(("", *own, *("" for _ in names)), values, strict=True)
            ]
        writer.writerow(["" if value is None else cell(value) for value in values])
    return out.getvalue()
