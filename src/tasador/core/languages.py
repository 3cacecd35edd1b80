"""Texts by language, and numbers as the people of a language write them.

Findings, gates and errors are sentences with their numbers filled in, as they are recorded and
printed in English. `translated` finds each by its English form in ``spanish.txt``.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
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


_FIELD = re.compile(r"\{(\w+)\}")
#: Fields whose text is a name or what somebody wrote.
_AS_GIVEN = frozenset(("path", "column", "given"))
#: What a field may hold where that is not all but a semicolon.
_WITHIN = {"rest": ".", "column": "[^;:]"}
#: What is quoted and what holds a slash is no number of ours.
_NUMBER = re.compile(
    r"(?P<kept>(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"|`[^`]*`|\S*[/\\]\S*)"
    r"|(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w|\.\w)"
)
_PERCENT = re.compile(r"(?<=\d)%")


def translated(said: str, language: Language) -> str:
    """Return a sentence of tasador in a language; as it is where it has no form.

    Args:
        said: In English; several may be joined by semicolons.
        language: Of the reader.
    """
    if language == "en" or not said:
        return said
    whole = _found(said)
    if whole is not None:
        return whole
    parts = said.split("; ")
    return "; ".join(_found(part) or _written(part) for part in parts)


def _found(said: str) -> str | None:
    for form, spanish in _forms():
        if match := form.fullmatch(said):
            fields = {
                name: value if name in _AS_GIVEN else translated(value, "es")
                for name, value in match.groupdict().items()
            }
            return spanish.format(**fields)
    return None


@cache
def _forms() -> list[tuple[re.Pattern[str], str]]:
    # those with more text of their own first: "{share} missing" also fits longer sentences
    ordered = sorted(sentences(), key=lambda one: -len(_FIELD.sub("", one[0])))
    return [(_pattern(english), spanish) for english, spanish in ordered]


def sentences(section: str = "") -> list[tuple[str, str]]:
    """Return the English and Spanish forms of what `translated` knows.

    Args:
        section: How the titles of the sections that are wanted begin, e.g. ``findings``.
    """
    text = files("tasador.core").joinpath("spanish.txt").read_text(encoding="utf-8")
    _, *parts = text.split("\n# --- ")
    lines = [
        line for part in parts if part.startswith(section) for line in part.splitlines()[1:] if line
    ]
    return list(zip(lines[::2], lines[1::2], strict=True))


def _pattern(english: str) -> re.Pattern[str]:
    parts = _FIELD.split(english)
    parts[::2] = [re.escape(part) for part in parts[::2]]
    # within one sentence: a semicolon ends it, unless the form itself has it
    parts[1::2] = [f"(?P<{name}>{_WITHIN.get(name, '[^;]')}+?)" for name in parts[1::2]]
    return re.compile("".join(parts), re.DOTALL)


def _written(value: str) -> str:
    """Return a field's text with its numbers as Spanish writes them."""
    said = _NUMBER.sub(lambda one: one["kept"] or digits_in(one[0], "es"), value)
    return _PERCENT.sub(" %", said)
