"""`MaintenanceThread`: what has to be done now and then, beside the writing of records."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tasador.contract.target_check import TargetBounds
from tasador.core.errors import StorageError
from tasador.records.batches import Counters, insert_records
from tasador.records.database import Database
from tasador.records.refused import RefusedBuffer
from tasador.records.retention import prune_in_turn
from tasador.records.shared_state import keep_target
from tasador.records.spool import adopt
from tasador.settings.records import RecordSettings

_log = logging.getLogger(__name__)
# a commit takes over the checkpoint when the log grows: this keeps it small
_MAINTAIN_S = 0.5
# listing a folder is cheap, and rows of a dead process are missing until then
_LOOK_S = 2.0
# far more often than a lease of an hour needs: a process that dies is replaced soon
_PRUNE_S = 600.0


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
