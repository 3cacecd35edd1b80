"""Tables read piece by piece: CSV (also compressed) and Parquet, local or in an object store.

Memory holds one piece, never the file. What a file is is decided by looking at it. A line that has
too many or too few cells is that line's fault alone: it comes out with its number and a reason.
Other kinds of files (workbooks, archives, JSON) can only be read whole.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tasador.contract.arrow_encoding import plain_array
from tasador.contract.encoding import columns_with_missing_words
from tasador.contract.model import Source, TableContract, plain_name
from tasador.core import storage
from tasador.core.errors import MissingExtraError, SourceError
from tasador.data.archives import (
    ARROW,
    OLE,
    PARQUET,
    ZIP,
    AsUtf8,
    Lent,
    is_json,
    is_tar,
    read_all,
    refuse_unreadable,
)  # fmt: skip
from tasador.data.errors import UnreadableTableError
from tasador.data.extra_rows import (
    FOOT,
    LABEL_COLUMNS,
    TOTAL_LABEL,
    WORDS,
    WORDS_WITHIN,
    GroupTotals,
    left_out_notes,
    rows_at_foot,
    rows_below,
    sums_of,
)
from tasador.data.parquet.table import ParquetTable
from tasador.data.text_format import HEAD_BYTES, detect_beginning, known_names

if TYPE_CHECKING:
    import pyarrow as pa

TableKind = Literal["csv", "parquet"]

_XZ = b"\xfd7zXZ"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"BZ": "bz2"}
_BEGINNING = 1024
_LEAST_BLOCK, _LARGEST_BLOCK = 1 << 18, 1 << 26
#: What Arrow says of a row that does not end within the block it begins in.
_TOO_LONG = "straddling object"


@dataclass(frozen=True)
class Piece:
    """Some consecutive rows of a file.

    Attributes:
        start: How many rows of the file come before it.
        batch: The rows that could be read, in order.
        torn: Why others could not, by how many rows of the file come before each.
        left_out: How many rows of the file come before each row that is no part of the table: one
            that repeats the header, holds nothing, or is a total or a footnote below it.
    """

    start: int
    batch: pa.RecordBatch
    torn: dict[int, str] = field(default_factory=dict)
    left_out: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return int(self.batch.num_rows) + len(self.torn) + len(self.left_out)


class TableStream(Protocol):
    """An open file.

    Attributes:
        kind: What it is.
        names: Its columns by `plain_name`, in order; there may be duplicates.
        notes: What was decided while reading, a sentence each; all of them once it was read.
    """

    kind: TableKind
    names: list[str]
    notes: list[str]

    def pieces(self, columns: Sequence[str], rows: int) -> Iterator[Piece]:
        """Yield the file's rows from the beginning, about `rows` at a time.

        Args:
            columns: Those to read; each has to be there once.
            rows: How many rows a piece should have.

        Raises:
            SourceError: The file is damaged.
            StorageError: The object store cannot be reached any more.
        """
        ...

    def nothing(self, columns: Sequence[str]) -> pa.RecordBatch:
        """Return a batch of no rows with these columns, of the types that `pieces` gives them."""
        ...

    def done(self) -> float:
        """Return about which share of the file has been read, in [0, 1]."""
        ...


@contextmanager
def open_table(
    location: storage.Location, contract: TableContract, asked: Source | None = None
) -> Iterator[TableStream]:
    """Open a table; the columns' names are known afterwards, no row has been read.

    Args:
        location: A CSV file, plain or compressed by gzip, zstd or bzip2, or a Parquet file; any
            other table that `data.readers` reads, which is then held in memory whole.
        contract: Helps to find out how a CSV is written.
        asked: The sheet, encoding or lack of a header of this very file, if they were named.

    Raises:
        SourceError: There is no such file, it is empty, or no table.
        StorageError: The disk or the object store refuses to give it.
        MissingExtraError: pyarrow is not installed.
    """
    _need_pyarrow()
    asked = asked or Source()
    contract = replace(contract, source=contract.source.read_as(asked))
    if storage.is_folder(location):
        raise UnreadableTableError.folder(location, "*.parquet")
    if not storage.exists(location):
        raise UnreadableTableError.absent(location)
    with ExitStack() as stack:
        file = stack.enter_context(storage.open_read(location))
        beginning = file.read(_BEGINNING)
        if not beginning:
            raise UnreadableTableError.empty(location)
        file.seek(0)
        with _readable(location):
            compression = _COMPRESSED.get(beginning[:2])
            inside = beginning if compression is None else _unpacked(file, compression)
            if beginning.startswith(PARQUET):
                yield_this: TableStream = _ParquetStream(location, file)
            elif _read_whole(inside):
                yield_this = _FrameStream(location, contract, named_sheet=asked.sheet is not None)
            else:
                refuse_unreadable(inside, "the file")
                yield_this = _CsvStream(location, file, compression, contract)
        yield yield_this


def _read_whole(beginning: bytes) -> bool:
    """Tell from a file's beginning whether it is of a kind that cannot be read in pieces."""
    return (
        beginning.startswith((ZIP, OLE, ARROW, PARQUET, _XZ, *_COMPRESSED))
        or is_tar(beginning)
        or is_json(beginning)
    )


