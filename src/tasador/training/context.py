"""What the steps of one run hand to each other, how it is kept on disk, and where it came from."""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.hashing import to_plain
from tasador.core.parallel import Engine
from tasador.core.ray_engine import open_engine
from tasador.core.storage import write_bytes, write_text
from tasador.data.table import Origin, Part, SealedPart
from tasador.features.imputation import Strategy
from tasador.features.pipeline import FittedFeatures
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.folds import Fold
from tasador.selection.grid_search import CandidateResult, SearchResult, result_from_plain
from tasador.selection.optuna_sweep import SweepResult
from tasador.settings.run import RunSettings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StoredTable:
    """A table that lies in the workspace already.

    Attributes:
        content_hash: Under which it is stored.
        origin: real or synthetic.
        source: Where its rows come from, for people.
    """

    content_hash: str
    origin: Origin
    source: str


@dataclass
class RunState:
    """One run in progress; each attribute is set by the step named beside it."""

    settings: RunSettings
    run_id: str
    started: str
    workspace: Path
    run_folder: Path
    table: StoredTable | None = None  # given in place of what the contract's sources have
    content_hash: str | None = None  # download
    origin: Origin | None = None  # download
    source: str | None = None  # download
    train: Part | None = None  # segregate
    sealed: SealedPart | None = None  # segregate
    refused: int = 0  # segregate
    imputation: dict[str, Strategy] = field(default_factory=dict)  # impute
    clusters: int | None = None  # features
    comparables: bool = True  # features
    inputs: str | None = None  # features: how categories of many levels are seen
    folds: dict[int | None, list[Fold]] = field(default_factory=dict)  # made when first asked for
    fitted: FittedFeatures | None = None  # features
    Z: Floats | None = None  # features
    search: SearchResult | None = None  # select
    sweep: SweepResult | None = None  # sweep
    trial_runs: list[str] = field(default_factory=list)  # sweep: links of W&B runs
    outcome: dict[str, Any] | None = None  # register
    documents: Path | None = None  # register: folder of the model card's files
    journal: Path | None = None  # set by the runner for the step at work

    open: ExitStack = field(default_factory=ExitStack)  # closed by the runner at the end
    _engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """Where models are fitted; a cluster is reached when there is work for it, and once."""
        if self._engine is None:
            opened = open_engine(self.settings.engine, self.settings.ray)
            self._engine = self.open.enter_context(opened)
        return self._engine

    @property
    def transform(self) -> TargetTransform:
        """The target's transform, by contract."""
        return TargetTransform(self.settings.contract.target.transform)

    @property
    def bundles(self) -> Path:
        """Where bundles are kept."""
        return self.workspace / "bundles"


def save_json(path: Path, value: Any) -> None:
    """Write plain values, dataclasses included, as JSON, at once.

    Raises:
        StorageError: The disk refuses; an older file at `path` is untouched.
    """
    write_text(path, json.dumps(to_plain(value), ensure_ascii=False))


def load_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def save_array(path: Path, values: Floats) -> None:
    """Write an array as ``.npy``.

    Raises:
        StorageError: The disk refuses. (numpy's own writing does not say that a disk is full.)
    """
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def save_part(path: Path, part: Part) -> None:
    """Write rows as ``.npz`` without pickle."""
    np.savez(path, X=part.X, y=part.y, row_hash=part.row_hash)


def load_part(path: Path) -> Part:
    """Read what `save_part` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Part(arrays["X"], arrays["y"], arrays["row_hash"])


def load_search(path: Path) -> SearchResult:
    """Read a search result."""
    plain = load_json(path)
    baseline = plain["baseline"]
    return SearchResult(
        plain["scoring"],
        _candidates(plain["candidates"]),
        None if baseline is None else result_from_plain(baseline),
    )


def load_sweep(path: Path) -> SweepResult:
    """Read a sweep result."""
    plain = load_json(path)
    return SweepResult(
        **{
            **plain,
            "best": result_from_plain(plain["best"]),
            "trials": _candidates(plain["trials"]),
        }
    )


def _candidates(plain: list[dict[str, Any]]) -> tuple[CandidateResult, ...]:
    return tuple(result_from_plain(entry) for entry in plain)


def needed(value: Any, step: str) -> Any:
    """Return what an earlier step made; the runner sees to it that it has run."""
    if value is None:
        raise RuntimeError(f"step {step!r} has not run")
    return value


_LIBRARIES = ("numpy", "scipy", "scikit-learn", "lightgbm", "onnx", "onnxruntime", "optuna")


def code_commit() -> str:
    """Return the commit of the checkout this runs from, or the installed version."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return f"tasador {importlib.metadata.version('tasador')}"
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return f"tasador {importlib.metadata.version('tasador')}"
    return answer.stdout.strip()


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a model's numbers."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
