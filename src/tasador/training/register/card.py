"""What the register step shows, and what a reviewer gets: cards, report, model card, rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core import seeds
from tasador.metrics.ratio_study import CHASED, FEWEST_OF_GROUP, ratio_figures, sales_chasing
from tasador.metrics.regression import (
    ACCEPTED,
    HIGHER_IS_BETTER,
    METRICS,
    label,
    median_ape,
    unit_of,
)
from tasador.modeling.confidence import ConfidenceModel
from tasador.modeling.conformal import ConformalInterval
from tasador.modeling.monotone import promise
from tasador.modeling.parity import Parity
from tasador.registry.model_bundle import ModelBundle
from tasador.reporting import evaluation_plots
from tasador.reporting.cards import CardBuilder, CardTable
from tasador.reporting.evaluation_tables import CAP, off_sentences
from tasador.reporting.model_card import (
    Decision,
    ModelDocument,
    ModelFacts,
    ReviewRow,
    figure_tables,
)
from tasador.reporting.reports import Comparison, Headline
from tasador.selection.diagnostics import Diagnostics
from tasador.selection.ensembling import Member, Stretch, evenness_figures
from tasador.selection.families.catalog import family
from tasador.selection.test_metrics import EvaluationReport
from tasador.settings.run import RunSettings
from tasador.training.context import Evidence
from tasador.training.final_model import FinalChoice
from tasador.training.selection_card import describe

Floats = NDArray[np.float64]
HEADLINE = ("rmse", "mae", "r2", "mape", "wmape", "median_ape", "within_10")


def headline(contract: TableContract, report: EvaluationReport) -> tuple[Headline, ...]:
    """Return the test metrics for the report's tiles."""
    return tuple(
        Headline(
            metric=label(name),
            value=report.test[name].value,
            low=report.test[name].low,
            high=report.test[name].high,
            unit=unit_of(name, contract.target.unit),
            better="higher" if name in HIGHER_IS_BETTER else "lower",
        )
        for name in HEADLINE
    )


def comparison(
    contract: TableContract, report: EvaluationReport, choice: FinalChoice
) -> tuple[Comparison, ...]:
    """Return each metric on the test part beside its cross-validated values."""
    spatial = report.spatial_cv or {}
    return tuple(
        Comparison(
            label(name),
            report.test[name].value,
            choice.cv.metrics[name],
            spatial.get(name),
            unit_of(name, contract.target.unit),
            choice.cv.spread[name],
            choice.baseline.metrics[name],
            None if report.time_cv is None else report.random_cv[name],
        )
        for name in HEADLINE
    )


def fill_card(
    document: ModelDocument,
    card: CardBuilder,
    bundle: ModelBundle,
    parity: Parity,
    report: EvaluationReport,
) -> None:
    """Put the final figures, and what they rest on, into the step's card."""
    card.figure(*document.figures)
    card.fact("Bundle", bundle.version, str(bundle.folder))
    card.fact(
        "Parity with the training library",
        f"{parity.max_relative:.1e}",
        f"largest difference on {parity.rows:,} generated rows",
    )
    card.fact(
        f"{report.promised:.0%} interval holds",
        f"{report.coverage:.1%} of the test rows",
    )
    card.table(
        "Test part, opened once",
        ("metric", "value", "95% from", "to", "random CV", "CV forward in time", "spatial CV"),
        [
            (
                label(n),
                e.value,
                e.low,
                e.high,
                report.random_cv[n],
                (report.time_cv or {}).get(n),
                (report.spatial_cv or {}).get(n),
            )
            for n, e in report.test.items()
            if n in METRICS
        ],
        note="Intervals by bootstrap over the test rows. " + _left_out(report),
    )
    if document.facts.refitted:
        card.note(document.facts.refit_note)
    card.add(*figure_tables(document))
    for figure in document.ratio_study:
        if figure.met is False and figure.accepted is not None:
            low, high = figure.accepted
            card.warn(
                f"Ratio study: {label(figure.name)} {figure.value:.3f} is not met "
                f"(accepted {low:g} to {high:g})."
            )
    for sentence in off_sentences(document.fairness):
        card.warn(sentence)
    if document.weakest is not None and not document.weakest.segments:
        card.note("No segment of the table is valued worse than the others beyond chance.")
    if report.segments:
        card.figure(
            evaluation_plots.segment_bars(
                [s.name for s in report.segments],
                np.array([s.mape for s in report.segments]),
                [s.rows for s in report.segments],
                metric="MAPE",
            )
        )
    if report.fsd is not None:
        shares = np.linspace(1.0, 0.5, 11).tolist()
        curve = _by_hit_rate(report.fsd, report.relative_errors, shares)
        median, within = ([one[n] for one in curve] for n in ("median_ape", "within_10"))
        card.figure(evaluation_plots.hit_rate_curve(shares, median, within))
    card.figure(evaluation_plots.decile_errors(report.actual, report.predicted))


