"""Write the workbook of a desk review: values to look at, cells to fill in, and what they mean.

Texts are always written as texts, so that none becomes a formula; model values are locked, and a
hidden sheet says by which columns `tasador.reporting.review.reading` finds them again.
"""

from __future__ import annotations

import datetime as dt
import io
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasador.core.errors import MissingExtraError
from tasador.core.languages import Language, digits_of
from tasador.modeling.prediction import Comparable
from tasador.reporting.appraisal import texts as report_texts
from tasador.reporting.appraisal.document import Appraisal, Grid, ModelSummary, page
from tasador.reporting.review.texts import text

Cell = str | float | dt.date | None

#: Name of the hidden sheet that `reading` looks for, and the version of what it says.
HIDDEN, FORMAT = "tasador", "1"
#: Characters of a reason, at most.
MOST_REASON = 500
_MOST_LINKS = 65_000
_PRINTED_INPUTS = 8
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MOST_CHARACTERS = 32_767
_WHOLE = 2.0**53


@dataclass(frozen=True, slots=True)
class ReviewLine:
    """A row of a review; numbers that are not there are None.

    Attributes:
        id: Its prediction id.
        number: Its row in the file that was valued, from 1.
        names: By what people know it, one for each of `Review.names`.
        inputs: One for each of `Review.inputs`.
        value, lower, upper, fsd: The model's.
        grade: Class of confidence; None where the model has none.
        previous: The value before.
        price: The target as the file has it.
        flags: Keys of ``flag.*``.
        notes: What is unusual, or why there is no value.
        comparables: The best ones.
        evidence: What they come to together.
    """

    id: str
    number: int
    names: tuple[Cell, ...]
    inputs: tuple[Cell, ...]
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    fsd: float | None = None
    grade: str | None = None
    previous: float | None = None
    price: float | None = None
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    comparables: tuple[Comparable, ...] = ()
    evidence: float | None = None

    @property
    def change(self) -> float | None:
        """The value's difference to the previous one, as a share of that."""
        if self.value is None or not self.previous:
            return None
        return self.value / self.previous - 1.0


@dataclass(frozen=True)
class Review:
    """What a workbook shows.

    Attributes:
        id: The workbook's.
        model: What valued the rows.
        lines: The rows.
        names: Columns by which people know a row.
        inputs: Other columns of the file.
        file: What was valued.
        previous: Column of the previous values; None without one.
        as_of: Day as of which all rows are valued; None where each has its own.
        coverage: Of the ranges.
        large_change: Share from which a change is large.
        made: When, ISO 8601.
        by: Who wrote it.
        language: Of the texts.
    """

    id: str
    model: ModelSummary
    lines: Sequence[ReviewLine]
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    file: str
    previous: str | None
    as_of: str | None
    coverage: float
    large_change: float
    made: str
    by: str
    language: Language = "en"

    def say(self, key: str, **values: object) -> str:
        """Return a text in the workbook's language."""
        return text(key, self.language, **values)


@dataclass(frozen=True)
class _Column:
    """A column of a sheet.

    Attributes:
        key: By which `reading` finds it; empty for those that it does not need.
        header: As people see it.
        width: In characters.
        style: Name of its format.
        of: Gives a line's cell.
    """

    key: str
    header: str
    width: float
    style: str
    of: Callable[[Any], Cell] = field(default=lambda _: None)


def write_review(review: Review) -> bytes:
    """Return the workbook as the bytes of an ``.xlsx`` file.

    Raises:
        MissingExtraError: XlsxWriter is not installed.
    """
    try:
        import xlsxwriter
    except ImportError:
        raise MissingExtraError.for_package("xlsxwriter", "train") from None
    buffer = io.BytesIO()
    with xlsxwriter.Workbook(buffer, {"in_memory": True}) as book:
        _Writer(book, review).write()
    return buffer.getvalue()


