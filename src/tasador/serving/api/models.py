"""``/api/v1/models``: the model's card and map, its versions and history, and who may change them.

``/api/v1/admin`` is for keys of role admin: look at the model's state, roll back, poll at once.
What versions there are and how one is promoted belongs to the package `lifecycle`, above this one:
it is passed in as `Lifecycle`, so that the command line and the API do the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tasador.core.errors import ConfigError, GateError, MissingExtraError, TasadorError
from tasador.registry.model_bundle import ModelBundle
from tasador.serving.api.openapi import answers
from tasador.serving.errors import Problem
from tasador.serving.http.middleware import ADMIN
from tasador.serving.http.request import BodyRoute, Exchange
from tasador.serving.service import Service

T = TypeVar("T")

log = logging.getLogger(__name__)

_READ = ("registry_away", "database_away", "lifecycle_unavailable")
#: Cells with fewer rows are counted, but their value is withheld: it would reveal single sales.
_FEWEST = 5


@dataclass(frozen=True)
class AdminActions:
    """What an administrator can do; each is called in a thread.

    Attributes:
        rollback: Lets the previous model answer; returns its version. Raises `TasadorError` when
            there is none.
        reload: Looks at the sources now; returns whether another model answers since.
        state: Returns what there is to know, in JSON types.
    """

    rollback: Callable[[], str]
    reload: Callable[[], bool]
    state: Callable[[], Mapping[str, Any]]


async def require_admin(request: Request) -> None:
    """Reject everybody but administrators, whatever checks precede this route."""
    exchange: Exchange = request.scope["tasador"]
    if exchange.role != "admin":
        raise Problem("forbidden", "the admin routes need a key of role admin")


def admin_router(actions: AdminActions) -> APIRouter:
    """Return the routes for administrators.

    Args:
        actions: What they can do.
    """
    router = APIRouter(
        prefix=ADMIN.rstrip("/"),
        tags=["admin"],
        dependencies=[Depends(require_admin)],
    )
    # one change at a time: two rollbacks at once would cancel each other
    changing = asyncio.Lock()

    @router.get("/state")
    def state() -> dict[str, Any]:
        """Tell which model answers, which one a rollback returns to, and how the sources are."""
        return dict(actions.state())

    @router.post("/rollback", responses=answers(None, "nothing_to_roll_back_to"))
    async def rollback(request: Request) -> dict[str, str]:
        """Let the previous model answer again."""
        async with changing:
            try:
                version = await asyncio.to_thread(actions.rollback)
            except TasadorError as error:
                raise Problem.of("nothing_to_roll_back_to", error) from None
        _note(request, "rolled back to %s", version)
        return {"model_version": version}

    @router.post("/reload")
    async def reload(request: Request) -> dict[str, Any]:
        """Look now at what the sources offer, also at what was refused before."""
        async with changing:
            swapped = await asyncio.to_thread(actions.reload)
        _note(request, "looked at the sources: %s", "swapped" if swapped else "no change")
        return {"swapped": swapped, "state": dict(await asyncio.to_thread(actions.state))}

    return router


def _note(request: Request, message: str, *values: object) -> None:
    exchange: Exchange = request.scope["tasador"]
    fields = {"request_id": exchange.request_id, "client": exchange.client}
    # a warning: changes by hand have to be in the log at every level that is usual
    log.warning(message, *values, extra={"fields": fields})


class Density(BaseModel):
    """Where the training rows lie: rows by cell of a grid, one entry a cell that holds any."""

    x: str = Field(description="Column of the horizontal axis")
    y: str = Field(description="Column of the vertical axis")
    x_step: float
    y_step: float
    cells: list[tuple[float, float, int, float | None]] = Field(
        description="Centre x, centre y, rows, median target (null for fewer than five rows)"
    )


def density(bundle: ModelBundle, across: int = 70) -> Density | None:
    """Return where a bundle's training rows lie; None without coordinates or comparables.

    Args:
        bundle: The model.
        across: Cells along the longer axis.
    """
    coordinates, features = bundle.contract.coordinates, bundle.features
    if coordinates is None or features.index is None or features.plan is None:
        return None
    near = features.plan.near
    if not {column.name for column in coordinates} <= set(near):
        return None
    places = features.index.points / features.plan.scale
    longitude, latitude = coordinates
    x, y = (places[:, near.index(column.name)] for column in coordinates)
    # square cells: a map is not stretched
    step = max(float(np.ptp(x)), float(np.ptp(y))) / across or 1.0
    values = bundle.target.inverse(features.index.target)
    return Density(
        x=longitude.name,
        y=latitude.name,
        x_step=step,
        y_step=step,
        cells=_cells(x, y, values, step),
    )


def _cells(
    x: NDArray[np.float64], y: NDArray[np.float64], values: NDArray[np.float64], step: float
) -> list[tuple[float, float, int, float | None]]:
    column = np.floor((x - x.min()) / step).astype(np.int64)
    row = np.floor((y - y.min()) / step).astype(np.int64)
    key = row * (column.max() + 1) + column
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(key[order]) != 0])
    found = []
    for members in np.split(order, starts[1:]):
        first = members[0]
        median = float(np.median(values[members])) if len(members) >= _FEWEST else None
        found.append(
            (
                float(x.min() + (column[first] + 0.5) * step),
                float(y.min() + (row[first] + 0.5) * step),
                len(members),
                median,
            )
        )
    return found


#: They become arguments of a command: none may be read as an option, or hold a control character.
VersionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
ReasonText = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=500)]


class Promotion(BaseModel):
    """Which version shall have which place."""

    model_config = ConfigDict(extra="forbid")

    version: VersionName = Field(description="A number, an alias or a bundle's version")
    alias: Literal["champion", "challenger", "staging"] = "champion"
    reason: ReasonText = ""
    force: bool = Field(False, description="Although a gate refuses; needs a reason")


class Return(BaseModel):
    """Which earlier champion shall return."""

    model_config = ConfigDict(extra="forbid")

    to: VersionName | None = Field(None, description="A version; by default the previous champion")
    reason: ReasonText = ""


@dataclass(frozen=True)
class Lifecycle:
    """Queries and changes of versions; each is called in a thread, may raise TasadorError.

    Attributes:
        versions: Returns ``{"model", "versions", "notes"}``.
        history: Returns the audit trail's latest entries; takes how many.
        report: Returns the HTML report of the run that made a version; None when it is not here.
        promote: Takes the request and who made it; returns what was done.
        rollback: Takes the version to return to or None, the reason, and who.
        changed: Called after a change, so that it counts at once.
    """

    versions: Callable[[], dict[str, Any]]
    history: Callable[[int], list[dict[str, Any]]]
    report: Callable[[str], str | None]
    promote: Callable[[Promotion, str], dict[str, Any]]
    rollback: Callable[[Return, str], dict[str, Any]]
    changed: Callable[[], object]


def card_router(service: Service) -> APIRouter:
    """Return the routes about the model that answers."""
    router = APIRouter(prefix="/api/v1/models", tags=["models"])

    @router.get("/card", response_class=Response, responses=answers(None, "model_not_ready"))
    def card() -> Response:
        """The model card, Markdown."""
        loaded = service.slot.current
        if loaded is None:
            raise Problem("model_not_ready")
        return Response(loaded.bundle.card, media_type="text/markdown; charset=utf-8")

    @router.get(
        "/density",
        response_model=Density,
        responses=answers(None, "no_coordinates", "model_not_ready"),
    )
    def places() -> Density:
        """Where the training rows of a table with coordinates lie, by cell of a grid."""
        loaded = service.slot.current
        if loaded is None:
            raise Problem("model_not_ready")
        found = density(loaded.bundle)
        if found is None:
            raise Problem("no_coordinates")
        return found

    return router


def lifecycle_router(service: Service, lifecycle: Lifecycle) -> APIRouter:
    """Return the routes about versions, and the administrators' actions that change them."""
    router = APIRouter(route_class=BodyRoute)
    reading: dict[str, Any] = {"tags": ["models"], "responses": answers(None, *_READ)}
    changing: dict[str, Any] = {
        "tags": ["admin"],
        "dependencies": [Depends(require_admin)],
        "responses": answers(None, *_READ, "nothing_to_roll_back_to", "gates_refuse"),
    }
    lock = asyncio.Lock()

    @router.get("/api/v1/models/versions", **reading)
    def versions() -> dict[str, Any]:
        """Every registered version with its metrics and aliases, newest first."""
        return _call_lifecycle(lifecycle.versions)

    @router.get("/api/v1/models/history", **reading)
    def history(limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
        """What served when, who changed it and why, newest first."""
        return {"entries": _call_lifecycle(lambda: lifecycle.history(limit))}

    @router.get(
        "/api/v1/models/report",
        tags=["models"],
        response_class=Response,
        responses=answers(None, *_READ, "no_report", "model_not_ready"),
    )
    def report() -> Response:
        """The report of the run that made the model which answers, HTML."""
        loaded = service.slot.current
        if loaded is None:
            raise Problem("model_not_ready")
        found = _call_lifecycle(lambda: lifecycle.report(loaded.bundle.version))
        if found is None:
            raise Problem("no_report")
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        return Response(found, media_type="text/html", headers={"content-security-policy": policy})

    @router.post(f"{ADMIN}models/promote", **changing)
    async def promote(request: Request, promotion: Promotion) -> dict[str, Any]:
        """Move an alias to a version that passes the gates, as `tasador promote`."""
        who = administrator(request)
        async with lock:
            done = await asyncio.to_thread(
                _call_lifecycle, lambda: lifecycle.promote(promotion, who)
            )
        # outside of the lock: the change is made, and the poll may take seconds
        await asyncio.to_thread(lifecycle.changed)
        return done

    @router.post(f"{ADMIN}models/rollback", **changing)
    async def rollback(request: Request, target: Return) -> dict[str, Any]:
        """Return to the previous champion or an earlier one, as `tasador rollback`."""
        who = administrator(request)
        async with lock:
            done = await asyncio.to_thread(_call_lifecycle, lambda: lifecycle.rollback(target, who))
        await asyncio.to_thread(lifecycle.changed)
        return done

    return router


def administrator(request: Request) -> str:
    """Return who asks, for the audit log."""
    exchange: Exchange = request.scope["tasador"]
    return f"api key {exchange.client}"


def _call_lifecycle(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except Problem:
        raise
    except TasadorError as error:
        word = "registry_away"
        if isinstance(error, GateError):
            word = "gates_refuse"
        elif isinstance(error, MissingExtraError):
            word = "lifecycle_unavailable"
        elif isinstance(error, ConfigError):
            word = "invalid_request"
        raise Problem.of(word, error) from None
