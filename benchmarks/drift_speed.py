"""How fast a million rows are judged, in how much memory, beside Evidently and NannyML.

The rows are those of the real housing table, drawn again with a little noise until there are
enough: 8 numbers and 1 category; in the window all numbers are 2% larger. Each tool runs in a
process of its own, from Parquet files on disk, and reports wall seconds, CPU seconds and its peak
of resident memory. The peers get environments of their own, made on demand. Also compares the PSI
with a plain textbook computation on the same bins.
Exits with 1 when a goal is missed.

    TASADOR_REAL_DATA=... python benchmarks/drift_speed.py [rows] [long rows]
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from figures import Figures
from inputs import real_table
from isolation import isolate
from peer_environments import peer_python

_MEASURED = """
import json, os, resource, sys, time
started, cpu = time.perf_counter(), time.process_time()
def done(**more):
    now = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"wall": now[0], "cpu": now[1], "peak_gb": peak, **more}))
"""

OURS = (
    _MEASURED
    + """
from tasador.ops.monitor_files import describe_columns
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.table_reader import Fields, TableFile
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.reference_builder import read_reference, read_windows
import lightgbm, numpy, pyarrow.parquet, polars
imported = time.perf_counter() - started
before, now = TableFile.open(sys.argv[1]), TableFile.open(sys.argv[2])
columns, _ = describe_columns(before, set())
compared = read_reference(before, columns, Fields())
ready, ready_cpu = time.perf_counter(), time.process_time()
verdict = evaluate(compared.reference, read_windows(compared, now), Thresholds())
times = time.perf_counter() - ready, time.process_time() - ready_cpu
done(imports=imported, judged=times[0], judged_cpu=times[1], level=verdict.level,
     psi={c.name: c.psi for c in verdict.drift})
"""
)

EVIDENTLY = (
    _MEASURED
    + """
import warnings; warnings.filterwarnings("ignore")
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
imported = time.perf_counter() - started
a, b = pd.read_parquet(sys.argv[1]), pd.read_parquet(sys.argv[2])
ready, ready_cpu = time.perf_counter(), time.process_time()
Report([DataDriftPreset()]).run(b, a)
times = time.perf_counter() - ready, time.process_time() - ready_cpu
done(imports=imported, judged=times[0], judged_cpu=times[1])
"""
)

NANNYML = (
    _MEASURED
    + """
import warnings; warnings.filterwarnings("ignore")
import logging; logging.disable(logging.CRITICAL)
import pandas as pd, nannyml
imported = time.perf_counter() - started
a, b = pd.read_parquet(sys.argv[1]), pd.read_parquet(sys.argv[2])
ready, ready_cpu = time.perf_counter(), time.process_time()
calculator = nannyml.UnivariateDriftCalculator(
    column_names=list(a.columns), treat_as_categorical=["ocean_proximity"], chunk_size=len(b),
    continuous_methods=["kolmogorov_smirnov", "jensen_shannon", "wasserstein"],
    categorical_methods=["chi2", "jensen_shannon"])
calculator.fit(a)
calculator.calculate(b)
times = time.perf_counter() - ready, time.process_time() - ready_cpu
done(imports=imported, judged=times[0], judged_cpu=times[1])
"""
)


def write_rows(path: Path, rows: int, seed: int, factor: float = 1.0) -> None:
    """Write `rows` rows like the real ones, a million at a time."""
    import pyarrow.parquet as pq

    real = pl.read_csv(real_table("housing.csv")).drop("median_house_value")
    writer = None
    random = np.random.default_rng(seed)
    for start in range(0, rows, 1_000_000):
        n = min(1_000_000, rows - start)
        drawn = real[random.integers(0, len(real), n)]
        noisy = drawn.with_columns(
            (pl.col(name).cast(pl.Float64) * pl.Series(random.normal(factor, 1e-3, n))).alias(name)
            for name in real.columns
            if name != "ocean_proximity"
        ).to_arrow()
        writer = writer or pq.ParquetWriter(path, noisy.schema)
        writer.write_table(noisy, row_group_size=1 << 18)
    assert writer is not None
    writer.close()


def run(python: str | Path, code: str, *words: str | Path) -> dict[str, Any]:
    """Run a tool in its own process and return what it reports."""
    command = [str(python), "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def textbook_psi(reference: np.ndarray, window: np.ndarray) -> float:
    """Return the PSI on the reference's deciles and a bin for missing, one term after the other."""
    edges = [-math.inf, *np.quantile(reference[~np.isnan(reference)], np.arange(1, 10) / 10)]
    total = 0.0
    for i, low in enumerate(edges):
        high = edges[i + 1] if i + 1 < len(edges) else math.inf
        r = np.count_nonzero((reference > low) & (reference <= high)) / len(reference)
        w = np.count_nonzero((window > low) & (window <= high)) / len(window)
        total += (w - r) * math.log(w / r)
    r, w = np.isnan(reference).mean(), np.isnan(window).mean()
    return total + ((w - r) * math.log(w / r) if r and w else 0.0)


