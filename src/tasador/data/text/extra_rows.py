"""Rows and columns of a sheet that are no part of the table: totals, footnotes, repeated headers.

All of it is asked of cells as text, as a CSV gives them; what is found is left out with a sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # uploads are read where polars is not installed
    import polars as pl

#: How many rows at the end are looked at.
FOOT = 25
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

    They are rows without any value, the header again, totals of the rows above, and at the foot
    means and the like whose numbers are those of the rows above, and footnotes.

    Args:
        frame: Text columns, missing cells as null or empty.
        header: The header's cells as written; empty without a header.
    """
    if frame.width == 0 or frame.height == 0:
        return np.empty(0, np.int64), []
    blank = _blank(frame)
    if len(blank) == frame.height:
        return np.empty(0, np.int64), []
    again = _repeated(frame, header)
    totals = _group_totals(frame, np.union1d(blank, again))
    notes = left_out_notes(len(blank), len(again), len(totals))
    left_out = np.union1d(np.union1d(blank, again), totals).astype(np.int64)
    at_foot, more = _foot(frame, left_out)
    return np.union1d(left_out, at_foot).astype(np.int64), notes + more


def left_out_notes(blank: int, repeated: int, totals: int) -> list[str]:
    """Return sentences about empty rows, rows that repeat the header, and totals of groups."""
    notes = []
    if totals:
        those = "is the total" if totals == 1 else "are totals"
        notes.append(f"{_rows(totals)} that {those} of rows above left out")
    if blank:
        notes.append(f"{_rows(blank)} without any value left out")
    if repeated:
        verb = "repeats" if repeated == 1 else "repeat"
        notes.append(f"{_rows(repeated)} that {verb} the header left out")
    return notes


def lines_below_note(lines: int, shown: str) -> str:
    """Return the sentence about lines below a table, the first of which is `shown`."""
    count = "1 line" if lines == 1 else f"{lines} lines"
    return f"{count} below the table left out ({shown[:60]!r})"


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
    if str(column.dtype) != "String":
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
    nearby = range(max(0, frame.height - 10 * FOOT), frame.height)
    gone = set(left_out[left_out >= nearby.start].tolist())
    last = [position for position in nearby if position not in gone][-FOOT:]
    cells = {i: ["" if cell is None else cell.strip() for cell in frame.row(i)] for i in last}

    def above(end: int) -> list[Columns]:
        rows = np.setdiff1d(np.arange(end), left_out)
        return [[column.gather(rows).to_list() for column in frame]]

    positions, notes = foot_rows(cells, above)
    return np.array(positions, np.int64), notes


class GroupTotals:
    """Finds the rows of a table that hold the sums of the rows above them.

    Those may be the rows since another such row, or since the first one. A row is asked about only
    where a cell of the first text columns calls it a total.
    """

    def __init__(self, width: int) -> None:
        self._rows, self._sums = 0, np.zeros((len(_MARKS), width))
        self._starts, self._found = [(0, self._sums)], False

    def add(self, rows: int, sums: NDArray[np.float64]) -> None:
        """Take in some rows and the `sums_of` their columns."""
        self._rows += rows
        self._sums = self._sums + sums

    def take(self, cells: Sequence[str]) -> bool:
        """Tell whether a row is a total; if it is not, it is one of the rows."""
        label = _label(cells)
        at = None if label is None else label[0]
        values = sums_of([["" if i == at else cell] for i, cell in enumerate(cells)])
        found = label is not None and label[1] == "sum" and self._is_sum(values)
        if not found:
            self.add(1, values)
        self._found |= found
        self._starts.append((self._rows, self._sums))
        return found

    def _is_sum(self, values: NDArray[np.float64]) -> bool:
        numbers = int((values != 0).any(axis=0).sum())
        for start, before in [*self._starts[:0:-1][:_MOST_STARTS], self._starts[0]]:
            sums, rows = self._sums - before, self._rows - start
            near = np.abs(values - sums) <= _CLOSE * np.abs(sums)
            matched = int((near & (values != 0)).any(axis=0).sum())
            # one row is a group too in a table where others are, but says little by itself
            if rows > 1 and 2 * matched > numbers:
                return True
            if rows == 1 and matched == numbers > 0 and self._found:
                return True
        return False


