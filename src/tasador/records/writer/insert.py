"""Inserting records of which some may be unfit, without losing the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from tasador.core.errors import StorageError
from tasador.records.database.connection import Database
from tasador.records.database.errors import OutageError, RefusedError
from tasador.records.record import Record

_log = logging.getLogger(__name__)


class Inserted(NamedTuple):
    """How an insertion went.

    Attributes:
        written: Records that are in the database now.
        refused: Records that it would not take even alone.
        error: Why, for the last of them; None when there is none.
    """

    written: int
    refused: int = 0
    error: StorageError | None = None


def insert_records(database: Database, rows: Sequence[Record]) -> Inserted:
    """Insert records in one statement; when some are refused, each alone with its texts cleaned.

    Raises:
        OutageError: The database is away. Some of the records may be in it.
    """
    try:
        database.insert("records", rows)
    except OutageError:
        raise
    except Exception:  # whatever a malformed record provokes must not stop the others
        return _one_by_one(database, rows)
    return Inserted(len(rows))


def _one_by_one(database: Database, rows: Sequence[Record]) -> Inserted:
    refused, last = 0, None
    for row in rows:
        try:
            database.insert("records", [_cleaned(row)])
        except OutageError:
            raise
        except Exception as error:
            refused += 1
            last = error if isinstance(error, StorageError) else RefusedError(repr(error))
            _log.error("a record is refused: %s: %.200r", last, row)
    return Inserted(len(rows) - refused, refused, last)


def _cleaned(record: Record) -> Record:
    """Return the record with texts that every database holds: valid Unicode without NUL."""
    return Record._make(
        value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
        if isinstance(value, str)
        else value
        for value in record
    )
