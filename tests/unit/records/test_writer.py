"""The writer: what was acknowledged is in the database."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from tasador.core.errors import StorageError
from tasador.records.batch_writer import RecordWriter
from tasador.records.record import Record, new_ids
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
