"""The settings of a training run, of every stage.

`build` makes such dataclasses of plain values and checks types, names and values. It is used
instead of OmegaConf's structured configs because those know neither tuples of literals nor which
key a message should name.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tasador.contract.model import TableContract
from tasador.core.errors import ConfigError
from tasador.core.parallel import EngineName, RaySettings
from tasador.metrics.regression import METRICS

#: What decides about the number of clusters.
Criterion = Literal["error", "silhouette", "davies_bouldin"]


@dataclass(frozen=True)
class FeatureSettings:
    """Choices about features; each has a key of the same name under ``features``.

    Attributes:
        clusters: Number of KMeans clusters of the coordinates; 0 for none. null leaves it to the
            features step, which measures the model's error with none and with 2 to `most_clusters`
            and takes the best; a pipeline that is given null has none.
        clusters_by: What decides then: the model's ``error``, or what geometry says of 2 clusters
            and more, ``silhouette`` or ``davies_bouldin``, which know nothing of the target.
        most_clusters: The largest number that it tries.
        comparables: Whether to search comparables; null keeps them where they lower the error of a
            small model, by cross-validation.
        cross_fit_folds: Folds in which comparables and target means are cross-fitted.
        max_one_hot: Most levels that a category may have to get 0/1 columns.
        target_mean_weight: Rows' worth of the overall mean mixed into each level's mean.
        max_near: Most columns that span the comparables' space in a table without coordinates.
    """

    clusters: int | None = None
    clusters_by: Criterion = "error"
    most_clusters: int = 20
    comparables: bool | None = None
    cross_fit_folds: int = 20
    max_one_hot: int = 12
    target_mean_weight: float = 20.0
    max_near: int = 5


@dataclass(frozen=True)
class SelectionSettings:
    """Which candidates are compared, and how.

    Attributes:
        families: For each family, the values to try of each parameter.
        folds: Folds of the cross-validation.
        scoring: The metric that decides; the smaller mean over the folds wins.
        racing: Whether candidates that cannot win any more are dropped after each fold, by the
            test of `selection.racing`. Without it every candidate is measured on every fold.
        max_rows: Most training rows on which candidates, numbers of clusters and the sweep's trials
            are compared, a seeded sample of them; null compares on all. The final model is fitted
            on all rows in any case.
    """

    families: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    folds: int = 5
    scoring: str = "mae"
    racing: bool = False
    max_rows: int | None = None


_SLOWED_ROWS = 100_000


@dataclass(frozen=True)
class SweepSettings:
    """How long and on what the sweep searches.

    Attributes:
        trials: Number of parameter sets to try, the selection's winner first; 0 skips the sweep.
            Workers that share a study share this number; each ends the trial that it is at.
        folds: How many of the selection's folds each trial is evaluated on.
        metric: The metric to minimise.
        slowdown: The final model takes this many times more boosting steps, each that much
            smaller, than the sweep, which only has to rank parameters. Above 100 000 training rows
            it falls in proportion to their number, to 1 at last: more rows gain less by it, and
            each step costs more.
        pruner: How trials are given up on the way, at a ninth and a third of their steps:
            ``hyperband``, ``halving`` (successive halving) or ``none``.
        family: The family to tune, one of the selection's, from its best candidate on; null takes
            that of the best candidate of all.
        storage: Where trials are kept; null keeps them beside the step's cache. A database URL
            (``sqlite:///...``, ``postgresql+psycopg://...``) lets several workers share a study.
        wide: Whether to search the family's wide space; its models may be several times as large.
        study: Name of the study in `storage`. What is swept (rows, features, family, metric) is
            part of its full name, so that unlike sweeps never mix.
    """

    trials: int = 20
    folds: int = 4
    metric: str = "wmape"
    slowdown: float = 4.0
    pruner: Literal["hyperband", "halving", "none"] = "hyperband"
    wide: bool = False
    family: str | None = None
    storage: str | None = None
    study: str = "sweep"

    def slowdown_for(self, rows: int) -> float:
        """Return the slowdown of a final model fitted on so many rows."""
        return max(1.0, self.slowdown * min(1.0, _SLOWED_ROWS / rows))


@dataclass(frozen=True)
class ImputationSettings:
    """What stands in for missing numbers.

    Attributes:
        strategy: How it is found. ``auto`` takes, for each column that may lack values, the
            cheapest imputer within one standard error of the one that best restores masked known
            values; any other is used for all of these columns. ``native`` leaves gaps to the
            model, where train has any; families that take none are then left out.
        folds: Folds in which known values are masked.
        repeats: How often, each time with other folds.
        max_rows: Most training rows on which imputers are compared, a seeded sample of them.
        max_columns: Most columns on which they are compared, those that lack the most values; in
            tables of more than 100 columns, where each comparison takes longer, so many fewer (at
            least 2). The others get their median, with ``auto``.
        min_gap_share: Share of the training rows that must lack a value for imputers to be compared
            on its column; the others get their median, with ``auto``.
    """

    strategy: Literal[
        "auto", "median", "mean", "iterative_linear", "knn", "boosting", "iterative_rf", "native"
    ] = "auto"
    folds: int = 5
    repeats: int = 2
    max_rows: int = 5000
    max_columns: int = 12
    min_gap_share: float = 0.0


@dataclass(frozen=True)
class GateSettings:
    """How strict the gates are.

    Attributes:
        confidence: Of each one-sided bound.
        draws: Resamples behind it.
        error_margin: By which share of the champion's MAPE and wMAPE a model may be worse.
        within_margin: By how many points its share within 10% may be lower.
        segment_limit: By which share of its MAPE no segment may be worse.
        min_rows: Fewest held-out rows on which anything is decided.
        min_segment_rows: Fewest rows of a segment that is looked at.
        coverage_slack: By how much the intervals may hold less than they promise.
        prd_slack: By how much further from 1 the PRD may lie, outside the accepted range.
        prb_slack: By how much further from 0 the PRB may lie, outside the accepted range.
        latency_ms: Longest median time of one valuation.
        latency_factor: Most times the champion's.
        bundle_mib: Largest bundle.
    """

    confidence: float = 0.95
    draws: int = 2000
    error_margin: float = 0.02
    within_margin: float = 3.0
    segment_limit: float = 0.10
    min_rows: int = 200
    min_segment_rows: int = 30
    coverage_slack: float = 0.03
    prd_slack: float = 0.01
    prb_slack: float = 0.01
    latency_ms: float = 20.0
    latency_factor: float = 3.0
    bundle_mib: float = 512.0


@dataclass(frozen=True)
class RetrainSettings:
    """When a model is trained again, and on what.

    Attributes:
        psi: Population stability index from which a column has drifted.
        psi_windows: How many windows in a row it must have, in the same column. Windows that
            overlap hold the same rows and count once.
        importance: Share of the estimates' movement from which a column counts as important.
        performance: Whether a broken performance rule is a reason.
        performance_windows: How many windows in a row it must be broken, none overlapping.
        schedule_days: Age of the champion that is a reason; 0 switches it off.
        new_outcomes: Number of usable new outcomes that is a reason; 0 switches it off.
        cooldown_hours: Least time between two trainings, whatever became of the first; a refusal
            before a training is none.
        min_new_rows: Fewest usable new rows.
        budget: Most trainings in `budget_days`.
        budget_minutes: Most minutes of training in `budget_days`; 0 for no limit.
        budget_days: See `budget`.
        max_new_share: Largest share of new rows in the training table.
        max_client_share: Largest share of the training table that one client's rows may make up.
        outlier_spreads: Robust standard deviations, from what new rows have in common, beyond which
            a new row is set aside.
        client_spreads: The same for a client's rows as a whole.
        level_from: Shift, as a share, that all new outcomes have in common and from which the
            reference's values are brought to the new level; 0 never does. On a log scale only.
    """

    psi: float = 0.2
    psi_windows: int = 3
    importance: float = 0.05
    performance: bool = True
    performance_windows: int = 2
    schedule_days: float = 0.0
    new_outcomes: int = 0
    cooldown_hours: float = 24.0
    min_new_rows: int = 200
    budget: int = 4
    budget_minutes: float = 0.0
    budget_days: float = 30.0
    max_new_share: float = 0.5
    max_client_share: float = 0.25
    outlier_spreads: float = 6.0
    client_spreads: float = 6.0
    level_from: float = 0.05


SplitMethod = Literal["row_hash", "random"]

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
        offline: Skip everything that needs the network.
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
        test_share: Share of the rows in the held-out test set.
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
        average: Most models that the final one may average: the plain baseline, other seeds,
            another loss, the best of other families. Each is fitted in every fold, and taken where
            it pays.
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
    average: int = 2
    least_gain: float = 0.005
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
    """All settings of a training run.

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


_INFINITY = float("inf")
#: Lowest and highest value by key, both allowed.
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "download.timeout_s": (0.001, 86_400),
    "download.attempts": (1, 100),
    "download.synthetic_rows": (1, 10_000_000),
    "segregate.seed": (0, 2**32 - 1),
    "segregate.test_share": (0.01, 0.99),
    "segregate.max_refused_share": (0, 1),
    "segregate.min_rows": (1, _INFINITY),
    "impute.folds": (2, 100),
    "impute.repeats": (1, 100),
    "impute.max_rows": (100, 10_000_000),
    "impute.min_gap_share": (0, 1),
    "features.clusters": (0, 1000),
    "features.most_clusters": (2, 1000),
    "features.cross_fit_folds": (2, 1000),
    "features.max_one_hot": (0, 1000),
    "features.target_mean_weight": (0, _INFINITY),
    "features.max_near": (1, 100),
    "selection.folds": (2, 1000),
    "sweep.trials": (0, 100_000),
    "sweep.folds": (1, 1000),
    "sweep.slowdown": (1, 1000),
    "register.spatial_folds": (2, 1000),
    "register.coverage": (0.01, 0.999),
    "register.average": (1, 20),
    "register.least_gain": (0, 1),
    "register.parity_rows": (1, 100_000_000),
    "register.bootstrap_draws": (1, 1_000_000),
    "gates.confidence": (0.5, 0.9999),
    "gates.draws": (100, 1_000_000),
    "gates.min_rows": (10, _INFINITY),
    "gates.min_segment_rows": (5, _INFINITY),
    "gates.coverage_slack": (0, 1),
    "gates.latency_factor": (1, _INFINITY),
    "retraining.psi": (0, _INFINITY),
    "retraining.psi_windows": (1, 1000),
    "retraining.importance": (0, 1),
    "retraining.performance_windows": (1, 1000),
    "retraining.schedule_days": (0, _INFINITY),
    "retraining.new_outcomes": (0, _INFINITY),
    "retraining.cooldown_hours": (0, _INFINITY),
    "retraining.min_new_rows": (1, _INFINITY),
    "retraining.budget": (0, _INFINITY),
    "retraining.budget_minutes": (0, _INFINITY),
    "retraining.budget_days": (0.001, 36_500),
    "retraining.max_new_share": (0, 0.99),
    "retraining.max_client_share": (0, 1),
    "retraining.outlier_spreads": (1, _INFINITY),
    "retraining.client_spreads": (1, _INFINITY),
    "retraining.level_from": (0, 10),
    "ray.cpus": (1, 100_000),
    "ray.retries": (0, 1000),
}
#: (pattern, in words) by key.
_TEXTS: dict[str, tuple[str, str]] = {
    "register.alias": (r"[A-Za-z][A-Za-z0-9_-]*", "a letter, then letters, digits, '_' and '-'"),
    "sweep.study": (r"[A-Za-z0-9][\w.-]*", "letters, digits, '_', '-' and '.'"),
    "tracking.experiment": (r"\s*\S.*", "a name"),
    "tracking.wandb_project": (r"[\w.-]+", "letters, digits, '_', '-' and '.'"),
    "storage.workspace": (r"\s*\S.*", "a folder"),
}
# the smaller mean wins, so a metric that grows with quality cannot decide
_ERRORS = tuple(name for name in METRICS if name != "r2" and not name.startswith("within"))
_CHOICES: dict[str, tuple[str, ...]] = {"selection.scoring": _ERRORS, "sweep.metric": _ERRORS}


