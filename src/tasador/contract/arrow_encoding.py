"""Arrow columns encoded as they lie in memory: the codes of `encode`, without an object a cell.

Numbers are cast, dates are divided, texts and categories are looked up once for each different
value. What is left over (a word among numbers, a list among texts) goes through the encoder's own
cells, so that there is one definition of what a value means.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.encoding import encode_values, without
from tasador.contract.formats import PLAIN
from tasador.contract.model import Column

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_DAY_S = 86_400.0
#: Texts that Arrow's cast and Python's `float` read alike; NaN is a word to the encoder.
_PLAIN_NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
#: Microseconds above which a double is not exact, and Python's and numpy's quotients differ.
_EXACT_MICROSECONDS = 1 << 53


def encode_arrow(column: Column, values: pa.Array) -> tuple[Floats, Flags]:
    """Encode a column without raising; equal to `encode_values` on its values as objects.

    Args:
        column: What the values should be.
        values: An Arrow array of n values, of any type.

    Returns:
        Codes of shape (n,), NaN where missing or wrong; and where they are of a different type.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        return _by_dictionary(column, values)
    values = plain_array(values)
    kind, types = values.type, pa.types
    if column.from_text:
        return _by_different_value(column, values)
    if column.kind in ("number", "integer"):
        if types.is_integer(kind) or types.is_floating(kind):
            return _right(without(_doubles(values), column.format.missing_numbers))
        if _is_text(kind) and column.format == PLAIN:
            return _text_numbers(column, values)
    if column.kind == "datetime":
        if types.is_date32(kind):
            return _right(_doubles(values.cast(pa.int32())) * _DAY_S)
        if types.is_timestamp(kind):
            return _timestamps(column, values)
    return _by_different_value(column, values)


def plain_array(values: pa.Array) -> pa.Array:
    """Return an array whose values are what JSON knows, or dates.

    Dictionaries are spelled out, decimals become doubles, moments get microseconds, and bytes the
    text that they are in UTF-8 (what is none is replaced).
    """
    import pyarrow as pa

    kind, types = values.type, pa.types
    if types.is_dictionary(kind):
        values = values.dictionary_decode()
        kind = values.type
    if types.is_decimal(kind):  # Arrow's own cast of 0.7 gives 0.7000000000000001
        return values.cast(pa.string()).cast(pa.float64())
    if types.is_timestamp(kind):
        return values.cast(pa.timestamp("us", kind.tz), safe=False)
    if types.is_date64(kind):
        return values.cast(pa.date32(), safe=False)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        try:
            return values.cast(pa.large_string() if types.is_large_binary(kind) else pa.string())
        except pa.ArrowInvalid:
            texts = [
                None if v is None else v.decode("utf-8", "replace") for v in values.to_pylist()
            ]
            return pa.array(texts, pa.string())
    return values


def plain_values(values: pa.Array) -> list[Any]:
    """Return the array's values as objects: see `plain_array`. Those of a dictionary are shared."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        found = [*plain_values(values.dictionary), None]
        return [found[-1 if at is None else at] for at in values.indices.to_pylist()]
    return _objects(plain_array(values))


def rows_of(batch: pa.RecordBatch, columns: Iterable[Column], rows: Iterable[int]) -> list[Any]:
    """Return some rows of a batch as dicts of the values of those columns that are there."""
    import pyarrow as pa

    positions = pa.array(rows, pa.int64())
    there = batch.schema.names
    wanted = (name for c in columns for name in (c.name, c.source) if name in there)
    names = list(dict.fromkeys(wanted))
    found = {name: plain_values(batch.column(name).take(positions)) for name in names}
    return [
        dict(zip(found, cells, strict=True)) for cells in zip(*found.values(), strict=True)
    ] or [{} for _ in range(len(positions))]


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _right(codes: Floats) -> tuple[Floats, Flags]:
    return codes, np.zeros(len(codes), dtype=np.bool_)


def _doubles(values: pa.Array) -> Floats:
    """Return numbers as doubles, NaN where missing; a view where they are doubles already."""
    import pyarrow as pa

    result: Floats = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return result


def _text_numbers(column: Column, values: pa.Array) -> tuple[Floats, Flags]:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        codes = _doubles(values)
    except pa.ArrowInvalid:
        pass
    else:
        strange = np.isnan(codes)
        if not strange.any():
            return _right(codes)
        return _mended(column, values, codes, strange & _known(values))
    plain = pc.match_substring_regex(values, _PLAIN_NUMBER)
    codes = _doubles(pc.if_else(plain, values, pa.scalar(None, values.type)))
    strange = ~plain.fill_null(True).to_numpy(zero_copy_only=False)
    return _mended(column, values, codes, strange)


def _known(values: pa.Array) -> Flags:
    result: Flags = values.is_valid().to_numpy(zero_copy_only=False)
    return result


def _mended(
    column: Column, values: pa.Array, codes: Floats, strange: Flags
) -> tuple[Floats, Flags]:
    """Encode the strange ones cell by cell, among those that Arrow has read."""
    import pyarrow as pa

    at = np.flatnonzero(strange)
    wrong = np.zeros(len(codes), dtype=np.bool_)
    if len(at):
        codes = codes.copy()
        codes[at], wrong[at] = _by_different_value(column, values.take(pa.array(at)))
    return codes, wrong


def _timestamps(column: Column, values: pa.Array) -> tuple[Floats, Flags]:
    import pyarrow as pa

    known = _known(values)
    since = values.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    codes = np.where(known, since / 1e6, np.nan)
    return _mended(column, values, codes, known & (np.abs(since) >= _EXACT_MICROSECONDS))


def _by_different_value(column: Column, values: pa.Array) -> tuple[Floats, Flags]:
    import pyarrow as pa

    try:
        encoded = values.dictionary_encode(null_encoding="encode")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # lists, structs...
        return encode_values(column, _objects(values))
    codes, wrong = encode_values(column, _objects(encoded.dictionary))
    at = encoded.indices.to_numpy(zero_copy_only=False)
    return codes[at], wrong[at]


def _by_dictionary(column: Column, values: pa.Array) -> tuple[Floats, Flags]:
    """Encode each different value once: spelt out, a long one that repeats would fill memory."""
    import pyarrow as pa

    codes, wrong = encode_arrow(column, values.dictionary)
    missing = encode_arrow(column, pa.nulls(1, values.dictionary.type))
    at = values.indices.cast(pa.int64()).fill_null(len(codes)).to_numpy(zero_copy_only=False)
    return np.append(codes, missing[0])[at], np.append(wrong, missing[1])[at]


def _objects(values: pa.Array) -> list[Any]:
    """Return values as objects; one that Python has none for, as the year 12 000, is shown."""
    try:
        found: list[Any] = values.to_pylist()
    except (ValueError, OverflowError):
        return [_object(value) for value in values]
    return found


def _object(value: Any) -> Any:
    import pyarrow as pa

    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return _Unreadable(str(value.cast(pa.string())))


class _Unreadable:
    """A value of a file that is none in Python."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text
