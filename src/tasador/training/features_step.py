"""Features: how many clusters, then everything fitted on all training rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tasador.data.table import Part
from tasador.features.imputation import Strategy
from tasador.features.pipeline import FittedFeatures
from tasador.features.plan import rank_correlations
from tasador.metrics.regression import label
from tasador.reporting import evaluation_plots, plots
from tasador.reporting.cards import CardBuilder, amount
from tasador.selection.cluster_selection import ClusterChoice, ClusterEvidence, choose_clusters
from tasador.selection.feature_worth import (
    FeatureWorth,
    InputsChoice,
    choose_inputs,
    measure_worth,
)
from tasador.settings.run import Criterion
from tasador.training.context import (
    FeatureChoice,
    Features,
    Rows,
    RunContext,
    StepOutput,
    load_json,
    save_array,
    save_json,
)
from tasador.training.model_steps import compared_folds, compared_part, note_sample, pipeline_of

_CHOICE_FOLDS = 3  # choices of features are measured on these only: each costs a fit a choice
_STRENGTH_ROWS = 100_000  # about so many rows show how features and target go together


def features(run: RunContext, out: StepOutput, rows: Rows, imputation: dict[str, Strategy]) -> None:
    """Fit the features on all training rows and keep them, with the cross-fitted matrix."""
    train, card, folder = rows.train, out.card, out.folder
    target = run.transform.forward(train.y)
    comparables, worth = _choose_comparables(run, train, imputation)
    bare = FeatureChoice(imputation, 0, comparables)
    clusters = _choose_clusters(run, train, bare)
    configured = run.settings.features.clusters or 0
    by = run.settings.features.clusters_by
    choice = replace(bare, clusters=configured if clusters is None else clusters.by(by))
    inputs = choose_inputs(
        compared_folds(run, train, choice)[:_CHOICE_FOLDS],
        compared_part(run, train),
        run.transform,
        metric=run.settings.selection.scoring,
        seed=run.settings.seed,
    )
    save_json(
        folder / "choices.json",
        {
            "choice": choice,
            "clusters_evidence": clusters,
            "comparables_evidence": worth,
            "inputs": None if inputs is None else inputs.chosen,
            "inputs_evidence": inputs,
        },
    )
    fitted, Z = pipeline_of(run, choice).fit_transform(train.X, target)
    spec, arrays = fitted.state()
    save_json(folder / "features.json", spec)
    np.savez(folder / "features.npz", allow_pickle=False, **arrays)
    save_array(folder / "train.npy", Z)
    some = slice(None, None, -(-len(Z) // _STRENGTH_ROWS))
    strength = np.abs(rank_correlations(Z[some], target[some]))
    card.fact("Features", len(fitted.names))
    card.fact("Clusters", 0 if fitted.clusters is None else len(fitted.clusters.centroids))
    card.fact(
        "Comparables", 0 if fitted.index is None else fitted.index.size, _reason(comparables, worth)
    )
    if inputs is not None:
        card.fact("Categories of many levels", *_seen(inputs))
    if fitted.plan is not None:
        card.fact("Near in", ", ".join(fitted.plan.near))
        card.fact("Similar by", fitted.plan.similar_by or "nothing")
    card.note(
        "Features made from targets (comparables, target means) are cross-fitted on train: no row "
        "sees its own target. At predict time they use all training rows."
    )
    card.figure(plots.correlation_bars(fitted.names, strength))
    if clusters is not None:
        _show_clusters(card, clusters, by)
        note_sample(run, train, card)


def _choose_comparables(
    run: RunContext, train: Part, imputation: dict[str, Strategy]
) -> tuple[bool, FeatureWorth | None]:
    """Return whether comparables are features; where that is left open, by what they are worth."""
    settings = run.settings
    if settings.features.comparables is not None:
        return settings.features.comparables, None
    worth = measure_worth(
        "comparable",
        compared_folds(run, train, FeatureChoice(imputation, 0, True))[:_CHOICE_FOLDS],
        compared_part(run, train),
        run.transform,
        metric=settings.selection.scoring,
        seed=settings.seed,
    )
    return worth is None or worth.pays, worth


def _reason(comparables: bool, worth: FeatureWorth | None) -> str:
    if worth is None:
        return "" if comparables else "switched off by features.comparables=false"
    name = label(worth.metric)
    verdict = "kept" if worth.pays else "dropped: they do not pay"
    return (
        f"{verdict}; cross-validated {name} {amount(worth.error)} with them, "
        f"{amount(worth.error_without)} without"
    )


#: What the ways of seeing categories are called, for people.
_WAYS = {
    "statistics": "statistics of the target by level",
    "native": "sets of levels",
    "both": "statistics and sets of levels",
    "native, smoothed less": "sets of levels (less smoothed)",
    "both, smoothed less": "statistics and sets of levels (less smoothed)",
}


def _seen(inputs: InputsChoice) -> tuple[str, str]:
    name = label(inputs.metric)
    errors = ", ".join(f"{amount(found)} by {_WAYS[way]}" for way, found in inputs.errors.items())
    return f"LightGBM sees {_WAYS[inputs.chosen]}", f"cross-validated {name}: {errors}"


def _choose_clusters(run: RunContext, train: Part, bare: FeatureChoice) -> ClusterChoice | None:
    """Measure how many clusters are worth it, where that is asked for and there is a map."""
    settings = run.settings
    if settings.features.clusters is not None or settings.contract.coordinates is None:
        return None
    part = compared_part(run, train)
    fitted = pipeline_of(run, bare).fit(part.X, run.transform.forward(part.y))
    points = fitted.points(part.X)
    if points is None:
        return None
    return choose_clusters(
        compared_folds(run, train, bare)[:_CHOICE_FOLDS],
        points,
        part,
        run.transform,
        most=settings.features.most_clusters,
        metric=settings.selection.scoring,
        held_share=1.0 / settings.selection.folds,
        seed=settings.seed,
    )


def load_features(run: RunContext, folder: Path) -> Features:
    """Read what was chosen, the fitted features and the training matrix."""
    found = load_json(folder / "choices.json")
    with np.load(folder / "features.npz", allow_pickle=False) as arrays:
        fitted = FittedFeatures.from_state(
            run.settings.contract, load_json(folder / "features.json"), dict(arrays)
        )
    Z = np.load(folder / "train.npy", allow_pickle=False)
    return Features(FeatureChoice(**found["choice"]), found["inputs"], fitted, Z)


def _show_clusters(card: CardBuilder, choice: ClusterChoice, by: Criterion) -> None:
    name = label(choice.metric)
    none = choice.tried[0]
    card.fact(
        "Number of clusters by evidence",
        choice.by(by),
        f"by {name} {choice.by('error')}, by silhouette {choice.by('silhouette')}, by "
        f"Davies-Bouldin {choice.by('davies_bouldin')}; features.clusters_by={by} decides",
    )
    card.note(
        f"The errors are the model's cross-validated {name}. Within one standard error of the "
        "best (Nadeau and Bengio's, of the paired difference) and so not told apart by these "
        f"folds: {', '.join(map(str, choice.alike))} clusters. Geometry is reported "
        "beside it; it knows nothing of the target."
    )
    card.table(
        "Numbers of clusters",
        ("clusters", name, "spread", "standard error", "silhouette", "Davies-Bouldin", "inertia"),
        [
            (e.clusters, e.mean, float(np.std(e.errors, ddof=1)), e.standard_error, *_geometry(e))
            for e in choice.tried
        ],
        note=f"{len(none.errors)} folds of train, a small LightGBM on all features. The standard "
        "error is that of the difference from the best. Inertia is in "
        "squared degrees, silhouette is a sample's.",
    )
    card.figure(
        evaluation_plots.cluster_evidence(
            [e.clusters for e in choice.tried],
            [e.mean for e in choice.tried],
            [e.standard_error for e in choice.tried],
            {
                "silhouette (more is better)": [e.silhouette for e in choice.tried],
                "Davies-Bouldin (less is better)": [e.davies_bouldin for e in choice.tried],
                "inertia (look for the elbow)": [e.inertia for e in choice.tried],
            },
            metric=name,
            chosen=choice.by(by),
        )
    )


def _geometry(evidence: ClusterEvidence) -> tuple[float | None, ...]:
    """Return the geometric measures; None for features without clusters."""
    if not evidence.clusters:
        return None, None, None
    return evidence.silhouette, evidence.davies_bouldin, evidence.inertia
