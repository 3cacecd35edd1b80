"""Value whole files on a Ray cluster: one file a worker, by the code that scores files here.

The files are the rows of a Ray data set whose workers each hold the bundle. A worker writes its
file as one process would, under a name that only a complete file gets, and says what it wrote; the
folder's list of finished files is kept here. A file whose worker dies is scored anew.
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
from tasador.core.parallel.base import RaySettings
from tasador.core.parallel.ray import check_versions, open_ray, own_versions, ray_errors
from tasador.core.progress import progress
from tasador.registry.bundle.archive import pack, unpack
from tasador.registry.bundle.model_bundle import load_bundle
from tasador.scoring.files import MEGA, Run, Scored, ScoreOrder, find_inputs, size_of
from tasador.scoring.outputs import (
    Finished,
    FinishedFiles,
    is_folder,
    output_names,
    remove_left_over,
    sole_writer,
)


@dataclass(frozen=True)
class _Job:
    """What every worker is told.

    Attributes:
        order: What is scored, and where to.
        inputs: The files' names.
        outputs: Their results' names, without suffix.
        sizes: Their sizes in bytes.
        in_folder: Whether results go into a folder.
        cwd: The folder that relative names are meant from.
        versions: Packages that a worker must have.
        retries: How often a file is begun anew when its worker is lost.
    """

    order: ScoreOrder
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: tuple[int, ...]
    in_folder: bool
    cwd: str
    versions: dict[str, str]
    retries: int


@dataclass(frozen=True)
class _Told:
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
    """The finished files as a worker sees them: what it adds is told, not written."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.added: tuple[str, Finished] | None = None

    def add(self, output: str, finished: Finished) -> None:
        self.added = output, finished


class _Attempts:
    """Counts how often each file was begun: Ray itself would begin it anew for ever."""

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
        told = np.empty(len(batch["item"]), dtype=object)
        for i, index in enumerate(batch["item"].tolist()):
            try:
                told[i] = self._one(index)
            except TasadorError as error:
                told[i] = _Told(index, error=error)
        return {"told": told}

    def _one(self, index: int) -> _Told:
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
        notes = _Notes(job.order.out) if job.in_folder else None
        with ThreadPoolExecutor(1) as pool:
            run = Run(self._bundle, job.order, pool, 1, notes, scored, time.perf_counter(), _silent)
            run.one(job.inputs[index], job.outputs[index], job.sizes[index])
        output, finished = (None, None) if notes is None or notes.added is None else notes.added
        return _Told(index, scored, output, finished)

    def _begin(self) -> None:
        """Load the bundle, once; here and not above, so that an error of it is told."""
        if self._bundle is not None:
            return
        import ray

        check_versions(self._job.versions)
        try:
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
    folder: Path, order: ScoreOrder, tell: Callable[[str], None], settings: RaySettings
) -> Scored:
    """Value the rows of files on a cluster; results and errors are those of `score_files`.

    Args:
        folder: The bundle's.
        order: Which files, and where to; on other machines than this one they must be there under
            the same names. `workers` limits how many are scored at the same time.
        tell: Called with a line about each file that fails or was finished before.
        settings: Which cluster.

    Raises:
        ConfigError: The order cannot be meant.
        SourceError: No input is there.
        StorageError: The disk or store refuses; what is finished is kept.
        EngineError: The cluster cannot be reached, or lost a file's worker too often.
    """
    started = time.perf_counter()
    bundle = load_bundle(folder)
    inputs = find_inputs(order.inputs)
    scored = Scored(bundle.version, bundle.origin)
    in_folder = is_folder(order.out, len(inputs))
    with ExitStack() as stack:
        finished = None
        if in_folder:
            stack.enter_context(sole_writer(order.out))
            stack.callback(remove_left_over, order.out)
            finished = FinishedFiles(order.out)
        sizes = tuple(size_of(name) for name in inputs)
        job = _Job(order, tuple(inputs), tuple(output_names(inputs)), sizes, in_folder,
                   str(Path.cwd()), own_versions(), settings.retries)  # fmt: skip
        advance = stack.enter_context(progress("scoring, MB", sum(sizes) / MEGA))
        stack.enter_context(open_ray(settings))
        total = _Total(order, inputs, finished, scored, tell)
        for told in _told(job, _packed(folder)):
            total.take(told)
            speed = scored.rows / (time.perf_counter() - started)
            advance(job.sizes[told.index] / MEGA, note=f"{speed:,.0f} rows/s")
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


def _told(job: _Job, archive: bytes) -> Iterator[_Told]:
    """Let the cluster do it, and yield what is told as files are finished.

    The dearest files are begun first, so that no long one is left over at the end.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    order: Sequence[int] = sorted(range(len(job.inputs)), key=lambda i: -job.sizes[i])
    DataContext.get_current().enable_progress_bars = False  # there is one of our own
    with ray_errors():
        counting: Any = ray.remote(_Attempts).options(num_cpus=0, max_restarts=-1)
        attempts = counting.remote()
        most = min(len(order), job.order.workers or len(order))
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
        yield row["told"]


@dataclass
class _Total:
    """What came of it all so far.

    Attributes:
        order: What is scored, and where to.
        inputs: The files' names.
        finished: The folder's list, if results go into one.
        scored: Its sums.
        tell: Called with a line about each file that fails or was finished before.
        lost: The first file over which every worker died; the others may still be finished.
    """

    order: ScoreOrder
    inputs: Sequence[str]
    finished: FinishedFiles | None
    scored: Scored
    tell: Callable[[str], None]
    lost: EngineError | None = None

    def take(self, told: _Told) -> None:
        """Add what a worker tells.

        Raises:
            TasadorError: What ends the run: an error that is not of the file alone.
        """
        name = self.inputs[told.index]
        if told.scored is not None:
            self._add(told, told.scored)
            if told.scored.passed:
                self.tell(f"{name}: finished before")
        elif isinstance(told.error, DataError) and len(self.inputs) > 1:
            self.scored.failed.append((name, told.error))
            self.tell(str(told.error))
        elif isinstance(told.error, EngineError):
            self.lost = self.lost or told.error
        elif told.error is not None:
            raise told.error

    def _add(self, told: _Told, scored: Scored) -> None:
        out = self.order.out
        place = out if told.output is None else storage.join(out, told.output)
        if scored.files and not storage.exists(place):
            raise StorageError(
                f"{place} was written, but not where this machine can see it",
                remedy="write to a folder that all machines share, or to gs:// or s3://",
            )
        if self.finished is not None and told.output is not None and told.finished is not None:
            self.finished.add(told.output, told.finished)
        for name in ("files", "passed", "rows", "refused"):
            setattr(self.scored, name, getattr(self.scored, name) + getattr(scored, name))
