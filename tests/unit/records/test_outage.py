"""Outages: the database is locked, stopped or silent, and no record is lost or doubled."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sqlite3
import time
from collections.abc import Iterator

import pytest

from tasador.core.errors import StorageError
from tasador.records import batch_writer
from tasador.records.batch_writer import RecordWriter, WriterStatus
from tasador.records.database import Database
from tasador.records.errors import RejectedValuesError
from tasador.records.spool import Spool
from tasador.records.store import RecordStore
from tasador.settings.serving import RecordSettings

PATIENCE = 20.0  # of a test, not of the product


def wait_for(writer: RecordWriter, **expected: object) -> WriterStatus:
    """Wait until the status has the expected values."""
    end = time.monotonic() + PATIENCE
    while True:
        status = writer.status()
        if all(getattr(status, name) == value for name, value in expected.items()):
            return status
        assert time.monotonic() < end, status
        time.sleep(0.01)


def wait_until_safe(writer: RecordWriter, count: int) -> None:
    """Wait until so many records are in the database, straight or through the spool."""
    end = time.monotonic() + PATIENCE
    while (status := writer.status()).written + status.replayed < count:
        assert time.monotonic() < end, status
        time.sleep(0.01)


def ids_in(url: str) -> list[str]:
    store = RecordStore(Database.open(url))
    found = [i for batch in store.read(0.0, 1e12) for i in batch.id]
    store.close()
    return sorted(found)


class Outage:
    """Takes a database away and gives it back."""

    def __init__(self, url: str, server) -> None:
        self.url = url
        self.server = server
        self.lock: sqlite3.Connection | None = None

    def begin(self) -> None:
        if self.server is not None:
            self.server.stop()
            return
        self.lock = sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None)
        self.lock.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        if self.server is not None:
            self.server.start()
        elif self.lock is not None:
            self.lock.close()
            self.lock = None


@pytest.fixture
def outage(request, url) -> Iterator[Outage]:
    server = None if url.startswith("sqlite") else request.getfixturevalue("postgres_server")
    made = Outage(url, server)
    yield made
    if made.lock is not None:
        made.lock.close()


@pytest.fixture
def settings(url, tmp_path) -> RecordSettings:
    return RecordSettings(
        url=url, spool=str(tmp_path / "spool"), bound_s=0.2, retry_s=0.05, group=50
    )


@pytest.fixture
def writer(settings) -> Iterator[RecordWriter]:
    made = RecordWriter(settings)
    made.start()
    yield made
    made.close(0.5)


@pytest.fixture
def calm_writer(settings) -> Iterator[RecordWriter]:
    """A writer whose database may take its time, as on a machine with much else to do."""
    made = RecordWriter(dataclasses.replace(settings, bound_s=4 * PATIENCE))
    made.start()
    yield made
    made.close()


def test_records_are_taken_during_an_outage_and_found_once_after_it(
    writer, outage, make_records
) -> None:
    records = make_records(90)
    writer.submit_from_thread(records[:10]).result(PATIENCE)
    outage.begin()
    for start in range(10, 80, 5):
        writer.submit_from_thread(records[start : start + 5]).result(PATIENCE)
    during = writer.status()
    assert during.state == "spooling"
    assert during.spooled >= 70
    assert during.spool_bytes > 0
    assert during.last_error
    outage.end()
    after = wait_for(writer, state="ok")
    writer.submit_from_thread(records[80:]).result(PATIENCE)
    wait_until_safe(writer, 90)
    assert (after.replayed, after.spool_bytes, after.lost) == (after.spooled, 0, 0)
    assert ids_in(writer.settings.url) == sorted(record.id for record in records)


def test_a_database_that_is_unreachable_at_the_start_is_found_later(
    settings, outage, make_records, url
) -> None:
    Database.open(url).close()
    outage.begin()
    writer = RecordWriter(settings)
    writer.start()
    records = make_records(30)
    writer.submit_from_thread(records).result(PATIENCE)
    assert writer.status().spooled == 30
    outage.end()
    wait_for(writer, state="ok", replayed=30)
    assert writer.close()
    assert ids_in(url) == sorted(record.id for record in records)


def test_what_a_writer_left_in_the_spool_is_replayed_by_the_next(
    settings, outage, make_records, url, tmp_path
) -> None:
    Database.open(url).close()
    outage.begin()
    first = RecordWriter(settings)
    first.start()
    records = make_records(40)
    for start in range(0, 40, 4):
        first.submit_from_thread(records[start : start + 4]).result(PATIENCE)
    assert first.close(1.0)
    outage.end()
    assert ids_in(url) == []
    second = RecordWriter(settings)
    second.start()
    wait_for(second, replayed=40)
    assert second.close()
    assert ids_in(url) == sorted(record.id for record in records)
    assert list((tmp_path / "spool").iterdir()) == []


def test_records_in_both_the_spool_and_the_database_are_one(settings, make_records, url) -> None:
    records = make_records(20)
    store = RecordStore(Database.open(url))
    store.append(records[:15])
    store.close()
    spool = Spool(settings.spool_folder(), "normal", 1 << 20)
    spool.append(records)
    spool.close()
    writer = RecordWriter(settings)
    writer.start()
    wait_for(writer, replayed=20)
    writer.close()
    assert ids_in(url) == sorted(record.id for record in records)


def test_a_server_that_is_silent_holds_nobody_up(
    postgres_server, postgres_url, tmp_path, make_records
) -> None:
    settings = RecordSettings(
        url=postgres_url, spool=str(tmp_path / "spool"), bound_s=0.2, retry_s=0.05
    )
    writer = RecordWriter(settings)
    writer.start()
    records = make_records(60)
    writer.submit_from_thread(records[:10]).result(PATIENCE)
    postgres_server.hold()
    for start in range(10, 50, 10):
        writer.submit_from_thread(records[start : start + 10]).result(PATIENCE)
    assert writer.status().spooled >= 40
    postgres_server.release()
    wait_for(writer, state="ok")
    writer.submit_from_thread(records[50:]).result(PATIENCE)
    wait_until_safe(writer, 60)
    assert writer.close()
    assert ids_in(postgres_url) == sorted(record.id for record in records)


def test_the_line_to_a_server_silent_for_long_is_cut(
    postgres_server, postgres_url, tmp_path, make_records, monkeypatch
) -> None:
    monkeypatch.setattr("tasador.records.batch_writer._HANG_S", 0.3)
    settings = RecordSettings(
        url=postgres_url, spool=str(tmp_path / "spool"), bound_s=0.1, retry_s=0.05
    )
    writer = RecordWriter(settings)
    writer.start()
    writer.submit_from_thread(make_records(1)).result(PATIENCE)
    postgres_server.hold()
    writer.submit_from_thread(make_records(1)).result(PATIENCE)
    end = time.monotonic() + PATIENCE
    while "cannot be used" not in writer.status().last_error:
        assert time.monotonic() < end, writer.status()
        time.sleep(0.02)
    postgres_server.release()
    wait_until_safe(writer, 2)
    writer.close()
    assert len(ids_in(postgres_url)) == 2


def test_a_full_spool_is_an_error_in_durable_mode_and_a_counted_loss_in_async(
    settings, outage, make_records, url
) -> None:
    Database.open(url).close()
    outage.begin()
    for mode in ("durable", "async"):
        writer = RecordWriter(
            RecordSettings(
                url=url, mode=mode, spool=settings.spool, spool_bytes=2000, bound_s=0.1,
                retry_s=0.05,
            )
        )  # fmt: skip
        writer.start()
        waiting = writer.submit_from_thread(make_records(100))
        if waiting is not None:
            with pytest.raises(StorageError, match=r"the spool .* is full"):
                waiting.result(PATIENCE)
        status = wait_for(writer, queued=0)
        assert (status.lost, status.spooled) == (100, 0)
        writer.close(0.5)
    outage.end()


def test_a_queue_that_is_full_refuses_in_durable_mode_and_loses_in_async(
    settings, outage, make_records, url
) -> None:
    for mode in ("durable", "async"):
        writer = RecordWriter(RecordSettings(url=url, mode=mode, spool=settings.spool, queue=10))
        writer.start()
        waiting = writer.submit_from_thread(make_records(11))
        if waiting is not None:
            with pytest.raises(StorageError, match="the queue of records is full"):
                waiting.result(PATIENCE)
        assert writer.status().lost == 11
        assert writer.close()


def test_closing_during_an_outage_leaves_everything_in_the_spool(
    settings, outage, make_records, url
) -> None:
    writer = RecordWriter(
        RecordSettings(url=url, mode="async", spool=settings.spool, bound_s=60.0, retry_s=0.05)
    )
    writer.start()
    wait_for(writer, last_error="")
    writer.submit_from_thread(make_records(1))
    wait_for(writer, queued=0)
    outage.begin()
    for _ in range(5):
        writer.submit_from_thread(make_records(10))
    assert writer.close(2.0)
    assert writer.status().spooled == 50
    outage.end()
    again = RecordWriter(settings)
    again.start()
    wait_for(again, replayed=50)
    again.close()
    assert len(ids_in(url)) == 51


def test_texts_that_a_database_cannot_hold_are_cleaned_and_the_record_kept(
    calm_writer, make_records
) -> None:
    good, nul, surrogate = make_records(3)
    group = [good, nul._replace(client="a\0b"), surrogate._replace(client="\ud800!")]
    calm_writer.submit_from_thread(group).result(PATIENCE)
    store = RecordStore(Database.open(calm_writer.settings.url))
    found = store.get([record.id for record in group])
    store.close()
    assert set(found) == {good.id, nul.id, surrogate.id}
    assert "\0" not in found[nul.id].client
    assert found[surrogate.id].client == "?!"


def test_a_record_that_is_none_is_refused_and_the_others_are_kept(
    calm_writer, make_records
) -> None:
    good, bad = make_records(2)
    waiting = calm_writer.submit_from_thread(
        [good, bad._replace(prediction="cheap", features=None)]
    )
    with pytest.raises(RejectedValuesError):
        waiting.result(PATIENCE)
    status = calm_writer.status()
    assert (status.refused, status.written, status.state) == (1, 1, "ok")
    assert ids_in(calm_writer.settings.url) == [good.id]


def test_a_request_that_gave_up_does_not_stop_the_others_of_its_group(
    calm_writer, make_records
) -> None:
    async def main() -> None:
        first, second = calm_writer.submit(make_records(1)), calm_writer.submit(make_records(1))
        first.cancel()
        await asyncio.wait_for(second, PATIENCE)

    asyncio.run(main())
    wait_for(calm_writer, queued=0)
    assert len(ids_in(calm_writer.settings.url)) == 2


def test_a_loop_that_was_closed_does_not_stop_the_writer(writer, make_records) -> None:
    async def leave() -> None:
        writer.submit(make_records(1))

    for _ in range(5):
        asyncio.run(leave())
    writer.submit_from_thread(make_records(1)).result(PATIENCE)
    wait_until_safe(writer, 6)


def test_a_spool_file_that_cannot_be_read_back_is_quarantined_and_the_rest_goes_on(
    settings, outage, make_records, url, tmp_path
) -> None:
    Database.open(url).close()
    outage.begin()
    writer = RecordWriter(settings)
    writer.start()
    # more than SQLite keeps in memory, so that it has to read the files again
    writer.submit_from_thread(make_records(300, features=b"x" * 20_000)).result(PATIENCE)
    for path in (tmp_path / "spool").iterdir():
        if not path.name.endswith("-shm"):
            path.write_bytes(b"!" * path.stat().st_size)
    outage.end()
    wait_for(writer, state="ok", spool_bytes=0)
    later = make_records(3)
    writer.submit_from_thread(later).result(PATIENCE)
    wait_until_safe(writer, 3)
    assert writer.close()
    assert ids_in(url) == sorted(record.id for record in later)
    left = [path.suffix for path in (tmp_path / "spool").iterdir()]
    assert sorted(left) == [".damaged", ".damaged-wal"]


def test_a_writer_without_a_spool_folder_still_writes_to_the_database(
    url, tmp_path, make_records
) -> None:
    (tmp_path / "file").write_text("")
    writer = RecordWriter(
        RecordSettings(url=url, spool=str(tmp_path / "file" / "spool"), bound_s=60.0)
    )
    writer.start()
    wait_for(writer, last_error=writer.status().last_error)
    assert "cannot be used" in writer.status().last_error
    writer.submit_from_thread(make_records(2)).result(PATIENCE)
    assert writer.close()
    assert len(ids_in(url)) == 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_an_error_that_its_writer_does_not_run(writer, make_records) -> None:
    writer.submit_from_thread(make_records(1)).result(PATIENCE)
    child = os.fork()
    if child == 0:
        try:
            writer.submit_from_thread(make_records(1))
        except StorageError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    writer.submit_from_thread(make_records(1)).result(PATIENCE)


def test_a_server_that_falls_silent_while_the_spool_is_replayed_holds_nobody_up(
    postgres_server, postgres_url, tmp_path, make_records, monkeypatch
) -> None:
    settings = RecordSettings(
        url=postgres_url, spool=str(tmp_path / "spool"), bound_s=0.2, retry_s=0.05, group=10
    )
    writer = RecordWriter(settings)
    silenced = []
    insert = batch_writer.insert_records

    def falls_silent(database, rows):
        if writer._committer.state == "draining" and not silenced:
            silenced.append(len(rows))
            postgres_server.hold()
        return insert(database, rows)

    monkeypatch.setattr(batch_writer, "insert_records", falls_silent)
    writer.start()
    records = make_records(80)
    writer.submit_from_thread(records[:10]).result(PATIENCE)
    postgres_server.hold()
    for start in range(10, 60, 10):
        writer.submit_from_thread(records[start : start + 10]).result(PATIENCE)
    postgres_server.release()
    end = time.monotonic() + PATIENCE
    while not silenced:
        assert time.monotonic() < end, writer.status()
        time.sleep(0.005)
    try:
        writer.submit_from_thread(records[60:]).result(5.0)  # safe, though the database hangs
    finally:
        postgres_server.release()
    wait_until_safe(writer, 80)
    assert writer.close()
    assert ids_in(postgres_url) == sorted(record.id for record in records)
