"""Monitor plain files: `tasador monitor --reference A --current B`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasador.contract.encoding import columns_with_missing_words
from tasador.contract.format_inference import are_codes, date_reading, number_reading
from tasador.contract.formats import MISSING_TEXTS
from tasador.contract.model import Column, ColumnRole, Source, TableContract, named_as_identifier
from tasador.contract.reader import read_contract
from tasador.contract.target_check import TargetBounds
from tasador.core import storage
from tasador.core.errors import ConfigError, SourceError, ValidationError
from tasador.core.parallel import Engine, LocalEngine
from tasador.data.text.text_format import known_names
from tasador.monitoring.evaluate import evaluate_summary
from tasador.monitoring.reference_builder import count_files, inspect_tables, read_reference
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.table_reader import (
    Fields,
    ReadOptions,
    TableFile,
    common_precision,
    is_flag,
)
from tasador.monitoring.verdict import Verdict

#: Levels above which texts are not watched as categories.
MOST_LEVELS = 200
#: Characters above which a text is prose, not a category.
LONGEST_LEVEL = 1000
_NESTED = ("list", "large_list", "fixed_size_list", "struct", "map")
_LOOKED_AT = 20_000


class UnwatchableError(ValidationError):
    """A table that holds nothing to watch, or not the column that segments are named by."""

    @classmethod
    def no_segment(cls, segment: str, names: list[str]) -> UnwatchableError:
        """Return the error of a segment that is no column."""
        text = f"there is no column {segment!r} to report segments by"
        return cls(text, expected=f"one of {', '.join(names[:20])}")

    @classmethod
    def nothing(cls, location: storage.Location, notes: list[str]) -> UnwatchableError:
        """Return the error of a table whose columns were all set aside."""
        return cls(
            f"nothing in {location} can be watched",
            expected="a column of numbers, times or categories",
            got="; ".join(notes[:5]) or "no columns",
        )


class RuleError(ConfigError):
    """A rule of the command line that is none."""

    @classmethod
    def unknown(cls, name: str, names: list[str]) -> RuleError:
        """Return the error of a name that no rule has."""
        return cls(f"there is no rule {name!r}", expected=", ".join(names))

    @classmethod
    def unreadable(cls, name: str, text: str) -> RuleError:
        """Return the error of a rule without a number."""
        return cls(f"the rule {name} cannot be read", expected=f"{name}=number", got=text)


def describe_columns(
    table: TableFile, ignored: set[str], segment: str | None = None
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
        raise UnwatchableError.no_segment(segment, names)
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
        if isinstance(kind, Column):
            columns.append(kind)
        elif kind is None:
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
        raise UnwatchableError.nothing(table.location, notes)
    return tuple(kept), tuple(notes)


def _kind(name: str, array: Any) -> str | Column | None:
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
    column = _read_texts(name, values)
    if column is None:
        return "category"
    return None if unique and named_as_identifier(name) else column


def _is_missing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in MISSING_TEXTS
    return value is None


def _levels(table: TableFile, names: list[str]) -> dict[str, tuple[str, ...] | None]:
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


#: Exit codes of a verdict, beside those of errors.
EXIT_CODES = {"ok": 0, "warn": 0, "alert": 10, "cannot_tell": 11}
WARN_EXIT_CODE = 12


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        reference: Table of known good rows.
        current: Tables of the rows to monitor, in order, or patterns such as ``day-*.parquet``.
        fields: Which columns are no features.
        contract: YAML that says what the columns are; by default they are looked at.
        segment: Column by which figures are reported apart, where no contract says so.
        outcomes: Table of outcomes that came later.
        source: How the files are read, where neither they nor the contract say it: a sheet, or
            that there is no header.
    """

    reference: str
    current: str | tuple[str, ...]
    fields: Fields
    contract: Path | None = None
    segment: str | None = None
    outcomes: str | None = None
    source: Source = field(default_factory=Source)


def monitor_files(
    comparison: Comparison, rules: Thresholds, engine: Engine | None = None
) -> tuple[Verdict, tuple[str, ...]]:
    """Evaluate tables as one window; return the verdict, and notes on what was assumed.

    Args:
        comparison: What is compared with what.
        rules: The limits.
        engine: Where files are counted, this machine's cores by default; the verdict is the same.

    Raises:
        DataError: A file cannot be read, or lacks a column that is named.
        ConfigError: The contract cannot be read.
        EngineError: The cluster was lost.
    """
    engine = engine or LocalEngine()
    contract = None if comparison.contract is None else read_contract(comparison.contract)
    options = _options(comparison, contract)
    before = TableFile.open(comparison.reference, options=options)
    written = _written(comparison, contract, before)
    before = before.reading(written)
    if contract is None and options.source.sheet is None:
        options = replace(options, known=before.names)
    now = inspect_tables(_found(comparison.current), engine, written, options)
    columns, fields, notes = _columns(comparison, contract, before)
    named = ((table.location, note) for table in (before, *now[:1]) for note in table.notes)
    notes += tuple(dict.fromkeys(f"{location}: {note}" for location, note in named))
    outcomes = None
    if comparison.outcomes is not None:
        outcomes = TableFile.open(comparison.outcomes, written)
    names = {name for table in now for name in table.types}
    blind = outcomes is None and (fields.target is None or fields.target not in names)
    # without outcomes the error can only be estimated, from what the reference shows
    learn = fields.prediction is not None and fields.prediction in names and blind
    compared = read_reference(
        before, columns, _available(fields, before), learn_errors=learn,
        precision=common_precision([before, *now]),
    )  # fmt: skip
    if contract is not None:
        bounds = TargetBounds.of(contract.target)
        compared = replace(compared, reference=replace(compared.reference, target_bounds=bounds))
    tally = count_files(replace(compared, fields=fields), now, engine, outcomes)
    return evaluate_summary(tally, rules), notes


