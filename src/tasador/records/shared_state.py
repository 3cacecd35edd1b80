"""State that several processes share: compare-and-set values, leases with tokens, target bounds."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from tasador.contract.target_check import TargetBounds
from tasador.core import clock
from tasador.records.database import Database

#: Key of the routes by which the watcher's notices reach somebody: a list of names.
ALERT_ROUTES = "alerts/routes"


@dataclass(frozen=True)
class Entry:
    """A value as it was read.

    Attributes:
        key: Its name.
        value: JSON's own types.
        version: Grows by one with each change; 0 for a key that does not exist.
        time: When it was changed, seconds since the epoch.
    """

    key: str
    value: Any
    version: int
    time: float


class SharedState:
    """Values by key. A change names the version it saw, so that none is overwritten unseen."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def get(self, key: str) -> Entry:
        """Return the value of `key`; version 0 and None when there is none."""
        rows = self.database.execute(
            "SELECT key, value, version, time FROM state WHERE key = ?", (key,)
        )
        return _entry(rows[0]) if rows else Entry(key, None, 0, 0.0)

    def under(self, prefix: str) -> list[Entry]:
        """Return all values whose key starts with `prefix`, by key."""
        # a range uses the primary key's index, which LIKE does not in every collation
        end = prefix + "\U0010ffff"
        rows = self.database.execute(
            "SELECT key, value, version, time FROM state WHERE key >= ? AND key < ? ORDER BY key",
            (prefix, end),
        )
        return [entry for entry in map(_entry, rows) if entry.key.startswith(prefix)]

    def put(self, key: str, value: Any, seen: int) -> Entry | None:
        """Set `key` if its version is still `seen` (0: if it does not exist).

        Returns:
            The entry as it is now; None when somebody else changed it first: read and try again.
        """
        text, now = json.dumps(value, ensure_ascii=False), clock.seconds()
        if seen == 0:
            row = {"key": key, "value": text, "version": 1, "time": now}
            done = self.database.add("state", row)
        else:
            done = self.database.change(
                "UPDATE state SET value = ?, version = version + 1, time = ? "
                "WHERE key = ? AND version = ?",
                (text, now, key, seen),
            )
        return Entry(key, json.loads(text), seen + 1, now) if done == 1 else None


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(row[0], json.loads(row[1]), int(row[2]), row[3])


@dataclass(frozen=True)
class Lease:
    """The right to be the only one, for a while.

    Attributes:
        name: What of.
        holder: Who.
        token: Grows each time the lease changes hands: the later holder has the greater one.
        expires: When it ends unless renewed, seconds since the epoch on the database's clock.
    """

    name: str
    holder: str
    token: int
    expires: float


#: The lease of the watcher that leads.
WATCHER = "watch"


