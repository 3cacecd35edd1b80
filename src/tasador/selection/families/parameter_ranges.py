"""Ranges of parameters that a library itself checks late or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: (kind, lowest, highest) by parameter.
Ranges = Mapping[str, tuple[type, float, float]]


def check_ranges(
    params: Mapping[str, Any], ranges: Ranges, choices: Mapping[str, Sequence[str]]
) -> None:
    """Refuse a value of the wrong kind or outside its range.

    Raises:
        ValueError: Naming the parameter, what it must be and what was found.
    """
    for name, value in params.items():
        if name in choices and value not in choices[name]:
            raise ValueError(f"{name} must be one of {', '.join(choices[name])}, got {value!r}")
        if name not in ranges:
            continue
        kind, low, high = ranges[name]
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind is int:
            fits = fits and isinstance(value, int)
        if not fits or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name} must be {what} in [{low:g}, {high:g}], got {value!r}")
