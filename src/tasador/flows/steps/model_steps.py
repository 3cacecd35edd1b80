"""Select, sweep; and the features and folds that the steps share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasador.features.pipeline import FeaturePipeline
from tasador.flows import evaluation_plots
from tasador.flows.cards import CardBuilder
from tasador.flows.state import (
    RunState,
    load_search,
    load_sweep,
    needed,
    save_json,
)
from tasador.metrics.regression import METRICS, label
from tasador.selection.families import family
from tasador.selection.folds import Fold, make_folds, random_assignment
from tasador.selection.search import CandidateResult, grid_search
from tasador.selection.sweep import sweep

_GAP = 0.5  # a training error this share below the held-out error is worth a warning


def pipeline_of(state: RunState, clusters: int | None = None) -> FeaturePipeline:
    """Return the unfitted feature pipeline of this run, or with another number of clusters."""
    settings = state.settings
    k = state.clusters if clusters is None else clusters
    return FeaturePipeline(settings.contract, replace(settings.features, clusters=k), settings.seed)


def random_folds(state: RunState, clusters: int | None = None) -> list[Fold]:
    """Return the run's random folds, features fitted inside each; made once in a run."""
    k = state.clusters if clusters is None else clusters
    if k not in state.folds:
        train, n_folds = needed(state.train, "segregate"), state.settings.selection.folds
        assignment = random_assignment(len(train), n_folds, state.settings.seed)
        pipeline = pipeline_of(state, k)
        state.folds[k] = list(make_folds(train, assignment, pipeline, state.transform))
    return state.folds[k]


def select(state: RunState, folder: Path, card: CardBuilder) -> None:
    """Compare every candidate by cross-validation on train."""
    settings, train = state.settings, needed(state.train, "segregate")
    result = grid_search(
        settings.selection,
        random_folds(state),
        train,
        state.transform,
        settings.seed,
        state.journal,
    )
    save_json(folder / "search.json", result)
    scoring = settings.selection.scoring
    done = [c for c in result.candidates if c.error is None]
    card.fact("Winner", describe(result.best))
    card.fact(f"{label(scoring)} by cross-validation", result.best.mean(scoring))
    card.fact("Candidates", len(result.candidates), f"{settings.selection.folds} folds, train only")
    card.table(
        "Leaderboard",
        ("candidate", *(label(m) for m in METRICS), f"spread of {label(scoring)}", "seconds"),
        [
            (name, *(c.mean(m) for m in METRICS), c.spread(scoring), c.seconds)
            for name, c in zip(short_labels(done), done, strict=True)
        ],
        note="Parameters that all candidates of a family share are left out.",
    )
    card.figure(
        evaluation_plots.leaderboard_bars(
            short_labels(done)[:12],
            [np.array([f[scoring] for f in c.held]) for c in done[:12]],
            metric=label(scoring),
            chosen=0,
        )
    )
    gap = 1.0 - result.best.train_mean(scoring) / result.best.mean(scoring)
    if gap > _GAP:
        card.warn(
            f"The winner's {label(scoring)} on the rows it was fitted on is {gap:.0%} lower "
            "than on held-out rows: it follows the training rows closely."
        )
    for candidate in result.candidates:
        if candidate.error is not None:
            card.warn(f"{describe(candidate)} failed: {candidate.error}")


def load_select(state: RunState, folder: Path) -> None:
    """Take the search result."""
    state.search = load_search(folder / "search.json")


def run_sweep(state: RunState, folder: Path, card: CardBuilder) -> None:
    """Tune the winning family on train."""
    settings, winner = state.settings, needed(state.search, "select").best
    result = sweep(
        winner.family,
        winner.params,
        settings.sweep,
        random_folds(state)[: settings.sweep.folds],
        needed(state.train, "segregate"),
        state.transform,
        settings.seed,
    )
    save_json(folder / "sweep.json", result)
    scores = np.array([trial.mean(result.metric) for trial in result.trials])
    card.fact("Family", family(result.family).title)
    card.fact("Trials", len(result.trials), f"{settings.sweep.folds} folds, train only")
    card.fact(f"{label(result.metric)} of the selection's winner", float(scores[0]))
    card.fact(f"{label(result.metric)} of the best trial", float(scores.min()))
    card.table(
        "Parameters",
        ("parameter", "best trial", "final model"),
        [(k, result.best.params.get(k), v) for k, v in result.final_params.items()],
        note="The final model takes smaller and more steps than the sweep, which only ranks.",
    )
    if len(scores) > 1:
        finite = np.where(np.isfinite(scores), scores, np.nan)
        card.figure(evaluation_plots.sweep_history(finite, metric=label(result.metric)))


def load_sweep_step(state: RunState, folder: Path) -> None:
    """Take the sweep result."""
    state.sweep = load_sweep(folder / "sweep.json")


def describe(candidate: CandidateResult) -> str:
    """Return a candidate as one line of text."""
    params = ", ".join(f"{key}={value}" for key, value in candidate.params.items())
    return f"{family(candidate.family).title} ({params})"


def short_labels(candidates: Sequence[CandidateResult]) -> list[str]:
    """Return each candidate's family with those parameters in which its relatives differ."""
    values: dict[tuple[str, str], set[str]] = {}
    for candidate in candidates:
        for key, value in candidate.params.items():
            values.setdefault((candidate.family, key), set()).add(str(value))
    labels = []
    for candidate in candidates:
        told = [
            f"{k}={v}" for k, v in candidate.params.items() if len(values[candidate.family, k]) > 1
        ]
        title = family(candidate.family).title
        labels.append(f"{title} ({', '.join(told)})" if told else title)
    return labels
