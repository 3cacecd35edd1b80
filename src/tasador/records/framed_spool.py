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
from typing import Literal

from tasador.core.storage import tighten
from tasador.records.record import Record

MAGIC = b"TASADOR-SPOOL-1\n"
MOST_BYTES = 1 << 28  # of one frame: more is damage, not data
_HEAD = struct.Struct("<II")
_NUMBERS = struct.Struct("<6d6I")
_PATTERN = "*.spool"
_log = logging.getLogger(__name__)

FrameState = Literal["whole", "end", "torn", "damaged"]


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


def adopt_framed(folder: Path) -> Iterator[list[Record]]:
    """Give the records in the files of dead processes; see `tasador.records.spool.adopt`.

    Raises:
        OSError: A file cannot be read.
    """
    for path in sorted(folder.glob(_PATTERN)):
        try:
            file = path.open("rb")
        except OSError:
            continue
        with file:
            if not _locked(file.fileno(), path):
                continue
            tighten(path)
            damaged = yield from _all_records(file.read(), path)
            if damaged:
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
