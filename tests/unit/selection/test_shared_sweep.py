"""Several workers, one study: real processes on a real SQLite file and a real PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("sweep_worker.py")
TRIALS = 8
_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def free_port() -> int:
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """URL of a database server of its own; initdb refuses root, so `postgres` runs it then."""
    if not _BINARIES:
        pytest.skip("PostgreSQL is not installed")
    # not below pytest's own folder, which is closed to other users
    folder = Path(tempfile.mkdtemp(prefix="tasador-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    data, port = folder / "data", free_port()

    def run(*words: str) -> None:
        subprocess.run([*as_user, *words], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    run(str(_BINARIES[-1] / "initdb"), "-D", str(data), "-U", "tasador", "-A", "trust", "-N")
    control = str(_BINARIES[-1] / "pg_ctl")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -F"
    run(control, "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    yield f"postgresql+psycopg://tasador@127.0.0.1:{port}/postgres"
    run(control, "-D", str(data), "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    return str(request.getfixturevalue("postgres"))


def workers(storage: str, count: int, trials: int) -> list[dict[str, Any]]:
    """Start the workers, let them begin together, return what each says."""
    running = [
        subprocess.Popen(
            [sys.executable, str(WORKER), storage, str(trials)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for worker in running:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    told = []
    for worker in running:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in running:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
        told.append(json.loads(out))
    return told


def texts(trials: list[dict[str, Any]]) -> set[str]:
    return {json.dumps(params, sort_keys=True) for params in trials}


def test_two_workers_on_an_empty_database_share_the_trials_and_the_best(storage: str) -> None:
    one, two = workers(storage, 2, TRIALS)
    own = [texts(told["mine"][1:]) for told in (one, two)]
    assert all(own), "each worker has tried something"
    assert not own[0] & own[1]
    last = max(one, two, key=lambda told: len(told["all"]))
    assert texts(last["all"][1:]) == own[0] | own[1]
    assert TRIALS <= len(last["all"]) <= TRIALS + 1  # the other was at work on its last one
    assert one["all"][0] == two["all"][0] == one["mine"][0]  # the selection's winner
    assert last["best"] == min(last["found"])

    (third,) = workers(storage, 1, TRIALS)
    assert third["mine"][1:] == []  # nothing is left to try
    assert texts(third["all"]) == texts(last["all"])
