"""The operator's side of a canary, on a registry in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasador.core.errors import ConfigError
from tasador.lifecycle import canary
from tasador.lifecycle.alias_updates import Ledger
from tasador.lifecycle.api import Lifecycle, Place
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.serving.experiment import Criteria


@pytest.fixture
def lifecycle(versions, tmp_path):
    with Database.open(f"sqlite:///{tmp_path}/tasador.db") as database:
        versions.point("champion", "1")
        versions.point("challenger", "2")
        place = Place(tmp_path, actor="ana")
        yield Lifecycle(place, versions, Ledger(database, "houses_model"))


def ended(lifecycle: Lifecycle, status) -> None:
    experiment, seen = lifecycle.experiments.read()
    changed = replace(experiment, status=status, reason="as measured")
    assert lifecycle.experiments.write(changed, seen, "canary")


def test_a_canary_begins_with_the_aliases_at_its_first_stage_and_once_only(lifecycle):
    assert canary.status(lifecycle) is None
    assert canary.settle(lifecycle) is None
    rules = Criteria(stages=(0.0, 1.0))
    begun = canary.start(lifecycle, rules)
    one, two = (lifecycle.versions.all()[at].bundle for at in (-1, -2))
    assert (begun.champion, begun.challenger, begun.number) == (one, two, "2")
    assert (begun.status, begun.stage, begun.rules) == ("running", 0, rules)
    assert begun.started == begun.stage_started
    report = canary.status(lifecycle)
    assert (report.experiment, report.evidence.rows) == (begun, 0)
    (entry,) = AuditTrail(lifecycle.ledger.database).read(action="canary")
    assert entry.actor == "ana"
    assert canary.settle(lifecycle) is None
    with pytest.raises(ConfigError, match="a canary of version 2 is running"):
        canary.start(lifecycle, rules)


@pytest.mark.parametrize(
    "stages", [(), (0.5, 0.1), (0.1, 0.1), (0.0,), (0.0, 1.5), (-0.1, 1.0)], ids=str
)
def test_stages_are_growing_shares_and_the_last_has_traffic(lifecycle, stages):
    with pytest.raises(ConfigError, match="these stages are invalid"):
        canary.start(lifecycle, Criteria(stages=stages))
    assert canary.status(lifecycle) is None


@pytest.mark.parametrize("stages", [(1.0,), (0.01,), (0.0, 0.5)], ids=str)
def test_one_stage_is_enough_and_shares_may_be_nothing_and_all(lifecycle, stages):
    assert canary.start(lifecycle, Criteria(stages=stages)).share == stages[0]


def test_both_aliases_are_needed_and_are_two_bundles(lifecycle):
    lifecycle.versions.point("challenger", "1")
    with pytest.raises(ConfigError, match="are the same bundle"):
        canary.start(lifecycle, Criteria())
    for alias in ("challenger", "champion"):
        lifecycle.versions.drop(alias)
        with pytest.raises(ConfigError, match=f"has no {alias}"):
            canary.start(lifecycle, Criteria())


def test_a_canary_is_stopped_once_with_its_reason_and_another_may_begin(lifecycle):
    with pytest.raises(ConfigError, match="no canary is running"):
        canary.stop(lifecycle, "why")
    canary.start(lifecycle, Criteria())
    stopped = canary.stop(lifecycle, "complaints")
    assert (stopped.status, stopped.reason) == ("stopped", "complaints")
    assert canary.settle(lifecycle) is None
    again = canary.start(lifecycle, Criteria())
    assert again.id != stopped.id
    assert canary.stop(lifecycle, "").reason == "stopped by hand"


def test_a_challenger_that_was_rolled_back_is_rejected_once(lifecycle):
    begun = canary.start(lifecycle, Criteria())
    ended(lifecycle, "rolled back")
    assert canary.settle(lifecycle) is not None
    assert lifecycle.versions.aliases() == {"champion": "1"}
    (entry,) = AuditTrail(lifecycle.ledger.database).read(action="reject")[:1]
    assert begun.id in entry.reason
    assert "as measured" in entry.reason
    assert canary.settle(lifecycle) is None


@pytest.mark.parametrize("status", ["passed", "rolled back"])
def test_a_version_that_is_challenger_no_more_is_left_alone(lifecycle, status):
    canary.start(lifecycle, Criteria())
    ended(lifecycle, status)
    lifecycle.versions.drop("challenger")
    assert canary.settle(lifecycle) is None
    assert lifecycle.versions.aliases() == {"champion": "1"}
