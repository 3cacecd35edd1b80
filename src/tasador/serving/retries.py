"""Bounded retries: exponential backoff with jitter, within a deadline."""

from __future__ import annotations

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
        with attempt:
            on_attempt()
            return work()
    raise AssertionError("stamina tries at least once")  # pragma: no cover
