"""The benchmark suite: `make bench`.

Runs each benchmark as a process of its own, in a fixed order, and keeps what it found in
benchmarks/results/NAME.json with the machine, versions, commit, date and command. A result of the
commit that is checked out is not measured again (`--force` does); one interrupted goes on where it
was. Afterwards the page docs/explanation/benchmarks.md and its pictures are drawn from the results.

    python benchmarks/suite.py [--only NAME ...] [--force] [--small] [--workspace FOLDER]
    python benchmarks/suite.py --list
    python benchmarks/suite.py --page

Needs TASADOR_REAL_DATA (or ./data) with housing.csv. `--small` runs all at sizes that only show
that it works, and keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from figures import VARIABLE
from inputs import real_table
from isolation import isolate
from suite_page import write_page
from suite_plan import BENCHMARKS, Benchmark

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WORKSPACE = "benchmarks/workspace"
PACKAGES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "lightgbm",
    "onnxruntime",
    "polars",
    "pandas",
    "mlflow",
)
#: What a figure may depend on; how figures are run and shown does not count.
MEASURED = ("src", "benchmarks", "requirements", ":!benchmarks/results", ":!benchmarks/suite*")


def git(*arguments: str) -> str:
    """Return what git says, empty where there is no repository."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def measured_commit() -> str:
    """Return the last commit that changed what is measured; a plus when files differ from it."""
    commit = git("log", "-1", "--format=%h", "--", *MEASURED) or "unknown"
    return commit + ("+" if git("status", "--porcelain", "--", *MEASURED) else "")


def machine() -> dict[str, Any]:
    """Return what the figures belong to."""
    cpu, memory = platform.processor() or "unknown", 0.0
    if (info := Path("/proc/cpuinfo")).exists():
        names = [row for row in info.read_text().splitlines() if row.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
        memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "ram_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def versions() -> dict[str, str]:
    """Return the versions of what does the work."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def stop(process: subprocess.Popen[str]) -> None:
    """Interrupt a benchmark, so that it stops its servers; end it when it does not."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(
    command: Sequence[str], environment: dict[str, str], limit_s: float
) -> tuple[int, str, str]:
    """Run a command in a group of its own, showing what it prints; exit code, output, errors."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        printed = []
        timer = threading.Timer(limit_s, stop, [process])
        timer.start()
        try:
            for row in process.stdout:
                print("   ", row, end="", flush=True)
                printed.append(row)
            code = process.wait()
        except BaseException:
            stop(process)
            raise
        finally:
            timer.cancel()
            process.stdout.close()
        errors.seek(0)
        return code, "".join(printed), errors.read()


def measure(benchmark: Benchmark, arguments: Sequence[str]) -> dict[str, Any] | None:
    """Run one benchmark and return its result; None when it failed (the reason is printed)."""
    missing = [program for program in benchmark.needs if shutil.which(program) is None]
    if missing:
        print(f"    not run: {', '.join(missing)} is not installed")
        return None
    load, started = os.getloadavg()[0], time.time()
    with tempfile.TemporaryDirectory(prefix="tasador-suite-") as folder:
        kept = Path(folder) / "figures.json"
        command = [sys.executable, "-W", "ignore", *arguments]
        environment = os.environ | {VARIABLE: str(kept), "PYTHONUNBUFFERED": "1"}
        code, printed, errors = run(command, environment, benchmark.limit_s)
        figures = json.loads(kept.read_text()) if kept.exists() else None
    if code not in (0, 1) or (figures is None and (benchmark.keeps or "Traceback" in errors)):
        print(f"    FAILED with exit code {code}:\n{errors[-3000:]}")
        return None
    return {
        "name": benchmark.name,
        "command": " ".join(["python", *arguments]),
        "commit": measured_commit(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "load_before": round(load, 2),
        "exit_code": code,
        "machine": machine(),
        "versions": versions(),
        "figures": figures,
        "printed": "" if figures else printed,
    }


def prepare(workspace: str) -> None:
    """Train the model of the published split there; quick when it is there already."""
    folder = ROOT / workspace
    if workspace != WORKSPACE and any((folder / "bundles").glob("*/manifest.json")):
        return
    print(f"tasador run storage.workspace={workspace}", flush=True)
    command = [sys.executable, "-m", "tasador.cli.app", "run", f"storage.workspace={workspace}",
               "segregate.method=random"]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def fill(arguments: Sequence[str], workspace: str) -> list[str]:
    """Put the workspace, and the model that is newest in it, into arguments."""
    bundle = ""
    if "{bundle}" in arguments:
        found = (ROOT / workspace / "bundles").glob("*/manifest.json")
        newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
        bundle = "" if newest is None else os.path.relpath(newest.parent, ROOT)
    return [one.format(workspace=workspace, bundle=bundle) for one in arguments]


def is_fresh(result: Path, arguments: Sequence[str]) -> bool:
    """Tell whether a result was measured by this command on what is checked out."""
    if not result.exists():
        return False
    kept = json.loads(result.read_text())
    same = kept["commit"] == measured_commit()
    same = same and kept["command"] == " ".join(["python", *arguments])
    return same and not kept["commit"].endswith("+")


def find_data() -> str:
    """Return the folder of the real tables."""
    return str(real_table("housing.csv").parent)


def run_all(wanted: Sequence[Benchmark], given: argparse.Namespace) -> list[str]:
    """Run benchmarks and keep their results; return the names of those that failed."""
    os.environ["TASADOR_REAL_DATA"] = find_data()
    failed, prepared = [], False
    for number, benchmark in enumerate(wanted, start=1):
        result = RESULTS / f"{benchmark.name}.json"
        print(f"[{number}/{len(wanted)}] {benchmark.name}", flush=True)
        chosen = benchmark.small if given.small else benchmark.arguments
        if not given.small and not given.force and is_fresh(result, fill(chosen, given.workspace)):
            print("    measured on this commit already")
            continue
        if any(one in ("{workspace}", "{bundle}") for one in chosen) and not prepared:
            prepare(given.workspace)
            prepared = True
        arguments = fill(chosen, given.workspace)
        found = measure(benchmark, arguments)
        if found is None:
            failed.append(benchmark.name)
        elif not given.small:
            RESULTS.mkdir(exist_ok=True)
            result.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
            write_page(ROOT)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 when a benchmark failed (a goal that is missed is a result)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", default=names)
    parser.add_argument("--force", action="store_true", help="measure again what is measured")
    parser.add_argument("--small", action="store_true", help="small sizes; keeps nothing")
    parser.add_argument("--workspace", default=WORKSPACE, help="of the model that is served")
    parser.add_argument("--page", action="store_true", help="only draw the page")
    parser.add_argument("--list", action="store_true", help="only name the benchmarks")
    given = parser.parse_args(arguments)
    if given.list:
        for benchmark in BENCHMARKS:
            print(f"{benchmark.name:<22}{benchmark.minutes:>4} min  {benchmark.text}")
        return 0
    failed = []
    if not given.page:
        failed = run_all([b for b in BENCHMARKS if b.name in given.only], given)
    if not given.small:
        write_page(ROOT)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    isolate()
    sys.exit(main())
