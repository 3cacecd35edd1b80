"""Read the trees back out of a model file that `onnx_export` wrote, without the `onnx` package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import BundleError, TrainingError
from tasador.modeling.trees import LEAF, TreeEnsemble, breadth_first
from tasador.modeling.wire import fields, repeated_ints

# Field numbers of onnx.proto
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
#: From a graph's input down to the size of one of its dimensions: type, tensor, shape, dimension.
_INPUT_TYPE = (2, 1, 2, 1)
_DIMENSION_SIZE = 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TENSOR, _ATTRIBUTE_INTS = 1, 3, 5, 8
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 2, 8, 9

_FLOAT, _DOUBLE = 1, 11
_SUM = 1
_DTYPES: dict[int, np.dtype[Any]] = {_DOUBLE: np.dtype("<f8"), 2: np.dtype("u1")}
#: What identifies a node of the graph: operator, inputs, outputs, attributes.
_Shape = tuple[str, tuple[str, ...], tuple[str, ...], dict[str, Any]]
_ROUNDED: list[_Shape] = [
    ("Cast", ("X",), ("single",), {"to": _FLOAT}),
    ("Cast", ("single",), ("rounded",), {"to": _DOUBLE}),
]
_INTS = {
    "nodes_featureids", "nodes_missing_value_tracks_true", "nodes_truenodeids", "nodes_trueleafs",
    "nodes_falsenodeids", "nodes_falseleafs", "tree_roots", "leaf_targetids",
}  # fmt: skip
_KNOWN = _INTS | {
    "nodes_splits", "nodes_modes", "leaf_weights", "aggregate_function", "n_targets",
}  # fmt: skip


@dataclass(frozen=True)
class _Node:
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def shape(self) -> _Shape:
        return self.op, self.inputs, self.outputs, self.attributes


def read_trees(model_bytes: bytes) -> TreeEnsemble | None:
    """Return the trees of a model file; None when it holds another kind of model.

    The trees' covers and their inner nodes' expected values are not in the file; they are 0.0.
    Splits that the export turned around for onnxruntime are turned back.

    Raises:
        BundleError: The file is damaged, or holds trees that cannot be meant.
    """
    try:
        nodes, constants, width = _graph(memoryview(model_bytes))
        trees = _trees(nodes, constants, width)
        if trees is not None:
            breadth_first(trees)  # refuses circles, on which onnxruntime may not return
        return trees
    except (ValueError, KeyError, IndexError, TrainingError, OverflowError) as error:
        raise BundleError(
            "the model cannot be loaded",
            expected="an ONNX graph as tasador writes it",
            got=f"{type(error).__name__}: {error}"[:200],
            remedy="fetch the bundle again, or register the model again",
        ) from None


def _graph(model: memoryview) -> tuple[list[_Node], dict[str, NDArray[Any]], int]:
    """Return the graph's nodes, its constants by name, and the number of columns it takes."""
    nodes: list[_Node] = []
    width = 0
    constants: dict[str, NDArray[Any]] = {}
    for number, graph in fields(model):
        if number != _MODEL_GRAPH:
            continue
        for kind, part in fields(_message(graph)):
            if kind == _GRAPH_NODE:
                nodes.append(_node(_message(part)))
            elif kind == _GRAPH_INITIALIZER:
                name, array = _tensor(_message(part))
                if array is not None:
                    constants[name] = array
            elif kind == _GRAPH_INPUT:
                width = _width(_message(part))
    return nodes, constants, width


def _width(message: memoryview) -> int:
    """Return the size of the last dimension of an input of the graph; 0 when it has none."""
    messages = [message]
    for wanted in _INPUT_TYPE:
        messages = [_message(v) for m in messages for number, v in fields(m) if number == wanted]
    sizes = [v for number, v in fields(messages[-1]) if number == _DIMENSION_SIZE]
    return sizes[0] if sizes and isinstance(sizes[0], int) else 0


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode()