def _options(comparison: Comparison, contract: TableContract | None) -> ReadOptions:
    """Return how files are read: as the contract says of its table, but for what is asked."""
    asked = comparison.source
    if contract is None:
        named = () if asked.sheet is not None else tuple(comparison.fields.named().values())
        return ReadOptions(asked, named)
    source = contract.source.read_as(asked)
    # a sheet that is named has to be there; the contract's is that of another file
    known = () if asked.sheet is not None else known_names(contract)
    return ReadOptions(source, known, frozenset(columns_with_missing_words(contract)))


def _written(
    comparison: Comparison, contract: TableContract | None, table: TableFile
) -> tuple[Column, ...]:
    """Return the columns whose texts have to be read as values before they are looked at."""
    if contract is not None:
        parts = tuple(column for column in contract.features if column.from_text)
        stamp = contract.with_role("timestamp")
        return (*parts, contract.target.column, *(() if stamp is None else (stamp,)))
    roles = comparison.fields.named()
    names = [name for role, name in roles.items() if role in _READ_ROLES and name in table.types]
    first = (next(table.batches(names), None) if names else None) or {}
    found = []
    for name in first:
        guess = "datetime" if name == roles.get("time") else "number"
        column = _read_texts(name, first[name].slice(0, _LOOKED_AT).to_pylist())
        if column is not None and column.kind == guess:
            found.append(column)
    return tuple(found)


_READ_ROLES = ("target", "prediction", "lower", "upper", "time")


def _read_texts(name: str, values: list[Any]) -> Column | None:
    """Return the column of numbers or dates that texts are; None where they are none."""
    texts = Counter(value.strip() for value in values if isinstance(value, str) and value.strip())
    if not texts:
        return None
    if (dates := date_reading(texts, name)) is not None:
        return Column(name, "datetime", nullable=True, format=dates.form)
    if are_codes(list(texts)) or (numbers := number_reading(texts)) is None:
        return None
    return Column(name, "number", nullable=True, format=numbers.form)


def _found(patterns: str | tuple[str, ...]) -> list[str]:
    """Return the files that are meant, each once.

    Raises:
        SourceError: A pattern names none.
    """
    found: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        names = storage.find(pattern)
        if not names:
            raise SourceError(f"no file is called {pattern}", remedy="check the pattern")
        found |= dict.fromkeys(names)
    return list(found)


def _available(fields: Fields, table: TableFile) -> Fields:
    """Leave out what the reference need not have: without outcomes it still shows drift."""
    absent = {
        role: None
        for role, name in fields.named().items()
        if role != "id" and name not in table.types
    }
    return replace(fields, **absent)


def _columns(
    comparison: Comparison, contract: TableContract | None, table: TableFile
) -> tuple[tuple[Column, ...], Fields, tuple[str, ...]]:
    fields = comparison.fields
    if contract is None:
        ignored = set(fields.named().values())
        columns, notes = describe_columns(table, ignored, comparison.segment)
        times = [column.name for column in columns if column.role == "timestamp"]
        axis = fields.time or (times[0] if len(times) == 1 else None)
        return columns, replace(fields, time=axis), notes
    if comparison.segment is not None:
        raise ConfigError("--segment and --contract contradict each other",
                          remedy="give the column the role `segment` in the contract")  # fmt: skip
    target = fields.target or contract.target.name
    prediction = fields.prediction or contract.target.prediction_name
    stamp = contract.with_role("timestamp")
    time = fields.time or (None if stamp is None else stamp.name)
    # what follows from other columns moves as they do
    watched = tuple(column for column in contract.features if column.derive is None)
    return watched, replace(fields, target=target, prediction=prediction, time=time), ()


def exit_code(verdict: Verdict, *, fail_on_warn: bool = False) -> int:
    """Return the code with which the command ends: 0 ok, 10 alert, 11 cannot tell, 12 warn."""
    if verdict.level == "warn" and fail_on_warn:
        return WARN_EXIT_CODE
    return EXIT_CODES[verdict.level]


def parse_rules(texts: list[str], base: Thresholds | None = None) -> Thresholds:
    """Read rules such as ``mape_max=12`` over those of `base`, the defaults when None.

    Raises:
        ConfigError: A name that is no rule, or a value that is no number.
    """
    names = [name for name in Thresholds.__dataclass_fields__ if name != "relative_when_worse"]
    values: dict[str, float | int | None] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in names:
            raise RuleError.unknown(name, names)
        try:
            whole = name.startswith("min_")
            values[name] = None if value in ("none", "null") else (int if whole else float)(value)
        except ValueError:
            raise RuleError.unreadable(name, text) from None
    return (base or Thresholds()).changed(values)
