"""Promote, reject, roll back, list, tell what happened: the lifecycle's use cases."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasador.core.errors import RegistryError
from tasador.lifecycle.alias_updates import (
    CHALLENGER,
    Ledger,
    Operation,
    OperationResult,
    Plan,
    Standing,
    carry_out,
    rejection,
    rollback,
)
from tasador.lifecycle.errors import UnknownModelError
from tasador.records.audit_log import AuditEntry
from tasador.records.database import Database
from tasador.registry.bundle_stores import bundle_names
from tasador.registry.mlflow.registry import models_of, versions_of
from tasador.registry.signature import trusted_keys
from tasador.registry.versions import (
    CHAMPION,
    ModelVersion,
    Versions,
    find_version,
    use_model,
    used_model,
)
from tasador.serving.experiment import Experiment, ExperimentBook

if TYPE_CHECKING:
    from tasador.registry.model_bundle import ModelBundle


@dataclass(frozen=True)
class Place:
    """Where a model's versions and its history are.

    Attributes:
        workspace: Folder of runs, bundles and the embedded databases.
        registry: An MLflow tracking URI; None takes ``TASADOR_SOURCE__TRACKING_URI``, then the
            workspace's ``mlflow.db``.
        records: A database URL; None takes ``TASADOR_RECORDS__URL``, then ``tasador.db``.
        model: The registered model; None takes ``TASADOR_SOURCE__MODEL_NAME``, then the one that
            `tasador use` chose for the workspace, then the only one there is.
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
    def model_name(self) -> str | None:
        """The model that is meant; None when nothing says which."""
        named = self.model or os.environ.get("TASADOR_SOURCE__MODEL_NAME")
        return named or used_model(self.workspace) or None

    def is_clear(self, registered: list[str]) -> bool:
        """Tell whether commands mean this model among the `registered` ones without naming it."""
        unnamed = replace(self, model=None).model_name
        return unnamed == self.model if unnamed else len(registered) < 2

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

    @contextmanager
    def fetched(self, version: ModelVersion) -> Iterator[ModelBundle]:
        """Give a version's bundle, fetched into a temporary folder.

        Raises:
            BundleError: It is damaged, or not signed by a trusted key where there are any.
            RegistryError: The registry cannot be reached.
        """
        from tasador.registry.model_bundle import load_bundle

        with tempfile.TemporaryDirectory(prefix="tasador-gates-") as folder:
            destination = Path(folder) / "bundle"
            # the workspace's own key counts here, which `load_bundle` by itself does not know
            trusted = trusted_keys(self.place.workspace)
            self.versions.fetch(version.number, destination)
            yield load_bundle(destination, trusted=trusted)

    def check_trusted(self, version: ModelVersion) -> None:
        """Refuse a version that no trusted key signed; without trusted keys any may answer.

        Raises:
            BundleError: It is not signed by a trusted key, or damaged.
        """
        if trusted_keys(self.place.workspace) is not None:
            with self.fetched(version):
                pass

    def reject(self, wanted: str, reason: str) -> OperationResult:
        """Mark a version as not to be used."""
        version = find_version(self.versions, wanted)
        plan = rejection(self.versions, version, actor=self.place.who, reason=reason)
        return self.change(plan)

    def roll_back(self, to: str | None, reason: str) -> OperationResult:
        """Return to the previous champion, or to an earlier one."""
        target = None if to is None else find_version(self.versions, to)
        plan = rollback(self.versions, to=target, actor=self.place.who, reason=reason)
        return self.change(plan)

    @property
    def experiments(self) -> ExperimentBook:
        """The model's canary."""
        return ExperimentBook(self.ledger.database, self.versions.name)

    def change(self, plan: Plan, *, checked: bool = False) -> OperationResult:
        """Do what `plan` says, and end the canary that it concerns.

        One that stands in the way ends before anything is changed, so that nothing which dies in
        between leaves a version with traffic that it shall not have.

        Args:
            plan: What to do.
            checked: Whether `check_trusted` has passed for the version that gets an alias.

        Raises:
            BundleError: A version that would get an alias is not signed by a trusted key.
            RegistryError: See `lifecycle.alias_updates.carry_out`.
            StorageError: The database cannot be reached.
        """
        who, book = self.place.who, self.experiments

        def planned(standing: Standing) -> Operation:
            operation = plan(standing)
            for write in operation.writes:
                if write.kind == "alias" and write.value and not checked:
                    self.check_trusted(find_version(self.versions, write.value))
            # before the alias moves: an experiment that is left over would go on sending it traffic
            book.end("stopped", who, lambda one: _stops(operation, one))
            return operation

        carried = carry_out(self.versions, self.ledger, who, planned)
        book.end("settled", who, lambda one: _settles(carried.operation, one))
        return carried

    def champion(self) -> ModelVersion | None:
        """Return the version that the alias points to; None when there is none.

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
        return found, notes + self.ledger.unsettled(aliases.get(CHAMPION, ""))

    def history(self, limit: int) -> list[AuditEntry]:
        """Return what happened to the model, newest first."""
        return self.ledger.audit.read(subject=self.versions.name, limit=limit)


def list_models(place: Place) -> tuple[list[ModelVersion], list[str]]:
    """Return the versions of the model that `place` names, else of every one; and what is wrong.

    Raises:
        RegistryError: The registry cannot be reached, or holds no model.
        StorageError: The database cannot be reached.
    """
    found: list[ModelVersion] = []
    notes: list[str] = []
    for name in [place.model] if place.model else _registered(place):
        # every model has a ledger of its own
        with opened(replace(place, model=name), reading=True) as lifecycle:
            versions, own = lifecycle.listed()
        found, notes = found + versions, notes + own
    return found, notes


def choose_model(place: Place, name: str) -> None:
    """Let the commands in a workspace mean the model `name`.

    Raises:
        ConfigError: There is no such model.
        RegistryError: The registry cannot be reached.
        StorageError: The disk refuses.
    """
    # a workspace that never registered has bundles, and no registry to ask
    bundles = bundle_names(place.workspace / "bundles")
    known = sorted({*bundles, *_registered(place, missing_ok=bool(bundles))})
    if name not in known:
        raise UnknownModelError.of(name, known)
    use_model(place.workspace, name)


def _registered(place: Place, *, missing_ok: bool = False) -> list[str]:
    try:
        return models_of(place.registry_uri)
    except RegistryError:
        if missing_ok:
            return []
        raise


def _settles(operation: Operation, experiment: Experiment) -> str | None:
    moved = operation.before != operation.after
    if operation.action == "promote" and moved and operation.version == experiment.number:
        return f"version {operation.version} became champion"
    return None


def _stops(operation: Operation, experiment: Experiment) -> str | None:
    """Return why an operation ends an experiment without its challenger becoming champion."""
    if _settles(operation, experiment) is not None:
        return None
    if operation.before != operation.after:
        return f"{operation.action}: version {operation.after} is champion"
    if operation.action == "reject" and operation.version == experiment.number:
        return f"version {operation.version} was rejected"
    takes = operation.details.get("alias") == CHALLENGER
    if takes and operation.version != experiment.number:
        return f"version {operation.version} is challenger now"
    return None


@contextmanager
def opened(place: Place, *, reading: bool = False) -> Iterator[Lifecycle]:
    """Open a model's lifecycle.

    Args:
        place: Where it is.
        reading: Whether it is only looked at, which spares the seconds that importing MLflow takes.

    Raises:
        RegistryError: The registry cannot be reached, or there is no such model.
        StorageError: The database cannot be reached.
        ConfigError: Which model is meant is not clear.
    """
    versions = versions_of(place.registry_uri, place.model_name, reading=reading)
    with Database.open(place.records_url) as database:
        yield Lifecycle(place, versions, Ledger(database, versions.name))