def _node(message: memoryview) -> _Node:
    found = list(fields(message))

    def texts(kind: int) -> tuple[str, ...]:
        return tuple(_text(value) for number, value in found if number == kind)

    return _Node(
        op="".join(texts(_NODE_OP)),
        domain="".join(texts(_NODE_DOMAIN)),
        inputs=texts(_NODE_INPUT),
        outputs=texts(_NODE_OUTPUT),
        attributes=dict(_attribute(_message(v)) for k, v in found if k == _NODE_ATTRIBUTE),
    )


def _attribute(message: memoryview) -> tuple[str, Any]:
    name = next((_text(part) for kind, part in fields(message) if kind == _ATTRIBUTE_NAME), "")
    if name in _INTS:
        return name, repeated_ints(message, _ATTRIBUTE_INTS)
    value: Any = None
    for number, part in fields(message):
        if number == _ATTRIBUTE_INT:
            value = part
        elif number == _ATTRIBUTE_TENSOR:
            value = _tensor(_message(part))[1]
    return name, value


def _tensor(message: memoryview) -> tuple[str, NDArray[Any] | None]:
    """Return the tensor's name and its numbers, flat; None for a type that trees do not use."""
    name, kind, raw = "", 0, memoryview(b"")
    for number, value in fields(message):
        if number == _TENSOR_NAME:
            name = _text(value)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_RAW:
            raw = _message(value)
    return name, np.frombuffer(raw, _DTYPES[kind]) if kind in _DTYPES else None


def _trees(
    nodes: list[_Node], constants: dict[str, NDArray[Any]], width: int
) -> TreeEnsemble | None:
    """Return the trees if the graph is one that `onnx_export` makes of trees, else None."""
    ensemble = next((node for node in nodes if node.op == "TreeEnsemble"), None)
    if ensemble is None:
        return None
    before: list[_Shape] = []
    current = "X"
    rounded = [node.shape for node in nodes[:2]] == _ROUNDED
    if rounded:
        before, current = list(_ROUNDED), "rounded"
    turned = ensemble.inputs == ("both",)
    if turned:
        before += [
            ("Neg", (current,), ("negated",), {}),
            ("Concat", (current, "negated"), ("both",), {"axis": 1}),
        ]
        current = "both"
    graph = [
        *before,
        ("TreeEnsemble", (current,), ("sum",), ensemble.attributes),
        ("Mul", ("sum", "scale"), ("scaled",), {}),
        ("Add", ("scaled", "base"), ("score",), {}),
    ]
    if [node.shape for node in nodes] != graph or any(
        node.domain != ("ai.onnx.ml" if node is ensemble else "") for node in nodes
    ):
        return None
    return _ensemble(ensemble.attributes, constants, width, rounded, turned)


def _ensemble(
    found: dict[str, Any],
    constants: dict[str, NDArray[Any]],
    width: int,
    rounded: bool,
    turned: bool,
) -> TreeEnsemble | None:
    plain = found.get("aggregate_function") == _SUM and found.get("n_targets") == 1
    if not plain or set(found) != _KNOWN or found["nodes_modes"].any():
        return None
    feature, split = found["nodes_featureids"], found["nodes_splits"]
    inner, leaves = len(feature), len(found["leaf_weights"])
    true = _branch(found, "true", inner, leaves)
    false = _branch(found, "false", inner, leaves)
    missing = found["nodes_missing_value_tracks_true"] != 0
    roots = found["tree_roots"]
    if {inner} != {len(split), len(true), len(false), len(missing)} or found[
        "leaf_targetids"
    ].any():
        raise ValueError("the trees' arrays do not fit together")
    if len(feature) and int(feature.max()) >= width * (2 if turned else 1):
        raise ValueError(f"a split on column {int(feature.max())} of {width}")
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
    scale, base = constants["scale"], constants["base"]
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
        base=float(base.item()),
        scale=float(scale.item()),
        float32_inputs=rounded,
    )


def _branch(found: dict[str, Any], side: str, inner: int, leaves: int) -> NDArray[np.int64]:
    """Return the nodes on one side; leaves are counted on after the inner nodes."""
    child: NDArray[np.int64] = found[f"nodes_{side}nodeids"]
    leaf = found[f"nodes_{side}leafs"] != 0
    if len(child) != len(leaf) or (child >= np.where(leaf, leaves, inner)).any():
        raise ValueError("a branch outside the trees")
    return np.where(leaf, child + inner, child)
