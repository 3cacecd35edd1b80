"""Promotions, rejections and rollbacks: whole, or not at all, whatever dies in the middle."""

from __future__ import annotations

import itertools
import threading

import pytest

from fixtures.registry_fakes import Killed, MemoryVersions
from tasador.core.errors import ConfigError, RegistryError
from tasador.lifecycle import alias_updates as ledgers
from tasador.lifecycle.alias_updates import Ledger, carry_out, promotion, rejection, rollback
from tasador.records.database import Database
from tasador.registry.versions import find_version


def promote(versions, ledger, number, alias="champion", **more):
    plan = promotion(versions, find_version(versions, number), alias, actor="ana", **more)
    return carry_out(versions, ledger, "ana", plan)


def roll_back(versions, ledger, to=None, reason="worse"):
    target = None if to is None else find_version(versions, to)
    return carry_out(
        versions, ledger, "ana", rollback(versions, to=target, actor="ana", reason=reason)
    )


def phases(ledger):
    return [(e.action, e.details["phase"], e.to_value) for e in reversed(ledger.audit.read())]


def test_a_promotion_moves_the_alias_and_is_in_the_history_with_who_and_why(versions, ledger):
    promote(versions, ledger, "1")
    promote(versions, ledger, "2", reason="better", details={"gates_summary": "9 of 9"})
    assert versions.aliases() == {"champion": "2"}
    assert {v.number: v.status for v in versions.all()} == {
        "1": "retired", "2": "champion", "3": "",
    }  # fmt: skip
    assert ledger.standing().champion == "2"
    assert ledger.standing().previous == ("1",)
    newest = ledger.audit.read()[0]
    assert (newest.actor, newest.action, newest.from_value, newest.to_value, newest.reason) == (
        "ana", "promote", "1", "2", "better",
    )  # fmt: skip
    assert newest.details["gates_summary"] == "9 of 9"
    assert phases(ledger) == [("promote", "done", "1"), ("promote", "done", "2")]


def test_a_challenger_that_becomes_champion_is_challenger_no_more(versions, ledger):
    promote(versions, ledger, "1")
    promote(versions, ledger, "2", "challenger")
    assert ledger.standing().champion == "1"
    promote(versions, ledger, "2")
    assert versions.aliases() == {"champion": "2"}


def test_a_rollback_returns_to_the_champion_before_and_marks_what_it_left(versions, ledger):
    for number in "123":
        promote(versions, ledger, number)
    roll_back(versions, ledger)
    assert versions.aliases()["champion"] == "2"
    assert find_version(versions, "3").status == "rolled back"
    assert find_version(versions, "3").tags["tasador.status_reason"] == "worse"
    roll_back(versions, ledger)
    assert versions.aliases()["champion"] == "1"
    with pytest.raises(ConfigError, match="has had no champion before version 1"):
        roll_back(versions, ledger)


def test_a_rollback_to_a_deleted_version_names_it_and_the_one_to_take(versions, ledger):
    for number in "123":
        promote(versions, ledger, number)
    versions.delete("2")
    with pytest.raises(RegistryError, match=r"version 2, which was deleted.*rollback --to 1"):
        roll_back(versions, ledger)
    roll_back(versions, ledger, to="1")
    assert versions.aliases()["champion"] == "1"
    with pytest.raises(ConfigError, match="version 3 has not been champion"):
        roll_back(versions, ledger, to="3")


def test_a_deleted_champion_is_noted_and_the_one_before_returns(versions, ledger):
    promote(versions, ledger, "1")
    promote(versions, ledger, "2")
    versions.delete("2")
    done = roll_back(versions, ledger)
    assert done.notes == ("champion 2 -> none: version 2 was deleted from the registry",)
    assert versions.aliases()["champion"] == "1"


def test_an_alias_that_points_at_a_deleted_version_is_named(versions, ledger):
    versions.leave_dangling("challenger", "9")
    with pytest.raises(RegistryError, match="'challenger' points at version 9, which was deleted"):
        promote(versions, ledger, "challenger")
    versions.leave_dangling("champion", "9")
    promote(versions, ledger, "2")
    assert versions.aliases()["champion"] == "2"


def test_the_champion_cannot_be_rejected_and_a_rejected_version_loses_its_aliases(versions, ledger):
    promote(versions, ledger, "1")
    promote(versions, ledger, "2", "challenger")
    with pytest.raises(ConfigError, match=r"version 1 is the champion.*roll back first"):
        carry_out(
            versions, ledger, "ana",
            rejection(versions, find_version(versions, "1"), actor="ana", reason="x"),
        )  # fmt: skip
    plan = rejection(versions, find_version(versions, "2"), actor="ana", reason="leaks")
    carry_out(versions, ledger, "ana", plan)
    assert versions.aliases() == {"champion": "1"}
    assert find_version(versions, "2").status == "rejected"


