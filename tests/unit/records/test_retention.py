"""What grows is kept for a time, and no longer, in both databases."""

from __future__ import annotations

import dataclasses
import os
import time

import pytest

from tasador.core import clock
from tasador.records.audit_log import AuditTrail, Verdicts
from tasador.records.batch_writer import RecordWriter
from tasador.records.maintenance import Retention, prune_in_turn
from tasador.records.record import Outcome
from tasador.records.shared_state import AlertState, AlertStates
from tasador.records.store import RecordStore
from tasador.settings.serving import RecordSettings

DAY = 86_400.0


@pytest.fixture
def settings(url, tmp_path) -> RecordSettings:
    return RecordSettings(url=url, spool=str(tmp_path / "spool"))


@pytest.fixture
def grown(database, settings, make_records) -> float:
    """Verdicts of 100 days of two models, alerts that ended and that did not, old spool files."""
    now = clock.seconds()
    verdicts = Verdicts(database)
    for model, days in (("houses", range(100, 0, -1)), ("old", (300, 200))):
        for day in days:
            made = verdicts.add(model, 0.0, 1.0, "ok", {"rows": day})
            database.change("UPDATE verdicts SET time = ? WHERE id = ?", (now - day * DAY, made.id))
    states = AlertStates(database)
    for key, state, body in (
        ("over", "ok", {}),
        ("silent", "ok", {"silent_until": now + DAY}),
        ("to send", "ok", {"outbox": [{"route": "mail", "notice": {}}]}),
        ("firing", "firing", {}),
    ):
        states.put(AlertState(key, state, now - 400 * DAY, now, body))
    states.put(AlertState("just over", "ok", now - DAY, now, {}))
    records = make_records(3, start=now - 400 * DAY)
    store = RecordStore(database)
    store.append(records)
    store.add_outcomes([Outcome(records[0].id, value, now - 400 * DAY) for value in (1.0, 2.0)])
    spool = settings.spool_folder()
    spool.mkdir(parents=True)
    for name, days in (("a.damaged", 400), ("b.damaged", 1), ("c.spool", 400)):
        (spool / name).write_bytes(b"x")
        os.utime(spool / name, (now - days * DAY,) * 2)
    return now


def left(database, settings):
    count = "SELECT count(*) FROM verdicts WHERE model = ?"
    return {
        "houses": database.execute(count, ("houses",))[0][0],
        "old": database.execute(count, ("old",))[0][0],
        "alerts": {state.key for state in AlertStates(database).all()},
        "records": RecordStore(database).count(0.0, 1e12),
        "conflicts": len(RecordStore(database).conflicts(0.0, 1e12)),
        "files": {path.name for path in settings.spool_folder().iterdir()},
    }


def test_each_kind_goes_at_its_age_and_predictions_stay(database, settings, grown) -> None:
    counted = Retention(database, settings).count()
    before = left(database, settings)
    assert (before["houses"], before["old"], before["records"]) == (100, 2, 3)  # only counted
    deleted = Retention(database, settings).delete()
    assert [(old.what, old.number) for old in deleted] == [
        (old.what, old.number) for old in counted
    ]
    assert left(database, settings) == {
        "houses": 29,
        "old": 1,  # the newest verdict of a model stays
        "alerts": {"silent", "to send", "firing", "just over"},
        "records": 3,
        "conflicts": 1,
        "files": {"b.damaged", "c.spool"},  # records that wait are never deleted
    }
    assert sum(old.number for old in Retention(database, settings).delete()) == 0


def test_one_age_takes_all_kinds(database, settings, grown) -> None:
    Retention(database, settings, older_than=10.5 * DAY).delete()
    found = left(database, settings)
    assert (found["houses"], found["records"], found["conflicts"]) == (10, 0, 0)


def test_a_kind_without_an_age_is_kept(database, settings, grown) -> None:
    ages = {f.name: None for f in dataclasses.fields(settings) if f.name.startswith("keep_")}
    before = left(database, settings)
    found = Retention(database, dataclasses.replace(settings, **ages)).delete()
    assert {old.before for old in found} == {None}
    assert left(database, settings) == before


def test_many_rows_of_one_moment_are_deleted(database, settings) -> None:
    for _ in range(3):
        with database.transaction():
            for _ in range(400):
                Verdicts(database).add("houses", 0.0, 1.0, "ok", {})
    old = clock.seconds() - 90 * DAY
    database.change("UPDATE verdicts SET time = ?", (old,))
    assert Retention(database, settings).delete()[1].number == 1199
    assert len(Verdicts(database).read()) == 1


def test_processes_take_turns(database, settings, grown) -> None:
    prune_in_turn(database, settings)
    assert left(database, settings)["houses"] == 29
    hour = dataclasses.replace(settings, keep_verdicts_days=1.0)
    prune_in_turn(database, hour)  # somebody did within the hour
    assert left(database, settings)["houses"] == 29


def test_a_service_prunes_by_itself(database, settings, grown) -> None:
    writer = RecordWriter(settings)
    writer.start()
    try:
        end = time.monotonic() + 20
        while left(database, settings)["houses"] > 29 and time.monotonic() < end:
            time.sleep(0.1)
        assert left(database, settings)["houses"] == 29
    finally:
        writer.close()


def test_logs_that_nobody_writes_go_and_huge_ones_keep_their_end(tmp_path, make_records) -> None:
    from tasador.records.database import Database

    settings = RecordSettings(url=f"sqlite:///{tmp_path}/tasador.db")
    logs = tmp_path / "logs"
    logs.mkdir()
    for name in ("ui.log", "notes.log"):
        (logs / name).write_text("old")
        os.utime(logs / name, (1e9, 1e9))
    with (logs / "api.log").open("wb") as file:
        file.truncate(100 << 20)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe last line\n")
    with (logs / "api.log").open("ab") as writing, Database.open(settings.url) as database:
        Retention(database, settings).delete()
        writing.write(b"and one more\n")
    assert {path.name for path in logs.iterdir()} == {"api.log", "notes.log"}  # one is not ours
    assert (logs / "api.log").read_bytes().endswith(b"the last line\nand one more\n")
    assert (logs / "api.log").stat().st_size < 10 << 20


def test_a_verdict_is_whole_while_it_is_the_newest_or_changed_the_level(database) -> None:
    verdicts = Verdicts(database)
    levels = ["ok", "ok", "ok", "alert", "alert", "alert", "ok", "ok"]
    for number, level in enumerate(levels):
        body = {"number": number, "detail": "x" * 10_000}
        verdicts.add("houses", 0, 1, level, body, shorten=lambda b: {"number": b["number"]})
    kept = verdicts.read("houses")[::-1]
    assert [one.body["number"] for one in kept] == list(range(8))
    assert [("detail" in one.body) for one in kept] == [
        True, False, False, True, False, False, True, True
    ]  # fmt: skip
    assert AuditTrail(database).read() == []
