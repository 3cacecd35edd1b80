"""Value whole files: streamed, on all cores, in bounded memory, each finished once.

The calling thread reads and writes; others value what was read, and results are written in the
order of the rows. A file gets its name when it is complete. What is finished in a folder is
skipped by the next run, so that an interrupted one goes on where it ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from tasador.contract.model import Source
from tasador.core import storage
from tasador.core.errors import ConfigError, DataError, SourceError, StorageError
from tasador.core.parallel import usable_cores
from tasador.core.progress import Advance, progress
from tasador.data.table_stream import Piece, TableKind, TableStream, open_table
from tasador.data.text.decimal_commas import plain_numbers
from tasador.inference.batch_scorer import BatchScorer
from tasador.registry.model_bundle import ModelBundle
from tasador.scoring.table_writer import open_output
from tasador.settings.serving import ServeLimits

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES: dict[TableKind, str] = {"csv": ".csv", "parquet": ".parquet"}
#: What is known about the files in a folder; readers of data sets pass over such names.
LEDGER_NAME = "_tasador_score.json"
_LOCK_NAME = ".tasador-score.lock"
_LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_SCHEME = re.compile(r"[a-z0-9]+://")
_COMPRESSION = (".gz", ".zst", ".bz2")


class OutputError(ConfigError):
    """An output that cannot be as it was asked for."""

    @classmethod
    def one_file(cls, inputs: int, out: str) -> OutputError:
        """Return the error of several files and one to write to."""
        return cls(
            f"{inputs} files cannot be written to the one file {out}",
            expected="a folder",
            remedy=f"give one, e.g. --output {out.rpartition('.')[0]}",
        )

    @classmethod
    def no_commas(cls) -> OutputError:
        """Return the error of decimal commas in a file whose numbers are no texts."""
        return cls("--decimal comma is for CSV", got="Parquet", remedy="leave one of them out")

    @classmethod
    def taken(cls, name: str) -> OutputError:
        """Return the error of a column to keep whose name a column of the answer has."""
        return cls(
            f"the column {name!r} cannot be kept: the answer has one of that name",
            remedy="rename it in the input, or leave it out",
        )


class FolderError(StorageError):
    """A folder that this run cannot write to."""

    @classmethod
    def not_writable(cls, folder: str, error: OSError) -> FolderError:
        """Return the error of a folder that the system refuses."""
        return cls(
            f"cannot write to {folder}: {error.strerror}", remedy="choose a folder of your own"
        )

    @classmethod
    def in_use(cls, folder: str) -> FolderError:
        """Return the error of a folder whose lock another run holds."""
        return cls(
            f"another run writes to {folder}", remedy="wait for it, or choose another folder"
        )


def is_folder(out: str, inputs: int) -> bool:
    """Tell whether results go into a folder `out`, one file for each input.

    Raises:
        ConfigError: `out` names a file, and there are several inputs.
    """
    named = not out.endswith("/") and out.endswith(tuple(SUFFIXES.values()))
    if not named or storage.is_folder(out):
        return True
    if inputs > 1:
        raise OutputError.one_file(inputs, out)
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
        # a result that was cut short or replaced since is made again
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
        raise FolderError.not_writable(folder, error) from error
    try:
        try:
            # the system drops the lock with the process, however that ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FolderError.in_use(folder) from None
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


BATCH_ROWS = 32_768
#: Means all columns of the input.
ALL = "*"
ROW = "row"
MEGA = 1e6


@dataclass(frozen=True)
class ScoreRequest:
    """What is to be scored, and where to.

    Attributes:
        inputs: Files or patterns, local or in an object store.
        out: A file, or a folder for one file an input.
        kind: What to write; None follows `out`'s suffix, then each input.
        columns: Columns of the input to hand on, ``*`` for all; None takes the identifiers.
        workers: Threads that value rows; None takes all cores.
        batch_rows: How many rows are valued at a time.
        force: Whether finished files are scored again.
        asked: How files are read, where the contract does not say so; see `open_table`.
        as_of: Day such as 2014-06-30 as of which all rows are valued; None takes each row's own.
        coverage, limits: Of the intervals, None takes the model's; when a row gets no value.
        explain: Whether estimates come with their parts in money.
        decimal_comma: Whether CSV is written with decimal commas, between semicolons.
    """

    inputs: tuple[str, ...]
    out: str
    kind: TableKind | None = None
    columns: tuple[str, ...] | None = None
    workers: int | None = None
    batch_rows: int = BATCH_ROWS
    force: bool = False
    asked: Source = field(default_factory=Source)
    as_of: str | None = None
    explain: bool = False
    coverage: float | None = None
    limits: ServeLimits = field(default_factory=ServeLimits)
    decimal_comma: bool = False

    @property
    def reading(self) -> str:
        """How files are read and answered, as a text that is empty where nothing was named."""
        how = (self.coverage, self.limits.max_fsd, self.limits.min_support or None)
        given = (self.asked.sheet, self.asked.encoding, self.asked.has_header, self.as_of, *how)
        explained = " explained" if self.explain else ""
        explained += " commas" if self.decimal_comma else ""
        return "".join(f" {one}" for one in given if one is not None) + explained


@dataclass
class Scored:
    """The result.

    Attributes:
        version: The bundle's version.
        origin: What it was trained on.
        files: How many files were scored.
        passed: How many were finished before.
        rows: Rows written now.
        refused: How many of them have an error instead of a value.
        seconds: How long it took.
        failed: Inputs that could not be scored, and why.
    """

    version: str
    origin: str
    files: int = 0
    passed: int = 0
    rows: int = 0
    refused: int = 0
    seconds: float = 0.0
    failed: list[tuple[str, DataError]] = field(default_factory=list)


def score_files(bundle: ModelBundle, request: ScoreRequest, tell: Callable[[str], None]) -> Scored:
    """Value the rows of files.

    Args:
        bundle: What to value them with.
        request: Which files, and where to.
        tell: Called with a line about each file that fails or was finished before, and about what
            was decided while a file was read.

    Returns:
        The result; files that are no tables or lack columns are in `failed`, the others are
        scored.

    Raises:
        ConfigError: The request is invalid.
        SourceError: No input is there.
        StorageError: The disk or store refuses; what is finished is kept.
    """
    started = time.perf_counter()
    inputs = find_inputs(request.inputs)
    scored = Scored(bundle.version, bundle.origin)
    with ExitStack() as stack:
        if is_folder(request.out, len(inputs)):
            stack.enter_context(sole_writer(request.out))
            finished: FinishedFiles | None = FinishedFiles(request.out)
        else:
            finished = None
        workers = request.workers or usable_cores()
        pool = ThreadPoolExecutor(workers)
        stack.callback(pool.shutdown, cancel_futures=True)
        sizes = [size_of(name) for name in inputs]
        advance = stack.enter_context(progress("scoring, MB", sum(sizes) / MEGA))
        run = Run(bundle, request, pool, workers, finished, scored, started, advance, tell)
        for name, output, size in zip(inputs, output_names(inputs), sizes, strict=True):
            try:
                if not run.one(name, output, size):
                    tell(f"{name}: finished before")
            except DataError as error:
                if len(inputs) == 1:
                    raise
                scored.failed.append((name, error))
                tell(str(error))
    scored.seconds = time.perf_counter() - started
    return scored


@dataclass
class Run:
    """One run of `score_files`, or a worker's part of it."""

    bundle: ModelBundle
    request: ScoreRequest
    pool: ThreadPoolExecutor
    workers: int
    finished: FinishedFiles | None
    scored: Scored
    started: float
    advance: Advance
    tell: Callable[[str], None] = lambda _: None

    def one(self, name: str, output: str, size: int) -> bool:
        """Score one file; False when it was finished before."""
        stamp = storage.stamp(name) if storage.exists(name) else storage.Stamp(0, "")
        changed = stamp.changed + self.request.reading
        wanted = Finished(
            name, stamp.size, changed, self.bundle.manifest.content_hash,
            self.request.columns, 0, 0, 0, self.bundle.version, self.bundle.origin,
        )  # fmt: skip
        with open_table(name, self.bundle.contract, self.request.asked) as table:
            kind = self._kind(table)
            if self.finished is not None:
                output += SUFFIXES[kind]
                place = storage.join(self.request.out, output)
                if not self.request.force and self.finished.find(output, wanted) is not None:
                    self.scored.passed += 1
                    self.advance(size / MEGA)
                    return False
            else:
                place = self.request.out
            rows, refused = self._written(name, table, place, kind, size)
            for note in table.notes:
                self.tell(f"{name}: {note}")
        self.scored.files += 1
        if self.finished is not None:
            entry = {"written": storage.stamp(place).size, "rows": rows, "refused": refused}
            self.finished.add(output, Finished(**{**wanted.__dict__, **entry}))
        return True

    def _kind(self, table: TableStream) -> TableKind:
        if self.request.decimal_comma:
            return "csv"
        if self.request.kind is not None:
            return self.request.kind
        for kind, suffix in SUFFIXES.items():
            if self.finished is None and self.request.out.endswith(suffix):
                return kind
        return table.kind

    def _written(
        self, name: str, table: TableStream, place: str, kind: TableKind, size: int
    ) -> tuple[int, int]:
        """Score an open table into a file; return the rows and how many were refused."""
        scorer = self._scorer(name, table)
        columns = [one for one in scorer.columns if one in table.names]
        value = partial(value_piece, scorer)
        pieces = table.pieces(columns, self.request.batch_rows)
        results = _in_order(self.pool, value, pieces, self.workers + 1)
        first = next(results, None)
        if first is None:
            first = value(Piece(0, table.nothing(columns)))
        rows, refused, before = 0, 0, 0.0
        schema = first.schema.with_metadata(self._about())
        commas = plain_numbers(self.bundle.contract) if self.request.decimal_comma else None
        with open_output(place, kind, schema, commas) as writer:
            for batch in _chain(first, results):
                writer.write(batch)
                rows += batch.num_rows
                refused += batch.num_rows - batch.column("error").null_count
                done = table.done()
                speed = (self.scored.rows + rows) / (time.perf_counter() - self.started)
                self.advance((done - before) * size / MEGA, note=f"{speed:,.0f} rows/s")
                before = done
        self.scored.rows += rows
        self.scored.refused += refused
        return rows, refused

    def _scorer(self, name: str, table: TableStream) -> BatchScorer:
        """Return a scorer for a table, once the table is known to have its columns."""
        request = self.request
        keep: Sequence[str] | None = request.columns
        if keep is not None and ALL in keep:
            keep = table.names
        if keep is not None and ROW in keep:
            raise OutputError.taken(ROW)
        scorer = BatchScorer(
            self.bundle, keep=keep, as_of=request.as_of, explain=request.explain,
            coverage=request.coverage, limits=request.limits,
        )  # fmt: skip
        try:
            scorer.check_columns(table.names)
        except DataError as error:
            raise type(error)(
                f"{name}: {error.message}",
                expected=error.expected, got=error.got, remedy=error.remedy,
            ) from None  # fmt: skip
        return scorer

    def _about(self) -> dict[str, str]:
        return {
            "tasador.version": self.bundle.version,
            "tasador.content_hash": self.bundle.manifest.content_hash,
            "tasador.origin": self.bundle.origin,
        }


