"""`tasador serve` as its own process: started, killed, stopped, started without a model."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fixtures.command_line import run_here
from fixtures.forgery import reseal
from fixtures.process import Server, free_port
from fixtures.redis import Redis
from tasador.records.database import Database
from tasador.records.shared_state import WATCHER, Leases
from tasador.registry.model_bundle import load_bundle

ROW = {"lon": -3.7, "lat": 40.4, "income": 3.0, "rooms": 4, "area": 90.0, "kind": "flat"}
#: How often a service under load is killed; `TASADOR_KILLS=20 pytest -k kill` for the whole proof.
KILLS = int(os.environ.get("TASADOR_KILLS", "2"))


@pytest.fixture
def server(tmp_path, written_bundle) -> Iterator[Server]:
    found = Server(tmp_path, written_bundle, free_port())
    yield found
    found.end()


class Load:
    """Threads that value rows until told to stop, and remember what they were promised."""

    def __init__(self, url: str, threads: int = 4) -> None:
        self.url = url
        self.acknowledged: list[str] = []
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        wanted, started = len(self.acknowledged) + more, time.monotonic()
        while len(self.acknowledged) < wanted and time.monotonic() - started < 60:
            time.sleep(0.01)
        assert len(self.acknowledged) >= wanted

    def _run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=10) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post("/api/v1/predict", json={"instances": [ROW, ROW]})
                except httpx.TransportError as error:
                    self.failed.append(type(error).__name__)
                    time.sleep(0.02)
                    continue
                if answer.status_code == 200:
                    found = answer.json()["predictions"]
                    self.acknowledged += [one["prediction_id"] for one in found]
                else:
                    self.failed.append(str(answer.status_code))
                    time.sleep(0.02)


def recorded(workspace: Path) -> list[str]:
    with sqlite3.connect(workspace / "tasador.db") as database:
        return [row[0] for row in database.execute("SELECT id FROM records")]


@pytest.mark.no_cover
def test_what_was_acknowledged_is_recorded_once_however_often_the_server_is_killed(server) -> None:
    server.start()
    server.wait()
    with Load(server.url) as load:
        for _ in range(KILLS):
            load.wait_for(60)
            server.stop(signal.SIGKILL)
            server.start()
            server.wait()
        load.wait_for(20)
    server.stop()
    ids = recorded(server.workspace)
    assert len(load.acknowledged) > 60 * KILLS
    assert len(ids) == len(set(ids))
    assert set(load.acknowledged) <= set(ids)


def test_a_stopped_server_finishes_what_is_under_way_and_flushes(server) -> None:
    server.measured = True
    server.start()
    server.wait()
    with Load(server.url) as load:
        load.wait_for(40)
        code, out, err = server.stop(signal.SIGTERM)
    assert code == 0, err
    assert f"tasador serves on {server.url}" in out
    assert "from local" in err
    # Refused connections come after the end. A connection that is kept open is closed once, between
    # two requests; a client that was about to send its next one sees that as a read error.
    broken = [failure for failure in load.failed if failure != "ConnectError"]
    assert set(broken) <= {"ReadError", "RemoteProtocolError", "WriteError"}, broken
    assert len(broken) <= 4, broken
    assert set(load.acknowledged) <= set(recorded(server.workspace))


def test_without_a_model_the_server_stays_up_not_ready_and_recovers_by_itself(
    server, tmp_path, written_bundle
) -> None:
    empty = tmp_path / "bundles"
    empty.mkdir()
    server.bundle = empty
    server.start()
    server.wait("/health/live")
    server.wait("/health/ready", 503)
    refused = httpx.post(server.url + "/api/v1/predict", json={"instances": [ROW]})
    assert (refused.status_code, refused.json()["error"]) == (503, "model_not_ready")
    assert refused.headers["retry-after"]
    (empty / "one").symlink_to(written_bundle)
    server.wait("/health/ready", 200)
    answer = httpx.post(server.url + "/api/v1/predict", json={"instances": [ROW]})
    assert answer.status_code == 200


def test_health_is_degraded_while_a_source_offers_a_model_that_is_refused(
    server, tmp_path, written_bundle
) -> None:
    offered = tmp_path / "bundles"
    shutil.copytree(written_bundle, offered / "one")
    server.bundle = offered
    server.start()
    server.wait("/health/ready", 200)
    found = httpx.get(server.url + "/health").json()
    assert (found["status"], found["models_refused"], found["update_problem"]) == (
        "healthy", 0, None
    )  # fmt: skip

    def health_is(status: str) -> dict:
        end = time.monotonic() + 20
        while (now := httpx.get(server.url + "/health").json())["status"] != status:
            assert time.monotonic() < end, now
            time.sleep(0.05)
        return now

    other = {"created": "2099-01-01T00:00:00Z", "metrics": {"test": {"mape": 1.0}}}
    reseal(shutil.copytree(written_bundle, tmp_path / "two"), manifest=lambda m: m.update(other))
    whole = (tmp_path / "two" / "features.npz").read_bytes()
    (tmp_path / "two" / "features.npz").write_bytes(whole[:-1] + b"x")
    (tmp_path / "two").rename(offered / "two")
    found = health_is("degraded")
    assert found["models_refused"] == 1
    assert "features.npz" in found["update_problem"]
    for _ in range(15):  # several polls later it still is, and requests are still answered
        assert httpx.get(server.url + "/health").json()["status"] == "degraded"
        assert httpx.get(server.url + "/health/ready").status_code == 200
        time.sleep(0.05)
    answer = httpx.post(server.url + "/api/v1/predict", json={"instances": [ROW]})
    assert answer.status_code == 200
    shutil.rmtree(offered / "two")
    health_is("healthy")


def statuses(server: Server, most: int, **headers: str) -> tuple[list[int], float]:
    """Ask often, each time on a connection of its own, which any worker may take."""
    started, found = time.monotonic(), []
    for _ in range(most):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/api/v1/model/info", headers=headers)
        found.append(connection.getresponse().status)
        connection.close()
    return found, time.monotonic() - started


def test_the_limits_of_rates_and_of_wrong_keys_hold_over_two_workers(server) -> None:
    server.variables = {
        "TASADOR_SERVER__WORKERS": "2", "TASADOR_SECURITY__KEYS": f"app:client:{'0' * 64}",
        "TASADOR_SECURITY__FAILURES_PER_MINUTE": "20",
    }  # fmt: skip
    server.start()
    server.wait()
    found, seconds = statuses(server, 60, **{"x-api-key": "wrong"})
    assert set(found) == {401, 429}
    assert 20 <= found.count(401) <= 20 + 1 + seconds / 3  # one more every three seconds
    server.end()
    server.variables = {
        "TASADOR_SERVER__WORKERS": "2", "TASADOR_LIMITS__RATE_PER_S": "0.001",
        "TASADOR_LIMITS__BURST": "20",
    }  # fmt: skip
    server.start()
    server.wait()
    found, _ = statuses(server, 60)
    assert (found.count(200), found.count(429)) == (20, 40)


def test_several_workers_share_the_port_the_database_and_the_counters(server) -> None:
    server.variables = {"TASADOR_SERVER__WORKERS": "2"}
    server.measured = True
    server.start()
    server.wait()
    with Load(server.url) as load:
        load.wait_for(100)
    counted = 0.0
    for _ in range(3):  # a scrape is answered by any worker, for all
        text = httpx.get(server.url + "/metrics").text
        counted = sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith('tasador_requests_total{method="POST",route="/api/v1/predict"')
            and 'status="200"' in line
        )
        assert counted == len(load.acknowledged) / 2
    code, _, err = server.stop()
    assert code == 0, err
    assert set(load.acknowledged) <= set(recorded(server.workspace))


@pytest.mark.parametrize(
    ("package", "name", "value", "extra", "workers"),
    [
        ("gcsfs", "SOURCE__OBJECT_STORE", "gs://bucket/models", "gcs", "1"),
        ("s3fs", "SOURCE__OBJECT_STORE", "s3://bucket/models", "s3", "2"),
        ("psycopg", "RECORDS__URL", "postgresql://u:p@127.0.0.1:1/d", "serve", "1"),
        ("cryptography", "SOURCE__TRUSTED_KEYS", "key.pem", "signing", "2"),
        ("redis", "CACHE__KIND", "redis", "serve", "1"),
    ],
)
def test_a_setting_whose_package_is_not_installed_is_refused_at_the_start(
    server, tmp_path, package, name, value, extra, workers
) -> None:
    without = tmp_path / "without"
    without.mkdir()
    (without / f"{package}.py").write_text(f"raise ImportError('No module named {package}')")
    server.variables = {
        f"TASADOR_{name}": value,
        "TASADOR_SERVER__WORKERS": workers,
        "PYTHONPATH": os.pathsep.join([str(without), *sys.path]),
    }
    server.start()
    assert server.process is not None
    out, err = server.process.communicate(timeout=60)
    assert server.process.returncode == 8
    assert out == ""  # it never said that it serves
    assert err.startswith(f"error: the package '{package}' is not installed. To do: ")
    assert extra in err
    assert len(err.splitlines()) == 1


SCHEMA = {"status", "version", "model_loaded", "model_version", "release", "source", "checks"}


def deep(server: Server, code: int = 200) -> dict[str, Any]:
    """Return /health/deep, whose members are the same in every state."""
    answer = httpx.get(server.url + "/health/deep", timeout=10)
    assert answer.status_code == code
    found: dict[str, Any] = answer.json()
    assert set(found) == SCHEMA
    for check in found["checks"]:
        assert set(check) == {"name", "status", "latency_ms", "detail", "checked_at"}
    return found | {"checks": {check["name"]: check["status"] for check in found["checks"]}}


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_deep_health_names_every_dependency_and_each_that_died(server, tmp_path) -> None:
    redis = Redis(tmp_path)
    try:
        server.variables = {"TASADOR_CACHE__KIND": "redis", "TASADOR_CACHE__URL": redis.url}
        server.start()
        server.wait()
        well = deep(server)
        assert well["status"] == "healthy"
        assert well["model_version"] == load_bundle(server.bundle).version
        assert set(well["checks"]) == {
            "model", "local", "refresher", "redis", "records", "watcher", "disk"
        }  # fmt: skip
        redis.kill()
        eventually(lambda: deep(server)["checks"]["redis"] == "unhealthy")
        assert deep(server)["status"] == "degraded"  # rows are still valued
        redis.start()
        eventually(lambda: deep(server)["status"] == "healthy")
    finally:
        redis.kill()
    server.stop()
    server.bundle = tmp_path / "nothing"
    server.start()
    server.wait()
    aged = deep(server)
    assert (aged["status"], aged["source"]) == ("degraded", "last_good")
    server.stop()
    server.workspace = tmp_path / "another"
    server.workspace.mkdir()
    server.start()
    server.wait("/health/live")
    ill = deep(server, 503)
    assert (ill["status"], ill["model_version"], ill["model_loaded"]) == ("unhealthy", None, False)


def test_deep_health_tells_a_watcher_that_went_silent_from_one_that_was_stopped(server) -> None:
    server.start()
    server.wait()
    leases = Leases(Database(server.records_url))
    lease = leases.acquire(WATCHER, "watcher-1", 30.0)
    assert lease is not None
    eventually(lambda: "watcher-1 evaluates" in detail(server, "watcher"))
    assert deep(server)["status"] == "healthy"
    leases.renew(lease, -10.0)  # killed: nobody renewed it
    eventually(lambda: deep(server)["checks"]["watcher"] == "degraded")
    assert deep(server)["status"] == "degraded"
    assert "is silent" in detail(server, "watcher")
    leases.release(lease)
    eventually(lambda: deep(server)["status"] == "healthy")


def detail(server: Server, name: str) -> str:
    checks = httpx.get(server.url + "/health/deep", timeout=10).json()["checks"]
    return next(str(check["detail"]) for check in checks if check["name"] == name)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_line_is_json_while_a_source_is_down_and_requests_are_refused(
    server, workers
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        server.variables = {
            "TASADOR_SOURCE__TRACKING_URI": f"http://127.0.0.1:{nobody.getsockname()[1]}",
            "TASADOR_SOURCE__MODEL_NAME": "houses_model",
            "TASADOR_SERVER__WORKERS": workers,
            "TASADOR_SERVER__LOG_FORMAT": "json",
            "TASADOR_SERVER__LOG_LEVEL": "DEBUG",
            "PYTHONWARNINGS": "default",
        }
        server.measured = workers == "1"
        server.start()
        server.wait()
        httpx.get(server.url + "/nowhere")
        # a worker that has no model yet answers 503, whatever it is sent
        predict, wrong = server.url + "/api/v1/predict", {"instances": [{**ROW, "rooms": "many"}]}
        eventually(lambda: httpx.post(predict, content=b"{").status_code == 422)
        eventually(lambda: httpx.post(predict, json=wrong).status_code == 422)
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            line.sendall(b"no HTTP at all\r\n\r\n")
            assert line.recv(100).startswith(b"HTTP/1.1 400 ")
        time.sleep(2.0)  # some polls of the registry that is away
        code, out, err = server.stop()
    assert code == 0
    lines = [json.loads(line) for line in (out + err).splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    said = [line["message"] for line in lines]
    assert any(server.url in text for text in said)
    assert any("tried again" in text for text in said)  # stamina's retries
    assert "GET (other) 404 unknown_path" in said
    assert "a request without a route 400 malformed_request" in said
    assert "POST /api/v1/predict 422 malformed_json" in said
    assert "POST /api/v1/predict 422 invalid_rows: rooms wrong kind" in said


def gauge(server: Server, name: str) -> dict[str, float]:
    text = httpx.get(server.url + "/metrics", timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def eventually(said: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while True:
        with contextlib.suppress(httpx.TransportError):
            if said():
                return
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def workers_of(server: Server) -> set[int]:
    """Return the processes that serve: children of the supervisor that uvicorn spawned."""
    assert server.process is not None
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return {
        int(pid)
        for pid in children.split()
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


def test_workers_that_were_killed_leave_no_gauge_behind_and_lost_models_show(
    server, written_bundle, tmp_path
) -> None:
    bundles = tmp_path / "bundles"
    shutil.copytree(written_bundle, bundles / "houses")
    server.bundle = bundles
    last_good = tmp_path / "none" / "last_good"
    server.variables = {
        "TASADOR_SERVER__WORKERS": "2",
        "TASADOR_SOURCE__LAST_GOOD": str(last_good),
    }
    server.start()
    server.wait()
    # a worker that runs and has no model yet would answer the slow requests at once
    eventually(lambda: [*gauge(server, "tasador_worker_model_loaded").values()] == [1.0, 1.0])
    assert httpx.get(server.url + "/health/deep").json()["checks"]
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
    for one in slow:  # requests whose body never comes
        one.sendall(
            b"POST /api/v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
            b"Content-Length: 1000\r\n\r\na,b"
        )
    eventually(lambda: gauge(server, "tasador_in_flight") == {"tasador_in_flight": 5.0})
    shutil.rmtree(bundles)
    shutil.rmtree(last_good, ignore_errors=True)
    before = workers_of(server)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(workers_of(server) - before) == 2)
    server.wait("/health/live")
    eventually(lambda: gauge(server, "tasador_in_flight") == {"tasador_in_flight": 1.0})
    eventually(lambda: gauge(server, "tasador_model_loaded") == {"tasador_model_loaded": 0.0})
    assert gauge(server, "tasador_model_info") == {}
    assert httpx.get(server.url + "/health/ready").status_code == 503
    for one in slow:
        one.close()
    server.stop()


def test_a_port_that_is_taken_is_named_without_a_traceback(server) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", server.port))
        taken.listen()
        server.start()
        assert server.process is not None
        _, err = server.process.communicate(timeout=30)
    assert server.process.returncode == 9
    assert f"cannot listen on 127.0.0.1:{server.port}" in err
    assert "choose another --port" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TASADOR_SERVER__PRT", "1", "did you mean TASADOR_SERVER__PORT"),
        ("TASADOR_LIMITS__BATCH", "many", "TASADOR_LIMITS__BATCH is invalid"),
        ("TASADOR_SECURITY__KEYS", "hunter2-secret", "an API key cannot be read"),
        ("TASADOR_SOURCE__ORDER", "mlflow,moon", "each of mlflow"),
        ("TASADOR_RECORDS__URL", "mongodb://x", "sqlite:///"),
        ("TASADOR_SOURCE__OBJECT_STORE", "ftp://host/models", "gs:// or s3://"),
        ("TASADOR_SOURCE__TRACKING_URI", "mysql://host/mlflow", "http://, https:// or sqlite:///"),
        ("TASADOR_SOURCE__LOCAL", "gs://bucket/models", "TASADOR_SOURCE__OBJECT_STORE"),
        ("TASADOR_SOURCE__LAST_GOOD", "s3://bucket/copy", "TASADOR_SOURCE__OBJECT_STORE"),
    ],
)
def test_an_invalid_setting_is_named(tmp_path, monkeypatch, variable, value, said) -> None:
    monkeypatch.setenv(variable, value)
    code, _, err = run_here(tmp_path, "serve", "--workspace", str(tmp_path))
    assert code == 2, err
    assert said in err
    assert "hunter2" not in err


def test_a_process_with_an_invalid_setting_ends_with_its_name_and_no_traceback(server) -> None:
    server.variables = {"TASADOR_SERVER__PRT": "1"}
    server.start()
    assert server.process is not None
    _, err = server.process.communicate(timeout=30)
    assert server.process.returncode == 2, err
    assert "did you mean TASADOR_SERVER__PORT" in err
    assert "Traceback" not in err


def test_a_service_under_a_path_answers_there_and_its_refusals_lead_there(server) -> None:
    server.variables = {"TASADOR_SERVER__ROOT_PATH": "/valuations"}
    server.start()
    server.wait()
    with httpx.Client(base_url=f"{server.url}/valuations") as client:
        assert client.post("/api/v1/predict", json={"instances": [ROW]}).status_code == 200
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/valuations"}]
        unknown = client.get("/nothing").json()
    assert unknown["type"] == "/valuations/problems#unknown_path"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"no request\r\n\r\n")  # refused before any route is looked for
        answer = connection.makefile("rb").read()
    assert b'"/valuations/problems#malformed_request"' in answer


def test_a_record_says_what_was_asked_and_answered(server) -> None:
    server.measured = True
    server.start()
    server.wait()
    body = {"instances": [{**ROW, "rooms": None}]}
    answer = httpx.post(server.url + "/api/v1/predict", json=body).json()
    (found,) = answer["predictions"]
    server.stop()
    with sqlite3.connect(server.workspace / "tasador.db") as database:
        database.row_factory = sqlite3.Row
        (row,) = database.execute("SELECT * FROM records").fetchall()
    assert row["id"] == found["prediction_id"]
    assert json.loads(row["features"]) == body["instances"][0]
    assert (row["prediction"], row["lower"], row["upper"], row["coverage"]) == (
        found["prediction"],
        found["interval"]["lower"],
        found["interval"]["upper"],
        found["interval"]["coverage"],
    )
    assert (row["version"], row["variant"], row["source"]) == (
        answer["model_version"],
        "champion",
        "local",
    )
    assert row["latency_ms"] > 0
    assert found["warnings"] == ["rooms was missing and has been imputed"]