def show_diagnostics(card: CardBuilder, found: Diagnostics) -> None:
    """Put the learning curve and the importance of the columns into the step's card."""
    name = label(found.metric)
    card.figure(
        evaluation_plots.importance_bars(found.columns, np.array(found.importance), metric=name),
        evaluation_plots.learning_curve(found.sizes, found.held, found.fitted, metric=name),
    )


def show_known_again(card: CardBuilder, price: Floats, estimate: Floats, on_test: float) -> None:
    """Say whether rows that the bundle knows are valued too near their prices: sales chasing.

    Args:
        card: The step's card.
        price: Shape (k,): what training rows cost.
        estimate: Shape (k,): what the bundle says that they are worth.
        on_test: Median absolute percentage error on the test part.
    """
    if len(price) < FEWEST_OF_GROUP:
        return
    found = sales_chasing(estimate / price)
    signs = f"{found.signs} of 2 signs" if found.signs else "no sign"
    (card.warn if found.suspected else card.note)(
        f"Training rows valued again: {signs} of sales chasing. Their median APE is "
        f"{median_ape(price, estimate):.1f}%, that of the test part {on_test:.1f}%; "
        f"{found.share:.1%} of their ratios lie from {CHASED[0]} to {CHASED[1]} "
        f"({found.expected:.1%} expected of a normal distribution), {found.jump:.1%} at one ratio "
        "near 1."
    )


def show_intervals(
    card: CardBuilder, rows: Sequence[tuple[float, float, float, float]], coverage: float
) -> None:
    """Show what intervals of several promises hold, and how wide they are.

    Args:
        card: The step's card.
        rows: (promised, held of the test rows, mean width, mean width if constant).
        coverage: The promise that is shipped.
    """
    for promised, _, width, constant in rows:
        if promised == coverage:
            note = f"{constant:,.6g} if it were the same for every row"
            card.fact("Mean width of the interval", width, note)
    card.table(
        "Intervals: promised and held",
        ("promised (%)", "held on test (%)", "mean width", "of one width", "narrower by"),
        [
            (
                promised * 100,
                held * 100,
                width,
                constant,
                f"{1.0 - width / constant:.1%}" if constant else None,
            )
            for promised, held, width, constant in rows
        ],
        note="Calibrated out of fold on train, measured on the test part; widths are those of the "
        "out-of-fold rows.",
    )


def show_choice(card: CardBuilder, choice: FinalChoice, microseconds: float, metric: str) -> None:
    """Show what the final model averages and its bias."""
    name, bias = label(metric), choice.bias
    card.fact(
        f"{name} of the plain LightGBM",
        choice.baseline.error,
        f"out of fold; {choice.baseline.sentence}",
    )
    if choice.groups is not None:
        card.fact(
            f"Models per {choice.groups.column}", choice.groups.outcome, choice.groups.sentence
        )
    card.fact("Models averaged", len(choice.members), f"one row takes {microseconds:,.0f} µs")
    if len(choice.picks) > 1:
        card.table(
            "What averaging brings",
            ("model", f"{name} with it", "gain", "taken"),
            [
                (
                    describe_member(pick.member),
                    pick.error,
                    f"{pick.gain:+.2%}",
                    "yes" if pick.taken else "no: too small for its cost",
                )
                for pick in choice.picks
            ],
            note="Out of fold, on train. Models are added one by one, the best first; each costs "
            "every valuation as much again.",
        )
    card.table(
        "Bias, out of fold",
        ("figure", "value"),
        [
            ("sum of estimates / sum of actual values", bias.mean_ratio),
            ("median of estimate / actual value", bias.median_ratio),
            ("Duan's smearing factor", bias.duan),
            (f"{name} as it is", bias.error),
            (f"{name} with the factor", bias.error_smeared),
            ("factor applied", bias.factor),
        ],
        note="A model of the logarithm estimates medians, whose sum is below the sum of a skewed "
        "target. Duan's factor corrects the sum at the price of the typical case.",
    )


