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

_NEEDED = ("numpy", "scipy", "onnxruntime", "orjson", "PyYAML")
_TRAIN = ("scikit-learn", "lightgbm", "polars", "optuna", "onnx", "mlflow", "hydra-core")
_EXTRAS = {
    "gcs": "gcsfs",
    "s3": "s3fs",
    "serve": "fastapi",
    "ui": "streamlit",
    "dist": "ray",
    "wandb": "wandb",
    "boosters": "catboost",
}
_ROOM_GB = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    state: Literal["ok", "optional", "missing"]
    what: str
    detail: str


def examine(workspace: Path) -> Iterator[Finding]:
    """Yield what was found; nothing is changed and no address outside is contacted."""
    yield Finding("ok", "tasador", f"{tasador.__version__} on Python {sys.version.split()[0]}")
    for package in _NEEDED:
        yield _package(package, "missing", "part of every install: install tasador again")
    for package in _TRAIN:
        yield _package(package, "missing", 'for training: pip install "tasador[train]"')
    for extra, package in _EXTRAS.items():
        yield _package(package, "optional", f'not installed: pip install "tasador[{extra}]"')
    data = os.environ.get("TASADOR_REAL_DATA")
    if data is None:
        yield Finding("optional", "TASADOR_REAL_DATA", "not set; tables are sought in ./data")
    else:
        state: Literal["ok", "missing"] = "ok" if Path(data).is_dir() else "missing"
        yield Finding(state, "TASADOR_REAL_DATA", data)
    yield _disk(workspace)


def _package(name: str, absent: Literal["optional", "missing"], remedy: str) -> Finding:
    try:
        return Finding("ok", name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(absent, name, remedy)


def _disk(workspace: Path) -> Finding:
    folder = workspace.resolve()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding("missing", "workspace", f"{folder} cannot be written")
    free = shutil.disk_usage(folder).free / 1e9
    state: Literal["ok", "missing"] = "ok" if free > _ROOM_GB else "missing"
    return Finding(state, "workspace", f"{workspace} with {free:,.1f} GB free")
