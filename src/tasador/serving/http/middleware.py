"""`GuardMiddleware`: runs before every route and keeps the service alive.

It gives each request an id and a deadline, checks host, key and rate, caps how many are under
way, adds security headers, counts, and turns whatever goes wrong into the one error schema. What
is sent to a hot route goes straight to its handler, past FastAPI's routing; all else to FastAPI.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from starlette.requests import ClientDisconnect

from tasador.serving.errors import (
    ClientGone,
    Problem,
    internal_error,
    overloaded,
    timed_out,
    too_large,
    wrong_media_type,
)
from tasador.serving.http.request import (
    JSON,
    LOCAL,
    App,
    Exchange,
    Handler,
    Message,
    Receive,
    Reply,
    Role,
    Scope,
    Send,
    TrustedProxies,
    inflate,
    is_json,
    read_body,
    request_id,
)
from tasador.settings.serving import LimitSettings

log = logging.getLogger(__name__)

#: Answered whatever the load, without a key and for any host: what keeps the service running.
PROBES = frozenset(
    {
        "/health",
        "/health/live",
        "/health/ready",
        "/health/deep",
        "/ping",
        "/v2/health/live",
        "/v2/health/ready",
    }
)
ADMIN = "/api/v1/admin/"
UPLOADS = frozenset({"/api/v1/score"})
#: Hold a version against the gates meanwhile; for administrators.
SLOW = frozenset({*UPLOADS, f"{ADMIN}models/promote", f"{ADMIN}models/rollback"})
_SWEEP_S = 0.25
#: How much of a refused body is taken, for how long, and how long a client may be silent meanwhile.
_DISCARDED_BYTES, _DISCARDED_S, _SILENCE_S = 64 << 20, 5.0, 0.3

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Authorizer(Protocol):
    """Who may do what; `serving.http.auth.KeyAuthorizer` is one."""

    def admit(self, headers: Mapping[bytes, bytes], path: str, peer: str) -> tuple[str, Role]:
        """Return a caller's name and role.

        Raises:
            Problem: 400, 401, 403 or 429.
        """


class RequestMetrics(Protocol):
    """What counts requests; `serving.metrics.Metrics` is one."""

    def request(self, path: str, method: str, status: int, seconds: float) -> None:
        """Note an answered request."""

    def in_flight(self, change: int) -> None:
        """Note that requests under way have become more or fewer."""


class GuardMiddleware:
    """The outermost ASGI application.

    Args:
        app: Answers what no hot route does.
        hot: Handlers by (method, path); they get the whole body.
        limits: What a request may ask for.
        authorizer: Who may do what.
        counts: What counts.
        known: Paths that may name a counter; those of hot routes do anyway.
        proxies: Whose ``X-Forwarded-For`` is believed; None believes nobody's.
        refused: Notes a request that was refused.
        access_log: Whether every request is logged.
    """

    def __init__(
        self,
        app: App,
        hot: Mapping[tuple[str, str], Handler],
        limits: LimitSettings,
        authorizer: Authorizer,
        counts: RequestMetrics,
        *,
        known: Collection[str] = (),
        proxies: TrustedProxies | None = None,
        refused: Callable[[Exchange, Problem], None] = lambda *_: None,
        access_log: bool = False,
    ) -> None:
        self._app = app
        self._hot = dict(hot)
        self._limits = limits
        self._authorizer = authorizer
        self._counts = counts
        self._known = frozenset(known) | {path for _, path in hot}
        self._proxies = proxies
        self._refused = refused
        self._access_log = access_log
        self._under_way: dict[asyncio.Task[object], Exchange] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        """Number of requests under way."""
        return len(self._under_way)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # a GET whose body the server leaves out
            scope = {**scope, "method": "GET"}
        headers = dict(scope["headers"])
        exchange = Exchange(
            scope["method"],
            scope["path"],
            headers,
            request_id(headers.get(b"x-request-id")),
            time.perf_counter(),
            scope.get("query_string", b""),
        )
        outbox = _Outbox(send, exchange)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - every ASGI server runs applications in tasks
        self._counts.in_flight(1)
        try:
            self._admit(scope, exchange, task)
            await self._dispatch(scope, receive, outbox)
        except asyncio.CancelledError:
            if not exchange.expired:
                raise
            # the answer below would otherwise be cancelled too
            task.uncancel()
            await outbox.problem(self._late(exchange))
        except Problem as problem:
            exchange.problem = problem
            self._under_way.pop(task, None)
            # an overloaded service does not spend time on the body that it has just refused
            if not exchange.body_read and problem.status != 503:
                await _discard(receive, exchange)
            await outbox.problem(problem)
        except (ClientGone, ClientDisconnect):
            pass  # nobody is left to answer
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            if not outbox.complete:
                await outbox.problem(internal_error())
        finally:
            self._under_way.pop(task, None)
            self._counts.in_flight(-1)
            self._note(scope, exchange, outbox)

    def _admit(self, scope: Scope, exchange: Exchange, task: asyncio.Task[object]) -> None:
        peer = scope.get("client")
        exchange.client = peer[0] if peer else LOCAL
        if self._proxies is not None:
            exchange.client = self._proxies.client(exchange.client, scope["headers"])
        # before the limit: a busy service must not look dead to what restarts it
        if exchange.path in PROBES:
            return
        if len(self._under_way) >= self._limits.in_flight:
            raise overloaded()
        self._under_way[task] = exchange
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        exchange.client, exchange.role = self._authorizer.admit(
            exchange.headers, exchange.path, exchange.client
        )

    def _sweep(self) -> None:
        """Stop what is over its time; one timer for all costs a request nothing."""
        now = time.perf_counter()
        for task, exchange in self._under_way.items():
            if not exchange.expired and now - exchange.started > self._seconds(exchange):
                exchange.expired = True
                task.cancel()
        self._sweeper = (
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
            if self._under_way
            else None
        )

    def _seconds(self, exchange: Exchange) -> float:
        return self._limits.upload_s if exchange.path in SLOW else self._limits.request_s

    def _late(self, exchange: Exchange) -> Problem:
        if exchange.body_read:
            return timed_out(self._seconds(exchange))
        return Problem(
            408,
            "slow_body",
            "the body did not arrive in time",
            expected=f"the whole body within {self._seconds(exchange):g} s",
            remedy="check the network, or send less at once",
        )

    async def _dispatch(self, scope: Scope, receive: Receive, outbox: _Outbox) -> None:
        exchange = outbox.exchange
        handler = self._hot.get((exchange.method, exchange.path))
        if handler is not None:
            kind = exchange.headers.get(b"content-type", JSON)
            if not is_json(kind):
                raise wrong_media_type(kind.decode("latin-1")[:100], "application/json")
            # read after the media type was looked at: a wrong one costs nothing
            body = await read_body(receive, exchange, self._limits.body_bytes)
            if b"content-encoding" in exchange.headers:
                encoding = exchange.headers[b"content-encoding"]
                body = inflate(encoding, body, self._limits.body_bytes)
            await outbox.reply(await handler(exchange, body))
            return
        scope["tasador"] = exchange
        limit = self._limits.body_bytes
        if exchange.path in UPLOADS:
            limit = self._limits.upload_bytes
        exchange.body_limit = limit
        await self._app(scope, _limited(receive, exchange, limit), outbox.forward)

    def _route(self, scope: Scope, exchange: Exchange) -> str:
        """Return a name for counting: never a caller's own words, which would be without end."""
        if exchange.path in self._known:
            return exchange.path
        return str(getattr(scope.get("route"), "path", "(other)"))

    def _note(self, scope: Scope, exchange: Exchange, outbox: _Outbox) -> None:
        seconds = time.perf_counter() - exchange.started
        status = outbox.status or 499
        route = self._route(scope, exchange)
        self._counts.request(route, exchange.method, status, seconds)
        problem = exchange.problem
        if problem is not None:
            try:
                self._refused(exchange, problem)
            except Exception:  # the answer is out: nothing of this may reach the connection
                log.exception("a refusal could not be noted")
        if self._access_log or (status >= 400 and exchange.path not in PROBES):
            log.log(
                logging.WARNING if status >= 500 else logging.INFO,
                "%s %s %d%s",
                exchange.method,
                route,
                status,
                "" if problem is None else f" {problem.summary()}",
                extra={
                    "fields": {
                        "request_id": exchange.request_id,
                        "client": exchange.client,
                        "ms": round(seconds * 1000, 3),
                    }
                },
            )


