"""What models' targets may be, kept beside the records, so that outcomes are checked anywhere."""

from __future__ import annotations

from tasador.contract.target_check import TargetBounds
from tasador.records.database.connection import Database
from tasador.records.shared_state import State

_PREFIX = "target/"


def model_of(version: str) -> str:
    """Return the model's name in a version, which is the name and a hash."""
    return version.rpartition("-")[0]


def keep_target(database: Database, model: str, bounds: TargetBounds) -> None:
    """Keep the bounds of a model's target, unless they are kept already.

    Raises:
        OutageError: The database is away.
    """
    state = State(database)
    while True:
        kept = state.get(_PREFIX + model)
        if kept.value == bounds.plain() or state.put(kept.key, bounds.plain(), kept.version):
            return


def kept_targets(database: Database) -> dict[str, TargetBounds]:
    """Return the bounds of all models' targets.

    Raises:
        OutageError: The database is away.
    """
    return {
        entry.key.removeprefix(_PREFIX): TargetBounds.from_plain(entry.value)
        for entry in State(database).under(_PREFIX)
    }
