"""Cross-validation folds, and the features fitted once inside each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import TrainingError
from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline, FittedFeatures
from tasador.modeling.target import TargetTransform

Floats = NDArray[np.float64]
_BLOCKS_A_FOLD = 10


@dataclass(frozen=True)
class Fold:
    """One fold: features fitted on its fitting rows only, applied to its held-out rows.

    Attributes:
        fit_rows: Positions of the fitting rows in the training part.
        held_rows: Positions of the held-out rows.
        Z_fit: Cross-fitted features of the fitting rows.
        Z_held: Features of the held-out rows.
        names: Names of the features. Folds may differ in them: where no fitting row lacks a value,
            there is no column that says so.
    """

    fit_rows: NDArray[np.intp]
    held_rows: NDArray[np.intp]
    Z_fit: Floats
    Z_held: Floats
    names: tuple[str, ...]


def random_assignment(n: int, folds: int, seed: int) -> NDArray[np.intp]:
    """Return the fold (n,) of each row: shuffled, of equal size within one row."""
    if n < 2 * folds:
        raise TrainingError(
            "too few training rows for cross-validation",
            expected=f"at least {2 * folds} rows for {folds} folds",
            got=f"{n} rows",
        )
    return seeds.generator(seed, "folds").permutation(n) % folds


def blocked_assignment(points: Floats, folds: int, seed: int) -> NDArray[np.intp]:
    """Return the fold (n,) of each row such that neighbours share one.

    KMeans cuts the map into ten areas a fold; whole areas are dealt to the folds, largest first
    into the emptiest, so that a held-out row has no training row next door.

    Args:
        points: Shape (n, 2): scaled coordinates.
        folds: Number of folds.
        seed: Seed of KMeans.
    """
    from tasador.features.clusters import Clusters

    areas = Clusters.fit(points, _BLOCKS_A_FOLD * folds, seeds.derive_seed(seed, "blocks"))
    labels = areas.labels(points)
    sizes = np.bincount(labels)
    fold_of = np.zeros(len(sizes), dtype=np.intp)
    load = np.zeros(folds)
    for area in np.argsort(-sizes, kind="stable"):
        fold_of[area] = np.argmin(load)
        load[fold_of[area]] += sizes[area]
    if (load == 0).any():
        raise TrainingError(
            "the coordinates cannot be cut into blocks",
            expected=f"at least {folds} distinct places",
            got=f"{int((sizes > 0).sum())}",
        )
    return fold_of[labels]


def make_folds(
    part: Part,
    assignment: NDArray[np.intp],
    pipeline: FeaturePipeline,
    transform: TargetTransform,
) -> Iterator[Fold]:
    """Yield each fold with its features, fitted on the other folds' rows only."""
    target = transform.forward(part.y)
    for fold in np.unique(assignment):
        fit_rows, held_rows = np.flatnonzero(assignment != fold), np.flatnonzero(assignment == fold)
        fitted: FittedFeatures
        fitted, Z_fit = pipeline.fit_transform(part.X[fit_rows], target[fit_rows])
        Z_held = fitted.transform(part.X[held_rows])
        yield Fold(fit_rows, held_rows, Z_fit, Z_held, fitted.names)
