"""The writer: what was acknowledged is in the database."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sqlite3
import time
from collections.abc import Callable
from queue import SimpleQueue

import pytest

from tasador.contract.target_check import TargetBounds
from tasador.core.errors import StorageError
from tasador.records.batch_writer import RecordWriter
from tasador.records.batches import WAKE, Submission, insert_records, take_group
from tasador.records.database import Database
from tasador.records.errors import OutageError, RejectedValuesError
from tasador.records.record import Record, new_ids
from tasador.records.shared_state import kept_targets
from tasador.settings.serving import RecordSettings


def some_records(count: int) -> list[Record]:
    return [
        Record(i, 1.7e9, "v1", "champion", "local", b'{"a":1}', 2.0, 1.0, 3.0, 0.9, 0.4, "me")
        for i in new_ids(count)
    ]


@pytest.fixture
def settings(tmp_path) -> RecordSettings:
    return RecordSettings(url=f"sqlite:///{tmp_path}/deep/records.db", bound_s=60.0)


def ids_in(settings: RecordSettings) -> list[str]:
    with sqlite3.connect(settings.url.removeprefix("sqlite:///")) as connection:
        found = [row[0] for row in connection.execute("SELECT id FROM records ORDER BY id")]
    connection.close()
    return found


def test_a_future_is_done_only_after_its_records_are_committed(settings) -> None:
    writer = RecordWriter(settings)
    writer.start()

    async def ask(size: int) -> None:
        records = some_records(size)
        await writer.submit(records)
        assert {r.id for r in records} <= set(ids_in(settings))

    async def main() -> None:
        await asyncio.gather(*(ask(size) for size in (1, 2, 63, 64, 65, 200, 1000)))

    asyncio.run(main())
    assert writer.close()
    assert len(ids_in(settings)) == 1395
    assert (writer.status().written, writer.status().queued) == (1395, 0)


def test_a_thread_may_submit_and_wait(settings) -> None:
    writer = RecordWriter(settings)
    writer.start()
    writer.submit_from_thread(some_records(3)).result(timeout=10)
    assert len(ids_in(settings)) == 3
    writer.close()


def test_closing_flushes_what_async_mode_still_holds(settings) -> None:
    writer = RecordWriter(RecordSettings(url=settings.url, mode="async", bound_s=60.0))
    writer.start()
    for _ in range(50):
        assert writer.submit_from_thread(some_records(10)) is None
    assert writer.close()
    assert len(ids_in(settings)) == 500


def test_a_writer_that_is_off_writes_nothing(settings) -> None:
    writer = RecordWriter(RecordSettings(url=settings.url, mode="off"))
    writer.start()
    assert writer.submit(some_records(1)) is None
    assert writer.close()


def test_a_closed_writer_takes_nothing(settings) -> None:
    writer = RecordWriter(settings)
    with pytest.raises(StorageError, match="not running"):
        writer.submit_from_thread(some_records(1))


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def blocked(tmp_path) -> RecordSettings:
    """Settings of a database whose folder is a file, until that is deleted."""
    (tmp_path / "blocked").write_text("")
    return RecordSettings(
        url=f"sqlite:///{tmp_path}/blocked/records.db", spool=str(tmp_path / "spool"), bound_s=60.0,
        retry_s=0.02,
    )  # fmt: skip


def test_an_outage_is_known_before_the_first_record_and_over_when_the_database_is_there(
    blocked, tmp_path, caplog
) -> None:
    caplog.set_level(logging.INFO, logger="tasador.records")
    writer = RecordWriter(blocked)
    writer.start()
    wait_until(lambda: writer.status().state == "spooling")
    assert "cannot be used" in writer.status().last_error
    assert writer.keeps()
    (tmp_path / "blocked").unlink()
    wait_until(lambda: writer.status().state == "ok")
    assert writer.keeps()
    writer.submit_from_thread(some_records(2)).result(timeout=20)
    assert (writer.status().written, writer.status().spooled) == (2, 0)
    assert writer.close()
    messages = [one.getMessage() for one in caplog.records if "records go into" in one.getMessage()]
    assert len(messages) == 2
    assert messages[0].startswith("records go into the spool: the database")
    assert messages[1] == "records go into the database again; the spool is empty"


def test_a_writer_that_can_keep_records_nowhere_says_so_until_it_can(blocked, tmp_path) -> None:
    waits, loses = (
        RecordWriter(dataclasses.replace(blocked, spool_bytes=2000, mode=mode))
        for mode in ("durable", "async")
    )
    for writer in (waits, loses):
        assert writer.keeps()
        writer.start()
        wait_until(lambda writer=writer: writer.status().full)
    assert not waits.keeps()
    assert loses.keeps()
    assert loses.submit_from_thread(some_records(9)) is None
    wait_until(lambda: loses.status().lost == 9)
    (tmp_path / "blocked").unlink()
    for writer in (waits, loses):
        wait_until(lambda writer=writer: writer.status().state == "ok")
        assert not writer.status().full
        assert writer.keeps()
        assert writer.close()


def test_what_is_written_makes_room_in_the_queue(settings) -> None:
    writer = RecordWriter(dataclasses.replace(settings, queue=10))
    writer.start()
    for _ in range(4):
        writer.submit_from_thread(some_records(10)).result(timeout=20)
    status = writer.status()
    assert (status.written, status.lost, status.queued) == (40, 0, 0)
    assert writer.close()


@pytest.mark.parametrize(("most", "size"), [(1, 10), (10, 10), (11, 20), (21, 30), (999, 50)])
def test_a_group_holds_whole_submissions_until_there_are_enough(most, size) -> None:
    queue: SimpleQueue[Submission] = SimpleQueue()
    records = some_records(50)
    for start in range(0, 50, 10):
        queue.put(Submission(records[start : start + 10], None))
        queue.put(WAKE)
    group = take_group(queue, most)
    assert group is not None
    assert (group.size, list(group.rows)) == (size, records[:size])
    rest = take_group(queue, 999, 0.0)
    assert (0 if rest is None else rest.size) == 50 - size
    assert take_group(queue, 1, 0.001) is None


def test_a_refused_record_is_reported_and_the_database_stays_in_use(settings) -> None:
    writer = RecordWriter(settings)
    writer.start()
    good, bad = some_records(2)
    waiting = writer.submit_from_thread([good, bad._replace(features=None)])
    with pytest.raises(RejectedValuesError, match=r"^the database .* does not take these values"):
        waiting.result(timeout=20)
    status = writer.status()
    assert (status.refused, status.written, status.state) == (1, 1, "ok")
    assert status.last_error.startswith("the database")
    assert writer.close()


def test_the_bounds_of_a_target_are_kept_beside_the_records(settings) -> None:
    writer = RecordWriter(settings)
    writer.keep_target("houses", TargetBounds(low=1.0, high=9.0))
    writer.start()
    writer.submit_from_thread(some_records(1)).result(timeout=20)
    with Database.open(settings.url) as database:
        wait_until(lambda: "houses" in kept_targets(database))
        assert kept_targets(database)["houses"].high == 9.0
    assert writer.close()


def test_a_writer_that_was_closed_takes_no_more_and_closes_again(settings) -> None:
    writer = RecordWriter(settings)
    writer.start()
    assert writer.close()
    with pytest.raises(StorageError, match="not running"):
        writer.submit_from_thread(some_records(1))
    assert writer.close()


def test_a_group_that_waits_alone_for_a_locked_database_goes_into_the_spool(settings) -> None:
    Database.open(settings.url).close()
    writer = RecordWriter(dataclasses.replace(settings, bound_s=0.2))
    writer.start()
    writer.submit_from_thread(some_records(1)).result(timeout=20)
    lock = sqlite3.connect(settings.url.removeprefix("sqlite:///"), isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    writer.submit_from_thread(some_records(1)).result(timeout=20)
    status = writer.status()
    lock.close()
    # SQLite itself would have given up after seconds, with another reason
    assert status.last_error == "the database did not answer within 0.1 s"
    assert status.state == "spooling"
    assert status.spooled >= 1
    wait_until(lambda: writer.status().state == "ok")
    assert writer.close()
    assert len(ids_in(settings)) == 2


def test_an_outage_among_records_that_are_tried_alone_counts_none_as_written(caplog) -> None:
    class Vanishing:
        def __init__(self) -> None:
            self.alone = 0

        def insert(self, table: str, rows: list[Record]) -> None:
            if len(rows) > 1:
                raise RejectedValuesError.of("here", "one of them is bad")
            self.alone += 1
            if self.alone == 1:
                raise RejectedValuesError.of("here", "bad")
            raise OutageError.of("here", "it is gone")

    with pytest.raises(OutageError, match="it is gone"):
        insert_records(Vanishing(), some_records(3))
    (message,) = [one.getMessage() for one in caplog.records]
    assert message.startswith(
        "a record is refused: the database here does not take these values: bad"
    )
