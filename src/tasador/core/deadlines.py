"""Deadlines that hold: time that runs down, and calls that are abandoned when it is over."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tasador.core.errors import DeadlineError

T = TypeVar("T")

_SLICE_S = 0.05
_IDLE_S = 120.0
_LAST_CALLS_S = 1.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which nothing is waited for any more.

    Attributes:
        ends: That moment, in seconds of `clock`.
        clock: Seconds that never run backwards: the time of day may be set while a call runs.
    """

    ends: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """Return the deadline that is `seconds` from now."""
        return cls(clock() + seconds, clock)

    def remaining(self) -> float:
        """Return the seconds that are left; 0 when it is over."""
        return max(0.0, self.ends - self.clock())

    def sooner(self, seconds: float) -> Deadline:
        """Return this deadline or the one in `seconds`, whichever comes first."""
        return Deadline(min(self.ends, self.clock() + seconds), self.clock)

    def check(self, what: str) -> None:
        """Stop when it is over.

        Raises:
            DeadlineError: It is.
        """
        if self.remaining() <= 0.0:
            raise DeadlineError(f"{what} took too long", remedy="raise the deadline, or try later")


class _Call(Generic[T]):
    """One call and its result, if there is one yet."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.done = threading.Event()
        self.result: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        _running.add(self)
        try:
            self.result.append(self._work())
        except BaseException as error:
            # raised again where the call was made; this thread goes on to the next one
            self.error = error
        finally:
            self.done.set()
            _running.discard(self)


_running: set[_Call[Any]] = set()
_process_ends = threading.Event()
_thread = threading.local()


@atexit.register
def _wait_for_last_calls() -> None:
    """Let calls end that nobody waits for any more.

    A thread that sets up TLS while the process's end takes OpenSSL down makes it crash. One that
    hangs in the network does not, and is not waited for much longer.
    """
    _process_ends.set()
    last = Deadline.after(_LAST_CALLS_S)
    for call in tuple(_running):
        call.done.wait(last.remaining())


class _Worker:
    """A daemon thread that makes one call after the other and ends when it is idle or left."""

    def __init__(self, name: str) -> None:
        self.left = False
        self._calls: queue.SimpleQueue[_Call[Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def give(self, call: _Call[Any]) -> bool:
        """Take a call over; False when the thread has ended."""
        with self._lock:
            if self._ended:
                return False
            self._calls.put(call)
            return True

    @property
    def hangs(self) -> bool:
        """Whether it was left behind and is still busy."""
        return self.left and self._thread.is_alive()

    def _run(self) -> None:
        _thread.worker = self
        while not self.left:
            try:
                self._calls.get(timeout=_IDLE_S).run()
            except queue.Empty:
                with self._lock:
                    # under the lock: a call handed over in this moment would never be made
                    if self._calls.empty():
                        self._ended = True
                        return


class BoundedCaller:
    """Calls that return in time, whatever they call; one at a time.

    Timeouts of sockets do not bound a call: name look-ups have none, a peer that sends a byte a
    second restarts them, drivers of object stores retry on their own, and a disk behind a dead
    network mount blocks inside the kernel. Python cannot stop a thread that hangs there. So calls
    run in a daemon thread which is left behind at the deadline: its result is dropped, it does not
    keep the process from ending, and it cleans up after itself when it wakes. While nothing hangs,
    one thread makes all calls, since drivers of object stores keep a connection for each thread.

    Args:
        what: What is called, for messages and the thread's name.
        most_left: Threads left behind and still hanging above which no call is made, so that
            something that hangs for ever costs a handful of threads and not one a minute.
    """

    def __init__(self, what: str, most_left: int = 3) -> None:
        self.what = what
        self._most = most_left
        self._lock = threading.Lock()
        self._left: list[_Worker] = []
        self._worker: _Worker | None = None

    def call(
        self,
        work: Callable[[], T],
        deadline: Deadline,
        cancelled: threading.Event | None = None,
    ) -> T:
        """Return what `work` returns, or raise what it raises, before `deadline`.

        Args:
            work: What to do; must be safe to leave behind half done.
            deadline: When to stop waiting.
            cancelled: Stops the waiting as soon as it is set.

        Raises:
            DeadlineError: The time is over (someone else's call counts), the wait was cancelled,
                or too many earlier calls hang.
        """
        if not self._lock.acquire(timeout=deadline.remaining()):
            raise DeadlineError(f"{self.what} is busy with another call")
        try:
            return self._call(work, deadline, cancelled)
        finally:
            self._lock.release()

    def _call(
        self, work: Callable[[], T], deadline: Deadline, cancelled: threading.Event | None
    ) -> T:
        if cancelled is not None and cancelled.is_set():
            raise DeadlineError(f"{self.what} is not called any more")
        self._left = [worker for worker in self._left if worker.hangs]
        if len(self._left) >= self._most:
            raise DeadlineError(
                f"{self.what} is not called: {len(self._left)} earlier calls still hang",
                remedy="it is called again once one of them has ended",
            )
        seconds = deadline.remaining()
        call = _Call(work)
        worker = self._give(call)
        if not _wait(call.done, deadline, cancelled):
            # it may hang for ever: the next call gets a thread of its own
            worker.left, self._worker = True, None
            self._left.append(worker)
            if cancelled is not None and cancelled.is_set():
                raise DeadlineError(f"{self.what} was not waited for")
            raise DeadlineError(
                f"{self.what} did not answer in time", expected=f"an answer in {seconds:.3g} s"
            )
        if call.error is not None:
            raise call.error
        return call.result[0]

    def _give(self, call: _Call[Any]) -> _Worker:
        if self._worker is None or not self._worker.give(call):
            self._worker = _Worker(f"tasador {self.what}")
            self._worker.give(call)
        return self._worker


def _wait(done: threading.Event, deadline: Deadline, cancelled: threading.Event | None) -> bool:
    if cancelled is None:
        return done.wait(deadline.remaining())
    while not done.is_set():
        if cancelled.is_set() or deadline.remaining() <= 0.0:
            return False
        done.wait(min(_SLICE_S, deadline.remaining()))
    return True


_log = logging.getLogger(__name__)


def retry_context(**arguments: Any) -> Iterator[Any]:
    """Yield stamina's attempts for `arguments`, its retries logged as our own lines are.

    A call that was left behind, and a process that ends, begin no further attempt.

    stamina's own hook prints through structlog on standard output wherever that is installed, which
    is neither JSON where logs are JSON nor hidden where a command's output is read by a program.

    Raises:
        DeadlineError: Nobody waits for another attempt.
    """
    # inside: loading and valuing imports this module, and stamina comes with the extras only
    from stamina import instrumentation
    from stamina import retry_context as attempts

    instrumentation.set_on_retry_hooks([_log_retry])
    for attempt in attempts(**arguments):
        worker: _Worker | None = getattr(_thread, "worker", None)
        if _process_ends.is_set() or (worker is not None and worker.left):
            raise DeadlineError("it is not tried again: nobody waits for it")
        yield attempt


def _log_retry(details: Any) -> None:
    _log.info("%s: tried again in %.1f s", details.caused_by, details.wait_for)
