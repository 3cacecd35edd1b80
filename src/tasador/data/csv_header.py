"""The first line of a CSV: how its cells are separated, and the columns' names."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import Any

from tasador.contract.model import TableContract, plain_name
from tasador.core.errors import SourceError

_DELIMITERS = (",", ";", "\t", "|")
#: A first line above this is no header, and would be held in memory whole.
LONGEST_HEADER = 1 << 20
#: Longest cell: Python's own limit of 128 KiB refuses a long text beside the row's values, and none
#: at all would let one quote that is never closed take the whole file into memory.
_LONGEST_CELL = 1 << 24


def csv_rows(lines: Iterable[str], delimiter: str = ",") -> Any:
    """Return a `csv.reader` of `lines` for cells of up to 16 MiB."""
    allow_long_cells()
    return csv.reader(lines, delimiter=delimiter)


def allow_long_cells() -> None:
    """Let this process's `csv` readers take cells of up to 16 MiB."""
    csv.field_size_limit(_LONGEST_CELL)


def read_header(first_line: bytes, contract: TableContract) -> tuple[str, list[str]]:
    """Return the separator and the columns' names (see `plain_name`) in a CSV's first line.

    The separator is the one that splits the line into most of the contract's columns.

    Raises:
        SourceError: The line is empty or no text.
    """
    if len(first_line) >= LONGEST_HEADER:
        raise _no_header(f"a first line of more than {LONGEST_HEADER} bytes")
    head = first_line.decode("utf-8-sig", errors="replace")
    if "\x00" in head or not head.strip():
        raise _no_header("bytes" if head.strip() else "an empty line")
    delimiter = max(_DELIMITERS, key=lambda mark: _hits(head, mark, contract))
    try:
        cells = next(csv_rows([head], delimiter))
        return delimiter, [plain_name(name.strip()) for name in cells]
    except csv.Error as error:
        raise _no_header(str(error)) from None


def _hits(head: str, mark: str, contract: TableContract) -> int:
    names = {plain_name(name.strip().strip('"')) for name in head.split(mark)}
    return len(names.intersection(contract.readable_names))


def _no_header(got: str) -> SourceError:
    return SourceError("the file is no table", expected="a line of column names", got=got)
