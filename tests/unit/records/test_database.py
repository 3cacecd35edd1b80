"""The shared state in the database: verdicts, audit trail, values, leases, alerts, schema."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from tasador.core import clock
from tasador.records import database as connection
from tasador.records.audit_log import AuditTrail, Verdicts
from tasador.records.database import Database, Migration
from tasador.records.errors import OutageError, RejectedValuesError
from tasador.records.record import Outcome, Record
from tasador.records.refused import kept_rows
from tasador.records.shared_state import AlertState, AlertStates, Leases, SharedState
from tasador.records.store import RecordStore

FIRST_SCHEMA = Path(__file__).parents[2] / "fixtures" / "files" / "records" / "schema_1.db"


def test_verdicts_come_back_newest_first_and_by_model(database) -> None:
    verdicts = Verdicts(database)
    body = {"psi": {"income": 0.25}, "level": "warn", "note": "größer"}
    first = verdicts.add("houses", 0.0, 10.0, "warn", body)
    second = verdicts.add("houses", 10.0, 20.0, "ok", {})
    verdicts.add("diamonds", 0.0, 10.0, "cannot tell", {})
    assert verdicts.read("houses") == [second, first]
    assert verdicts.read("houses")[1].body == body
    assert len(verdicts.read(limit=2)) == 2
    assert verdicts.read(since=clock.seconds() + 60) == []


def test_of_windows_that_overlap_only_the_latest_counts_as_a_window_of_its_own(database) -> None:
    verdicts = Verdicts(database)
    for end in range(100, 1000, 15):  # looked at every 15 s, looking back 100 s
        verdicts.add("houses" if end % 2 else "houses-abc", end - 100.0, float(end), "ok", {})
    verdicts.add("diamonds", 985.0, 986.0, "ok", {})
    found = verdicts.apart(["houses", "houses-abc"], 0.0, 4)
    assert found[0].until == 985
    assert len(found) == 4
    for later, earlier in itertools.pairwise(found):
        assert later.since - 15 < earlier.until <= later.since
    assert verdicts.apart(["houses"], 0.0, 0) == []
    assert len(verdicts.apart(["houses", "houses-abc"], 0.0, 1000)) == 9
    assert verdicts.apart(["houses"], clock.seconds() + 60, 3) == []


def test_a_window_without_length_is_none(database) -> None:
    verdicts = Verdicts(database)
    verdicts.add("houses", 10.0, 10.0, "ok", {})
    assert verdicts.apart(["houses"], 0.0, 5) == []


def test_the_audit_trail_keeps_who_did_what_and_why(database) -> None:
    trail = AuditTrail(database)
    made = trail.add(
        "ana", "promote", "houses", from_value="1", to_value="2", reason="better",
        details={"gates": [1.5, None]},
    )  # fmt: skip
    trail.add("bo", "rollback", "houses")
    assert trail.read(action="promote") == [made]
    assert [entry.actor for entry in trail.read("houses")] == ["bo", "ana"]
    assert trail.read("diamonds") == []


def test_an_audit_entry_is_undone_with_the_transaction_it_belongs_to(database) -> None:
    def promote() -> None:
        with database.transaction():
            AuditTrail(database).add("ana", "promote", "houses")
            SharedState(database).put("champion", 2, seen=0)
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        promote()
    assert AuditTrail(database).read() == []
    assert SharedState(database).get("champion").version == 0
    with database.transaction(), database.transaction():
        SharedState(database).put("champion", 3, seen=0)
    assert SharedState(database).get("champion").value == 3


def test_a_value_is_changed_only_by_who_saw_its_last_version(database) -> None:
    state = SharedState(database)
    assert (state.get("share").value, state.get("share").version) == (None, 0)
    first = state.put("share", {"percent": 1}, seen=0)
    assert first == state.get("share")
    assert state.put("share", {"percent": 5}, seen=0) is None
    second = state.put("share", {"percent": 5}, seen=first.version)
    assert state.put("share", {"percent": 9}, seen=first.version) is None
    assert state.get("share") == second
    assert second.value == {"percent": 5}


def test_values_are_listed_by_the_start_of_their_key(database) -> None:
    state = SharedState(database)
    for key in ("canary/a", "canary/b", "canary", "canarya", "other", "canary/%"):
        state.put(key, key, seen=0)
    assert [entry.key for entry in state.under("canary/")] == ["canary/%", "canary/a", "canary/b"]


def test_many_threads_that_count_with_compare_and_set_lose_no_count(url) -> None:
    Database.open(url).close()

    def count() -> None:
        with Database.open(url, timeout_s=30) as own:
            state = SharedState(own)
            for _ in range(10):
                while state.put("n", ((e := state.get("n")).value or 0) + 1, e.version) is None:
                    pass

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Database.open(url) as database:
        assert SharedState(database).get("n").value == 40


def test_a_lease_has_one_holder_until_it_is_released_or_over(database) -> None:
    leases = Leases(database)
    mine = leases.acquire("watch", "a", 60)
    assert leases.acquire("watch", "b", 60) is None
    assert leases.acquire("other", "b", 60) is not None
    longer = leases.renew(mine, 120)
    assert longer.expires > mine.expires
    leases.release(mine)
    theirs = leases.acquire("watch", "b", 0.05)
    assert theirs.token == mine.token + 1
    time.sleep(0.1)
    again = leases.acquire("watch", "a", 60)
    assert again.token == theirs.token + 1


def test_a_holder_that_was_replaced_can_neither_renew_nor_release_nor_write(database) -> None:
    leases = Leases(database)
    old = leases.acquire("watch", "a", 0.01)
    time.sleep(0.05)
    new = leases.acquire("watch", "b", 60)
    assert leases.renew(old, 60) is None
    leases.release(old)
    assert leases.acquire("watch", "c", 60) is None
    with database.transaction():
        assert not leases.holds(old)
        assert leases.holds(new)


def test_a_lease_that_ran_out_unclaimed_may_be_renewed(database) -> None:
    leases = Leases(database)
    lease = leases.acquire("watch", "a", 0.01)
    time.sleep(0.05)
    assert leases.renew(lease, 60) is not None
    assert leases.acquire("watch", "b", 60) is None


def set_back(database, seconds: float) -> None:
    """Do to leases what setting the database's clock back does to them."""
    database.execute("UPDATE leases SET expires = expires + ?", (seconds,))


