"""The spool: where records wait on the local disk while the database is unreachable.

It is a second database: an SQLite file with the same tables, written by the same insert. Each
process has one of its own and keeps it open as long as it lives. A file that nobody has open
belongs to a process that died: whoever finds it adopts it. Records keep their ids, so bringing them
into the database twice changes nothing.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tasador.core.errors import StorageError
from tasador.core.storage import make_private, storage_error, tighten
from tasador.records.batches import Inserted, insert_records
from tasador.records.database import Database
from tasador.records.dialects import column_names
from tasador.records.errors import DamagedError, LockedError, SpoolError
from tasador.records.record import Record
from tasador.settings.serving import DatabaseUrl, Synchronous

#: Earlier releases take every `*.spool` for a file of their own kind, and set others aside.
_SUFFIX = ".spool.db"
#: Bytes of a record and of its index beside its features.
_ROW_BYTES = 256
#: Bytes below which a spool counts as full: a few records.
_LEAST_SPACE = 4096
_LOG_PAGES = 1000
#: A new file that another process deleted is made again at most so often.
_TRIES = 10
_SELECT = (
    f"SELECT rowid, {column_names('records')} FROM records "  # noqa: S608
    "WHERE rowid > ? ORDER BY rowid LIMIT ?"
)
_log = logging.getLogger(__name__)


class SpoolFile:
    """One file.

    Args:
        path: Where it lies.
        synchronous: As of the database.
        alone: Have it for oneself, or fail with `LockedError`.
    """

    def __init__(
        self, path: Path, synchronous: Synchronous = "normal", *, alone: bool = False
    ) -> None:
        self.path = path
        self.used = False
        self.given_up = 0  # rows up to this one are in the database
        self.database = Database(
            DatabaseUrl("sqlite", str(path), str(path), path),
            synchronous=synchronous,
            timeout_s=0.0 if alone else 5.0,
            alone=alone,
        )

    def read(self, after: int, most: int) -> tuple[list[Record], int]:
        """Return the records of at most `most` rows after the row `after`, and the last row.

        Raises:
            DamagedError: The next row cannot be read.
        """
        try:
            rows = self.database.execute(_SELECT, (after, most))
        except DamagedError:
            if most == 1:
                raise
            # what lies before the damage can be read
            return self.read(after, max(1, most // 8))
        return [Record.from_row(row[1:]) for row in rows], rows[-1][0] if rows else after

    def give_up(self, last: int) -> None:
        """Delete the rows up to `last`; on a disk that refuses remember them."""
        try:
            self.database.change("DELETE FROM records WHERE rowid <= ?", (last,))
        except StorageError:
            self.given_up = last
        else:
            self.given_up = 0  # SQLite counts rows from 1 again once a table is empty

    def remove(self) -> None:
        """Delete the file, then close it: nobody can adopt what is no longer there.

        The file itself goes last, since once it is gone another may be made under its name.
        """
        for end in ("-wal", "-shm", ""):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        self.database.close()

    def quarantine(self) -> None:
        """Rename the file to ``*.damaged``, with its log, and close it."""
        _log.error("%s cannot be read; it is kept as *.damaged", self.path)
        damaged = self.path.with_name(self.path.name.removesuffix(_SUFFIX) + ".damaged")
        log = self.path.with_name(self.path.name + "-wal")
        try:
            self.path.rename(damaged)
            if log.exists() and log.stat().st_size:
                log.rename(damaged.with_name(damaged.name + "-wal"))
        except OSError as error:
            _log.error("%s cannot be renamed: %s", self.path, error)
            self.database.close()
        else:
            self.remove()


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some records at the front of a spool.

    Attributes:
        records: The records, oldest first.
        file: The file they are in.
        last: Its row of the last of them.
    """

    records: list[Record]
    file: SpoolFile
    last: int


