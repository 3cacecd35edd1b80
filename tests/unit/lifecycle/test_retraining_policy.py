"""When a model is trained again: each trigger, each obstacle, alone and together."""

from __future__ import annotations

import dataclasses

import pytest

from tasador.lifecycle.retraining_policy import HeldOut, Situation, decide
from tasador.settings.run import RetrainSettings

DAY = 86_400.0
NOW = 1000 * DAY
CALM = Situation(
    now=NOW, verdicts=(), important=frozenset({"income"}), usable=1000,
    champion_since=NOW - 10 * DAY, attempts=(),
)  # fmt: skip


def verdict(psi=0.0, column="income", broken=()):
    return {
        "drift": [{"name": column, "psi": psi}],
        "findings": [
            {"check": "performance", "subject": s, "level": "alert", "reason": f"{s} is 14%"}
            for s in broken
        ],
    }


def asked(settings=None, **changes):
    return decide(settings or RetrainSettings(), dataclasses.replace(CALM, **changes))


def test_nothing_happens_without_a_reason():
    found = asked()
    assert not found.retrain
    assert found.triggers == found.obstacles == ()


def test_drift_counts_in_an_important_column_and_in_every_one_of_the_windows():
    found = asked(verdicts=[verdict(0.31), verdict(0.2), verdict(0.25)])
    assert found.retrain
    assert found.triggers == ("income drifted in 3 windows in a row (PSI 0.31, 0.20, 0.25)",)
    for verdicts in (
        [verdict(0.31), verdict(0.19), verdict(0.25)],
        [verdict(0.31), verdict(0.31)],
        [verdict(0.31, "garden")] * 3,
        [verdict(0.31), verdict(None), verdict(0.31)],
        [{}, {}, {}],
    ):
        assert not asked(verdicts=verdicts).triggers


def test_a_rule_of_performance_counts_when_it_stays_broken():
    found = asked(verdicts=[verdict(broken=["mape"]), verdict(broken=["mape", "wmape"])])
    assert found.triggers == ("mape broke its rule in 2 windows in a row: mape is 14%",)
    assert not asked(verdicts=[verdict(broken=["mape"]), verdict(broken=["wmape"])]).triggers
    off = RetrainSettings(performance=False)
    assert not asked(off, verdicts=[verdict(broken=["mape"])] * 2).triggers


def test_age_and_number_of_outcomes_are_reasons_when_they_are_switched_on():
    assert asked(RetrainSettings(schedule_days=10)).triggers == (
        "the champion is 10.0 days old (every 10)",
    )
    assert not asked(RetrainSettings(schedule_days=11)).triggers
    assert not asked(RetrainSettings(schedule_days=1), champion_since=None).triggers
    assert asked(RetrainSettings(new_outcomes=1000)).triggers == ("1000 new outcomes (every 1000)",)
    assert not asked(RetrainSettings(new_outcomes=1001)).triggers


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"attempts": [NOW - 3600.0]}, "the last attempt was 1.0 hours ago"),
        ({"attempts": [NOW - n * 2 * DAY for n in range(1, 5)]}, "4 attempts in 30 days"),
        ({"usable": 199}, "199 usable new rows, at least 200 are needed"),
    ],
)
def test_an_obstacle_wins_over_any_trigger(changes, text):
    drifted = [verdict(0.3)] * 3
    found = asked(verdicts=drifted, **changes)
    assert found.triggers
    assert not found.retrain
    assert text in found.obstacles[0]


def test_asking_by_hand_passes_over_cool_down_and_budget_but_not_over_too_few_rows():
    found = asked(manual="the market crashed", attempts=[NOW - 60.0] * 9)
    assert found.retrain
    assert found.triggers == ("asked for by hand: the market crashed",)
    assert len(found.notes) == 2
    assert not asked(manual="please", usable=3).retrain


def test_attempts_of_long_ago_or_of_a_clock_that_was_ahead_do_not_count():
    drifted = [verdict(0.3)] * 3
    assert asked(verdicts=drifted, attempts=[NOW - 40 * DAY] * 9).retrain
    assert asked(verdicts=drifted, attempts=[NOW + 3600.0]).retrain


def check(found, name):
    return next(one for one in found.checks if one.name == name)


def test_every_trigger_and_condition_says_how_far_it_is():
    found = asked(
        RetrainSettings(schedule_days=30, new_outcomes=1500, budget_minutes=60),
        verdicts=[verdict(0.31, broken=["mape"]), verdict(0.22), verdict(0.1)],
        attempts=[NOW - 3600.0], usable=150, minutes=75.0,
    )  # fmt: skip
    drift = check(found, "drift of income")
    assert (drift.met, drift.value, drift.limit) == (False, 0.31, 0.2)
    assert "PSI 0.31, 0.22, 0.10" in drift.text
    assert drift.lacks == "1 more in a row, none overlapping"
    broken = check(found, "performance: mape")
    assert (broken.met, broken.value, broken.limit) == (False, 1, 2)
    assert (check(found, "age").value, check(found, "age").lacks) == (10.0, "20.0 days")
    assert check(found, "new outcomes").lacks == "1350 outcomes"
    assert check(found, "cool-down").lacks == "23.0 hours"
    assert (check(found, "budget").value, check(found, "budget").met) == (1, True)
    assert not check(found, "budget of time").met
    assert "75.0 minutes of training in 30 days (budget 60)" in found.obstacles
    assert check(found, "new rows").lacks == "50 outcomes"
    for one in found.checks:  # what is not met says what is missing, unless it is switched off
        assert bool(one.lacks) == (not one.met and one.limit is not None), one
    assert {one.text for one in found.checks if one.met and one.kind == "trigger"} == set(
        found.triggers
    )
    assert set(found.obstacles) == {
        one.text for one in found.checks if one.kind == "condition" and not one.met
    }


def test_too_few_rows_for_the_gates_are_an_obstacle_also_when_asked_by_hand():
    least = {"MAPE": 200, "segments": 200}
    few = HeldOut(rows=260, unseen=90, share=0.2, least=least)
    for manual in (None, "please"):
        found = asked(verdicts=[verdict(0.3)] * 3, held_out=few, manual=manual)
        assert found.triggers
        assert found.obstacles == (
            "90 of 260 held-out rows are known to neither model, at least 200 are needed by the "
            "gates: MAPE, segments",
        )
        lacks = check(found, "rows for the gates").lacks
        assert lacks == "110 rows, about 550 more outcomes of other rows"
    enough = dataclasses.replace(few, unseen=200)
    assert asked(verdicts=[verdict(0.3)] * 3, held_out=enough).retrain
    lost = HeldOut(problem="the table is gone")
    assert "the table is gone" in asked(manual="please", held_out=lost).obstacles[0]


def test_each_gates_own_least_number_counts():
    held = HeldOut(rows=500, unseen=150, share=0.2, least={"MAPE": 100, "segments": 200})
    found = asked(manual="please", held_out=held)
    assert [one.met for one in found.checks if one.name == "rows for the gates"] == [True, False]
    assert "segments" in found.obstacles[0]


def test_a_psi_that_was_not_evaluated_for_lack_of_rows_is_no_drift():
    few = {"drift": [{"name": "income", "psi": 0.4, "level": "cannot_tell"}]}
    assert not asked(verdicts=[few] * 3).triggers
    judged = {"drift": [{"name": "income", "psi": 0.4, "level": "alert"}]}
    assert asked(verdicts=[judged] * 3).triggers
