"""A window in several files: each is counted by itself, and the counts are merged.

What is counted of a file does not depend on where or when that is done, and merging does not depend
on the order, so the verdict is the same from one process and from a cluster.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column
from tasador.core.parallel import Engine
from tasador.core.storage import Location
from tasador.monitoring.inputs.reference_builder import (
    TableReference,
    each_once,
    join_tables,
    read_rows,
)
from tasador.monitoring.inputs.table_reader import (
    Fields,
    Reader,
    ReadOptions,
    TableFacts,
    TableFile,
    check_same,
    value_problems,
)
from tasador.monitoring.summaries.reference import Reference
from tasador.monitoring.summaries.window_summary import WindowSummary
from tasador.monitoring.verdict import Finding, Level

Key = TypeVar("Key", bound=Hashable)

#: How many, and of the first of them: its place among all rows, how it looks.
_Seen = tuple[int, tuple[int, str]]
#: Column, level, reason with a mark in place of the file's name.
_Trouble = tuple[str, Level, str]
_FILE = "\0"


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


Floats = NDArray[np.float64]

#: Tasks a core: fewer would leave cores idle at the end, more would send more counts around.
_TASKS_A_CORE = 4


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
