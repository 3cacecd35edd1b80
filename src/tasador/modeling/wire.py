"""Protocol buffers' wire format, as far as reading a model file needs it; nothing is trusted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: Bytes of the longest number read here: positions and small integers fit in 35 bits.
_LONGEST = 5
#: Runs of one repeated field; each is looked for in all that follows, which a file may not abuse.
_MOST_RUNS = 16

Field = tuple[int, "int | memoryview"]


def fields(message: memoryview) -> Iterator[Field]:
    """Yield (number, value) of each field of `message`: an int, or the bytes of anything longer.

    Raises:
        ValueError: The message breaks off, or holds what protocol buffers do not.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        if at + size > len(message):
            raise ValueError("the message breaks off")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number breaks off")


def repeated_ints(
    message: memoryview, number: int, *, once: int | None = None
) -> NDArray[np.int64]:
    """Return all values of the repeated integer field `number` (below 16), packed or not.

    With `once`, that field may stand in the message one time, and no other may.

    A field of 100 000 values is one tag and one value a hundred thousand times: they are taken
    apart together.

    Raises:
        ValueError: As for `fields`, or a value does not fit in 35 bits, or there is another field.
    """
    others = 0
    single, packed = number << 3 | _VARINT, number << 3 | _BYTES
    parts: list[NDArray[np.int64]] = []
    at = 0
    while at < len(message):
        if len(parts) > _MOST_RUNS:
            raise ValueError("the values are scattered over the message")
        if message[at] == single:
            values, length = _run(message[at:], single)
            parts.append(values)
            at += length
            continue
        tag, body = _varint(message, at)
        if once is not None and tag != packed:
            others += 1
            if tag >> 3 != once or others > 1:
                raise ValueError(f"an unexpected field {tag >> 3}")
        for found, value in fields(message[at : _end(message, tag, body)]):
            if found == number and tag == packed and isinstance(value, memoryview):
                parts.append(_numbers(np.frombuffer(value, np.uint8))[0])
        at = _end(message, tag, body)
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _end(message: memoryview, tag: int, at: int) -> int:
    """Return where the field with `tag`, whose body starts at `at`, ends."""
    kind = tag & 7
    value, after = _varint(message, at) if kind in (_VARINT, _BYTES) else (0, at)
    if kind == _BYTES:
        return after + value
    return after + {_VARINT: 0, _FIXED32: 4, _FIXED64: 8}.get(kind, len(message))


def _run(message: memoryview, tag: int) -> tuple[NDArray[np.int64], int]:
    """Return the values of a run of fields with `tag` at the start of `message`, and its length."""
    values, ends = _numbers(np.frombuffer(message, np.uint8), stop=tag)
    return values[1::2], int(ends[len(values) - 1]) if len(values) else 0


def _numbers(
    data: NDArray[np.uint8], stop: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers in `data` and where each ends.

    With `stop`, numbers are pairs of a tag and a value, up to the first tag that is another.
    """
    ends = np.flatnonzero(data < 0x80) + 1
    if stop is None and (not len(ends) or ends[-1] != len(data)) and len(data):
        raise ValueError("a number breaks off")
    starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    if stop is not None:
        size = ends - starts
        other = (data[starts[::2]] != stop) | (size[::2] != 1)
        pairs = int(other.argmax()) if other.any() else len(other)
        if 2 * pairs > len(ends):
            raise ValueError("a number breaks off")
        starts, ends = starts[: 2 * pairs], ends[: 2 * pairs]
    size = ends - starts
    if len(size) and size.max() > _LONGEST:
        raise ValueError("a number is out of range")
    values = np.zeros(len(starts), dtype=np.int64)
    for k in range(_LONGEST):
        has = size > k
        values[has] |= (data[starts[has] + k].astype(np.int64) & 0x7F) << (7 * k)
    return values, ends
