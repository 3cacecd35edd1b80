"""Check a table against its contract, row by row and as a whole, and encode what passes.

A row that does not meet the contract is refused with its number and its first fault. The table
as a whole is refused when too many rows are, or when nothing could be learned from it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.encoding import Encoder, encode_values, sent_as
from tasador.contract.model import Column, TableContract
from tasador.contract.row_check import expectation, valid_codes
from tasador.core.errors import ValidationError, closest
from tasador.data.sale_filters import exclude_rows
from tasador.data.table import RefusedRow, Table, ValidatedTable

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

_SHOWN_REASONS = 5
_CAP_WARNING_SHARE = 0.01


def validate_table(
    table: Table,
    contract: TableContract,
    *,
    max_refused_share: float = 0.05,
    min_rows: int = 100,
) -> ValidatedTable:
    """Return the rows of `table` that meet `contract`, encoded, and the others with reasons.

    The result is the same whether the columns were read as text or came typed. Rows that the
    contract excludes are left out before anything is checked, and are no refused ones.

    Args:
        table: What was read.
        contract: What it should be.
        max_refused_share: Share of rows in [0, 1] that may be refused.
        min_rows: Number of rows that must be left.

    Raises:
        ValidationError: A column is missing or empty, too many rows are refused (with the most
            frequent reasons and example rows), too few are left, or the target is constant.
    """
    frame = table.frame
    warnings = list(table.warnings) + _check_columns(frame, contract)
    excluded, notes = exclude_rows(frame, contract)
    faults = _Faults(frame, contract, [row for rows in excluded.values() for row in rows])
    encoded = [_check_column(frame, column, faults) for column in contract.features]
    for column in contract.identifiers:
        faults.note(_is_missing(frame, column), column.name, "a value")
    weight = _weights(frame, contract, faults)
    y = _check_column(frame, contract.target.column, faults, log=contract.target.transform == "log")
    X = Encoder(contract).fill_derived(np.column_stack(encoded))
    right = (faults.first < 0) & ~faults.excluded
    unlabelled = np.isnan(y) & right
    _check_refused(faults, frame.height - int(faults.excluded.sum()), max_refused_share)
    kept = right & ~unlabelled
    if unlabelled.any():
        warnings.append(
            f"{int(unlabelled.sum())} row(s) have no {contract.target.name!r}: left out of "
            "training; `tasador predict` values them"
        )
    row = np.flatnonzero(kept).astype(np.int64)
    _check_rest(len(row), min_rows, y[kept], contract, int(faults.excluded.sum()))
    left = frame.filter(pl.Series(kept))
    hashes = _row_hashes(left, contract, X[kept], y[kept])
    warnings += notes + _warnings(contract, X[kept], y[kept], hashes)
    return ValidatedTable(
        contract=contract,
        X=np.ascontiguousarray(X[kept]),
        y=y[kept],
        row_hash=hashes,
        row=row,
        refused=faults.refused(),
        content_hash=table.content_hash,
        origin=table.origin,
        source=table.source,
        warnings=tuple(warnings),
        property_hash=_property_hashes(left, contract),
        excluded=excluded,
        weight=None if weight is None else weight[kept],
    )


class _Faults:
    """The first fault of each row.

    Attributes:
        first: Shape (n,): position in `kinds` of the row's first fault, -1 for none.
        kinds: (column, what was expected) of each check that found something.
        excluded: Shape (n,): rows that are not checked.
    """

    def __init__(self, frame: pl.DataFrame, contract: TableContract, excluded: list[int]) -> None:
        self._frame = frame
        self.excluded = np.zeros(frame.height, dtype=np.bool_)
        self.excluded[excluded] = True
        self._sources = {c.name: c.source for c in contract.features if c.source is not None}
        self.first = np.full(frame.height, -1, dtype=np.int64)
        self.kinds: list[tuple[str, str]] = []

    def note(self, wrong: Flags, column: str, expected: str) -> None:
        """Note rows in which `column` is not what is expected; earlier faults stay."""
        new = wrong & (self.first < 0) & ~self.excluded
        if new.any():
            self.first[new] = len(self.kinds)
            self.kinds.append((column, expected))

    def value(self, row: int) -> str:
        """Return the offending cell of a refused row, for a message."""
        name = self.kinds[int(self.first[row])][0]
        if name not in self._frame.columns:  # part of a text
            name = self._sources[name]
        cell = self._frame[name][row]
        shown = "nothing" if cell is None else repr(cell)
        return shown if len(shown) <= 60 else shown[:57] + "..."

    def refused(self) -> tuple[RefusedRow, ...]:
        """Return one `RefusedRow` for each row with a fault, in table order."""
        refused = []
        for row in np.flatnonzero(self.first >= 0).tolist():
            column, expected = self.kinds[int(self.first[row])]
            refused.append(RefusedRow(row, column, f"expected {expected}, got {self.value(row)}"))
        return tuple(refused)

    def summary(self) -> str:
        """Return the most frequent faults with counts and an example row each."""
        counts = Counter(self.first[self.first >= 0].tolist()).most_common()
        parts = []
        for kind, count in counts[:_SHOWN_REASONS]:
            column, expected = self.kinds[kind]
            row = int(np.flatnonzero(self.first == kind)[0])
            parts.append(
                f"{column!r}: {count} row(s) without {expected}, e.g. row {row + 1}: "
                f"{self.value(row)}"
            )
        more = len(counts) - _SHOWN_REASONS
        return "; ".join(parts) + (f"; and {more} more reason(s)" if more > 0 else "")


def _check_columns(frame: pl.DataFrame, contract: TableContract) -> list[str]:
    """Refuse a table without rows or without a column it needs; warn of columns it does not."""
    if frame.height == 0:
        raise ValidationError("the table has no rows", expected="at least one row")
    used = [c for c in contract.features if c.derive is None]
    named = {contract.comparables.identifier, *contract.comparables.label, *contract.fairness}
    identity = [
        c for c in contract.columns
        if c.derive is None and (c.role in ("property", "weight") or c.name in named)
    ]  # fmt: skip
    needed = list(dict.fromkeys(
        c.name if sent is None else sent.field_name
        for c in (*used, *contract.identifiers, *identity, contract.target.column)
        for sent in [sent_as(c, frame.columns)]
    ))  # fmt: skip
    known = {*needed, *(c.name for c in contract.columns)}
    extra = [name for name in frame.columns if name not in known]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise ValidationError(
            f"the table lacks {len(missing)} column(s): {', '.join(map(repr, missing))}",
            got=f"columns that the contract does not name: {', '.join(map(repr, extra[:20]))}"
            if extra
            else "no other column either",
            remedy=_rename_hint(missing, extra),
        )
    if not extra:
        return []
    names = ", ".join(map(repr, extra[:20]))
    return [f"{len(extra)} column(s) that the contract does not name are ignored: {names}"]


def _rename_hint(missing: list[str], extra: list[str]) -> str:
    folded = {name.casefold().strip(): name for name in extra}
    hints = []
    for name in missing:
        found = closest(name.casefold(), folded)
        if found is not None:
            hints.append(f"{folded[found]!r} may be {name!r}")
    if hints:
        return f"rename the columns in the file or in the contract: {', '.join(hints)}"
    return "add the columns to the file, or take them out of the contract"


def _check_column(
    frame: pl.DataFrame, column: Column, faults: _Faults, *, log: bool = False
) -> Floats:
    """Encode one column and note the rows in which it is wrong; NaN where there is no value."""
    if column.derive is not None:  # computed from the others afterwards
        return np.full(frame.height, np.nan)
    sent = sent_as(column, frame.columns)
    assert sent is not None  # noqa: S101 - `_check_columns` has seen to it
    codes, wrong = encode_values(sent, frame[sent.field_name])
    missing = np.isnan(codes) & ~wrong
    if missing.all() and not sent.from_text:
        raise ValidationError(
            f"the column {column.name!r} has no value in any row",
            remedy="fill it in, or take it out of the contract",
        )
    note = faults.note
    if not column.nullable:
        note(missing, column.name, "a value")
    note(np.isinf(codes), column.name, "a finite number")
    note(wrong | ~(missing | valid_codes(column, codes)), column.name, expectation(column))
    if log:
        note(codes <= 0, column.name, "a number above 0 (models are fitted on its logarithm)")
    return codes


def _is_missing(frame: pl.DataFrame, column: Column) -> Flags:
    if column.nullable:
        return np.zeros(frame.height, dtype=np.bool_)
    flags: Flags = frame[column.name].is_null().to_numpy()
    return flags


def _check_refused(faults: _Faults, rows: int, max_refused_share: float) -> None:
    refused = int((faults.first >= 0).sum())
    if refused > max_refused_share * rows:
        raise ValidationError(
            f"{refused} of {rows} rows do not meet the contract",
            expected=f"at most {max_refused_share:.1%} of the rows refused",
            got=f"{refused / rows:.1%}: {faults.summary()}",
            remedy="fix the file, or widen the contract where it is wrong",
        )


def _check_rest(
    rows: int, min_rows: int, y: Floats, contract: TableContract, excluded: int
) -> None:
    if rows < min_rows:
        raise ValidationError(
            "the table has too few usable rows",
            expected=f"at least {min_rows}",
            got=f"{rows}"
            + (f", {excluded} others are excluded by the contract" if excluded else ""),
            remedy="add rows: an estimate learned from so few would not be worth trusting",
        )
    if y.min() == y.max():
        raise ValidationError(
            f"the target {contract.target.name!r} is constant",
            expected="at least two different values",
            got=f"{y[0]:g} in all {rows} rows",
            remedy="choose another target, or check how the file was made",
        )


def _warnings(contract: TableContract, X: Floats, y: Floats, hashes: Hashes) -> list[str]:
    """Return what is acceptable but worth knowing."""
    notes = []
    for position, column in enumerate(contract.features):
        values = X[~np.isnan(X[:, position]), position]
        if len(values) == 0:
            notes.append(f"{column.name!r} has no value in any usable row")
        elif values.min() == values.max() and not (
            column.kind == "category" and len(values) < len(X)  # there or not there
        ):
            what = "has a single category" if column.kind == "category" else "is constant"
            notes.append(f"{column.name!r} {what}: it cannot explain anything")
    duplicates = len(hashes) - len(np.unique(hashes))
    if duplicates:
        notes.append(f"{duplicates} row(s) repeat an earlier row exactly")
    cap = contract.target.cap
    at_cap = 0.0 if cap is None else float((y >= cap).mean())
    if at_cap >= _CAP_WARNING_SHARE:
        notes.append(
            f"{at_cap:.1%} of the rows have a target at its cap of {cap:g}: their true value is "
            "higher and unknown"
        )
    return notes


def _row_hashes(frame: pl.DataFrame, contract: TableContract, X: Floats, y: Floats) -> Hashes:
    """Hash each row's content; shape (n,).

    Column hashes are summed, so that neither the order of rows nor that of columns matters.
    """
    total = _hash_floats(y, contract.target.name)
    for position, name in enumerate(contract.feature_names):
        total = total + _hash_floats(X[:, position], name)
    for column in contract.identifiers:
        total = total + _hash_texts(frame[column.name], column.name)
    return mix(total)


def _property_hashes(frame: pl.DataFrame, contract: TableContract) -> Hashes | None:
    """Hash what was sold; shape (n,), a row without an identity being one of its own."""
    column = contract.with_role("property")
    if column is None:
        return None
    found = _hash_texts(frame[column.name], column.name)
    nobody = frame[column.name].is_null().to_numpy()
    return np.where(nobody, mix(np.arange(len(found), dtype=np.uint64)), found)


def _weights(frame: pl.DataFrame, contract: TableContract, faults: _Faults) -> Floats | None:
    """Return how much each row counts; shape (n,), 1 where the cell is empty."""
    column = contract.with_role("weight")
    if column is None:
        return None
    low, high = column.bounds
    bounds = (0.0 if low is None else max(low, 0.0), high)
    found = _check_column(frame, replace(column, nullable=True, bounds=bounds), faults)
    return np.where(np.isnan(found), 1.0, found)


def mix(values: Hashes) -> Hashes:
    """Scatter 64-bit values evenly (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hash_floats(values: Floats, name: str) -> Hashes:
    canonical = np.where(np.isnan(values), np.nan, values) + 0.0  # one NaN, no minus zero
    return mix(mix(canonical.view(np.uint64)) ^ np.uint64(_digest(name)))


def _hash_texts(values: pl.Series, name: str) -> Hashes:
    texts = values.cast(pl.String).str.strip_chars().str.replace(r"\.0+$", "")
    known: dict[Any, int] = {None: 0}
    for text in texts.unique().drop_nulls():
        known[text] = _digest(text)
    hashes = np.array([known[text] for text in texts], dtype=np.uint64)
    return mix(hashes ^ np.uint64(_digest(name)))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
