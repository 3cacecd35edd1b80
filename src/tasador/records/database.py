"""One database by one URL: a connection that comes back after an outage, and what it runs.

Statements are written once, with ``?`` for parameters; what differs between SQLite and PostgreSQL
is in `tasador.records.dialects`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tasador.core.errors import StorageError
from tasador.records.dialects import Dialect, Row, dialect_for
from tasador.records.errors import OutageError
from tasador.settings.serving import DatabaseUrl, Synchronous, parse_url


@dataclass(frozen=True)
class Migration:
    """One step of the schema.

    Attributes:
        version: Its number, without gaps from 1.
        reader: The oldest schema version whose code can still work with the tables afterwards, so
            that old and new servers run side by side during an upgrade.
        statements: SQL with ``{text}``, ``{real}``, ``{int}``, ``{bytes}`` for the types.
    """

    version: int
    reader: int
    statements: tuple[str, ...]


MIGRATIONS = (
    Migration(
        1,
        1,
        (
            """CREATE TABLE records (
                id {text} PRIMARY KEY, time {real} NOT NULL, version {text} NOT NULL,
                variant {text} NOT NULL, source {text} NOT NULL, features {bytes} NOT NULL,
                prediction {real}, lower {real}, upper {real}, coverage {real},
                latency_ms {real}, client {text} NOT NULL)""",
            "CREATE INDEX records_by_time ON records (time, id)",
            """CREATE TABLE outcomes (
                prediction_id {text} PRIMARY KEY, actual {real} NOT NULL, time {real} NOT NULL,
                client {text} NOT NULL)""",
            "CREATE INDEX outcomes_by_time ON outcomes (time, prediction_id)",
            """CREATE TABLE outcome_conflicts (
                prediction_id {text} NOT NULL, actual {real} NOT NULL, time {real} NOT NULL,
                client {text} NOT NULL, PRIMARY KEY (prediction_id, actual, client))""",
            """CREATE TABLE verdicts (
                id {text} PRIMARY KEY, model {text} NOT NULL, time {real} NOT NULL,
                since {real} NOT NULL, until {real} NOT NULL, level {text} NOT NULL,
                body {text} NOT NULL)""",
            "CREATE INDEX verdicts_by_model ON verdicts (model, time)",
            """CREATE TABLE audit (
                id {text} PRIMARY KEY, time {real} NOT NULL, actor {text} NOT NULL,
                action {text} NOT NULL, subject {text} NOT NULL, from_value {text} NOT NULL,
                to_value {text} NOT NULL, reason {text} NOT NULL, details {text} NOT NULL)""",
            "CREATE INDEX audit_by_subject ON audit (subject, time)",
            """CREATE TABLE state (
                key {text} PRIMARY KEY, value {text} NOT NULL, version {int} NOT NULL,
                time {real} NOT NULL)""",
            """CREATE TABLE alerts (
                key {text} PRIMARY KEY, state {text} NOT NULL, since {real} NOT NULL,
                time {real} NOT NULL, body {text} NOT NULL, version {int} NOT NULL)""",
            """CREATE TABLE leases (
                name {text} PRIMARY KEY, holder {text} NOT NULL, expires {real} NOT NULL,
                token {int} NOT NULL)""",
        ),
    ),
    Migration(
        2,
        1,
        (
            """CREATE TABLE refused (
                time {real} NOT NULL, version {text} NOT NULL, field {text} NOT NULL,
                cause {text} NOT NULL, number {int} NOT NULL, example {text} NOT NULL,
                PRIMARY KEY (time, version, field, cause))""",
            """CREATE TABLE refused_rows (
                id {text} PRIMARY KEY, time {real} NOT NULL, version {text} NOT NULL,
                route {text} NOT NULL, client {text} NOT NULL, causes {text} NOT NULL,
                features {bytes} NOT NULL)""",
            "CREATE INDEX refused_rows_by_time ON refused_rows (time, id)",
        ),
    ),
    Migration(
        3,
        1,
        (
            "ALTER TABLE records ADD COLUMN fsd {real}",
            "ALTER TABLE records ADD COLUMN no_value {text} NOT NULL DEFAULT ''",
        ),
    ),
    Migration(
        4,
        1,
        (
            """CREATE TABLE review_rows (
                prediction_id {text} PRIMARY KEY, review {text} NOT NULL, number {real} NOT NULL,
                time {real} NOT NULL)""",
            "CREATE INDEX review_rows_by_review ON review_rows (review)",
            """CREATE TABLE overrides (
                id {text} PRIMARY KEY, prediction_id {text} NOT NULL, review {text} NOT NULL,
                time {real} NOT NULL, actor {text} NOT NULL, prediction {real}, before {real},
                value {real} NOT NULL, reason {text} NOT NULL)""",
            "CREATE INDEX overrides_by_prediction ON overrides (prediction_id, id)",
        ),
    ),
    Migration(5, 1, ("ALTER TABLE leases ADD COLUMN seconds {real}",)),
)
NEWEST = MIGRATIONS[-1].version
_TABLE = (
    "CREATE TABLE tasador_schema "
    "(version {int} PRIMARY KEY, reader {int} NOT NULL, time {real} NOT NULL)"
)


def migrate(dialect: Dialect, connection: Any, shown: str) -> None:
    """Bring the tables up to date; of several processes one does it and the others wait.

    Raises:
        OutageError: The tables were changed by a newer tasador in a way this one cannot follow.
    """
    dialect.run(connection, dialect.begin)
    try:
        # several workers start at once: the second finds the tables made
        dialect.lock_schema(connection)
        # a role that may not make tables can still use them
        if not dialect.run(connection, dialect.has_table, ("tasador_schema",)).fetchall():
            dialect.run(connection, _TABLE.format_map(dialect.types))
        found = dialect.run(connection, "SELECT version, reader FROM tasador_schema").fetchall()
        current = max((row[0] for row in found), default=0)
        reader = max((row[1] for row in found), default=0)
        if reader > NEWEST:
            raise OutageError.newer(shown, NEWEST, current, reader)
        for migration in MIGRATIONS[current:]:
            for statement in migration.statements:
                dialect.run(connection, statement.format_map(dialect.types))
            dialect.run(
                connection,
                "INSERT INTO tasador_schema (version, reader, time) VALUES (?, ?, ?)",
                (migration.version, migration.reader, time.time()),
            )
        dialect.run(connection, "COMMIT")
    except BaseException:
        dialect.rollback(connection)
        raise


class Database:
    """A connection to the database, made when first used and again after it broke.

    One statement at a time; threads that share it wait for each other. After a fork the child makes
    a connection of its own.

    Args:
        url: See `tasador.settings.serving.parse_url`.
        synchronous: SQLite only: ``normal`` survives the death of the process, ``full`` also a
            power cut. PostgreSQL does as its server is configured.
        timeout_s: Seconds after which a connection attempt, a lock or a statement is given up.
        alone: SQLite only: have the file for oneself, or fail with `LockedError`.
    """

    def __init__(
        self,
        url: DatabaseUrl | str,
        *,
        synchronous: Synchronous = "normal",
        timeout_s: float = 5.0,
        alone: bool = False,
    ) -> None:
        self.url = parse_url(url) if isinstance(url, str) else url
        self.dialect: Dialect = dialect_for(self.url, synchronous, timeout_s, alone=alone)
        self._connection: Any = None
        self._opening: Any = None  # not yet prepared, for `interrupt`
        # reentrant: statements inside of `transaction` take it again
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._migrated = False
        self._depth = 0

    @classmethod
    def open(
        cls, url: DatabaseUrl | str, *, synchronous: Synchronous = "normal", timeout_s: float = 5.0
    ) -> Database:
        """Connect at once, and bring the tables up to date.

        Raises:
            ConfigError: The URL is invalid.
            OutageError: The database cannot be reached.
        """
        database = cls(url, synchronous=synchronous, timeout_s=timeout_s)
        database.connect()
        return database

    def connect(self) -> None:
        """Connect, and bring the tables up to date, unless that is done.

        Raises:
            OutageError: The database cannot be reached.
        """
        with self._lock, self._translated():
            self._connected()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement and return its rows; outside `transaction` it commits by itself.

        Raises:
            OutageError: The database cannot be reached or does not answer.
            RejectedValuesError: It does not take these values.
        """
        with self._lock, self._translated():
            cursor = self.dialect.run(self._connected(), sql, parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement and return how many rows it touched; errors as for `execute`."""
        with self._lock, self._translated():
            return int(self.dialect.run(self._connected(), sql, parameters).rowcount)

    def add(self, table: str, row: Mapping[str, Any]) -> int:
        """Add a row, by column, unless its key is known; return how many rows it made."""
        return self.change(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) "  # noqa: S608
            "ON CONFLICT DO NOTHING",
            tuple(row.values()),
        )

    def insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows to a table of `BULK_COLUMNS` in one transaction; known keys are skipped."""
        with self._lock, self._translated():
            self.dialect.insert(self._connected(), table, rows)

    def maintain(self) -> None:
        """Do what the database needs now and then, beside those who write.

        Raises:
            OutageError: It cannot be reached.
        """
        with self._lock, self._translated():
            self.dialect.maintain(self._connected())

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """Make what the body runs one write transaction, undone when the body raises.

        Within another one the body is part of that.

        Raises:
            OutageError: As for `execute`; the transaction is undone.
        """
        with self._lock:
            if self._depth:
                yield self
                return
            with self._translated():
                self.dialect.run(self._connected(), self.dialect.begin)
            self._depth = 1
            try:
                yield self
                with self._translated():
                    self.dialect.run(self._connected(), "COMMIT")
            except BaseException:
                if self._connection is not None:
                    self.dialect.rollback(self._connection)
                raise
            finally:
                self._depth = 0

    def interrupt(self) -> None:
        """End a statement that another thread waits for, if there is one, with `OutageError`."""
        connection = self._connection or self._opening
        if connection is not None:
            with suppress(Exception):
                self.dialect.interrupt(connection)

    def close(self) -> None:
        """Close the connection; the next use makes a new one."""
        with self._lock:
            self._drop()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connected(self) -> Any:
        if self._pid != os.getpid():
            self._connection, self._pid = None, os.getpid()  # the parent goes on using its own
        # a new connection would go on outside of the transaction, and commit half of it
        if self._depth and (self._connection is None or self.dialect.is_broken(self._connection)):
            raise OutageError.broken_within(self.url.shown)
        if self._connection is not None and self.dialect.is_broken(self._connection):
            self._drop()
        if self._connection is None:
            self._opening = self.dialect.connect()
            try:
                self.dialect.prepare(self._opening)
                if not self._migrated:
                    migrate(self.dialect, self._opening, self.url.shown)
                    self._migrated = True
                self._connection = self._opening
            finally:
                if self._connection is None:
                    self._opening.close()
                self._opening = None
        return self._connection

    def _drop(self) -> None:
        # forgotten first: closing may raise, and a broken one must not be used again
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            with suppress(Exception):
                connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the driver's errors into ours; they carry the URL without its password."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            kind = self.dialect.kind_of(error)
            if kind is None:
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise kind.of(self.url.shown, reason) from error
