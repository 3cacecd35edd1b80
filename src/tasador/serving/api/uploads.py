"""Tables sent as files: CSV and Parquet, read piece by piece in bounded memory.

The header is checked before any row is valued. After that one bad row is that row's fault alone:
it comes out as a `UnreadableRow`, and the rest goes on.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

from tasador.contract.arrow_encoding import plain_values
from tasador.contract.model import TableContract, plain_name
from tasador.contract.row_check import expectation, shown
from tasador.core.errors import MissingExtraError, SourceError
from tasador.core.memory import give_memory_back
from tasador.data.parquet.limits import UPLOADED, ParquetFacts
from tasador.data.text.decimal_commas import without_commas
from tasador.data.text.extra_rows import FOOT, RowTotals, rows_below
from tasador.data.text.text_format import HEAD_BYTES, TextFormat, csv_rows, detect_beginning
from tasador.serving.errors import InvalidRequest, Problem, error_detail, wrong_media_type

CSV_TYPES = frozenset({"text/csv", "application/csv"})
PARQUET_TYPES = frozenset(
    {"application/vnd.apache.parquet", "application/x-parquet", "application/parquet"}
)
_BATCH, _BUFFER = 1024, 1 << 20
#: Most characters of a row in the contract's columns: hundreds of rows are in memory at a time, in
#: several copies. Other columns may be longer, they are dropped.
LONGEST_ROW = 1 << 16
_LONGEST_LINES = 4 << 20


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row that cannot be read, and why."""

    reason: str


class LeftOutRow:
    """A row that is no part of the table: the header again, nothing, or a total at the foot."""


LEFT_OUT = LeftOutRow()
Row = dict[str, Any] | UnreadableRow | LeftOutRow


class Upload:
    """A table within a file.

    Args:
        file: Positioned at its beginning.
        media_type: One of `CSV_TYPES` or `PARQUET_TYPES`.
        contract: Names the columns that must be there.

    Raises:
        Problem: 415, the type is another one, or Parquet cannot be read here; 422, columns are
            missing or the file is no table.
    """

    def __init__(self, file: BinaryIO, media_type: str, contract: TableContract) -> None:
        if media_type in CSV_TYPES:
            self._rows = _csv_rows(file, contract)
        elif media_type in PARQUET_TYPES:
            self._rows = _parquet_rows(file, contract)
        else:
            raise wrong_media_type(
                media_type, "text/csv", "application/vnd.apache.parquet", "multipart/form-data"
            )
        next(self._rows)  # reads and checks the header

    def take(self, most: int) -> list[Row]:
        """Return the next rows, at most `most`; none at the end."""
        return [row for row in islice(self._rows, most) if row is not None]


def _csv_rows(file: BinaryIO, contract: TableContract) -> Iterator[Row | None]:
    try:
        beginning = detect_beginning(file.read(HEAD_BYTES), "the file", contract)
    except SourceError as error:
        raise _no_table(error.expected or "", error.got or error.message) from None
    form, names = beginning.form, beginning.form.names
    commas = [i for i, name in enumerate(names) if name in beginning.commas]
    _check_header(names, contract)
    known = {column.name for column in contract.columns}
    yield None
    header = [cell.strip() for cell in form.header]
    # whether a row at the end is part of the table is known once nothing follows
    last: deque[tuple[Row, list[str]]] = deque()
    number, extra = 0, set[int]()
    totals = RowTotals(len(names), partial(_above, file, form))
    for read in _cells(file, form):
        cells = [] if isinstance(read, UnreadableRow) else read
        if isinstance(read, UnreadableRow):
            row: Row = read
        elif len(cells) == len(names):
            for i in commas:
                cells[i] = without_commas(cells[i])
            row = _short(dict(zip(names, cells, strict=True)), known)
            plain = [cell.strip() for cell in cells]
            repeated = plain == header and sum(map(bool, header)) > 1
            if totals.take(number, plain) or repeated or not any(plain):
                row = LEFT_OUT
                extra.add(number)
        else:
            row = UnreadableRow(f"expected {len(names)} values, got {len(cells)}")
        if not cells or sum(map(len, cells)) > LONGEST_ROW:
            cells = [f"?{form.delimiter}?"]  # a row of some cells, not a line below the table
        last.append((row, cells))
        number += 1
        if len(last) > FOOT:
            yield last.popleft()[0]
    first = number - len(last)
    held = {first + i: [cell.strip() for cell in cells] for i, (_, cells) in enumerate(last)}
    below, _ = rows_below(held, extra, form.delimiter, len(names), partial(_above, file, form))
    for at, (row, _) in enumerate(last, first):
        yield LEFT_OUT if at in below else row


def _cells(file: BinaryIO, form: TextFormat) -> Iterator[list[str] | UnreadableRow]:
    """Yield the cells of each row from the first on."""
    file.seek(0)
    # what cannot be decoded becomes an unknown category or a wrong number of one row
    encoding = "utf-8-sig" if form.encoding == "utf-8" else form.encoding
    text = io.TextIOWrapper(file, encoding=encoding, errors="replace", newline="")
    short = _ShortLines(text)
    short.skip(form.body)
    reader = csv_rows(short, form.delimiter)
    try:
        while True:
            before = reader.line_num
            short.left = _LONGEST_LINES
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield UnreadableRow(f"the line cannot be read: {error}")
                continue
            lines = reader.line_num - before
            if lines > 1 and len(cells) != len(form.names):
                yield UnreadableRow(
                    f"expected {len(form.names)} values, got {len(cells)} in {lines} lines: a "
                    "quote is never closed"
                )
            elif cells:  # an empty line is no row
                yield cells
    finally:
        if not file.closed:
            text.detach()  # the file is its owner's to close