class _Outbox:
    """Sends an answer once, with the headers that every answer has.

    Attributes:
        exchange: The request it answers.
        status: The status sent; 0 while none was.
        complete: Whether the whole answer was handed over.
    """

    __slots__ = ("_send", "complete", "exchange", "status")

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send = send
        self.exchange = exchange
        self.status = 0
        self.complete = False

    async def reply(self, reply: Reply) -> None:
        self.status = reply.status
        await self._send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [
                    (b"content-type", reply.content_type),
                    (b"content-length", str(len(reply.body)).encode()),
                    (b"x-request-id", self.exchange.request_id.encode()),
                    *SECURITY_HEADERS,
                    *reply.headers,
                ],
            }
        )
        await self._send({"type": "http.response.body", "body": reply.body})

    async def problem(self, problem: Problem) -> None:
        if self.status:
            raise problem  # too late for another status: the connection is closed instead
        headers = []
        if problem.retry_after is not None:
            headers.append((b"retry-after", str(problem.retry_after).encode()))
        if not self.exchange.body_read:
            headers.append((b"connection", b"close"))  # the rest of a body is not waited for
        body = problem.body(self.exchange.request_id)
        await self.reply(Reply(body, problem.status, headers=headers))

    async def forward(self, message: Message) -> None:
        """Send FastAPI's own messages, with our headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", self.exchange.request_id.encode()),
                *(header for header in SECURITY_HEADERS if header[0] not in own),
            ]
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)


async def _discard(receive: Receive, exchange: Exchange) -> None:
    """Take the rest of a refused body, within reason.

    To close while a client still sends resets its connection, and the answer is lost with it.
    """
    if b"expect" in exchange.headers:
        return  # it waits for the answer before it sends
    left = _DISCARDED_BYTES
    try:
        async with asyncio.timeout(_DISCARDED_S):
            while left > 0 and not exchange.body_read:
                message = await asyncio.wait_for(receive(), _SILENCE_S)
                if message["type"] == "http.disconnect":
                    return
                left -= len(message.get("body", b""))
                exchange.body_read = not message.get("more_body", False)
    except TimeoutError:
        pass


def _limited(receive: Receive, exchange: Exchange, limit: int) -> Receive:
    """Return `receive` for a body of at most `limit` bytes."""
    declared = exchange.headers.get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    size = 0

    async def receive_limited() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > limit:
                raise too_large(limit)
            exchange.body_read = not message.get("more_body", False)
        return message

    return receive_limited
