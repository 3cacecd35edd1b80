"""Fetching over HTTP: where redirections lead, and how long anybody is waited for."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tasador.core.deadlines import Deadline
from tasador.core.errors import DeadlineError
from tasador.core.http import Patience, UnsafeAddressError, is_public, opened, read_body

Answer = Callable[[socket.socket, str], None]


@contextmanager
def server(answer: Answer) -> Iterator[tuple[int, list[str]]]:
    """Answer each connection by `answer(connection, path)`; yields the port and what was asked."""
    listener, asked = socket.create_server(("127.0.0.1", 0)), []

    def work(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head = connection.recv(65536).decode()
            asked.append(head)
            if not head:
                return
            answer(connection, head.split(" ")[1])

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=work, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def text(connection: socket.socket, _: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


def fetch(address: str, seconds: float = 5.0, **options: object) -> bytes:
    patience = Patience(2.0, 2.0, Deadline.after(seconds))
    request = urllib.request.Request(address, headers={"X-Secret": "s"})
    with opened(request, patience, redirections=3, **options) as response:  # type: ignore[arg-type]
        assert response.status == 200
        return read_body(response, 100, patience.deadline, address)


def refused(address: str, **options: object) -> str:
    with pytest.raises(OSError, match=r".") as found:
        fetch(address, **options)
    reason = getattr(found.value, "reason", found.value)
    assert isinstance(reason, UnsafeAddressError), repr(found.value)
    return str(reason)


def to(location: str) -> Answer:
    def answer(connection: socket.socket, path: str) -> None:
        if path == "/here":
            text(connection, path)
        else:
            connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode())

    return answer


def test_a_redirection_to_the_same_server_is_followed() -> None:
    with server(to("/here")) as (port, asked):
        assert fetch(f"http://127.0.0.1:{port}/a") == b"hello"
        assert len(asked) == 2


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://0.0.0.0/",
        "ftp://127.0.0.1/file",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://localhost/",
        "http://127.0.0.1.example.org/",
        "http://user:password@127.0.0.1/",
        "http://[::1",
        "javascript:alert(1)",
        "//169.254.169.254/",
    ],
)
def test_a_redirection_elsewhere_is_refused(location: str) -> None:
    with server(to(location)) as (port, asked):
        refused(f"http://127.0.0.1:{port}/a")
        assert len(asked) == 1


def test_another_port_of_an_internal_host_is_not_what_was_configured() -> None:
    with (
        server(text) as (other, asked),
        server(to(f"http://127.0.0.1:{other}/here")) as (port, _),
    ):
        assert "the internal 127.0.0.1" in refused(f"http://127.0.0.1:{port}/a")
        assert asked == []


def test_what_a_name_resolves_to_when_it_is_connected_to_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that answers another address the second time."""
    with server(text) as (other, asked), server(to("/here")) as (port, _):
        places = iter([port, other])
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", next(places)))]
        )
        assert "the internal" in refused("http://rebinding.example.org/a")
        assert asked == []


def test_an_address_that_a_server_names_must_be_public() -> None:
    with server(text) as (port, asked):
        assert fetch(f"http://127.0.0.1:{port}/a") == b"hello"
        assert "the internal" in refused(f"http://127.0.0.1:{port}/a", named=False)
        assert len(asked) == 1


@pytest.mark.parametrize("place", ["headers", "body", "chunks"])
def test_a_server_that_trickles_is_cut_off_at_the_deadline(place: str) -> None:
    def drip(connection: socket.socket, _: str) -> None:
        first = {
            "headers": b"HTTP/1.1 200 OK\r\nX-A: ",
            "body": b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n",
            "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        }[place]
        connection.sendall(first)
        for _ in range(200):
            connection.sendall(b"1\r\na\r\n" if place == "chunks" else b"a")
            time.sleep(0.05)

    with server(drip) as (port, _):
        started = time.monotonic()
        with pytest.raises(DeadlineError, match="took too long"):
            fetch(f"http://127.0.0.1:{port}/", 0.6)
        assert time.monotonic() - started < 3.0


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fc00::1", False),
        ("::ffff:169.254.169.254", False), ("::ffff:8.8.8.8", True), ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False), ("64:ff9b::a9fe:a9fe", False), ("::7f00:1", False),
        ("fd00:ec2::254", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public
