"""Records on their way to the database: groups from the queue, their insertion, the counts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Literal, NamedTuple

from tasador.core.errors import StorageError
from tasador.records.database import Database
from tasador.records.errors import OutageError, RejectedValuesError
from tasador.records.record import Record

Waiting = asyncio.Future[None] | concurrent.futures.Future[None] | None


class Submission(NamedTuple):
    """What was handed over by one call, and who waits for it."""

    records: Sequence[Record]
    waiting: Waiting


#: Wakes whoever waits at a queue.
WAKE = Submission((), None)


class Group:
    """Submissions that are written together.

    Two threads may come to write the same group, when the database does not answer: `claim` decides
    which of them wakes the submitters.
    """

    __slots__ = ("_unclaimed", "rows", "size", "started", "submissions")

    def __init__(self, submissions: Sequence[Submission]) -> None:
        self.submissions = submissions
        rows: Sequence[Record]
        if len(submissions) == 1:
            rows = submissions[0].records
        else:
            rows = list(chain.from_iterable([s.records for s in submissions]))
        self.rows = rows
        self.size = len(rows)
        self.started = time.monotonic()
        self._unclaimed = threading.Lock()

    def claim(self) -> bool:
        """Return True to the first caller and False to all others."""
        return self._unclaimed.acquire(blocking=False)

    def release(self, error: StorageError | None) -> None:
        """Wake those who wait, from any thread: one call into each event loop."""
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for _, future in self.submissions:
            if isinstance(future, asyncio.Future):
                loop = future.get_loop()
                if loop in loops:
                    loops[loop].append(future)
                else:
                    loops[loop] = [future]
            elif future is not None and future.set_running_or_notify_cancel():
                _settle(future, error)
        for loop, futures in loops.items():
            try:
                # one wake-up for the group: each costs a system call
                loop.call_soon_threadsafe(_settle_all, futures, error)
            except RuntimeError:  # the loop was closed: nobody waits any more
                continue


def take_group(
    queue: SimpleQueue[Submission], most: int, timeout_s: float | None = None
) -> Group | None:
    """Take what waits in `queue`, about `most` records; wait for the first.

    Returns:
        None when nothing came in time, or only `WAKE`.
    """
    try:
        item = queue.get(timeout=timeout_s)
    except Empty:
        return None
    taken: list[Submission] = []
    size = 0
    while True:
        if item is not WAKE:
            taken.append(item)
            size += len(item.records)
        # whole submissions: a request's records are committed together
        if size >= most:
            break
        try:
            item = queue.get_nowait()
        except Empty:
            break
    return Group(taken) if taken else None


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


@dataclass(frozen=True)
class WriterStatus:
    """What a writer did since it started, and how it is.

    Attributes:
        state: ``ok`` (straight into the database) or ``spooling`` (the database is unreachable).
        written: Records committed to the database straight from the queue.
        spooled: Records that went to the spool instead.
        replayed: Records replayed from a spool into the database, those of dead processes included.
        lost: Records dropped: the queue was full, or neither database nor spool took them.
        refused: Records that the database would not take even alone.
        queued: Records that wait in memory now.
        spool_bytes: Bytes in this process's spool now.
        last_error: What went wrong last; empty when nothing did.
        full: Whether neither the database nor the spool takes records now.
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
    full: bool = False


_COUNTS = ("entered", "done", "written", "spooled", "replayed", "lost", "refused")


class Counters:
    """Counts that threads share, by the names of `WriterStatus`. Each `count` adds to several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(_COUNTS, 0)
        self.last_error = ""

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def enter(self, size: int, most: int) -> bool:
        """Count `size` records in when no more than `most` wait then, and as lost otherwise."""
        counts = self._counts
        with self._lock:
            # counted in records, not in calls: memory is what is bounded
            fits = counts["entered"] - counts["done"] + size <= most
            counts["entered" if fits else "lost"] += size
        return fits

    def count(self, **numbers: int) -> None:
        """Add to the counts; ``done`` are records that wait no longer."""
        with self._lock:
            for name, number in numbers.items():
                self._counts[name] += number

    @property
    def waiting(self) -> int:
        """Records that entered and are not done."""
        return self._counts["entered"] - self._counts["done"]

    def note(self, error: Exception | str) -> None:
        """Remember what went wrong."""
        self.last_error = str(error)


_log = logging.getLogger(__name__)


class Inserted(NamedTuple):
    """How an insertion went.

    Attributes:
        written: Records that are in the database now.
        refused: Records that it would not take even alone.
        error: Why, for the last of them; None when there is none.
    """

    written: int
    refused: int = 0
    error: StorageError | None = None


def insert_records(database: Database, rows: Sequence[Record]) -> Inserted:
    """Insert records in one statement; when some are refused, each alone with its texts cleaned.

    Raises:
        OutageError: The database is unreachable. Some of the records may be in it.
    """
    try:
        database.insert("records", rows)
    except OutageError:
        raise
    except Exception:  # whatever a malformed record provokes must not stop the others
        return _one_by_one(database, rows)
    return Inserted(len(rows))


def _one_by_one(database: Database, rows: Sequence[Record]) -> Inserted:
    refused, last = 0, None
    for row in rows:
        try:
            database.insert("records", [_cleaned(row)])
        except OutageError:
            raise
        except Exception as error:
            refused += 1
            last = error if isinstance(error, StorageError) else RejectedValuesError(repr(error))
            _log.error("a record is refused: %s: %.200r", last, row)
    return Inserted(len(rows) - refused, refused, last)


def _cleaned(record: Record) -> Record:
    """Return the record with texts that every database holds: valid Unicode without NUL."""
    return Record._make(
        value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
        if isinstance(value, str)
        else value
        for value in record
    )
