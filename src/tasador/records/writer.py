"""`RecordWriter`: records leave the event loop in groups and are committed by a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Literal

from tasador.core.errors import StorageError
from tasador.records.database import Database
from tasador.records.record import Record
from tasador.records.settings import RecordSettings

Waiting = asyncio.Future[None] | concurrent.futures.Future[None] | None
_Item = tuple[Sequence[Record], Waiting]


@dataclass(frozen=True)
class WriterStatus:
    """What a writer did since it started, and how it is.

    Attributes:
        state: ``ok`` (straight into the database) or ``spooling`` (the database is away).
        written: Records committed to the database straight from the queue.
        spooled: Records that went to the spool instead.
        replayed: Records brought from a spool into the database.
        lost: Records dropped: the queue or the spool was full.
        refused: Records that the database would not take even alone.
        queued: Records that wait in memory now.
        spool_bytes: Bytes in this process's spool now.
        last_error: What went wrong last; empty when nothing did.
    """

    state: Literal["ok", "spooling"]
    written: int
    spooled: int
    replayed: int
    lost: int
    refused: int
    queued: int
    spool_bytes: int
    last_error: str


class RecordWriter:
    """Writes records off the event loop, many in one commit.

    Args:
        settings: Where and how.

    `start` before the first `submit`, after any fork; `close` at the end.
    """

    def __init__(self, settings: RecordSettings) -> None:
        self.settings = settings
        self._database = Database(settings.url, synchronous=settings.synchronous)
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._entered = 0  # written by submitters under the lock-free += of one loop
        self._done = 0
        self._written = 0
        self._lost = 0
        self._last_error = ""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; the database need not be there yet."""
        if self.settings.mode == "off" or self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="tasador-records", daemon=True)
        self._thread.start()

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
                database and the spool, took no more. From `submit` itself: the writer is closed.
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

    def status(self) -> WriterStatus:
        """Return the counters; cheap, from any thread."""
        return WriterStatus(
            state="ok",
            written=self._written,
            spooled=0,
            replayed=0,
            lost=self._lost,
            refused=0,
            queued=self._entered - self._done,
            spool_bytes=0,
            last_error=self._last_error,
        )

    def close(self, deadline_s: float = 5.0) -> bool:
        """Flush what waits and stop.

        Returns:
            Whether everything handed over is safe, in the database or the spool.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._queue.put(None)
        thread.join(deadline_s)
        return not thread.is_alive() and self._entered == self._done

    def _put(self, records: Sequence[Record], waiting: Waiting) -> None:
        if self._thread is None:
            raise StorageError("the record writer is not running", remedy="start it first")
        if self._entered - self._done + len(records) > self.settings.queue:
            self._lost += len(records)
            if waiting is not None:
                waiting.set_exception(StorageError("the queue of records is full"))
            return
        self._entered += len(records)
        self._queue.put((records, waiting))

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            items: list[_Item] = []
            size = 0
            ending = item is None
            while item is not None:
                items.append(item)
                size += len(item[0])
                if size >= self.settings.group:
                    break
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
                ending = item is None
            if items:
                self._commit(items, size)
            if ending:
                self._database.close()
                return

    def _commit(self, items: list[_Item], size: int) -> None:
        error: StorageError | None = None
        rows = items[0][0] if len(items) == 1 else [row for rows, _ in items for row in rows]
        try:
            self._database.insert("records", rows)
            self._written += size
        except StorageError as failed:
            error, self._last_error = failed, str(failed)
        self._done += size
        release([waiting for _, waiting in items if waiting is not None], error)


def release(waiting: Sequence[Waiting], error: StorageError | None) -> None:
    """Resolve futures from a foreign thread: one wake-up for each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for future in waiting:
        if isinstance(future, asyncio.Future):
            loops.setdefault(future.get_loop(), []).append(future)
        elif future is not None and future.set_running_or_notify_cancel():
            _settle(future, error)
    for loop, futures in loops.items():
        try:
            loop.call_soon_threadsafe(_settle_all, futures, error)
        except RuntimeError:  # the loop was closed: nobody waits any more
            continue


def _settle_all(futures: list[asyncio.Future[None]], error: StorageError | None) -> None:
    for future in futures:
        if not future.done():  # a request that timed out cancelled its own
            _settle(future, error)


def _settle(
    future: asyncio.Future[None] | concurrent.futures.Future[None], error: StorageError | None
) -> None:
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
