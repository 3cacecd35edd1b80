"""What the watcher wrote beside the records: verdicts and alerts, read for who looks at them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from tasador.records.database import Database, OutageError
from tasador.records.journal import StoredVerdict, Verdicts
from tasador.records.settings import RecordSettings
from tasador.records.state import (
    ALERT_ROUTES,
    WATCHER,
    AlertState,
    AlertStates,
    Leases,
    State,
)
from tasador.serving.problems import Problem

T = TypeVar("T")


class LazyDatabase:
    """A connection to the records' database, made when first used.

    Args:
        settings: Where the records are.
        off: What is said when records are switched off.
        away: What a client should do when the database is away.
    """

    def __init__(self, settings: RecordSettings, off: str, away: str | None = None) -> None:
        self._settings, self._off, self._away = settings, off, away
        self._lock = threading.Lock()
        self._database: Database | None = None

    def ask(self, work: Callable[[Database], T]) -> T:
        """Return what `work` returns.

        Raises:
            Problem: 503, records are switched off or the database is away.
        """
        if self._settings.mode == "off":
            raise Problem(
                503,
                "records_off",
                self._off,
                remedy="set TASADOR_RECORDS__MODE to durable or async",
            )
        try:
            return work(self.opened())
        except OutageError as error:
            raise Problem(
                503, "database_away", error.message, remedy=self._away, retry_after=5
            ) from None

    def opened(self) -> Database:
        """Return the connection."""
        with self._lock:
            if self._database is None:
                self._database = Database(
                    self._settings.url, synchronous=self._settings.synchronous
                )
            return self._database

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._database is not None:
                self._database.close()


class Watched:
    """Reads through a connection of its own.

    Every method raises `Problem`: 503, records are switched off or the database is away.

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
        """Return whom notices of alerts reach; None when no watcher has said so."""
        found = self._database.ask(lambda database: State(database).get(ALERT_ROUTES))
        return found.value if isinstance(found.value, list) else None

    def close(self) -> None:
        """Close the connection."""
        self._database.close()
