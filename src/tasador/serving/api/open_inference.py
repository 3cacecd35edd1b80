"""``/v2``: the Open Inference Protocol, as spoken by Triton's, KServe's and MLServer's clients.

Tensors of the Open Inference Protocol, in JSON and in its binary extension.

A request carries one tensor per column; here they become columns of plain values, and answers
become tensors again. In the binary extension the body is JSON followed by the tensors' bytes, in
their order: numbers little-endian, each text behind its length as four bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from tasador.contract.model import Column, plain_name
from tasador.contract.row_check import shown
from tasador.serving.api.openapi import answers
from tasador.serving.errors import InvalidRequest, Problem
from tasador.serving.http.request import Exchange, NanRoute
from tasador.serving.request_parsing import Predictor, read_json
from tasador.serving.service import Service

_TYPES = {
    "BOOL": "|b1",
    "FP64": "<f8",
    "FP32": "<f4",
    "FP16": "<f2",
    "INT64": "<i8",
    "INT32": "<i4",
    "INT16": "<i2",
    "INT8": "<i1",
    "UINT64": "<u8",
    "UINT32": "<u4",
    "UINT16": "<u2",
    "UINT8": "<u1",
}
_TEXT = "BYTES"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request as it was read.

    Attributes:
        identifier: The request's own id, returned with the answer; None when it has none.
        rows: One object a row, by tensor name; NaN, null and the empty text mean missing.
        outputs: What is asked for; empty for everything.
        binary: Whether outputs are wanted in binary unless they say otherwise.
    """

    identifier: str | None
    rows: list[dict[str, Any]]
    outputs: list[Wanted]
    binary: bool


