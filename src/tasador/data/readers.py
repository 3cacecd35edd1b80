"""Read a table as it arrives: CSV of any form, Excel, Parquet, Arrow, JSON, archives, a query.

What the bytes are is decided by looking at them; the file's name only helps to say what went
wrong. Cells of a text come as text, so that a word in a number column reaches the validation
instead of being lost here; other kinds of files keep their types.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

import polars as pl

from tasador.contract.formats import MISSING_TEXTS
from tasador.contract.model import Source, plain_name
from tasador.core import storage
from tasador.core.errors import SourceError
from tasador.data.archives import (
    ACCEPTED,
    ARROW,
    PARQUET,
    is_json,
    is_workbook,
    refuse_unreadable,
    unpack,
)
from tasador.data.errors import UnreadableTableError
from tasador.data.parquet.table import ParquetTable
from tasador.data.sql_table import PASSWORD_VARIABLE, read_query, without_password
from tasador.data.text.extra_rows import extra_columns, extra_rows
from tasador.data.text.text_format import unique_names
from tasador.data.text.text_table import read_text_table
from tasador.data.workbook import read_sheet

MAX_COLUMNS = 50_000


@dataclass(frozen=True)
class TableFile:
    """A table as it was read.

    Attributes:
        frame: Text columns of a text, typed ones of any other kind; no name twice.
        notes: What was decided while reading, a sentence each.
        source: Where it is and how it is read, for the contract: reading it gives the same table.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...]
    source: Source


def read_source(
    location: storage.Location | Source,
    *,
    source: Source | None = None,
    keep_text: Collection[str] = (),
    known: Collection[str] = (),
) -> TableFile:
    """Read a table that nobody has described yet: a file, files of one pattern, or a query.

    Args:
        location: A path, an address in an object store, a pattern such as ``sales_*.csv``; or a
            `Source` whose first path, or query, is meant.
        source: Options for reading: `Source.sheet`, `has_header`, `delimiter` and the like.
        keep_text: Columns in which words such as ``None`` are values, not missing cells.
        known: Names of columns by which the header is recognised.

    Raises:
        SourceError: There is no such file, or it holds no readable table.
        StorageError: It exists but the disk or the store refuses to give it.
        ConfigError: A query or a database's address cannot be used.
        MissingExtraError: A package is missing that reads such files.
    """
    if isinstance(location, Source):
        source = location
        if source.sql is not None:
            return _queried(source)
        if not source.paths:
            raise SourceError("no file is named", expected="a path, a pattern, or an SQL query")
        location = source.paths[0]
    options = source or Source()
    files = found_files(location)
    tables = [
        parse_file(storage.read_bytes(file), file, options, keep_text=keep_text, known=known)
        for file in files
    ]
    whole = concatenated(tables, files)
    return replace(whole, source=replace(whole.source, paths=(str(location),)))


def read_table(
    location: storage.Location,
    *,
    source: Source | None = None,
    keep_text: Collection[str] = (),
    known: Collection[str] = (),
) -> pl.DataFrame:
    """Read a table without what was decided on the way; see `read_source`."""
    return read_source(location, source=source, keep_text=keep_text, known=known).frame


def found_files(location: storage.Location) -> list[str]:
    """Return the files that a location names: itself, or those of its pattern, sorted.

    Raises:
        SourceError: There is none.
    """
    storage.check_scheme(location)
    if storage.is_folder(location):
        raise UnreadableTableError.folder(location, "*.csv")
    files = storage.find(location)
    if not files:
        raise SourceError(f"no file matches {location}", remedy="check the pattern")
    for file in files:
        if not storage.exists(file):
            raise UnreadableTableError.absent(file)
    return files


def parse_table(
    data: bytes,
    name: str,
    source: Source | None = None,
    *,
    keep_text: Collection[str] = (),
    known: Collection[str] = (),
) -> pl.DataFrame:
    """Turn the bytes of a file into a table; see `parse_file`."""
    return parse_file(data, name, source, keep_text=keep_text, known=known).frame


