"""Checks of JSON and arrays that somebody else may have made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RepeatedNameError(ValueError):
    """An object has a name twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the name {name[:100]!r} is given twice in one object")
        self.name = name[:100]


def read_json(text: str | bytes) -> Any:
    """Return a JSON value; NaN and Infinity are read as Python's own parser reads them.

    Raises:
        RepeatedNameError: An object has a name twice.
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_depth(value: Any, most: int) -> None:
    """Refuse JSON that is nested more deeply than anybody means.

    Whatever goes through it later, one level at a time or on the stack, ends.

    Raises:
        ValueError: It has more than `most` levels of objects and lists.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(f"nested more than {most} levels deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) < len(pairs):
        raise RepeatedNameError(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return plain


def _number(text: str) -> float:
    return int(text) if len(text) < 19 else float(text)  # as orjson reads them


#: Numbers beyond this are in no table; their squares are still finite.
MOST = 1e150
#: Types that state is kept in: doubles, flags, and integers of two sizes.
FLOAT, FLAG = ("float64",), ("bool",)
INTEGER = ("int32", "int64")


@dataclass(frozen=True)
class Expected:
    """What one array has to be.

    Attributes:
        shape: Size of each dimension; None for any size.
        types: Names of the numpy types that it may have.
        low: Smallest value.
        high: Largest value.
        infinite: Whether infinities may be among them.
        gaps: Whether NaN may be among them.
        ascending: Whether each value has to be at least the one before it.
    """

    shape: tuple[int | None, ...]
    types: tuple[str, ...] = FLOAT
    low: float = -MOST
    high: float = MOST
    infinite: bool = False
    gaps: bool = False
    ascending: bool = False

    def check(self, name: str, array: NDArray[Any]) -> None:
        """Refuse an array that is something else.

        Raises:
            ValueError: It is; names it.
        """
        if array.dtype.name not in self.types or not array.dtype.isnative:
            raise ValueError(f"{name} holds {array.dtype}, expected {' or '.join(self.types)}")
        fits = array.ndim == len(self.shape) and all(
            wanted in (None, size) for size, wanted in zip(array.shape, self.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{name} has shape {array.shape}, expected {_said(self.shape)}")
        if not array.size or array.dtype.kind == "b":
            return
        values = array[~np.isnan(array)] if self.gaps else array
        if self.infinite:
            values = values[~np.isinf(values)]
        # NaN fails both comparisons
        if values.size and not (values.min() >= self.low and values.max() <= self.high):
            raise ValueError(
                f"{name} holds values outside of [{self.low:g}, {self.high:g}], or NaN"
            )
        if self.ascending and (np.diff(array) < 0).any():
            raise ValueError(f"{name} is not in ascending order")


def check_arrays(arrays: Mapping[str, NDArray[Any]], expected: Mapping[str, Expected]) -> None:
    """Refuse arrays that are missing, unknown, or not what is expected.

    Raises:
        ValueError: They are; names the first.
    """
    missing = sorted(expected.keys() - arrays.keys())
    unknown = sorted(arrays.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"arrays are missing {missing[:5]}, or unknown {unknown[:5]}")
    for name, what in expected.items():
        what.check(name, arrays[name])


def _said(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
