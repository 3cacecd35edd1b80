"""What runs before every route: small ASGI middlewares, each with one task.

From the outside in: `ContextMiddleware` gives a request its id, counts and logs it;
`ProblemMiddleware` answers what the others refuse; `LimitMiddleware` caps how many requests are
under way and how long; `AuthMiddleware` checks host, key and rate; `PredictMiddleware` answers the
hot route itself, past FastAPI's routing. They are no subclasses of Starlette's
``BaseHTTPMiddleware``, which makes a task and two streams for each request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol

from fastapi import Response
from starlette.requests import ClientDisconnect

from tasador.serving.errors import MEDIA_TYPE, Problem, too_large, wrong_media_type
from tasador.serving.http.request import (
    JSON,
    LOCAL,
    App,
    Exchange,
    Message,
    Receive,
    Role,
    Scope,
    Send,
    TrustedProxies,
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


class ContextMiddleware:
    """Gives each request an id, adds the headers that every answer has, counts and logs.

    Args:
        app: Answers.
        counts: What counts.
        known: Paths that may name a counter.
        proxies: Whose ``X-Forwarded-For`` is believed; None believes nobody's.
        refused: Notes a request that was refused.
        access_log: Whether every request is logged.
        prefix: What a proxy puts before the service's paths. A proxy may take it away or not.
    """

    def __init__(
        self,
        app: App,
        counts: RequestMetrics,
        *,
        known: Collection[str] = (),
        proxies: TrustedProxies | None = None,
        refused: Callable[[Exchange, Problem], None] = lambda *_: None,
        access_log: bool = False,
        prefix: str = "",
    ) -> None:
        self._app = app
        self._prefix = prefix
        self._counts = counts
        self._known = frozenset(known)
        self._proxies = proxies
        self._refused = refused
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # a GET whose body the server leaves out
            scope = {**scope, "method": "GET"}
        path, prefix = scope["path"], self._prefix
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            scope = {**scope, "path": path.removeprefix(prefix) or "/"}
        exchange = scope["tasador"] = self._exchange(scope)

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", exchange.request_id.encode()),
                    *(header for header in SECURITY_HEADERS if header[0] not in own),
                ]
            elif not message.get("more_body", False):
                exchange.answered = True
            await send(message)

        self._counts.in_flight(1)
        try:
            await self._app(scope, receive, send_noted)
        finally:
            self._counts.in_flight(-1)
            self._note(scope, exchange)

    def _exchange(self, scope: Scope) -> Exchange:
        headers = dict(scope["headers"])
        peer = scope.get("client")
        client = peer[0] if peer else LOCAL
        if self._proxies is not None:
            client = self._proxies.client(client, scope["headers"])
        return Exchange(
            scope["method"],
            scope["path"],
            headers,
            request_id(headers.get(b"x-request-id")),
            time.perf_counter(),
            scope.get("query_string", b""),
            client,
            prefix=self._prefix,
        )

    def _route(self, scope: Scope, exchange: Exchange) -> str:
        """Return a name for counting: never a caller's own words, which would be without end."""
        if exchange.path in self._known:
            return exchange.path
        return str(getattr(scope.get("route"), "path", "(other)"))

    def _note(self, scope: Scope, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        status = exchange.status or 499
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


class ProblemMiddleware:
    """Answers what is refused, and hides what goes wrong here: ``application/problem+json``.

    Args:
        app: Answers.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange: Exchange = scope["tasador"]
        try:
            await self._app(scope, receive, send)
        except Problem as problem:
            exchange.problem = problem
            # an overloaded service does not spend time on the body that it has just refused
            if not exchange.body_read and problem.status != 503:
                await _discard(receive, exchange)
            if exchange.status:
                raise  # too late for another status: the connection is closed instead
            answer = problem_response(problem, exchange)
            if not exchange.body_read:
                answer.headers["connection"] = "close"  # the rest of a body is not waited for
            await answer(scope, receive, send)
        except ClientDisconnect:
            pass  # nobody is left to answer
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            if exchange.answered:
                return
            if exchange.status:
                raise
            await problem_response(Problem("internal_error"), exchange)(scope, receive, send)


def problem_response(problem: Problem, exchange: Exchange) -> Response:
    """Return the answer to a request that is refused, and note why it is."""
    exchange.problem = problem
    body = problem.body(exchange.request_id, exchange.prefix)
    return Response(body, problem.status, headers=problem.headers(), media_type=MEDIA_TYPE)


class LimitMiddleware:
    """Caps how many requests are under way, how long each may take and how long its body may be.

    Args:
        app: Answers.
        limits: What a request may ask for.
    """

    def __init__(self, app: App, limits: LimitSettings) -> None:
        self._app = app
        self._limits = limits
        self._under_way: dict[asyncio.Task[object], Exchange] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # probes pass whatever the load: a busy service must not look dead to what restarts it
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        if len(self._under_way) >= self._limits.in_flight:
            raise Problem("overloaded")
        exchange: Exchange = scope["tasador"]
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - every ASGI server runs applications in tasks
        self._under_way[task] = exchange
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        uploads = exchange.path in UPLOADS
        exchange.body_limit = self._limits.upload_bytes if uploads else self._limits.body_bytes
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not exchange.expired:
                raise
            # the answer would otherwise be cancelled too
            task.uncancel()
            raise self._late(exchange) from None
        finally:
            self._under_way.pop(task, None)

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
        seconds = f"{self._seconds(exchange):g} s"
        if exchange.body_read:
            return Problem("timeout", f"the request took longer than {seconds}")
        return Problem("slow_body", expected=f"the whole body within {seconds}")


class AuthMiddleware:
    """Admits a caller by host, key and rate; then refuses a body that is declared too long.

    Args:
        app: Answers.
        authorizer: Who may do what.
    """

    def __init__(self, app: App, authorizer: Authorizer) -> None:
        self._app = app
        self._authorizer = authorizer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] not in PROBES:
            exchange: Exchange = scope["tasador"]
            exchange.client, exchange.role = self._authorizer.admit(
                exchange.headers, exchange.path, exchange.client
            )
            declared = exchange.headers.get(b"content-length", b"")
            # before a byte is read: a client that says it is too long need not be received
            if declared.isdigit() and int(declared) > exchange.body_limit:
                raise too_large(exchange.body_limit)
        await self._app(scope, receive, send)


class PredictMiddleware:
    """Answers the one hot route past FastAPI's routing.

    Args:
        app: Answers every other route.
        path: The route's path.
        predict: Takes the request and its body; returns the answer's JSON.
    """

    def __init__(
        self, app: App, path: str, predict: Callable[[Exchange, bytes], Awaitable[bytes]]
    ) -> None:
        self._app, self._path, self._predict = app, path, predict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        exchange: Exchange = scope["tasador"]
        kind = exchange.headers.get(b"content-type", JSON)
        # before the body is read: a wrong type costs nothing
        if not is_json(kind):
            raise wrong_media_type(kind.decode("latin-1")[:100], "application/json")
        body = await self._predict(exchange, await read_body(receive, exchange))
        headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


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
