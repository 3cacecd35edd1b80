"""Categories as numbers: 0/1 columns and means of few levels, statistics of many and codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
