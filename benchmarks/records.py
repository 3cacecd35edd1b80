"""What keeping records costs: `python benchmarks/records.py [sqlite|postgresql|outages|bytes]`.

An event loop that works as a valuation service does (a given number of clients, each request some
microseconds of computing, then its record, then the answer) is run without records and with each
mode and database. Printed are records a second, the time from request to answer, and what the
records add to it; then the longest wait while a database is locked, held still or stopped, and how
many bytes a record takes and how fast it is deleted.
PostgreSQL is started from its binaries when they are installed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import sqlite3
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from isolation import isolate
from tasador.records.batch_writer import RecordWriter
from tasador.records.database import Database
from tasador.records.record import Record, new_ids
from tasador.records.store import RecordStore
from tasador.settings.serving import Mode, RecordSettings, Synchronous

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fixtures.postgresql import PostgresServer, find_binaries

CLIENTS = 16
SECONDS = 1.5
ROUNDS = 3
WORK_S = 100e-6  # of one request: parse, encode, value, answer
ROW = (
    b'{"longitude":-122.23,"latitude":37.88,"housing_median_age":41,"total_rooms":880,'
    b'"total_bedrooms":129,"population":322,"households":126,"median_income":8.3252,'
    b'"ocean_proximity":"NEAR BAY"}'
)


@dataclass(frozen=True)
class Measured:
    """Records a second, the milliseconds of a request, and records that did not go straight in."""

    rate: float
    p50: float
    p99: float
    spooled: int = 0
    lost: int = 0

    def __str__(self) -> str:
        told = f"{self.rate:>10,.0f}/s   p50 {self.p50:7.3f} ms   p99 {self.p99:7.3f} ms"
        return f"{told}   spooled {self.spooled:,}, lost {self.lost:,}" if self.spooled else told


def make_records(count: int) -> list[Record]:
    """Return records like those of California."""
    now = time.time()
    version = "california_housing@" + "0" * 64
    return [
        Record(i, now, version, "champion", "local", ROW, 2e5, 1.5e5, 2.7e5, 0.9, 0.21, "key-1")
        for i in new_ids(count)
    ]


async def drive(writer: RecordWriter, clients: int, batch: int, work_s: float) -> Measured:
    """Run clients for a while; each works, submits and waits."""
    end = time.perf_counter() + SECONDS
    taken: list[float] = []

    async def client() -> None:
        while (started := time.perf_counter()) < end:
            while time.perf_counter() < started + work_s:
                pass
            waiting = writer.submit(make_records(batch))
            if waiting is None:
                await asyncio.sleep(0)
            else:
                await waiting
            taken.append(time.perf_counter() - started)

    await asyncio.gather(*(client() for _ in range(clients)))
    milliseconds = np.array(taken) * 1000
    return Measured(
        len(taken) * batch / SECONDS,
        float(np.median(milliseconds)),
        float(np.quantile(milliseconds, 0.99)),
    )


def measure(settings: RecordSettings, clients: int, batch: int, work_s: float) -> Measured:
    """Measure one kind of writer."""
    writer = RecordWriter(settings)
    writer.start()
    time.sleep(0.3)
    gc.freeze()
    measured = uvloop.run(drive(writer, clients, batch, work_s))
    writer.close(30)
    status = writer.status()
    return Measured(measured.rate, measured.p50, measured.p99, status.spooled, status.lost)


def compare(name: str, url: str, folder: Path) -> None:
    """Print the figures of one database: for each kind the best of several rounds in turn."""
    kinds: list[tuple[Mode, Synchronous]] = [
        ("off", "normal"),
        ("async", "normal"),
        ("durable", "normal"),
    ]
    if url.startswith("sqlite"):
        kinds.append(("durable", "full"))
    for title, clients, batch, work_s in (
        ("1 client, 1 record, 100 us of work", 1, 1, WORK_S),
        (f"{CLIENTS} clients, 1 record, 100 us of work", CLIENTS, 1, WORK_S),
        (f"{CLIENTS} clients, 1 record, no work", CLIENTS, 1, 0.0),
        ("2 clients, 500 records, no work", 2, 500, 0.0),
    ):
        rounds: dict[tuple[Mode, Synchronous], list[Measured]] = {kind: [] for kind in kinds}
        for _ in range(ROUNDS):
            for mode, synchronous in kinds:
                settings = RecordSettings(
                    url=url,
                    mode=mode,
                    synchronous=synchronous,
                    spool=str(folder / "spool"),
                    queue=100_000,
                )
                rounds[mode, synchronous].append(measure(settings, clients, batch, work_s))
        print(f"{name}: {title}")
        for (mode, synchronous), found in rounds.items():
            label = mode if synchronous == "normal" else f"{mode}, {synchronous}"
            print(f"  {label:<14}{best(found)}", flush=True)


def best(found: list[Measured]) -> Measured:
    """Return the best of each figure: others use the machine too, and only ever slow things."""
    return Measured(
        max(m.rate for m in found),
        min(m.p50 for m in found),
        min(m.p99 for m in found),
        min(m.spooled for m in found),
        min(m.lost for m in found),
    )


def read_back(name: str, url: str) -> None:
    """Print how fast records are read."""
    with Database.open(url, timeout_s=60) as database:
        store = RecordStore(database)
        started, rows = time.perf_counter(), 0
        for batch in store.read(0.0, 1e12):
            rows += len(batch)
        seconds = time.perf_counter() - started
        print(f"{name}: read {rows:,} records in {seconds:.1f} s, {rows / seconds:,.0f}/s")


def weigh(folder: Path, server: PostgresServer | None) -> None:
    """Print the bytes of a record on disk and in PostgreSQL's log, and how fast it is deleted."""

    def fill(url: str, ask: str, at_once: int, count: int = 20_000) -> tuple[float, float]:
        with Database.open(url, timeout_s=60) as database:
            store = RecordStore(database)
            store.append(make_records(100))  # the tables' first pages
            before = float(database.execute(ask)[0][0])
            for _ in range(count // at_once):
                store.append(make_records(at_once))
            size = (float(database.execute(ask)[0][0]) - before) / count
            started = time.perf_counter()
            deleted = max(store.prune(time.time() + 60))
            return size, deleted / (time.perf_counter() - started)

    pages = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    disk = "SELECT pg_total_relation_size('records')"
    log = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
    for n in (16, 500):
        size, rate = fill(f"sqlite:///{folder}/bytes-{n}.db", pages, n)
        told = f"{n} records a commit"
        print(f"SQLite, {told}: {size:,.0f} bytes a record, {rate:,.0f} deleted a second")
        if server is not None:
            size, rate = fill(server.new_schema(), disk, n)
            logged, _ = fill(server.new_schema(), log, n)
            print(f"PostgreSQL, {told}: {size:,.0f} bytes a record, {logged:,.0f} in its log, "
                  f"{rate:,.0f} deleted a second")  # fmt: skip


def outage(name: str, url: str, begin: Callable[[], object], end: Callable[[], object]) -> None:
    """Print how long requests waited while the database went away for a while."""
    taken: list[float] = []

    async def client(writer: RecordWriter, until: float) -> None:
        while (started := time.perf_counter()) < until:
            waiting = writer.submit(make_records(1))
            if waiting is not None:
                await waiting
            taken.append(time.perf_counter() - started)
            await asyncio.sleep(0.002)

    async def run(writer: RecordWriter) -> None:
        until = time.perf_counter() + 4
        clients = [asyncio.ensure_future(client(writer, until)) for _ in range(CLIENTS)]
        await asyncio.sleep(1)
        await asyncio.to_thread(begin)
        await asyncio.sleep(1.5)
        await asyncio.to_thread(end)
        await asyncio.gather(*clients)

    with tempfile.TemporaryDirectory() as spool:
        writer = RecordWriter(RecordSettings(url=url, spool=spool))
        writer.start()
        time.sleep(1)
        uvloop.run(run(writer))
        status = writer.status()
        writer.close()
    print(
        f"{name}: {len(taken):,} requests, {status.spooled:,} spooled, {status.lost:,} lost, "
        f"p50 {np.median(taken) * 1e3:.1f} ms, longest {max(taken) * 1e3:.0f} ms "
        f"(bound {writer.settings.bound_s * 1e3:.0f} ms)",
        flush=True,
    )


def outages(folder: Path, server: PostgresServer | None) -> None:
    """Print the longest waits in three kinds of outage."""
    file = folder / "locked.db"
    lock = sqlite3.connect(file, isolation_level=None, timeout=10, check_same_thread=False)
    outage(
        "SQLite locked", f"sqlite:///{file}", lambda: lock.execute("BEGIN IMMEDIATE"), lock.close
    )
    if server is not None:
        outage("PostgreSQL held still", server.new_schema(), server.hold, server.release)
        outage("PostgreSQL stopped", server.new_schema(), server.stop, server.start)


@contextmanager
def postgres() -> Iterator[PostgresServer | None]:
    """Start a server with its usual safety; None when it is not installed."""
    binaries = find_binaries()
    if binaries is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="tasador-bench-"))
    server = PostgresServer(binaries, folder, fsync=True)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measure what is asked for, or everything."""
    logging.disable(logging.CRITICAL)
    asked = sys.argv[1:] or ["sqlite", "postgresql", "outages", "bytes"]
    for size in (1, 1000):
        seconds = min(timeit.repeat(lambda n=size: new_ids(n), number=20, repeat=200)) / 20 / size
        print(f"ids, {size} at once: {seconds * 1e6:.2f} us each")
    with tempfile.TemporaryDirectory() as folder:
        if "sqlite" in asked:
            url = f"sqlite:///{folder}/records.db"
            compare("SQLite", url, Path(folder))
            read_back("SQLite", url)
        with postgres() as server:
            if "bytes" in asked:
                weigh(Path(folder), server)
            if "outages" in asked:
                outages(Path(folder), server)
            if "postgresql" in asked:
                if server is None:
                    print("PostgreSQL is not installed")
                else:
                    url = server.new_schema()
                    compare("PostgreSQL", url, Path(folder))
                    read_back("PostgreSQL", url)


if __name__ == "__main__":
    isolate()
    main()
