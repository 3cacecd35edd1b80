"""Rows and columns of a sheet that are no part of the table: totals, footnotes, repeated headers.

All of it is asked of cells as text, as a CSV gives them; what is found is left out with a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

#: How many rows at the end are looked at.
_FOOT = 25
#: By statistic: what the row that holds it is called.
_LABELS = {
    statistic: re.compile(
        rf"(?:(?:grand|sub|overall|general|zwischen)[ -]?)?(?:{words})\b.{{0,40}}", re.I
    )
    for statistic, words in {
        "sum": "total(?:e|es|s)?|totaal|totalt|sums?|summe|gesamt(?:summe)?|insgesamt|somme|sumas?"
        "|somas?|razem|celkem|toplam|итого|всего|сумма|合計|合计|总计|総計",
        "mean": "averages?|avg|mean|mittel(?:wert)?|durchschnitt|moyenne|m[eé]dia|promedio"
        "|gemiddelde|среднее|平均",
        "median": "median|mediana|médiane",
        "min": "min(?:imum)?",
        "max": "max(?:imum)?",
        "len": "count|anzahl|number of \\w+",
    }.items()
}
_FOOTNOTE = re.compile(
    r"\W*(?:sources?|quelle|fuente|fonte|bron|notes?|hinweis|anmerkung|footnotes?|data|copyright"
    r"|generated|exported|created|printed|page|end of|disclaimer|stand)\b.*|[*#©†‡¹].*",
    re.I | re.S,
)
_CLOSE = 1e-3
_EXACT = 1e-9
_MOST_NOTES = 10


def is_footnote(line: str) -> bool:
    """Tell whether a line below a table has the looks of a footnote."""
    return bool(_FOOTNOTE.fullmatch(line))


def extra_rows(frame: pl.DataFrame, header: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Return the positions of the rows that are no part of the table, and a sentence for each kind.

    They are rows without any value, the header again, and at the foot totals (or means and the
    like) whose numbers are those of the rows above, and footnotes.

    Args:
        frame: Text columns, missing cells as null or empty.
        header: The header's cells as written; empty without a header.
    """
    if frame.width == 0 or frame.height == 0:
        return np.empty(0, np.int64), []
    notes = []
    blank = _blank(frame)
    if len(blank) == frame.height:
        return np.empty(0, np.int64), []
    if len(blank):
        notes.append(f"{_rows(len(blank))} without any value left out")
    again = _repeated(frame, header)
    if len(again):
        notes.append(f"{_rows(len(again))} that repeat the header left out")
    left_out = np.union1d(blank, again)
    at_foot, more = _foot(frame, left_out)
    return np.union1d(left_out, at_foot).astype(np.int64), notes + more


