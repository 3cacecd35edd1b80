"""Read a desk review's workbook back, and check it against what was written.

Everything that is wrong is found at once, each with its cell; a workbook with anything wrong is
taken as a whole or not at all.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.target_check import TargetBounds
from tasador.core.errors import ValidationError
from tasador.data.archives import DAMAGED, ZIP
from tasador.data.workbook import read_cells
from tasador.records.reviews import Decision, Reviewed
from tasador.reporting.review.writing import FORMAT, HIDDEN, MOST_REASON, cell_name

_MODEL = ("value", "lower", "upper")
_NEEDED = ("id", "row", *_MODEL, "override", "reason")
#: A spreadsheet keeps 15 digits of a number.
_ROUNDING = 1e-12
_LISTED = 20
_NO_RESULT = "a formula without a result"


class ReviewFileError(ValidationError):
    """A workbook that is none of a desk review, or cannot be recorded."""

    @classmethod
    def not_ours(cls, name: str) -> ReviewFileError:
        """Return the error of a file without the sheet by which a review is recognised."""
        return cls(
            f"{name} is not a workbook of a desk review",
            expected="an .xlsx file that `tasador score FILE -o review.xlsx` wrote",
            got=f"no sheet {HIDDEN!r} in it",
            remedy="fill in that workbook itself, all its sheets included",
        )

    @classmethod
    def newer(cls, name: str, got: str) -> ReviewFileError:
        """Return the error of a workbook that another version of tasador wrote."""
        return cls(
            f"{name} was written by another version of tasador",
            expected=f"format {FORMAT}", got=got or "none", remedy="read it with that version",
        )  # fmt: skip

    @classmethod
    def no_sheet(cls, name: str, title: str) -> ReviewFileError:
        """Return the error of a workbook without the sheet to fill in."""
        return cls(
            f"{name} has no sheet {title!r}", expected="the sheets as they were written",
            got="it was renamed or deleted", remedy="give it its name back",
        )  # fmt: skip

    @classmethod
    def no_column(cls, name: str, header: str, found: Sequence[str]) -> ReviewFileError:
        """Return the error of a sheet that lacks a column."""
        listed = ", ".join(one for one in found if one)[:300]
        return cls(
            f"{name} has no column {header!r}", expected="the columns as they were written",
            got=listed or "an empty first row", remedy="put the column back, under this name",
        )  # fmt: skip

    @classmethod
    def unknown(cls, name: str, review: str, shown: str) -> ReviewFileError:
        """Return the error of a workbook that this database knows nothing of."""
        return cls(
            f"{name} was not written with this database",
            expected=f"a review recorded in {shown}",
            got=f"workbook {review}",
            remedy="name the database that it was written with: --database",
        )

    @classmethod
    def wrong(cls, name: str, problems: Sequence[Problem]) -> ReviewFileError:
        """Return the error of a workbook with cells that are wrong; it names the first ones."""
        listed = "".join(f"\n  {one}" for one in problems[:_LISTED])
        more = len(problems) - _LISTED
        rest = f"\n  and {more:,} more" if more > 0 else ""
        cells = "1 cell is" if len(problems) == 1 else f"{len(problems):,} cells are"
        return cls(
            f"{cells} wrong in {name}, nothing was recorded{listed}{rest}\n",
            remedy="correct them, and give the whole workbook again",
        )


@dataclass(frozen=True)
class Problem:
    """A cell that is wrong: where it is, and what about it."""

    cell: str
    text: str

    def __str__(self) -> str:
        return f"{self.cell}: {self.text}"


@dataclass(frozen=True)
class ReviewSheet:
    """A workbook as it came back.

    Attributes:
        name: What to call it in messages.
        review: Its id.
        version: The bundle whose values it shows.
        headers: The columns' headers by key.
        places: The columns' places in the sheet by key.
        frame: All cells as texts, under their headers.
        numbers: ``value``, ``lower``, ``upper`` and ``override``, shape (n,); NaN for empty cells.
        wrong: What cells of these hold that is no number, by key and row from 0.
    """

    name: str
    review: str
    version: str
    headers: Mapping[str, str]
    places: Mapping[str, int]
    frame: pl.DataFrame
    numbers: Mapping[str, NDArray[np.float64]]
    wrong: Mapping[tuple[str, int], str]

    def texts(self, key: str) -> list[str]:
        """Return a column's cells without white space around them."""
        column = self.frame.to_series(self.places[key])
        return [(cell or "").strip() for cell in column.to_list()]

    @property
    def reviewed(self) -> NDArray[np.float64]:
        """The overrides, and the model's values where there is none, shape (n,)."""
        own = self.numbers["override"]
        return np.where(np.isnan(own), self.numbers["value"], own)

    def cell(self, key: str, row: int) -> str:
        """Return a cell's name, such as ``M2``."""
        return cell_name(row + 1, self.places[key])

    def is_empty(self, row: int) -> bool:
        """Tell whether no cell of a row, from 0, holds anything."""
        return not any((cell or "").strip() for cell in self.frame.row(row))

    def with_reviewed(self) -> pl.DataFrame:
        """Return the sheet as a table whose reviewed values are those of the overrides now.

        The column's formulas are not relied on: not every program computes them.
        """
        exact = {self.headers[key]: values for key, values in self.numbers.items()}
        exact[self.headers["reviewed"]] = self.reviewed
        columns = [pl.Series(name, values, nan_to_null=True) for name, values in exact.items()]
        return self.frame.with_columns(columns)


