"""What kind of column is it? Number, category, datetime, identifier or text.

The rules are simple on purpose: each decision becomes one sentence that a person can check.
"""

from __future__ import annotations

import datetime as dt
import math
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.encoding import encode_values
from tasador.contract.model import Column, named_as_identifier, plain_name

Floats = NDArray[np.float64]

#: Share of the texts that must read as numbers or dates for a column to be one.
PARSED_SHARE = 0.98
#: Up to so many levels texts are a category in any case; above, when each has a hundred rows.
_FEW_LEVELS = 50
_MOST_LEVELS = 10_000
_LONG_TEXT = 64
#: A category with more levels than this, or with one seen in fewer rows than that, has others too.
_MOST_CLOSED_LEVELS = 20
_FEWEST_ROWS = 5


def describe_column(
    series: pl.Series, assumptions: list[str], *, as_category: bool = False
) -> Column:
    """Decide on a column's kind and what follows from it.

    Args:
        series: The column.
        assumptions: What is assumed is added to these, a sentence.
        as_category: Take it for a category whatever it looks like.
    """
    name, rows = series.name, len(series)
    present = series.drop_nulls()
    if series.dtype.is_float():
        present = present.drop_nans()
    if isinstance(series.dtype, (pl.List, pl.Array, pl.Struct, pl.Object, pl.Binary)):
        return _aside(name, f"set aside: {series.dtype} is not a kind of value used here",
                      assumptions)  # fmt: skip
    levels = present.n_unique()
    if levels <= 1:
        what = "no value in any row" if levels == 0 else "constant"
        return _aside(name, f"set aside: {what}, so it cannot explain anything", assumptions)
    nullable = len(present) < rows
    if as_category:
        return _category(name, present.cast(pl.String), nullable, assumptions)
    numbers, wrong = encode_values(Column(name, "number"), present)
    if series.dtype != pl.Boolean and wrong.sum() <= (1 - PARSED_SHARE) * len(present):
        return _describe_number(name, present, numbers, wrong, nullable, assumptions)
    if isinstance(series.dtype, pl.Datetime | pl.Date) or _are_dates(present):
        assumptions.append(f"{name!r} is a date and time; those without a zone are in UTC")
        return Column(name, "datetime", nullable=nullable)
    return _describe_text(name, present.cast(pl.String), nullable, assumptions)


def _describe_number(
    name: str,
    present: pl.Series,
    numbers: Floats,
    wrong: NDArray[np.bool_],
    nullable: bool,
    assumptions: list[str],
) -> Column:
    finite = numbers[np.isfinite(numbers)]
    if len(finite) == 0:
        return _aside(name, "set aside: no finite number in any row", assumptions)
    is_text = present.dtype == pl.String
    pointed = bool(present.str.contains(r"[.eE]").any()) if is_text else present.dtype.is_float()
    whole = not pointed and bool((finite == np.floor(finite)).all())
    if whole and _numbers_identify(name, finite):
        assumptions.append(f"{name!r} identifies the row: carried along, not used")
        return Column(name, "identifier", nullable=nullable)
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return _aside(name, "set aside: constant, so it cannot explain anything", assumptions)
    bounds = bounds_around(low, high)
    note = f"{name!r} is a {'whole ' if whole else ''}number in [{bounds[0]:g}, {bounds[1]:g}]"
    note += f" (seen: {low:g} to {high:g})" + (", may be missing" if nullable else "")
    strange = int(wrong.sum() + (~np.isfinite(numbers) & ~wrong).sum())
    if strange:
        row = int(np.flatnonzero(wrong | ~np.isfinite(numbers))[0])
        note += f"; {strange} cell(s) such as {present[row]!r} are not and their rows are refused"
    assumptions.append(note)
    return Column(name, "integer" if whole else "number", bounds=bounds, nullable=nullable)


def _numbers_identify(name: str, values: Floats) -> bool:
    """Tell whether whole numbers merely count or name the rows."""
    unique = len(np.unique(values)) / len(values)
    if named_as_identifier(name):
        return unique >= 0.95
    return unique == 1.0 and len(values) >= 20 and bool(np.ptp(values) <= 1.05 * len(values))


def _are_dates(present: pl.Series) -> bool:
    texts = present.cast(pl.String).str.strip_chars()
    parsed = 0
    for text in texts.head(1000):
        try:
            dt.datetime.fromisoformat(text)
            parsed += len(text) >= 8
        except ValueError:
            continue
    return parsed >= PARSED_SHARE * min(len(texts), 1000)


def _describe_text(name: str, present: pl.Series, nullable: bool, assumptions: list[str]) -> Column:
    texts = present.str.strip_chars()
    levels = len(_spellings(texts))
    longest = int(texts.str.len_chars().max() or 0)  # type: ignore[arg-type]
    few = levels <= _FEW_LEVELS or levels <= min(_MOST_LEVELS, 0.01 * len(texts))
    if few and levels <= len(texts) / 2 and longest <= _LONG_TEXT and levels > 1:
        return _category(name, texts, nullable, assumptions)
    if levels <= 1:
        return _aside(name, "set aside: constant, so it cannot explain anything", assumptions)
    named = named_as_identifier(name)
    unique = texts.n_unique() / len(texts)
    if longest <= _LONG_TEXT and (unique == 1.0 or (named and unique >= 0.95)):
        assumptions.append(f"{name!r} identifies the row: carried along, not used")
        return Column(name, "identifier", nullable=nullable)
    return _aside(name, f"set aside: text with {levels} different values", assumptions)


def _category(name: str, texts: pl.Series, nullable: bool, assumptions: list[str]) -> Column:
    texts = texts.str.strip_chars()
    names = _spellings(texts)
    column = Column(name, "category", nullable=nullable, categories=names, case_sensitive=False)
    rows = Counter(column.category_key(text) for text in texts.to_list())
    rare = min(rows.values()) < _FEWEST_ROWS
    is_open = len(names) > _MOST_CLOSED_LEVELS or (rare and len(names) > 2)
    note = f"{name!r} is a category with {len(names)} levels, upper and lower case alike"
    note += ", may be missing" if nullable else ""
    why = "so many" if len(names) > _MOST_CLOSED_LEVELS else "some are rare"
    note += (
        f"; open ({why}): other levels are valued with a warning"
        if is_open
        else "; other levels are refused"
    )
    assumptions.append(note)
    return replace(column, open=is_open)


def _spellings(texts: pl.Series) -> tuple[str, ...]:
    """Return the levels in order, each in its most frequent spelling, composed (Unicode's NFC)."""
    spelled: dict[str, str] = {}
    for text in texts.value_counts(sort=True)[texts.name].to_list():
        spelled.setdefault(plain_name(text.casefold()), plain_name(text))
    return tuple(sorted(spelled.values()))


def _aside(name: str, why: str, assumptions: list[str]) -> Column:
    assumptions.append(f"{name!r} is {why}")
    return Column(name, "text", nullable=True, description=why[0].upper() + why[1:])


def bounds_around(low: float, high: float) -> tuple[float, float]:
    """Widen the observed range by its own width on both sides; what is never negative stays so."""
    width = high - low
    lower = 0.0 if low >= 0 else round_outwards(low - width, up=False)
    return lower, 0.0 if high <= 0 else round_outwards(high + width, up=True)


def round_outwards(value: float, *, up: bool) -> float:
    """Round outwards to two significant digits."""
    if value == 0:
        return 0.0
    if math.isinf(value):
        return math.copysign(sys.float_info.max, value)
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    steps = math.ceil(value / unit) if up else math.floor(value / unit)
    return float(f"{steps * unit:.12g}")
