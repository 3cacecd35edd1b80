"""Models of which each values one level of a category, and whether they pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column
from tasador.core.parallel import usable_cores
from tasador.features.encoders import CODE
from tasador.features.fitted import Kind
from tasador.metrics.regression import label
from tasador.selection.ensembling import Member, Pick
from tasador.selection.families.base import Family
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import fit_model
from tasador.trees.ensemble import LinearModel, TreeEnsemble
from tasador.trees.routing import Level, places_of, routed

Floats = NDArray[np.float64]
#: Fewest rows on which a level gets a model of its own, and most such levels, the largest first:
#: each is one more model, and one more split above the trees of those behind it.
LEAST_ROWS = 500
MOST_LEVELS = 12
#: Up to so many rows threads wait for one another longer than they work; with more than so many,
#: the memory of two fits at a time would be what a run needs most.
_FEW_ROWS, _MANY_ROWS = 50_000, 400_000
_SAYING: frozenset[Kind] = frozenset({"one_hot", "code"})


def own_levels(
    column: Column, names: Sequence[str], kinds: Sequence[Kind], Z: Floats
) -> list[Level]:
    """Return the levels of a category that have rows enough for a model, the largest first.

    Args:
        column: The category.
        names: Names of the features.
        kinds: What each of them is made of.
        Z: Shape (n, q): the rows that models are fitted on.

    Returns:
        None where one level has all rows, or where features do not say the level.
    """
    places = {n: i for i, (n, k) in enumerate(zip(names, kinds, strict=True)) if k in _SAYING}
    levels = []
    for code, name in enumerate(column.categories):
        if f"{column.name}={name}" in places:
            levels.append(Level(name, places[f"{column.name}={name}"]))
        elif f"{column.name}_{CODE}" in places:
            levels.append(Level(name, places[f"{column.name}_{CODE}"], code))
    counts = np.bincount(places_of(Z, levels), minlength=len(levels) + 1)[: len(levels)]
    if not levels or counts.max() == len(Z):
        return []
    largest = np.argsort(-counts, kind="stable")[:MOST_LEVELS]
    return [levels[i] for i in largest if counts[i] >= LEAST_ROWS]


@dataclass(frozen=True)
class FittedMember:
    """A fitted model of the final average.

    Attributes:
        chosen: Its family.
        pooled: The model of all rows.
        own: The models of levels, which score their rows in its place; empty where it is not
            grouped.
        counts: Training rows of each level of `own`, then of all others.
    """

    chosen: Family
    pooled: Any
    own: tuple[tuple[Level, Any], ...] = ()
    counts: tuple[int, ...] = ()

    def predict(self, Z: Floats, threads: int = 1) -> Floats:
        """Return the scores (n,) of feature rows (n, q), as the library has them."""
        if not self.own:
            return self.chosen.predict(self.pooled, Z, threads)
        place, score = places_of(Z, [level for level, _ in self.own]), np.empty(len(Z))
        for number, model in enumerate([*(model for _, model in self.own), self.pooled]):
            mine = place == number
            if mine.any():
                score[mine] = self.chosen.predict(model, Z[mine], threads)
        return score

    def export(self) -> TreeEnsemble | LinearModel:
        """Return the arrays that are shipped."""
        pooled = self.chosen.export(self.pooled)
        own = [(level, self.chosen.export(model)) for level, model in self.own]
        trees = [(level, model) for level, model in own if isinstance(model, TreeEnsemble)]
        if not trees or not isinstance(pooled, TreeEnsemble):  # no linear family is grouped
            return pooled
        return routed(trees, pooled, self.counts)


def fit_member(
    member: Member,
    Z: Floats,
    names: Sequence[str],
    kinds: Sequence[Kind],
    target: Floats,
    group: Column | None,
    threads: int = 0,
    weight: Floats | None = None,
) -> FittedMember:
    """Fit a model of the final average.

    Args:
        member: What to fit.
        Z: Shape (n, q): the features.
        names: Their names.
        kinds: What each of them is made of.
        target: Shape (n,), on the transformed scale.
        group: The category by whose levels a grouped member is fitted.
        threads: 0 for all cores.
        weight: Shape (n,): how much each row counts; None where all count alike.
    """
    chosen = family(member.family)

    def fit(rows: NDArray[np.bool_] | slice) -> Any:
        some = None if weight is None else weight[rows]
        return fit_model(
            chosen, member.params, Z[rows], kinds, target[rows], member.seed, threads, some
        )

    pooled = fit(slice(None))
    if not member.grouped or group is None:
        return FittedMember(chosen, pooled)
    levels = own_levels(group, names, kinds, Z)
    place = places_of(Z, levels)
    own = tuple((level, fit(place == number)) for number, level in enumerate(levels))
    counts = np.bincount(place, minlength=len(levels) + 1)
    return FittedMember(chosen, pooled, own, tuple(counts.tolist()))


def threads_of_fits(fits: int, rows: int) -> list[int]:
    """Return how many threads each of several fits on `rows` rows should use: no core idles.

    Fits fill the cores one by one; those that are left over for a last round share them. On very
    many rows each has all cores, one after the other: every fit under way holds a copy of its rows.
    """
    cores = usable_cores()
    if rows > _MANY_ROWS:
        return [cores] * fits
    rest = fits % cores
    if rest == 0 or rows <= _FEW_ROWS:
        return [1] * fits
    return [1] * (fits - rest) + [cores // rest] * rest


Outcome = Literal["not tried", "pooled", "averaged", "used"]


@dataclass(frozen=True)
class GroupComparison:
    """Models per level beside the pooled model, out of fold on the same rows.

    Attributes:
        column: The category.
        metric: The error that decides.
        pooled: That of the pooled model.
        grouped: That of the models per level; where they are averaged with others, of the average.
        levels: The levels with a model of their own.
        outcome: What became of them.
        reason: Why they were not tried.
    """

    column: str
    metric: str = ""
    pooled: float = float("nan")
    grouped: float = float("nan")
    levels: tuple[str, ...] = ()
    outcome: Outcome = "not tried"
    reason: str = ""

    def decided(
        self, metric: str, pooled: float, grouped: float, picks: Sequence[Pick]
    ) -> GroupComparison:
        """Return the comparison with the errors, after the members of the average were picked."""
        taken = [pick for pick in picks if pick.taken]
        outcome: Outcome = "pooled"
        if any(pick.member.grouped for pick in taken):
            outcome = "averaged" if len(taken) > 1 else "used"
            grouped = taken[-1].error
        return replace(self, metric=metric, pooled=pooled, grouped=grouped, outcome=outcome)

    @property
    def sentence(self) -> str:
        """The decision, for people."""
        begin = f"models per {self.column}"
        if self.outcome == "not tried":
            return f"{begin}: not tried, {self.reason}"
        figures = f"{label(self.metric)} {self.grouped:.4g} against {self.pooled:.4g}"
        if self.outcome == "pooled":
            if self.grouped < self.pooled:
                return f"{begin}: the pooled model is kept ({figures}: the gain is too small)"
            wins = f"{label(self.metric)} {self.pooled:.4g} against {self.grouped:.4g}"
            return f"{begin}: the pooled model wins ({wins})"
        how = "are used" if self.outcome == "used" else "are averaged with others"
        return (
            f"{begin} {how}: {figures} of the pooled model; levels with their own: "
            f"{', '.join(self.levels)}; pooled for the rest"
        )
