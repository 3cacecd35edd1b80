"""How the cells of a column are written: numbers with units, dates in any order, parts of texts.

A `Format` is inferred once for a whole column (`contract.format_inference`), stands in the contract
where a person can correct it, and is applied alike wherever a value is read. babel's and dateutil's
parsers were looked at: both guess cell by cell, so that ``1.234`` or ``03/04/2021`` could mean
two things within one column.
"""

from __future__ import annotations

import calendar
import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: Texts that mean a missing value in every column, in lower case.
MISSING_TEXTS = frozenset({"", "na", "nan", "null", "none"})
#: A longer text is cut before patterns are sought in it.
LONGEST_TEXT = 10_000

DURATION_DAYS = {
    "years": 365.25, "months": 365.25 / 12, "weeks": 7.0, "days": 1.0,
    "hours": 1 / 24, "minutes": 1 / 1440, "seconds": 1 / 86_400,
}  # fmt: skip
_DURATION_WORDS = {
    "years": ("year", "years", "yr", "yrs", "y", "año", "años", "ano", "anos", "jahr", "jahre"),
    "months": ("month", "months", "mth", "mths", "mo", "mos", "mes", "meses", "monat", "monate"),
    "weeks": ("week", "weeks", "wk", "wks", "w", "semana", "semanas", "woche", "wochen"),
    "days": ("day", "days", "d", "día", "días", "dia", "dias", "tag", "tage"),
    "hours": ("hour", "hours", "hr", "hrs", "h", "hora", "horas", "stunde", "stunden"),
    "minutes": ("minute", "minutes", "min", "mins", "minuto", "minutos", "minuten"),
    "seconds": ("second", "seconds", "sec", "secs", "s", "segundo", "segundos", "sekunden"),
}
_UNIT_OF_WORD = {word: unit for unit, words in _DURATION_WORDS.items() for word in words}
_DURATION_PART = re.compile(r"(\d+(?:[.,]\d+)?)\s*([^\W\d_]+)\.?", re.UNICODE)
_CLOCK = re.compile(r"(\d{1,3}):(\d{2})(?::(\d{2}))?")

#: Spaces of all widths, and the signs that are written for a minus.
_PLAIN_SPACES = str.maketrans(
    {"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2007": " ", "\u2212": "-", "\u2019": "'"}
)
_PLAIN_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?)", re.I
)

#: How spreadsheet programs keep a text from being read as a number: ``="0123"`` and ``'0123``.
_KEPT_AS_TEXT = re.compile(r"""="(?P<a>[^"]*)"|'(?P<b>[0-9.,+-]+)""")


def cell_text(text: str) -> str:
    """Return what is in a cell, without spaces around it and marks that keep it a text."""
    text = text.strip()
    if text[:1] in ("=", "'") and (found := _KEPT_AS_TEXT.fullmatch(text)):
        return (found["a"] if found["a"] is not None else found["b"]).strip()
    return text


#: A minus as accountants and typesetters write it.
_MINUS = re.compile(r"\([0-9.]{1,300}\)|\u2212[0-9.]{1,300}")

ExtractKind = Literal["number", "before", "after", "word", "contains", "words", "without_last"]
EXTRACT_KINDS: tuple[ExtractKind, ...] = get_args(ExtractKind)


@dataclass(frozen=True, slots=True)
class Extract:
    """Which part of another column's text a column holds.

    Attributes:
        kind: ``number`` the n-th number of the text; ``before`` the number that `value` follows
            (``300`` in ``300.0HP`` for ``HP``), ``after`` the number that follows `value`;
            ``word`` the n-th word that does not begin with a digit; ``contains`` 1 where `value` is
            one of the words, else 0; ``words`` how many words there are; ``without_last`` all but
            the last n characters.
        value: The text sought, or n.
    """

    kind: ExtractKind
    value: str | int


