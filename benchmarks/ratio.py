"""Our ratio study beside assesspy's and MPAC's: equal figures, seconds and memory.

    python benchmarks/ratio.py [--sales 1000 100000 1000000]

Prices and estimates are drawn: log-normal, dear ones valued a little low, and a second roll in
which 15% of the estimates were moved to the price. Each tool runs in a process of its own, from a
Parquet file: the figures that all three have (median ratio, COD, PRD, PRB, MKI, KI), best of three
passes, then once a whole study, with the intervals of COD, PRD and PRB and the two looks for sales
chasing. Ours has intervals of nine figures and the groups of prices besides. assesspy draws its
bootstraps one after the other; of many sales fewer are measured and scaled up to ours, 500.
Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from drift_speed import run
from figures import Figures
from isolation import isolate
from main_job import Figure
from peer_environments import peer_python
from tasador.core import seeds

SIZES = (1_000, 100_000, 1_000_000)
DRAWS = 500
#: Resampled sales after which assesspy's bootstrap is scaled up: 2 draws of a million.
MEASURED = 2_000_000
INTERVALS = ("cod", "prd", "prb")

_TIMED = """
import json, resource, sys, time
started = time.perf_counter()
def timed(work, passes=1):
    best = float("inf")
    for _ in range(passes):
        before = time.perf_counter()
        found = work()
        best = min(best, time.perf_counter() - before)
    return found, best
def done(figures, seconds, study, intervals, chased):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({
        "figures": {name: float(value) for name, value in figures.items()}, "seconds": seconds,
        "study": study, "wall": time.perf_counter() - started, "peak_gb": peak,
        "intervals": {name: [float(end) for end in ends] for name, ends in intervals.items()},
        "chased": [bool(one) for one in chased]}))
"""

OURS = (
    _TIMED
    + """
import polars
from tasador.metrics.ratio_study import ratio_study, sales_chasing
from tasador.metrics.regression import RATIO_STUDY
price, estimate, moved = (one.to_numpy() for one in polars.read_parquet(sys.argv[1]))
names = ("median_ratio", "cod", "prd", "prb", "mki", "ki")
figures, seconds = timed(lambda: {n: RATIO_STUDY[n](price, estimate) for n in names}, 3)
study, whole = timed(lambda: ratio_study(price, estimate))
done(figures, seconds, whole,
     {n: (study[n].low, study[n].high) for n in ("cod", "prd", "prb")},
     [study.chasing.jumps, study.chasing.bunched,
      sales_chasing(moved / price).jumps, sales_chasing(moved / price).bunched])
"""
)

ASSESSPY = (
    _TIMED
    + """
import assesspy, pandas
rows = pandas.read_parquet(sys.argv[1])
price, estimate, moved = rows.price, rows.estimate, rows.moved
figures, seconds = timed(lambda: {
    "median_ratio": (estimate / price).median(),
    **{n: getattr(assesspy, n)(estimate, price) for n in ("cod", "prd", "prb", "mki", "ki")}}, 3)
draws, measured = int(sys.argv[2]), int(sys.argv[3])
def intervals(): # of the two that are drawn
    return {n: getattr(assesspy, n + "_ci")(estimate, price, nboot=measured)
            for n in ("cod", "prd")}
drawn, spent = timed(intervals)
prb, closed = timed(lambda: assesspy.prb_ci(estimate, price))
def looks(values):
    return [assesspy.is_sales_chased(values / price, method=how) for how in ("cdf", "dist")]
chased, looked = timed(lambda: looks(estimate))
done(figures, seconds, seconds + spent * draws / measured + closed + looked,
     {**drawn, "prb": prb}, [*chased, *looks(moved)])
"""
)

MPAC = (
    _TIMED
    + """
import pandas, ratio_study as study
rows = pandas.read_parquet(sys.argv[1])
price, estimate = rows.price.to_numpy(), rows.estimate.to_numpy()
def all_figures():
    ratio = estimate / price
    gini = study.gini_stats(price, estimate, run_regression=False)
    own, concentration = gini["Gini_Sale_Prices"], gini["Concentration_Index"]
    return {"median_ratio": study.asr_median(ratio), "cod": 100 * study.cod(ratio),
            "prd": study.prd(price, ratio),
            "prb": study.prb(price, estimate, ratio, req_significance=None)[0],
            "mki": concentration / own, "ki": concentration - own}
def looks(ratio):
    return [study.sc_cdf_gap(ratio)["flag"], study.sc_concentration(ratio)["flag"]]
def the_rest():
    ratio = estimate / price
    ends = {"cod": [100 * end for end in study.cod_ci(ratio)],
            "prd": study.prd_ci(estimate, price), "prb": study.prb(price, estimate, ratio)[2]}
    return ends, looks(ratio)
