"""Fill in missing values with fitted medians, and say where they were missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MedianImputer:
    """Medians of the training rows, and the columns whose absence is worth a feature.

    Attributes:
        medians: Shape (p,): the fill for each column; 0 where nothing was ever seen.
        indicated: Positions of the columns that were missing in training; each gets a 0/1 column.
    """

    medians: Floats
    indicated: list[int]

    @classmethod
    def fit(cls, X: Floats, numeric: NDArray[np.bool_]) -> MedianImputer:
        """Fit on `X` (n, p); columns where `numeric` is False (categories) are left alone."""
        missing = np.isnan(X)
        medians = np.zeros(X.shape[1])
        for column in np.flatnonzero(numeric):
            seen = X[~missing[:, column], column]
            medians[column] = np.median(seen) if len(seen) else 0.0
        indicated = np.flatnonzero(missing.any(axis=0))
        return cls(medians, [int(column) for column in indicated])

    def fill(self, X: Floats) -> Floats:
        """Return a copy of `X` (n, p) in which NaN is replaced by the column's median."""
        return np.where(np.isnan(X), self.medians, X)

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return the fitted state as JSON values and arrays."""
        return {"kind": "median", "indicated": self.indicated}, {"medians": self.medians}

    @classmethod
    def from_state(cls, spec: Mapping[str, Any], arrays: Mapping[str, Floats]) -> MedianImputer:
        """Rebuild from `state`."""
        return cls(arrays["medians"], list(spec["indicated"]))