def _above(file: BinaryIO, form: TextFormat, end: int) -> Iterator[list[tuple[str, ...]]]:
    """Yield the cells of the rows before the number `end`, column by column.

    Whoever is reading the file goes on where it was.
    """
    rows, place = islice(_cells(file, form), end), file.tell()
    while piece := list(islice(rows, _BATCH)):
        whole = [cells for cells in piece if isinstance(cells, list)]
        fitting = [cells for cells in whole if len(cells) == len(form.names)]
        if fitting:
            yield list(zip(*fitting, strict=True))
    file.seek(place)


class _ShortLines:
    """Lines of a text, none of them held in memory when a row of them is too long.

    Attributes:
        left: How many characters the row may still have.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.left = _LONGEST_LINES

    def skip(self, characters: int) -> None:
        """Leave out what comes before the first row."""
        self._text.read(characters)

    def __iter__(self) -> _ShortLines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self.left + 1)
        if not line:
            raise StopIteration
        if len(line) <= self.left:
            self.left -= len(line)
            return line
        while line and line[-1] not in "\r\n":
            line = self._text.readline(LONGEST_ROW)
        raise csv.Error(f"expected at most {_LONGEST_LINES} characters in a row")


def _parquet_rows(file: BinaryIO, contract: TableContract) -> Iterator[Row | None]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        missing = MissingExtraError.for_package("pyarrow", "parquet")
        problem = wrong_media_type("application/vnd.apache.parquet", "text/csv")
        problem.remedy = f"{missing.remedy} on the server, or send CSV"
        raise problem from None
    known = {column.name for column in contract.columns}
    try:
        facts = ParquetFacts(file, UPLOADED)
        facts = facts.of_columns({name for name in facts.names if plain_name(name) in known})
        table = parquet.ParquetFile(
            file, read_dictionary=facts.dictionaries, pre_buffer=False, buffer_size=_BUFFER,
            thrift_string_size_limit=UPLOADED.footer_bytes,
        )  # fmt: skip
        schema = table.schema_arrow
    except SourceError as error:
        raise _no_table(
            error.expected or "a Parquet file", f"{error.message}: {error.got}"
        ) from None
    except (arrow.ArrowException, OSError) as error:
        raise _no_table("a Parquet file", shown(str(error))) from None
    names = [plain_name(name) for name in schema.names]
    _check_header(names, contract)
    yield None
    own = [name for name in schema.names if plain_name(name) in known]
    read = [name for name in own if arrow.types.is_dictionary(schema.field(name).type)]
    try:
        for group in range(len(facts.groups)):
            size = facts.rows_at_once(group, _BATCH, read)
            for batch in table.iter_batches(size, [group], own, use_threads=False):
                yield from _rows_of(batch)
    except (arrow.ArrowException, OSError, ValueError, SourceError) as error:
        reason = f"{error.message}: {error.got}" if isinstance(error, SourceError) else str(error)
        yield UnreadableRow(f"the file cannot be read any further: {shown(reason)}")
    finally:
        arrow.default_memory_pool().release_unused()
        give_memory_back()


def _rows_of(batch: Any) -> Iterator[Row]:
    columns = {
        plain_name(name): plain_values(batch.column(i)) for i, name in enumerate(batch.schema.names)
    }
    for cells in zip(*columns.values(), strict=True):
        yield _short(dict(zip(columns, cells, strict=True)), columns)


def _short(row: dict[str, Any], known: Collection[str]) -> Row:
    """Return a row that is not too long; without the columns that are not known if it has to be."""
    if _characters(row) > LONGEST_ROW:
        row = {name: cell for name, cell in row.items() if name in known}
        if (size := _characters(row)) > LONGEST_ROW:
            return UnreadableRow(f"expected at most {LONGEST_ROW} characters in a row, got {size}")
    return row


def _characters(row: dict[str, Any]) -> int:
    return sum(len(cell) for cell in row.values() if isinstance(cell, str))


def _check_header(names: Sequence[str], contract: TableContract) -> None:
    faults = [
        error_detail(
            ["header", column.name],
            kind="missing",
            expected=f"a column of {expectation(column)}",
            got="no such column",
            remedy=f"add the column {column.name!r}; the file has {shown(', '.join(names))}",
        )
        for column in contract.fields
        if column.name not in names and not column.nullable
    ]
    faults += [
        error_detail(
            ["header", name[:100]],
            kind="duplicate",
            expected="each column once",
            got=f"{names.count(name)} times",
            remedy="drop the others",
        )
        for name in contract.readable_names
        if names.count(name) > 1
    ]
    if faults:
        raise Problem("invalid_header", errors=faults)


def _no_table(expected: str, got: str) -> Problem:
    remedy = "send CSV with a line of column names, or Parquet"
    return InvalidRequest(
        ["file"], "the file cannot be read", expected, got, remedy,
        error="malformed_file", kind="invalid_file",
    )  # fmt: skip
