"""The acceptance figures of the main job, measured: `python benchmarks/main_job.py`.

Runs the default pipeline twice on the real table in a temporary workspace, each in a process of
its own as a user would, then a third time from scratch and on four other splits, and prints time,
memory, the test figures, whether equal inputs gave equal bytes, and how long one valuation takes.
Exits with 1 when a goal is missed. Nothing here is a test: figures of time belong to the machine
they were measured on.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from figures import Figures
from inputs import real_table
from isolation import isolate
from tasador.metrics.regression import label
from tasador.registry.model_bundle import ModelBundle, load_bundle

ROW = {
    "longitude": -122.23,
    "latitude": 37.88,
    "housing_median_age": 41,
    "total_rooms": 880,
    "total_bedrooms": 129,
    "population": 322,
    "households": 126,
    "median_income": 8.3252,
    "ocean_proximity": "NEAR BAY",
}


#: Random splits; of three the error is known that the first complete version had, in 230 s.
SEEDS = (42, 7, 2026, 1, 2)
KNOWN = (42, 7, 2026)
SHOWN = ("mape", "wmape", "within_10", "rmse", "r2")


@dataclass(frozen=True)
class Figure:
    """One figure beside its goal."""

    name: str
    value: float
    goal: float
    lower_is_better: bool = True

    @property
    def reached(self) -> bool:
        """Whether the goal is met."""
        return self.value <= self.goal if self.lower_is_better else self.value >= self.goal

    def keep(self, figures: Figures) -> None:
        """Add it to what the suite shows."""
        figures.goal(self.name, self.value, self.goal, lower_is_better=self.lower_is_better)

    def __str__(self) -> str:
        sign = "<=" if self.lower_is_better else ">="
        mark = "ok" if self.reached else "MISSED"
        return f"{self.name:<46} {self.value:>12,.3f}   {sign} {self.goal:<10,g} {mark}"


def run_pipeline(workspace: Path, seed: int = SEEDS[0]) -> tuple[float, float]:
    """Run the pipeline on a random split; return seconds and peak resident memory in GB."""
    command = [sys.executable, "-m", "tasador.cli.app", "run", f"storage.workspace={workspace}",
               "segregate.method=random", f"segregate.seed={seed}"]  # fmt: skip
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("the pipeline failed; run it by hand: tasador run")
    return time.perf_counter() - started, usage.ru_maxrss / 1e6


def newest(workspace: Path, name: str) -> Path:
    """Return a file of the newest run."""
    return max((workspace / "runs").glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)


def value_latency(bundle: ModelBundle, calls: int = 20_000) -> tuple[float, float]:
    """Return p50 and p99 of one valuation in microseconds.

    The first seconds are not counted: a processor that has been idle takes them to speed up.
    """
    for _ in range(calls // 2):
        bundle.value(ROW)
    times = []
    for _ in range(calls):
        started = time.perf_counter_ns()
        bundle.value(ROW)
        times.append((time.perf_counter_ns() - started) / 1000)
    cuts = statistics.quantiles(times, n=100)
    return cuts[49], cuts[98]


def measure(folder: Path, kept: Figures) -> Iterator[Figure]:
    """Yield every figure, and keep those of the splits."""
    first, second = folder / "first", folder / "second"
    seconds, memory = run_pipeline(first)
    yield Figure("first run, seconds", seconds, 90)
    yield Figure("first run, peak memory GB", memory, 2)
    unchanged, _ = run_pipeline(first)
    yield Figure("unchanged second run, seconds", unchanged, 5)
    test = json.loads(newest(first, "metrics.json").read_text())["test"]
    yield Figure("test RMSE, USD", test["rmse"], 39_600)
    yield Figure("test MAPE, %", test["mape"], 13.1)
    yield Figure("test within 10%, %", test["within_10"], 58.5, lower_is_better=False)
    yield Figure("test R2", test["r2"], 0.880, lower_is_better=False)
    bundle = load_bundle(newest_bundle(first))
    p50, p99 = value_latency(bundle)
    yield Figure("ModelBundle.value(one row), p50 us", p50, 250)
    yield Figure("ModelBundle.value(one row), p99 us", p99, 1000)
    run_pipeline(second)
    same = newest(first, "metrics.json").read_bytes() == newest(second, "metrics.json").read_bytes()
    other = load_bundle(newest_bundle(second))
    same = same and bundle.value(ROW) == other.value(ROW)
    yield Figure("two runs from scratch differ (0 = same bytes)", float(not same), 0)
    splits = [[str(SEEDS[0]), *(test[name] for name in SHOWN), seconds]]
    for seed in SEEDS[1:]:
        seconds, _ = run_pipeline(folder / str(seed), seed)
        test = json.loads(newest(folder / str(seed), "metrics.json").read_text())["test"]
        splits.append([str(seed), *(test[name] for name in SHOWN), seconds])
    kept.table(
        "The default run on five random splits",
        ["Seed of the split", *(label(name) for name in SHOWN), "seconds"],
        [*splits, ["mean", *np.mean([row[1:] for row in splits], axis=0).tolist()]],
    )
    known = statistics.mean(row[1] for row in splits if int(row[0]) in KNOWN)
    yield Figure("test MAPE of the splits 42, 7 and 2026, %", known, 12.24)


def newest_bundle(workspace: Path) -> Path:
    """Return the only bundle of a workspace."""
    return next((workspace / "bundles").glob("*/manifest.json")).parent


def main() -> int:
    """Print the figures as they come."""
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    real_table("housing.csv")
    missed, kept = 0, Figures()
    with tempfile.TemporaryDirectory() as folder:
        for figure in measure(Path(folder), kept):
            print(figure, flush=True)
            missed += not figure.reached
            figure.keep(kept)
    kept.show()
    kept.keep()
    print(f"{missed} goals missed" if missed else "all goals reached")
    return 1 if missed else 0


if __name__ == "__main__":
    isolate()
    sys.exit(main())
