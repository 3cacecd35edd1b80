"""``/ping``, ``/version``, ``/invocations``: what MLflow's own scoring server answers.

A client of ``mlflow models serve`` needs no change: the same bodies are read, the same answer is
given. Estimates are recorded, and refused rows are refused in this service's schema.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tasador.contract.model import plain_name
from tasador.contract.row_check import shown
from tasador.serving.api.openapi import answers
from tasador.serving.api.uploads import CSV_TYPES, PARQUET_TYPES, UnreadableRow, Upload
from tasador.serving.errors import BadRow, InvalidRequest, Problem, error_detail, wrong_media_type
from tasador.serving.http.request import NanRoute
from tasador.serving.request_parsing import Predictor
from tasador.serving.service import Service

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def mlflow_router(service: Service, version: str) -> APIRouter:
    """Return MLflow's routes.

    Args:
        service: What all routes share.
        version: Of tasador.
    """
    router = APIRouter(
        tags=["mlflow scoring"], default_response_class=Response, route_class=NanRoute
    )

    @router.get(
        "/ping", summary="Whether a model is loaded", responses={503: {"description": "It is not"}}
    )
    async def ping() -> Response:
        # a line feed is what MLflow's own server answers
        return Response(b"\n", 200 if service.ready else 503, media_type="application/json")

    @router.get("/version", summary="Version of the service")
    async def version_() -> Response:
        return Response(version, media_type="application/json")

    @router.post(
        "/invocations",
        summary="Value rows in MLflow's forms",
        responses={
            **answers(None, "invalid_rows", "model_not_ready", "no_space"),
            200: {"description": "Done", "content": {"application/json": {"schema": _ANSWER}}},
        },
        openapi_extra=_BODY,
    )
    async def invocations(request: Request) -> Response:
        predictor, most = service.predictor(), service.limits.batch
        place, values = await _read(request, predictor, most)
        if len(values) > most:
            raise _unreadable(place, f"at most {most} rows", str(len(values)))
        predictions: list[float | None] = []
        if values:
            rows = predictor.encode(values, place)
            answer = await service.value(request.scope["tasador"], predictor, rows, place)
            predictions = answer.predictions.answered()
        name = predictor.prediction_name
        found = orjson.dumps({"predictions": [{name: value} for value in predictions]})
        return Response(found, media_type="application/json")

    return router


async def _read(request: Request, predictor: Predictor, most: int) -> tuple[str, Sequence[Any]]:
    """Return the rows of a body, and what they are called in messages."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        return _from_json(await _read_json(request))
    if kind in CSV_TYPES or kind in PARQUET_TYPES:
        # one more than allowed, which is enough to know that there are too many
        rows = Upload(io.BytesIO(await request.body()), kind, predictor.contract).take(most + 1)
        errors = [
            error_detail(
                ["rows", index],
                kind="invalid_row",
                expected="a row",
                got=row.reason,
                remedy="correct the row",
            )
            for index, row in enumerate(rows)
            if isinstance(row, UnreadableRow)
        ]
        if errors:
            bad = [BadRow.unreadable(row.reason) for row in rows if isinstance(row, UnreadableRow)]
            raise Problem(
                "invalid_rows",
                "some rows cannot be read",
                errors=errors,
                asked=len(rows),
                bad_rows=bad,
            )
        return "rows", rows
    raise wrong_media_type(
        kind[:100], "application/json", "text/csv", "application/vnd.apache.parquet"
    )


async def _read_json(request: Request) -> Any:
    """Read JSON as MLflow's server does: Python's NaN and Infinity are numbers."""
    try:
        return await request.json()
    except Problem as problem:
        # a field given twice keeps its own error: its remedy is another one
        if problem.error != "malformed_json":
            raise
        raise _unreadable("body", "JSON", problem.message) from None


def _from_json(plain: Any) -> tuple[str, Sequence[Any]]:
    found = [name for name in FORMATS if name in plain] if isinstance(plain, dict) else []
    if len(found) != 1:
        got = ", ".join(found) or shown(list(plain) if isinstance(plain, dict) else plain)
        raise _unreadable("body", f"exactly one of {', '.join(FORMATS)}", got)
    form = found[0]
    content = plain[form]
    if form == "dataframe_split":
        return form, _from_split(content)
    if form == "inputs" and isinstance(content, dict):
        return form, _from_columns(content)
    if not isinstance(content, list):
        raise _unreadable(form, "a list of rows", shown(content))
    return form, content


def _from_split(content: Any) -> list[dict[str, Any]]:
    columns = content.get("columns") if isinstance(content, dict) else None
    data = content.get("data") if isinstance(content, dict) else None
    names = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
    if not names or not isinstance(data, list) or not isinstance(columns, list):
        raise _unreadable(
            "dataframe_split", "columns (a list of names) and data (a list of rows)", shown(content)
        )
    # a dict would keep the last of them in silence
    twice = [name for name, count in Counter(map(plain_name, columns)).items() if count > 1]
    if twice:
        raise _unreadable("dataframe_split", "each column once", f"{shown(twice[0])} twice")
    for index, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            got = f"{len(row)} values" if isinstance(row, list) else shown(row)
            raise _unreadable("dataframe_split", f"{len(columns)} values", got, index)
    return [_clean(dict(zip(columns, row, strict=True))) for row in data]


def _from_columns(content: dict[str, Any]) -> list[dict[str, Any]]:
    lists = {name: cells if isinstance(cells, list) else [cells] for name, cells in content.items()}
    lengths = {len(cells) for cells in lists.values()}
    if len(lengths) > 1:
        raise _unreadable("inputs", "columns of one length", f"lengths {sorted(lengths)[:20]}")
    return [
        _clean(dict(zip(lists, cells, strict=True))) for cells in zip(*lists.values(), strict=True)
    ]


def _clean(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with null for NaN: that is what pandas makes of a missing value."""
    return {
        name: None if type(value) is float and math.isnan(value) else value
        for name, value in row.items()
    }


def _unreadable(place: str, expected: str, got: str, index: int | None = None) -> Problem:
    loc: list[str | int] = [place] if index is None else [place, index]
    remedy = "see MLflow's documentation of /invocations"
    return InvalidRequest(loc, "the rows cannot be read", expected, got, remedy)


_FRAME = {"type": "array", "items": {"type": "object"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "Exactly one of the properties",
                    "minProperties": 1,
                    "properties": {
                        "dataframe_split": {
                            "type": "object",
                            "required": ["columns", "data"],
                            "properties": {
                                "columns": {"type": "array", "items": {"type": "string"}},
                                "data": {"type": "array", "items": {"type": "array"}},
                                "index": {"type": "array"},
                            },
                        },
                        "dataframe_records": _FRAME,
                        "instances": _FRAME,
                        "inputs": {"anyOf": [_FRAME, {"type": "object"}]},
                    },
                }
            },
            "text/csv": {"schema": {"type": "string"}},
        },
    }
}
_ANSWER = {
    "type": "object",
    "required": ["predictions"],
    "properties": {"predictions": _FRAME},
}
