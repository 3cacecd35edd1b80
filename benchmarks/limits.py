"""What this machine can do at most: `python benchmarks/limits.py [--rows 200000]`.

Each figure bounds a part of tasador, whose own figures other benchmarks give: copying memory
(matrices), decoding Parquet and CSV (`tasador score`, drift), parsing a request's JSON, and a
round trip through the loopback interface (the service). Medians of five passes, one thread.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from figures import Figures
from inputs import real_table
from isolation import isolate
from main_job import ROW

PASSES = 5
MEGA = 1e6
_COPIED_MB = 256
_TRIPS = 5_000
_REQUEST, _ANSWER = 400, 300  # bytes of a valuation over HTTP, about


def median_s(work: Callable[[], object]) -> float:
    """Return the median wall time of some passes, in seconds; one before them is not counted."""
    work()
    found = []
    for _ in range(PASSES):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def copied_gb_s() -> float:
    """Return how many GB a second a copy reads and writes."""
    source = np.ones(_COPIED_MB * 2**17)
    target = np.empty_like(source)
    return 2 * source.nbytes / 1e9 / median_s(lambda: np.copyto(target, source))


def table_of(rows: int) -> pa.Table:
    """Return the real table again and again, to `rows` rows."""
    frame = pl.read_csv(real_table("housing.csv"))
    return pl.concat([frame] * (rows // len(frame) + 1)).head(rows).to_arrow()


def round_trip_s() -> float:
    """Return the time from a request of bytes to its answer, one after the other, no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                while connection.recv(4096):
                    connection.sendall(b"x" * _ANSWER)

        threading.Thread(target=answer, daemon=True).start()
        with socket.create_connection(address) as asking:
            asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def trips() -> None:
                for _ in range(_TRIPS):
                    asking.sendall(b"x" * _REQUEST)
                    asking.recv(4096)

            return median_s(trips) / _TRIPS


def parsed_s() -> float:
    """Return the time to parse one row's JSON."""
    body = json.dumps(ROW).encode()
    return median_s(lambda: [json.loads(body) for _ in range(_TRIPS)]) / _TRIPS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    table = table_of(rows)
    found: list[tuple[str, float, str, str]] = [
        ("copy memory", copied_gb_s(), "GB/s", "matrices, Arrow columns")
    ]
    with tempfile.TemporaryDirectory() as name:
        csv, columns = Path(name) / "rows.csv", Path(name) / "rows.parquet"
        arrow_csv.write_csv(table, csv)
        parquet.write_table(table, columns)
        one = arrow_csv.ReadOptions(use_threads=False)
        for title, work, bounds in (
            ("decode Parquet", lambda: parquet.read_table(columns, use_threads=False),
             "tasador score, drift"),
            ("parse CSV", lambda: arrow_csv.read_csv(csv, read_options=one),
             "tasador score, drift, segregate"),
        ):  # fmt: skip
            found.append((title, rows / MEGA / median_s(work), "million rows/s", bounds))
    found += [
        ("parse a row's JSON", MEGA * parsed_s(), "us", "the service"),
        ("round trip on loopback", MEGA * round_trip_s(), "us", "the service, one connection"),
    ]
    for title, value, unit, bounds in found:
        print(f"{title:<26}{value:>10.2f} {unit:<16}{bounds}")
    figures = Figures()
    figures.table("What the machine can do at most, on one thread",
                  ("work", "value", "unit", "bounds"), found)  # fmt: skip
    figures.keep()


if __name__ == "__main__":
    isolate()
    main()
