"""Scored tables as files: CSV, with decimal points or commas, and Parquet."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasador.core import storage
from tasador.core.errors import DataError
from tasador.data.table_stream import TableKind
from tasador.data.text.decimal_commas import batch_with_commas

if TYPE_CHECKING:
    import pyarrow as pa


class TableWriter:
    """Writes batches of one schema as CSV or Parquet.

    Args:
        file: Where to, open for writing.
        kind: Which of them.
        schema: The batches' schema, with what is to be kept about the whole file.
        commas: Columns whose texts are numbers: CSV gets decimal commas, between semicolons. None
            writes decimal points.

    Raises:
        DataError: A column of that type cannot be written as CSV.
    """

    def __init__(
        self, file: Any, kind: TableKind, schema: pa.Schema, commas: frozenset[str] | None = None
    ) -> None:
        import pyarrow as pa

        self._commas = commas
        if kind == "parquet":
            import pyarrow.parquet as parquet

            texts = [field.name for field in schema if pa.types.is_string(field.type)]
            self._writer = parquet.ParquetWriter(file, schema, use_dictionary=texts)
            return
        import pyarrow.csv as csv

        options = csv.WriteOptions(delimiter="," if commas is None else ";")
        nothing = self._written(pa.RecordBatch.from_pylist([], schema))
        try:
            self._writer = csv.CSVWriter(file, nothing.schema, write_options=options)
            self._writer.write_batch(nothing)
        except pa.ArrowException as error:
            raise DataError(
                f"a column cannot be written as CSV: {error}", remedy="write --format parquet"
            ) from None

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch."""
        self._writer.write_batch(self._written(batch))

    def _written(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch if self._commas is None else batch_with_commas(batch, self._commas)

    def close(self) -> None:
        """Write what belongs to the end."""
        self._writer.close()


@contextmanager
def open_output(
    location: str, kind: TableKind, schema: pa.Schema, commas: frozenset[str] | None = None
) -> Iterator[TableWriter]:
    """Open a table for writing that appears at `location` only when the body ends well.

    The other arguments are those of `TableWriter`.

    Raises:
        StorageError: Disk full, permission denied, store unreachable; nothing is left behind.
        DataError: As `TableWriter`.
    """
    if storage.is_remote(location):
        with tempfile.TemporaryDirectory(prefix="tasador-score-") as folder:
            local = Path(folder) / "result"
            with open_output(str(local), kind, schema, commas) as writer:
                yield writer
            storage.copy_from_local(local, location)
        return
    with storage.open_write(Path(location)) as file:
        writer = TableWriter(file, kind, schema, commas)
        try:
            yield writer
        except BaseException:
            with suppress(Exception):  # it would be closed later, on a file that is not there
                writer.close()
            raise
        writer.close()
