"""Candidates of a grid that share work, fitted together with the results of fitting each alone.

Three things are shared, none of which changes an estimate beyond the last bits:

* a forest or boosted model with fewer steps is the beginning of the one with more;
* a model whose trees never reach a smaller depth limit is the model with that limit as well;
* parameters that the library turns into the same model are fitted once.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.hashing import fingerprint
from tasador.features.fitted import Kind
from tasador.selection.families.catalog import Family, family
from tasador.selection.families.inputs import fit_model

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """One set of parameters of a family, and its place in the grid's order."""

    position: int
    family: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Candidates that share work.

    Attributes:
        family: Their family.
        members: The candidates.
        key: What they have in common.
    """

    family: str
    members: tuple[Candidate, ...]
    key: str

    @property
    def cost(self) -> float:
        """Rough seconds to fit the group on a fold."""
        chosen = family(self.family)
        steps = {steps_of(chosen, c.params) for c in self.members}
        depths = {c.params.get(chosen.depth or "") for c in self.members}
        share = self.members[0].params.get("max_features", 1.0)
        share = share if isinstance(share, float) else 1.0 if share is None else 0.3
        return chosen.seconds_a_step * max(steps) * len(depths) * share


@dataclass(frozen=True)
class Drop:
    """Why a race left a candidate.

    Attributes:
        after: Number of folds after which it did; 0 on the first.
        behind: By how much its mean row loss exceeded the leader's.
        limit: What could still have been chance.
        steps: Steps that it had, and would have had, when it was given up on the first fold.
    """

    after: int
    behind: float
    limit: float
    steps: tuple[int, int] | None = None

    def reason(self, folds: int) -> str:
        """Return why, for people; `folds` are all folds."""
        chance = f"chance explains {self.limit:.6g}"
        if self.steps is None:
            return (
                f"behind the leader by {self.behind:.6g} a row after fold {self.after} of {folds}; "
                f"{chance}"
            )
        some, all_ = self.steps
        return (
            f"given up with {some} of its {all_} steps on the first fold: behind the leader by "
            f"{self.behind:.6g} a row with all that they may gain; {chance}"
        )


@dataclass(frozen=True)
class Estimates:
    """What one candidate estimates on each of the matrices asked for, and its share of the time.

    Attributes:
        candidate: The candidate.
        values: Shape (m,) for each matrix, on the transformed scale.
        seconds: CPU seconds; what is shared is divided by the number of steps.
        error: Why there are no values, or None.
        given_up: Why its model was not grown to the end, or None.
    """

    candidate: Candidate
    values: tuple[Floats, ...]
    seconds: float
    error: str | None = None
    given_up: Drop | None = None


def group_candidates(candidates: Sequence[Candidate]) -> list[Group]:
    """Put together the candidates that share work, in the order of their first members."""
    members: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        chosen = family(candidate.family)
        common = chosen.canonical(candidate.params)
        for shared in (chosen.prefix, chosen.depth):
            common.pop(shared or "", None)
        members[fingerprint([candidate.family, common])].append(candidate)
    return [Group(found[0].family, tuple(found), key) for key, found in members.items()]


def estimate_group(
    group: Group,
    Z: Floats,
    target: Floats,
    matrices: Sequence[Floats],
    seed: int,
    kinds: Sequence[Kind] = (),
    weight: Floats | None = None,
) -> Iterator[Estimates]:
    """Fit a group's candidates on one thread and yield each one's estimates.

    A fit that fails is tried again for each of its candidates alone, so that only those fail that
    would have failed by themselves.

    Args:
        group: The candidates.
        Z: Shape (n, q): the rows to fit on.
        target: Shape (n,): their target on the transformed scale.
        matrices: Rows to estimate, (m, q) each.
        seed: Seed of the models.
        kinds: What each feature is made of; empty where models see all of them.
        weight: Shape (n,): the rows' weights; None where all count alike.
    """
    chosen = family(group.family)
    common = (Z, target, matrices, seed, kinds, weight)
    try:
        found = list(_by_depth(chosen, group.members, *common))
    except Exception:
        found = [estimate_alone(chosen, c, *common) for c in group.members]
    yield from found


def steps_of(chosen: Family, params: Mapping[str, Any]) -> int:
    """Return the steps of a set of parameters; 1 for a family that has none."""
    canonical = chosen.canonical(params)
    return int(canonical.get(chosen.prefix, 100)) if chosen.prefix else 1


def by_depth(
    chosen: Family, members: Sequence[Candidate]
) -> list[tuple[int | None, list[Candidate]]]:
    """Return the candidates by their limit on depth, the deepest first; None is no limit."""
    found: dict[Any, list[Candidate]] = defaultdict(list)
    for candidate in members:
        depth = chosen.canonical(candidate.params).get(chosen.depth or "")
        found[depth].append(candidate)
    order = sorted(found, key=lambda depth: -np.inf if depth is None else -depth)
    return [(depth, found[depth]) for depth in order]


def _by_depth(
    chosen: Family,
    members: Sequence[Candidate],
    Z: Floats,
    target: Floats,
    matrices: Sequence[Floats],
    seed: int,
    kinds: Sequence[Kind],
    weight: Floats | None,
) -> Iterator[Estimates]:
    """Fit the deepest first: what it never reaches needs no fit of its own."""
    stages = sorted({steps_of(chosen, c.params) for c in members})
    values: dict[int, tuple[Floats, ...]] = {}
    reached: float = np.inf
    for depth, some in by_depth(chosen, members):
        started = time.thread_time()
        if not values or depth is None or reached >= depth:
            model = _fit(chosen, some[0].params, max(stages), Z, target, seed, kinds, weight)
            values = _staged(chosen, model, stages, matrices)
            if chosen.depth is not None:
                reached = chosen.reached_depth(model)
        seconds = time.thread_time() - started
        wanted = [steps_of(chosen, c.params) for c in some]
        for candidate, steps in zip(some, wanted, strict=True):
            yield Estimates(candidate, values[steps], seconds * steps / sum(wanted))


def _fit(
    chosen: Family,
    params: Mapping[str, Any],
    steps: int,
    Z: Floats,
    target: Floats,
    seed: int,
    kinds: Sequence[Kind],
    weight: Floats | None,
) -> Any:
    with_steps = {**params, chosen.prefix: steps} if chosen.prefix else params
    return fit_model(chosen, with_steps, Z, kinds, target, seed, 1, weight)


def _staged(
    chosen: Family, model: Any, stages: Sequence[int], matrices: Sequence[Floats]
) -> dict[int, tuple[Floats, ...]]:
    if len(stages) == 1:
        return {stages[-1]: tuple(chosen.predict(model, Z) for Z in matrices)}
    columns = [chosen.staged(model, Z, stages) for Z in matrices]
    return dict(zip(stages, zip(*columns, strict=True), strict=True))


def estimate_alone(
    chosen: Family,
    candidate: Candidate,
    Z: Floats,
    target: Floats,
    matrices: Sequence[Floats],
    seed: int,
    kinds: Sequence[Kind] = (),
    weight: Floats | None = None,
) -> Estimates:
    """Fit one candidate by itself; a failure is returned, not raised."""
    started = time.thread_time()
    try:
        model = fit_model(chosen, candidate.params, Z, kinds, target, seed, 1, weight)
        values = tuple(chosen.predict(model, Z) for Z in matrices)
    except Exception as error:  # one candidate's failure must not lose the others
        return Estimates(candidate, (), time.thread_time() - started, f"{error}")
    return Estimates(candidate, values, time.thread_time() - started)
