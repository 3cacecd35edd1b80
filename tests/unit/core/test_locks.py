"""One at a time, also after a holder was killed, and where nothing can be locked."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from tasador.training.pipeline import one_at_a_time

HOLD = """
import sys
from pathlib import Path
from tasador.training.pipeline import one_at_a_time
with one_at_a_time(Path(sys.argv[1]), lambda who: print("waits for", who, flush=True)):
    print("has it", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder():
    """Start a process that has a lock till a line is sent; return it and what it said first."""
    started = []

    def start(path):
        words = (sys.executable, "-c", HOLD, str(path))
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True))
        return started[-1], started[-1].stdout.readline().strip()

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_a_second_process_says_for_whom_it_waits_and_then_goes_on(tmp_path, holder):
    first, said = holder(tmp_path / "run.lock")
    assert said == "has it"
    second, said = holder(tmp_path / "run.lock")
    assert said.startswith(f"waits for process {first.pid} (")
    assert first.poll() is None
    first.communicate("\n")
    assert second.stdout.readline().strip() == "has it"
    second.communicate("\n")
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_killed_holder_leaves_no_lock(tmp_path, holder):
    killed, said = holder(tmp_path / "run.lock")
    assert said == "has it"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    waited = []
    with one_at_a_time(tmp_path / "run.lock", waited.append):
        assert waited == []


def test_threads_of_one_process_take_turns(tmp_path):
    inside, most = [], []

    def work():
        with one_at_a_time(tmp_path / "run.lock", lambda _: None):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


@pytest.mark.parametrize("text", ["", "not JSON", "{}", "[1]"])
def test_a_lock_file_with_anything_in_it_still_locks(tmp_path, text, holder):
    path = tmp_path / "run.lock"
    holder(path)
    path.write_text(text)
    _, said = holder(path)
    assert said == "waits for another process"


def test_where_nothing_can_be_locked_the_body_runs_with_a_warning(tmp_path, caplog):
    (tmp_path / "run.lock").mkdir()  # what cannot be opened, even by root
    with one_at_a_time(tmp_path / "run.lock", pytest.fail):
        assert (tmp_path / "run.lock").is_dir()
    assert "cannot be locked" in caplog.text
