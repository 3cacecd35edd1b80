"""The first line of a CSV: how its cells are separated, and the columns' names."""

from __future__ import annotations

import csv

from tasador.core.errors import SourceError
from tasador.data.contract import TableContract

_DELIMITERS = (",", ";", "\t", "|")
#: A first line above this is no header, and would be held in memory whole.
LONGEST_HEADER = 1 << 20


def read_header(first_line: bytes, contract: TableContract) -> tuple[str, list[str]]:
    """Return the separator and the columns' names in a CSV's first line.

    The separator is the one that splits the line into most of the contract's columns.

    Raises:
        SourceError: The line is empty or no text.
    """
    head = first_line.decode("utf-8-sig", errors="replace")
    if "\x00" in head or not head.strip():
        raise _no_header("bytes" if head.strip() else "an empty line")
    delimiter = max(_DELIMITERS, key=lambda mark: _hits(head, mark, contract))
    try:
        return delimiter, [name.strip() for name in next(csv.reader([head], delimiter=delimiter))]
    except csv.Error as error:
        raise _no_header(str(error)) from None


def _hits(head: str, mark: str, contract: TableContract) -> int:
    names = {name.strip().strip('"') for name in head.split(mark)}
    return len(names.intersection(contract.feature_names))


def _no_header(got: str) -> SourceError:
    return SourceError("the file is no table", expected="a line of column names", got=got)
