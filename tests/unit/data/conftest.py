"""What the data room's tests share: the real tables, a small contract, a real HTTP server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import polars as pl
import pytest

from tasador.data.contract import Column, TableContract, Target
from tasador.data.contract_reader import read_contract
from tasador.data.table import Table

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real tables, named before any test clears the variable."""
    folder = Path(os.environ.get("TASADOR_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "housing.csv").is_file():
        pytest.skip(f"the real tables are not in {folder}")
    return folder


@pytest.fixture(autouse=True)
def _no_real_data_variable(monkeypatch):
    """Only tests that ask for real tables find them."""
    monkeypatch.delenv("TASADOR_REAL_DATA", raising=False)


@pytest.fixture(scope="session")
def shipped() -> Callable[[str], TableContract]:
    """Return a contract that ships with the package."""
    folder = Path(str(resources.files("tasador"))) / "conf" / "dataset"
    return lambda name: read_contract(folder / f"{name}.yaml")


@pytest.fixture
def flats() -> TableContract:
    """One column of every kind."""
    return TableContract(
        name="flats",
        title="Flats",
        model_name="flats_model",
        columns=(
            Column("id", "identifier"),
            Column("area", "number", bounds=(10.0, 500.0), unit="m2"),
            Column("rooms", "integer", bounds=(1.0, 20.0), nullable=True),
            Column("kind", "category", categories=("Flat", "House"), case_sensitive=False),
            Column("sold", "datetime", nullable=True),
            Column("note", "text"),
        ),
        target=Target("price", unit="EUR", bounds=(-1e9, 1e9), cap=900.0, transform="log"),
    )


@pytest.fixture
def flats_frame() -> pl.DataFrame:
    """200 rows that meet the contract of `flats`, typed."""
    n = 200
    return pl.DataFrame(
        {
            "id": list(range(n)),
            "area": [20.0 + i / 2 for i in range(n)],
            "rooms": [None if i % 10 == 0 else 1 + i % 5 for i in range(n)],
            "kind": ["Flat" if i % 3 else "House" for i in range(n)],
            "sold": [None if i == 3 else f"2024-01-{1 + i % 28:02d}T10:00:00" for i in range(n)],
            "note": ["x"] * n,
            "price": [100.0 + i for i in range(n)],
        }
    )


@pytest.fixture
def as_table() -> Callable[[pl.DataFrame], Table]:
    return lambda frame: Table(frame, "0" * 64, "real", "a test")


class Site(ThreadingHTTPServer):
    """A web server whose answers a test lists in order; the last one repeats."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: list[tuple[str, bytes]] = []
        self.requests = 0
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/table.csv"

    def handle_error(self, request, client_address) -> None:
        """Clients that hang up are part of the tests."""


class _Answer(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        how, body = self.server.answers[min(self.server.requests, len(self.server.answers) - 1)]
        self.server.requests += 1
        if how == "hang":
            time.sleep(1.5)
            return
        self.send_response(int(how) if how.isdigit() else 200)
        if how != "unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if how == "trickle":
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        self.wfile.write(body[: len(body) // 2] if how == "truncated" else body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
