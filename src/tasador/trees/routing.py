"""One ensemble that values the rows of each level of a category by trees of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.trees.ensemble import (
    LEAF,
    CategorySets,
    TreeEnsemble,
    breadth_first,
    in_double_precision,
    joined,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """One level of a category, as the features have it.

    Attributes:
        name: The level.
        column: The feature that says it.
        code: Its number where `column` holds codes; None where that is 1 for the level, else 0.
    """

    name: str
    column: int
    code: int | None = None

    def holds(self, Z: Floats) -> NDArray[np.bool_]:
        """Tell which of the rows (n, q) are of the level; not those where it is missing (NaN)."""
        x = Z[:, self.column]
        # as `CategorySets` has it: the code of 2.9 is 2
        found: NDArray[np.bool_] = x > 0.5 if self.code is None else np.trunc(x) == self.code
        return found


def places_of(Z: Floats, levels: Sequence[Level]) -> NDArray[np.intp]:
    """Return the first of the `levels` that holds each row (n,); their number where none does."""
    place = np.full(len(Z), len(levels), dtype=np.intp)
    for number in reversed(range(len(levels))):
        place[levels[number].holds(Z)] = number
    return place


def routed(
    own: Sequence[tuple[Level, TreeEnsemble]], rest: TreeEnsemble, counts: Sequence[int]
) -> TreeEnsemble:
    """Return one ensemble that scores each row by the trees of its level, by `rest` without any.

    Every tree gets splits on the levels above its root, which send the rows of others to a leaf of
    0. Scores are those of the routed models up to rounding.

    Args:
        own: Levels and their models, over the same columns as `rest`; a row that two levels hold
            is of the first.
        rest: The model of all other rows.
        counts: How many training rows each level has, then how many all others: the covers of the
            splits, as exact TreeSHAP needs them.
    """
    levels = [level for level, _ in own]
    models = [*(model for _, model in own), rest]
    # a level without a row would divide by its cover
    weight = np.maximum(np.asarray(counts, dtype=np.float64), 1.0)
    left_over = weight[::-1].cumsum()[::-1]
    parts = []
    for number, model in enumerate(models):
        of_last = number < len(levels)
        passed = left_over[1 : number + 1] / left_over[:number]
        if of_last:
            passed = np.append(passed, weight[number] / left_over[number])
        parts.append(_behind(model, levels[: number + 1], of_last, passed))
    return joined(parts, 1)


def _behind(
    model: TreeEnsemble, levels: Sequence[Level], of_last: bool, passed: Floats
) -> TreeEnsemble:
    """Return the trees behind a split on each level, so that they score some rows only.

    Args:
        model: The trees.
        levels: Rows of these score 0, but for those of the last one where `of_last`.
        of_last: Whether the trees score rows of the last level rather than of none.
        passed: Which share of the rows that reach each split passes it.
    """
    model = in_double_precision(model)
    order, owner, _ = breadth_first(model)
    first = order[owner == 0]
    value = model.value * model.scale
    value[first[model.feature[first] == LEAF]] += model.base
    n, n_trees, k = model.n_nodes, model.n_trees, len(levels)
    coded = np.array([level.code is not None for level in levels])
    passes_held = np.arange(k) == (k - 1 if of_last else k)
    passes_left = coded == passes_held  # a set sends its codes left, a threshold the 1 of 0/1 right
    # split j of each tree, and next to it the leaf of the rows that do not pass
    split = n + 2 * np.arange(n_trees * k).reshape(n_trees, k)
    onward = np.column_stack((split[:, 1:], model.roots))
    cover = model.cover[model.roots][:, None] / np.cumprod(passed[::-1])[::-1]

    def longer(old: NDArray[Any], at_splits: Any, at_leaves: Any) -> NDArray[Any]:
        new = np.empty((n_trees, k, 2))
        new[:, :, 0], new[:, :, 1] = at_splits, at_leaves
        return np.concatenate([old, new.ravel()]).astype(old.dtype)

    sets = [
        (int(node), np.array([level.code]))
        for column, level in zip(split.T, levels, strict=True)
        for node in column
        if level.code is not None
    ]
    if model.sets is not None:
        numbers = model.sets.of_node
        known = np.flatnonzero(numbers >= 0)
        sets = [*((int(i), model.sets.codes_of(numbers[i])) for i in known), *sets]
    return TreeEnsemble(
        feature=longer(model.feature, [level.column for level in levels], LEAF),
        threshold=longer(model.threshold, np.where(coded, 0.0, 0.5), 0.0),
        left=longer(model.left, np.where(passes_left, onward, split + 1), LEAF),
        right=longer(model.right, np.where(passes_left, split + 1, onward), LEAF),
        value=longer(value, 0.0, 0.0),
        missing_left=longer(model.missing_left, ~coded, False),
        cover=longer(model.cover, cover, cover * (1.0 - passed)),
        roots=split[:, 0].astype(np.int32),
        n_features=model.n_features,
        sets=CategorySets.of_nodes(n + 2 * n_trees * k, sets),
    )
