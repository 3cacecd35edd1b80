"""`RecordWriter`: records leave the event loop in groups and are made safe by threads.

The two threads between the queue and the database.

::

    committer   owns the queue while the database is there: takes a group, commits it. While the
                database is away it tries to replay the spool instead.
    guard       watches the committer. When a commit fails or takes too long, it takes over the
                queue and writes to the spool, until the committer has emptied that.

The state says who owns the queue: ``ok`` the committer, ``spooling`` the guard. While ``draining``
it belongs to nobody, as long as the committer takes to replay the last of the spool; when that
takes too long too, the guard goes on.

A group in flight belongs to whoever claims it: the committer when its commit ends, the guard when
it is overdue. A group that both wrote is in the spool and in the database, and its ids make it one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
import time
import weakref
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Literal

from tasador.contract.target_check import TargetBounds
from tasador.core import clock
from tasador.core.errors import StorageError
from tasador.records.batches import (
    WAKE,
    Counters,
    Group,
    Submission,
    Waiting,
    WriterStatus,
    insert_records,
    take_group,
)
from tasador.records.database import Database
from tasador.records.errors import BusyError, NotRunningError, RejectedValuesError
from tasador.records.maintenance import MaintenanceThread
from tasador.records.record import Record
from tasador.records.refused import RefusedBuffer, RefusedRequest
from tasador.records.spool import Spool
from tasador.settings.serving import RecordSettings

QueueOwner = Literal["ok", "draining", "spooling"]

_log = logging.getLogger(__name__)
_HANG_S = 10.0  # how long a silent database is waited for before the connection is cut
_IDLE_S = 1.0
_LAST_BYTES = 1 << 18  # of the spool, replayed while the queue waits


class Committer:
    """Moves records from a queue into the database or the spool.

    Args:
        settings: Where and how.
        queue: What is submitted.
        spool: Where to put it while the database is unreachable.
        counters: Counts what happened.
    """

    def __init__(
        self,
        settings: RecordSettings,
        queue: SimpleQueue[Submission],
        spool: Spool,
        counters: Counters,
    ) -> None:
        self.state: QueueOwner = "ok"
        self.full = False  # neither the database nor the spool takes records
        self._checked = 0.0
        self._settings = settings
        self._queue = queue
        self._spool = spool
        self._counters = counters
        # what waits behind a group in flight waits as long again: half the bound for each
        self._patience = settings.bound_s / 2
        self._database = open_lazily(settings)
        self._turn = threading.Lock()  # held while the state changes and while the guard spools
        self._flight: Group | None = None
        self._asked: float | None = None  # when the database was asked for what it now does
        self._busy = threading.Event()  # a group is in flight: the guard looks after it
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"tasador-records-{name}", daemon=True)
            for name, work in (("committer", self._commit), ("guard", self._guard))
        ]

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def close(self, deadline_s: float) -> bool:
        """Write what waits, half of the time into the database, then into the spool; stop.

        Returns:
            Whether nothing waits any more.
        """
        end = time.monotonic() + deadline_s
        self._closing.set()
        self._busy.set()
        self._queue.put(WAKE)
        self._wait_until(end - deadline_s / 2)
        if self._counters.waiting:
            self._counters.note("the database did not take the records in time to stop")
            self._take_over(self._flight)
            self._wait_until(end)
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() < end:
                self._queue.put(WAKE)
                thread.join(0.05)
            if thread.is_alive():
                self._database.interrupt()
                thread.join(0.2)
        return not self._counters.waiting

    def _wait_until(self, end: float) -> None:
        while self._counters.waiting and time.monotonic() < end:
            time.sleep(0.005)

    def _finished(self) -> bool:
        return self._closing.is_set() and not self._counters.waiting

    # the committer

    def _commit(self) -> None:
        self._attempt(Group([]))  # connects, so that the first valuation need not wait for it
        while not self._finished():
            if self.state == "ok":
                group = take_group(self._queue, self._settings.group, _IDLE_S)
                if group is not None:
                    self._attempt(group)
            elif self._closing.is_set():
                break
            elif not self._replay():
                self._closing.wait(self._settings.retry_s)
        self._database.close()

    def _attempt(self, group: Group) -> None:
        """Commit a group; hand it and the queue to the guard when the database is unreachable."""
        self._flight = group
        self._asked = group.started
        if not self._busy.is_set():
            self._busy.set()
        try:
            if group.size:
                inserted = insert_records(self._database, group.rows)
            else:
                self._check_database()
                inserted = None
        except Exception as error:  # whatever it is, the records are safe in the spool
            self._counters.note(error)
            self._flight = self._asked = None
            self._take_over(group)
            return
        self._flight = self._asked = None
        if not group.claim():
            self._turn_to("spooling")  # the guard has it: look after the spool before the queue
            return
        if inserted is not None:
            written, refused, error_of_some = inserted
            if error_of_some is not None:
                self._counters.note(error_of_some)
            self._counters.count(done=group.size, written=written, refused=refused)
            group.release(error_of_some)

    def _replay(self) -> bool:
        """Replay the spool into the database; return whether the queue is the committer's again."""
        try:
            self._asked = time.monotonic()
            self._check_database()
            while not self._closing.is_set():
                chunk = self._spool.peek(self._settings.group)
                if chunk is None:
                    if self._back_to_normal():
                        return True
                    self._turn_to("draining")
                    continue
                self._asked = time.monotonic()
                inserted = insert_records(self._database, chunk.records)
                self._spool.advance(chunk)
                self._counters.count(replayed=inserted.written, refused=inserted.refused)
                if self.state == "spooling" and self._spool.bytes < _LAST_BYTES:
                    self._turn_to("draining")
        except Exception as error:  # what is in the spool stays there
            self._counters.note(error)
        finally:
            self._asked = None
        self._turn_to("spooling")
        return False

    def _check_database(self) -> None:
        """Connect and write something: a full disk and a read-only file show only then."""
        self._database.execute(
            "INSERT INTO state (key, value, version, time) VALUES ('records/check', 'null', 1, ?) "
            "ON CONFLICT (key) DO UPDATE SET time = excluded.time",
            (clock.seconds(),),
        )

    def _back_to_normal(self) -> bool:
        with self._turn:
            if self.state != "draining" or self._spool.bytes:
                return False
            self.state = "ok"
            self.full = False
            self._flight = None
        _log.info("records go into the database again; the spool is empty")
        return True

    def _turn_to(self, state: QueueOwner) -> None:
        with self._turn:
            self.state = state
            # while draining the guard watches an empty group in place of the real ones
            self._flight = Group([]) if state == "draining" else None
        self._busy.set()

    # the guard

    def _guard(self) -> None:
        step = min(0.05, self._patience / 3)
        while not self._finished():
            if self.state == "spooling":
                group = take_group(self._queue, self._settings.group, step)
                if group is not None:
                    self._spool_group(group)
                self._check_spool()
                self._cut_dead_connection()
                continue
            if self._flight is None and not self._closing.is_set():
                self._busy.clear()
                if self._flight is None:  # the committer sets this before it looks at the event
                    self._busy.wait()
            time.sleep(step)
            flight = self._flight
            if flight is not None and self._overdue(flight):
                self._counters.note(f"the database did not answer within {self._patience:g} s")
                self._take_over(flight)

    def _overdue(self, flight: Group) -> bool:
        """Tell whether a group takes too long; an empty one only when others wait for it."""
        late = time.monotonic() - flight.started > self._patience
        return late and (flight.size > 0 or not self._queue.empty())

    def _take_over(self, flight: Group | None) -> None:
        """Make the queue the guard's, and write the group in flight to the spool if unclaimed."""
        mine = flight is None or flight.claim()
        with self._turn:
            if mine and self.state == "ok":
                _log.warning("records go into the spool: %s", self._counters.last_error)
            if mine or self.state == "draining":
                self.state = "spooling"
            if mine and flight is not None:
                self._write_spool(flight)
        self._busy.set()

    def _spool_group(self, group: Group) -> None:
        with self._turn:
            if self.state == "spooling":
                self._write_spool(group)
                return
        for submission in group.submissions:  # the committer is back: they are its own
            self._queue.put(submission)

    def _write_spool(self, group: Group) -> None:
        if not group.size:
            return
        error: StorageError | None
        try:
            written, refused, error = self._spool.append(group.rows)
        except StorageError as failed:
            error = failed
            self._found_full(error)
            self._counters.count(done=group.size, lost=group.size)
        except Exception as failed:  # what a malformed record provokes
            error = RejectedValuesError(repr(failed))
            self._counters.note(error)
            self._counters.count(done=group.size, lost=group.size)
        else:
            self._counters.count(done=group.size, spooled=written, refused=refused)
        group.release(error)

    def _check_spool(self) -> None:
        """Find out now and then whether the spool takes records, also when none are sent."""
        now = time.monotonic()
        if now - self._checked < self._settings.retry_s:
            return
        self._checked = now
        with self._turn:
            if self.state != "spooling":
                return
            try:
                self._spool.check()
            except StorageError as error:
                self._found_full(error)
            else:
                self.full = False

    def _found_full(self, error: StorageError) -> None:
        self._counters.note(error)
        if not self.full:
            _log.error("records can be kept nowhere: %s", error)
        self.full = True

    def _cut_dead_connection(self) -> None:
        """Make a committer that has waited too long for an answer give up, and connect again."""
        asked = self._asked
        if asked is not None and time.monotonic() - asked > _HANG_S:
            self._database.interrupt()


