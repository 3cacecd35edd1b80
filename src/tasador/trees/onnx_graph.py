"""The graph in a model file, taken apart without the `onnx` package and without trust.

onnxruntime runs whatever a graph says: loops, files beside it, operators of other makers. So a file
is read here first, and refused if it has anything that `onnx_export` does not write: another field,
a field twice, a sub-graph, a function, an operator set, data kept outside of the file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasador.trees.errors import ModelFileError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: Bytes of the longest number read here: positions and small integers fit in 35 bits.
_LONGEST = 5
#: Runs of one repeated field; each is looked for in all that follows, which a file may not abuse.
_MOST_RUNS = 16

Field = tuple[int, "int | memoryview"]


def fields(message: memoryview) -> Iterator[Field]:
    """Yield (number, value) of each field of `message`: an int, or the bytes of anything longer.

    Raises:
        ValueError: The message breaks off, or holds what protocol buffers do not.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of unknown kind {kind}")
        if at + size > len(message):
            raise ValueError("the message breaks off")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number breaks off")


def repeated_ints(
    message: memoryview, number: int, *, once: int | None = None
) -> NDArray[np.int64]:
    """Return all values of the repeated integer field `number` (below 16), packed or not.

    With `once`, that field may stand in the message one time, and no other may.

    A field of 100 000 values is one tag and one value a hundred thousand times: they are taken
    apart together.

    Raises:
        ValueError: As for `fields`, or a value does not fit in 35 bits, or there is another field.
    """
    others = 0
    single, packed = number << 3 | _VARINT, number << 3 | _BYTES
    parts: list[NDArray[np.int64]] = []
    at = 0
    while at < len(message):
        if len(parts) > _MOST_RUNS:
            raise ValueError("the values are scattered over the message")
        if message[at] == single:
            values, length = _run(message[at:], single)
            parts.append(values)
            at += length
            continue
        tag, body = _varint(message, at)
        if once is not None and tag != packed:
            others += 1
            if tag >> 3 != once or others > 1:
                raise ValueError(f"an unexpected field {tag >> 3}")
        for found, value in fields(message[at : _end(message, tag, body)]):
            if found == number and tag == packed and isinstance(value, memoryview):
                parts.append(_numbers(np.frombuffer(value, np.uint8))[0])
        at = _end(message, tag, body)
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _end(message: memoryview, tag: int, at: int) -> int:
    """Return where the field with `tag`, whose body starts at `at`, ends."""
    kind = tag & 7
    value, after = _varint(message, at) if kind in (_VARINT, _BYTES) else (0, at)
    if kind == _BYTES:
        return after + value
    return after + {_VARINT: 0, _FIXED32: 4, _FIXED64: 8}.get(kind, len(message))


def _run(message: memoryview, tag: int) -> tuple[NDArray[np.int64], int]:
    """Return the values of a run of fields with `tag` at the start of `message`, and its length."""
    values, ends = _numbers(np.frombuffer(message, np.uint8), stop=tag)
    return values[1::2], int(ends[len(values) - 1]) if len(values) else 0


