"""A form that is too much gets an answer, never a connection that is reset."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.process import Server, free_port

ROW = b"lon,lat,income,rooms,area,kind\r\n-3.5,40.5,3.0,4,100.0,flat\r\n"
END = b"--b--\r\n"


def part(name: str, content: bytes = b"1", file: str = "", headers: bytes = b"") -> bytes:
    told = f'; filename="{file}"' if file else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{told}\r\n'
    return head.encode() + headers + b"\r\n" + content + b"\r\n"


FILE = part("file", ROW, "rows.csv")
LARGE = part("more", b"x" * (20 << 20), "more.csv")
FORMS = {
    "fields": b"".join(part(f"f{i}") for i in range(200_000)) + FILE + END,
    "files": b"".join(part(f"f{i}", ROW, "a.csv") for i in range(5_000)) + END,
    "two large files": FILE + LARGE + LARGE + END,
    "a long field": part("note", b"x" * (30 << 20)) + FILE + END,
    "a long name": part("n" * (8 << 20)) + FILE + END,
    "headers": part("file", ROW, "a.csv", b"X-A: b\r\n" * 300_000) + LARGE + END,
    "a long header": part("file", ROW, "a.csv", b"X-A: " + b"b" * (20 << 20) + b"\r\n") + END,
    "no name": b"--b\r\nContent-Type: text/csv\r\n\r\n" + ROW + b"\r\n" + LARGE + END,
    "no boundary": b"x" * (20 << 20),
    "an end that is missing": FILE[:-20],
    "damage": b"--b\r\n" + b"\x00\x01" * (5 << 20),
}


@pytest.fixture(scope="module")
def server(written_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("forms"), written_bundle, free_port())
    running.start()
    try:
        running.wait()
        yield running
    finally:
        running.end()


def send(
    server: Server,
    content: bytes,
    path: str = "/api/v1/score",
    kind: str = "multipart/form-data; boundary=b",
) -> tuple[int, bytes]:
    """Send all of it before anything is read, as simple clients do."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", path, content, {"content-type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_is_too_much_or_damaged_is_refused_cleanly(server: Server, name: str) -> None:
    for _ in range(3):  # a reset is a race: the client may have read the answer before
        status, body = send(server, FORMS[name])
        assert status in (400, 413, 422), body[:300]
        assert {"type", "title", "status", "detail", "instance", "error"} <= set(json.loads(body))
    assert send(server, FILE + END)[0] == 200


def test_a_refused_body_is_received_before_the_connection_is_closed(server: Server) -> None:
    for path, kind, body in (
        ("/api/v1/predict", "application/json", b"x" * (6 << 20)),
        ("/api/v1/predict", "text/plain", b"x" * (3 << 20)),
        ("/invocations", "application/json", b"x" * (6 << 20)),
        ("/api/v1/score", "application/zip", b"x" * (20 << 20)),
        ("/nowhere", "application/json", b"x" * (3 << 20)),
    ):
        for _ in range(3):
            status, answer = send(server, body, path, kind)
            assert status in (404, 413, 415, 422)
            assert json.loads(answer)["error"]
