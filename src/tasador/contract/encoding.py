"""From values as people write them to the float64 matrix that everything else works on.

Numbers stay as they are, a category becomes the position of its name in the contract, a datetime
becomes seconds since 1970 UTC, a missing value becomes NaN. The same rules serve a whole table and
a single row; numpy is all they need. Whether the encoded row is a valid one is for
`contract.row_check` to say.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.cells import cell_encoder, decoded_cell, wrong_value
from tasador.contract.derived import Deriver
from tasador.contract.formats import MISSING_TEXTS, PLAIN
from tasador.contract.model import Column, TableContract, plain_name
from tasador.core.errors import ValidationError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_NAN = math.nan


class Encoder:
    """Encodes rows of one table and decodes them again.

    Args:
        contract: Names the columns, their kinds, categories and which may be missing.

    Attributes:
        unknown_codes: The code of an unknown category, by column name: one past the last one.
    """

    def __init__(self, contract: TableContract) -> None:
        self.contract = contract
        self.unknown_codes = {
            column.name: len(column.categories)
            for column in contract.features
            if column.kind == "category"
        }
        self._cells: list[Callable[[Any], float]] = [cell_encoder(c.own) for c in contract.features]
        self._plan = [
            (column.name, column.kind in ("number", "integer"), encode)
            for column, encode in zip(contract.features, self._cells, strict=True)
        ]
        self._by_name = dict(zip(contract.feature_names, self._cells, strict=True))
        self._parts = {
            column.name: (column.source, cell_encoder(column))
            for column in contract.features
            if column.source is not None
        }
        self._columns = {column.name: column for column in contract.features}
        self._derived = derivers(contract)

    def row(self, values: Mapping[str, Any]) -> Floats:
        """Encode one row.

        Args:
            values: Value by column name; other names are ignored. A missing name of a nullable
                column means a missing value.

        Returns:
            Shape (1, p), in the order of ``contract.feature_names``.

        Raises:
            ValidationError: A name is missing, or a value is of a different type than its column.
        """
        return np.array([self.codes(values)])

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> Floats:
        """Encode several rows given one by one; shape (n, p), equal to stacking `row`.

        Raises:
            ValidationError: As `row`, with the row's number (from 1) in front.
        """
        coded = []
        for number, values in enumerate(rows, 1):
            try:
                coded.append(self.codes(values))
            except ValidationError as error:
                raise ValidationError(
                    f"row {number}: {error.message}",
                    expected=error.expected,
                    got=error.got,
                    remedy=error.remedy,
                ) from None
        return np.array(coded, dtype=np.float64).reshape(len(coded), len(self._plan))

    def codes(self, values: Mapping[str, Any]) -> list[float]:
        """Encode one row as a list of p floats; otherwise as `row`."""
        codes: list[float] = []
        append = codes.append
        for name, is_number, encode in self._plan:
            try:
                value = values[name]
            except KeyError:
                value = field_of(values, name)
                if value is ABSENT:
                    append(self._absent(name, values))
                    continue
            if is_number and type(value) is float:
                append(value)
            else:
                append(encode(value))
        if self._derived:
            return self.fill_derived(np.array([codes]))[0].tolist()  # type: ignore[no-any-return]
        return codes

    def fill_derived(self, X: Floats) -> Floats:
        """Compute the derived columns of rows (n, p) whose other columns are encoded, in place."""
        for position, taken, derive in self._derived:
            X[:, position] = derive(X[:, taken])
        return X

    def _absent(self, name: str, values: Mapping[str, Any]) -> float:
        column = self._columns[name]
        if name in self._parts:
            source, encode = self._parts[name]
            found = field_of(values, source)
            if found is not ABSENT:
                return encode(found)
        if column.nullable or column.derive is not None:
            return _NAN
        raise ValidationError(
            f"the field {name!r} is missing",
            got=f"the fields {', '.join(repr(key) for key in list(values)[:20]) or 'of no name'}",
            remedy="send a value; only nullable columns may be left out",
        )

    def cell(self, name: str, value: Any) -> float:
        """Encode one value of the column `name`.

        Raises:
            ValidationError: It is of a different type than the column.
            KeyError: The matrix has no such column.
        """
        return self._by_name[name](value)

    def part(self, name: str, text: Any) -> float:
        """Encode the value of the column `name` that is part of `text`; otherwise as `cell`."""
        return self._parts[name][1](text)

    def columns(self, columns: Mapping[str, Any]) -> Floats:
        """Encode whole columns.

        Args:
            columns: A list, numpy array or polars series of n values by column name.

        Returns:
            Shape (n, p), in the order of ``contract.feature_names``.

        Raises:
            ValidationError: A column is missing though not nullable, lengths differ, or a value is
                of a different type than its column (with its row number, from 1).
        """
        columns = with_plain_names(columns)
        known = self.contract.readable_names
        lengths = {name: len(columns[name]) for name in known if name in columns}
        if len(set(lengths.values())) != 1:
            raise ValidationError(
                "columns of different lengths" if lengths else "none of the columns is there",
                expected="columns of one length",
                got=", ".join(f"{name} {length}" for name, length in lengths.items()) or "none",
            )
        X = np.empty((next(iter(lengths.values())), len(self._plan)), dtype=np.float64)
        for position, column in enumerate(self.contract.features):
            sent = sent_as(column, columns)
            if sent is None:
                X[:, position] = self._absent(column.name, columns)
                continue
            X[:, position], wrong = encode_values(sent, columns[sent.field_name])
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                value = columns[sent.field_name][row]
                raise wrong_value(column, value, f" in row {row + 1}")
        return self.fill_derived(X)

    def decode(self, X: Floats) -> dict[str, list[Any]]:
        """Turn encoded rows back into values, for people.

        Args:
            X: Shape (n, p), as the encoding methods return it.

        Returns:
            By column name: floats, whole numbers as int for integer columns, category names (an
            unknown one as ``"(unknown)"``), datetimes in UTC, None where a value is missing.
        """
        return {
            column.name: [decoded_cell(column, value) for value in X[:, position].tolist()]
            for position, column in enumerate(self.contract.features)
        }


def sent_as(column: Column, names: Container[str]) -> Column | None:
    """Return `column` as it is among the columns `names`: by its own name, or in a text.

    The values are then those of its `field_name`. None: it is neither, or it is derived.
    """
    if column.name in names:
        return column.own
    return column if column.source is not None and column.source in names else None


def derivers(contract: TableContract) -> list[tuple[int, list[int], Deriver]]:
    """Return position, positions taken, and the function, of each derived column."""
    found = []
    for position, column in enumerate(contract.features):
        if column.derive is not None:
            taken = [contract.column(name) for name in column.derive.columns]
            levels = taken[0].categories
            deriver = Deriver(column.derive, tuple(c.kind for c in taken), levels)
            found.append((position, [contract.position(c.name) for c in taken], deriver))
    return found


def as_of_field(contract: TableContract, day: str | None) -> dict[str, dt.date]:
    """Return the value that makes a row one of `day`, by its column; empty without a day.

    Args:
        contract: Names the column with the date of the sale.
        day: ISO 8601, such as ``2014-06-30``.

    Raises:
        ValidationError: It is no day, or the contract names no such column.
    """
    if day is None:
        return {}
    column = contract.with_role("timestamp")
    if column is None:
        raise ValidationError(
            "this model values nothing as of a day: it knows no dates of sales",
            expected="a column with the role timestamp in its contract",
            got="none",
            remedy="leave the day out",
        )
    try:
        return {column.name: dt.date.fromisoformat(day)}
    except ValueError:
        raise ValidationError(
            "the day to value as of cannot be read", expected="such as 2014-06-30", got=repr(day)
        ) from None


class _Absent:
    """No value at all, where None is a value that is missing."""


ABSENT = _Absent()


def field_of(values: Mapping[str, Any], name: str) -> Any:
    """Return a row's value of the column `name`, spelled in any of Unicode's forms, or `ABSENT`."""
    if name in values:
        return values[name]
    if not name.isascii():
        for key in values:
            if isinstance(key, str) and plain_name(key) == name:
                return values[key]
    return ABSENT


def with_plain_names(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return columns by the names that the contract has for them.

    Raises:
        ValidationError: Two names are the same one, written in different forms of Unicode.
    """
    plain = {plain_name(name) if isinstance(name, str) else name: columns[name] for name in columns}
    if len(plain) < len(columns):
        twice = [n for n in plain if sum(plain_name(str(other)) == n for other in columns) > 1]
        raise ValidationError(f"the column {twice[0]!r} is there twice", remedy="drop one of them")
    return plain


