"""The supervisor, with real processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from fixtures.process import free_port, unmeasured
from tasador.core.errors import ConfigError, ServingError
from tasador.ops.processes import Member, Stack

SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={port}, bind='127.0.0.1')"


def python(name: str, code: str, **options: object) -> Member:
    return Member(name, (sys.executable, "-c", code), **options)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_all_start_are_ready_and_stop_in_an_orderly_way(tmp_path: Path) -> None:
    port = free_port()
    said = tmp_path / "said"
    polite = (
        "import signal, sys, time\n"
        f"signal.signal(15, lambda *_: (open({str(said)!r}, 'w').write('bye'), sys.exit(0)))\n"
        "print('up', flush=True)\n"
        "time.sleep(60)"
    )
    stack = Stack(
        [
            python("web", SERVE.format(port=port), port=port, health="/"),
            python("polite", polite),
        ],
        tmp_path / "logs",
    )
    seen: list[str] = []

    def ready() -> None:
        while "up" not in (tmp_path / "logs" / "polite.log").read_text():
            time.sleep(0.02)
        seen.append("ready")
        stack.stop()

    stack.run(ready)
    assert seen == ["ready"]
    assert said.read_text() == "bye"
    Stack([python("again", "pass", port=port)], tmp_path)._check_ports()  # the port is free again


def test_one_that_dies_is_named_with_its_last_words_and_the_rest_is_stopped(tmp_path) -> None:
    pid_file = tmp_path / "pid"
    stays = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    dies = (
        "import os, sys, time\n"
        f"while not os.path.exists({str(pid_file)!r}) or not os.path.getsize({str(pid_file)!r}):\n"
        "    time.sleep(0.02)\n"
        "sys.exit('the disk is on fire')"
    )
    stack = Stack([python("stays", stays), python("dies", dies)], tmp_path / "logs")
    with pytest.raises(ServingError, match=r"dies ended with code 1(.|\n)*the disk is on fire"):
        stack.run()
    assert not alive(int(pid_file.read_text()))


def test_one_that_ignores_the_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    deaf = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(15, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)"
    )
    stack = Stack([python("deaf", deaf)], tmp_path / "logs", stop_s=0.3)

    def ready() -> None:
        while not pid_file.exists() or not pid_file.read_text():
            time.sleep(0.02)
        stack.stop()

    stack.run(ready)
    child = int(pid_file.read_text())
    end = time.monotonic() + 10
    while alive(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(child)


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        stack = Stack([python("ui", "pass", port=port)], tmp_path / "logs")
        with pytest.raises(ServingError, match=f"ui cannot have port {port}.*--ui-port"):
            stack.run()
    assert not (tmp_path / "logs").exists()
    with pytest.raises(ConfigError, match="one and two cannot both have port 9"):
        Stack([python("one", "", port=9), python("two", "", port=9)], tmp_path).run()


def test_one_that_is_not_ready_in_time_is_named(tmp_path: Path) -> None:
    stack = Stack(
        [python("slow", "import time; time.sleep(60)", port=free_port(), health="/")],
        tmp_path / "logs",
        start_s=0.3,
    )
    with pytest.raises(ServingError, match="slow was not ready within 0 s"):
        stack.run()


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    stack = Stack([Member("ghost", ("/nowhere/ghost",))], tmp_path / "logs")
    with pytest.raises(ServingError, match="ghost cannot be started"):
        stack.run()


def test_stopping_while_it_starts_ends_it(tmp_path: Path) -> None:
    stack = Stack(
        [python("slow", "import time; time.sleep(60)", port=free_port(), health="/")],
        tmp_path / "logs",
    )
    threading.Timer(0.5, stack.stop).start()
    stack.run(lambda: pytest.fail("it was never ready"))


def test_the_commands_own_signal_handling_leaves_nothing_behind(tmp_path: Path) -> None:
    """`tasador up` as people use it: an API alone, Ctrl-C, all gone."""
    import subprocess

    port = free_port()
    command = [sys.executable, "-m", "tasador.cli.app", "up", "--workspace", str(tmp_path)]
    command += ["--api-port", str(port), "--without", "mlflow", "--without", "ui"]
    command += ["--without", "watcher"]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"made {tmp_path}")  # the signing key
    assert process.stdout.readline().startswith("starting api")
    assert f"http://127.0.0.1:{port}" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "stopped" in out
    assert "tasador serves on" in (tmp_path / "logs" / "api.log").read_text()


@pytest.mark.parametrize("way", ["option", "variable"])
def test_one_word_lets_the_watcher_retrain_within_its_budget(tmp_path: Path, way: str) -> None:
    import subprocess

    command = [sys.executable, "-m", "tasador.cli.app", "up", "--workspace", str(tmp_path)]
    command += [word for name in ("mlflow", "api", "ui") for word in ("--without", name)]
    command += ["--set", "retraining.budget=2", "--set", "retraining.budget_minutes=30"]
    command += ["--retrain"] if way == "option" else []
    env = {**unmeasured(), **({"TASADOR_RETRAIN": "on"} if way == "variable" else {})}
    process = subprocess.Popen(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    budget = "at most 2 trainings in 30 days, 30 minutes in all, 24 hours apart"
    try:
        assert process.stdout is not None
        assert "made" in process.stdout.readline()  # the signing key
        assert "watcher" in process.stdout.readline()
        assert f"retraining: {budget}" in process.stdout.readline()
        log, end = (
            tmp_path / "logs" / "watcher.log",
            time.monotonic() + 240,
        )  # a first round imports MLflow
        while "the model is left as it is" not in log.read_text():  # it tried: there is none yet
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        assert f"retraining is on: {budget}" in log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_a_setting_of_the_retraining_that_does_not_exist_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", "up", "--workspace", str(tmp_path), "--retrain",
         "--set", "retraining.budgett=2"], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "budgett" in done.stderr
    assert not (tmp_path / "logs").exists()