@dataclass(frozen=True, slots=True)
class Format:
    """How the texts of a column are written.

    Attributes:
        decimal: Decimal mark of numbers, ``.`` or ``,``.
        thousands: Mark between groups of digits: ``,``, ``.``, a space, ``'`` or None.
        affixes: Signs, units and words before or behind a number that do not change it.
        multipliers: Words behind a number and the factor that each means, such as ``k`` 1000.
        ranges: Whether two numbers with a dash or *to* between them mean their middle.
        duration: The unit in which durations such as ``61 years 04 months`` are given as a number.
        dates: The ways in which dates are written, as directives of `datetime.strptime`; ISO 8601
            is always read. ``%Y.fraction`` is a year with a fraction, ``epoch_s`` and ``epoch_ms``
            are seconds and milliseconds since 1970 UTC, ``excel_days`` the days by which
            spreadsheet programs count, ``%YQ`` a year and a quarter.
        missing: Further texts, or numbers, that mean a missing value, in lower case.
        unreadable: What a text is that can be read in none of these ways: ``refuse`` its row, or
            take the value for ``missing``.
    """

    decimal: str = "."
    thousands: str | None = None
    affixes: tuple[str, ...] = ()
    multipliers: tuple[tuple[str, float], ...] = ()
    ranges: bool = False
    duration: str | None = None
    dates: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unreadable: Literal["refuse", "missing"] = "refuse"

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from the default, as plain JSON types."""
        plain: dict[str, Any] = {}
        for name in ("decimal", "thousands", "duration", "unreadable"):
            value = getattr(self, name)
            if value != getattr(PLAIN, name):
                plain[name] = value
        for name in ("affixes", "dates", "missing"):
            if getattr(self, name):
                plain[name] = list(getattr(self, name))
        if self.multipliers:
            plain["multipliers"] = dict(self.multipliers)
        if self.ranges:
            plain["ranges"] = "middle"
        return plain

    @property
    def missing_numbers(self) -> tuple[float, ...]:
        """The numbers among `missing`, such as 0 or -9999."""
        return tuple(float(text) for text in self.missing if _PLAIN_NUMBER.fullmatch(text))

    def means_missing(self, text: str) -> bool:
        """Tell whether a text, without spaces around it, means a missing value."""
        folded = text.lower()
        return folded in MISSING_TEXTS or folded in self.missing


PLAIN = Format()


class UnreadableError(ValueError):
    """A text that is not a value of its column."""


@lru_cache(maxsize=4096)
def number_reader(form: Format) -> Callable[[str], float]:
    """Return the function that reads a number from a text without spaces around it.

    The function returns NaN for a missing value, and for one that cannot be read if the format
    says so; else it raises `UnreadableError`.
    """
    parse, plain = _Numbers(form), form == PLAIN
    as_python = not parse.groups_by_point

    def read(text: str) -> float:
        if as_python and _PLAIN_NUMBER.fullmatch(text):
            return float(text)
        text = cell_text(text)
        if form.means_missing(text):
            return math.nan
        known = _MINUS.fullmatch(text) if plain else len(text) <= LONGEST_TEXT
        value = parse(text) if known else None
        if value is not None:
            return value
        if form.unreadable == "missing":
            return math.nan
        raise UnreadableError(text)

    return read


class _Numbers:
    """Reads numbers written in one way."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self.groups_by_point = form.thousands == "." or form.decimal == ","
        self._digits = re.compile(_digits_pattern(form))
        self._affixes = sorted({a.casefold() for a in form.affixes}, key=len, reverse=True)
        self._multipliers = sorted(
            ((word.casefold(), factor) for word, factor in form.multipliers),
            key=lambda pair: -len(pair[0]),
        )

    def __call__(self, text: str) -> float | None:
        text = text.translate(_PLAIN_SPACES).strip()
        if self._form.duration is not None:
            return _duration(text, self._form.duration)
        value = self._one(text)
        if value is None and self._form.ranges:
            value = self._middle(text)
        return value

    def _one(self, text: str) -> float | None:
        sign, text = 1.0, text.casefold()
        if text.startswith("(") and text.endswith(")"):  # as accountants write a minus
            sign, text = -1.0, text[1:-1].strip()
        factor = 1.0
        for _ in range(4):  # a sign, a currency, a unit and a word at most
            if self._digits.fullmatch(text):
                return sign * factor * self._value(text)
            before = text
            text, minus, times = self._shorter(text)
            sign, factor = sign * minus, factor * times
            if text == before:
                break
        return sign * factor * self._value(text) if self._digits.fullmatch(text) else None

    def _shorter(self, text: str) -> tuple[str, float, float]:
        """Drop one affix; return the rest, -1.0 for a minus dropped, and the factor dropped."""
        for affix in self._affixes:
            if text.startswith(affix):
                return text[len(affix) :].lstrip(), 1.0, 1.0
            if text.endswith(affix):
                return text[: -len(affix)].rstrip(), 1.0, 1.0
        for word, factor in self._multipliers:
            if text.endswith(word) and text[: -len(word)].rstrip()[-1:].isdigit():
                return text[: -len(word)].rstrip(), 1.0, factor
        if text[:1] in ("-", "+") and not text[1:2].isdigit():
            return text[1:].lstrip(), -1.0 if text[0] == "-" else 1.0, 1.0
        return text, 1.0, 1.0

    def _value(self, digits: str) -> float:
        if self._form.thousands is not None:
            digits = digits.replace(self._form.thousands, "")
        return float(digits.replace(self._form.decimal, "."))

    def _middle(self, text: str) -> float | None:
        for found in _RANGE.finditer(text):
            low, high = self._one(text[: found.start()]), self._one(text[found.end() :])
            if low is not None and high is not None and low <= high:
                return (low + high) / 2
        return None


