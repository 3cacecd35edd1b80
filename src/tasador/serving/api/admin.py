"""``/api/v1/admin``: look at the model's state, roll back, poll at once. For keys of role admin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tasador.core.errors import TasadorError
from tasador.serving.api.openapi import answers
from tasador.serving.api.predict import response
from tasador.serving.errors import Problem
from tasador.serving.http.middleware import ADMIN
from tasador.serving.http.request import Exchange, Reply

log = logging.getLogger(__name__)


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
