"""From tables on disk to a reference and the windows to evaluate against it.

A window in several files: each is counted by itself, and the counts are merged. What is counted of
a file does not depend on where or when that is done, and merging does not depend on the order, so
the verdict is the same from one process and from a cluster.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.formats import MISSING_TEXTS
from tasador.contract.model import Column
from tasador.core.errors import TrainingError, ValidationError
from tasador.core.parallel import Engine
from tasador.core.storage import Location
from tasador.monitoring.column_summary import ColumnSummary, RowSample
from tasador.monitoring.error_estimation import error_inputs, fit_error_model, residuals
from tasador.monitoring.reference import (
    Profile,
    Reference,
    build_reference,
    sample_places,
)
from tasador.monitoring.table_reader import (
    Fields,
    Reader,
    ReadOptions,
    ReadProblems,
    TableFacts,
    TableFile,
    check_same,
)
from tasador.monitoring.verdict import Finding
from tasador.monitoring.window import JoinedOutcomes, Window, join_outcomes
from tasador.monitoring.window_summary import WindowSummary

Floats = NDArray[np.float64]

#: Rows up to which a reference's quantiles are exact; of more, they are those of an even sample.
EXACT_ROWS = 2_000_000
SAMPLED_ROWS = 500_000
_LEARNT_FROM = 20_000
_ROLES = ("target", "prediction", "lower", "upper")
_SEED = 20_240_816
#: Tasks a core: fewer would leave cores idle at the end, more would send more counts around.
_TASKS_A_CORE = 4


@dataclass(frozen=True)
class TableReference:
    """A reference made from a table, and what was found while reading it.

    Attributes:
        reference: What was made.
        table: The table.
        fields: Which of its columns are no features.
        problems: What was found wrong with it.
        precision: Of the columns that are not compared as float64: see `common_precision`.
    """

    reference: Reference
    table: TableFacts
    fields: Fields
    problems: tuple[Finding, ...]
    precision: Mapping[str, str] = field(default_factory=dict)


def read_reference(
    table: TableFile,
    columns: tuple[Column, ...],
    fields: Fields,
    *,
    learn_errors: bool = False,
    precision: Mapping[str, str] | None = None,
) -> TableReference:
    """Count a table of known good rows.

    Args:
        table: The table.
        columns: What to watch.
        fields: Which columns are the target, the estimate and so on.
        learn_errors: Whether to fit a model of the error, if there are estimates and outcomes and
            LightGBM is installed.
        precision: See `TableReference`.

    Raises:
        ValidationError: It lacks a column that is named.
    """
    lacking = [n for n in [c.name for c in columns] + [*fields.named().values()]
               if n not in table.types and n != fields.id]  # fmt: skip
    needed = {c.name for c in columns} | {n for r, n in fields.named().items() if r in _ROLES}
    lacking = [name for name in lacking if name in needed]
    if lacking:
        raise ValidationError(
            f"{table.location} lacks columns that are named",
            expected=", ".join(lacking),
            got=f"columns {', '.join(table.names[:20])}",
        )
    precision = precision or {}
    reader = Reader(table, columns, precision)
    p = len(columns)
    # a large table is read twice, for its sample and for its counts, and never held whole
    most = EXACT_ROWS if table.rows <= EXACT_ROWS else SAMPLED_ROWS
    sample = RowSample(p + len(_ROLES), most, "reference")
    for rows in _encoded(reader, fields):
        sample.add(sample.seen, rows)
    rows = sample.rows()
    reference = _built(columns, rows, fields, table)
    if table.rows > EXACT_ROWS:
        reference = _counted(reference, Reader(table, columns, precision), fields)
    if learn_errors and reference.residual is not None:
        reference = _with_error_model(reference, rows)
    return TableReference(reference, table.facts, fields, reader.problems(), precision)


def _encoded(reader: Reader, fields: Fields) -> Iterator[Floats]:
    """Yield (X, target, prediction, lower, upper) of each batch, NaN for what is not there."""
    roles = fields.named()
    chosen = {role: roles[role] for role in _ROLES if role in roles}
    names = list(dict.fromkeys([*(c.name for c in reader.columns), *chosen.values()]))
    for batch in reader.table.batches(names):
        n = len(next(iter(batch.values())))
        rows = np.full((n, len(reader.columns) + len(_ROLES)), np.nan, order="F")
        for i, column in enumerate(reader.columns):
            rows[:, i] = reader.encode(column, batch[column.name])
        for i, role in enumerate(_ROLES):
            if role in chosen:
                column = Column(chosen[role], "number")
                rows[:, len(reader.columns) + i] = reader.encode(column, batch[chosen[role]])
        yield rows


def _built(
    columns: tuple[Column, ...], rows: Floats, fields: Fields, table: TableFile
) -> Reference:
    p = len(columns)
    X, (actual, predicted) = rows[:, :p], rows[:, p : p + 2].T
    both = np.isfinite(actual) & np.isfinite(predicted)
    positive = bool(both.any()) and bool((actual[both] > 0).all() and (predicted[both] > 0).all())
    covered = (rows[:, p + 2] <= actual) & (actual <= rows[:, p + 3])
    ends = np.isfinite(rows[:, p + 2 :]).all(axis=1) & np.isfinite(actual)
    return build_reference(
        columns,
        X,
        prediction=predicted if fields.prediction else None,
        actual=actual if fields.target else None,
        log=positive,
        coverage=float(covered[ends].mean()) if ends.any() else None,
        version=str(table.location),
    )


def _counted(reference: Reference, reader: Reader, fields: Fields) -> Reference:
    """Count every row on the grids of a sample."""
    p = len(reference.columns)
    totals = [ColumnSummary.empty(profile.grid) for profile in reference.profiles]
    late = {
        name: ColumnSummary.empty(profile.grid)
        for name in ("target", "prediction", "residual")
        if (profile := getattr(reference, name)) is not None
    }
    for rows in _encoded(reader, fields):
        for i, profile in enumerate(reference.profiles):
            totals[i] += ColumnSummary.of(rows[:, i], profile.grid)
        values = {"target": rows[:, p], "prediction": rows[:, p + 1]}
        if "residual" in late:
            values["residual"] = residuals(rows[:, p], rows[:, p + 1], log=reference.log)
        for name in late:
            late[name] += ColumnSummary.of(values[name], getattr(reference, name).grid)
    profiles = tuple(
        Profile(profile.grid, total)
        for profile, total in zip(reference.profiles, totals, strict=True)
    )
    others: dict[str, Any] = {
        name: Profile(getattr(reference, name).grid, summary) for name, summary in late.items()
    }
    return replace(reference, profiles=profiles, n=totals[0].n, **others)


def _with_error_model(reference: Reference, rows: Floats) -> Reference:
    rows = rows[sample_places(len(rows), _LEARNT_FROM)]
    X, (actual, predicted, lower, upper) = rows[:, :-4], rows[:, -4:].T
    with suppress(ImportError, TrainingError):  # the verdict is then `cannot_tell`
        model, _ = fit_error_model(
            error_inputs(X, predicted, lower, upper, log=reference.log),
            actual,
            predicted,
            log=reference.log,
            seed=_SEED,
        )
        return replace(reference, error_model=model)
    return reference


def read_windows(
    compared: TableReference, table: TableFile, outcomes: TableFile | None = None
) -> Iterator[Window]:
    """Yield a table's rows in batches, and last of all what was found wrong in it.

    Args:
        compared: What it is compared with.
        table: The table.
        outcomes: A table of the fields' id and target: outcomes that came later.
    """
    reference, fields = compared.reference, compared.fields
    reader = Reader(table, reference.columns, compared.precision)
    problems = check_same(compared.table, table, reference.columns, set(fields.named().values()))
    joined = None
    if outcomes is not None:
        joined = join_tables([table], outcomes, fields)
        problems += joined.problems
    yield from read_rows(reader, reference, fields, None if joined is None else joined.actual)
    empty = np.empty((0, len(reference.columns)))
    found = (*compared.problems, *problems, *reader.problems())
    yield Window.of(reference.names, empty, problems=each_once(found))


def read_rows(
    reader: Reader, reference: Reference, fields: Fields, actual: Floats | None = None
) -> Iterator[Window]:
    """Yield a table's rows in batches; what is wrong with them is in the reader.

    Args:
        reader: Of the table.
        reference: What it is compared with.
        fields: Which columns are no features.
        actual: Shape (n,): known values of the table's rows, in place of what it says itself.
    """
    table = reader.table
    present = {role: n for role, n in fields.named().items() if n in table.types}
    names = list(dict.fromkeys([
        *(c.name for c in reference.columns if c.name in table.types),
        *(name for role, name in present.items() if role != "id"),
    ]))  # fmt: skip
    start = 0
    for batch in table.batches(names):
        window = _window(reader, reference, batch, present)
        if actual is not None:
            window = replace(window, actual=actual[start : start + len(window)])
        start += len(window)
        yield window


def each_once(problems: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Drop duplicate findings."""
    return tuple({(f.subject, f.reason): f for f in problems}.values())


