"""What kind of column is it? Number, category, datetime, identifier or text, and how it is written.

The rules are simple on purpose: each decision becomes one sentence that a person can check. Where
two readings fit, the decision is a question with a default.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.encoding import encode_values
from tasador.contract.format_inference import (
    MISSING_WORDS,
    Reading,
    are_codes,
    date_reading,
    duration_reading,
    named_like_a_date,
    number_reading,
)
from tasador.contract.formats import PLAIN, Format, words_of
from tasador.contract.model import Column, ColumnKind, named_as_identifier, plain_name
from tasador.contract.text_parts import parts_of_texts

Floats = NDArray[np.float64]

#: Up to so many levels texts are a category in any case, above when each has two rows.
_FEW_LEVELS = 50
_MOST_LEVELS = 10_000
_LONG_TEXT = 64
#: A text that repeats less often than this, and has more words, is free text.
_FREE_WORDS = 3
_MOST_CLOSED_LEVELS = 20
_FEWEST_ROWS = 5
_MOST_CODE_LEVELS = 1000
_NAMED_AS_CODE = re.compile(
    r"(?:^|[^a-z])(?:zip|zipcode|zip_?code|postcode|postal(?:_?code)?|plz|cp|cep|cap|codigo_?postal|"
    r"code|codigo|class|subclass|type|category|zone|zoning|district|ward|region|neighbou?rhood|"
    r"tract|sector|state|county|area_?code|fips|naics|sic)(?:$|[^a-z])",
    re.I,
)


@dataclass(frozen=True)
class Question:
    """Something that the values do not settle.

    Attributes:
        key: What it is about, ``sold.dates`` or the like.
        text: The question.
        options: The possible answers.
        default: The answer that is taken unless another is given.
    """

    key: str
    text: str
    options: tuple[str, ...]
    default: str


@dataclass
class Findings:
    """What is said of a table while its columns are looked at.

    Attributes:
        assumptions: What is assumed, a sentence each.
        questions: What is not settled.
        answers: Answers to earlier questions, by their key.
        decimal: The decimal mark of the table's other numbers; None where none shows it.
    """

    assumptions: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    answers: Mapping[str, str] = field(default_factory=dict)
    decimal: str | None = None

    def choose(self, key: str, text: str, options: tuple[str, ...], default: str) -> str:
        """Return the answer to a question, or its default while there is none."""
        self.questions.append(Question(key, text, options, default))
        answer = self.answers.get(key, default)
        return answer if answer in options else default


def describe_column(
    series: pl.Series,
    findings: Findings,
    *,
    as_category: bool = False,
    y: Floats | None = None,
) -> list[Column]:
    """Decide on a column's kind, how it is written, and what is taken out of its texts.

    Args:
        series: The column of n rows.
        findings: What is assumed and asked is added to it.
        as_category: Take it for a category whatever it looks like.
        y: The target (n,), on the scale on which it is modelled, NaN where there is none: parts of
            texts are kept where they explain it. None: no parts are looked for.

    Returns:
        The column, and after it those that hold parts of its texts.
    """
    name = series.name
    present = series.drop_nulls()
    if series.dtype.is_float():
        present = present.drop_nans()
    said = findings.assumptions
    if isinstance(series.dtype, (pl.List, pl.Array, pl.Struct, pl.Object, pl.Binary)):
        return [_aside(name, f"set aside: {series.dtype} is not a kind of value used here", said)]
    if isinstance(series.dtype, pl.Time):
        return [_aside(name, "set aside: a time of day without a date", said)]
    levels = min(len(present), 2) if present.head(1000).n_unique() > 1 else present.n_unique()
    nullable = len(present) < len(series)
    if levels == 0:
        return [_aside(name, "set aside: no value in any row, so it cannot explain anything", said)]
    if as_category:
        return [_category(name, present.cast(pl.String), nullable, said)]
    if isinstance(series.dtype, pl.Datetime | pl.Date):
        return [_datetime(name, PLAIN, "", nullable, said)]
    if isinstance(series.dtype, pl.Duration):
        days = present.dt.total_microseconds().cast(pl.Float64) / 8.64e10
        column = _number(name, days, days.to_numpy(), PLAIN, nullable, findings)
        return [replace(column, kind="number", unit="days") if column.kind == "integer" else column]
    if levels == 1:
        return [_single_level(series, present, nullable, said)]
    if series.dtype.is_numeric():
        return [_typed_number(name, present, nullable, findings)]
    if series.dtype == pl.Boolean:
        return [_category(name, present.cast(pl.String), nullable, said)]
    return _text_column(series, present, nullable, findings, y)


def _single_level(series: pl.Series, present: pl.Series, nullable: bool, said: list[str]) -> Column:
    """Describe a column with one value: where it may be missing, that is what it tells."""
    name = series.name
    text = str(present[0]).strip()
    share = len(present) / len(series)
    enough = len(present) >= 3 and len(series) - len(present) >= 3
    if not nullable or not enough or (series.dtype.is_numeric() and not float(present[0])):
        return _aside(name, "set aside: constant, so it cannot explain anything", said)
    if series.dtype.is_numeric() or re.fullmatch(r"[\d.,]+", text):
        return _aside(name, "set aside: constant, so it cannot explain anything", said)
    said.append(
        f"{name!r} is {text!r} or missing ({share:.0%} of the rows have it): whether it is there "
        "is the information"
    )
    return Column(
        name, "category", nullable=True, categories=(plain_name(text),), case_sensitive=False,
        open=True,
    )  # fmt: skip


def _typed_number(name: str, present: pl.Series, nullable: bool, findings: Findings) -> Column:
    """Describe a column that came as numbers: they may still be dates, codes or names."""
    values = present.cast(pl.Float64).to_numpy().astype(np.float64)
    if named_like_a_date(name) or _eight_digits(values):
        texts = Counter(_whole_text(value) for value in values[:5000].tolist())
        reading = date_reading(texts, name)
        if reading is not None and reading.form.dates:
            return _datetime(name, reading.form, reading.said, nullable, findings.assumptions)
    return _number(name, present, values, PLAIN, nullable, findings)


def _eight_digits(values: Floats) -> bool:
    if not ((values >= 17_000_101) & (values <= 22_001_231)).all():
        return False
    return bool((values % 1 == 0).all()) and len(np.unique(values)) > 5


def _whole_text(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)


def _text_column(
    series: pl.Series,
    present: pl.Series,
    nullable: bool,
    findings: Findings,
    y: Floats | None,
) -> list[Column]:
    name, said = series.name, findings.assumptions
    plain = _plain_numbers(name, present, findings.decimal)
    if plain is not None:
        return [_number(name, present, plain, PLAIN, nullable, findings)]
    texts = present.cast(pl.String).str.strip_chars()
    counted = texts.value_counts(sort=True).rename({name: "text"})
    counts = _some(counted)
    if not are_codes([text for text in counts if text.lower() not in MISSING_WORDS]):
        dates = date_reading(counts, name, texts.head(1000).to_list())
        if dates is not None:
            return [_dates(name, dates, nullable, findings)]
        numbers = duration_reading(counts) or number_reading(counts, decimal=findings.decimal)
        if numbers is not None:
            return [_numbers(name, texts, numbers, nullable, findings)]
    return _texts(series, texts, counted, nullable, said, y)


#: Different texts that are looked at: the most frequent, and others that lie evenly.
_LOOKED_AT = 3000


def _some(counted: pl.DataFrame) -> Counter[str]:
    """Return rows by text of some of the different texts, the most frequent first."""
    if len(counted) > _LOOKED_AT:
        rest = np.linspace(_LOOKED_AT // 2, len(counted) - 1, _LOOKED_AT // 2).astype(np.intp)
        counted = pl.concat([counted.head(_LOOKED_AT // 2), counted[np.unique(rest)]])
    pairs = zip(counted["text"].to_list(), counted["count"].to_list(), strict=True)
    return Counter(dict(pairs))


_POINTED = r"^\s*-?(?:0?\.|\d+\.(?:\d{0,2}|\d{4,})\s*$|\d{4,}\.)|[eE]"
_COMMA = re.compile(r"-?(?:0,\d+|\d+,\d{1,2}|\d{1,3}(?:\.\d{3})+,\d+)")
_POINT = re.compile(r"-?(?:0?\.\d+|\d+\.(?:\d{1,2}|\d{4,})|\d{1,3}(?:,\d{3})+\.\d+)")


def decimal_mark(frame: pl.DataFrame) -> str | None:
    """Return the decimal mark that a table's texts show beyond doubt; None for none, or both."""
    seen: set[str] = set()
    for series in frame.iter_columns():
        if series.dtype == pl.String and len(seen) < 2:
            texts = [text.strip() for text in series.head(100).drop_nulls().to_list()]
            for mark, pattern in ((",", _COMMA), (".", _POINT)):
                if any(map(pattern.fullmatch, texts)):
                    seen.add(mark)
    return seen.pop() if len(seen) == 1 else None


