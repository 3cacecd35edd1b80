"""Parquet files read in batches of bounded size, and what may be held of one as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tasador.core import storage
from tasador.core.errors import SourceError
from tasador.data.parquet.limits import NAMED, TIMES_SIZE, VALUE_BYTES, ParquetFacts

if TYPE_CHECKING:
    import pyarrow as pa

_BUFFER, _COPIED = 1 << 20, 8 << 20
#: What may be held of a file as a whole: this much, and `TIMES_SIZE` times its own size.
_LEAST_BYTES = 32 << 20
#: Bytes that a row takes besides its values when it is held as objects.
_OBJECTS = 512


class Allowance:
    """Counts what is held of a file, and refuses more than its size allows.

    Args:
        name: What to call the file in messages.
        size: The file's bytes, packed as it came.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name, self._most, self._held = name, _LEAST_BYTES + TIMES_SIZE * size, 0

    def rows(self, batch: pa.RecordBatch) -> None:
        """Count a batch whose rows are held as objects."""
        self.add(batch.num_rows * _OBJECTS + unpacked_bytes(batch))

    def add(self, size: int) -> None:
        """Count `size` bytes more.

        Raises:
            SourceError: That is too much.
        """
        self._held += size
        if self._held > self._most:
            raise SourceError(
                f"{self._name} takes too much memory once it is unpacked",
                expected=f"at most {self._most >> 20} MiB ({_LEAST_BYTES >> 20} MiB and "
                f"{TIMES_SIZE} times the file's size)",
                got=f"{self._held >> 20} MiB or more",
                remedy="shorten the values, drop columns, or write the table as CSV",
            )


class ParquetTable:
    """A Parquet file that is read in batches of bounded size.

    Args:
        file: The open file; a remote one is copied to the local disk, a few row groups at a time.
        location: Where it is, if it is not in memory.

    Attributes:
        facts: What it declares.
        schema: Its columns as Arrow has them.
        rows: How many rows it declares.

    Raises:
        SourceError: It is no Parquet file, or its footer is too large.
        pyarrow.ArrowException: It is damaged.
    """

    def __init__(self, file: BinaryIO, location: storage.Location | None = None) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._remote = location is not None and storage.is_remote(location)
        self._limits = NAMED.for_size(self._size)
        self.facts = ParquetFacts(file, self._limits)
        # a local file is read without asking Python for each page
        self._source = file if location is None or self._remote else str(location)
        with self._opened(file) as opened:
            self._metadata = opened.metadata
            self.schema = opened.schema_arrow
        self.rows = self._metadata.num_rows

    def _opened(self, source: Any, **how: Any) -> Any:
        import pyarrow.parquet as parquet

        return parquet.ParquetFile(
            source, pre_buffer=False, buffer_size=_BUFFER,
            thrift_string_size_limit=self._limits.footer_bytes, **how,
        )  # fmt: skip

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some columns, at most `rows` at a time; fewer where they are long.

        Texts that repeat may come as dictionaries; spelled out they are bounded, too.

        Raises:
            SourceError: A column holds lists or objects, or too much memory is needed for it.
            pyarrow.ArrowException: The file is damaged.
        """
        yield from _even(self._decoded(names, rows), rows, self._limits.batch_bytes)

    def _decoded(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        facts = self.facts.of_columns(names)
        with ExitStack() as stack:
            copied = None
            if self._remote:
                copied = stack.enter_context(tempfile.NamedTemporaryFile())
                copied.truncate(self._size)
                facts = facts.on(copied)  # type: ignore[arg-type]
            how = {"metadata": self._metadata, "read_dictionary": facts.dictionaries}
            source = self._source if copied is None else copied.name
            file = stack.enter_context(self._opened(source, **how))
            schema = file.schema_arrow
            read = [name for name in facts.dictionaries if _is_dictionary(schema, name)]
            for groups in self._copied(facts, copied):
                sizes = [(facts.rows_at_once(group, rows, read), group) for group in groups]
                for size, run in groupby(sizes, key=lambda one: one[0]):
                    yield from file.iter_batches(size, [group for _, group in run], list(names))

    def _copied(self, facts: ParquetFacts, copied: Any) -> Iterator[list[int]]:
        """Yield row groups once they can be read; those of a local file at once."""
        if copied is None:
            yield list(range(len(facts.groups)))
            return
        waiting: list[int] = []
        fetched = 0
        for group in range(len(facts.groups)):
            for start, after in facts.ranges(group):
                at, end = max(0, start), min(self._size, after)
                self._file.seek(at)
                copied.seek(at)
                while at < end and (part := self._file.read(min(_COPIED, end - at))):
                    copied.write(part)
                    at += len(part)
                    fetched += len(part)
            waiting.append(group)
            if fetched >= _COPIED:
                copied.flush()
                yield waiting
                waiting, fetched = [], 0
                copied.truncate(0)
                copied.truncate(self._size)
        copied.flush()
        yield waiting

    def check_whole(self, name: str, size: int) -> None:
        """Refuse a table that cannot be held in memory as a whole.

        Args:
            name: What to call the file in messages.
            size: The file's bytes, packed as it came.

        Raises:
            SourceError: It takes too much.
        """
        allowance = Allowance(name, size)
        for group in range(len(self.facts.groups)):
            self.facts.check_pages(group)
        plain = {leaf.name for _, leaf in self.facts._leaves if not leaf.nested}
        measured = [one for one in dict.fromkeys(self.facts.repeated()) if one in plain]
        for part in self.facts.unpacked_bytes(measured):
            allowance.add(part)
        for batch in self.batches(measured, 1 << 16) if measured else ():
            allowance.add(unpacked_bytes(batch) - VALUE_BYTES * batch.num_rows * batch.num_columns)


def _is_dictionary(schema: pa.Schema, name: str) -> bool:
    import pyarrow as pa

    return all(pa.types.is_dictionary(schema.field(i).type)
               for i in schema.get_all_field_indices(name))  # fmt: skip


def _lengths(values: pa.Array) -> Any:
    """Return how many bytes each value has, its text included."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, types = values.type, pa.types
    if types.is_dictionary(kind):
        own = _lengths(values.dictionary)
        if not len(own):
            return np.full(len(values), VALUE_BYTES)
        return own[values.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    if types.is_fixed_size_binary(kind):
        return np.full(len(values), kind.byte_width + VALUE_BYTES)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or (
        types.is_large_binary(kind)
    ):  # fmt: skip
        lengths = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)
        return lengths.astype(np.int64) + VALUE_BYTES
    return np.full(len(values), VALUE_BYTES)