def _window(
    reader: Reader, reference: Reference, batch: dict[str, Any], present: dict[str, str]
) -> Window:
    n = len(next(iter(batch.values())))
    X = np.full((n, len(reference.columns)), np.nan, order="F")
    for i, column in enumerate(reference.columns):
        if column.name in batch:
            X[:, i] = reader.encode(column, batch[column.name])
    parts: dict[str, Any] = {}
    for role, name in present.items():
        if role in ("prediction", "lower", "upper", "latency_ms"):
            parts[role] = reader.encode(Column(name, "number"), batch[name])
        elif role == "target":
            parts["actual"] = reader.encode(Column(name, "number"), batch[name])
        elif role == "time":
            parts["time"] = reader.encode(Column(name, "datetime"), batch[name])
        elif role == "version":
            # a column that is no version must not fill the verdict
            texts = [str(value)[:_VERSION] for value in batch[name].to_pylist()]
            versions, codes = np.unique(np.array(texts), return_inverse=True)
            parts |= {"versions": tuple(versions.tolist()), "version": codes}
    return Window.of(reference.names, X, **parts)


def join_tables(tables: Sequence[TableFile], outcomes: TableFile, fields: Fields) -> JoinedOutcomes:
    """Join late outcomes to the rows of tables, which count as one.

    Raises:
        ValidationError: The id or the target is not named, or a table does not have it.
    """
    wanted = [*(("id", fields.id, table) for table in tables), ("id", fields.id, outcomes),
              ("target", fields.target, outcomes)]  # fmt: skip
    for role, name, where in wanted:
        if name is None or name not in where.types:
            raise ValidationError(
                f"outcomes cannot be joined to rows: {where.location} has no column {name!r}",
                expected=f"the name of the {role}'s column",
                remedy=f"name it with --{role}",
            )
    assert fields.id is not None  # noqa: S101 - looked at above
    assert fields.target is not None  # noqa: S101
    ids = [
        key
        for table in tables
        for key in _keys(batch[fields.id] for batch in table.held([fields.id]))
    ]
    reader = Reader(outcomes, (Column(fields.target, "number"),))
    arrays, values = [], []
    for batch in outcomes.held([fields.id, fields.target]):
        arrays.append(batch[fields.id])
        values.append(reader.encode(reader.columns[0], batch[fields.target]))
    keys = _keys(arrays)
    # only when nothing joins: "1.0" and "1" may be different ids of one table
    if set(ids).isdisjoint({*keys} - {None}):
        ids, keys = _whole_numbers(ids), _whole_numbers(keys)
    joined = join_outcomes(ids, keys, np.concatenate([np.empty(0), *values]))
    return replace(joined, problems=(*joined.problems, *reader.problems()))


