"""How are the texts of a column written? Inferred for the column as a whole.

Each function looks at the different texts of a column and says how to read them, or None where they
are not what it knows. Where two readings fit, both are returned: the caller asks.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tasador.contract.formats import (
    PLAIN,
    Format,
    UnreadableError,
    date_reader,
    duration_unit,
    number_reader,
)

#: Share of the texts that must be read for a column to be numbers or dates.
READ_SHARE = 0.9
#: Up to so many different texts are looked at.
_LOOKED_AT = 3000
#: Share of the texts in which a sign or unit has to stand to be taken for one.
_AFFIX_SHARE = 0.01
_MOST_AFFIXES = 8
#: What people write for a missing value. In a column of texts these may be values, so they only
#: count where the rest of the column are numbers or dates.
MISSING_WORDS = frozenset(
    """- -- --- \u2013 \u2014 ? ?? . .. * x n.a. n.a n/a #n/a #n/d #na n.d. n.d n/d nd s/d k.a.
    unknown unk unbekannt desconocido inconnu missing faltante nil tba tbd tbc poa p.o.a. p.o.a
    auction negotiable <na> #value! #ref! #div/0! (null) (blank) (empty) blank empty void
    undefined""".split()  # noqa: SIM905
) | {
    "not available", "not applicable", "not known", "no data", "sin dato", "sin datos", "no aplica",
    "no disponible", "keine angabe", "not specified", "not given", "price on request", "on request",
    "price on application", "contact agent", "call for price", "ask for price", "auf anfrage",
    "preis auf anfrage", "a consultar", "consultar", "sur demande", "prix sur demande",
    "su richiesta", "sob consulta",
}  # fmt: skip
_UNITS_WITH_DIGITS = frozenset({"m2", "m3", "km2", "ft2", "sqft2", "cm2", "cm3", "m^2", "ft^2"})
_PREFIX_WORDS = frozenset(
    [
        "usd",
        "us$",
        "eur",
        "gbp",
        "chf",
        "inr",
        "rs",
        "rs.",
        "r$",
        "mx$",
        "mxn",
        "cop",
        "clp",
        "ars",
        "brl",
        "a$",
        "aud",
        "c$",
        "cad",
        "nz$",
        "s$",
        "sgd",
        "hk$",
        "hkd",
        "jpy",
        "cny",
        "rmb",
        "kr",
        "kr.",
        "sek",
        "nok",
        "dkk",
        "pln",
        "zł",
        "kč",
        "huf",
        "ft",
        "try",
        "tl",
        "aed",
        "sar",
        "qar",
        "rm",
        "myr",
        "rp",
        "idr",
        "php",
        "vnd",
        "thb",
        "desde",
        "from",
        "ab",
        "ca",
        "ca.",
        "approx",
        "approx.",
        "aprox",
        "aprox.",
        "about",
        "circa",
        "über",
        "over",
        "up.to",
        "hasta",
        "bis",
    ]
)
#: Currencies by what is written for them; ``$`` is that of many countries.
_CURRENCIES = {
    text: name
    for name, texts in {
        "dollar": "$ us$ usd", "euro": "€ eur", "pound": "£ gbp", "franc": "chf fr. sfr.",
        "rupee": "₹ inr rs rs.", "yen or yuan": "¥ jpy cny rmb 円 元", "real": "r$ brl",
        "zloty": "zł pln", "koruna": "kč czk", "rouble": "₽ rub руб руб.", "lira": "₺ try tl",
        "dirham": "aed", "australian dollar": "a$ aud", "canadian dollar": "c$ cad",
        "swedish krona": "sek", "norwegian krone": "nok", "danish krone": "dkk",
        "mexican peso": "mx$ mxn", "won": "₩ krw", "shekel": "₪ ils",
    }.items()
    for text in texts.split()
}  # fmt: skip
_MULTIPLIERS = {
    "k": 1e3, "tsd": 1e3, "tsd.": 1e3, "thousand": 1e3, "mil": 1e3, "m": 1e6, "mn": 1e6,
    "mio": 1e6, "mio.": 1e6, "million": 1e6, "millions": 1e6, "millón": 1e6, "millones": 1e6,
    "milhões": 1e6, "mill.": 1e6, "b": 1e9, "bn": 1e9, "billion": 1e9, "lac": 1e5, "lakh": 1e5,
    "lakhs": 1e5, "l": 1e5, "cr": 1e7, "crore": 1e7, "crores": 1e7,
}  # fmt: skip
_CORE = re.compile(
    r"^(?P<before>\D*?)(?P<core>\d(?:[\d.,' ]*\d)?|[.,]\d+)(?P<after>.*)$", re.DOTALL
)
_PLAIN_SPACES = str.maketrans({"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2019": "'"})
_CODE = re.compile(r"0\d+")


@dataclass(frozen=True)
class Reading:
    """A way of reading a column's texts.

    Attributes:
        form: The way.
        said: What is said about it, such as ``with a decimal comma``.
        other: Another way that fits as well; None when there is no doubt.
        other_said: What is said about that.
        unread: How many texts, counted by rows, cannot be read, and an example.
    """

    form: Format
    said: str = ""
    other: Format | None = None
    other_said: str = ""
    unread: int = 0
    example: str | None = None


def are_codes(texts: Sequence[str]) -> bool:
    """Tell whether texts of digits are codes: one of them begins with a zero that says nothing."""
    return any(_CODE.fullmatch(text) for text in texts) and all(text.isdigit() for text in texts)


def _are_codes_with_letters(parts: Sequence[re.Match[str]]) -> bool:
    """Tell whether texts such as ``AB-0012`` or ``Q0007`` are codes, not numbers with a unit."""
    lettered = [part for part in parts if re.search(r"[^\W\d_]", part["before"])]
    if 2 * len(lettered) < len(parts):
        return False
    joined = sum(bool(re.search(r"[^\W\d_]-$", part["before"])) for part in lettered)
    padded = any(_CODE.fullmatch(part["core"]) for part in lettered)
    return padded or 2 * joined > len(lettered)


def number_reading(
    counts: Counter[str], *, decimal: str | None = None, words: float = 1 - READ_SHARE
) -> Reading | None:
    """Return how the texts of a column of numbers are read.

    Args:
        counts: Rows by text without spaces around it.
        decimal: The decimal mark of the table's other columns, which settles ``1.234``.
        words: Share of the rows that may hold words without a digit instead of a number.
    """
    texts = _looked_at(counts)
    missing = tuple(sorted(t.lower() for t in texts if t.lower() in MISSING_WORDS))
    texts = [text for text in texts if text.lower() not in MISSING_WORDS]
    if not texts:
        return None
    parts = [found for text in texts if (found := _CORE.match(text.translate(_PLAIN_SPACES)))]
    if len(parts) < 0.5 * len(texts):
        return None
    if _are_codes_with_letters(parts):
        return None
    weights = [counts[text] for text in texts]
    cores = [part["core"] for part in parts]
    mark, thousands, doubtful = _marks(cores, decimal)
    affixes, multipliers = _affixes(parts)
    form = Format(mark, thousands, affixes, multipliers, missing=missing)
    read = _weight_read(form, texts, weights)
    with_ranges = replace(form, ranges=True)
    if read < 1.0:
        more = _weight_read(with_ranges, texts, weights)
        if more > read:
            form, read = with_ranges, more
    if read < READ_SHARE and (
        read < 1 - words
        or any(re.search(r"\d", text) for text in texts if _value(form, text) is None)
    ):
        return None
    form = _needed_only(form, texts)
    form = PLAIN if form == PLAIN else form
    unread = [text for text in texts if _value(form, text) is None]
    if unread:
        form = replace(form, unreadable="missing")
    reading = Reading(
        form, _said(form), unread=sum(counts[t] for t in unread),
        example=unread[0] if unread else None,
    )  # fmt: skip
    if doubtful:
        swapped = replace(form, decimal=",", thousands=".")
        reading = replace(reading, other=swapped, other_said=_said(swapped))
    return reading


def _looked_at(counts: Counter[str]) -> list[str]:
    """Return the most frequent texts, and of the rest some that lie evenly."""
    texts = list(counts)
    if len(texts) <= _LOOKED_AT:
        return texts
    step = len(texts) / _LOOKED_AT
    return [texts[int(i * step)] for i in range(_LOOKED_AT)]


def _value(form: Format, text: str) -> float | None:
    try:
        return number_reader(form)(text)
    except UnreadableError:
        return None


def _weight_read(form: Format, texts: Sequence[str], weights: Sequence[int]) -> float:
    read = sum(w for text, w in zip(texts, weights, strict=True) if _value(form, text) is not None)
    return read / sum(weights)


def _marks(cores: Sequence[str], usual: str | None) -> tuple[str, str | None, bool]:
    """Return the decimal mark, the thousands mark, and whether there is doubt."""
    stripped = [core.replace(" ", "").replace("'", "") for core in cores]
    spaced = [core for core in cores if re.fullmatch(r"\d{1,3}(?: \d{3})+(?:[.,]\d*)?", core)]
    quoted = [core for core in cores if "'" in core]
    group = " " if spaced else "'" if quoted else None
    both = [core for core in stripped if "." in core and "," in core]
    if both:
        point = Counter("." if core.rfind(".") > core.rfind(",") else "," for core in both)
        decimal = point.most_common(1)[0][0]
        return decimal, "," if decimal == "." else ".", False
    for mark, other in ((",", "."), (".", ",")):
        marked = [core for core in stripped if mark in core]
        if not marked:
            continue
        if any(core.count(mark) > 1 for core in marked):
            return other, mark, False
        groups = all(re.fullmatch(rf"[1-9]\d{{0,2}}{re.escape(mark)}\d{{3}}", c) for c in marked)
        # a long number without a mark says that this mark does not group digits
        ungrouped = any(mark not in core and len(core) > 3 for core in stripped)
        if not groups or ungrouped or group is not None:
            return mark, group, False
        if mark == ",":
            return (",", group, False) if usual == "," else (".", ",", False)
        if usual is not None:
            return (",", ".", False) if usual == "," else (".", group, False)
        many = len(set(marked)) >= 10
        return ".", None, many or len(marked) >= 0.5 * len(stripped)
    return usual or ".", group, False


def _affixes(
    parts: Sequence[re.Match[str]],
) -> tuple[tuple[str, ...], tuple[tuple[str, float], ...]]:
    """Return the signs and units beside the numbers, and the words that multiply them."""
    before = Counter(_plain_affix(part["before"]) for part in parts)
    after = Counter(_plain_affix(part["after"]) for part in parts)
    del before[""], after[""]
    least = max(1, math.ceil(_AFFIX_SHARE * len(parts)))
    found: dict[str, None] = {}
    for text, count in before.most_common(_MOST_AFFIXES):
        for piece in text.split():
            if count >= least and _may_stand_before(piece):
                found[piece] = None
    words, multipliers = [], dict[str, float]()
    for text, count in after.most_common(_MOST_AFFIXES):
        if count >= least and (not re.search(r"\d", text) or text in _UNITS_WITH_DIGITS):
            words.append(text)
    words = _one_unit(words, after)
    # one word behind every number is a unit, whatever it may mean elsewhere
    several = len(words) > 1 or sum(after.values()) < 0.98 * len(parts)
    for text in words:
        first = text.split()[0]
        if several and first in _MULTIPLIERS and (text != "m" or len(words) > 1):
            multipliers[first] = _MULTIPLIERS[first]
            rest = text[len(first) :].strip()
            found |= {rest: None} if rest else {}
        else:
            found[text] = None
    return tuple(found), tuple(multipliers.items())


def _one_unit(words: list[str], counts: Counter[str]) -> list[str]:
    """Keep the most frequent unit and its other spellings, and words that multiply.

    What is in another unit is another number; read as the same it would be wrong by a factor.
    """
    if not words:
        return []
    letters = {word: re.sub(r"[\W\d_]", "", word) for word in words}
    first = max(words, key=lambda word: counts[word])
    if any(word.split()[0] in _MULTIPLIERS for word in words):
        return words
    near = [w for w in words if letters[w].startswith(letters[first][:3] or letters[w])]
    return near if letters[first] else words


def _plain_affix(text: str) -> str:
    return re.sub(r"^[+-]|[+-]$", "", text.strip().casefold()).strip().strip("()").strip()


def _may_stand_before(text: str) -> bool:
    """Tell whether a text is a sign or a currency: ``Town 12`` is the name of a town."""
    if not any(letter.isalpha() for letter in text):
        return True
    return text in _PREFIX_WORDS or any(mark in text for mark in "$€£¥₹")


def _needed_only(form: Format, texts: Sequence[str]) -> Format:
    """Drop what no text needs, so that the contract says as little as possible."""
    joined = "\n".join(texts).casefold().translate(_PLAIN_SPACES)
    kept = tuple(a for a in form.affixes if a in joined)
    if form.thousands is not None and form.thousands not in joined:
        form = replace(form, thousands=None)
    return replace(form, affixes=kept)


def _said(form: Format) -> str:
    said = []
    if form.decimal == ",":
        said.append("a decimal comma")
    if form.thousands is not None:
        said.append(f"{_MARK_NAMES[form.thousands]} between thousands")
    said += [f"{affix!r} beside it" for affix in form.affixes]
    said += [f"{word!r} for {factor:,.0f}" for word, factor in form.multipliers]
    currencies = {_CURRENCIES[a] for a in form.affixes if a in _CURRENCIES}
    if len(currencies) > 1:
        said.append("several currencies, of which none is converted")
    if form.ranges:
        said.append("ranges, of which the middle is taken")
    if form.missing:
        said.append(f"{', '.join(map(repr, form.missing))} for a missing value")
    return ", ".join(said)


_MARK_NAMES = {",": "commas", ".": "points", " ": "spaces", "'": "apostrophes"}


def duration_reading(counts: Counter[str]) -> Reading | None:
    """Return the reading of durations such as ``61 years 04 months``."""
    texts = [text for text in _looked_at(counts) if text.lower() not in MISSING_WORDS]
    units = Counter(unit for text in texts if (unit := duration_unit(text)) is not None)
    if not texts or units.total() < 0.98 * len(texts):
        return None
    words = sum(any(letter.isalpha() for letter in text) for text in texts)
    if words < 0.98 * len(texts):  # 10:30 is a time of day as well
        return None
    order = ("years", "months", "weeks", "days", "hours", "minutes", "seconds")
    unit = next(name for name in order if units[name] >= 0.05 * units.total())
    missing = tuple(sorted(t.lower() for t in counts if t.lower() in MISSING_WORDS))
    return Reading(Format(duration=unit, missing=missing), f"durations, given in {unit}")


_TIMES = (
    "", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", "T%H:%M", "T%H:%M:%S", "T%H:%M:%S.%f",
    " %I:%M %p", " %I:%M:%S %p", " %I:%M%p", ", %H:%M", ", %H:%M:%S",
)  # fmt: skip
_ZONES = ("", "%z", " %z")
_WORD_DATES = (
    "%d %B %Y", "%B %d, %Y", "%B %d %Y", "%B %Y", "%B, %Y", "%d-%B-%Y", "%d-%B-%y", "%d/%B/%Y",
    "%d %B %y", "%d %B, %Y", "%B-%Y", "%B-%y", "%B %y", "%B/%Y", "%d. %B %Y", "%A, %d %B %Y",
    "%A, %B %d, %Y", "%A %d %B %Y", "%A %B %d %Y", "%d de %B de %Y", "%d de %B del %Y",
    "%B de %Y", "%Y %B", "%Y-%B", "%Y-%B-%d", "%Y %B %d", "%d%B%Y", "%d.%B.%Y", "%dst %B %Y",
)  # fmt: skip
_NAMED_LIKE_A_DATE = re.compile(
    r"(?:^|[^a-z])(?:date|dates|day|month|time|timestamp|sold|sale|since|when|year_month|period|"
    r"fecha|mes|dia|datum|monat|zeit|data|jour|mois|deed|listed|created|updated|closed|"
    r"transaction)(?:$|[^a-z])",
    re.I,
)
_YEARS = (1700, 2200)


def named_like_a_date(name: str) -> bool:
    """Tell whether a column's name says that it holds dates."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return _NAMED_LIKE_A_DATE.search(spaced) is not None