def test_a_clock_set_back_by_an_hour_keeps_the_lease_of_a_dead_holder_no_hour(database) -> None:
    leases = Leases(database)
    leases.acquire("watch", "dead", 0.2)
    set_back(database, 3600.0)
    assert leases.acquire("watch", "b", 60) is None  # it has its whole length again
    _, left = leases.left("watch")
    assert left < 1.0
    time.sleep(0.3)
    assert leases.acquire("watch", "b", 60) is not None


def test_a_clock_set_back_takes_no_lease_from_who_renews_it(database) -> None:
    leases = Leases(database)
    mine = leases.acquire("watch", "a", 60)
    set_back(database, 3600.0)
    assert leases.acquire("watch", "b", 0.01) is None  # however short the other's would be
    _, left = leases.left("watch")
    assert 50 < left <= 61
    mine = leases.renew(mine, 600)
    assert mine is not None
    assert leases.acquire("watch", "b", 0.01) is None
    _, left = leases.left("watch")
    assert left > 500


def test_a_clock_set_forward_by_a_day_leaves_one_holder(database) -> None:
    leases = Leases(database)
    mine = leases.acquire("watch", "a", 60)
    set_back(database, -86_400.0)
    assert leases.renew(mine, 60) is not None  # whoever comes first
    set_back(database, -86_400.0)
    theirs = leases.acquire("watch", "b", 60)
    assert theirs is not None
    assert leases.renew(mine, 60) is None
    assert not leases.holds(mine)


def test_history_stays_in_its_order_when_the_clock_is_set_back(database) -> None:
    trail, start = AuditTrail(database), 1.8e9
    try:
        for jump in (0.0, 86_400.0, -3600.0, -3600.0):
            clock.use_source(lambda jump=jump: start + jump)
            trail.add("ana", "promote", "houses", to_value=str(jump))
    finally:
        clock.use_source(None)
    found = [float(entry.to_value) for entry in trail.read(subject="houses")]
    assert found == [-3600.0, -3600.0, 86_400.0, 0.0]


