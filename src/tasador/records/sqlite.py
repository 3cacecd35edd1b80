"""SQLite: write-ahead log, one statement a group, locks waited for."""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from tasador.core.files import make_private, tighten
from tasador.records.dialects import BULK_COLUMNS, ErrorKind, Row, column_names
from tasador.records.errors import OutageError
from tasador.records.location import DatabaseUrl
from tasador.records.settings import Synchronous

#: Most rows of one INSERT: SQLite takes 32 766 parameters, a record has twelve.
MOST_ROWS = 512
_EXACT = 64
_WAL_TRIES = 200
_WAL_PAGES = 8000  # of 4 KiB each
_WAL_BYTES = 2 << 20


class SqliteDialect:
    """See `tasador.records.dialects.Dialect`."""

    types = {"text": "TEXT", "real": "REAL", "int": "INTEGER", "bytes": "BLOB"}  # noqa: RUF012
    has_table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    clock = "((julianday('now') - 2440587.5) * 86400.0)"

    def __init__(self, url: DatabaseUrl, synchronous: Synchronous, timeout_s: float) -> None:
        assert url.path is not None  # noqa: S101 - what parse_url gives for sqlite://
        self.path = url.path
        self.synchronous = synchronous
        self.timeout_s = timeout_s

    def connect(self) -> sqlite3.Connection:
        make_private(self.path)  # SQLite gives the files beside it the same mode
        for beside in ("-wal", "-shm", "-journal"):
            tighten(self.path.with_name(self.path.name + beside))
        return sqlite3.connect(
            self.path,
            timeout=self.timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )

    def prepare(self, connection: sqlite3.Connection) -> None:
        self._use_wal(connection)
        connection.execute(f"PRAGMA synchronous={self.synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")

    def maintain(self, connection: sqlite3.Connection) -> None:
        """Bring the write-ahead log into the database without holding up who writes.

        Otherwise a commit does it now and then, and takes ten milliseconds instead of a tenth of
        one. What is written meanwhile stays in the log, so a commit still cleans up behind it,
        eight times as rarely and with little left to do.
        """
        log = self.path.with_name(self.path.name + "-wal")
        with suppress(FileNotFoundError):
            if log.stat().st_size > _WAL_BYTES:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to the write-ahead log; SQLite does not wait for locks while it does that."""
        for tried in range(_WAL_TRIES):
            try:
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or tried * 0.01 > self.timeout_s:
                    raise
                time.sleep(0.01)
                continue
            if mode != "wal":
                raise OutageError(
                    f"the SQLite file {self.path} cannot use a write-ahead log",
                    got=f"journal mode {mode!r}",
                    remedy="put it on a local disk",
                )
            return

    def is_broken(self, connection: sqlite3.Connection) -> bool:  # noqa: ARG002
        return False

    def execute(
        self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]
    ) -> list[Row]:
        return connection.execute(sql, parameters).fetchall()

    def change(self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> int:
        return connection.execute(sql, parameters).rowcount

    def insert(self, connection: sqlite3.Connection, table: str, rows: Sequence[Row]) -> None:
        """Add rows: one statement and its own commit for a group, a transaction for more.

        Every call into SQLite gives the interpreter's lock away and has to win it back from the
        event loop, so a group is one call, its statement prepared once for each size.
        """
        if len(rows) <= MOST_ROWS:
            self._insert_some(connection, table, rows)
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for start in range(0, len(rows), MOST_ROWS):
                self._insert_some(connection, table, rows[start : start + MOST_ROWS])
            connection.execute("COMMIT")
        except BaseException:
            self.rollback(connection)
            raise

    def _insert_some(self, connection: sqlite3.Connection, table: str, rows: Sequence[Row]) -> None:
        count = len(rows)
        if count == 0:
            return
        parameters = list(chain.from_iterable(rows))
        if count > _EXACT:
            # few statements are kept prepared: fill up with repetitions, which conflict and vanish
            size = -(-count // _EXACT) * _EXACT
            parameters.extend(list(rows[-1]) * (size - count))
            count = size
        connection.execute(_insert_sql(table, count), parameters)

    def begin(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")

    def rollback(self, connection: sqlite3.Connection) -> None:
        """Undo what is open; a failed statement may have undone it already."""
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    def lock_schema(self, connection: sqlite3.Connection) -> None:
        """Nothing to do: a write transaction has the file to itself."""

    def interrupt(self, connection: sqlite3.Connection) -> None:
        connection.interrupt()

    def kind_of(self, error: Exception) -> ErrorKind | None:
        refused = (
            sqlite3.IntegrityError,
            sqlite3.DataError,
            sqlite3.InterfaceError,
            sqlite3.ProgrammingError,
            OverflowError,
            UnicodeError,
        )
        if isinstance(error, refused):
            return "refused"
        return "outage" if isinstance(error, (sqlite3.Error, OSError)) else None


@functools.cache
def _insert_sql(table: str, rows: int) -> str:
    one = "(" + ",".join("?" * len(BULK_COLUMNS[table])) + ")"
    return (
        f"INSERT INTO {table} ({column_names(table)}) VALUES {','.join([one] * rows)} "  # noqa: S608
        "ON CONFLICT DO NOTHING"
    )
