"""Requests: their bodies, the compression of these, the client's address behind proxies.

`Exchange` is what is known of a request beside its body. Every route but the hot one reads its body
through `BodyRequest`, Starlette's request with our limit, and declares what it reads to FastAPI.

Compressed bodies are inflated no further than the limit for plain ones.

Any client can send ``X-Forwarded-For``. It is believed only as far as proxies that are configured
have written it: each appends the address that it sees, so the list is read from its end. Other
headers of this kind (``Forwarded``, ``X-Real-IP``) are never looked at.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import zlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp as App
from starlette.types import Message, Receive, Scope, Send

from tasador.core.errors import ConfigError
from tasador.serving.errors import Problem, too_large, wrong_media_type
from tasador.serving.request_parsing import read_json

__all__ = ["App", "Message", "Receive", "Scope", "Send"]

#: An importer is a client that may report the outcomes of all clients' predictions.
Role = Literal["anonymous", "client", "importer", "admin"]

JSON = b"application/json"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_PREFIX = secrets.token_hex(6)
_counter = count()


@dataclass(slots=True)
class Exchange:
    """One request under way.

    Attributes:
        method: The HTTP method.
        path: The path, without `prefix`.
        headers: By lower-case name; of a repeated one the last.
        request_id: Sent by the client, or made here.
        started: When it arrived, by `time.perf_counter`.
        query: What follows the question mark.
        client: Name of its API key, else the peer's address.
        role: What it may do.
        expired: Whether it was stopped because it took too long.
        body_read: Whether its whole body has arrived.
        body_limit: Most bytes of its body, also once inflated.
        problem: Why it was refused; None when it was not.
        status: The status of its answer; 0 while none was sent.
        answered: Whether the whole answer was handed over.
        prefix: What a proxy puts before the service's paths.
    """

    method: str
    path: str
    headers: dict[bytes, bytes]
    request_id: str
    started: float
    query: bytes = b""
    client: str = "unknown"
    role: Role = "anonymous"
    expired: bool = False
    body_read: bool = False
    body_limit: int = 0
    problem: Problem | None = None
    status: int = 0
    answered: bool = False
    prefix: str = ""


def is_json(content_type: bytes) -> bool:
    """Tell whether a Content-Type is JSON's: upper or lower case, with parameters or without."""
    return content_type == JSON or content_type.split(b";")[0].strip().lower() == JSON


def request_id(sent: bytes | None) -> str:
    """Return the client's own id when it is a harmless one, else a new one."""
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent.decode()
    return f"{_PREFIX}-{next(_counter):x}"


async def read_body(receive: Receive, exchange: Exchange) -> bytes:
    """Return the request's whole body, inflated: what `BodyRequest` does, at a fifth of its cost.

    Raises:
        Problem: 413, it is longer than its limit; 415 or 422, it cannot be inflated.
        ClientDisconnect: It never became whole.
    """
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > exchange.body_limit:
            raise too_large(exchange.body_limit)
        more = message.get("more_body", False)
    exchange.body_read = True
    if b"content-encoding" not in exchange.headers:
        return parts[0] if len(parts) == 1 else b"".join(parts)
    inflater = Inflater(exchange)
    plain = b"".join(piece for part in parts for piece in inflater.feed(part))
    inflater.finish()
    return plain


