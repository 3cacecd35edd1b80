"""Read a sheet of a workbook: Excel (xlsx, xlsm, xlsb, xls) and OpenDocument (ods).

Values keep the workbook's types: numbers, dates, texts. Of formulas the stored results are read.
"""

from __future__ import annotations

import io
import logging
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.model import Source
from tasador.core.errors import MissingExtraError, SourceError
from tasador.data import archives
from tasador.data.archives import OLE, workbook_parts
from tasador.data.errors import UnreadableTableError
from tasador.data.text.extra_rows import extra_columns, extra_rows, runs
from tasador.data.text.text_format import TextFormat, detect_in_rows

_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_SHEET_PART = re.compile(r"xl/worksheets/[^/]+\.xml")
_CELL = re.compile(rb'<(?:\w+:)?c [^>]*?\br="([A-Z]{1,3})(\d{1,7})"')
#: A sheet with one value in its last corner has 17 billion cells, each of which takes memory.
MAX_CELLS = 50_000_000
_SAMPLE = 200
#: What fastexcel says of a cell of another type.
_GOT = re.compile(r"but got '(?:Error\()?(\w+)")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Sheet:
    """A sheet as a table.

    Attributes:
        frame: Typed columns.
        form: Where its header is.
        title: The sheet's name.
        others: Whether the workbook has other sheets.
        notes: What was decided, a sentence each.
    """

    frame: pl.DataFrame
    form: TextFormat
    title: str
    others: bool
    notes: tuple[str, ...]


_SAVE_AS_TEXT = "save the sheet as CSV (UTF-8) or Parquet"


def read_sheet(data: bytes, name: str, source: Source, known: tuple[str, ...] = ()) -> Sheet:
    """Read the first sheet that holds a table, or the one that the source names.

    Args:
        data: The workbook's bytes.
        name: What to call it in messages.
        source: Its `sheet`, `header_row` and `has_header` are followed.
        known: Names of columns by which sheet and header are recognised.

    Raises:
        SourceError: Damaged, protected by a password, too large, or without such a sheet.
        MissingExtraError: The package that reads workbooks is not installed.
    """
    with _opened(data, name) as book:
        title, cells = _choose(book, name, source, known)
        return _table(book, title, cells, name, source, known)


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Any]:
    """Open a workbook; errors as of `read_sheet`."""
    if data.startswith(OLE) and _ENCRYPTED in data:
        raise _protected(name)
    _check_size(data, name)
    try:
        import fastexcel
    except ImportError:
        raise MissingExtraError.for_package("fastexcel", "train") from None
    # it warns of every column without values
    logging.getLogger("fastexcel").setLevel(logging.ERROR)
    try:
        yield fastexcel.read_excel(data)
    except fastexcel.FastExcelError as error:
        reason = str(error).splitlines()[0][:200]
        if "password" in reason.lower() or "encrypt" in reason.lower():
            raise _protected(name) from None
        raise SourceError(
            f"the workbook {name} cannot be read", got=reason,
            remedy="open it and save it again as .xlsx, or as CSV (UTF-8)",
        ) from None  # fmt: skip


@dataclass(frozen=True)
class RawSheet:
    """All cells below the first row of a sheet, whatever they hold, and that row.

    Attributes:
        header: The first row's texts; empty where it has none.
        texts: Shape (n, width): each cell as text, numbers rounded; None for an empty one.
        numbers: The columns that were asked for, by name: exact, NaN for an empty cell.
        wrong: Cells of these that hold no number, by column and row from 0: what they hold.
    """

    header: tuple[str, ...]
    texts: pl.DataFrame
    numbers: dict[str, NDArray[np.float64]]
    wrong: dict[tuple[str, int], str]


