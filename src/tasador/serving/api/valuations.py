"""``/api/v1``: predict, which middleware answers past FastAPI, explain, appraise, score for files.

A file is valued in bounded memory. The upload goes to a temporary file, its header is checked, and
only then is anything valued, some hundred rows at a time and off the event loop. The answer streams
meanwhile: one line a row, a bad row with its error and no value. All rows of a file are valued by
the same version.
"""

from __future__ import annotations

import asyncio
import csv
import io
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Annotated, Any, BinaryIO, Literal, Protocol, cast
from urllib.parse import parse_qs

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.responses import StreamingResponse
from starlette.types import Message

from tasador.contract.row_check import described
from tasador.core.errors import MissingExtraError, TasadorError, ValidationError
from tasador.core.languages import Language
from tasador.modeling.confidence import LEAST_COVERAGE, MOST_COVERAGE
from tasador.registry.explainer import FilterError, Wanted
from tasador.registry.model_bundle import ModelBundle
from tasador.serving.api.openapi import AppraiseRequest, ExplainRequest, answers, body_of
from tasador.serving.api.uploads import CSV_TYPES, PARQUET_TYPES, LeftOutRow, UnreadableRow, Upload
from tasador.serving.batcher import Answer
from tasador.serving.errors import BadRow, InvalidRequest, Problem, error_detail
from tasador.serving.http.request import BodyRoute, Exchange, Receive, Scope, Send
from tasador.serving.request_parsing import (
    Predictor,
    Rows,
    coverage_of,
    dated,
    instances_of,
    read_json,
)
from tasador.serving.service import Service

log = logging.getLogger(__name__)

CHUNK = 256
_WRITE = 1 << 20
_FIELDS = ("row", "prediction", "lower", "upper", "warnings", "error", "prediction_id", "fsd",
           "confidence_class", "no_value")  # fmt: skip
_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
_CSV, _PARQUET = "text/csv", "application/vnd.apache.parquet"
_SUFFIXES = {".csv": _CSV, ".parquet": _PARQUET}

#: Explanations take milliseconds each, and a processor meanwhile.
MOST_EXPLAINED = 20
PREDICT = "/api/v1/predict"
_ERRORS = ("unknown_version", "model_not_ready", "no_space")
_AS_OF = {
    "name": "as_of",
    "in": "query",
    "schema": {"type": "string", "format": "date"},
    "description": "Day as of which all rows are valued, in place of their own dates",
}
_VERSION = {
    "name": "model_version",
    "in": "query",
    "schema": {"type": "string"},
    "description": "Version that has to answer; another than the loaded one is refused",
}
_COVERAGE = {
    "name": "coverage",
    "in": "query",
    "schema": {"type": "number", "minimum": LEAST_COVERAGE, "maximum": MOST_COVERAGE},
    "description": "Share of truths that the intervals are to hold, in place of the model's own",
}
_QUERY = {"parameters": [_VERSION, _AS_OF, _COVERAGE]}

Kind = Literal["html", "pdf"]
_MEDIA: dict[Kind, str] = {"html": "text/html", "pdf": "application/pdf"}
_SCHEMAS = {
    "html": {"schema": {"type": "string"}},
    "pdf": {"schema": {"type": "string", "format": "binary"}},
}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class ReportWriter(Protocol):
    """Writes valuation reports; `ops.service.ServedReports` is one."""

    def check(self, kind: Kind) -> None:
        """Raise MissingExtraError where the library that writes such files is not installed."""

    def write(
        self, bundle: ModelBundle, X: NDArray[np.float64], values: Mapping[str, Any],
        item: Mapping[str, Any], language: Language, kind: Kind,
    ) -> bytes:  # fmt: skip
        """Return the report of a row (1, p), from its explanation."""


@dataclass(frozen=True, slots=True)
class _Explained:
    """Rows with their explanations, and what gave them."""

    predictor: Predictor
    values: Sequence[Any]
    X: NDArray[np.float64]
    items: list[dict[str, Any]]