figures, seconds = timed(all_figures, 3)
(ends, chased), spent = timed(the_rest)
done(figures, seconds, seconds + spent, ends, [*chased, *looks(rows.moved.to_numpy() / price)])
"""
)

PEERS = {"assesspy 2.0.2": ("assesspy", ASSESSPY), "MPAC ratio_study 1.0.1": ("ratio_study", MPAC)}
FIGURES = ("median ratio", "COD", "PRD", "PRB", "MKI", "KI")


def write_sales(path: Path, sales: int) -> None:
    """Write prices, estimates that are lower for dear houses, and these with 15% at the price."""
    random = seeds.generator(sales, "ratio study")
    price = np.exp(random.normal(12.5, 0.6, sales))
    estimate = price * np.exp(random.normal(0.0, 0.15, sales)) * (price / 268_000.0) ** -0.05
    moved = np.where(random.random(sales) < 0.15, price, estimate)
    pl.DataFrame({"price": price, "estimate": estimate, "moved": moved}).write_parquet(path)


def measure(sales: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each tool found and took, ours first."""
    path = folder / f"{sales}.parquet"
    write_sales(path, sales)
    found = {"tasador": run(sys.executable, OURS, str(path))}
    draws = [str(DRAWS), str(min(DRAWS, max(MEASURED // sales, 1)))]
    for name, (peer, code) in PEERS.items():
        found[name] = run(peer_python(peer), code, str(path), *draws)
    return found


def gaps(ours: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """Return by how much each figure differs, relatively to the larger one."""
    pairs = zip(ours["figures"].values(), other["figures"].values(), strict=True)
    return [abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0 for a, b in pairs]


def widths(ours: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """Return how many times as wide our intervals of COD, PRD and PRB are."""
    both = ([one["intervals"][name] for name in INTERVALS] for one in (ours, other))
    return [(own[1] - own[0]) / (ends[1] - ends[0]) for own, ends in zip(*both, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is found as it comes, keep it, and tell whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sales", type=int, nargs="+", default=SIZES)
    asked = parser.parse_args(arguments)
    costs, differences = list[list[Any]](), list[list[Any]]()
    farthest, verdicts, as_fast, times = 0.0, 0, float("inf"), float("inf")
    with tempfile.TemporaryDirectory() as name:
        for sales in asked.sales:
            found = measure(sales, Path(name))
            ours = found["tasador"]
            for tool, one in found.items():
                more = one["study"] / ours["study"]
                costs.append([f"{sales:,}", tool, one["seconds"], one["study"], more, one["wall"],
                              one["peak_gb"]])  # fmt: skip
                print(
                    f"{sales:>9,}  {tool:<23} figures {one['seconds']:8.4f} s  study "
                    f"{one['study']:9.3f} s  peak {one['peak_gb']:.2f} GB",
                    flush=True,
                )
                if one is ours:
                    continue
                apart, same = gaps(ours, one), one["chased"] == ours["chased"]
                differences.append([f"{sales:,}", tool, *apart, *widths(ours, one),
                                    "the same" if same else "other"])  # fmt: skip
                print(f"{'':>9}  {'':<23} figures within {max(apart):.1e}; sales chasing: "
                      f"{differences[-1][-1]} verdicts")  # fmt: skip
                as_fast = min(as_fast, one["seconds"] / ours["seconds"])
                if tool.startswith("assesspy"):
                    times = min(times, more)
                    farthest, verdicts = max(farthest, *apart), verdicts + (not same)
    goals = [
        Figure("largest relative gap to a figure of assesspy", farthest, 1e-9),
        Figure("sizes at which a verdict on sales chasing differs", verdicts, 0),
        Figure("times as fast as the faster peer, six figures", as_fast, 1, lower_is_better=False),
        Figure("times as fast as assesspy, whole study", times, 1, lower_is_better=False),
        Figure(f"seconds of a whole study of {costs[-1][0]} sales", ours["study"], 10),
    ]
    kept = Figures()
    kept.table(
        "Seconds and memory of a ratio study",
        ("Sales", "Tool", "six figures s", "whole study s", "times as long as ours", "process s",
         "peak GB"),
        costs,
        "The whole study has intervals of COD, PRD and PRB and the looks for sales chasing; ours "
        "has intervals of nine figures and the groups of prices besides. Bootstraps have "
        f"{DRAWS} draws: ours of up to 5,000 sales, narrowed to all; assesspy's of all, of many "
        "sales measured on fewer draws and scaled up. MPAC's intervals are closed forms.",
    )  # fmt: skip
    kept.table(
        "The same figures",
        ("Sales", "Tool", *(f"{name}, relative gap" for name in FIGURES),
         *(f"our interval of the {name} is times as wide" for name in ("COD", "PRD", "PRB")),
         "Sales chasing"),
        differences,
        "MPAC's PRB divides by 0.693 where ln 2 is meant, and is rounded to five digits; its looks "
        "for sales chasing have other limits than assesspy's, which are ours.",
    )  # fmt: skip
    return kept.finish(goals)


if __name__ == "__main__":
    isolate()
    sys.exit(main())
