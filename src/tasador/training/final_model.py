"""The final model: which models it averages, how they are fitted, exported and proved."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core import seeds
from tasador.core.errors import TrainingError
from tasador.core.parallel import in_parallel, usable_cores
from tasador.metrics.regression import METRICS, all_metrics
from tasador.modeling.confidence import ConfidenceModel, JointRange
from tasador.modeling.conformal import ConformalInterval
from tasador.modeling.expected_errors import fit_confidence
from tasador.modeling.parity import Parity, Predict, check_parity
from tasador.modeling.trend import trend_of
from tasador.selection.ensembling import (
    BaselineComparison,
    Bias,
    Member,
    Outcome,
    Pick,
    Stretch,
    find_stretch,
    measure_bias,
    pick_members,
    pool_of,
)
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import keeps_monotone
from tasador.selection.feature_worth import BASELINE_FAMILY, BASELINE_PARAMS
from tasador.selection.folds import (
    Fold,
    FoldAssignment,
    assign_folds,
    blocked_assignment,
    held_out,
    make_folds,
    random_assignment,
)
from tasador.selection.grouped import (
    LEAST_ROWS,
    FittedMember,
    GroupComparison,
    fit_member,
    own_levels,
    threads_of_fits,
)
from tasador.selection.test_metrics import CrossValidation, cross_validation, out_of_fold
from tasador.settings.run import RunSettings
from tasador.training.context import Evidence, Rows, RunContext
from tasador.training.errors import RunSettingsError
from tasador.training.model_steps import folds_of, pipeline_of
from tasador.training.sales import not_dropped
from tasador.trees.ensemble import LinearModel, TreeEnsemble, average, stretched
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor
from tasador.trees.tree_shap import Contributions, LinearContributions, TreeContributions

Floats = NDArray[np.float64]

_log = logging.getLogger(__name__)
_TIMED_CALLS = 200
#: Most rows that a fold fits on. Models that learn from fewer rows err more, if anything, than the
#: final one: its intervals, which come from these folds, get wider by that and not narrower.
_FOLD_FITS = 200_000


@dataclass(frozen=True)
class FinalChoice:
    """What the final model is, decided on training rows only.

    Attributes:
        members: The models it averages.
        picks: How they were found.
        bias: The bias measured out of fold, and the correction.
        stretch: How estimates are stretched after that; None where that was not asked for.
        cv: Its out-of-fold answers; by folds forward in time where rows were split by time.
        random_cv: The same with rows held out by chance, which shows by how much those flatter it;
            None where `cv` is that.
        baseline: How the plain baseline compares.
        groups: How models per level of the contract's group compare; None where it has none, or
            where they are not asked for.
    """

    members: tuple[Member, ...]
    picks: tuple[Pick, ...]
    bias: Bias
    cv: CrossValidation
    random_cv: CrossValidation | None
    baseline: BaselineComparison
    stretch: Stretch | None = None
    groups: GroupComparison | None = None

    @property
    def shift(self) -> float:
        """What is added to scores for the correction of the bias."""
        return float(np.log(self.bias.factor))

    def corrected(self, score: Floats) -> Floats:
        """Return the mean score (n,) of the members as the final model has it."""
        score = score + self.shift
        if self.stretch is None:
            return score
        return self.stretch.factor * score + self.stretch.shift

    def unstretched(self, score: Floats) -> Floats:
        """Return scores (n,) of the final model as they are without the stretch."""
        if self.stretch is None:
            return score
        return (score - self.stretch.shift) / self.stretch.factor


@dataclass(frozen=True)
class FittedModel:
    """The fitted and exported model.

    Attributes:
        exported: The average of the models.
        library: What the libraries that fitted them answer.
        model: The ONNX graph.
        onnx: The same, ready to run.
    """

    exported: TreeEnsemble | LinearModel
    library: Predict
    model: bytes
    onnx: OnnxRegressor


@dataclass(frozen=True)
class FinalModel:
    """The fitted model as it is shipped.

    Attributes:
        model: The ONNX graph.
        parity: How exactly it answers as the libraries do.
        contributions: What explains it.
        microseconds: Median time of one row in the graph, in this process.
    """

    model: bytes
    parity: Parity
    contributions: Contributions
    microseconds: float


def choose_final(run: RunContext, made: Evidence) -> FinalChoice:
    """Pick the models to average and measure their bias, by out-of-fold scores.

    Where rows were split by time, rows among known ones are evaluated beside later ones: a model
    for the one may be worse than the plain baseline for the other.
    """
    settings, train = run.settings, made.train
    found, most = made.sweep.result, settings.register.average
    runners_up = [
        (c.family, family(c.family).slow(c.params, settings.sweep.slowdown_for(len(train))))
        for c in made.search.best_of_families()
        if c.family != found.family
    ][: most - 1]
    groups, group = _groups_to_try(run, made), settings.contract.with_role("group")
    grouped = groups is not None and not groups.reason
    # the baseline takes one of the places
    pool = pool_of(
        found.family, found.final_params, runners_up, most - 1, settings.seed, grouped=grouped
    )
    kinds = made.features.fitted.kinds
    pool = [m for m in pool if keeps_monotone(family(m.family), m.params, kinds)]
    plain = Member(
        BASELINE_FAMILY, BASELINE_PARAMS, seeds.derive_seed(settings.seed, BASELINE_FAMILY)
    )
    models, number, seed = [*pool, plain], settings.selection.folds, settings.seed
    folds = _folds_of_all(run, made, assign_folds(train, number, seed))
    by_chance = []
    if train.time is not None:  # their own folds go forward
        dealt = random_assignment(len(train), number, seed, train.property_hash)
        by_chance = _folds_of_all(run, made, dealt)
    rows, known = held_out(folds), held_out(by_chance)
    scores = out_of_fold(models, folds, train, run.transform, "cross-validation", group)
    random = out_of_fold(models, by_chance, train, run.transform, "random cross-validation", group)
    metric, actual = settings.sweep.metric, train.y[rows]
    joint = [np.append(s[rows], r[known]) for s, r in zip(scores, random, strict=True)]
    paid = np.append(actual, train.y[known])

    def error(score: Floats) -> float:
        return METRICS[metric](paid, run.transform.inverse(score))

    errors = [error(score) for score in joint]
    order, levels = list(range(len(pool))), 0 if groups is None else len(groups.levels)
    least = settings.register.least_gain * levels
    if pool[-1].grouped and errors[len(pool) - 1] <= (1 - least) * errors[0]:
        order = [order[-1], *order[:-1]]
    pool, joint_of_pool = _with_baseline(
        run.settings,
        [models[i] for i in order],
        plain,
        [joint[i] for i in (*order, -1)],
        errors[-1] < errors[order[0]],
    )
    picks = pick_members(
        pool,
        joint_of_pool,
        paid,
        run.transform,
        metric=metric,
        most=most,
        least_gain=settings.register.least_gain,
        levels=levels,
    )
    members = tuple(pick.member for pick in picks if pick.taken)
    taken = [models.index(member) for member in members]
    bias = measure_bias(
        np.mean([joint[i] for i in taken], axis=0),
        paid,
        run.transform,
        metric=metric,
        choice=settings.register.smearing,
    )
    shifted, random_score = (
        np.mean([found[i] for i in taken], axis=0) + np.log(bias.factor)
        for found in (scores, random)
    )
    stretch = None
    if settings.model.even_ratios:
        stretch = find_stretch(shifted[rows], actual, run.transform)
        shifted, random_score = (
            stretch.factor * score + stretch.shift for score in (shifted, random_score)
        )
    names = made.features.fitted.names
    cv = cross_validation(shifted, folds, train, run.transform, names)
    random_cv = None
    if by_chance:
        random_cv = cross_validation(random_score, by_chance, train, run.transform, names)
    before, plain_error = (
        METRICS[metric](actual, run.transform.inverse(scores[i][rows])) for i in (0, -1)
    )
    outcome: Outcome = "worse"
    if plain in members:
        outcome = "averaged" if len(members) > 1 else "final model"
    elif plain not in pool and plain_error < cv.metrics[metric]:
        outcome = "better, but not compared"
    compared = BaselineComparison(
        metric,
        plain_error,
        before,
        cv.metrics[metric],
        all_metrics(actual, run.transform.inverse(scores[-1][rows])),
        outcome,
    )
    if groups is not None and not groups.reason:
        pooled = min(errors[models.index(m)] for m in (models[0], plain) if m in pool)
        own = next(e for m, e in zip(models, errors, strict=True) if m.grouped)
        groups = groups.decided(metric, pooled, own, picks)
    return FinalChoice(members, tuple(picks), bias, cv, random_cv, compared, stretch, groups)


def _groups_to_try(run: RunContext, made: Evidence) -> GroupComparison | None:
    """Return what is known of models per group before any is fitted, with why none will be."""
    column, found = run.settings.contract.with_role("group"), made.sweep.result
    if column is None or run.settings.model.group == "never":
        return None
    features = made.features.fitted
    levels = own_levels(column, features.names, features.kinds, made.features.Z)
    reason = ""
    if family(found.family).linear:
        reason = f"{family(found.family).title} is one model for all rows"
    elif not levels:
        reason = f"none of several levels has {LEAST_ROWS} rows"
    return GroupComparison(
        column.name, levels=tuple(sorted(level.name for level in levels)), reason=reason
    )


def _with_baseline(
    settings: RunSettings, pool: list[Member], plain: Member, scores: list[Floats], first: bool
) -> tuple[list[Member], list[Floats]]:
    """Return the models that may be taken and their scores, with the baseline among them.

    It comes first, and so is the final model or its first part, where it is better than the sweep's
    model. It is left out where LightGBM is not compared, and where another family is asked for.
    """
    own = scores[: len(pool)]
    asked = settings.sweep.family
    if BASELINE_FAMILY not in settings.selection.families or asked not in (None, BASELINE_FAMILY):
        return pool, own
    if first:  # linear models cannot be averaged with the baseline's trees
        trees = [i for i, member in enumerate(pool) if not family(member.family).linear]
        return [plain, *(pool[i] for i in trees)], [scores[-1], *(own[i] for i in trees)]
    if family(pool[0].family).linear:
        return pool, own
    return [*pool, plain], scores


def _folds_of_all(run: RunContext, made: Evidence, assignment: FoldAssignment) -> list[Fold]:
    """Return the folds of all training rows, as many as it takes for `register.fold_rows`."""
    assignment = assignment.at_most(_FOLD_FITS)
    numbers = assignment.enough(run.settings.register.fold_rows)
    wanted = [(assignment, number) for number in numbers]
    return folds_of(run, made.train, made.features.choice, wanted)


def spatial_cross_validation(
    run: RunContext, made: Evidence, choice: FinalChoice
) -> CrossValidation | None:
    """Return the model's answers with whole areas held out; None without coordinates."""
    settings, train, fitted = run.settings, made.train, made.features.fitted
    points = fitted.points(train.X)
    if settings.contract.coordinates is None or points is None:
        return None
    assignment = blocked_assignment(points, settings.register.spatial_folds, settings.seed)
    assignment = assignment.at_most(_FOLD_FITS)
    numbers = assignment.enough(settings.register.fold_rows)
    pipeline = pipeline_of(run, made.features.choice)
    folds = list(make_folds(train, assignment, pipeline, run.transform, numbers))
    group, what = settings.contract.with_role("group"), "spatial cross-validation"
    scores = out_of_fold(choice.members, folds, train, run.transform, what, group)
    score = choice.corrected(np.mean(scores, axis=0))
    return cross_validation(score, folds, train, run.transform, fitted.names)