def test_only_one_of_many_gets_a_lease(url) -> None:
    Database.open(url).close()
    got = []

    def attempt(name: int) -> None:
        with Database.open(url, timeout_s=30) as own:
            got.append(Leases(own).acquire("watch", str(name), 60))

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([lease for lease in got if lease is not None]) == 1
    assert len(got) == 6


def test_an_alert_is_changed_only_by_who_saw_its_last_version(database) -> None:
    alerts = AlertStates(database)
    fresh = AlertState("psi/income", "pending", 10.0, 10.0, {"count": 1})
    kept = alerts.put(fresh)
    assert (kept.version, alerts.get("psi/income")) == (1, kept)
    assert alerts.put(fresh) is None
    firing = alerts.put(AlertState("psi/income", "firing", 20.0, 20.0, {"count": 2}, kept.version))
    assert alerts.all() == [firing]
    assert alerts.put(kept) is None
    assert alerts.get("nothing") is None


def test_a_value_the_database_cannot_hold_is_refused(database) -> None:
    with pytest.raises(RejectedValuesError, match="does not take these values"):
        database.execute("INSERT INTO state (key, value, version, time) VALUES ('k', NULL, 1, 1)")


def test_opening_again_changes_no_table(url, make_records) -> None:
    with Database.open(url) as database:
        SharedState(database).put("k", 1, seen=0)
    with Database.open(url) as database:
        assert SharedState(database).get("k").value == 1


def newer(reader: int) -> Migration:
    statement = "ALTER TABLE state ADD COLUMN owner {text}"
    return Migration(len(connection.MIGRATIONS) + 1, reader, (statement,))


def test_a_newer_schema_that_allows_it_is_used_and_another_is_refused(url, monkeypatch) -> None:
    with monkeypatch.context() as newer_release:
        newer_release.setattr(connection, "MIGRATIONS", (*connection.MIGRATIONS, newer(reader=1)))
        Database.open(url).close()
    with Database.open(url) as database:
        SharedState(database).put("k", 1, seen=0)
    with monkeypatch.context() as newest_release:
        last = Migration(connection.NEWEST + 2, connection.NEWEST + 2, ())
        newest_release.setattr(connection, "MIGRATIONS", (*connection.MIGRATIONS, newer(1), last))
        Database.open(url).close()
    with pytest.raises(OutageError, match="changed by a newer tasador"):
        Database.open(url)


def test_a_stored_database_of_the_first_schema_is_brought_up_to_date(tmp_path) -> None:
    shutil.copy(FIRST_SCHEMA, tmp_path / "records.db")
    with Database.open(f"sqlite:///{tmp_path}/records.db") as database:
        versions = database.execute("SELECT version FROM tasador_schema ORDER BY version")
        assert versions == [(n,) for n in range(1, connection.NEWEST + 1)]
        (batch,) = RecordStore(database).read(0.0, 2e9)
        assert list(batch.client) == ["tests", "tests"]
        assert batch.features[0] == '{"income":6,"kind":"hôtel"}'.encode()
        assert math.isnan(batch.lower[1])
        assert list(batch.actual)[:1] == [123.5]
        assert SharedState(database).get("champion").value == {"version": 3}
        assert list(kept_rows(database, 0.0, 2e9, 5)) == []


@pytest.mark.parametrize("version", range(1, connection.NEWEST))
def test_a_database_of_each_earlier_schema_is_brought_up_to_date(
    url, version, monkeypatch, make_records
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(connection, "MIGRATIONS", connection.MIGRATIONS[:version])
        with Database.open(url) as database:
            SharedState(database).put("k", 1, seen=0)
    with Database.open(url) as database:
        assert SharedState(database).get("k").value == 1
        records = make_records(2)
        RecordStore(database).append(records)
        assert len(RecordStore(database).get([record.id for record in records])) == 2
        assert list(kept_rows(database, 0.0, 2e9, 5)) == []


def test_the_tables_have_the_fields_of_what_is_added_to_them(database) -> None:
    for table, row in (("records", Record), ("outcomes", Outcome)):
        if database.url.dialect == "sqlite":
            found = database.execute(f"SELECT name FROM pragma_table_info('{table}') ORDER BY cid")
        else:
            found = database.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_name = ? "
                "AND table_schema = current_schema() ORDER BY ordinal_position", (table,)
            )  # fmt: skip
        assert [name for (name,) in found] == list(row._fields)