class RowTotals:
    """`GroupTotals` for a reader of single rows.

    Args:
        width: How many cells a row has.
        above: Given a number of rows, returns them again, some at a time; asked once, where a row
            first looks like a total.
    """

    def __init__(self, width: int, above: Callable[[int], Iterable[Columns]]) -> None:
        self._above, self._groups = above, GroupTotals(width)
        self._words: set[int] = set()
        self._summing = False

    def take(self, number: int, cells: Sequence[str]) -> bool:
        """Tell whether the row after `number` others is a total; its cells are stripped."""
        if number < _ROWS_FOR_WORDS:
            self._words.update(i for i, cell in enumerate(cells) if _WORDS.search(cell))
        columns = sorted(self._words)[:LABEL_COLUMNS]
        called = any(_TOTAL.match(cells[i]) for i in columns)
        if called and not self._summing:
            for above in self._above(number):
                self._groups.add(len(above[0]), sums_of(above))
            self._summing = True
        if called:
            return self._groups.take(cells)
        if self._summing:
            self._groups.add(1, sums_of([[cell] for cell in cells]))
        return False


def sums_of(columns: Columns) -> NDArray[np.float64]:
    """Return by mark of thousands and column the sum of the cells that are numbers."""
    sums = np.zeros((len(_MARKS), len(columns)))
    for position, cells in enumerate(columns):
        for row, mark in enumerate(_MARKS):
            values = (_number(cell.strip(), mark) for cell in cells if cell)
            sums[row, position] = sum(v for v in values if v is not None and math.isfinite(v))
    return sums


def rows_at_foot(last: Mapping[int, Sequence[str]], extra: Collection[int]) -> list[int]:
    """Return those of a table's last rows below which there are only `extra` ones and footnotes."""
    found: list[int] = []
    for position in reversed(list(last)):
        if position not in extra and not _is_footnote(last[position]):
            break
        found.append(position)
    return found


#: Patterns for Arrow and polars: of cells that call their row a total, and of any words.
TOTAL_LABEL = rf"(?i)^[*_ ]*(?:{_LABELS['sum'].pattern})$"
WORDS = r"\pL{2}"
#: In how many columns, the first ones that hold words, such a cell is looked for, and among how
#: many words are.
LABEL_COLUMNS, WORDS_WITHIN = 3, 100
_TOTAL, _WORDS, _ROWS_FOR_WORDS = re.compile(TOTAL_LABEL), re.compile(r"[^\W\d_]{2}"), 1000
#: Totals before a row from which on its sums are tried.
_MOST_STARTS = 20


