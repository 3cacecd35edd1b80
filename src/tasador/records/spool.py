r"""The spool: where records wait on the local disk while the database is unreachable.

Each process appends to files of its own and holds a lock on them as long as it lives. A file that
nobody locks belongs to a process that died: whoever finds it adopts it. Records keep their ids, so
bringing them into the database twice changes nothing, and no position needs to be remembered.

How records lie in a spool file: frames with a length and a checksum.

::

    file    = b"TASADOR-SPOOL-1\n" frame*
    frame   = u32 length of payload, u32 CRC-32 of payload, payload
    payload = record*
    record  = 6 doubles (time, prediction, lower, upper, coverage, latency_ms),
              6 times u32 length and bytes (id, version, variant, source, features, client)

All numbers are little-endian. A frame is written by one call, so that only the last can be torn.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import struct
import threading
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasador.core.errors import StorageError
from tasador.core.storage import make_private, storage_error, tighten
from tasador.records.record import Record
from tasador.settings.records import Synchronous

MAGIC = b"TASADOR-SPOOL-1\n"
MOST_BYTES = 1 << 28  # of one frame: more is damage, not data
_HEAD = struct.Struct("<II")
_NUMBERS = struct.Struct("<6d6I")

FrameState = Literal["whole", "end", "torn", "damaged"]


def encode_frame(records: Sequence[Record]) -> bytes:
    """Return records as one frame; texts that are no valid Unicode lose what is invalid."""
    parts: list[bytes] = []
    for record in records:
        texts = (
            record.id.encode("utf-8", "replace"),
            record.version.encode("utf-8", "replace"),
            record.variant.encode("utf-8", "replace"),
            record.source.encode("utf-8", "replace"),
            record.features,
            record.client.encode("utf-8", "replace"),
        )
        parts.append(
            _NUMBERS.pack(
                record.time,
                record.prediction,
                record.lower,
                record.upper,
                record.coverage,
                record.latency_ms,
                *map(len, texts),
            )
        )
        parts.extend(texts)
    payload = b"".join(parts)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def decode_frame(data: bytes, at: int) -> tuple[FrameState, list[Record], int]:
    """Read the frame at `at`.

    Returns:
        ``whole``, its records and where the next begins; ``end`` when nothing follows; ``torn``
        when the file ends within the frame or only zeros follow, as after a crash; ``damaged`` when
        its bytes are there and wrong. Without a whole frame there are no records.
    """
    if at == len(data):
        return "end", [], at
    if at + _HEAD.size > len(data):
        return "torn", [], at
    length, checksum = _HEAD.unpack_from(data, at)
    start = at + _HEAD.size
    if length == 0:
        return ("torn" if not any(data[at:]) else "damaged"), [], at
    if length > MOST_BYTES:
        return "damaged", [], at
    payload = data[start : start + length]
    if len(payload) < length:
        return "torn", [], at
    if zlib.crc32(payload) != checksum:
        return "damaged", [], at
    return "whole", _records(payload), start + length


def _records(payload: bytes) -> list[Record]:
    records = []
    at = 0
    while at < len(payload):
        time, prediction, lower, upper, coverage, latency, *sizes = _NUMBERS.unpack_from(
            payload, at
        )
        at += _NUMBERS.size
        texts = []
        for size in sizes:
            texts.append(payload[at : at + size])
            at += size
        name, version, variant, source, client = (
            text.decode("utf-8", "replace") for text in (*texts[:4], texts[5])
        )
        records.append(
            Record(
                name, time, version, variant, source, texts[4], prediction, lower, upper, coverage,
                latency, client,
            )
        )  # fmt: skip
    return records


SEGMENT_BYTES = 8 << 20
_SUFFIX = ".spool"
#: Bytes below which a spool counts as full: a few records.
_LEAST_SPACE = 4096
_Frame = bytes
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Segment:
    """One locked file.

    Attributes:
        file: Its descriptor, which holds the lock.
        path: Where it lies.
        size: Bytes of whole frames, header included.
    """

    file: int
    path: Path
    size: int

    def content(self) -> bytes:
        """Return the bytes of the whole frames."""
        parts, at = [], 0
        while at < self.size:
            part = os.pread(self.file, self.size - at, at)
            if not part:
                break
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def remove(self) -> None:
        """Delete the file, then let go of the lock: nobody can adopt what is no longer there."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        os.close(self.file)