def _plain_numbers(name: str, present: pl.Series, decimal: str | None = None) -> Floats | None:
    """Return the numbers of a column of which nobody doubts that it holds numbers."""
    if present.dtype != pl.String or named_like_a_date(name):
        return None
    numbers = present.cast(pl.Float64, strict=False)
    if numbers.null_count():
        return None
    values: Floats = numbers.to_numpy().astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return values
    if not finite.all() or _eight_digits(values):
        return None
    if present.str.contains(r"^\s*0\d").any():  # 01101 is a code
        return None
    # where each point has three digits behind it, 1.234 may be a thousand
    if decimal == ".":
        return values
    settled = present.str.contains(_POINTED)
    if settled.any() or not present.str.contains(".", literal=True).any():
        return values
    return None


def _dates(name: str, reading: Reading, nullable: bool, findings: Findings) -> Column:
    if reading.other is None:
        return _datetime(
            name, reading.form, reading.said, nullable or reading.unread > 0, findings.assumptions
        )
    ways = (reading.said, reading.other_said)
    answer = findings.choose(
        f"{name}.dates", f"In which order are the dates of {name!r} written?", ways, reading.said
    )
    form = reading.form if answer == reading.said else reading.other
    column = _datetime(name, form, answer, nullable or reading.unread > 0, findings.assumptions)
    findings.assumptions[-1] += f"; {ways[answer == reading.said]} fits as well"
    return column


