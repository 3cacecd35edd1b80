"""``/api/v1/monitoring``: what `tasador watch` found, and how an administrator answers alerts."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from tasador.core.errors import TasadorError
from tasador.records.audit_log import StoredVerdict, Verdicts
from tasador.records.shared_state import (
    ALERT_ROUTES,
    WATCHER,
    AlertState,
    AlertStates,
    Leases,
    SharedState,
)
from tasador.serving.api.models import ReasonText, administrator, require_admin
from tasador.serving.api.openapi import answers
from tasador.serving.errors import Problem
from tasador.serving.http.middleware import ADMIN
from tasador.serving.http.request import BodyRoute
from tasador.serving.service import LazyDatabase, Service
from tasador.settings.serving import RecordSettings

_REFUSALS = ("model_not_ready", "records_off", "database_away")
MOST_VERDICTS = 500


class MonitoringReader:
    """Reads through a connection of its own.

    Every method raises `Problem`: 503, records are switched off or the database is unreachable.

    Args:
        settings: Where the records are.
    """

    def __init__(self, settings: RecordSettings) -> None:
        self._database = LazyDatabase(
            settings, off="nothing is watched while records are switched off"
        )

    def verdicts(self, model: str | None, since: float, limit: int) -> list[StoredVerdict]:
        """Return the verdicts found at or after `since`, newest first."""
        return self._database.ask(lambda database: Verdicts(database).read(model, since, limit))

    def alerts(self) -> list[AlertState]:
        """Return every alert, by key."""
        return self._database.ask(lambda database: AlertStates(database).all())

    def watcher(self) -> tuple[str, float] | None:
        """Return the watcher that leads and the seconds until another may; see `Leases.left`."""
        return self._database.ask(lambda database: Leases(database).left(WATCHER))

    def reach(self) -> list[str] | None:
        """Return whom notifications reach; None when no watcher has stored it."""
        found = self._database.ask(lambda database: SharedState(database).get(ALERT_ROUTES))
        return found.value if isinstance(found.value, list) else None

    def close(self) -> None:
        """Close the connection."""
        self._database.close()


class VerdictLine(BaseModel):
    """One verdict in short."""

    id: str
    model: str
    time: str = Field(description="When it was found, ISO 8601 in UTC")
    since: str = Field(description="Start of the window")
    until: str = Field(description="End of the window")
    level: str = Field(description="ok, cannot_tell, warn or alert")
    rows: int
    outcomes: int = Field(description="Rows whose actual value is known")
    by_check: dict[str, str] = Field(description="The worst level of each check")
    figures: dict[str, float | None] = Field(description="Measured metrics by name")
    estimated: dict[str, float | None] = Field(description="Metrics estimated without outcomes")
    latency_p95: float | None = Field(None, description="Milliseconds")


class VerdictLines(BaseModel):
    """Verdicts, newest first."""

    verdicts: list[VerdictLine]


class WholeVerdict(BaseModel):
    """One verdict with everything that was looked at."""

    id: str
    time: str
    since: str
    until: str
    verdict: dict[str, Any] = Field(description="As `tasador monitor --json` writes it")


class Alert(BaseModel):
    """Where one alert stands."""

    key: str
    state: str = Field(description="ok, pending or firing")
    severity: str
    reason: str
    since: str
    looked_at: str
    acknowledged_by: str | None = None
    silent_until: str | None = None


class Alerts(BaseModel):
    """Every alert: firing ones first."""

    alerts: list[Alert]
    reach: list[str] | None = Field(
        None,
        description="Routes by which the watcher's notices reach somebody; empty: nobody; null: no "
        "watcher has run yet",
    )


class Acknowledgement(BaseModel):
    """Which firing alert somebody has seen."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(description="As ``/api/v1/monitoring/alerts`` names it", max_length=1000)
    by: ReasonText = Field("", description="Who answers; by default the API key's name")
    reason: ReasonText = Field("", description="Kept in the audit log")


class Silence(Acknowledgement):
    """Of which alert nothing shall be sent for a time."""

    seconds: float = Field(3600.0, ge=0, le=31 * 86400, description="0 ends a silence")


class AnsweredAlerts(BaseModel):
    """The alerts that were answered."""

    keys: list[str]


@dataclass(frozen=True)
class AlertActions:
    """How alerts are answered; each is called in a thread, and returns the keys of the alerts.

    Attributes:
        acknowledge: Takes the key, who and why.
        silence: Takes the key, the seconds, who and why.
    """

    acknowledge: Callable[[str, str, str], list[str]]
    silence: Callable[[str, float, str, str], list[str]]


