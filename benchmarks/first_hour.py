"""A newcomer's first hour, from an empty folder: `python benchmarks/first_hour.py`.

A clone of what is committed, a Python with the pip that it bundles, and no uv on the path: seconds
of `make run`'s installation, of its training, and of the first valuation that follows; then of the
commands that are tried next, among them `tasador init` on a stranger's table. Then what a server
gets, as docs/how-to/deploy.md installs it: seconds, size on disk, seconds from the start of
`tasador serve` to its first answer, and memory. Nothing is in a package cache before, unless
`--small` is said, which trains on few rows as well. Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from figures import Figures
from inputs import real_table
from isolation import isolate
from main_job import ROW, Figure
from serving import (
    Target,
    free_port,
    post,
    resident,
    running,
    tasador_environment,
    wait_until_answered,
)

ROOT = Path(__file__).parents[1]
PYTHON = Path(sys.base_prefix) / "bin" / "python3"
STRANGERS = (("tables/melbourne.csv", "Price"), ("tables/insurance.csv", "expenses"))
SMALL_ROWS = 2000
STARTS, REQUESTS = 3, 200


def bare_environment(folder: Path, *, cached: bool) -> dict[str, str]:
    """Return the variables of a machine without uv and, unless `cached`, without packages."""
    left = {name: value for name, value in os.environ.items()
            if not name.startswith(("VIRTUAL_ENV", "PYTHON"))}  # fmt: skip
    places = left["PATH"].split(os.pathsep)
    left["PATH"] = os.pathsep.join(p for p in places if not (Path(p) / "uv").exists())
    if not cached:
        left |= {"UV_CACHE_DIR": str(folder / "cache"), "PIP_NO_CACHE_DIR": "1"}
    return left


class Newcomer:
    """A folder, its variables, and the seconds of each step that was taken in it."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env
        self.steps: list[tuple[str, float]] = []

    def step(self, title: str, *commands: Sequence[str], times: int = 1) -> float:
        """Run commands one after another, end with what one says when it fails; keep seconds.

        Of several `times` the median is kept, the first apart: it compiles what it imports.
        """
        found = []
        for _ in range(times):
            started = time.perf_counter()
            for command in commands:
                done = subprocess.run(
                    command, cwd=self.folder, env=self.env, capture_output=True, text=True,
                    check=False,
                )  # fmt: skip
                if done.returncode:
                    raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
            found.append(time.perf_counter() - started)
        seconds = statistics.median(found[1:] or found)
        self.steps.append((title, seconds))
        print(f"{title:<60} {seconds:9.2f} s", flush=True)
        return seconds


def work(user: Newcomer, arguments: str) -> tuple[float, float, float]:
    """Install, train, value and look around; seconds of installing, training and `predict`."""
    make = ["make", f"PYTHON={PYTHON}"]
    tasador = str(user.folder / ".venv" / "bin" / "tasador")
    installed = user.step("install: make .venv/.run", [*make, ".venv/.run"])
    trained = user.step("first run: make run", [*make, "run", f"ARGS={arguments}"])
    rows = ["examples/districts.csv", "-o", "estimates.csv"]
    user.step("first valuation: tasador predict '{...}'", [tasador, "predict", json.dumps(ROW)])
    again = user.step("tasador predict FILE", [tasador, "predict", *rows], times=4)
    user.step("tasador --help", [tasador, "--help"], times=4)
    user.step("tasador report", [tasador, "report"], times=4)
    for table, target in STRANGERS:
        path = real_table(table)
        options = ["--target", target, "--name", f"stranger_{path.stem}", "--yes"]
        title = f"tasador init {path.name} --target {target}"
        user.step(title, [tasador, "init", str(path), *options])
    return installed, trained, again


def deploy(user: Newcomer) -> tuple[float, float]:
    """Install what serves as the documentation does; seconds, and MB on disk."""
    python, lock = "serve/bin/python", "requirements/lock.txt"
    install = ["serve/bin/uv", "pip", "install", "--python", python]
    seconds = user.step(
        "install of a server: serve and signing",
        [str(PYTHON), "-m", "venv", "serve"],
        [python, "-m", "pip", "install", "-q", "--require-hashes", "-r", "requirements/uv.txt"],
        [*install, "--require-hashes", "-c", lock, "-r", "pyproject.toml",
         "--extra", "serve", "--extra", "signing"],
        [*install, "--no-deps", "--build-constraints", lock, "."],
        ["serve/bin/uv", "pip", "uninstall", "--python", python, "pip", "setuptools", "uv"],
    )  # fmt: skip
    du = ["du", "-sk", "serve"]
    out = subprocess.run(du, cwd=user.folder, capture_output=True, text=True, check=True).stdout
    return seconds, int(out.split()[0]) / 1024


def serve(user: Newcomer) -> tuple[float, float]:
    """Start the service; median seconds to the first answer, and most MB after some requests."""
    seconds, memory = [], []
    variables = tasador_environment(user.folder / "workspace", user.folder)
    env = user.env | {k: v for k, v in variables.items() if k.startswith("TASADOR_")}
    for _ in range(STARTS + 1):
        port = free_port()
        url = f"http://127.0.0.1:{port}/api/v1/predict"
        target = Target("serve", url, json.dumps({"instances": [ROW]}))
        command = [str(user.folder / "serve/bin/tasador"), "serve", "--port", str(port)]
        with running(command, env, user.folder) as process:
            wait_until_answered(target, process, 120)
            for _ in range(REQUESTS):
                post(url, target.body)
            memory.append(resident(process.pid))
        assert target.ready_s is not None
        seconds.append(target.ready_s)
    return statistics.median(seconds[1:]), max(memory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep; tell whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args(arguments).small
    housing = real_table("housing.csv")
    with tempfile.TemporaryDirectory(prefix="tasador-first-hour-") as name:
        folder = Path(name) / "tasador"
        subprocess.run(
            ["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(folder)], check=True
        )
        (folder / "data").mkdir()
        if small:
            rows = housing.read_text().splitlines(keepends=True)[:: 20_000 // SMALL_ROWS]
            (folder / "data" / "housing.csv").write_text("".join(rows))
        else:
            shutil.copy(housing, folder / "data")
        env = bare_environment(Path(name), cached=small)
        env.pop("TASADOR_REAL_DATA", None)  # its own folder has the table
        user = Newcomer(folder, env)
        installed, trained, predicted = work(
            user, "dataset.source.sha256=null sweep.trials=2" if small else ""
        )
        whole = sum(seconds for _, seconds in user.steps[:3])
        deployed, size = deploy(user)
        started, memory = serve(user)
    goals = [
        Figure("make run's installation, s", installed, 120),
        Figure("make run's training, s", trained, 240),
        Figure("from the empty folder to the first valuation, s", whole, 370),
        Figure("tasador predict FILE, s", predicted, 1),
        Figure("a server's installation, s", deployed, 60),
        Figure("a server's installation, MB on disk", size, 350),
        Figure("tasador serve, start to first answer, s", started, 2),
        Figure("memory of the service after some requests, MB", memory, 250),
    ]
    kept = Figures()
    kept.table(
        "From an empty folder", ("Step", "seconds"), user.steps,
        "Packages come from the registry into an empty cache. Commands that are short are "
        "the median of three, after one that compiles what it imports.",
    )  # fmt: skip
    return kept.finish(goals)


if __name__ == "__main__":
    isolate()
    sys.exit(main())
