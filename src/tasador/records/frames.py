r"""How records lie in a spool file: frames with a length and a checksum.

::

    file    = b"TASADOR-SPOOL-1\n" frame*
    frame   = u32 length of payload, u32 CRC-32 of payload, payload
    payload = record*
    record  = 6 doubles (time, prediction, lower, upper, coverage, latency_ms),
              6 times u32 length and bytes (id, version, variant, source, features, client)

All numbers are little-endian. A frame is written by one call, so that only the last can be torn.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Literal

from tasador.records.record import Record

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
