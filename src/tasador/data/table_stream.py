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
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

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
from tasador.data.parquet.table import ParquetTable
from tasador.data.text.csv_blocks import Block, BlockTotals
from tasador.data.text.decimal_commas import array_without_commas
from tasador.data.text.extra_rows import FOOT, left_out_notes, rows_at_foot, rows_below
from tasador.data.text.text_format import HEAD_BYTES, detect_beginning, known_names

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
        self._raw = self._opened(file)
        with self._unpacked(self._raw) as stream:
            head = read_all(stream, HEAD_BYTES)
        beginning = detect_beginning(head, "the file", contract)
        self._form, self._start = beginning.form, beginning.offset
        self._commas = beginning.commas
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

    def _opened(self, file: Any) -> Any:
        import pyarrow as pa

        file.seek(0)
        if storage.is_remote(self._location):
            return pa.PythonFile(Lent(file), mode="r")
        return pa.OSFile(str(self._location))

    def _unpacked(self, raw: Any) -> Any:
        import pyarrow as pa

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
        last: deque[Block] = deque()  # the rows at the end are looked at together
        totals = BlockTotals(len(self.names), partial(self._above, block))
        blank = repeated = 0
        for found in self._blocks(block):
            blank, repeated = blank + found.blank, repeated + found.repeated
            totals.find(found)
            last.append(found)
            while sum(map(len, last)) - len(last[0]) >= FOOT:
                yield self._piece(last.popleft(), columns)
        below, notes = self._below(list(last), totals.found, block)
        left_out = left_out_notes(blank, repeated, len(totals.found))
        self.notes = [*self._form.notes, *left_out, *notes]
        for found in last:
            yield self._piece(found, columns, below)

    def _blocks(self, block: int, file: Any = None) -> Iterator[Block]:
        """Yield all rows and columns of the file, or of another one that reads the same."""
        torn: deque[tuple[int, str, str]] = deque()
        reader, at = None, 0
        raw = self._opened(file or self._source)
        if file is None:
            self._raw = raw
        with self._unpacked(raw) as stream:
            while True:
                with _readable(self._location):
                    if reader is None:
                        reader = self._reader(self._rows(stream), block, torn)
                    batch = next(reader, None)
                if batch is None:
                    break
                found = Block(at, batch)
                found.take(torn)
                found.find_extra(self._form.header)
                yield found
                at += len(found)
        if torn:
            rest = Block(at, self.nothing([str(i) for i in range(len(self.names))]))
            rest.torn = {number: (reason, text) for number, reason, text in torn}
            yield rest

    def _below(
        self, last: Sequence[Block], totals: set[int], block: int
    ) -> tuple[set[int], list[str]]:
        """Return which of the last rows are below the table, and sentences about them.

        Those of the `totals` that are there are taken out of them.
        """
        rows: dict[int, list[str]] = {}
        for found in reversed(last):
            rows = found.cells(self._form.delimiter, FOOT - len(rows)) | rows
        extra = {number for found in last for number in found.extra}
        foot = totals.intersection(rows_at_foot(rows, extra))
        totals -= foot
        extra -= foot
        for found in last:
            found.extra -= foot
        above = partial(self._above, block, totals=totals)
        return rows_below(rows, extra, self._form.delimiter, len(self.names), above)

    def _above(
        self, block: int, end: int, totals: Collection[int]
    ) -> Iterator[list[list[str | None]]]:
        """Yield all cells of the rows before a number but totals of groups, read once more."""
        import pyarrow as pa

        # a file of its own: the one that is being read goes on where it was
        with storage.open_read(self._location) as file:
            for found in self._blocks(block, file):
                if found.start >= end:
                    break
                keep = (found.numbers < end) & ~np.isin(found.numbers, list(totals))
                rows = found.batch.filter(pa.array(keep))
                yield [plain_array(array).to_pylist() for array in rows.columns]

    def _piece(self, found: Block, columns: Sequence[str], below: Collection[int] = ()) -> Piece:
        import pyarrow as pa

        left_out = frozenset(
            found.extra.union(set(below).intersection(range(found.start, found.end)))
        )
        taken = [found.batch.column(self.names.index(name)) for name in columns]
        if left_out:
            keep = pa.array(~np.isin(found.numbers, list(left_out)))
            taken = [array.filter(keep) for array in taken]
        taken = [plain_array(array) for array in taken]
        taken = [
            array_without_commas(array) if name in self._commas else array
            for name, array in zip(columns, taken, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays(taken, names=list(columns))
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


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], kind) for kind in schema.types], schema=schema)
