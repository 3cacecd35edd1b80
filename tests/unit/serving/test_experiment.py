"""What an experiment's evidence leads to, and how its state is shared."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import pytest

from tasador.core import clock
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.records.record import Outcome, Record
from tasador.records.store import RecordStore
from tasador.serving.experiment import (
    Criteria,
    Evidence,
    Experiment,
    ExperimentBook,
    Moments,
    WorkerCounts,
    collect,
    decide,
    failure_evidence,
)

RUNNING = Experiment("e1", "m-a", "m-b", "2", "running", 0, 1000.0, 1000.0)
ENOUGH = Evidence(rows=300, stage_rows=300, attempts=300, disagreement=Moments(300, 0.05, 0.001))


def noisy(n: int, mean: float, spread: float = 0.05) -> Moments:
    return Moments(n, mean, spread**2)


def test_stage_after_stage_passes_when_nothing_speaks_against_it():
    experiment, shares = RUNNING, []
    while experiment.status == "running":
        shares.append(experiment.share)
        experiment = decide(experiment, ENOUGH)
    assert shares == [0.0, 0.01, 0.05, 0.25, 1.0]
    assert (experiment.status, experiment.share) == ("passed", 1.0)
    assert decide(experiment, ENOUGH) == experiment


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"failures": 12}, "12 of 300 valuations failed"),
        ({"error": noisy(200, 0.06)}, "its relative error is larger by 6.00%"),
        ({"disagreement": noisy(300, 0.9)}, "it disagrees with the champion by 146%"),
        ({"slower": noisy(300, 20.0, 3.0)}, "it takes 20.0 ms longer"),
    ],
)
def test_each_kind_of_harm_rolls_back_and_is_named(changes, reason):
    after = decide(replace(RUNNING, stage=2), replace(ENOUGH, **changes))
    assert after.status == "rolled back"
    assert after.share == 0.0
    assert reason in after.reason


@pytest.mark.parametrize(
    ("rules", "changes", "reason"),
    [
        ({}, {"stage_rows": 199}, "199 of 200 rows in this stage"),
        ({"require_outcomes": True}, {"error": noisy(10, 0.0)}, "10 of 50 outcomes"),
        ({}, {"error": noisy(60, 0.0)}, "its error may be larger by up to"),
        ({}, {"disagreement": noisy(300, 0.45, 1.0)}, "it may disagree by up to"),
        ({}, {"slower": noisy(20, 1.0, 10.0)}, "it may take up to"),
    ],
)
def test_what_is_not_known_well_enough_waits(rules, changes, reason):
    experiment = replace(RUNNING, rules=Criteria(**rules))
    after = decide(experiment, replace(ENOUGH, **changes))
    assert (after.status, after.stage) == ("running", 0)
    assert reason in after.reason
    last = decide(experiment, replace(ENOUGH, rows=100_000, **changes))
    assert last.status == "rolled back"
    assert "undecided after 100000 rows" in last.reason


def test_with_outcomes_that_speak_for_it_a_challenger_may_disagree():
    found = replace(ENOUGH, error=noisy(400, -0.2), disagreement=noisy(300, 0.9))
    assert decide(RUNNING, found).stage == 1


def test_a_harmless_challenger_looked_at_after_every_row_is_rarely_rolled_back():
    rng = np.random.default_rng(0)
    rolled = 0
    for _ in range(150):
        values = rng.normal(0.01, 0.1, 1500)  # exactly the margin: the hardest harmless one
        rolled += any(
            decide(
                RUNNING, replace(ENOUGH, rows=n, stage_rows=0, error=Moments.of(values[:n]))
            ).status == "rolled back"
            for n in range(50, 1501, 25)
        )  # fmt: skip
    assert rolled / 150 <= 0.05


def test_of_two_servers_that_decide_at_once_one_wins_and_changes_are_noted(tmp_path):
    with Database.open(f"sqlite:///{tmp_path}/t.db") as database:
        book = ExperimentBook(database, "m")
        assert book.read() == (None, 0)
        assert book.write(RUNNING, 0, "ana")
        kept, seen = book.read()
        assert kept == RUNNING
        assert book.write(replace(RUNNING, stage=1), seen, "canary")
        assert not book.write(replace(RUNNING, status="stopped"), seen, "ana")
        book.report("e1", "w1", {"attempts": 3})
        book.report("e1", "w1", {"attempts": 5})
        book.report("e1", "w2", {"attempts": 1})
        assert sorted(t["attempts"] for t in book.tallies("e1")) == [1, 5]
        phases = [e.details["note"] for e in AuditTrail(database).read(action="canary")]
        assert phases == ["1% of the traffic", "0% of the traffic"]


def test_many_writers_leave_one_state(tmp_path):
    url = f"sqlite:///{tmp_path}/t.db"
    with Database.open(url) as database:
        ExperimentBook(database, "m").write(RUNNING, 0, "ana")
    won = []

    def work(stage: int) -> None:
        with Database.open(url) as database:
            book = ExperimentBook(database, "m")
            _, seen = book.read()
            barrier.wait(30)
            won.append(book.write(replace(RUNNING, stage=stage), seen, "canary"))

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert won.count(True) == 1


def test_the_chance_of_a_false_rollback_is_shared_by_the_four_kinds_of_harm():
    rules = RUNNING.rules
    attempts = 300
    evidence = {k: failure_evidence(k, attempts, rules.failure_limit) for k in range(40)}
    some = next(k for k, found in evidence.items() if 1 / rules.alpha <= found < 4 / rules.alpha)
    sure = next(k for k, found in evidence.items() if found >= 4 / rules.alpha)
    for failures, status in ((some, "running"), (sure, "rolled back")):
        after = decide(RUNNING, replace(ENOUGH, attempts=attempts, failures=failures))
        assert after.status == status


def test_a_stage_begins_when_it_is_decided_and_says_why():
    before = clock.seconds()
    after = decide(RUNNING, ENOUGH)
    assert (after.stage, after.status, after.started) == (1, "running", RUNNING.started)
    assert before <= after.stage_started <= clock.seconds()
    assert after.reason.startswith("300 rows")
    assert "1%" in after.reason


def exactly(n: int, mean: float) -> Moments:
    """Values that are all the same: their bounds are their mean."""
    return Moments(n, mean, 0.0)


@pytest.mark.parametrize(
    ("changes", "status", "stage"),
    [
        # what is bearable is bearable to its last bit, for harm and for waiting
        ({"error": exactly(50, 0.01)}, "running", 1),
        ({"error": exactly(50, 0.0101)}, "rolled back", 0),
        # of one outcome less, errors decide nothing, and disagreement does
        ({"error": exactly(49, 0.5)}, "running", 1),
        ({"error": exactly(49, 0.0), "disagreement": exactly(9, 0.5)}, "running", 1),
        ({"error": exactly(49, 0.0), "disagreement": exactly(9, 0.51)}, "rolled back", 0),
        ({"error": exactly(50, 0.0), "disagreement": exactly(9, 9.0)}, "running", 1),
        ({"slower": exactly(2, 5.0)}, "running", 1),
        ({"slower": exactly(2, 5.01)}, "rolled back", 0),
        # of one row nothing is known, and nothing is waited for
        ({"slower": exactly(1, 9.0)}, "running", 1),
        ({"stage_rows": 200}, "running", 1),
    ],
)
def test_limits_hold_exactly_where_nothing_varies(changes, status, stage):
    after = decide(RUNNING, replace(ENOUGH, **changes))
    assert (after.status, after.stage) == (status, stage)


def test_outcomes_that_are_required_are_waited_for_up_to_the_last():
    rules = Criteria(require_outcomes=True, max_rows=1000)
    experiment = replace(RUNNING, rules=rules)
    assert decide(experiment, replace(ENOUGH, error=exactly(49, 0.0))).stage == 0
    assert decide(experiment, replace(ENOUGH, error=exactly(50, 0.0))).stage == 1
    for rows, status in ((999, "running"), (1000, "rolled back")):
        assert decide(experiment, replace(ENOUGH, rows=rows)).status == status


def test_what_is_huge_is_said_without_overflow():
    found = replace(ENOUGH, disagreement=Moments(300, 0.4, 1e6))
    assert "%" in decide(RUNNING, found).reason


def test_each_failure_is_evidence_and_each_success_takes_some_away():
    assert failure_evidence(10**6, 10**6, 0.01) == pytest.approx(np.exp(700.0))
    assert failure_evidence(3, 10, 0.005) > failure_evidence(2, 10, 0.005) > 1.0
    assert failure_evidence(0, 10, 0.005) > failure_evidence(0, 20, 0.005)


def test_an_experiment_is_the_share_of_its_stage_until_it_ends():
    for status, share in (("running", 0.05), ("passed", 1.0), ("stopped", 0.0), ("settled", 0.0)):
        assert replace(RUNNING, status=status, stage=2).share == share


def test_an_ended_experiment_stays_ended_and_keeps_its_reason(tmp_path):
    with Database.open(f"sqlite:///{tmp_path}/t.db") as database:
        book = ExperimentBook(database, "m")
        assert book.end("stopped", "ana", lambda _: "why") is None
        book.write(RUNNING, 0, "ana")
        assert book.end("stopped", "ana", lambda _: None) is None
        assert book.read()[0] == RUNNING
        ended = book.end("stopped", "ana", lambda one: f"end of {one.id}")
        assert ended == replace(RUNNING, status="stopped", reason="end of e1")
        assert book.read()[0] == ended
        assert book.end("stopped", "bob", lambda _: "again") is None
        entries = AuditTrail(database).read(action="canary")
        last = next(entry for entry in entries if entry.reason == "end of e1")
        assert (last.actor, last.from_value, last.to_value) == ("ana", "m-a", "m-a")
        assert last.details == {
            "phase": "stopped", "version": "2", "note": "0% of the traffic", "experiment": "e1",
        }  # fmt: skip
        # a change of neither stage nor status is kept and not noted
        again, seen = book.read()
        assert book.write(replace(again, reason="as before"), seen, "ana")
        assert len(AuditTrail(database).read(action="canary")) == len(entries)
        assert ExperimentBook(database, "other").read() == (None, 0)


def test_a_worker_counts_what_it_did():
    counts = WorkerCounts()
    assert [counts.failed(), counts.failed()] == [1, 2]
    counts.valued(3.0)
    counts.valued(5.0)
    assert counts.failed() == 1  # in a row
    counts.succeeded()
    assert counts.to_dict() == {
        "attempts": 6, "failures": 3, "dropped": 0,
        "slower": {"n": 2, "mean": 4.0, "variance": 1.0},
    }  # fmt: skip


def valued(key: str, version: str, variant: str, estimate: float, time: float) -> Record:
    return Record(key, time, version, variant, "local", b"{}", estimate, 0.0, 9.0, 0.9, 1.0)


def test_evidence_is_read_from_pairs_of_records_whichever_model_answered(tmp_path):
    pairs = [  # when, who answered, the champion's estimate, the challenger's, the price
        (999.0, "m-a", 100.0, 500.0, 100.0),  # before it began
        (1000.0, "m-a", 100.0, 110.0, 100.0),
        (1000.0, "m-b", 90.0, 100.0, 80.0),
        (1050.0, "m-a", 50.0, 25.0, -50.0),
        (1060.0, "m-b", 200.0, 200.0, 0.0),  # no error is relative to nothing
        (1070.0, "m-a", -8.0, 4.0, None),  # no logarithm, no outcome
        (1080.0, "m-a", 10.0, math.nan, 10.0),  # failed
        (1090.0, "m-a", 0.0, 4.0, None),
        (1090.0, "m-a", 4.0, 0.0, None),
    ]
    with Database.open(f"sqlite:///{tmp_path}/t.db") as database:
        book, store = ExperimentBook(database, "m"), RecordStore(database)
        assert collect(database, book, RUNNING) == Evidence()
        for worker, milliseconds in (("w1", 2.0), ("w2", 4.0)):
            counts = WorkerCounts()
            counts.failed()
            counts.valued(milliseconds)
            book.report("e1", worker, counts.to_dict())
        tallied = collect(database, book, RUNNING)
        assert tallied == Evidence(attempts=4, failures=2, slower=Moments(2, 3.0, 1.0))
        for at, (time, who, champion, challenger, _) in enumerate(pairs):
            answer, shadow = (champion, challenger) if who == "m-a" else (challenger, champion)
            other = "m-b" if who == "m-a" else "m-a"
            store.append([valued(f"r{at}", who, "champion", answer, time)])
            store.append([valued(f"r{at}-s", other, "shadow", shadow, time)])
        store.append([valued("x", "m-a", "champion", 1.0, 1000.0)])
        store.append([valued("x-s", "m-c", "shadow", 2.0, 1000.0)])  # of another model
        known = [
            Outcome(f"r{at}", one[4], 2000.0) for at, one in enumerate(pairs) if one[4] is not None
        ]
        store.add_outcomes(known)
        found = collect(database, book, replace(RUNNING, stage_started=1050.0))
    assert (found.rows, found.stage_rows) == (8, 6)
    assert (found.attempts, found.failures, found.slower) == (4, 2, Moments(2, 3.0, 1.0))
    champion, challenger = np.array([0.0, 10 / 80, 2.0]), np.array([0.1, 20 / 80, 1.5])
    gaps = np.abs(np.log([1.1, 100 / 90, 0.5, 1.0]))
    for moments, values in (
        (found.champion_error, champion), (found.challenger_error, challenger),
        (found.error, challenger - champion), (found.disagreement, gaps),
    ):  # fmt: skip
        assert moments.n == len(values)
        assert (moments.mean, moments.variance) == pytest.approx((values.mean(), values.var()))


def test_failures_weigh_by_the_mean_of_their_likelihood_ratios():
    shares = np.array([0.01, 0.025, 0.1, 0.3, 0.6, 0.9])  # 2, 5 and 20 times the limit, and four
    ratios = (shares / 0.005) ** 3 * ((1 - shares) / 0.995) ** 7
    assert failure_evidence(3, 10, 0.005) == pytest.approx(ratios.mean())


def test_a_share_of_all_is_no_hypothesis_since_one_success_would_rule_it_out():
    # twice the limit is all of them
    shares = np.array([0.6, 0.9])
    ratios = (shares / 0.5) * ((1 - shares) / 0.5)
    assert failure_evidence(1, 2, 0.5) == pytest.approx(ratios.mean())
