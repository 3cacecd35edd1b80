"""A client is who connects; what a header says counts only from proxies that are configured."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.process import Server, free_port
from tasador.core.errors import ConfigError
from tasador.serving.errors import Problem
from tasador.serving.http.auth import KeyAuthorizer, new_key
from tasador.serving.http.request import TrustedProxies
from tasador.settings.serving import LimitSettings, SecuritySettings

KEY, CONFIGURED = new_key("app", "client")
LIED: list[Callable[[int], dict[str, str]]] = [
    lambda i: {"x-forwarded-for": f"10.1.1.{i}"},
    lambda i: {"x-forwarded-for": f"10.1.1.{i}, 127.0.0.1"},
    lambda i: {"forwarded": f"for=10.1.1.{i}"},
    lambda i: {"x-real-ip": f"10.1.1.{i}"},
    lambda i: {"true-client-ip": f"10.1.1.{i}", "cf-connecting-ip": f"10.1.1.{i}"},
    lambda i: {"x-api-key": f"wrong {i}"},
    lambda i: {"authorization": f"Bearer wrong{i}"},
]

Started = Callable[..., Server]


@pytest.fixture
def started(written_bundle: Path, tmp_path: Path) -> Iterator[Started]:
    servers: list[Server] = []

    def start(**variables: str) -> Server:
        server = Server(tmp_path, written_bundle, free_port(), **variables)
        servers.append(server)
        server.start()
        server.wait()
        return server

    yield start
    for server in servers:
        server.end()


def ask(server: Server, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(f"{server.url}/api/v1/model/info", headers=named).status_code


def test_no_header_changes_the_client_unless_a_proxy_is_configured(started: Started) -> None:
    server = started(
        TASADOR_SECURITY__KEYS=CONFIGURED.line(), TASADOR_SECURITY__FAILURES_PER_MINUTE="3",
        FORWARDED_ALLOW_IPS="*",  # uvicorn's own
    )  # fmt: skip
    assert [ask(server, x_api_key="wrong") for _ in range(4)] == [401, 401, 401, 429]
    for lie in LIED:
        for i in range(3):
            headers = {"x-api-key": "wrong", **lie(i)}
            assert ask(server, **headers) == 429
    assert ask(server, x_api_key=KEY) == 200
    assert ask(server, x_api_key="wrong") == 429, "a right key in between resets nothing"


def test_a_configured_proxy_is_believed_as_far_as_it_has_written_the_header(
    started: Started,
) -> None:
    server = started(
        TASADOR_LIMITS__RATE_PER_S="0.01", TASADOR_LIMITS__BURST="1",
        TASADOR_SECURITY__TRUSTED_PROXIES="127.0.0.0/8,10.0.0.0/24",
    )  # fmt: skip
    assert ask(server, x_forwarded_for="1.1.1.1") == 200
    assert ask(server, x_forwarded_for="1.1.1.1") == 429
    assert ask(server, x_forwarded_for="1.1.1.2") == 200
    for i in range(5):  # what the client itself wrote stands before
        assert ask(server, x_forwarded_for=f"9.9.9.{i}, 1.1.1.1, 10.0.0.5") == 429
        assert ask(server, x_forwarded_for="1.1.1.1", forwarded=f"for=8.8.8.{i}") == 429


def test_wrong_keys_stay_counted_when_a_worker_dies(started: Started) -> None:
    server = started(
        TASADOR_SECURITY__KEYS=CONFIGURED.line(), TASADOR_SECURITY__FAILURES_PER_MINUTE="4",
        TASADOR_SERVER__WORKERS="2",
    )  # fmt: skip
    assert [ask(server, x_api_key="wrong") for _ in range(6)] == [401] * 4 + [429] * 2
    assert server.process is not None
    workers = children(server.process.pid)
    os.kill(workers[-1], signal.SIGKILL)
    end = time.monotonic() + 30
    while workers[-1] in (now := children(server.process.pid)) or len(now) < len(workers):
        assert time.monotonic() < end
        time.sleep(0.1)
    statuses = set()
    for _ in range(10):
        try:
            statuses.add(ask(server, x_api_key="wrong"))
        except httpx.TransportError:
            continue  # the connection that died with the worker
    assert statuses == {429}


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


@pytest.mark.parametrize("shared", [False, True])
def test_many_addresses_neither_raise_the_limit_for_ever_nor_push_a_count_out(
    tmp_path: Path, shared: bool
) -> None:
    settings = SecuritySettings(keys=(CONFIGURED.line(),), failures_per_minute=2)
    access = KeyAuthorizer(settings, LimitSettings(), tmp_path if shared else None)

    def status(peer: str) -> int:
        with pytest.raises(Problem) as refused:
            access.admit({b"x-api-key": b"wrong"}, "/api/v1/predict", peer)
        return refused.value.status

    assert [status("192.0.2.1") for _ in range(3)] == [401, 401, 429]
    site = [status(f"2001:db8:1:{i:x}::1") for i in range(100)]
    assert site.count(401) <= 3, "a site's /48 counts as one, too"
    tried = [status(f"10.{i // 250}.{i % 250}.1") for i in range(12_000)]
    assert tried.count(401) <= 250
    assert status("192.0.2.1") == 429
    assert access.admit({b"x-api-key": KEY.encode()}, "/api/v1/predict", "192.0.2.1")[0] == "app"


def test_an_ipv4_client_of_a_socket_for_both_is_counted_by_its_own_address() -> None:
    settings = SecuritySettings(keys=(CONFIGURED.line(),), failures_per_minute=1)
    access, statuses = KeyAuthorizer(settings, LimitSettings()), []
    for peer in ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"):
        with pytest.raises(Problem) as refused:
            access.admit({b"x-api-key": b"wrong"}, "/api/v1/predict", peer)
        statuses.append(refused.value.status)
    assert statuses == [401, 429, 401]


@pytest.mark.parametrize(
    ("peer", "sent", "client"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["1.1.1.1:4711"], "1.1.1.1"),
        ("10.0.0.1", ["[2001:db8::1]:80"], "2001:db8::1"),
        ("10.0.0.1", ["2.2.2.2", "1.1.1.1, 10.0.0.2"], "1.1.1.1"),
        ("10.0.0.1", ["2.2.2.2, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["2.2.2.2, , 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("::ffff:10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        ("10.0.1.1", ["1.1.1.1"], "10.0.1.1"),
        ("local", ["1.1.1.1"], "local"),
        ("fd00::1%eth0", ["1.1.1.1"], "1.1.1.1"),
    ],
)
def test_the_header_is_read_from_its_end(peer: str, sent: list[str], client: str) -> None:
    proxies = TrustedProxies(["10.0.0.0/24", "fd00::/8"])
    headers = [(b"x-forwarded-for", one.encode()) for one in sent]
    assert proxies.client(peer, [(b"forwarded", b"for=9.9.9.9"), *headers]) == client


def test_a_unix_socket_is_believed_only_when_it_is_named() -> None:
    headers = [(b"x-forwarded-for", b"1.1.1.1")]
    assert TrustedProxies(["socket"]).client("local", headers) == "1.1.1.1"
    assert TrustedProxies(["10.0.0.1"]).client("local", headers) == "local"


@given(st.lists(st.text(max_size=30)), st.sampled_from(["10.0.0.1", "8.8.8.8", "local", "?"]))
def test_whatever_the_header_holds_a_client_is_found(sent: list[str], peer: str) -> None:
    headers = [(b"x-forwarded-for", one.encode()) for one in sent]
    found: Any = TrustedProxies(["10.0.0.0/8"]).client(peer, headers)
    assert isinstance(found, str)
    assert peer == "10.0.0.1" or found == peer


@pytest.mark.parametrize("wrong", ["*", "10.0.0.1/8", "proxy.example.org", "10.0.0"])
def test_a_proxy_that_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="trusted_proxies"):
        TrustedProxies([wrong])