_NO_ID = MISSING_TEXTS | {"nat", "<na>"}
#: Characters of a version that are kept.
_VERSION = 200
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")


def _keys(arrays: Iterable[Any]) -> list[str | None]:
    """Return a column of ids as texts, None for none: 17 is 17.0 and "17", but "017" is not."""
    return [_key(value) for array in arrays for value in array.to_pylist()]


def _whole_numbers(keys: list[str | None]) -> list[str | None]:
    """Return texts without their ".0", if all of them have one.

    So pandas writes a column of whole numbers of which some are missing.
    """
    whole = [None if key is None else _WHOLE.fullmatch(key) for key in keys]
    if all(match for key, match in zip(keys, whole, strict=True) if key is not None):
        return [None if match is None else match[1] for match in whole]
    return keys


def _key(value: Any) -> str | None:
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and value == int(value):
        value = int(value)
    elif isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    text = str(value).strip()
    return None if text.lower() in _NO_ID else text


@dataclass(frozen=True)
class CountJob:
    """What files are compared with, without what counting does not need.

    Attributes:
        reference: Known good rows, counted.
        table: The table that they came from.
        fields: Which columns are no features.
        precision: Of the columns that are not compared as float64.
        options: How the files are read.
    """

    reference: Reference
    table: TableFacts
    fields: Fields
    precision: Mapping[str, str] = field(default_factory=dict)
    options: ReadOptions = field(default_factory=ReadOptions)

    @classmethod
    def of(cls, compared: TableReference, options: ReadOptions) -> CountJob:
        """Take it from a reference that was read, for files that are read with `options`."""
        # sent to every task: the sample and the error model are most of its bytes
        light = replace(
            compared.reference, error_model=None, rows=compared.reference.rows[:0],
            actual=None, predicted=None,
        )  # fmt: skip
        return cls(light, compared.table, compared.fields, compared.precision, options)


