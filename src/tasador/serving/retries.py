"""Trying again: exponential backoff with jitter, within a deadline and a budget for all calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tasador.core.deadlines import Deadline
from tasador.core.errors import (
    BundleError,
    ConfigError,
    DeadlineError,
    MissingExtraError,
    RefusedError,
    TasadorError,
)
from tasador.core.retries import retry_context
from tasador.serving.breaker import OpenCircuitError

T = TypeVar("T")

#: Errors that the same call would meet again.
_LASTING = (
    BundleError,
    ConfigError,
    DeadlineError,
    MissingExtraError,
    OpenCircuitError,
    RefusedError,
)


class RetryBudget:
    """How many retries all callers together may make: when much fails, retries only add load.

    Args:
        per_minute: Retries that become available each minute; also the most that can be saved up.
        clock: Seconds that never run backwards.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = per_minute / 60.0, float(per_minute), clock
        self._left, self._at = self._most, clock()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one retry; False when there is none left."""
        with self._lock:
            now = self._clock()
            self._left = min(self._most, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True


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
    budget: RetryBudget,
    deadline: Deadline,
    on_attempt: Callable[[], None] = lambda: None,
) -> T:
    """Return what `work` returns.

    Args:
        work: What is tried; any error that is not passing ends it at once.
        backoff: How often, and with which pauses.
        budget: Pays for every attempt but the first.
        deadline: No attempt begins after it.
        on_attempt: Called at the beginning of each attempt.

    Raises:
        Exception: What the last attempt raised.
    """
    made = 0

    def worthwhile(error: Exception) -> bool:
        return made < backoff.attempts and is_passing(error) and budget.take()

    for attempt in retry_context(
        on=worthwhile,
        attempts=backoff.attempts,
        timeout=deadline.remaining(),
        wait_initial=backoff.initial_s,
        wait_max=backoff.max_s,
        wait_jitter=backoff.jitter_s,
    ):
        with attempt:
            made += 1
            on_attempt()
            return work()
    raise AssertionError("stamina tries at least once")  # pragma: no cover