#: MAPE, PRD and PRB of the test part without the stretch of estimates, and with it.
Evenness = tuple[Mapping[str, float], Mapping[str, float]]


def evenness_of(report: EvaluationReport, unstretched: Floats) -> Evenness:
    """Measure the test part, with estimates (n,) without the stretch beside the report's own."""
    some = report.actual > 0
    before, after = (
        evenness_figures(report.actual[some], estimate[some])
        for estimate in (unstretched, report.predicted)
    )
    return before, after


def say_stretch(stretch: Stretch, found: Evenness) -> str:
    """Say what the stretch of estimates changed on the test part."""
    before, after = found
    return (
        f"Estimates are stretched by {stretch.factor:.4g} round their middle: on the test "
        f"part PRD is {after['prd']:.3f} with it and {before['prd']:.3f} without, PRB "
        f"{after['prb']:.3f} and {before['prb']:.3f}, MAPE {after['mape']:.2f}% and "
        f"{before['mape']:.2f}%."
    )


def show_stretch(card: CardBuilder, stretch: Stretch, found: Evenness) -> None:
    """Show MAPE, PRD and PRB without the stretch of estimates and with it."""
    card.fact(
        "Estimates stretched by",
        stretch.factor,
        "PRD and PRB are then within what the IAAO accepts, out of fold"
        if stretch.reached
        else "not enough for what the IAAO accepts: more would cost too much of the MAPE",
    )
    columns = (stretch.before, stretch.after, *found)
    card.table(
        "Even ratios: estimates stretched round their middle",
        ("figure", "out of fold without", "with", "test part without", "with", "accepted"),
        [
            (label(name), *(one[name] for one in columns), _accepted(name))
            for name in ("mape", "prd", "prb")
        ],
        note="Chosen out of fold on train; the test part only shows the result.",
    )


def _accepted(name: str) -> str | None:
    return "{:g} to {:g}".format(*ACCEPTED[name]) if name in ACCEPTED else None


def describe_member(member: Member) -> str:
    """Return a model of the average as one line of text."""
    params = ", ".join(f"{key}={_brief(value)}" for key, value in member.params.items())
    per_level = ", one per level" if member.grouped else ""
    return f"{family(member.family).title}{per_level} ({params}; seed {member.seed})"


