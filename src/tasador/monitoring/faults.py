"""`Faults`: what is wrong with files and their values, told once however many files there are."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from tasador.data.contract import Column
from tasador.monitoring.plain import Reader, value_problems
from tasador.monitoring.verdict import Finding, Level

Key = TypeVar("Key", bound=Hashable)

#: How many, and of the first of them: its place among all rows, how it looks.
_Seen = tuple[int, tuple[int, str]]
#: Column, level, reason with a mark in place of the file's name.
_Trouble = tuple[str, Level, str]
_FILE = "\0"


@dataclass(frozen=True)
class Faults:
    """What was found wrong with files and their values; those of several files add up by `merge`.

    Attributes:
        wrong: By column: how many values are of another kind, and the first of them.
        zones: By column of times in text: whether some have a zone, and some have none.
        schema: By what is wrong with a file's columns: in how many files, and the first of them.
    """

    wrong: dict[str, _Seen] = field(default_factory=dict)
    zones: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    schema: dict[_Trouble, _Seen] = field(default_factory=dict)

    @classmethod
    def of(cls, first: int, reader: Reader, problems: tuple[Finding, ...]) -> Faults:
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

    def merge(self, other: Faults) -> Faults:
        """Return what was found in both; the order does not matter."""
        zones = dict(self.zones)
        for column, seen in other.zones.items():
            mine = zones.get(column, (False, False))
            zones[column] = (mine[0] or seen[0], mine[1] or seen[1])
        return Faults(_sum(self.wrong, other.wrong), zones, _sum(self.schema, other.schema))

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
