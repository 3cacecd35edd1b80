"""Prediction ids: UUIDs of version 7 (RFC 9562), made for bursts.

An id is the time in milliseconds (48 bits), a counter (26 bits) that starts at a random place in
its lower half at each new millisecond, and 48 random bits of its own, so that knowing one id does
not tell its neighbours. Ids of a process only ever grow, as texts too: when the clock jumps back,
the last time stays in use. A forked child drops its parent's counter and random bits.
"""

from __future__ import annotations

import os
import threading

from tasador.core import clock

_COUNTER_BITS = 26
_COUNTER_END = 1 << _COUNTER_BITS
_SUFFIX = 12  # hexadecimal digits, 48 bits
_POOL = 512  # suffixes drawn at once: one system call instead of one an id


class IdMaker:
    """Makes ids that grow; safe to share between threads."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._lock = threading.Lock()
        self._time = 0
        self._counter = 0
        self._prefix = ""
        self._pool = ""
        self._at = 0

    def new_ids(self, count: int) -> list[str]:
        """Return `count` ids, each greater than every id returned before."""
        made = []
        with self._lock:
            self._advance(int(clock.seconds() * 1000))
            for _ in range(count):
                if self._counter == _COUNTER_END:
                    self._advance(self._time + 1)
                if self._at == len(self._pool):
                    self._pool, self._at = os.urandom(_POOL * _SUFFIX // 2).hex(), 0
                counter, at = self._counter, self._at
                self._counter, self._at = counter + 1, at + _SUFFIX
                made.append(
                    f"{self._prefix}{counter >> 14:03x}-{0x8000 | counter & 0x3FFF:04x}-"
                    f"{self._pool[at : at + _SUFFIX]}"
                )
        return made

    def _advance(self, milliseconds: int) -> None:
        """Start a new millisecond; an earlier one, or the same, changes nothing."""
        if milliseconds <= self._time:
            return
        self._time = milliseconds
        self._counter = int.from_bytes(os.urandom(4), "big") >> (33 - _COUNTER_BITS)
        digits = f"{milliseconds:012x}"
        self._prefix = f"{digits[:8]}-{digits[8:]}-7"


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
