"""Categories as numbers: one-hot columns for few levels, shrunken target means for all."""

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
