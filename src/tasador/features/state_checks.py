"""What a state of `FittedFeatures`, read from files that anybody may have written, has to be.

`check_state` compares everything with the contract before a tree is built or a kernel is given an
address: names, shapes, types, ranges, and each part with the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core.input_checks import INTEGER, MOST, Expected, check_arrays
from tasador.features.encoders import STATISTICS
from tasador.features.plan import ComparablesPlan
from tasador.settings.run import Direction

Arrays = Mapping[str, NDArray[Any]]

#: Levels of a category with 0/1 columns: their table takes as many times as many doubles.
_MOST_LEVELS = 4096
_MOST_ROWS = 2**31
_SMALLEST = 5e-324


def check_state(contract: TableContract, spec: Mapping[str, Any], arrays: Arrays) -> None:
    """Refuse a state that is not one that `FittedFeatures.state` gives for `contract`.

    Raises:
        KeyError, TypeError, ValueError: It is none; says where.
    """
    levels = {
        contract.position(column.name): len(column.categories)
        for column in contract.features
        if column.kind == "category"
    }
    p = len(contract.features)
    expected = {
        "ratio_fill": Expected((len(contract.ratios),)),
        "imputer.medians" if "imputer.medians" in arrays else "imputer.fills": Expected((p,)),
    }
    for name in _names(spec, "one_hot", [contract.feature_names[i] for i in levels]):
        if levels[contract.position(name)] > _MOST_LEVELS:
            raise ValueError(f"{name} has more than {_MOST_LEVELS} levels with 0/1 columns")
    for name in _names(spec, "target_means", [contract.feature_names[i] for i in levels]):
        at = contract.position(name)
        expected[f"target_means.{at}"] = Expected((levels[at] + 2,))
    if "level_statistics" in spec:
        for name in _names(spec, "level_statistics", [contract.feature_names[i] for i in levels]):
            at = contract.position(name)
            expected[f"level_statistics.{at}"] = Expected((levels[at] + 2, len(STATISTICS) + 1))
    _monotone(contract, spec.get("monotone", {}))
    imputer = spec["imputer"]
    _columns(imputer, "indicated", p)
    if "native" in imputer:
        _columns(imputer, "native", p)
    fillers = _list(imputer, "fillers") if "fillers" in imputer else []
    if len({found["column"] for found in fillers}) != len(fillers):
        raise ValueError("a column has two fillers")
    for found in fillers:
        expected |= _filler(found, arrays, levels, p)
    expected |= _places(contract, spec, arrays)
    check_arrays(arrays, expected)


def _monotone(contract: TableContract, found: Any) -> None:
    known = {c.name for c in contract.features if c.kind in ("number", "integer")}
    if not isinstance(found, dict) or not known.issuperset(found):
        raise ValueError("monotone names columns that are no numbers")
    if not all(isinstance(way, str) and way in get_args(Direction) for way in found.values()):
        raise ValueError("monotone has directions beside up and down")


def _filler(
    found: Mapping[str, Any], arrays: Arrays, levels: Mapping[int, int], p: int
) -> dict[str, Expected]:
    column = found["column"]
    if not _is_count(column, p) or not isinstance(found["chained"], bool):
        raise ValueError(f"a filler of column {column!r} of {p}")
    prefix = f"imputer.{column}."
    numeric, categories = arrays[f"{prefix}inputs.numeric"], arrays[f"{prefix}inputs.categories"]
    inputs = {
        "numeric": Expected((numeric.size,), INTEGER, 0, p - 1),
        "categories": Expected((None, 2), INTEGER, 0, max(p, _MOST_LEVELS)),
        **{name: Expected((numeric.size,)) for name in ("centre", "factor", "low", "high")},
    }
    expected = {f"{prefix}inputs.{name}": what for name, what in inputs.items()}
    for name in ("numeric", "categories"):  # the rest is measured by these
        inputs[name].check(f"{prefix}inputs.{name}", arrays[f"{prefix}inputs.{name}"])
    if any(levels.get(int(at)) != n or n > _MOST_LEVELS for at, n in categories):
        raise ValueError(f"the filler of column {column} takes categories that are none")
    d = numeric.size + int(categories[:, 1].sum())
    model = _model(found["kind"], d, arrays, f"{prefix}model.")
    expected |= {f"{prefix}model.{name}": what for name, what in model.items()}
    expected[f"{prefix}scale"] = Expected((4,))
    return expected


def _model(kind: Any, d: int, arrays: Arrays, prefix: str) -> dict[str, Expected]:
    if d == 0:
        raise ValueError("a filler without inputs")
    if kind == "linear":
        return {"coef": Expected((d,)), "intercept": Expected((1,))}
    if kind == "neighbours":
        k = len(arrays[f"{prefix}values"])
        return {"points": Expected((k, d)), "values": Expected((k,))}
    if kind != "trees":
        raise ValueError(f"a filler of the unknown kind {kind!r}")
    k = arrays[f"{prefix}feature"].size
    inside = Expected((None,), INTEGER, 0, k - 1)
    shape = Expected((2,), INTEGER, 0, MOST)
    shape.check(f"{prefix}shape", arrays[f"{prefix}shape"])
    if int(arrays[f"{prefix}shape"][0]) != d:
        raise ValueError(f"a filler by trees takes other inputs than the {d} there are")
    return {
        "feature": Expected((k,), INTEGER, 0, d - 1),
        "threshold": Expected((k,), infinite=True),
        "children": Expected((2 * k,), INTEGER, 0, k - 1),
        "value": Expected((k,)),
        "roots": inside,
        "base": Expected((1,)),
        "shape": shape,
    }


def _places(
    contract: TableContract, spec: Mapping[str, Any], arrays: Arrays
) -> dict[str, Expected]:
    """Return what comparables and clusters have to be; both lie in the space that a plan spans."""
    numbers = [c.name for c in contract.features if c.kind in ("number", "integer")]
    numbers += [ratio.name for ratio in contract.ratios]
    found, clusters = spec["comparables"], spec["clusters"]
    plan = spec.get("plan") if found is None else found
    if plan is None:
        if clusters is not None:
            raise ValueError("clusters without the plan that says where they lie")
        return {}
    near = _names(plan, "near", numbers)
    context = _names(plan, "context", numbers)
    similar_by = plan["similar_by"]
    if not near or similar_by not in (None, *numbers):
        raise ValueError("the comparables' plan names columns that are no numbers")
    _number(plan, "similar_floor", _SMALLEST)
    expected = {"plan.scale" if found is None else "comparables.scale": Expected((len(near),))}
    if clusters is not None:
        if not _is_count(clusters, _MOST_LEVELS + 1) or not clusters:
            raise ValueError(f"{clusters!r} clusters")
        expected["clusters.centroids"] = Expected((clusters, len(near)))
    if found is not None:
        shape = len(near), len(context), similar_by is not None
        of_index = _expected_index(contract, found, len(arrays["comparables.target"]), *shape)
        expected |= {f"comparables.{name}": one for name, one in of_index.items()}
    return expected


def _expected_index(
    contract: TableContract,
    found: Mapping[str, Any],
    m: int,
    dimensions: int,
    contexts: int,
    has_similar: bool,
) -> dict[str, Expected]:
    """Return what the arrays of `m` comparables have to be, by name."""
    _number(found, "slope", -MOST)
    _number(found, "softening", _SMALLEST)
    if found.get("reach") is not None:
        _number(found, "reach", _SMALLEST)
    for name in ("excludes_own", "in_order"):
        if not isinstance(found.get(name, False), bool):
            raise ValueError(f"{name} is neither true nor false")
    if not 0 < m < _MOST_ROWS:
        raise ValueError(f"{m} comparables")
    expected = {
        "points": Expected((m, dimensions)),
        "target": Expected((m,)),
        "similar": Expected((m if has_similar else 0,)),
        "context": Expected((m, contexts)),
    }
    if "age_scale" in found:
        _number(found, "age_scale", 0.0)
        if contract.timestamp_position is None:
            raise ValueError("comparables with dates, of a table without the date of a sale")
        expected["times"] = Expected((m,))
    return expected


def check_index(
    contract: TableContract, plan: ComparablesPlan, spec: Mapping[str, Any], arrays: Arrays
) -> None:
    """Refuse a state that is none of an index of comparables that are found by `plan`.

    Raises:
        KeyError, TypeError, ValueError: It is none; says where.
    """
    shape = len(plan.near), len(plan.context), plan.similar_by is not None
    check_arrays(arrays, _expected_index(contract, spec, len(arrays["target"]), *shape))


def _list(spec: Mapping[str, Any], key: str) -> list[Any]:
    found = spec[key]
    if not isinstance(found, list):
        raise ValueError(f"{key} is no list")
    return found


def _names(spec: Mapping[str, Any], key: str, known: Collection[str]) -> list[str]:
    """Return a list of distinct names, all of them known."""
    names = _list(spec, key)
    if not all(isinstance(name, str) and name in known for name in names):
        raise ValueError(f"{key} names columns of the wrong kind, or none of the table's")
    if len(set(names)) != len(names):
        raise ValueError(f"{key} names a column twice")
    return names


def _columns(spec: Mapping[str, Any], key: str, p: int) -> None:
    found = _list(spec, key)
    if not all(_is_count(i, p) for i in found) or len(set(found)) != len(found):
        raise ValueError(f"{key} has positions outside of the {p} columns, or one twice")


def _is_count(value: Any, end: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < end


def _number(spec: Mapping[str, Any], key: str, least: float) -> None:
    value = spec[key]
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not np.isfinite(value) or not least <= value <= MOST:
        raise ValueError(f"{key} is {value!r}, expected a number from {least:g} to {MOST:g}")