def read_request(body: bytes, header_length: bytes | None, most: int) -> InferRequest:
    """Read the body of ``infer``.

    Args:
        body: JSON, or JSON and binary data.
        header_length: The value of Inference-Header-Content-Length, if any.
        most: How many rows there may be.

    Raises:
        Problem: 422, it cannot be read.
    """
    text, data = _divided(body, header_length)
    plain = read_json(text, nan=True)
    inputs = plain.get("inputs") if type(plain) is dict else None
    if type(inputs) is not list or not inputs:
        raise _invalid_tensor(["inputs"], "a list of tensors, one a column", shown(inputs))
    columns: dict[str, Sequence[Any]] = {}
    count, start = None, 0
    for place, tensor in enumerate(inputs):
        name, length = _name_and_length(tensor, place)
        if not 0 < length <= most:
            raise _invalid_tensor(["inputs", place, "shape"], f"1 to {most} rows", str(length))
        if count not in (None, length) or name in columns:
            raise _invalid_tensor(
                ["inputs", place],
                "tensors of one length and different names",
                f"{name!r} again" if name in columns else f"{length} rows after {count}",
            )
        count = length
        columns[name], start = _values(tensor, place, length, data, start)
    if start != len(data):
        raise _invalid_tensor(["body"], f"{start} bytes of tensors", f"{len(data)} bytes")
    names = list(columns)
    rows = [dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    parameters = plain.get("parameters")
    binary = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    identifier = plain.get("id")
    return InferRequest(
        identifier if isinstance(identifier, str) else None,
        rows,
        _wanted(plain.get("outputs"), binary),
        binary,
    )


def write_answer(
    answer: dict[str, Any], tensors: Mapping[str, Sequence[Any]], wanted: Sequence[Wanted]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON when binary data follow it.

    Args:
        answer: The other fields of the answer.
        tensors: n floats or texts by output name.
        wanted: Which of them, and how.
    """
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for want in wanted:
        values = tensors[want.name]
        kind = datatype_of(values)
        output: dict[str, Any] = {"name": want.name, "datatype": kind, "shape": [len(values)]}
        if want.binary:
            tail.append(_packed(values, kind))
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    head = orjson.dumps({**answer, "outputs": outputs})
    return (b"".join([head, *tail]), len(head)) if tail else (head, None)


def datatype_of(values: Sequence[Any]) -> str:
    """Return the protocol's name for what `values` are."""
    return _TEXT if values and isinstance(values[0], str) else "FP64"


def _packed(values: Sequence[Any], kind: str) -> bytes:
    if kind != _TEXT:
        return np.asarray(values, dtype="<f8").tobytes()
    texts = [value.encode() for value in values]
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def _divided(body: bytes, header_length: bytes | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    # twelve digits: int() of an endless text would take quadratic time
    if not header_length.isdigit() or len(header_length) > 12 or int(header_length) > len(body):
        raise _invalid_tensor(
            ["header", "Inference-Header-Content-Length"],
            "the length of the JSON at the body's start",
            shown(header_length.decode("latin-1")),
        )
    length = int(header_length)
    return body[:length], body[length:]


def _name_and_length(tensor: Any, place: int) -> tuple[str, int]:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise _invalid_tensor(["inputs", place], "a tensor with a name", shown(tensor))
    shape = tensor.get("shape")
    if not isinstance(shape, list) or [type(size) for size in shape] not in ([int], [int, int]):
        raise _invalid_tensor(["inputs", place, "shape"], "[n] or [n, 1]", shown(shape))
    # clients of Triton send a column as [n] or as [n, 1]; anything wider is several columns
    if len(shape) == 2 and shape[1] != 1:
        raise _invalid_tensor(["inputs", place, "shape"], "[n] or [n, 1]", shown(shape))
    return plain_name(tensor["name"]), int(shape[0])


def _values(
    tensor: dict[str, Any], place: int, length: int, data: bytes, start: int
) -> tuple[Sequence[Any], int]:
    """Return a tensor's values, and where the next one's bytes begin."""
    kind = tensor.get("datatype")
    if kind != _TEXT and kind not in _TYPES:
        raise _invalid_tensor(
            ["inputs", place, "datatype"], f"{_TEXT} or {', '.join(_TYPES)}", shown(kind)
        )
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return _listed(tensor.get("data"), place, length), start
    if type(size) is not int or not 0 <= size <= len(data) - start:
        raise _invalid_tensor(
            ["inputs", place, "parameters", "binary_data_size"],
            f"at most the {len(data) - start} bytes that are left",
            shown(size),
        )
    piece = data[start : start + size]
    if kind == _TEXT:
        return _texts(piece, place, length), start + size
    dtype = np.dtype(_TYPES[kind])
    if size != length * dtype.itemsize:
        raise _invalid_tensor(
            ["inputs", place], f"{length * dtype.itemsize} bytes", f"{size} bytes"
        )
    return np.frombuffer(piece, dtype=dtype).tolist(), start + size


def _listed(found: Any, place: int, length: int) -> list[Any]:
    values = found if type(found) is list else []
    # the data of [n, 1], nested
    if values and all(type(value) is list and len(value) == 1 for value in values):
        values = [value[0] for value in values]
    if len(values) != length or any(type(value) in (list, dict) for value in values):
        raise _invalid_tensor(
            ["inputs", place, "data"],
            f"a list of {length} values",
            f"{len(found)} values" if type(found) is list else shown(found),
        )
    return values


def _texts(piece: bytes, place: int, length: int) -> list[str]:
    texts: list[str] = []
    at = 0
    try:
        while at < len(piece) and len(texts) < length:
            (size,) = _LENGTH.unpack_from(piece, at)
            at += _LENGTH.size
            if at + size > len(piece):
                break
            texts.append(piece[at : at + size].decode())
            at += size
    except (struct.error, UnicodeDecodeError):
        # anything that is not the end of the piece
        at = -1
    if at != len(piece) or len(texts) != length:
        raise _invalid_tensor(
            ["inputs", place],
            f"{length} texts in UTF-8, each behind its length in four bytes",
            f"{len(piece)} bytes that are not",
        )
    return texts


def _wanted(found: Any, binary: bool) -> list[Wanted]:
    if found is None:
        return []
    if type(found) is not list:
        raise _invalid_tensor(["outputs"], "a list of outputs", shown(found))
    wanted = []
    for place, output in enumerate(found):
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise _invalid_tensor(["outputs", place], "an output with a name", shown(output))
        parameters = output.get("parameters")
        own = parameters.get("binary_data") if isinstance(parameters, dict) else None
        wanted.append(Wanted(output["name"], own if isinstance(own, bool) else binary))
    return wanted


def _invalid_tensor(loc: Sequence[str | int], expected: str, got: str) -> Problem:
    remedy = "see /docs for the Open Inference Protocol's routes"
    return InvalidRequest(
        loc, "the tensors cannot be read", expected, got, remedy,
        error="invalid_tensors", kind="invalid_tensor",
    )  # fmt: skip


def unknown_output(place: int, name: str, known: Sequence[str]) -> Problem:
    """Return the answer when an output is asked for that there is not."""
    return _invalid_tensor(["outputs", place, "name"], f"one of {', '.join(known)}", shown(name))


#: What is answered, and its datatype.
OUTPUTS = {"prediction": "FP64", "lower": "FP64", "upper": "FP64", "prediction_id": "BYTES"}
_LENGTH_HEADER = b"inference-header-content-length"


def open_inference_router(service: Service, version: str) -> APIRouter:
    """Return the protocol's routes.

    Args:
        service: What all routes share.
        version: Of tasador.
    """
    router = APIRouter(
        prefix="/v2",
        tags=["open inference protocol"],
        default_response_class=Response,
        route_class=NanRoute,
    )
    named = ("unknown_model", "unknown_version", "model_not_ready")
    refusals = answers(None, *named)

    @router.get("", summary="Name, version and extensions of the server")
    async def server() -> Response:
        return _json({"name": "tasador", "version": version, "extensions": ["binary_tensor_data"]})

    @router.get("/health/live", summary="Whether the process should be left running")
    async def live() -> Response:
        return _json({"live": True})

    @router.get(
        "/health/ready",
        summary="Whether requests should be sent here",
        responses={503: {"description": "No"}},
    )
    async def ready() -> Response:
        return _json({"ready": service.ready}, 200 if service.ready else 503)

    inferring: dict[int | str, dict[str, Any]] = {
        **answers(None, *named, "invalid_tensors", "invalid_rows", "no_space"),
        200: {"description": "Done", "content": {"application/json": {"schema": _ANSWER}}},
    }
    for path in ("/models/{name}", "/models/{name}/versions/{version}"):
        parts = _parameters(path)

        @router.get(path, summary="The tensors of a model", responses=refusals, openapi_extra=parts)
        async def model(request: Request) -> Response:
            name, predictor = _named(service, request)
            return _json(
                {
                    "name": name,
                    "versions": [predictor.version],
                    "platform": f"tasador_{predictor.bundle.manifest.model.kind}",
                    "inputs": [
                        {"name": column.name, "datatype": _datatype(column), "shape": [-1]}
                        for column in predictor.contract.fields
                    ],
                    "outputs": [
                        {"name": output, "datatype": kind, "shape": [-1]}
                        for output, kind in OUTPUTS.items()
                    ],
                }
            )

        @router.get(
            f"{path}/ready",
            summary="Whether a model answers",
            responses=refusals,
            openapi_extra=parts,
        )
        async def model_ready(request: Request) -> Response:
            name, _ = _named(service, request)
            return _json({"name": name, "ready": service.ready}, 200 if service.ready else 503)

        @router.post(
            f"{path}/infer",
            summary="Value rows, one tensor a column",
            responses=inferring,
            openapi_extra={**parts, **_BODY},
        )
        async def infer(request: Request) -> Response:
            name, predictor = _named(service, request)
            exchange: Exchange = request.scope["tasador"]
            length = exchange.headers.get(_LENGTH_HEADER)
            asked = read_request(await request.body(), length, service.limits.batch)
            wanted = asked.outputs or [Wanted(output, asked.binary) for output in OUTPUTS]
            for place, want in enumerate(wanted):
                if want.name not in OUTPUTS:
                    raise unknown_output(place, want.name, list(OUTPUTS))
            rows = predictor.encode(asked.rows, "inputs")
            answer = await service.value(exchange, predictor, rows, "inputs")
            head = {"model_name": name, "model_version": answer.predictor.version}
            if asked.identifier is not None:
                head["id"] = asked.identifier
            found = answer.predictions
            outputs: dict[str, Sequence[Any]] = {
                name: [math.nan if i in found.no_value else value for i, value in enumerate(column)]
                if found.no_value
                else column
                for name, column in (
                    ("prediction", found.prediction),
                    ("lower", found.lower),
                    ("upper", found.upper),
                )
            }
            outputs |= {
                "prediction_id": answer.ids,
            }
            text, written = write_answer(head, outputs, wanted)
            if written is None:
                return Response(text, media_type="application/json")
            headers = {_LENGTH_HEADER.decode(): str(written)}
            return Response(text, headers=headers, media_type="application/octet-stream")

    return router


def _named(service: Service, request: Request) -> tuple[str, Predictor]:
    """Return the name in the path, and what answers to it.

    Raises:
        Problem: 404, another model or version is named than the one that answers.
    """
    name, predictor = request.path_params["name"], service.predictor()
    known = predictor.bundle.manifest.name
    if name not in (known, predictor.contract.model_name):
        raise Problem("unknown_model", expected=known, got=name[:100])
    return name, service.predictor(request.path_params.get("version"))


def _datatype(column: Column) -> str:
    return "FP64" if column.kind in ("number", "integer") else "BYTES"


def _json(plain: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(plain), status, media_type="application/json")


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
