"""The settings of a training run, of every stage; each with its range beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Interval, Predicate

from tasador.contract.model import TableContract
from tasador.core.errors import ConfigError
from tasador.core.parallel import EngineName, RaySettings
from tasador.metrics.regression import METRICS
from tasador.settings.validation import Matches

if TYPE_CHECKING:
    ErrorMetric = str
else:
    # the smaller mean wins, so a metric that grows with quality cannot decide
    ErrorMetric = Literal[
        tuple(name for name in METRICS if name != "r2" and not name.startswith("within"))
    ]
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

    clusters: Annotated[int, Interval(ge=0, le=1000)] | None = None
    clusters_by: Criterion = "error"
    most_clusters: Annotated[int, Interval(ge=2, le=1000)] = 20
    comparables: bool | None = None
    cross_fit_folds: Annotated[int, Interval(ge=2, le=1000)] = 20
    max_one_hot: Annotated[int, Interval(ge=0, le=1000)] = 12
    target_mean_weight: Annotated[float, Ge(0)] = 20.0
    max_near: Annotated[int, Interval(ge=1, le=100)] = 5


#: Whether estimates may only rise (``up``) or only fall (``down``) with a column.
Direction = Literal["up", "down"]


@dataclass(frozen=True)
class ModelSettings:
    """What estimates must keep to, whichever model is found.

    Attributes:
        monotone: By numeric column of the contract, ``up`` where no estimate may fall when it alone
            rises, ``down`` where none may rise, such as ``{living_area: up}``. Families that
            cannot keep to that are not compared, and nothing else is made from these columns.
        even_ratios: Whether estimates are stretched round their middle such that PRD and PRB come
            inside the range that the IAAO accepts, as far as 0.8% of the out-of-fold MAPE goes.
        half_life: Days in which the weight of a training row halves, counted back from the newest
            of the rows that a model is fitted on; null lets all ages count alike. It needs a
            column with the role ``timestamp``, and multiplies the weights of the role ``weight``.
        group: Whether one model per level of the column with the role ``group`` is compared with
            one for all rows, and taken where cross-validation says that it pays: ``auto`` or
            ``never``. Without such a column nothing is compared.
    """

    monotone: dict[str, Direction] | None = None
    even_ratios: bool = False
    half_life: Annotated[float, Interval(gt=0, le=1_000_000)] | None = None
    group: Literal["auto", "never"] = "auto"


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
    folds: Annotated[int, Interval(ge=2, le=1000)] = 5
    scoring: ErrorMetric = "mae"
    racing: bool = False
    max_rows: Annotated[int, Interval(ge=100, le=1_000_000_000)] | None = None


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
        patience: The sweep ends before its last trial when so many in a row have made the best no
            better than chance between the folds explains; null tries all of them.
        family: The family to tune, one of the selection's, from its best candidate on; null takes
            that of the best candidate of all.
        storage: Where trials are kept; null keeps them beside the step's cache. A database URL
            (``sqlite:///...``, ``postgresql+psycopg://...``) lets several workers share a study.
        wide: Whether to search the family's wide space; its models may be several times as large.
        study: Name of the study in `storage`. What is swept (rows, features, family, metric) is
            part of its full name, so that unlike sweeps never mix.
    """

    trials: Annotated[int, Interval(ge=0, le=100_000)] = 20
    folds: Annotated[int, Interval(ge=1, le=1000)] = 4
    metric: ErrorMetric = "wmape"
    slowdown: Annotated[float, Interval(ge=1, le=1000)] = 4.0
    pruner: Literal["hyperband", "halving", "none"] = "hyperband"
    patience: Annotated[int, Interval(ge=1, le=100_000)] | None = None
    wide: bool = False
    family: str | None = None
    storage: str | None = None
    study: Annotated[
        str, Predicate(Matches(r"[A-Za-z0-9][\w.-]*", "letters, digits, '_', '-' and '.'"))
    ] = "sweep"

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
    folds: Annotated[int, Interval(ge=2, le=100)] = 5
    repeats: Annotated[int, Interval(ge=1, le=100)] = 2
    max_rows: Annotated[int, Interval(ge=100, le=10_000_000)] = 5000
    max_columns: Annotated[int, Interval(ge=0, le=100_000)] = 12
    min_gap_share: Annotated[float, Interval(ge=0, le=1)] = 0.0


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

    confidence: Annotated[float, Interval(ge=0.5, le=0.9999)] = 0.95
    draws: Annotated[int, Interval(ge=100, le=1_000_000)] = 2000
    error_margin: Annotated[float, Interval(ge=0, le=10)] = 0.02
    within_margin: Annotated[float, Interval(ge=0, le=100)] = 3.0
    segment_limit: Annotated[float, Interval(ge=0, le=10)] = 0.10
    min_rows: Annotated[int, Ge(10)] = 200
    min_segment_rows: Annotated[int, Ge(5)] = 30
    coverage_slack: Annotated[float, Interval(ge=0, le=1)] = 0.03
    prd_slack: Annotated[float, Interval(ge=0, le=1)] = 0.01
    prb_slack: Annotated[float, Interval(ge=0, le=1)] = 0.01
    latency_ms: Annotated[float, Gt(0)] = 20.0
    latency_factor: Annotated[float, Ge(1)] = 3.0
    bundle_mib: Annotated[float, Gt(0)] = 512.0


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

    psi: Annotated[float, Ge(0)] = 0.2
    psi_windows: Annotated[int, Interval(ge=1, le=1000)] = 3
    importance: Annotated[float, Interval(ge=0, le=1)] = 0.05
    performance: bool = True
    performance_windows: Annotated[int, Interval(ge=1, le=1000)] = 2
    schedule_days: Annotated[float, Ge(0)] = 0.0
    new_outcomes: Annotated[int, Ge(0)] = 0
    cooldown_hours: Annotated[float, Ge(0)] = 24.0
    min_new_rows: Annotated[int, Ge(1)] = 200
    budget: Annotated[int, Ge(0)] = 4
    budget_minutes: Annotated[float, Ge(0)] = 0.0
    budget_days: Annotated[float, Interval(ge=0.001, le=36_500)] = 30.0
    max_new_share: Annotated[float, Interval(ge=0, le=0.99)] = 0.5
    max_client_share: Annotated[float, Interval(ge=0, le=1)] = 0.25
    outlier_spreads: Annotated[float, Ge(1)] = 6.0
    client_spreads: Annotated[float, Ge(1)] = 6.0
    level_from: Annotated[float, Interval(ge=0, le=10)] = 0.05


