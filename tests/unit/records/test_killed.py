"""Processes that die and servers that stop under load: what was acknowledged is found once."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fixtures.process import unmeasured
from tasador.records.database import Database
from tasador.records.maintenance import replay_orphans
from tasador.records.spool import adopt
from tasador.records.store import RecordStore

#: Keeps the event loop busy with submissions; each id is written down once it is acknowledged.
LOAD = """
import asyncio, os, sys
from tasador.records.record import new_ids
from tasador.records.record import Record
from tasador.settings.serving import RecordSettings
from tasador.records.batch_writer import RecordWriter

url, spool, log, synchronous = sys.argv[1:]
acknowledged = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
writer = RecordWriter(RecordSettings(
    url=url, spool=spool, bound_s=0.06, retry_s=0.02, group=64, synchronous=synchronous))
writer.start()

async def client(size):
    while True:
        records = [
            Record(i, 1.0, "v", "champion", "local", b'{"a": 1}', 1.0, 0.5, 1.5, 0.9, 0.2)
            for i in new_ids(size)
        ]
        await writer.submit(records)
        os.write(acknowledged, "".join(f"{r.id}\\n" for r in records).encode())

async def main():
    await asyncio.gather(*(client(1 + n % 3) for n in range(16)))

asyncio.run(main())
"""


class Load:
    """A process that submits as fast as it can."""

    def __init__(self, url: str, folder: Path, synchronous: str = "normal") -> None:
        self.log = folder / "acknowledged"
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOAD, url, str(folder / "spool"), str(self.log), synchronous],
            stderr=subprocess.PIPE,
            env=unmeasured(),
        )

    def size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def wait_for_more(self, lines: int = 50) -> None:
        """Wait until so many more ids were acknowledged."""
        goal, end = self.size() + 37 * lines, time.monotonic() + 30
        while self.size() < goal:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "nothing is acknowledged"
            time.sleep(0.005)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def acknowledged_and_found(url: str, folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Bring the spools in; return the acknowledged ids and the recorded ones."""
    lines = (folder / "acknowledged").read_bytes().split(b"\n")
    acknowledged = Counter(line.decode() for line in lines if len(line) == 36)
    with Database.open(url) as database:
        replay_orphans(folder / "spool", database)
        store = RecordStore(database)
        found = Counter(i for batch in store.read(0.0, 2.0) for i in batch.id)
    assert list((folder / "spool").iterdir()) == []
    return acknowledged, found


def kill_under_load(url: str, folder: Path, times: int, seed: int) -> None:
    """Kill a loaded process again and again, half of the time while the database is locked."""
    rng = random.Random(seed)
    Database.open(url).close()
    for number in range(times):
        load = Load(url, folder, rng.choice(["normal", "full"]))
        load.wait_for_more(20)
        lock = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10, isolation_level=None)
        if number % 2:
            lock.execute("BEGIN IMMEDIATE")
            load.wait_for_more(20)
        time.sleep(rng.uniform(0.0, 0.2))
        load.kill()
        lock.close()


def check_kills(url: str, folder: Path, times: int) -> None:
    kill_under_load(url, folder, times, seed=times)
    acknowledged, found = acknowledged_and_found(url, folder)
    assert len(acknowledged) >= 20 * times
    assert set(acknowledged.values()) == set(found.values()) == {1}
    assert not acknowledged - found


def test_a_process_killed_under_load_loses_nothing_acknowledged(tmp_path) -> None:
    check_kills(f"sqlite:///{tmp_path}/records.db", tmp_path, times=4)