def _datetime(name: str, form: Format, way: str, nullable: bool, said: list[str]) -> Column:
    note = f"{name!r} is a date and time; those without a zone are in UTC"
    if way:
        note = f"{name!r} is a date and time written as {way}; those without a zone are in UTC"
    said.append(note + (", may be missing" if nullable or form.missing else ""))
    nullable = nullable or bool(form.missing) or form.unreadable == "missing"
    return Column(name, "datetime", nullable=nullable, format=form)


def _numbers(
    name: str, texts: pl.Series, reading: Reading, nullable: bool, findings: Findings
) -> Column:
    text = (
        f"What is the point in {name!r}, as in {texts[0]!r}: a decimal point, or between thousands?"
    )
    form, note = _settled_point(name, text, reading, findings)
    if note or reading.unread:
        findings.assumptions.append(_writing_note(name, note, reading))
    column = Column(name, "number", format=form)
    values, wrong = encode_values(column, texts)
    nullable = nullable or bool(np.isnan(values).any()) or form.unreadable == "missing"
    column = _number(name, texts, values, form, nullable, findings, wrong)
    unit = _unit_of(form)
    if unit is not None and column.kind in ("number", "integer"):
        column = replace(column, unit=unit)
    return column


def _settled_point(
    name: str, question: str, reading: Reading, findings: Findings
) -> tuple[Format, str]:
    """Return how numbers are written, and what is said of it; asks where two readings fit."""
    if reading.other is None:
        return reading.form, reading.said
    options = ("decimal point", "thousands")
    default = options[reading.form.thousands is not None]
    if findings.choose(f"{name}.point", question, options, default) == default:
        return reading.form, reading.said
    return reading.other, reading.other_said


