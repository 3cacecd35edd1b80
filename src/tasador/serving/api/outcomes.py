"""``/api/v1/outcomes``: what valued rows turned out to be worth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from tasador.contract.row_check import shown
from tasador.contract.target_check import TargetBounds
from tasador.core import clock
from tasador.records.record import Outcome
from tasador.records.store import OutcomeAnswer
from tasador.records.time_parsing import time_reason
from tasador.serving.errors import Problem, error_detail
from tasador.serving.http.request import Exchange, Reply
from tasador.serving.request_parsing import read_json
from tasador.serving.service import Service

#: Records outcomes as `RecordStore.add_outcomes` does, with its `own` and `replace`.
RecordOutcomes = Callable[..., Sequence[OutcomeAnswer]]
_ANY = TargetBounds()
_CORRECT = 'send it with "replace": true to correct a wrong one'
_Fault = tuple[str, str, str]  # field, expected, got


class OutcomeRoutes:
    """The handler of outcomes.

    Args:
        service: What all routes share.
        record_outcomes: Keeps outcomes; called in a thread.
    """

    def __init__(self, service: Service, record_outcomes: RecordOutcomes) -> None:
        self._service = service
        self._record_outcomes = record_outcomes

    async def outcomes(self, exchange: Exchange, body: bytes) -> Reply:
        """Record outcomes: the right ones of a list, and say what is wrong with the others."""
        found = self._listed(body)
        faults = [_faults(item) for item in found]
        right = [item for item, wrong in zip(found, faults, strict=True) if not wrong]
        # an answer of 200 to a list of nothing but errors would pass unnoticed
        if not right:
            raise _all_wrong(found, faults)
        now = clock.seconds()
        read = [
            Outcome(
                item["prediction_id"],
                float(item["actual"]),
                now if item.get("time") is None else float(item["time"]),
                exchange.client,
            )
            for item in right
        ]
        # without keys clients cannot be told apart: whoever has the id may report its outcome
        own = exchange.role == "client"
        replace = {item["prediction_id"] for item in right if item.get("replace") is True}
        # the database may be slow: predictions go on meanwhile
        made = await asyncio.to_thread(self._record_outcomes, read, own=own, replace=replace)
        answers = iter(made)
        results = [
            _wrong(item, wrong) if wrong else _result(next(answers))
            for item, wrong in zip(found, faults, strict=True)
        ]
        counted = [result["status"] for result in results]
        if not set(counted) - {"conflict", "invalid"} and "conflict" in counted:
            raise _all_conflict(results)
        answer = {
            "accepted": counted.count("accepted"),
            "refused": counted.count("invalid"),
            "results": results,
        }
        return Reply(orjson.dumps(answer))

    def _listed(self, body: bytes) -> list[Any]:
        plain = _loose_json(body)
        found = plain.get("outcomes") if type(plain) is dict else None
        most = self._service.limits.batch
        if type(found) is list and 0 < len(found) <= most:
            return found
        expected = f"a list of 1 to {most} outcomes"
        got = shown(found) if type(found) is not list else str(len(found))
        raise Problem(
            422,
            "invalid_request",
            "the outcomes cannot be read",
            expected=f"{expected} under the key 'outcomes'",
            got=got,
            detail=[
                error_detail(
                    ["outcomes"],
                    kind="invalid_list",
                    expected=expected,
                    got=got,
                    remedy='send {"outcomes": [{"prediction_id": "...", "actual": 1.0}]}',
                )
            ],
        )


def _loose_json(body: bytes) -> Any:
    """Read JSON with NaN and Infinity in it, so that one of them refuses its outcome alone."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"NaN" in body or b"Infinity" in body:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass
        return read_json(body)


def _faults(item: Any) -> list[_Fault]:
    """Return what is wrong with an outcome, whatever model it belongs to."""
    if not isinstance(item, dict):
        return [("", "an object", shown(item))]
    found = []
    identifier, moment = item.get("prediction_id"), item.get("time")
    if not isinstance(identifier, str) or not 0 < len(identifier) <= 64:
        expected = "the id that came with the estimate"
        found.append(("prediction_id", expected, shown(identifier)))
    if _ANY.reason(item.get("actual")) is not None:
        expected = "a finite number, in the target's unit"
        found.append(("actual", expected, shown(item.get("actual"))))
    if moment is not None and (
        _ANY.reason(moment) is not None or time_reason(float(moment)) is not None
    ):
        found.append(("time", "seconds since 1970 UTC, not in the future", shown(moment)))
    if type(item.get("replace", False)) is not bool:
        found.append(("replace", "true or false", shown(item["replace"])))
    return found


def _all_wrong(found: Sequence[Any], faults: Sequence[Sequence[_Fault]]) -> Problem:
    detail = [
        error_detail(
            ["outcomes", index, name],
            kind="invalid_value",
            expected=expected,
            got=got,
            remedy="correct it; no outcome was recorded",
        )
        for index, wrong in enumerate(faults)
        for name, expected, got in wrong
    ]
    message = f"none of {len(found)} outcomes can be recorded"
    return Problem(422, "invalid_outcomes", message, detail=detail)


def _all_conflict(results: Sequence[dict[str, Any]]) -> Problem:
    detail = [
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
    return Problem(
        409,
        "outcome_conflict",
        "another outcome is known for these predictions; it stays",
        expected="the same value again, or a prediction without an outcome",
        remedy=_CORRECT,
        detail=detail,
    )


def _wrong(item: Any, faults: Sequence[_Fault]) -> dict[str, Any]:
    identifier = item.get("prediction_id") if isinstance(item, dict) else None
    parts = [f"{name}: expected {expected}, got {got}" for name, expected, got in faults]
    return {
        "prediction_id": identifier[:64] if isinstance(identifier, str) else "",
        "status": "invalid",
        "message": "; ".join(parts),
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
