"""What an experiment's evidence leads to, and how its state is shared."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.serving.experiment import (
    Criteria,
    Evidence,
    Experiment,
    ExperimentBook,
    Moments,
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
