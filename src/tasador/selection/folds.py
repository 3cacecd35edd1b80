"""Cross-validation folds, and the features fitted once inside each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.parallel import in_parallel
from tasador.data.table import Part
from tasador.features.fitted import Kind
from tasador.features.pipeline import FeaturePipeline, FittedFeatures
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.errors import FoldsError

Floats = NDArray[np.float64]
_BLOCKS_A_FOLD = 10


@dataclass(frozen=True)
class FoldRows:
    """What models are fitted and measured on in one fold.

    Attributes:
        fit_rows: Positions of the fitting rows in the training part.
        held_rows: Positions of the held-out rows.
        Z_fit: Cross-fitted features of the fitting rows.
        Z_held: Features of the held-out rows.
        kinds: What each feature is made of; empty where models see all of them as they are.
    """

    fit_rows: NDArray[np.intp]
    held_rows: NDArray[np.intp]
    Z_fit: Floats
    Z_held: Floats
    kinds: tuple[Kind, ...] = field(default=(), kw_only=True)

    @property
    def rows(self) -> FoldRows:
        """These alone, without what a `Fold` has beside them."""
        return FoldRows(self.fit_rows, self.held_rows, self.Z_fit, self.Z_held, kinds=self.kinds)


@dataclass(frozen=True)
class Fold(FoldRows):
    """One fold: features fitted on its fitting rows only, applied to its held-out rows.

    Attributes:
        fitted: The features as fitted on the fitting rows.
    """

    fitted: FittedFeatures

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features.

        Folds may differ in them: where no fitting row lacks a value, no column says so.
        """
        return self.fitted.names


def random_assignment(n: int, folds: int, seed: int) -> NDArray[np.intp]:
    """Return the fold (n,) of each row: shuffled, of equal size within one row."""
    if n < 2 * folds:
        raise FoldsError.too_few_rows(n, folds)
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
    from tasador.features.encoders import Clusters

    areas = Clusters.fit(points, _BLOCKS_A_FOLD * folds, seeds.derive_seed(seed, "blocks"))
    labels = areas.labels(points)
    sizes = np.bincount(labels)
    fold_of = np.zeros(len(sizes), dtype=np.intp)
    load = np.zeros(folds)
    for area in np.argsort(-sizes, kind="stable"):
        fold_of[area] = np.argmin(load)
        load[fold_of[area]] += sizes[area]
    if (load == 0).any():
        raise FoldsError.too_few_places(int((sizes > 0).sum()), folds)
    return fold_of[labels]


def sample_rows(part: Part, most: int | None, seed: int) -> Part:
    """Return the part, or a seeded sample of `most` of its rows where it has more."""
    if most is None or len(part) <= most:
        return part
    kept = seeds.generator(seed, "compared rows").permutation(len(part))[:most]
    kept.sort()
    return Part(part.X[kept], part.y[kept], part.row_hash[kept])


def folds_for(assignment: NDArray[np.intp], rows: int) -> list[int]:
    """Return the first folds that together hold out at least `rows` rows; all, where none do.

    What is measured out of fold on a hundred thousand rows needs no more of them, and each fold
    costs a fit.
    """
    sizes = np.bincount(assignment)
    enough = int(np.searchsorted(np.cumsum(sizes), rows)) + 1
    return list(range(min(enough, len(sizes))))


def held_out(folds: Sequence[FoldRows]) -> NDArray[np.intp]:
    """Return the positions of the rows that the folds hold out together, ascending."""
    return np.sort(np.concatenate([fold.held_rows for fold in folds]))


def make_folds(
    part: Part,
    assignment: NDArray[np.intp],
    pipeline: FeaturePipeline,
    transform: TargetTransform,
    numbers: Sequence[int] | None = None,
) -> Iterator[Fold]:
    """Yield each fold with its features, fitted on the other folds' rows only, in their order.

    Args:
        part: The rows.
        assignment: Shape (n,): the fold of each row.
        pipeline: The unfitted features.
        transform: The target's transform.
        numbers: The folds to make; all of them when None.
    """
    target = transform.forward(part.y)

    def make(number: int) -> Fold:
        fit_rows = np.flatnonzero(assignment != number)
        held_rows = np.flatnonzero(assignment == number)
        fitted, Z_fit = pipeline.fit_transform(part.X[fit_rows], target[fit_rows])
        Z_held = fitted.transform(part.X[held_rows])
        return Fold(fit_rows, held_rows, Z_fit, Z_held, fitted, kinds=fitted.kinds)

    numbers = np.unique(assignment).tolist() if numbers is None else list(numbers)
    # in order, whichever is ready first: what is summed over them keeps its bits
    ready: dict[int, Fold] = {}
    following = iter(range(len(numbers)))
    awaited = next(following)
    for place, fold in in_parallel(make, numbers):
        ready[place] = fold
        while awaited in ready:
            yield ready.pop(awaited)
            awaited = next(following, len(numbers))
