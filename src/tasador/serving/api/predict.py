"""``/api/v1``: predict, explain; and handlers of requests as FastAPI calls them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import orjson
from fastapi import Request, Response

from tasador.contract.row_check import shown
from tasador.modeling.prediction import Reasons
from tasador.serving.errors import InvalidRequest, wrong_media_type
from tasador.serving.http.request import Exchange, Handler, Reply, inflate, is_json
from tasador.serving.request_parsing import instances_of, read_json
from tasador.serving.service import Service

#: Explanations take milliseconds each, and a processor meanwhile.
MOST_EXPLAINED = 20
MOST_COMPARABLES = 64


class ValuationRoutes:
    """Handlers of the routes about values.

    Args:
        service: What all routes share.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._explaining = asyncio.Semaphore(1)

    async def predict(self, exchange: Exchange, body: bytes) -> Reply:
        """Value rows: ``{"instances": [{...}]}``."""
        service = self._service
        predictor = service.predictor(_version(exchange) if exchange.query else None)
        start = time.perf_counter()
        values = instances_of(read_json(body), service.limits.batch)
        parsed = time.perf_counter()
        rows = predictor.encode(values)
        service.metrics.stage("parse", parsed - start)
        service.metrics.stage("encode", time.perf_counter() - parsed)
        answer = await service.value(exchange, predictor, rows)
        return Reply(answer.body())

    async def explain(self, exchange: Exchange, body: bytes) -> Reply:
        """Say why rows are worth what they are."""
        predictor = self._service.predictor(_version(exchange) if exchange.query else None)
        plain = read_json(body)
        values = instances_of(plain, min(MOST_EXPLAINED, self._service.limits.batch))
        comparables = _comparables(plain)
        rows = predictor.encode(values)
        answer = await self._service.value(exchange, predictor, rows)
        if answer.predictor is not predictor:  # a challenger answered: its columns may be others
            predictor = answer.predictor
            rows = predictor.encode(values)
        X = np.array(rows.codes)
        async with self._explaining:  # one at a time: valuations keep the other processors
            explained = await asyncio.to_thread(
                lambda: [predictor.bundle.reasons(X[i : i + 1], comparables) for i in range(len(X))]
            )
        items = [
            {"valuation": valuation, **_plain(reasons)}
            for valuation, reasons in zip(answer.items(), explained, strict=True)
        ]
        return Reply(orjson.dumps({"explanations": items, "model_version": predictor.version}))


def _version(exchange: Exchange) -> str | None:
    found = parse_qs(exchange.query.decode("latin-1")).get("model_version")
    return found[0] if found else None


def _comparables(plain: dict[str, Any]) -> int:
    value = plain.get("comparables", 5)
    if type(value) is int and 0 <= value <= MOST_COMPARABLES:
        return value
    expected = f"a whole number from 0 to {MOST_COMPARABLES}"
    message, remedy = "the number of comparables is invalid", "send such a number, or leave it out"
    raise InvalidRequest(
        ["comparables"], message, expected, shown(value), remedy, kind="invalid_value"
    )


def _plain(explanation: Reasons) -> dict[str, Any]:
    parts = sorted(explanation.contributions.items(), key=lambda part: -abs(part[1]))
    return {
        "scale": explanation.transform,
        "expected": explanation.expected,
        "contributions": [{"feature": name, "value": value} for name, value in parts],
        "comparables": [
            {"distance": near.distance, "value": near.value, "attributes": dict(near.attributes)}
            for near in explanation.comparables
        ],
    }


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