def show(name: str, found: dict[str, Any]) -> None:
    """Print one tool's figures."""
    parts = (
        f"{name:<34} judged {found['judged']:7.2f} s (CPU {found['judged_cpu']:7.2f})",
        f"all {found['wall']:7.2f} s (CPU {found['cpu']:7.2f})",
        f"imports {found['imports']:5.2f} s",
        f"peak {found['peak_gb']:.2f} GB",
    )
    print("   ".join(parts), flush=True)


def goal(name: str, value: float, limit: float, *, at_most: bool = True) -> bool:
    """Print a figure beside its goal; return whether it is reached."""
    reached = value <= limit if at_most else value >= limit
    sign, mark = ("<=" if at_most else ">="), ("ok" if reached else "MISSED")
    print(f"{name:<52} {value:12.4g}  {sign} {limit:g}  {mark}", flush=True)
    return reached


def keep(rows: int, long: int, found: dict[str, dict[str, Any]], gap: float) -> None:
    """Keep what the suite shows."""
    kept, ours = Figures(), found["tasador"]
    checks = {"tasador": f"PSI within {gap:.0e} of the textbook's", "Evidently": "its own tests",
              "NannyML": "its own methods"}  # fmt: skip
    kept.table(
        f"{rows:,} rows by 9 columns judged against as many",
        ("Tool", "judging s", "judging CPU s", "all s", "imports s", "peak GB",
         "tasador is times as fast (CPU)", "Answer"),
        [
            (name, one["judged"], one["judged_cpu"], one["wall"], one["imports"], one["peak_gb"],
             one["judged_cpu"] / ours["judged_cpu"],
             checks.get(name.split()[0], "") if name != f"tasador, {long:,} rows" else "")
            for name, one in found.items()
        ],
    )  # fmt: skip
    kept.goal("seconds to judge the window", ours["judged"], 2)
    kept.goal("times faster than Evidently, judging, CPU",
              found["Evidently 0.7.23"]["judged_cpu"] / ours["judged_cpu"], 20,
              lower_is_better=False)  # fmt: skip
    kept.goal("largest gap to the textbook's PSI", gap, 1e-12)
    kept.goal(f"peak GB with {long:,} rows", found[f"tasador, {long:,} rows"]["peak_gb"], 1)
    kept.keep()


def main() -> int:
    """Run everything and print it as it comes."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    long = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, now, many = (folder / f"{n}.parquet" for n in ("before", "now", "many"))
        write_rows(before, rows, 1)
        write_rows(now, rows, 2, factor=1.02)
        print(f"{rows:,} x 9 against {rows:,} x 9, {os.cpu_count()} cores")
        ours = min((run(sys.executable, OURS, before, now) for _ in range(3)),
                   key=lambda found: found["judged"])  # fmt: skip
        show("tasador (best of 3)", ours)
        evidently = run(peer_python("evidently"), EVIDENTLY, before, now)
        show("Evidently 0.7.23, DataDriftPreset", evidently)
        nannyml = run(peer_python("nannyml"), NANNYML, before, now)
        show("NannyML 0.13.1, univariate", nannyml)
        a, b = pl.read_parquet(before), pl.read_parquet(now)
        gaps = [
            abs(textbook_psi(a[c].to_numpy(), b[c].to_numpy()) - ours["psi"][c])
            for c in a.columns
            if c != "ocean_proximity"
        ]
        write_rows(many, long, 3, factor=1.02)
        longer = run(sys.executable, OURS, before, many)
        show(f"tasador, {long:,} rows", longer)
    results = [
        goal("seconds to judge the window", ours["judged"], 2),
        goal("times faster than Evidently, judging", evidently["judged"] / ours["judged"], 20,
             at_most=False),
        goal("times faster than Evidently, judging, CPU",
             evidently["judged_cpu"] / ours["judged_cpu"], 20, at_most=False),
        goal("largest gap to the textbook's PSI", max(gaps), 1e-12),
        goal(f"peak GB with {long:,} rows", longer["peak_gb"], 1),
    ]  # fmt: skip
    keep(rows, long, {"tasador": ours, "Evidently 0.7.23": evidently, "NannyML 0.13.1": nannyml,
                      f"tasador, {long:,} rows": longer}, max(gaps))  # fmt: skip
    print(f"times faster than NannyML: {nannyml['judged'] / ours['judged']:.1f}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    isolate()
    sys.exit(main())
