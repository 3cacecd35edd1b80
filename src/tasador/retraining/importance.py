"""Which columns move a model's estimates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.registry.bundle import ModelBundle

Floats = NDArray[np.float64]
_ROWS = 500


def important_columns(bundle: ModelBundle, X: Floats, share: float) -> frozenset[str]:
    """Return the columns that make up at least `share` of how much estimates move.

    Each column's values are shuffled among the rows, as in Breiman's permutation importance (2001);
    what counts is how far estimates move, so that no outcomes are needed.

    Args:
        bundle: The model.
        X: Shape (n, p): encoded rows; at most 500 of them are used.
        share: In [0, 1].
    """
    random = seeds.generator(0, "importance")
    rows = X if len(X) <= _ROWS else X[np.sort(random.choice(len(X), _ROWS, replace=False))]
    before = bundle.predict(rows)
    moved = []
    for column in range(X.shape[1]):
        shuffled = rows.copy()
        shuffled[:, column] = random.permutation(shuffled[:, column])
        moved.append(float(np.mean(np.abs(bundle.predict(shuffled) - before))))
    total = sum(moved)
    names = bundle.contract.feature_names
    if total <= 0:
        return frozenset(names)
    return frozenset(n for n, one in zip(names, moved, strict=True) if one / total >= share)
