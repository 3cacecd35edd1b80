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


def read_json(text: str | bytes, depth: int | None = None) -> Any:
    """Return a JSON value; NaN and Infinity are read as Python's own parser reads them.

    Args:
        text: The JSON text.
        depth: How deeply lists and objects may be nested; None for as deeply as Python can.

    Raises:
        RepeatedNameError: An object has a name twice.
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        plain = json.loads(text, object_pairs_hook=_object, parse_int=_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if depth is not None:
        _check_depth(plain, depth)
    return plain


def _check_depth(plain: Any, most: int) -> None:
    level = [plain]
    for _ in range(most + 1):
        level = [
            child
            for value in level
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise ValueError(f"nested too deeply: more than {most} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) < len(pairs):
        raise RepeatedNameError(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return plain


def _number(text: str) -> float:
    return int(text) if len(text) < 19 else float(text)  # as orjson reads them
