"""All that differs between SQLite and PostgreSQL."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from tasador.records.location import DatabaseUrl
from tasador.records.settings import Synchronous

Row = tuple[Any, ...]
ErrorKind = Literal["outage", "refused"]

#: Column types of the rows that are added in bulk, in the tables' order.
BULK_COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "records": (
        ("id", "text"),
        ("time", "real"),
        ("version", "text"),
        ("variant", "text"),
        ("source", "text"),
        ("features", "bytes"),
        ("prediction", "real"),
        ("lower", "real"),
        ("upper", "real"),
        ("coverage", "real"),
        ("latency_ms", "real"),
        ("client", "text"),
    ),
    "outcomes": (
        ("prediction_id", "text"),
        ("actual", "real"),
        ("time", "real"),
        ("client", "text"),
    ),
}


class Dialect(Protocol):
    """What a database engine must be able to do; connections are those of its driver.

    Attributes:
        types: SQL types by our names: ``text``, ``real``, ``int``, ``bytes``.
        clock: SQL expression of the server's time, seconds since the epoch.
        has_table: SQL that finds a row when there is a table of the name given.
    """

    types: dict[str, str]
    clock: str
    has_table: str

    def connect(self) -> Any: ...
    def prepare(self, connection: Any) -> None: ...
    def is_broken(self, connection: Any) -> bool: ...
    def execute(self, connection: Any, sql: str, parameters: Sequence[Any]) -> list[Row]: ...
    def change(self, connection: Any, sql: str, parameters: Sequence[Any]) -> int: ...
    def insert(self, connection: Any, table: str, rows: Sequence[Row]) -> None: ...
    def maintain(self, connection: Any) -> None: ...
    def begin(self, connection: Any) -> None: ...
    def rollback(self, connection: Any) -> None: ...
    def lock_schema(self, connection: Any) -> None: ...
    def interrupt(self, connection: Any) -> None: ...
    def kind_of(self, error: Exception) -> ErrorKind | None: ...


def dialect_for(url: DatabaseUrl, synchronous: Synchronous, timeout_s: float) -> Dialect:
    """Return the dialect that `url` names; its driver is imported here and not before."""
    if url.dialect == "sqlite":
        from tasador.records.sqlite import SqliteDialect

        return SqliteDialect(url, synchronous, timeout_s)
    from tasador.records.postgresql import PostgresqlDialect

    return PostgresqlDialect(url, timeout_s)


@functools.cache
def column_names(table: str) -> str:
    """Return the columns of a bulk table as SQL."""
    return ", ".join(name for name, _ in BULK_COLUMNS[table])
