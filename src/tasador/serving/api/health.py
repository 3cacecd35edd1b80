"""Health, status and metrics: the checks of every dependency, and the routes about them."""

from __future__ import annotations

import datetime as dt
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Response

from tasador.core import clock as wall
from tasador.core.deadlines import BoundedCaller, Deadline
from tasador.core.errors import NothingOfferedError, StorageError
from tasador.serving.api.openapi import About, DeepHealth, Health, Live, ModelInfo, Ready
from tasador.serving.cascade import GuardedSource
from tasador.serving.metrics import CONTENT_TYPE
from tasador.serving.model_slot import ModelSlot
from tasador.serving.refresher import Refresher
from tasador.serving.service import LoadedBundle, Service

Status = Literal["healthy", "degraded", "unhealthy"]
#: Checks a dependency: returns a detail for people, raises when it is not healthy.
Check = Callable[[Deadline], str]

#: Seconds for a check that was stopped in time to say so.
_GRACE_S = 0.2


class DegradedError(StorageError):
    """A dependency that works, but not as it should."""


@dataclass(frozen=True, slots=True)
class DependencyHealth:
    """One dependency.

    Attributes:
        name: ``model``, ``registry``, ``object_store``, ``records``, ``disk``...
        status: ``healthy``, ``degraded`` or ``unhealthy``.
        latency_s: Seconds that the check took.
        detail: For people: what was found, or what is wrong.
        checked_at: When, ISO 8601 in UTC.
    """

    name: str
    status: Status
    latency_s: float
    detail: str
    checked_at: str


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The whole service.

    Attributes:
        status: ``unhealthy`` when it cannot value rows, ``degraded`` when it can but something it
            depends on is not healthy, else ``healthy``.
        dependencies: The model first, then each dependency.
    """

    status: Status
    dependencies: tuple[DependencyHealth, ...]


class HealthChecks:
    """Answers probes; a probe never costs more than `timeout_s`, however many there are.

    A check runs in its own thread and at most once in `ttl_s`; probes that come meanwhile share
    its answer. One that does not answer in time is unhealthy, and is not started again before the
    hanging call has ended or was given up.

    Args:
        slot: Where the running model is.
        checks: Checks by the dependency's name.
        ttl_s: Seconds for which an answer is good.
        timeout_s: Seconds in which a check must answer.
        clock: Seconds that never run backwards.
        keeps_records: Whether a valuation could be recorded, if it has to be.
    """

    def __init__(
        self,
        slot: ModelSlot,
        checks: Mapping[str, Check],
        *,
        ttl_s: float = 5.0,
        timeout_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        keeps_records: Callable[[], bool] = lambda: True,
    ) -> None:
        self._holder = slot
        self._keeps_records = keeps_records
        self._checks = [_Cached(name, check, ttl_s, clock) for name, check in checks.items()]
        self._timeout_s = timeout_s

    def live(self) -> bool:
        """Whether the process runs: a restart would help if it did not. Always true here."""
        return True

    def ready(self) -> bool:
        """Whether rows can be valued and recorded here: else requests belong to another server."""
        return self._holder.current is not None and self._keeps_records()

    def deep(self) -> HealthReport:
        """Check everything; blocks for `timeout_s` and a fifth of a second at most."""
        deadline = Deadline.after(self._timeout_s + _GRACE_S)
        for check in self._checks:
            check.begin(self._timeout_s)
        found = tuple(check.answer(deadline) for check in self._checks)
        model = self._model()
        status: Status = "healthy"
        if not self.ready():
            status = "unhealthy"
        elif any(one.status != "healthy" for one in (model, *found)):
            status = "degraded"
        return HealthReport(status, (model, *found))

    def _model(self) -> DependencyHealth:
        now, running = wall.timestamp(), self._holder.current
        if running is None:
            return DependencyHealth("model", "unhealthy", 0.0, "no model is loaded", now)
        detail = f"{running.version} from {running.source}"
        # it answers, but from a copy: whoever looks should know that no source is followed
        degraded = running.source == "last_good"
        return DependencyHealth("model", "degraded" if degraded else "healthy", 0.0, detail, now)


class _Cached:
    """One check: run in its own thread, its answer shared and kept for a while."""

    def __init__(self, name: str, check: Check, ttl_s: float, clock: Callable[[], float]) -> None:
        self.name = name
        self._check, self._ttl_s, self._clock = check, ttl_s, clock
        # one hanging call at most: probes come every few seconds for days
        self._caller = BoundedCaller(f"health of {name}", most_left=1)
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._answer: DependencyHealth | None = None
        self._at = 0.0
        self._flying = False

    def begin(self, timeout_s: float) -> None:
        """Start the check unless it runs, or its answer is still good."""
        with self._lock:
            fresh = self._answer is not None and self._clock() - self._at < self._ttl_s
            if self._flying or fresh:
                return
            self._flying = True
            self._answered.clear()
        threading.Thread(
            target=self._run, args=(timeout_s,), name=f"tasador probe {self.name}", daemon=True
        ).start()

    def answer(self, deadline: Deadline) -> DependencyHealth:
        """Return the answer as soon as it is there; the deadline stands in for one."""
        self._answered.wait(deadline.remaining())
        with self._lock:
            if self._answer is not None:
                return self._answer
        return DependencyHealth(self.name, "unhealthy", 0.0, "no answer yet", wall.timestamp())

    def _run(self, timeout_s: float) -> None:
        started = time.monotonic()
        deadline = Deadline.after(timeout_s)
        status: Status = "healthy"
        try:
            detail = self._caller.call(lambda: self._check(deadline), deadline)
        except DegradedError as error:
            status, detail = "degraded", str(error)
        except Exception as error:
            status, detail = "unhealthy", str(error) or type(error).__name__
        seconds = time.monotonic() - started
        with self._lock:
            self._answer = DependencyHealth(self.name, status, seconds, detail, wall.timestamp())
            # from its end: a check slower than `ttl_s` would otherwise run without a pause
            self._at, self._flying = self._clock(), False
        self._answered.set()


def source_check(source: GuardedSource) -> Check:
    """Return the check of a source: whether it says what it offers.

    It respects the source's breaker and does not touch it: impatient probes must not cut a slow
    registry off.
    """

    def check(deadline: Deadline) -> str:
        report = source.report()
        if report.breaker.status == "open":
            raise StorageError(
                f"left alone for {report.breaker.retry_in_s:.0f} s after "
                f"{report.breaker.failures} failures", got=report.error,
            )  # fmt: skip
        try:
            return f"offers {source.source.identity(deadline)}"
        except NothingOfferedError as error:
            raise DegradedError(error.message) from None

    return check


def refresher_check(refresher: Refresher, patience_s: float = 120.0) -> Check:
    """Return the check of the refresher: whether its last round went well, and it goes on.

    Args:
        refresher: The refresher.
        patience_s: Seconds that a round may take.
    """

    def check(_: Deadline) -> str:
        report = refresher.report()
        if not report.running:
            raise DegradedError("the refresher does not run: new models are not noticed")
        late = refresher.idle_s - refresher.cascade.settings.poll_s * 2 - patience_s
        if late > 0:
            raise DegradedError(f"the refresher's last round ended {refresher.idle_s:.0f} s ago")
        if report.last_error or report.copy_error:
            problem = report.last_error or f"no last good copy: {report.copy_error}"
            raise DegradedError(f"{report.refused} refused; {problem}")
        return f"{report.polls} rounds, {report.swaps} swaps, {report.refused} refused"

    return check


def disk_check(folder: Path, least_bytes: int = 256 * 2**20) -> Check:
    """Return the check of a disk: whether `least_bytes` are free where `folder` is, or will be."""

    def check(_: Deadline) -> str:

        # the folder is made with the first record: until then its parent is on the same disk
        existing = next(
            path for path in (folder.resolve(), *folder.resolve().parents) if path.exists()
        )
        free = shutil.disk_usage(existing).free
        detail = f"{free // 2**20} MiB free at {existing}"
        if free < least_bytes:
            raise DegradedError(f"{detail}, {least_bytes // 2**20} MiB wanted")
        return detail

    return check


@dataclass(frozen=True)
class Updates:
    """How the search for newer models goes.

    Attributes:
        refused: How many offered models were refused since the start.
        problem: What the last round failed with; None when it did not.
    """

    refused: int = 0
    problem: str | None = None


#: Looks at every dependency; cached and time-boxed, see `serving.api.health`. Called in a thread.
DeepCheck = Callable[[], DeepHealth]


def status_router(
    service: Service,
    version: str,
    deep: DeepCheck,
    updates: Callable[[], Updates] = Updates,
    docs: str = "/docs",
) -> APIRouter:
    """Return the routes about the service itself.

    Args:
        service: What all routes share.
        version: Of tasador.
        deep: Looks at every dependency.
        updates: Returns how the search for newer models goes, without a request to a source.
        docs: Path of the documentation.
    """
    router = APIRouter(tags=["status"])

    @router.get("/", response_model=About)
    async def about() -> About:
        """Name and version of the service, and where its documentation is."""
        return About(name="tasador", version=version, docs_url=docs)

    @router.get("/health", response_model=Health)
    async def health() -> Health:
        """Whether the service can answer and takes new models; 200 even when it cannot.

        It is degraded while the last search for a newer model failed: a source does not answer, or
        offers a model that was refused. /health/ready is not affected, as the model answers.
        """
        found = updates()
        serves: Literal["healthy", "degraded"] = "degraded" if found.problem else "healthy"
        return Health(
            status=serves if service.ready else "unhealthy",
            version=version,
            models_refused=found.refused,
            update_problem=found.problem,
            **service.model_facts(),
        )

    @router.get("/health/live", response_model=Live)
    async def live() -> Live:
        """Whether the process should be left running."""
        return Live(status="alive")

    @router.get("/health/ready", response_model=Ready, responses={503: {"model": Ready}})
    async def ready(response: Response) -> Ready:
        """Whether requests should be sent here."""
        if not service.ready:
            response.status_code = 503
            return Ready(status="not_ready")
        return Ready(status="ready")

    @router.get("/health/deep", response_model=DeepHealth, responses={503: {"model": DeepHealth}})
    def deep_health(response: Response) -> DeepHealth:
        """Look at every dependency; cached for seconds, so that asking often costs nothing."""
        found = deep()
        if found.status == "unhealthy":
            response.status_code = 503
        return found

    @router.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Everything that is counted, in Prometheus' text format."""
        return Response(service.metrics.scrape(), media_type=CONTENT_TYPE.decode())

    @router.get("/api/v1/model/info", response_model=ModelInfo)
    async def model_info() -> ModelInfo:
        """The model that answers."""
        return ModelInfo(**_described(service.slot.current, service.slot.previous))

    return router


def _described(loaded: LoadedBundle | None, previous: LoadedBundle | None) -> dict[str, Any]:
    if loaded is None:
        return {"status": "not_ready", "model_loaded": False, "model_version": None}
    bundle = loaded.bundle
    return {
        "status": "ready",
        "model_loaded": True,
        "model_version": bundle.version,
        "release": bundle.manifest.release or None,
        "source": loaded.source,
        "loaded_at": dt.datetime.fromtimestamp(loaded.loaded_at, tz=dt.UTC).isoformat(),
        "origin": bundle.origin,
        "kind": bundle.manifest.model.kind,
        "target": bundle.contract.target.name,
        "unit": bundle.contract.target.unit,
        "previous_version": None if previous is None else previous.bundle.version,
        "contract": bundle.contract.to_dict(),
        "metrics": dict(bundle.manifest.metrics),
    }