def test_a_version_is_found_by_number_alias_bundle_and_hash_and_nothing_else(versions):
    versions.leave_dangling("staging", "3")
    for wanted in ("3", "staging", "houses_model-333333333333", "3333333"):
        assert find_version(versions, wanted).number == "3"
    for wanted in ("4", "33333", "prod", "houses_model-4444444"):
        with pytest.raises(ConfigError, match=f"has no version '{wanted}'"):
            find_version(versions, wanted)


def test_what_was_changed_by_hand_is_written_into_the_history(versions, ledger):
    promote(versions, ledger, "1")
    versions.point("champion", "3")
    done = promote(versions, ledger, "2")
    assert "moved by something other than tasador" in done.notes[0]
    assert ("observe", "seen", "3") in phases(ledger)
    assert ledger.standing().previous == ("1", "3")


def test_a_promotion_evaluated_against_another_champion_is_refused(versions, ledger):
    promote(versions, ledger, "1")
    promote(versions, ledger, "2")
    with pytest.raises(RegistryError, match="the champion changed from 1 to 2 while version 3"):
        promote(versions, ledger, "3", expected="1")
    with pytest.raises(ConfigError, match="version 2 is champion already"):
        promote(versions, ledger, "2")
    assert versions.aliases() == {"champion": "2"}


def test_of_two_promotions_at_once_one_wins_and_the_other_is_refused(url, versions):
    results: list[object] = []
    inside, go_on = threading.Event(), threading.Event()

    def slow(number: str) -> None:
        with Database.open(url) as database:
            ledger = Ledger(database, "houses_model")
            plan = promotion(versions, find_version(versions, number), "champion", actor="eva")

            def waiting(standing):
                inside.set()
                assert go_on.wait(30)
                return plan(standing)

            results.append(carry_out(versions, ledger, "eva", waiting))

    first = threading.Thread(target=slow, args=("2",))
    first.start()
    assert inside.wait(30)
    with Database.open(url) as database:
        with pytest.raises(RegistryError, match=r"is being changed by eva \(process"):
            promote(versions, Ledger(database, "houses_model"), "3")
        go_on.set()
        first.join(30)
        assert len(results) == 1
        assert versions.aliases()["champion"] == "2"
        promote(versions, Ledger(database, "houses_model"), "3")
    assert versions.aliases()["champion"] == "3"