_RANGE = re.compile(
    r"(?<=[\w.)])\s*(?:-|–|—|~|\bto\b|\bbis\b|\ba\b|\bà\b|\btot\b|\buntil\b)\s*", re.I
)


def _digits_pattern(form: Format) -> str:
    point = re.escape(form.decimal)
    fraction = rf"(?:{point}\d*)?"
    plain = rf"\d+{fraction}|{point}\d+"
    if form.thousands is None:
        return rf"[+-]?(?:(?:{plain})(?:e[+-]?\d+)?)"
    mark = re.escape(form.thousands)
    # the last group has three digits; those before it two (as in India) or three
    grouped = rf"\d{{1,3}}(?:{mark}\d{{2,3}})*{mark}\d{{3}}{fraction}"
    return rf"[+-]?(?:{grouped}|{plain})"


def _duration(text: str, unit: str) -> float | None:
    clock = _CLOCK.fullmatch(text)
    if clock:
        hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        days = hours / 24 + minutes / 1440 + seconds / 86_400
        return days / DURATION_DAYS[unit]
    days, rest = 0.0, text
    parts = list(_DURATION_PART.finditer(text))
    for part in parts:
        named = _UNIT_OF_WORD.get(part[2].lower())
        if named is None:
            return None
        days += float(part[1].replace(",", ".")) * DURATION_DAYS[named]
        rest = rest.replace(part[0], " ", 1)
    if not parts or re.sub(r"\b(?:and|y|e|und|et)\b|[,;&]", " ", rest).strip():
        return None
    return days / DURATION_DAYS[unit]


def duration_unit(text: str) -> str | None:
    """Return the largest unit named in a duration such as ``61 years 04 months``; None for none."""
    if _duration(text.strip(), "days") is None:
        return None
    found = {_UNIT_OF_WORD[p[2].lower()] for p in _DURATION_PART.finditer(text)}
    return next((unit for unit in DURATION_DAYS if unit in found), "hours")


_MONTHS: dict[str, int] = {}
for _number, _names in enumerate(
    (
        "january jan enero ene januar janvier janv janeiro gennaio gen januari",
        "february feb febrero februar février févr fevrier fevereiro fev febbraio februari",
        "march mar marzo märz maerz mrz mars março marco maart mrt",
        "april apr abril abr avril avr aprile",
        "may mayo mai maio maggio mag mei",
        "june jun junio juni juin junho giugno giu",
        "july jul julio juli juillet juil julho luglio lug",
        "august aug agosto ago août aout",
        "september sep sept septiembre setiembre septembre setembro set settembre",
        "october oct octubre oktober okt octobre outubro out ottobre ott",
        "november nov noviembre novembre novembro",
        "december dec diciembre dic dezember dez décembre decembre déc dezembro dicembre",
    ),
    start=1,
):
    _MONTHS.update(dict.fromkeys(_names.split(), _number))