def is_review(data: bytes) -> bool:
    """Tell whether a file's bytes are a workbook of a desk review."""
    if not data.startswith(ZIP):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.read("xl/workbook.xml")
    except (*DAMAGED, KeyError):
        return False
    return f'name="{HIDDEN}"'.encode() in names


def read_review(data: bytes, name: str) -> ReviewSheet:
    """Read a workbook, whatever was entered into it.

    Args:
        data: Its bytes.
        name: What to call it in messages.

    Raises:
        ReviewFileError: It is no workbook of a desk review, or lacks a sheet or a column.
        SourceError: It is damaged, or protected by a password.
        MissingExtraError: The package that reads workbooks is not installed.
    """
    hidden = read_cells(data, name, HIDDEN) if is_review(data) else None
    if hidden is None:
        raise ReviewFileError.not_ours(name)
    rows = [hidden.header, *hidden.texts.rows()]
    said = {str(row[0]): str(row[1]) for row in rows if len(row) > 1}
    if said.get("format") != FORMAT:
        raise ReviewFileError.newer(name, said.get("format", ""))
    headers = {
        key.removeprefix("column."): header
        for key, header in said.items() if key.startswith("column.")
    }  # fmt: skip
    keys = {headers.get(key, ""): key for key in (*_MODEL, "override")}
    title = said.get("sheet", "")
    sheet = read_cells(data, name, title, tuple(keys))
    if sheet is None:
        raise ReviewFileError.no_sheet(name, title)
    for key in (*_NEEDED, "reviewed"):
        if headers.get(key) not in sheet.header:
            raise ReviewFileError.no_column(name, headers.get(key, key), sheet.header)
    texts = sheet.texts
    texts.columns = _named(sheet.header)
    filled = texts.select(pl.any_horizontal(pl.all().str.strip_chars().str.len_chars() > 0))
    ends = np.flatnonzero(filled.to_series().fill_null(value=False).to_numpy())
    height = int(ends[-1]) + 1 if len(ends) else 0
    places = {key: sheet.header.index(h) for key, h in headers.items() if h in sheet.header}
    wrong = {(keys[header], row): got for (header, row), got in sheet.wrong.items()}
    letters = cell_name(0, places["override"])[:-1]
    wrong |= {("override", row): _NO_RESULT for row in _not_computed(data, letters)}
    return ReviewSheet(
        name,
        said.get("review", ""),
        said.get("version", ""),
        headers,
        places,
        texts.head(height),
        {keys[header]: values[:height] for header, values in sheet.numbers.items()},
        wrong,
    )  # fmt: skip


