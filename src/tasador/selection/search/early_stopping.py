"""Candidates of a race that grow under watch, and are given up when no step more can save them.

A group's longest forest or boosted model grows from one number of steps in its grid to the next,
with stops between them. At each it is measured, exactly as if it had been fitted with so many
steps; what remains is fitted only while it may still matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.features.fitted import Kind
from tasador.selection.families.catalog import Family, family
from tasador.selection.families.inputs import grow_model
from tasador.selection.search.shared_work import (
    Candidate,
    Drop,
    Estimates,
    Group,
    by_depth,
    estimate_alone,
    estimate_group,
    steps_of,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Growth:
    """How far a model has come.

    Attributes:
        steps: Steps that it has.
        whole: Steps that it will have.
        now: Shape (m,): its estimates on the first matrix.
        earlier_steps: Steps that it had a while ago: half of them for a mean of trees, three
            quarters for a sum.
        earlier: Shape (m,): its estimates then.
        averages: Whether it is a mean of its steps.
    """

    steps: int
    whole: int
    now: Floats
    earlier_steps: int
    earlier: Floats
    averages: bool


#: Shares of the whole at which a model is looked at besides the grid's numbers of steps. A mean of
#: trees shows early what it will come to; a sum does not.
_LOOKS_AT_A_MEAN = (1 / 30, 1 / 15, 1 / 8, 1 / 4, 1 / 2)
_LOOKS_AT_A_SUM = tuple(i / 8 for i in range(1, 8))
_FEWEST_STEPS = 8

#: Why a model is not worth growing further, or None.
Watch = Callable[[Growth], Drop | None]


def grow_group(
    group: Group,
    Z: Floats,
    target: Floats,
    matrices: Sequence[Floats],
    seed: int,
    watch: Watch,
    kinds: Sequence[Kind] = (),
    weight: Floats | None = None,
) -> Iterator[Estimates]:
    """Yield what `estimate_group` does; candidates that `watch` gives up have no values.

    Args:
        group: The candidates.
        Z: Shape (n, q): the rows to fit on.
        target: Shape (n,): their target on the transformed scale.
        matrices: Rows to estimate, (m, q) each; `watch` sees the first.
        seed: Seed of the models.
        watch: Asked at each stop but the last.
        kinds: What each feature is made of; empty where models see all of them.
        weight: Shape (n,): the rows' weights; None where all count alike.
    """
    chosen = family(group.family)
    stages = sorted({steps_of(chosen, c.params) for c in group.members})
    if not chosen.grows or len(stages) < 2:
        yield from estimate_group(group, Z, target, matrices, seed, kinds, weight)
        return
    common = (Z, target, matrices, seed)
    try:
        found = list(_grown(chosen, group.members, stages, *common, watch, kinds, weight))
    except Exception:
        found = [estimate_alone(chosen, c, *common, kinds, weight) for c in group.members]
    yield from found


def _grown(
    chosen: Family,
    members: Sequence[Candidate],
    stages: Sequence[int],
    Z: Floats,
    target: Floats,
    matrices: Sequence[Floats],
    seed: int,
    watch: Watch,
    kinds: Sequence[Kind],
    weight: Floats | None,
) -> Iterator[Estimates]:
    values: dict[int, tuple[Floats, ...]] = {}
    why: Drop | None = None
    grown, reached = 0, np.inf
    for depth, some in by_depth(chosen, members):
        started = time.thread_time()
        if not grown or depth is None or reached >= depth:
            values, why, grown, model = _grow(
                chosen, some[0].params, stages, Z, target, matrices, seed, watch, kinds, weight
            )
            if chosen.depth is not None:
                reached = chosen.reached_depth(model)
        seconds = time.thread_time() - started
        wanted = [min(steps_of(chosen, c.params), grown) for c in some]
        for candidate, steps in zip(some, wanted, strict=True):
            share = seconds * steps / sum(wanted)
            if steps_of(chosen, candidate.params) in values:
                yield Estimates(candidate, values[steps], share)
            else:
                yield Estimates(candidate, (), share, given_up=why)


def _grow(
    chosen: Family,
    params: Mapping[str, Any],
    stages: Sequence[int],
    Z: Floats,
    target: Floats,
    matrices: Sequence[Floats],
    seed: int,
    watch: Watch,
    kinds: Sequence[Kind],
    weight: Floats | None,
) -> tuple[dict[int, tuple[Floats, ...]], Drop | None, int, Any]:
    """Return the estimates by steps, why it was left, the steps it has come to, and the model."""
    whole = {**params, str(chosen.prefix): stages[-1]}
    values: dict[int, tuple[Floats, ...]] = {}
    stops = _stops(stages, averages=chosen.averages)
    growing = grow_model(chosen, whole, Z, kinds, target, seed, stops, weight)
    for steps, model in zip(stops, growing, strict=True):
        now = chosen.predict(model, matrices[0])
        if steps in stages:
            values[steps] = (now, *(chosen.predict(model, rows) for rows in matrices[1:]))
        if steps == stages[-1]:
            break
        ago = max(1, steps // 2 if chosen.averages else 3 * steps // 4)
        earlier = chosen.staged(model, matrices[0], [ago])[0]
        why = watch(Growth(steps, stages[-1], now, ago, earlier, chosen.averages))
        if why is not None:
            return values, why, steps, model
    return values, None, stages[-1], model


def _stops(stages: Sequence[int], *, averages: bool) -> list[int]:
    """Return the numbers of steps at which a model is measured, ascending."""
    shares = _LOOKS_AT_A_MEAN if averages else _LOOKS_AT_A_SUM
    looks = {int(share * stages[-1]) for share in shares}
    return sorted({*stages, *(steps for steps in looks if steps >= _FEWEST_STEPS)})
