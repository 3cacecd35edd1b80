"""``/api/v1/models``: the model's card and map, its versions and history, and who may change them.

``/api/v1/admin`` is for keys of role admin: look at the model's state, roll back, poll at once.
What versions there are and how one is promoted belongs to the package `lifecycle`, above this one:
it is passed in as `Lifecycle`, so that the command line and the API do the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tasador.core.errors import ConfigError, GateError, MissingExtraError, TasadorError
from tasador.registry.model_bundle import ModelBundle
from tasador.serving.api.openapi import answers
from tasador.serving.api.predict import response
from tasador.serving.errors import Problem, not_ready
from tasador.serving.http.middleware import ADMIN
from tasador.serving.http.request import Exchange, Reply
from tasador.serving.service import Service

T = TypeVar("T")

log = logging.getLogger(__name__)

_READ = (400, 401, 404, 422, 429, 500, 503)
_CHANGE = (400, 401, 403, 409, 422, 429, 500, 503)
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


class AdminRoutes:
    """Handlers for administrators.

    Args:
        actions: What they can do.
    """

    def __init__(self, actions: AdminActions) -> None:
        self._actions = actions
        # one change at a time: two rollbacks at once would cancel each other
        self._changing = asyncio.Lock()

    async def state(self, exchange: Exchange) -> Reply:
        """Tell which model answers, which one a rollback returns to, and how the sources are."""
        require_admin(exchange)
        # in a thread: it takes locks that a refresh may hold
        found = await asyncio.to_thread(self._actions.state)
        return Reply(orjson.dumps(found, default=str))

    async def rollback(self, exchange: Exchange) -> Reply:
        """Let the previous model answer again."""
        require_admin(exchange)
        async with self._changing:
            try:
                version = await asyncio.to_thread(self._actions.rollback)
            except TasadorError as error:
                raise Problem.of(409, "nothing_to_roll_back_to", error) from None
        _note(exchange, "rolled back to %s", version)
        return Reply(orjson.dumps({"model_version": version}))

    async def reload(self, exchange: Exchange) -> Reply:
        """Look now at what the sources offer, also at what was refused before."""
        require_admin(exchange)
        async with self._changing:
            swapped = await asyncio.to_thread(self._actions.reload)
        _note(exchange, "looked at the sources: %s", "swapped" if swapped else "no change")
        state = await asyncio.to_thread(self._actions.state)
        return Reply(orjson.dumps({"swapped": swapped, "state": state}, default=str))


def require_admin(exchange: Exchange) -> None:
    """Reject everybody but administrators, whatever checks precede this route."""
    if exchange.role != "admin":
        raise Problem(403, "forbidden", "the admin routes need a key of role admin")


def _note(exchange: Exchange, message: str, *values: object) -> None:
    fields = {"request_id": exchange.request_id, "client": exchange.client}
    # a warning: changes by hand have to be in the log at every level that is usual
    log.warning(message, *values, extra={"fields": fields})


def admin_router(actions: AdminActions) -> APIRouter:
    """Return the routes for administrators.

    Args:
        actions: What they can do.
    """
    routes = AdminRoutes(actions)
    router = APIRouter(prefix=ADMIN.rstrip("/"), tags=["admin"])

    def add(
        path: str, method: str, summary: str, handler: Callable[[Exchange], Awaitable[Reply]],
        *refusals: int,
    ) -> None:  # fmt: skip
        async def call(request: Request) -> Response:
            return response(await handler(request.scope["tasador"]))

        router.add_api_route(
            path,
            call,
            methods=[method],
            summary=summary,
            response_class=Response,
            responses={
                **answers(None, 400, 401, 403, 429, 500, 503, *refusals),
                200: {
                    "description": "Done",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
            },
            name=f"admin {path}",
        )

    add("/state", "GET", "The model that answers, and its sources", routes.state)
    add("/rollback", "POST", "Let the previous model answer", routes.rollback, 409)
    add("/reload", "POST", "Look at the sources now", routes.reload)
    return router


@dataclass(frozen=True)
class DensityGrid:
    """Training rows by cell of a grid; one entry a cell that holds any.

    Attributes:
        x: Column of the horizontal axis.
        y: Column of the vertical axis.
        x_step: A cell's width.
        y_step: A cell's height.
        cells: Centre x, centre y, rows, and the median target; None with fewer than five rows.
    """

    x: str
    y: str
    x_step: float
    y_step: float
    cells: tuple[tuple[float, float, int, float | None], ...]


def density(bundle: ModelBundle, across: int = 70) -> DensityGrid | None:
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
    return DensityGrid(longitude.name, latitude.name, step, step, _cells(x, y, values, step))


def _cells(
    x: NDArray[np.float64], y: NDArray[np.float64], values: NDArray[np.float64], step: float
) -> tuple[tuple[float, float, int, float | None], ...]:
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
    return tuple(found)


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


class Density(BaseModel):
    """Where the training rows lie."""

    x: str
    y: str
    x_step: float
    y_step: float
    cells: list[tuple[float, float, int, float | None]] = Field(
        description="Centre x, centre y, rows, median target (null for fewer than five rows)"
    )


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
    router = APIRouter(prefix="/api/v1/models", tags=["models"], responses=answers(None, *_READ))

    @router.get("/card", response_class=Response)
    def card() -> Response:
        """The model card, Markdown."""
        loaded = service.slot.current
        if loaded is None:
            raise not_ready()
        return Response(loaded.bundle.card, media_type="text/markdown; charset=utf-8")

    @router.get("/density", response_model=Density)
    def places() -> Density:
        """Where the training rows of a table with coordinates lie, by cell of a grid."""
        loaded = service.slot.current
        if loaded is None:
            raise not_ready()
        found = density(loaded.bundle)
        if found is None:
            raise Problem(404, "no_coordinates", "this table has no coordinates to draw")
        return Density(
            x=found.x, y=found.y, x_step=found.x_step, y_step=found.y_step, cells=list(found.cells)
        )

    return router


def lifecycle_router(service: Service, lifecycle: Lifecycle) -> APIRouter:
    """Return the routes about versions, and the administrators' actions that change them."""
    router = APIRouter()
    reading: dict[str, Any] = {"tags": ["models"], "responses": answers(None, *_READ)}
    changing: dict[str, Any] = {"tags": ["admin"], "responses": answers(None, *_CHANGE)}
    lock = asyncio.Lock()

    @router.get("/api/v1/models/versions", **reading)
    def versions() -> dict[str, Any]:
        """Every registered version with its metrics and aliases, newest first."""
        return _call_lifecycle(lifecycle.versions)

    @router.get("/api/v1/models/history", **reading)
    def history(limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
        """What served when, who changed it and why, newest first."""
        return {"entries": _call_lifecycle(lambda: lifecycle.history(limit))}

    @router.get("/api/v1/models/report", response_class=Response, **reading)
    def report() -> Response:
        """The report of the run that made the model which answers, HTML."""
        loaded = service.slot.current
        if loaded is None:
            raise not_ready()
        found = _call_lifecycle(lambda: lifecycle.report(loaded.bundle.version))
        if found is None:
            raise _no_report()
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        return Response(found, media_type="text/html", headers={"content-security-policy": policy})

    @router.post(f"{ADMIN}models/promote", **changing)
    async def promote(request: Request, promotion: Promotion) -> dict[str, Any]:
        """Move an alias to a version that passes the gates, as `tasador promote`."""
        who = _administrator(request)
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
        who = _administrator(request)
        async with lock:
            done = await asyncio.to_thread(_call_lifecycle, lambda: lifecycle.rollback(target, who))
        await asyncio.to_thread(lifecycle.changed)
        return done

    return router


def _no_report() -> Problem:
    message = "the run that made this model is not kept where the service runs"
    remedy = "see the run in MLflow, or `tasador report` where it was trained"
    return Problem(404, "no_report", message, remedy=remedy)


def _administrator(request: Request) -> str:
    """Return who asks; rejects everybody but administrators, whatever checks precede this route."""
    exchange: Exchange = request.scope["tasador"]
    require_admin(exchange)
    return f"api key {exchange.client}"


def _call_lifecycle(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except Problem:
        raise
    except TasadorError as error:
        status, word = 503, "registry_away"
        if isinstance(error, GateError):
            status, word = 409, "gates_refuse"
        elif isinstance(error, MissingExtraError):
            word = "lifecycle_unavailable"
        elif isinstance(error, ConfigError):
            status, word = 422, "invalid_request"
        raise Problem.of(status, word, error) from None
