"""Requests and replies: bodies, their compression, the client's address behind proxies.

`Exchange` is what is known of a request beside its body, `Reply` what goes back.

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
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from tasador.core.errors import ConfigError
from tasador.serving.errors import ClientGone, Problem, too_large, wrong_media_type

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
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
        path: The path as sent.
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


@dataclass(slots=True)
class Reply:
    """An answer with its whole body."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


Handler = Callable[[Exchange, bytes], Awaitable[Reply]]


def is_json(content_type: bytes) -> bool:
    """Tell whether a Content-Type is JSON's: upper or lower case, with parameters or without."""
    return content_type == JSON or content_type.split(b";")[0].strip().lower() == JSON


def request_id(sent: bytes | None) -> str:
    """Return the client's own id when it is a harmless one, else a new one."""
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent.decode()
    return f"{_PREFIX}-{next(_counter):x}"


async def read_body(receive: Receive, exchange: Exchange, limit: int) -> bytes:
    """Return the request's whole body.

    Raises:
        Problem: 413, it is longer than `limit` bytes, as declared or as it turns out.
        ClientGone: It never became whole.
    """
    declared = exchange.headers.get(b"content-length")
    # before a byte is read: a client that says it is too long need not be received
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        parts = [body]
        size = len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large(limit)
        body = b"".join(parts)
    elif len(body) > limit:
        raise too_large(limit)
    exchange.body_read = True
    return body


_ENCODINGS = ("gzip", "x-gzip", "deflate")
_PIECE = 256 * 1024


class Inflater:
    """Inflates a body piece by piece.

    Args:
        encoding: The value of Content-Encoding.
        limit: Most bytes that may come out.

    Raises:
        Problem: 415, the encoding is not one that is read.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        if encoding.strip().lower() not in _ENCODINGS:
            raise wrong_media_type(f"Content-Encoding {encoding[:50]!r}", "gzip", "deflate", "none")
        # 32 + 15: the header tells whether it is gzip's or zlib's
        self._inflater = zlib.decompressobj(32 + zlib.MAX_WBITS)
        self._limit = limit
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what `piece` inflates to, never much at once.

        Raises:
            Problem: 413, more comes out than the limit; 422, it is not compressed so.
        """
        while piece:
            try:
                plain = self._inflater.decompress(piece, _PIECE)
            except zlib.error:
                raise _damaged() from None
            self._size += len(plain)
            if self._size > self._limit:
                raise too_large(self._limit)
            if plain:
                yield plain
            piece = self._inflater.unconsumed_tail
            # nothing came out and input is left: the stream does not get any further
            if not plain and piece:
                raise _damaged()

    def finish(self) -> None:
        """Make sure that the whole body came.

        Raises:
            Problem: 422, its end is missing, or something follows it.
        """
        if not self._inflater.eof or self._inflater.unused_data:
            raise _damaged()


def inflate(encoding: bytes | None, body: bytes, limit: int) -> bytes:
    """Return a plain body.

    Args:
        encoding: The value of Content-Encoding, if any.
        body: As it came.
        limit: Most bytes that may come out.

    Raises:
        Problem: 413, 415 or 422.
    """
    if encoding is None or encoding.strip().lower() in (b"", b"identity"):
        return body
    inflater = Inflater(encoding.decode("latin-1"), limit)
    plain = b"".join(inflater.feed(body))
    inflater.finish()
    return plain


def _damaged() -> Problem:
    return Problem(
        422,
        "malformed_body",
        "the body cannot be inflated",
        expected="a whole body, compressed as Content-Encoding says",
        remedy="send it again, or uncompressed",
    )


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