def read_cells(
    data: bytes, name: str, title: str, numbers: Collection[str] = ()
) -> RawSheet | None:
    """Read a sheet as it is, nothing left out or reinterpreted; None when there is no such sheet.

    Args:
        data: The workbook's bytes.
        name: What to call it in messages.
        title: The sheet's name.
        numbers: Names in its first row whose columns hold numbers.

    Raises:
        SourceError, MissingExtraError: As of `read_sheet`.
    """
    with _opened(data, name) as book:
        if title not in book.sheet_names:
            return None
        cells = _texts(book, title)
        header = tuple((text or "").strip() for text in cells.row(0)) if cells.height else ()
        texts = cells.slice(1)
        places = {header.index(column): column for column in numbers if column in header}
        if not texts.height or not places:
            none = {column: np.empty(0) for column in places.values()}
            return RawSheet(header, texts, none, {})
        sheet = book.load_sheet(
            title, header_row=None, skip_rows=1, dtypes=dict.fromkeys(places, "float")
        )
        batch, errors = sheet.to_arrow_with_errors()
        if batch.num_rows != texts.height:
            raise SourceError(
                f"the sheet {title!r} of {name} does not begin with its column names",
                expected="column names in row 1", got="an empty row",
                remedy="delete the rows above them",
            )  # fmt: skip
        exact = {
            column: pl.Series(batch.column(at)).cast(pl.Float64).to_numpy().copy()
            for at, column in places.items()
        }
        wrong: dict[tuple[str, int], str] = {}
        for one in () if errors is None else errors.errors:
            (row, at), got = one.offset_position, _GOT.search(one.detail)
            text = texts.item(row, at) if row < texts.height else None
            if at in places and text != "":
                wrong[places[at], row] = text or (got[1] if got else one.detail)
        for at, column in places.items():
            for row in np.flatnonzero(texts[:, at].is_in(["true", "false"]).to_numpy()).tolist():
                wrong[column, row] = texts.item(row, at)
        return RawSheet(header, texts, exact, wrong)


def _protected(name: str) -> SourceError:
    return SourceError(
        f"the workbook {name} is protected by a password",
        remedy="save it without one, or as CSV (UTF-8)",
    )


def _check_size(data: bytes, name: str) -> None:
    """Refuse a workbook that would fill the memory once unpacked.

    All of it is unpacked for that, in small pieces: the sizes that a zip file states may be wrong.
    """
    parts = workbook_parts(data)
    if parts is None:
        return
    left = archives.MAX_UNPACKED_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for part in parts:
                if part.flag_bits & 1:
                    raise _protected(name)
                right, low, end = 0, 0, b""
                with archive.open(part) as file:
                    while chunk := file.read(_CHUNK):
                        left -= len(chunk)
                        if left < 0:
                            raise UnreadableTableError.too_large(
                                f"the workbook {name}", archives.MAX_UNPACKED_BYTES, _SAVE_AS_TEXT
                            )
                        if _SHEET_PART.fullmatch(part.filename):
                            for column, row in _CELL.findall(end + chunk):
                                right = max(right, _column_number(column))
                                low = max(low, int(row))
                            end = chunk[-200:]
                if right * low > MAX_CELLS:
                    raise SourceError(
                        f"a sheet of the workbook {name} is too large",
                        expected=f"at most {MAX_CELLS} cells",
                        got=f"{low} rows of {right} columns",
                        remedy="delete the cells far from the table, or save it as CSV (UTF-8)",
                    )
    except archives.DAMAGED as error:
        raise UnreadableTableError.damaged(f"the workbook {name}", error) from None


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - 64
    return number


def _choose(
    book: Any, name: str, source: Source, known: tuple[str, ...]
) -> tuple[str, pl.DataFrame]:
    """Return a sheet's name and its cells as texts."""
    titles = list(book.sheet_names)
    named = [] if source.sheet is None else _called(titles, source.sheet)
    if named:
        return named[0], _texts(book, named[0])
    # a contract names a sheet of the file that it was made from
    if source.sheet is not None and not known:
        raise _no_sheet(titles, source.sheet, name)
    first: tuple[str, pl.DataFrame] | None = None
    for title in titles:
        cells = _texts(book, title)
        if cells.height < 2 or cells.width == 0:
            continue
        first = first or (title, cells)
        if not known:
            break
        if any(set(known).intersection(map(str, row)) for row in cells.head(_SAMPLE).rows()):
            return title, cells
    if source.sheet is not None:
        raise _no_sheet(titles, source.sheet, name)
    if first is None:
        raise SourceError(
            f"no sheet of the workbook {name} holds a table",
            expected="column names and rows below them",
            got=f"the sheets {', '.join(map(repr, titles[:10]))}",
        )
    return first


