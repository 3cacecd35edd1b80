"""Deadlines that hold, also over calls that hang."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from tasador.core.deadlines import BoundedCaller, Deadline, retry_context
from tasador.core.errors import DeadlineError


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_deadline_runs_down_and_then_stops_what_checks_it():
    clock = Clock()
    deadline = Deadline.after(5.0, clock)
    assert deadline.remaining() == 5.0
    assert deadline.sooner(2.0).remaining() == 2.0
    assert deadline.sooner(9.0).remaining() == 5.0
    deadline.check("reading")
    clock.now += 6.0
    assert deadline.remaining() == 0.0
    with pytest.raises(DeadlineError, match="reading took too long"):
        deadline.check("reading")


def test_a_call_gives_its_result_or_its_error():
    caller = BoundedCaller("store")
    assert caller.call(lambda: 7, Deadline.after(10)) == 7

    def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        caller.call(broken, Deadline.after(10))


def test_calls_that_end_in_time_share_one_thread():
    caller = BoundedCaller("store")
    seen = {caller.call(threading.get_ident, Deadline.after(10)) for _ in range(5)}
    assert len(seen) == 1
    assert seen != {threading.get_ident()}


def test_a_call_that_hangs_is_left_behind_and_the_next_one_gets_a_new_thread():
    caller, release = BoundedCaller("store"), threading.Event()
    with pytest.raises(DeadlineError, match=r"store did not answer in time: .*0\.\d+ s"):
        caller.call(release.wait, Deadline.after(0.1))
    assert caller.call(lambda: "next", Deadline.after(10)) == "next"
    release.set()


def test_something_that_hangs_for_ever_costs_a_handful_of_threads():
    caller, release = BoundedCaller("store", most_left=2), threading.Event()
    for _ in range(2):
        with pytest.raises(DeadlineError, match="did not answer"):
            caller.call(release.wait, Deadline.after(0.02))
    with pytest.raises(DeadlineError, match="2 earlier calls still hang"):
        caller.call(lambda: 1, Deadline.after(10))
    release.set()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            assert caller.call(lambda: 1, Deadline.after(10)) == 1
            return
        except DeadlineError:
            time.sleep(0.01)
    pytest.fail("the caller did not recover")


def test_a_wait_can_be_cancelled_and_then_nothing_is_called_any_more():
    caller, cancelled, release = BoundedCaller("store"), threading.Event(), threading.Event()
    threading.Timer(0.1, cancelled.set).start()
    with pytest.raises(DeadlineError, match="was not waited for"):
        caller.call(release.wait, Deadline.after(60), cancelled)
    with pytest.raises(DeadlineError, match="not called any more"):
        caller.call(lambda: pytest.fail("called"), Deadline.after(60), cancelled)
    release.set()


def test_one_call_at_a_time_and_others_wait_no_longer_than_their_deadline():
    caller, release, begun = BoundedCaller("store"), threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        release.wait()

    other = threading.Thread(target=lambda: caller.call(busy, Deadline.after(30)))
    other.start()
    begun.wait()
    with pytest.raises(DeadlineError, match="busy with another call"):
        caller.call(lambda: 1, Deadline.after(0.05))
    release.set()
    other.join()


def test_an_idle_thread_ends(monkeypatch):
    monkeypatch.setattr("tasador.core.deadlines._IDLE_S", 0.02)
    caller = BoundedCaller("idle one")
    caller.call(lambda: 1, Deadline.after(10))
    until = time.monotonic() + 10
    while any(t.name == "tasador idle one" for t in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert caller.call(lambda: 2, Deadline.after(10)) == 2


def test_a_call_that_was_left_behind_is_not_tried_again():
    caller, release, made = BoundedCaller("left one"), threading.Event(), []

    def work() -> None:
        for attempt in retry_context(on=OSError, attempts=3, wait_initial=0.0, wait_max=0.0):
            with attempt:
                made.append(release.wait(60))
                raise OSError("no answer")

    with pytest.raises(DeadlineError, match="did not answer"):
        caller.call(work, Deadline.after(0.05))
    (left,) = [t for t in threading.enumerate() if t.name == "tasador left one"]
    release.set()
    left.join(10)
    assert not left.is_alive()
    assert made == [True]


_LEFT_BEHIND = """
import os, time
from tasador.core.deadlines import BoundedCaller, Deadline, DeadlineError

def work():
    time.sleep({seconds})
    os.write(1, b"the call ended")

try:
    BoundedCaller("store").call(work, Deadline.after(0.05))
except DeadlineError:
    os.write(1, b"left behind, ")
"""


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "left behind, the call ended"),
                                               (60.0, "left behind, ")])  # fmt: skip
def test_a_process_ends_after_its_last_calls_unless_they_hang(seconds, said):
    started = time.monotonic()
    code = _LEFT_BEHIND.format(seconds=seconds)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, said, "")
    assert time.monotonic() - started < 30
