"""The service with its lifecycle: what `tasador serve` runs.

The serving package knows nothing of promotion and reports; here its application gets routes that do
what `tasador promote`, `rollback`, `versions`, `history`, `report`, `appraise` and `alerts` do.
"""

from __future__ import annotations

import glob
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.deadlines import Deadline
from tasador.core.errors import ConfigError, MissingExtraError, StorageError
from tasador.core.hashing import to_plain
from tasador.core.languages import Language
from tasador.lifecycle.alias_updates import Ledger
from tasador.lifecycle.api import Place
from tasador.lifecycle.promote import call_apart, promote_at, roll_back_at
from tasador.monitoring.alerts import AlertBook
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.registry.mlflow_reader import registry_reader
from tasador.registry.model_bundle import ModelBundle
from tasador.registry.versions import CHAMPION, ModelVersion
from tasador.serving.api.models import Lifecycle as Verbs
from tasador.serving.api.models import Promotion, Return, lifecycle_router
from tasador.serving.api.monitoring import AlertActions, alerts_router
from tasador.serving.app import Assembly, assembled, build_app
from tasador.serving.http.request import App

if TYPE_CHECKING:
    from tasador.reporting.appraisal.files import FileKind

#: Where the workspace is, for workers; set by `tasador serve`.
WORKSPACE = "TASADOR_WORKSPACE"
_READ_S = 5.0
_CHANGE_S = 300.0


def from_environment() -> App:
    """Return the application that the environment describes; each worker calls this."""
    assembly = assembled(os.environ)
    verbs = ServedLifecycle(assembly, Path(os.environ.get(WORKSPACE, "workspace"))).verbs()
    parts = assembly.parts()
    routers = [
        *parts.routers,
        lifecycle_router(assembly.service, verbs),
        alerts_router(alert_actions(assembly.settings.records.url)),
    ]
    return build_app(replace(parts, routers=routers, reports=ServedReports()))


def alert_actions(url: str) -> AlertActions:
    """Return what the routes about alerts call: what `tasador alerts` does.

    Args:
        url: Of the records' database.
    """

    def answered(answer: Callable[[AlertBook], list[str]]) -> list[str]:
        with Database.open(url) as database:
            return answer(AlertBook(database))

    return AlertActions(
        # the book takes patterns, a page means one alert
        acknowledge=lambda key, who, reason: answered(
            lambda book: book.acknowledge(glob.escape(key), who, reason)
        ),
        silence=lambda key, seconds, who, reason: answered(
            lambda book: book.silence(glob.escape(key), seconds, who, reason)
        ),
    )


class ServedReports:
    """Writes the valuation reports of a service, as `tasador appraise` does.

    What it takes is imported with the first report: a service that writes none starts without.
    """

    def check(self, kind: FileKind) -> None:
        """Refuse a type of file whose library is not installed.

        Raises:
            MissingExtraError: It is not.
        """
        from tasador.reporting.appraisal.files import check_installed

        check_installed(kind)

    def write(
        self, bundle: ModelBundle, X: NDArray[np.float64], values: Mapping[str, Any],
        item: Mapping[str, Any], language: Language, kind: FileKind,
    ) -> bytes:  # fmt: skip
        """Return the report of one encoded row.

        Args:
            bundle: What valued it.
            X: The row, shape (1, p).
            values: The row as it was sent.
            item: Its explanation, as ``/api/v1/explain`` answers it.
            language: Of the report.
            kind: Type of the file.
        """
        from tasador.reporting.appraisal.files import file_of
        from tasador.scoring.appraise import appraisal_from, page_of, summary_of

        one = appraisal_from(summary_of(bundle), X, values, item, 1)
        return file_of(kind, [page_of(one, language)])


