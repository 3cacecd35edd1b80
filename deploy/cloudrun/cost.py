"""What valuations cost on Google Cloud, from CPU time and bytes measured here.

    python deploy/cloudrun/cost.py BUNDLE

Starts `tasador serve` as the descriptor does, sends it requests over 16 connections, and reads from
/proc how much CPU time the server took for them; the sender's is not counted. Records are written
(SQLite in a temporary folder, whatever the environment names), and weighed, as are the answers.
Then come two bills of a month, with everything that runs: resident, as `deploy/cloudrun` describes
it, and on demand, where MLflow sleeps and monitoring is a job.

Prices are list prices without free tier or discount, see `Prices`. They change: pass your own.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".github" / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from smoke_test import call, row_of, wait_until_ready

from isolation import isolate

CONNECTIONS = 16
MONTH_S = 365 / 12 * 86_400
VALUATIONS = (100_000, 1_000_000, 10_000_000)


@dataclass(frozen=True)
class Prices:
    """USD, list prices of Tier 1 regions and us-central1, as published in November 2026.

    Attributes:
        cpu_second: Cloud Run, instance-based billing, a vCPU (cloud.google.com/run/pricing).
        gib_second: The same, a GiB of memory.
        active_cpu_second: Cloud Run, request-based billing (services that sleep), a vCPU.
        active_gib_second: The same, a GiB.
        sql_cpu_hour: Cloud SQL for PostgreSQL, Enterprise, a vCPU (cloud.google.com/sql/pricing).
        sql_gib_hour: The same, a GiB of memory.
        sql_shared_hour: A `db-g1-small` with a shared core.
        sql_gib_month: A GiB of SSD.
        bucket_gib_month: Cloud Storage, standard class, a GiB.
        egress_gib: To the internet, premium tier, the first TiB.
        utilisation: Share of an instance's time that valuations take before Cloud Run adds another.
    """

    cpu_second: float = 0.000018
    gib_second: float = 0.000002
    active_cpu_second: float = 0.000024
    active_gib_second: float = 0.0000025
    sql_cpu_hour: float = 0.0413
    sql_gib_hour: float = 0.007
    sql_shared_hour: float = 0.035
    sql_gib_month: float = 0.17
    bucket_gib_month: float = 0.020
    egress_gib: float = 0.12
    utilisation: float = 0.6

    def instance(self, seconds: float, gib: float, cores: float = 1.0) -> float:
        """Return what an instance that is paid by the second costs."""
        return seconds * (cores * self.cpu_second + gib * self.gib_second)

    def active(self, seconds: float, gib: float, cores: float = 1.0) -> float:
        """Return what an instance costs that is paid only while it answers."""
        return seconds * (cores * self.active_cpu_second + gib * self.active_gib_second)

    def per_million(self, cpu_seconds: float, gib: float = 1.0) -> float:
        """Return USD per million valuations that take `cpu_seconds` each, on busy instances.

        An instance of one core is paid by the second, and of each second the share `utilisation` is
        spent on valuations.
        """
        return self.instance(cpu_seconds * 1e6 / self.utilisation, gib)


@dataclass(frozen=True)
class Traffic:
    """A month's traffic.

    Attributes:
        valuations: How many, one row a request.
        cpu_seconds: CPU time of each.
        answer_bytes: Of each answer, headers included.
        record_bytes: Of each record in the database.
        months: For how long records are kept.
        ui_hours: Hours in which somebody has the web app open.
        training_hours: Hours of training on four cores.
    """

    valuations: int
    cpu_seconds: float
    answer_bytes: float
    record_bytes: float
    months: float = 12.0
    ui_hours: float = 60.0
    training_hours: float = 4.0


def bill(prices: Prices, traffic: Traffic, *, resident: bool) -> dict[str, float]:
    """Return USD a month by part; resident or on demand, see the module.

    The API always has one warm instance of one core and one GiB, and more only while that is busy
    beyond `utilisation`.
    """
    needed = traffic.valuations * traffic.cpu_seconds / prices.utilisation
    hours = MONTH_S / 3600
    kept = traffic.valuations * traffic.months * traffic.record_bytes / 2**30
    if resident:
        sql = hours * (prices.sql_cpu_hour + 3.75 * prices.sql_gib_hour)
        registry = prices.instance(MONTH_S, 2.0)
        watching = prices.instance(MONTH_S, 2.0)
    else:
        sql = hours * prices.sql_shared_hour
        registry = prices.active((traffic.training_hours + 10) * 3600, 2.0)
        watching = prices.instance(hours * 40.0, 2.0, cores=2.0)  # a job of 40 s an hour
    return {
        "API": prices.instance(max(MONTH_S, needed), 1.0),
        "database": sql + (10.0 + kept) * prices.sql_gib_month,
        "MLflow": registry,
        "watcher": watching,
        "web app": prices.active(traffic.ui_hours * 3600, 1.0),
        "training": prices.instance(traffic.training_hours * 3600, 8.0, cores=4.0),
        "bucket": 5.0 * prices.bucket_gib_month,
        "egress": traffic.valuations * traffic.answer_bytes / 2**30 * prices.egress_gib,
    }


def bills(prices: Prices, traffic: Traffic) -> str:
    """Return the bills for each number of valuations, as Markdown."""
    lines = []
    for resident, title in ((True, "resident"), (False, "on demand")):
        made = [
            bill(prices, replace(traffic, valuations=count), resident=resident)
            for count in VALUATIONS
        ]
        lines += [f"| {title}, USD a month | " + " | ".join(f"{n:,}" for n in VALUATIONS) + " |"]
        lines += ["|---|" + "---|" * len(VALUATIONS)]
        for part in made[0]:
            lines.append(f"| {part} | " + " | ".join(f"{one[part]:.2f}" for one in made) + " |")
        total = " | ".join(f"**{sum(one.values()):.2f}**" for one in made)
        lines += [f"| **all** | {total} |", ""]
    return "\n".join(lines)


@dataclass(frozen=True)
class Measured:
    """What a valuation takes: seconds of CPU, and bytes of the answer and of the record."""

    cpu_seconds: float
    answer_bytes: float
    record_bytes: float


def measure(bundle: Path, batch: int, seconds: float) -> Measured:
    """Measure valuations in requests of `batch` rows."""
    with _serving(bundle) as (process, port, workspace):
        base = f"http://127.0.0.1:{port}"
        wait_until_ready(base)
        row = row_of(call(f"{base}/api/v1/model/info")["contract"])
        body = json.dumps({"instances": [row] * batch}).encode()
        warm, _ = _send_all(port, body, 0.5)
        before = _cpu_seconds(process.pid)
        requests, answered = _send_all(port, body, seconds)
        used = _cpu_seconds(process.pid) - before
        process.terminate()
        process.wait(30)
        stored = sum(file.stat().st_size for file in workspace.glob("tasador.db*"))
    rows = requests * batch
    return Measured(used / rows, answered / rows, stored / (rows + warm * batch))


@contextlib.contextmanager
def _serving(bundle: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    with socket.socket() as free, tempfile.TemporaryDirectory() as workspace:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "tasador.cli.app", "serve", "--bundle", str(bundle)]
        command += ["--port", str(port), "--workspace", workspace]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process, port, Path(workspace)
        finally:
            process.terminate()
            process.wait(30)


def _send_all(port: int, body: bytes, seconds: float) -> tuple[int, int]:
    """Return how many requests were answered, and the bytes of all answers."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        sent = list(pool.map(lambda _: _send(port, body, seconds), range(CONNECTIONS)))
    return sum(count for count, _ in sent), sum(size for _, size in sent)


