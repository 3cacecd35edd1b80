"""The clock is set under a service and its watcher: forward by a day, then back by an hour."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fixtures.houses import Recipe, houses, train_bundle
from fixtures.process import Server, free_port
from tasador.core import clock
from tasador.monitoring.settings import WatchSettings
from tasador.ops.monitor_daemon import Watcher
from tasador.records.database import Database
from tasador.records.store import RecordStore
from tasador.settings.serving import SourceSettings

#: Loaded by the service's process before anything else: its clock is off by what a file says.
MOVED_CLOCK = """
import os
import time

_time = time.time


def moved():
    with open(os.environ["CLOCK_OFFSET"]) as file:
        return _time() + float(file.read())


time.time = moved
"""


class Clock:
    """The clock of this process and of those that it starts."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        self.set(0.0)
        (folder / "sitecustomize.py").write_text(MOVED_CLOCK)
        self.variables = {
            "CLOCK_OFFSET": str(self._file),
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        }

    def set(self, offset_s: float) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(str(offset_s))
        new.replace(self._file)
        clock.use_source(lambda: time.time() + offset_s)


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[Clock]:
    yield Clock(tmp_path)
    clock.use_source(None)


def test_a_service_and_its_watcher_go_on_when_the_clock_jumps(
    moved: Clock, house_contract, tmp_path: Path
) -> None:
    folder = tmp_path / "houses"
    train_bundle(
        folder, house_contract, houses(800), tmp_path / "data", Recipe(trees=40, watched=True)
    )
    server = Server(
        tmp_path, folder, free_port(), TASADOR_SECURITY__KEYS="", TASADOR_LIMITS__RATE_PER_S="1000",
        **moved.variables,
    )  # fmt: skip
    server.start()
    watcher = Watcher(
        WatchSettings(window_s=1800.0), SourceSettings(local=str(folder)), server.records_url
    )
    rows = houses(120, seed=9).to_dicts()
    prices = [row.pop("price") for row in rows]
    asked: list[str] = []
    try:
        server.wait()
        with httpx.Client(base_url=server.url, timeout=30) as client:

            def use() -> None:
                answer = client.post("/api/v1/predict", json={"instances": rows})
                assert answer.status_code == 200, answer.text
                asked.extend(one["prediction_id"] for one in answer.json()["predictions"])

            def tell() -> None:
                told = zip(asked, prices * (len(asked) // len(prices)), strict=True)
                outcomes = [{"prediction_id": key, "actual": price} for key, price in told]
                answer = client.post("/api/v1/outcomes", json={"outcomes": outcomes})
                assert answer.status_code == 200, answer.text
                found = {one["status"] for one in answer.json()["results"]}
                assert found <= {"accepted", "repeated"}, json.dumps(answer.json())[:500]

            use()
            usual = watcher.round()
            moved.set(86_400.0)
            tell()  # of yesterday's estimates
            forward = watcher.round()
            use()
            later = watcher.round()
            moved.set(-3600.0)
            tell()  # of estimates that the clock says are yet to be made
            use()
            tell()
            back = watcher.round()
            deep = client.get("/health/deep").json()
            assert client.get("/health/ready").status_code == 200
        rounds = [usual, forward, later, back]
        assert all(one.leads and one.verdict is not None for one in rounds)
        assert [one.verdict.rows for one in rounds if one.verdict] == [120, 0, 120, 120]
        assert forward.verdict is not None
        assert forward.verdict.level == "cannot_tell"  # an empty window is no good news
        assert "firing" not in {state for one in rounds for _, state in one.changes}
        assert {c["name"]: c["status"] for c in deep["checks"]}["records"] == "healthy"
        code, _, err = server.stop()
        assert code == 0, err
        with Database.open(server.records_url) as database:
            store = RecordStore(database)
            found = [key for batch in store.read(0.0, 1e12) for key in batch.id]
            known = store.count_outcomes(0.0, 1e12)
        assert sorted(found) == sorted(asked)
        assert known == len(asked) == 360
    finally:
        watcher.close()
        server.end()
