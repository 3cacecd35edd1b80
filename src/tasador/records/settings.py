"""`RecordSettings`: where valuations are written, how safely, and what happens in an outage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mode = Literal["durable", "async", "off"]
Synchronous = Literal["normal", "full"]

DEFAULT_URL = "sqlite:///workspace/tasador.db"


@dataclass(frozen=True)
class RecordSettings:
    """How valuations are recorded.

    Attributes:
        url: ``sqlite:///path`` or ``postgresql://user:password@host:port/name``.
        mode: ``durable`` answers after the commit, ``async`` before it with a bounded queue,
            ``off`` writes nothing.
        synchronous: SQLite and the spool only: ``normal`` survives the death of the process,
            ``full`` also a power cut, at the price of a disk flush a group.
        queue: Most records that wait in memory. In ``async`` mode what comes above is lost and
            counted; in ``durable`` mode it is refused.
        group: Most records committed at once.
        spool: Folder of the spool files; None puts it beside an SQLite database, or under
            ``workspace/spool``.
        spool_bytes: Most bytes of a process's spool.
        bound_s: Longest time a valuation waits for the database before the spool takes over.
        retry_s: How often the database is tried again while it is away.
        refused_per_day: Most refused rows of a day that are kept with their values; 0 keeps none.
            Their numbers by field and cause are kept in any case.
        refused_days: Days after which refused rows and their numbers are deleted.
    """

    url: str = DEFAULT_URL
    mode: Mode = "durable"
    synchronous: Synchronous = "normal"
    queue: int = 20_000
    group: int = 512
    spool: str | None = None
    spool_bytes: int = 1 << 30
    bound_s: float = 0.25
    retry_s: float = 0.5
    refused_per_day: int = 1000
    refused_days: int = 30

    def spool_folder(self) -> Path:
        """Return where the spool files lie."""
        from tasador.records.location import parse_url

        if self.spool is not None:
            return Path(self.spool)
        location = parse_url(self.url)
        if location.path is not None:
            return location.path.with_name(location.path.name + ".spool")
        return Path("workspace") / "spool"
