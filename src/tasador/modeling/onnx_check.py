"""Which ONNX files onnxruntime may open: those that `onnx_export` writes, field by field.

A graph is a program: it may loop, name files on the disk, or ask for any amount of memory. What the
exporter writes needs none of that, so that everything else in a file is refused unread.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from tasador.core.errors import BundleError
from tasador.modeling.wire import fields, fields_but, repeated_ints

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR = "model", "graph", "node", "attribute", "tensor"
_VALUE, _TYPE, _TENSOR_TYPE, _SHAPE, _DIMENSION = "input", "type", "tensor type", "shape", "size"
_OPSET = "operator set"
#: What the exporter writes of each message, by field number of onnx.proto; what is below it.
_FIELDS: Mapping[str, Mapping[int, str | None]] = {
    _MODEL: {1: None, 2: None, 7: _GRAPH, 8: _OPSET},
    _OPSET: {1: None, 2: None},
    _GRAPH: {1: _NODE, 2: None, 5: _TENSOR, 11: _VALUE, 12: _VALUE},
    _NODE: {1: None, 2: None, 4: None, 5: _ATTRIBUTE, 7: None},
    _ATTRIBUTE: {1: None, 3: None, 5: _TENSOR, 8: None, 20: None},
    _TENSOR: {1: None, 2: None, 8: None, 9: None},
    _VALUE: {1: None, 2: _TYPE},
    _TYPE: {1: _TENSOR_TYPE},
    _TENSOR_TYPE: {1: None, 2: _SHAPE},
    _SHAPE: {1: _DIMENSION},
    _DIMENSION: {1: None, 2: None},
}
_REPEATED = {
    (_MODEL, 8), (_GRAPH, 1), (_GRAPH, 5), (_NODE, 1), (_NODE, 2), (_NODE, 5), (_ATTRIBUTE, 8),
    (_TENSOR, 1), (_SHAPE, 1),
}  # fmt: skip
#: The graphs' operators in their order, with their domain, and their inputs and outputs.
_ROUND = (("", "Cast", "X", "single"), ("", "Cast", "single", "rounded"))
_END = (("", "Mul", "sum,scale", "scaled"), ("", "Add", "scaled,base", "score"))
_LINEAR = (
    ("", "Mul", "X,coef", "terms"),
    ("", "CumSum", "terms,axis", "running"),
    ("", "Gather", "running,last", "sum"),
    ("", "Add", "sum,intercept", "score"),
)
_TREES = tuple(
    (
        *rounding,
        *((("", "Neg", x, "negated"), ("", "Concat", f"{x},negated", "both")) if turned else ()),
        ("ai.onnx.ml", "TreeEnsemble", "both" if turned else x, "sum"),
        *_END,
    )
    for rounding, x in (((), "X"), (_ROUND, "rounded"))
    for turned in (False, True)
)
_ATTRIBUTES = {
    "Cast": {"to"}, "Concat": {"axis"}, "Gather": {"axis"},
    "TreeEnsemble": {
        "aggregate_function", "n_targets", "tree_roots", "nodes_featureids", "nodes_modes",
        "nodes_splits", "nodes_missing_value_tracks_true", "nodes_truenodeids", "nodes_trueleafs",
        "nodes_falsenodeids", "nodes_falseleafs", "leaf_weights", "leaf_targetids",
    },
}  # fmt: skip
_TREE_CONSTANTS = {"scale": 1, "base": 1}
#: Bytes of a number by its type in onnx.proto: uint8, int64, double.
_DOUBLE = 11
_SIZES = {2: 1, 7: 8, _DOUBLE: 8}

Message = Mapping[int, list[int | memoryview]]


def check_graph(model_bytes: bytes) -> None:
    """Refuse a file that is not such a graph as `onnx_export.to_onnx` writes.

    Raises:
        BundleError: It has other operators, loops, sub-graphs, functions, data in other files,
            tensors of another size than they declare, or is no ONNX file at all.
    """
    try:
        _check(memoryview(model_bytes))
    except (ValueError, KeyError, IndexError, OverflowError, TypeError) as error:
        raise BundleError(
            "the model cannot be loaded",
            expected="an ONNX graph as tasador writes it",
            got=f"{error}"[:200],
            remedy="register the model again; the file was not written by tasador",
        ) from None


def _check(data: memoryview) -> None:
    model = _read(data, _MODEL)
    graph = _read(_one(model, 7), _GRAPH)
    for opset in map(_bytes, model.get(8, [])):
        _read(opset, _OPSET)
    width = [_check_ends(_one(graph, number), name) for number, name in ((11, "X"), (12, "score"))]
    nodes = [_read(_bytes(part), _NODE) for part in graph.get(1, [])]
    found = tuple(
        (_text(node, 7), _text(node, 4), *(",".join(_texts(node, at)) for at in (1, 2)))
        for node in nodes
    )
    if found != _LINEAR and found not in _TREES:
        operators = ", ".join(one[1] for one in found[:9])
        raise ValueError(f"the operators {operators or 'none'}")
    for node in nodes:
        attributes = [_read(_bytes(part), _ATTRIBUTE) for part in node.get(5, [])]
        names = [_text(one, 1) for one in attributes]
        if set(names) != _ATTRIBUTES.get(_text(node, 4), set()) or len(set(names)) < len(names):
            raise ValueError(f"attributes {names} of {_text(node, 4)}")
        for one in attributes:
            for tensor in map(_bytes, one.get(5, [])):
                _check_tensor(tensor)
    constants = dict(_check_tensor(_bytes(part)) for part in graph.get(5, []))
    linear = {"coef": width[0], "intercept": 1, "axis": 1, "last": 1}
    wanted = linear if found == _LINEAR else _TREE_CONSTANTS
    if constants != wanted or len(graph.get(5, [])) != len(wanted) or width[1] != 1:
        raise ValueError(f"constants {constants}, expected {wanted}")


def _read(data: memoryview, kind: str) -> Message:
    """Return the fields of a message by number; other ones than the exporter's are refused."""
    known = _FIELDS[kind]
    if kind == _ATTRIBUTE:  # its integers are one field each: too many to go through one by one
        return _read_attribute(data)
    found: dict[int, list[int | memoryview]] = {}
    for number, value in fields(data):
        if number not in known:
            raise ValueError(f"field {number} of a {kind}")
        found.setdefault(number, []).append(value)
    _check_once(Counter({number: len(values) for number, values in found.items()}), kind)
    return found


