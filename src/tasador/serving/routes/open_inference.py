"""``/v2``: the Open Inference Protocol, as spoken by Triton's, KServe's and MLServer's clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tasador.data.contract import Column
from tasador.serving.compression import inflate
from tasador.serving.documentation import answers
from tasador.serving.engine import Engine
from tasador.serving.exchange import JSON, Exchange, Reply
from tasador.serving.problems import Problem
from tasador.serving.service import Service
from tasador.serving.tensors import Wanted, read_request, unknown_output, write_answer

#: What is answered, and its datatype.
OUTPUTS = {"prediction": "FP64", "lower": "FP64", "upper": "FP64", "prediction_id": "BYTES"}
_BINARY = b"application/octet-stream"
_LENGTH_HEADER = b"inference-header-content-length"


class OpenInferenceRoutes:
    """Handlers of the protocol.

    Args:
        service: What all routes share.
        version: Of tasador.
    """

    def __init__(self, service: Service, version: str) -> None:
        self._service = service
        self._version = version

    def server(self) -> Reply:
        """What answers here."""
        return _json(
            {"name": "tasador", "version": self._version, "extensions": ["binary_tensor_data"]}
        )

    def live(self) -> Reply:
        """Whether the process should be left running."""
        return _json({"live": True})

    def ready(self) -> Reply:
        """Whether requests should be sent here."""
        ready = self._service.ready
        return _json({"ready": ready}, 200 if ready else 503)

    def model(self, name: str, version: str | None) -> Reply:
        """Which tensors a model takes and returns."""
        engine = self._engine(name, version)
        return _json(
            {
                "name": name,
                "versions": [engine.version],
                "platform": f"tasador_{engine.bundle.manifest.model.kind}",
                "inputs": [
                    {"name": column.name, "datatype": _datatype(column), "shape": [-1]}
                    for column in engine.contract.features
                ],
                "outputs": [
                    {"name": output, "datatype": kind, "shape": [-1]}
                    for output, kind in OUTPUTS.items()
                ],
            }
        )

    def model_ready(self, name: str, version: str | None) -> Reply:
        """Whether a model answers."""
        self._engine(name, version)
        ready = self._service.ready
        return _json({"name": name, "ready": ready}, 200 if ready else 503)

    async def infer(self, exchange: Exchange, body: bytes, name: str, version: str | None) -> Reply:
        """Value rows given as one tensor a column."""
        engine = self._engine(name, version)
        limits = self._service.limits
        plain = inflate(exchange.headers.get(b"content-encoding"), body, limits.body_bytes)
        request = read_request(plain, exchange.headers.get(_LENGTH_HEADER), limits.batch)
        wanted = request.outputs or [Wanted(output, request.binary) for output in OUTPUTS]
        for place, want in enumerate(wanted):
            if want.name not in OUTPUTS:
                raise unknown_output(place, want.name, list(OUTPUTS))
        rows = engine.encode(request.rows, "inputs")
        answer = await self._service.value(exchange, engine, rows, "inputs")
        found = answer.appraisals
        head = {"model_name": name, "model_version": answer.engine.version}
        if request.identifier is not None:
            head["id"] = request.identifier
        text, length = write_answer(
            head,
            {
                "prediction": found.prediction,
                "lower": found.lower,
                "upper": found.upper,
                "prediction_id": answer.ids,
            },
            wanted,
        )
        if length is None:
            return Reply(text)
        return Reply(text, content_type=_BINARY, headers=[(_LENGTH_HEADER, str(length).encode())])

    def _engine(self, name: str, version: str | None) -> Engine:
        engine = self._service.engine()
        known = engine.bundle.manifest.name
        if name not in (known, engine.contract.model_name):
            raise Problem(
                404,
                "unknown_model",
                "there is no such model here",
                expected=known,
                got=name[:100],
                remedy="ask /api/v1/model/info",
            )
        return self._service.engine(version)


def open_inference_router(service: Service, version: str) -> APIRouter:
    """Return the protocol's routes.

    Args:
        service: What all routes share.
        version: Of tasador.
    """
    from tasador.serving.app import response

    routes = OpenInferenceRoutes(service, version)
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])
    common: dict[str, Any] = {"response_class": Response}

    def get(path: str, summary: str, handler: Callable[..., Reply], *refusals: int) -> None:
        async def call(request: Request) -> Response:
            return response(handler(**request.path_params))

        router.add_api_route(
            path,
            call,
            methods=["GET"],
            summary=summary,
            responses=answers(None, *refusals),
            name=f"v2 {path}",
            openapi_extra=_parameters(path),
            **common,
        )

    def infer(with_version: bool) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            exchange: Exchange = request.scope["tasador"]
            path = request.path_params
            version = path["version"] if with_version else None
            return response(
                await routes.infer(exchange, await request.body(), path["name"], version)
            )

        return call

    get("", "Name, version and extensions of the server", routes.server)
    get("/health/live", "Whether the process should be left running", routes.live)
    get("/health/ready", "Whether requests should be sent here", routes.ready, 503)
    for path in ("/models/{name}", "/models/{name}/versions/{version}"):
        versioned = path.endswith("{version}")
        model, model_ready = routes.model, routes.model_ready
        if versioned:
            get(path, "The tensors of a model's version", model, 401, 404, 503)
            get(f"{path}/ready", "Whether a version answers", model_ready, 401, 404, 503)
        else:
            get(path, "The tensors of a model", _newest(model), 401, 404, 503)
            get(f"{path}/ready", "Whether a model answers", _newest(model_ready), 401, 404, 503)
        router.add_api_route(
            f"{path}/infer",
            infer(versioned),
            methods=["POST"],
            summary="Value rows, one tensor a column",
            responses={
                **answers(None, 400, 401, 404, 408, 413, 415, 422, 429, 500, 503),
                200: {"description": "Done", "content": {JSON.decode(): {"schema": _ANSWER}}},
            },
            openapi_extra={**_parameters(path), **_BODY},
            name=f"v2 {path}/infer",
            **common,
        )
    return router


def _newest(handler: Callable[[str, str | None], Reply]) -> Callable[[str], Reply]:
    return lambda name: handler(name, None)


def _datatype(column: Column) -> str:
    return "FP64" if column.kind in ("number", "integer") else "BYTES"


def _json(plain: dict[str, Any], status: int = 200) -> Reply:
    return Reply(orjson.dumps(plain), status)


def _parameters(path: str) -> dict[str, Any]:
    """Document the parts of a path, which the handlers read themselves."""
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in ("name", "version")
            if "{" + name + "}" in path
        ]
    }


_SHAPE = {"type": "array", "items": {"type": "integer"}, "examples": [[1], [1, 1]]}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype", "data"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "shape": _SHAPE,
                                    "datatype": {"type": "string", "examples": ["FP64", "BYTES"]},
                                    "parameters": {"type": "object"},
                                    "data": {"type": "array"},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {"name": {"enum": list(OUTPUTS)}},
                            },
                        },
                    },
                }
            }
        },
    }
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"enum": list(OUTPUTS)},
                    "datatype": {"enum": ["FP64", "BYTES"]},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "data": {"type": "array"},
                },
            },
        },
    },
}
