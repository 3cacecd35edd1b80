"""Tables sent as files: CSV and Parquet, read piece by piece in bounded memory.

The header is checked before any row is valued. After that one bad row is that row's fault alone:
it comes out as a `UnreadableRow`, and the rest goes on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from tasador.core.errors import MissingExtraError, SourceError
from tasador.data.arrow_columns import plain_values
from tasador.data.contract import TableContract, plain_name
from tasador.data.csv_header import LONGEST_HEADER, csv_rows, read_header
from tasador.data.row_check import expectation, shown
from tasador.serving.problems import Problem, fault, wrong_media_type

CSV_TYPES = frozenset({"text/csv", "application/csv"})
PARQUET_TYPES = frozenset(
    {"application/vnd.apache.parquet", "application/x-parquet", "application/parquet"}
)
#: A Parquet file inflates; one row group above this is refused.
_LARGEST_GROUP = 1 << 31


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row that cannot be read, and why."""

    reason: str


Row = dict[str, Any] | UnreadableRow


class Upload:
    """A table within a file.

    Args:
        file: Positioned at its beginning.
        media_type: One of `CSV_TYPES` or `PARQUET_TYPES`.
        contract: Names the columns that must be there.

    Raises:
        Problem: 415, the type is another one, or Parquet cannot be read here; 422, columns are
            missing or the file is no table.
    """

    def __init__(self, file: BinaryIO, media_type: str, contract: TableContract) -> None:
        if media_type in CSV_TYPES:
            self._rows = _csv_rows(file, contract)
        elif media_type in PARQUET_TYPES:
            self._rows = _parquet_rows(file, contract)
        else:
            raise wrong_media_type(
                media_type, "text/csv", "application/vnd.apache.parquet", "multipart/form-data"
            )
        next(self._rows)  # reads and checks the header

    def take(self, most: int) -> list[Row]:
        """Return the next rows, at most `most`; none at the end."""
        return [row for row in islice(self._rows, most) if row is not None]


def _csv_rows(file: BinaryIO, contract: TableContract) -> Iterator[Row | None]:
    try:
        delimiter, names = read_header(file.readline(LONGEST_HEADER), contract)
    except SourceError as error:
        raise _no_table(error.expected or "", error.got or "") from None
    _check_header(names, contract)
    yield None
    # what is not UTF-8 becomes an unknown category or a wrong number of one row
    text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="")
    reader = csv_rows(text, delimiter)
    try:
        while True:
            before = reader.line_num
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield UnreadableRow(f"the line cannot be read: {error}")
                continue
            if len(cells) == len(names):
                yield dict(zip(names, cells, strict=True))
            elif cells:  # an empty line is no row
                lines = reader.line_num - before
                yield UnreadableRow(
                    f"expected {len(names)} values, got {len(cells)}"
                    + (f" in {lines} lines: a quote is never closed" if lines > 1 else "")
                )
    finally:
        if not file.closed:
            text.detach()  # the file is its owner's to close


def _parquet_rows(file: BinaryIO, contract: TableContract) -> Iterator[Row | None]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        missing = MissingExtraError.for_package("pyarrow", "parquet")
        problem = wrong_media_type("application/vnd.apache.parquet", "text/csv")
        problem.remedy = f"{missing.remedy} on the server, or send CSV"
        raise problem from None
    try:
        table = parquet.ParquetFile(file)
        groups = table.metadata
        largest = max(
            (groups.row_group(i).total_byte_size for i in range(groups.num_row_groups)), default=0
        )
        schema = table.schema_arrow
    except (arrow.ArrowException, OSError) as error:
        raise _no_table("a Parquet file", shown(str(error))) from None
    if largest > _LARGEST_GROUP:
        raise _no_table("row groups of at most 2 GiB", f"{largest} bytes")
    names = [plain_name(name) for name in schema.names]
    _check_header(names, contract)
    known = {column.name for column in contract.columns}
    yield None
    try:
        for batch in table.iter_batches(
            batch_size=1024, columns=[name for name in schema.names if plain_name(name) in known]
        ):
            columns = {
                plain_name(name): plain_values(batch.column(i))
                for i, name in enumerate(batch.schema.names)
            }
            for cells in zip(*columns.values(), strict=True):
                yield dict(zip(columns, cells, strict=True))
    except (arrow.ArrowException, OSError, ValueError) as error:
        yield UnreadableRow(f"the file cannot be read any further: {shown(str(error))}")


def _check_header(names: Sequence[str], contract: TableContract) -> None:
    detail = [
        fault(
            ["header", column.name],
            kind="missing",
            expected=f"a column of {expectation(column)}",
            got="no such column",
            remedy=f"add the column {column.name!r}; the file has {shown(', '.join(names))}",
        )
        for column in contract.features
        if column.name not in names and not column.nullable
    ]
    detail += [
        fault(
            ["header", name[:100]],
            kind="duplicate",
            expected="each column once",
            got=f"{names.count(name)} times",
            remedy="drop the others",
        )
        for name in contract.feature_names
        if names.count(name) > 1
    ]
    if detail:
        raise Problem(
            422,
            "invalid_header",
            "the file's columns do not meet the contract",
            remedy="correct the columns listed in detail; no row was valued",
            detail=detail,
        )


def _no_table(expected: str, got: str) -> Problem:
    remedy = "send CSV with a line of column names, or Parquet"
    return Problem(
        422,
        "malformed_file",
        "the file cannot be read",
        expected=expected,
        got=got,
        detail=[fault(["file"], kind="invalid_file", expected=expected, got=got, remedy=remedy)],
    )
