"""Records that can be kept nowhere: 503 with Retry-After, and every probe says so."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasador.records.batch_writer import RecordWriter
from tasador.settings.serving import RecordSettings

PROBES = ("/health/ready", "/ping", "/v2/health/ready", "/v2/models/houses_model/ready")


def ready(client: httpx.Client) -> set[int]:
    """Return what the readiness routes answer, and `/health` in its body."""
    plain = {"healthy": 200, "unhealthy": 503}[client.get("/health").json()["status"]]
    return {plain, *(client.get(path).status_code for path in PROBES)}


def wait_for(said: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not said():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@contextlib.contextmanager
def locked(service: Any) -> Iterator[None]:
    """Hold the database as a writer that never ends."""
    path = service.writer.settings.url.removeprefix("sqlite:///")
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        lock.execute("ROLLBACK")
        lock.close()


def test_a_locked_database_and_a_full_spool_are_503_on_every_probe_until_it_is_free_again(
    serve, house
) -> None:
    service = serve(records={"spool_bytes": 8000})
    row = {"instances": [house]}
    with service.client(timeout=30) as client:
        assert client.post("/api/v1/predict", json=row).status_code == 200
        assert ready(client) == {200}
        with locked(service):
            answers = [client.post("/api/v1/predict", json=row) for _ in range(60)]
            refused = [answer for answer in answers if answer.status_code != 200]
            assert len(refused) > 10
            for answer in refused:
                assert answer.status_code == 503
                assert answer.json()["error"] == "no_space"
                assert int(answer.headers["retry-after"]) > 0
            assert ready(client) == {503}
            assert client.get("/health/live").status_code == 200
            for path, body in (
                ("/invocations", {"instances": [house]}),
                ("/api/v1/explain", row),
            ):
                answer = client.post(path, json=body)
                assert (answer.status_code, answer.json()["error"]) == (503, "no_space")
        wait_for(lambda: ready(client) == {200})
        assert client.post("/api/v1/predict", json=row).status_code == 200
    accepted = len(answers) - len(refused) + 2
    wait_for(lambda: service.writer.status().state == "ok")
    assert service.writer.status().written + service.writer.status().replayed == accepted


def test_a_spool_whose_folder_cannot_be_used_matters_once_the_database_is_locked(
    serve, house
) -> None:
    service = serve(records={"spool": __file__, "retry_s": 0.1})
    with service.client(timeout=30) as client:
        assert client.post("/api/v1/predict", json={"instances": [house]}).status_code == 200
        with locked(service):
            answer = client.post("/api/v1/predict", json={"instances": [house]})
            assert (answer.status_code, answer.json()["error"]) == (503, "no_space")
            assert ready(client) == {503}
        wait_for(lambda: ready(client) == {200})


def test_without_a_request_it_is_found_out_too_that_nothing_can_be_written(tmp_path) -> None:
    in_the_way = tmp_path / "records.db"
    in_the_way.mkdir()
    url = f"sqlite:///{in_the_way}"
    writer = RecordWriter(RecordSettings(url=url, spool=__file__, retry_s=0.1))
    assert writer.keeps()
    writer.start()
    try:
        wait_for(lambda: not writer.keeps())
        assert writer.status().full
        in_the_way.rmdir()
        wait_for(writer.keeps)
    finally:
        writer.close()


@pytest.mark.parametrize("mode", ["async", "off"])
def test_where_no_record_has_to_be_kept_rows_are_valued_all_the_same(serve, house, mode) -> None:
    service = serve(mode=mode, records={"spool_bytes": 0})
    with service.client(timeout=30) as client:
        client.post("/api/v1/predict", json={"instances": [house]})
        wait_for(lambda: Path(service.writer.settings.url[10:]).exists() or mode == "off")
        with contextlib.nullcontext() if mode == "off" else locked(service):
            for _ in range(5):
                answer = client.post("/api/v1/predict", json={"instances": [house]})
                assert answer.status_code == 200
            assert ready(client) == {200}