def test_many_promotions_at_once_leave_one_consistent_history(url, versions):
    def work(number: str) -> None:
        for _ in range(4):
            with Database.open(url) as database:
                try:
                    promote(versions, Ledger(database, "houses_model"), number)
                except (RegistryError, ConfigError):
                    continue

    threads = [threading.Thread(target=work, args=(n,)) for n in "123"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with Database.open(url) as database:
        ledger = Ledger(database, "houses_model")
        done = [e for e in ledger.audit.read() if e.details["phase"] == "done"][::-1]
        assert done
        assert ledger.standing().champion == versions.aliases()["champion"] == done[-1].to_value
        for before, after in itertools.pairwise(done):
            assert after.from_value == before.to_value


def test_a_refused_promotion_changes_nothing(versions, ledger):
    promote(versions, ledger, "1")
    versions.plan = ["refuse"]
    with pytest.raises(RegistryError, match="nothing has changed: the registry does not take it"):
        promote(versions, ledger, "2")
    assert versions.aliases() == {"champion": "1"}
    assert ledger.standing().champion == "1"
    assert phases(ledger)[-1] == ("promote", "failed", "2")


def test_a_refused_rollback_leaves_the_champion_s_status_as_it_was(versions, ledger):
    promote(versions, ledger, "1")
    promote(versions, ledger, "2")
    versions.plan = ["ok", "refuse"]
    with pytest.raises(RegistryError, match="nothing has changed"):
        roll_back(versions, ledger)
    assert {v.number: v.status for v in versions.all()} == {
        "1": "retired", "2": "champion", "3": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fates", "message", "champion", "noted"),
    [
        (["down"], "is not known", "1", []),
        (["lost and down"], "is not known", "2", [("observe", "seen", "2")]),
        (["ok", "down"], "is in force, but the registry failed", "2", [("promote", "done", "2")]),
    ],
)
def test_a_registry_that_dies_in_the_middle_leaves_nothing_half_done(
    versions, ledger, fates, message, champion, noted
):
    promote(versions, ledger, "1")
    versions.plan = list(fates)
    with pytest.raises(RegistryError, match=message):
        promote(versions, ledger, "2")
    versions.down = False
    promote(versions, ledger, "3")
    assert phases(ledger)[1:-1] == noted
    expected = ("1", "2") if champion == "2" else ("1",)
    assert ledger.standing().previous == expected
    statuses = {v.number: v.status for v in versions.all()}
    assert statuses["2"] == ("retired" if champion == "2" else "")
    assert statuses["3"] == "champion"


def test_an_answer_that_got_lost_is_no_failure(versions, ledger):
    promote(versions, ledger, "1")
    versions.plan = ["lost"]
    promote(versions, ledger, "2")
    assert ledger.standing().champion == versions.aliases()["champion"] == "2"


@pytest.mark.parametrize("fate", ["kill before", "kill after"])
@pytest.mark.parametrize("at", range(4))
def test_after_a_kill_at_any_write_the_next_change_puts_tags_and_history_in_order(
    url, fate, at, monkeypatch
):
    monkeypatch.setattr(ledgers, "LEASE_S", 0.05)  # the dead hold their lease that long
    versions = MemoryVersions()
    with Database.open(url) as database:
        ledger = Ledger(database, "houses_model")
        promote(versions, ledger, "1")
        promote(versions, ledger, "2", "challenger")
        monkeypatch.setattr(ledgers.Leases, "release", lambda *_: None)
        versions.plan = ["ok"] * at + [fate]
        with pytest.raises(Killed):
            promote(versions, ledger, "2")
        monkeypatch.undo()
        moved = versions.aliases()["champion"] == "2"
        assert moved == ((at, fate) != (0, "kill before"))
        threading.Event().wait(0.1)
        promote(versions, ledger, "3")
        assert ledger.standing().previous == (("1", "2") if moved else ("1",))
        assert {v.number: v.status for v in versions.all()} == {
            "1": "retired", "2": "retired" if moved else "", "3": "champion",
        }  # fmt: skip
        kept = {"champion": "3"} if moved else {"champion": "3", "challenger": "2"}
        assert versions.aliases() == kept


def test_who_lost_the_lease_stops_before_the_registry_is_changed(versions, ledger, monkeypatch):
    promote(versions, ledger, "1")
    plan = promotion(versions, find_version(versions, "2"), "champion", actor="ana")

    def overtaken(standing):
        database = ledger.database
        database.change("UPDATE leases SET token = token + 1")
        return plan(standing)

    with pytest.raises(RegistryError, match="somebody else took over"):
        carry_out(versions, ledger, "ana", overtaken)
    assert versions.aliases() == {"champion": "1"}
    assert phases(ledger) == [("promote", "done", "1")]


@pytest.mark.parametrize("fate", ["kill before", "kill after"])
@pytest.mark.parametrize("at", range(5))
def test_a_rollback_killed_at_any_write_happened_whole_or_not_at_all(url, fate, at, monkeypatch):
    versions = MemoryVersions()
    with Database.open(url) as database:
        ledger = Ledger(database, "houses_model")
        promote(versions, ledger, "1")
        promote(versions, ledger, "2")
        promote(versions, ledger, "2", "staging")
        versions.plan = ["ok"] * at + [fate]
        with pytest.raises(Killed):
            roll_back(versions, ledger)
        back = versions.aliases()["champion"] == "1"
        assert back == (at + (fate == "kill after") > 1)
        promote(versions, ledger, "3", "challenger")  # whatever comes next repairs
        found = {v.number: (v.status, v.aliases) for v in versions.all()}
        assert found["1"] == (("champion", ("champion",)) if back else ("retired", ()))
        left = ("rolled back", ()) if back else ("champion", ("champion", "staging"))
        assert found["2"] == left
        assert ledger.standing().champion == ("1" if back else "2")


@pytest.mark.parametrize("fate", ["kill before", "kill after"])
@pytest.mark.parametrize("at", range(3))
def test_a_killed_rejection_never_leaves_a_rejected_version_with_an_alias(
    versions, ledger, fate, at
):
    promote(versions, ledger, "1")
    promote(versions, ledger, "2", "challenger")
    versions.plan = ["ok"] * at + [fate]
    plan = rejection(versions, find_version(versions, "2"), actor="ana", reason="leaks")
    with pytest.raises(Killed):
        carry_out(versions, ledger, "ana", plan)
    promote(versions, ledger, "3", "staging")
    found = find_version(versions, "2")
    assert (found.status, found.aliases) in (("rejected", ()), ("", ("challenger",)))
    assert (found.status == "rejected") == ((at, fate) != (0, "kill before"))


def test_a_history_with_intents_written_by_an_older_version_is_read(versions, ledger):
    audit = ledger.audit
    for before, after, phase in (
        ("", "1", "intent"), ("", "1", "done"), ("1", "2", "intent"), ("1", "2", "repaired"),
        ("2", "3", "intent"), ("2", "3", "abandoned"), ("2", "3", "refused"),
    ):  # fmt: skip
        audit.add("ana", "promote", "houses_model", from_value=before, to_value=after,
                  details={"operation": "x", "phase": phase, "version": after})  # fmt: skip
    versions.leave_dangling("champion", "2")
    assert ledger.standing().champion == "2"
    roll_back(versions, ledger)
    assert versions.aliases() == {"champion": "1"}


def test_a_version_rejected_once_that_gets_a_place_by_force_keeps_it(versions, ledger):
    promote(versions, ledger, "1")
    plan = rejection(versions, find_version(versions, "2"), actor="ana", reason="leaks")
    carry_out(versions, ledger, "ana", plan)
    promote(versions, ledger, "2", "challenger")
    promote(versions, ledger, "3", "staging")
    assert versions.aliases() == {"champion": "1", "challenger": "2", "staging": "3"}
    promote(versions, ledger, "1", "staging")
    assert find_version(versions, "1").status == "champion"