class ValuationRoutes:
    """Handlers of the routes about values.

    Args:
        service: What all routes share.
        reports: Writes valuation reports; None where the service writes none.
    """

    def __init__(self, service: Service, reports: ReportWriter | None = None) -> None:
        self._service, self._reports = service, reports
        self._explaining = asyncio.Semaphore(1)

    async def predict(self, exchange: Exchange, body: bytes) -> bytes:
        """Value rows: ``{"instances": [{...}]}``."""
        service = self._service
        asked = _query(exchange)
        version, day = asked[:2]
        predictor = service.predictor(version)
        start = time.perf_counter()
        values = instances_of(read_json(body), service.limits.batch)
        if day is not None:
            values = dated(values, predictor.contract, day)
        parsed = time.perf_counter()
        rows = _covered(predictor, predictor.encode(values), asked[2])
        service.metrics.stage("parse", parsed - start)
        service.metrics.stage("encode", time.perf_counter() - parsed)
        answer = await service.value(exchange, predictor, rows)
        return answer.body()

    async def explain(self, exchange: Exchange, asked: ExplainRequest) -> bytes:
        """Say why rows are worth what they are."""
        found = await self._explained(exchange, asked)
        return orjson.dumps({"explanations": found.items, "model_version": found.predictor.version})

    def kinds(self) -> list[Kind]:
        """Return the types of reports that can be written here."""
        return [kind for kind in _MEDIA if self._why_not(kind) is None]

    def _why_not(self, kind: Kind) -> Problem | None:
        if self._reports is None:
            return Problem("report_unavailable")
        try:
            self._reports.check(kind)
        except MissingExtraError as error:
            return Problem("report_unavailable", error.message, remedy=error.remedy)
        return None

    async def appraise(
        self, exchange: Exchange, asked: AppraiseRequest, language: Language, kind: Kind
    ) -> Response:
        """Write the valuation report of one row."""
        refusal, reports = self._why_not(kind), self._reports
        if refusal is not None or reports is None:
            raise refusal or Problem("report_unavailable")
        found = await self._explained(exchange, asked)  # last: it records a value
        predictor = found.predictor
        async with self._explaining:
            data = await asyncio.to_thread(
                reports.write, predictor.bundle, found.X, found.values[0], found.items[0],
                language, kind,
            )  # fmt: skip
        headers = {
            "content-disposition": f'attachment; filename="report.{kind}"',
            "content-security-policy": _POLICY,
            "x-model-version": predictor.version,
        }
        return Response(data, media_type=_MEDIA[kind], headers=headers)

    async def _explained(self, exchange: Exchange, asked: ExplainRequest) -> _Explained:
        """Value and explain the rows of a request."""
        version, day, coverage = _query(exchange)
        predictor = self._service.predictor(version)
        most = min(MOST_EXPLAINED, self._service.limits.batch)
        values = instances_of({"instances": asked.instances}, most)
        if day is not None:
            values = dated(values, predictor.contract, day)
        rows = _covered(predictor, predictor.encode(values), coverage)
        wanted = _wanted(asked, predictor)
        answer = await self._service.value(exchange, predictor, rows)
        if answer.predictor is not predictor:  # a challenger answered: its columns may be others
            predictor = answer.predictor
            rows, wanted = predictor.encode(values), _wanted(asked, predictor)
        X = np.array(rows.codes)
        reasons, identifier = predictor.bundle.reasons, predictor.bundle.identifier_of
        names = [identifier(value) for value in values]
        async with self._explaining:  # one at a time: valuations keep the other processors
            explained = await asyncio.to_thread(
                lambda: [reasons(X[i : i + 1], wanted, name) for i, name in enumerate(names)]
            )
        items = [
            {"valuation": valuation, **reasons.plain()}
            for valuation, reasons in zip(answer.items(), explained, strict=True)
        ]
        return _Explained(predictor, values, X, items)


def _wanted(asked: ExplainRequest, predictor: Predictor) -> Wanted:
    """Return which comparables are asked for, once the model is known to find them so.

    Raises:
        Problem: 422, it does not know what they are to be chosen by.
    """
    wanted = Wanted(asked.comparables, asked.radius_km, asked.since, tuple(asked.same))
    try:
        predictor.bundle.explainer.check(wanted)
    except FilterError as error:
        raise InvalidRequest(
            [error.name], error.message, error.expected or "", error.got or "",
            error.remedy or "", kind="invalid_value",
        ) from None  # fmt: skip
    return wanted


