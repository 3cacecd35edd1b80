"""What the service is and how it does: about, health, metrics, the model."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Response

from tasador.serving.api.schemas import About, DeepHealth, Health, Live, ModelInfo, Ready
from tasador.serving.metrics import CONTENT_TYPE
from tasador.serving.service import Loaded, Service


@dataclass(frozen=True)
class Updates:
    """How the search for newer models goes.

    Attributes:
        refused: How many offered models were refused since the start.
        problem: What the last round failed with; None when it did not.
    """

    refused: int = 0
    problem: str | None = None


#: Looks at every dependency; cached and time-boxed, see `serving.health`. Called in a thread.
DeepCheck = Callable[[], DeepHealth]


def status_router(
    service: Service, version: str, deep: DeepCheck, updates: Callable[[], Updates] = Updates
) -> APIRouter:
    """Return the routes about the service itself.

    Args:
        service: What all routes share.
        version: Of tasador.
        deep: Looks at every dependency.
        updates: Says how the search for newer models goes, without asking anybody.
    """
    router = APIRouter(tags=["status"])

    @router.get("/", response_model=About)
    async def about() -> About:
        """Name and version of the service, and where its documentation is."""
        return About(name="tasador", version=version, docs_url="/docs")

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
        return ModelInfo(**_described(service.holder.current, service.holder.previous))

    return router


def _described(loaded: Loaded | None, previous: Loaded | None) -> dict[str, Any]:
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