def extra_columns(
    frame: pl.DataFrame, header: Sequence[str], names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the columns that are no part of the table, and sentences about them.

    They are those without a name and any value, and the second of two equal ones of one name.
    """
    dropped, notes = [], []
    first: dict[str, str] = {}
    for written, name in zip(header, names, strict=False):
        cell = written.strip()
        column = frame[name]
        if not cell:
            if column.null_count() == len(column) or not _some(column):
                dropped.append(name)
        elif cell not in first:
            first[cell] = name
        elif column.equals(frame[first[cell]], null_equal=True):
            dropped.append(name)
            notes.append(f"the column {cell!r} is there twice with the same values: one is kept")
        elif name != cell:
            notes.append(f"{cell!r} is the name of several columns: one is called {name!r}")
    if len(notes) > _MOST_NOTES:
        notes[_MOST_NOTES:] = [f"{len(notes) - _MOST_NOTES} more columns have names of others"]
    empty = sum(1 for name in dropped if name.startswith("unnamed_"))
    if empty:
        columns = "empty column without a name" if empty == 1 else "empty columns without names"
        notes.append(f"{empty} {columns} left out")
    return (dropped, notes) if len(dropped) < frame.width else ([], [])


def _some(column: pl.Series) -> bool:
    if column.dtype != pl.String:
        return True
    return bool((column.str.strip_chars().str.len_bytes() > 0).any())


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _blank(frame: pl.DataFrame) -> NDArray[np.int64]:
    """Return the rows in which no cell holds anything."""
    rows = np.arange(frame.height)
    for name in frame.columns:
        column = frame[name] if len(rows) == frame.height else frame[name].gather(rows)
        empty = (column.is_null() | (column.str.strip_chars(" \t") == "")).to_numpy()
        rows = rows[empty]
        if not len(rows):
            break
    return rows


def _repeated(frame: pl.DataFrame, header: Sequence[str]) -> NDArray[np.int64]:
    """Return the rows that hold the header's cells."""
    filled = [(name, cell) for name, cell in zip(frame.columns, header, strict=False) if cell]
    if len(filled) < 2:
        return np.empty(0, np.int64)
    rows = np.arange(frame.height)
    for name, cell in filled:
        column = frame[name] if len(rows) == frame.height else frame[name].gather(rows)
        same = (column.str.strip_chars() == cell).fill_null(False).to_numpy()
        rows = rows[same]
        if not len(rows):
            break
    return rows


def _foot(frame: pl.DataFrame, left_out: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
    """Return the totals and footnotes at the end, and sentences about them."""
    none = np.empty(0, np.int64)
    nearby = range(max(0, frame.height - 10 * _FOOT), frame.height)
    gone = set(left_out[left_out >= nearby.start].tolist())
    last = [position for position in nearby if position not in gone][-_FOOT:]
    cells = {i: ["" if cell is None else cell.strip() for cell in frame.row(i)] for i in last}
    footnotes: list[int] = []
    totals: list[int] = []
    for position in reversed(last):
        row = cells[position]
        if _is_footnote(row):
            footnotes.append(position)
        elif _label(row) is not None or (not totals and _without_label(row)):
            totals.append(position)
        else:
            break
    else:
        return none, []  # a table of few values: there is no telling what is none
    if not totals and not footnotes:
        return none, []
    notes = []
    above = frame.slice(0, min(totals + footnotes))
    totals = [position for position in totals if _is_total(cells[position], above)]
    for position in reversed(totals):
        shown = ", ".join(cell for cell in cells[position] if cell)[:60]
        notes.append(f"a total at the foot of the table left out ({shown})")
    if footnotes:
        shown = next(cell for cell in cells[footnotes[-1]] if cell)[:60]
        notes.append(f"{_rows(len(footnotes))} below the table left out ({shown!r})")
    return np.array(sorted(totals + footnotes), np.int64), notes


def _label(row: Sequence[str]) -> tuple[int, str] | None:
    """Return which cell says that a row is a total or the like, and which; None without one."""
    for position, cell in enumerate(row):
        for statistic, pattern in _LABELS.items():
            if pattern.fullmatch(cell.lstrip("*_ ")):
                return position, statistic
    return None


def _is_footnote(row: Sequence[str]) -> bool:
    filled = [cell for cell in row if cell]
    if len(filled) != 1 or _number(filled[0], ",") is not None or _label(row) is not None:
        return False
    if _FOOTNOTE.fullmatch(filled[0]):
        return len(row) > 1
    return len(row) > 2 and row[0] != "" and len(filled[0]) > 12 and " " in filled[0]


def _without_label(row: Sequence[str]) -> bool:
    filled = [cell for cell in row if cell]
    return 0 < len(filled) < len(row) and all(_number(cell, ",") is not None for cell in filled)


def _is_total(row: Sequence[str], above: pl.DataFrame) -> bool:
    """Tell whether the numbers of a row are the sums, means or the like of the rows above."""
    label = _label(row)
    at, statistic = label or (-1, "sum")
    if above.height < (2 if label else 4):
        return False
    if label and bool((above[:, at].str.strip_chars() == row[at]).any()):
        return False  # a value of the column, such as a quality called Average
    numbers = matched = 0
    for position, cell in enumerate(row):
        column = above[:, position]
        if position == at:
            continue
        if not cell:
            if label is None and 2 * column.null_count() > above.height:
                return False  # a cell that is often empty says nothing
        elif _number(cell, ",") is not None or _number(cell, ".") is not None:
            numbers += 1
            matched += any(_matches(cell, column, mark, statistic, label) for mark in (",", "."))
    return 2 * matched >= numbers > 0 if label else matched == numbers > 0


def _matches(cell: str, column: pl.Series, thousands: str, statistic: str, label: object) -> bool:
    value = _number(cell, thousands)
    if value is None:
        return False
    texts = column.str.replace_all(rf"[^\d.,eE+-]|\{thousands}", "")
    if thousands == ".":
        texts = texts.str.replace(",", ".", literal=True)
    numbers = texts.cast(pl.Float64, strict=False).drop_nulls()
    if len(numbers) < 2 or 2 * len(numbers) < column.len() - column.null_count():
        return False
    expected = float(getattr(numbers, statistic)()) if statistic != "len" else float(len(numbers))
    if statistic == "sum":
        return abs(value - expected) <= (_CLOSE if label else _EXACT) * max(abs(expected), 1e-12)
    decimals = re.search(r"[.,](\d+)\D*$", cell)
    step = 10.0 ** -len(decimals[1]) if decimals else 1.0
    return abs(value - expected) <= max(0.51 * step, 1e-6 * abs(expected))


def _number(cell: str, thousands: str) -> float | None:
    """Return the number in a cell whose thousands are marked by `thousands`; None without one."""
    if not re.search(r"\d", cell) or re.search(r"[^\W\d_]{4,}", cell):
        return None
    text = re.sub(rf"[^\d.,eE+-]|\{thousands}", "", cell).replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return None


def runs(keep: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the [start, end) of the stretches in which `keep` is true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], keep.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in list(pairwise(edges))[::2]]
