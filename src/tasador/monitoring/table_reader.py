"""A user's table in batches: Parquet is streamed, other kinds of files are read whole.

Values are encoded by the same rules as everywhere (`contract.encoding`). A value of the
wrong type is counted and taken for missing; a column that is not there is all missing. Both
are named in the verdict, and neither keeps the other columns from being evaluated.

How values are stored makes no difference: a column that one of the tables has as float32 is
compared with the precision of float32, true and false equal 1 and 0, a date equals its midnight.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasador.contract.arrow_encoding import encode_arrow, plain_values
from tasador.contract.cells import decoded_cell
from tasador.contract.encoding import sent_as
from tasador.contract.formats import MISSING_TEXTS
from tasador.contract.model import Column, Source
from tasador.core import storage
from tasador.core.errors import MissingExtraError, SourceError, ValidationError
from tasador.data.parquet.table import Allowance, ParquetTable
from tasador.monitoring.verdict import Finding, Level

Floats = NDArray[np.float64]

BATCH_ROWS = 1 << 18
_ZONE = r"(?:[zZ]|[+-]\d{2}:?\d{2})$"
_WRONG_ALERT = 0.05

Key = TypeVar("Key", bound=Hashable)

#: How many, and of the first of them: its place among all rows, how it looks.
_Seen = tuple[int, tuple[int, str]]
#: Column, level, reason with a mark in place of the file's name.
_Trouble = tuple[str, Level, str]
_FILE = "\0"


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
        id: By which outcomes are joined to rows.
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


@dataclass(frozen=True)
class ReadOptions:
    """How files are read that do not say it themselves.

    Attributes:
        source: Sheet, header, encoding, delimiter.
        known: Names of columns by which the header, and the sheet, are recognised.
        keep_text: Columns in which words such as ``None`` are values, not missing cells.
    """

    source: Source = field(default_factory=Source)
    known: tuple[str, ...] = ()
    keep_text: frozenset[str] = frozenset()


@dataclass
class TableFacts:
    """What a table is, without its rows.

    Attributes:
        location: Where it is.
        names: Its columns.
        types: Their types, as Arrow names them.
        rows: How many rows it has.
        typed: Whether the file says of what type its columns are; CSV does not.
        written: Columns whose texts are read as values at once: parts of texts, and those that are
            no features (the target, times), each with how it is written.
        options: How it is read.
        notes: What was decided while reading it, a sentence each.
    """

    location: storage.Location
    names: tuple[str, ...]
    types: dict[str, str]
    rows: int
    typed: bool
    written: tuple[Column, ...] = ()
    options: ReadOptions = field(default_factory=ReadOptions)
    notes: tuple[str, ...] = ()


@dataclass
class TableFile(TableFacts):
    """A table on disk, or in an object store."""

    _whole: Any = field(repr=False, default=None)

    @property
    def facts(self) -> TableFacts:
        """What it is, which can be sent elsewhere."""
        return TableFacts(
            self.location, self.names, self.types, self.rows, self.typed, self.written,
            self.options, self.notes,
        )  # fmt: skip

    @classmethod
    def open(
        cls,
        location: storage.Location,
        written: tuple[Column, ...] = (),
        options: ReadOptions | None = None,
    ) -> TableFile:
        """Look at a table; nothing but a Parquet file's footer is read of it.

        Args:
            location: Where it is; a pattern names several files of one table.
            written: See `reading`.
            options: How it is read where it is no Parquet.

        Raises:
            SourceError: It is missing, damaged, or no table.
            MissingExtraError: pyarrow is not installed.
        """
        try:
            import pyarrow as pa
        except ImportError:
            raise MissingExtraError.for_package("pyarrow", "parquet") from None
        whole, notes, options = None, tuple[str, ...](), options or ReadOptions()
        if _is_parquet(location):
            try:
                with storage.open_read(location, scattered=True) as file:
                    table = ParquetTable(file, location)
                    schema, rows = table.schema, table.rows
            except SourceError as error:
                raise SourceError(
                    f"{location} cannot be read: {error.message}",
                    expected=error.expected, got=error.got, remedy=error.remedy,
                ) from None  # fmt: skip
            except (pa.ArrowException, OSError) as error:
                raise SourceError(f"{location} cannot be read: {error}") from None
        else:
            from tasador.data.readers import read_source

            read = read_source(
                location, source=options.source, known=options.known, keep_text=options.keep_text
            )
            whole, notes = read.frame.to_arrow(), read.notes
            schema, rows = whole.schema, whole.num_rows
        names = tuple(schema.names)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(f"{location} has duplicate column names", got=", ".join(twice))
        types = {name: str(schema.field(name).type) for name in names}
        typed = whole is None
        found = cls(location, names, types, rows, typed, (), options, notes, whole)
        return found.reading(written)

    def reading(self, written: tuple[Column, ...]) -> TableFile:
        """Return the table with these columns read as values; those it lacks are left out."""
        found = tuple(
            sent for c in written if (sent := sent_as(c, self.names)) and sent.format_or_part
        )
        added = tuple(column.name for column in found if column.name not in self.names)
        types = {**self.types, **{column.name: _TYPE_READ[column.kind] for column in found}}
        return replace(self, names=(*self.names, *added), types=types, written=found)

    def batches(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the named columns as Arrow arrays, some rows at a time.

        Raises:
            SourceError: The file is damaged.
        """
        if not self.written:
            yield from self._batches(names)
            return
        written = {column.name: column for column in self.written}
        stored = [written[name].field_name if name in written else name for name in names]
        for batch in self._batches(list(dict.fromkeys(stored))):
            yield {
                name: _values_read(written[name], batch[at]) if name in written else batch[at]
                for name, at in zip(names, stored, strict=True)
            }

    def _batches(self, names: list[str]) -> Iterator[dict[str, Any]]:
        import pyarrow as pa

        try:
            if self._whole is not None:
                for part in self._whole.select(names).to_batches(max_chunksize=BATCH_ROWS):
                    yield dict(zip(part.schema.names, part.columns, strict=True))
                return
            with storage.open_read(self.location, scattered=True) as file:
                for part in ParquetTable(file, self.location).batches(names, BATCH_ROWS):
                    yield dict(zip(part.schema.names, part.columns, strict=True))
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{self.location} is damaged: {error}") from None

    def held(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the named columns as `batches` does, for one who keeps every value of them.

        Raises:
            SourceError: The file is damaged, or its values take too much memory.
        """
        import pyarrow as pa

        allowance = Allowance(str(self.location), storage.stamp(self.location).size)
        for batch in self.batches(names):
            if self._whole is None:
                allowance.rows(pa.RecordBatch.from_pydict(batch))
            yield batch


#: The type of what is read out of a text, as Arrow names it.
_TYPE_READ = {
    "number": "double", "integer": "double", "datetime": "timestamp[us]", "category": "string",
}  # fmt: skip


def _values_read(column: Column, array: Any) -> Any:
    """Return the values of texts, null where there is none."""
    import pyarrow as pa

    codes, wrong = encode_arrow(column, array)
    missing = wrong | np.isnan(codes)
    if column.kind == "category":
        texts = [decoded_cell(column, code) for code in codes.tolist()]
        return pa.array(texts, pa.string(), mask=missing)
    if column.kind == "datetime":
        microseconds = np.where(missing, 0.0, codes * 1e6).astype(np.int64)
        return pa.array(microseconds, mask=missing).cast(pa.timestamp("us"))
    return pa.array(codes, mask=missing)


def _is_parquet(location: storage.Location) -> bool:
    if storage.is_folder(location):
        raise SourceError(
            f"{location} is a folder", expected="a file, or a pattern of files",
            remedy=f"name them: '{location}/*.parquet'",
        )  # fmt: skip
    files = storage.find(location)
    if len(files) > 1 or (files and files[0] != str(location)):
        return False  # the files of a pattern are read as one table
    if not files or not storage.exists(location):
        raise SourceError(f"there is no file {location}", remedy="check the path")
    with storage.open_read(location, scattered=True) as file:
        return file.read(4) == b"PAR1"


def common_precision(tables: Sequence[TableFacts]) -> dict[str, str]:
    """Return the columns that a table stores coarser than float64, with the coarsest type."""
    found: dict[str, str] = {}
    for coarse, dtype in (("float", "float32"), ("halffloat", "float16")):
        for table in tables:
            named = (name for name, kind in table.types.items() if _value_type(kind) == coarse)
            found |= dict.fromkeys(named, dtype)
    return found


@dataclass
class Reader:
    """Encodes a table's columns batch by batch, and remembers what was wrong.

    Args:
        table: The table.
        columns: What its columns are.
        precision: See `common_precision`: columns whose values are rounded to a coarser type.

    Attributes:
        wrong: By column: how many values have the wrong type, and the first of them.
        zones: By column of times in text: whether some have a zone, and some have none.
    """

    table: TableFile
    columns: tuple[Column, ...]
    precision: Mapping[str, str] = field(default_factory=dict)
    wrong: dict[str, tuple[int, str]] = field(default_factory=dict)
    zones: dict[str, list[bool]] = field(default_factory=dict)

    def encode(self, column: Column, array: Any) -> Floats:
        """Encode one column of a batch, shape (n,)."""
        import pyarrow as pa

        if _is_text(array.type) and column.kind in ("category", "datetime"):
            # parsing a date costs far more than looking it up, and columns repeat few of them
            array = array.dictionary_encode()
        if pa.types.is_dictionary(array.type):  # each different value is encoded once
            levels = array.dictionary
            if column.kind == "datetime":
                self._note_zones(column, levels.to_pylist())
            codes, wrong = encode_arrow(column, _same_flags(column, levels))
            places = array.indices.fill_null(len(levels)).to_numpy(zero_copy_only=False)
            codes, wrong = np.append(codes, np.nan)[places], np.append(wrong, False)[places]
        else:
            codes, wrong = encode_arrow(column, _same_flags(column, array))
        self._note(column, wrong, array)
        dtype = self.precision.get(column.name)
        numbers = dtype is not None and column.kind in ("number", "integer")
        return _rounded(codes, dtype) if numbers else codes

    def _note(self, column: Column, wrong: NDArray[np.bool_], array: Any) -> None:
        count = int(wrong.sum())
        if count:
            before, first = self.wrong.get(column.name, (0, ""))
            at = int(np.flatnonzero(wrong)[0])
            shown = first or repr(plain_values(array.slice(at, 1))[0])[:40]
            self.wrong[column.name] = (before + count, shown)

    def _note_zones(self, column: Column, levels: list[Any]) -> None:
        import re

        seen = self.zones.setdefault(column.name, [False, False])
        # enough to see a mixture, and a bound for columns of unique times
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
        wrong: Values of a different type.
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


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _rounded(values: Floats, dtype: str | None) -> Floats:
    """Return values as a coarser type has them; those beyond its range as they are."""
    with np.errstate(over="ignore", invalid="ignore"):
        coarse = values.astype(dtype).astype(np.float64)
    # beyond float32 there is nothing to compare in it
    return np.where(np.isinf(coarse), values, coarse)


_FLAGS = {"true": 1.0, "false": 0.0}
_FLAG_WORDS = {"1": "true", "1.0": "true", "0": "false", "0.0": "false"}


def _same_flags(column: Column, array: Any) -> Any:
    """Return 1 and 0 for true and false in a column of numbers; of flags, the other way round."""
    import pyarrow as pa

    boolean = pa.types.is_boolean(array.type)
    if column.kind in ("number", "integer"):
        if boolean:
            return array.cast(pa.uint8())
        first = array.drop_null().slice(0, 1).to_pylist() if _is_text(array.type) else []
        if first and first[0].strip().casefold() in _FLAGS:
            words = [str(v or "").strip().casefold() for v in array.to_pylist()]
            if set(words) <= {*_FLAGS, *MISSING_TEXTS}:
                return pa.array([_FLAGS.get(word) for word in words], pa.float64())
    elif column.kind == "category" and is_flag(column.categories) and not boolean:
        words = ["" if v is None else str(v).strip().casefold() for v in array.to_pylist()]
        return pa.array([_FLAG_WORDS.get(word, word) for word in words], pa.string())
    return array


def is_flag(categories: Sequence[str]) -> bool:
    """Tell whether categories are true and false, in whatever case."""
    return bool(categories) and {text.casefold() for text in categories} <= _FLAGS.keys()


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
        if reference.typed and current.typed and before and before != now:
            text = f"the type changed from {reference.types[name]} to {current.types[name]}"
            # what can be read as before is equal; what cannot is counted, value by value
            level: Level = "ok" if "text" in (before, now) else "warn"
            found.append(Finding("input", name, level, text))
    for name in current.names:
        if name not in wanted and name not in ignored:
            text = f"the column is in {current.location} only: not looked at"
            found.append(Finding("input", name, "ok", text))
    return tuple(found)


def _value_type(kind: str) -> str:
    """Return the type of a dictionary's values; other types as they are."""
    if not kind.startswith("dictionary<values="):
        return kind
    return kind.removeprefix("dictionary<values=").partition(",")[0]


def _family(kind: str) -> str:
    """Return what an Arrow type is, for the purpose of comparing: int32 is like double."""
    kind = _value_type(kind)
    if kind.startswith(("int", "uint", "float", "double", "half", "decimal", "bool")):
        return "number"
    if kind.startswith("date"):
        return "time without a zone"
    if kind.startswith("timestamp"):
        aware = "tz=" in kind and not kind.endswith(("tz=UTC]", "tz=+00:00]"))  # none is UTC
        return "time with a zone" if aware else "time without a zone"
    return "text" if "string" in kind else kind


@dataclass(frozen=True)
class ReadProblems:
    """What was found wrong with files and their values; those of several files add up by `merge`.

    Attributes:
        wrong: By column: how many values are of a different type, and the first of them.
        zones: By column of times in text: whether some have a zone, and some have none.
        schema: By what is wrong with a file's columns: in how many files, and the first of them.
    """

    wrong: dict[str, _Seen] = field(default_factory=dict)
    zones: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    schema: dict[_Trouble, _Seen] = field(default_factory=dict)

    @classmethod
    def of(cls, first: int, reader: Reader, problems: tuple[Finding, ...]) -> ReadProblems:
        """Take them from a file that was read.

        Args:
            first: Place of the file's first row among all rows.
            reader: What read it.
            problems: What is wrong with its columns.
        """
        name = str(reader.table.location)
        return cls(
            {column: (n, (first, shown)) for column, (n, shown) in reader.wrong.items()},
            {column: (seen[0], seen[1]) for column, seen in reader.zones.items()},
            {
                (p.subject, p.level, p.reason.replace(name, _FILE)): (1, (first, name))
                for p in problems
            },
        )

    def merge(self, other: ReadProblems) -> ReadProblems:
        """Return what was found in both; the order does not matter."""
        zones = dict(self.zones)
        for column, seen in other.zones.items():
            mine = zones.get(column, (False, False))
            zones[column] = (mine[0] or seen[0], mine[1] or seen[1])
        return ReadProblems(_sum(self.wrong, other.wrong), zones, _sum(self.schema, other.schema))

    def findings(self, columns: tuple[Column, ...], rows: int) -> tuple[Finding, ...]:
        """Return them for people.

        Args:
            columns: What the columns are.
            rows: How many rows all files have.
        """
        order = {column.name: i for i, column in enumerate(columns)}

        def place(entry: tuple[_Trouble, _Seen]) -> tuple[int, int, _Trouble]:
            return entry[1][1][0], order.get(entry[0][0], len(order)), entry[0]

        found = []
        for (subject, level, reason), (n, (_, name)) in sorted(self.schema.items(), key=place):
            others = f" and {n - 1} other file" + ("" if n == 2 else "s")
            where = name if n == 1 else name + others
            found.append(Finding("input", subject, level, reason.replace(_FILE, where)))
        by_column = sorted(self.wrong, key=lambda name: (order.get(name, len(order)), name))
        wrong = {name: (self.wrong[name][0], self.wrong[name][1][1]) for name in by_column}
        zones = {name: self.zones[name] for name in sorted(self.zones)}
        return (*found, *value_problems(wrong, zones, columns, rows))


def _sum(some: dict[Key, _Seen], more: dict[Key, _Seen]) -> dict[Key, _Seen]:
    result = dict(some)
    for key, (n, first) in more.items():
        m, mine = result.get(key, (0, first))
        result[key] = (m + n, min(mine, first))
    return result
