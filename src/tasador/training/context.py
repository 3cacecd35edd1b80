"""What the steps of a run return and share, how it is kept on disk, and where it came from."""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
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
from tasador.modeling.trend import Trend
from tasador.reporting.cards import CardBuilder
from tasador.selection.folds import Fold, FoldAssignment
from tasador.selection.search.grid_search import SearchResult
from tasador.selection.search.optuna_sweep import SweepResult
from tasador.settings.run import RunSettings, SplitMethod

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


@dataclass(frozen=True)
class Rows:
    """The table's rows, validated and split.

    Attributes:
        train: What everything is fitted and chosen on.
        test: The held-out test set, which only the evaluation opens.
        refused: How many rows do not meet the contract.
        left_out: How many rows are no market sales, by reason.
        trend: How the level of prices moved; the targets of `train` are at its newest level, those
            of the other parts as they were. None where dates say nothing.
        method: How they were split.
        earlier: Earlier sales of properties in the test part, which are in neither; None without.
        kept: Hashes of the rows that a person keeps though they are suspicious.
    """

    train: Part
    test: SealedPart
    refused: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    trend: Trend | None = None
    method: SplitMethod = "row_hash"
    earlier: Part | None = None
    kept: tuple[int, ...] = ()


@dataclass(frozen=True)
class FeatureChoice:
    """What is left open in the feature settings, decided on training rows.

    Attributes:
        imputation: By column, what fills its gaps.
        clusters: How many clusters of the map there are.
        comparables: Whether comparables are features.
    """

    imputation: dict[str, Strategy]
    clusters: int | None
    comparables: bool


@dataclass(frozen=True)
class Features:
    """The features, fitted on all training rows.

    Attributes:
        choice: How they are made.
        inputs: How models see categories of many levels; None where there are none.
        fitted: As they value any row.
        Z: Shape (n, features): the training rows, cross-fitted.
    """

    choice: FeatureChoice
    inputs: str | None
    fitted: FittedFeatures
    Z: Floats


@dataclass(frozen=True)
class Sweep:
    """The tuned family, and the links of its trials' runs in W&B."""

    result: SweepResult
    trial_runs: list[str]


@dataclass(frozen=True)
class Evidence:
    """What the steps before the last one made."""

    table: StoredTable
    rows: Rows
    features: Features
    search: SearchResult
    sweep: Sweep

    @property
    def train(self) -> Part:
        """The training rows."""
        return self.rows.train


@dataclass(frozen=True)
class TrainedModel:
    """The bundle that a run made, and what is said about it.

    Attributes:
        outcome: As ``outcome.json`` has it: version, folder, family, parameters, metrics.
        documents: Folder of the model card's files.
    """

    outcome: dict[str, Any]
    documents: Path


class LastFolds:
    """The folds as they were made last, by chance and forward in time.

    They are large: where the features or the rows are others, the older ones go first.
    """

    def __init__(self) -> None:
        self._of: tuple[FeatureChoice, int] | None = None
        self._folds: dict[tuple[bool, int | None, int], Fold] = {}

    def get(
        self,
        choice: FeatureChoice,
        rows: int,
        wanted: Sequence[tuple[FoldAssignment, int]],
        make: Callable[[FoldAssignment, list[int]], Iterable[Fold]],
    ) -> list[Fold]:
        """Return folds of so many rows with these features; those that are not there are made."""
        if self._of != (choice, rows):
            self._folds, self._of = {}, (choice, rows)
        missing: dict[tuple[bool, int | None], tuple[FoldAssignment, list[int]]] = {}
        keys = [(assignment.forward, assignment.most, number) for assignment, number in wanted]
        for (assignment, number), key in zip(wanted, keys, strict=True):
            if key not in self._folds:
                missing.setdefault(key[:2], (assignment, []))[1].append(number)
        for kind, (assignment, numbers) in missing.items():
            for number, fold in zip(numbers, make(assignment, numbers), strict=True):
                self._folds[*kind, number] = fold
        return [self._folds[key] for key in keys]

    def clear(self) -> None:
        """Forget them: no later step looks at these rows again."""
        self._folds, self._of = {}, None


@dataclass(frozen=True)
class RunContext:
    """What all steps of one run share.

    Attributes:
        settings: What was asked for.
        run_id: The run's id.
        started: When it began.
        workspace: Where results are kept.
        run_folder: Where its cards and its report go.
        given: A table to train on in place of what the contract's sources have.
        folds: Folds that several steps look at.
        open: Closed by the pipeline at the end.
    """

    settings: RunSettings
    run_id: str
    started: str
    workspace: Path
    run_folder: Path
    given: StoredTable | None = None
    folds: LastFolds = field(default_factory=LastFolds)
    open: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def engine(self) -> Engine:
        """Where models are fitted; a cluster is reached when there is work for it, and once."""
        return self.open.enter_context(open_engine(self.settings.engine, self.settings.ray))

    @property
    def transform(self) -> TargetTransform:
        """The target's transform, by contract."""
        return TargetTransform(self.settings.contract.target.transform)

    @property
    def bundles(self) -> Path:
        """Where bundles are kept."""
        return self.workspace / "bundles"


@dataclass(frozen=True)
class StepOutput:
    """Where a step puts its result.

    Attributes:
        folder: Filled with what its result is read from.
        card: Filled with the evidence, for people.
        journal: Notes what is finished, so that an interrupted step resumes there.
    """

    folder: Path
    card: CardBuilder
    journal: Path


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
    # the folder of a result appears when it is whole: no file of it has to be written at once
    np.savez(path, **{name: value for name, value in vars(part).items() if value is not None})


def load_part(path: Path) -> Part:
    """Read what `save_part` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Part(**arrays)


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
            timeout=5,  # a checkout on a network drive that hangs holds up no run
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
