"""Register: fit on train, evaluate once on the held-out test set, bundle, register."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import TasadorError
from tasador.core.hashing import to_plain
from tasador.core.memory import give_memory_back
from tasador.modeling.confidence import ConfidenceModel
from tasador.modeling.conformal import ConformalInterval
from tasador.modeling.monotone import promise
from tasador.modeling.training_rows import TrainingRows
from tasador.registry.model_bundle import load_bundle
from tasador.reporting.card_markdown import to_markdown
from tasador.reporting.model_card import decision_table, write_model_card
from tasador.selection.test_metrics import CrossValidation
from tasador.training.backtest import show_backtest
from tasador.training.context import (
    Evidence,
    RunContext,
    StepOutput,
    TrainedModel,
    load_json,
    save_json,
)
from tasador.training.final_model import (
    Estimates,
    FinalChoice,
    FittedModel,
    all_rows,
    choose_final,
    expected_errors,
    fit_final,
    is_refitted,
    prove,
    spatial_cross_validation,
)
from tasador.training.register.card import (
    comparison,
    decisions,
    document_of,
    evenness_of,
    fill_card,
    headline,
    say_stretch,
    show_choice,
    show_diagnostics,
    show_intervals,
    show_known_again,
    show_stretch,
    with_bundle,
)
from tasador.training.register.contents import (
    Shipped,
    metrics_of,
    model_facts,
    move_in,
    write_bundle_of,
)
from tasador.training.register.measuring import (
    SCALE,
    backtest_of,
    bounds_of,
    calibration,
    count_violations,
    diagnose_model,
    evaluate_model,
    interval_of,
    known_again,
    unstretched,
)
from tasador.training.register.result import checks_of, result_figures, result_sentence

Floats = NDArray[np.float64]


def register(run: RunContext, out: StepOutput, made: Evidence) -> None:
    """Make the bundle and everything that vouches for it."""
    sweep, folder, card = made.sweep.result, out.folder, out.card
    name, params, contract = sweep.family, sweep.final_params, run.settings.contract
    choice = choose_final(run, made)
    cv, random_cv = choice.cv, choice.random_cv
    spatial_cv = spatial_cross_validation(run, made, choice)
    run.folds.clear()
    give_memory_back()
    with ThreadPoolExecutor(1) as beside:  # both take one core
        expected = beside.submit(expected_errors, run, made, cv, spatial_cv)
        evaluated = fit_final(run, made, choice)
        learnt = expected.result()
    interval = interval_of(run, made, cv, spatial_cv)
    confidence = None if learnt is None else learnt[0]
    report = evaluate_model(
        run, made, evaluated.onnx, interval, cv, random_cv, spatial_cv, confidence
    )
    shipped = _shipped(run, made, choice, evaluated, interval, learnt)
    backtested = run.settings.register.backtest > 0 and made.rows.method == "time"
    if backtested:
        made.rows.test.open("valued again by the backtest, which decides nothing")
    report = replace(report, openings=tuple(made.rows.test.openings))
    decided = decisions(run.settings, made, choice, interval, confidence)
    kept = count_violations(run, made, evaluated.onnx, report)
    even = None
    if choice.stretch is not None:
        even = evenness_of(report, unstretched(run, made, evaluated.onnx, report, choice))
    cuts = run.settings.register.confidence_cuts
    facts = replace(
        model_facts(made, choice, report, contract, shipped),
        kept=(
            *(check.sentence for check in kept),
            *([say_stretch(choice.stretch, even)] if choice.stretch and even else []),
        ),
    )
    document = document_of(contract, facts, report, decided, choice, cuts)
    held = calibration(run, made, cv, interval, report, confidence)
    found = diagnose_model(run, made)
    document = replace(
        document,
        sentence=result_sentence(report),
        checks=checks_of(report, document.ratio_study, found, choice.baseline),
    )
    card_text = to_markdown(document)
    metrics = metrics_of(made.table.origin, report, choice, cuts)
    if kept:
        metrics["monotone"] = to_plain(kept)
    if shipped.refitted:
        metrics["measured"] = facts.refit_note
    draft = write_bundle_of(
        folder / "bundle", run, made, choice, shipped, report, metrics, card_text
    )
    bundle = move_in(draft, run.bundles)
    figures = tuple(result_figures(report, bundle, held, found, run.settings.seed))
    document = replace(document, figures=figures)
    write_model_card(folder, with_bundle(document, run.settings.seed, bundle, report))
    save_json(
        folder / "outcome.json",
        {
            "version": bundle.version,
            "folder": bundle.folder.name,
            "family": name,
            "params": params,
            "metrics": metrics,
            "headline": headline(contract, report),
            "baseline": choice.baseline.sentence,
            "groups": "" if choice.groups is None else choice.groups.sentence,
            "measured": facts.refit_note,
            "comparison": comparison(contract, report, choice),
            "sentence": document.sentence,
            "checks": document.checks,
        },
    )
    fill_card(document, card, bundle, shipped.final.parity, report)
    for check in kept:
        card.fact(
            f"{promise(check.column, check.direction)}: violations",
            check.violations,
            f"of {check.pairs:,} pairs of held-out rows that differ in it alone",
        )
    if choice.stretch and even:
        show_stretch(card, choice.stretch, even)
    card.add(decision_table(document, "How the model was chosen"))
    show_choice(card, choice, shipped.final.microseconds, run.settings.sweep.metric)
    show_diagnostics(card, found)
    show_known_again(card, *known_again(run, made, bundle), report.test["median_ape"].value)
    show_intervals(card, held, interval.coverage)
    if backtested:
        try:
            show_backtest(card, backtest_of(run, made, bundle))
        except TasadorError as error:  # the bundle is there, and no worse for it
            card.note(f"No backtest: {error}")


def load_register(run: RunContext, folder: Path) -> TrainedModel:
    """Read the outcome; a bundle that is gone or damaged makes the step run again."""
    outcome = load_json(folder / "outcome.json")
    load_bundle(run.bundles / outcome["folder"], trusted=None)
    return TrainedModel(outcome, folder)


def _shipped(
    run: RunContext,
    made: Evidence,
    choice: FinalChoice,
    evaluated: FittedModel,
    interval: ConformalInterval,
    learnt: tuple[ConfidenceModel, bytes] | None,
) -> Shipped:
    """Return the evaluated model, or where that is wanted one fitted again on all rows."""
    cv, settings, every, fitted = choice.cv, run.settings, made, evaluated
    confidence = None if learnt is None else learnt[0]
    low, high = bounds_of(run, made, cv, interval, confidence)
    estimates = Estimates(cv.rows, cv.score, (high - low) / 2.0)
    own, refitted = _out_of_fold(cv, choice.random_cv), is_refitted(settings, made.rows)
    if refitted:
        every, gain, held = all_rows(run, made, evaluated.onnx, interval, confidence)
        estimates, own = (found.moved(gain).joined(held) for found in (estimates, own))
        if interval.scale_index is not None:  # features may differ where other gaps are known
            scale = every.features.fitted.names.index(SCALE)
            interval = replace(interval, scale_index=scale)
        if learnt is not None:
            names = every.features.fitted.names
            learnt = learnt[0].of_features(made.features.fitted.names, names), learnt[1]
        fitted = fit_final(run, every, choice)
    final = prove(run, fitted, every.features.Z, seeds.derive_seed(settings.seed, "parity"))
    rows = None
    if settings.register.out_of_fold and settings.contract.rows_have_identity:
        half = own.half_widths if refitted else None
        rows = TrainingRows.of(every.train.X[own.rows], own.score, half)
    return Shipped(every, final, interval, learnt, estimates, rows, refitted)


def _out_of_fold(cv: CrossValidation, random_cv: CrossValidation | None) -> Estimates:
    """Return out-of-fold scores; of rows that no fold forward in time held out, the random ones."""
    rows, scores = cv.rows, cv.score
    if random_cv is not None:
        rest = ~np.isin(random_cv.rows, rows)
        rows = np.concatenate([rows, random_cv.rows[rest]])
        scores = np.concatenate([scores, random_cv.score[rest]])
    return Estimates(rows, scores, np.full(len(rows), np.nan))
