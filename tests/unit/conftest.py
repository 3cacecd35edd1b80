"""Real servers for the packages that read them: MLflow, and object stores that can be slow."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.process import free_port, unmeasured


@dataclass
class RegistryServer:
    """A running `mlflow server` on a SQLite database, with proxied artifacts."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", self.database]
        command += ["--workers", "1", "--artifacts-destination", str(self.folder / "served")]
        environment = unmeasured()
        environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
        # its job workers are seven more processes; `tasador up` starts none either
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.answers():  # it listens long before it answers
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def signal(self, number: int) -> None:
        """Send a signal to the server and all of its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Stop the server's processes: connections are accepted, nothing is answered."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def register(self, folder: Path, model: str, alias: str = "staging", **tags: str) -> str:
        """Make the bundle in `folder` a version of `model`, give it the alias, return its number.

        Past the server, straight into its database and its store: quick on a busy machine.
        """
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(tracking_uri=self.database, registry_uri=self.database)
        run = client.create_run("0").info.run_id
        shutil.copytree(folder, self.folder / "served" / "0" / run / "artifacts/model/data/bundle")
        with contextlib.suppress(MlflowException):  # it exists
            client.create_registered_model(model)
        source = f"mlflow-artifacts:/0/{run}/artifacts/model"
        version = client.create_model_version(model, source, run_id=run, tags=tags)
        client.set_registered_model_alias(model, alias, str(version.version))
        return str(version.version)

    def client(self):
        """Return MLflow's own client."""
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)


@pytest.fixture(scope="session")
def registry_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """One server for all tests of a process; give every test a model name of its own."""
    server = RegistryServer(tmp_path_factory.mktemp("registry"), free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def real_bundle(bundle_parts, tmp_path_factory) -> Path:
    """A bundle of real origin; do not change it."""
    import dataclasses

    from tasador.registry.writer import write_bundle

    folder = tmp_path_factory.mktemp("real") / "houses-real"
    write_bundle(folder, dataclasses.replace(bundle_parts, origin="real"))
    return folder


@pytest.fixture(scope="session")
def newer_bundle(bundle_parts, tmp_path_factory) -> Path:
    """Another bundle of real origin, of the same contract, with wider intervals."""
    import dataclasses

    from tasador.registry.writer import write_bundle

    folder = tmp_path_factory.mktemp("newer") / "houses-newer"
    interval = dataclasses.replace(
        bundle_parts.interval, quantile=2.0 * bundle_parts.interval.quantile
    )
    write_bundle(folder, dataclasses.replace(bundle_parts, origin="real", interval=interval))
    return folder


class SlowProxy:
    """Passes connections on to another port, after a pause for every chunk that comes back."""

    def __init__(self, port: int) -> None:
        self.pause_s = 0.0
        self.sent_back = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                for one, other, slow in ((client, server, False), (server, client, True)):
                    threading.Thread(
                        target=self._pump, args=(one, other, slow), daemon=True
                    ).start()

    def _pump(self, source: socket.socket, target: socket.socket, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 16):
                if slow:
                    time.sleep(self.pause_s)
                    self.sent_back += len(chunk)
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            one.close()


@pytest.fixture(scope="module")
def s3():
    """(A location in a real moto server behind a proxy that can be slow, the proxy)."""
    moto = pytest.importorskip("moto.server")
    fsspec = pytest.importorskip("fsspec")
    driver = pytest.importorskip("s3fs").S3FileSystem
    with pytest.MonkeyPatch.context() as patch:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(key, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        proxy = SlowProxy(server.get_host_and_port()[1])
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        driver.clear_instance_cache()  # else they talk to another test's server
        bucket = f"bundles-{proxy.port}"
        fsspec.filesystem("s3").mkdir(bucket)
        yield f"s3://{bucket}", proxy
        driver.clear_instance_cache()
        proxy.close()
        server.stop()


@pytest.fixture(scope="module")
def gs():
    """A location in a real emulator of Google's object store."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        pytest.importorskip("gcsfs")
        server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bundles")
        server.start()
        port = server._api._httpd.server_address[1]
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        yield "gs://bundles"
        with contextlib.suppress(Exception):
            server.stop()


@pytest.fixture
def tasador(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run a command in the test's `workspace`; what it printed."""
    from tasador.cli.app import app

    # made when the module is imported, at the width that the terminal had then
    monkeypatch.setattr("tasador.cli.output.out._width", 200)

    def call(*words: str) -> str:
        capsys.readouterr()
        app([*words, "--workspace", str(workspace)], standalone_mode=False)
        captured = capsys.readouterr()
        return captured.out + captured.err

    return call
