"""``/api/v1``: predict, explain, outcomes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import orjson

from tasador.core import clock
from tasador.data.row_check import shown
from tasador.modeling.valuation import Reasons
from tasador.records.record import Outcome
from tasador.serving.exchange import Exchange, Reply
from tasador.serving.intake import instances_of, read_json
from tasador.serving.problems import Problem, fault
from tasador.serving.service import Service

#: Explanations take milliseconds each, and a processor meanwhile.
MOST_EXPLAINED = 20
MOST_COMPARABLES = 64

#: Records outcomes; returns one `OutcomeStatus` for each.
RecordOutcomes = Callable[[Sequence[Outcome]], Sequence[str]]


class ValuationRoutes:
    """Handlers of the routes about values.

    Args:
        service: What all routes share.
        record_outcomes: Keeps outcomes; called in a thread.
    """

    def __init__(self, service: Service, record_outcomes: RecordOutcomes) -> None:
        self._service = service
        self._record_outcomes = record_outcomes
        self._explaining = asyncio.Semaphore(1)

    async def predict(self, exchange: Exchange, body: bytes) -> Reply:
        """Value rows: ``{"instances": [{...}]}``."""
        service = self._service
        engine = service.engine(_version(exchange) if exchange.query else None)
        start = time.perf_counter()
        values = instances_of(read_json(body), service.limits.batch)
        parsed = time.perf_counter()
        rows = engine.encode(values)
        service.metrics.stage("parse", parsed - start)
        service.metrics.stage("encode", time.perf_counter() - parsed)
        answer = await service.value(exchange, engine, rows)
        return Reply(answer.body())

    async def explain(self, exchange: Exchange, body: bytes) -> Reply:
        """Say why rows are worth what they are."""
        engine = self._service.engine(_version(exchange) if exchange.query else None)
        plain = read_json(body)
        values = instances_of(plain, min(MOST_EXPLAINED, self._service.limits.batch))
        comparables = _comparables(plain)
        rows = engine.encode(values)
        answer = await self._service.value(exchange, engine, rows)
        if answer.engine is not engine:  # a challenger answered: its columns may be others
            engine = answer.engine
            rows = engine.encode(values)
        X = np.array(rows.codes)
        async with self._explaining:  # one at a time: valuations keep the other processors
            explained = await asyncio.to_thread(
                lambda: [engine.bundle.reasons(X[i : i + 1], comparables) for i in range(len(X))]
            )
        items = [
            {"valuation": valuation, **_plain(reasons)}
            for valuation, reasons in zip(answer.items(), explained, strict=True)
        ]
        return Reply(orjson.dumps({"explanations": items, "model_version": engine.version}))

    async def outcomes(self, exchange: Exchange, body: bytes) -> Reply:
        """Record what valued rows turned out to be worth."""
        plain = read_json(body)
        found = plain.get("outcomes") if type(plain) is dict else None
        if type(found) is not list or not 0 < len(found) <= self._service.limits.batch:
            expected = f"a list of 1 to {self._service.limits.batch} outcomes"
            raise Problem(
                422,
                "invalid_request",
                "the outcomes cannot be read",
                expected=f"{expected} under the key 'outcomes'",
                got=shown(found) if type(found) is not list else str(len(found)),
                detail=[
                    fault(
                        ["outcomes"],
                        kind="invalid_list",
                        expected=expected,
                        got=shown(found) if type(found) is not list else str(len(found)),
                        remedy='send {"outcomes": [{"prediction_id": "...", "actual": 1.0}]}',
                    )
                ],
            )
        read = _read_outcomes(found, exchange.client)
        statuses = await asyncio.to_thread(self._record_outcomes, read)
        results = [
            {"prediction_id": outcome.prediction_id, "status": status}
            for outcome, status in zip(read, statuses, strict=True)
        ]
        accepted = sum(status == "accepted" for status in statuses)
        return Reply(orjson.dumps({"accepted": accepted, "results": results}))


def _version(exchange: Exchange) -> str | None:
    found = parse_qs(exchange.query.decode("latin-1")).get("model_version")
    return found[0] if found else None


def _comparables(plain: dict[str, Any]) -> int:
    value = plain.get("comparables", 5)
    if type(value) is int and 0 <= value <= MOST_COMPARABLES:
        return value
    expected = f"a whole number from 0 to {MOST_COMPARABLES}"
    raise Problem(
        422,
        "invalid_request",
        "the number of comparables cannot be meant",
        expected=expected,
        got=shown(value),
        detail=[
            fault(
                ["comparables"],
                kind="invalid_value",
                expected=expected,
                got=shown(value),
                remedy="send such a number, or leave it out",
            )
        ],
    )


def _plain(explanation: Reasons) -> dict[str, Any]:
    parts = sorted(explanation.contributions.items(), key=lambda part: -abs(part[1]))
    return {
        "scale": explanation.transform,
        "expected": explanation.expected,
        "contributions": [{"feature": name, "value": value} for name, value in parts],
        "comparables": [
            {"distance": near.distance, "value": near.value, "attributes": dict(near.attributes)}
            for near in explanation.comparables
        ],
    }


def _read_outcomes(found: Sequence[Any], client: str) -> list[Outcome]:
    """Read outcomes, or refuse all of them with every fault."""
    now = clock.seconds()
    detail, read = [], []
    for index, item in enumerate(found):
        faults = list(_outcome_faults(item))
        detail += [
            fault(
                ["outcomes", index, name],
                kind="invalid_value",
                expected=expected,
                got=shown(item.get(name)) if isinstance(item, dict) else shown(item),
                remedy="correct it; no outcome was recorded",
            )
            for name, expected in faults
        ]
        if not faults:
            moment = item.get("time")
            read.append(
                Outcome(
                    item["prediction_id"],
                    float(item["actual"]),
                    now if moment is None else float(moment),
                    client,
                )
            )
    if detail:
        raise Problem(
            422, "invalid_outcomes", f"{len(detail)} faults in the outcomes", detail=detail
        )
    return read


def _outcome_faults(item: Any) -> list[tuple[str, str]]:
    if not isinstance(item, dict):
        return [("", "an object")]
    faults = []
    identifier = item.get("prediction_id")
    if not isinstance(identifier, str) or not 0 < len(identifier) <= 64:
        faults.append(("prediction_id", "the id that came with the estimate"))
    if not _is_finite(item.get("actual")):
        faults.append(("actual", "a finite number, in the target's unit"))
    if item.get("time") is not None and not _is_finite(item["time"]):
        faults.append(("time", "seconds since 1970 UTC"))
    return faults


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)
