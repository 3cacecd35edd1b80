"""What happened and who decided it: the verdicts of the monitors and the audit trail."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasador.core import clock
from tasador.core.hashing import to_plain
from tasador.records.database import Database
from tasador.records.record import new_id

#: Least time between two entries of one subject; a float of this century tells a quarter of it.
_STEP_S = 1e-6


@dataclass(frozen=True)
class StoredVerdict:
    """What a monitor found in a window of records.

    Attributes:
        id: Its name; later ones are greater.
        model: The model it is about.
        time: When it was found, seconds since the epoch.
        since: Start of the window, included.
        until: End of the window, excluded.
        level: ``ok``, ``warn``, ``alert``, ``cannot tell``.
        body: The verdict, as JSON's own types: whole for the newest one of a model and for those
            with which the level changed, of the others what `Verdicts.add` was given to shorten it.
    """

    id: str
    model: str
    time: float
    since: float
    until: float
    level: str
    body: dict[str, Any]


class Verdicts:
    """The verdicts in a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(
        self,
        model: str,
        since: float,
        until: float,
        level: str,
        body: Mapping[str, Any],
        shorten: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> StoredVerdict:
        """Keep a verdict of now and return it as kept.

        The one before is shortened, unless the level changed with it.

        Args:
            model: The model it is about.
            since: Start of the window.
            until: End of the window.
            level: Its level.
            body: All of it.
            shorten: Makes the short form of a body; None leaves all bodies whole.
        """
        made = StoredVerdict(
            new_id(), model, clock.seconds(), since, until, level, to_plain(dict(body))
        )
        with self.database.transaction():
            # in the transaction: two watchers must not shorten the same one by different neighbours
            before = self.read(model, limit=2) if shorten is not None else []
            self.database.add("verdicts", {**vars(made), "body": _json(made.body)})
            if shorten is not None and len(before) == 2 and before[0].level == before[1].level:
                self.database.execute(
                    "UPDATE verdicts SET body = ? WHERE id = ?",
                    (_json(shorten(before[0].body)), before[0].id),
                )
        return made

    def read(
        self, model: str | None = None, since: float = 0.0, limit: int = 1000
    ) -> list[StoredVerdict]:
        """Return the verdicts found at or after `since`, newest first."""
        where = "" if model is None else " AND model = ?"
        rows: list[Any] = self.database.execute(
            "SELECT id, model, time, since, until, level, body FROM verdicts "  # noqa: S608
            f"WHERE time >= ?{where} ORDER BY time DESC, id DESC LIMIT ?",
            [since, *([] if model is None else [model]), limit],
        )
        return [_stored(row) for row in rows]

    def apart(self, models: Sequence[str], since: float, count: int) -> list[StoredVerdict]:
        """Return the newest verdicts whose windows do not overlap, newest first.

        Windows that overlap hold the same rows: of them only the latest is returned.

        Args:
            models: The names that the model's verdicts may have.
            since: Verdicts found before are left out.
            count: Most verdicts.
        """
        found: list[StoredVerdict] = []
        marks = ", ".join("?" for _ in models)
        ends = clock.seconds() + 1.0
        while len(found) < count:
            rows: list[Any] = self.database.execute(
                "SELECT id, model, time, since, until, level, body FROM verdicts "  # noqa: S608
                f"WHERE time >= ? AND model IN ({marks}) AND since < until AND until <= ? "
                "ORDER BY until DESC, time DESC, id DESC LIMIT 1",
                [since, *models, ends],
            )
            if not rows:
                break
            found.append(_stored(rows[0]))
            # the next one has to end where this one begins
            ends = found[-1].since
        return found


@dataclass(frozen=True)
class AuditEntry:
    """One action of a user or of a part of the system.

    Attributes:
        id: Its name; later ones are greater.
        time: When, seconds since the epoch.
        actor: Who: a user, or a part of the system.
        action: What, e.g. ``promote``.
        subject: To what, e.g. a model's name.
        from_value: What was before; empty when nothing was.
        to_value: What is now; empty when nothing is.
        reason: Why.
        details: More, as JSON's own types.
    """

    id: str
    time: float
    actor: str
    action: str
    subject: str
    from_value: str
    to_value: str
    reason: str
    details: dict[str, Any]


class AuditTrail:
    """The audit trail in a database. Entries are only ever added."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(
        self,
        actor: str,
        action: str,
        subject: str,
        *,
        from_value: str = "",
        to_value: str = "",
        reason: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> AuditEntry:
        """Add an entry of now and return it; within a transaction it is part of that.

        It comes after the subject's others, also when the clock was set back since.
        """
        plain = to_plain(dict(details or {}))
        newest = self.database.execute("SELECT max(time) FROM audit WHERE subject = ?", (subject,))
        before = newest[0][0]
        # whose champion a model has is read from the order of its entries
        time = clock.seconds() if before is None else max(clock.seconds(), before + _STEP_S)
        made = AuditEntry(
            new_id(), time, actor, action, subject, from_value, to_value, reason, plain
        )
        self.database.add("audit", {**vars(made), "details": _json(plain)})
        return made

    def read(
        self,
        subject: str | None = None,
        action: str | None = None,
        since: float = 0.0,
        limit: int = 1000,
    ) -> list[AuditEntry]:
        """Return the entries at or after `since`, newest first."""
        asked = [(n, v) for n, v in (("subject", subject), ("action", action)) if v is not None]
        where = "".join(f" AND {name} = ?" for name, _ in asked)
        rows: list[Any] = self.database.execute(
            "SELECT id, time, actor, action, subject, from_value, to_value, reason, details "  # noqa: S608
            f"FROM audit WHERE time >= ?{where} ORDER BY time DESC, id DESC LIMIT ?",
            [since, *(value for _, value in asked), limit],
        )
        return [AuditEntry(*[*row[:8], json.loads(row[8])]) for row in rows]


def _stored(row: Sequence[Any]) -> StoredVerdict:
    return StoredVerdict(*[*row[:6], json.loads(row[6])])


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
