"""What is done now and then beside the writing of records: deleting old ones, replaying spools.

`Retention` knows what grows beside the recorded valuations, and for how long each of it is kept. A
new table is one more entry in `TABLES`; its rows need a column `time`, seconds since the epoch. The
audit trail is kept: it is the evidence of who changed what. `MaintenanceThread` does all in turn.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasador.contract.target_check import TargetBounds
from tasador.core import clock
from tasador.core.errors import StorageError
from tasador.records.batches import Counters, insert_records
from tasador.records.database import Database
from tasador.records.refused import RefusedBuffer
from tasador.records.shared_state import Leases, keep_target
from tasador.records.spool import adopt
from tasador.records.store import RecordStore
from tasador.settings.serving import RecordSettings

_log = logging.getLogger(__name__)
_DAY_S = 86_400.0
#: One process prunes in this time, however many share a database.
EVERY_S = 3600.0
_CHUNK = 500
_LOG_BYTES = 64 << 20
_LOG_KEPT = 8 << 20
_LOG_NAMES = ("api.log", "mlflow.log", "ui.log", "watcher.log")
_LEFT_OVER = ("*.damaged", "*.damaged-*")
# a commit takes over the checkpoint when the log grows: this keeps it small
_MAINTAIN_S = 0.5
# listing a folder is cheap, and rows of a dead process are missing until then
_LOOK_S = 2.0
# far more often than a lease of an hour needs: a process that dies is replaced soon
_PRUNE_S = 600.0


@dataclass(frozen=True)
class Table:
    """A table whose old rows are deleted.

    Attributes:
        name: Its name.
        what: What its rows are, for people.
        setting: Of `RecordSettings`: for how many days they are kept; None for ever.
        unless: SQL condition of the rows that stay whatever their age.
    """

    name: str
    what: str
    setting: str
    unless: str = ""

    @property
    def where(self) -> str:
        """SQL condition of the rows to delete, with one parameter: the oldest time that stays."""
        return "time < ?" + (f" AND NOT ({self.unless})" if self.unless else "")


TABLES = (
    Table(
        "verdicts", "verdicts", "keep_verdicts_days",
        unless="id IN (SELECT max(id) FROM verdicts GROUP BY model)",
    ),
    Table("outcome_conflicts", "contradicting outcomes", "keep_predictions_days"),
    Table("review_rows", "rows of reviews", "keep_predictions_days"),
    Table("overrides", "overrides", "keep_predictions_days"),
    Table("refused_rows", "refused rows", "keep_refused_days"),
    Table("refused", "counts of refused rows", "keep_refused_days"),
)  # fmt: skip


@dataclass(frozen=True)
class Expired:
    """How much of one kind is past its retention.

    Attributes:
        what: The kind, for people.
        number: How many rows or files.
        before: Time up to which they are old; None where all are kept.
    """

    what: str
    number: int
    before: float | None


class Retention:
    """Counts and deletes what is older than it is kept.

    Args:
        database: The records' database.
        settings: For how long each kind is kept.
        older_than: One age in seconds for all kinds, in place of the settings.
    """

    def __init__(
        self, database: Database, settings: RecordSettings, older_than: float | None = None
    ) -> None:
        self._database = database
        self._settings = settings
        self._older_than = older_than
        self._now = clock.seconds()

    def count(self) -> list[Expired]:
        """Return how much of each kind is old, the predictions first."""
        return self._each(delete=False)

    def delete(self) -> list[Expired]:
        """Delete what is old, a chunk in each transaction, and return how much it was."""
        return self._each(delete=True)

    def _each(self, *, delete: bool) -> list[Expired]:
        found = [self._predictions(delete)]
        for table in TABLES:
            before = self._before(table.setting)
            number = 0 if before is None else self._rows(table, before, delete)
            found.append(Expired(table.what, number, before))
        found.append(self._alerts(delete))
        for what, setting, old in (
            ("damaged spool files", "keep_leftovers_days", self._left_over),
            ("log files", "keep_logs_days", self._logs),
        ):
            before = self._before(setting)
            files = [] if before is None else [*old(before)]
            for file in files if delete else []:
                with suppress(FileNotFoundError):
                    file.unlink()
            found.append(Expired(what, len(files), before))
        if delete:
            self._shorten_logs()
        return found

    def _before(self, setting: str) -> float | None:
        """Return the time up to which things are old; None to keep them all."""
        if self._older_than is not None:
            return self._now - self._older_than
        days: float | None = getattr(self._settings, setting)
        return None if days is None else self._now - days * _DAY_S

    def _predictions(self, delete: bool) -> Expired:
        before = self._before("keep_predictions_days")
        store, number = RecordStore(self._database), 0
        if before is not None and delete:
            for number in store.prune(before):  # noqa: B007 - the last one counts
                pass
        elif before is not None:
            number = store.count(0.0, before)
        return Expired("records", number, before)

    def _rows(self, table: Table, before: float, delete: bool) -> int:
        if not delete:
            sql = f"SELECT count(*) FROM {table.name} WHERE {table.where}"  # noqa: S608
            return int(self._database.execute(sql, (before,))[0][0])
        number = 0
        while True:
            some = self._database.execute(
                f"SELECT time FROM {table.name} WHERE {table.where} "  # noqa: S608
                # deletes up to a time in place of counted rows: SQLite is built without DELETE ...
                # LIMIT
                f"ORDER BY time LIMIT 1 OFFSET {_CHUNK}",
                (before,),
            )
            until = some[0][0] if some else before
            sql = f"DELETE FROM {table.name} WHERE {table.where}"  # noqa: S608
            deleted = self._database.change(sql, (until,))
            number += deleted
            if not some or not deleted:  # a chunk of one and the same time: all at once
                break
        if some:
            number += self._database.change(sql, (before,))
        return number

    def _alerts(self, delete: bool) -> Expired:
        """Alerts that have long been over, with nothing to send and no silence under way."""
        before = self._before("keep_alerts_days")
        number = 0
        if before is not None:
            rows = self._database.execute(
                "SELECT key, version, body FROM alerts WHERE state = 'ok' AND since < ?", (before,)
            )
            for key, version, text in rows:
                body = json.loads(text)
                # what is still to be sent, or silenced, is not over
                if body.get("outbox") or body.get("silent_until", 0.0) > self._now:
                    continue
                number += 1 if not delete else self._database.change(
                    "DELETE FROM alerts WHERE key = ? AND version = ?", (key, version)
                )  # fmt: skip
        return Expired("alerts that are over", number, before)

    def _left_over(self, before: float) -> Iterator[Path]:
        for pattern in _LEFT_OVER:
            yield from _older(self._settings.spool_folder().glob(pattern), before)

    def _logs(self, before: float) -> Iterator[Path]:
        folder = self._settings.log_folder()
        yield from _older((folder / name for name in _LOG_NAMES), before)

    def _shorten_logs(self) -> None:
        """Leave the last lines of logs that grew beyond all use; their writers append."""
        for name in _LOG_NAMES:
            path = self._settings.log_folder() / name
            with suppress(OSError):
                if path.stat().st_size <= _LOG_BYTES:
                    continue
                with path.open("r+b") as file:
                    # shortened in place: a process that has the file open goes on writing to it
                    file.seek(-_LOG_KEPT, os.SEEK_END)
                    end = file.read().partition(b"\n")[2]
                    file.seek(0)
                    file.truncate()
                    file.write(end)


def _older(paths: Iterator[Path], before: float) -> Iterator[Path]:
    for path in paths:
        with suppress(OSError):
            if path.stat().st_mtime < before:
                yield path


def prune_in_turn(database: Database, settings: RecordSettings) -> None:
    """Prune by the settings, unless a process did within the last hour.

    Raises:
        StorageError: The database is unreachable.
    """
    me = f"{socket.gethostname()}-{os.getpid()}"
    if Leases(database).acquire("prune", me, EVERY_S) is None:
        return
    deleted = {old.what: old.number for old in Retention(database, settings).delete() if old.number}
    if deleted:
        shown = ", ".join(f"{number:,} {what}" for what, number in deleted.items())
        _log.info("deleted what was older than it is kept: %s", shown)


def replay_orphans(folder: Path, database: Database, stop: Callable[[], bool] | None = None) -> int:
    """Replay the records of all orphaned spool files in `folder` into the database.

    Args:
        folder: The spool folder.
        database: Where they belong.
        stop: Asked between chunks; what is not replayed then stays where it is.

    Returns:
        How many records were replayed.

    Raises:
        OutageError: The database is unreachable; the file stays for another try.
        StorageError: A file cannot be read.
    """
    total = 0
    for records in adopt(folder):
        total += insert_records(database, records).written
        if stop is not None and stop():
            break
    return total


class MaintenanceThread:
    """A thread that maintains the database, looks for orphaned spool files, records refused rows.

    Args:
        folder: The spool folder.
        settings: For how long things are kept.
        database: A connection of its own; closed at the end.
        counters: Counts what happened.
        allowed: Whether the database is thought to be there.
        refused: Refused rows that wait for the database.
    """

    def __init__(
        self,
        folder: Path,
        settings: RecordSettings,
        database: Database,
        counters: Counters,
        allowed: Callable[[], bool],
        refused: RefusedBuffer,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._database = database
        self._counters = counters
        self._allowed = allowed
        self._refused = refused
        self._targets: dict[str, TargetBounds] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="tasador-records-maintenance", daemon=True
        )

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def keep_target(self, model: str, bounds: TargetBounds) -> None:
        """Keep what a model's target may be, once the database is there."""
        self._targets[model] = bounds

    def close(self) -> None:
        """Stop after the chunk at hand."""
        self._closing.set()
        # a statement that hangs is interrupted: stopping must not take longer than the drain
        self._thread.join(0.5)
        if self._thread.is_alive():
            self._database.interrupt()
            self._thread.join(0.5)

    def _run(self) -> None:
        looked = pruned = -1e9
        while not self._closing.is_set():
            if self._allowed():
                try:
                    self._refused.flush(self._database)
                    for model, bounds in list(self._targets.items()):
                        keep_target(self._database, model, bounds)
                        # only once it is written: an outage must not lose it
                        self._targets.pop(model, None)
                    self._database.maintain()
                    if time.monotonic() - looked >= _LOOK_S:
                        looked = time.monotonic()
                        self._look()
                    if time.monotonic() - pruned >= _PRUNE_S:
                        pruned = time.monotonic()
                        prune_in_turn(self._database, self._settings)
                except (StorageError, OSError) as error:
                    self._counters.note(error)
            self._closing.wait(_MAINTAIN_S)
        # once more at the end, or the last seconds of refused rows would be lost
        if self._allowed():
            try:
                self._refused.flush(self._database)
            except (StorageError, OSError) as error:
                self._counters.note(error)
        self._database.close()

    def _look(self) -> None:
        replayed = replay_orphans(self._folder, self._database, self._closing.is_set)
        if replayed:
            self._counters.count(replayed=replayed)
            _log.info("%d records of dead processes were replayed", replayed)
