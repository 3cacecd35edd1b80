"""What a million valuations cost on Cloud Run, from CPU time measured here.

    python deploy/cloudrun/cost.py BUNDLE

Starts `tasador serve` as the descriptor does, sends it requests over 16 connections, and reads from
/proc how much CPU time the server took for them; the sender's is not counted. Records are written
(SQLite in a temporary folder, whatever the environment names).

Prices are the list prices of Tier 1 regions with instance-based billing, without free tier or
discount. They change: pass your own with the options.
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
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".github" / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from smoke_test import call, row_of, wait_until_ready

from isolation import isolate

#: USD, Cloud Run, Tier 1, instance-based billing.
CPU_SECOND, GIB_SECOND = 0.000018, 0.000002
CONNECTIONS = 16


@dataclass(frozen=True)
class Prices:
    """What a second of one core, and of one GiB, costs in USD; and how busy instances are kept."""

    cpu_second: float = CPU_SECOND
    gib_second: float = GIB_SECOND
    gib: float = 1.0
    utilisation: float = 0.6

    def per_million(self, cpu_seconds: float) -> float:
        """Return USD per million valuations that take `cpu_seconds` each.

        An instance of one core is paid by the second, and of each second the share `utilisation` is
        spent on valuations (Cloud Run adds instances at 60%).
        """
        instance_seconds = cpu_seconds * 1e6 / self.utilisation
        return instance_seconds * (self.cpu_second + self.gib * self.gib_second)


def measure(bundle: Path, batch: int, seconds: float) -> tuple[float, float]:
    """Return CPU seconds and elapsed seconds per valuation, in requests of `batch` rows."""
    with _serving(bundle) as (process, port):
        base = f"http://127.0.0.1:{port}"
        wait_until_ready(base)
        row = row_of(call(f"{base}/api/v1/model/info")["contract"])
        body = json.dumps({"instances": [row] * batch}).encode()
        _send_all(port, body, 0.5)
        before, start = _cpu_seconds(process.pid), time.perf_counter()
        requests = _send_all(port, body, seconds)
        elapsed = time.perf_counter() - start
        used = _cpu_seconds(process.pid) - before
    return used / (requests * batch), elapsed / (requests * batch)


@contextlib.contextmanager
def _serving(bundle: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.socket() as free, tempfile.TemporaryDirectory() as workspace:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "tasador.cli.app", "serve", "--bundle", str(bundle)]
        command += ["--port", str(port), "--workspace", workspace]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process, port
        finally:
            process.terminate()
            process.wait(30)


def _send_all(port: int, body: bytes, seconds: float) -> int:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return sum(pool.map(lambda _: _send(port, body, seconds), range(CONNECTIONS)))


def _send(port: int, body: bytes, seconds: float) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        connection.request("POST", "/api/v1/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            sys.exit(f"{answer.status}: {text[:300].decode()}")
        count += 1
    connection.close()
    return count


def _cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and of its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each size of request")
    parser.add_argument("--cpu-second", type=float, default=CPU_SECOND)
    parser.add_argument("--gib-second", type=float, default=GIB_SECOND)
    parser.add_argument("--utilisation", type=float, default=0.6)
    given = parser.parse_args()
    prices = Prices(given.cpu_second, given.gib_second, utilisation=given.utilisation)
    print("| rows a request | CPU per valuation | USD per million |\n|---|---|---|")
    for batch in (1, 10, 100, 1000):
        cpu, _ = measure(given.bundle, batch, given.seconds)
        print(f"| {batch} | {cpu * 1e6:.0f} us | {prices.per_million(cpu):.4f} |")


if __name__ == "__main__":
    isolate()
    main()