def parse_file(
    data: bytes,
    name: str,
    source: Source | None = None,
    *,
    keep_text: Collection[str] = (),
    known: Collection[str] = (),
) -> TableFile:
    """Turn the bytes of a file into a table, and say how they were read.

    Args:
        data: The file's content.
        name: What to call it in messages.
        source: Options for reading; what they leave open is detected.
        keep_text: Columns in which words such as ``None`` are values, not missing cells.
        known: Names of columns by which the header is recognised.

    Raises:
        SourceError: Empty, damaged, no table, ragged, without rows, or with more than
            `MAX_COLUMNS` columns.
        MissingExtraError: A package is missing that reads such files.
    """
    options, packed = source or Source(), len(data)
    if not data.startswith(PARQUET):
        data = unpack(data, name, options.member)
    if data.startswith(PARQUET):
        read = TableFile(_parse_parquet(data, name, packed), (), options)
    elif data.startswith(ARROW):
        read = _named(_parse_arrow(data, name), options)
    elif is_workbook(data):
        read = _parse_workbook(data, name, options, tuple(known))
    else:
        refuse_unreadable(data, name)
        json_rows = _json_rows(data, name)
        read = (
            _parse_text(data, name, options, tuple(known))
            if json_rows is None
            else _named(_from_records(json_rows, name), options)
        )
    if read.frame.height == 0:
        raise UnreadableTableError.no_rows(name)
    check_width(read.frame.width, name)
    return replace(read, frame=_without_missing_texts(read.frame, keep_text))


def concatenated(tables: list[TableFile], files: list[str]) -> TableFile:
    """Return the rows of several files as one table, by the names of columns."""
    if len(tables) == 1:
        return tables[0]
    every = list(dict.fromkeys(name for table in tables for name in table.frame.columns))
    shown = [file.rpartition("/")[2] for file in files]
    notes = [f"{len(files)} files were read as one table: {_few(shown)}"]
    notes += dict.fromkeys(note for table in tables for note in table.notes)
    for name in every:
        lacking = [f for f, t in zip(shown, tables, strict=True) if name not in t.frame.columns]
        if lacking:
            notes.append(f"the column {name!r} is missing in {_few(lacking)}: empty there")
    first = set(tables[0].frame.columns)
    for file, table in zip(files, tables, strict=True):
        if first.isdisjoint(table.frame.columns):
            names, others = tables[0].frame.columns, table.frame.columns
            raise UnreadableTableError.unrelated(file, files[0], names, others)
    try:
        frame = pl.concat([table.frame for table in tables], how="diagonal_relaxed")
    except pl.exceptions.PolarsError:
        texts = [table.frame.cast(pl.String) for table in tables]
        frame = pl.concat(texts, how="diagonal")
    return TableFile(frame, tuple(notes), tables[0].source)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _queried(source: Source) -> TableFile:
    assert source.sql is not None  # noqa: S101 - the caller looked
    frame = read_query(source.sql)
    url, password = without_password(source.sql.url)
    if frame.height == 0:
        raise SourceError(f"the query of {url} gives no rows", expected="at least one row")
    notes = []
    if password is not None:
        notes.append(
            f"the database's password is not written into the contract: set {PASSWORD_VARIABLE}"
        )
    kept = replace(source, sql=replace(source.sql, url=url))
    return TableFile(_without_missing_texts(frame, ()), tuple(notes), kept)


def _parse_text(data: bytes, name: str, options: Source, known: tuple[str, ...]) -> TableFile:
    table = read_text_table(data, name, options, known)
    form, frame = table.form, table.frame
    check_width(frame.width, name)
    rows, row_notes = extra_rows(frame, form.header)
    if len(rows):
        keep = pl.Series(range(frame.height), dtype=pl.Int64).is_in(rows.tolist()).not_()
        frame = frame.filter(keep)
    columns, column_notes = extra_columns(frame, form.header, form.names)
    frame = _without_text_marks(frame, data)
    encoding: str | None = form.encoding
    if encoding == "utf-8":  # what was named holds for other files where this one is ASCII
        encoding = options.encoding if data.isascii() else None
    source = replace(
        options,
        delimiter=form.delimiter,
        encoding=encoding,
        header_row=form.header_row if form.skipped else options.header_row,
        has_header=None if form.header else False,
    )
    notes = (*table.notes, *row_notes, *column_notes)
    return TableFile(frame.drop(columns), notes, source)


def _parse_workbook(data: bytes, name: str, options: Source, known: tuple[str, ...]) -> TableFile:
    sheet = read_sheet(data, name, options, known)
    source = replace(
        options,
        sheet=sheet.title if sheet.others else options.sheet,
        header_row=sheet.form.header_row if sheet.form.skipped else options.header_row,
        has_header=None if sheet.form.header else False,
    )
    return TableFile(sheet.frame, sheet.notes, source)


def _named(frame: pl.DataFrame, options: Source) -> TableFile:
    frame.columns = list(unique_names(frame.columns))
    return TableFile(frame, (), options)


