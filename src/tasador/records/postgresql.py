"""PostgreSQL through psycopg 3: arrays for a group, timeouts on whatever can wait."""

from __future__ import annotations

import functools
import importlib
import os
import socket
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any

from tasador.core.errors import MissingExtraError
from tasador.records.dialects import BULK_COLUMNS, ErrorKind, Row, column_names
from tasador.records.location import DatabaseUrl

_SCHEMA_LOCK = 7_461_736_264  # any number that others are unlikely to lock
_ARRAYS = {"text": "text[]", "real": "float8[]", "bytes": "bytea[]"}


class PostgresqlDialect:
    """See `tasador.records.dialects.Dialect`.

    Raises:
        MissingExtraError: psycopg is not installed.
    """

    types = {  # noqa: RUF012
        "text": 'TEXT COLLATE "C"',  # ids in the order of their bytes, as in SQLite
        "real": "DOUBLE PRECISION",
        "int": "BIGINT",
        "bytes": "BYTEA",
    }
    has_table = "SELECT 1 WHERE to_regclass(?) IS NOT NULL"
    clock = "extract(epoch from clock_timestamp())::float8"

    def __init__(self, url: DatabaseUrl, timeout_s: float) -> None:
        self.url = url
        self.timeout_s = timeout_s
        try:
            self.driver: Any = importlib.import_module("psycopg")
        except ImportError:
            raise MissingExtraError.for_package("psycopg", "serve") from None
        # the server's own limit comes first; this one is for a server that says nothing at all
        self._connections = _limited_connections(self.driver, timeout_s + 1.0)

    def connect(self) -> Any:
        milliseconds = max(1, int(self.timeout_s * 1000))
        return self._connections.connect(
            self.url.text,
            autocommit=True,
            connect_timeout=max(2, round(self.timeout_s)),  # libpq takes no less than 2 s
            tcp_user_timeout=max(2000, milliseconds),
            keepalives_idle=10,
            keepalives_interval=3,
            keepalives_count=3,
            application_name="tasador",
        )

    def prepare(self, connection: Any) -> None:
        milliseconds = max(1, int(self.timeout_s * 1000))
        connection.prepare_threshold = 2
        connection.execute(
            f"SET statement_timeout = {milliseconds}; SET lock_timeout = {milliseconds}; "
            "SET idle_in_transaction_session_timeout = 60000"
        )

    def is_broken(self, connection: Any) -> bool:
        return bool(connection.closed)

    def execute(self, connection: Any, sql: str, parameters: Sequence[Any]) -> list[Row]:
        cursor = connection.execute(_placeholders(sql), parameters)
        return cursor.fetchall() if cursor.description is not None else []

    def change(self, connection: Any, sql: str, parameters: Sequence[Any]) -> int:
        return int(connection.execute(_placeholders(sql), parameters).rowcount)

    def insert(self, connection: Any, table: str, rows: Sequence[Row]) -> None:
        """Add rows by one statement, an array for each column."""
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            connection.execute(_insert_sql(table), columns, prepare=True)

    def maintain(self, connection: Any) -> None:
        """Nothing to do: the server looks after itself."""

    def begin(self, connection: Any) -> None:
        connection.execute("BEGIN")

    def rollback(self, connection: Any) -> None:
        with suppress(self.driver.Error):
            connection.execute("ROLLBACK")

    def lock_schema(self, connection: Any) -> None:
        connection.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")

    def interrupt(self, connection: Any) -> None:
        """Cut the line: a server that is stopped would not answer a request to cancel."""
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    def kind_of(self, error: Exception) -> ErrorKind | None:
        if isinstance(error, (self.driver.DataError, self.driver.IntegrityError, UnicodeError)):
            return "refused"
        return "outage" if isinstance(error, (self.driver.Error, OSError)) else None


def _limited_connections(driver: Any, limit_s: float) -> Any:
    """Return psycopg's class of connections with a limit on how long an answer may take."""

    class Limited(driver.Connection):  # type: ignore[misc]
        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            return super().wait(self._until(gen, time.monotonic() + limit_s), *args, **kwargs)

        def _until(self, gen: Any, end: float) -> Generator[Any, Any, Any]:
            try:
                asked = next(gen)
                while True:
                    ready = yield asked
                    if not ready and time.monotonic() > end:  # psycopg looks up now and then
                        self.close()
                        raise driver.OperationalError(f"no answer within {limit_s:g} s")
                    asked = gen.send(ready)
            except StopIteration as done:
                return done.value

    return Limited


@functools.lru_cache(maxsize=256)
def _placeholders(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


@functools.cache
def _insert_sql(table: str) -> str:
    arrays = ", ".join(f"%s::{_ARRAYS[kind]}" for _, kind in BULK_COLUMNS[table])
    return (
        f"INSERT INTO {table} ({column_names(table)}) SELECT * FROM unnest({arrays}) "  # noqa: S608
        "ON CONFLICT DO NOTHING"
    )
