r"""Spool files of earlier releases, which are read once more and not written any longer.

Records lie in them in frames with a length and a checksum; their process holds a lock on them.

::

    file    = b"TASADOR-SPOOL-1\n" frame*
    frame   = u32 length of payload, u32 CRC-32 of payload, payload
    payload = record*
    record  = 6 doubles (time, prediction, lower, upper, coverage, latency_ms),
              6 times u32 length and bytes (id, version, variant, source, features, client)

All numbers are little-endian. A frame was written by one call, so that only the last can be torn.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

from tasador.core.storage import tighten
from tasador.records.record import Record

MAGIC = b"TASADOR-SPOOL-1\n"
_MOST_BYTES = 1 << 28  # of one frame: more is damage, not data
_HEAD = struct.Struct("<II")
_NUMBERS = struct.Struct("<6d6I")
_PATTERN = "*.spool"
_log = logging.getLogger(__name__)


def adopt_framed(folder: Path) -> Iterator[list[Record]]:
    """Give the records in the files of dead processes; see `tasador.records.spool.adopt`.

    Raises:
        OSError: A file cannot be read.
    """
    for path in sorted(folder.glob(_PATTERN)):
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


def framed_bytes(folder: Path) -> int:
    """Return how many bytes of records the files in `folder` hold, whoever owns them."""
    total = 0
    for path in folder.glob(_PATTERN):
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
        yield Record._make((name, time, version, variant, source, features, *numbers[:5], client))


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