@pytest.mark.slow
def test_twenty_kills_under_load_lose_nothing_acknowledged(tmp_path) -> None:
    check_kills(f"sqlite:///{tmp_path}/records.db", tmp_path, times=20)


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_server_stopped_and_started_under_load_loses_nothing(
    postgres_server, postgres_url, tmp_path, times
) -> None:
    Database.open(postgres_url).close()
    load = Load(postgres_url, tmp_path)
    for _ in range(times):
        load.wait_for_more()
        postgres_server.stop("immediate")
        load.wait_for_more()
        postgres_server.start()
        load.wait_for_more()
        postgres_server.hold()
        load.wait_for_more()
        postgres_server.release()
        load.wait_for_more()
    load.kill()
    acknowledged, found = acknowledged_and_found(postgres_url, tmp_path)
    assert len(acknowledged) >= 200 * times
    assert set(acknowledged.values()) == set(found.values()) == {1}
    assert not acknowledged - found


SMALL_DISK = """
import resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from tasador.core.errors import StorageError
from tasador.records.record import new_ids
from tasador.records.record import Record
from tasador.settings.serving import RecordSettings
from tasador.records.batch_writer import RecordWriter

writer = RecordWriter(RecordSettings(url=sys.argv[2], spool=sys.argv[3], bound_s=0.1, retry_s=0.05,
                                     spool_bytes=int(sys.argv[4])))
writer.start()
for _ in range(200):
    records = [Record(i, 1.0, "v", "c", "l", b"x" * 2000, 1, 1, 1, 1, 1) for i in new_ids(20)]
    try:
        writer.submit_from_thread(records).result(20)
    except StorageError as error:
        print("refused", error)
        break
    print("\\n".join(r.id for r in records), flush=True)
print("spooled", writer.status().spooled)
writer.close(0.5)
"""


def test_a_database_that_may_not_grow_sends_records_to_the_spool(tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/records.db"
    Database.open(url).close()
    done = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, "1500000", url, str(tmp_path / "spool"), "1400000"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.split("\n")
    acknowledged = [line for line in told if len(line) == 36]
    (spooled,) = [int(line.split()[1]) for line in told if line.startswith("spooled")]
    assert spooled >= 20
    assert any(line.startswith("refused") for line in told)  # at last both are full
    with Database.open(url) as database:
        replay_orphans(tmp_path / "spool", database)
        found = RecordStore(database).get(acknowledged)
    assert set(acknowledged) == set(found)


SPOOLS = """
import sys, time
from pathlib import Path
from tasador.records.record import Record, new_ids
from tasador.records.spool import Spool

end = time.monotonic() + 1.5
while time.monotonic() < end:
    spool = Spool(Path(sys.argv[1]), "normal", 1 << 20)
    for i in new_ids(3):
        spool.append([Record(i, 1.0, "v", "c", "l", b"{}", 1, 1, 1, 1, 1)])
        print(i, flush=True)
    spool.close()
"""


def test_spools_that_are_made_while_another_process_adopts_lose_nothing(tmp_path) -> None:
    folder = tmp_path / "spool"
    makers = []
    for name in ("a", "b"):
        with (tmp_path / name).open("w") as kept:
            command = [sys.executable, "-c", SPOOLS, str(folder)]
            makers.append(subprocess.Popen(command, stdout=kept))
    found: Counter[str] = Counter()
    while any(maker.poll() is None for maker in makers):
        found.update(record.id for chunk in adopt(folder) for record in chunk)
    found.update(record.id for chunk in adopt(folder) for record in chunk)
    acknowledged = {*(tmp_path / "a").read_text().split(), *(tmp_path / "b").read_text().split()}
    assert [maker.returncode for maker in makers] == [0, 0]
    assert len(acknowledged) > 30
    assert acknowledged <= set(found)
    assert list(folder.iterdir()) == []


OPEN = """
import sys
from tasador.records.database import Database
sys.stdin.readline()
with Database.open(sys.argv[1], timeout_s=20) as database:
    print(database.execute("SELECT version FROM tasador_schema")[0][0])
"""


def test_processes_that_create_the_tables_at_once_all_succeed(url) -> None:
    opening = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    time.sleep(0.5)  # all have imported and wait for the line
    for process in opening:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in opening:
        told, wrong = process.communicate(timeout=60)
        assert (told.strip(), process.returncode) == ("1", 0), wrong
