"""What a reviewer gets: the way to the model, its card as page and JSON, rows to review."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tasador.contract.model import TableContract
from tasador.core import seeds
from tasador.metrics.regression import ACCEPTED, RATIO_STUDY, label
from tasador.modeling.conformal import ConformalInterval
from tasador.registry.bundle.model_bundle import ModelBundle
from tasador.reporting.cards import CardBuilder
from tasador.reporting.model_card import Decision, ModelDocument, ModelFacts, ReviewRow
from tasador.selection.evaluation.test_metrics import EvaluationReport
from tasador.selection.families.catalog import family
from tasador.training.context import RunState, needed
from tasador.training.steps.final_model import FinalChoice
from tasador.training.steps.register_card import comparison, headline
from tasador.training.steps.selection_card import describe

_REVIEWED = 30
_ON_TRAIN = "train"


def decisions(
    state: RunState, choice: FinalChoice, interval: ConformalInterval
) -> tuple[Decision, ...]:
    """Return every choice that was made on the way to the model, in order, with its evidence."""
    return tuple(_decisions(state, choice, interval))


def _decisions(
    state: RunState, choice: FinalChoice, interval: ConformalInterval
) -> Iterator[Decision]:
    settings, search, found = state.settings, needed(state.search, "select"), state.sweep
    sweep = needed(found, "sweep")
    folds = settings.selection.folds
    yield Decision(
        "test part",
        f"{settings.segregate.test_share:.0%} of the rows, sealed",
        f"{settings.segregate.method} split, seed {settings.segregate.seed}",
        "none: before anything was fitted",
    )
    for column, strategy in state.imputation.items():
        how = "restores masked known values" if settings.impute.strategy == "auto" else "configured"
        yield Decision(
            f"gaps in {column}",
            strategy,
            how,
            f"{_ON_TRAIN}, {settings.impute.repeats} x {settings.impute.folds} folds",
        )
    if state.clusters is not None and settings.contract.coordinates is not None:
        by = "configured" if settings.features.clusters is not None else "the model's error"
        yield Decision("number of clusters", str(state.clusters), by, f"{_ON_TRAIN}, 3 folds")
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
    yield Decision(
        "interval",
        f"{interval.coverage:.0%}, "
        + ("of one width" if interval.scale_index is None else "scaled by the comparables' spread"),
        f"quantile {interval.quantile:.6g} of the errors (split conformal)",
        f"{_ON_TRAIN}, out of fold",
    )


def show_decisions(
    card: CardBuilder, made: tuple[Decision, ...], openings: tuple[str, ...]
) -> None:
    """Show the way to the model in the step's card."""
    card.table(
        "How the model was chosen",
        ("decision", "chosen", "evidence", "rows looked at"),
        [(d.what, d.chosen, d.evidence, d.rows) for d in made],
        note=f"In this order. The held-out test part was opened after the last of them, "
        f"{len(openings)} time{'s' * (len(openings) != 1)}: {'; '.join(openings)}.",
    )


def document_of(
    contract: TableContract,
    facts: ModelFacts,
    report: EvaluationReport,
    made: tuple[Decision, ...],
    choice: FinalChoice,
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
            "cap": report.capped,
        },
        ratio_study=tuple(
            (label(n), e.value, e.low, e.high, *ACCEPTED.get(n, (None, None)))
            for n, e in report.test.items()
            if n in RATIO_STUDY
        ),
        decisions=made,
    )


def with_bundle(
    document: ModelDocument, state: RunState, bundle: ModelBundle, report: EvaluationReport
) -> ModelDocument:
    """Return the same with what names the bundle, and with rows to review."""
    facts = replace(
        document.facts,
        version=bundle.version,
        trained=bundle.manifest.created,
        bundle_hash=bundle.manifest.content_hash,
    )
    return replace(document, facts=facts, review=_review(state, bundle, report))


def _review(
    state: RunState, bundle: ModelBundle, report: EvaluationReport
) -> tuple[ReviewRow, ...]:
    random = seeds.generator(state.settings.seed, "review")
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
