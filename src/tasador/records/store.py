"""`RecordStore`: what every store of records can do, and the columns it hands out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasador.contract.target_check import TargetBounds
from tasador.core.clock import time_reason
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.records.dialects import BULK_COLUMNS, Row, column_names
from tasador.records.record import Outcome, Record
from tasador.records.shared_state import kept_targets, model_of

OutcomeStatus = Literal["accepted", "repeated", "replaced", "conflict", "unknown", "invalid"]


#: The columns of texts.
TEXTS = frozenset(name for name, kind in BULK_COLUMNS["records"] if kind == "text")


@dataclass(frozen=True)
class RecordBatch:
    """Some records with the outcomes known so far, as columns of equal length.

    Attributes:
        id, version, variant, source, client, no_value: Arrays of texts (dtype object).
        time: Seconds since the epoch, UTC.
        features: Each row as it was asked, a JSON object in UTF-8.
        prediction, lower, upper, coverage, latency_ms, fsd: As in `Record`; NaN for none.
        actual: The outcome; NaN where none is known.
        outcome_time: When it became known, seconds since the epoch; NaN where none is known.
    """

    id: NDArray[np.object_]
    time: NDArray[np.float64]
    version: NDArray[np.object_]
    variant: NDArray[np.object_]
    source: NDArray[np.object_]
    features: list[bytes]
    prediction: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    coverage: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    client: NDArray[np.object_]
    fsd: NDArray[np.float64]
    no_value: NDArray[np.object_]
    actual: NDArray[np.float64]
    outcome_time: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[Any, ...]]) -> RecordBatch:
        """Build the columns from at least one row in the order of the fields."""
        made: list[Any] = []
        for name, column in zip(cls.__dataclass_fields__, zip(*rows, strict=True), strict=True):
            if name == "features":
                made.append(list(column))
            elif name in TEXTS:
                texts = np.empty(len(column), dtype=object)
                texts[:] = column
                made.append(texts)
            else:
                made.append(np.array(column, dtype=np.float64))  # None becomes NaN
        return cls(*made)

    def of_model(self, name: str) -> RecordBatch:
        """Return the records without those that a bundle of another model than `name` answered."""
        owners = {version: _BUNDLE.fullmatch(str(version)) for version in set(self.version)}
        others = {version for version, own in owners.items() if own and own[1] != name}
        if not others:
            return self
        kept = np.flatnonzero([version not in others for version in self.version])
        columns: dict[str, Any] = {
            one: getattr(self, one)[kept] for one in self.__dataclass_fields__ if one != "features"
        }
        return RecordBatch(**columns, features=[self.features[i] for i in kept])


#: A bundle's version: the model's name and digits of the content hash.
_BUNDLE = re.compile(r"(.+)-[0-9a-f]{12}")


@dataclass(frozen=True)
class OutcomeAnswer:
    """What was done with one outcome.

    Attributes:
        prediction_id: As given.
        status: ``accepted``; ``repeated`` (known already, the same value); ``replaced`` (another
            value was known and was to be corrected); ``conflict`` (another value is known: that one
            stays, this one is kept apart, retraining uses neither); ``unknown`` (no record has this
            id, it is another client's, or it is still in a spool); ``invalid`` (no possible value
            of the target, or a time that has not come or is before the prediction).
        known: The value that was known before, for ``repeated``, ``replaced`` and ``conflict``.
        reason: What is wrong with an invalid one.
    """

    prediction_id: str
    status: OutcomeStatus
    known: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class VersionCounts:
    """How much is recorded of one version in one variant.

    Attributes:
        version: Name and content hash of the bundle.
        variant: Its part.
        records: Number of records.
        outcomes: How many of them have an outcome.
        first: Time of the oldest, seconds since the epoch.
        last: Time of the newest.
    """

    version: str
    variant: str
    records: int
    outcomes: int
    first: float
    last: float


_COLUMNS = column_names("records")
_PREFIXED = ", ".join(f"r.{name}" for name in _COLUMNS.split(", "))
_MOST_IDS = 500  # in one statement
_ANY = TargetBounds()


class _Recorded(NamedTuple):
    """What a record says of the outcomes that it may have."""

    bounds: TargetBounds
    time: float
    client: str


class RecordStore:
    """Records and outcomes in SQLite or PostgreSQL; safe to share between threads.

    Every method raises `OutageError` when the store cannot be used and `RejectedValuesError`
    when it does not take a value.

    Args:
        database: Where the tables are; closed with the store.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def append(self, records: Sequence[Record]) -> None:
        """Write records in one transaction; those whose id is known are skipped."""
        self.database.insert("records", records)

    def add_outcomes(
        self,
        outcomes: Sequence[Outcome],
        targets: Mapping[str, TargetBounds] | None = None,
        *,
        own: bool = False,
        replace: Collection[str] = (),
    ) -> list[OutcomeAnswer]:
        """Write outcomes; one answer for each, in order. Giving them again changes nothing.

        The bounds that a service keeps for its model's target (`keep_target`) are checked;
        `targets` are bounds by model that are known besides.

        Args:
            outcomes: The outcomes.
            targets: Bounds by model.
            own: Whether an outcome counts only from the client that was given the prediction.
            replace: Predictions whose known outcome is to be corrected; the audit trail keeps it.
        """
        answers: list[OutcomeAnswer] = []
        # what the caller knows comes last: its model may be newer than what is kept
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
        refused = [_invalid(one, recorded.get(one.prediction_id), own) for one in outcomes]
        first: dict[str, Outcome] = {}
        for outcome, rejected in zip(outcomes, refused, strict=True):
            if rejected is None:
                first.setdefault(outcome.prediction_id, outcome)
        # conflicts are ignored by the insert, so that two clients at once cannot fail each other
        self.database.insert("outcomes", [o for i, o in first.items() if i not in known])
        stays = self._known(list(first))  # another process may have been faster
        return [
            rejected or self._second(outcome, known, stays, first, outcome.prediction_id in replace)
            for outcome, rejected in zip(outcomes, refused, strict=True)
        ]

    def _second(
        self,
        outcome: Outcome,
        known: Mapping[str, float],
        stays: dict[str, float],
        first: Mapping[str, Outcome],
        replace: bool,
    ) -> OutcomeAnswer:
        """Return the result of a possible outcome; one that contradicts the known is kept apart."""
        key = outcome.prediction_id
        before = stays[key]
        if outcome.actual == before:
            new = key not in known and first[key] is outcome
            return OutcomeAnswer(key, "accepted") if new else OutcomeAnswer(key, "repeated", before)
        if replace:
            self._replace(outcome, before)
            stays[key] = outcome.actual
            return OutcomeAnswer(key, "replaced", before)
        self.database.add("outcome_conflicts", outcome._asdict())
        return OutcomeAnswer(key, "conflict", before)

    def _replace(self, outcome: Outcome, before: float) -> None:
        """Correct an outcome: conflicts with the wrong one are dropped."""
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
        """Give the records of ``since <= time < until``, oldest first, `batch` at a time.

        Each batch is a query of its own: nothing is locked between them, and records written
        meanwhile appear when their time lies after what was read. `with_outcome` leaves out records
        without one.
        """
        join = "JOIN" if with_outcome else "LEFT JOIN"
        where, values = _filters(version, variant, "r.")
        sql = (
            f"SELECT {_PREFIXED}, o.actual, o.time FROM records r "  # noqa: S608
            f"{join} outcomes o ON o.prediction_id = r.id "
            f"WHERE (r.time, r.id) > (?, ?) AND r.time < ?{where} "
            "ORDER BY r.time, r.id LIMIT ?"
        )
        # by key and not by offset: rows that are added or pruned meanwhile shift nothing
        at: tuple[float, str] = (since, "")
        while True:
            rows = self.database.execute(sql, [*at, until, *values, batch])
            if rows:
                at = (rows[-1][1], rows[-1][0])
                yield RecordBatch.from_rows(rows)
            if len(rows) < batch:
                return

    def get(self, prediction_ids: Sequence[str]) -> dict[str, Record]:
        """Return the records of these ids; unknown ids are left out."""
        sql = f"SELECT {_COLUMNS} FROM records WHERE id IN ({{ids}})"  # noqa: S608
        found = map(Record.from_row, self._by_ids(sql, prediction_ids))
        return {record.id: record for record in found}

    def count(
        self, since: float, until: float, *, version: str | None = None, variant: str | None = None
    ) -> int:
        """Return the number of records of ``since <= time < until``."""
        where, values = _filters(version, variant)
        sql = f"SELECT count(*) FROM records WHERE time >= ? AND time < ?{where}"  # noqa: S608
        return int(self.database.execute(sql, [since, until, *values])[0][0])

    def count_outcomes(self, since: float, until: float) -> int:
        """Return the number of outcomes that became known in ``since <= time < until``."""
        sql = "SELECT count(*) FROM outcomes WHERE time >= ? AND time < ?"
        return int(self.database.execute(sql, (since, until))[0][0])

    def counts(self) -> list[VersionCounts]:
        """Return how much is recorded of each version and variant, the newest first."""
        rows = self.database.execute(
            "SELECT r.version, r.variant, count(*), count(o.prediction_id), min(r.time), "
            "max(r.time) FROM records r LEFT JOIN outcomes o ON o.prediction_id = r.id "
            "GROUP BY r.version, r.variant ORDER BY max(r.time) DESC"
        )
        return [VersionCounts(*row) for row in rows]

    def conflicts(self, since: float, until: float, limit: int = 1000) -> list[Outcome]:
        """Return outcomes given in ``since <= time < until`` that contradict a known one."""
        rows = self.database.execute(
            "SELECT prediction_id, actual, time, client FROM outcome_conflicts "
            "WHERE time >= ? AND time < ? ORDER BY time LIMIT ?",
            (since, until, limit),
        )
        return [Outcome(*row) for row in rows]

    def prune(self, before: float, chunk: int = 2000) -> Iterator[int]:
        """Delete records older than `before` with their outcomes, `chunk` in each transaction.

        Gives the number deleted so far after each chunk; a chunk is deleted when it is asked for.
        """
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
        """Close the connection; the next use makes a new one."""
        self.database.close()


def _invalid(outcome: Outcome, found: _Recorded | None, own: bool) -> OutcomeAnswer | None:
    """Return the answer to an invalid outcome; None when it is valid."""
    key = outcome.prediction_id
    if found is not None and own and found.client != outcome.client:
        found = None  # to another client it is as if there were none
    problem = (_ANY if found is None else found.bounds).reason(outcome.actual)
    if problem is not None:
        return OutcomeAnswer(key, "invalid", reason=f"actual: {problem}")
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
