"""Numbers as people read them: thin separators, and one number of decimals down a column."""

from __future__ import annotations

import math
from collections.abc import Iterable

Value = str | int | float | None

THIN_SPACE = "\u202f"
DASH = "–"
MINUS = "\u2212"


def decimals_for(values: Iterable[Value]) -> int | None:
    """Return the decimals that suit a column of numbers: fewer for large ones.

    None when the numbers are of too different size to share one; each then gets its own.
    """
    sizes = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v)]
    if all(size.is_integer() for size in sizes):
        return 0
    some = [size for size in sizes if size > 0]
    if max(some) > 100 * min(some):
        return None
    return _decimals(max(some))


def _decimals(size: float) -> int:
    for limit, decimals in ((1000.0, 0), (100.0, 1), (10.0, 2), (0.1, 3)):
        if size >= limit:
            return decimals
    return 4


def number(value: Value, decimals: int | None = None, *, trim: bool = False) -> str:
    """Return a number with thin separators, a text as it is, and a dash for nothing.

    Args:
        value: Whole numbers are shown whole; floats with `decimals`.
        decimals: By default what suits the number's size.
        trim: Whether to drop zeros at the end of a fraction.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, str):
        return value
    places = decimals
    if isinstance(value, int) or (places is None and value.is_integer()):
        places = 0
    elif places is None:
        places = _decimals(abs(value))
    text = f"{value:,.{places}f}"
    if trim and "." in text:
        text = text.rstrip("0").rstrip(".")
    if value != 0 and float(text.replace(",", "")) == 0:
        text = f"{value:.2g}"
    return text.replace(",", THIN_SPACE).replace("-", MINUS)


def duration(seconds: float) -> str:
    """Return a span of time in its natural unit: ``0.4 s``, ``12 s``, ``3 min 5 s``."""
    if seconds < 0.05:
        return f"{seconds * 1000:.0f}{THIN_SPACE}ms"
    if seconds < 10:
        return f"{seconds:.1f}{THIN_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{THIN_SPACE}min {whole % 60}{THIN_SPACE}s"
    return f"{whole // 3600}{THIN_SPACE}h {whole % 3600 // 60}{THIN_SPACE}min"