def _not_computed(data: bytes, column: str) -> Iterator[int]:
    """Yield the rows, from 0 below the header, of formulas in a column without a stored result.

    Programs that compute nothing save such; only results are read, so that an entry would be lost.
    """
    cell = re.compile(
        rf'<c r="{column}(\d+)"[^>]*>\s*<f\b[^>]*?(?:/>|>[^<]*</f>)\s*(?:<v\s*/>|<v></v>)?\s*</c>'
    )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for part in archive.namelist():
            if part.startswith("xl/worksheets/sheet"):
                yield from (int(n) - 2 for n in cell.findall(archive.read(part).decode()))


def _named(header: Sequence[str]) -> list[str]:
    """Return the header with a name for each column."""
    found: list[str] = []
    for at, name in enumerate(header):
        found.append(name if name and name not in found else f"{name or 'column'} {at + 1}")
    return found


def decisions_of(
    sheet: ReviewSheet, known: Mapping[str, Reviewed], bounds: TargetBounds
) -> list[Decision]:
    """Return the decisions of a workbook that is right as a whole.

    Args:
        sheet: The workbook.
        known: Its rows as they were written, by prediction id.
        bounds: What an override may be.

    Raises:
        ReviewFileError: A cell is wrong: all that are, each with what was expected.
    """
    keys, reasons = sheet.texts("id"), sheet.texts("reason")
    problems: list[Problem] = []
    decisions: list[Decision] = []
    seen: dict[str, int] = {}
    entered = sheet.numbers["override"].tolist()
    for row, (key, reason, value) in enumerate(zip(keys, reasons, entered, strict=True)):
        got = sheet.wrong.get(("override", row))
        if not key and got is None and sheet.is_empty(row):
            continue
        found = list(_row_problems(sheet, row, key, known, seen))
        found += _entry_problems(sheet, row, value, got, reason, bounds)
        problems += found
        seen.setdefault(key, row)
        if not found and not math.isnan(value):
            decisions.append(Decision(key, value, reason))
    if problems:
        raise ReviewFileError.wrong(sheet.name, problems)
    return decisions


def _row_problems(
    sheet: ReviewSheet, row: int, key: str, known: Mapping[str, Reviewed], seen: Mapping[str, int]
) -> Iterator[Problem]:
    """Yield what is wrong about a row and the model's values in it."""
    written = known.get(key)
    if written is None:
        yield Problem(
            sheet.cell("id", row),
            f"unknown row: expected the id of a row of this workbook, got {key or 'none'}",
        )
        return
    if key in seen:
        yield Problem(
            sheet.cell("id", row),
            f"the row is there twice: expected it once, got row {seen[key] + 2} as well",
        )
    for name in _MODEL:
        own, now = getattr(written, name), float(sheet.numbers[name][row])
        odd = sheet.wrong.get((name, row))
        same = math.isnan(now) and math.isnan(own)
        if odd is not None or not (same or math.isclose(now, own, rel_tol=_ROUNDING)):
            shown = odd or ("nothing" if math.isnan(now) else f"{now:.12g}")
            expected = "nothing" if math.isnan(own) else f"{own:.12g}"
            header = sheet.headers[name]
            yield Problem(
                sheet.cell(name, row),
                f"{header!r} of the model was changed: expected {expected}, got {shown}",
            )


def _entry_problems(
    sheet: ReviewSheet, row: int, value: float, got: str | None, reason: str, bounds: TargetBounds
) -> Iterator[Problem]:
    """Yield what is wrong about what was entered in a row."""
    cell = sheet.cell("override", row)
    if got is not None:
        yield Problem(
            cell, f"the override is not a number: expected {bounds.expected}, got {got!r}"
        )
    elif math.isnan(value):
        if reason:
            yield Problem(cell, "a reason without an override: expected both or neither")
        return
    elif (why := bounds.reason(value)) is not None:
        yield Problem(cell, f"the override is not possible: {why}")
    if not reason:
        yield Problem(
            sheet.cell("reason", row), "an override without a reason: expected one, got nothing"
        )
    elif len(reason) > MOST_REASON:
        yield Problem(
            sheet.cell("reason", row),
            f"the reason is too long: expected at most {MOST_REASON} characters, got {len(reason)}",
        )