class BodyRequest(Request):
    """A request whose body is inflated and no longer than its limit, however it is read.

    Attributes:
        nan: Whether NaN and Infinity are read as numbers, see `read_json`.
    """

    nan = False

    @property
    def exchange(self) -> Exchange:
        """What is known of it beside its body."""
        found: Exchange = self.scope["tasador"]
        return found

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body piece by piece; errors as for `read_body`."""
        exchange, inflater, size = self.exchange, Inflater(self.exchange), 0
        async for sent in super().stream():
            size += len(sent)
            if size > exchange.body_limit:
                raise too_large(exchange.body_limit)
            for piece in inflater.feed(sent):
                yield piece
        exchange.body_read = True
        inflater.finish()

    async def json(self) -> Any:
        """Return the JSON value in the body.

        Raises:
            Problem: See `read_json`; 415, its type is not JSON's.
        """
        kind = self.exchange.headers.get(b"content-type", JSON)
        if not is_json(kind):
            raise wrong_media_type(kind.decode("latin-1")[:100], "application/json")
        if not hasattr(self, "_json"):
            self._json = read_json(await self.body(), nan=self.nan)
        return self._json


class BodyRoute(APIRoute):
    """A route that gets a `BodyRequest`."""

    request_class = BodyRequest

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler with the body read before it."""
        handle = super().get_route_handler()

        async def call(request: Request) -> Response:
            request = self.request_class(request.scope, request.receive)
            if self.body_field is not None:
                # before FastAPI does, which makes a plain 400 of every error while it reads
                await request.json()
            return await handle(request)

        return call


class NanRequest(BodyRequest):
    """The same where NaN and Infinity are read as numbers."""

    nan = True


class NanRoute(BodyRoute):
    """A route that gets a `NanRequest`."""

    request_class = NanRequest


_ENCODINGS = ("gzip", "x-gzip", "deflate")
_PIECE = 256 * 1024


class Inflater:
    """Inflates a body piece by piece; returns it as it is when it is not compressed.

    Args:
        exchange: Whose headers name the encoding, and whose limit holds for what comes out.

    Raises:
        Problem: 415, the encoding is not one that is read.
    """

    def __init__(self, exchange: Exchange) -> None:
        encoding = exchange.headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
        self._plain = encoding in ("", "identity")
        if not self._plain and encoding not in _ENCODINGS:
            raise wrong_media_type(f"Content-Encoding {encoding[:50]!r}", "gzip", "deflate", "none")
        # 32 + 15: the header tells whether it is gzip's or zlib's
        self._inflater = zlib.decompressobj(32 + zlib.MAX_WBITS)
        self._limit = exchange.body_limit
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what `piece` inflates to, never much at once.

        Raises:
            Problem: 413, more comes out than the limit; 422, it is not compressed so.
        """
        if self._plain:
            yield piece
            return
        while piece:
            try:
                plain = self._inflater.decompress(piece, _PIECE)
            except zlib.error:
                raise Problem("malformed_body") from None
            self._size += len(plain)
            if self._size > self._limit:
                raise too_large(self._limit)
            if plain:
                yield plain
            piece = self._inflater.unconsumed_tail
            # nothing came out and input is left: the stream does not get any further
            if not plain and piece:
                raise Problem("malformed_body")

    def finish(self) -> None:
        """Make sure that the whole body came.

        Raises:
            Problem: 422, its end is missing, or something follows it.
        """
        if not self._plain and (not self._inflater.eof or self._inflater.unused_data):
            raise Problem("malformed_body")


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: What a peer is called that has no address, on a Unix socket.
LOCAL = "local"
SOCKET = "socket"


class TrustedProxies:
    """Tells the client's address.

    Args:
        trusted: Addresses and networks of proxies; ``socket`` for peers on a Unix socket.

    Raises:
        ConfigError: One of them is no address.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._socket = SOCKET in trusted
        try:
            self._networks = [ipaddress.ip_network(one) for one in trusted if one != SOCKET]
        except ValueError as error:
            raise ConfigError(
                "security.trusted_proxies cannot be read",
                expected="addresses and networks such as 10.0.0.7,10.1.0.0/16,::1",
                got=str(error),
            ) from None

    def client(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the address of the client.

        Args:
            peer: The address that the connection comes from.
            headers: All of the request, in their order.
        """
        if not self._trusts(peer):
            return peer
        sent = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        found = peer
        for one in reversed(sent.decode("latin-1").split(",")):
            address = _address(one)
            if address is None:  # what comes before it cannot be trusted
                break
            found = str(address)
            if not self._trusts(found):
                break
        return found

    def _trusts(self, peer: str) -> bool:
        if peer == LOCAL:
            return self._socket
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> _Address | None:
    """Read an address, with a port or without; None when it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # a socket for both families names IPv4 peers so: they have to match IPv4 networks
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped
