"""Half an hour of everything at once: memory, failures and latency of a service by the minute.

Two small models of the default table, and `tasador serve` with records in SQLite, each committed
before its answer. Callers at fixed rates send single rows, batches of 100, rows to
explain, outcomes of earlier answers, rows to appraise, and read /metrics and /health. Meanwhile the
champion is changed every few minutes by `tasador promote` and `rollback`, and a canary is started,
comes to its end and is stopped. Latency counts from the moment at which a request was due, so that
a service that stands still is not spared.

    python benchmarks/mixed_load.py [--minutes 30] [--rows 20640]

Exits with 1 when a goal is missed: a failed request, memory that grows by more than 5% after the
third minute (of 30), a minute's 99th percentile above twice the first minute's.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from figures import Figures
from inputs import real_table
from isolation import isolate
from main_job import Figure
from serving import free_port, group_memory, running

#: A model in seconds, with everything that a large one has; the second is of fewer trees.
TREES = (400, 300)
SMALL = (
    "dataset=homes", "profile=quick", "impute.strategy=median", "selection.folds=2",
    *(f"~selection.families.{name}" for name in (
        "hist_gradient_boosting", "gradient_boosting", "extra_trees", "decision_tree", "lasso",
        "ridge", "random_forest",
    )),
    "sweep.trials=0", "register.average=1", "register.bootstrap_draws=30",
    "register.spatial_folds=2",
)  # fmt: skip
#: Requests a second of each kind, and how many callers share them.
RATES = {"predict": (150.0, 8), "batch of 100": (2.0, 2), "explain": (2.0, 1),
         "outcomes": (5.0, 1), "appraise": (0.25, 1), "metrics": (0.2, 1),
         "health": (1.0, 1)}  # fmt: skip
SAMPLE_S = 10.0
WARM = 0.1  # share of the time after which memory may not grow: minute 3 of 30
GROWTH, TIMES_FIRST = 5.0, 2.0


class Caller:
    """One connection, by HTTP/1.1 without a library: a second of load costs it milliseconds.

    Args:
        port: The service's.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send one request; return the status and the body.

        Raises:
            OSError, EOFError: The connection broke; the next request opens another.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        reader, writer = self._streams
        try:
            head = f"{method} {path} HTTP/1.1\r\nhost: load\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            if "content-length" in headers:
                found = await reader.readexactly(int(headers["content-length"]))
            else:
                found = await self._chunks(reader)
            if headers.get("connection") == "close":
                self.close()
            return int(lines[0].split()[1]), found
        except BaseException:
            self.close()
            raise

    @staticmethod
    async def _chunks(reader: asyncio.StreamReader) -> bytes:
        parts = []
        while size := int(await reader.readline(), 16):
            parts.append(await reader.readexactly(size))
            await reader.readline()
        await reader.readline()
        return b"".join(parts)

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Load:
    """What is sent, and what came back.

    Attributes:
        port: The service's.
        rows: Rows of the default table.
        until: When it ends, by `time.perf_counter`.
        begun: When it began.
        answered: Seconds since the beginning and latency of each answer, by kind.
        failures: How often what went wrong.
        versions: How often each version answered.
        valued: Ids and estimates that no outcome was told of yet.
    """

    port: int
    rows: list[dict[str, Any]]
    until: float
    begun: float = field(default_factory=time.perf_counter)
    answered: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {kind: [] for kind in RATES}
    )
    failures: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    valued: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=20_000))

    def request(self, kind: str, rng: random.Random) -> tuple[str, str, dict[str, Any] | None]:
        """Return method, path and body of one request."""
        if kind in ("metrics", "health"):
            return "GET", f"/{kind}", None
        if kind == "outcomes":
            told = [self.valued.popleft() for _ in range(min(10, len(self.valued)))]
            known = [{"prediction_id": i, "actual": value * 1.02} for i, value in told]
            return "POST", "/api/v1/outcomes", {"outcomes": known}
        n = 100 if kind.startswith("batch") else 1
        route = kind if kind in ("explain", "appraise") else "predict"
        return "POST", f"/api/v1/{route}", {"instances": rng.choices(self.rows, k=n)}

    async def call(self, kind: str, number: int) -> None:
        """Be one of the callers of a kind."""
        rate, callers = RATES[kind]
        rng, caller = random.Random(f"{kind} {number}"), Caller(self.port)
        due = self.begun + (number + rng.random()) / rate
        while due < self.until:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            method, path, plain = self.request(kind, rng)
            if plain != {"outcomes": []}:
                try:
                    body = b"" if plain is None else json.dumps(plain).encode()
                    status, answer = await asyncio.wait_for(caller.ask(method, path, body), 30)
                    self.take(kind, status, answer)
                except (OSError, EOFError, TimeoutError) as error:
                    self.failures[f"{kind}: {type(error).__name__}"] += 1
                self.answered[kind].append((due - self.begun, time.perf_counter() - due))
            due += callers / rate
        caller.close()

    def take(self, kind: str, status: int, answer: bytes) -> None:
        """Look at an answer."""
        if status != 200:
            self.failures[f"{kind}: status {status}"] += 1
        elif kind == "predict":
            found = json.loads(answer)
            self.versions[found["model_version"]] += 1
            one = found["predictions"][0]
            self.valued.append((one["prediction_id"], one["predicted_price"]))
        elif kind == "outcomes":
            for one in json.loads(answer)["results"]:
                if one["status"] != "accepted":
                    self.failures[f"outcomes: {one['status']}"] += 1


@dataclass
class Operator:
    """Changes the champion and runs a canary, by commands in processes of their own.

    Attributes:
        folder: Of the workspace.
        events: Beginning and end of each command since the load began, and what it did.
    """

    folder: Path
    events: list[tuple[float, float, str]] = field(default_factory=list)

    def tasador(self, *words: str, nice: int = 0) -> str:
        """Run a command and return what it says."""
        command = ["nice", "-n", str(nice), sys.executable, "-W", "ignore", "-m", "tasador.cli.app"]
        done = subprocess.run(
            [*command, *words], check=False, cwd=self.folder, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"tasador {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    async def work(self, load: Load) -> None:
        """Change what is served until the load ends."""
        force = ("--force", "--reason", "the benchmark changes it")
        pause = max((load.until - load.begun) / 10, 2.0)
        changes: list[tuple[str, ...]] = [
            ("promote", "2", *force), ("rollback", "--reason", "the benchmark changes it"),
            ("promote", "2", "--to", "challenger", *force),
            ("canary", "start", "--stages", "0,25,100", "--rows", "500"),
            ("canary", "stop", "--reason", "the benchmark ends it"),
            ("promote", "2", *force), ("promote", "1", *force), ("promote", "2", *force),
        ]  # fmt: skip
        for place, words in enumerate(changes):
            # the first one before memory counts: a service keeps two models from then on
            await asyncio.sleep(pause if place else pause / 2)
            started = time.perf_counter() - load.begun
            if time.perf_counter() + pause > load.until:
                return
            # as if it were on another machine
            await asyncio.to_thread(self.tasador, *words, nice=15)
            ended = time.perf_counter() - load.begun
            self.events.append((started, ended, " ".join(words[:3])))


async def sample(group: int, load: Load, kept: list[tuple[float, float]]) -> None:
    """Note the memory of the service's processes from time to time."""
    pause = min(SAMPLE_S, (load.until - load.begun) / 20)
    while time.perf_counter() < load.until:
        kept.append((time.perf_counter() - load.begun, group_memory(group) or 0.0))
        await asyncio.sleep(pause)


def prepare(operator: Operator, most: int) -> tuple[str, list[dict[str, Any]]]:
    """Train two models and make the first one champion; return the model's name and some rows."""
    with real_table("housing.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    read = read[:: max(len(read) // most, 1)]
    for row in read:
        row["price"] = row.pop("median_house_value")
    with (operator.folder / "homes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(read[0]))
        writer.writeheader()
        writer.writerows(read)
    operator.tasador("init", "homes.csv", "--target", "price", "--name", "homes", "--yes")
    for trees in TREES:
        family = f"selection.families={{lightgbm:{{n_estimators:[{trees}],num_leaves:[31]}}}}"
        operator.tasador("run", *SMALL[:4], family, *SMALL[4:])
    operator.tasador("promote", "1", "--force", "--reason", "the benchmark begins with it")
    name = json.loads(operator.tasador("models", "--json"))["versions"][0]["name"]

    def value(name: str, text: str) -> Any:
        return text if name == "ocean_proximity" else float(text) if text else None

    rows = [{n: value(n, text) for n, text in row.items() if n != "price"} for row in read]
    return name, rows


def p99(found: list[tuple[float, float]]) -> float:
    """Return the 99th percentile of latencies, in milliseconds; NaN of none."""
    return float(np.quantile([s for _, s in found], 0.99)) * 1000 if found else float("nan")


async def run(
    port: int, group: int, operator: Operator, rows: list[dict[str, Any]], seconds: float
) -> tuple[Load, list[tuple[float, float]]]:
    """Load the service; return what came back, and the memory by time."""
    load = Load(port, rows, time.perf_counter() + seconds)
    memory: list[tuple[float, float]] = []
    callers = [load.call(kind, i) for kind, (_, n) in RATES.items() for i in range(n)]
    await asyncio.gather(*callers, sample(group, load, memory), operator.work(load))
    return load, memory


def keep(load: Load, memory: list[tuple[float, float]], operator: Operator, seconds: float) -> int:
    """Keep what the suite shows, print it, and return the exit code."""
    kept, span = Figures(), seconds / max(round(seconds / 60), 5)

    def within(found: list[tuple[float, float]], i: int) -> list[tuple[float, float]]:
        return [one for one in found if i * span <= one[0] < (i + 1) * span]

    rows = []
    for i in range(round(seconds / span)):
        at = [text for begin, end, text in operator.events
              if begin < (i + 1) * span and end + 10 > i * span]  # fmt: skip
        resident = [mb for _, mb in within(memory, i)]
        rows.append((i + 1, len(within(load.answered["predict"], i)),
                     p99(within(load.answered["predict"], i)),
                     statistics.median(resident) if resident else None, ", ".join(at)))  # fmt: skip
    kept.table(
        f"Mixed load by spans of {span:.0f} s",
        ("Span", "single rows", "their p99 ms", "MB of the service", "commands meanwhile"),
        rows,
        "Latency from the moment at which a request was due. A command counts until ten seconds "
        "after its end: the service follows it at its next look.",
    )
    kept.table(
        "Mixed load by kind of request",
        ("Request", "answered", "median ms", "p99 ms", "failed"),
        [
            (kind, len(found), statistics.median(s for _, s in found) * 1000 if found else None,
             p99(found), sum(n for why, n in load.failures.items() if why.startswith(kind)))
            for kind, found in load.answered.items()
        ],
        "; ".join(f"{n} x {why}" for why, n in load.failures.items() if n) or "Nothing failed.",
    )  # fmt: skip
    kept.table("Versions that answered", ("Version", "single rows"), list(load.versions.items()))
    first = [mb for at, mb in memory if WARM * seconds <= at <= 1.5 * WARM * seconds]
    last = [mb for at, mb in memory if at >= 0.9 * seconds]
    growth = 100 * (statistics.median(last) / statistics.median(first) - 1)
    quiet = [row[2] for row in rows[1:] if not row[4]]
    goals = [
        Figure("failed requests", sum(load.failures.values()), 0),
        Figure("growth of memory after a tenth of the time, %", growth, GROWTH),
        Figure("p99 of the worst span, times the first's", max(r[2] for r in rows) / rows[0][2],
               TIMES_FIRST),
    ]  # fmt: skip
    if quiet:
        name = "the same of spans without a command"
        goals.append(Figure(name, max(quiet) / rows[0][2], TIMES_FIRST))
    kept.show()
    return kept.finish(goals)


def main() -> int:
    """Prepare, load, print, and tell whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rows", type=int, default=20_640)
    given = parser.parse_args()
    seconds = given.minutes * 60
    with tempfile.TemporaryDirectory(prefix="tasador-bench-") as temporary:
        folder = Path(temporary)
        operator = Operator(folder)
        model, rows = prepare(operator, given.rows)
        workspace, port = folder / "workspace", free_port()
        env = os.environ | {
            "TASADOR_SOURCE__TRACKING_URI": f"sqlite:///{workspace / 'mlflow.db'}",
            "TASADOR_SOURCE__MODEL_NAME": model,
            "TASADOR_SOURCE__POLL_S": "2",
            "TASADOR_RECORDS__URL": f"sqlite:///{workspace / 'tasador.db'}",
            "TASADOR_SERVER__LOG_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "tasador.cli.app", "serve", "--port", str(port)]
        with running(command, env, folder) as process:
            wait(lambda: asyncio.run(Caller(port).ask("GET", "/health/ready"))[0] == 200)
            load, memory = asyncio.run(run(port, process.pid, operator, rows, seconds))
    return keep(load, memory, operator, seconds)


def wait(ready: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait until the service is ready."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            if ready():
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the service is not ready")


if __name__ == "__main__":
    isolate()
    sys.exit(main())