def _query(exchange: Exchange) -> tuple[str | None, str | None, str | None]:
    """Return the version, the day and the coverage that are asked for."""
    if not exchange.query:
        return None, None, None
    found = parse_qs(exchange.query.decode("latin-1"))
    version, day, coverage = (
        found.get(name, [None])[0] for name in ("model_version", "as_of", "coverage")
    )
    return version, day, coverage


def _covered(predictor: Predictor, rows: Rows, coverage: str | None) -> Rows:
    if coverage is None:
        return rows
    return replace(rows, coverage=coverage_of(coverage, predictor.bundle))


def valuation_router(routes: ValuationRoutes) -> APIRouter:
    """Return the routes about values."""
    router = APIRouter(tags=["valuation"], route_class=BodyRoute)

    @router.post(
        PREDICT,
        response_class=Response,
        responses=answers("PredictAnswer", *_ERRORS, "invalid_rows"),
        openapi_extra={**body_of("PredictRequest"), **_QUERY},
    )
    async def predict(request: Request) -> Response:
        """Value rows."""
        raise NotImplementedError("PredictMiddleware answers this route")  # pragma: no cover

    @router.post(
        "/api/v1/explain",
        response_class=Response,
        responses=answers("ExplainAnswer", *_ERRORS, "invalid_rows"),
        openapi_extra=_QUERY,
    )
    async def explain(request: Request, asked: ExplainRequest) -> Response:
        """Say why rows are worth what they are."""
        found = await routes.explain(request.scope["tasador"], asked)
        return Response(found, media_type="application/json")

    @router.post(
        "/api/v1/appraise",
        summary="Write the valuation report of a row",
        response_class=Response,
        responses={
            **answers(None, *_ERRORS, "invalid_rows", "report_unavailable"),
            200: {
                "description": "One page that loads nothing, or a PDF; its numbers are those of "
                "/api/v1/explain",
                "headers": {"X-Model-Version": {"schema": {"type": "string"}}},
                "content": {_MEDIA[kind]: _SCHEMAS[kind] for kind in routes.kinds()},
            },
        },
        openapi_extra=_QUERY,
    )
    async def appraise(
        request: Request,
        asked: AppraiseRequest,
        lang: Annotated[
            Language, Query(description="Language of the report", examples=["es"])
        ] = "en",
        kind: Annotated[
            Kind, Query(alias="format", description="Type of the file", examples=["pdf"])
        ] = "html",
    ) -> Response:
        """Value, range, comparables, parts in money, accuracy, limits: one property, one page."""
        return await routes.appraise(request.scope["tasador"], asked, lang, kind)

    return router