def _brief(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _left_out(report: EvaluationReport) -> str:
    zeros = int(np.sum(report.actual == 0))
    if not zeros:
        return ""
    return f"{zeros} rows with an actual value of zero are left out of percentages."


_REVIEWED = 30
_ON_TRAIN = "train"


def decisions(
    settings: RunSettings,
    made: Evidence,
    choice: FinalChoice,
    interval: ConformalInterval,
    confidence: ConfidenceModel | None = None,
) -> tuple[Decision, ...]:
    """Return every choice that was made on the way to the model, in order, with its evidence."""
    return tuple(_decisions(settings, made, choice, interval, confidence))


def _decisions(
    settings: RunSettings,
    made: Evidence,
    choice: FinalChoice,
    interval: ConformalInterval,
    confidence: ConfidenceModel | None,
) -> Iterator[Decision]:
    search, sweep, features = made.search, made.sweep.result, made.features.choice
    folds = settings.selection.folds
    yield Decision(
        "test part",
        f"{settings.segregate.test_share:.0%} of the rows, sealed",
        "the newest sales"
        if made.train.time is not None
        else f"{made.rows.method} split, seed {settings.segregate.seed}",
        "none: before anything was fitted",
    )
    for column, strategy in features.imputation.items():
        how = "restores masked known values" if settings.impute.strategy == "auto" else "configured"
        yield Decision(
            f"gaps in {column}",
            strategy,
            how,
            f"{_ON_TRAIN}, {settings.impute.repeats} x {settings.impute.folds} folds",
        )
    if features.clusters is not None and settings.contract.coordinates is not None:
        by = "configured" if settings.features.clusters is not None else "the model's error"
        yield Decision("number of clusters", str(features.clusters), by, f"{_ON_TRAIN}, 3 folds")
    tuned = search.best_of(sweep.family)
    if tuned is search.best:
        chosen = "the smallest of"
    elif settings.sweep.family is not None:
        chosen = "configured, its best of"
    else:
        chosen = "tied with the smallest and better after tuning, its best of"
    yield Decision(
        "family",
        family(tuned.family).title,
        f"{label(search.scoring)} {tuned.mean(search.scoring):,.6g}, {chosen} "
        f"{len(search.candidates)} candidates: {describe(tuned)}",
        f"{_ON_TRAIN}, {folds} folds",
    )
    before, after = (t.mean(sweep.metric) for t in (sweep.trials[0], sweep.best))
    yield Decision(
        "parameters",
        describe(sweep.best),
        f"{label(sweep.metric)} {before:.6g} before, {after:.6g} after {len(sweep.trials)} trials",
        f"{_ON_TRAIN}, {min(settings.sweep.folds, folds)} folds",
    )
    yield Decision(
        "against a plain LightGBM",
        choice.baseline.outcome,
        f"{label(sweep.metric)} {choice.baseline.error:.6g} of the plain one, "
        f"{choice.baseline.error_before:.6g} of the model found: {choice.baseline.sentence}",
        f"{_ON_TRAIN}, out of fold",
    )
    if choice.groups is not None:
        yield Decision(
            f"models per {choice.groups.column}",
            choice.groups.outcome,
            choice.groups.sentence,
            f"{_ON_TRAIN}, out of fold",
        )
    last = [pick for pick in choice.picks if pick.taken][-1]
    yield Decision(
        "models averaged",
        str(len(choice.members)),
        f"{label(sweep.metric)} {choice.picks[0].error:.6g} alone, {last.error:.6g} together",
        f"{_ON_TRAIN}, out of fold",
    )
    yield Decision(
        "correction of bias",
        f"factor {choice.bias.factor:.6g}",
        f"{label(sweep.metric)} {choice.bias.error:.6g} without, "
        f"{choice.bias.error_smeared:.6g} with Duan's factor {choice.bias.duan:.6g}",
        f"{_ON_TRAIN}, out of fold",
    )
    for column, direction in (settings.model.monotone or {}).items():
        yield Decision(
            f"monotone in {column}",
            direction,
            f"configured: {promise(column, direction)}; families that cannot keep to it are left "
            "out, and nothing else is made from it",
            "none",
        )
    if settings.model.half_life is not None:
        yield Decision(
            "half-life of training rows",
            f"{settings.model.half_life:g} days",
            "configured: a row counts half as much for each half-life that it is older than the "
            "newest one",
            "none",
        )
    if choice.stretch is not None:
        was, now = choice.stretch.before, choice.stretch.after
        yield Decision(
            "stretch of estimates",
            f"factor {choice.stretch.factor:.4g}",
            f"PRD {was['prd']:.4g} without, {now['prd']:.4g} with it; PRB {was['prb']:.3g} and "
            f"{now['prb']:.3g}; MAPE {was['mape']:.4g} and {now['mape']:.4g}",
            f"{_ON_TRAIN}, out of fold",
        )
    if confidence is not None:
        yield Decision(
            "interval and confidence",
            f"{interval.coverage:.0%}, scaled by the expected size of the error",
            f"conformal by segment ({confidence.segments}), tenth of the estimates and of the size",
            f"{_ON_TRAIN}, out of fold",
        )
        return
    yield Decision(
        "interval",
        f"{interval.coverage:.0%}, "
        + ("of one width" if interval.scale_index is None else "scaled by the comparables' spread"),
        f"quantile {interval.quantile:.6g} of the errors (split conformal)",
        f"{_ON_TRAIN}, out of fold",
    )


def document_of(
    contract: TableContract,
    facts: ModelFacts,
    report: EvaluationReport,
    made: tuple[Decision, ...],
    choice: FinalChoice,
    cuts: tuple[float, float] = (85.0, 70.0),
) -> ModelDocument:
    """Return what the model card says before there is a bundle."""
    return ModelDocument(
        contract=contract,
        facts=facts,
        headline=headline(contract, report),
        comparison=comparison(contract, report, choice),
        groups={
            "segment": report.segments,
            "tenth of the actual values": report.deciles,
            CAP: report.capped,
        },
        ratio_study=ratio_figures(report.actual, report.predicted, report.test),
        fairness=report.fairness,
        weakest=report.weakest,
        rivals=report.rivals,
        decisions=made,
        tables=() if report.fsd is None else tuple(_confidence_tables(report, cuts)),
    )


def confidence_figures(report: EvaluationReport, cuts: tuple[float, float]) -> dict[str, Any]:
    """Return how the test rows' confidence meets their errors, by class and by hit rate."""
    fsd, errors = report.fsd, report.relative_errors
    assert fsd is not None  # noqa: S101 - asked by the callers
    confidence = 100.0 * np.maximum(0.0, 1.0 - fsd)
    place = np.array([-np.inf, cuts[1], cuts[0]]).searchsorted(confidence, side="right")
    inside = (report.lower <= report.actual) & (report.actual <= report.upper)
    classes = [
        (name, *_of_rows(errors, place == at), float(np.mean((errors <= fsd)[place == at])),
         float(np.mean(inside[place == at])))
        for name, at in (("H", 3), ("M", 2), ("L", 1)) if (place == at).any()
    ]  # fmt: skip
    return {
        "held": float(np.mean(errors <= fsd)),
        "classes": [
            dict(zip(("class", "rows", "median_ape", "within_10", "held", "coverage"), one,
                     strict=True)) for one in classes
        ],
        "hit_rates": _by_hit_rate(fsd, errors, (1.0, 0.9, 0.8, 0.7)),
    }  # fmt: skip


def _by_hit_rate(fsd: Floats, errors: Floats, shares: Sequence[float]) -> list[dict[str, Any]]:
    """Return the errors of the surest `shares` of the rows, and the limit that leaves them."""
    surest, found = np.argsort(fsd, kind="stable"), []
    for share in shares:
        kept = surest[: math.ceil(share * len(fsd))]
        rows, median, within = _of_rows(errors, kept)
        found.append(
            {"hit_rate": share, "max_fsd": float(fsd[kept].max()), "rows": rows,
             "median_ape": median, "within_10": within}
        )  # fmt: skip
    return found


def _of_rows(errors: Floats, rows: NDArray[Any]) -> tuple[int, float, float]:
    """Return how many rows there are, their median error and the share within 10%, in percent."""
    own = errors[rows]
    return len(own), float(np.median(own)) * 100.0, float(np.mean(own <= 0.1)) * 100.0


def _confidence_tables(report: EvaluationReport, cuts: tuple[float, float]) -> Iterator[CardTable]:
    found = confidence_figures(report, cuts)
    yield CardTable(
        "By class of confidence",
        ("class", "rows", "median APE (%)", "within 10% (%)", "within the FSD (%)",
         "interval holds (%)"),
        tuple(
            (one["class"], one["rows"], one["median_ape"], one["within_10"], one["held"] * 100.0,
             one["coverage"] * 100.0)
            for one in found["classes"]
        ),
        note=f"Confidence is 100 (1 - FSD): H from {cuts[0]:g}, M from {cuts[1]:g}. The forecast "
        "standard deviation (FSD) is to hold 68% of the relative errors; of all test rows it holds "
        f"{found['held']:.1%}.",
    )  # fmt: skip
    yield CardTable(
        "Errors by hit rate",
        ("rows valued (%)", "serve.max_fsd", "number", "median APE (%)", "within 10% (%)"),
        tuple(
            (one["hit_rate"] * 100.0, one["max_fsd"], one["rows"], one["median_ape"],
             one["within_10"])
            for one in found["hit_rates"]
        ),
        note="Where only the surest test rows get a value.",
    )  # fmt: skip


def with_bundle(
    document: ModelDocument, seed: int, bundle: ModelBundle, report: EvaluationReport
) -> ModelDocument:
    """Return the same with what names the bundle, and with rows to review."""
    facts = replace(
        document.facts,
        version=bundle.version,
        trained=bundle.manifest.created,
        bundle_hash=bundle.manifest.content_hash,
    )
    return replace(document, facts=facts, review=_review(seed, bundle, report))


def _review(seed: int, bundle: ModelBundle, report: EvaluationReport) -> tuple[ReviewRow, ...]:
    random = seeds.generator(seed, "review")
    drawn = random.permutation(len(report.actual))[:_REVIEWED]
    columns = bundle.encoder.decode(np.ascontiguousarray(report.X[drawn]))
    return tuple(
        ReviewRow(
            row=f"{int(report.row_hash[i]):016x}"[:12],
            values={name: values[place] for name, values in columns.items()},
            actual=float(report.actual[i]),
            estimate=float(report.predicted[i]),
            lower=float(report.lower[i]),
            upper=float(report.upper[i]),
        )
        for place, i in enumerate(drawn.tolist())
    )
