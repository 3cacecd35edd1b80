"""The spool: what it acknowledged is given back once its process is gone, whatever happened."""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tasador.core.errors import StorageError
from tasador.records.database import MIGRATIONS, NEWEST, Database, Migration
from tasador.records.errors import OutageError
from tasador.records.record import Record
from tasador.records.spool import MAGIC, Spool, adopt, waiting_bytes

FRAMED = Path(__file__).parents[2] / "fixtures" / "files" / "records" / "framed.spool"


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool", "normal", 1 << 20)


def drained(spool: Spool) -> list[Record]:
    found = []
    while chunk := spool.peek(100):
        found += chunk.records
        spool.advance(chunk)
    return found


def test_a_spool_gives_back_missing_infinite_and_foreign_values(spool, make_records) -> None:
    (record,) = make_records(
        1, lower=math.nan, upper=-math.inf, features=bytes(range(256)), client="größer"
    )
    spool.append([record])
    (found,) = drained(spool)
    assert math.isnan(found.lower)
    assert found._replace(lower=0.0) == record._replace(lower=0.0)


def test_records_come_back_in_order_and_only_until_they_are_given_up(spool, make_records) -> None:
    records = make_records(300)
    for start in range(0, 300, 7):
        spool.append(records[start : start + 7])
    first = spool.peek(100)
    assert first.records == spool.peek(100).records == records[: len(first.records)]
    assert drained(spool) == records
    assert (spool.bytes, spool.peek()) == (0, None)


def test_appending_goes_on_while_the_front_is_read(spool, make_records) -> None:
    records = make_records(20)
    spool.append(records[:5])
    chunk = spool.peek()
    spool.append(records[5:])
    spool.advance(chunk)
    assert drained(spool) == records[5:]


def test_a_file_that_was_read_makes_way_for_a_small_one(tmp_path, make_records) -> None:
    spool = Spool(tmp_path, "normal", 1 << 24)
    for _ in range(10):
        spool.append(make_records(500))
    (large,) = spool.folder.glob("*.spool.db")
    assert len(drained(spool)) == 5000
    (small,) = spool.folder.glob("*.spool.db")
    assert small != large
    assert sum(path.stat().st_size for path in spool.folder.iterdir()) < 500_000
    spool.append(make_records(3))
    assert len(drained(spool)) == 3
    spool.close()
    assert list(spool.folder.iterdir()) == []


def test_records_are_read_on_from_where_deleting_failed(spool, make_records, monkeypatch) -> None:
    records = make_records(9)
    spool.append(records[:6])
    with monkeypatch.context() as full_disk:

        def refuse(*_: object) -> int:
            raise OutageError.of("the spool", "database or disk is full")

        full_disk.setattr("tasador.records.database.Database.change", refuse)
        spool.advance(spool.peek(4))
    spool.append(records[6:])
    assert drained(spool) == records[4:]


def test_a_group_larger_than_a_statement_comes_back(tmp_path, make_records) -> None:
    spool = Spool(tmp_path, "full", 1 << 24)
    records = [*make_records(3, features=b"x" * 3_000_000), *make_records(1500)]
    spool.append(records)
    assert drained(spool) == records


def test_of_a_group_only_the_record_that_no_database_takes_is_refused(spool, make_records) -> None:
    good, nul, bad = make_records(3)
    written, refused, error = spool.append(
        [good, nul._replace(client="a\ud800"), bad._replace(features=None)]
    )
    assert (written, refused) == (2, 1)
    assert "does not take these values" in str(error)
    assert [record.client for record in drained(spool)] == ["tests", "a?"]


def test_a_full_spool_takes_nothing_and_keeps_what_it_has(tmp_path, make_records) -> None:
    spool = Spool(tmp_path, "normal", 3000)
    kept = make_records(5)
    spool.append(kept)
    with pytest.raises(StorageError, match=r"spool in .* is full: expected at most 3,000 bytes"):
        spool.append(make_records(20))
    assert drained(spool) == kept


def test_a_spool_whose_folder_cannot_be_made_says_so(tmp_path, make_records) -> None:
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool", "normal", 1 << 20)
    with pytest.raises(StorageError, match="cannot be used"):
        spool.prepare()
    with pytest.raises(StorageError, match="cannot be used"):
        spool.append(make_records(1))


