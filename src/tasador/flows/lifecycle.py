"""Promote, reject, roll back, list, tell what happened: the lifecycle's use cases."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasador.records.database import Database
from tasador.records.journal import AuditEntry
from tasador.registry.mlflow_versions import versions_of
from tasador.registry.versions import ModelVersion, Versions, find_version
from tasador.retraining.ledger import Ledger
from tasador.retraining.switch import CHAMPION, Carried, carry_out
from tasador.retraining.verbs import rejection, rollback


@dataclass(frozen=True)
class Place:
    """Where a model's versions and its history are.

    Attributes:
        workspace: Folder of runs, bundles and the embedded databases.
        registry: An MLflow tracking URI; None takes ``TASADOR_SOURCE__TRACKING_URI``, then the
            workspace's ``mlflow.db``.
        records: A database URL; None takes ``TASADOR_RECORDS__URL``, then ``tasador.db``.
        model: The registered model; None takes the only one there is.
        actor: Who acts; None takes ``TASADOR_ACTOR``, then the user's name.
    """

    workspace: Path = Path("workspace")
    registry: str | None = None
    records: str | None = None
    model: str | None = None
    actor: str | None = None

    @property
    def registry_uri(self) -> str:
        """The registry that is meant."""
        named = self.registry or os.environ.get("TASADOR_SOURCE__TRACKING_URI")
        return named or f"sqlite:///{self.workspace.resolve()}/mlflow.db"

    @property
    def records_url(self) -> str:
        """The database that is meant."""
        named = self.records or os.environ.get("TASADOR_RECORDS__URL")
        return named or f"sqlite:///{self.workspace.resolve()}/tasador.db"

    @property
    def who(self) -> str:
        """Who acts."""
        named = self.actor or os.environ.get("TASADOR_ACTOR")
        if named:
            return named
        try:
            return getpass.getuser()
        except (KeyError, OSError):  # a container's user may have no name
            return f"uid {os.getuid()}"


@dataclass(frozen=True)
class Lifecycle:
    """A model's versions and their ledger, open.

    Attributes:
        place: Where they are.
        versions: The versions in the registry.
        ledger: The history.
    """

    place: Place
    versions: Versions
    ledger: Ledger

    def reject(self, wanted: str, reason: str) -> Carried:
        """Mark a version as not to be used."""
        version = find_version(self.versions, wanted)
        plan = rejection(self.versions, version, actor=self.place.who, reason=reason)
        return carry_out(self.versions, self.ledger, self.place.who, plan)

    def roll_back(self, to: str | None, reason: str) -> Carried:
        """Return to the previous champion, or to an earlier one."""
        target = None if to is None else find_version(self.versions, to)
        plan = rollback(self.versions, to=target, actor=self.place.who, reason=reason)
        return carry_out(self.versions, self.ledger, self.place.who, plan)

    def champion(self) -> ModelVersion | None:
        """Return the version that the alias stands for; None when there is none.

        Raises:
            RegistryError: The alias points at a version that was deleted.
        """
        if CHAMPION not in self.versions.aliases():
            return None
        return find_version(self.versions, CHAMPION)

    def listed(self) -> tuple[list[ModelVersion], list[str]]:
        """Return every version, the newest first, and what is wrong or unfinished."""
        found, aliases = self.versions.all(), self.versions.aliases()
        known = {version.number for version in found}
        notes = [
            f"the alias {alias!r} points at version {number}, which was deleted"
            for alias, number in sorted(aliases.items())
            if number not in known
        ]
        standing = self.ledger.standing()
        if standing.pending is not None:
            one = standing.pending
            notes.append(
                f"{one.action} of version {one.version} by {one.actor} has not ended; if it died, "
                "the next change ends it"
            )
        elif aliases.get(CHAMPION, "") != standing.champion and standing.seen:
            notes.append(
                f"the champion was changed without tasador: {standing.champion or 'none'} -> "
                f"{aliases.get(CHAMPION) or 'none'}"
            )
        return found, notes

    def history(self, limit: int) -> list[AuditEntry]:
        """Return what happened to the model, newest first."""
        return self.ledger.audit.read(subject=self.versions.name, limit=limit)


@contextmanager
def opened(place: Place) -> Iterator[Lifecycle]:
    """Open a model's lifecycle.

    Raises:
        RegistryError: The registry cannot be reached, or there is no such model.
        StorageError: The database cannot be reached.
        ConfigError: Which model is meant is not clear.
    """
    versions = versions_of(place.registry_uri, place.model)
    with Database.open(place.records_url) as database:
        yield Lifecycle(place, versions, Ledger(database, versions.name))