def _writing_note(name: str, note: str, reading: Reading) -> str:
    text = f"{name!r} is written with {note}" if note else f"{name!r} is a number"
    if reading.unread:
        text += (
            f"; {reading.unread} cell(s) such as {reading.example!r} cannot be read and count as "
            "missing"
        )
    return text


def _unit_of(form: Format) -> str | None:
    """Return the unit or currency beside a column's numbers, for people."""
    if form.duration is not None:
        return form.duration
    signs = [a for a in form.affixes if a not in ("desde", "from", "ab", "ca", "ca.", "about")]
    return signs[0].upper() if signs and signs[0].isalpha() and len(signs[0]) == 3 else (
        signs[0] if signs else None
    )  # fmt: skip


def _number(
    name: str,
    present: pl.Series,
    numbers: Floats,
    form: Format,
    nullable: bool,
    findings: Findings,
    wrong: NDArray[np.bool_] | None = None,
) -> Column:
    said = findings.assumptions
    finite = numbers[np.isfinite(numbers)]
    mark = _missing_mark(finite)
    if mark is not None and (
        findings.choose(
            f"{name}.missing", f"Does {mark:g} in {name!r} mean a missing value?",
            ("missing", "a number"), "missing",
        ) == "missing"
    ):  # fmt: skip
        said.append(f"{mark:g} in {name!r} is taken for a missing value")
        finite, nullable = finite[finite != mark], True
        form = replace(form, missing=(*form.missing, f"{mark:g}"))
    if len(finite) == 0:
        return _aside(name, "set aside: no finite number in any row", said)
    is_text = present.dtype == pl.String
    # the middle of another range may have a fraction
    exact = not form.ranges and form.duration is None and not form.multipliers
    whole = (
        exact
        and bool((finite == np.floor(finite)).all())
        and not (
            present.str.contains(r"\d[.,]\d{1,2}(?:\D|$)|[eE]\d").any()
            if is_text
            else present.dtype.is_float()
        )
    )
    if whole and form == PLAIN and _numbers_identify(name, finite):
        said.append(f"{name!r} identifies the row: carried along, not used")
        return Column(name, "identifier", nullable=nullable)
    if whole and form == PLAIN and _numbers_are_names(name, finite):
        return _category(name, present.cast(pl.String), nullable, said, numbers=True)
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return _aside(name, "set aside: constant, so it cannot explain anything", said)
    bounds = bounds_around(low, high)
    note = f"{name!r} is a {'whole ' if whole else ''}number in [{bounds[0]:g}, {bounds[1]:g}]"
    note += f" (seen: {low:g} to {high:g})" + (", may be missing" if nullable else "")
    infinite = ~np.isfinite(numbers) & ~np.isnan(numbers)
    strange = infinite if wrong is None else infinite | wrong
    if strange.any():
        row = int(np.flatnonzero(strange)[0])
        note += (
            f"; {int(strange.sum())} cell(s) such as {present[row]!r} are not and their rows are "
            "refused"
        )
    said.append(note)
    kind: ColumnKind = "integer" if whole else "number"
    return Column(name, kind, bounds=bounds, nullable=nullable, format=form)