def _unpacked(file: Any, compression: str) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.PythonFile(Lent(file), mode="r"), compression) as stream:
        return bytes(stream.read(_BEGINNING))


def _need_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingExtraError.for_package("pyarrow", "parquet") from None


@contextmanager
def _readable(location: storage.Location) -> Iterator[None]:
    """Turn Arrow's errors into ours."""
    import pyarrow as pa

    try:
        yield
    except SourceError as error:
        raise SourceError(
            f"{location}: {error.message}", expected=error.expected, got=error.got,
            remedy=error.remedy or "name CSV or Parquet files",
        ) from None  # fmt: skip
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's or the store's, not the file's
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise SourceError(
            f"{location} cannot be read", got=reason, remedy="copy or write it again"
        ) from error


class _ParquetStream:
    kind: TableKind = "parquet"

    def __init__(self, location: storage.Location, file: Any) -> None:
        self._table = ParquetTable(file, location)
        self._location = location
        self._own = list(self._table.schema.names)
        self.names = [plain_name(name) for name in self._own]
        self._rows, self._read = self._table.rows, 0
        self.notes: list[str] = []

    def pieces(self, columns: Sequence[str], rows: int) -> Iterator[Piece]:
        own = self._own_names(columns)
        batches = self._table.batches(own, rows)
        while True:
            with _readable(self._location):
                batch = next(batches, None)
            if batch is None:
                return
            yield Piece(self._read, batch.select(own).rename_columns(list(columns)))
            self._read += batch.num_rows

    def _own_names(self, columns: Sequence[str]) -> list[str]:
        return [self._own[self.names.index(name)] for name in columns]

    def nothing(self, columns: Sequence[str]) -> pa.RecordBatch:
        import pyarrow as pa

        own = zip(columns, self._own_names(columns), strict=True)
        schema = self._table.schema
        return _no_rows(pa.schema([schema.field(there).with_name(name) for name, there in own]))

    def done(self) -> float:
        return self._read / self._rows if self._rows else 1.0


