"""Handlers of requests as FastAPI calls them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request, Response

from tasador.serving.errors import wrong_media_type
from tasador.serving.http.compression import inflate
from tasador.serving.http.request import Exchange, Handler, Reply, is_json


def endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Return `handler` as FastAPI calls it."""

    async def call(request: Request) -> Response:
        exchange: Exchange = request.scope["tasador"]
        body = await request.body()
        exchange.body_read = True
        encoding = exchange.headers.get(b"content-encoding")
        if encoding is not None:
            body = inflate(encoding, body, exchange.body_limit)
        return response(await handler(exchange, body))

    return call


def response(reply: Reply) -> Response:
    """Return a reply as FastAPI sends it."""
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(
        reply.body, reply.status, headers=headers, media_type=reply.content_type.decode()
    )


def json_endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Return `handler` as FastAPI calls it, for bodies of JSON only."""
    call = endpoint(handler)

    async def call_with_json(request: Request) -> Response:
        kind = request.headers.get("content-type", "application/json")
        if not is_json(kind.encode("latin-1")):
            raise wrong_media_type(kind[:100], "application/json")
        return await call(request)

    return call_with_json
