"""`tasador ratio`: the ratio study of any file with prices and estimates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.cells import cell_encoder
from tasador.contract.format_inference import date_reading
from tasador.contract.model import Column, Source
from tasador.contract.type_inference import Findings, decimal_mark, target_reading
from tasador.core import storage
from tasador.core.clock import MONTH_S
from tasador.core.errors import ConfigError, DataError, did_you_mean
from tasador.core.hashing import to_plain, without_nan
from tasador.data.readers import found_files, read_source
from tasador.data.row_groups import column_values
from tasador.metrics.ratio_study import (
    FEWEST,
    LEVEL_GAP,
    Ranges,
    RatioStudy,
    level_groups,
    quantile_groups,
    ratio_study,
)
from tasador.metrics.regression import ACCEPTED, RATIO_STUDY
from tasador.reporting.ratio_report import Missing

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: The exit code of `tasador ratio --fail` where a figure lies outside of its range.
NOT_MET_EXIT_CODE = 16
_QUARTERS = 4
_SHOWN = 3


class RatioFileError(DataError):
    """A file of which no ratio study can be made."""

    @classmethod
    def no_column(cls, name: str, known: list[str]) -> RatioFileError:
        """Return the error of a column that is not there."""
        listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
        remedy = did_you_mean(name, known) or "name one of them"
        return cls(f"there is no column {name!r}", expected=f"one of {listed}", remedy=remedy)

    @classmethod
    def not_read(cls, name: str, expected: str, seen: Iterable[object]) -> RatioFileError:
        """Return the error of a column that holds something else."""
        got = ", ".join(repr(str(value))[:40] for value in seen) or "nothing"
        return cls(f"the column {name!r} is not {expected}", expected=expected, got=got,
                   remedy="name another column")  # fmt: skip

    @classmethod
    def too_few(
        cls, rows: int, sales: int, left_out: Mapping[tuple[Missing, str], int]
    ) -> RatioFileError:
        """Return the error of a file with too few sales whose price and estimate are known."""
        words = {"without": "without {}", "not_positive": "with {} of 0 or less"}
        reasons = "; ".join(
            f"{count:,} {words[reason].format(repr(name))}"
            for (reason, name), count in left_out.items()
        )
        return cls(
            "there are too few sales for a ratio study",
            expected=f"at least {FEWEST} with a price and an estimate above 0",
            got=f"{sales:,} of {rows:,} rows" + (f" ({reasons})" if reasons else ""),
            remedy="check --sale and --estimate, or give more sales",
        )


class RangeError(ConfigError):
    """An accepted range that cannot be read."""

    @classmethod
    def unreadable(cls, text: str) -> RangeError:
        """Return the error of a text that is no range."""
        return cls("the accepted range is invalid", expected="FIGURE=LOW:HIGH, e.g. cod=5:15",
                   got=repr(text))  # fmt: skip

    @classmethod
    def unknown(cls, name: str) -> RangeError:
        """Return the error of a figure that a ratio study does not have."""
        remedy = did_you_mean(name, RATIO_STUDY) or "name one of them"
        expected = f"one of {', '.join(RATIO_STUDY)}"
        return cls(f"{name!r} is no figure of a ratio study", expected=expected, remedy=remedy)


class ColumnNotNamedError(ConfigError):
    """A column that has to be named."""

    @classmethod
    def estimate(cls) -> ColumnNotNamedError:
        """Return the error of a file whose estimates are not named."""
        return cls(
            "no column of estimates is named", expected="--estimate COLUMN",
            got="none, and a file that is no workbook of a desk review",
        )  # fmt: skip


@dataclass(frozen=True)
class RatioRequest:
    """Which columns of which file are studied.

    Attributes:
        file: A path, an address in an object store, or a pattern.
        sale: Column of the prices.
        estimate: Column of the estimates; None in a workbook of a desk review, where the model's
            values are studied against the reviewed ones unless columns are named.
        against: Column of other estimates, studied on the same rows; or None.
        by: Columns by which groups are formed.
        time: Column of the dates of sale, or None.
        source: How the file is read, where it does not say it itself.
        ranges: What is accepted, by the figure's name.
        gap: By how much, relatively, a group's median ratio may differ from that of all.
    """

    file: str
    sale: str
    estimate: str | None = None
    against: str | None = None
    by: tuple[str, ...] = ()
    time: str | None = None
    source: Source = field(default_factory=Source)
    ranges: Ranges = field(default_factory=lambda: dict(ACCEPTED))
    gap: float = LEVEL_GAP


@dataclass(frozen=True)
class RatioFile:
    """The studies of a file.

    Attributes:
        file: As it was named.
        sale: Column of the prices.
        rows: Rows of the file.
        left_out: Rows in no study, by what is wrong with which column, the first that is.
        studies: By column of estimates: the one asked for, then the one against it.
        gap: As in the request.
        notes: What was decided while reading, a sentence each.
    """

    file: str
    sale: str
    rows: int
    left_out: dict[tuple[Missing, str], int]
    studies: dict[str, RatioStudy]
    gap: float
    notes: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return what was found as plain JSON types; NaN is null."""
        left_out = [
            {"column": name, "reason": reason, "rows": rows}
            for (reason, name), rows in self.left_out.items()
        ]
        studies = {
            name: {
                "met": not study.not_met(),
                "met_trimmed": not study.not_met(trimmed=True),
                **to_plain(study),
            }
            for name, study in self.studies.items()
        }
        plain = {"file": self.file, "sale": self.sale, "rows": self.rows, "left_out": left_out}
        found: dict[str, Any] = without_nan(
            {**plain, "gap": self.gap, "studies": studies, "notes": list(self.notes)}
        )
        return found


