"""`Canary`: in each server, sends the challenger its share of the traffic and shadows the rest.

Without an experiment it is out of the way: `Service.canary` is None. No request goes to a
challenger that is not loaded, verified and warmed up here; one that fails is answered by the
champion.
"""

from __future__ import annotations

import logging
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import orjson

from tasador.core import clock
from tasador.core.errors import TasadorError
from tasador.core.memory import give_memory_back
from tasador.records.database import Database
from tasador.records.record import Record
from tasador.records.shared_state import Lease, Leases
from tasador.serving.batcher import Answer
from tasador.serving.cascade import Cascade
from tasador.serving.errors import Problem
from tasador.serving.experiment import (
    ACTIVE,
    SHADOW_SUFFIX,
    Experiment,
    ExperimentBook,
    WorkerCounts,
    collect,
    decide,
)
from tasador.serving.http.request import Exchange
from tasador.serving.model_slot import (
    LoadedModel,
    warm_up,
    warm_up_explanations,
)
from tasador.serving.request_parsing import Floats, Predictions, Predictor, Rows
from tasador.serving.service import Service
from tasador.settings.serving import CanarySettings, SourceSettings

_log = logging.getLogger(__name__)

#: Failures in a row after which a server stops by itself, before anything is decided.
FAILURES_IN_A_ROW = 3
_SHADOWED_ROWS = 64
_HASH_STEPS = 2.0**64


class ThreadRecorder(Protocol):
    """What keeps records; `records.batch_writer.RecordWriter` is one."""

    def submit_from_thread(self, records: list[Record]) -> object:
        """Keep `records`."""


class ChallengerPredictor(Predictor):
    """A predictor whose answers must be numbers."""

    def predict(self, X: Floats, coverage: float | None = None) -> Predictions:
        found = super().predict(X, coverage)
        if not np.isfinite([found.prediction, found.lower, found.upper]).all():
            raise ArithmeticError(f"{self.version} answers with something that is no number")
        return found


@dataclass(frozen=True)
class _Run:
    """An experiment in force here.

    Attributes:
        experiment: Where it stands.
        predictor: The challenger, ready.
        same_codes: Whether rows encoded for the champion are right for the challenger.
    """

    experiment: Experiment
    predictor: ChallengerPredictor
    same_codes: bool


@dataclass(frozen=True)
class _Shadow:
    """Rows to be valued by the model that did not answer."""

    run: _Run
    champion: Predictor
    rows: Rows
    ids: list[str]
    client: str
    challenger_answered: bool