def find_inputs(patterns: Sequence[str]) -> list[str]:
    """Return the files that the patterns name, each once.

    Raises:
        SourceError: A pattern names none.
    """
    inputs: dict[str, None] = {}
    for pattern in patterns:
        found = storage.find(pattern)
        if not found:
            raise SourceError(f"no file is called {pattern}", remedy="check the pattern")
        inputs |= dict.fromkeys(found)
    return list(inputs)


def size_of(location: str) -> int:
    """Return a file's size in bytes; 0 when it is not there, which is said when it is read."""
    return storage.stamp(location).size if storage.exists(location) else 0


def _chain(first: pa.RecordBatch, rest: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[Piece], Any],
    pieces: Iterable[Piece],
    ahead: int,
) -> Iterator[Any]:
    """Yield the results of `work` in the order of the pieces, with `ahead` of them under way."""
    waiting: deque[Future[Any]] = deque()
    for piece in pieces:
        waiting.append(pool.submit(work, piece))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def value_piece(scorer: BatchScorer, piece: Piece) -> pa.RecordBatch:
    """Value a piece: the rows' numbers from 1, then what `scorer` makes of them, torn ones too."""
    import pyarrow as pa

    scored = scorer.score(piece.batch)
    numbers = np.arange(piece.start, piece.start + len(piece))
    if piece.left_out:
        numbers = numbers[~np.isin(numbers, list(piece.left_out))]
    if piece.torn:
        whole = numbers[~np.isin(numbers, list(piece.torn))]
        texts = [piece.torn[number] for number in sorted(piece.torn)]
        nothing = pa.nulls(len(texts))
        columns = [nothing.cast(field.type) for field in scored.schema]
        columns[scored.schema.get_field_index("error")] = pa.array(texts, pa.string())
        blank = pa.RecordBatch.from_arrays(columns, schema=scored.schema)
        order = np.argsort(np.concatenate([whole, sorted(piece.torn)]))
        scored = pa.concat_batches([scored, blank]).take(pa.array(order))
    return pa.RecordBatch.from_arrays(
        [pa.array(numbers + 1), *scored.columns], names=[ROW, *scored.schema.names]
    )
