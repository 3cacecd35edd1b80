"""Features, select, sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasador.features.pipeline import FeaturePipeline, FittedFeatures
from tasador.features.plan import rank_correlation
from tasador.flows import evaluation_plots, plots
from tasador.flows.cards import CardBuilder
from tasador.flows.state import (
    RunState,
    load_json,
    load_search,
    load_sweep,
    needed,
    save_array,
    save_json,
)
from tasador.metrics.regression import METRICS, label
from tasador.selection.families import family
from tasador.selection.folds import Fold, make_folds, random_assignment
from tasador.selection.search import CandidateResult, grid_search
from tasador.selection.sweep import sweep

_GAP = 0.5  # a training error this share below the held-out error is worth a warning


def pipeline_of(state: RunState) -> FeaturePipeline:
    """Return the unfitted feature pipeline of this run."""
    settings = state.settings
    return FeaturePipeline(settings.contract, settings.features, settings.seed, state.imputation)


def random_folds(state: RunState) -> list[Fold]:
    """Return the run's random folds, features fitted inside each."""
    train = needed(state.train, "segregate")
    assignment = random_assignment(len(train), state.settings.selection.folds, state.settings.seed)
    return list(make_folds(train, assignment, pipeline_of(state), state.transform))


def features(state: RunState, folder: Path, card: CardBuilder) -> None:
    """Fit the features on all training rows and keep them, with the cross-fitted matrix."""
    train = needed(state.train, "segregate")
    target = state.transform.forward(train.y)
    fitted, Z = pipeline_of(state).fit_transform(train.X, target)
    spec, arrays = fitted.state()
    save_json(folder / "features.json", spec)
    np.savez(folder / "features.npz", allow_pickle=False, **arrays)
    save_array(folder / "train.npy", Z)
    strength = np.array([abs(rank_correlation(Z[:, i], target)) for i in range(Z.shape[1])])
    card.fact("Features", len(fitted.names))
    card.fact("Clusters", 0 if fitted.clusters is None else len(fitted.clusters.centroids))
    card.fact("Comparables", 0 if fitted.index is None else fitted.index.size)
    if fitted.plan is not None:
        card.fact("Near in", ", ".join(fitted.plan.near))
        card.fact("Similar by", fitted.plan.similar_by or "nothing")
    card.note(
        "Features made from targets (comparables, target means) are cross-fitted on train: no row "
        "sees its own target. At predict time they use all training rows."
    )
    card.figure(plots.correlation_bars(fitted.names, strength))


def load_features(state: RunState, folder: Path) -> None:
    """Take the fitted features and the training matrix."""
    with np.load(folder / "features.npz", allow_pickle=False) as arrays:
        state.fitted = FittedFeatures.from_state(
            state.settings.contract, load_json(folder / "features.json"), dict(arrays)
        )
    state.Z = np.load(folder / "train.npy", allow_pickle=False)


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
