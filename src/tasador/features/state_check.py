"""What the arrays of fitted features should be, by the contract and the manifest's plan.

Checked before anything is built on them: the kernels trust the widths that the plan gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from tasador.core.array_check import INTEGER, ArrayRule, check_arrays
from tasador.core.errors import BundleError
from tasador.data.contract import TableContract

#: Squares of numbers below it add up without overflow.
_FAR = 1e150
_MOST_STEPS = 64
_NEIGHBOURS = 10


def check_state(
    contract: TableContract, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Refuse fitted state whose parts do not fit the contract and each other.

    Args:
        contract: The table's contract.
        spec: The JSON half of `FittedFeatures.state`.
        arrays: The other half.

    Raises:
        BundleError: Naming the array or the entry, what was expected there and what was found.
        KeyError, TypeError: The JSON half is incomplete or of another form.
    """
    _check_names(contract, spec)
    rules = {
        "ratio_fill": ArrayRule((len(contract.ratios),)),
        **_imputer_rules(contract, spec["imputer"], arrays),
        **_place_rules(spec, arrays),
    }
    for name in spec["target_means"]:
        levels = len(contract.column(name).categories)
        rules[f"target_means.{contract.position(name)}"] = ArrayRule((levels + 2,))
    check_arrays(arrays, rules, "features.npz")


def _check_names(contract: TableContract, spec: Mapping[str, Any]) -> None:
    categories = {column.name for column in contract.features if column.kind == "category"}
    for key in ("one_hot", "target_means"):
        _check_texts(spec[key], categories, key)
    numbers = {c.name for c in contract.features if c.kind in ("number", "integer")}
    numbers |= {ratio.name for ratio in contract.ratios}
    plan = spec["comparables"] if spec["comparables"] is not None else spec.get("plan")
    if plan is not None:
        _check_texts(plan["near"], numbers, "near")
        _check_texts(plan["context"], numbers, "context")
        similar = plan["similar_by"]
        _check_texts([] if similar is None else [similar], numbers, "similar_by")
        if not plan["near"]:
            raise _refused("near", "at least one column", "none")
        _check_number(plan["similar_floor"], "similar_floor", above=0.0)
    if spec["comparables"] is not None:
        _check_number(plan["slope"], "slope")
        _check_number(plan["softening"], "softening", above=0.0)
    positions = range(len(contract.features))
    for key in ("indicated", "native"):
        found = spec["imputer"].get(key, [])
        if not isinstance(found, list) or any(
            isinstance(at, bool) or not isinstance(at, int) or at not in positions for at in found
        ):
            raise _refused(f"imputer.{key}", f"positions of the {len(positions)} columns", found)


def _check_texts(found: Any, known: set[str], where: str) -> None:
    right = isinstance(found, list) and all(isinstance(name, str) for name in found)
    if not right or not set(found) <= known or len(set(found)) < len(found):
        raise _refused(where, "names of columns of the contract, each once", found)


def _check_number(found: Any, where: str, above: float | None = None) -> None:
    number = isinstance(found, (int, float)) and not isinstance(found, bool)
    if not number or not math.isfinite(found) or (above is not None and found <= above):
        raise _refused(where, "a finite number" + (" above 0" if above is not None else ""), found)


def _place_rules(
    spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, ArrayRule]:
    """Return the rules of the arrays about places: comparables and clusters."""
    rules: dict[str, ArrayRule] = {}
    found, plan = spec["comparables"], spec.get("plan")
    axes = len((found or plan or {"near": ()})["near"])
    place = ArrayRule((axes,), low=-_FAR, high=_FAR)
    if found is not None:
        target = arrays.get("comparables.target")
        rows = 0 if target is None or target.ndim == 0 else len(target)
        if rows == 0:
            raise _refused("comparables.target", "at least one training row", "none")
        rules |= {
            "comparables.scale": place,
            "comparables.points": ArrayRule((rows, axes), low=-_FAR, high=_FAR),
            "comparables.target": ArrayRule((rows,), low=-_FAR, high=_FAR),
            "comparables.similar": ArrayRule((rows if found["similar_by"] is not None else 0,)),
            "comparables.context": ArrayRule((rows, len(found["context"]))),
        }
    elif plan is not None:
        rules["plan.scale"] = place
    if spec["clusters"] is not None:
        if axes == 0:
            raise _refused("clusters", "a plan that says where they lie", "none")
        clusters = spec["clusters"]
        if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 1:
            raise _refused("clusters", "a number of clusters", clusters)
        rules["clusters.centroids"] = ArrayRule((clusters, axes), low=-_FAR, high=_FAR)
    return rules


