"""A window in several files: each is counted by itself, and the counts are merged.

What is counted of a file does not depend on where or when that is done, and merging does not depend
on the order, so the verdict is the same from one process and from a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column
from tasador.core.parallel import Engine
from tasador.core.storage import Location
from tasador.monitoring.reference import Reference
from tasador.monitoring.reference_builder import (
    TableReference,
    each_once,
    join_tables,
    read_rows,
)
from tasador.monitoring.table_reader import (
    Fields,
    Reader,
    ReadProblems,
    TableFacts,
    TableFile,
    check_same,
)
from tasador.monitoring.window_summary import WindowSummary

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
    """

    reference: Reference
    table: TableFacts
    fields: Fields
    precision: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, compared: TableReference) -> CountJob:
        """Take it from a reference that was read."""
        # sent to every task: the sample and the error model are most of its bytes
        light = replace(
            compared.reference, error_model=None, rows=compared.reference.rows[:0],
            actual=None, predicted=None,
        )  # fmt: skip
        return cls(light, compared.table, compared.fields, compared.precision)


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
    table = TableFile.open(part.location, counting.table.written)
    reader = Reader(table, reference.columns, counting.precision)
    problems = check_same(counting.table, table, reference.columns, set(fields.named().values()))
    tally = WindowSummary(reference, part.first)
    for window in read_rows(reader, reference, fields, part.actual):
        tally.add(window)
    return tally, ReadProblems.of(part.first, reader, problems)


def inspect_table(written: tuple[Column, ...], location: Location) -> TableFacts:
    """Return what a file is; called by an engine."""
    return TableFile.open(location, written).facts


def inspect_tables(
    locations: Sequence[Location], engine: Engine, written: tuple[Column, ...] = ()
) -> list[TableFacts]:
    """Return what the files are, in their order; `written` is that of `TableFacts`.

    Raises:
        SourceError: One is missing, damaged, or no table.
    """
    found = dict(engine.map(inspect_table, engine.share(written), locations))
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
        whole = [TableFile.open(table.location, table.written) for table in tables]
        joined = join_tables(whole, outcomes, compared.fields)
    parts = _parts(tables, None if joined is None else joined.actual)
    held = engine.share(CountJob.of(compared))
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