class Spool:
    """A process's own spool.

    Args:
        folder: Where the files lie; made when missing. Processes may share it.
        synchronous: ``full`` flushes the disk after each frame.
        limit: Most bytes of all files of this process.
    """

    def __init__(self, folder: Path, synchronous: Synchronous, limit: int) -> None:
        self.folder = folder
        self._flush = synchronous == "full"
        self._limit = limit
        self._segments: deque[_Segment] = deque()
        self._read = len(MAGIC)  # position in the first segment
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes of the records that wait; never blocks."""
        return self._waiting

    def prepare(self) -> None:
        """Make the folder and the first file now, while things are well.

        Raises:
            StorageError: The folder cannot be written.
        """
        with self._lock, _disk_errors(self.folder):
            if not self._segments:
                self._segments.append(_new_segment(self.folder))

    def append(self, records: Sequence[Record]) -> None:
        """Add records; when this returns they survive the death of the process.

        Raises:
            StorageError: The spool or the disk is full, or the disk refuses. Nothing was added.
        """
        frame = encode_frame(records)
        with self._lock, _disk_errors(self.folder):
            self._write(frame).size += len(frame)
            self._waiting += len(frame)

    def check(self) -> None:
        """Find out whether there is space for another request's records, without adding any.

        Raises:
            StorageError: As for `append`.
        """
        with self._lock, _disk_errors(self.folder):
            segment = self._write(bytes(_LEAST_SPACE))
            os.ftruncate(segment.file, segment.size)

    def _write(self, frame: _Frame) -> _Segment:
        """Write a frame behind the last one; it counts once the segment's size says so."""
        held = sum(segment.size for segment in self._segments)
        # checked before writing: a full disk is everybody's problem, a full spool only ours
        if held + len(frame) > self._limit:
            raise StorageError(
                f"the spool in {self.folder} is full",
                expected=f"at most {self._limit:,} bytes",
                remedy="bring the database back, or raise spool_bytes",
            )
        if not self._segments or self._segments[-1].size > SEGMENT_BYTES:
            self._segments.append(_new_segment(self.folder))
        segment = self._segments[-1]
        try:
            _write_all(segment.file, frame, segment.size)
            if self._flush:
                # the size is part of it; times of the file are not needed to read it back
                os.fdatasync(segment.file)
        except OSError:
            with suppress(OSError):  # what was written of the frame is torn, and skipped
                os.ftruncate(segment.file, segment.size)
            raise
        return segment

    def peek(self, most: int = 512) -> Chunk | None:
        """Return about `most` records from the front, which stay; None when nothing waits.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._lock, _disk_errors(self.folder):
            while self._segments:
                segment = self._segments[0]
                records, at = _some_records(segment, self._read, most)
                if records:
                    return Chunk(records, segment, at)
                if not self._drop_front():
                    return None
            return None

    def advance(self, chunk: Chunk) -> None:
        """Give up the records of `chunk`, which are in the database now."""
        with self._lock:
            if self._segments and self._segments[0] is chunk.segment:
                self._waiting -= chunk.end - self._read
                self._read = chunk.end
                if self._read >= chunk.segment.size:
                    self._drop_front()

    def _drop_front(self) -> bool:
        """Drop the first segment, which is read; return whether there is another."""
        first = self._segments[0]
        self._read = len(MAGIC)
        if len(self._segments) > 1:
            self._segments.popleft().remove()
            return True
        first.size = len(MAGIC)
        with suppress(OSError):
            os.ftruncate(first.file, first.size)
        return False

    def quarantine(self) -> None:
        """Quarantine the first file, which cannot be read back, as ``*.damaged``."""
        with self._lock:
            if self._segments:
                segment = self._segments.popleft()
                self._waiting -= segment.size - self._read
                self._read = len(MAGIC)
                with suppress(OSError):
                    segment.path.rename(segment.path.with_suffix(".damaged"))
                os.close(segment.file)

    def close(self) -> None:
        """Let go of the files: empty ones are deleted, others wait to be adopted."""
        with self._lock:
            waiting = self._waiting
            while self._segments:
                segment = self._segments.popleft()
                if waiting:
                    os.close(segment.file)
                else:
                    segment.remove()


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some records at the front of a spool.

    Attributes:
        records: The records, oldest first.
        segment: The file they are in.
        end: Where the next begin.
    """

    records: list[Record]
    segment: _Segment
    end: int


