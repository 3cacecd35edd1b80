"""What a benchmark found, kept as JSON beside what it prints.

`suite.py` runs a benchmark with the variable TASADOR_BENCH_JSON naming a file; `Figures.keep`
writes the tables and pictures there, and nothing when the variable is not set. Rows hold texts,
numbers or None (not measured); how numbers are shown is the page's affair.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

VARIABLE = "TASADOR_BENCH_JSON"
Cell = str | float | int | bool | None


def plain(value: Any) -> Cell:
    """Return a cell as JSON has it: numpy's numbers as Python's, what is not finite as None."""
    if value is None or isinstance(value, str | bool):
        return value
    number = value.item() if hasattr(value, "item") else value
    return number if isinstance(number, int | bool) or math.isfinite(number) else None


class Goal(Protocol):
    """A figure beside its goal, as `main_job.Figure`."""

    @property
    def reached(self) -> bool:
        """Whether the goal is met."""

    def keep(self, figures: Figures) -> None:
        """Add it to what the suite shows."""


@dataclass
class Figures:
    """The tables, goals and pictures of one benchmark, in the order in which they are shown."""

    tables: list[dict[str, Any]] = field(default_factory=list)
    goals: list[dict[str, Any]] = field(default_factory=list)
    plots: list[dict[str, Any]] = field(default_factory=list)

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = ""
    ) -> None:
        """Add a table; parts of one section join tables that have the same title and columns."""
        cells = [[plain(cell) for cell in row] for row in rows]
        if any(len(row) != len(columns) for row in cells):
            raise ValueError(f"{title}: a row does not have {len(columns)} cells")
        self.tables.append({"title": title, "columns": list(columns), "rows": cells, "note": note})

    def goal(self, name: str, value: Any, goal: float, *, lower_is_better: bool = True) -> None:
        """Add a figure that has a goal."""
        sign = "<=" if lower_is_better else ">="
        self.goals.append({"name": name, "value": plain(value), "goal": goal, "sign": sign})

    def bars(self, title: str, caption: str, labels: Sequence[str], values: Sequence[Any]) -> None:
        """Add a picture of horizontal bars."""
        self.plots.append(
            {"kind": "bars", "title": title, "caption": caption, "labels": list(labels),
             "values": [plain(value) for value in values]}
        )  # fmt: skip

    def lines(
        self,
        title: str,
        caption: str,
        axes: tuple[str, str],
        series: Mapping[str, Sequence[tuple[float, float]]],
    ) -> None:
        """Add a picture of lines, both axes logarithmic; `series` holds points by name."""
        points = {name: [[plain(x), plain(y)] for x, y in some] for name, some in series.items()}
        self.plots.append(
            {"kind": "lines", "title": title, "caption": caption, "axes": list(axes),
             "series": points}
        )  # fmt: skip

    def finish(self, goals: Sequence[Goal]) -> int:
        """Print goals, keep everything, and return the exit code: 1 where a goal is missed."""
        for goal in goals:
            print(goal)
            goal.keep(self)
        self.keep()
        return 0 if all(goal.reached for goal in goals) else 1

    def show(self) -> None:
        """Print the tables."""
        for table in self.tables:
            print(f"\n{table['title']}\n{' | '.join(table['columns'])}")
            for row in table["rows"]:
                print(" | ".join(f"{c:,.2f}" if isinstance(c, float) else str(c) for c in row))
            print(table["note"])

    def keep(self) -> None:
        """Write everything to the file that the suite asked for, if it asked."""
        if path := os.environ.get(VARIABLE):
            found = {"tables": self.tables, "goals": self.goals, "plots": self.plots}
            Path(path).write_text(json.dumps(found, ensure_ascii=False))