class Leases:
    """Leases by name, on the database's clock, so that machines need not agree on the time.

    When that clock is set back, a lease has its full length from the next attempt to take it: one
    of a dead holder ends then, and a living holder has the time to renew it.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def acquire(self, name: str, holder: str, seconds: float) -> Lease | None:
        """Take the lease when nobody holds it or its time is over; None when somebody does."""
        clock_sql = self.database.dialect.clock
        self.database.change(
            f"UPDATE leases SET expires = {clock_sql} + seconds "  # noqa: S608
            f"WHERE name = ? AND expires > {clock_sql} + seconds + 1.0",
            (name,),
        )
        rows = self.database.execute(
            "INSERT INTO leases (name, holder, expires, token, seconds) "  # noqa: S608
            # one statement: reading first would let two processes see the same expired lease
            f"VALUES (?, ?, {clock_sql} + ?, 1, ?) ON CONFLICT (name) DO UPDATE SET "
            "holder = excluded.holder, expires = excluded.expires, seconds = excluded.seconds, "
            f"token = leases.token + 1 WHERE leases.expires <= {clock_sql} "
            "RETURNING token, expires",
            (name, holder, seconds, seconds),
        )
        return Lease(name, holder, int(rows[0][0]), rows[0][1]) if rows else None

    def renew(self, lease: Lease, seconds: float) -> Lease | None:
        """Hold the lease for `seconds` from now; None when it changed hands."""
        # by its token, not by its time: a holder that was late may go on where nobody took over
        rows = self.database.execute(
            f"UPDATE leases SET expires = {self.database.dialect.clock} + ?, "  # noqa: S608
            "seconds = ? WHERE name = ? AND token = ? AND expires > 0 RETURNING expires",
            (seconds, seconds, lease.name, lease.token),
        )
        return Lease(lease.name, lease.holder, lease.token, rows[0][0]) if rows else None

    def release(self, lease: Lease) -> None:
        """Let others have it at once; nothing happens when it changed hands already."""
        self.database.change(
            "UPDATE leases SET expires = 0 WHERE name = ? AND token = ?", (lease.name, lease.token)
        )

    def holder(self, name: str) -> str | None:
        """Return who holds the lease now; None when nobody does."""
        rows = self.database.execute(
            "SELECT holder FROM leases WHERE name = ? "  # noqa: S608
            f"AND expires > {self.database.dialect.clock}",
            (name,),
        )
        return str(rows[0][0]) if rows else None

    def left(self, name: str) -> tuple[str, float] | None:
        """Return who took the lease last and the seconds it has left, negative once it ran out.

        None when it was never taken, or has been given back.
        """
        rows = self.database.execute(
            f"SELECT holder, expires - {self.database.dialect.clock} "  # noqa: S608
            "FROM leases WHERE name = ? AND expires > 0",
            (name,),
        )
        return (str(rows[0][0]), float(rows[0][1])) if rows else None

    def holds(self, lease: Lease) -> bool:
        """Tell whether no later holder came; within a transaction none can until it ends.

        Check it first thing in the transaction that writes on the strength of the lease::

            with database.transaction():
                if leases.holds(lease):
                    ...
        """
        # an UPDATE, since it locks the row in both databases
        return (
            self.database.change(
                "UPDATE leases SET token = token WHERE name = ? AND token = ? AND expires > 0",
                (lease.name, lease.token),
            )
            == 1
        )


@dataclass(frozen=True)
class AlertState:
    """Where one alert stands.

    Attributes:
        key: Names the alert, e.g. its rule and subject.
        state: E.g. ``ok``, ``pending``, ``firing``.
        since: When it came into this state, seconds since the epoch.
        time: When it was last looked at.
        body: More: counters, who acknowledged, silence; JSON's own types.
        version: Grows with each change; 0 for an alert not kept yet.
    """

    key: str
    state: str
    since: float
    time: float
    body: dict[str, Any]
    version: int = 0


class AlertStates:
    """The alerts in a database; changes name the version they saw, as in `SharedState`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def all(self) -> list[AlertState]:
        """Return every alert, by key."""
        return self._select("", ())

    def get(self, key: str) -> AlertState | None:
        """Return the alert `key`; None when it is not kept yet."""
        found = self._select(" WHERE key = ?", (key,))
        return found[0] if found else None

    def put(self, alert: AlertState) -> AlertState | None:
        """Keep `alert` if the kept one still has its version (0: if none is kept).

        Returns:
            The alert with its new version; None when somebody else changed it first.
        """
        body = json.dumps(alert.body, ensure_ascii=False)
        if alert.version == 0:
            done = self.database.add("alerts", {**vars(alert), "body": body, "version": 1})
        else:
            done = self.database.change(
                "UPDATE alerts SET state = ?, since = ?, time = ?, body = ?, "
                "version = version + 1 WHERE key = ? AND version = ?",
                (alert.state, alert.since, alert.time, body, alert.key, alert.version),
            )
        kept = replace(alert, body=json.loads(body), version=alert.version + 1)
        return kept if done == 1 else None

    def _select(self, where: str, values: tuple[str, ...]) -> list[AlertState]:
        rows: list[Any] = self.database.execute(
            f"SELECT key, state, since, time, body, version FROM alerts{where} ORDER BY key",  # noqa: S608
            values,
        )
        return [AlertState(*[*row[:4], json.loads(row[4]), int(row[5])]) for row in rows]


_PREFIX = "target/"


def model_of(version: str) -> str:
    """Return the model's name in a version, which is the name and a hash."""
    return version.rpartition("-")[0]


def keep_target(database: Database, model: str, bounds: TargetBounds) -> None:
    """Keep the bounds of a model's target, unless they are kept already.

    Raises:
        OutageError: The database is unreachable.
    """
    state = SharedState(database)
    while True:
        kept = state.get(_PREFIX + model)
        if kept.value == bounds.plain() or state.put(kept.key, bounds.plain(), kept.version):
            return


def kept_targets(database: Database) -> dict[str, TargetBounds]:
    """Return the bounds of all models' targets.

    Raises:
        OutageError: The database is unreachable.
    """
    return {
        entry.key.removeprefix(_PREFIX): TargetBounds.from_plain(entry.value)
        for entry in SharedState(database).under(_PREFIX)
    }
