"""What a valid row is: the one definition, for tables before training and for rows to value.

Decided by the kind of the column, from its contract alone:

==========  ======================================  ==========================================
kind        valid                                   refused
==========  ======================================  ==========================================
number      a finite number, or its text            text that is none, true or false, infinity,
                                                    a date, out of bounds
integer     the same without a fraction: 3, 3.0     2.5, and what no number is
category    a level as text (``category_key``); a   an unknown level, unless the column is open:
            number or true as the level's text      then it is valued with a warning
datetime    a date, a datetime, their ISO 8601      numbers, true or false, out of bounds
==========  ======================================  ==========================================

Nothing (None, NaN, an empty text, an absent field) is valid where the column is nullable. Fields
that the contract does not name are ignored. numpy is all it needs: many rows are checked at once
when encoded, one row fault by fault as it was sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasador.contract.encoding import (
    ABSENT,
    Encoder,
    encode_values,
    field_of,
    sent_as,
    with_plain_names,
)
from tasador.contract.errors import cut_repr
from tasador.contract.model import Column, TableContract
from tasador.core.errors import ValidationError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_LARGEST = float(np.finfo(np.float64).max)
_SHOWN_CATEGORIES = 20
_KINDS = {
    "number": "a number",
    "integer": "a whole number",
    "datetime": "a date and time in ISO 8601",
}

Cause = Literal["missing", "wrong_kind", "out_of_bounds", "unknown_level"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field of a row, in words for its sender, and as a cause to count."""

    field: str
    expected: str
    got: str
    remedy: str
    cause: Cause