def test_the_spool_of_a_living_process_is_left_alone(spool, make_records) -> None:
    spool.append(make_records(3))
    assert list(adopt(spool.folder)) == []
    assert waiting_bytes(spool.folder) == spool.bytes > 0


def test_what_a_closed_spool_left_is_adopted_once(spool, make_records) -> None:
    records = make_records(1200)
    for start in range(0, 1200, 100):
        spool.append(records[start : start + 100])
    spool.close()
    assert [record for chunk in adopt(spool.folder) for record in chunk] == records
    assert list(adopt(spool.folder)) == []
    assert list(spool.folder.iterdir()) == []


def test_a_file_stays_when_its_records_could_not_be_replayed(spool, make_records) -> None:
    records = make_records(10)
    spool.append(records)
    spool.close()
    adopting = adopt(spool.folder)
    next(adopting)
    adopting.close()
    assert [record for chunk in adopt(spool.folder) for record in chunk] == records


def left_by_a_dead_process(folder: Path, records: list[Record]) -> Path:
    """Return a spool file with its log, as a process that is killed leaves it."""
    living = Spool(folder / "living", "normal", 1 << 30)
    for start in range(0, len(records), 50):
        living.append(records[start : start + 50])
    shutil.copytree(folder / "living", folder / "dead")
    living.close()
    (path,) = (folder / "dead").glob("*.spool.db")
    (folder / "dead" / f"{path.name}-shm").unlink()
    return path


def test_a_group_that_was_cut_in_the_log_is_skipped(tmp_path, make_records) -> None:
    records = make_records(100)
    path = left_by_a_dead_process(tmp_path, records)
    log = path.with_name(path.name + "-wal")
    os.truncate(log, log.stat().st_size - 9)
    assert [record for chunk in adopt(path.parent) for record in chunk] == records[:50]
    assert list(path.parent.iterdir()) == []


def test_a_file_damaged_within_gives_what_is_readable_and_is_kept(tmp_path, make_records) -> None:
    records = make_records(2000)
    path = left_by_a_dead_process(tmp_path, records)
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size * 2 // 3)
        file.write(random.Random(1).randbytes(65536))
    found = [record for chunk in adopt(path.parent) for record in chunk]
    assert len(found) > 500
    assert found == records[: len(found)]
    (kept,) = path.parent.iterdir()
    assert (kept.suffix, kept.stat().st_size) == (".damaged", size)
    assert list(adopt(path.parent)) == []


@pytest.mark.parametrize(("content", "left"), [(b"", []), (b"hello" * 500, [".damaged"])])
def test_a_file_without_tables_is_no_spool(tmp_path, content, left) -> None:
    (tmp_path / "1-abc.spool.db").write_bytes(content)
    assert list(adopt(tmp_path)) == []
    assert [path.suffix for path in tmp_path.iterdir()] == left


def test_a_file_that_cannot_be_read_holds_up_no_other(tmp_path, make_records) -> None:
    records = make_records(3)
    path = left_by_a_dead_process(tmp_path, records)
    (path.parent / "0-a.spool.db").mkdir()
    adopting = adopt(path.parent)
    assert next(adopting) == records
    with pytest.raises(StorageError, match="cannot be used"):
        next(adopting)
    assert [found.name for found in path.parent.iterdir()] == ["0-a.spool.db"]


def test_a_file_of_an_earlier_schema_is_brought_up_to_date_when_it_is_adopted(
    tmp_path, make_records, monkeypatch
) -> None:
    records = make_records(3)
    path = left_by_a_dead_process(tmp_path, records)
    more = Migration(NEWEST + 1, 1, ("ALTER TABLE records ADD COLUMN place {text} DEFAULT 'x'",))
    monkeypatch.setattr("tasador.records.database.MIGRATIONS", (*MIGRATIONS, more))
    monkeypatch.setattr(
        "tasador.records.spool._SELECT",
        "SELECT rowid, id, place FROM records WHERE rowid > ? LIMIT ?",
    )
    monkeypatch.setattr(Record, "from_row", classmethod(lambda _, row: tuple(row)))
    assert list(adopt(path.parent)) == [[(record.id, "x") for record in records]]