def date_reading(counts: Counter[str], name: str, ordered: Sequence[str] = ()) -> Reading | None:
    """Return how the texts of a column of dates are read.

    Args:
        counts: Rows by text without spaces around it.
        name: The column's name, which settles whether 202201 is a month.
        ordered: The first texts in the order of the table: of two readings the one is likelier
            under which they are in order.
    """
    texts = _looked_at(counts)
    missing = tuple(sorted(t.lower() for t in texts if t.lower() in MISSING_WORDS))
    texts = [text for text in texts if text.lower() not in MISSING_WORDS]
    if not texts or not any(ch.isdigit() for ch in texts[0]):
        return None
    left, ways = texts, list[str]()
    doubt: tuple[str, str] | None = None
    if _mostly_iso(texts[:20], missing):
        left = [text for text in texts if not _read(Format(missing=missing), text)]
    while len(left) > 0.02 * len(texts) and len(ways) < 3:
        found = _best_way(left, name, ordered)
        if found is None:
            break
        way, other, rest = found
        doubt = doubt or (None if other is None else (way, other))
        ways.append(way)
        left = rest
    if len(left) > 0.02 * len(texts):
        return None
    if not ways and not all(len(text) >= 8 for text in texts[:100]):
        return None
    form = Format(dates=tuple(ways), missing=missing)
    if left:
        form = replace(form, unreadable="missing")
    reading = Reading(
        form, " or ".join(ways), unread=sum(counts[t] for t in left),
        example=left[0] if left else None,
    )  # fmt: skip
    if doubt is not None:
        way, other_way = doubt
        swapped = tuple(other_way if w == way else w for w in ways)
        reading = replace(reading, other=replace(form, dates=swapped), other_said=other_way)
    return reading