_DIRECTIVES = {
    "Y": r"(?P<Y>\d{4})", "y": r"(?P<y>\d{2})", "m": r"(?P<m>\d{1,2})", "d": r"(?P<d>\d{1,2})",
    "H": r"(?P<H>\d{1,2})", "M": r"(?P<M>\d{2})", "S": r"(?P<S>\d{2})", "f": r"(?P<f>\d{1,9})",
    "I": r"(?P<I>\d{1,2})", "p": r"(?P<p>[ap]\.?\s?m\.?)", "b": r"(?P<b>[^\W\d_]+\.?)",
    "B": r"(?P<b>[^\W\d_]+\.?)", "a": r"[^\W\d_]+\.?", "A": r"[^\W\d_]+\.?",
    "z": r"(?P<z>z|utc|gmt|[+-]\d{2}:?\d{2})", "%": "%",
}  # fmt: skip
#: What means a whole date rather than parts of one.
WHOLE_DATES = ("%Y.fraction", "epoch_s", "epoch_ms", "excel_days", "%YQ")
_QUARTER = re.compile(r"(?:(\d{4})\s*[-/ ]?\s*q([1-4])|q([1-4])\s*[-/ ]?\s*(\d{4}))", re.I)
_FRACTION = re.compile(r"\d{4}(?:[.,]\d+)?")
_DIGITS = re.compile(r"-?\d+(?:\.0*)?")
_EXCEL = re.compile(r"\d{1,6}(?:\.\d+)?")


def valid_date_format(text: str) -> bool:
    """Tell whether `date_reader` knows a way of writing dates."""
    if text in WHOLE_DATES:
        return True
    directives = re.findall(r"%(.?)", text)
    try:
        _date_pattern(text)
    except (re.error, KeyError):
        return False
    return bool({"Y", "y"}.intersection(directives))


@lru_cache(maxsize=4096)
def date_reader(form: Format) -> Callable[[str], float]:
    """Return the function that reads seconds since 1970 UTC from a text without spaces around it.

    A time without a zone is in UTC; a month is its first day. NaN and `UnreadableError` are as in
    `number_reader`.
    """
    readers = [_one_date_reader(way) for way in form.dates]

    def read(text: str) -> float:
        if form.means_missing(text):
            return math.nan
        for reader in readers:
            value = reader(text)
            if value is not None:
                return value
        try:
            return seconds_of(dt.datetime.fromisoformat(text))
        except ValueError:
            pass
        if form.unreadable == "missing":
            return math.nan
        raise UnreadableError(text)

    return read


def _one_date_reader(way: str) -> Callable[[str], float | None]:
    if way == "%Y.fraction":
        return _fraction_of_year
    if way == "%YQ":
        return _quarter
    if way in ("epoch_s", "epoch_ms"):
        scale = 1.0 if way == "epoch_s" else 1e-3
        return lambda text: float(text) * scale if _DIGITS.fullmatch(text) else None
    if way == "excel_days":
        return _excel_days
    pattern = _date_pattern(way)

    def read(text: str) -> float | None:
        found = pattern.fullmatch(text)
        return None if found is None else _moment(found.groupdict())

    return read


#: 1970-01-01 as spreadsheet programs count the days.
_EXCEL_1970 = 25_569


def _excel_days(text: str) -> float | None:
    if not _EXCEL.fullmatch(text):
        return None
    return round((float(text) - _EXCEL_1970) * 86_400, 3)


@lru_cache(maxsize=1024)
def _date_pattern(way: str) -> re.Pattern[str]:
    parts, at = [], 0
    while at < len(way):
        if way[at] == "%":
            directive = _DIRECTIVES[way[at + 1 : at + 2]]
            # digits that follow each other have fixed widths
            if directive.endswith("{1,2})") and _digits_beside(way, at):
                directive = directive.replace("{1,2}", "{2}")
            parts.append(directive)
            at += 2
        else:
            parts.append(r"\s+" if way[at] == " " else re.escape(way[at]))
            at += 1
    return re.compile("".join(parts), re.I | re.UNICODE)


def _digits_beside(way: str, at: int) -> bool:
    return way[at + 2 : at + 3] == "%" or (at >= 2 and way[at - 2] == "%")


