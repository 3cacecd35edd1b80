"""The settings of a training run; stages own theirs, the rest stands here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tasador.core.engine import EngineName, RaySettings
from tasador.data.contract import TableContract
from tasador.data.table import SplitMethod
from tasador.features.plan import FeatureSettings
from tasador.retraining.gate import GateSettings
from tasador.retraining.policy import RetrainSettings
from tasador.selection.imputation import ImputationSettings
from tasador.selection.search import SelectionSettings
from tasador.selection.sweep import SweepSettings

STEP_NAMES = ("download", "segregate", "impute", "features", "select", "sweep", "register")


@dataclass(frozen=True)
class DownloadSettings:
    """How the table is looked for.

    Attributes:
        search: Folders or prefixes of object stores (``gs://``, ``s3://``) under which the
            contract's relative paths are looked for.
        allow_synthetic: Whether generated rows may stand in for a table that is not found.
        timeout_s: Seconds of silence after which a connection is given up.
        attempts: How often a download is tried.
        offline: Pass over everything that needs the network.
        synthetic_rows: Number of generated rows; null takes the generator's own.
    """

    search: list[str] = field(default_factory=list)
    allow_synthetic: bool = True
    timeout_s: float = 10.0
    attempts: int = 2
    offline: bool = False
    synthetic_rows: int | None = None


@dataclass(frozen=True)
class SegregateSettings:
    """How rows are validated and split.

    Attributes:
        method: ``row_hash`` (stable when rows are added) or ``random`` (scikit-learn's).
        seed: Salt of the hash, or random state.
        test_share: Share of the rows in the sealed test part.
        max_refused_share: Share of refused rows above which the run stops.
        min_rows: Fewest rows to train on.
    """

    method: SplitMethod = "row_hash"
    seed: int = 42
    test_share: float = 0.2
    max_refused_share: float = 0.05
    min_rows: int = 100


@dataclass(frozen=True)
class RegisterSettings:
    """How the final model is proved.

    Attributes:
        spatial_folds: Folds of the cross-validation that holds out whole areas.
        fold_rows: Cross-validation of the final model stops after the fold with which so many rows
            are held out: a table of a million needs one fold of five for its intervals.
        coverage: Share of values that an interval promises to hold.
        parity_rows: Generated rows on which export and library must agree.
        bootstrap_draws: Resamples behind each metric's interval.
        alias: The registry's alias that moves to the new version.
        average: Most models that the final one may average: other seeds, another loss, the best of
            other families. Each is fitted in every fold, and taken where it pays.
        least_gain: Share of the out-of-fold error that a model must save to enter the average.
        smearing: Whether estimates are multiplied by Duan's factor, which turns a median of a
            skewed target into a mean: ``auto`` where that makes the sweep's metric smaller out of
            fold.
    """

    spatial_folds: int = 5
    fold_rows: int = 100_000
    coverage: float = 0.9
    parity_rows: int = 200_000
    bootstrap_draws: int = 1000
    alias: str = "staging"
    average: int = 1
    least_gain: float = 0.0025
    smearing: Literal["auto", "none", "duan"] = "auto"


@dataclass(frozen=True)
class StorageSettings:
    """Where a run's outputs go.

    Attributes:
        workspace: Folder of the runs, bundles, caches and the embedded registry.
    """

    workspace: str = "workspace"


@dataclass(frozen=True)
class TrackingSettings:
    """Where runs are tracked.

    Attributes:
        enabled: Whether to track and register at all.
        uri: An MLflow tracking URI; null means SQLite in the workspace.
        experiment: Name of the experiment.
        wandb: Whether the comparison of families and each trial of the sweep are also recorded in
            Weights & Biases: ``off``, ``offline`` (a folder in the workspace for each, no account
            needed) or ``online``. Needs the extra ``wandb``.
        wandb_project: Name of the project there.
        signing_key: PEM file of an elliptic curve key with which the bundle is signed before it is
            registered; null signs nothing. Its password is taken from TASADOR_SIGNING_PASSWORD.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = "tasador"
    wandb: Literal["off", "offline", "online"] = "off"
    wandb_project: str = "tasador"
    signing_key: str | None = None


@dataclass(frozen=True)
class RunSettings:
    """Everything that a training run is told.

    Attributes:
        contract: The table's contract, from the group ``dataset``.
        seed: From which every random choice is derived.
        steps: Steps to run, of STEPS; empty runs all. What they need comes from the cache or is
            made.
        from_step: The first step to run; null begins at the beginning.
        force: Run the asked steps even when their results are cached.
        download: How the table is looked for.
        segregate: How rows are validated and split.
        impute: What stands in for missing numbers.
        features: Choices about features.
        selection: Which candidates are compared.
        sweep: How long the sweep searches.
        register: How the final model is proved.
        storage: Where outputs go.
        tracking: Where runs are tracked.
        gates: How strict the gates before the champion's place are.
        retraining: When a model is trained again, and on what.
        engine: Where candidates and trials are fitted: ``local``, on this machine's cores, or
            ``ray``, on a cluster. The results are the same.
        ray: Which cluster.
    """

    contract: TableContract
    seed: int = 42
    steps: list[str] = field(default_factory=list)
    from_step: str | None = None
    force: bool = False
    download: DownloadSettings = field(default_factory=DownloadSettings)
    segregate: SegregateSettings = field(default_factory=SegregateSettings)
    impute: ImputationSettings = field(default_factory=ImputationSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    sweep: SweepSettings = field(default_factory=SweepSettings)
    register: RegisterSettings = field(default_factory=RegisterSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    gates: GateSettings = field(default_factory=GateSettings)
    retraining: RetrainSettings = field(default_factory=RetrainSettings)
    engine: EngineName = "local"
    ray: RaySettings = field(default_factory=RaySettings)
