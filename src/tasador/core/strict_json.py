"""JSON in which a name is given once: parsers keep the last value of a repeated one in silence."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


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
