"""The application: FastAPI for routing and documentation, the middleware before it.

`build_app` puts it together from its parts, `Assembly` makes the parts from the settings.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tasador.contract.target_check import TargetBounds
from tasador.core.deadlines import Deadline
from tasador.core.errors import StorageError
from tasador.core.logging import redact
from tasador.core.memory import limit_malloc_arenas
from tasador.records.batch_writer import RecordWriter
from tasador.records.database import Database
from tasador.records.record import Outcome
from tasador.records.store import OutcomeAnswer, RecordStore
from tasador.serving.api.documentation import Documentation, documentation_router, summarize
from tasador.serving.api.health import (
    Check,
    DeepCheck,
    DegradedError,
    HealthChecks,
    Updates,
    disk_check,
    refresher_check,
    source_check,
    status_router,
)
from tasador.serving.api.mlflow_scoring import mlflow_router
from tasador.serving.api.models import AdminActions, admin_router, card_router
from tasador.serving.api.monitoring import MonitoringReader, monitoring_router
from tasador.serving.api.open_inference import open_inference_router
from tasador.serving.api.openapi import DeepHealth, DependencyCheck
from tasador.serving.api.outcomes import OutcomeRoutes, RecordOutcomes, outcomes_router
from tasador.serving.api.valuations import (
    PREDICT,
    ReportWriter,
    ValuationRoutes,
    score_router,
    valuation_router,
)
from tasador.serving.batcher import Batcher
from tasador.serving.cache import RedisCache, make_cache
from tasador.serving.canary import Canary, challenger_loader
from tasador.serving.cascade import Cascade
from tasador.serving.errors import Problem, error_detail, faults_of
from tasador.serving.http.auth import KeyAuthorizer
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
from tasador.serving.http.server import GuardedProtocol, set_up_logs
from tasador.serving.metrics import BREAKER_STATES, Metrics
from tasador.serving.model_slot import LoadedModel, ModelSlot
from tasador.serving.refresher import Refresher, RefreshEvents
from tasador.serving.service import LazyDatabase, Service
from tasador.settings.serving import ServeSettings, read_settings

log = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

#: Probes call a source's check by the name of what it is.
_DEPENDENCIES = {"mlflow": "registry"}
#: Objects made before a full collection is due. Requests leave no cycles behind, and a collection
#: that walks a loaded bundle stops every request under way for tens of milliseconds.
_GC = (50_000, 50, 100)


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
        reports: Writes valuation reports; None refuses them.
        proxies: Whose ``X-Forwarded-For`` is believed; None believes nobody's.
        cors_origins: Origins whose pages may call the service.
        access_log: Whether every request is logged.
        lifespan: Starts and stops what the service needs.
        prefix: What a proxy puts before the service's paths.
    """

    service: Service
    authorizer: Authorizer
    version: str
    record_outcomes: RecordOutcomes
    deep: DeepCheck
    updates: Callable[[], Updates] = Updates
    routers: Sequence[APIRouter] = ()
    reports: ReportWriter | None = None
    proxies: TrustedProxies | None = None
    cors_origins: tuple[str, ...] = ()
    access_log: bool = False
    lifespan: Lifespan | None = None
    prefix: str = ""


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
    routes = ValuationRoutes(parts.service, parts.reports)
    documentation = Documentation(app, parts.service, parts.version, parts.prefix)
    app.openapi = documentation.openapi  # type: ignore[method-assign]
    routers = [
        status_router(
            parts.service, parts.version, parts.deep, parts.updates, docs=f"{parts.prefix}/docs"
        ),
        valuation_router(routes),
        outcomes_router(OutcomeRoutes(parts.service, parts.record_outcomes)),
        *parts.routers,
        documentation_router(documentation),
    ]
    for router in routers:
        summarize(router)
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
        prefix=parts.prefix,
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