class Spool:
    """A process's own spool.

    Args:
        folder: Where the files lie; made when missing. Processes may share it.
        synchronous: ``full`` flushes the disk after each group.
        limit: Most bytes of the records that wait, a little less than they take on the disk.
    """

    def __init__(self, folder: Path, synchronous: Synchronous, limit: int) -> None:
        self.folder = folder
        self._synchronous = synchronous
        self._limit = limit
        self._file: SpoolFile | None = None
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes of the records that wait; never blocks."""
        return self._waiting

    def prepare(self) -> None:
        """Make the folder and the file now, while things are well.

        Raises:
            StorageError: The folder cannot be written.
        """
        with self._lock, _translated(self.folder):
            self._opened()

    def append(self, records: Sequence[Record]) -> Inserted:
        """Add records; when this returns they survive the death of the process.

        Raises:
            StorageError: The spool or the disk is full, or the disk refuses. Nothing was added.
        """
        size = _size(records)
        with self._lock, _translated(self.folder):
            self._check_limit(size)
            file = self._opened()
            inserted = insert_records(file.database, records)
            file.used = True
            self._waiting += size
        return inserted

    def check(self) -> None:
        """Find out whether there is space for another request's records, without adding any.

        Raises:
            StorageError: As for `append`.
        """
        with self._lock, _translated(self.folder):
            self._check_limit(_LEAST_SPACE)
            with self._opened().database.transaction() as database:
                value = "." * _LEAST_SPACE
                database.add("state", {"key": "check", "value": value, "version": 1, "time": 0})
                database.execute("DELETE FROM state WHERE key = 'check'")

    def _check_limit(self, size: int) -> None:
        # checked before writing: a full disk is everybody's problem, a full spool only ours
        if self._waiting + size > self._limit:
            raise SpoolError.full(self.folder, self._limit)

    def _opened(self) -> SpoolFile:
        """Return the file; a new one when there is none."""
        tries = _TRIES
        while self._file is None:
            make_private(self.folder, folder=True)
            name = f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
            file, tries = SpoolFile(self.folder / name, self._synchronous), tries - 1
            try:
                file.database.connect()
                # nobody writes the log back beside the appending, so each time it has to be short
                file.database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            except StorageError:
                file.database.close()
                if tries <= 0 or file.path.exists():
                    raise
            # until it is open, another process may take it for an orphan and delete it
            if file.path.exists():
                self._file = file
            else:
                file.remove()
        return self._file

    def peek(self, most: int = 512) -> Chunk | None:
        """Return at most `most` records from the front, which stay; None when nothing waits.

        Raises:
            StorageError: The file cannot be read; it is quarantined.
        """
        with self._lock, _translated(self.folder):
            file = self._file
            if file is None or not file.used:
                return None
            try:
                records, last = file.read(file.given_up, most)
            except StorageError:
                self._file, self._waiting = None, 0
                file.quarantine()
                raise
            if records:
                return Chunk(records, file, last)
            # a new one in its place: SQLite gives no space back to the disk
            self._file, self._waiting = None, 0
            with suppress(StorageError):
                self._opened()
        # without the lock, since the disk takes a while to free a large file
        file.remove()
        return None

    def advance(self, chunk: Chunk) -> None:
        """Give up the records of `chunk`, which are in the database now."""
        with self._lock:
            if self._file is chunk.file:
                self._waiting = max(0, self._waiting - _size(chunk.records))
                chunk.file.give_up(chunk.last)

    def close(self) -> None:
        """Let go of the file: an empty one is deleted, another waits to be adopted."""
        with self._lock:
            file, self._file = self._file, None
            if file is None:
                return
            if self._waiting:
                file.database.close()
            else:
                file.remove()


def adopt(folder: Path) -> Iterator[list[Record]]:
    """Give the records in the spool files of dead processes, in chunks.

    A file is deleted when all its records were drawn and the next is asked for; when the reader
    stops or raises before that, the file stays for another try. A file that is damaged within is
    kept beside, as ``*.damaged``, after what could be read of it was given.

    Raises:
        StorageError: A file cannot be read; raised when all others were.
    """
    with _translated(folder):
        yield from _adopt_framed(folder)
        failed: StorageError | None = None
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            try:
                yield from _adopted(path)
            except StorageError as error:
                failed = failed or error
        if failed is not None:
            raise failed


def _adopted(path: Path) -> Iterator[list[Record]]:
    file = SpoolFile(path, alone=True)
    try:
        last = 0
        while True:
            records, last = file.read(last, 512)
            if not records:
                break
            yield records
        file.remove()
    except LockedError:
        pass  # its process lives
    except DamagedError:
        file.quarantine()
    finally:
        file.database.close()


def waiting_bytes(folder: Path) -> int:
    """Return how many bytes of records wait in `folder`, whoever owns the files."""
    total = _framed_bytes(folder)
    for path in folder.glob(f"*{_SUFFIX}"):
        file = SpoolFile(path)
        with suppress(StorageError):
            ((number, features),) = file.database.execute(
                "SELECT count(*), coalesce(sum(length(features)), 0) FROM records"
            )
            total += number * _ROW_BYTES + features
        file.database.close()
    return total


def _size(records: Sequence[Record]) -> int:
    return len(records) * _ROW_BYTES + sum(len(record.features or b"") for record in records)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into `SpoolError`."""
    try:
        yield
    except SpoolError:
        raise
    except StorageError as error:
        raise SpoolError.unusable(folder, error.__cause__ or error) from error
    except OSError as error:
        raise SpoolError.unusable(folder, storage_error(error) or error) from error


