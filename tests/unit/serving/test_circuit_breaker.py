"""The circuit breaker, and retries."""

from __future__ import annotations

import threading

import pytest

from tasador.core import clock as wall
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
from tasador.serving.circuit_breaker import (
    Backoff,
    Breaker,
    OpenCircuitError,
    call_again,
    is_passing,
)


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock) -> Breaker:
    return Breaker("registry", failures=5, reset_s=60.0, clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.enter()
        breaker.fail()


def test_it_opens_at_the_fifth_failure_in_a_row_and_not_before(breaker):
    fail(breaker, 4)
    assert breaker.state.status == "closed"
    breaker.enter()
    breaker.succeed()
    fail(breaker, 4)
    assert (breaker.state.status, breaker.state.failures) == ("closed", 4)
    fail(breaker, 1)
    state = breaker.state
    assert (state.status, state.failures, state.retry_in_s) == ("open", 5, 60.0)
    assert state.opened_at is not None
    with pytest.raises(OpenCircuitError, match="registry is left alone after 5 failures"):
        breaker.enter()


def test_after_a_minute_one_probe_passes_and_only_one(breaker, clock):
    fail(breaker, 5)
    clock.now = 59.9
    with pytest.raises(OpenCircuitError, match="circuit open"):
        breaker.enter()
    clock.now = 60.0
    assert breaker.state.status == "half_open"
    breaker.enter()
    with pytest.raises(OpenCircuitError, match="someone else is probing"):
        breaker.enter()
    breaker.succeed()
    state = breaker.state
    assert (state.status, state.failures, state.opened_at) == ("closed", 0, None)


def test_a_failed_probe_opens_it_for_another_minute(breaker, clock):
    fail(breaker, 5)
    clock.now = 61.0
    fail(breaker, 1)
    assert breaker.state.status == "open"
    clock.now = 120.0
    with pytest.raises(OpenCircuitError, match="circuit open"):
        breaker.enter()
    clock.now = 121.0
    breaker.enter()


def test_a_probe_that_never_reports_gives_up_its_place(breaker, clock):
    fail(breaker, 5)
    clock.now = 60.0
    breaker.enter()
    clock.now = 120.0
    breaker.enter()


def test_failures_of_calls_that_began_before_it_opened_do_not_keep_it_open_longer(breaker, clock):
    for _ in range(7):
        breaker.enter()
    for _ in range(5):
        breaker.fail()
    clock.now = 30.0
    breaker.fail()
    breaker.fail()
    clock.now = 60.0
    assert breaker.state.status == "half_open"


def test_of_many_threads_one_probes(breaker, clock):
    fail(breaker, 5)
    clock.now = 60.0
    passed, start = [], threading.Barrier(16)

    def probe() -> None:
        start.wait()
        try:
            breaker.enter()
        except OpenCircuitError:
            return
        passed.append(1)

    threads = [threading.Thread(target=probe) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed == [1]


def test_errors_that_show_it_is_alive_count_as_answers(breaker):
    fail(breaker, 4)
    with pytest.raises(KeyError, match="absent"), breaker.guard(harmless=(KeyError,)):
        raise KeyError("absent")
    assert breaker.state.failures == 0
    with pytest.raises(OSError, match="down"), breaker.guard(harmless=(KeyError,)):
        raise OSError("down")
    assert breaker.state.failures == 1
    with breaker.guard():
        pass
    assert breaker.state.failures == 0


def test_the_time_of_day_jumping_back_does_not_keep_it_open(breaker, clock):
    try:
        wall.use_source(lambda: 2e9)
        fail(breaker, 5)
        opened = breaker.state.opened_at
        wall.use_source(lambda: 1e9)  # 31 years back
        clock.now = 60.0
        assert breaker.state.status == "half_open"
        breaker.enter()
        breaker.succeed()
    finally:
        wall.use_source(None)
    assert opened == "2033-05-18T03:33:20Z"
    assert breaker.state.status == "closed"


def test_settings_that_are_invalid_are_refused():
    with pytest.raises(ValueError, match="failures >= 1"):
        Breaker("x", failures=0)


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
            backoff=Backoff(attempts=50, initial_s=0.25, max_s=0.25, jitter_s=0.0),
            deadline=Deadline.after(1.0),
        )
    assert 1 <= work.calls < 10
