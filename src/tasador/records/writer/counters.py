"""What a writer counts, for metrics."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class WriterStatus:
    """What a writer did since it started, and how it is.

    Attributes:
        state: ``ok`` (straight into the database) or ``spooling`` (the database is away).
        written: Records committed to the database straight from the queue.
        spooled: Records that went to the spool instead.
        replayed: Records brought from a spool into the database, those of dead processes included.
        lost: Records dropped: the queue was full, or neither database nor spool took them.
        refused: Records that the database would not take even alone.
        queued: Records that wait in memory now.
        spool_bytes: Bytes in this process's spool now.
        last_error: What went wrong last; empty when nothing did.
        full: Whether neither the database nor the spool takes records now.
    """

    state: Literal["ok", "spooling"]
    written: int
    spooled: int
    replayed: int
    lost: int
    refused: int
    queued: int
    spool_bytes: int
    last_error: str
    full: bool = False


class Counters:
    """Counts that threads share. Each `count` adds to several of them at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.entered = 0
        self.done = 0
        self.written = 0
        self.spooled = 0
        self.replayed = 0
        self.lost = 0
        self.refused = 0
        self.last_error = ""

    def enter(self, size: int, most: int) -> bool:
        """Count `size` records in when no more than `most` wait then, and as lost otherwise."""
        with self._lock:
            fits = self.entered - self.done + size <= most
            if fits:
                self.entered += size
            else:
                self.lost += size
        return fits

    def count(
        self,
        *,
        done: int = 0,
        written: int = 0,
        spooled: int = 0,
        replayed: int = 0,
        lost: int = 0,
        refused: int = 0,
    ) -> None:
        """Add to the counts."""
        with self._lock:
            self.written += written
            self.spooled += spooled
            self.replayed += replayed
            self.lost += lost
            self.refused += refused
            self.done += done

    @property
    def waiting(self) -> int:
        """Records that entered and are not done."""
        return self.entered - self.done

    def note(self, error: Exception | str) -> None:
        """Remember what went wrong."""
        self.last_error = str(error)
