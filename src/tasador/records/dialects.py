"""All that differs between SQLite and PostgreSQL."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, get_type_hints

from tasador.core.errors import MissingExtraError
from tasador.core.storage import make_private, tighten
from tasador.records.errors import (
    DamagedError,
    DiskFullError,
    LockedError,
    OutageError,
    RejectedValuesError,
)
from tasador.records.record import Outcome, Override, Record, ReviewRow
from tasador.settings.serving import DatabaseUrl, Synchronous

Row = tuple[Any, ...]

ErrorKind = type[OutageError] | type[RejectedValuesError]
_KINDS = {str: "text", float: "real", bytes: "bytes"}
#: Tables whose rows are added in bulk, and their columns: the fields of what is added.
BULK_COLUMNS = {
    table: tuple((name, _KINDS[kind]) for name, kind in get_type_hints(row).items())
    for table, row in (
        ("records", Record), ("outcomes", Outcome), ("review_rows", ReviewRow),
        ("overrides", Override),
    )
}  # fmt: skip


@functools.cache
def column_names(table: str) -> str:
    """Return the columns of a bulk table as SQL."""
    return ", ".join(name for name, _ in BULK_COLUMNS[table])


#: Most rows of one INSERT: SQLite takes 32 766 parameters, a record has fourteen.
MOST_ROWS = 512
_EXACT = 64
_WAL_PAGES = 8000  # of 4 KiB each
_WAL_BYTES = 2 << 20
_MAY_END = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY}
_LONGEST_PAUSE_S = 0.005
_PAGE_BYTES = 32 << 10  # by which the index of the write-ahead log grows


class SqliteDialect:
    """A file, through Python's own driver.

    Attributes:
        types: SQL types by our names: ``text``, ``real``, ``int``, ``bytes``.
        has_table: SQL that finds a row when there is a table of the name given.
        begin: SQL that begins a write transaction.
        clock: SQL expression of the server's time, seconds since the epoch.
    """

    types = {"text": "TEXT", "real": "REAL", "int": "INTEGER", "bytes": "BLOB"}  # noqa: RUF012
    has_table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    begin = "BEGIN IMMEDIATE"
    clock = "((julianday('now') - 2440587.5) * 86400.0)"

    def __init__(
        self, url: DatabaseUrl, synchronous: Synchronous, timeout_s: float, *, alone: bool
    ) -> None:
        assert url.path is not None  # noqa: S101 - what parse_url gives for sqlite://
        self.path = url.path
        self.synchronous = synchronous
        self.timeout_s = timeout_s
        self.alone = alone
        self._interrupted = False

    def connect(self) -> sqlite3.Connection:
        make_private(self.path)  # SQLite gives the files beside it the same mode
        for beside in ("-wal", "-shm", "-journal"):
            tighten(self.path.with_name(self.path.name + beside))
        return sqlite3.connect(
            self.path,
            timeout=0.0,  # `run` waits
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )

    def prepare(self, connection: sqlite3.Connection) -> None:
        if self.alone:
            # fails while any process has the file open, since each holds a shared lock on it
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
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
        """Switch to the write-ahead log."""
        mode = self.run(connection, "PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise OutageError.without_log(self.path, mode)

    def is_broken(self, connection: sqlite3.Connection) -> bool:  # noqa: ARG002
        return False

    def run(
        self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()
    ) -> sqlite3.Cursor:
        """Run a statement and return its cursor; again while another process has the lock.

        For `timeout_s` at most, or until it is interrupted. SQLite's own waiting sleeps 1, 2, 5 and
        more milliseconds from try to try, and a commit takes a tenth of one: two services on a file
        waited more than they worked.
        """
        self._interrupted = False
        waited = pause = 1e-4
        while True:
            try:
                return connection.execute(sql, parameters)
            except sqlite3.OperationalError as error:
                over = self._interrupted or waited >= self.timeout_s
                if over or error.sqlite_errorcode not in _MAY_END:
                    raise
            time.sleep(pause)
            waited += pause
            pause = min(1.1 * pause, _LONGEST_PAUSE_S)

    def insert(self, connection: sqlite3.Connection, table: str, rows: Sequence[Row]) -> None:
        """Add rows: one statement and its own commit for a group, a transaction for more.

        Every call into SQLite releases the interpreter's lock and has to win it back from the
        event loop, so a group is one call, its statement prepared once for each size.
        """
        if len(rows) <= MOST_ROWS:
            self._insert_some(connection, table, rows)
            return
        self.run(connection, self.begin)
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
        self.run(connection, _sqlite_insert(table, count), parameters)

    def rollback(self, connection: sqlite3.Connection) -> None:
        """Undo what is open; a failed statement may have undone it already."""
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    def lock_schema(self, connection: sqlite3.Connection) -> None:
        """Nothing to do: a write transaction has the file to itself."""

    def interrupt(self, connection: sqlite3.Connection) -> None:
        self._interrupted = True
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
            return RejectedValuesError
        # the lower byte: what follows it only says more of the same
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return DamagedError
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return LockedError
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._is_disk_full()):
            return DiskFullError
        return OutageError if isinstance(error, (sqlite3.Error, OSError)) else None

    def _is_disk_full(self) -> bool:
        """Tell whether no page can be added, which SQLite calls an I/O error in some files."""
        with suppress(OSError):
            return shutil.disk_usage(self.path.parent).free < _PAGE_BYTES
        return False


@functools.cache
def _sqlite_insert(table: str, rows: int) -> str:
    one = "(" + ",".join("?" * len(BULK_COLUMNS[table])) + ")"
    return (
        f"INSERT INTO {table} ({column_names(table)}) VALUES {','.join([one] * rows)} "  # noqa: S608
        "ON CONFLICT DO NOTHING"
    )


_SCHEMA_LOCK = 7_461_736_264  # any number that others are unlikely to lock
_ARRAYS = {"text": "text[]", "real": "float8[]", "bytes": "bytea[]"}


class PostgresqlDialect:
    """A server, through psycopg; attributes as of `SqliteDialect`.

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
    begin = "BEGIN"
    clock = "extract(epoch from clock_timestamp())::float8"

    def __init__(self, url: DatabaseUrl, timeout_s: float) -> None:
        self.url = url
        self.timeout_s = timeout_s
        try:
            self.driver: Any = importlib.import_module("psycopg")
        except ImportError:
            raise MissingExtraError.for_package("psycopg", "serve") from None
        # the server's own limit comes first; this one is for a server that does not answer at all
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

    def run(self, connection: Any, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run a statement and return its cursor."""
        return connection.execute(_placeholders(sql), parameters)

    def insert(self, connection: Any, table: str, rows: Sequence[Row]) -> None:
        """Add rows by one statement, an array for each column."""
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            connection.execute(_postgresql_insert(table), columns, prepare=True)

    def maintain(self, connection: Any) -> None:
        """Nothing to do: the server looks after itself."""

    def rollback(self, connection: Any) -> None:
        with suppress(self.driver.Error):
            connection.execute("ROLLBACK")

    def lock_schema(self, connection: Any) -> None:
        connection.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")

    def interrupt(self, connection: Any) -> None:
        """Shut the socket down: a server that is stopped would not answer a request to cancel."""
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    def kind_of(self, error: Exception) -> ErrorKind | None:
        if isinstance(error, (self.driver.DataError, self.driver.IntegrityError, UnicodeError)):
            return RejectedValuesError
        return OutageError if isinstance(error, (self.driver.Error, OSError)) else None


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
def _postgresql_insert(table: str) -> str:
    arrays = ", ".join(f"%s::{_ARRAYS[kind]}" for _, kind in BULK_COLUMNS[table])
    return (
        f"INSERT INTO {table} ({column_names(table)}) SELECT * FROM unnest({arrays}) "  # noqa: S608
        "ON CONFLICT DO NOTHING"
    )


Dialect = SqliteDialect | PostgresqlDialect


def dialect_for(
    url: DatabaseUrl, synchronous: Synchronous, timeout_s: float, *, alone: bool
) -> Dialect:
    """Return the dialect that `url` names; its driver is imported here and not before."""
    if url.dialect == "sqlite":
        return SqliteDialect(url, synchronous, timeout_s, alone=alone)
    return PostgresqlDialect(url, timeout_s)
