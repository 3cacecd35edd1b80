"""Exact contributions at scale: `python benchmarks/explain.py [BUNDLE] [--rows 50000]`.

`tasador score --explain` of many rows from a Parquet file into another, beside the same without
reasons; one explanation in process, with its comparables; and the contributions alone, of a
LightGBM of `--trees` trees fitted here on the bundle's features, beside LightGBM's `pred_contrib`
and the library `shap`, in an environment of its own: as it is called, when it asks LightGBM, and by
its own compiled code. All contributions are worked out in one thread. Exits with 1 when a goal is
missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from numpy.typing import NDArray

import inputs
from batch_scoring import MICRO, fitted, rows_for, table_of
from drift_speed import run
from figures import Figures
from isolation import isolate
from main_job import Figure
from peer_environments import peer_python
from tasador.core.parallel import usable_cores
from tasador.inference.batch_scorer import BatchScorer
from tasador.registry.explainer import Wanted
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.scoring.files import ScoreRequest, score_files
from tasador.trees.importers import from_lightgbm
from tasador.trees.tree_shap import TreeContributions

Floats = NDArray[np.float64]
#: The quickest that the assessor of Cook County reports for 50 000 rows: 19 minutes.
ANCHOR_S, ANCHOR_ROWS = 1140.0, 50_000
CALLS = 300

PEERS = """
import json, os, sys, time
os.environ["OMP_NUM_THREADS"] = "1"
import lightgbm, numpy, shap
booster, Z = lightgbm.Booster(model_file=sys.argv[1]), numpy.load(sys.argv[2])
explainer = shap.TreeExplainer(booster, feature_perturbation="tree_path_dependent")
own = shap.TreeExplainer(booster, feature_perturbation="tree_path_dependent")
own.model.model_type = "internal"  # else it hands the rows to LightGBM
ways = {
    "LightGBM 4.7.0, pred_contrib": lambda: booster.predict(Z, pred_contrib=True)[:, :-1],
    "shap 0.51.0, as it is called": lambda: explainer.shap_values(Z),
    "shap 0.51.0, its own code": lambda: own.shap_values(Z, check_additivity=False),
}
told = {}
for number, (name, work) in enumerate(ways.items()):
    started, cpu = time.perf_counter(), time.process_time()
    found = work()
    told[name] = [time.perf_counter() - started, time.process_time() - cpu]
    numpy.save(f"{sys.argv[3]}-{number}.npy", found)
