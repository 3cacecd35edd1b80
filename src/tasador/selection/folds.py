"""Cross-validation folds, and the features fitted once inside each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

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
        weight: Weights of the fitting rows; None where all count alike.
    """

    fit_rows: NDArray[np.intp]
    held_rows: NDArray[np.intp]
    Z_fit: Floats
    Z_held: Floats
    kinds: tuple[Kind, ...] = field(default=(), kw_only=True)
    weight: Floats | None = field(default=None, kw_only=True)

    @property
    def rows(self) -> FoldRows:
        """These alone, without what a `Fold` has beside them."""
        return FoldRows(
            self.fit_rows, self.held_rows, self.Z_fit, self.Z_held, kinds=self.kinds,
            weight=self.weight,
        )  # fmt: skip


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


@dataclass(frozen=True)
class FoldAssignment:
    """Which rows each fold holds out, and which it fits on.

    Attributes:
        fold: Shape (n,): the fold of each row, from 0.
        forward: Whether folds go forward in time: 0 holds the newest rows out, and each fits on
            the rows of higher numbers only, all of which are older. The highest number is that of
            the oldest rows, which no fold holds out.
        property_hash: Shape (n,): what was sold; of a property that is held out, a forward fold
            fits on no earlier sale. None where that is not known.
        most: Most rows that a fold fits on, a seeded sample of them; None for all.
    """

    fold: NDArray[np.intp]
    forward: bool = False
    property_hash: NDArray[np.uint64] | None = None
    most: int | None = None

    @property
    def numbers(self) -> list[int]:
        """The folds, in their order."""
        found: list[int] = np.unique(self.fold).tolist()
        return found[:-1] if self.forward else found

    def rows(self, number: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the positions of a fold's fitting rows and of those that it holds out."""
        held = self.fold == number
        fit = self.fold > number if self.forward else ~held
        if self.forward and self.property_hash is not None:
            fit &= ~np.isin(self.property_hash, self.property_hash[held])
        fit_rows = np.flatnonzero(fit)
        if self.most is not None:
            some = seeds.sample_places(len(fit_rows), self.most, number, "rows of a fold")
            fit_rows = fit_rows[some]
        return fit_rows, np.flatnonzero(held)

    def at_most(self, rows: int) -> FoldAssignment:
        """Return the same folds, each fitting on at most `rows` rows."""
        return self if len(self.fold) <= rows else replace(self, most=rows)

    def enough(self, rows: int) -> list[int]:
        """Return the first folds that together hold out at least `rows` rows; all, if none do.

        What is measured out of fold on a hundred thousand rows needs no more of them, and each
        fold costs a fit.
        """
        sizes = np.bincount(self.fold)[self.numbers]
        wanted = int(np.searchsorted(np.cumsum(sizes), rows)) + 1
        return self.numbers[:wanted]


def random_assignment(
    rows: int, folds: int, seed: int, property_hash: NDArray[np.uint64] | None = None
) -> FoldAssignment:
    """Deal rows to folds by chance: of equal size within one row.

    Args:
        rows: How many there are.
        folds: Number of folds.
        seed: Seed of the deal.
        property_hash: Shape (n,): what was sold. Whole properties are dealt then, in the order of
            their hashes, which does not depend on that of the rows.

    Raises:
        FoldsError: There are too few rows, or properties.
    """
    place = np.arange(rows)
    if property_hash is not None:
        names, place = np.unique(property_hash, return_inverse=True)
        rows = len(names)
    if rows < 2 * folds:
        raise FoldsError.too_few_rows(rows, folds)
    dealt = seeds.generator(seed, "folds").permutation(rows) % folds
    return FoldAssignment(dealt[place])


#: Share of the rows, the oldest, that folds which go forward in time only fit on.
_FIRST_SHARE = 0.5


def assign_folds(part: Part, folds: int, seed: int) -> FoldAssignment:
    """Deal the rows to folds: forward in time where they were split by time, else by chance.

    What is measured out of fold is then what later sales will meet.
    """
    if part.time is not None:
        return forward_assignment(part.time, folds, part.property_hash)
    return random_assignment(len(part), folds, seed, part.property_hash)


def forward_assignment(
    time: Floats, folds: int, property_hash: NDArray[np.uint64] | None = None
) -> FoldAssignment:
    """Deal the newer half of the rows to folds by date, for a rolling origin.

    The rows of one moment share a fold; rows without a date are the oldest.

    Args:
        time: Shape (n,): when each was sold; NaN is unknown.
        folds: Number of folds; fewer come of it where there are fewer dates.
        property_hash: Shape (n,): what was sold.

    Raises:
        FoldsError: There are too few rows, or all have one date.
    """
    if len(time) < 2 * folds:
        raise FoldsError.too_few_rows(len(time), folds)
    dates = np.where(np.isnan(time), -np.inf, time)
    shares = _FIRST_SHARE + (1.0 - _FIRST_SHARE) * np.arange(folds) / folds
    starts = np.unique(np.sort(dates)[(shares * len(dates)).astype(np.intp)])
    starts = starts[starts > dates.min()]  # the first fold needs older rows to fit on
    if not len(starts):
        raise FoldsError.one_date()
    newer = np.searchsorted(starts, dates, side="right")
    return FoldAssignment(len(starts) - newer, forward=True, property_hash=property_hash)


def blocked_assignment(points: Floats, folds: int, seed: int) -> FoldAssignment:
    """Deal the rows to folds such that neighbours share one.

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
    return FoldAssignment(fold_of[labels])


def comparing_folds(part: Part, folds: int, seed: int) -> list[tuple[FoldAssignment, int]]:
    """Return the folds on which features, families and parameters are compared, by their numbers.

    Where rows were split by time they are held out by chance and forward in time, in turns. What
    is best for a half of the history that is valued from the other half need not be best for a row
    among known ones: choices by forward folds alone cost 6% of the error on random rows of
    Melbourne's sales, and saved nothing on its newest ones.

    Args:
        part: The rows.
        folds: How many.
        seed: Seed of those by chance.
    """
    by_chance = random_assignment(len(part), folds, seed, part.property_hash)
    if part.time is None:
        return [(by_chance, number) for number in by_chance.numbers]
    forward = forward_assignment(part.time, folds, part.property_hash)
    later = [(forward, number) for number in forward.numbers[: folds // 2]]
    now = [(by_chance, number) for number in by_chance.numbers[: folds - len(later)]]
    return [one for turn in zip_longest(now, later) for one in turn if one is not None]


def sample_rows(part: Part, most: int | None, seed: int) -> Part:
    """Return the part, or a seeded sample of `most` of its rows where it has more."""
    if most is None or len(part) <= most:
        return part
    kept = seeds.generator(seed, "compared rows").permutation(len(part))[:most]
    kept.sort()
    return part.take(kept)


def held_out(folds: Sequence[FoldRows]) -> NDArray[np.intp]:
    """Return the positions of the rows that the folds hold out together, ascending."""
    none = np.empty(0, dtype=np.intp)
    return np.sort(np.concatenate([none, *(fold.held_rows for fold in folds)]))


def make_folds(
    part: Part,
    assignment: FoldAssignment,
    pipeline: FeaturePipeline,
    transform: TargetTransform,
    numbers: Sequence[int] | None = None,
) -> Iterator[Fold]:
    """Yield each fold with its features, fitted on its fitting rows only, in their order.

    Args:
        part: The rows.
        assignment: The fold of each row.
        pipeline: The unfitted features.
        transform: The target's transform.
        numbers: The folds to make; all of them when None.
    """
    target = transform.forward(part.y)

    def make(number: int) -> Fold:
        fit_rows, held_rows = assignment.rows(number)
        fitted, Z_fit = pipeline.fit_transform(part.X[fit_rows], target[fit_rows])
        Z_held = fitted.transform(part.X[held_rows])
        weight = part.fit_weight(fit_rows)
        return Fold(fit_rows, held_rows, Z_fit, Z_held, fitted, kinds=fitted.kinds, weight=weight)

    numbers = assignment.numbers if numbers is None else list(numbers)
    # in order, whichever is ready first: what is summed over them keeps its bits
    ready: dict[int, Fold] = {}
    following = iter(range(len(numbers)))
    awaited = next(following)
    for place, fold in in_parallel(make, numbers):
        ready[place] = fold
        while awaited in ready:
            yield ready.pop(awaited)
            awaited = next(following, len(numbers))