def columns_with_missing_words(contract: TableContract) -> tuple[str, ...]:
    """Return the columns in which a word such as ``None`` is a category, not a missing value."""
    return tuple(
        column.name
        for column in contract.columns
        if any(text.strip().lower() in MISSING_TEXTS for text in column.categories)
    )


def encode_values(column: Column, values: Any) -> tuple[Floats, Flags]:
    """Encode one column without raising: (codes, which values are of a different type).

    Args:
        column: What the values should be.
        values: A list, numpy array or polars series of n values.

    Returns:
        Codes of shape (n,), NaN where missing or wrong; and where they are wrong.
    """
    if column.from_text:
        pass  # cell by cell, each different text once
    elif column.kind in ("number", "integer"):
        fast = _fast_numbers(values, column)
        if fast is not None:
            return without(fast, column.format.missing_numbers), np.zeros(len(fast), dtype=np.bool_)
    elif type(values).__module__.startswith("polars"):
        microseconds = _polars_microseconds(values)
        if microseconds is not None and column.kind == "datetime":
            return microseconds, np.zeros(len(microseconds), dtype=np.bool_)
    if type(values).__module__.startswith("polars"):
        return _by_different_value(column, values)
    return _one_by_one(column, values)


def without(codes: Floats, absent: tuple[float, ...]) -> Floats:
    """Return codes (n,) with NaN for the numbers that mean a missing value."""
    return np.where(np.isin(codes, absent), _NAN, codes) if absent else codes


