"""Anybody's table in batches: Parquet is streamed, CSV and archives are read whole.

Values are encoded by the same rules as everywhere (`data.encode`). A value of another kind than its
column is counted and taken for missing; a column that is not there is all missing. Both are named
in the verdict, and neither keeps the other columns from being judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import files
from tasador.core.errors import MissingExtraError, SourceError, ValidationError
from tasador.data.contract import Column
from tasador.data.encode import encode_values
from tasador.monitoring.verdict import Finding, Level

Floats = NDArray[np.float64]

BATCH_ROWS = 1 << 18
_ZONE = r"(?:[zZ]|[+-]\d{2}:?\d{2})$"
_WRONG_ALERT = 0.05


@dataclass(frozen=True)
class Fields:
    """Names of the columns that are no features; None when the table has none.

    Attributes:
        target: The known value.
        prediction: The estimate.
        lower: Lower end of its interval.
        upper: Upper end.
        time: When the row was asked.
        latency_ms: How long the answer took, in milliseconds.
        version: What answered.
        id: By which outcomes are brought to rows.
    """

    target: str | None = None
    prediction: str | None = None
    lower: str | None = None
    upper: str | None = None
    time: str | None = None
    latency_ms: str | None = None
    version: str | None = None
    id: str | None = None

    def named(self) -> dict[str, str]:
        """Return the names by role, without those that are None."""
        roles = self.__dataclass_fields__
        return {role: name for role in roles if (name := getattr(self, role)) is not None}


@dataclass
class TableFacts:
    """What a table is, without its rows.

    Attributes:
        location: Where it is.
        names: Its columns.
        types: Their types, as Arrow names them.
        rows: How many rows it has.
        typed: Whether the file says of what type its columns are; CSV does not.
    """

    location: files.Location
    names: tuple[str, ...]
    types: dict[str, str]
    rows: int
    typed: bool


@dataclass
class PlainTable(TableFacts):
    """A table on disk, or in an object store."""

    _whole: Any = field(repr=False, default=None)

    @property
    def facts(self) -> TableFacts:
        """What it is, which can be sent elsewhere."""
        return TableFacts(self.location, self.names, self.types, self.rows, self.typed)

    @classmethod
    def open(cls, location: files.Location) -> PlainTable:
        """Look at a table; nothing but a Parquet file's footer is read of it.

        Raises:
            SourceError: It is missing, damaged, or no table.
            MissingExtraError: pyarrow is not installed.
        """
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise MissingExtraError.for_package("pyarrow", "parquet") from None
        whole = None
        if _is_parquet(location):
            try:
                file = pq.ParquetFile(str(location))
            except (pa.ArrowException, OSError) as error:
                raise SourceError(f"{location} cannot be read: {error}") from None
            schema, rows = file.schema_arrow, file.metadata.num_rows
        else:
            from tasador.data.readers import read_table

            whole = read_table(location, sniff=True).to_arrow()
            schema, rows = whole.schema, whole.num_rows
        names = tuple(schema.names)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(f"{location} has duplicate column names", got=", ".join(twice))
        types = {name: str(schema.field(name).type) for name in names}
        return cls(location, names, types, rows, whole is None, whole)

    def batches(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the named columns as Arrow arrays, some rows at a time.

        Raises:
            SourceError: The file is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if self._whole is not None:
                parts = self._whole.select(names).to_batches(max_chunksize=BATCH_ROWS)
            else:
                texts = [n for n in names if self.types[n] in ("string", "large_string")]
                file = pq.ParquetFile(str(self.location), read_dictionary=texts, pre_buffer=False)
                parts = file.iter_batches(batch_size=BATCH_ROWS, columns=names)
            for part in parts:
                yield dict(zip(part.schema.names, part.columns, strict=True))
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{self.location} is damaged: {error}") from None


def _is_parquet(location: files.Location) -> bool:
    if files.is_folder(location):
        raise SourceError(f"{location} is a folder", expected="a CSV, Parquet, tgz or zip file")
    if not files.exists(location):
        raise SourceError(f"there is no file {location}", remedy="check the path")
    with files.open_read(location) as file:
        return not files.is_remote(location) and file.read(4) == b"PAR1"


@dataclass
class Reader:
    """Encodes a table's columns batch by batch, and remembers what was wrong.

    Args:
        table: The table.
        columns: What its columns are.

    Attributes:
        wrong: By column: how many values are of another kind, and the first of them.
        zones: By column of times in text: whether some have a zone, and some have none.
    """

    table: PlainTable
    columns: tuple[Column, ...]
    wrong: dict[str, tuple[int, str]] = field(default_factory=dict)
    zones: dict[str, list[bool]] = field(default_factory=dict)

    def encode(self, column: Column, array: Any) -> Floats:
        """Encode one column of a batch, shape (n,)."""
        import pyarrow as pa

        kind = array.type
        if column.kind in ("number", "integer") and _is_number(kind):
            return _numbers(array)
        if column.kind == "datetime" and pa.types.is_timestamp(kind):
            return _seconds(array)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or column.kind == "category":
            array = array.dictionary_encode()
        if pa.types.is_dictionary(array.type):
            return self._by_value(column, array)
        values, wrong = encode_values(column, array.to_pylist())
        self._note(column, wrong, array)
        return values

    def _by_value(self, column: Column, array: Any) -> Floats:
        """Encode each distinct value once."""
        levels = array.dictionary.to_pylist()
        if column.kind == "datetime":
            self._note_zones(column, levels)
        if column.kind in ("number", "integer") and levels:
            import polars as pl

            codes, wrong = encode_values(column, pl.Series(levels, dtype=pl.String))
        else:
            codes, wrong = encode_values(column, levels)
        places = array.indices.fill_null(len(levels)).to_numpy(zero_copy_only=False)
        self._note(column, np.append(wrong, False)[places], array)
        result: Floats = np.append(codes, np.nan)[places]
        return result

    def _note(self, column: Column, wrong: NDArray[np.bool_], array: Any) -> None:
        count = int(wrong.sum())
        if count:
            before, first = self.wrong.get(column.name, (0, ""))
            shown = first or repr(array[int(np.flatnonzero(wrong)[0])].as_py())[:40]
            self.wrong[column.name] = (before + count, shown)

    def _note_zones(self, column: Column, levels: list[Any]) -> None:
        import re

        seen = self.zones.setdefault(column.name, [False, False])
        for text in levels[:1000]:
            if isinstance(text, str) and text.strip():
                seen[re.search(_ZONE, text.strip()[10:]) is None] = True

    def problems(self) -> tuple[Finding, ...]:
        """Return what was found wrong while reading."""
        return value_problems(self.wrong, self.zones, self.columns, self.table.rows)


def value_problems(
    wrong: Mapping[str, tuple[int, str]],
    zones: Mapping[str, Sequence[bool]],
    columns: tuple[Column, ...],
    rows: int,
) -> tuple[Finding, ...]:
    """Return what was wrong with a table's values; see `Reader` for the first two.

    Args:
        wrong: Values of another kind.
        zones: Times with and without a zone.
        columns: What the columns are.
        rows: How many rows were read.
    """
    found = []
    for name, (count, first) in wrong.items():
        share = count / max(rows, 1)
        level: Level = "alert" if share >= _WRONG_ALERT else "warn"
        kind = next((c.kind for c in columns if c.name == name), "number")
        text = f"{count} values ({share:.2%}) are no {kind}, such as {first}: taken as missing"
        found.append(Finding("input", name, level, text, {"rows": count}))
    for name, seen in zones.items():
        if all(seen):
            text = "times with and without a zone are mixed: those without are taken as UTC"
            found.append(Finding("input", name, "warn", text))
    return tuple(found)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _numbers(array: Any) -> Floats:
    import pyarrow as pa

    values = array.cast(pa.float64())
    result: Floats = values.to_numpy(zero_copy_only=False)
    return result


def _seconds(array: Any) -> Floats:
    import pyarrow as pa

    micro = array.cast(pa.timestamp("us", tz=array.type.tz), safe=False).cast(pa.int64())
    result: Floats = micro.cast(pa.float64()).to_numpy(zero_copy_only=False) / 1e6
    return result


def check_same(reference: TableFacts, current: TableFacts, columns: tuple[Column, ...],
               ignored: set[str]) -> tuple[Finding, ...]:  # fmt: skip
    """Name the columns that one table has and the other has not, and those of another type.

    Raises:
        ValidationError: They share no column.
    """
    found: list[Finding] = []
    wanted = [column.name for column in columns]
    if not set(wanted) & set(current.names):
        raise ValidationError(
            f"{current.location} has none of the columns of {reference.location}",
            expected=", ".join(wanted[:10]),
            got=", ".join(current.names[:10]) or "none",
        )
    for column in columns:
        name = column.name
        if name not in current.types:
            text = f"the column is missing in {current.location}: taken as all missing"
            found.append(Finding("input", name, "alert", text))
            continue
        before, now = (_family(table.types.get(name, "")) for table in (reference, current))
        # what comes as text is judged by its values: each one of another kind is counted
        if reference.typed and current.typed and before and before != now:
            text = f"the type changed from {reference.types[name]} to {current.types[name]}"
            found.append(Finding("input", name, "warn", text))
    for name in current.names:
        if name not in wanted and name not in ignored:
            text = f"the column is in {current.location} only: not looked at"
            found.append(Finding("input", name, "ok", text))
    return tuple(found)


def _family(kind: str) -> str:
    """Return what an Arrow type is, for the purpose of comparing: int32 is like double."""
    if kind.startswith(("int", "uint", "float", "double", "half", "decimal")):
        return "number"
    if kind.startswith("timestamp"):
        return "time with a zone" if "tz=" in kind else "time without a zone"
    if "string" in kind or kind.startswith("dictionary"):
        return "text"
    return kind
