"""Final figures: cross-validated on train, and once on the held-out test set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column, TableContract
from tasador.core.parallel import in_parallel
from tasador.core.progress import progress
from tasador.data.table import Part, SealedPart
from tasador.metrics.ratio_study import (
    By,
    RatioGroup,
    RivalFigures,
    ratio_groups,
    rival_figures,
)
from tasador.metrics.regression import (
    Estimate,
    all_metrics,
    bootstrap_metrics,
    mape,
    relative_errors,
    within_10,
)
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.ensembling import Member
from tasador.selection.folds import Fold, held_out
from tasador.selection.grouped import fit_member, threads_of_fits
from tasador.selection.weakest_segments import WeakestSegments, weakest_segments

Floats = NDArray[np.float64]
#: Encoded rows (n, p) -> estimates (n,), lower and upper ends of their intervals (n,), forecast
#: standard deviations (n,) or None.
Value = Callable[[Floats], tuple[Floats, Floats, Floats, Floats | None]]


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold answers of one model.

    Attributes:
        rows: Shape (n,): positions in the part of the rows that were held out, ascending.
        score: Shape (n,): their estimates on the transformed scale, each by a model that did not
            see the row.
        Z: Shape (n, q): the features on which each was made, in the order asked for; NaN where a
            fold has no such feature.
        metrics: Every metric over these rows.
        spread: The standard deviation of each between the folds; 0 with one fold.
    """

    rows: NDArray[np.intp]
    score: Floats
    Z: Floats
    metrics: dict[str, float]
    spread: dict[str, float]


@dataclass(frozen=True)
class Group:
    """How the model does on some of the test rows.

    Attributes:
        name: What the rows have in common.
        rows: How many they are.
        mape: Mean absolute percentage error.
        within_10: Share, in percent, estimated within 10% of the actual value.
        ratio: Median of the estimates over the actual values; NaN when none is positive.
        coverage: Share inside the interval, in [0, 1].
    """

    name: str
    rows: int
    mape: float
    within_10: float
    ratio: float
    coverage: float


@dataclass(frozen=True)
class EvaluationReport:
    """The final figures, and what they were measured on.

    Attributes:
        test: Every metric on the held-out test set with its bootstrap interval.
        random_cv: Metrics by random cross-validation on train.
        time_cv: The same by folds that go forward in time; None where rows were not split by time.
        spatial_cv: The same with whole areas held out; None without coordinates.
        coverage: Share of test rows inside their interval.
        promised: Share that the interval promises.
        segments: Figures by segment; empty without a segment column.
        deciles: Figures by tenth of the actual values, the lowest first.
        capped: Figures below and at the contract's cap; empty without one.
        fairness: Figures by the columns of the contract's ``fairness``, of rows whose actual value
            is positive; empty without such columns.
        weakest: Where the model errs most.
        actual: The test part's targets.
        predicted: Their estimates.
        lower: Lower ends of their intervals.
        upper: Upper ends.
        X: The test part's encoded rows.
        row_hash: Hashes of their content.
        rivals: Other people's estimates of the same rows beside the model's.
        openings: Why the held-out test set was opened, once each.
        fsd: Forecast standard deviations of their relative errors; None where there are none.
    """

    test: dict[str, Estimate]
    random_cv: dict[str, float]
    time_cv: dict[str, float] | None
    spatial_cv: dict[str, float] | None
    coverage: float
    promised: float
    segments: tuple[Group, ...]
    deciles: tuple[Group, ...]
    capped: tuple[Group, ...]
    fairness: tuple[RatioGroup, ...]
    weakest: WeakestSegments
    actual: Floats
    predicted: Floats
    lower: Floats
    upper: Floats
    X: Floats
    row_hash: NDArray[np.uint64]
    openings: tuple[str, ...]
    fsd: Floats | None = None
    rivals: tuple[RivalFigures, ...] = ()

    @property
    def relative_errors(self) -> Floats:
        """Absolute errors (n,) over the actual values; infinite where that is zero."""
        return relative_errors(self.actual, self.predicted, np.inf)


def out_of_fold(
    members: Sequence[Member],
    folds: Sequence[Fold],
    part: Part,
    transform: TargetTransform,
    description: str,
    group: Column | None = None,
) -> list[Floats]:
    """Fit each model on every fold and score the held-out rows, on all cores.

    Args:
        members: The models.
        folds: The folds.
        part: The rows.
        transform: The target's transform.
        description: What the progress bar says.
        group: The category by whose levels grouped models are fitted.

    Returns:
        For each model the scores (n,) on the transformed scale, each by a fit that did not see
        the row; NaN for rows that no fold holds out.
    """
    target = transform.forward(part.y)
    scores = [np.full(len(part), np.nan) for _ in members]
    tasks = [(m, fold) for m in range(len(members)) for fold in folds]
    threads = threads_of_fits(len(tasks), min((len(fold.fit_rows) for fold in folds), default=0))

    def work(place: int) -> Floats:
        m, fold = tasks[place]
        model = fit_member(
            members[m],
            fold.Z_fit,
            fold.names,
            fold.kinds,
            target[fold.fit_rows],
            group,
            threads[place],
            fold.weight,
        )
        return model.predict(fold.Z_held)

    with progress(description, len(tasks)) as advance:
        for place, found in in_parallel(work, range(len(tasks))):
            m, fold = tasks[place]
            scores[m][fold.held_rows] = found
            advance()
    return scores


