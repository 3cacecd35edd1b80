"""Impute: choose what stands in for missing values, and show why."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasador.reporting import plots
from tasador.reporting.cards import CardBuilder
from tasador.selection.imputer_selection import (
    ColumnEvidence,
    ImputerScore,
    choose_cheapest,
    compare_imputers,
)
from tasador.settings.run import ImputationSettings
from tasador.training.context import RunState, load_json, needed, save_json

_MOST_FIGURES = 6
TITLES = {
    "median": "median",
    "mean": "mean",
    "iterative_linear": "iterative, linear",
    "knn": "nearest neighbours",
    "boosting": "gradient boosting",
    "iterative_rf": "iterative, random forest",
    "native": "left to the model",
}


def impute(state: RunState, folder: Path, card: CardBuilder) -> None:
    """Compare imputers on masked known values of train, and choose one for each column."""
    contract, train = state.settings.contract, needed(state.train, "segregate")
    settings = state.settings.impute
    evidence = compare_imputers(settings, contract, train, state.transform, state.settings.seed)
    save_json(
        folder / "imputation.json",
        {
            "strategy": settings.strategy,
            "columns": {found.column: found.chosen for found in evidence},
            "evidence": evidence,
        },
    )
    card.fact("Strategy", settings.strategy, "with a 0/1 column where train lacked values")
    card.fact("Columns that may lack values", len(evidence))
    for found in evidence[:_MOST_FIGURES]:
        card.fact(f"{found.column} filled by", TITLES[found.chosen], _reason(settings, found))
    lacking = np.isnan(train.X).any(axis=0)
    never = [f.column for f in evidence if not lacking[contract.position(f.column)]]
    if never:
        card.note(
            f"No training row lacks {' or '.join(never)}, though the contract allows it: what is "
            "filled in there is only ever seen at predict time."
        )
    _show(state, settings, evidence, len(train), card)
    if lacking.any():
        card.figure(plots.missing_bars(contract, train.X))


def _reason(settings: ImputationSettings, found: ColumnEvidence) -> str:
    if found.best is None:
        return "not compared: few gaps, too few known values, or beyond impute.max_columns"
    cheapest, _, _ = choose_cheapest(_restoring(found), settings.folds)
    if found.chosen != cheapest.strategy:
        return f"as configured; auto would take {TITLES[cheapest.strategy]}"
    if found.chosen == found.best:
        return "no other restores it as well, and none cheaper is within one standard error"
    return f"the cheapest within one standard error of the best ({TITLES[found.best]})"


def _show(
    state: RunState,
    settings: ImputationSettings,
    evidence: tuple[ColumnEvidence, ...],
    rows: int,
    card: CardBuilder,
) -> None:
    measured = [found for found in evidence if found.scores]
    if not measured:
        return
    unit = state.settings.contract.target.unit
    cells = [
        (
            found.column,
            TITLES[score.strategy] + (" (chosen)" if score.strategy == found.chosen else ""),
            score.mean if score.errors else None,
            score.spread if score.errors else None,
            score.standard_error(settings.folds) if score.errors else None,
            score.downstream,
            score.seconds,
        )
        for found in measured
        for score in found.scores
    ]
    price = f"model's MAE ({unit})" if unit else "model's MAE"
    known = ", ".join(f"{f.column} {f.unmasked:.6g}" for f in measured if f.unmasked is not None)
    card.table(
        "Reconstruction of masked known values",
        ("column", "imputer", "RMSE", "spread", "standard error", price, "seconds"),
        cells,
        note=f"{settings.repeats} times {settings.folds} folds of {min(rows, settings.max_rows)} "
        "training rows, the cheapest imputer first. The model is a small LightGBM without "
        "comparables, compared by cross-validation on rows whose value was masked in fitting and "
        f"valuing alike; with the values known its MAE is: {known}.",
    )
    for found in measured[:_MOST_FIGURES]:
        shown = _restoring(found)
        names = [score.strategy for score in shown]
        card.figure(
            plots.imputer_bars(
                found.column,
                [TITLES[name] for name in names],
                [np.array(score.errors) for score in shown],
                chosen=names.index(found.chosen) if found.chosen in names else None,
                limit=found.limit,
            )
        )


def _restoring(found: ColumnEvidence) -> list[ImputerScore]:
    """Return the scores of the imputers that put a number in the gap."""
    return [score for score in found.scores if score.errors]


def load_impute(state: RunState, folder: Path) -> None:
    """Take the choice."""
    found = load_json(folder / "imputation.json")
    state.imputation = dict(found["columns"])
