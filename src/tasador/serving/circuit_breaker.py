"""A circuit breaker: after some failures in a row a dependency is left alone for a while.

Why our own: purgatory counts with the time of day, so a clock set back keeps a circuit open for
hours; its in-memory state has no lock, so several threads may probe at once; and it takes half a
second to import. What is needed is below.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from tasador.core import clock as wall
from tasador.core.deadlines import Deadline, retry_context
from tasador.core.errors import (
    BundleError,
    ConfigError,
    DeadlineError,
    MissingExtraError,
    RegistryRejectedError,
    StorageError,
    TasadorError,
)

BreakerStatus = Literal["closed", "open", "half_open"]


class OpenCircuitError(StorageError):
    """The dependency failed too often and is left alone for now."""


@dataclass(frozen=True, slots=True)
class BreakerState:
    """A breaker at one moment.

    Attributes:
        status: ``closed`` (calls pass), ``open`` (none does) or ``half_open`` (one may probe).
        failures: Failures in a row.
        opened_at: When it opened, ISO 8601 in UTC; None while it is closed.
        retry_in_s: Seconds until a probe may pass; 0 unless it is open.
    """

    status: BreakerStatus
    failures: int
    opened_at: str | None
    retry_in_s: float


class Breaker:
    """Guards the calls to one dependency; safe to use from several threads.

    After `failures` failures in a row it opens. `reset_s` later one call may pass as a probe while
    all others are still refused: its success closes the breaker, its failure opens it again. A
    probe that never reports back (its thread was killed) gives up its place after `reset_s`.

    Args:
        name: The dependency, for messages.
        failures: Failures in a row that open it.
        reset_s: Seconds that it stays open.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        name: str,
        failures: int = 5,
        reset_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures < 1 or reset_s <= 0:
            raise ValueError(
                f"a breaker needs failures >= 1 and reset_s > 0: {failures}, {reset_s}"
            )
        self.name = name
        self._most, self._reset_s, self._clock = failures, reset_s, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened: float | None = None
        self._opened_at: str | None = None
        self._probing: float | None = None

    @property
    def state(self) -> BreakerState:
        """What the breaker does with a call now."""
        with self._lock:
            if self._opened is None:
                return BreakerState("closed", self._failures, None, 0.0)
            wait = self._opened + self._reset_s - self._clock()
            status: BreakerStatus = "open" if wait > 0 else "half_open"
            return BreakerState(status, self._failures, self._opened_at, max(0.0, wait))

    def enter(self) -> None:
        """Ask for one call; whoever may make it must then report `succeed` or `fail`.

        Raises:
            OpenCircuitError: It is open, or half open and someone else is probing.
        """
        with self._lock:
            if self._opened is None:
                return
            now = self._clock()
            wait = self._opened + self._reset_s - now
            # a probe whose thread died must not keep the breaker half open for ever
            if wait <= 0 and (self._probing is None or now - self._probing >= self._reset_s):
                self._probing = now
                return
        raise OpenCircuitError(
            f"{self.name} is left alone after {self._failures} failures in a row",
            got=f"circuit {'open' if wait > 0 else 'half open, someone else is probing'}",
            remedy=f"it is tried again in {max(0.0, wait):.0f} s",
        )

    def succeed(self) -> None:
        """Report that a call got an answer: the breaker closes."""
        with self._lock:
            # one success is enough: a dependency that answers is there
            self._failures, self._opened, self._opened_at, self._probing = 0, None, None, None

    def fail(self) -> None:
        """Report that a call failed: the last of too many, or a failed probe, opens the breaker."""
        with self._lock:
            self._failures += 1
            probed = self._probing is not None
            self._probing = None
            # failures of calls that began before it opened do not prolong the pause
            if self._failures >= self._most and (self._opened is None or probed):
                self._opened, self._opened_at = self._clock(), wall.timestamp()

    @contextmanager
    def guard(self, harmless: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
        """Run the body as one call.

        Args:
            harmless: Errors which show that the dependency is alive.

        Raises:
            OpenCircuitError: The call may not be made.
        """
        self.enter()
        try:
            yield
        except harmless:
            self.succeed()
            raise
        # also a cancelled call: it got no answer, and a probe has to report back
        except BaseException:
            self.fail()
            raise
        self.succeed()


T = TypeVar("T")

#: Errors that the same call would meet again.
_LASTING = (
    BundleError,
    ConfigError,
    DeadlineError,
    MissingExtraError,
    OpenCircuitError,
    RegistryRejectedError,
)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How a call is tried again.

    Attributes:
        attempts: Most attempts, the first included.
        initial_s: Seconds before the second attempt; doubled each time.
        max_s: Most seconds between two attempts.
        jitter_s: Most seconds added by chance, so that many servers do not ask at the same moment.
    """

    attempts: int = 3
    initial_s: float = 0.2
    max_s: float = 2.0
    jitter_s: float = 0.3


def is_passing(error: Exception) -> bool:
    """Tell whether the same call may go well a moment later."""
    return isinstance(error, (TasadorError, OSError)) and not isinstance(error, _LASTING)


def call_again(
    work: Callable[[], T],
    *,
    backoff: Backoff,
    deadline: Deadline,
    on_attempt: Callable[[], None] = lambda: None,
) -> T:
    """Return what `work` returns.

    Args:
        work: What is tried; any error that is not passing ends it at once.
        backoff: How often, and with which pauses.
        deadline: No attempt begins after it.
        on_attempt: Called at the beginning of each attempt.

    Raises:
        Exception: What the last attempt raised.
    """
    for attempt in retry_context(
        on=is_passing,
        attempts=backoff.attempts,
        timeout=deadline.remaining(),
        wait_initial=backoff.initial_s,
        wait_max=backoff.max_s,
        wait_jitter=backoff.jitter_s,
    ):
        # counted at its beginning: an attempt that hangs was made too
        with attempt:
            on_attempt()
            return work()
    raise AssertionError("stamina tries at least once")  # pragma: no cover