class ScoreRoutes:
    """The handler of files.

    Args:
        service: What all routes share.
        at_once: Files valued at a time; more are answered 503 with Retry-After.
    """

    def __init__(self, service: Service, at_once: int = 4) -> None:
        self._service = service
        self._at_once = at_once
        self._running = 0

    async def score(self, request: Request) -> Response:
        """Value the rows of a file."""
        predictor = self._service.predictor(request.query_params.get("model_version"))
        # each file holds a temporary file and a thread: more would fill the disk and the pool
        if self._running >= self._at_once:
            raise Problem("overloaded", retry_after=5)
        self._running += 1
        files: list[BinaryIO] = []

        def finish() -> None:
            self._running -= 1
            for file in files:
                file.close()

        try:
            file, kind = await self._received(request, files)
            upload = await asyncio.to_thread(Upload, file, kind, predictor.contract)
        except OSError as error:
            finish()
            log.error("an upload cannot be kept: %s", error)
            raise Problem(
                "no_space",
                "the file cannot be kept while it is valued",
                remedy="send it in parts, or try again later",
                retry_after=30,
            ) from None
        # also when the client goes while it uploads: the place in `at_once` has to come back
        except BaseException:
            finish()
            raise
        accepted = request.headers.get("accept", "")
        as_lines = any(kind in accepted for kind in _LINES)
        return _Answer(
            self._lines(predictor, upload, request.scope["tasador"], as_lines),
            finish,
            media_type=_LINES[0] if as_lines else _CSV,
            headers={"x-model-version": predictor.version},
        )

    async def _received(self, request: Request, files: list[BinaryIO]) -> tuple[BinaryIO, str]:
        """Return the whole upload as a file, and its kind."""
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await _from_form(request, files)
        if kind not in CSV_TYPES and kind not in PARQUET_TYPES:
            # refused with the others' names before anything is received
            Upload(io.BytesIO(), kind[:100], self._service.predictor().contract)
        file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - closed by `finish`
        files.append(file)
        waiting = bytearray()
        async for piece in request.stream():
            waiting += piece
            # gathered: a call into a thread for each piece of the network would cost more than
            # writing
            if len(waiting) >= _WRITE:
                await asyncio.to_thread(file.write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(file.write, bytes(waiting))
        file.seek(0)
        return file, kind

    async def _lines(
        self, predictor: Predictor, upload: Upload, exchange: Exchange, as_lines: bool
    ) -> AsyncIterator[bytes]:
        written = _written_lines if as_lines else _written_csv
        if not as_lines:
            yield (",".join(_FIELDS) + "\r\n").encode()
        start = 1
        while True:
            chunk = await asyncio.to_thread(_next_chunk, upload, predictor)
            if chunk.size == 0:
                return
            # before the rows are valued: a client that goes away must not hide its bad rows
            self._service.refused.rows(exchange, chunk.bad_rows)
            items = await self._valued(predictor, chunk, exchange.client)
            for row, item in enumerate(items, start):
                item["row"] = row
            yield written([item for at, item in enumerate(items) if at not in chunk.left_out])
            start += chunk.size

    async def _valued(
        self, predictor: Predictor, chunk: _Chunk, client: str
    ) -> list[dict[str, Any]]:
        """Return one object a row, in the rows' order."""
        items = [dict.fromkeys(_FIELDS) for _ in range(chunk.size)]
        for row, reason in chunk.errors.items():
            items[row]["error"] = reason
        if not chunk.places:
            return cast(list[dict[str, Any]], items)
        found: Answer | None = None
        try:
            found = await self._service.batcher.value(
                predictor, chunk.rows, client=client, started=time.perf_counter()
            )
        # the answer has begun, so its status cannot change: the rows say it themselves
        except TasadorError as error:
            log.error("%d rows of a file were not valued: %s", len(chunk.places), error)
        graded = () if found is None else found.graded()
        for i, row in enumerate(chunk.places):
            if found is None:
                items[row]["error"] = "not valued: its record could not be kept; send it again"
                continue
            values = found.predictions
            withheld = i in values.no_value
            items[row] = {
                "row": row,
                "prediction": None if withheld else values.prediction[i],
                "lower": None if withheld else values.lower[i],
                "upper": None if withheld else values.upper[i],
                "warnings": values.notes.get(i, []),
                "error": None,
                "prediction_id": found.ids[i],
                "fsd": None if values.fsd is None else values.fsd[i],
                "confidence_class": graded[i][1],
                "no_value": values.no_value.get(i),
            }
        return cast(list[dict[str, Any]], items)


class _Answer(StreamingResponse):
    """A stream that cleans up behind itself, also when its client went before it began."""

    def __init__(
        self, content: AsyncIterator[bytes], finish: Callable[[], None], **options: Any
    ) -> None:
        super().__init__(content, **options)
        self._finish = finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as stack:
            stack.callback(self._finish)

            async def sent(message: Message) -> None:
                # before the last message: a client that has the whole answer may send the next file
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    stack.close()
                await send(message)

            await super().__call__(scope, receive, sent)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows of a file.

    Attributes:
        size: How many.
        rows: The ones to value.
        places: Where each of those stands in the chunk.
        errors: Why the others are not valued, by their place.
        bad_rows: Those others.
        left_out: Places of rows that are no part of the table.
    """

    size: int
    rows: Rows
    places: list[int]
    errors: dict[int, str]
    bad_rows: list[BadRow]
    left_out: set[int]


def _next_chunk(upload: Upload, predictor: Predictor) -> _Chunk:
    """Read and check the next rows; called in a thread."""
    taken = upload.take(CHUNK)
    values: list[dict[str, Any]] = []
    codes: list[list[float]] = []
    places: list[int] = []
    errors: dict[int, str] = {}
    bad: list[BadRow] = []
    left_out: set[int] = set()

    def refuse(place: int, row: dict[str, Any]) -> None:
        faults = predictor.check.faults(row)
        errors[place] = described(faults)
        bad.append(BadRow.of(row, faults))

    for place, row in enumerate(taken):
        if isinstance(row, LeftOutRow):
            left_out.add(place)
            continue
        if isinstance(row, UnreadableRow):
            errors[place] = row.reason
            bad.append(BadRow.unreadable(row.reason))
            continue
        try:
            codes.append(predictor.bundle.encoder.codes(row))
        except (ValidationError, TypeError):
            refuse(place, row)
            continue
        values.append(row)
        places.append(place)
    if codes:
        # bounds of all rows at once; the slow check by row runs for the refused ones only
        accepted = predictor.check.accepts(np.array(codes))
        for i in np.flatnonzero(~accepted).tolist():
            refuse(places[i], values[i])
        right = np.flatnonzero(accepted).tolist()
        values, codes, places = (
            [values[i] for i in right],
            [codes[i] for i in right],
            [places[i] for i in right],
        )
    return _Chunk(len(taken), Rows(values, codes), places, errors, bad, left_out)


def _written_csv(items: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, _FIELDS)
    for item in items:
        writer.writerow({**item, "warnings": "; ".join(item["warnings"] or ())})
    return text.getvalue().encode()


def _written_lines(items: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in items)


async def _from_form(request: Request, files: list[BinaryIO]) -> tuple[BinaryIO, str]:
    form = await request.form(max_files=1, max_fields=10)
    parts = [part for part in form.values() if isinstance(part, UploadFile)]
    files.extend(part.file for part in parts)
    if not parts:
        remedy = "send a part with a file name, e.g. curl -F file=@rows.csv"
        entry = error_detail(["file"], kind="missing", expected="a file", got="none", remedy=remedy)
        raise Problem("malformed_file", "the form holds no file", remedy=remedy, errors=[entry])
    name = (parts[0].filename or "").lower()
    kind = (parts[0].content_type or "").split(";")[0].strip().lower()
    if kind not in CSV_TYPES and kind not in PARQUET_TYPES:
        found = [known for suffix, known in _SUFFIXES.items() if name.endswith(suffix)]
        kind = found[0] if found else kind[:100]
    return parts[0].file, kind


def score_router(service: Service) -> APIRouter:
    """Return the route for files.

    Args:
        service: What all routes share.
    """
    routes = ScoreRoutes(service)
    router = APIRouter(prefix="/api/v1", tags=["valuation"], route_class=BodyRoute)

    binary = {"schema": {"type": "string", "format": "binary"}}
    router.add_api_route(
        "/score",
        routes.score,
        methods=["POST"],
        summary="Value the rows of a file",
        description="CSV with a line of column names, or Parquet; one line a row comes back. Rows "
        "without any value, rows that repeat the header, and totals and footnotes below the table "
        "have no line; they count where rows are numbered.",
        response_class=Response,
        responses={
            **answers(None, *_ERRORS, "invalid_header", "malformed_file"),
            200: {
                "description": f"Columns: {', '.join(_FIELDS)}. Rows count from 1.",
                "content": {
                    _CSV: {"schema": {"type": "string"}},
                    _LINES[0]: {"schema": {"type": "string"}},
                },
            },
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    _CSV: {"schema": {"type": "string"}},
                    _PARQUET: binary,
                    "multipart/form-data": {
                        "schema": {
                            "type": "object",
                            "required": ["file"],
                            "properties": {"file": {"type": "string", "format": "binary"}},
                        }
                    },
                },
            },
            "parameters": [_VERSION],
        },
        name="score",
    )
    return router
