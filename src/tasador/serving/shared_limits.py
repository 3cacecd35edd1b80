"""`SharedBuckets`: token buckets that the workers of one service share, in a file in memory.

A table of fixed size: each client belongs to one row of a few places, found by a hash of its name.
The place not used for longest is taken for a new client, so the file never grows. A lock on the
row's bytes, which the system gives back when its holder is killed, keeps two workers apart.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import struct
from pathlib import Path

_PLACE = struct.Struct("<Qdd")  # hash of the client, tokens, when by the machine's own clock
_PLACES = 8
_ROW = _PLACE.size * _PLACES
_ROWS = 4096


class SharedBuckets:
    """Buckets by client, shared by all processes that open the same file.

    Args:
        path: The file; made when missing.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, _ROW * _ROWS)
        self._map = mmap.mmap(self._file, _ROW * _ROWS)

    def take(self, client: str, now: float, per_s: float, burst: int) -> float:
        """Take one request from a client's share; returns the tokens that were there before."""
        digest = hashlib.blake2b(client.encode("utf-8", "replace"), digest_size=8).digest()
        key = int.from_bytes(digest, "little") | 1  # 0 marks an empty place
        start = (key >> 1) % _ROWS * _ROW
        fcntl.lockf(self._file, fcntl.LOCK_EX, _ROW, start)
        try:
            places = [
                _PLACE.unpack_from(self._map, start + i * _PLACE.size) for i in range(_PLACES)
            ]
            found = [i for i, place in enumerate(places) if place[0] == key]
            at = found[0] if found else min(range(_PLACES), key=lambda i: places[i][2])
            _, tokens, last = places[at] if found else (key, float(burst), now)
            if not (0.0 <= tokens <= burst and last <= now):  # torn by a kill, or of another boot
                tokens, last = float(burst), now
            tokens = min(float(burst), tokens + (now - last) * per_s)
            left = tokens - 1.0 if tokens >= 1.0 else tokens
            _PLACE.pack_into(self._map, start + at * _PLACE.size, key, left, now)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _ROW, start)
        return tokens if math.isfinite(tokens) else 0.0