def test_a_migration_that_fails_leaves_nothing_half_done(url, monkeypatch) -> None:
    broken = Migration(1, 1, ("CREATE TABLE fine (a {int})", "CREATE NONSENSE"))
    with monkeypatch.context() as release:
        release.setattr(connection, "MIGRATIONS", (broken,))
        with pytest.raises(OutageError, match="cannot be used"):
            Database.open(url)
    with Database.open(url) as database, pytest.raises(OutageError, match="fine"):
        database.execute("SELECT * FROM fine")


def test_a_connection_comes_back_after_its_server_was_restarted(
    postgres_server, postgres_url
) -> None:
    with Database.open(postgres_url) as database:
        postgres_server.stop()
        with pytest.raises(OutageError, match="cannot be used"):
            database.execute("SELECT 1")
        with pytest.raises(OutageError, match="cannot be used"):
            database.execute("SELECT 1")
        postgres_server.start()
        assert database.execute("SELECT 1") == [(1,)]


def test_a_line_that_breaks_within_a_transaction_is_not_replaced_in_it(
    postgres_server, postgres_url
) -> None:
    with Database.open(postgres_url) as database:

        def write() -> None:
            with database.transaction():
                SharedState(database).put("a", 1, seen=0)
                postgres_server.stop()
                postgres_server.start()
                with pytest.raises(OutageError, match="cannot be used"):
                    SharedState(database).put("b", 1, seen=0)
                SharedState(database).put("c", 1, seen=0)

        with pytest.raises(OutageError, match="within a transaction"):
            write()
        assert SharedState(database).under("") == []


def test_a_folder_that_cannot_hold_a_database_is_an_outage(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutageError, match="cannot be used"):
        Database.open(f"sqlite:///{tmp_path}/file/records.db")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_connects_by_itself(database) -> None:
    SharedState(database).put("k", 1, seen=0)
    child = os.fork()
    if child == 0:
        done = SharedState(database).put("child", 2, seen=0)
        os._exit(0 if done is not None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert SharedState(database).get("child").value == 2


def test_maintenance_shrinks_what_a_commit_would_have_to_clean_up(tmp_path, make_records) -> None:
    file = tmp_path / "records.db"
    with Database.open(f"sqlite:///{file}") as writing, Database.open(f"sqlite:///{file}") as other:
        store = RecordStore(writing)
        for _ in range(20):
            store.append(make_records(500))
        before = file.stat().st_size
        other.maintain()
        assert file.stat().st_size > before + 1_000_000
        assert store.count(0.0, 1e12) == 10_000


def test_maintaining_what_needs_nothing_changes_nothing(database) -> None:
    SharedState(database).put("k", 1, seen=0)
    database.maintain()
    assert SharedState(database).get("k").value == 1


def test_a_server_that_says_nothing_is_given_up_and_found_again(
    postgres_server, postgres_url
) -> None:
    with Database.open(postgres_url, timeout_s=0.2) as database:
        SharedState(database).put("k", 1, seen=0)
        postgres_server.hold()
        with pytest.raises(OutageError, match=r"no answer within 1\.2 s"):
            SharedState(database).get("k")
        postgres_server.release()
    with Database.open(postgres_url) as database:
        assert SharedState(database).get("k").value == 1


def test_a_statement_that_takes_too_long_is_ended_by_the_server(
    postgres_server, postgres_url
) -> None:
    with Database.open(postgres_url, timeout_s=0.2) as database:
        with pytest.raises(OutageError, match="statement timeout"):
            database.execute("SELECT pg_sleep(30)")
        assert database.execute("SELECT 1") == [(1,)]