def _group_totals(frame: pl.DataFrame, left_out: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that are totals of rows above them, without those at the foot."""
    asked = np.setdiff1d(_labelled(frame), left_out)
    if not len(asked):
        return asked
    others = np.setdiff1d(np.arange(frame.height), np.union1d(left_out, asked))
    last = range(max(0, frame.height - 10 * FOOT), frame.height)
    cells = {i: ["" if cell is None else cell.strip() for cell in frame.row(i)] for i in last}
    asked = np.setdiff1d(asked, rows_at_foot(cells, {*left_out.tolist(), *asked.tolist()}))
    if not len(asked):
        return np.empty(0, np.int64)
    before = _running_sums(frame, np.union1d(left_out, asked))
    counts = np.searchsorted(others, asked)
    groups, end, rows = GroupTotals(frame.width), 0, 0
    totals = []
    for position, count in zip(asked.tolist(), counts.tolist(), strict=True):
        groups.add(count - rows, before[:, :, position] - before[:, :, end])
        end, rows = position, count
        if groups.take(["" if cell is None else cell.strip() for cell in frame.row(position)]):
            totals.append(position)
    return np.array(totals, np.int64)


def _labelled(frame: pl.DataFrame) -> NDArray[np.int64]:
    """Return the rows that a cell of the first text columns calls a total."""
    texts = (frame[name].str.strip_chars() for name in frame.columns[:WORDS_WITHIN])
    named = (column for column in texts if column.str.contains(WORDS).any())
    found = [np.empty(0, np.int64)]
    for column in islice(named, LABEL_COLUMNS):
        cells = column.unique()  # a pattern takes longer than to find equal cells
        totals = cells.filter(cells.str.contains(TOTAL_LABEL))
        if len(totals):
            found.append(np.flatnonzero(column.is_in(totals.implode()).fill_null(False).to_numpy()))
    return np.unique(np.concatenate(found))


def _running_sums(frame: pl.DataFrame, without: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return by mark, column and row the sums of the numbers in the rows before it."""
    import polars as pl

    made = np.zeros((len(_MARKS), frame.width, frame.height + 1))
    for row, mark in enumerate(_MARKS):
        texts = pl.all().str.replace_all(_NO_DIGITS[mark].pattern, "").str.replace_all(",", ".")
        numbers = frame.select(texts.cast(pl.Float64, strict=False)).fill_null(0.0).to_numpy()
        numbers = np.where(np.isfinite(numbers), numbers, 0.0)
        numbers[without] = 0.0
        made[row, :, 1:] = np.cumsum(numbers, axis=0).T
    return made


def rows_below(
    last: Mapping[int, Sequence[str]],
    extra: Collection[int],
    delimiter: str,
    width: int,
    above: Callable[[int], Iterable[Columns]],
) -> tuple[set[int], list[str]]:
    """Return which rows at the end of a text are no part of its table, and sentences about them.

    Args:
        last: By position, ascending: the cells of the last rows, without spaces around them.
        extra: Those that hold nothing, or repeat the header.
        delimiter: What separates cells.
        width: How many cells a row of the table has.
        above: See `foot_rows`.
    """
    lines: list[int] = []
    for position in reversed(list(last)):
        text = delimiter.join(last[position]).strip(delimiter)
        if len(last[position]) == width or (delimiter in text and not is_footnote(text)):
            break
        lines.append(position)
    if len(lines) == len(last):
        lines = []
    notes = []
    if lines:
        shown = delimiter.join(last[lines[-1]]).strip(delimiter + " ")
        notes.append(lines_below_note(len(lines), shown))
    rows = {p: cells for p, cells in last.items() if len(cells) == width and p not in extra}
    positions, more = foot_rows(rows, above)
    return {*lines, *positions}, notes + more


#: The cells of some consecutive rows, column by column; None or blank where there is none.
Columns = Sequence[Sequence[str | None]]


def foot_rows(
    last: Mapping[int, Sequence[str]], above: Callable[[int], Iterable[Columns]]
) -> tuple[list[int], list[str]]:
    """Return which of a table's last rows are totals or footnotes, and sentences about them.

    Args:
        last: By position in the table, ascending: the last `FOOT` rows' cells, without spaces
            around them.
        above: Given a position, returns the rows before it, some at a time; asked only where a
            row looks like a total.
    """
    footnotes: list[int] = []
    totals: list[int] = []
    for position in reversed(list(last)):
        cells = last[position]
        if _is_footnote(cells):
            footnotes.append(position)
        elif _label(cells) is not None or (
            not totals and _without_label(cells) and _may_be_sums(cells, last, position)
        ):
            totals.append(position)
        else:
            break
    else:
        return [], []  # a table of few values: there is no telling what is none
    notes = []
    if totals:
        statistics = _Above([last[position] for position in totals])
        for columns in above(min(totals + footnotes)):
            statistics.add(columns)
        totals = [position for position in totals if statistics.give(last[position])]
    for position in reversed(totals):
        shown = ", ".join(cell for cell in last[position] if cell)[:60]
        notes.append(f"a total at the foot of the table left out ({shown})")
    if footnotes:
        shown = next(cell for cell in last[footnotes[-1]] if cell)[:60]
        notes.append(f"{_rows(len(footnotes))} below the table left out ({shown!r})")
    return sorted(totals + footnotes), notes


def _may_be_sums(cells: Sequence[str], last: Mapping[int, Sequence[str]], position: int) -> bool:
    """Tell whether the numbers of a row may be sums, by the last rows above it alone.

    Summing up a large table takes long, and many a last row lacks a value.
    """
    above = [row for place, row in last.items() if place < position]
    for at, cell in enumerate(cells):
        values = [value for row in above if (value := _number(row[at], ",")) is not None]
        total = _number(cell, ",")
        if total is None or len(values) < 2 or min(values) < 0 < max(values):
            continue
        if abs(total) < (1 - _CLOSE) * abs(sum(values)):
            return False
    return True


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


class _Above:
    """What the rows above some totals hold, column by column.

    Args:
        totals: The cells of the rows that may be totals.
    """

    def __init__(self, totals: Sequence[Sequence[str]]) -> None:
        self._height = 0
        self._columns = [_Cells() for _ in totals[0]]
        for row in totals:
            at, statistic = _label(row) or (-1, "sum")
            for position, cell in enumerate(row):
                if position == at:
                    self._columns[position].labels[cell] = 0
                elif cell:
                    self._columns[position].wanted.add(statistic)

    def add(self, columns: Columns) -> None:
        """Take in some rows."""
        self._height += len(columns[0])
        for kept, cells in zip(self._columns, columns, strict=False):
            kept.add(cells)

    def give(self, row: Sequence[str]) -> bool:
        """Tell whether the numbers of a row are the sums, means or the like of these rows."""
        label = _label(row)
        at, statistic = label or (-1, "sum")
        if self._height < (2 if label else 4):
            return False
        if label and self._columns[at].labels[row[at]]:
            return False  # a value of the column, such as a quality called Average
        numbers = matched = 0
        for position, (cell, column) in enumerate(zip(row, self._columns, strict=True)):
            if position == at:
                continue
            if not cell:
                if label is None and 2 * column.filled < self._height:
                    return False  # a cell that is often empty says nothing
            elif any(_number(cell, mark) is not None for mark in _MARKS):
                numbers += 1
                matched += any(column.gives(cell, mark, statistic, label) for mark in _MARKS)
        return 2 * matched >= numbers > 0 if label else matched == numbers > 0


#: Marks between thousands that are tried.
_MARKS = (",", ".")
#: Values of which the median is sought at most: they are held in memory.
_MOST_VALUES = 10_000_000


class _Cells:
    """Counts and sums of a column's cells.

    Attributes:
        filled: How many hold anything.
        labels: By text: how many cells hold it.
        wanted: The statistics that may be asked for.
    """

    def __init__(self) -> None:
        self.filled = 0
        self.labels: dict[str, int] = {}
        self.wanted: set[str] = set()
        self._count = dict.fromkeys(_MARKS, 0)
        self._sum = dict.fromkeys(_MARKS, 0.0)
        self._low, self._high = dict.fromkeys(_MARKS, math.inf), dict.fromkeys(_MARKS, -math.inf)
        self._values: dict[str, list[float]] = {mark: [] for mark in _MARKS}

    def add(self, cells: Sequence[str | None]) -> None:
        """Take in some cells."""
        texts = [text for cell in cells if cell is not None and (text := cell.strip())]
        self.filled += len(texts)
        for label in self.labels:
            self.labels[label] += texts.count(label)
        for mark in _MARKS if self.wanted else ():
            found = [value for text in texts if (value := _digits(text, mark)) is not None]
            if found:
                self._count[mark] += len(found)
                self._sum[mark] += math.fsum(found)
                self._low[mark] = min([self._low[mark], *found])
                self._high[mark] = max([self._high[mark], *found])
            if "median" in self.wanted and len(self._values[mark]) < _MOST_VALUES:
                self._values[mark] += found

    def gives(self, cell: str, mark: str, statistic: str, label: object) -> bool:
        """Tell whether a cell holds a statistic of this column; `mark` is that of thousands."""
        value, count = _number(cell, mark), self._count[mark]
        if value is None or count < 2 or 2 * count < self.filled:
            return False
        expected = {
            "sum": self._sum[mark], "mean": self._sum[mark] / count, "min": self._low[mark],
            "max": self._high[mark], "len": float(count),
        }.get(statistic, math.nan)  # fmt: skip
        if statistic == "median" and len(self._values[mark]) == count:
            expected = float(np.median(self._values[mark]))
        if statistic == "sum":
            return abs(value - expected) <= (_CLOSE if label else _EXACT) * max(
                abs(expected), 1e-12
            )
        decimals = re.search(r"[.,](\d+)\D*$", cell)
        step = 10.0 ** -len(decimals[1]) if decimals else 1.0
        return abs(value - expected) <= max(0.51 * step, 1e-6 * abs(expected))


def _number(cell: str, thousands: str) -> float | None:
    """Return the number in a cell whose thousands are marked by `thousands`; None without one."""
    if not re.search(r"\d", cell) or re.search(r"[^\W\d_]{4,}", cell):
        return None
    return _digits(cell, thousands)


_NO_DIGITS = {mark: re.compile(rf"[^\d.,eE+-]|\{mark}") for mark in _MARKS}


def _digits(cell: str, thousands: str) -> float | None:
    """Return the number that a cell's digits give, whatever is beside them."""
    try:
        return float(_NO_DIGITS[thousands].sub("", cell).replace(",", "."))
    except ValueError:
        return None


def runs(keep: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the [start, end) of the stretches in which `keep` is true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], keep.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in list(pairwise(edges))[::2]]