def check(where: str, value: Any) -> None:
    """Refuse a value of the right type that is invalid; other keys pass.

    Raises:
        ConfigError: Naming the key, what may stand there and what was found.
    """
    if where in _RANGES:
        low, high = _RANGES[where]
        if not low <= value <= high:  # NaN is in no range
            upto = "" if high == _INFINITY else f" and at most {high:,}"
            raise ConfigError(
                f"{where}: out of range", expected=f"at least {low:,}{upto}", got=repr(value)
            )
    if where in _TEXTS and not re.fullmatch(_TEXTS[where][0], value):
        raise ConfigError(f"{where}: cannot be used", expected=_TEXTS[where][1], got=repr(value))
    if where in _CHOICES and value not in _CHOICES[where]:
        raise ConfigError(f"{where}: expected one of {', '.join(_CHOICES[where])}, got {value!r}")


Settings = TypeVar("Settings")


def build(kind: type[Settings], plain: Any, where: str) -> Settings:
    """Return a `kind` (a dataclass) from a mapping; keys left out keep their defaults.

    Raises:
        ConfigError: Naming the key, what was expected there and what was found.
    """
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{where}: expected a group of settings, got {plain!r}")
    hints = get_type_hints(kind)
    names = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in plain:
        if key not in names:
            raise unknown(f"{where}.{key}", str(key), names)
    values = {key: convert(value, hints[key], f"{where}.{key}") for key, value in plain.items()}
    missing = [
        entry.name
        for entry in dataclasses.fields(kind)  # type: ignore[arg-type]
        if entry.name not in values
        and entry.default is dataclasses.MISSING
        and entry.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be set")
    return kind(**values)


def unknown(where: str, key: str, known: Collection[str]) -> ConfigError:
    """Return the error for a key that nobody reads."""
    close = difflib.get_close_matches(key, known, n=1)
    return ConfigError(
        f"{where}: unknown setting",
        expected=f"one of {', '.join(known)}",
        remedy=f"did you mean {close[0]!r}?" if close else None,
    )


def convert(value: Any, kind: Any, where: str) -> Any:
    """Return `value` as `kind`, a type as dataclass fields use them.

    Raises:
        ConfigError: It is of another type, or out of the range that `where` allows.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        options = [option for option in inner if option is not type(None)]
        return None if value is None else convert(value, options[0], where)
    if origin is Literal:
        if value is False and "off" in inner:  # what YAML makes of a bare off
            return "off"
        if value not in inner:
            raise ConfigError(
                f"{where}: expected one of {', '.join(map(str, inner))}, got {value!r}"
            )
        return value
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, "a list", value)
        return [convert(item, inner[0], f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, "a list", value)
        return tuple(convert(item, inner[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, "a mapping", value)
        return {str(key): convert(item, inner[1], f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, where)
    scalar = _scalar(value, kind, where)
    check(where, scalar)
    return scalar


def _scalar(value: Any, kind: Any, where: str) -> Any:
    # to Python a bool is an int: `trials=true` would be one trial
    is_flag = isinstance(value, bool)
    if kind is float and isinstance(value, (int, float)) and not is_flag:
        return float(value)
    if kind is int and isinstance(value, int) and not is_flag:
        return value
    if kind is bool and is_flag:
        return value
    if kind is str and isinstance(value, (str, int, float)) and not is_flag:
        # YAML reads a name such as 2026 as a number
        return str(value)
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    raise _wrong(where, words.get(kind, str(kind)), value)


def _wrong(where: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(f"{where}: wrong type", expected=expected, got=repr(value))