class Canary:
    """Takes part in the experiment that the database holds.

    Args:
        service: The service, whose `canary` is set while an experiment is in force.
        settings: How often the database is asked, how much is shadowed.
        database: The records' database, a connection of its own.
        load: Loads the version that the alias ``challenger`` points to.
        recorder: Keeps what was valued in shadow.
        on_end: Called when an experiment that was followed here has ended.
    """

    def __init__(
        self,
        service: Service,
        settings: CanarySettings,
        database: Database,
        load: Callable[[], LoadedModel],
        recorder: ThreadRecorder,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._service, self._settings = service, settings
        self._database, self._load, self._recorder = database, load, recorder
        self._on_end = on_end
        self._followed = ""  # the experiment that was active here at the last look
        self._worker = secrets.token_hex(6)
        self._run: _Run | None = None
        self._loaded: LoadedModel | None = None
        self._counts = WorkerCounts()
        self._queue: queue.Queue[_Shadow | None] = queue.Queue(settings.queue)
        self._stop, self._wake = threading.Event(), threading.Event()
        self._given_up: set[str] = set()
        self._leases = Leases(database)
        self._lease: Lease | None = None
        self._counted = ""  # the experiment that the counts are of
        self._last_heard = time.monotonic()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start watching for experiments."""
        for work in (self._watch, self._shadow_all):
            thread = threading.Thread(target=work, name=f"canary {work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop; the counts are reported first."""
        self._stop.set()
        self._wake.set()
        self._leave()
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        for thread in self._threads:
            thread.join(5.0)
        self._database.close()

    @property
    def running(self) -> Experiment | None:
        """The experiment in force in this server; None when there is none."""
        return None if self._run is None else self._run.experiment

    async def value(
        self, exchange: Exchange, predictor: Predictor, rows: Rows, place: str
    ) -> Answer:
        """Value rows by the model whose turn it is; errors are those of the champion."""
        run, batcher = self._run, self._service.batcher
        client, started = exchange.client, exchange.started
        free = run is not None and predictor.version == run.experiment.champion
        if run is None or not free or _asks_for_a_version(exchange):
            return await batcher.value(predictor, rows, client=client, started=started, place=place)
        failed = False
        if _chosen(run.experiment, exchange):
            try:
                answer = await batcher.value(
                    run.predictor, _recoded(run, rows, place), client=client, started=started,
                    place=place,
                )  # fmt: skip
                self._counts.succeeded()
                self._shadow(_Shadow(run, predictor, rows, answer.ids, client, True))
                return answer
            except Exception as error:
                # a database that is full or too busy is not the challenger's failure
                failed = not (isinstance(error, Problem) and error.status == 503)
                _log.warning("the challenger failed, the champion answers: %r", error)
        answer = await batcher.value(predictor, rows, client=client, started=started, place=place)
        if failed:  # had the champion refused the row too, it would be the row's fault
            self._failed(run)
        else:
            self._shadow(_Shadow(run, predictor, rows, answer.ids, client, False))
        return answer

    def _failed(self, run: _Run) -> None:
        if self._counts.failed() >= FAILURES_IN_A_ROW:
            self._given_up.add(run.experiment.id)
            self._leave()
            self._wake.set()

    def _leave(self) -> None:
        self._run, self._service.canary = None, None

    def _shadow(self, shadow: _Shadow) -> None:
        try:
            self._queue.put_nowait(shadow)
        except queue.Full:
            self._counts.dropped += 1

    # the thread that watches

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._round()
                self._last_heard = time.monotonic()
            except TasadorError as error:
                _log.info("the experiment's state cannot be read: %s", error)
                # a rollback decided by another server would not reach this one
                if time.monotonic() - self._last_heard > self._settings.deaf_s:
                    self._leave()
            except Exception:
                _log.exception("the canary failed and is switched off")
                self._leave()
            self._wake.wait(self._settings.poll_s)
            self._wake.clear()

    def _round(self) -> None:
        current = self._service.slot.current
        if current is None:
            self._leave()
            return
        book = ExperimentBook(self._database, current.bundle.manifest.name)
        experiment, seen = book.read()
        if experiment is None or experiment.status not in ACTIVE:
            self._leave()
            if self._loaded is not None:
                self._loaded = None
                give_memory_back()
            if self._followed:  # the champion may be another one now
                self._followed = ""
                self._on_end()
            return
        version = current.bundle.version
        self._followed = experiment.id
        if experiment.id in self._given_up:
            self._end(book, experiment, seen, "rolled back",
                      f"{FAILURES_IN_A_ROW} valuations in a row failed in one server")  # fmt: skip
            return
        if version == experiment.challenger:
            # left active, it would get the traffic again after a rollback to the champion
            self._end(book, experiment, seen, "settled", "the challenger became champion")
            return
        if version != experiment.champion:
            self._end(book, experiment, seen, "stopped", f"the champion became {version}")
            return
        self._take_part(experiment)
        book.report(experiment.id, self._worker, self._counts.to_dict())
        if experiment.status == "running" and self._leads(book):
            after = decide(experiment, collect(self._database, book, experiment))
            if after != experiment and book.write(after, seen, "canary"):
                _log.warning("canary %s: %s, %s", after.challenger, after.status, after.reason)
                self._take_part(after)

    def _end(
        self, book: ExperimentBook, experiment: Experiment, seen: int, status: Any, reason: str
    ) -> None:
        self._leave()
        book.report(experiment.id, self._worker, self._counts.to_dict())
        book.write(replace(experiment, status=status, reason=reason), seen, "canary")

    def _take_part(self, experiment: Experiment) -> None:
        """Set or clear what requests see; loads the challenger first, beside the traffic."""
        if experiment.status not in ACTIVE:
            self._leave()
            return
        if self._loaded is None or self._loaded.version != experiment.challenger:
            self._leave()
            loaded = self._load()
            if loaded.version != experiment.challenger:
                _log.info("the alias challenger points to %s, not yet to %s", loaded.version,
                          experiment.challenger)  # fmt: skip
                return
            warm_up(loaded.bundle)
            warm_up_explanations(loaded.bundle)
            self._loaded = loaded
        if self._counted != experiment.id:
            self._counts, self._counted = WorkerCounts(), experiment.id
        run = self._run
        if run is None or run.experiment.id != experiment.id:
            predictor = ChallengerPredictor(
                self._loaded.bundle, self._loaded.source, self._service.no_value
            )
            predictor.variant = "challenger"
        else:
            predictor = run.predictor
        current = self._service.slot.current
        same = current is not None and (
            current.bundle.contract.features == predictor.contract.features
        )
        self._run = _Run(experiment, predictor, same)
        self._service.canary = self

    def _leads(self, book: ExperimentBook) -> bool:
        """Tell whether this server is the one that decides; another takes over when it dies."""
        name, seconds = f"canary/{book.model}", 4 * self._settings.poll_s
        held = None if self._lease is None else self._leases.renew(self._lease, seconds)
        self._lease = held or self._leases.acquire(name, self._worker, seconds)
        return self._lease is not None

    # the thread that values in shadow

    def _shadow_all(self) -> None:
        while not self._stop.is_set():
            shadow = self._queue.get()
            if shadow is None:
                return
            started = time.perf_counter()
            try:
                self._value_both(shadow)
            except Exception:
                _log.exception("a shadow valuation failed")
            del shadow  # or its two models stay in memory until the next one comes
            # a bounded share of one core, whatever the traffic
            self._stop.wait(self._settings.idle_factor * (time.perf_counter() - started))

    def _value_both(self, shadow: _Shadow) -> None:
        """Value by both models, for the times of both; keep what did not answer."""
        run, n = shadow.run, min(len(shadow.rows.values), _SHADOWED_ROWS)
        codes = np.array(shadow.rows.codes[:n])
        X = codes if run.same_codes else np.array(_recoded(run, shadow.rows, "rows").codes[:n])
        started = time.perf_counter()
        own = shadow.champion.predict(codes)
        between = time.perf_counter()
        try:
            other = run.predictor.predict(X)
        except Exception as error:
            _log.warning("the challenger failed in shadow: %r", error)
            self._failed(run)
            return
        ended = time.perf_counter()
        self._counts.valued(1000.0 * ((ended - between) - (between - started)))
        predictor: Predictor = run.predictor
        found, seconds = other, ended - between
        if shadow.challenger_answered:
            predictor, found, seconds = shadow.champion, own, between - started
        now = clock.seconds()
        self._recorder.submit_from_thread(
            [
                Record(
                    shadow.ids[i] + SHADOW_SUFFIX, now, predictor.version, "shadow",
                    predictor.source, orjson.dumps(shadow.rows.values[i]), found.prediction[i],
                    found.lower[i], found.upper[i], predictor.coverage, 1000.0 * seconds,
                    shadow.client, math.nan if found.fsd is None else found.fsd[i],
                )
                for i in range(n)
            ]
        )  # fmt: skip


def challenger_loader(source: SourceSettings) -> Callable[[], LoadedModel]:
    """Return what loads the registry's challenger; nothing is contacted yet."""
    cascade = Cascade.of(
        replace(
            source, alias="challenger", version=None, order=("mlflow",), object_store=None,
            local=None, last_good=None,
        )
    )  # fmt: skip
    return cascade.load


def _asks_for_a_version(exchange: Exchange) -> bool:
    return b"model_version" in exchange.query or "/versions/" in exchange.path


def _chosen(experiment: Experiment, exchange: Exchange) -> bool:
    """Tell by a stable hash whether the challenger answers; a larger share keeps who was chosen."""
    if experiment.share <= 0.0:
        return False
    by_client = experiment.rules.by == "client"
    who = exchange.client if by_client else exchange.request_id
    digest = blake2b(f"{experiment.id} {who}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _HASH_STEPS < experiment.share


def _recoded(run: _Run, rows: Rows, place: str) -> Rows:
    """Return the rows encoded for the challenger.

    Raises:
        Problem: The challenger's contract does not take them.
    """
    if run.same_codes:
        return rows
    return replace(run.predictor.encode(rows.values, place), coverage=rows.coverage)
