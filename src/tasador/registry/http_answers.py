"""HTTP for readers that cannot wait: two timeouts, a deadline between chunks, no redirections."""

from __future__ import annotations

import http.client
import ssl
import urllib.request
from functools import partial
from typing import Any

from tasador.core.deadlines import Deadline
from tasador.core.errors import RegistryError

_CHUNK = 1 << 16


def opener(read_s: float, tls: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone; the usual one also opens files.

    A redirection is shown as the answer it is: following one would send credentials along.

    Args:
        read_s: Seconds of silence while an answer is read. The timeout given to ``open`` is that
            of the connection alone.
        tls: How servers are verified; None leaves https out.
    """
    director = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Plain(read_s),
        _AnyAnswer(),
    ]
    if tls is not None:
        handlers.append(_Secure(read_s, tls))
    for handler in handlers:
        director.add_handler(handler)
    return director


def read_body(
    response: http.client.HTTPResponse, limit: int, deadline: Deadline, what: str
) -> bytes:
    """Return an answer's body, at most one byte more than `limit`, chunk by chunk as it arrives.

    Raises:
        RegistryError: It ended before it was complete.
        DeadlineError: The deadline passed.
    """
    chunks: list[bytes] = []
    left = limit + 1
    while left > 0:
        deadline.check(f"reading {what}")
        chunk = response.read1(min(_CHUNK, left))  # read() would wait for all of it
        if not chunk:
            break
        chunks.append(chunk)
        left -= len(chunk)
    if left > 0 and response.length:
        raise RegistryError(f"{what} stopped half way", got=f"{response.length} bytes missing")
    return b"".join(chunks)


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
    def __init__(self, read_s: float) -> None:
        super().__init__()
        self._read_s = read_s

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, read_s=self._read_s), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, read_s: float, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._read_s, self._tls = read_s, context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        make = partial(_SecureConnection, read_s=self._read_s, context=self._tls)
        return self.do_open(make, req)


class _Connection(http.client.HTTPConnection):
    """Has one timeout for the connection and another one for what is read."""

    def __init__(self, *args: Any, read_s: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._read_s = read_s

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._read_s)


class _SecureConnection(http.client.HTTPSConnection):
    """The same, encrypted."""

    def __init__(self, *args: Any, read_s: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._read_s = read_s

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._read_s)
