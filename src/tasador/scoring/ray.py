"""Value whole files on a Ray cluster: one file a worker, by the code that scores files here.

The files are the rows of a Ray data set whose workers each hold the bundle. A worker writes its
file as one process would, under a name that only a complete file gets, and says what it wrote; the
folder's list of finished files is kept here. A file whose worker dies is scored again.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasador.core import storage
from tasador.core.errors import DataError, EngineError, StorageError, TasadorError
from tasador.core.parallel import RaySettings
from tasador.core.progress import progress
from tasador.core.ray_engine import check_versions, open_ray, own_versions, ray_errors
from tasador.registry.bundle_stores import pack, unpack
from tasador.registry.model_bundle import load_bundle
from tasador.scoring.files import (
    MEGA,
    Finished,
    FinishedFiles,
    Run,
    Scored,
    ScoreRequest,
    find_inputs,
    is_folder,
    output_names,
    remove_left_over,
    size_of,
    sole_writer,
)


@dataclass(frozen=True)
class _Job:
    """What every worker receives.

    Attributes:
        request: What is scored, and where to.
        inputs: The files' names.
        outputs: Their results' names, without suffix.
        sizes: Their sizes in bytes.
        in_folder: Whether results go into a folder.
        cwd: The folder that relative names are meant from.
        versions: Packages that a worker must have.
        retries: How often a file is retried when its worker is lost.
    """

    request: ScoreRequest
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: tuple[int, ...]
    in_folder: bool
    cwd: str
    versions: dict[str, str]
    retries: int


@dataclass(frozen=True)
class _FileResult:
    """What a worker says about a file.

    Attributes:
        index: The file's.
        scored: Its rows, or that it was finished before; None when it failed.
        output: The result's name in the folder; None without a folder.
        finished: What is noted about it.
        error: Why it was not scored.
    """

    index: int
    scored: Scored | None = None
    output: str | None = None
    finished: Finished | None = None
    error: TasadorError | None = None


class _Notes(FinishedFiles):
    """The finished files as a worker sees them: what it adds is returned, not written."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.added: tuple[str, Finished] | None = None

    def add(self, output: str, finished: Finished) -> None:
        self.added = output, finished


