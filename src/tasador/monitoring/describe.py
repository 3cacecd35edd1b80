"""What the columns of a table are, when nobody has written a contract for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tasador.core.errors import ValidationError
from tasador.data.cells import MISSING_TEXTS
from tasador.data.contract import Column, ColumnRole, named_as_identifier
from tasador.data.encode import encode_values
from tasador.monitoring.plain import PlainTable, is_flag

#: Levels above which texts are not watched as categories.
MOST_LEVELS = 200
#: Characters above which a text is prose, not a category.
LONGEST_LEVEL = 1000
_NESTED = ("list", "large_list", "fixed_size_list", "struct", "map")
_PARSED = 0.98
_LOOKED_AT = 20_000


def describe_columns(
    table: PlainTable, ignored: set[str], segment: str | None = None
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Decide what the columns are by looking at the table.

    Args:
        table: The reference.
        ignored: Columns that are no features.
        segment: Column by which figures are reported apart.

    Returns:
        The columns to watch, and a sentence for each one set aside.

    Raises:
        ValidationError: Nothing is left to watch, or there is no column called `segment`.
    """
    names = [name for name in table.names if name not in ignored]
    if segment is not None and segment not in names:
        raise ValidationError(f"there is no column {segment!r} to report segments by",
                              expected=f"one of {', '.join(names[:20])}")  # fmt: skip
    flat = [name for name in names if not table.types[name].startswith(_NESTED)]
    first = next(table.batches(flat), None) if flat else None
    columns: list[Column] = []
    notes = []
    texts = []
    for name in names:
        kind = (
            None
            if first is None or name not in first
            else _kind(name, first[name].slice(0, _LOOKED_AT))
        )
        if kind == "category":
            texts.append(name)
        if kind is None:
            notes.append(f"{name!r} is not watched: it identifies rows or has no usable type")
        else:
            columns.append(Column(name, kind, nullable=True))  # type: ignore[arg-type]
    levels = _levels(table, texts)
    kept = []
    for column in columns:
        found = levels.get(column.name, ())
        if found is None:
            notes.append(
                f"{column.name!r} is not watched: more than {MOST_LEVELS} texts, or one of more "
                f"than {LONGEST_LEVEL} characters"
            )
            continue
        role: ColumnRole | None = "segment" if column.name == segment else None
        if column.kind == "datetime":
            role = "timestamp"
            notes.append(f"{column.name!r} is a time, which moves on: only gaps in it are compared")
        exact = not is_flag(found)  # one file says True, another one true
        kept.append(replace(column, categories=found, role=role, case_sensitive=exact))
    if not kept:
        raise ValidationError(
            f"nothing in {table.location} can be watched",
            expected="a column of numbers, times or categories",
            got="; ".join(notes[:5]) or "no columns",
        )
    return tuple(kept), tuple(notes)


def _kind(name: str, array: Any) -> str | None:
    import pyarrow as pa

    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.cast(kind.value_type)
        kind = kind.value_type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "datetime"
    values = [value for value in array.to_pylist() if not _is_missing(value)]
    unique = len(set(map(str, values))) == len(values) > 20
    if pa.types.is_integer(kind):
        return None if unique and named_as_identifier(name) else "integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_boolean(kind):
        return "category"
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return "number" if pa.types.is_null(kind) else None
    for guess in ("number", "datetime"):
        _, wrong = encode_values(Column(name, guess), values)
        if values and wrong.mean() <= 1 - _PARSED:
            return None if unique and named_as_identifier(name) else guess
    return "category"


def _is_missing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in MISSING_TEXTS
    return value is None


def _levels(table: PlainTable, names: list[str]) -> dict[str, tuple[str, ...] | None]:
    """Return the sorted texts of each column; None where there are too many."""
    found: dict[str, set[str]] = {name: set() for name in names}
    prose: set[str] = set()
    for batch in table.batches(names) if names else ():
        for name, array in batch.items():
            if name not in prose and len(found[name]) <= MOST_LEVELS:
                some = {_text(one) for one in array.unique().to_pylist() if not _is_missing(one)}
                found[name] |= some
                if any(len(text) > LONGEST_LEVEL for text in some):
                    prose.add(name)
                    found[name].clear()
    return {
        name: None if name in prose or len(some) > MOST_LEVELS else tuple(sorted(some))
        for name, some in found.items()
    }


def _text(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    return str(value).strip()
