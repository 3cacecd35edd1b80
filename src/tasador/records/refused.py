"""Refused rows: counted by field and cause, and some of them kept with their values.

What a service refuses never becomes a record, and yet is the first sign of a feed that changed.
Counts are kept for spans of `SPAN_S` seconds, added up over all workers. Of the rows themselves at
most a number a day is kept, a few for each cause, so that a flood of one leaves space for others.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tasador.core import clock
from tasador.records.database import Database
from tasador.records.record import new_id
from tasador.settings.serving import RecordSettings

SPAN_S = 15.0
#: Rows kept of one field and cause by one process within a span.
_EACH = 10
#: Counts that wait in memory while the database is unreachable; further kinds of them are dropped.
_MOST_WAITING = 10_000
#: Rows that wait in memory: what one transaction writes between those of accepted requests.
_MOST_ROWS = 100
_DAY_S = 86_400.0
#: Under this field stand the numbers of rows, by what was done with them.
_ROWS = ""


class RefusedRow(NamedTuple):
    """A row that was not valued.

    Attributes:
        id: Unique name; later ones are greater.
        time: When, seconds since the epoch.
        version: What would have valued it.
        route: Where it was sent.
        client: Who sent it.
        causes: Field, cause and value of each fault.
        features: The row as it was sent, JSON in UTF-8; ``null`` when it could not be read.
    """

    id: str
    time: float
    version: str
    route: str
    client: str
    causes: tuple[tuple[str, str, str], ...]
    features: bytes


@dataclass(frozen=True)
class RefusedRequest:
    """What one request, or a part of a file, had refused.

    Attributes:
        version: What would have valued the rows.
        route: Where they were sent.
        client: Who sent them.
        refused: How many rows do not meet the contract.
        withheld: How many do, and were not valued since they came in the same request.
        causes: Rows by field and cause.
        examples: A value by field and cause.
        rows: Some of the rows: their faults, and their values as JSON.
    """

    version: str
    route: str
    client: str
    refused: int
    withheld: int
    causes: Mapping[tuple[str, str], int]
    examples: Mapping[tuple[str, str], str]
    rows: Sequence[tuple[tuple[tuple[str, str, str], ...], bytes]] = ()


@dataclass(frozen=True)
class RefusedCounts:
    """What was refused within a time.

    Attributes:
        refused: Rows that do not meet the contract.
        withheld: Rows that do, sent together with such.
        causes: Rows by field and cause, the most frequent first.
        examples: The latest value by field and cause.
        no_value: Rows that were valued and answered without a value, see `serve.max_fsd`.
    """

    refused: int = 0
    withheld: int = 0
    causes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    examples: Mapping[tuple[str, str], str] = field(default_factory=dict)
    no_value: int = 0


_Key = tuple[float, str, str, str]  # start of the span, version, field, cause


class RefusedBuffer:
    """Takes refusals from requests and writes them to the database now and then.

    `add` is called by the event loop and never waits for the database. Counts that cannot be
    written stay for the next try.

    Args:
        settings: How many rows a day are kept.
    """

    def __init__(self, settings: RecordSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._counts: Counter[_Key] = Counter()
        self._examples: dict[_Key, str] = {}
        self._rows: list[RefusedRow] = []
        self._kept: Counter[tuple[str, str]] = Counter()
        self._span = 0.0

    def add(self, refusal: RefusedRequest) -> None:
        """Take a refusal; bounded in time and memory."""
        now = clock.seconds()
        span = now - now % SPAN_S
        with self._lock:
            self._count((span, refusal.version, _ROWS, "refused"), refusal.refused)
            self._count((span, refusal.version, _ROWS, "withheld"), refusal.withheld)
            for (name, cause), number in refusal.causes.items():
                key = (span, refusal.version, name, cause)
                self._count(key, number)
                if key in self._counts:
                    self._examples[key] = refusal.examples.get((name, cause), "")
            if span != self._span:
                self._span = span
                self._kept.clear()
            for causes, features in refusal.rows:
                kinds = [(name, cause) for name, cause, _ in causes]
                if all(self._kept[kind] >= _EACH for kind in kinds):
                    continue
                if len(self._rows) >= min(_MOST_ROWS, self._settings.refused_per_day):
                    break
                self._kept.update(kinds)
                self._rows.append(
                    RefusedRow(
                        new_id(), now, refusal.version, refusal.route, refusal.client, causes,
                        features,
                    )
                )  # fmt: skip

    def _count(self, key: _Key, number: int) -> None:
        if number and (key in self._counts or len(self._counts) < _MOST_WAITING):
            self._counts[key] += number

    def flush(self, database: Database) -> None:
        """Write what waits to the database.

        Raises:
            StorageError: The database is unreachable; what waits stays.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
            examples, self._examples = self._examples, {}
            rows, self._rows = self._rows, []
        try:
            if counts:
                self._write(database, counts, examples, rows)
        except BaseException:
            with self._lock:
                for key, number in counts.items():
                    self._count(key, number)
                    if key in self._counts:
                        self._examples.setdefault(key, examples.get(key, ""))
                self._rows = (rows + self._rows)[:_MOST_ROWS]
            raise

    def _write(
        self,
        database: Database,
        counts: Mapping[_Key, int],
        examples: Mapping[_Key, str],
        rows: Sequence[RefusedRow],
    ) -> None:
        with database.transaction():
            for key in sorted(counts):  # in one order, so that workers do not block each other
                database.execute(
                    "INSERT INTO refused (time, version, field, cause, number, example) "
                    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (time, version, field, cause) DO UPDATE "
                    "SET number = refused.number + excluded.number, example = excluded.example",
                    (*key, counts[key], _text(examples.get(key, ""))),
                )
            now = clock.seconds()
            today = [now - now % _DAY_S]
            sql = "SELECT count(*) FROM refused_rows WHERE time >= ?"
            left = self._settings.refused_per_day - int(database.execute(sql, today)[0][0])
            for row in rows[: max(0, left)]:
                texts = {"client": _text(row.client), "causes": _causes(row)}
                database.add("refused_rows", row._asdict() | texts)