class _CsvStream:
    kind: TableKind = "csv"

    def __init__(
        self,
        location: storage.Location,
        file: Any,
        compression: str | None,
        contract: TableContract,
    ) -> None:
        self._location, self._compression = location, compression
        self._source = file
        self._size = max(1, storage.stamp(location).size)
        with self._stream() as stream:
            head = read_all(stream, HEAD_BYTES)
        beginning = detect_beginning(head, "the file", contract)
        self._form, self._start = beginning.form, beginning.offset
        self._marked = head.startswith(codecs.BOM_UTF8)
        self.names = list(self._form.names)
        self.notes = list(self._form.notes)
        rows = beginning.rows
        self._headed_only = not rows.strip("\r\n")
        lines = max(rows.count("\n"), rows.count("\r"), 1)
        self._row_bytes = max(1, len(rows) // lines)

    def _rows(self, stream: Any) -> Any:
        """Return what follows the header, as UTF-8."""
        import pyarrow as pa

        if self._form.encoding == "utf-8":
            read_all(stream, self._start + (len(codecs.BOM_UTF8) if self._marked else 0))
            return stream
        text = AsUtf8(stream, self._form.encoding)
        text.read(self._start)
        return pa.PythonFile(text, mode="r")

    def _stream(self) -> Any:
        import pyarrow as pa

        self._source.seek(0)
        raw = (
            pa.PythonFile(Lent(self._source), mode="r")
            if storage.is_remote(self._location)
            else pa.OSFile(str(self._location))
        )
        self._raw = raw
        return (
            raw if self._compression is None else pa.CompressedInputStream(raw, self._compression)
        )

    def pieces(self, columns: Sequence[str], rows: int) -> Iterator[Piece]:
        if self._headed_only:
            return
        block = min(_LARGEST_BLOCK, max(_LEAST_BLOCK, rows * self._row_bytes))
        read = 0
        try:
            for piece in self._pieces(columns, block):
                yield piece
                read = piece.start + len(piece)
        except SourceError as error:
            if _TOO_LONG not in (error.got or "") or block == _LARGEST_BLOCK:
                raise
        else:
            return
        for piece in self._pieces(columns, _LARGEST_BLOCK):  # a row longer than the block
            if piece.start + len(piece) > read:
                yield _after(piece, read)

    def _pieces(self, columns: Sequence[str], block: int) -> Iterator[Piece]:
        last: deque[_Block] = deque()  # the rows at the end are looked at together
        self._groups: GroupTotals | None = None
        self._words: list[int] | None = None
        self._totals: set[int] = set()
        for found in self._blocks(block):
            self._find_totals(found, block)
            last.append(found)
            while sum(map(len, last)) - len(last[0]) >= FOOT:
                yield self._piece(last.popleft(), columns)
        below, notes = self._below(list(last), block)
        blank, repeated = self._left_out
        left_out = left_out_notes(blank, repeated, len(self._totals))
        self.notes = [*self._form.notes, *left_out, *notes]
        for found in last:
            yield self._piece(found, columns, below)

    def _blocks(self, block: int) -> Iterator[_Block]:
        """Yield all rows and columns of the file."""
        torn: deque[tuple[int, str, str]] = deque()
        self._left_out = [0, 0]
        reader, at = None, 0
        with self._stream() as stream:
            while True:
                with _readable(self._location):
                    if reader is None:
                        reader = self._reader(self._rows(stream), block, torn)
                    batch = next(reader, None)
                if batch is None:
                    break
                found = _Block(at, batch)
                found.take(torn)
                self._find_extra(found)
                yield found
                at += len(found)
        if torn:
            rest = _Block(at, self.nothing([str(i) for i in range(len(self.names))]))
            rest.torn = {number: (reason, text) for number, reason, text in torn}
            yield rest

    def _find_extra(self, found: _Block) -> None:
        """Note the rows of a block that hold nothing, and those that repeat the header."""
        blank = _rows_of_cells(found.batch, [""] * len(self.names))
        header = self._form.header
        repeats = sum(map(bool, header)) > 1
        again = _rows_of_cells(found.batch, header) if repeats else np.empty(0, np.int64)
        if len(blank) or len(again):
            self._left_out[0] += len(blank)
            self._left_out[1] += len(again)
            found.extra = set(found.numbers[np.concatenate([blank, again])].tolist())

    def _below(self, last: Sequence[_Block], block: int) -> tuple[set[int], list[str]]:
        """Return which of the last rows are below the table, and sentences about them."""
        rows: dict[int, list[str]] = {}
        for found in reversed(last):
            rows = found.cells(self._form.delimiter, FOOT - len(rows)) | rows
        extra = {number for found in last for number in found.extra}
        foot = self._totals.intersection(rows_at_foot(rows, extra))
        self._totals -= foot
        extra -= foot
        for found in last:
            found.extra -= foot
        above = partial(self._above, block=block)
        return rows_below(rows, extra, self._form.delimiter, len(self.names), above)

    def _find_totals(self, found: _Block, block: int) -> None:
        """Note the rows of a block that are totals of rows above them; see `GroupTotals`."""
        import pyarrow.compute as pc

        if self._words is None:
            self._words = _columns_of_words(found.batch)
        called = np.zeros(found.batch.num_rows, bool)
        for position in self._words:
            cells = _texts(found.batch.column(position))
            totals = cells.unique()  # a pattern takes longer than to find equal cells
            totals = totals.filter(pc.match_substring_regex(totals, TOTAL_LABEL))
            if len(totals):
                called |= pc.is_in(cells, totals).to_numpy(zero_copy_only=False)
        called &= ~np.isin(found.numbers, list(found.extra))
        asked: list[int] = np.flatnonzero(called).tolist()
        if not asked and self._groups is None:
            return
        if self._groups is None:
            self._groups = GroupTotals(len(self.names))
            for above in self._above(found.start, block):
                self._groups.add(len(above[0]), sums_of(above))
        numbers, start = found.numbers, 0
        keep = ~np.isin(numbers, list(found.extra))
        columns = [plain_array(array).to_pylist() for array in found.batch.columns]
        for row in [*asked, len(numbers)]:
            rows = [i for i in range(start, row) if keep[i]]
            self._groups.add(len(rows), sums_of([[column[i] for i in rows] for column in columns]))
            start = row + 1
            if row < len(numbers) and self._groups.take(
                [column[row].strip() for column in columns]
            ):
                self._totals.add(int(numbers[row]))
                found.extra.add(int(numbers[row]))

    def _above(self, end: int, block: int) -> Iterator[list[list[str | None]]]:
        """Yield all cells of the rows before a number but totals of groups, read once more."""
        import pyarrow as pa

        left_out = self._left_out
        for found in self._blocks(block):
            if found.start >= end:
                break
            keep = (found.numbers < end) & ~np.isin(found.numbers, list(self._totals))
            rows = found.batch.filter(pa.array(keep))
            yield [plain_array(array).to_pylist() for array in rows.columns]
        self._left_out = left_out

    def _piece(self, found: _Block, columns: Sequence[str], below: Collection[int] = ()) -> Piece:
        import pyarrow as pa

        left_out = frozenset(
            found.extra.union(set(below).intersection(range(found.start, found.end)))
        )
        taken = [found.batch.column(self.names.index(name)) for name in columns]
        if left_out:
            keep = pa.array(~np.isin(found.numbers, list(left_out)))
            taken = [array.filter(keep) for array in taken]
        batch = pa.RecordBatch.from_arrays([plain_array(a) for a in taken], names=list(columns))
        torn = {n: reason for n, (reason, _) in found.torn.items() if n not in left_out}
        return Piece(found.start, batch, torn, left_out)

    def nothing(self, columns: Sequence[str]) -> pa.RecordBatch:
        import pyarrow as pa

        return _no_rows(pa.schema([(name, pa.string()) for name in columns]))

    def _reader(self, stream: Any, block: int, torn: deque[tuple[int, str, str]]) -> Any:
        import pyarrow as pa
        import pyarrow.csv as csv

        width = len(self.names)
        numbers = [str(position) for position in range(width)]  # any name, even twice, can be read

        def skip(row: Any) -> str:
            reason = f"expected {width} values, got {row.actual_columns}"
            torn.append((row.number - 1, reason, row.text))  # Arrow counts from 1
            return "skip"

        return csv.open_csv(
            stream,
            # rows have numbers only when Arrow reads them in one thread
            csv.ReadOptions(use_threads=False, block_size=block, column_names=numbers),
            csv.ParseOptions(
                delimiter=self._form.delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            csv.ConvertOptions(
                column_types=dict.fromkeys(numbers, pa.binary()),
                null_values=[],
                strings_can_be_null=False,
            ),
        )

    def done(self) -> float:
        return min(1.0, float(self._raw.tell()) / self._size) if not self._raw.closed else 1.0


class _FrameStream:
    """A table of a kind that is read whole."""

    kind: TableKind = "csv"

    def __init__(
        self, location: storage.Location, contract: TableContract, *, named_sheet: bool
    ) -> None:
        try:
            from tasador.data.readers import read_source
        except ImportError as error:
            raise MissingExtraError.for_package(error.name or "polars", "train") from None
        read = read_source(
            location,
            source=contract.source,
            keep_text=columns_with_missing_words(contract),
            # a sheet that is named has to be there; the contract's is that of another file
            known=() if named_sheet else known_names(contract),
        )
        self._frame, self.notes = read.frame, list(read.notes)
        self.names = list(self._frame.columns)
        self._read = 0

    def pieces(self, columns: Sequence[str], rows: int) -> Iterator[Piece]:
        for batch in self._frame.select(columns).to_arrow().to_batches(max_chunksize=rows):
            yield Piece(self._read, batch)
            self._read += batch.num_rows

    def nothing(self, columns: Sequence[str]) -> pa.RecordBatch:
        return _no_rows(self._frame.select(columns).to_arrow().schema)

    def done(self) -> float:
        return self._read / max(1, self._frame.height)


def _after(piece: Piece, read: int) -> Piece:
    """Return the piece without its rows before the number `read`."""
    before = max(0, read - piece.start)
    torn = {number: reason for number, reason in piece.torn.items() if number >= read}
    left_out = frozenset(number for number in piece.left_out if number >= read)
    others = len(piece.torn) - len(torn) + len(piece.left_out) - len(left_out)
    return Piece(piece.start + before, piece.batch.slice(before - others), torn, left_out)


@dataclass
class _Block:
    """Some consecutive rows of a CSV file, with all columns.

    Attributes:
        start: How many rows of the file come before it.
        batch: The rows that could be read, as bytes.
        torn: By number: why others could not, and their text.
        extra: The numbers of rows that hold nothing, repeat the header or are totals.
    """

    start: int
    batch: pa.RecordBatch
    torn: dict[int, tuple[str, str]] = field(default_factory=dict)
    extra: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return int(self.batch.num_rows) + len(self.torn)

    @property
    def end(self) -> int:
        """How many rows come before the first one after it."""
        return self.start + len(self)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The number of each row of the batch."""
        every = np.arange(self.start, self.end)
        return every[~np.isin(every, list(self.torn))] if self.torn else every

    def take(self, torn: deque[tuple[int, str, str]]) -> None:
        """Take those torn rows that are before its last row."""
        while torn and torn[0][0] < self.end:
            number, reason, text = torn.popleft()
            self.torn[number] = reason, text

    def cells(self, delimiter: str, most: int) -> dict[int, list[str]]:
        """Return by number what is in each of the last rows."""
        numbers = {int(number): position for position, number in enumerate(self.numbers)}
        rows = {}
        for number in range(max(self.start, self.end - most), self.end):
            if number in self.torn:
                cells = self.torn[number][1].split(delimiter)
            else:
                row = self.batch.slice(numbers[number], 1).columns
                cells = [plain_array(array)[0].as_py() for array in row]
            rows[number] = [cell.strip() for cell in cells]
        return rows


def _texts(array: pa.Array) -> pa.Array:
    """Return cells without spaces around them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # a view, since bytes that are no UTF-8 are as good as any here
    return pc.ascii_trim_whitespace(array.view(pa.string()))


def _columns_of_words(batch: pa.RecordBatch) -> list[int]:
    """Return the first columns that hold words."""
    import pyarrow.compute as pc

    found = (
        position
        for position, array in enumerate(batch.columns[:WORDS_WITHIN])
        if pc.any(pc.match_substring_regex(_texts(array), WORDS)).as_py()
    )
    return list(islice(found, LABEL_COLUMNS))


def _rows_of_cells(batch: pa.RecordBatch, cells: Sequence[str]) -> NDArray[np.int64]:
    """Return the positions of the rows that hold these cells, but for spaces around them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = np.arange(batch.num_rows)
    for array, cell in zip(batch.columns, cells, strict=False):
        taken = array if len(rows) == len(array) else array.take(pa.array(rows))
        trimmed = _texts(taken).view(pa.binary())
        wanted = pa.scalar(cell.encode("utf-8", errors="surrogateescape"), pa.binary())
        rows = rows[pc.equal(trimmed, wanted).to_numpy(zero_copy_only=False)]
        if not len(rows):
            break
    return rows


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], kind) for kind in schema.types], schema=schema)