print(json.dumps(told))
"""


def timed(work: Any) -> tuple[Any, float, float]:
    """Return what a call gives, its seconds and its seconds of processor time."""
    started, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - started, time.process_time() - cpu


def scored(bundle: ModelBundle, source: Path, out: Path, *, explain: bool) -> tuple[float, float]:
    """Score a file on all cores; seconds and seconds of processor time."""
    order = ScoreRequest((str(source),), str(out), explain=explain)
    _, seconds, cpu = timed(lambda: score_files(bundle, order, print))
    return seconds, cpu


def sums_apart(bundle: ModelBundle, out: Path) -> float:
    """Return by how much base and parts miss an estimate at most, relatively."""
    rows = parquet.read_table(out)
    names = [name for name in rows.column_names if name == "base" or name.startswith("part_")]
    total = sum(rows.column(name).to_numpy() for name in names)
    estimate = rows.column(bundle.contract.target.prediction_name).to_numpy()
    known = np.isfinite(estimate)
    return float(np.max(np.abs(total - estimate)[known] / np.abs(estimate[known])))


def one_explanation(bundle: ModelBundle, X: Floats) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds of one row's value, parts and five comparables."""
    times = []
    for i in range(CALLS):
        at = i % len(X)
        _, seconds, _ = timed(lambda at=at: bundle.value_with_reasons(X[at : at + 1], Wanted(5)))
        times.append(seconds * 1000.0)
    cuts = statistics.quantiles(times[CALLS // 10 :], n=100)
    return cuts[49], cuts[98]


def beside_peers(
    bundle: ModelBundle, rows: Any, trees: int, count: int, folder: Path
) -> list[list[Any]]:
    """Return a line for each way to the contributions of the same LightGBM: seconds, difference."""
    with_model, booster = fitted(bundle, rows, trees, comparables=True)
    X = BatchScorer(bundle).encode(rows.combine_chunks().to_batches()[0])[0]
    Z = with_model.features.transform(X[np.arange(count) % len(X)])
    ours = TreeContributions(from_lightgbm(booster))
    ours.of(Z[0])
    parts, seconds, cpu = timed(lambda: ours.of_rows(Z))
    score = booster.predict(Z[:1000], num_threads=1)
    apart = float(np.max(np.abs(parts[:1000].sum(axis=1) + ours.expected - score)))
    lines: list[list[Any]] = [["tasador", seconds, count / cpu, cpu / count * MICRO, 1.0, apart]]
    booster.save_model(folder / "model.txt")
    np.save(folder / "Z.npy", Z)
    places = [str(folder / name) for name in ("model.txt", "Z.npy", "found")]
    told = run(peer_python("shap"), PEERS, *places)
    for number, (name, (seconds, spent)) in enumerate(told.items()):
        apart = float(np.max(np.abs(np.load(folder / f"found-{number}.npy") - parts)))
        lines.append([name, seconds, count / spent, spent / count * MICRO, spent / cpu, apart])
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep; tell whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=ANCHOR_ROWS)
    parser.add_argument("--peer-rows", type=int, default=5_000, help="of the contributions alone")
    parser.add_argument("--trees", type=int, default=500)
    asked = parser.parse_args(arguments)
    bundle = load_bundle(asked.bundle or inputs.bundle_folder(Path("workspace")))
    table = table_of(bundle)
    rows = rows_for(table, bundle, asked.rows, moved=True)
    names = [name for name in bundle.contract.feature_names if name in rows.column_names]
    kept = Figures()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, out = folder / "rows.parquet", folder / "out.parquet"
        parquet.write_table(rows.select(names), source)
        plain, plain_cpu = scored(bundle, source, out, explain=False)
        seconds, cpu = scored(bundle, source, out, explain=True)
        apart = sums_apart(bundle, out)
        X = BatchScorer(bundle).encode(rows.select(names).to_batches()[0])[0]
        p50, p99 = one_explanation(bundle, X[:CALLS])
        lines = beside_peers(bundle, table, asked.trees, asked.peer_rows, folder)
    n = asked.rows
    spent = (("score --explain", seconds, cpu), ("score", plain, plain_cpu))
    files = [[title, wall, n / wall, work / n * MICRO] for title, wall, work in spent]
    kept.table(
        f"{n:,} rows of a file valued and explained, {usable_cores()} cores",
        ("Command", "seconds", "rows/s", "us of processor time a row"), files,
        f"By {bundle.version}, its value, interval and parts in money. As an anchor: the assessor "
        "of Cook County reports 19 minutes to 2 hours for 50,000 rows of its LightGBM, on 16 "
        "cores.",
    )  # fmt: skip
    kept.table(
        f"Contributions of {asked.peer_rows:,} rows to {asked.trees} LightGBM trees, one thread",
        ("Tool", "seconds", "rows/s", "us a row", "times as long as ours", "largest difference"),
        lines,
        "Differences of single contributions, on the logarithm of the price; ours: of their sum "
        "from the score.",
    )  # fmt: skip
    for title, *values in files:
        print(f"{title:<30}{values[0]:9.2f} s{values[1]:12,.0f} rows/s{values[2]:10.1f} us/row")
    for tool, *values in lines:
        print(f"{tool:<30}{values[0]:9.2f} s{values[1]:12,.0f} rows/s{values[2]:10.1f} us/row"
              f"{values[3]:8.1f} times  within {values[4]:.1e}")  # fmt: skip
    goals = [
        Figure(f"seconds to value and explain {n:,} rows", seconds, ANCHOR_S * n / ANCHOR_ROWS),
        Figure("base and parts miss the estimate, relatively", apart, 1e-9),
        Figure("one value with reasons in process, p50 ms", p50, 10),
        Figure("one value with reasons in process, p99 ms", p99, 25),
        Figure("largest difference from shap's parts", max(line[5] for line in lines), 1e-9),
        Figure("times as fast as the fastest of them", min(line[4] for line in lines[1:]), 1,
               lower_is_better=False),
    ]  # fmt: skip
    return kept.finish(goals)


if __name__ == "__main__":
    isolate()
    sys.exit(main())