SplitMethod = Literal["row_hash", "random", "time"]

StepName = Literal["download", "segregate", "impute", "features", "select", "sweep", "register"]
STEP_NAMES: tuple[StepName, ...] = get_args(StepName)


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
    timeout_s: Annotated[float, Interval(ge=0.001, le=86_400)] = 10.0
    attempts: Annotated[int, Interval(ge=1, le=100)] = 2
    offline: bool = False
    synthetic_rows: Annotated[int, Interval(ge=1, le=10_000_000)] | None = None


@dataclass(frozen=True)
class SegregateSettings:
    """How rows are validated and split.

    Attributes:
        method: ``row_hash`` (stable when rows are added), ``random`` (scikit-learn's) or ``time``
            (the newest sales are the test part, and cross-validation goes forward in time). null is
            ``time`` where the contract names the date of the sale, else ``row_hash``; also where
            most rows lack the date, or the dates are too few to go forward in.
        seed: Salt of the hash, or random state.
        test_share: Share of the rows in the held-out test set.
        test_since: First day of the test part, such as 2014-01-01, by ``time``; null takes
            `test_share` of the rows.
        trend: Whether the level of prices is followed by month, where rows are split by time: sales
            are brought to its newest level before models learn from them, and estimates to the day
            asked for. Beyond the newest sale it goes on with a damped ``drift`` or is carried
            ``flat``; ``none`` follows nothing.
        max_refused_share: Share of refused rows above which the run stops.
        min_rows: Fewest rows to train on.
        suspicious: What becomes of training rows that look like no market sale: ``keep``, ``drop``,
            or ``unchecked``, which looks for none; null is ``keep`` where the contract names the
            date of the sale, else ``unchecked``. The test part keeps all of its rows; by ``drop`` a
            model that is fitted again (`register.refit`) does not learn from them.
        suspicion_threshold: Robust standard deviations from which a sale is suspicious.
        sales_review: File that `tasador sales` wrote and a person filled in: rows with ``yes`` in
            the column ``keep`` stay, those with ``no`` are left out of both parts.
    """

    method: SplitMethod | None = None
    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)] = 42
    test_share: Annotated[float, Interval(ge=0.01, le=0.99)] = 0.2
    test_since: (
        Annotated[str, Predicate(Matches(r"\d{4}-\d{2}-\d{2}", "a day such as 2014-01-01"))] | None
    ) = None
    trend: Literal["flat", "drift", "none"] = "drift"
    max_refused_share: Annotated[float, Interval(ge=0, le=1)] = 0.05
    min_rows: Annotated[int, Ge(1)] = 100
    suspicious: Literal["keep", "drop", "unchecked"] | None = None
    suspicion_threshold: Annotated[float, Interval(ge=2, le=100)] = 5.0
    sales_review: str | None = None