def _best_way(
    texts: Sequence[str], name: str, ordered: Sequence[str]
) -> tuple[str, str | None, list[str]] | None:
    """Return the way that reads most of the texts, one that reads as many, and what is left."""
    scored = []
    for way in _candidates(texts[0], name):
        form = Format(dates=(way,))
        if not _read(form, texts[0]):
            continue
        rest = [text for text in texts if not _read(form, text)]
        scored.append((len(rest), way, rest))
        if not rest and not _swappable(way):
            break
    if not scored:
        return None
    scored.sort(key=lambda item: item[0])
    count, way, rest = scored[0]
    if count > 0.7 * len(texts) and len(texts) > 3:
        return None
    ties = [w for n, w, _ in scored[1:] if n == count and _swapped(w) == way]
    if not ties:
        return way, None, rest
    chosen = _chronological((way, ties[0]), ordered)
    return chosen, ties[0] if chosen == way else way, rest


def _swappable(way: str) -> bool:
    return _swapped(way) != way


def _swapped(way: str) -> str:
    found = re.match(r"%([dm])([-/. ])%([dm])", way)
    return way if found is None else f"%{found[3]}{found[2]}%{found[1]}{way[found.end() :]}"


def _chronological(ways: tuple[str, str], texts: Sequence[str]) -> str:
    """Choose the reading under which the dates are in order; else the day comes first."""
    for way in ways:
        read = date_reader(Format(dates=(way,)))
        moments = [read(text) for text in texts if _read(Format(dates=(way,)), text)]
        steps = list(pairwise(moments))
        if len(steps) > 5 and sum(a <= b for a, b in steps) >= 0.98 * len(steps):
            return way
    return next(way for way in ways if way.startswith("%d"))


