"""`RecordWriter`: records leave the event loop in groups and are made safe by threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import weakref
from collections.abc import Sequence
from queue import SimpleQueue

from tasador.core.errors import StorageError
from tasador.data.target_check import TargetBounds
from tasador.records.committer import Committer, open_lazily
from tasador.records.counters import Counters, WriterStatus
from tasador.records.errors import BusyError
from tasador.records.groups import Submission, Waiting
from tasador.records.keeper import Keeper
from tasador.records.record import Record
from tasador.records.refused import Refusal, RefusedBuffer
from tasador.records.settings import RecordSettings
from tasador.records.spool import Spool

_log = logging.getLogger(__name__)


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
        self._keeper = Keeper(
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
            ConfigError: The settings cannot be meant.
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
        self._keeper.start()

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
                database and the spool, took no more, or (`RefusedError`) the database takes some
                of them never. From `submit` itself: the writer is not running.
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

    def refuse(self, refusal: Refusal) -> None:
        """Record what was refused, soon and at most once; never blocks, and never raises."""
        if self._running:
            self._refused.add(refusal)

    def keep_target(self, model: str, bounds: TargetBounds) -> None:
        """Keep what a model's target may be beside the records, soon; never blocks."""
        self._keeper.keep_target(model, bounds)

    def _put(self, records: Sequence[Record], waiting: Waiting) -> None:
        if not self._running:
            raise StorageError("the record writer is not running", remedy="start it first")
        if self._counters.enter(len(records), self.settings.queue):
            self._queue.put(Submission(records, waiting))
        elif waiting is not None:
            waiting.set_exception(
                BusyError(
                    "the queue of records is full",
                    expected=f"at most {self.settings.queue:,} waiting",
                    remedy="send less, or raise the setting queue",
                )
            )

    def status(self) -> WriterStatus:
        """Return the counters; cheap, from any thread."""
        counters = self._counters
        return WriterStatus(
            state="ok" if self._committer.state == "ok" else "spooling",
            written=counters.written,
            spooled=counters.spooled,
            replayed=counters.replayed,
            lost=counters.lost,
            refused=counters.refused,
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
        self._keeper.close()
        self._spool.close()
        return safe


_writers: weakref.WeakSet[RecordWriter] = weakref.WeakSet()


def _stop_in_child() -> None:
    """Threads do not survive a fork: a child that submits is told so instead of waiting."""
    for writer in _writers:
        writer._running = False


os.register_at_fork(after_in_child=_stop_in_child)
