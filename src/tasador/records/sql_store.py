"""`SqlRecordStore`: records and outcomes in SQLite or PostgreSQL."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from tasador.data.target_check import TargetBounds
from tasador.records.database import Database
from tasador.records.dialects import Row, column_names
from tasador.records.journal import AuditTrail
from tasador.records.moments import time_reason
from tasador.records.record import Outcome, Record
from tasador.records.store import OutcomeAnswer, RecordBatch, VersionCounts
from tasador.records.targets import kept_targets, model_of

_COLUMNS = column_names("records")
_PREFIXED = ", ".join(f"r.{name}" for name in _COLUMNS.split(", "))
_MOST_IDS = 500  # in one statement
_ANY = TargetBounds()


class _Recorded(NamedTuple):
    """What a record says of the outcomes that it may have."""

    bounds: TargetBounds
    time: float
    client: str


class SqlRecordStore:
    """See `tasador.records.store.RecordStore` for what each method promises.

    Args:
        database: Where the tables are; closed with the store.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def append(self, records: Sequence[Record]) -> None:
        self.database.insert("records", records)

    def add_outcomes(
        self,
        outcomes: Sequence[Outcome],
        targets: Mapping[str, TargetBounds] | None = None,
        *,
        own: bool = False,
        replace: Collection[str] = (),
    ) -> list[OutcomeAnswer]:
        answers: list[OutcomeAnswer] = []
        bounds = {**kept_targets(self.database), **(targets or {})} if outcomes else {}
        for start in range(0, len(outcomes), _MOST_IDS):
            part = outcomes[start : start + _MOST_IDS]
            with self.database.transaction():
                answers += self._add_some(part, bounds, own, replace)
        return answers

    def _add_some(
        self,
        outcomes: Sequence[Outcome],
        bounds: Mapping[str, TargetBounds],
        own: bool,
        replace: Collection[str],
    ) -> list[OutcomeAnswer]:
        ids = [outcome.prediction_id for outcome in outcomes]
        sql = "SELECT id, version, time, client FROM records WHERE id IN ({ids})"
        recorded = {
            key: _Recorded(bounds.get(model_of(version), _ANY), time, client)
            for key, version, time, client in self._by_ids(sql, ids)
        }
        known = self._known(ids)
        refused = [_refusal(one, recorded.get(one.prediction_id), own) for one in outcomes]
        first: dict[str, Outcome] = {}
        for outcome, refusal in zip(outcomes, refused, strict=True):
            if refusal is None:
                first.setdefault(outcome.prediction_id, outcome)
        self.database.insert("outcomes", [o for i, o in first.items() if i not in known])
        stays = self._known(list(first))  # another process may have been faster
        return [
            refusal or self._second(outcome, known, stays, first, outcome.prediction_id in replace)
            for outcome, refusal in zip(outcomes, refused, strict=True)
        ]

    def _second(
        self,
        outcome: Outcome,
        known: Mapping[str, float],
        stays: dict[str, float],
        first: Mapping[str, Outcome],
        replace: bool,
    ) -> OutcomeAnswer:
        """Say what became of an outcome that may be one; what contradicts the known is kept."""
        key = outcome.prediction_id
        before = stays[key]
        if outcome.actual == before:
            new = key not in known and first[key] is outcome
            return OutcomeAnswer(key, "accepted") if new else OutcomeAnswer(key, "repeated", before)
        if replace:
            self._replace(outcome, before)
            stays[key] = outcome.actual
            return OutcomeAnswer(key, "replaced", before)
        self.database.execute(
            "INSERT INTO outcome_conflicts (prediction_id, actual, time, client) "
            "VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            outcome,
        )
        return OutcomeAnswer(key, "conflict", before)

    def _replace(self, outcome: Outcome, before: float) -> None:
        """Correct an outcome: what contradicted the wrong one says nothing any more."""
        key, actual, time, client = outcome
        self.database.execute(
            "UPDATE outcomes SET actual = ?, time = ?, client = ? WHERE prediction_id = ?",
            (actual, time, client, key),
        )
        self.database.execute("DELETE FROM outcome_conflicts WHERE prediction_id = ?", (key,))
        AuditTrail(self.database).add(
            client or "unknown", "replace outcome", key, from_value=repr(before),
            to_value=repr(actual),
        )  # fmt: skip

    def _known(self, ids: Sequence[str]) -> dict[str, float]:
        sql = "SELECT prediction_id, actual FROM outcomes WHERE prediction_id IN ({ids})"
        return {row[0]: row[1] for row in self._by_ids(sql, ids)}

    def _by_ids(self, sql: str, ids: Sequence[str]) -> list[Row]:
        found: list[Row] = []
        for start in range(0, len(ids), _MOST_IDS):
            part = ids[start : start + _MOST_IDS]
            found += self.database.execute(sql.format(ids=",".join("?" * len(part))), part)
        return found

    def read(
        self,
        since: float,
        until: float,
        *,
        version: str | None = None,
        variant: str | None = None,
        with_outcome: bool = False,
        batch: int = 10_000,
    ) -> Iterator[RecordBatch]:
        join = "JOIN" if with_outcome else "LEFT JOIN"
        where, values = _filters(version, variant, "r.")
        sql = (
            f"SELECT {_PREFIXED}, o.actual, o.time FROM records r "  # noqa: S608
            f"{join} outcomes o ON o.prediction_id = r.id "
            f"WHERE (r.time, r.id) > (?, ?) AND r.time < ?{where} "
            "ORDER BY r.time, r.id LIMIT ?"
        )
        at: tuple[float, str] = (since, "")
        while True:
            rows = self.database.execute(sql, [*at, until, *values, batch])
            if rows:
                at = (rows[-1][1], rows[-1][0])
                yield RecordBatch.from_rows(rows)
            if len(rows) < batch:
                return

    def get(self, prediction_ids: Sequence[str]) -> dict[str, Record]:
        sql = f"SELECT {_COLUMNS} FROM records WHERE id IN ({{ids}})"  # noqa: S608
        nan = math.nan
        found = (
            Record._make(nan if value is None else value for value in row)
            for row in self._by_ids(sql, prediction_ids)
        )
        return {record.id: record for record in found}

    def count(
        self, since: float, until: float, *, version: str | None = None, variant: str | None = None
    ) -> int:
        where, values = _filters(version, variant)
        sql = f"SELECT count(*) FROM records WHERE time >= ? AND time < ?{where}"  # noqa: S608
        return int(self.database.execute(sql, [since, until, *values])[0][0])

    def count_outcomes(self, since: float, until: float) -> int:
        sql = "SELECT count(*) FROM outcomes WHERE time >= ? AND time < ?"
        return int(self.database.execute(sql, (since, until))[0][0])

    def counts(self) -> list[VersionCounts]:
        rows = self.database.execute(
            "SELECT r.version, r.variant, count(*), count(o.prediction_id), min(r.time), "
            "max(r.time) FROM records r LEFT JOIN outcomes o ON o.prediction_id = r.id "
            "GROUP BY r.version, r.variant ORDER BY max(r.time) DESC"
        )
        return [VersionCounts(*row) for row in rows]

    def conflicts(self, since: float, until: float, limit: int = 1000) -> list[Outcome]:
        rows = self.database.execute(
            "SELECT prediction_id, actual, time, client FROM outcome_conflicts "
            "WHERE time >= ? AND time < ? ORDER BY time LIMIT ?",
            (since, until, limit),
        )
        return [Outcome(*row) for row in rows]

    def prune(self, before: float, chunk: int = 2000) -> Iterator[int]:
        deleted = 0
        oldest = "SELECT id FROM records WHERE time < ? ORDER BY time, id LIMIT ?"
        while True:
            with self.database.transaction():
                ids = [row[0] for row in self.database.execute(oldest, (before, chunk))]
                for table, key in (
                    ("outcome_conflicts", "prediction_id"),
                    ("outcomes", "prediction_id"),
                    ("records", "id"),
                ):
                    self._by_ids(f"DELETE FROM {table} WHERE {key} IN ({{ids}})", ids)  # noqa: S608
            deleted += len(ids)
            if ids:
                yield deleted
            if len(ids) < chunk:
                return

    def close(self) -> None:
        self.database.close()


def _refusal(outcome: Outcome, found: _Recorded | None, own: bool) -> OutcomeAnswer | None:
    """Return the answer to an outcome that cannot be one; None when it can."""
    key = outcome.prediction_id
    if found is not None and own and found.client != outcome.client:
        found = None  # to another client it is as if there were none
    said = (_ANY if found is None else found.bounds).reason(outcome.actual)
    if said is not None:
        return OutcomeAnswer(key, "invalid", reason=f"actual: {said}")
    late = time_reason(outcome.time, None if found is None else found.time)
    if late is not None:
        return OutcomeAnswer(key, "invalid", reason=f"time: {late}")
    return OutcomeAnswer(key, "unknown") if found is None else None


def _filters(version: str | None, variant: str | None, prefix: str = "") -> tuple[str, list[str]]:
    where, values = "", []
    for name, value in (("version", version), ("variant", variant)):
        if value is not None:
            where += f" AND {prefix}{name} = ?"
            values.append(value)
    return where, values
