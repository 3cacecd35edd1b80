"""`Batcher`: values the rows of concurrent requests in one batch.

Requests that arrive in the same turn of the event loop, and in those after it while each brings
more, share one call of the model and one commit of the records. A row gets the same bits alone and
among others, so batching is invisible; what is shared is the overhead of a call, which for one row
is larger than the work.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from tasador.core import clock
from tasador.core.errors import StorageError
from tasador.modeling.prediction import no_value
from tasador.records.errors import RejectedValuesError
from tasador.records.record import Record, new_ids
from tasador.serving.cache import Cache, entries_of, keys_of, predictions_of
from tasador.serving.errors import not_recorded
from tasador.serving.request_parsing import Predictions, Predictor, Rows, invalid_rows
from tasador.settings.serving import ServeLimits

Floats = NDArray[np.float64]
T = TypeVar("T")

#: Rows above which a batch is valued in a thread, so that the loop goes on answering others.
INLINE_ROWS = 64
#: Bytes above which only the contract's columns of a row are recorded.
_LONGEST_ROW = 16 * 1024
_NO_LIMITS = ServeLimits()


class Recorder(Protocol):
    """What keeps records; `records.batch_writer.RecordWriter` is one."""

    def submit(self, records: Sequence[Record]) -> Awaitable[None] | None:
        """Keep `records`; None when the answer need not wait for them."""


class Observer(Protocol):
    """What counts; `serving.metrics.Metrics` is one."""

    def stage(self, name: str, seconds: float) -> None:
        """Note how long a stage took."""

    def predictions(self, values: Sequence[float]) -> None:
        """Note what was answered."""

    def no_value(self, rows: int) -> None:
        """Note rows that got no value."""


@dataclass(slots=True)
class Answer:
    """What a request is answered from.

    Attributes:
        predictor: What valued it.
        ids: One prediction id a row.
        predictions: Its rows' values.
        coverage: Of their intervals.
    """

    predictor: Predictor
    ids: list[str]
    predictions: Predictions
    coverage: float

    def items(self) -> list[dict[str, Any]]:
        """Return one JSON object a row, in the rows' order."""
        name, found, graded = self.predictor.prediction_name, self.predictions, self.graded()
        return [
            {
                name: None if i in found.no_value else found.prediction[i],
                "interval": None
                if i in found.no_value
                else {
                    "lower": found.lower[i],
                    "upper": found.upper[i],
                    "coverage": self.coverage,
                },
                "warnings": found.notes.get(i, []),
                "prediction_id": self.ids[i],
                "fsd": None if found.fsd is None else found.fsd[i],
                "confidence": graded[i][0],
                "confidence_class": graded[i][1],
                "support": None if found.support is None else found.support[i].plain(),
                "no_value": found.no_value.get(i),
            }
            for i in range(len(self.ids))
        ]

    def graded(self) -> Sequence[tuple[float | None, str | None]]:
        """Return the confidence of each row and its class; None from older bundles."""
        confidence, fsd = self.predictor.bundle.confidence, self.predictions.fsd
        if confidence is None or fsd is None:
            return [(None, None)] * len(self.ids)
        return confidence.graded(fsd)

    def body(self) -> bytes:
        """Return the body of an answer to ``predict``."""
        return orjson.dumps({"predictions": self.items(), "model_version": self.predictor.version})