def test_files_of_an_earlier_release_are_read_once(tmp_path) -> None:
    shutil.copy(FRAMED, tmp_path / "1-a.spool")
    assert waiting_bytes(tmp_path) > 800
    found = [record for chunk in adopt(tmp_path) for record in chunk]
    assert [record.time for record in found] == [1_700_000_000.0 + n for n in (1, 2, 3, 4)]
    assert (found[1].upper, found[2].client, found[3].features) == (math.inf, "größer", b"\x00\xff")
    assert math.isnan(found[1].lower)
    assert list(tmp_path.iterdir()) == []  # the fifth was torn: it was never acknowledged


def test_a_file_of_an_earlier_release_stays_while_its_process_lives(tmp_path) -> None:
    shutil.copy(FRAMED, tmp_path / "1-a.spool")
    code = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "1-a.spool")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as owner:  # fmt: skip
        owner.stdout.readline()
        assert list(adopt(tmp_path)) == []
        owner.kill()
    assert sum(map(len, adopt(tmp_path))) == 4


def test_a_damaged_file_of_an_earlier_release_gives_what_is_readable(tmp_path) -> None:
    content = bytearray(FRAMED.read_bytes())
    content[content.index("größer".encode())] ^= 1
    (tmp_path / "1-a.spool").write_bytes(content)
    assert sum(map(len, adopt(tmp_path))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["1-a.damaged"]


@pytest.mark.parametrize(
    ("content", "left"), [(b"", []), (MAGIC[:5], []), (b"hello", [".damaged"])]
)
def test_a_file_of_an_earlier_release_without_its_header_is_no_spool(
    tmp_path, content, left
) -> None:
    (tmp_path / "1-abc.spool").write_bytes(content)
    assert list(adopt(tmp_path)) == []
    assert [path.suffix for path in tmp_path.iterdir()] == left


FILLER = """
import resource, sys
from pathlib import Path
from tasador.core.errors import StorageError
from tasador.records.record import Record
from tasador.records.spool import Spool

resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
spool = Spool(Path(sys.argv[1]), "full", 1 << 20)
kept = 0
try:
    for i in range(1000):
        spool.append([Record(str(i), 0.0, "v", "c", "l", b"x" * 500, 1, 1, 1, 1, 1)])
        kept = i + 1
except StorageError as error:
    print(kept, error)
"""


def test_a_disk_that_takes_no_more_leaves_no_half_group(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(tmp_path)], capture_output=True, text=True, check=True
    )
    kept, _, reason = done.stdout.partition(" ")
    assert "cannot be used" in reason
    assert int(kept) > 10
    found = [int(record.id) for chunk in adopt(tmp_path) for record in chunk]
    assert found == list(range(int(kept)))


def test_looking_whether_a_spool_has_space_adds_nothing_to_it(tmp_path, make_records) -> None:
    spool = Spool(tmp_path, "normal", 20_000)
    spool.append(make_records(3))
    before = spool.bytes
    spool.check()
    assert spool.bytes == before
    chunk = spool.peek()
    assert chunk is not None
    assert len(chunk.records) == 3
    with pytest.raises(StorageError, match="is full"):
        Spool(tmp_path, "normal", 4000).check()


@pytest.mark.parametrize(("synchronous", "level"), [("normal", 1), ("full", 2)])
def test_only_full_flushes_the_disk_for_every_group(tmp_path, synchronous, level) -> None:
    spool = Spool(tmp_path / "spool", synchronous, 1 << 20)
    spool.prepare()
    assert spool._file.database.execute("PRAGMA synchronous") == [(level,)]


def test_a_file_that_was_adopted_before_it_was_open_is_made_again(tmp_path, monkeypatch) -> None:
    spool = Spool(tmp_path, "normal", 1 << 20)
    taken = []
    connect = Database.connect

    def adopted_meanwhile(database: Database) -> None:
        connect(database)
        if not taken:
            taken.append(database.url.path)
            database.url.path.unlink()

    monkeypatch.setattr(Database, "connect", adopted_meanwhile)
    spool.prepare()
    (path,) = tmp_path.glob("*.spool.db")
    assert path not in taken
