"""`GuardedProtocol`: uvicorn's HTTP protocol with bounds on a request's first line and headers.

uvicorn waits for ever for headers that come a byte at a time, and keeps headers of any length in
memory. Neither reaches an application, so this is the only place to stop it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tasador.serving.exchange import request_id
from tasador.serving.problems import Problem

log = logging.getLogger(__name__)

MOST_HEAD_BYTES = 64 * 1024
MOST_URL_BYTES = 8 * 1024


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        header_timeout_s: Seconds within which a request's headers must be complete.
    """

    header_timeout_s: ClassVar[float] = 10.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0
        self._refusal: Problem | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; whole headers, the usual case, cost one comparison."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(_too_long("headers", 431, MOST_HEAD_BYTES))
                return
        if self._timer is None and (self._in_head or self._is_idle()):
            self._start_timer()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand a request over."""
        self._in_head = False
        if self._timer is not None:
            self._stop_timer()
        if len(self.url) > MOST_URL_BYTES:
            self._refusal = _too_long("URL", 414, MOST_URL_BYTES)
            raise ValueError("URL too long")  # makes the parser stop, see send_400_response
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed."""
        self._refuse(
            self._refusal
            or Problem(400, "malformed_request", msg, expected="a request of HTTP/1.1")
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        self._stop_timer()
        super().timeout_keep_alive_handler()

    def _is_idle(self) -> bool:
        return self.timeout_keep_alive_task is None and (
            self.cycle is None or self.cycle.response_complete
        )

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout_s, self._on_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        if self.transport is None or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_timer()  # an answer is under way: the next request's headers can wait
        elif self._in_head:
            expected = f"the headers within {self.header_timeout_s:g} s"
            problem = Problem(
                408, "slow_headers", "the headers did not arrive in time", expected=expected
            )
            self._refuse(problem)
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer outside of any application, and close."""
        self._in_head = False
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else it would cut into an answer
            own_id = request_id(None)
            body = problem.body(own_id)
            head = (
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                "connection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[problem.status] + head.encode() + body)
            peer = self.client[0] if self.client else "local"
            log.info(
                "a request without a route %d %s", problem.status, problem.error,
                extra={"fields": {"request_id": own_id, "client": peer}},
            )  # fmt: skip
        self.transport.close()


def _too_long(what: str, status: int, limit: int) -> Problem:
    return Problem(
        status, "head_too_large", f"the {what} of the request is too long",
        expected=f"at most {limit} bytes",
    )  # fmt: skip
