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
        keep_predictions_days: Age at which predictions and their outcomes are deleted; null keeps
            them, since models are retrained on them.
        keep_verdicts_days: Age at which a watcher's verdicts are deleted; the newest one stays.
        keep_alerts_days: How long alerts are kept after they are over.
        keep_refused_days: Age at which refused rows, and their numbers by field and cause, are
            deleted.
        keep_leftovers_days: Age at which damaged spool files, set aside, are deleted.
        keep_logs_days: Age at which log files of `tasador up` that nobody writes are deleted.
        refused_per_day: Most refused rows of a day that are kept with their values; 0 keeps none.
            Their numbers by field and cause are kept in any case.
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
    keep_predictions_days: float | None = None
    keep_verdicts_days: float | None = 30.0
    keep_alerts_days: float | None = 90.0
    keep_refused_days: float | None = 30.0
    keep_leftovers_days: float | None = 90.0
    keep_logs_days: float | None = 30.0
    refused_per_day: int = 1000

    def spool_folder(self) -> Path:
        """Return where the spool files lie."""
        from tasador.records.location import parse_url

        if self.spool is not None:
            return Path(self.spool)
        location = parse_url(self.url)
        if location.path is not None:
            return location.path.with_name(location.path.name + ".spool")
        return Path("workspace") / "spool"

    def log_folder(self) -> Path:
        """Return where `tasador up` writes what its processes print."""
        from tasador.records.location import parse_url

        path = parse_url(self.url).path
        return (Path("workspace") if path is None else path.parent) / "logs"