def _parse_parquet(data: bytes, name: str, size: int) -> pl.DataFrame:
    """Decode a Parquet file of `size` bytes as it came, once it is known to fit into memory."""
    import pyarrow as pa

    if not data.endswith(PARQUET):
        raise UnreadableTableError.damaged(f"the Parquet file {name}", "it has no end")
    try:
        ParquetTable(io.BytesIO(data)).check_whole(name, size)
        names = [plain_name(field) for field in pl.read_parquet_schema(io.BytesIO(data))]
        check_width(len(names), name)
        frame = pl.read_parquet(io.BytesIO(data))
        frame.columns = list(unique_names(names))
        return frame
    except SourceError as error:
        raise SourceError(
            error.message
            if name in error.message
            else error.message.replace("the Parquet file", f"the Parquet file {name}", 1),
            expected=error.expected, got=error.got, remedy=error.remedy,
        ) from None  # fmt: skip
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise UnreadableTableError.damaged(f"the Parquet file {name}", error) from error


def _parse_arrow(data: bytes, name: str) -> pl.DataFrame:
    import pyarrow as pa

    try:  # by pyarrow: polars ends in a panic where a length is wrong
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        table.validate(full=True)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame
        return frame
    # UnicodeDecodeError: pyarrow decodes the columns' names itself
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnreadableTableError.damaged(f"the Arrow file {name}", error) from error


def _json_rows(data: bytes, name: str) -> list[object] | None:
    """Return the objects of a JSON array or of JSON lines; None for a text that is neither."""
    if not is_json(data[:1024]):
        return None
    text = data.decode("utf-8-sig", errors="replace")
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            if not re.match(r"\s*(?:\{|\[\s*[{\[])", text):
                return None  # a column's name may begin with a bracket
        raise SourceError(f"{name} is not valid JSON: {error}", expected=ACCEPTED) from None
    if isinstance(plain, dict):
        lists = [value for value in plain.values() if isinstance(value, list) and value]
        of_objects = [one for one in lists if all(isinstance(item, dict) for item in one)]
        return of_objects[0] if len(of_objects) == 1 else [plain]
    return plain if isinstance(plain, list) else [plain]


def _from_records(rows: list[object], name: str) -> pl.DataFrame:
    wrong = next((row for row in rows if not isinstance(row, dict)), None)
    records = [row for row in rows if isinstance(row, dict)]
    if wrong is not None or not records:
        raise SourceError(
            f"{name} is JSON, but no table", expected="an array of objects, or one object a line",
            got=repr(wrong)[:60],
        )  # fmt: skip
    names = list(dict.fromkeys(key for row in records for key in row))
    nested = [n for n in names if any(isinstance(row.get(n), (dict, list)) for row in records)]
    if nested:
        raise SourceError(
            f"{name} is JSON with objects within objects", expected="plain values",
            got=", ".join(repr(one) for one in nested[:10]),
            remedy="flatten it, for example with pandas.json_normalize, or leave these fields out",
        )  # fmt: skip
    columns = []
    for key in names:
        values = [row.get(key) for row in records]
        try:
            columns.append(pl.Series(key, values))
        except (TypeError, OverflowError, pl.exceptions.PolarsError):
            texts = [None if value is None else str(value) for value in values]
            columns.append(pl.Series(key, texts))
    return pl.DataFrame(columns)


def check_width(columns: int, name: str) -> None:
    """Refuse a table of more columns than `MAX_COLUMNS`."""
    if columns > MAX_COLUMNS:
        raise UnreadableTableError.too_wide(name, columns, MAX_COLUMNS)


def _without_text_marks(frame: pl.DataFrame, data: bytes) -> pl.DataFrame:
    """Return the cells without the marks that keep a number a text; see `formats.cell_text`."""
    if b'="' not in data and not re.search(rb"[,;\t|\"\n]'[0-9]", data):
        return frame
    marked = pl.all().str.replace(r'^\s*="([^"]*)"\s*$', "${1}")
    return frame.with_columns(marked.str.replace(r"^\s*'([0-9.,+-]+)\s*$", "${1}"))


def _without_missing_texts(frame: pl.DataFrame, keep_text: Collection[str]) -> pl.DataFrame:
    """Turn the words for "missing" into null in the text columns not named in `keep_text`."""
    texts = [c for c, kind in frame.schema.items() if kind == pl.String]
    kept = [c for c in texts if c in keep_text]
    others = [c for c in texts if c not in keep_text]
    # one expression for all columns: one for each takes seconds where there are thousands
    return frame.with_columns(
        pl.when(
            pl.col(columns).str.strip_chars().str.to_lowercase().is_in(sorted(marks)).not_()
        ).then(pl.col(columns))
        for columns, marks in ((kept, {""}), (others, MISSING_TEXTS))
        if columns
    )