class _Attempts:
    """Counts how often each file was begun: Ray itself would retry it for ever."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        """Return how often the file was begun before."""
        self._begun[index] += 1
        return self._begun[index] - 1


class _Worker:
    """Scores files one after another; lives in the cluster.

    Args:
        job: What is to be done.
        archive: Reference to the bundle's archive.
        attempts: The `_Attempts`.
    """

    def __init__(self, job: _Job, archive: Any, attempts: Any) -> None:
        self._job, self._archive, self._attempts = job, archive, attempts
        self._bundle: Any = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        result = np.empty(len(batch["item"]), dtype=object)
        for i, index in enumerate(batch["item"].tolist()):
            try:
                result[i] = self._one(index)
            except TasadorError as error:
                # returned, not raised: one bad file would end the work on all others
                result[i] = _FileResult(index, error=error)
        return {"result": result}

    def _one(self, index: int) -> _FileResult:
        import ray

        job = self._job
        before = ray.get(self._attempts.begin.remote(index))
        if before > job.retries:
            raise EngineError(
                f"{job.inputs[index]}: the worker died {before} times over it",
                remedy="look at the machines' memory; --batch-rows makes a worker take less",
            )
        self._begin()
        scored = Scored(self._bundle.version, self._bundle.origin)
        notes = _Notes(job.request.out) if job.in_folder else None
        with ThreadPoolExecutor(1) as pool:
            run = Run(
                self._bundle, job.request, pool, 1, notes, scored, time.perf_counter(), _silent
            )
            run.one(job.inputs[index], job.outputs[index], job.sizes[index])
        output, finished = (None, None) if notes is None or notes.added is None else notes.added
        return _FileResult(index, scored, output, finished)

    def _begin(self) -> None:
        """Load the bundle, once; here and not above, so that its error is returned."""
        if self._bundle is not None:
            return
        import ray

        check_versions(self._job.versions)
        try:
            # relative names of files mean the same here as where the command was given
            os.chdir(self._job.cwd)
        except OSError:
            raise StorageError(
                f"the machine {socket.gethostname()} has no folder {self._job.cwd}",
                remedy="run the command in a folder that all machines share",
            ) from None
        with tempfile.TemporaryDirectory(prefix="tasador-score-") as folder:
            file = Path(folder) / "bundle.zip"
            file.write_bytes(ray.get(self._archive))
            self._bundle = unpack(file, Path(folder) / "bundle")


def _silent(steps: float = 1.0, *, note: str | None = None) -> None:
    """Draw nothing."""


def score_files_on_ray(
    folder: Path, request: ScoreRequest, tell: Callable[[str], None], settings: RaySettings
) -> Scored:
    """Value the rows of files on a cluster; results and errors are those of `score_files`.

    Args:
        folder: The bundle's.
        request: Which files, and where to; on other machines than this one they must be there under
            the same names. `workers` limits how many are scored at the same time.
        tell: Called with a line about each file that fails or was finished before.
        settings: Which cluster.

    Raises:
        ConfigError: The request is invalid.
        SourceError: No input is there.
        StorageError: The disk or store refuses; what is finished is kept.
        EngineError: The cluster cannot be reached, or lost a file's worker too often.
    """
    started = time.perf_counter()
    bundle = load_bundle(folder)
    inputs = find_inputs(request.inputs)
    scored = Scored(bundle.version, bundle.origin)
    in_folder = is_folder(request.out, len(inputs))
    with ExitStack() as stack:
        finished = None
        if in_folder:
            stack.enter_context(sole_writer(request.out))
            stack.callback(remove_left_over, request.out)
            finished = FinishedFiles(request.out)
        sizes = tuple(size_of(name) for name in inputs)
        job = _Job(request, tuple(inputs), tuple(output_names(inputs)), sizes, in_folder,
                   str(Path.cwd()), own_versions(), settings.retries)  # fmt: skip
        advance = stack.enter_context(progress("scoring, MB", sum(sizes) / MEGA))
        stack.enter_context(open_ray(settings))
        total = _Total(request, inputs, finished, scored, tell)
        for result in _results(job, _packed(folder)):
            total.take(result)
            speed = scored.rows / (time.perf_counter() - started)
            advance(job.sizes[result.index] / MEGA, note=f"{speed:,.0f} rows/s")
        if total.lost is not None:
            raise total.lost
    scored.failed.sort(key=lambda failed: inputs.index(failed[0]))
    scored.seconds = time.perf_counter() - started
    return scored


def _packed(folder: Path) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tasador-score-") as temporary:
        file = Path(temporary) / "bundle.zip"
        pack(folder, file)
        return file.read_bytes()


def _results(job: _Job, archive: bytes) -> Iterator[_FileResult]:
    """Let the cluster do it, and yield the results as files are finished.

    The dearest files are begun first, so that no long one is left over at the end.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    order: Sequence[int] = sorted(range(len(job.inputs)), key=lambda i: -job.sizes[i])
    DataContext.get_current().enable_progress_bars = False  # there is one of our own
    with ray_errors():
        counting: Any = ray.remote(_Attempts).options(num_cpus=0, max_restarts=-1)
        attempts = counting.remote()
        most = min(len(order), job.request.workers or len(order))
        files_ = ray.data.from_items(list(order), override_num_blocks=len(order))
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of every step
        results = files_.map_batches(
            _Worker,
            fn_constructor_args=(job, ray.put(archive), attempts),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=1,
        )
        rows = iter(results.iter_rows())
    while True:
        with ray_errors():
            row = next(rows, None)
        if row is None:
            return
        yield row["result"]


@dataclass
class _Total:
    """The results so far.

    Attributes:
        request: What is scored, and where to.
        inputs: The files' names.
        finished: The folder's list, if results go into one.
        scored: Its sums.
        tell: Called with a line about each file that fails or was finished before.
        lost: The first file over which every worker died; the others may still be finished.
    """

    request: ScoreRequest
    inputs: Sequence[str]
    finished: FinishedFiles | None
    scored: Scored
    tell: Callable[[str], None]
    lost: EngineError | None = None

    def take(self, result: _FileResult) -> None:
        """Add what a worker tells.

        Raises:
            TasadorError: What ends the run: an error that is not of the file alone.
        """
        name = self.inputs[result.index]
        if result.scored is not None:
            self._add(result, result.scored)
            if result.scored.passed:
                self.tell(f"{name}: finished before")
        elif isinstance(result.error, DataError) and len(self.inputs) > 1:
            self.scored.failed.append((name, result.error))
            self.tell(str(result.error))
        elif isinstance(result.error, EngineError):
            self.lost = self.lost or result.error
        elif result.error is not None:
            raise result.error

    def _add(self, result: _FileResult, scored: Scored) -> None:
        out = self.request.out
        place = out if result.output is None else storage.join(out, result.output)
        if scored.files and not storage.exists(place):
            raise StorageError(
                f"{place} was written, but not where this machine can see it",
                remedy="write to a folder that all machines share, or to gs:// or s3://",
            )
        if self.finished is not None and result.output is not None and result.finished is not None:
            self.finished.add(result.output, result.finished)
        for name in ("files", "passed", "rows", "refused"):
            setattr(self.scored, name, getattr(self.scored, name) + getattr(scored, name))
