"""The ASGI application: FastAPI for routing and documentation, the middleware before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tasador.serving.api.health import DeepCheck, Updates, status_router
from tasador.serving.api.openapi import Documentation, documentation_router
from tasador.serving.api.outcomes import OutcomeRoutes, RecordOutcomes, outcomes_router
from tasador.serving.api.predict import PREDICT, ValuationRoutes, valuation_router
from tasador.serving.errors import Problem, error_detail, faults_of
from tasador.serving.http.middleware import (
    AuthMiddleware,
    Authorizer,
    ContextMiddleware,
    LimitMiddleware,
    PredictMiddleware,
    ProblemMiddleware,
    problem_response,
)
from tasador.serving.http.request import App, TrustedProxies
from tasador.serving.service import Service

log = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


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
        strict_content_type=False,  # clients send JSON without naming it
        lifespan=parts.lifespan,
    )
    _register_error_handlers(app)
    routes = ValuationRoutes(parts.service)
    documentation = Documentation(app, parts.service, parts.version)
    app.openapi = documentation.openapi  # type: ignore[method-assign]
    routers = [
        status_router(parts.service, parts.version, parts.deep, parts.updates),
        valuation_router(routes),
        outcomes_router(OutcomeRoutes(parts.service, parts.record_outcomes)),
        *parts.routers,
        documentation_router(documentation),
    ]
    for router in routers:
        app.include_router(router)
    # around FastAPI's application and not in it: its own outermost layer would answer first
    answered: App = PredictMiddleware(app, PREDICT, routes.predict)
    answered = AuthMiddleware(answered, parts.authorizer)
    answered = ProblemMiddleware(LimitMiddleware(answered, parts.service.limits))
    answered = ContextMiddleware(
        answered,
        parts.service.metrics,
        known=_plain_paths(routers),
        proxies=parts.proxies,
        refused=parts.service.refused.request,
        access_log=parts.access_log,
    )
    if not parts.cors_origins:
        return answered
    from starlette.middleware.cors import CORSMiddleware

    # outermost: a page may read refusals too, and a browser asks for permission without a key
    return CORSMiddleware(
        answered,
        allow_origins=list(parts.cors_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["content-type", "x-api-key", "authorization", "x-request-id"],
        expose_headers=["x-request-id", "retry-after", "x-model-version"],
    )


def _plain_paths(routers: Sequence[APIRouter]) -> list[str]:
    paths = [getattr(route, "path", "{") for router in routers for route in router.routes]
    return [path for path in paths if "{" not in path]


def _register_error_handlers(app: FastAPI) -> None:
    """Answer everything that FastAPI rejects as `Problem` is answered."""

    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> Response:
        return problem_response(problem, request.scope["tasador"])

    @app.exception_handler(ClientDisconnect)
    async def on_gone(request: Request, error: ClientDisconnect) -> Response:  # noqa: ARG001
        return Response(status_code=499)  # for the counters: nobody reads it

    @app.exception_handler(Exception)
    async def on_fault(request: Request, error: Exception) -> Response:  # noqa: ARG001
        return await on_problem(request, Problem("internal_error"))  # the middleware logs it

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        word = {404: "unknown_path", 405: "wrong_method"}.get(error.status_code, "refused")
        text = f"{request.method} {request.url.path[:200]}: {error.detail}"
        answer = await on_problem(request, Problem(word, text, status=error.status_code))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            error_detail(loc, kind=kind, expected=expected, got=got, remedy="see /docs")
            for loc, expected, got, kind in faults_of(error.errors())
        ]
        return await on_problem(request, Problem("invalid_request", errors=errors))
