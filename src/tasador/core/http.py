"""HTTP for programs that fetch: deadlines that hold, and redirections that lead nowhere new.

What a configured address answers is data of somebody else. So a redirection is followed only to
the same host name, never to a weaker scheme, and only to a public address of it (or to the very
server that was asked first: who configures an address on this machine means it). The address that
counts is that of the connection, not what a name server said before.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

from tasador.core.deadlines import Deadline

_CHUNK = 1 << 16
_REDIRECTIONS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class UnsafeAddressError(OSError):
    """An answer leads to an address that is not fetched from; asking again would not help."""


@dataclass(frozen=True)
class Patience:
    """How long a server may keep a caller waiting.

    Attributes:
        connect_s: Seconds for one connection.
        read_s: Seconds of silence.
        deadline: When everything must be over, however steadily it trickles.
    """

    connect_s: float
    read_s: float
    deadline: Deadline


@contextmanager
def opened(
    request: urllib.request.Request,
    patience: Patience,
    *,
    tls: ssl.SSLContext | None = None,
    redirections: int = 0,
    named: bool = True,
) -> Iterator[http.client.HTTPResponse]:
    """Send a request to an http or https address and give the answer, whatever its status.

    Args:
        request: What is sent. Credentials in its headers go to no other host.
        patience: How long it may take, the reading of the body included.
        tls: How servers are verified; None takes the system's certificates.
        redirections: How many are followed; one more is shown as the answer it is.
        named: Whether a person configured this address; one that a server names must be public.

    Raises:
        DeadlineError: The deadline passed.
        UnsafeAddressError: A redirection leads elsewhere, alone or as a URLError's reason.
        OSError: The server cannot be reached, or broke off.
        http.client.HTTPException: It does not answer as HTTP wants it.
    """
    guard = _Guard(patience, checked=not named)
    director = _director(guard, tls or ssl.create_default_context())
    try:
        with guard.watched():
            response = director.open(request, timeout=guard.seconds())
            while redirections > 0 and response.status in _REDIRECTIONS:
                location = response.headers.get("Location", "")
                request = _redirected(request, location)
                response.close()
                guard.checked, redirections = True, redirections - 1
                response = director.open(request, timeout=guard.seconds())
            with response:
                yield response
    except (OSError, http.client.HTTPException):
        patience.deadline.check(f"asking {urlsplit(request.full_url).hostname}")
        raise


def read_body(
    response: http.client.HTTPResponse, limit: int, deadline: Deadline, what: str
) -> bytes:
    """Return an answer's body, at most one byte more than `limit`, chunk by chunk as it arrives.

    Raises:
        ConnectionError: It ended before it was complete.
        DeadlineError: The deadline passed.
    """
    chunks: list[bytes] = []
    left = limit + 1
    while left > 0:
        deadline.check(f"reading {what}")
        chunk = response.read1(min(_CHUNK, left))  # read() would wait for all of it
        if not chunk:
            deadline.check(f"reading {what}")  # a connection that was cut looks like an end
            break
        chunks.append(chunk)
        left -= len(chunk)
    if left > 0 and response.length:
        raise ConnectionError(f"{what} stopped half way: {response.length} bytes missing")
    return b"".join(chunks)


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public network, also when it wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and (ip in _NAT64 or int(ip) < 2**32):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None and not is_public(str(inner)):
            return False
    return ip.is_global and not ip.is_multicast


@dataclass
class _Guard:
    """Follows the connections of one request: where they lead, and when they are cut."""

    patience: Patience
    checked: bool = False
    first: tuple[str, int] | None = None
    _sockets: list[socket.socket] = field(default_factory=list)

    def seconds(self) -> float:
        self.patience.deadline.check("asking a server")
        return min(self.patience.connect_s, self.patience.deadline.remaining())

    def connect(
        self, address: tuple[str, int], timeout: float, _source: Any = None
    ) -> socket.socket:
        """Connect to what the name means now, and to no address that was not looked at."""
        failure: OSError = OSError(f"{address[0]} has no address")
        for family, kind, protocol, _, place in socket.getaddrinfo(
            *address, type=socket.SOCK_STREAM
        ):
            peer = str(place[0]), int(place[1])
            if self.checked and peer != self.first and not is_public(peer[0]):
                raise UnsafeAddressError(f"a server's answer leads to the internal {peer[0]}")
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(timeout)
                made.connect(place)
            except OSError as error:
                made.close()
                failure = error
                continue
            self.first = self.first or peer
            # TLS takes the socket over: the copy can still cut the line
            self._sockets.append(socket.socket(fileno=os.dup(made.fileno())))
            return made
        raise failure

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Cut the lines at the deadline: every byte that trickles in restarts a socket's own."""
        timer = threading.Timer(self.patience.deadline.remaining(), self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            for line in self._sockets:
                line.close()

    def _cut(self) -> None:
        for line in self._sockets:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def _redirected(request: urllib.request.Request, location: str) -> urllib.request.Request:
    before = urlsplit(request.full_url)
    try:
        address = urljoin(request.full_url, location)
        after = urlsplit(address)
        host, _ = after.hostname, after.port
    except ValueError:
        raise UnsafeAddressError("redirected to something that is no address") from None
    if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
        raise UnsafeAddressError(f"redirected from {before.scheme} to {after.scheme or 'nothing'}")
    if not host or host.rstrip(".") != (before.hostname or "").rstrip("."):
        raise UnsafeAddressError(
            f"redirected to another host, {host}: configure that address if it is meant"
        )
    if after.username is not None:
        raise UnsafeAddressError("redirected to an address with credentials")
    return urllib.request.Request(address, headers=dict(request.header_items()))  # noqa: S310


def _director(guard: _Guard, tls: ssl.SSLContext) -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone; the usual one also opens files and ftp."""
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), _Plain(guard),
        _Secure(guard, tls), _AnyAnswer(),
    ):  # fmt: skip
        director.add_handler(handler)
    return director


class _AnyAnswer(urllib.request.HTTPErrorProcessor):
    """Leaves every status to the caller."""

    def http_response(
        self,
        request: urllib.request.Request,  # noqa: ARG002
        response: http.client.HTTPResponse,
    ) -> http.client.HTTPResponse:
        return response

    https_response = http_response


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._guard = guard

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Guarded, guard=self._guard), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, guard: _Guard, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._guard, self._tls = guard, context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        make = partial(_GuardedSecure, guard=self._guard, context=self._tls)
        return self.do_open(make, req)


class _Guarded(http.client.HTTPConnection):
    """Has one timeout for the connection and another one for what is read."""

    def __init__(self, *args: Any, guard: _Guard, **options: Any) -> None:
        super().__init__(*args, **options)
        self._guard, self._create_connection = guard, guard.connect

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._guard.patience.read_s)


class _GuardedSecure(_Guarded, http.client.HTTPSConnection):
    """The same, encrypted."""