def _missing_mark(values: Floats) -> float | None:
    """Return the number, such as -999, that people write for a missing value; None without one."""
    if len(values) < 10:
        return None
    low, high = float(values.min()), float(values.max())
    for mark in (low, high):
        rest = values[values != mark]
        if not len(rest) or len(values) - len(rest) < 3 or not re.fullmatch(r"-?9+", f"{mark:.0f}"):
            continue
        if mark == low and low <= -99 and rest.min() >= 0:
            return mark
        if mark == high and high >= 9999 and low >= 0 and high > 9 * rest.max():
            return mark
    return None


def _numbers_identify(name: str, values: Floats) -> bool:
    """Tell whether whole numbers merely count or name the rows."""
    unique = len(np.unique(values)) / len(values)
    if named_as_identifier(name):
        return unique >= 0.5
    if unique < 1.0 or len(values) < 20:
        return False
    counts = values.min() in (0, 1) and bool(np.ptp(values) <= 1.05 * len(values))
    # numbers of one length, too long to measure anything, different in every row
    digits = np.unique(np.floor(np.log10(np.maximum(np.abs(values), 1))))
    return counts or (len(digits) == 1 and digits[0] >= 7)


def _numbers_are_names(name: str, values: Floats) -> bool:
    """Tell whether whole numbers are names of something, such as a zip code or a class."""
    levels = len(np.unique(values))
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    if named_as_identifier(name) and "_" in spaced and levels <= len(values) / 2:
        return bool(levels <= _MOST_LEVELS and np.abs(values).max() >= levels)
    if _NAMED_AS_CODE.search(spaced) is None or levels > max(20, len(values) / 5):
        return False
    return levels <= _MOST_CODE_LEVELS and bool((values >= 0).all())


def _texts(
    series: pl.Series,
    texts: pl.Series,
    counted: pl.DataFrame,
    nullable: bool,
    said: list[str],
    y: Floats | None,
) -> list[Column]:
    """Describe a column of texts that are neither numbers nor dates."""
    name, rows = series.name, len(texts)
    levels = len(counted)
    longest = int(counted["text"].str.len_chars().max() or 0)  # type: ignore[arg-type]
    many_words = float(np.mean([len(words_of(text)) for text in counted["text"].head(500)]))
    repeated = int(counted.filter(pl.col("count") >= 2)["count"].sum())
    named = named_as_identifier(name)
    if levels == rows or (named and levels >= 0.95 * rows):
        if not named and y is not None and _hold_numbers(counted["text"]):
            parts = _parts(series, said, y, free=False)
            if parts:
                return [Column(name, "text", nullable=True, description="Text"), *parts]
        if longest <= _LONG_TEXT and many_words < _FREE_WORDS:
            said.append(f"{name!r} identifies the row: carried along, not used")
            return [Column(name, "identifier", nullable=nullable)]
        return _free_text(series, levels, said, y)
    few = levels <= _FEW_LEVELS and levels <= max(2, rows / 2)
    if longest <= 2 * _LONG_TEXT and (few or repeated >= 0.2 * rows):
        column = _category(name, texts, nullable, said)
        parts = [] if y is None or levels <= _FEW_LEVELS else _parts(series, said, y, free=False)
        return [column, *parts]
    return _free_text(series, levels, said, y)


def _hold_numbers(texts: pl.Series) -> bool:
    """Tell whether most texts hold numbers beside other things, such as a pair of coordinates."""
    several = texts.head(500).str.contains(r"\d[^\d]*[\s,;/][^\d]*\d")
    return 2 * int(several.sum()) > len(several)


def _free_text(series: pl.Series, levels: int, said: list[str], y: Floats | None) -> list[Column]:
    parts = [] if y is None else _parts(series, said, y, free=True)
    why = f"text with {levels} different values"
    if parts:
        return [Column(series.name, "text", nullable=True, description="Text"), *parts]
    return [_aside(series.name, f"set aside: {why}", said)]


