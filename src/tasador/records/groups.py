"""Groups of submitted records, and waking those who wait for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Sequence
from itertools import chain
from queue import Empty, SimpleQueue
from typing import NamedTuple

from tasador.core.errors import StorageError
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
    which of them tells the submitters.
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
