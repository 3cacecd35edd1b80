"""`Record`: one valuation as it was asked and answered. `Outcome`: what it turned out to be.

Both are named tuples, not dataclasses: the serving process makes one per valuation while requests
wait, a frozen dataclass of twelve fields costs four times as much to make, and a tuple is bound to
an INSERT statement as it is.

Prediction ids are UUIDs of version 7 (RFC 9562), made for bursts: the time in milliseconds
(48 bits), a counter (26 bits) that starts at a random place in its lower half at each new
millisecond, and 48 random bits of its own, so that knowing one id does not tell its neighbours. Ids
of a process only ever grow, as texts too: when the clock jumps back, the last time stays in use. A
forked child drops its parent's counter and random bits.
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from tasador.core import clock


class Record(NamedTuple):
    """One valuation. Its fields are the columns of the table `records`, in this order.

    Attributes:
        id: Unique name, see `new_ids`; a second record of the same id is dropped.
        time: When it was answered, seconds since the epoch, UTC.
        version: Name and content hash of the bundle that answered.
        variant: The bundle's part: ``champion``, ``challenger``, ``shadow``...
        source: The source of the cascade that the bundle came from.
        features: The row as it was asked, a JSON object in UTF-8.
        prediction: The estimate, in the target's unit.
        lower: Lower end of the interval; NaN when there is none.
        upper: Upper end of the interval; NaN when there is none.
        coverage: Share of truths that such intervals hold; NaN when there is none.
        latency_ms: Time it took to answer, in milliseconds.
        client: Who asked: a key's name or a request's own; empty when unknown.
    """

    id: str
    time: float
    version: str
    variant: str
    source: str
    features: bytes
    prediction: float
    lower: float
    upper: float
    coverage: float
    latency_ms: float
    client: str = ""


class Outcome(NamedTuple):
    """The real price of what was valued, known later.

    Attributes:
        prediction_id: The record's id.
        actual: The real value, in the target's unit; finite.
        time: When it became known, seconds since the epoch, UTC.
        client: Who reported it; empty when unknown.
    """

    prediction_id: str
    actual: float
    time: float
    client: str = ""


_HIGH_BITS = 12
_LOW, _LOW_END = 0x8000, 0xC000  # 14 bits below the two of the variant
_SUFFIX = 12  # hexadecimal digits, 48 bits
_POOL = 512  # suffixes drawn at once: one system call instead of one an id


class IdMaker:
    """Makes ids that grow; safe to share between threads."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._lock = threading.Lock()
        self._time = 0
        self._high = 0
        self._low = _LOW_END
        self._prefix = ""
        self._pool = ""
        self._at = 0

    def new_ids(self, count: int) -> list[str]:
        """Return `count` ids, each greater than every id returned before."""
        made = []
        with self._lock:
            now = int(clock.seconds() * 1000)
            if now > self._time:
                self._start(now)
            pool, at, low, prefix = self._pool, self._at, self._low, self._prefix
            for _ in range(count):
                if low == _LOW_END:
                    self._count_on()
                    low, prefix = self._low, self._prefix
                if at == len(pool):
                    self._pool = pool = os.urandom(_POOL * _SUFFIX // 2).hex()
                    at = 0
                # hex() takes a fifth of the time of a format specification
                made.append(f"{prefix}{hex(low)[2:]}-{pool[at : at + _SUFFIX]}")
                low += 1
                at += _SUFFIX
            self._low, self._at = low, at
        return made

    def _start(self, milliseconds: int) -> None:
        """Start a new millisecond, later than the last."""
        self._time = milliseconds
        seed = int.from_bytes(os.urandom(4), "big")
        self._high = seed >> (33 - _HIGH_BITS)  # in the lower half
        self._low = _LOW + (seed & (_LOW_END - _LOW - 1))
        self._write_prefix()

    def _count_on(self) -> None:
        """Go on where the low part of the counter has ended."""
        self._high, self._low = self._high + 1, _LOW
        if self._high == 1 << _HIGH_BITS:
            self._start(self._time + 1)
        self._write_prefix()

    def _write_prefix(self) -> None:
        digits = f"{self._time:012x}"
        self._prefix = f"{digits[:8]}-{digits[8:]}-7{self._high:03x}-"


_maker = IdMaker()
os.register_at_fork(after_in_child=_maker._restart)


def new_ids(count: int) -> list[str]:
    """Return `count` new ids, growing, never one that this process or its parent returned."""
    return _maker.new_ids(count)


def new_id() -> str:
    """Return one new id."""
    return _maker.new_ids(1)[0]


def id_time(prediction_id: str) -> float:
    """Return the time within an id, seconds since the epoch to the millisecond.

    Raises:
        ValueError: It is not an id made here.
    """
    digits = prediction_id.replace("-", "")
    if len(digits) != 32 or digits[12] != "7":
        raise ValueError(f"{prediction_id!r} is not a UUID of version 7")
    return int(digits[:12], 16) / 1000