class RowCheck:
    """Checks rows of one table.

    Args:
        encoder: Encodes rows of the same contract.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._contract: TableContract = encoder.contract
        columns = self._contract.features
        limits = [_limits(column) for column in columns]
        self._low = np.array([low for low, _ in limits])
        self._high = np.array([high for _, high in limits])
        self._nullable = np.array([column.nullable for column in columns])
        self._any_nullable = bool(self._nullable.any())
        self._whole = np.array([i for i, c in enumerate(columns) if c.kind == "integer"], np.intp)
        self._plain_limits = (
            self._low.tolist(), self._high.tolist(), [c.kind == "integer" for c in columns]
        )  # fmt: skip

    def row(self, values: Mapping[str, Any]) -> Floats:
        """Encode one row as it was sent, shape (1, p).

        Raises:
            ValidationError: It does not meet the contract; names every fault.
        """
        try:
            codes = self._encoder.codes(values)
        except (ValidationError, TypeError):
            raise self.row_error(values) from None
        X = np.array([codes])
        for code, low, high, whole in zip(codes, *self._plain_limits, strict=True):
            if not low <= code <= high or (whole and code % 1.0):
                break
        else:  # the usual row, at a tenth of the cost of the arrays below
            return X
        if not self.accepts(X)[0]:
            raise self.row_error(values)
        return X

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> Floats:
        """Encode several rows as they were sent, shape (n, p).

        Raises:
            ValidationError: One does not meet the contract; names the first, counted from 1, and
                every fault of it.
        """
        try:
            X = self._encoder.rows(rows)
            right = bool(self.accepts(X).all())
        except (ValidationError, TypeError):
            right = False
        if right:
            return X
        for number, values in enumerate(rows, 1):
            try:
                self.row(values)
            except ValidationError as error:
                raise _in_row(number, error) from None
        raise AssertionError("rows are refused together and accepted one by one")

    def columns(self, columns: Mapping[str, Any]) -> Floats:
        """Encode n rows given as columns, shape (n, p).

        Raises:
            ValidationError: A column is missing, or a row does not meet the contract; names the
                first, counted from 1, and every fault of it.
        """
        columns = with_plain_names(columns)
        try:
            X = self._encoder.columns(columns)
        except ValidationError:
            wrong = self._wrong(columns)
            if wrong is None:
                raise
        else:
            wrong = ~self.accepts(X)
            if not wrong.any():
                return X
        at = int(np.flatnonzero(wrong)[0])
        known = self._contract.readable_names
        row = {name: columns[name][at] for name in known if name in columns}
        raise _in_row(at + 1, self.row_error(row))

    def _wrong(self, columns: Mapping[str, Any]) -> Flags | None:
        """Return which rows (n,) of columns are refused; None when it is not a row's fault."""
        lengths = {len(columns[n]) for n in self._contract.readable_names if n in columns}
        if len(lengths) != 1:
            return None
        X = np.full((lengths.pop(), len(self._contract.features)), np.nan)
        wrong = np.zeros(len(X), dtype=np.bool_)
        for at, column in enumerate(self._contract.features):
            sent = sent_as(column, columns)
            if sent is None:
                if not column.nullable and column.derive is None:
                    return None
                continue
            X[:, at], strange = encode_values(sent, columns[sent.field_name])
            wrong |= strange
        return wrong | ~self.accepts(self._encoder.fill_derived(X))

    def row_error(self, values: Any) -> ValidationError:
        """Return the error that says what is wrong with one row."""
        if not isinstance(values, Mapping):
            return ValidationError(
                "the row is not an object", expected="{column: value}", got=shown(values)
            )
        faults = self.faults(values)
        if len(faults) == 1:
            (fault,) = faults
            absent = field_of(values, fault.field) is ABSENT
            return ValidationError(
                f"the field {fault.field!r} is " + ("missing" if absent else "not valid"),
                expected=fault.expected,
                got=fault.got,
                remedy=fault.remedy,
            )
        return ValidationError(
            f"{len(faults)} fields are not valid: {described(faults)}", remedy="correct the fields"
        )

    def accepts(self, X: Floats) -> Flags:
        """Tell for encoded rows (n, p) which meet the contract, shape (n,).

        Refused are values out of bounds, unknown levels of closed categories, infinities, fractions
        in a column of whole numbers, and NaN where the contract wants a value.
        """
        right: Flags = np.logical_and(self._low <= X, self._high >= X)
        if self._any_nullable:
            right = right | (np.isnan(X) & self._nullable)
        if len(self._whole):
            whole = X.take(self._whole, axis=1)
            right[:, self._whole] &= (whole == np.floor(whole)) | np.isnan(whole)
        accepted: Flags = np.all(right, axis=1)
        return accepted

    def faults(self, values: Mapping[str, Any]) -> list[Fault]:
        """Return everything that is wrong with one row as it was sent; empty when it is right."""
        found = []
        for column in self._contract.features:
            fault = self._fault(column, values)
            if fault is not None:
                found.append(fault)
        return found

    def reasons(self, values: Mapping[str, Any]) -> str:
        """Return `faults` as one line of text."""
        return described(self.faults(values))

    def _fault(self, column: Column, values: Mapping[str, Any]) -> Fault | None:
        name = column.name
        if column.derive is not None:
            return None
        value = field_of(values, name)
        if value is ABSENT and column.source is not None:
            text = field_of(values, column.source)
            if text is not ABSENT:
                return self._part_fault(column, text)
        if value is ABSENT:
            if column.nullable:
                return None
            remedy = f"send the field {name!r}"
            return Fault(name, expectation(column), "nothing", remedy, "missing")
        try:
            code = self._encoder.cell(name, value)
        except ValidationError as error:
            got = error.got or shown(value)
            remedy = "send a value of that kind"
            return Fault(name, expectation(column), got, remedy, "wrong_kind")
        if math.isnan(code):
            if column.nullable:
                return None
            return Fault(name, expectation(column), shown(value), "send a value", "missing")
        low, high = _limits(column)
        fraction = column.kind == "integer" and math.isfinite(code) and not code.is_integer()
        if low <= code <= high and not fraction:
            return None
        remedy = "check the value and its unit"
        cause: Cause = "wrong_kind" if fraction and low <= code <= high else "out_of_bounds"
        if column.kind == "category":
            remedy, cause = "send one of the known categories", "unknown_level"
        return Fault(name, expectation(column), shown(value), remedy, cause)

    def _part_fault(self, column: Column, text: Any) -> Fault | None:
        """Return what is wrong with a value that is part of a text."""
        try:
            code = self._encoder.part(column.name, text)
        except ValidationError:
            code = math.inf
        if (math.isnan(code) and column.nullable) or bool(valid_codes(column, np.array([code]))[0]):
            return None
        name = column.field_name
        expected = f"a text with {expectation(column)} for {column.name}"
        return Fault(name, expected, shown(text), "correct the text", "out_of_bounds")

    def unknown_fields(self, values: Mapping[str, Any]) -> list[str]:
        """Return the fields of a row that the contract does not name, at most 20."""
        known = {column.name for column in self._contract.columns}
        return [name for name in values if name not in known][:20]