def parse_ranges(texts: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Return the accepted ranges with those of texts such as ``cod=5:15``.

    Raises:
        ConfigError: A text is no range, or its figure is unknown.
    """
    found = dict(ACCEPTED)
    for text in texts:
        parts = re.fullmatch(r"(\w+)=([^:]+):([^:]+)", text.replace(" ", ""))
        if parts is None:
            raise RangeError.unreadable(text)
        if parts[1] not in RATIO_STUDY:
            raise RangeError.unknown(parts[1])
        try:
            low, high = float(parts[2]), float(parts[3])
        except ValueError:
            raise RangeError.unreadable(text) from None
        if not low <= high:  # NaN too
            raise RangeError.unreadable(text)
        found[parts[1]] = (low, high)
    return found


def study_file(asked: RatioRequest) -> RatioFile:
    """Read a file and study its ratios.

    Rows without a price or an estimate above 0 are left out and counted; with two columns of
    estimates, both are studied on the rows that have both.

    Raises:
        DataError: The file cannot be read, lacks a column, or has too few sales.
    """
    frame, read, columns = _table(asked)
    for name in (asked.sale, *columns, *asked.by, *([asked.time] if asked.time else [])):
        if name not in frame.columns:
            raise RatioFileError.no_column(name, frame.columns)
    findings = Findings(decimal=decimal_mark(frame))
    price = _numbers(frame[asked.sale], findings)
    estimates = {name: _numbers(frame[name], findings) for name in columns}
    some = np.ones(frame.height, dtype=bool)
    left_out: dict[tuple[Missing, str], int] = {}
    for name, values in {asked.sale: price, **estimates}.items():
        wrong: dict[Missing, Flags] = {
            "without": ~np.isfinite(values), "not_positive": np.isfinite(values) & (values <= 0)
        }  # fmt: skip
        for reason, rows in wrong.items():
            if count := int((some & rows).sum()):
                left_out[reason, name] = count
            some &= ~rows
    if int(some.sum()) < FEWEST:
        raise RatioFileError.too_few(frame.height, int(some.sum()), left_out)
    by = {name: _groups(frame[name].filter(pl.Series(some))) for name in asked.by}
    months = None
    if asked.time:
        seconds = _dates(frame[asked.time])[some]
        by[asked.time] = _spans(seconds)
        months = seconds / MONTH_S
    studies = {
        name: ratio_study(
            price[some], values[some], by=by, months=months, ranges=asked.ranges, gap=asked.gap
        )
        for name, values in estimates.items()
    }
    notes = (*read, *findings.assumptions)
    return RatioFile(
        asked.file, asked.sale, frame.height, left_out, studies, asked.gap, tuple(notes)
    )


def _table(asked: RatioRequest) -> tuple[pl.DataFrame, tuple[str, ...], tuple[str, ...]]:
    """Return the file's table, what was decided while reading, and its columns of estimates."""
    columns = tuple(name for name in (asked.estimate, asked.against) if name)
    files = found_files(asked.file) if asked.file.lower().endswith(".xlsx") else []
    if len(files) == 1:
        from tasador.reporting.review.reading import is_review, read_review  # only for workbooks

        data = storage.read_bytes(files[0])
        if is_review(data):
            sheet = read_review(data, asked.file)
            if not columns:
                columns = (sheet.headers["value"], sheet.headers["reviewed"])
            count = int(np.isfinite(sheet.numbers["override"]).sum())
            return sheet.with_reviewed(), (f"a desk review with {count:,} overrides",), columns
    if asked.estimate is None:
        raise ColumnNotNamedError.estimate()
    named = [asked.sale, *columns, *asked.by, *([asked.time] if asked.time else [])]
    table = read_source(asked.file, source=asked.source, known=named)
    return table.frame, table.notes, columns


def _numbers(series: pl.Series, findings: Findings) -> Floats:
    """Return a column of numbers, as text or not, with NaN for what is missing."""
    if not series.null_count() < len(series):
        raise RatioFileError.not_read(series.name, "a column of numbers", ["no value at all"])
    form = target_reading(series, findings)
    if form is None:
        seen = series.drop_nulls().head(_SHOWN).to_list()
        raise RatioFileError.not_read(series.name, "a column of numbers", seen)
    if series.dtype.is_numeric():
        found: Floats = series.cast(pl.Float64).to_numpy()
        return found
    column = Column(series.name, "number", nullable=True, format=form)
    return _read(series, column)


def _dates(series: pl.Series) -> Floats:
    """Return a column of dates in seconds since 1970 UTC, with NaN for what is missing."""
    if series.dtype.is_temporal():
        column = Column(series.name, "datetime", nullable=True)
        return _read(series, column)
    texts = series.cast(pl.String).str.strip_chars()
    counts = Counter(texts.drop_nulls().to_list())
    reading = date_reading(counts, series.name, texts.drop_nulls().head(100).to_list())
    if reading is None:
        raise RatioFileError.not_read(series.name, "a column of dates", list(counts)[:_SHOWN])
    return _read(texts, Column(series.name, "datetime", nullable=True, format=reading.form))


def _read(series: pl.Series, column: Column) -> Floats:
    encode = cell_encoder(column)
    return np.array([encode(value) for value in series.to_list()], dtype=np.float64)


def _groups(series: pl.Series) -> Mapping[str, Flags]:
    """Return the rows of each value of a column; of many numbers those of their quarters."""
    found = column_values(series)
    return level_groups(found) if isinstance(found, list) else quantile_groups(found, _QUARTERS)


def _spans(seconds: Floats) -> dict[str, Flags]:
    """Return the rows by month, by quarter or by year, as long as the dates reach."""
    known = np.isfinite(seconds)
    if not known.any():
        return {}
    month = np.zeros(len(seconds), dtype=np.int64)
    month[known] = seconds[known].astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    reach = int(month[known].max() - month[known].min())
    length = 1 if reach < 12 else 3 if reach < 48 else 12
    part, found = month // length, {}
    for number in np.unique(part[known]).tolist():
        year, at = divmod(number * length, 12)
        ends = {1: f"-{at + 1:02d}", 3: f" Q{at // 3 + 1}", 12: ""}
        found[f"{1970 + year}{ends[length]}"] = known & (part == number)
    return found
