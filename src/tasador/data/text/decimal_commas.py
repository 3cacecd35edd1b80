"""Numbers as spreadsheets write them where the decimal mark is a comma: ``1.234,5``.

A contract says how the training table wrote its numbers. Who sends rows may write them in another
way: a spreadsheet in Spanish separates cells by semicolons and decimals by commas. Whether a file
does is decided once, for all of its columns of plain numbers. What is written for such a
spreadsheet is read again as the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from tasador.contract.formats import PLAIN
from tasador.contract.model import TableContract

if TYPE_CHECKING:
    import pyarrow as pa

_NUMBER = r"^\s*[-+]?(?:\d{1,3}(?:\.\d{3})+|\d+)(?:,\d+)?(?:[eE][-+]?\d+)?\s*$"
_WRITTEN = re.compile(_NUMBER)
_COMMA, _CLEAR = re.compile(","), re.compile(r",(?:\d{1,2}|\d{4,})\s*$|\.\d{3},")
_LOOKED_AT = 1000
_POINT = r"^(\s*[-+]?\d*)\.(\d+(?:[eE][-+]?\d+)?\s*)$"


def plain_numbers(contract: TableContract) -> frozenset[str]:
    """Return the names of a contract's columns, the target too, whose texts are plain numbers."""
    return frozenset(
        column.name
        for column in (*contract.columns, contract.target.column)
        if column.kind in ("number", "integer") and column.format == PLAIN and not column.from_text
    )


def columns_with_commas(
    names: Sequence[str], rows: Iterable[Sequence[str]], delimiter: str, contract: TableContract
) -> frozenset[str]:
    """Return the columns of a file whose numbers are written as ``1.234,5``.

    These are all of the contract's plain numbers, where one has a decimal comma and none a decimal
    point. Where cells are separated by commas, ``1,234`` shows nothing: it may be a thousand.

    Args:
        names: The file's columns.
        rows: Its first rows, as texts.
        delimiter: What separates cells.
        contract: Says which columns are plain numbers.
    """
    shown = _CLEAR if delimiter == "," else _COMMA
    plain = plain_numbers(contract)
    at = [i for i, name in enumerate(names) if name in plain]
    commas = False
    for cells in islice(rows, _LOOKED_AT):
        if len(cells) != len(names):
            continue
        for cell in (cells[i] for i in at):
            if not _WRITTEN.match(cell):
                if "." in cell:
                    return frozenset()
            elif shown.search(cell):
                commas = True
    return plain if commas else frozenset()


def without_commas(cell: str) -> str:
    """Return ``1234.5`` for ``1.234,5``; what is no such number stays as it is."""
    return cell.replace(".", "").replace(",", ".") if _WRITTEN.match(cell) else cell


def array_without_commas(array: pa.Array) -> pa.Array:
    """Return an array of texts with `without_commas` applied."""
    import pyarrow.compute as pc

    number = pc.replace_substring(pc.replace_substring(array, ".", ""), ",", ".")
    return pc.if_else(pc.match_substring_regex(array, _NUMBER), number, array)


def with_comma(value: object) -> object:
    """Return ``1234,5`` for 1234.5, a number or a text; what is no such number stays as it is."""
    if isinstance(value, float):
        return str(value).replace(".", ",")
    return re.sub(_POINT, r"\1,\2", value) if isinstance(value, str) else value


def batch_with_commas(batch: pa.RecordBatch, plain: frozenset[str]) -> pa.RecordBatch:
    """Return a batch whose fractions are texts with a decimal comma.

    Args:
        batch: Any columns.
        plain: Columns whose texts are numbers, see `plain_numbers`; other texts stay.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_floating(field.type):
            columns.append(pc.replace_substring(column.cast(pa.string()), ".", ","))
        elif field.name in plain and pa.types.is_string(field.type):
            columns.append(pc.replace_substring_regex(column, _POINT, r"\1,\2"))
        else:
            columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
