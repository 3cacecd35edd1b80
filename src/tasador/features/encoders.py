"""What one column or place becomes: ratios, parts of dates, categories as numbers, clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds

Floats = NDArray[np.float64]

_LAST_SECOND = 1e15  # some 30 million years: what lies beyond does not fit NumPy's dates
_SECONDS_A_YEAR = 365.2425 * 86400.0
#: Most points that clusters are fitted on, and how many are labelled at a time.
_MOST_POINTS, _CHUNK = 100_000, 65_536
DATE_PARTS = ("year", "month", "weekday")


def ratios(numerators: Floats, denominators: Floats) -> Floats:
    """Return numerators / denominators (n, r), NaN where a denominator is zero or too near it."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        quotient: Floats = numerators / denominators
    quotient[~np.isfinite(quotient)] = np.nan
    return quotient


def date_parts(seconds: Floats) -> Floats:
    """Return (n, 3): fractional year, month 1-12, weekday 0-6 (Monday 0) of seconds since 1970.

    The moment is read in UTC; NaN is not allowed (impute first).
    """
    seconds = np.clip(seconds, -_LAST_SECOND, _LAST_SECOND)
    moments = np.floor(seconds).astype(np.int64).astype("datetime64[s]")
    months = moments.astype("datetime64[M]").astype(np.int64) % 12 + 1
    days = moments.astype("datetime64[D]").astype(np.int64)
    year = 1970.0 + seconds / _SECONDS_A_YEAR
    return np.stack([year, months.astype(np.float64), ((days + 3) % 7).astype(np.float64)], axis=1)


def levels_of(codes: Floats, n_levels: int) -> NDArray[np.intp]:
    """Return level indices (n,): the code, `n_levels` for unknown, `n_levels` + 1 for missing."""
    # NaN fails every comparison: it is set to the last level first, then what is out of range.
    levels = np.where(np.isnan(codes), n_levels + 1.0, codes)
    levels[(levels < 0) | (levels > n_levels + 1)] = n_levels
    return levels.astype(np.intp)


def one_hot_table(n_levels: int) -> Floats:
    """Return a row of 0/1 (n_levels + 2, n_levels) for each level; zeros for unknown, missing."""
    return np.eye(n_levels + 2, n_levels)


@dataclass(frozen=True)
class TargetMeans:
    """Mean of the transformed target by level, shrunk towards the overall mean.

    ``(sum of the level + weight * overall mean) / (rows of the level + weight)``, the m-estimate
    of Micci-Barreca (2001). Levels without rows, the unknown and the missing get what their rows
    in training say, and without rows the overall mean.

    Attributes:
        means: Shape (n_levels + 2,): the levels, then unknown, then missing.
    """

    means: Floats

    @classmethod
    def fit(cls, codes: Floats, target: Floats, n_levels: int, weight: float) -> TargetMeans:
        """Fit on codes (n,) and the transformed target (n,)."""
        levels = levels_of(codes, n_levels)
        overall = float(np.mean(target))
        count = np.bincount(levels, minlength=n_levels + 2)
        total = np.bincount(levels, weights=target, minlength=n_levels + 2)
        return cls((total + weight * overall) / (count + weight))

    def transform(self, codes: Floats) -> Floats:
        """Return the means (n,) of the codes' levels."""
        return self.of(levels_of(codes, len(self.means) - 2))

    def of(self, levels: NDArray[np.intp]) -> Floats:
        """Return the means (n,) of level indices."""
        return self.means.take(levels)


#: The columns that a category of many levels becomes, in this order.
STATISTICS = ("mean", "mean_strong", "count", "spread")
CODE = "code"
#: The weaker of the two shrinkages has this share of the stronger one's weight.
_WEAK = 0.1


@dataclass(frozen=True)
class LevelStatistics:
    """What the training rows say of each level of a category with many of them, and its code.

    Two shrunken means of the transformed target (the m-estimate of `TargetMeans`), the logarithm
    of 1 + the number of rows, and the target's standard deviation, shrunk towards the overall one.
    A level without training rows and the unknown level get the overall mean and spread and count
    0; missing values are a level of their own. Rare levels are pooled by the shrinkage: what few
    rows say hardly moves them from the overall mean. The code names the level for models that
    split on sets of levels.

    Attributes:
        values: Shape (n_levels + 2, 5): a row for each level, then unknown, then missing.
    """

    values: Floats

    @classmethod
    def fit(cls, codes: Floats, target: Floats, n_levels: int, weight: float) -> LevelStatistics:
        """Fit on codes (n,) and the transformed target (n,); `weight` is the stronger shrinkage."""
        levels = levels_of(codes, n_levels)
        size = n_levels + 2
        count = np.bincount(levels, minlength=size)
        overall, variance = float(np.mean(target)), float(np.var(target))
        total = np.bincount(levels, weights=target, minlength=size)
        own = np.divide(total, count, out=np.full(size, overall), where=count > 0)
        squares = np.bincount(levels, weights=np.square(target - own[levels]), minlength=size)

        def shrunk(factor: float) -> Floats:
            mean: Floats = (total + factor * overall) / (count + factor)
            return mean

        spread = np.sqrt((squares + weight * variance) / (count + weight))
        return cls(
            np.column_stack(
                (
                    shrunk(_WEAK * weight),
                    shrunk(weight),
                    np.log1p(count),
                    spread,
                    np.arange(size, dtype=np.float64),
                )
            )
        )

    def of(self, levels: NDArray[np.intp]) -> Floats:
        """Return the columns (n, 5) of level indices (n,)."""
        return self.values.take(levels, axis=0)


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

        Of very many points, on a seeded sample. On one thread: sums that several share would end in
        other bits from run to run.
        """
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        points = points[seeds.sample_places(len(points), _MOST_POINTS, seed, "clustered points")]
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
        nearest = [
            np.argmin(self.distances(points[start : start + _CHUNK]), axis=1)
            for start in range(0, max(len(points), 1), _CHUNK)
        ]
        return np.concatenate(nearest)

    def features(self, points: Floats) -> Floats:
        """Return label and distances (n, 1 + K) of `points` (n, d): what models see of it."""
        distances = self.distances(points)
        labels = np.argmin(distances, axis=1)[:, None].astype(np.float64)
        return np.concatenate([labels, distances], axis=1)
