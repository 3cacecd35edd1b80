"""`tasador serve` as its own process while its registry hangs and dies; a crowd of clients."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fixtures.process import unmeasured
from tasador.registry.model_bundle import load_bundle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
ROW = {"lon": -3.7, "lat": 40.4, "income": 3.0, "rooms": 4, "area": 90.0, "kind": "flat"}
PATH = "/api/v1/predict"


class Service:
    """One `tasador serve`, told by environment variables."""

    def __init__(self, workspace: Path, **variables: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = workspace / f"serve-{self.port}.log"
        command = [sys.executable, "-m", "tasador.cli.app", "serve", "--port", str(self.port),
                   "--workspace", str(workspace)]  # fmt: skip
        named = {f"TASADOR_{name}": value for name, value in variables.items()}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env={**unmeasured(), **named}, cwd=workspace, stdout=log, stderr=log
            )

    def until(self, condition, limit_s: float = 120.0) -> None:
        ends = time.monotonic() + limit_s
        while time.monotonic() < ends:
            with contextlib.suppress(httpx.TransportError):
                if condition():
                    return
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)
        pytest.fail(f"it did not happen: {self.log.read_text()[-3000:]}")

    def ready(self) -> bool:
        return httpx.get(f"{self.url}/health/ready", timeout=10).status_code == 200

    def deep(self) -> dict:
        found = httpx.get(f"{self.url}/health/deep", timeout=10).json()
        return {"all": found["status"], **{one["name"]: one["status"] for one in found["checks"]}}

    def version(self) -> str:
        return httpx.get(f"{self.url}/api/v1/model/info", timeout=10).json()["model_version"]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
                return
            self.process.kill()
            self.process.wait()


@pytest.fixture
def serve(tmp_path) -> Iterator:
    """Start services that end with the test."""
    services: list[Service] = []

    def start(**variables: str) -> Service:
        services.append(Service(tmp_path, **variables))
        return services[-1]

    yield start
    for service in services:
        service.end()


class Clients:
    """Threads that value a row again and again, and keep what they are answered."""

    def __init__(self, url: str, threads: int = 4) -> None:
        self.url = url
        self.answers: list[tuple[str, float, float]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(PATH, json={"instances": [ROW]})
                    plain = answer.json()
                    interval = plain["predictions"][0]["interval"]
                    self.answers.append(
                        (plain["model_version"], interval["lower"], interval["upper"])
                    )
                except (httpx.TransportError, KeyError, ValueError) as error:
                    self.failures.append(repr(error))


def test_a_service_under_load_survives_its_registry_and_follows_it(
    registry_server, serve, real_bundle, newer_bundle
):
    bundles = [load_bundle(folder) for folder in (real_bundle, newer_bundle)]
    wanted = {(b.version, v.lower, v.upper) for b in bundles for v in [b.value(ROW)]}
    old, new = (bundle.version for bundle in bundles)
    registry_server.register(real_bundle, "served")
    variables = {
        "SOURCE__TRACKING_URI": registry_server.uri, "SOURCE__MODEL_NAME": "served",
        "SOURCE__POLL_S": "0.2", "SOURCE__BREAKER_RESET_S": "1.0", "SOURCE__ATTEMPTS": "1",
        "SOURCE__ANSWER_S": "10",
    }  # fmt: skip
    service = serve(**variables)
    service.until(service.ready)
    assert service.version() == old
    with Clients(service.url) as clients:
        registry_server.register(newer_bundle, "served")
        service.until(lambda: service.version() == new)
        with registry_server.hung():
            service.until(lambda: service.deep()["registry"] == "unhealthy")
            assert service.deep()["all"] == "degraded"
        service.until(lambda: service.deep()["registry"] == "healthy")
        registry_server.kill()
        service.until(lambda: service.deep()["registry"] == "unhealthy")
        before = len(clients.answers)
        service.until(lambda: len(clients.answers) > before + 20)
    assert clients.failures == []
    assert set(clients.answers) == wanted
    service.end()
    again = serve(**variables)  # the registry is still dead
    again.until(again.ready)
    assert again.version() == new
    assert again.deep()["model"] == "degraded"
    assert "from last_good" in again.log.read_text()
    registry_server.start()
    again.until(lambda: again.deep()["model"] == "healthy")  # and follows the registry again


def test_a_thousand_connections_are_all_answered(serve, real_bundle):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("this machine does not allow so many connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    service = serve(SOURCE__LOCAL=str(real_bundle))
    service.until(service.ready)
    body = b'{"instances": [{"lon": -3.7, "lat": 40.4, "income": 3, "rooms": 4, "area": 90, "kind": "flat"}]}'  # noqa: E501
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connections = []
    try:
        connections.extend(
            socket.create_connection(("127.0.0.1", service.port), timeout=60) for _ in range(1000)
        )
        for connection in connections:
            connection.sendall(head.encode() + body)
        statuses = []
        for connection in connections:
            answer = connection.recv(1 << 16)
            statuses.append(int(answer.split(b" ", 2)[1]))
            assert statuses[-1] == 200 or b"retry-after:" in answer.lower()
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(statuses) == 1000
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 500
    assert service.ready()
