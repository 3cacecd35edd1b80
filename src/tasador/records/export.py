"""Records as a Parquet file, written while they are read."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tasador.core.errors import MissingExtraError
from tasador.core.files import Location, atomic_file, copy_from_local, is_remote
from tasador.records.store import RecordBatch, RecordStore

_MICROSECONDS = 1e6
_TIMES = ("time", "outcome_time")
_TEXTS = ("id", "version", "variant", "source", "client")


def export_parquet(
    store: RecordStore,
    path: Location,
    since: float,
    until: float,
    *,
    version: str | None = None,
    batch: int = 20_000,
) -> int:
    """Write the records of ``since <= time < until`` with their outcomes to a Parquet file.

    Columns are those of `RecordBatch`: times as UTC timestamps in microseconds, `features` as JSON
    text, unknown numbers as nulls. No more than `batch` records are in memory; the file takes its
    name when it is complete. For ``gs://`` and ``s3://`` it is written here first, then copied.

    Returns:
        The number of records.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OutageError: The store cannot be read.
        StorageError: The file cannot be written.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="tasador-export-") as folder:
            local = Path(folder) / "records.parquet"
            count = export_parquet(store, local, since, until, version=version, batch=batch)
            copy_from_local(local, path)
        return count
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtraError.for_package("pyarrow", "parquet") from None
    schema = arrow.schema([(name, _kind(arrow, name)) for name in RecordBatch.__dataclass_fields__])
    written = 0
    with (
        atomic_file(Path(path)) as file,
        parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for part in store.read(since, until, version=version, batch=batch):
            columns = [_column(arrow, part, field) for field in schema]
            writer.write_batch(arrow.record_batch(columns, schema=schema))
            written += len(part)
    return written


def _kind(arrow: Any, name: str) -> Any:
    if name in _TIMES:
        return arrow.timestamp("us", tz="UTC")
    return arrow.string() if name in _TEXTS or name == "features" else arrow.float64()


def _column(arrow: Any, part: RecordBatch, field: Any) -> Any:
    values = getattr(part, field.name)
    if field.name == "features":
        texts = [value.decode("utf-8", "replace") for value in values]
        return arrow.array(texts, type=field.type)
    if field.name in _TIMES:
        known = np.isfinite(values)
        whole = np.where(known, np.round(np.where(known, values, 0.0) * _MICROSECONDS), 0.0)
        return arrow.array(whole.astype(np.int64), mask=~known).cast(field.type)
    if field.name in _TEXTS:
        return arrow.array(values, type=field.type)
    return arrow.array(values, type=field.type, mask=np.isnan(values))
