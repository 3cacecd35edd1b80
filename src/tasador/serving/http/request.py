"""`Exchange`: what is known of a request beside its body, and `Reply`: what goes back."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from tasador.serving.errors import ClientGone, Problem, too_large

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
