"""What is installed, reachable and missing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tasador
from tasador.config.alert_routes import whom_alerts_reach
from tasador.config.settings import RunSettings
from tasador.config.watch import read_watch_settings
from tasador.core.errors import MissingExtraError, TasadorError
from tasador.core.installation import install_command
from tasador.core.native import native
from tasador.data.sources import find_local

_NEEDED = ("numpy", "scipy", "onnxruntime", "orjson", "PyYAML", "rich", "typer")
_TRAIN = ("scikit-learn", "lightgbm", "polars", "optuna", "onnx", "mlflow", "hydra-core")
_EXTRAS = {
    "gcs": "gcsfs",
    "s3": "s3fs",
    "serve": "fastapi",
    "ui": "streamlit",
    "dist": "ray",
    "wandb": "wandb",
    "boosters": "catboost",
    "postgres": "psycopg",
}
_ROOM_GB = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    state: Literal["ok", "optional", "missing", "off"]
    what: str
    detail: str


def examine(settings: RunSettings) -> Iterator[Finding]:
    """Yield what was found; nothing is changed, and only the configured registry is contacted."""
    workspace = Path(settings.storage.workspace)
    yield Finding("ok", "tasador", f"{tasador.__version__} on Python {sys.version.split()[0]}")
    for package in _NEEDED:
        yield _package(package, "missing", "part of every install: install tasador again")
    for package in _TRAIN:
        yield _package(package, "missing", f"for training: {install_command('train')}")
    for extra, package in _EXTRAS.items():
        yield _package(package, "optional", f"not installed: {install_command(extra)}")
    yield _kernels()
    data = os.environ.get("TASADOR_REAL_DATA")
    if data is None:
        yield Finding("optional", "TASADOR_REAL_DATA", "not set; tables are sought in ./data")
    else:
        state: Literal["ok", "missing"] = "ok" if Path(data).is_dir() else "missing"
        yield Finding(state, "TASADOR_REAL_DATA", data)
    yield _table(settings)
    yield _disk(workspace)
    yield _registry(settings)
    yield _alerts()
    yield from _protections(workspace)


def _protections(workspace: Path) -> Iterator[Finding]:
    """Yield what protects a service of this workspace; what is off is no fault on a laptop."""
    try:
        from tasador.flows.protections import protections

        for one in protections(os.environ, workspace):
            yield Finding("ok" if one.on else "off", one.name, one.detail)
    except ImportError as error:  # a part of `serve` that is not installed
        reason = MissingExtraError.for_module((error.name or "").partition(".")[0])
        yield Finding("optional", "protections", str(reason))
    except TasadorError as error:
        yield Finding("off", "protections", str(error))


def _package(name: str, absent: Literal["optional", "missing"], remedy: str) -> Finding:
    try:
        return Finding("ok", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(absent, name, remedy)


def _kernels() -> Finding:
    found = native()
    if found.library is not None:
        return Finding("ok", "kernels", f"compiled: {found.reason}")
    return Finding("optional", "kernels", f"{found.reason}; onnxruntime values the rows")


def _disk(workspace: Path) -> Finding:
    folder = workspace.resolve()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding("missing", "workspace", f"{folder} cannot be written")
    free = shutil.disk_usage(folder).free / 1e9
    state: Literal["ok", "missing"] = "ok" if free > _ROOM_GB else "missing"
    return Finding(state, "workspace", f"{workspace} with {free:,.1f} GB free")


def _table(settings: RunSettings) -> Finding:
    contract = settings.contract
    what = f"table {contract.name}"
    found = find_local(contract, settings.download.search)
    if found is not None:
        return Finding("ok", what, str(found))
    if contract.source.url is not None:
        return Finding(
            "optional", what, f"not on disk; would be fetched from {contract.source.url}"
        )
    return Finding("missing", what, f"put it at {' or '.join(contract.source.paths) or 'a path'}")


def _registry(settings: RunSettings) -> Finding:
    if not settings.tracking.enabled:
        return Finding("optional", "registry", "switched off (tracking=none)")
    if settings.tracking.uri is None:
        database = Path(settings.storage.workspace) / "mlflow.db"
        if not database.exists():
            return Finding("optional", "registry", f"{database} is made by the first run")
        return _reached(f"sqlite:///{database.resolve()}")
    return _reached(settings.tracking.uri)


def _alerts() -> Finding:
    try:
        reached = read_watch_settings().reached
    except TasadorError as error:
        return Finding("missing", "watcher", str(error))
    return Finding("ok" if reached else "optional", "watcher", whom_alerts_reach(reached))


def _reached(uri: str) -> Finding:
    from tasador.registry.mlflow_registry import check_registry

    try:
        return Finding("ok", "registry", check_registry(uri))
    except TasadorError as error:
        return Finding("missing", "registry", str(error))