def read_refused(
    database: Database, since: float, until: float, model: str | None = None
) -> RefusedCounts:
    """Return what was refused from the span that holds `since` up to `until`.

    Args:
        database: Where it is recorded.
        since: Seconds since the epoch.
        until: Seconds since the epoch.
        model: Only what was sent to versions of this model; None for all.

    Raises:
        OutageError: The database is unreachable.
    """
    found = database.execute(
        "SELECT version, field, cause, number, example FROM refused "
        "WHERE time > ? AND time < ? ORDER BY time",
        (since - SPAN_S, until),
    )
    numbers: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for version, name, cause, number, example in found:
        if model is None or version.rpartition("-")[0] == model:
            numbers[name, cause] += int(number)
            examples[name, cause] = example
    refused, withheld = (numbers.pop((_ROWS, what), 0) for what in ("refused", "withheld"))
    silent = database.execute(
        "SELECT version, COUNT(*) FROM records WHERE time >= ? AND time < ? AND no_value <> '' "
        "AND variant NOT IN ('shadow', 'review') GROUP BY version",
        (since, until),
    )
    count = sum(n for version, n in silent if model is None or version.rpartition("-")[0] == model)
    return RefusedCounts(refused, withheld, dict(numbers.most_common()), examples, int(count))


def kept_rows(database: Database, since: float, until: float, limit: int) -> Iterator[RefusedRow]:
    """Give the refused rows that were kept, the newest first."""
    sql = (
        "SELECT id, time, version, route, client, causes, features FROM refused_rows "
        "WHERE time >= ? AND time < ? ORDER BY time DESC, id DESC LIMIT ?"
    )
    for row in database.execute(sql, (since, until, limit)):
        found: Any = json.loads(row[5])
        causes = tuple((name, cause, got) for name, cause, got in found)
        at, time, version, route, client = row[:5]
        yield RefusedRow(at, time, version, route, client, causes, bytes(row[6]))


def _causes(row: RefusedRow) -> str:
    return _text(json.dumps(row.causes, ensure_ascii=True))


def _text(text: str) -> str:
    """Return a text that every database holds: valid Unicode without NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