def unpacked_bytes(batch: pa.RecordBatch) -> int:
    """Return how many bytes the values of a batch have, those of dictionaries spelled out."""
    return sum(int(_lengths(column).sum()) for column in batch.columns)


def _even(batches: Iterator[pa.RecordBatch], rows: int, most: int) -> Iterator[pa.RecordBatch]:
    """Yield batches of at most `rows` rows and about `most` bytes, many small ones as one."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    count, held = 0, 0
    for batch in batches:
        each = sum(_lengths(column) for column in batch.columns)
        whole = int(np.sum(each))
        if waiting and (count + batch.num_rows > rows or held + whole > most):
            yield pa.concat_batches(waiting)
            waiting, count, held = [], 0, 0
        if whole > most:
            yield from _cut(batch, each, most)
        elif 2 * batch.num_rows >= rows:
            yield from (pa.concat_batches(waiting),) if waiting else ()
            waiting, count, held = [], 0, 0
            yield batch
        else:
            waiting.append(_spelt_out(batch))
            count, held = count + batch.num_rows, held + whole
    if waiting:
        yield pa.concat_batches(waiting)


def _cut(batch: pa.RecordBatch, each: Any, most: int) -> Iterator[pa.RecordBatch]:
    """Yield a batch in slices of about `most` bytes, at least a row."""
    parts = (np.cumsum(each) - 1) // most
    starts = np.flatnonzero(np.diff(parts, prepend=-1))
    for start, end in zip(starts, [*starts[1:], batch.num_rows], strict=True):
        yield batch.slice(start, end - start)


def _spelt_out(batch: pa.RecordBatch) -> pa.RecordBatch:
    import pyarrow as pa

    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