def _called(titles: Sequence[str], wanted: str | int) -> list[str]:
    """Return the sheets that are meant by a name or a number, the best first."""
    text = str(wanted)
    folded = text.strip().casefold()
    found = [title for title in titles if title == text]
    found += [title for title in titles if title.strip().casefold() == folded]
    if text.isdecimal() and 1 <= int(text) <= len(titles):
        found.append(titles[int(text) - 1])
    return found


def _no_sheet(titles: Sequence[str], wanted: str | int, name: str) -> SourceError:
    shown = ", ".join(map(repr, titles[:20]))
    return SourceError(
        f"the workbook {name} has no sheet {wanted!r}",
        expected=f"one of {shown}, or a number from 1 to {len(titles)}",
        remedy="name another one with --sheet (`source.sheet` in the contract)",
    )


def _texts(book: Any, title: str) -> pl.DataFrame:
    """Return all cells of a sheet as texts, from its first row and column on."""
    sheet = book.load_sheet(title, header_row=None, skip_rows=0, dtypes="string")
    frame: pl.DataFrame = sheet.to_polars()
    return frame


def _table(
    book: Any, title: str, cells: pl.DataFrame, name: str, source: Source, known: tuple[str, ...]
) -> Sheet:
    used = [i for i, column in enumerate(cells.columns) if cells[column].null_count() < len(cells)]
    cells = cells.select(cells.columns[i] for i in used)
    filled = np.flatnonzero(
        cells.select(pl.any_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    )
    if not len(filled):
        raise UnreadableTableError.empty(f"the sheet {title!r} of {name}")
    sample = filled[:_SAMPLE]
    rows = [["" if c is None else c.strip() for c in cells.row(int(i))] for i in sample]
    form = detect_in_rows(
        rows, [int(i) + 1 for i in sample], f"the sheet {title!r} of {name}",
        source=source, known=known,
    )  # fmt: skip
    names, header = list(form.names), list(form.header)
    if len(names) < len(used):  # cells to the right of the header
        more = range(len(names), len(used))
        names += [f"unnamed_{i + 1}" for i in more]
        header += [""] * len(more) if header else []
    start = int(filled[form.records - 1]) + 1 if form.records else 0
    body = cells.slice(start)
    body.columns = names
    dropped, notes = extra_rows(body, header)
    keep = np.ones(body.height, bool)
    keep[dropped] = False
    if not keep.any():
        raise UnreadableTableError.no_rows(f"the sheet {title!r} of {name}")
    frame = _typed(book, title, used, start, keep)
    frame.columns = names
    frame = _whole_numbers(frame)
    columns, more_notes = extra_columns(frame, header, names)
    frame = frame.drop(columns)
    notes = [*form.notes, *notes, *more_notes]
    titles = list(book.sheet_names)
    if source.sheet is not None and title not in _called(titles, source.sheet):
        notes.insert(0, f"there is no sheet {source.sheet!r}: {title!r} was read, by its columns")
    elif len(titles) > 1 and source.sheet is None and not known:
        others = ", ".join(repr(one) for one in titles if one != title)[:200]
        notes.insert(0, f"the sheet {title!r} was read; choose another with --sheet: {others}")
    return Sheet(frame, form, title, len(book.sheet_names) > 1, tuple(notes))


def _typed(
    book: Any, title: str, used: list[int], start: int, keep: NDArray[np.bool_]
) -> pl.DataFrame:
    """Return the kept rows from `start` on, of the types that these rows alone have."""
    parts: list[pl.DataFrame] = []
    for first, end in runs(keep):
        sheet = book.load_sheet(
            title, header_row=None, skip_rows=start + first, n_rows=end - first,
            schema_sample_rows=None,
        )  # fmt: skip
        part = sheet.to_polars()
        parts.append(part.select(part.columns[position] for position in used))
    return parts[0] if len(parts) == 1 else pl.concat(parts, how="vertical_relaxed")


def _whole_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """Return columns that hold whole numbers only as such: a workbook knows one kind of number."""
    floats = [name for name, kind in frame.schema.items() if kind == pl.Float64]
    whole = [
        name
        for name in floats
        if bool(((frame[name] % 1 == 0) & (frame[name].abs() < 2.0**53)).drop_nulls().all())
        and frame[name].null_count() < frame.height
    ]
    return frame.with_columns(pl.col(whole).cast(pl.Int64)) if whole else frame
