"""Alerts: states that do not flap, notices that are not lost, people who acknowledge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.core import clock
from tasador.core.errors import ConfigError
from tasador.monitoring.alerts import AlertBook, AlertRule
from tasador.monitoring.verdict import Finding, Verdict
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database

RULE = AlertRule("drift", ("drift",), after=2, clear_after=2, repeat_s=100.0)


def verdict(level: str, subject: str = "income", check: str = "drift") -> Verdict:
    finding = Finding(check, subject, level, f"income is {level}", {"psi": 0.3})
    return Verdict(level, 500, "m-1", 5000, "2026-01-01T00:00:00Z", findings=(finding,))


@pytest.fixture
def now():
    moment = [1_000_000.0]
    clock.use_source(lambda: moment[0])
    yield moment
    clock.use_source(None)


@pytest.fixture
def database(tmp_path):
    with Database.open(f"sqlite:///{tmp_path / 'alerts.db'}") as opened:
        yield opened


@pytest.fixture
def book(database, now) -> AlertBook:
    return AlertBook(database, (RULE,))


def events(book: AlertBook) -> list[str]:
    return [notice.event for _, _, notice in book.outbox()]


def states(book: AlertBook) -> list[str]:
    return [state.state for state in book.all()]


def test_one_bad_window_sends_nothing(book) -> None:
    book.observe("m", verdict("alert"))
    assert (states(book), events(book)) == (["pending"], [])
    book.observe("m", verdict("ok"))
    assert (states(book), events(book)) == (["ok"], [])


def test_bad_windows_in_a_row_fire_once(book) -> None:
    for _ in range(5):
        book.observe("m", verdict("alert"))
    assert (states(book), events(book)) == (["firing"], ["firing"])
    ((state, route, notice),) = book.outbox()
    assert (route, notice.model, notice.subject) == ("log", "m", "income")
    assert notice.reason == "income is alert"
    assert notice.title == "[ALERT] m: drift income"
    assert state.key == "m/drift/drift:income"


def test_a_firing_alert_ends_after_good_windows_in_a_row(book) -> None:
    for level in ("alert", "alert", "ok", "alert", "ok"):
        book.observe("m", verdict(level))
    assert states(book) == ["firing"]
    book.observe("m", verdict("ok"))
    assert (states(book), events(book)) == (["ok"], ["firing", "resolved"])


def test_a_warning_or_not_knowing_neither_raises_nor_clears(book) -> None:
    for level in ("warn", "cannot_tell", "warn"):
        book.observe("m", verdict(level))
    assert states(book) == []
    for level in ("alert", "alert", "warn", "cannot_tell", "ok", "warn", "cannot_tell"):
        book.observe("m", verdict(level))
    assert states(book) == ["firing"]


def test_what_a_verdict_does_not_mention_stays(book) -> None:
    for _ in range(2):
        book.observe("m", verdict("alert"))
    for _ in range(3):
        book.observe("m", verdict("ok", subject="rooms"))
    assert states(book) == ["firing"]


def test_reminders_come_until_somebody_acknowledges(book, now) -> None:
    for _ in range(3):
        book.observe("m", verdict("alert"))
        now[0] += 10
    assert events(book) == ["firing"]
    now[0] += 100
    book.observe("m", verdict("alert"))
    assert events(book) == ["firing", "reminder"]
    assert book.acknowledge("m/*", "ana") == ["m/drift/drift:income"]
    now[0] += 1000
    book.observe("m", verdict("alert"))
    assert events(book) == ["firing", "reminder"]
    assert book.all()[0].body["acknowledged_by"] == "ana"


def test_an_acknowledgement_ends_with_its_alert(book) -> None:
    for level in ("alert", "alert"):
        book.observe("m", verdict(level))
    book.acknowledge("*", "ana")
    for level in ("ok", "ok", "alert", "alert"):
        book.observe("m", verdict(level))
    assert events(book) == ["firing", "resolved", "firing"]
    assert "acknowledged_by" not in book.all()[0].body


def test_a_silent_alert_changes_its_state_and_sends_nothing_until_the_silence_ends(
    book, now
) -> None:
    book.observe("m", verdict("alert"))
    assert book.silence("*income", 3600, "ana", "known") == ["m/drift/drift:income"]
    book.observe("m", verdict("alert"))
    assert (states(book), events(book)) == (["firing"], [])
    now[0] += 3601
    book.observe("m", verdict("alert"))
    assert events(book) == ["reminder"]
    assert book.silence("nothing", 60, "ana", "") == []


def test_every_change_that_was_sent_is_in_the_audit_trail(book, database) -> None:
    for level in ("alert", "alert", "ok", "ok"):
        book.observe("m", verdict(level))
    book.silence("*", 60, "ana", "maintenance")
    told = [(e.actor, e.action, e.from_value, e.to_value) for e in AuditTrail(database).read()]
    assert sorted(told) == sorted(
        [
            ("watch", "alert", "pending", "firing"),
            ("watch", "alert", "firing", "ok"),
            ("ana", "silence", "", ""),
        ]
    )


def test_notices_wait_in_the_database_until_they_are_sent(book, database) -> None:
    for _ in range(2):
        book.observe("m", verdict("alert"))
    again = AlertBook(database, (RULE,))  # the watcher died before it sent anything
    ((state, route, notice),) = again.outbox()
    again.sent(state.key, route, notice.id)
    assert list(again.outbox()) == []


def test_a_rule_may_fire_when_it_cannot_be_decided(database, now) -> None:
    rule = AlertRule("blind", ("input",), level="cannot_tell", after=1)
    book = AlertBook(database, (rule,))
    book.observe("m", verdict("cannot_tell", "window", "input"))
    assert states(book) == ["firing"]
    book.observe("m", verdict("ok", "window", "input"))
    book.observe("m", verdict("ok", "window", "input"))
    assert states(book) == ["ok"]


def test_the_worst_finding_about_a_subject_counts(book) -> None:
    both = Verdict(
        "alert", 1, "m", 1, "", findings=(
            Finding("drift", "income", "ok", "fine"), Finding("drift", "income", "alert", "bad"),
        ),
    )  # fmt: skip
    for _ in range(2):
        book.observe("m", both)
    assert states(book) == ["firing"]


def test_rules_that_are_invalid_are_refused(database) -> None:
    with pytest.raises(ConfigError, match="after >= 1"):
        AlertRule("x", after=0)
    with pytest.raises(ConfigError, match="is invalid"):
        AlertRule("x", level="ok")
    with pytest.raises(ConfigError, match="same name"):
        AlertBook(database, (RULE, RULE))


@given(levels=st.lists(st.sampled_from(["ok", "warn", "alert", "cannot_tell"]), max_size=25))
def test_firing_and_resolved_alternate_whatever_comes(tmp_path_factory, levels) -> None:
    folder = tmp_path_factory.mktemp("alerts")
    with Database.open(f"sqlite:///{folder / 'a.db'}") as database:
        book = AlertBook(database, (AlertRule("drift", ("drift",), repeat_s=0.0),))
        for level in levels:
            book.observe("m", verdict(level))
        told = events(book)
        assert told == ["firing", "resolved"] * (len(told) // 2) + ["firing"] * (len(told) % 2)
        assert (len(told) % 2 == 1) == (states(book) == ["firing"])