_Waiting = Callable[[], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class _Job:
    rows: Rows
    place: str
    client: str
    started: float
    done: asyncio.Future[Answer]


@dataclass(slots=True)
class _Batch:
    predictor: Predictor
    coverage: float | None = None
    jobs: list[_Job] = field(default_factory=list)
    size: int = 0


class Batcher:
    """Values requests on one event loop.

    Args:
        recorder: Keeps what was asked and answered.
        observer: Counts.
        variant: Which part of an experiment its answers belong to.
        cache: Remembers values of rows that come again; None remembers nothing.
    """

    def __init__(
        self,
        recorder: Recorder,
        observer: Observer,
        variant: str = "champion",
        cache: Cache | None = None,
    ) -> None:
        self._recorder = recorder
        self._observer = observer
        self._variant = variant
        self._cache = cache
        self._open: _Batch | None = None
        # asyncio holds tasks weakly: one that nobody keeps may be collected while it runs
        self._at_work: set[asyncio.Task[None]] = set()

    def value(
        self,
        predictor: Predictor,
        rows: Rows,
        *,
        client: str,
        started: float,
        place: str = "instances",
    ) -> asyncio.Future[Answer]:
        """Value `rows`, encoded by the same `predictor`.

        Args:
            predictor: What values them.
            rows: At least one.
            client: Who asked.
            started: When the request arrived, by `time.perf_counter`.
            place: Name of the list in the request, for messages.

        Returns:
            The answer, once it may be sent: in durable mode after its records are committed. Its
            error is a `Problem` when a row does not meet the contract.
        """
        loop = asyncio.get_running_loop()
        job = _Job(rows, place, client, started, loop.create_future())
        batch = self._open
        asked = (predictor, rows.coverage)
        if batch is None or (batch.predictor, batch.coverage) != asked:
            batch = self._open = _Batch(*asked)
            loop.call_soon(self._flush, batch, 0)
        batch.jobs.append(job)
        batch.size += len(rows.codes)
        return job.done

    def _flush(self, batch: _Batch, seen: int) -> None:
        """Value a batch unless it has grown since it was `seen`: then more may be on its way."""
        if self._open is batch:
            # clients that are answered together ask again together, but are read turn by turn
            if seen < batch.size < INLINE_ROWS:
                asyncio.get_running_loop().call_soon(self._flush, batch, batch.size)
                return
            self._open = None
        try:
            X = self._accepted(batch)
        except Exception as error:  # no request may wait for ever
            _fail(batch.jobs, error)
            return
        if not len(X):
            return
        task = asyncio.get_running_loop().create_task
        # the cache knows intervals of the usual coverage
        if self._cache is not None and batch.coverage is None:
            self._keep(task(self._value_through(self._cache, batch, X)))
            return
        if len(X) > INLINE_ROWS:
            self._keep(task(self._value_in_thread(batch, X)))
            return
        try:
            waiting = self._answer(batch, self._predict(batch, X))
        except Exception as error:
            _fail(batch.jobs, error)
            return
        if waiting is not None:
            self._keep(task(waiting()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    def _accepted(self, batch: _Batch) -> Floats:
        """Return the rows to value (n, p); requests with a bad row are answered and dropped."""
        jobs = batch.jobs
        X = np.array([codes for job in jobs for codes in job.rows.codes])
        accepted = batch.predictor.check.accepts(X)
        if accepted.all():
            return X
        kept, mask, start = [], np.ones(len(X), dtype=np.bool_), 0
        for job in jobs:
            stop = start + len(job.rows.codes)
            if accepted[start:stop].all():
                kept.append(job)
            else:
                mask[start:stop] = False
                problem = invalid_rows(job.rows.values, batch.predictor.check, job.place)
                if not job.done.done():
                    job.done.set_exception(problem)
            start = stop
        batch.jobs = kept
        return np.ascontiguousarray(X[mask])

    def _predict(self, batch: _Batch, X: Floats) -> Predictions:
        start = time.perf_counter()
        found = batch.predictor.predict(X, batch.coverage)
        self._observer.stage("value", time.perf_counter() - start)
        return found

    async def _value_through(self, cache: Cache, batch: _Batch, X: Floats) -> None:
        """Value the rows that `cache` does not know; ids and records are made for all."""
        try:
            keys = keys_of(batch.predictor.version, X)
            entries = await cache.fetch(keys)
            new = [i for i, entry in enumerate(entries) if entry is None]
            if new:
                rest = X if len(new) == len(X) else X[new]
                if len(new) > INLINE_ROWS:
                    found = await asyncio.to_thread(self._predict, batch, rest)
                else:
                    found = self._predict(batch, rest)
                made = list(zip(new, entries_of(found), strict=True))
                for i, entry in made:
                    entries[i] = entry
                cache.store([(keys[i], entry) for i, entry in made])
            known = [entry for entry in entries if entry is not None]
            waiting = self._answer(batch, predictions_of(known))
            if waiting is not None:
                await waiting()
        except Exception as error:
            _fail(batch.jobs, error)

    async def _value_in_thread(self, batch: _Batch, X: Floats) -> None:
        try:
            found = await asyncio.to_thread(self._predict, batch, X)
            waiting = self._answer(batch, found)
            if waiting is not None:
                await waiting()
        except Exception as error:
            _fail(batch.jobs, error)

    def _answer(self, batch: _Batch, found: Predictions) -> _Waiting | None:
        """Share the values out, keep the records; returns what there is to wait for, if any."""
        # also for rows from the cache: an outcome belongs to one answer, not to equal rows
        ids = new_ids(len(found.prediction))
        self._withhold(batch.predictor, found)
        answers = _shares(batch, ids, found)
        # before any answer: in durable mode a client never holds an id that is not recorded
        committed = self._recorder.submit(self._records(batch, ids, found))
        if committed is None:
            _release(answers)
            return None
        start = time.perf_counter()

        async def wait() -> None:
            try:
                await committed
            except Exception as error:
                _fail([job for job, _ in answers], error)
                return
            self._observer.stage("record", time.perf_counter() - start)
            _release(answers)

        return wait

    def _withhold(self, predictor: Predictor, found: Predictions) -> None:
        """Decide which rows get no value, and count."""
        values = found.prediction
        # without limits nothing is asked: this is the hot route
        if predictor.limits != _NO_LIMITS:
            for i in range(len(values)):
                fsd = None if found.fsd is None else found.fsd[i]
                support = None if found.support is None else found.support[i]
                reason = no_value(fsd, support, predictor.limits)
                if reason is not None:
                    found.no_value[i] = reason
            if found.no_value:
                self._observer.no_value(len(found.no_value))
                values = [value for i, value in enumerate(values) if i not in found.no_value]
        self._observer.predictions(values)

    def _records(self, batch: _Batch, ids: list[str], found: Predictions) -> list[Record]:
        predictor, now, done = batch.predictor, clock.seconds(), time.perf_counter()
        coverage = batch.coverage or predictor.coverage
        records, i = [], 0
        for job in batch.jobs:
            latency = (done - job.started) * 1000.0
            for values in job.rows.values:
                records.append(
                    Record(
                        ids[i],
                        now,
                        predictor.version,
                        predictor.variant or self._variant,
                        predictor.source,
                        _row_json(values, predictor),
                        found.prediction[i],
                        found.lower[i],
                        found.upper[i],
                        coverage,
                        latency,
                        job.client,
                        math.nan if found.fsd is None else found.fsd[i],
                        found.no_value.get(i, ""),
                    )
                )
                i += 1
        return records


def _row_json(values: dict[str, Any], predictor: Predictor) -> bytes:
    """Return a row as it is recorded: as it was sent.

    What is not of the contract's columns is not checked: when it is long, or nested so deep
    that it cannot be written, only the columns are kept. Otherwise one request could fail those
    that it happens to share a batch with, or fill the disk.
    """
    try:
        text = orjson.dumps(values)
        if len(text) <= _LONGEST_ROW:
            return text
    except TypeError:
        pass
    return orjson.dumps({name: values.get(name) for name in predictor.contract.readable_names})


def _shares(batch: _Batch, ids: list[str], found: Predictions) -> list[tuple[_Job, Answer]]:
    answers, start = [], 0
    for job in batch.jobs:
        stop = start + len(job.rows.codes)
        part = Predictions(
            found.prediction[start:stop],
            found.lower[start:stop],
            found.upper[start:stop],
            _shifted(found.notes, start, stop),
            None if found.fsd is None else found.fsd[start:stop],
            None if found.support is None else found.support[start:stop],
            _shifted(found.no_value, start, stop),
        )
        coverage = batch.coverage or batch.predictor.coverage
        answers.append((job, Answer(batch.predictor, ids[start:stop], part, coverage)))
        start = stop
    return answers


def _shifted(texts: dict[int, T], start: int, stop: int) -> dict[int, T]:
    """Return the texts of rows from `start` to before `stop`, counted from `start`."""
    if not texts:
        return texts
    return {row - start: found for row, found in texts.items() if start <= row < stop}


def _release(answers: list[tuple[_Job, Answer]]) -> None:
    for job, answer in answers:
        if not job.done.done():  # its client may have gone
            job.done.set_result(answer)


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    if isinstance(error, StorageError) and not isinstance(error, RejectedValuesError):
        error = not_recorded(error)
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)
