"""The ASGI application: FastAPI for routing and documentation, the middleware before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tasador.serving.api.health import DeepCheck, Updates, status_router
from tasador.serving.api.openapi import PAGE, SCRIPT, Documentation, answers, body_of
from tasador.serving.api.outcomes import OutcomeRoutes, RecordOutcomes
from tasador.serving.api.predict import ValuationRoutes, json_endpoint
from tasador.serving.errors import Problem, error_detail, internal_error
from tasador.serving.http.middleware import Authorizer, GuardMiddleware
from tasador.serving.http.request import App, Handler, TrustedProxies
from tasador.serving.service import Service

log = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
_JSON_ERRORS = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503)


@dataclass(frozen=True)
class Parts:
    """What an application is put together from.

    Attributes:
        service: What all routes share.
        authorizer: Who may do what.
        version: Of tasador.
        record_outcomes: Keeps outcomes.
        deep: Looks at every dependency.
        updates: Says how the search for newer models goes.
        routers: Further routes.
        hot: Further handlers that bypass FastAPI, by (method, path).
        proxies: Whose ``X-Forwarded-For`` is believed; None believes nobody's.
        cors_origins: Origins whose pages may call the service.
        access_log: Whether every request is logged.
        lifespan: Starts and stops what the service needs.
    """

    service: Service
    authorizer: Authorizer
    version: str
    record_outcomes: RecordOutcomes
    deep: DeepCheck
    updates: Callable[[], Updates] = Updates
    routers: Sequence[APIRouter] = ()
    hot: dict[tuple[str, str], Handler] = field(default_factory=dict)
    proxies: TrustedProxies | None = None
    cors_origins: tuple[str, ...] = ()
    access_log: bool = False
    lifespan: Lifespan | None = None


def build_app(parts: Parts) -> App:
    """Return the whole application."""
    app = FastAPI(
        title="tasador",
        version=parts.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # a redirect would name whatever host the caller claims
        redirect_slashes=False,
        lifespan=parts.lifespan,
    )
    _register_error_handlers(app)
    routes = ValuationRoutes(parts.service)
    outcomes = OutcomeRoutes(parts.service, parts.record_outcomes)
    routers = [
        status_router(parts.service, parts.version, parts.deep, parts.updates),
        _valuation_router(routes, outcomes),
        *parts.routers,
    ]
    for router in routers:
        app.include_router(router)
    _add_documentation(app, Documentation(app, parts.service, parts.version))
    guarded = GuardMiddleware(
        app,
        {("POST", "/api/v1/predict"): routes.predict, **parts.hot},
        parts.service.limits,
        parts.authorizer,
        parts.service.metrics,
        known=_plain_paths(routers),
        proxies=parts.proxies,
        refused=parts.service.refused.request,
        access_log=parts.access_log,
    )
    if not parts.cors_origins:
        return guarded
    from starlette.middleware.cors import CORSMiddleware

    # outermost: a page may read refusals too, and a browser asks for permission without a key
    return CORSMiddleware(
        guarded,
        allow_origins=list(parts.cors_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["content-type", "x-api-key", "authorization", "x-request-id"],
        expose_headers=["x-request-id", "retry-after", "x-model-version"],
    )


def _plain_paths(routers: Sequence[APIRouter]) -> list[str]:
    paths = [getattr(route, "path", "{") for router in routers for route in router.routes]
    return [path for path in paths if "{" not in path]


def _valuation_router(routes: ValuationRoutes, outcomes: OutcomeRoutes) -> APIRouter:
    router = APIRouter(prefix="/api/v1", tags=["valuation"])
    outcomes_summary = "Record what rows turned out to be worth"
    for path, handler, name, summary, more in (
        ("predict", routes.predict, "Predict", "Value rows", ()),
        ("explain", routes.explain, "Explain", "Say why rows are worth what they are", ()),
        ("outcomes", outcomes.outcomes, "Outcomes", outcomes_summary, (409,)),
    ):
        router.add_api_route(
            f"/{path}",
            json_endpoint(handler),
            methods=["POST"],
            summary=summary,
            response_class=Response,
            responses=answers(f"{name}Answer", *_JSON_ERRORS, *more),
            openapi_extra=body_of(f"{name}Request"),
            name=path,
        )
    return router


def _register_error_handlers(app: FastAPI) -> None:
    """Answer everything that FastAPI rejects in our schema."""

    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> Response:
        headers = {}
        request.scope["tasador"].problem = problem
        if problem.retry_after is not None:
            headers["retry-after"] = str(problem.retry_after)
        body = problem.body(request.scope["tasador"].request_id)
        return Response(body, problem.status, headers=headers, media_type="application/json")

    @app.exception_handler(ClientDisconnect)
    async def on_gone(request: Request, error: ClientDisconnect) -> Response:  # noqa: ARG001
        return Response(status_code=499)  # for the counters: nobody reads it

    @app.exception_handler(Exception)
    async def on_fault(request: Request, error: Exception) -> Response:  # noqa: ARG001
        return await on_problem(request, internal_error())  # the guard logs it

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        problem = Problem(
            error.status_code,
            {404: "unknown_path", 405: "wrong_method"}.get(error.status_code, "refused"),
            f"{request.method} {request.url.path[:200]}: {error.detail}",
            remedy="see /docs for the routes",
        )
        answer = await on_problem(request, problem)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        detail = [
            error_detail(
                list(found["loc"]),
                kind=str(found["type"]),
                expected=str(found["msg"]),
                got=repr(found.get("input"))[:80],
                remedy="see /docs",
            )
            for found in error.errors()
        ]
        problem = Problem(422, "invalid_request", "the request cannot be read", detail=detail)
        return await on_problem(request, problem)


def _add_documentation(app: FastAPI, documentation: Documentation) -> None:
    policy = "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'"

    async def openapi() -> dict[str, Any]:
        return documentation.openapi()

    async def docs() -> Response:
        return Response(PAGE, media_type="text/html", headers={"content-security-policy": policy})

    async def script() -> Response:
        return Response(SCRIPT, media_type="text/javascript")

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/docs.js", script, include_in_schema=False)
    app.openapi = documentation.openapi  # type: ignore[method-assign]
