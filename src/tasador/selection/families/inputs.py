"""Which features a model is fitted on: not every family can use every kind of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.features.fitted import Kind
from tasador.selection.errors import MonotoneError
from tasador.selection.families.base import Family

Floats = NDArray[np.float64]

#: The parameter of a family that says which features its models see.
INPUTS = "inputs"
#: The positions of category codes, as LightGBM calls them.
CATEGORICAL = "categorical_feature"
#: What each value hides. ``statistics``: the codes of categories of many levels. ``native``: the
#: statistics made from the target by level, the codes being split on as sets of levels instead.
#: ``both`` hides nothing. ``plain`` hides whatever is derived: what is left are the table's own
#: columns.
HIDDEN: Mapping[str, frozenset[Kind]] = {
    "statistics": frozenset({"code"}),
    "native": frozenset({"statistic"}),
    "both": frozenset(),
    "plain": frozenset({"statistic", "target_mean", "ratio", "cluster", "comparable"}),
}
_NEVER_SEEN: frozenset[Kind] = frozenset({"unused"})
#: What a constraint on a feature is to the libraries.
_SIGNS: Mapping[Kind, int] = {"rising": 1, "falling": -1}


def fit_model(
    chosen: Family,
    params: Mapping[str, Any],
    Z: Floats,
    kinds: Sequence[Kind],
    target: Floats,
    seed: int,
    threads: int = 0,
    weight: Floats | None = None,
) -> Any:
    """Fit a model of a family on those features that its parameters let it see.

    Args:
        chosen: The family.
        params: Its parameters.
        Z: Shape (n, q): the features.
        kinds: What each of them is made of; empty where all are seen as they are.
        target: Shape (n,), on the transformed scale.
        seed: Seed of the model.
        threads: 0 for all cores.
        weight: Shape (n,): the rows' weights, for a family that takes them; None where all count
            alike.
    """
    params, Z = visible(chosen, params, Z, kinds)
    return chosen.fit(params, Z, target, seed, threads, **_weighted(weight))


def grow_model(
    chosen: Family,
    params: Mapping[str, Any],
    Z: Floats,
    kinds: Sequence[Kind],
    target: Floats,
    seed: int,
    steps: Sequence[int],
    weight: Floats | None = None,
) -> Iterator[Any]:
    """Yield the model at each of the ascending `steps`, as `fit_model` fits it."""
    params, Z = visible(chosen, params, Z, kinds)
    return chosen.grow(params, Z, target, seed, steps, **_weighted(weight))


def _weighted(weight: Floats | None) -> dict[str, Floats]:
    # a family that takes no weights need not know of them
    return {} if weight is None else {"weight": weight}


def visible(
    chosen: Family, params: Mapping[str, Any], Z: Floats, kinds: Sequence[Kind]
) -> tuple[dict[str, Any], Floats]:
    """Return the parameters as the library takes them, and `Z` with hidden columns constant.

    Raises:
        TrainingError: The family cannot keep estimates monotone, and a feature asks for it.
    """
    params = dict(params)
    hidden = HIDDEN[params.pop(INPUTS, "both" if chosen.takes_codes else "statistics")]
    Z = hide(Z, kinds, hidden | _NEVER_SEEN)
    codes = [i for i, kind in enumerate(kinds) if kind == "code"]
    if codes and "code" not in hidden:
        params[CATEGORICAL] = codes
    if not _SIGNS.keys().isdisjoint(kinds):
        constrained = chosen.constrained(params, [_SIGNS.get(kind, 0) for kind in kinds])
        if constrained is None:
            raise MonotoneError.not_kept(chosen.name)
        params = constrained
    return params, Z


def keeps_monotone(chosen: Family, params: Mapping[str, Any], kinds: Sequence[Kind]) -> bool:
    """Tell whether a model of a family can keep to what features of these kinds ask for."""
    return _SIGNS.keys().isdisjoint(kinds) or chosen.constrained(params, ()) is not None


def hide(Z: Floats, kinds: Sequence[Kind], hidden: frozenset[Kind]) -> Floats:
    """Return the features (n, q) with those of hidden kinds constant.

    A constant column is split on by no tree and has no weight in a linear model. So the fitted
    model takes all features, and what is hidden changes none of its estimates.
    """
    columns = [i for i, kind in enumerate(kinds) if kind in hidden]
    if not columns:
        return Z
    Z = Z.copy()
    Z[:, columns] = 0.0
    return Z