def _read_attribute(data: memoryview) -> Message:
    found: dict[int, list[int | memoryview]] = {}
    count: Counter[int] = Counter()
    for number, value in fields_but(data, 8):
        if number not in _FIELDS[_ATTRIBUTE]:
            raise ValueError(f"field {number} of an attribute")
        count[number] += 1
        found.setdefault(number, []).append(value)
    _check_once(count, _ATTRIBUTE)
    return found


def _check_once(count: Counter[int], kind: str) -> None:
    for number, times in count.items():
        if times > 1 and (kind, number) not in _REPEATED:
            raise ValueError(f"field {number} of a {kind} {times} times")


def _check_tensor(data: memoryview) -> tuple[str, int]:
    """Return a tensor's name and how many numbers it has, all of which are in the file."""
    tensor = _read(data, _TENSOR)
    kind, raw = tensor[2][0], _one(tensor, 9) if 9 in tensor else memoryview(b"")
    sizes = repeated_ints(data, 1).tolist()
    if not isinstance(kind, int) or kind not in _SIZES:
        raise ValueError(f"a tensor of type {kind}")
    if len(sizes) > 2 or math.prod(sizes) * _SIZES[kind] != len(raw):
        raise ValueError(f"a tensor of shape {sizes} in {len(raw)} bytes")
    return _text(tensor, 8), math.prod(sizes)


def _check_ends(data: memoryview, name: str) -> int:
    """Return the width of the graph's input or output."""
    value = _read(data, _VALUE)
    tensor = _read(_one(_read(_one(value, 2), _TYPE), 1), _TENSOR_TYPE)
    dimensions = [_read(_bytes(one), _DIMENSION) for one in _read(_one(tensor, 2), _SHAPE)[1]]
    width = dimensions[-1].get(1, [0])[0]
    right = _text(value, 1) == name and tensor[1] == [_DOUBLE] and len(dimensions) == 2
    if not right or 1 in dimensions[0] or not isinstance(width, int) or width < 1:
        raise BundleError(
            "the model has another interface",
            expected="input X [None, q] and output score [None, 1], both double",
            got=f"{_text(value, 1)} of type {tensor[1]} with {len(dimensions)} dimensions",
        )
    return width


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _one(message: Message, number: int) -> memoryview:
    return _bytes(message[number][0])


def _texts(message: Message, number: int) -> list[str]:
    return [bytes(_bytes(value)).decode() for value in message.get(number, [])]


def _text(message: Message, number: int) -> str:
    return "".join(_texts(message, number))