def _send(port: int, body: bytes, seconds: float) -> tuple[int, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    end, count, size = time.perf_counter() + seconds, 0, 0
    while time.perf_counter() < end:
        connection.request("POST", "/api/v1/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            sys.exit(f"{answer.status}: {text[:300].decode()}")
        count += 1
        size += len(text) + len(str(answer.headers).encode())
    connection.close()
    return count, size


def _cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and of its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each size of request")
    for price in fields(Prices):
        parser.add_argument(f"--{price.name.replace('_', '-')}", type=float, default=price.default)
    given = vars(parser.parse_args())
    prices = Prices(**{price.name: given[price.name] for price in fields(Prices)})
    print("| rows a request | CPU per valuation | USD per million |\n|---|---|---|")
    found = []
    for batch in (1, 10, 100, 1000):
        one = measure(given["bundle"], batch, given["seconds"])
        found.append(one)
        cost = prices.per_million(one.cpu_seconds)
        print(f"| {batch} | {one.cpu_seconds * 1e6:.0f} us | {cost:.4f} |")
    one = found[0]
    print(f"\n{one.answer_bytes:.0f} bytes an answer, {one.record_bytes:.0f} a record\n")
    traffic = Traffic(0, one.cpu_seconds, one.answer_bytes, one.record_bytes)
    print(bills(prices, traffic))


if __name__ == "__main__":
    isolate()
    main()