@dataclass(frozen=True)
class ServedLifecycle:
    """The lifecycle of the model that a service answers with.

    Attributes:
        assembly: The service.
        workspace: Folder of runs and of the embedded registry.
    """

    assembly: Assembly
    workspace: Path

    def verbs(self) -> Verbs:
        """Return what the routes call."""
        refresher = self.assembly.refresher
        return Verbs(
            versions=self.versions,
            history=self.history,
            report=self.report,
            promote=self.promote,
            rollback=self.roll_back,
            changed=lambda: refresher.refresh(force=True),
        )

    def versions(self) -> dict[str, Any]:
        """Return every version, newest first, and what is unfinished; without MLflow's packages.

        Raises:
            RegistryError: The registry cannot be reached, or there is no such model.
            StorageError: The database is away.
        """
        reader, name = registry_reader(self._registry), self._model()
        found = reader.listed(name, Deadline.after(_READ_S))
        champion = next((one.number for one in found if CHAMPION in one.aliases), "")
        return {
            "model": name,
            "follows": self._followed(),
            "versions": [_version(one) for one in found],
            "notes": self._notes(name, champion),
        }

    def history(self, limit: int) -> list[dict[str, Any]]:
        """Return what happened to the model, newest first.

        Raises:
            StorageError: The database is away.
        """
        with Database.open(self.assembly.settings.records.url) as database:
            entries = AuditTrail(database).read(subject=self._model(), limit=limit)
        plain: list[dict[str, Any]] = to_plain(entries)
        return plain

    def report(self, version: str) -> str | None:
        """Return the report of the run that made `version`; None when it is not here.

        Raises:
            StorageError: The disk refuses.
        """
        # the oldest made it: later runs with the same inputs take its steps from the cache
        for folder in sorted((self.workspace / "runs").glob("*")):
            try:
                plain = json.loads((folder / "run.json").read_text(encoding="utf-8"))
                if plain.get("version") == version:
                    return (folder / "report.html").read_text(encoding="utf-8")
            except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError):
                continue
            except OSError as error:
                raise StorageError(f"the run {folder.name} cannot be read: {error}") from None
        return None

    def promote(self, request: Promotion, who: str) -> dict[str, Any]:
        """Do what `tasador promote` does; errors as it has them."""
        wanted = (request.version, request.alias, request.reason, request.force)
        return self._change(promote_at, who, *wanted)

    def roll_back(self, request: Return, who: str) -> dict[str, Any]:
        """Do what `tasador rollback` does; errors as it has them."""
        return self._change(roll_back_at, who, request.to, request.reason)

    def _change(
        self, work: Callable[..., dict[str, Any]], who: str, *arguments: object
    ) -> dict[str, Any]:
        for package in ("mlflow", "polars"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError.for_package(package, "train")
        records = self.assembly.settings.records.url
        place = Place(self.workspace, self._registry, records, self._model(), who)
        return call_apart(work, place, *arguments, seconds=_CHANGE_S)

    def _notes(self, name: str, champion: str) -> list[str]:
        with Database.open(self.assembly.settings.records.url) as database:
            return Ledger(database, name).unsettled(champion)

    @property
    def _registry(self) -> str:
        named = self.assembly.settings.source.tracking_uri
        return named or f"sqlite:///{self.workspace.resolve()}/mlflow.db"

    def _model(self) -> str:
        """Return the registered model's name.

        Raises:
            ConfigError: None is configured, and no model answers.
        """
        name, current = self.assembly.settings.source.model_name, self.assembly.slot.current
        if name or current is not None:
            return name or current.bundle.manifest.name  # type: ignore[union-attr]
        raise ConfigError("no model's name is configured, and none is loaded")

    def _followed(self) -> str | None:
        """Return the alias that the service follows; None when it follows no registry."""
        source = self.assembly.settings.source
        return (source.alias or CHAMPION) if source.tracking_uri else None


def _version(one: ModelVersion) -> dict[str, Any]:
    return {
        "number": one.number,
        "release": one.release,
        "bundle": one.bundle,
        "created": one.created,
        "status": one.status,
        "aliases": list(one.aliases),
        "origin": one.tags.get("origin", ""),
        "run": one.tags.get("tasador_run", ""),
        "commit": one.tags.get("code_commit", ""),
        "unit": one.tags.get("target_unit", ""),
        "metrics": _figures(one.tags, "test."),
        "intervals": _figures(one.tags, "test_intervals."),
        "segments": _segments(one.tags),
    }


def _figures(tags: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """Return the tags whose keys begin with `prefix`, by the rest: JSON's numbers and lists."""
    found = {}
    for key, text in tags.items():
        if key.startswith(prefix):
            try:
                found[key.removeprefix(prefix)] = json.loads(text)
            except ValueError:
                continue
    return found


def _segments(tags: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return each segment's figures by its name."""
    found: dict[str, dict[str, float]] = {}
    for key, value in _figures(tags, "by_segment.").items():
        name, _, metric = key.rpartition(".")
        found.setdefault(name, {})[metric] = value
    return found
