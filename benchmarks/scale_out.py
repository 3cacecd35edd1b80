"""What a Ray cluster of 1, 2 and 4 workers gains, and whether its results are the same.

    python benchmarks/scale_out.py BUNDLE [--small] [--workers 1 2 4]

Files are scored, a grid searched and a window's drift measured: by this process, then by clusters
of workers (a process and a core each) that are started for it. Results have to be equal: the files'
bytes, every score of every fold, the whole verdict. Seconds are those after the cluster is up, with
the workers' imports. Efficiency is the gain over one worker by what the cores allow: where there
are 2, 4 workers share them and can be twice as fast at most. At last a worker of the largest
cluster is killed (SIGKILL) in the middle of each of the three. Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

import grid_search
from batch_scoring import table_of
from figures import Figures
from isolation import isolate
from main_job import Figure
from tasador.core import seeds
from tasador.core.parallel import Engine, LocalEngine, RaySettings, usable_cores
from tasador.core.ray_engine import open_ray
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.table_reader import Fields
from tasador.ops.monitor_files import Comparison, monitor_files
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.scoring.files import ScoreRequest, score_files
from tasador.scoring.ray import score_files_on_ray
from tasador.settings.run import SelectionSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fixtures.ray_cluster import running_cluster

#: What this machine should reach for one more worker on a core of its own.
EFFICIENCY = 0.7
GRID = {
    "random_forest": {"n_estimators": [30], "max_depth": [10, 20], "min_samples_leaf": [2, 4]},
    "gradient_boosting": {"n_estimators": [30], "max_depth": [3, 5], "learning_rate": [0.1]},
}
SMALL_GRID = {"decision_tree": {"max_depth": [4, 8, 12], "min_samples_leaf": [1, 4]}}
TITLES = {"score": "ray::MapWorker", "search": "ray::_run", "drift": "ray::_run"}


@dataclass
class Work:
    """The three jobs, on files of a folder.

    Attributes:
        folder: Where the files are and come.
        bundle: What values them.
        grid: What is searched.
        table: Its rows and folds.
        runs: How many folders of results there are.
    """

    folder: Path
    bundle: ModelBundle
    grid: dict[str, dict[str, list[Any]]]
    table: grid_search.Table
    runs: int = 0

    def prepare(self, files: int, rows: int) -> None:
        """Write files of the bundle's own table, its rows drawn again and again."""
        table = table_of(self.bundle)
        for i in range(files):
            drawn = seeds.generator(0, "scale out", i).integers(0, len(table), rows)
            parquet.write_table(table.take(pa.array(drawn)), self.folder / f"in-{i:02d}.parquet")
        parquet.write_table(table, self.folder / "before.parquet")

    def score(self, engine: Engine) -> Any:
        """Return the bytes of every file of results."""
        self.runs += 1
        out = self.folder / f"out-{self.runs}"
        request = ScoreRequest((str(self.folder / "in-*.parquet"),), f"{out}/")
        if isinstance(engine, LocalEngine):
            score_files(self.bundle, request, print)
        else:
            score_files_on_ray(self.bundle.folder, request, print, RaySettings())
        return {file.name: file.read_bytes() for file in sorted(out.glob("*.parquet"))}

    def search(self, engine: Engine) -> Any:
        """Return each candidate with its scores on each fold."""
        settings = SelectionSettings(families=self.grid, folds=grid_search.FOLDS, racing=False)
        table = self.table
        found = grid_search.grid_search(
            settings, table.folds, table.part, table.transform, grid_search.SEED, engine=engine
        )
        return [replace(candidate, seconds=0.0) for candidate in found.candidates]

    def drift(self, engine: Engine) -> Any:
        """Return the verdict."""
        fields = Fields(target=self.bundle.contract.target.name)
        comparison = Comparison(
            str(self.folder / "before.parquet"), str(self.folder / "in-*.parquet"), fields
        )
        return replace(monitor_files(comparison, Thresholds(), engine)[0], made="")

    def jobs(self) -> dict[str, Callable[..., Any]]:
        """Return the three by name."""
        return {"score": self.score, "search": self.search, "drift": self.drift}


def timed(job: Callable[..., Any], engine: Engine) -> tuple[float, Any]:
    """Return seconds and result."""
    started = time.perf_counter()
    found = job(engine)
    return time.perf_counter() - started, found


def measure(work: Work, workers: list[int], kept: Figures) -> list[Figure]:
    """Run everything, print and keep it, and return the figures that have goals."""
    alone = {name: timed(job, LocalEngine()) for name, job in work.jobs().items()}
    taken: dict[tuple[str, int], float] = {}
    rows = [(name, "this process", seconds, None, None, "") for name, (seconds, _) in alone.items()]
    unequal = killed = 0
    for n in workers:
        with running_cluster(n) as cluster, open_ray(RaySettings()) as engine:
            for name, job in work.jobs().items():
                seconds, found = timed(job, engine)
                same = found == alone[name][1]
                unequal += not same
                taken[name, n] = seconds
                gain = taken[name, workers[0]] / seconds
                share = gain * workers[0] / max(min(n, usable_cores()), workers[0])
                rows.append((name, f"{n} workers", seconds, gain, share, "yes" if same else "NO"))
                print(f"{name:<8}{n} workers{seconds:8.2f} s  equal: {same}", flush=True)
            for name, job in work.jobs().items() if n == max(workers) else ():
                with cluster.killing(TITLES[name], times=1, after_s=0.0) as dead:
                    seconds, found = timed(job, engine)
                same = found == alone[name][1]
                unequal, killed = unequal + (not same), killed + len(dead)
                title = f"{n} workers, {len(dead)} killed"
                rows.append((name, title, seconds, None, None, "yes" if same else "NO"))
                print(f"{name:<8}{title}{seconds:8.2f} s  equal: {same}", flush=True)
    kept.table(
        "Work on a Ray cluster of this machine",
        ("Job", "by", "seconds", "times as fast", "efficiency", "same result"),
        sorted(rows, key=lambda row: list(TITLES).index(row[0])),
        f"{usable_cores()} cores; a worker is a process. This process works by threads on all of "
        "them. Times as fast as the first cluster; efficiency is that by the cores at work.",
    )
    goals = [
        Figure("results that differ", unequal, 0),
        Figure("workers killed on the way", killed, len(TITLES), lower_is_better=False),
    ]
    if (most := min(usable_cores(), 2)) in workers[1:]:
        goals += [
            Figure(f"efficiency of {most} workers, {name}",
                   taken[name, workers[0]] / taken[name, most] / (most / workers[0]), EFFICIENCY,
                   lower_is_better=False)
            for name in TITLES
        ]  # fmt: skip
    return goals


def main() -> int:
    """Measure, keep, and tell whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tasador-bench-") as temporary:
        folder, kept = Path(temporary), Figures()
        table = grid_search.read(600 if given.small else 0, folder)
        grid = SMALL_GRID if given.small else GRID
        work = Work(folder, load_bundle(given.bundle), grid, table)
        work.prepare(*((4, 5_000) if given.small else (16, 500_000)))
        goals = measure(work, given.workers, kept)
    return kept.finish(goals)


if __name__ == "__main__":
    isolate()
    sys.exit(main())