def adopt(folder: Path) -> Iterator[list[Record]]:
    """Give the records in the spool files of dead processes, in chunks.

    A file is deleted when all its records were drawn and the next is asked for; when the reader
    stops or raises before that, the file stays for another try. A file that is damaged within is
    kept beside, as ``*.damaged``, after what could be read of it was given.

    Raises:
        StorageError: A file cannot be read.
    """
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        segment = _adopted(path)
        if segment is None:
            continue
        try:
            with _disk_errors(folder):
                data = segment.content()
            damaged = yield from _all_records(data, path)
        except BaseException:
            os.close(segment.file)
            raise
        if damaged:
            path.rename(path.with_suffix(".damaged"))
            os.close(segment.file)
        else:
            segment.remove()


def waiting_bytes(folder: Path) -> int:
    """Return how many bytes all spool files in `folder` hold, whoever owns them."""
    total = 0
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(OSError):
            total += max(0, path.stat().st_size - len(MAGIC))
    return total


def _all_records(data: bytes, path: Path) -> Generator[list[Record], None, bool]:
    """Give the records of a file's bytes; the generator's value tells whether it is damaged."""
    at = len(MAGIC)
    if data[:at] != MAGIC:
        if data and not MAGIC.startswith(data):
            _log.error("%s is no spool file; it is kept as *.damaged", path)
            return True
        return False
    gathered: list[Record] = []
    while True:
        state, records, at = decode_frame(data, at)
        gathered += records
        if gathered and (state != "whole" or len(gathered) >= 512):
            yield gathered
            gathered = []
        if state == "damaged":
            _log.error("%s is damaged at byte %d; it is kept as *.damaged", path, at)
            return True
        if state == "torn":
            _log.warning("the last frame of %s is torn: it was never acknowledged", path)
        if state != "whole":
            return False


def _some_records(segment: _Segment, at: int, most: int) -> tuple[list[Record], int]:
    """Return about `most` records from position `at` of an own segment, and where it stopped."""
    gathered: list[Record] = []
    window = 1 << 20
    while at < segment.size and len(gathered) < most:
        data = os.pread(segment.file, min(window, segment.size - at), at)
        state, records, end = decode_frame(data, 0)
        if state == "torn" and len(data) < segment.size - at:
            window *= 4  # a frame larger than what was read
            continue
        if state != "whole":
            raise StorageError(f"the spool file {segment.path} cannot be read back at byte {at}")
        while state == "whole":
            gathered += records
            used = end
            if len(gathered) >= most:
                break
            state, records, end = decode_frame(data, end)
        at += used
    return gathered, at


def _new_segment(folder: Path) -> _Segment:
    make_private(folder, folder=True)
    while True:
        path = folder / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # between its creation and its lock another process may look for orphans
        if not _locked(file, path):  # somebody took it for an orphan already
            os.close(file)
            continue
        try:
            _write_all(file, MAGIC, 0)
        except OSError:
            _Segment(file, path, 0).remove()
            raise
        return _Segment(file, path, len(MAGIC))


def _adopted(path: Path) -> _Segment | None:
    """Lock a file of another process; None when that lives, or the file is gone."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    if not _locked(file, path):
        os.close(file)
        return None
    tighten(path)
    return _Segment(file, path, os.fstat(file).st_size)


def _locked(file: int, path: Path) -> bool:
    """Try to lock an open file; False also when it was deleted before the lock was had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    try:
        # its owner may have deleted it between open and lock: records would go into no file
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write_all(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into `StorageError`."""
    try:
        yield
    except OSError as error:
        known = storage_error(error)
        raise StorageError(
            f"the spool in {folder} cannot be used: {known or error}",
            remedy="check the disk, or set another spool folder",
        ) from error