def _by_different_value(column: Column, series: Any) -> tuple[Floats, Flags]:
    """Encode each different value of a polars series once."""
    import polars as pl

    if series.dtype != pl.String:
        return _one_by_one(column, series)
    levels = series.drop_nulls().unique(maintain_order=True)
    codes_of = series.cast(pl.Enum(levels)).to_physical()
    codes, wrong = _one_by_one(column, levels)
    missing, strange = _one_by_one(column, [None])
    at = codes_of.fill_null(len(levels)).to_numpy().astype(np.int64)
    return np.append(codes, missing)[at], np.append(wrong, strange)[at]


def _one_by_one(column: Column, values: Any) -> tuple[Floats, Flags]:
    encode = cell_encoder(column)
    known: dict[Any, tuple[float, bool]] = {}
    codes, wrong = [], []
    for value in _as_list(values):
        # True == 1 == 1.0 share a dictionary key, so the type is part of it
        key = (type(value), value)
        found = known.get(key) if value.__hash__ is not None else None
        if found is None:
            try:
                found = (encode(value), False)
            except ValidationError:
                found = (_NAN, True)
            if value.__hash__ is not None and len(known) < 100_000:
                known[key] = found
        codes.append(found[0])
        wrong.append(found[1])
    return np.array(codes, dtype=np.float64), np.array(wrong, dtype=np.bool_)


def _as_list(values: Any) -> Iterable[Any]:
    """Return the values as Python objects."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "M":  # finer than microseconds would come out as bare integers
            values = values.astype("datetime64[us]")
        return list(values.tolist())
    return values.to_list() if hasattr(values, "to_list") else values  # type: ignore[no-any-return]


def _fast_numbers(values: Any, column: Column) -> Floats | None:
    """Convert typed numbers, and clean text in a polars series, at once; None: look one by one."""
    if type(values).__module__.startswith("polars"):
        if values.dtype.is_numeric() or column.format == PLAIN:
            return _polars_numbers(values)
        return None
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        return values.astype(np.float64)
    return None


def _polars_numbers(series: Any) -> Floats | None:
    import polars as pl

    if series.dtype.is_numeric():
        numbers = series.cast(pl.Float64)
    elif series.dtype == pl.String:
        numbers = series.cast(pl.Float64, strict=False)
        if numbers.null_count() == series.null_count():
            values: Floats = numbers.to_numpy().astype(np.float64)
            if np.isnan(values).sum() == series.null_count():
                return values
        text = series.str.strip_chars()
        numbers = text.cast(pl.Float64, strict=False)
        if (numbers.is_null() & text.is_not_null()).any() or numbers.is_nan().any():
            return None  # a word somewhere: the slow way tells which, and knows "n/a" words
    elif series.dtype == pl.Null:
        return np.full(len(series), _NAN)
    else:
        return None
    result: Floats = numbers.fill_null(_NAN).to_numpy().astype(np.float64)
    return result


def _polars_microseconds(series: Any) -> Floats | None:
    import polars as pl

    if not isinstance(series.dtype, pl.Datetime):
        return None
    aware = series if series.dtype.time_zone else series.dt.replace_time_zone("UTC")
    since = aware.dt.epoch("us").cast(pl.Float64).fill_null(_NAN).to_numpy().astype(np.float64)
    result: Floats = since / 1e6  # numpy divides as Python does; polars by the reciprocal
    return result