def _moment(parts: Mapping[str, str | None]) -> float | None:
    year = parts.get("Y")
    if year is None:
        short = int(parts["y"] or 0)
        year_number = short + (2000 if short < 69 else 1900)  # as POSIX and strptime read it
    else:
        year_number = int(year)
    word = parts.get("b")
    month = int(parts.get("m") or 1) if word is None else _MONTHS.get(word.rstrip(".").lower(), 0)
    hour = int(parts.get("H") or 0)
    if parts.get("I"):
        half = (parts.get("p") or "a")[0].lower()
        hour = int(parts["I"] or 0) % 12 + (12 if half == "p" else 0)
    micro = int(((parts.get("f") or "0") + "000000")[:6])
    try:
        moment = dt.datetime(
            year_number, month, int(parts.get("d") or 1), hour,
            int(parts.get("M") or 0), int(parts.get("S") or 0), micro, tzinfo=_zone(parts.get("z")),
        )  # fmt: skip
    except ValueError:
        return None
    return seconds_of(moment)


def _zone(text: str | None) -> dt.tzinfo:
    if text is None or text[0] not in "+-":
        return dt.UTC
    digits = text[1:].replace(":", "")
    offset = dt.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return dt.timezone(offset if text[0] == "+" else -offset)


def _fraction_of_year(text: str) -> float | None:
    if not _FRACTION.fullmatch(text):
        return None
    value = float(text.replace(",", "."))
    year = int(value)
    if not 1 <= year <= 9998:
        return None
    days = 366 if calendar.isleap(year) else 365
    start = dt.datetime(year, 1, 1, tzinfo=dt.UTC)
    return seconds_of(start) + (value - year) * days * 86_400


def _quarter(text: str) -> float | None:
    found = _QUARTER.fullmatch(text)
    if found is None:
        return None
    year, quarter = int(found[1] or found[4]), int(found[2] or found[3])
    return seconds_of(dt.date(year, 3 * quarter - 2, 1)) if year else None


_WORDS = re.compile(r"[^\W_]+(?:[.'-][^\W_]+)*", re.UNICODE)


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORDS.findall(text[:LONGEST_TEXT].lower())


_NUMBER_INSIDE = r"\d+(?:[.,]\d+)*"


def extractor(extract: Extract, form: Format) -> Callable[[str], str]:
    """Return the function that takes the part of a text; an empty text where it has none."""
    kind, value = extract.kind, extract.value
    if kind == "without_last":
        return lambda text: text[: -int(value)]
    if kind == "words":
        return lambda text: str(len(words_of(text)))
    if kind == "contains":
        sought = str(value).lower()
        return lambda text: "1" if sought in words_of(text) else "0"
    if kind == "word":
        place = int(value) - 1

        def word(text: str) -> str:
            found = [one for one in words_of(text) if not one[0].isdigit()]
            return found[place] if place < len(found) else ""

        return word
    if kind == "number":
        pattern, nth = re.compile(_NUMBER_INSIDE), int(value)
    else:
        sought, nth = re.escape(str(value)), 1
        pattern = re.compile(
            rf"({_NUMBER_INSIDE})[ -]?{sought}(?![^\W\d_])"
            if kind == "before"
            else rf"(?<![^\W\d_]){sought}[ -]?({_NUMBER_INSIDE})",
            re.I,
        )

    def number(text: str) -> str:
        for count, found in enumerate(pattern.finditer(text[:LONGEST_TEXT]), 1):
            if count == nth:
                digits = found[found.re.groups]
                if form.decimal == "." and form.thousands is None:
                    digits = digits.replace(",", "")
                return digits
        return ""

    return number


def seconds_of(value: dt.date) -> float:
    """Return the seconds since 1970 UTC; a date is its midnight, a time without a zone in UTC."""
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
        return (aware - EPOCH).total_seconds()
    return float((value - EPOCH.date()).days * 86_400)


def date_text(seconds: float) -> str:
    """Return ISO 8601: ``2026-01-31`` at midnight, else ``2026-01-31T10:00:00Z``.

    What no calendar has, such as the year 12 000, is shown as the number of seconds.
    """
    try:
        moment = EPOCH + dt.timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return f"{seconds:g} s since 1970"
    if moment.time() == dt.time(0):
        return moment.date().isoformat()
    return moment.isoformat(timespec="auto").replace("+00:00", "Z")
