"""What can go wrong with records.

::

    StorageError
    ├── OutageError          the database cannot be reached, is full, does not answer: try later
    │   ├── LockedError      another process has it
    │   ├── DiskFullError    its disk is full
    │   └── DamagedError     its file is damaged, or no database
    ├── RejectedValuesError  it was reached and does not take these values: and will not later
    ├── SpoolError           the spool is full, or its disk refuses
    ├── BusyError            more records wait in memory than may: try again in a moment
    └── NotRunningError      records were handed to a writer that is not running
    SourceError
    └── OutcomeFileError     a file of outcomes that cannot be read
    ConfigError
    └── OutcomeValueError    an outcome in it that cannot be read
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tasador.core.errors import ConfigError, SourceError, StorageError


class OutageError(StorageError):
    """The database cannot be reached, is locked, full, or does not answer."""

    @classmethod
    def of(cls, shown: str, reason: str) -> OutageError:
        return cls(
            f"the database {shown} cannot be used: {reason}",
            remedy="check that it runs, its address, its disk and its permissions",
        )

    @classmethod
    def broken_within(cls, shown: str) -> OutageError:
        """Return the error of a connection that broke while a transaction was open."""
        return cls(f"the connection to {shown} broke within a transaction")

    @classmethod
    def newer(cls, shown: str, newest: int, version: int, reader: int) -> OutageError:
        """Return the error of tables that this release cannot use."""
        return cls(
            f"the tables in {shown} were changed by a newer tasador",
            expected=f"a schema that version {newest} can use",
            got=f"version {version}, for {reader} and newer",
            remedy="install that version of tasador here too",
        )

    @classmethod
    def without_log(cls, path: Path, mode: str) -> OutageError:
        """Return the error of a disk on which SQLite's write-ahead log does not work."""
        return cls(
            f"the SQLite file {path} cannot use a write-ahead log",
            got=f"journal mode {mode!r}",
            remedy="put it on a local disk",
        )


class LockedError(OutageError):
    """Another process has the database."""


class DiskFullError(OutageError):
    """The disk of the database is full."""

    @classmethod
    def of(cls, shown: str, reason: str) -> DiskFullError:
        return cls(
            f"the database {shown} cannot be used: the disk is full ({reason})",
            remedy="free some space, or put the database on another disk",
        )


class DamagedError(OutageError):
    """The database's file is damaged, or no database."""


class RejectedValuesError(StorageError):
    """The database was reached and does not take these values."""

    @classmethod
    def of(cls, shown: str, reason: str) -> RejectedValuesError:
        return cls(f"the database {shown} does not take these values: {reason}")


class SpoolError(StorageError):
    """The spool is full, or its disk refuses."""

    @classmethod
    def full(cls, folder: Path, limit: int) -> SpoolError:
        return cls(
            f"the spool in {folder} is full",
            expected=f"at most {limit:,} bytes",
            remedy="bring the database back, or raise spool_bytes",
        )

    @classmethod
    def unusable(cls, folder: Path, reason: object) -> SpoolError:
        """Return the error of a folder or a file that cannot be read or written."""
        return cls(
            f"the spool in {folder} cannot be used: {reason}",
            remedy="check the disk, or set another spool folder",
        )


class BusyError(StorageError):
    """More records wait in memory than may."""

    @classmethod
    def of(cls, most: int) -> BusyError:
        return cls(
            "the queue of records is full",
            expected=f"at most {most:,} waiting",
            remedy="send less, or raise the setting queue",
        )


class NotRunningError(StorageError):
    """Records were handed to a writer that is not running."""

    @classmethod
    def of(cls) -> NotRunningError:
        return cls("the record writer is not running", remedy="start it first")


class OutcomeFileError(SourceError):
    """A file of outcomes that cannot be read."""

    @classmethod
    def missing(cls, path: Path) -> OutcomeFileError:
        return cls(f"there is no file {path}", remedy="check the path")

    @classmethod
    def without(cls, path: Path, missing: Collection[str], found: Collection[str]) -> SourceError:
        return cls(
            f"{path} lacks {' and '.join(sorted(missing))}",
            expected="the columns prediction_id, actual and, if wanted, time",
            got=", ".join(found) or "an empty file",
        )

    @classmethod
    def unreadable(cls, path: Path, reason: Exception) -> OutcomeFileError:
        return cls(f"{path} cannot be read as CSV: {reason}")


class OutcomeValueError(ConfigError):
    """An outcome in a file that cannot be read."""

    @classmethod
    def no_number(cls, text: str | None) -> OutcomeValueError:
        return cls(f"actual is not a number: {text!r}")

    @classmethod
    def ambiguous_time(cls, text: str) -> OutcomeValueError:
        """Return the error of a time such as 20261124."""
        return cls(
            "time can be a date or seconds since the epoch",
            expected="a date with hyphens, such as 2026-11-24",
            got=repr(text),
        )
