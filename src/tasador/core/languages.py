"""Texts by language, and numbers as the people of a language write them."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Literal, get_args

Language = Literal["en", "es"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_SPANISH_DIGITS = str.maketrans(",.", ".,")


def text_of(
    texts: Mapping[str, tuple[str, str]], key: str, language: Language, **values: object
) -> str:
    """Return an (English, Spanish) text of a catalogue with its values filled in.

    Raises:
        KeyError: The catalogue has no such key.
    """
    return texts[key][0 if language == "en" else 1].format(**values)


def digits_in(written: str, language: Language) -> str:
    """Return a number that is written as in English with the marks of the language."""
    return written.translate(_SPANISH_DIGITS) if language == "es" else written


def number(value: float | None, digits: int = 0, language: Language = "en") -> str:
    """Return a number with its thousands parted; a dash for none.

    Args:
        value: The number; None and NaN are none.
        digits: Digits behind the decimal point.
        language: Spanish writes ``1.234,5``.
    """
    if value is None or not math.isfinite(value):
        return "–"
    return digits_in(f"{value:,.{digits}f}", language)


def amount(value: float | None, unit: str | None, language: Language = "en") -> str:
    """Return an estimate with its unit, with as many digits as its size deserves."""
    if value is None:
        return "–"
    return f"{number(value, digits_of(value), language)} {unit or ''}".rstrip()


def digits_of(value: float) -> int:
    """Return how many digits behind the decimal point a value of this size deserves."""
    size = abs(value)
    return 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 4


_MONTHS: dict[Language, tuple[str, ...]] = {
    "en": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    "es": ("ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic"),
}


def moment(text: str | float | None, language: Language = "en") -> str:
    """Return a time as ``24 Nov 2026, 19:20`` in UTC; a dash for none.

    Args:
        text: ISO 8601, or seconds since 1970; any other text is returned as it is.
        language: Of the month's name.
    """
    if text is None or text == "":
        return "–"
    try:
        found = (
            dt.datetime.fromtimestamp(text, tz=dt.UTC)
            if isinstance(text, int | float)
            else dt.datetime.fromisoformat(text)
        ).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return str(text)
    return f"{found.day} {_MONTHS[language][found.month - 1]} {found:%Y, %H:%M}"