class _Writer:
    """Writes the sheets of one workbook."""

    def __init__(self, book: Any, review: Review) -> None:
        self.book, self.review, self.say = book, review, review.say
        unit = review.model.contract.target.unit
        self._unit = f" ({unit})" if unit else ""
        sizes = [abs(one.value) for one in review.lines if one.value]
        digits = digits_of(statistics.median(sizes)) if sizes else 0
        money = "#,##0" + ("." + "0" * digits if digits else "")
        top = {"valign": "top"}
        self._styles = {
            "plain": top,
            "text": top,
            "wrapped": top | {"text_wrap": True},
            "money": top | {"num_format": money},
            "value": top | {"num_format": money, "bold": True},
            "percent": top | {"num_format": "0.0%"},
            "change": top | {"num_format": "+0.0%;-0.0%;0.0%"},
            "tenths": top | {"num_format": "0.0"},
            "date": top | {"num_format": "yyyy-mm-dd"},
            "middle": top | {"align": "center"},
            "override": top | _OPEN | {"num_format": money},
            "reason": top | _OPEN | {"text_wrap": True, "num_format": "@"},
            "header": _HEADER,
            "heading": {"bold": True, "font_size": 12, "bottom": 1},
            "title": {"bold": True, "font_size": 16},
            "banner": {"bold": True, "font_color": "#B00020"},
            "quoted": top | {"quote_prefix": True},
            "quoted_wrapped": top | {"quote_prefix": True, "text_wrap": True},
        }
        self._formats: dict[str, Any] = {}
        self._near = self._near_columns()
        self._columns = self._review_columns()

    def write(self) -> None:
        review = self.review
        created = dt.datetime.fromisoformat(review.made).replace(tzinfo=None)
        contract = review.model.contract
        title = self.say("title", title=contract.title)
        self.book.set_properties({"title": title, "created": created, "comments": review.id})
        sheet = self.book.add_worksheet(self.say("review"))
        starts = self._write_comparables() if self._near else {}
        self._write_about(title)
        self._write_review(sheet, starts)
        hidden = self.book.add_worksheet(HIDDEN)
        hidden.very_hidden()
        for row, pair in enumerate(self._layout()):
            for column, value in enumerate(pair):
                hidden.write_string(row, column, value)

    def _layout(self) -> Iterator[tuple[str, str]]:
        """Yield what `reading` has to know."""
        review = self.review
        yield from (
            ("format", FORMAT), ("review", review.id), ("version", review.model.version),
            ("language", review.language), ("sheet", self.say("review")),
        )  # fmt: skip
        yield from ((f"column.{one.key}", one.header) for one in self._columns if one.key)

    def _style(self, name: str) -> Any:
        """Return a format, made when it is first used."""
        if name not in self._formats:
            self._formats[name] = self.book.add_format(self._styles[name])
        return self._formats[name]

    # --- the rows

    def _review_columns(self) -> list[_Column]:
        review, say = self.review, self.say
        some = review.lines
        money = [
            _Column("value", say("column.value") + self._unit, 13, "value", lambda x: x.value),
            _Column("lower", say("column.lower"), 12, "money", lambda x: x.lower),
            _Column("upper", say("column.upper"), 12, "money", lambda x: x.upper),
        ]
        if any(one.grade for one in some):
            money += [
                _Column("class", say("column.class"), 11, "middle", lambda x: x.grade),
                _Column("fsd", say("column.fsd"), 8, "percent", lambda x: x.fsd),
            ]
        if review.previous is not None:
            money += [
                _Column("previous", say("column.previous"), 13, "money", lambda x: x.previous),
                _Column("change", say("column.change"), 9, "change", lambda x: x.change),
            ]
        if any(one.evidence is not None for one in some):
            money.append(
                _Column("evidence", say("column.evidence"), 13, "money", lambda x: x.evidence)
            )
        entered = [
            _Column("flags", say("column.flags"), 28, "wrapped", self._flags),
            _Column("override", say("column.override"), 13, "override"),
            _Column("reason", say("column.reason"), 30, "reason"),
            _Column("reviewed", say("column.reviewed"), 13, "value", lambda x: x.value),
            _Column("notes", say("column.notes"), 44, "wrapped", self._notes),
        ]
        if any(one.price is not None for one in some):
            name = review.model.contract.target.name  # as a ratio study is asked for it
            entered.append(_Column("", name, 13, "money", lambda x: x.price))
        first = [
            _Column("id", say("column.id"), 38, "text", lambda x: x.id),
            _Column("row", say("column.row"), 7, "plain", lambda x: float(x.number)),
            *self._of_file(review.names, lambda x: x.names, 18),
        ]
        made = [*first, *money, *entered, *self._of_file(review.inputs, lambda x: x.inputs, 22)]
        return self._told_apart(made, first)

    def _of_file(
        self, names: Sequence[str], cells: Callable[[ReviewLine], Sequence[Cell]], width: float
    ) -> list[_Column]:
        """Return columns of the file, as wide as their cells need."""
        found = []
        for at, name in enumerate(names):
            some = [cells(one)[at] for one in self.review.lines[:200]]
            longest = max((len(str(one)) for one in some if one is not None), default=0)
            wide = max(min(longest + 2.0, 30.0), min(len(name) + 4.0, width), 7.0)

            def cell(line: ReviewLine, at: int = at) -> Cell:
                return cells(line)[at]

            found.append(_Column("", name, wide, "plain", cell))
        return found

    def _told_apart(self, made: list[_Column], first: list[_Column]) -> list[_Column]:
        """Return the columns, each with a header of its own."""
        own = {one.header for one in made if one.key}
        seen: set[str] = set()
        found = []
        for one in made:
            header = one.header
            if not one.key and header in own and one not in first[:2]:
                header = self.say("of_file", name=header)
            while header in seen:
                header += " *"
            seen.add(header)
            found.append(_Column(one.key, header, one.width, one.style, one.of))
        return found

    def _flags(self, line: ReviewLine) -> Cell:
        return "; ".join(self.say(f"flag.{flag}") for flag in line.flags) or None

    def _notes(self, line: ReviewLine) -> Cell:
        said = [report_texts.warning(note, self.review.language) for note in line.notes]
        return "; ".join(said) or None

    def _write_review(self, sheet: Any, starts: Mapping[str, int]) -> None:
        columns, lines = self._columns, self.review.lines
        at = {one.key: i for i, one in enumerate(columns) if one.key}
        self._head(sheet, columns, frozen=2 + len(self.review.names))
        sheet.set_column(0, 0, 38, None, {"hidden": True})
        last = len(lines)
        for number, line in enumerate(lines, 1):
            for column, one in enumerate(columns):
                self._cell(sheet, number, column, one.of(line), one.style)
            start = starts.get(line.id)
            if start is not None and number <= _MOST_LINKS and "evidence" in at:
                place = (number, at["evidence"])
                sheet.write_url(*place, f"internal:'{self.say('comparables')}'!A{start + 1}")
                self._cell(sheet, *place, line.evidence, "money")
            value, new = (cell_name(number, at[key]) for key in ("value", "override"))
            empty = "" if line.value is None else line.value
            formula = f'=IF(ISNUMBER({new}),{new},IF(ISNUMBER({value}),{value},""))'
            sheet.write_formula(number, at["reviewed"], formula, self._style("value"), empty)
        sheet.autofilter(0, 0, max(last, 1), len(columns) - 1)
        self._entries(sheet, at, last)
        self._marks(sheet, at, last)
        sheet.protect("", _ALLOWED)
        inputs = len(self.review.inputs)
        printed = len(columns) - (inputs if inputs > _PRINTED_INPUTS else 0)
        sheet.print_area(0, 1, max(last, 1), printed - 1)
        self._print(sheet, landscape=True)
        sheet.activate()

    def _entries(self, sheet: Any, at: Mapping[str, int], last: int) -> None:
        """Say what may be entered where."""
        say, end = self.say, max(last, 1)
        low = self.review.model.contract.target.bounds[0]
        least = low if low is not None and low > 0 else 0
        sheet.data_validation(1, at["override"], end, at["override"], {
            "validate": "decimal", "criteria": ">" if least == 0 else ">=", "value": least,
            "input_title": say("column.override"), "input_message": say("enter.override"),
            "error_title": say("column.override"),
            "error_message": say("wrong.override", least=f"{least:g}"),
        })  # fmt: skip
        sheet.data_validation(1, at["reason"], end, at["reason"], {
            "validate": "length", "criteria": "<=", "value": MOST_REASON,
            "input_title": say("column.reason"), "input_message": say("enter.reason"),
            "error_title": say("column.reason"),
            "error_message": say("wrong.reason", most=MOST_REASON),
        })  # fmt: skip

    def _marks(self, sheet: Any, at: Mapping[str, int], last: int) -> None:
        """Colour what needs a look: flags, classes, overrides without a reason."""
        end = max(last, 1)
        red = self.book.add_format({"bg_color": "#F8C7C4"})
        amber = self.book.add_format({"bg_color": "#FDE9C8"})
        blue = self.book.add_format({"font_color": "#0B57A4"})
        override, reason = (cell_name(1, at[key], fixed=True) for key in ("override", "reason"))
        for column, formula, kind in (
            ("reason", f'=AND({override}<>"",TRIM({reason})="")', red),
            ("override", f'=AND({override}<>"",NOT(ISNUMBER({override})))', red),
            ("reviewed", f"=ISNUMBER({override})", blue),
        ):
            place = (1, at[column], end, at[column])
            sheet.conditional_format(
                *place, {"type": "formula", "criteria": formula, "format": kind}
            )
        flags = (1, at["flags"], end, at["flags"])
        sheet.conditional_format(*flags, {"type": "no_blanks", "format": amber})
        if "class" in at:
            low = {"type": "cell", "criteria": "==", "value": '"L"', "format": amber}
            sheet.conditional_format(1, at["class"], end, at["class"], low)

    # --- comparables

    def _near_columns(self) -> list[_Column]:
        """Return the columns of the comparables that say something."""
        some = [near for line in self.review.lines for near in line.comparables]
        kinds: tuple[tuple[str, float, str, Callable[[Comparable], Cell]], ...] = (
            ("n", 5, "plain", lambda x: float(x.n)),
            ("id", 16, "text", lambda x: x.id),
            ("label", 28, "text", lambda x: x.label),
            ("date", 12, "date", lambda x: None if x.date is None else _day(x.date)),
            ("price", 14, "money", lambda x: x.price),
            ("adjusted_price", 14, "money", lambda x: x.adjusted_price),
            ("weight", 9, "percent", lambda x: x.weight),
            ("distance_km", 12, "tenths", lambda x: x.distance_km),
            ("age_months", 12, "tenths", lambda x: x.age_months),
            ("similarity", 11, "tenths", lambda x: x.similarity),
            ("own", 14, "text", lambda x: self.say("yes") if x.own_earlier_sale else None),
        )
        found = []
        for key, width, style, of in kinds:
            if any(of(one) is not None for one in some):
                header = self.say(f"near.{key}") + (self._unit if style == "money" else "")
                found.append(_Column(key, header, width, style, of))
        return found

    def _write_comparables(self) -> dict[str, int]:
        """Write the comparables, and return the row of each line's first one."""
        sheet = self.book.add_worksheet(self.say("comparables"))
        review, near = self.review, self._near
        named = self._of_file(review.names, lambda x: x.names, 18)
        row = _Column("row", self.say("near.row"), 7, "plain", lambda x: float(x.number))
        own = [row, *named]
        self._head(sheet, self._told_apart([*own, *near], own), frozen=len(own))
        starts: dict[str, int] = {}
        at = 0
        for line in review.lines:
            for one in line.comparables:
                at += 1
                starts.setdefault(line.id, at)
                for column, kind in enumerate((*own, *near)):
                    cell = kind.of(line if column < len(own) else one)
                    self._cell(sheet, at, column, cell, kind.style)
        sheet.autofilter(0, 0, max(at, 1), len(own) + len(near) - 1)
        sheet.protect("", _ALLOWED)
        self._print(sheet, landscape=True)
        return starts

    # --- about

    def _write_about(self, title: str) -> None:
        review, say, model = self.review, self.say, self.review.model
        sheet = self.book.add_worksheet(say("about"))
        sheet.hide_gridlines(2)
        sheet.set_column(0, 0, 34)
        sheet.set_column(1, 6, 16)
        sheet.write_string(0, 0, title, self._style("title"))
        row = 1
        if model.origin == "synthetic":
            row += 1
            sheet.write_string(row, 0, say("banner"), self._style("banner"))
        row += 1
        for name, value in self._facts():
            row += 1
            sheet.write_string(row, 0, name, self._style("text"))
            self._cell(sheet, row, 1, value, "text")
        accuracy = self._accuracy()
        if accuracy is not None:
            row = self._grid(sheet, row + 2, report_texts.text("accuracy", review.language),
                             accuracy)  # fmt: skip
        names = {one.key: one.header for one in self._columns if one.key}
        parts = [(say("how"), [say(f"how.{n}", **_some(names)) for n in (1, 2, 3, 4)])]
        if "evidence" not in names:
            parts[0][1].pop(0)
        parts += [
            (say("columns"), list(self._meanings(names))),
            (report_texts.text("limits", review.language), list(self._limits())),
        ]
        for heading, sentences in parts:
            row += 2
            sheet.write_string(row, 0, heading, self._style("heading"))
            for sentence in sentences:
                row += 1
                self._paragraph(sheet, row, sentence)
        sheet.protect("", _ALLOWED)
        self._print(sheet, landscape=False)

    def _facts(self) -> Iterator[tuple[str, Cell]]:
        review, say, model = self.review, self.say, self.review.model
        dated = model.contract.with_role("timestamp") is not None
        lines = review.lines
        as_of = review.as_of or say("about.own_dates" if dated else "about.undated")
        found: tuple[tuple[str, Cell], ...] = (
            ("file", review.file),
            ("rows", float(len(lines))),
            ("valued", float(sum(one.value is not None for one in lines))),
            ("flagged", float(sum(bool(one.flags) for one in lines))),
            ("as_of", as_of),
            ("previous", review.previous),
            ("version", model.version),
            ("release", model.release),
            ("trained", model.created.replace("T", " ").replace("Z", " UTC")),
            ("made", review.made.replace("T", " ").replace("+00:00", " UTC")),
            ("by", review.by),
            ("workbook", review.id),
        )
        return ((say(f"about.{key}"), value) for key, value in found if value not in (None, ""))

    def _accuracy(self) -> Grid | None:
        """Return the measured accuracy as a valuation report has it, of no one row."""
        model = self.review.model
        none: dict[str, Any] = {
            "valuation": {model.contract.target.prediction_name: None, "warnings": []}
        }
        nothing = {"comparables": [], "contributions": [], "groups": [], **none}
        blank = Appraisal(model, None, 0, {}, None, nothing)
        return page(blank, self.review.language, self.review.made[:10]).accuracy

    def _grid(self, sheet: Any, row: int, heading: str, grid: Grid) -> int:
        """Write a table of texts below a heading, and return its last row."""
        sheet.write_string(row, 0, heading, self._style("heading"))
        for column, name in enumerate(grid.header):
            sheet.write_string(row + 1, column, name, self._style("header"))
        for number, cells in enumerate(grid.rows, row + 2):
            for column, one in enumerate(cells):
                self._cell(sheet, number, column, one, "text")
        row += 2 + len(grid.rows)
        self._paragraph(sheet, row, grid.note)
        return row

    def _paragraph(self, sheet: Any, row: int, said: str) -> None:
        """Write a text over the width of the sheet, as high as its lines take."""
        sheet.merge_range(row, 0, row, 6, "", self._style("wrapped"))
        sheet.write_string(row, 0, said, self._style("wrapped"))
        sheet.set_row(row, 15.0 * math.ceil(len(said) / 115))

    def _meanings(self, names: Mapping[str, str]) -> Iterator[str]:
        review, say = self.review, self.say
        share = report_texts.percent(100 * review.coverage, 0, review.language)
        yield say("about.range", low=names["lower"], high=names["upper"], share=share)
        if any(one.grade for one in review.lines):
            yield say("about.class", name=say("column.class"))
        if review.previous is not None:
            share = report_texts.percent(100 * review.large_change, 0, review.language)
            yield say("about.change", name=say("column.change"), share=share)
        low, high = names["lower"], names["upper"]
        yield say("about.flags", name=names["flags"], low=low, high=high)
        if "evidence" in names:
            yield say("about.evidence", name=names["evidence"])

    def _limits(self) -> Iterator[str]:
        language = self.review.language
        for key in ("automated", "person", "date"):
            yield report_texts.text(f"limit.{key}", language)
        share = report_texts.percent(100 * (1 - self.review.coverage), 0, language)
        yield report_texts.text("limit.range", language, share=share)
        if self._near:
            yield report_texts.text("limit.prices", language)

    # --- what all sheets share

    def _head(self, sheet: Any, columns: Sequence[_Column], frozen: int) -> None:
        for at, one in enumerate(columns):
            sheet.set_column(at, at, one.width)
            sheet.write_string(0, at, one.header, self._style("header"))
        sheet.set_row(0, 32)
        sheet.freeze_panes(1, frozen)

    def _cell(self, sheet: Any, row: int, column: int, value: Cell, style: str) -> None:
        """Write a cell: a text as a text, whatever it begins with."""
        if isinstance(value, str):
            if value.startswith(_FORMULA):
                style = "quoted_wrapped" if style == "wrapped" else "quoted"
            sheet.write_string(row, column, value[:_MOST_CHARACTERS], self._style(style))
        elif isinstance(value, dt.date):
            sheet.write_datetime(row, column, value, self._style("date"))
        elif value is None or not math.isfinite(value):
            sheet.write_blank(row, column, None, self._style(style))
        elif abs(value) >= _WHOLE and value == int(value):
            sheet.write_string(row, column, str(int(value)), self._style("text"))
        else:
            sheet.write_number(row, column, value, self._style(style))

    def _print(self, sheet: Any, *, landscape: bool) -> None:
        if landscape:
            sheet.set_landscape()
            sheet.repeat_rows(0)
        sheet.set_paper(9)  # A4
        sheet.fit_to_pages(1, 0)
        sheet.set_margins(left=0.4, right=0.4, top=0.5, bottom=0.6)
        version = self.review.model.version.replace("&", "&&")
        sheet.set_footer(f"&L&8{version}&C&8&A&R&8{self.say('page')}")


_OPEN = {"locked": False, "bg_color": "#FFF9DB", "border": 1, "border_color": "#D9CFA0"}
_HEADER = {
    "bold": True, "text_wrap": True, "valign": "vcenter", "bg_color": "#1F3B57",
    "font_color": "#FFFFFF", "border": 1, "border_color": "#C9D3DD",
}  # fmt: skip
_ALLOWED = {"sort": True, "autofilter": True, "format_columns": True, "format_rows": True}


def _some(names: Mapping[str, str]) -> dict[str, str]:
    return {key: names.get(key, "") for key in ("evidence", "override", "reason")}


def cell_name(row: int, column: int, *, fixed: bool = False) -> str:
    """Return a cell's name, such as ``M2``; with `fixed` its column does not move with others."""
    letters, left = "", column + 1
    while left:
        left, digit = divmod(left - 1, 26)
        letters = chr(65 + digit) + letters
    return f"{'$' if fixed else ''}{letters}{row + 1}"


def _day(written: str) -> Cell:
    """Return a date's first day as a date; as text where Excel has no such day."""
    try:
        found = dt.date.fromisoformat(written[:10])
    except ValueError:
        return written
    return found if found.year >= 1900 else written