def cross_validation(
    score: Floats,
    folds: Sequence[Fold],
    part: Part,
    transform: TargetTransform,
    names: Sequence[str],
) -> CrossValidation:
    """Put out-of-fold scores together with the features and the metrics.

    Args:
        score: Shape (n,): out-of-fold scores of all rows on the transformed scale, NaN where no
            fold held a row out.
        folds: The folds they come from.
        part: The rows.
        transform: The target's transform.
        names: The features to keep of each held-out row.
    """
    rows = held_out(folds)
    Z = np.full((len(rows), len(names)), np.nan)
    for fold in folds:
        places = np.searchsorted(rows, fold.held_rows)
        for column, feature in enumerate(names):
            # a fold whose fitting rows lack nothing has no column that says so
            if feature in fold.names:
                Z[places, column] = fold.Z_held[:, fold.names.index(feature)]
    each = [
        all_metrics(part.y[fold.held_rows], transform.inverse(score[fold.held_rows]))
        for fold in folds
    ]
    metrics = all_metrics(part.y[rows], transform.inverse(score[rows]))
    spread = {
        name: float(np.std([one[name] for one in each], ddof=1)) if len(each) > 1 else 0.0
        for name in metrics
    }
    return CrossValidation(rows, score[rows], Z, metrics, spread)


def evaluate(
    value: Value,
    sealed: SealedPart,
    contract: TableContract,
    *,
    random_cv: dict[str, float],
    time_cv: dict[str, float] | None,
    spatial_cv: dict[str, float] | None,
    promised: float,
    draws: int,
    seed: int,
    reason: str,
    found_on: tuple[Floats, Floats],
    by: Callable[[Part], By],
    rivals: Callable[[Part], Mapping[str, Floats]] = lambda _: {},
) -> EvaluationReport:
    """Open the held-out test set and measure the final model on it.

    This is the only place that opens it; `reason` is kept in the report. `found_on` are encoded
    training rows and their errors, as `weakest_segments` takes them; `by` returns the rows of the
    groups to compare, `rivals` other people's estimates (n,) of the rows, by name.
    """
    part = sealed.open(reason)
    predicted, lower, upper, fsd = value(part.X)
    inside = (lower <= part.y) & (part.y <= upper)

    positive = part.y > 0
    fairness = ratio_groups(
        part.y[positive],
        predicted[positive],
        {
            title: {name: rows[positive] for name, rows in some.items()}
            for title, some in by(part).items()
        },
        inside=inside[positive],
        promised=promised,
    )
    held = (part.X, part.y, predicted)

    def group(name: str, rows: NDArray[np.bool_]) -> Group:
        return _group(name, part.y[rows], predicted[rows], inside[rows])

    return EvaluationReport(
        test=bootstrap_metrics(part.y, predicted, draws=draws, seed=seed),
        random_cv=random_cv,
        time_cv=time_cv,
        spatial_cv=spatial_cv,
        coverage=float(np.mean(inside)),
        promised=promised,
        segments=tuple(group(name, rows) for name, rows in _by_segment(contract, part)),
        deciles=tuple(group(name, rows) for name, rows in _by_decile(part.y)),
        capped=tuple(group(name, rows) for name, rows in _by_cap(contract, part.y)),
        fairness=fairness,
        weakest=weakest_segments(contract, *found_on, held, dated=time_cv is not None),
        actual=part.y,
        predicted=predicted,
        lower=lower,
        upper=upper,
        X=part.X,
        row_hash=part.row_hash,
        openings=tuple(sealed.openings),
        fsd=fsd,
        rivals=rival_figures(part.y, predicted, rivals(part)),
    )


Rows = Iterator[tuple[str, NDArray[np.bool_]]]


def _group(name: str, actual: Floats, predicted: Floats, inside: NDArray[np.bool_]) -> Group:
    positive = actual > 0
    ratio = float("nan")
    if positive.any():
        ratio = float(np.median(predicted[positive] / actual[positive]))
    return Group(
        name=name,
        rows=len(actual),
        mape=mape(actual, predicted),
        within_10=within_10(actual, predicted),
        ratio=ratio,
        coverage=float(np.mean(inside)),
    )


def _by_segment(contract: TableContract, part: Part) -> Rows:
    column = contract.with_role("segment")
    if column is None:
        return
    codes = part.X[:, contract.position(column.name)]
    for code in np.unique(codes[~np.isnan(codes)]):
        known = column.kind == "category" and code < len(column.categories)
        yield column.categories[int(code)] if known else f"{code:g}", codes == code


def _by_decile(actual: Floats) -> Rows:
    """Yield tenths of the rows; equal values stay together, so that a cap makes fewer groups."""
    edges = np.unique(np.quantile(actual, np.linspace(0.1, 1.0, 10), method="higher"))
    place = np.searchsorted(edges, actual)
    for number, edge in enumerate(edges):
        yield f"up to {edge:,.6g}", place == number


def _by_cap(contract: TableContract, actual: Floats) -> Rows:
    cap = contract.target.cap
    if cap is None:
        return
    for name, rows in ((f"below the cap of {cap:,.6g}", actual < cap), ("at it", actual >= cap)):
        if rows.any():
            yield name, rows
