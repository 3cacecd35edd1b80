"""One value of a column: from what people write to the number that is worked on, and back."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from tasador.contract.errors import cut_repr
from tasador.contract.formats import (
    DURATION_DAYS,
    EPOCH,
    MISSING_TEXTS,
    UnreadableError,
    date_reader,
    extractor,
    number_reader,
    seconds_of,
)
from tasador.contract.model import Column
from tasador.core.errors import ValidationError

_REAL = (int, float, Decimal, np.integer, np.floating)
#: A whole number as a typed column of numbers with gaps is written to a CSV.
_WHOLE_AS_FLOAT = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0")
_NAN = math.nan


#: Pairs of levels that mean true and false.
_TRUE_FALSE = (("t", "f"), ("yes", "no"), ("y", "n"))


def cell_encoder(column: Column) -> Callable[[Any], float]:
    """Return the function that encodes one value of `column`."""
    if column.from_text:
        return _part_encoder(column)
    if column.kind == "category":
        return _category_encoder(column)
    if column.kind == "datetime":
        read_date = date_reader(column.format)
        return lambda value: _seconds(column, value, read_date)
    read_number = number_reader(column.format)
    absent = column.format.missing_numbers
    if absent:
        return lambda value: _unless(_number(column, value, read_number), absent)
    return lambda value: _number(column, value, read_number)


def _unless(value: float, absent: tuple[float, ...]) -> float:
    return _NAN if value in absent else value


def _part_encoder(column: Column) -> Callable[[Any], float]:
    """Return the function that encodes the part of a text which is the column's value."""
    assert column.extract is not None  # noqa: S101 - the contract's reader sees to it
    part, whole = extractor(column.extract, column.format), cell_encoder(column.own)
    absent = 0.0 if column.extract.kind in ("contains", "words") else _NAN

    def encode(value: Any) -> float:
        if value is None or (isinstance(value, (float, np.floating)) and value != value):
            return absent
        if isinstance(value, (int, float, Decimal, np.number)) and not isinstance(value, bool):
            value = _number_text(value)
        if not isinstance(value, str):
            raise wrong_value(column, value)
        text = value.strip()
        if column.format.means_missing(text):
            return absent
        found = part(text)
        return whole(found) if found else _NAN

    return encode


def _number(column: Column, value: Any, read: Callable[[str], float]) -> float:
    kind = type(value)
    if kind is float or kind is int:
        try:
            return float(value)
        except OverflowError:
            raise wrong_value(column, value) from None
    if value is None:
        return _NAN
    if kind is str:
        try:
            return read(value.strip())
        except UnreadableError:
            raise wrong_value(column, value) from None
    if isinstance(value, _REAL) and kind is not bool:
        return float(value)
    if isinstance(value, dt.timedelta):
        return value.total_seconds() / 86_400 / DURATION_DAYS[column.format.duration or "days"]
    raise wrong_value(column, value)


def _category_encoder(column: Column) -> Callable[[Any], float]:
    """Return the function that looks a level up.

    Levels are texts and are never read as numbers: ``01``, ``1``, ``1e0`` are three of them. A
    number is the level written as that number, so that 1000 and 1000.0 are both ``1000``, and so is
    the text ``1000.0``, which a CSV makes of it. True and false are levels of that name, or those
    of a pair that means the same, such as ``t`` and ``f``, in which PostgreSQL writes them.
    """
    codes = {column.category_key(text): float(i) for i, text in enumerate(column.categories)}
    exact = {text: codes[column.category_key(text)] for text in column.categories}
    truth = {text.casefold(): code for text, code in exact.items()}
    for yes, no in _TRUE_FALSE:
        if set(truth) == {yes, no}:
            truth |= {"true": truth[yes], "false": truth[no]}
            break
    unknown = float(len(column.categories))

    def encode(value: Any) -> float:
        if type(value) is str:
            code = exact.get(value)
            if code is not None:
                return code
        elif value is None or (isinstance(value, (float, np.floating)) and value != value):
            return _NAN
        elif isinstance(value, (bool, np.bool_)):
            return truth.get("true" if value else "false", unknown)
        elif not isinstance(value, (str, int, float, Decimal, np.generic)):
            raise wrong_value(column, value)
        text = value if isinstance(value, str) else _number_text(value)
        key = column.category_key(text)
        code = codes.get(key)
        if code is None:
            whole = _WHOLE_AS_FLOAT.fullmatch(key)
            code = codes.get(whole[1] if whole else f"{key}.0")
        if code is None:
            missing = key.lower() in MISSING_TEXTS or key.lower() in column.format.missing
            return _NAN if missing else unknown
        return code

    return encode


def _number_text(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and value == int(value):
        return str(int(value))  # 1e16 too, whose own text has an exponent
    return str(value)


def _seconds(column: Column, value: Any, read: Callable[[str], float]) -> float:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _NAN
    if isinstance(value, str):
        try:
            return read(value.strip())
        except UnreadableError:
            raise wrong_value(column, value) from None
    if column.format.dates and isinstance(value, _REAL) and not isinstance(value, bool):
        try:  # 20260131 or 2026.25, which came as a number
            return read(_number_text(value))
        except UnreadableError:
            raise wrong_value(column, value) from None
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            return _NAN
        value = value.astype("datetime64[us]").item()
    if isinstance(value, dt.date):
        return seconds_of(value)
    raise wrong_value(column, value)


def decoded_cell(column: Column, value: float) -> Any:
    if math.isnan(value):
        return None
    if column.kind == "category":
        code = int(value)
        return column.categories[code] if 0 <= code < len(column.categories) else "(unknown)"
    if column.kind == "datetime":
        try:
            return EPOCH + dt.timedelta(seconds=value)
        except OverflowError:  # no calendar date: show the number
            return value
    if column.kind == "integer" and value.is_integer():
        return int(value)
    return value


_EXPECTED = {
    "number": "a number",
    "integer": "a whole number",
    "category": "a text",
    "datetime": "a date and time in ISO 8601, such as 2026-01-31T10:00:00",
}


def wrong_value(column: Column, value: Any, where: str = "") -> ValidationError:
    return ValidationError(
        f"{column.name!r}{where} is not valid",
        expected=_EXPECTED.get(column.kind, "another value"),
        got=cut_repr(value),
        remedy=f"fix the value, or the column's kind ({column.kind}) in the contract",
    )
