"""``/api/v1/outcomes``: what valued rows turned out to be worth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    WrapValidator,
)

from tasador.contract.target_check import TargetBounds
from tasador.core import clock
from tasador.core.clock import time_reason
from tasador.records.record import Outcome as StoredOutcome
from tasador.records.store import OutcomeAnswer
from tasador.serving.api.openapi import answers
from tasador.serving.errors import PROBLEMS, InvalidRequest, Problem, error_detail, faults_of
from tasador.serving.http.request import Exchange, NanRoute
from tasador.serving.service import Service

#: Records outcomes as `RecordStore.add_outcomes` does, with its `own` and `replace`.
RecordOutcomes = Callable[..., Sequence[OutcomeAnswer]]
_ANY = TargetBounds()
_CORRECT = PROBLEMS["outcome_conflict"].remedy or ""
_SEND = 'send {"outcomes": [{"prediction_id": "...", "actual": 1.0}]}'


@dataclass(frozen=True, slots=True)
class Wrong:
    """An outcome that cannot be recorded, whatever model it belongs to.

    Attributes:
        prediction_id: Its id, as far as there is one.
        faults: Place, expected and got of everything that is wrong with it.
    """

    prediction_id: str
    faults: list[tuple[list[str | int], str, str]]


def _each_alone(value: Any, validate: Callable[[Any], Outcome]) -> Any:
    """Keep what is wrong with an outcome, so that the others of its list are recorded."""
    try:
        return validate(value)
    except ValidationError as error:
        sent = value.get("prediction_id") if isinstance(value, dict) else None
        known = sent[:64] if isinstance(sent, str) else ""
        return Wrong(known, [found[:3] for found in faults_of(error.errors())])


def _number(value: Any) -> Any:
    if _ANY.reason(value) is not None:
        raise ValueError("a finite number, in the target's unit")
    return value


def _past(value: Any) -> Any:
    if value is not None and (
        _ANY.reason(value) is not None or time_reason(float(value)) is not None
    ):
        raise ValueError("seconds since 1970 UTC, not in the future")
    return value


class Outcome(BaseModel):
    """What a valued row turned out to be worth."""

    prediction_id: StrictStr = Field(min_length=1, max_length=64)
    actual: Annotated[float, BeforeValidator(_number)] = Field(
        description="The real value, in the target's unit"
    )
    time: Annotated[float | None, BeforeValidator(_past)] = Field(
        None,
        description="When it became known, seconds since 1970 UTC, after the prediction; "
        "by default now",
    )
    replace: StrictBool = Field(
        False, description="Correct the known outcome if it has another value; it is audited"
    )


class OutcomesRequest(BaseModel):
    """Outcomes to record."""

    outcomes: list[Annotated[Outcome, WrapValidator(_each_alone)]] = Field(min_length=1)


class OutcomeResult(BaseModel):
    """The result of one outcome."""

    prediction_id: str
    status: Literal["accepted", "repeated", "replaced", "conflict", "unknown", "invalid"] = Field(
        description="repeated: the same value is known already; replaced: another one was, and "
        "is corrected; conflict: another one is, and stays; unknown: no prediction of this client "
        "has this id; invalid: no possible value of the target, or otherwise wrong"
    )
    message: str | None = Field(None, description="What is wrong, and what to do")


class OutcomesAnswer(BaseModel):
    """The results of all outcomes, in their order."""

    accepted: int
    refused: int = Field(description="How many are invalid; the others are recorded all the same")
    results: list[OutcomeResult]


class OutcomeRoutes:
    """The handler of outcomes.

    Args:
        service: What all routes share.
        record_outcomes: Keeps outcomes; called in a thread.
    """

    def __init__(self, service: Service, record_outcomes: RecordOutcomes) -> None:
        self._service = service
        self._record_outcomes = record_outcomes

    async def outcomes(self, exchange: Exchange, found: Sequence[Outcome | Wrong]) -> bytes:
        """Record outcomes: the right ones of a list, and say what is wrong with the others."""
        most = self._service.limits.batch
        if len(found) > most:
            expected, got = f"a list of 1 to {most} outcomes", str(len(found))
            message = "the outcomes cannot be read"
            raise InvalidRequest(["outcomes"], message, expected, got, _SEND, kind="invalid_list")
        right = [item for item in found if isinstance(item, Outcome)]
        # an answer of 200 to a list of nothing but errors would pass unnoticed
        if not right:
            raise _all_wrong(found)
        now = clock.seconds()
        read = [
            StoredOutcome(
                item.prediction_id,
                item.actual,
                now if item.time is None else item.time,
                exchange.client,
            )
            for item in right
        ]
        # without keys clients cannot be told apart: whoever has the id may report its outcome
        own = exchange.role == "client"
        replace = {item.prediction_id for item in right if item.replace}
        # the database may be slow: predictions go on meanwhile
        made = await asyncio.to_thread(self._record_outcomes, read, own=own, replace=replace)
        stored = iter(made)
        results = [
            _wrong(item) if isinstance(item, Wrong) else _result(next(stored)) for item in found
        ]
        counted = [result["status"] for result in results]
        if not set(counted) - {"conflict", "invalid"} and "conflict" in counted:
            raise _all_conflict(results)
        return orjson.dumps(
            {
                "accepted": counted.count("accepted"),
                "refused": counted.count("invalid"),
                "results": results,
            }
        )


def outcomes_router(routes: OutcomeRoutes) -> APIRouter:
    """Return the route of outcomes."""
    router = APIRouter(prefix="/api/v1", tags=["valuation"], route_class=NanRoute)

    @router.post(
        "/outcomes",
        response_class=Response,
        responses={
            **answers(None, "outcome_conflict", "invalid_outcomes", "records_off", "database_away"),
            200: {"description": "Done", "model": OutcomesAnswer},
        },
    )
    async def outcomes(request: Request, asked: OutcomesRequest) -> Response:
        """Record what rows turned out to be worth."""
        found = await routes.outcomes(request.scope["tasador"], asked.outcomes)
        return Response(found, media_type="application/json")

    return router


def _all_wrong(found: Sequence[Any]) -> Problem:
    errors = [
        error_detail(
            ["outcomes", index, *loc],
            kind="invalid_value",
            expected=expected,
            got=got,
            remedy="correct it; no outcome was recorded",
        )
        for index, wrong in enumerate(found)
        for loc, expected, got in wrong.faults
    ]
    message = f"none of {len(found)} outcomes can be recorded"
    return Problem("invalid_outcomes", message, errors=errors)


def _all_conflict(results: Sequence[dict[str, Any]]) -> Problem:
    errors = [
        error_detail(
            ["outcomes", index],
            kind=result["status"],
            expected="the value that is known already" if result["status"] == "conflict"
            else "a possible outcome",
            got=result["message"],
            remedy=_CORRECT,
        )
        for index, result in enumerate(results)
    ]  # fmt: skip
    return Problem("outcome_conflict", errors=errors)


def _wrong(item: Wrong) -> dict[str, Any]:
    parts = [
        f"{'.'.join(map(str, loc))}: expected {expected}, got {got}"
        for loc, expected, got in item.faults
    ]
    return {
        "prediction_id": item.prediction_id,
        "status": "invalid",
        "message": "; ".join(parts).removeprefix(": "),
    }


def _result(answer: OutcomeAnswer) -> dict[str, Any]:
    result = {"prediction_id": answer.prediction_id, "status": answer.status}
    if answer.status == "conflict":
        result["message"] = f"another outcome is known and stays; {_CORRECT}"
    elif answer.status == "unknown":
        result["message"] = "no prediction of this client has this id"
    elif answer.reason:
        result["message"] = answer.reason
    return result
