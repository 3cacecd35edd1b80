"""Retries: after which errors, how often, and for how long."""

from __future__ import annotations

import pytest

from tasador.core.deadlines import Deadline
from tasador.core.errors import (
    BundleError,
    ConfigError,
    DeadlineError,
    MissingExtraError,
    NothingOfferedError,
    RegistryError,
    RegistryRejectedError,
    StorageError,
)
from tasador.serving.model_loading.circuit_breaker import (
    Backoff,
    OpenCircuitError,
    call_again,
    is_passing,
)

QUICK = Backoff(attempts=3, initial_s=0.001, max_s=0.002, jitter_s=0.001)


class Failing:
    """Fails a number of times, then answers."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "answer"


def again(work, deadline=None, attempts=None):
    made = attempts if attempts is not None else []
    return call_again(
        work,
        backoff=QUICK,
        deadline=deadline or Deadline.after(10),
        on_attempt=lambda: made.append(1),
    )


def test_a_passing_failure_is_tried_again():
    work, made = Failing(2, StorageError("down")), []
    assert again(work, attempts=made) == "answer"
    assert (work.calls, len(made)) == (3, 3)


def test_the_last_failure_is_raised_when_the_attempts_are_used_up():
    work = Failing(9, StorageError("down"))
    with pytest.raises(StorageError, match="down"):
        again(work)
    assert work.calls == 3


@pytest.mark.parametrize(
    "error",
    [
        BundleError("x"),
        NothingOfferedError("x"),
        ConfigError("x"),
        DeadlineError("x"),
        MissingExtraError("x"),
        RegistryRejectedError("x"),
        OpenCircuitError("x"),
        ValueError("x"),
    ],
)
def test_what_would_fail_again_is_not_tried_again(error):
    work = Failing(9, error)
    with pytest.raises(type(error), match="x"):
        again(work)
    assert work.calls == 1


def test_errors_of_networks_disks_and_registries_pass():
    assert is_passing(RegistryError("x"))
    assert is_passing(StorageError("x"))
    assert is_passing(ConnectionResetError())


def test_no_attempt_begins_after_the_deadline():
    work = Failing(9, StorageError("down"))
    with pytest.raises(StorageError, match="down"):
        call_again(
            work,
            backoff=Backoff(attempts=50, initial_s=0.05, max_s=0.05, jitter_s=0.0),
            deadline=Deadline.after(0.12),
        )
    assert 1 <= work.calls < 10
