"""Records exported as a Parquet file, and outcomes read from a file."""

from __future__ import annotations

import csv
import importlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tasador.contract.target_check import read_number
from tasador.core import clock
from tasador.core.clock import parse_moment
from tasador.core.errors import ConfigError, MissingExtraError
from tasador.core.storage import Location, atomic_file, copy_from_local, is_remote
from tasador.data.text.text_format import allow_long_cells
from tasador.records.errors import OutcomeFileError, OutcomeValueError
from tasador.records.record import Outcome
from tasador.records.store import TEXTS, OutcomeAnswer, RecordBatch, RecordStore

_MICROSECONDS = 1e6
_TIMES = ("time", "outcome_time")


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
            # an object store has no rename: a half-written object would look complete
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
    return arrow.string() if name in TEXTS or name == "features" else arrow.float64()


def _column(arrow: Any, part: RecordBatch, field: Any) -> Any:
    values = getattr(part, field.name)
    if field.name == "features":
        texts = [value.decode("utf-8", "replace") for value in values]
        return arrow.array(texts, type=field.type)
    if field.name in _TIMES:
        # NaN has no integer: the mask makes it a null
        known = np.isfinite(values)
        whole = np.where(known, np.round(np.where(known, values, 0.0) * _MICROSECONDS), 0.0)
        return arrow.array(whole.astype(np.int64), mask=~known).cast(field.type)
    if field.name in TEXTS:
        return arrow.array(values, type=field.type)
    return arrow.array(values, type=field.type, mask=np.isnan(values))


_CHUNK = 500
_COMPACT_DATE = re.compile(r"(?:19|20)[0-9]{2}[01][0-9][0-3][0-9]")


@dataclass(frozen=True)
class RowProblem:
    """A row that was not taken.

    Attributes:
        line: Its line in the file; the header is line 1.
        prediction_id: As given; empty when there is none.
        reason: What is wrong with it.
    """

    line: int
    prediction_id: str
    reason: str


@dataclass
class ImportResult:
    """The result of an import.

    Attributes:
        counts: Rows by status, see `OutcomeAnswer`; ``invalid`` includes unreadable ones.
        problems: The rows that were not taken, in their order.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[RowProblem] = field(default_factory=list)


def import_outcomes(
    store: RecordStore, path: Path, client: str = "import", *, replace: bool = False
) -> ImportResult:
    """Write the outcomes of a CSV file with the columns prediction_id, actual and, if wanted, time.

    `time` is ISO 8601 or seconds since the epoch; without it the outcome became known now. Doing it
    again changes nothing. With `replace` another value that is known is corrected.

    Raises:
        SourceError: The file cannot be read, or lacks a column.
        OutageError: The database is unreachable; the rows before were written.
    """
    done = ImportResult()
    try:
        # Excel writes a byte order mark, which would become part of the first name
        with path.open(encoding="utf-8-sig", newline="") as file:
            allow_long_cells()
            rows = csv.DictReader(file, strict=True)
            missing = {"prediction_id", "actual"} - set(rows.fieldnames or ())
            if missing:
                raise OutcomeFileError.without(path, missing, rows.fieldnames or ())
            read = _outcomes(rows, client, done)
            while chunk := list(islice(read, _CHUNK)):
                outcomes = [outcome for _, outcome in chunk]
                corrected = [one.prediction_id for one in outcomes] if replace else ()
                answers = store.add_outcomes(outcomes, replace=corrected)
                for (line, outcome), answer in zip(chunk, answers, strict=True):
                    _note(done, line, outcome, answer)
    except FileNotFoundError:
        raise OutcomeFileError.missing(path) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OutcomeFileError.unreadable(path, error) from error
    done.problems.sort(key=lambda problem: problem.line)
    return done


def _outcomes(
    rows: csv.DictReader[str], client: str, done: ImportResult
) -> Iterator[tuple[int, Outcome]]:
    """Give the readable rows with their lines; the others are noted."""
    now = clock.seconds()
    for row in rows:
        key = (row["prediction_id"] or "").strip()
        actual = read_number(row["actual"] or "")
        try:
            if actual is None:
                raise OutcomeValueError.no_number(row["actual"])
            yield rows.line_num, Outcome(key, actual, _time(row.get("time"), now), client)
        except ConfigError as error:
            done.problems.append(RowProblem(rows.line_num, key, str(error)))
            done.counts["invalid"] += 1


def _time(text: str | None, now: float) -> float:
    if text is None or not text.strip():
        return now
    # 20261124 is a date for people and August 1970 for a computer
    if _COMPACT_DATE.fullmatch(text.strip()):
        raise OutcomeValueError.ambiguous_time(text)
    seconds = read_number(text)
    return parse_moment(text) if seconds is None else seconds


def _note(done: ImportResult, line: int, outcome: Outcome, answer: OutcomeAnswer) -> None:
    done.counts[answer.status] += 1
    if answer.status == "conflict":
        reason = f"another value is known: {answer.known:g}, got {outcome.actual:g}"
    elif answer.status == "unknown":
        reason = "no record has this prediction_id"
    elif answer.status == "invalid":
        reason = answer.reason
    else:
        return
    done.problems.append(RowProblem(line, outcome.prediction_id, reason))
