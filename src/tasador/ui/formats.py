"""Numbers and times as people of a language read them."""

from __future__ import annotations

import datetime as dt
import math
import re

from tasador.core import escape
from tasador.ui.texts import Language


def number(value: float | None, digits: int = 0, language: Language = "en") -> str:
    """Return a number with its thousands parted; a dash for none.

    Args:
        value: The number; None and NaN are none.
        digits: Digits behind the decimal point.
        language: Spanish writes ``1.234,5``.
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if language == "es":
        text = text.translate(str.maketrans(",.", ".,"))
    return text


def amount(value: float | None, unit: str | None, language: Language = "en") -> str:
    """Return an estimate with its unit, with as many digits as its size deserves."""
    if value is None:
        return "–"
    return f"{number(value, digits_of(value), language)} {unit or ''}".rstrip()


def digits_of(value: float) -> int:
    """Return how many digits behind the decimal point a value of this size deserves."""
    size = abs(value)
    return 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 4


def rounded(value: float | None) -> float | None:
    """Return an estimate with the digits that its size deserves, for a table of numbers."""
    return None if value is None else round(value, digits_of(value))


def percent(value: float | None, digits: int = 1, language: Language = "en") -> str:
    """Return a figure that is in percent already."""
    return "–" if value is None else f"{number(value, digits, language)} %"


def moment(text: str | float | None) -> str:
    """Return a time, ISO 8601 or seconds since 1970, as ``2026-11-24 19:20`` in UTC."""
    if text is None or text == "":
        return "–"
    try:
        found = (
            dt.datetime.fromtimestamp(text, tz=dt.UTC)
            if isinstance(text, int | float)
            else dt.datetime.fromisoformat(text)
        )
    except (ValueError, OverflowError):
        return str(text)
    return found.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M")


def label(name: str) -> str:
    """Return a name for people: ``median_income`` is ``Median income``, ``(error)`` ``Error``."""
    text = name.replace("_", " ").strip(" ()")
    return text[:1].upper() + text[1:]


def escaped(text: str) -> str:
    """Return what came from data so that Markdown shows it as it is."""
    return escape.streamlit(text)


def shown_card(text: str) -> str:
    """Return Markdown of ours so that Streamlit's formulas, icons and colours stay text."""
    parts = re.split(r"(`[^`]*`)", text)  # in code they are text already
    parts[::2] = [re.sub(r"\$|:(?=[A-Za-z])", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)