def _parts(series: pl.Series, said: list[str], y: Floats, *, free: bool) -> list[Column]:
    """Return columns of what the texts hold, where it explains the target."""
    known = np.flatnonzero(np.isfinite(y))
    texts = series.cast(pl.String).str.strip_chars().gather(known).to_list()
    columns = []
    for part in parts_of_texts(texts, y[known], free=free):
        name = f"{series.name}_{part.name}"
        if part.numbers:
            columns.append(
                Column(name, "number", nullable=True, source=series.name, extract=part.extract)
            )
        else:
            columns.append(
                Column(
                    name, "category", nullable=True, categories=part.words, case_sensitive=False,
                    open=True, source=series.name, extract=part.extract,
                )
            )  # fmt: skip
    if columns:
        names = ", ".join(repr(column.name) for column in columns)
        said.append(f"out of the texts of {series.name!r} come {names}, which explain the target")
    return columns


def _category(
    name: str, texts: pl.Series, nullable: bool, said: list[str], *, numbers: bool = False
) -> Column:
    texts = texts.str.strip_chars()
    missing = tuple(
        sorted({text.lower() for text in texts.unique() if text.lower() in _MISSING_LEVELS})
    )
    names, rare = levels_of(texts.filter(~texts.str.to_lowercase().is_in(list(missing))))
    form = Format(missing=missing) if missing else PLAIN
    nullable = nullable or bool(missing)
    note = f"{name!r} is a category with {len(names)} levels"
    note += ": whole numbers that are names" if numbers else ""
    if rare:
        note += f"; {rare} more that are seen once are pooled as the unknown one"
    note += ", may be missing" if nullable else ""
    said.append(note)
    return Column(
        name, "category", nullable=nullable, categories=names, case_sensitive=False, open=True,
        format=form,
    )  # fmt: skip


#: Of the words for a missing value, those that are hardly ever the name of a level.
_MISSING_LEVELS = frozenset(
    {"-", "--", "---", "–", "—", "?", "n/a", "#n/a", "n.a.", "<na>", "(null)"}
)


def levels_of(texts: pl.Series) -> tuple[tuple[str, ...], int]:
    """Return the levels in order, and how many are too rare to be one.

    Each is in its most frequent spelling, composed (Unicode's NFC). Of more levels than a few,
    those of a single row say nothing that can be learned.
    """
    counted = texts.value_counts(sort=True)
    spelled: dict[str, str] = {}
    rows: Counter[str] = Counter()
    for text, count in zip(counted[texts.name].to_list(), counted["count"].to_list(), strict=True):
        key = plain_name(text.casefold())
        spelled.setdefault(key, plain_name(text))
        rows[key] += count
    kept = [key for key, _ in rows.most_common(_MOST_LEVELS)]
    if len(kept) > _FEW_LEVELS:
        often = [key for key in kept if rows[key] >= 2]
        kept = often if len(often) >= 2 else kept
    return tuple(sorted(spelled[key] for key in kept)), len(rows) - len(kept)


def _aside(name: str, why: str, said: list[str]) -> Column:
    said.append(f"{name!r} is {why}")
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


#: Share of a target's rows that may hold words, such as ``Contact agent``: they have no target.
_TARGET_WORDS = 0.5


def target_reading(series: pl.Series, findings: Findings) -> Format | None:
    """Return how the target's texts are written as numbers; None when they are none."""
    if series.dtype.is_numeric():
        return PLAIN
    if series.dtype != pl.String:
        return None
    texts = series.drop_nulls().str.strip_chars()
    if _plain_numbers("target", texts, findings.decimal) is not None:
        return PLAIN
    counted = texts.value_counts(sort=True).rename({texts.name: "text"})
    reading = number_reading(_some(counted), decimal=findings.decimal, words=_TARGET_WORDS)
    if reading is None:
        return None
    text = f"What is the point in the target {series.name!r}, as in {texts[0]!r}?"
    form, said = _settled_point(series.name, text, reading, findings)
    if said or reading.unread:
        note = _writing_note(series.name, said, reading).replace("count as missing", "are left out")
        findings.assumptions.append(f"the target {note}")
    return form