def _numbers(
    data: NDArray[np.uint8], stop: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers in `data` and where each ends.

    With `stop`, numbers are pairs of a tag and a value, up to the first tag that is another.
    """
    ends = np.flatnonzero(data < 0x80) + 1
    if stop is None and (not len(ends) or ends[-1] != len(data)) and len(data):
        raise ValueError("a number breaks off")
    starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    if stop is not None:
        size = ends - starts
        other = (data[starts[::2]] != stop) | (size[::2] != 1)
        pairs = int(other.argmax()) if other.any() else len(other)
        if 2 * pairs > len(ends):
            raise ValueError("a number breaks off")
        starts, ends = starts[: 2 * pairs], ends[: 2 * pairs]
    size = ends - starts
    if len(size) and size.max() > _LONGEST:
        raise ValueError("a number is out of range")
    values = np.zeros(len(starts), dtype=np.int64)
    for k in range(_LONGEST):
        has = size > k
        values[has] |= (data[starts[has] + k].astype(np.int64) & 0x7F) << (7 * k)
    return values, ends


# Field numbers of onnx.proto: none that is not named here is read.
_IR_VERSION, _PRODUCER, _GRAPH, _OPSET = 1, 2, 7, 8
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TENSOR, _ATTRIBUTE_INTS = 1, 3, 5, 8
_ATTRIBUTE_TYPE = 20
_TENSOR_DIMENSION, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
#: How the type of a list of integers stands at the end of an attribute.
_IS_INTS = bytes([0xA0, 0x01, 7])
_INT, _TENSOR = 2, 4

INPUT, OUTPUT = "X", "score"
FLOAT, DOUBLE = 1, 11
_DTYPES: dict[int, np.dtype[Any]] = {DOUBLE: np.dtype("<f8"), 2: np.dtype("u1"), 7: np.dtype("<i8")}
OPSETS = {"": 21, "ai.onnx.ml": 5}
IR_VERSION = 10
#: Of the operator TreeEnsemble: how nodes compare, and how leaves are put together.
LESS_OR_EQUAL, MEMBER, SUM = 0, 6, 1
#: Most nodes, constants, attributes and other parts of one message; the exporter writes 13.
_MOST_PARTS = 32
_INTS = frozenset({
    "nodes_featureids", "nodes_missing_value_tracks_true", "nodes_truenodeids", "nodes_trueleafs",
    "nodes_falsenodeids", "nodes_falseleafs", "tree_roots", "leaf_targetids",
})  # fmt: skip

#: What identifies a node of the graph: operator, inputs, outputs, attributes.
Shape = tuple[str, tuple[str, ...], tuple[str, ...], dict[str, Any]]
#: A linear model: products and their running sum, of which the last column is kept.
LINEAR: list[Shape] = [
    ("Mul", (INPUT, "coef"), ("terms",), {}),
    ("CumSum", ("terms", "axis"), ("running",), {}),
    ("Gather", ("running", "last"), ("sum",), {"axis": 1}),
    ("Add", ("sum", "intercept"), (OUTPUT,), {}),
]
#: The same of columns that are clipped to their range first; Max and Min pass NaN on.
CLIPPED_LINEAR: list[Shape] = [
    ("Max", (INPUT, "low"), ("raised",), {}),
    ("Min", ("raised", "high"), ("clipped",), {}),
    ("Mul", ("clipped", "coef"), ("terms",), {}),
    *LINEAR[1:],
]
ROUNDED: list[Shape] = [
    ("Cast", (INPUT,), ("single",), {"to": FLOAT}),
    ("Cast", ("single",), ("rounded",), {"to": DOUBLE}),
]


def tree_operators(
    *, rounded: bool, copy: Literal["whole", "negated"] | None, attributes: dict[str, Any]
) -> list[Shape]:
    """Return the operators of trees, as `onnx_export` writes them and `onnx_model` expects them.

    Args:
        rounded: Whether inputs are rounded to single precision first.
        copy: A second copy of the columns beside them: without fractions, for category sets, or
            negated, for splits that are turned around.
        attributes: Those of the operator TreeEnsemble.
    """
    before, current = (list(ROUNDED), "rounded") if rounded else ([], INPUT)
    if copy == "whole":
        before += [
            ("Less", (current, "zero"), ("below",), {}),
            ("Ceil", (current,), ("up",), {}),
            ("Floor", (current,), ("down",), {}),
            ("Where", ("below", "up", "down"), ("whole",), {}),
        ]
    elif copy == "negated":
        before.append(("Neg", (current,), ("negated",), {}))
    if copy is not None:
        before.append(("Concat", (current, copy), ("both",), {"axis": 1}))
        current = "both"
    return [
        *before,
        ("TreeEnsemble", (current,), ("sum",), attributes),
        ("Mul", ("sum", "scale"), ("scaled",), {}),
        ("Add", ("scaled", "base"), (OUTPUT,), {}),
    ]


_Value = int | memoryview


@dataclass(frozen=True)
class Node:
    """An operator of the graph."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def shape(self) -> Shape:
        """Everything but the domain."""
        return self.op, self.inputs, self.outputs, self.attributes


@dataclass(frozen=True)
class Graph:
    """What a model file holds.

    Attributes:
        nodes: The operators, in their order.
        constants: Arrays by name.
        width: Number of columns of the input.
    """

    nodes: list[Node]
    constants: dict[str, NDArray[Any]]
    width: int


def read_graph(model: memoryview) -> Graph:
    """Return the graph of a model file with input ``X`` [None, q] and output ``score`` [None, 1].

    Raises:
        BundleError: It has another interface.
        ValueError: It is damaged, or has something that `onnx_export` does not write.
    """
    found = _parts(model, once={_IR_VERSION, _PRODUCER, _GRAPH}, many={_OPSET})
    if found[_IR_VERSION] != [IR_VERSION] or _GRAPH not in found:
        raise ValueError(f"an ONNX file without a graph, or of another version than {IR_VERSION}")
    graph = _parts(
        _message(found[_GRAPH][0]),
        once={_GRAPH_NAME, _GRAPH_INPUT, _GRAPH_OUTPUT},
        many={_GRAPH_NODE, _GRAPH_INITIALIZER},
    )
    width = _interface(graph)
    opsets = [_opset(_message(value)) for value in found.get(_OPSET, [])]
    if len(dict(opsets)) != len(opsets) or dict(opsets) != OPSETS:
        raise ValueError(f"operator sets {dict(opsets)}, expected {OPSETS}")
    constants = [_tensor(_message(value)) for value in graph.get(_GRAPH_INITIALIZER, [])]
    if len(dict(constants)) != len(constants):
        raise ValueError("a constant given twice")
    nodes = [_node(_message(value)) for value in graph.get(_GRAPH_NODE, [])]
    return Graph(nodes, dict(constants), width)


def _parts(
    message: memoryview, *, once: Collection[int] = (), many: Collection[int] = ()
) -> dict[int, list[_Value]]:
    """Return the values of a message's fields, by number.

    Raises:
        ValueError: It has fields that are not named, one of `once` twice, or very many.
    """
    found: dict[int, list[_Value]] = {}
    for total, (number, value) in enumerate(fields(message)):
        if number not in once and number not in many:
            raise ValueError(f"a field {number} that tasador does not write")
        if number in once and number in found:
            raise ValueError(f"the field {number} twice")
        if total >= _MOST_PARTS:
            raise ValueError(f"more than {_MOST_PARTS} parts")
        found.setdefault(number, []).append(value)
    for number in once:
        found.setdefault(number, [])
    return found


def _interface(graph: dict[int, list[_Value]]) -> int:
    """Return the input's number of columns."""
    try:
        name, width = _value(graph[_GRAPH_INPUT])
        output, one = _value(graph[_GRAPH_OUTPUT])
        if (name, output, one) != (INPUT, OUTPUT, 1) or width < 1:
            raise ValueError(f"{name}, {output}")
    except (ValueError, IndexError) as error:
        raise ModelFileError.interface(error) from None
    return width


def _value(values: list[_Value]) -> tuple[str, int]:
    """Return the name of an input or output of shape [None, size] of doubles, and the size."""
    info = _parts(_message(values[0]), once={1, 2})
    name = _text(info[1][0])
    tensor = _parts(_message(_parts(_message(info[2][0]), once={1})[1][0]), once={1, 2})
    first, second = _parts(_message(tensor[2][0]), many={1})[1]
    size = _parts(_message(second), once={1})[1][0]
    if tensor[1] != [DOUBLE] or len(_message(first)) or not isinstance(size, int):
        raise ValueError(f"{name} is no [None, q] of doubles")
    return name, size


def _opset(message: memoryview) -> tuple[str, int]:
    found = _parts(message, once={1, 2})
    version = found[2][0] if found[2] else 0
    return "".join(map(_text, found[1])), version if isinstance(version, int) else 0


def _message(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _text(value: _Value) -> str:
    return bytes(_message(value)).decode()


def _node(message: memoryview) -> Node:
    found = _parts(
        message, once={_NODE_OP, _NODE_DOMAIN}, many={_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE}
    )

    def texts(kind: int) -> tuple[str, ...]:
        return tuple(_text(value) for value in found.get(kind, []))

    attributes = [_attribute(_message(value)) for value in found.get(_NODE_ATTRIBUTE, [])]
    if len(dict(attributes)) != len(attributes):
        raise ValueError("an attribute given twice")
    return Node(
        op="".join(texts(_NODE_OP)),
        domain="".join(texts(_NODE_DOMAIN)),
        inputs=texts(_NODE_INPUT),
        outputs=texts(_NODE_OUTPUT),
        attributes=dict(attributes),
    )


def _attribute(message: memoryview) -> tuple[str, Any]:
    """Return an attribute's name and value: an integer, a tensor, or a list of integers."""
    number, first = next(fields(message), (0, b""))
    if number != _ATTRIBUTE_NAME:
        raise ValueError("an attribute that does not begin with its name")
    name = _text(first)  # type: ignore[arg-type]
    if name in _INTS:
        if bytes(message[-len(_IS_INTS) :]) != _IS_INTS:
            raise ValueError(f"{name} is no list of integers")
        body = message[: -len(_IS_INTS)]
        return name, repeated_ints(body, _ATTRIBUTE_INTS, once=_ATTRIBUTE_NAME)
    found = _parts(
        message, once={_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TENSOR, _ATTRIBUTE_TYPE}
    )
    if found[_ATTRIBUTE_TYPE] == [_INT] and not found[_ATTRIBUTE_TENSOR]:
        return name, found[_ATTRIBUTE_INT][0]
    if found[_ATTRIBUTE_TYPE] == [_TENSOR] and not found[_ATTRIBUTE_INT]:
        return name, _tensor(_message(found[_ATTRIBUTE_TENSOR][0]))[1]
    raise ValueError(f"the attribute {name} is neither an integer nor a tensor")


def _tensor(message: memoryview) -> tuple[str, NDArray[Any]]:
    """Return the name and the numbers of a tensor whose data is within the message."""
    found = _parts(message, once={_TENSOR_DIMENSION, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW})
    kind = found[_TENSOR_TYPE][0] if found[_TENSOR_TYPE] else 0
    if not isinstance(kind, int) or kind not in _DTYPES or not found[_TENSOR_RAW]:
        raise ValueError(f"a tensor of type {kind!r}, or without its data")
    shape = tuple(size for size in found[_TENSOR_DIMENSION] if isinstance(size, int))
    raw, dtype = _message(found[_TENSOR_RAW][0]), _DTYPES[kind]
    if len(shape) != len(found[_TENSOR_DIMENSION]) or math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError("a tensor whose data do not fit its shape")
    return "".join(map(_text, found[_TENSOR_NAME])), np.frombuffer(raw, dtype).reshape(shape)
