"""Valuation reports, HTML and PDF: `python benchmarks/appraise.py --workspace workspace`.

By the newest bundle of the workspace: one report in process (value, parts, comparables, map, page),
one by `tasador appraise` with the start of its process, `--reports` of them by one command into a
folder, and one at a time by `POST /api/v1/appraise` of a service that records every valuation.
Reports are of rows of the model's own table, a different one each. Exits with 1 when a goal is
missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv

from batch_scoring import rows_for, table_of
from figures import Figures
from inputs import bundle_folder
from isolation import isolate
from main_job import Figure
from serving import Target, free_port, post, running, tasador_environment, wait_until_answered
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.reporting.appraisal.files import FileKind, file_of
from tasador.scoring.appraise import appraisal_of, page_of, summary_of

TASADOR = (sys.executable, "-m", "tasador.cli.app")
KINDS: tuple[FileKind, ...] = ("html", "pdf")
STARTS = 3


def spent(work: Callable[[int], object], times: int) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds of calls with 0, 1, ...; the first tenth warms up."""
    found = []
    for i in range(-max(times // 10, 1), times):
        started = time.perf_counter()
        work(i)
        if i >= 0:
            found.append((time.perf_counter() - started) * 1000.0)
    cuts = statistics.quantiles(found, n=100)
    return cuts[49], cuts[98]


def in_process(
    bundle: ModelBundle, rows: list[dict[str, Any]], kind: FileKind
) -> Callable[[int], bytes]:
    """Return what makes the report of the i-th row."""
    model = summary_of(bundle)

    def one(i: int) -> bytes:
        row = rows[i % len(rows)]
        made = appraisal_of(bundle, model, bundle.check.row(row), row, 1)
        return file_of(kind, [page_of(made, "en")])

    return one


def command(bundle: Path, rows: str, out: Path, *options: str) -> float:
    """Run `tasador appraise` and return its seconds."""
    started = time.perf_counter()
    asked = [*TASADOR, "appraise", rows, "-o", str(out), "--bundle", str(bundle), *options]
    subprocess.run(asked, check=True, stdout=subprocess.DEVNULL, cwd=out.parent)
    return time.perf_counter() - started


def served(
    workspace: Path, rows: list[dict[str, Any]], folder: Path, times: int
) -> dict[FileKind, tuple[float, float]]:
    """Return p50 and p99 in milliseconds of reports by the service, by type."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/api/v1"
    bodies = [json.dumps({"instances": [row]}) for row in rows]
    env = tasador_environment(workspace, folder)
    with running([*TASADOR, "serve", "--port", str(port)], env, folder) as process:
        wait_until_answered(Target("serve", f"{address}/predict", bodies[0]), process, 120)
        return {
            kind: spent(
                lambda i, kind=kind: post(
                    f"{address}/appraise?format={kind}", bodies[i % len(bodies)]
                ),
                times,
            )
            for kind in KINDS
        }


def measure(workspace: Path, reports: int, times: int, folder: Path) -> dict[FileKind, list[float]]:
    """Return for each type the cells of its line."""
    place = bundle_folder(workspace)
    bundle = load_bundle(place)
    names = list(bundle.contract.feature_names)
    table: pa.Table = rows_for(table_of(bundle), bundle, max(reports, times), moved=False)
    table = table.select(names)
    rows = table.to_pylist()
    csv.write_csv(table.slice(0, reports), folder / "rows.csv")
    by_service = served(workspace, rows, folder, times)
    found: dict[FileKind, list[float]] = {}
    for kind in KINDS:
        own = spent(in_process(bundle, rows, kind), times)
        alone = statistics.median(
            command(place, json.dumps(rows[i]), folder / f"one.{kind}") for i in range(STARTS)
        )
        out = folder / kind
        seconds = command(place, str(folder / "rows.csv"), out, "--format", kind)
        files = [one for one in out.glob(f"*.{kind}") if one.stem != "summary"]
        if len(files) != reports:
            raise SystemExit(f"{len(files)} {kind} files for {reports} rows")
        size = sum(one.stat().st_size for one in files) / len(files) / 1000.0
        found[kind] = [*own, alone, seconds, reports / seconds, size, *by_service[kind]]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep; tell whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    parser.add_argument("--reports", type=int, default=1000)
    parser.add_argument("--times", type=int, default=200, help="single reports measured")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tasador-appraise-") as name:
        found = measure(asked.workspace.resolve(), asked.reports, asked.times, Path(name))
    columns = ("in process p50 ms", "in process p99 ms", "tasador appraise, one report s",
               f"{asked.reports:,} reports s", "reports/s", "kB a report", "service p50 ms",
               "service p99 ms")  # fmt: skip
    kept = Figures()
    rows = [(kind.upper(), *values) for kind, values in found.items()]
    kept.table("Valuation reports", ("Type", *columns), rows,
               "Of different rows, by one process; the command's seconds have its start in them, "
               "the median of three.")  # fmt: skip
    print(f"{'':<34}" + "".join(f"{kind.upper():>12}" for kind in KINDS))
    for at, title in enumerate(columns):
        print(f"{title:<34}" + "".join(f"{found[kind][at]:12,.2f}" for kind in KINDS))
    goals = [
        Figure(f"{kind.upper()}: {title}", found[kind][at], goal)
        for kind, limits in (("html", (25, 2.5, 40, 50)), ("pdf", (60, 3, 75, 100)))
        for (at, title), goal in zip(
            ((0, "in process, p50 ms"), (2, "one by the command, s"),
             (3, f"{asked.reports:,} by one command, s"), (6, "by the service, p50 ms")),
            limits, strict=True,
        )
    ]  # fmt: skip
    return kept.finish(goals)


if __name__ == "__main__":
    isolate()
    sys.exit(main())
