"""``/api/v1``: predict, which middleware answers past FastAPI, and explain."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from tasador.modeling.prediction import Reasons
from tasador.serving.api.openapi import ExplainRequest, answers, body_of
from tasador.serving.http.request import BodyRoute, Exchange
from tasador.serving.request_parsing import dated, instances_of, read_json
from tasador.serving.service import Service

#: Explanations take milliseconds each, and a processor meanwhile.
MOST_EXPLAINED = 20
PREDICT = "/api/v1/predict"
_ERRORS = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503)
_QUERY = {
    "parameters": [
        {"name": "model_version", "in": "query", "schema": {"type": "string"}},
        {
            "name": "as_of",
            "in": "query",
            "schema": {"type": "string", "format": "date"},
            "description": "Day as of which all rows are valued, in place of their own dates",
        },
    ],
}


class ValuationRoutes:
    """Handlers of the routes about values.

    Args:
        service: What all routes share.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._explaining = asyncio.Semaphore(1)

    async def predict(self, exchange: Exchange, body: bytes) -> bytes:
        """Value rows: ``{"instances": [{...}]}``."""
        service = self._service
        version, day = _query(exchange) if exchange.query else (None, None)
        predictor = service.predictor(version)
        start = time.perf_counter()
        values = instances_of(read_json(body), service.limits.batch)
        if day is not None:
            values = dated(values, predictor.contract, day)
        parsed = time.perf_counter()
        rows = predictor.encode(values)
        service.metrics.stage("parse", parsed - start)
        service.metrics.stage("encode", time.perf_counter() - parsed)
        answer = await service.value(exchange, predictor, rows)
        return answer.body()

    async def explain(self, exchange: Exchange, asked: ExplainRequest) -> bytes:
        """Say why rows are worth what they are."""
        version, day = _query(exchange) if exchange.query else (None, None)
        predictor = self._service.predictor(version)
        most = min(MOST_EXPLAINED, self._service.limits.batch)
        values = instances_of({"instances": asked.instances}, most)
        if day is not None:
            values = dated(values, predictor.contract, day)
        rows = predictor.encode(values)
        answer = await self._service.value(exchange, predictor, rows)
        if answer.predictor is not predictor:  # a challenger answered: its columns may be others
            predictor = answer.predictor
            rows = predictor.encode(values)
        X = np.array(rows.codes)
        reasons = predictor.bundle.reasons
        async with self._explaining:  # one at a time: valuations keep the other processors
            explained = await asyncio.to_thread(
                lambda: [reasons(X[i : i + 1], asked.comparables) for i in range(len(X))]
            )
        items = [
            {"valuation": valuation, **_plain(reasons)}
            for valuation, reasons in zip(answer.items(), explained, strict=True)
        ]
        return orjson.dumps({"explanations": items, "model_version": predictor.version})


def _query(exchange: Exchange) -> tuple[str | None, str | None]:
    """Return the version and the day that are asked for."""
    found = parse_qs(exchange.query.decode("latin-1"))
    return found.get("model_version", [None])[0], found.get("as_of", [None])[0]


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


def valuation_router(routes: ValuationRoutes) -> APIRouter:
    """Return the routes about values."""
    router = APIRouter(tags=["valuation"], route_class=BodyRoute)

    @router.post(
        PREDICT,
        response_class=Response,
        responses=answers("PredictAnswer", *_ERRORS),
        openapi_extra={**body_of("PredictRequest"), **_QUERY},
    )
    async def predict(request: Request) -> Response:
        """Value rows."""
        raise NotImplementedError("PredictMiddleware answers this route")  # pragma: no cover

    @router.post(
        "/api/v1/explain",
        response_class=Response,
        responses=answers("ExplainAnswer", *_ERRORS),
        openapi_extra=_QUERY,
    )
    async def explain(request: Request, asked: ExplainRequest) -> Response:
        """Say why rows are worth what they are."""
        found = await routes.explain(request.scope["tasador"], asked)
        return Response(found, media_type="application/json")

    return router
