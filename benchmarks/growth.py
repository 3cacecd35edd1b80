"""How cost grows with rows, columns and categories, and that of the comparables' index.

Every measurement is a process of its own on a generated table (`growth_parts.py`); every answer is
checked. The exponent is the slope of a line through the points on logarithmic axes: doubling the
size multiplies the cost by two to that power. Points below 20 ms say nothing and are left out.

    python benchmarks/growth.py rows|columns|categories|comparables [--small]

Ten million rows take 16 GB of memory. Exits with 1 when an answer was wrong or a part did not
finish.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import Figures
from isolation import isolate

HERE = Path(__file__).parent
PIPELINE = ("validate and split", "features, fit", "features, transform", "LightGBM, fit",
            "drift, judge")  # fmt: skip
INDEX = ("index, 2 dimensions", "index, 5 dimensions")
#: For each axis: what is measured, (rows, columns, categories) by size, and the rest in words.
SIZES: dict[str, tuple[tuple[str, ...], list[tuple[int, int, int]], str]] = {
    "rows": (PIPELINE, [(10**k, 30, 100) for k in (4, 5, 6, 7)], "30 columns, 100 categories"),
    "columns": (PIPELINE, [(10_000, p, 100) for p in (10, 100, 1000)], "10 000 rows"),
    "categories": (PIPELINE, [(200_000, 10, k) for k in (10, 1000, 100_000)],
                   "200 000 rows, 10 columns"),
    "comparables": (INDEX, [(10**k, 0, 0) for k in (4, 5, 6, 7)],
                    "64 neighbours, 4 context columns"),
}  # fmt: skip
SMALL = {
    "rows": [(1000, 10, 10), (4000, 10, 10)],
    "columns": [(1000, 10, 10), (1000, 40, 10)],
    "categories": [(2000, 5, 10), (2000, 5, 100)],
    "comparables": [(1000, 0, 0), (4000, 0, 0)],
}
SHORTEST_S = 0.02
LIMIT_S = 900


def exponent(points: Sequence[tuple[float, float]], least: float = 0.0) -> float | None:
    """Return the least-squares slope of log(cost) over log(size); None with fewer than two points.

    Args:
        points: (size, cost), both positive.
        least: Points with a smaller cost are left out.
    """
    logs = [(math.log(x), math.log(y)) for x, y in points if y >= least and y > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    top = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    return top / sum((x - mean_x) ** 2 for x, _ in logs)


def measure(part: str, folder: Path, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Run one measurement; what went wrong is in `check`."""
    command = [sys.executable, str(HERE / "growth_parts.py"), part, str(folder), *map(str, sizes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"check": f"not finished in {LIMIT_S} s", "holds": False}
    if done.returncode < 0:
        return {"check": f"killed by signal {-done.returncode}, memory?", "holds": False}
    if done.returncode:
        sys.stderr.write(done.stderr[-2000:])
        last = done.stderr.strip().splitlines() or ["no reason given"]
        return {"check": f"failed: {last[-1][:150]}", "holds": False}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run(axis: str, sizes: Sequence[tuple[int, int, int]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Measure all parts at all sizes; results by part and size."""
    parts, place = SIZES[axis][0], {"columns": 1, "categories": 2}.get(axis, 0)
    results: dict[str, dict[int, dict[str, Any]]] = {part: {} for part in parts}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="tasador-growth-") as folder:
            if axis != "comparables":
                measure("table", Path(folder), size)
            for part in parts:
                found = measure(part, Path(folder), size)
                results[part][size[place]] = found
                cells = " ".join(f"{k} {v:.3g}" for k, v in found.items() if isinstance(v, float))
                print(f"{size[place]:>11,} {part:<22} {cells}  {found.get('check')}", flush=True)
    return results


def keep(axis: str, results: dict[str, dict[int, dict[str, Any]]]) -> bool:
    """Keep what the suite shows; return whether every answer was right."""
    kept, index = Figures(), axis == "comparables"
    size_name = "rows in the index" if index else axis
    rows, series, slopes = [], {}, []
    for part, by_size in results.items():
        fine = {size: one for size, one in by_size.items() if "cpu" in one}
        for size, one in by_size.items():
            more = (
                [one.get("grown_gb", math.nan) * 2**30 / size, one.get("query_us")] if index else []
            )
            rows.append([part, size, one.get("seconds"), one.get("cpu"), one.get("peak_gb"), *more,
                         one["check"]])  # fmt: skip
        cost = "query_us" if index else "cpu"
        series[part] = [(size, one[cost]) for size, one in fine.items()]
        seconds = exponent([(n, one["cpu"]) for n, one in fine.items()], SHORTEST_S)
        memory = exponent([(n, one["grown_gb"]) for n, one in fine.items()], 0.01)
        query = [exponent(series[part])] if index else []
        slopes.append([part, seconds, memory, *query])
    more = ["bytes a row", "query, us a row"] if index else []
    kept.table(
        f"By {size_name}: {SIZES[axis][2]}",
        ["Part", size_name, "seconds", "CPU s", "peak GB", *more, "Answer checked"],
        rows,
        "Seconds build the index; bytes a row are the training rows and trees." if index else "",
    )
    kept.table(
        f"Exponents by {size_name}",
        ["Part", "CPU seconds", "memory", *(["query time"] if index else [])],
        slopes,
    )
    kept.lines(
        "Query time of the comparables' index" if index else f"Cost by {axis}",
        "CPU microseconds a row." if index else f"CPU seconds; {SIZES[axis][2]}.",
        (size_name, "us" if index else "CPU seconds"),
        series,
    )
    kept.keep()
    for part, *found in slopes:
        print(f"exponents of {part}: {[None if v is None else round(v, 2) for v in found]}")
    return all(one["holds"] for by_size in results.values() for one in by_size.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one axis."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("axis", choices=list(SIZES))
    parser.add_argument("--small", action="store_true", help="only show that it works")
    given = parser.parse_args(arguments)
    sizes = SMALL[given.axis] if given.small else SIZES[given.axis][1]
    return 0 if keep(given.axis, run(given.axis, sizes)) else 1


if __name__ == "__main__":
    isolate()
    sys.exit(main())
