"""Where scored files go: their names, how they are written, and which are finished already."""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tasador.core import storage
from tasador.core.errors import ConfigError, DataError, StorageError
from tasador.data.table_stream import TableKind

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES: dict[TableKind, str] = {"csv": ".csv", "parquet": ".parquet"}
#: What is known about the files in a folder; readers of data sets pass over such names.
LEDGER_NAME = "_tasador_score.json"
_LOCK_NAME = ".tasador-score.lock"
_LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_SCHEME = re.compile(r"[a-z0-9]+://")
_COMPRESSION = (".gz", ".zst", ".bz2")


def is_folder(out: str, inputs: int) -> bool:
    """Tell whether results go into a folder `out`, one file for each input.

    Raises:
        ConfigError: `out` names a file, and there are several inputs.
    """
    named = not out.endswith("/") and out.endswith(tuple(SUFFIXES.values()))
    if not named or storage.is_folder(out):
        return True
    if inputs > 1:
        raise ConfigError(
            f"{inputs} files cannot be written to the one file {out}",
            expected="a folder",
            remedy=f"give one, e.g. --out {out.rpartition('.')[0]}",
        )
    return False


def output_names(inputs: Sequence[str]) -> list[str]:
    """Return a name without suffix for the result of each input, all different.

    It is the input's own, together with as many of its folders as it takes to tell the inputs
    apart, together with its suffix where those alone differ.

    Raises:
        ConfigError: One input is named twice.
    """
    if len(set(inputs)) < len(inputs):
        twice = next(name for name in inputs if inputs.count(name) > 1)
        raise ConfigError(f"{twice} is named twice")
    paths = [PurePosixPath(_SCHEME.sub("/", str(name), count=1)) for name in inputs]
    whole = [path.parent / _bare(path.name) for path in paths]
    if len(set(whole)) < len(whole):
        whole = list(paths)
    if len({path.name for path in whole}) == len(whole):
        return [path.name for path in whole]
    common = os.path.commonpath([path.parent for path in whole])
    return [str(path.relative_to(common)) for path in whole]


def _bare(name: str) -> str:
    for suffix in _COMPRESSION:
        name = name.removesuffix(suffix)
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and suffix.lower() in ("csv", "tsv", "txt", "parquet") else name


class TableWriter:
    """Writes batches of one schema as CSV or Parquet.

    Args:
        file: Where to, open for writing.
        kind: Which of them.
        schema: The batches' schema, with what is to be kept about the whole file.

    Raises:
        DataError: A column of that type cannot be written as CSV.
    """

    def __init__(self, file: Any, kind: TableKind, schema: pa.Schema) -> None:
        import pyarrow as pa

        if kind == "parquet":
            import pyarrow.parquet as parquet

            texts = [field.name for field in schema if pa.types.is_string(field.type)]
            self._writer = parquet.ParquetWriter(file, schema, use_dictionary=texts)
            return
        import pyarrow.csv as csv

        try:
            self._writer = csv.CSVWriter(file, schema)
            self._writer.write_batch(pa.RecordBatch.from_pylist([], schema))
        except pa.ArrowException as error:
            raise DataError(
                f"a column cannot be written as CSV: {error}", remedy="write --format parquet"
            ) from None

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch."""
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Write what belongs to the end."""
        self._writer.close()


@contextmanager
def open_output(location: str, kind: TableKind, schema: pa.Schema) -> Iterator[TableWriter]:
    """Open a table for writing that appears at `location` only when the body ends well.

    Raises:
        StorageError: Disk full, permission denied, store unreachable; nothing is left behind.
        DataError: As `TableWriter`.
    """
    if storage.is_remote(location):
        with tempfile.TemporaryDirectory(prefix="tasador-score-") as folder:
            local = Path(folder) / "result"
            with open_output(str(local), kind, schema) as writer:
                yield writer
            storage.copy_from_local(local, location)
        return
    with storage.open_write(Path(location)) as file:
        writer = TableWriter(file, kind, schema)
        try:
            yield writer
        except BaseException:
            with suppress(Exception):  # it would be closed later, on a file that is not there
                writer.close()
            raise
        writer.close()


@dataclass(frozen=True)
class Finished:
    """A file that was scored.

    Attributes:
        input: What was read.
        size: Its size in bytes.
        changed: When it was changed, or its tag.
        model: The bundle's content hash.
        columns: Which columns were handed on: see `ScoreRequest.columns`.
        written: Size of the result in bytes.
        rows: How many rows it holds.
        refused: How many of them have an error instead of a value.
        version: The bundle's version.
        origin: What that was trained on.
    """

    input: str
    size: int
    changed: str
    model: str
    columns: tuple[str, ...] | None
    written: int
    rows: int
    refused: int
    version: str
    origin: str

    def answers(self, other: Finished) -> bool:
        """Tell whether both are of the same content, model and columns."""
        return self._asked == other._asked

    @property
    def _asked(self) -> tuple[Any, ...]:
        return self.input, self.size, self.changed, self.model, self.columns


class FinishedFiles:
    """Which files of a folder are finished; kept in the folder itself.

    Args:
        folder: Local, or in an object store.

    Raises:
        StorageError: The folder cannot be read.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._place = storage.join(folder, LEDGER_NAME)
        self._known: dict[str, Finished] = {}
        if storage.exists(self._place):
            with suppress(ValueError, TypeError, AttributeError, KeyError):  # all is done again
                plain = json.loads(storage.read_bytes(self._place))
                self._known = {name: _finished(entry) for name, entry in plain["files"].items()}

    def find(self, output: str, wanted: Finished) -> Finished | None:
        """Return what is known of `output` if it answers what is wanted and is still there."""
        found = self._known.get(output)
        place = storage.join(self._folder, output)
        if found is None or not found.answers(wanted) or not storage.exists(place):
            return None
        return found if storage.stamp(place).size == found.written else None

    def add(self, output: str, finished: Finished) -> None:
        """Note that `output` is finished.

        Raises:
            StorageError: It cannot be written; the older note is untouched.
        """
        self._known[output] = finished
        plain = {name: asdict(entry) for name, entry in sorted(self._known.items())}
        text = json.dumps({"format": 1, "files": plain}, indent=1, ensure_ascii=False)
        storage.write_text(self._place, text + "\n")


def _finished(entry: dict[str, Any]) -> Finished:
    columns = entry["columns"]
    return Finished(**{**entry, "columns": None if columns is None else tuple(columns)})


@contextmanager
def sole_writer(folder: str) -> Iterator[None]:
    """Keep other runs out of a local folder, and remove what a killed one left behind.

    Raises:
        StorageError: The folder cannot be written, or another run writes to it.
    """
    if storage.is_remote(folder):
        yield
        return
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = os.open(place / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(
            f"cannot write to {folder}: {error.strerror}", remedy="choose a folder of your own"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(
                f"another run writes to {folder}", remedy="wait for it, or choose another folder"
            ) from None
        remove_left_over(folder)
        yield
    finally:
        os.close(lock)


def remove_left_over(folder: str) -> None:
    """Remove what killed processes have half written into a local folder."""
    if storage.is_remote(folder):
        return
    for found in Path(folder).rglob(".*.tmp"):
        if _LEFT_OVER.fullmatch(found.name):
            found.unlink(missing_ok=True)
