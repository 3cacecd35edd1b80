"""KMeans geography: fitted centroids, labels and distances by direct differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Clusters:
    """Fitted centroids in scaled coordinates.

    Attributes:
        centroids: Shape (K, d), ordered by their first coordinate, so that labels do not depend
            on the order in which KMeans found them.
    """

    centroids: Floats

    @classmethod
    def fit(cls, points: Floats, k: int, seed: int) -> Clusters:
        """Fit KMeans with `k` clusters on `points` (n, d); scikit-learn is needed here only.

        On one thread: sums that several share would end in other bits from run to run.
        """
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        distinct = len(np.unique(points, axis=0))
        model = KMeans(n_clusters=min(k, distinct), n_init=4, random_state=seed)
        with threadpool_limits(1, user_api="openmp"):
            model.fit(points)
        centroids = np.asarray(model.cluster_centers_, dtype=np.float64)
        return cls(np.ascontiguousarray(centroids[np.lexsort(centroids.T[::-1])]))

    def distances(self, points: Floats) -> Floats:
        """Return Euclidean distances (n, K) from `points` (n, d) to the centroids.

        Differences are squared one by one: the dot-product formula that scikit-learn uses rounds
        differently for one row and for many.
        """
        difference = points[:, None, :] - self.centroids
        difference *= difference
        squared = difference[:, :, 0].copy()
        for axis in range(1, points.shape[1]):
            squared += difference[:, :, axis]
        distances: Floats = np.sqrt(squared)
        return distances

    def labels(self, points: Floats) -> NDArray[np.intp]:
        """Return the index (n,) of the nearest centroid; the lower index wins a tie."""
        nearest: NDArray[np.intp] = np.argmin(self.distances(points), axis=1)
        return nearest

    def features(self, points: Floats) -> Floats:
        """Return label and distances (n, 1 + K) of `points` (n, d): what models see of it."""
        distances = self.distances(points)
        labels = np.argmin(distances, axis=1)[:, None].astype(np.float64)
        return np.concatenate([labels, distances], axis=1)