def fit_final(run: RunContext, made: Evidence, choice: FinalChoice) -> FittedModel:
    """Fit on all training rows, and export."""
    train, Z = made.train, made.features.Z
    target, members = run.transform.forward(train.y), choice.members
    threads = threads_of_fits(len(members), len(train))
    names, kinds = made.features.fitted.names, made.features.fitted.kinds
    group, weight = run.settings.contract.with_role("group"), train.fit_weight()

    def fit(place: int) -> FittedMember:
        return fit_member(members[place], Z, names, kinds, target, group, threads[place], weight)

    workers = max(1, usable_cores() // threads[0])
    fitted = dict(in_parallel(fit, range(len(members)), workers=workers))
    models = [fitted[i].export() for i in range(len(members))]
    libraries = [partial(fitted[i].predict, threads=0) for i in range(len(members))]
    exported = average(models, choice.shift)
    if choice.stretch is not None:
        exported = stretched(exported, choice.stretch.factor, choice.stretch.shift)
    model = to_onnx(exported)
    onnx = OnnxRegressor(model, threads=2)
    return FittedModel(exported, _mean(libraries, choice), model, onnx)


def prove(run: RunContext, fitted: FittedModel, Z: Floats, seed: int) -> FinalModel:
    """Prove that the export answers as the libraries do, on rows like those of `Z` (n, q)."""
    exported, model = fitted.exported, fitted.model
    parity = check_parity(
        fitted.library,
        fitted.onnx,
        Z,
        rows=run.settings.register.parity_rows,
        seed=seed,
        thresholds=exported.thresholds() if isinstance(exported, TreeEnsemble) else None,
    )
    return FinalModel(model, parity, _contributions(exported, Z), _time_one_row(model, Z))


def check_refit(settings: RunSettings) -> None:
    """Refuse a refit after which the rows of the test part would not be known again.

    Raises:
        RunSettingsError: The settings ask for one.
    """
    known = settings.register.out_of_fold and settings.contract.rows_have_identity
    if settings.register.refit == "always" and not known:
        raise RunSettingsError.refit_forgets()


def is_refitted(settings: RunSettings, rows: Rows) -> bool:
    """Tell whether the shipped model learns from all rows, after the evaluation."""
    asked = settings.register
    if asked.refit != "auto":
        return asked.refit == "always"
    return rows.train.time is not None and asked.out_of_fold


@dataclass(frozen=True)
class Estimates:
    """Estimates of training rows by models that had not seen them.

    Attributes:
        rows: Shape (m,): their positions in the training part.
        score: Shape (m,): on the transformed scale, at the newest level.
        half_widths: Shape (m,): half the width of their intervals; NaN where those are the bundle's
            own.
    """

    rows: NDArray[np.intp]
    score: Floats
    half_widths: Floats

    def moved(self, gain: Floats) -> Estimates:
        """Return them with what the scores of all training rows (n,) gain."""
        return replace(self, score=self.score + gain[self.rows])

    def joined(self, other: Estimates) -> Estimates:
        """Return these and those of other rows behind them."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Estimates(*(np.concatenate(pair) for pair in pairs))


def segments_of(contract: TableContract, X: Floats) -> Floats | None:
    """Return the codes (n,) of the segment column of encoded rows; None without one."""
    column = contract.with_role("segment")
    return None if column is None else X[:, contract.position(column.name)]


def interval_ends(
    contract: TableContract,
    interval: ConformalInterval,
    confidence: ConfidenceModel | None,
    X: Floats,
    Z: Floats,
    score: Floats,
    far: NDArray[np.bool_] | None = None,
    level_error: Floats | None = None,
    *,
    coverage: float | None = None,
) -> tuple[Floats, Floats, Floats | None]:
    """Return the ends of intervals and the forecast standard deviation, as the bundle has them.

    Without a model of the errors' size the ends are those of `interval`, and the deviation is None.
    """
    if confidence is None:
        return *interval.bounds(score, Z, far, level_error), None
    return confidence.bounds(Z, score, segments_of(contract, X), far, level_error, coverage)


def expected_errors(
    run: RunContext, made: Evidence, cv: CrossValidation, spatial: CrossValidation | None
) -> tuple[ConfidenceModel, bytes] | None:
    """Learn the size of errors out of fold, with its graph; None where too few rows have one."""
    settings, train, contract = run.settings.register, made.train, run.settings.contract
    target = run.transform.forward(train.y)
    numbers = [
        position
        for position, column in enumerate(contract.features)
        if column.kind in ("number", "integer")
    ]
    try:
        model, graph = fit_confidence(
            cv.Z,
            cv.score,
            target[cv.rows],
            segments_of(contract, train.X[cv.rows]),
            JointRange.of(train.X, np.array(numbers, dtype=np.intp)),
            log=run.transform.kind == "log",
            coverage=settings.coverage,
            cuts=settings.confidence_cuts,
            seed=seeds.derive_seed(run.settings.seed, "confidence"),
        )
    except TrainingError as error:
        _log.warning("estimates get no confidence: %s", error)
        return None
    if spatial is not None:
        rows, Z, score = spatial.rows, spatial.Z, spatial.score
        segments, far = segments_of(contract, train.X[rows]), made.features.fitted.far(Z)
        model = model.widened(Z, score, segments, target[rows] - score, far)
    return model, graph


def all_rows(
    run: RunContext,
    made: Evidence,
    onnx: OnnxRegressor,
    interval: ConformalInterval,
    confidence: ConfidenceModel | None = None,
) -> tuple[Evidence, Floats, Estimates]:
    """Return the evidence with every usable row in train, fitted again, and what is known of them.

    Behind the training rows come the test part, which is opened, and earlier sales of its
    properties.

    Args:
        run: What the steps share.
        made: The evidence, with the training rows that `onnx` was fitted on.
        onnx: The model that was evaluated.
        interval: Its interval.
        confidence: How large its errors are where; None takes the interval's width.

    Returns:
        The evidence, with trend and features fitted on all rows; what scores (n,) of the former
        training rows gain at the level of that trend; and the estimates of the other rows by
        `onnx`, which had not seen them.
    """
    rows, settings, before = made.rows, run.settings, made.rows.trend
    held = rows.test.open("fitted on again by the shipped model, after the evaluation")
    if rows.earlier is not None:
        held = held.joined(rows.earlier)
    plain, train = run.transform, rows.train
    if before is not None and train.time is not None:
        paid = replace(plain, trend=before).recorded(plain.forward(train.y), train.time)
        train = replace(train, y=paid)
    learn = not_dropped(train, held, settings.contract, settings.segregate, rows.kept)
    held = held.take(learn)
    train, trend = train.joined(held), None
    gain = np.zeros(len(train))
    if before is not None and train.time is not None:
        trend = trend_of(
            settings.contract, train.X, plain.forward(train.y), train.property_hash,
            carry=before.carry, seed=settings.segregate.seed,
        )  # fmt: skip
        gain = before.at(train.time)  # estimates at the rows' own dates stay what they were
        if trend is not None:
            gain = gain - trend.at(train.time)
        train = replace(train, y=replace(plain, trend=trend).at_newest_level(train.y, train.time))
    pipeline = pipeline_of(run, made.features.choice)
    fitted, Z = pipeline.fit_transform(train.X, plain.forward(train.y))
    n, known, level = len(rows.train), made.features.fitted, replace(plain, trend=before)
    Z_held = known.transform(held.X)
    score = onnx.predict(Z_held)
    far, level_error = known.far(Z_held), level.level_error(held.time)
    low, high, _ = interval_ends(
        settings.contract, interval, confidence, held.X, Z_held, score, far, level_error
    )
    found = Estimates(np.arange(n, len(train)), score, (high - low) / 2.0).moved(gain)
    every = replace(
        made,
        rows=replace(rows, train=train, trend=trend),
        features=replace(made.features, fitted=fitted, Z=Z),
    )
    return every, gain, found


def _mean(predictors: Sequence[Predict], choice: FinalChoice) -> Predict:
    def predict(Z: Floats) -> Floats:
        total = predictors[0](Z)
        for other in predictors[1:]:
            total = total + other(Z)
        return choice.corrected(total / len(predictors))

    return predict


def _contributions(model: TreeEnsemble | LinearModel, Z: Floats) -> Contributions:
    if isinstance(model, TreeEnsemble):
        return TreeContributions(model)
    return LinearContributions.of_model(model, model.clip(Z).mean(axis=0))


def _time_one_row(model: bytes, Z: Floats) -> float:
    onnx, times = OnnxRegressor(model), []  # one thread, as a service values a single row
    for i in range(min(_TIMED_CALLS, len(Z))):
        started = time.perf_counter()
        onnx.predict(Z[i : i + 1])
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e6
