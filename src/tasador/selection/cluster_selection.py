"""How many clusters of the coordinates: what geometry says, and what the model's error says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.parallel import in_parallel
from tasador.core.progress import progress
from tasador.data.table import Part
from tasador.features.encoders import Clusters
from tasador.features.fitted import Kind
from tasador.metrics.regression import METRICS
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import fit_model
from tasador.selection.folds import Fold
from tasador.selection.paired_tests import corrected_standard_error
from tasador.settings.run import Criterion

Floats = NDArray[np.float64]
_FAMILY = "lightgbm"
#: Small enough to be fitted some sixty times, large enough to use what clusters can tell.
_MODEL = {
    "n_estimators": 80,
    "num_leaves": 23,
    "learning_rate": 0.1,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.8,
}
_SILHOUETTE_ROWS = 2500


@dataclass(frozen=True)
class ClusterEvidence:
    """What was measured with one number of clusters.

    Attributes:
        clusters: K; 0 means the features without clusters.
        errors: The model's error on each fold.
        standard_error: That of the mean difference from the best number's errors; 0 for the best.
        silhouette: Mean silhouette of a sample of rows, in [-1, 1], more is better; NaN for K = 0.
        davies_bouldin: Davies-Bouldin index, less is better; NaN for K = 0.
        inertia: Sum of squared distances to the nearest centroid; NaN for K = 0.
    """

    clusters: int
    errors: tuple[float, ...]
    standard_error: float
    silhouette: float
    davies_bouldin: float
    inertia: float

    @property
    def mean(self) -> float:
        """Mean error over the folds."""
        return float(np.mean(self.errors))


@dataclass(frozen=True)
class ClusterChoice:
    """The number of clusters, and why.

    Attributes:
        metric: The error that decides.
        tried: What was measured, by ascending number of clusters.
        chosen: The number with the smallest mean error; 0 where that is no better than chance
            explains.
        alike: The numbers whose mean error exceeds the best's by no more than one standard error
            of their difference.
    """

    metric: str
    tried: tuple[ClusterEvidence, ...]
    chosen: int
    alike: tuple[int, ...]

    def by(self, criterion: Criterion) -> int:
        """Return the number that the model's error prefers, or a geometric measure."""
        if criterion == "error":
            return self.chosen
        measured = [found for found in self.tried if found.clusters]
        if criterion == "silhouette":
            return max(measured, key=lambda found: found.silhouette).clusters
        return min(measured, key=lambda found: found.davies_bouldin).clusters


def choose_clusters(
    folds: Sequence[Fold],
    points: Floats,
    part: Part,
    transform: TargetTransform,
    *,
    most: int,
    metric: str,
    held_share: float,
    seed: int,
) -> ClusterChoice | None:
    """Measure K = 2 to `most` and no clusters at all, and choose by the model's error.

    Only the clusters' columns change from one number to the next.

    Args:
        folds: At least two folds of the training part, their features without clusters.
        points: Shape (n, 2): where all training rows lie, scaled.
        part: The training part.
        transform: The target's transform.
        most: Largest K.
        metric: Name of a metric for which less is better.
        held_share: Share of the rows that a fold holds out.
        seed: Seed of samples, KMeans and models.

    Returns:
        The choice; None when there are too few places for two clusters.
    """
    # as many clusters as there are places would tell nothing but the place
    numbers = range(2, min(most, len(np.unique(points, axis=0)) - 1) + 1)
    if not numbers:
        return None
    cluster_seed = seeds.derive_seed(seed, "clusters")
    geometry = {}
    errors: dict[int, list[float]] = {k: [] for k in (0, *numbers)}
    total = len(numbers) + len(folds) * len(errors)
    with progress("choosing the number of clusters", total) as advance:
        for place, measured in in_parallel(
            lambda k: _geometry(points, k, cluster_seed), numbers, cost=float
        ):
            geometry[numbers[place]] = measured
            advance()
        for fold in folds:
            scored = _fold_errors(fold, part, transform, tuple(errors), metric, cluster_seed)
            for k, error in scored.items():
                errors[k].append(error)
            advance(len(scored))
    best = min(errors, key=lambda k: float(np.mean(errors[k])))
    tried = tuple(_evidence(k, errors[k], errors[best], held_share, geometry) for k in errors)
    lowest = float(np.mean(errors[best]))
    alike = tuple(e.clusters for e in tried if e.mean - lowest <= e.standard_error)
    # clusters have to pay: where chance explains what they gain, there are none
    return ClusterChoice(metric, tried, 0 if 0 in alike else best, alike)


def _evidence(
    k: int,
    errors: Sequence[float],
    best: Sequence[float],
    held_share: float,
    geometry: Mapping[int, tuple[float, float, float]],
) -> ClusterEvidence:
    differences = np.subtract(errors, best).tolist()
    reach = corrected_standard_error(differences, held_share)
    nothing = (float("nan"),) * 3
    return ClusterEvidence(k, tuple(errors), reach, *geometry.get(k, nothing))


def _fold_errors(
    fold: Fold,
    part: Part,
    transform: TargetTransform,
    numbers: Sequence[int],
    metric: str,
    seed: int,
) -> dict[int, float]:
    chosen, score = family(_FAMILY), METRICS[metric]
    target = transform.forward(part.y[fold.fit_rows])
    points_fit = fold.fitted.points(part.X[fold.fit_rows])
    points_held = fold.fitted.points(part.X[fold.held_rows])

    def error(k: int) -> float:
        Z_fit, Z_held = fold.Z_fit, fold.Z_held
        if k and points_fit is not None and points_held is not None:
            clusters = Clusters.fit(points_fit, k, seed)
            Z_fit = np.hstack([Z_fit, clusters.features(points_fit)])
            Z_held = np.hstack([Z_held, clusters.features(points_held)])
        added: tuple[Kind, ...] = ("cluster",) * (Z_fit.shape[1] - len(fold.kinds))
        kinds = (*fold.kinds, *added)
        model = fit_model(chosen, _MODEL, Z_fit, kinds, target, seed, 1, fold.weight)
        return score(part.y[fold.held_rows], transform.inverse(chosen.predict(model, Z_held)))

    return {numbers[place]: found for place, found in in_parallel(error, numbers, cost=float)}


def _geometry(points: Floats, k: int, seed: int) -> tuple[float, float, float]:
    """Return silhouette, Davies-Bouldin index and inertia of `k` clusters.

    Rousseeuw (1987) and Davies and Bouldin (1979), as scikit-learn computes them. The silhouette
    compares all pairs, so a seeded sample of rows has to do.
    """
    from sklearn.metrics import davies_bouldin_score, silhouette_score

    clusters = Clusters.fit(points, k, seed)
    distances = clusters.distances(points)
    labels = np.argmin(distances, axis=1)
    sample = seeds.generator(seed, "silhouette").permutation(len(points))[:_SILHOUETTE_ROWS]
    # scikit-learn refuses one cluster alone, and a cluster for each point
    silhouette = davies_bouldin = float("nan")
    if 1 < len(np.unique(labels[sample])) < len(sample):
        silhouette = float(silhouette_score(points[sample], labels[sample]))
    if 1 < len(np.unique(labels)) < len(points):
        davies_bouldin = float(davies_bouldin_score(points, labels))
    return silhouette, davies_bouldin, float((distances.min(axis=1) ** 2).sum())
