"""Value whole files: streamed, on all cores, in bounded memory, each finished once.

The calling thread reads and writes; others value what was read, and results are written in the
order of the rows. A file gets its name when it is complete. What is finished in a folder is
skipped by the next run, so that an interrupted one goes on where it ended.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasador.core import storage
from tasador.core.errors import ConfigError, DataError, SourceError
from tasador.core.parallel.threads import usable_cores
from tasador.core.progress import Advance, progress
from tasador.data.table_stream import Piece, TableKind, TableStream, open_table
from tasador.inference.batch_scorer import BatchScorer
from tasador.registry.bundle.model_bundle import ModelBundle
from tasador.scoring.outputs import (
    SUFFIXES,
    Finished,
    FinishedFiles,
    is_folder,
    open_output,
    output_names,
    sole_writer,
)

if TYPE_CHECKING:
    import pyarrow as pa

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
    """

    inputs: tuple[str, ...]
    out: str
    kind: TableKind | None = None
    columns: tuple[str, ...] | None = None
    workers: int | None = None
    batch_rows: int = BATCH_ROWS
    force: bool = False


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
        tell: Called with a line about each file that fails or was finished before.

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
        run = Run(bundle, request, pool, workers, finished, scored, started, advance)
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

    def one(self, name: str, output: str, size: int) -> bool:
        """Score one file; False when it was finished before."""
        stamp = storage.stamp(name) if storage.exists(name) else storage.Stamp(0, "")
        wanted = Finished(
            name, stamp.size, stamp.changed, self.bundle.manifest.content_hash,
            self.request.columns, 0, 0, 0, self.bundle.version, self.bundle.origin,
        )  # fmt: skip
        with open_table(name, self.bundle.contract) as table:
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
        self.scored.files += 1
        if self.finished is not None:
            entry = {"written": storage.stamp(place).size, "rows": rows, "refused": refused}
            self.finished.add(output, Finished(**{**wanted.__dict__, **entry}))
        return True

    def _kind(self, table: TableStream) -> TableKind:
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
        with open_output(place, kind, schema) as writer:
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
        keep: Sequence[str] | None = self.request.columns
        if keep is not None and ALL in keep:
            keep = table.names
        if keep is not None and ROW in keep:
            raise ConfigError(
                f"the column {ROW!r} cannot be kept: the answer has one of that name",
                remedy="rename it in the input, or leave it out",
            )
        scorer = BatchScorer(self.bundle, keep=keep)
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
    if piece.torn:
        whole = numbers[~np.isin(numbers, list(piece.torn))]
        texts = [piece.torn[number] for number in sorted(piece.torn)]
        blank = pa.RecordBatch.from_arrays(
            [pa.nulls(len(texts), kind) for kind in scored.schema.types], schema=scored.schema
        )
        blank = blank.set_column(len(blank.schema) - 1, "error", pa.array(texts, pa.string()))
        order = np.argsort(np.concatenate([whole, sorted(piece.torn)]))
        scored = pa.concat_batches([scored, blank]).take(pa.array(order))
    return pa.RecordBatch.from_arrays(
        [pa.array(numbers + 1), *scored.columns], names=[ROW, *scored.schema.names]
    )