@dataclass(frozen=True)
class FilePart:
    """A file of a window.

    Attributes:
        location: Where it is.
        first: Place of its first row among the rows of all files.
        rows: How many rows it has.
        actual: Shape (n,): outcomes that came later, or None.
    """

    location: Location
    first: int
    rows: int
    actual: Floats | None = None


#: A tally's state, and what was found wrong.
Counted = tuple[dict[str, Any], ReadProblems]


def count_parts(counting: CountJob, parts: Sequence[FilePart]) -> Counted:
    """Count files; called by an engine."""
    found: tuple[WindowSummary, ReadProblems] | None = None
    for part in parts:
        one = _count(counting, part)
        found = one if found is None else (found[0].merge(one[0]), found[1].merge(one[1]))
    if found is None:
        found = WindowSummary(counting.reference), ReadProblems()
    return found[0].state(), found[1]


def _count(counting: CountJob, part: FilePart) -> tuple[WindowSummary, ReadProblems]:
    reference, fields = counting.reference, counting.fields
    table = TableFile.open(part.location, counting.table.written, counting.options)
    reader = Reader(table, reference.columns, counting.precision)
    problems = check_same(counting.table, table, reference.columns, set(fields.named().values()))
    tally = WindowSummary(reference, part.first)
    for window in read_rows(reader, reference, fields, part.actual):
        tally.add(window)
    return tally, ReadProblems.of(part.first, reader, problems)


def inspect_table(how: tuple[tuple[Column, ...], ReadOptions], location: Location) -> TableFacts:
    """Return what a file is; called by an engine."""
    return TableFile.open(location, *how).facts


def inspect_tables(
    locations: Sequence[Location],
    engine: Engine,
    written: tuple[Column, ...] = (),
    options: ReadOptions | None = None,
) -> list[TableFacts]:
    """Return what the files are, in their order; for `written` and `options` see `TableFacts`.

    Raises:
        SourceError: One is missing, damaged, or no table.
    """
    how = engine.share((written, options or ReadOptions()))
    found = dict(engine.map(inspect_table, how, locations))
    return [found[i] for i in range(len(locations))]


def count_files(
    compared: TableReference,
    tables: Sequence[TableFacts],
    engine: Engine,
    outcomes: TableFile | None = None,
) -> WindowSummary:
    """Count files as one window, some on each core.

    Args:
        compared: What they are compared with.
        tables: The files, in the order of their rows.
        engine: Where they are counted.
        outcomes: A table of the fields' id and target: outcomes that came later. The files' ids are
            read here for it.

    Raises:
        SourceError: A file is damaged.
        ValidationError: A file shares no column with the reference.
    """
    joined = None
    if outcomes is not None:
        whole = [TableFile.open(table.location, table.written, table.options) for table in tables]
        joined = join_tables(whole, outcomes, compared.fields)
    parts = _parts(tables, None if joined is None else joined.actual)
    held = engine.share(CountJob.of(compared, tables[0].options))
    tally, faults = WindowSummary(compared.reference), ReadProblems()
    # neighbours together: fewer tallies are sent back and merged
    chunks = _chunks(parts, _TASKS_A_CORE * engine.slots)
    counted = engine.map(count_parts, held, chunks, cost=_rows)
    for _, (state, more) in counted:
        tally = tally.merge(WindowSummary.from_state(compared.reference, state))
        faults = faults.merge(more)
    columns = compared.reference.columns
    joining = () if joined is None else joined.problems
    tally.note(each_once((*compared.problems, *joining, *faults.findings(columns, tally.n))))
    return tally


def _parts(tables: Sequence[TableFacts], actual: Floats | None) -> list[FilePart]:
    parts, first = [], 0
    for table in tables:
        own = None if actual is None else actual[first : first + table.rows]
        parts.append(FilePart(table.location, first, table.rows, own))
        first += table.rows
    return parts


def _rows(parts: Sequence[FilePart]) -> float:
    return float(sum(part.rows for part in parts))


def _chunks(parts: Sequence[FilePart], most: int) -> list[list[FilePart]]:
    """Return the files in at most about `most` runs of neighbours, of like numbers of rows."""
    share = sum(part.rows for part in parts) / max(most, 1)
    chunks: list[list[FilePart]] = []
    space = 0.0
    for part in parts:
        if not chunks or space <= 0:
            chunks.append([])
            space = share
        chunks[-1].append(part)
        space -= part.rows
    return chunks
