"""Groups of rows by the values of a column: levels, parts of equal size, rows without a value."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.cells import decoded_cell
from tasador.contract.derived import Deriver
from tasador.contract.encoding import encode_values, sent_as
from tasador.contract.model import Column, TableContract
from tasador.data.table import Part
from tasador.metrics.ratio_study import (
    FEWEST_OF_GROUP,
    MISSING,
    Flags,
    level_groups,
    quantile_groups,
)

Floats = NDArray[np.float64]
#: A column's values (n,): numbers with NaN, or texts with None, where there is none.
Values = Floats | list[str | None]

#: More different numbers than these are grouped by parts; whole ones may be codes of areas.
_MOST_NUMBERS, _MOST_WHOLE = 20, 200
_PARTS = 5


def column_values(series: pl.Series) -> Values:
    """Return the values of a column of a file: numbers where they are too many to be levels."""
    texts = series.cast(pl.String).str.strip_chars()
    texts = texts.set(texts == "", None)
    values = texts.drop_nulls().unique()
    if len(values) > _MOST_NUMBERS:
        numbers = values.cast(pl.Float64, strict=False)
        whole = bool((numbers == numbers.floor()).all())
        if numbers.null_count() == 0 and len(values) > (_MOST_WHOLE if whole else _MOST_NUMBERS):
            found: Floats = texts.cast(pl.Float64).fill_null(np.nan).to_numpy()
            return found
    return texts.to_list()


def declared_groups(
    contract: TableContract, part: Part, frame: pl.DataFrame
) -> dict[str, dict[str, Flags]]:
    """Return the rows (n,) of each group by the columns of the contract's ``fairness``.

    Numbers are cut into five parts of equal size, dates into years; levels that few rows have are
    one group, rows without a value another.

    Args:
        contract: Names the columns.
        part: The rows; their places in the table are known.
        frame: The table as it was read.
    """
    found = {}
    for name in contract.fairness:
        column = contract.column(name)
        values = _values(contract, column, part, frame)
        if isinstance(values, list):
            groups = level_groups(values, FEWEST_OF_GROUP)
            missing = np.array([value is None for value in values], dtype=np.bool_)
        else:
            groups, missing = quantile_groups(values, _PARTS, spans=True), np.isnan(values)
        found[name] = groups | ({MISSING: missing} if missing.any() else {})
    return found


def rival_values(contract: TableContract, part: Part, frame: pl.DataFrame) -> dict[str, Floats]:
    """Return other people's estimates of the rows, (n,) by column; NaN where there is none.

    Args:
        contract: Names the columns, by their role; those that the table lacks are left out.
        part: The rows; their places in the table are known.
        frame: The table as it was read.
    """
    found = {}
    for column in contract.rivals:
        names = (column.name,) if column.derive is None else column.derive.columns
        if all(name in contract.feature_names or name in frame.columns for name in names):
            found[column.name] = _codes(contract, column, part, frame)
    return found


def _codes(contract: TableContract, column: Column, part: Part, frame: pl.DataFrame) -> Floats:
    """Return the encoded values (n,) of a column, one of the features or not."""
    if column in contract.features:
        codes: Floats = part.X[:, contract.position(column.name)]
        return codes
    if column.derive is not None:
        taken = [contract.column(name) for name in column.derive.columns]
        derive = Deriver(column.derive, tuple(c.kind for c in taken), taken[0].categories)
        return derive(np.column_stack([_codes(contract, c, part, frame) for c in taken]))
    assert part.row is not None  # noqa: S101 - the rows of a run have their places
    sent = sent_as(column, frame.columns)
    assert sent is not None  # noqa: S101 - looked at by the callers, or by validation
    codes, wrong = encode_values(sent, frame[sent.field_name].gather(part.row))
    codes[wrong] = np.nan
    return codes


def _values(contract: TableContract, column: Column, part: Part, frame: pl.DataFrame) -> Values:
    if column not in contract.features and column.kind not in ("number", "integer"):
        assert part.row is not None  # noqa: S101 - the rows of a run have their places
        sent = sent_as(column, frame.columns)
        assert sent is not None  # noqa: S101 - validation has seen to it
        return column_values(frame[sent.field_name].gather(part.row))
    codes = _codes(contract, column, part, frame)
    if column.kind in ("number", "integer"):
        if len(np.unique(codes[~np.isnan(codes)])) > _MOST_NUMBERS:
            return codes
        return [None if np.isnan(code) else f"{code:g}" for code in codes.tolist()]
    cells = [decoded_cell(column, code) for code in codes.tolist()]
    if column.kind == "datetime":
        return [None if cell is None else str(cell.year) for cell in cells]
    return cells
