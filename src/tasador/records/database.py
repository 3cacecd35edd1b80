"""One database by one URL: a connection that comes back after an outage, and what it runs.

Statements are written once, with ``?`` for parameters; what differs between SQLite and PostgreSQL
stands in `tasador.records.dialects`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tasador.core.errors import StorageError
from tasador.records.dialects import Dialect, Row, dialect_for
from tasador.records.errors import OutageError as OutageError
from tasador.records.errors import RefusedError as RefusedError
from tasador.records.location import DatabaseUrl, parse_url
from tasador.records.schema import migrate
from tasador.records.settings import Synchronous


class Database:
    """A connection to the database, made when first used and again after it broke.

    One statement at a time; threads that share it wait for each other. After a fork the child makes
    a connection of its own.

    Args:
        url: See `tasador.records.location.parse_url`.
        synchronous: SQLite only: ``normal`` survives the death of the process, ``full`` also a
            power cut. PostgreSQL does as its server is configured.
        timeout_s: Seconds after which a connection attempt, a lock or a statement is given up.
    """

    def __init__(
        self, url: DatabaseUrl | str, *, synchronous: Synchronous = "normal", timeout_s: float = 5.0
    ) -> None:
        self.url = parse_url(url) if isinstance(url, str) else url
        self.dialect: Dialect = dialect_for(self.url, synchronous, timeout_s)
        self._connection: Any = None
        self._opening: Any = None  # not yet prepared, for `interrupt`
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
            ConfigError: The URL cannot be meant.
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
            RefusedError: It does not take these values.
        """
        with self._lock, self._translated():
            return self.dialect.execute(self._connected(), sql, parameters)

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement and return how many rows it touched; errors as for `execute`."""
        with self._lock, self._translated():
            return self.dialect.change(self._connected(), sql, parameters)

    def insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows to `records` or `outcomes` in one transaction; known keys are passed over."""
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
                self.dialect.begin(self._connected())
            self._depth = 1
            try:
                yield self
                with self._translated():
                    self.dialect.execute(self._connected(), "COMMIT", ())
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
        if self._depth and (self._connection is None or self.dialect.is_broken(self._connection)):
            raise OutageError(f"the line to {self.url.shown} broke within a transaction")
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
            if kind == "refused":
                raise RefusedError(
                    f"the database {self.url.shown} does not take these values: {reason}"
                ) from error
            raise OutageError(
                f"the database {self.url.shown} cannot be used: {reason}",
                remedy="check that it runs, its address, its disk and its permissions",
            ) from error
