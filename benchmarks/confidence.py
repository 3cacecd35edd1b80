"""Whether the forecast standard deviation and the intervals keep what they promise.

    python benchmarks/confidence.py [--tables california king_county melbourne] [--rows N]
        [--settings sweep.trials=2]

California is cut at random, King County at the first day of 2013, Melbourne where its newest 20%
begin. `tasador run` (for Melbourne after an unedited `init`) sees the other rows alone; `tasador
predict` values the rows of the test part, which no step has seen, with intervals of 90, 80 and
50%. Counted are the relative errors within the row's forecast standard deviation (FSD), which is
to hold 68% of them, and the prices within the intervals: of all rows, by class, by tenth of the
estimates and by segment. Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from figures import Figures
from inputs import real_table
from isolation import isolate
from main_job import Figure
from tables import TEST_SHARE, Split, cut, drawn, run_tasador
from tables_data import SALES, TABLES, Table, read_table
from tasador.modeling.confidence import FSD_COVERAGE
from valuation_peers import SINCE, by_date

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
PROMISES = (0.9, 0.8, 0.5)
SHARES = (1.0, 0.9, 0.8, 0.7, 0.5)
#: Points by which the share within the FSD may differ from 68, of all rows and of a class.
OFF, OFF_CLASS = 2.0, 4.0
#: Rows of a class or a segment from which on chance alone stays within about 4 points.
FEWEST = 500


@dataclass(frozen=True)
class Case:
    """A table, the contract's name, whether it is shipped, and the column of its segments."""

    title: str
    table: Table
    contract: str
    shipped: bool
    segment: str


CASES = {
    "california": Case("California, at random", TABLES["housing"], "california_housing", True,
                       "ocean_proximity"),
    "king_county": Case("King County, since 2013", SALES["king_county_by_date"],
                        "king_county_sales", True, "PropertyType"),
    "melbourne": Case("Melbourne, newest 20%", SALES["melbourne_by_date"], "melbourne", False,
                      "Regionname"),
}  # fmt: skip


@dataclass(frozen=True)
class Valued:
    """The test rows that got a value.

    Attributes:
        estimate, fsd, error: Shape (n,): estimate, forecast standard deviation, relative error.
        grade: Shape (n,): class of confidence.
        segment: Shape (n,): value of the segments' column.
        inside: By promise, shape (n,): whether the interval holds the price.
    """

    estimate: Floats
    fsd: Floats
    error: Floats
    grade: NDArray[np.str_]
    segment: NDArray[np.str_]
    inside: dict[float, Flags]


def values(folder: Path, split: Split, segments: Sequence[Any]) -> Valued:
    """Value the test part by the model of a folder's workspace, once for each promise."""
    inside: dict[float, Flags] = {}
    for promise in PROMISES:
        command = [sys.executable, "-W", "ignore", "-m", "tasador.cli.app", "predict",
                   split.test.name, "-o", "valued.csv", "--coverage", str(promise)]  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        found = pd.read_csv(folder / "valued.csv")
        estimate = found.columns[0]  # of the name that the contract gives it
        kept = found[estimate].notna().to_numpy()
        price = split.actual[kept]
        found = found[kept]
        inside[promise] = ((found["lower"] <= price) & (price <= found["upper"])).to_numpy()
    own = found[estimate].to_numpy(float)
    return Valued(
        own, found["fsd"].to_numpy(float), np.abs(own / price - 1.0),
        found["confidence_class"].to_numpy(str), np.array(segments, dtype=str)[kept], inside,
    )  # fmt: skip


def tested(name: str, rows: int, settings: Sequence[str]) -> Valued:
    """Train on a table's other rows and value its test part."""
    case = CASES[name]
    source = real_table(case.table.file)
    order = drawn(source, 0, rows)
    tests = round(TEST_SHARE * len(order))
    if case.table.date:
        days = read_table(source, case.table)[case.table.date].to_numpy(float)
        order, tests = by_date(days, order, SINCE.get(name))
    with tempfile.TemporaryDirectory(prefix="tasador-confidence-") as place:
        folder = Path(place)
        split = cut(case.table, source, folder, order, tests)
        answer = run_tasador(
            case.contract, case.table, split, folder, settings, shipped=case.shipped
        )
        if answer.estimates is None:
            raise SystemExit(f"{name}: {answer.told}")
        segments = read_table(split.test, case.table)[case.segment].tolist()
        found = values(folder, split, segments)
    print(f"{case.title}: {len(split.actual):,} test rows, {len(found.error):,} valued, "
          f"{answer.seconds:.0f} s", flush=True)  # fmt: skip
    return found