class ClassesError(ConfigError):
    """Classes of confidence that overlap."""

    @classmethod
    def of(cls, high: float, medium: float) -> ClassesError:
        """Return the error of a class M that begins above H."""
        return cls(
            "the classes of confidence are out of order",
            expected=f"register.confidence_medium up to register.confidence_high, {high:g}",
            got=f"{medium:g}",
        )


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
        out_of_fold: Whether a training row that is valued later gets its out-of-fold estimate, of
            models that did not learn from it: the final model's own would seem better than it is.
            Never where neither place nor date says which thing a row is: equal rows are then often
            different things.
        confidence_high: Least confidence, 100 (1 - FSD), of the class H.
        confidence_medium: Least confidence of the class M; below is L.
        refit: Whether the shipped model is fitted again on all usable rows, those of the test part
            included, after the evaluation, which is of the model before: ``always``, ``never``, or
            ``auto``, where rows are split by time, so that it has seen the newest sales. Rows that
            a model is measured on later have to be known again, by `out_of_fold`; ``auto`` does not
            refit where they are not.
        backtest: The newest years whose sales are valued for the run report by what was known
            before each, where rows are split by time; 0 for none. It decides nothing.
    """

    spatial_folds: Annotated[int, Interval(ge=2, le=1000)] = 5
    fold_rows: Annotated[int, Ge(1)] = 100_000
    coverage: Annotated[float, Interval(ge=0.01, le=0.999)] = 0.9
    parity_rows: Annotated[int, Interval(ge=1, le=100_000_000)] = 200_000
    bootstrap_draws: Annotated[int, Interval(ge=1, le=1_000_000)] = 1000
    alias: Annotated[
        str,
        Predicate(
            Matches(r"[A-Za-z][A-Za-z0-9_-]*", "a letter, then letters, digits, '_' and '-'")
        ),
    ] = "staging"
    average: Annotated[int, Interval(ge=1, le=20)] = 2
    least_gain: Annotated[float, Interval(ge=0, le=1)] = 0.005
    smearing: Literal["auto", "none", "duan"] = "auto"
    out_of_fold: bool = True
    refit: Literal["auto", "always", "never"] = "auto"
    backtest: Annotated[int, Interval(ge=0, le=200)] = 3
    confidence_high: Annotated[float, Interval(ge=0, le=100)] = 85.0
    confidence_medium: Annotated[float, Interval(ge=0, le=100)] = 70.0

    def __post_init__(self) -> None:
        if self.confidence_medium > self.confidence_high:
            raise ClassesError.of(*self.confidence_cuts)

    @property
    def confidence_cuts(self) -> tuple[float, float]:
        """Least confidence of the classes H and M."""
        return self.confidence_high, self.confidence_medium


@dataclass(frozen=True)
class StorageSettings:
    """Where a run's outputs go.

    Attributes:
        workspace: Folder of the runs, bundles, caches and the embedded registry.
    """

    workspace: Annotated[str, Predicate(Matches(r"\s*\S.*", "a folder"))] = "workspace"


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
    experiment: Annotated[str, Predicate(Matches(r"\s*\S.*", "a name"))] = "tasador"
    wandb: Literal["off", "offline", "online"] = "off"
    wandb_project: Annotated[
        str, Predicate(Matches(r"[\w.-]+", "letters, digits, '_', '-' and '.'"))
    ] = "tasador"
    signing_key: str | None = None


@dataclass(frozen=True)
class RunSettings:
    """All settings of a training run.

    Attributes:
        contract: The table's contract, from the group ``dataset``.
        seed: From which every random choice is derived.
        steps: Steps to run; empty runs all. What they need comes from the cache or is
            made.
        from_step: The first step to run; null begins at the beginning.
        force: Run the asked steps even when their results are cached.
        download: How the table is looked for.
        segregate: How rows are validated and split.
        impute: What stands in for missing numbers.
        features: Choices about features.
        model: What estimates must keep to.
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
    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)] = 42
    steps: list[StepName] = field(default_factory=list)
    from_step: StepName | None = None
    force: bool = False
    download: DownloadSettings = field(default_factory=DownloadSettings)
    segregate: SegregateSettings = field(default_factory=SegregateSettings)
    impute: ImputationSettings = field(default_factory=ImputationSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    sweep: SweepSettings = field(default_factory=SweepSettings)
    register: RegisterSettings = field(default_factory=RegisterSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    gates: GateSettings = field(default_factory=GateSettings)
    retraining: RetrainSettings = field(default_factory=RetrainSettings)
    engine: EngineName = "local"
    ray: RaySettings = field(default_factory=RaySettings)