def open_lazily(settings: RecordSettings) -> Database:
    """Return a database that is connected when first used, and patient.

    Nobody waits for it longer than the bound: that is the guard's doing. A server that is slow gets
    the time to take what the spool holds.
    """
    wait = max(5.0, 4 * settings.bound_s)
    return Database(settings.url, synchronous=settings.synchronous, timeout_s=wait)


class RecordWriter:
    """Writes records off the event loop, many in one commit.

    Args:
        settings: Where and how.

    `start` before the first `submit`, after any fork; `close` at the end.
    """

    def __init__(self, settings: RecordSettings) -> None:
        self.settings = settings
        self._running = False
        self._counters = Counters()
        self._queue: SimpleQueue[Submission] = SimpleQueue()
        self._spool = Spool(settings.spool_folder(), settings.synchronous, settings.spool_bytes)
        self._committer = Committer(settings, self._queue, self._spool, self._counters)
        self._refused = RefusedBuffer(settings)
        self._maintenance = MaintenanceThread(
            self._spool.folder,
            settings,
            open_lazily(settings),
            self._counters,
            lambda: self._committer.state == "ok",
            self._refused,
        )

    def start(self) -> None:
        """Start the threads, once; the database need not be there yet.

        Raises:
            ConfigError: The settings are invalid.
        """
        if self.settings.mode == "off" or self._running:
            return
        try:
            self._spool.prepare()
        except StorageError as error:
            self._counters.note(error)
            _log.warning("records have no spool: %s", error)
        self._running = True
        _writers.add(self)
        self._committer.start()
        self._maintenance.start()

    def submit(self, records: Sequence[Record]) -> asyncio.Future[None] | None:
        """Hand records over from a coroutine; never blocks.

        Returns:
            In ``durable`` mode a future of the running loop, done when the records are safe. None
            when there is nothing to wait for (``async``, ``off``, or no records)::

                waiting = writer.submit(records)
                if waiting is not None:
                    await waiting

        Raises:
            StorageError: From the future: the records are safe nowhere, since the queue, or the
                database and the spool, took no more, or the database takes some of
                them never (`RejectedValuesError`). From `submit` itself: the writer is not running.
        """
        if self.settings.mode == "off" or not records:
            return None
        durable = self.settings.mode == "durable"
        waiting = asyncio.get_running_loop().create_future() if durable else None
        self._put(records, waiting)
        return waiting

    def submit_from_thread(
        self, records: Sequence[Record]
    ) -> concurrent.futures.Future[None] | None:
        """Hand records over from a thread; as `submit`, with a future to call ``result()`` on."""
        if self.settings.mode == "off" or not records:
            return None
        waiting: concurrent.futures.Future[None] | None = (
            concurrent.futures.Future() if self.settings.mode == "durable" else None
        )
        self._put(records, waiting)
        return waiting

    def refuse(self, refusal: RefusedRequest) -> None:
        """Record what was refused, soon and at most once; never blocks, and never raises."""
        if self._running:
            self._refused.add(refusal)

    def keep_target(self, model: str, bounds: TargetBounds) -> None:
        """Keep what a model's target may be beside the records, soon; never blocks."""
        self._maintenance.keep_target(model, bounds)

    def _put(self, records: Sequence[Record], waiting: Waiting) -> None:
        if not self._running:
            raise NotRunningError.of()
        if self._counters.enter(len(records), self.settings.queue):
            self._queue.put(Submission(records, waiting))
        elif waiting is not None:
            waiting.set_exception(BusyError.of(self.settings.queue))

    def status(self) -> WriterStatus:
        """Return the counters; cheap, from any thread."""
        counters = self._counters
        return WriterStatus(
            state="ok" if self._committer.state == "ok" else "spooling",
            written=counters["written"],
            spooled=counters["spooled"],
            replayed=counters["replayed"],
            lost=counters["lost"],
            refused=counters["refused"],
            queued=counters.waiting,
            spool_bytes=self._spool.bytes,
            last_error=counters.last_error,
            full=self._committer.full,
        )

    def keeps(self) -> bool:
        """Tell whether a valuation submitted now would be recorded, if it has to be.

        False in ``durable`` mode while the database takes nothing and the spool is full or its disk
        refuses. It becomes true by itself.
        """
        return self.settings.mode != "durable" or not self._committer.full

    def close(self, deadline_s: float = 5.0) -> bool:
        """Take no more, flush what waits and stop.

        What the database has not taken when half the time is over goes to the spool.

        Returns:
            Whether everything that was taken is safe, in the database or the spool.
        """
        if not self._running:
            return not self._counters.waiting
        self._running = False
        _writers.discard(self)
        safe = self._committer.close(deadline_s)
        self._maintenance.close()
        self._spool.close()
        return safe


_writers: weakref.WeakSet[RecordWriter] = weakref.WeakSet()


def _stop_in_child() -> None:
    """Threads do not survive a fork: a child that submits gets an error instead of waiting."""
    for writer in _writers:
        writer._running = False


os.register_at_fork(after_in_child=_stop_in_child)