def _candidates(text: str, name: str) -> list[str]:
    """Return the ways in which a text may be a date, most usual first."""
    numeric = re.match(r"(\d{1,4})([-/. ])(\d{1,2})\2(\d{1,4})(?!\d)", text)
    if numeric:
        mark, last = numeric[2], "%Y" if len(numeric[4]) == 4 else "%y"
        if len(numeric[1]) == 4:
            bases = [f"%Y{mark}%m{mark}%d", f"%Y{mark}%d{mark}%m"]
        elif len(numeric[4]) <= 2 and len(numeric[1]) <= 2:
            bases = [f"%d{mark}%m{mark}%y", f"%m{mark}%d{mark}%y", f"%y{mark}%m{mark}%d"]
        else:
            bases = [f"%d{mark}%m{mark}{last}", f"%m{mark}%d{mark}{last}"]
        return [f"{b}{t}{z}" for t in _TIMES for z in (_ZONES if t else ("",)) for b in bases]
    if re.fullmatch(r"\d{4}[-/.]\d{1,2}", text):
        return [f"%Y{text[4]}%m"]
    if re.fullmatch(r"\d{1,2}[-/.]\d{4}", text):
        return [f"%m{text[-5]}%Y"]
    if re.match(r"\d{8}(?!\d)", text) or re.fullmatch(r"\d{14}", text):
        return ["%Y%m%d", "%Y%m%d%H%M%S", *(f"%Y%m%d{t}" for t in _TIMES[1:])]
    if re.fullmatch(r"\d{6}(?:\.0*)?", text) and named_like_a_date(name):
        return ["%Y%m"]
    if re.fullmatch(r"\d{4}[.,]\d+", text) and named_like_a_date(name):
        return ["%Y.fraction"]
    if re.fullmatch(r"\d{9,10}|\d{12,13}", text) and named_like_a_date(name):
        return ["epoch_s" if len(text) <= 10 else "epoch_ms"]
    if re.fullmatch(r"[2-6]\d{4}(?:\.\d+)?", text) and named_like_a_date(name):
        return ["excel_days"]  # from 1954 to 2091
    if re.search(r"q[1-4]", text, re.I):
        return ["%YQ"]
    if any(letter.isalpha() for letter in text):
        return [f"{b}{t}{z}" for t in _TIMES for z in (_ZONES if t else ("",)) for b in _WORD_DATES]
    return []


_LEAST_SECONDS = (_YEARS[0] - 1970) * 31_556_952.0
_MOST_SECONDS = (_YEARS[1] - 1970) * 31_556_952.0


def _read(form: Format, text: str) -> bool:
    try:
        seconds = date_reader(form)(text)
    except UnreadableError:
        return False
    return _LEAST_SECONDS <= seconds <= _MOST_SECONDS


def _mostly_iso(texts: Sequence[str], missing: tuple[str, ...]) -> bool:
    """Tell whether texts are mostly dates in ISO 8601."""
    form = Format(missing=missing)
    return sum(len(text) >= 8 and _read(form, text) for text in texts) >= 0.5 * len(texts)
