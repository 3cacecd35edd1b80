"""The tables, as numbered migrations that several processes may start at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tasador.records.dialects import Dialect
from tasador.records.errors import OutageError


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
    dialect.begin(connection)
    try:
        dialect.lock_schema(connection)
        # a role that may not make tables can still use them
        if not dialect.execute(connection, dialect.has_table, ("tasador_schema",)):
            dialect.execute(connection, _TABLE.format_map(dialect.types), ())
        found = dialect.execute(connection, "SELECT version, reader FROM tasador_schema", ())
        current = max((row[0] for row in found), default=0)
        reader = max((row[1] for row in found), default=0)
        if reader > NEWEST:
            raise OutageError(
                f"the tables in {shown} were changed by a newer tasador",
                expected=f"a schema that version {NEWEST} can use",
                got=f"version {current}, for {reader} and newer",
                remedy="install that version of tasador here too",
            )
        for migration in MIGRATIONS[current:]:
            for statement in migration.statements:
                dialect.execute(connection, statement.format_map(dialect.types), ())
            dialect.execute(
                connection,
                "INSERT INTO tasador_schema (version, reader, time) VALUES (?, ?, ?)",
                (migration.version, migration.reader, time.time()),
            )
        dialect.execute(connection, "COMMIT", ())
    except BaseException:
        dialect.rollback(connection)
        raise