def _imputer_rules(
    contract: TableContract, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, ArrayRule]:
    columns = len(contract.features)
    fills = "imputer.fills" if "imputer.fills" in arrays else "imputer.medians"
    rules = {fills: ArrayRule((columns,))}
    for filler in spec.get("fillers", []):
        column = filler["column"]
        if isinstance(column, bool) or not isinstance(column, int) or column not in range(columns):
            raise _refused("imputer.fillers", f"a position of the {columns} columns", column)
        if f"imputer.{column}.scale" in rules:
            raise _refused("imputer.fillers", "one filler for a column", f"several for {column}")
        own = _filler_rules(contract, filler["kind"], f"imputer.{column}.", arrays)
        rules |= {f"imputer.{column}.{name}": rule for name, rule in own.items()}
    return rules


def _filler_rules(
    contract: TableContract, kind: str, prefix: str, arrays: Mapping[str, NDArray[Any]]
) -> dict[str, ArrayRule]:
    last = len(contract.features) - 1
    found = {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
    numeric, categories = found["inputs.numeric"], found["inputs.categories"]
    rules = {
        "scale": ArrayRule((4,)),
        "inputs.numeric": ArrayRule((None,), INTEGER, 0, last),
        "inputs.categories": ArrayRule((None, 2), INTEGER, 0),
        **{f"inputs.{name}": ArrayRule(numeric.shape) for name in ("centre", "factor")},
        **{f"inputs.{name}": ArrayRule(numeric.shape) for name in ("low", "high")},
    }
    check_arrays({name: found[name] for name in rules if name in found}, rules, "features.npz")
    levels = {contract.position(c.name): len(c.categories) for c in contract.features}
    if any(levels.get(at, 0) != n or n < 1 for at, n in categories.tolist()):
        raise _refused(f"{prefix}inputs.categories", "categories with their levels", categories)
    inputs = len(numeric) + int(categories[:, 1].sum())
    return rules | {f"model.{k}": r for k, r in _model_rules(kind, inputs, found).items()}


def _model_rules(kind: str, inputs: int, found: Mapping[str, NDArray[Any]]) -> dict[str, ArrayRule]:
    one = ArrayRule((1,))
    if kind == "linear":
        return {"coef": ArrayRule((inputs,)), "intercept": one}
    if kind == "neighbours":
        rows = len(found["model.values"])
        if rows < _NEIGHBOURS:
            raise _refused("a filler by neighbours", f"{_NEIGHBOURS} rows or more", rows)
        points = ArrayRule((rows, inputs), low=-_FAR, high=_FAR)
        return {"points": points, "values": ArrayRule((rows,))}
    if kind == "trees":
        nodes = len(found["model.feature"])
        if not nodes or not len(found["model.roots"]):
            raise _refused("a filler by trees", "at least one tree", "none")
        return {
            "feature": ArrayRule((nodes,), INTEGER, 0, inputs - 1),
            "threshold": ArrayRule((nodes,), infinite=True),
            "children": ArrayRule((2 * nodes,), INTEGER, 0, nodes - 1),
            "value": ArrayRule((nodes,)),
            "roots": ArrayRule((None,), INTEGER, 0, nodes - 1),
            "base": one,
            "shape": ArrayRule((2,), INTEGER, 0, max(inputs, _MOST_STEPS)),
        }
    raise _refused("a filler's kind", "linear, neighbours or trees", kind)


def _refused(where: str, expected: str, got: Any) -> BundleError:
    return BundleError(
        f"the fitted features are refused because of {where}",
        expected=expected,
        got=repr(got)[:80],
        remedy="fetch the bundle again, or register the model again",
    )
