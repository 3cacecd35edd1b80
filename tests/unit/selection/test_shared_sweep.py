"""Several workers, one study: real processes on a real SQLite file and a real PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fixtures import sweep_worker

TRIALS = 8


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    url: str = request.getfixturevalue("postgres_url")
    return url.replace("postgresql://", "postgresql+psycopg://")


def workers(storage: str, count: int, trials: int) -> list[dict[str, Any]]:
    """Start the workers, let them begin together, return what each says."""
    running = [
        subprocess.Popen(
            [sys.executable, sweep_worker.__file__, storage, str(trials)],
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
        out, err = worker.communicate(timeout=300)
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

    third = sweep_worker.work(storage, TRIALS)
    assert third["mine"][1:] == []  # nothing is left to try
    assert texts(third["all"]) == texts(last["all"])