# Spool files of earlier releases are read once more, and not written any longer. Records lie in
# them in frames with a length and a checksum, their process holds a lock on them; little-endian:
#
#     file    = b"TASADOR-SPOOL-1\n" frame*
#     frame   = u32 length of payload, u32 CRC-32 of payload, payload
#     payload = record*
#     record  = 6 doubles (time, prediction, lower, upper, coverage, latency_ms),
#               6 times u32 length and bytes (id, version, variant, source, features, client)
#
# A frame was written by one call, so that only the last can be torn.
MAGIC = b"TASADOR-SPOOL-1\n"
_MOST_BYTES = 1 << 28  # of one frame: more is damage, not data
_HEAD = struct.Struct("<II")
_NUMBERS = struct.Struct("<6d6I")
_FRAMED = "*.spool"


def _adopt_framed(folder: Path) -> Iterator[list[Record]]:
    """Give the records in the files of dead processes; see `adopt`.

    Raises:
        OSError: A file cannot be read.
    """
    for path in sorted(folder.glob(_FRAMED)):
        with suppress(FileNotFoundError), path.open("rb") as file:
            if not _locked(file.fileno(), path):
                continue
            tighten(path)
            damaged = yield from _frames(file.read())
            if damaged:
                _log.error("%s is damaged; it is kept as *.damaged", path)
                path.rename(path.with_suffix(".damaged"))
            else:
                path.unlink()


def _framed_bytes(folder: Path) -> int:
    """Return how many bytes of records the files in `folder` hold, whoever owns them."""
    total = 0
    for path in folder.glob(_FRAMED):
        with suppress(OSError):
            total += max(0, path.stat().st_size - len(MAGIC))
    return total


def _frames(data: bytes) -> Generator[list[Record], None, bool]:
    """Give the records of each whole frame; the generator's value tells whether one is damaged."""
    at = len(MAGIC)
    if data[:at] != MAGIC:
        return not MAGIC.startswith(data)
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        start = at + _HEAD.size
        payload = data[start : start + length]
        if length == 0 or len(payload) < length or zlib.crc32(payload) != checksum:
            torn = 0 < length <= _MOST_BYTES and len(payload) < length
            # after a power cut zeros may follow what was written
            return not torn and any(data[at:])
        yield list(_records(payload))
        at = start + length
    return False


def _records(payload: bytes) -> Iterator[Record]:
    at = 0
    while at < len(payload):
        time, *numbers = _NUMBERS.unpack_from(payload, at)
        at += _NUMBERS.size
        texts = []
        for size in numbers[5:]:
            texts.append(payload[at : at + size])
            at += size
        features = texts.pop(4)
        name, version, variant, source, client = (text.decode("utf-8", "replace") for text in texts)
        fields = (name, time, version, variant, source, features, *numbers[:5], client)
        yield Record._make((*fields, math.nan, ""))


def _locked(file: int, path: Path) -> bool:
    """Try to lock an open file; False also when it was deleted before the lock was had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    try:
        # its owner may have deleted it between open and lock
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