def percent(flags: Flags) -> float:
    """Return the share that is true, in percent."""
    return 100.0 * float(flags.mean())


def classes(found: Valued) -> Iterator[tuple[str, int, float, float, float]]:
    """Yield all rows and each class: rows, median error, within the FSD, within 10%, in percent."""
    for name in ("all", "H", "M", "L"):
        rows = (found.grade == name) | (name == "all")
        if rows.any():
            error = found.error[rows]
            yield (name, int(rows.sum()), 100.0 * float(np.median(error)),
                   percent(error <= found.fsd[rows]), percent(error <= 0.1))  # fmt: skip


def groups(found: Valued) -> Iterator[tuple[str, Flags]]:
    """Yield the tenths of the estimates and the larger segments, each with its rows."""
    cuts = np.quantile(found.estimate, np.linspace(0.1, 0.9, 9))
    tenth = cuts.searchsorted(found.estimate, side="right")
    for at in range(10):
        yield f"tenth {at + 1}", tenth == at
    for name in sorted(set(found.segment)):
        if (rows := found.segment == name).sum() >= FEWEST:
            yield str(name), rows


def hit_rates(found: Valued) -> Iterator[tuple[float, float, float, float]]:
    """Yield for the surest shares of the rows: share, largest FSD, median error, within 10%."""
    surest = np.argsort(found.fsd, kind="stable")
    for share in SHARES:
        rows = surest[: max(round(share * len(surest)), 1)]
        error = found.error[rows]
        yield (100.0 * share, float(found.fsd[rows].max()), 100.0 * float(np.median(error)),
               percent(error <= 0.1))  # fmt: skip


def goals_of(title: str, found: Valued) -> Iterator[Figure]:
    """Yield how far the shares within the FSD are from 68%."""
    promised = 100.0 * FSD_COVERAGE
    for name, rows, _, held, _ in classes(found):
        if name == "all":
            yield Figure(f"{title}: points from 68%, all", abs(held - promised), OFF)
        elif rows >= FEWEST:
            yield Figure(f"{title}: the same, class {name}", abs(held - promised), OFF_CLASS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep; tell whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rows", type=int, default=0, help="a sample of each table; 0 for all")
    parser.add_argument("--settings", nargs="*", default=[], help="of our run")
    given = parser.parse_args(arguments)
    results = {CASES[name].title: tested(name, given.rows, given.settings)
               for name in given.tables}  # fmt: skip
    kept = Figures()
    tables: list[tuple[str, list[str], list[tuple[Any, ...]], str]] = [
        ("Errors within one forecast standard deviation",
         ["Table", "class", "rows", "median error (%)", "within one FSD (%)", "within 10% (%)"],
         [(title, *one) for title, found in results.items() for one in classes(found)],
         f"One FSD is to hold 68%. Classes of fewer than {FEWEST} rows are not judged."),
        ("Prices within their intervals (%)",
         ["Table", "rows of", "rows", *(f"{promise:.0%} interval" for promise in PROMISES)],
         [(title, name, int(rows.sum()), *(percent(one[rows]) for one in found.inside.values()))
          for title, found in results.items()
          for name, rows in (("all", found.error >= 0.0), *groups(found))],
         f"Tenths of the estimates, and segments of at least {FEWEST} rows."),
        ("Error where only the surest rows are valued",
         ["Table", "hit rate (%)", "largest FSD", "median error (%)", "within 10% (%)"],
         [(title, *one) for title, found in results.items() for one in hit_rates(found)], ""),
    ]  # fmt: skip
    for title, columns, rows, note in tables:
        kept.table(title, columns, rows, note)
        print(f"\n{title}\n" + "  ".join(columns))
        for row in rows:
            cells = (f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row)
            print("  ".join(text.rjust(len(n)) for text, n in zip(cells, columns, strict=True)))
    goals = [goal for title, found in results.items() for goal in goals_of(title, found)]
    return kept.finish(goals)


if __name__ == "__main__":
    isolate()
    sys.exit(main())