def alerts_router(actions: AlertActions) -> APIRouter:
    """Return the administrators' routes that answer alerts, as `tasador alerts` does."""
    router = APIRouter(
        prefix=f"{ADMIN}alerts", tags=["admin"], route_class=BodyRoute,
        dependencies=[Depends(require_admin)],
        responses=answers(None, "no_alert", "database_away"),
    )  # fmt: skip

    async def answered(act: Callable[[], list[str]]) -> AnsweredAlerts:
        try:
            keys = await asyncio.to_thread(act)
        except TasadorError as error:
            raise Problem.of("database_away", error) from None
        if not keys:
            raise Problem("no_alert")
        return AnsweredAlerts(keys=keys)

    @router.post("/acknowledge", response_model=AnsweredAlerts)
    async def acknowledge(request: Request, answer: Acknowledgement) -> AnsweredAlerts:
        """Say that a firing alert was seen, which stops its reminders."""
        who = answer.by or administrator(request)
        return await answered(lambda: actions.acknowledge(answer.key, who, answer.reason))

    @router.post("/silence", response_model=AnsweredAlerts)
    async def silence(request: Request, answer: Silence) -> AnsweredAlerts:
        """Send nothing about an alert for a time; 0 seconds end that."""
        who = answer.by or administrator(request)
        return await answered(
            lambda: actions.silence(answer.key, answer.seconds, who, answer.reason)
        )

    return router


def monitoring_router(service: Service, source: MonitoringReader) -> APIRouter:
    """Return the routes about what was found.

    Args:
        service: Knows the model.
        source: Where verdicts and alerts are read.
    """
    router = APIRouter(
        prefix="/api/v1/monitoring", tags=["monitoring"], responses=answers(None, *_REFUSALS)
    )

    @router.get("/verdicts", response_model=VerdictLines)
    def verdicts(
        limit: Annotated[int, Query(ge=1, le=MOST_VERDICTS)] = 100,
        since: Annotated[float, Query(ge=0, description="Seconds since 1970 UTC")] = 0.0,
    ) -> VerdictLines:
        """What was found about the model that answers, newest first."""
        found = source.verdicts(_model(service), since, limit)
        return VerdictLines(verdicts=[_line(one) for one in found])

    @router.get(
        "/verdicts/latest",
        response_model=WholeVerdict,
        responses=answers(None, "no_verdict"),
    )
    def latest() -> WholeVerdict:
        """The last verdict, with everything that was looked at."""
        # verdicts of the served model only: a database may hold those of several
        found = source.verdicts(_model(service), 0.0, 1)
        if not found:
            raise Problem("no_verdict")
        one = found[0]
        return WholeVerdict(
            id=one.id,
            time=_moment(one.time),
            since=_moment(one.since),
            until=_moment(one.until),
            verdict=one.body,
        )

    @router.get("/alerts", response_model=Alerts)
    def alerts() -> Alerts:
        """Every alert, firing ones first."""
        order = {"firing": 0, "pending": 1}
        found = sorted(source.alerts(), key=lambda one: (order.get(one.state, 2), -one.since))
        return Alerts(alerts=[_alert(one) for one in found], reach=source.reach())

    return router


def _model(service: Service) -> str | None:
    loaded = service.slot.current
    return None if loaded is None else loaded.bundle.manifest.name


def _line(found: StoredVerdict) -> VerdictLine:
    body = found.body
    figures: dict[bool, dict[str, float | None]] = {False: {}, True: {}}
    for figure in body.get("figures", ()):
        figures[bool(figure["estimated"])][figure["name"]] = figure["value"]
    timeline = body.get("timeline", ())
    # a shortened verdict has one entry that sums its timeline up; a whole one has one a span
    slowest = [one["latency_p95"] for one in timeline if one.get("latency_p95") is not None]
    return VerdictLine(
        id=found.id,
        model=found.model,
        time=_moment(found.time),
        since=_moment(found.since),
        until=_moment(found.until),
        level=found.level,
        rows=int(body.get("rows", 0)),
        outcomes=sum(int(one.get("outcomes", 0)) for one in timeline),
        by_check=body.get("by_check", {}),
        figures=figures[False],
        estimated=figures[True],
        latency_p95=max(slowest, default=None),
    )


def _alert(found: AlertState) -> Alert:
    body = found.body
    return Alert(
        key=found.key,
        state=found.state,
        severity=str(body.get("severity", "ticket")),
        reason=str(body.get("reason", "")),
        since=_moment(found.since),
        looked_at=_moment(found.time),
        acknowledged_by=body.get("acknowledged_by") or None,
        silent_until=_moment(body["silent_until"]) if body.get("silent_until") else None,
    )


def _moment(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).isoformat(timespec="seconds")