class Assembly:
    """One worker's service.

    Args:
        settings: The service's configuration.

    Raises:
        ConfigError: A setting is invalid. Nothing is contacted yet.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.slot = ModelSlot()
        self.cascade = Cascade.of(settings.source)
        self.refresher = Refresher(
            self.cascade, self.slot, RefreshEvents(on_swap=lambda now, _: self._swapped(now))
        )
        self.writer = RecordWriter(settings.records)
        self._outcomes = _Outcomes(settings)
        self._monitoring = MonitoringReader(settings.records)
        self.cache = make_cache(settings.cache, self.metrics.cached)
        batcher = Batcher(self.writer, self.metrics, cache=self.cache)
        self.service = Service(
            self.slot,
            batcher,
            self.metrics,
            settings.limits,
            keeps_records=self.writer.keeps,
            keep_refused=self.writer.refuse,
            no_value=settings.serve,
        )
        self.canary = self._canary()
        self.health = HealthChecks(self.slot, self._checks(), keeps_records=self.writer.keeps)
        self.metrics.on_scrape(self._refresh_gauges)

    def app(self) -> App:
        """Return the application; its lifespan starts and stops everything."""
        return build_app(self.parts())

    def parts(self) -> Parts:
        """Return what the application is made from, for those who add to it."""
        settings, own_version = self.settings, version("tasador")
        return Parts(
            service=self.service,
            authorizer=KeyAuthorizer(settings.security, settings.limits, self.metrics.folder),
            version=own_version,
            routers=[
                open_inference_router(self.service, own_version),
                mlflow_router(self.service, own_version),
                score_router(self.service),
                card_router(self.service),
                monitoring_router(self.service, self._monitoring),
                admin_router(
                    AdminActions(
                        rollback=lambda: self.slot.rollback().version,
                        reload=lambda: self.refresher.refresh(force=True),
                        state=self._state,
                    )
                ),
            ],
            record_outcomes=self._outcomes.add,
            deep=self._deep,
            updates=self._updates,
            proxies=_proxies(settings),
            cors_origins=settings.security.cors_origins,
            access_log=settings.server.access_log,
            lifespan=self._lifespan,
            prefix=settings.server.root_path,
        )

    @asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        self.writer.start()
        self.refresher.start()
        self.metrics.start()
        if self.canary is not None:
            self.canary.start()
        try:
            yield
        finally:
            # first: probes turn away new requests while those under way are answered
            self.service.draining = True
            if self.cache is not None:
                await self.cache.close()
            await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        if self.canary is not None:
            self.canary.stop()
        self.metrics.stop()
        self.refresher.stop()
        # after all that makes records, so that none is submitted to a closed writer
        if not self.writer.close(self.settings.server.drain_s):
            log.error("not every record could be flushed: %s", self.writer.status().last_error)
        self._outcomes.close()
        self._monitoring.close()

    def _swapped(self, now: LoadedModel) -> None:
        model, bounds = now.bundle.manifest.name, TargetBounds.of(now.bundle.contract.target)
        self._outcomes.targets[model] = bounds
        self.writer.keep_target(model, bounds)
        _settle_memory()

    def _canary(self) -> Canary | None:
        """Return what takes part in experiments; without a registry or records there are none."""
        settings = self.settings
        if (
            not settings.source.tracking_uri
            or not settings.canary.enabled
            or settings.records.mode == "off"
        ):
            return None
        return Canary(
            self.service,
            settings.canary,
            Database(settings.records.url, synchronous=settings.records.synchronous),
            challenger_loader(settings.source),
            self.writer,
            on_end=self.refresher.poll_soon,
        )

    def _deep(self) -> DeepHealth:
        found = self.health.deep()
        return DeepHealth(
            status=found.status,
            version=version("tasador"),
            **self.service.model_facts(),
            checks=[
                DependencyCheck(
                    name=one.name,
                    status=one.status,
                    latency_ms=round(one.latency_s * 1000, 3),
                    detail=redact(one.detail),
                    checked_at=one.checked_at,
                )
                for one in found.dependencies
            ],
        )

    def _updates(self) -> Updates:
        found = self.refresher.report()
        return Updates(found.refused, found.last_error)

    def _state(self) -> Mapping[str, Any]:
        current, previous = self.slot.current, self.slot.previous
        return {
            "current": None
            if current is None
            else {"version": current.version, "source": current.source},
            "previous": None if previous is None else previous.version,
            "sources": self.cascade.report(),
            "refresh": self.refresher.report(),
            "records": self.writer.status(),
        }

    def _checks(self) -> Mapping[str, Check]:
        checks = {
            _DEPENDENCIES.get(source.name, source.name): source_check(source)
            for source in self.cascade.sources
            # the copy is no dependency: the refresher's check says when it cannot be made
            if source.name != "last_good"
        }
        if self.metrics.shared:
            checks["workers"] = self._check_workers
        checks["refresher"] = refresher_check(self.refresher)
        if isinstance(self.cache, RedisCache):
            checks["redis"] = self.cache.ping
        if self.settings.records.mode != "off":
            checks["records"] = self._check_records
            checks["watcher"] = self._check_watcher
            checks["disk"] = disk_check(self.settings.records.spool_folder())
        return checks

    def _check_workers(self, _: Deadline) -> str:
        found, wanted = self.metrics.workers(), self.settings.server.workers
        detail = f"{len(found)} of {wanted} workers run, {sum(found)} have a model"
        # a worker that is starting counts as one without a model
        if sum(found) < max(wanted, len(found)):
            raise DegradedError(detail, remedy="workers that end are started again: see the log")
        return detail

    def _check_watcher(self, _: Deadline) -> str:
        found = self._monitoring.watcher()
        if found is None:
            return "no watcher evaluates these records"
        name, left = found
        if left < 0:
            raise DegradedError(f"the watcher {name} is silent: it is overdue by {-left:.0f} s")
        return f"{name} evaluates these records"

    def _check_records(self, _: Deadline) -> str:
        status = self.writer.status()
        detail = f"{status.written} written, {status.spooled} spooled, {status.lost} lost"
        if status.full:
            raise StorageError(
                f"records can be kept nowhere: {detail}",
                got=status.last_error,
                remedy="bring the database back, or make space where the spool is",
            )
        if status.state != "ok":
            raise DegradedError(
                f"the database is unreachable, records go to the spool: {detail}",
                got=status.last_error,
            )
        # through the connection that outcomes take, which may be down alone
        self._outcomes.ping()
        return detail

    def _refresh_gauges(self) -> None:
        metrics, current = self.metrics, self.slot.current
        metrics.gauge(
            "tasador_model_loaded", "Whether a model answers.", float(current is not None)
        )
        metrics.worker(current is not None)
        # the labels name the model: without this the one before would be shown beside it
        metrics.forget("tasador_model_info")
        if current is not None:
            labels = {
                "version": current.version,
                "source": current.source,
                "origin": current.bundle.origin,
            }
            metrics.gauge("tasador_model_info", "The model that answers.", 1.0, labels)
        for report in self.cascade.report():
            labels = {"source": report.source}
            metrics.gauge(
                "tasador_breaker_state",
                "0 closed, 1 half open, 2 open.",
                BREAKER_STATES[report.breaker.status],
                labels,
            )
        self._count_records()
        refreshed = self.refresher.report()
        for name, description, value in (
            ("tasador_model_polls", "Looks at what sources offer.", refreshed.polls),
            ("tasador_model_swaps", "Models that began to answer.", refreshed.swaps),
            ("tasador_model_refusals", "Bundles that were not taken.", refreshed.refused),
            ("tasador_model_errors", "Looks at sources that failed.", refreshed.errors),
        ):
            metrics.total(name, description, value)

    def _count_records(self) -> None:
        status, metrics = self.writer.status(), self.metrics
        metrics.gauge("tasador_records_queued", "Records that wait in memory.", status.queued)
        metrics.gauge("tasador_records_spool_bytes", "Size of the spool.", status.spool_bytes)
        metrics.gauge(
            "tasador_records_spooling",
            "Whether the database is unreachable.",
            float(status.state != "ok"),
        )
        for name, value in (
            ("written", status.written),
            ("spooled", status.spooled),
            ("replayed", status.replayed),
            ("lost", status.lost),
            ("refused", status.refused),
        ):
            metrics.total("tasador_records", "Records by fate.", value, {"fate": name})


class _Outcomes:
    """Writes outcomes through a connection of its own."""

    def __init__(self, settings: ServeSettings) -> None:
        self.targets: dict[str, TargetBounds] = {}
        self._database = LazyDatabase(
            settings.records,
            off="outcomes cannot be kept while records are switched off",
            remedy="send the same outcomes again later: doing so twice is harmless",
        )

    def add(
        self, outcomes: Sequence[Outcome], *, own: bool = False, replace: Collection[str] = ()
    ) -> list[OutcomeAnswer]:
        """Write outcomes and return the result of each.

        Raises:
            Problem: 503, records are switched off or the database is unreachable.
        """
        return self._database.ask(
            lambda database: RecordStore(database).add_outcomes(
                outcomes, self.targets, own=own, replace=replace
            )
        )

    def ping(self) -> None:
        """Ask the database for nothing.

        Raises:
            OutageError: It does not answer.
        """
        RecordStore(self._database.opened()).count(0.0, 0.0)

    def close(self) -> None:
        """Close the connection."""
        self._database.close()


def _proxies(settings: ServeSettings) -> TrustedProxies | None:
    trusted = settings.security.trusted_proxies
    return TrustedProxies(trusted) if trusted else None


def _settle_memory() -> None:
    """Take what has been loaded out of garbage collection."""
    gc.collect()
    # the bundle stays for hours: no later collection has to walk it
    gc.freeze()
    gc.set_threshold(*_GC)


def from_environment() -> App:
    """Return the application that the environment describes; each worker may call this."""
    return assembled(os.environ).app()


def assembled(environment: Mapping[str, str]) -> Assembly:
    """Return the service that an environment describes, with its process set up for it."""
    limit_malloc_arenas()
    settings = read_settings(environment)
    set_up_logs(settings.server)
    GuardedProtocol.header_timeout_s = settings.server.header_timeout_s
    GuardedProtocol.prefix = settings.server.root_path
    return Assembly(settings)