def valid_codes(column: Column, codes: Floats) -> Flags:
    """Tell which encoded values (n,) of one column are valid, as `RowCheck.accepts` does."""
    low, high = _limits(column)
    right: Flags = (low <= codes) & (codes <= high)
    if column.kind == "integer":
        right &= codes == np.floor(codes)
    return right | np.isnan(codes) if column.nullable else right


def described(faults: Sequence[Fault]) -> str:
    """Return faults as one line of text."""
    return "; ".join(f"{f.field}: expected {f.expected}, got {f.got}" for f in faults)


def _in_row(number: int, error: ValidationError) -> ValidationError:
    return ValidationError(
        f"row {number}: {error.message}",
        expected=error.expected,
        got=error.got,
        remedy=error.remedy,
    )


def _limits(column: Column) -> tuple[float, float]:
    """Return the least and the greatest code that is right."""
    if column.kind == "category":  # the code past the last level is that of all others
        return 0.0, float(len(column.categories) - (not column.open))
    low, high = column.bounds
    return -_LARGEST if low is None else low, _LARGEST if high is None else high


def expectation(column: Column) -> str:
    """Say what a column's values are: ``a number in [0.1, 20] (tens of thousands of USD)``."""
    if column.kind == "category":
        names = ", ".join(column.categories[:_SHOWN_CATEGORIES])
        more = len(column.categories) - _SHOWN_CATEGORIES
        text = ("a text such as " if column.open else "one of ") + names
        text += f" and {more} more" if more > 0 and not column.open else ""
    else:
        low, high = (None if bound is None else column.text_of(bound) for bound in column.bounds)
        date = column.kind == "datetime"
        text = _KINDS[column.kind]
        if low is not None and high is not None:
            text += f" in [{low}, {high}]"
        elif low is not None:
            text += f" not before {low}" if date else f" of at least {low}"
        elif high is not None:
            text += f" not after {high}" if date else f" of at most {high}"
        if column.unit:
            text += f" ({column.unit})"
    return text + (" or null" if column.nullable else "")


def shown(value: Any) -> str:
    """Return a value as a message shows it: JSON's words for nothing, cut when long or deep."""
    return "null" if value is None else cut_repr(value)


class TrainingRange:
    """Knows between which values each column lay in training.

    Args:
        contract: Names the columns.
        profile: The reference profile; columns that it lacks are open on both sides.
    """

    def __init__(self, contract: TableContract, profile: Mapping[str, Any]) -> None:
        self._columns = contract.features
        columns = profile.get("columns", {})
        least, most = [], []
        for column in self._columns:
            found = columns.get(column.name, {})
            low, high = found.get("min"), found.get("max")
            if column.kind == "category":  # one code more is that of all other levels
                high = len(column.categories) - 1
            if column.learned:  # training rows had such levels too, each in one row
                high = len(column.categories)
            least.append(-np.inf if low is None else float(low))
            most.append(np.inf if high is None else float(high))
        self._least, self._most = np.array(least), np.array(most)

    def outside(self, X: Floats) -> Flags:
        """Return which values (n, p) lie outside; missing ones do not, unknown levels do."""
        beyond: Flags = (self._least > X) | (self._most < X)
        return beyond

    def notes(self, X: Floats) -> dict[int, list[str]]:
        """Return what the sender of encoded rows (n, p) should know, by row; usual rows are absent.

        Named are values that were missing and so imputed, those outside the training range, and
        levels of open categories that are not known.
        """
        # written so that NaN counts as outside: one test finds both what is odd and what is missing
        odd = ~((self._least <= X) & (self._most >= X))
        notes: dict[int, list[str]] = {}
        if odd.any():
            for row, at in np.argwhere(odd).tolist():
                notes.setdefault(row, []).append(self._note(self._columns[at], at, X[row, at]))
        return notes

    def _note(self, column: Column, at: int, value: float) -> str:
        if np.isnan(value):
            if column.role == "timestamp":
                day = column.text_of(self._most[at])
                return f"{column.name} was not given: valued as of {day}, the newest one known"
            return f"{column.name} was missing and has been imputed"
        if column.kind == "category":
            return (
                f"{column.name} is none of the {len(column.categories)} known levels: it is valued "
                "as an average one"
            )
        shown, least, most = map(column.text_of, (value, self._least[at], self._most[at]))
        return f"{column.name} {shown} lies outside the training range [{least}, {most}]"
