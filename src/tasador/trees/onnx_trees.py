"""Read the model back out of a file that `onnx_export` wrote, without the `onnx` package.

Only a graph that is node by node the exporter's is read; every other one is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import BundleError, TrainingError
from tasador.trees.ensemble import (
    HIGHEST_CODE,
    LEAF,
    CategorySets,
    LinearModel,
    TreeEnsemble,
    breadth_first,
)
from tasador.trees.onnx_graph import DOUBLE, INPUT, OUTPUT, Graph, Shape, read_graph

_FLOAT = 1
_SUM = 1
_MEMBER = 6
_ROUNDED: list[Shape] = [
    ("Cast", (INPUT,), ("single",), {"to": _FLOAT}),
    ("Cast", ("single",), ("rounded",), {"to": DOUBLE}),
]
_LINEAR: list[Shape] = [
    ("Mul", (INPUT, "coef"), ("terms",), {}),
    ("CumSum", ("terms", "axis"), ("running",), {}),
    ("Gather", ("running", "last"), ("sum",), {"axis": 1}),
    ("Add", ("sum", "intercept"), (OUTPUT,), {}),
]
_KNOWN = {
    "nodes_featureids", "nodes_missing_value_tracks_true", "nodes_truenodeids", "nodes_trueleafs",
    "nodes_falsenodeids", "nodes_falseleafs", "tree_roots", "leaf_targetids",
    "nodes_splits", "nodes_modes", "leaf_weights", "aggregate_function", "n_targets",
}  # fmt: skip
#: Columns of a row; a wider model would be given rows of more than the contract's columns make.
_MOST_COLUMNS = 2**20
_Constants = dict[str, NDArray[Any]]


def read_model(model_bytes: bytes) -> TreeEnsemble | LinearModel:
    """Return the trees or the linear model of a model file.

    The trees' covers and their inner nodes' expected values are not in the file; they are 0.0.
    Splits that the export turned around for onnxruntime are turned back.

    Raises:
        BundleError: The file is damaged, holds anything that `onnx_export` does not write, or a
            model that is invalid.
    """
    try:
        graph = read_graph(memoryview(model_bytes))
        if graph.width > _MOST_COLUMNS:
            raise ValueError(f"{graph.width} columns")
        if any(node.op == "TreeEnsemble" for node in graph.nodes):
            trees = _trees(graph)
            breadth_first(trees)  # refuses circles, on which onnxruntime may not return
            return trees
        return _linear(graph)
    except (
        ValueError, KeyError, IndexError, TypeError, TrainingError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        raise BundleError(
            "the model cannot be loaded",
            expected="an ONNX graph as tasador writes it",
            got=f"{type(error).__name__}: {error}"[:200],
            remedy="fetch the bundle again, or register the model again",
        ) from None


def _linear(graph: Graph) -> LinearModel:
    found, q = graph.constants, graph.width
    if [node.shape for node in graph.nodes] != _LINEAR or any(node.domain for node in graph.nodes):
        raise ValueError(f"operators {[node.op for node in graph.nodes]}"[:120])
    _check_constants(found, coef=(q,), intercept=(), axis=(), last=(1,))
    numbers = found["axis"].dtype.kind == found["last"].dtype.kind == "i"
    if not numbers or (int(found["axis"]), int(found["last"][0])) != (1, q - 1):
        raise ValueError("a linear model that sums over something else than its columns")
    if not (np.isfinite(found["coef"]).all() and np.isfinite(found["intercept"])):
        raise ValueError("a linear model with a coefficient that is no number")
    return LinearModel(found["coef"], float(found["intercept"]))


def _check_constants(found: _Constants, **shapes: tuple[int, ...]) -> None:
    if {name: array.shape for name, array in found.items()} != shapes:
        raise ValueError(f"constants {sorted(found)} of other shapes than expected"[:120])
    for name in shapes.keys() - {"axis", "last"}:
        if found[name].dtype != np.float64:
            raise ValueError(f"the constant {name} is no double")


def _trees(graph: Graph) -> TreeEnsemble:
    nodes = graph.nodes
    ensemble = next(node for node in nodes if node.op == "TreeEnsemble")
    before: list[Shape] = []
    current = INPUT
    rounded = [node.shape for node in nodes[:2]] == _ROUNDED
    if rounded:
        before, current = list(_ROUNDED), "rounded"
    with_sets = "membership_values" in ensemble.attributes
    turned = ensemble.inputs == ("both",) and not with_sets
    if with_sets:
        before += [
            ("Less", (current, "zero"), ("below",), {}),
            ("Ceil", (current,), ("up",), {}),
            ("Floor", (current,), ("down",), {}),
            ("Where", ("below", "up", "down"), ("whole",), {}),
            ("Concat", (current, "whole"), ("both",), {"axis": 1}),
        ]
        current = "both"
    elif turned:
        before += [
            ("Neg", (current,), ("negated",), {}),
            ("Concat", (current, "negated"), ("both",), {"axis": 1}),
        ]
        current = "both"
    wanted = [
        *before,
        ("TreeEnsemble", (current,), ("sum",), ensemble.attributes),
        ("Mul", ("sum", "scale"), ("scaled",), {}),
        ("Add", ("scaled", "base"), (OUTPUT,), {}),
    ]
    if [node.shape[:3] for node in nodes] != [shape[:3] for shape in wanted] or any(
        node.domain != ("ai.onnx.ml" if node is ensemble else "")
        or (node is not ensemble and node.attributes != shape[3])
        for node, shape in zip(nodes, wanted, strict=True)
    ):
        raise ValueError(f"operators {[node.op for node in nodes]}"[:120])
    constants = dict(graph.constants)
    if with_sets:
        zero = constants.pop("zero")
        if zero.shape or zero.dtype != np.float64 or zero != 0.0:
            raise ValueError("fractions are dropped in another way than tasador writes it")
    _check_constants(constants, scale=(), base=())
    return _ensemble(ensemble.attributes, constants, graph.width, rounded, turned)


def _ensemble(
    found: dict[str, Any],
    constants: _Constants,
    width: int,
    rounded: bool,
    turned: bool,
) -> TreeEnsemble:
    plain = found.get("aggregate_function") == _SUM and found.get("n_targets") == 1
    with_sets = "membership_values" in found
    if not plain or found.keys() - {"membership_values"} != _KNOWN:
        raise ValueError("trees that onnx_export does not write")
    feature, split, modes = (
        found[name] for name in ("nodes_featureids", "nodes_splits", "nodes_modes")
    )
    inner, leaves = len(feature), len(found["leaf_weights"])
    true = _branch(found, "true", inner, leaves)
    false = _branch(found, "false", inner, leaves)
    missing = _flags(found, "nodes_missing_value_tracks_true")
    roots = found["tree_roots"]
    if (
        {inner} != {len(split), len(true), len(false), len(missing), len(modes)}
        or len(found["leaf_targetids"]) != leaves
        or found["leaf_targetids"].any()
        or {split.dtype, found["leaf_weights"].dtype} != {np.dtype(np.float64)}
        or modes.dtype != np.uint8
    ):
        raise ValueError("the trees' arrays do not fit together")
    if len(feature) and int(feature.max()) >= width * (2 if turned or with_sets else 1):
        raise ValueError(f"a split on column {int(feature.max())} of {width}")
    sets = _sets(found, inner + leaves, width) if with_sets else None
    if sets is None and modes.any():
        raise ValueError("trees that compare in another way than onnx_export writes it")
    if sets is not None:
        feature = feature % width
    if not len(roots) or not 0 <= roots.min() <= roots.max() < inner:
        raise ValueError("a root outside the trees")
    if turned:
        swap = feature >= width
        feature = np.where(swap, feature - width, feature)
        split = np.where(swap, np.nextafter(-split, -np.inf), split)
        true, false, missing = (
            np.where(swap, false, true), np.where(swap, true, false), missing ^ swap,
        )  # fmt: skip
    # a tree of one leaf is exported as a node with that leaf on both sides
    stump = (true[roots] == false[roots]) & (true[roots] >= inner)
    scale, base = float(constants["scale"]), float(constants["base"])
    if not np.isfinite((scale, base)).all():
        raise ValueError("trees with a scale or base that is no number")
    none, zeros = np.full(leaves, LEAF), np.zeros(inner + leaves)
    return TreeEnsemble(
        feature=np.concatenate([feature, none]).astype(np.int32),
        threshold=np.concatenate([split, zeros[:leaves]]),
        left=np.concatenate([true, none]).astype(np.int32),
        right=np.concatenate([false, none]).astype(np.int32),
        value=np.concatenate([zeros[:inner], found["leaf_weights"]]),
        missing_left=np.concatenate([missing, zeros[:leaves] > 0]),
        cover=zeros,
        roots=np.where(stump, true[roots], roots).astype(np.int32),
        n_features=width,
        base=base,
        scale=scale,
        float32_inputs=rounded,
        sets=sets,
    )


def _sets(found: dict[str, Any], n_nodes: int, width: int) -> CategorySets | None:
    """Return the sets of the nodes whose mode is membership; NaN ends each of them.

    These, and only these, compare in the second copy of the columns, which has no fractions.
    """
    modes, values = found["nodes_modes"], found["membership_values"]
    member = modes == _MEMBER
    if (modes[~member] != 0).any() or not np.array_equal(
        member, found["nodes_featureids"] >= width
    ):
        raise ValueError("nodes of another mode than tasador writes, or in another column")
    if values.dtype != np.float64 or values.ndim != 1 or found["nodes_splits"][member].any():
        raise ValueError("sets that are no list of doubles, or beside a split value")
    ends = np.flatnonzero(np.isnan(values))
    codes = values[~np.isnan(values)]
    if len(ends) != member.sum() or not len(ends) or ends[-1] != len(values) - 1:
        raise ValueError(f"{len(ends)} sets for {member.sum()} nodes")
    if len(codes) and not (0 <= codes.min() <= codes.max() <= HIGHEST_CODE):
        raise ValueError(f"category codes up to {codes.max():g}")
    if (codes != np.floor(codes)).any():
        raise ValueError("category codes that are no whole numbers")
    parts = np.split(codes.astype(np.int32), ends[:-1] - np.arange(len(ends) - 1))
    return CategorySets.of_nodes(n_nodes, zip(np.flatnonzero(member).tolist(), parts, strict=True))


def _branch(found: dict[str, Any], side: str, inner: int, leaves: int) -> NDArray[np.int64]:
    """Return the nodes on one side; leaves are counted on after the inner nodes."""
    child: NDArray[np.int64] = found[f"nodes_{side}nodeids"]
    leaf = _flags(found, f"nodes_{side}leafs")
    if len(child) != len(leaf) or (child >= np.where(leaf, leaves, inner)).any():
        raise ValueError("a branch outside the trees")
    return np.where(leaf, child + inner, child)


def _flags(found: dict[str, Any], name: str) -> NDArray[np.bool_]:
    """Return 0/1 as flags; what another number means, onnxruntime and we might see differently."""
    numbers: NDArray[np.int64] = found[name]
    if (numbers > 1).any():
        raise ValueError(f"{name} holds other numbers than 0 and 1")
    flags: NDArray[np.bool_] = numbers == 1
    return flags
