"""Reviews and their overrides, against both databases."""

from __future__ import annotations

import math

import pytest

from tasador.contract.target_check import TargetBounds
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.records.errors import RejectedValuesError
from tasador.records.maintenance import Retention
from tasador.records.record import ReviewRow
from tasador.records.reviews import Decision, ReviewResult, Reviews
from tasador.records.store import RecordStore
from tasador.settings.serving import RecordSettings


@pytest.fixture
def made(database: Database, make_records) -> list[str]:
    """The ids of a review of 1 200 rows: more than one statement takes."""
    records = make_records(1200, variant="review", version="homes-0123456789ab")
    records[1] = records[1]._replace(prediction=math.nan, lower=math.nan, upper=math.nan)
    rows = [ReviewRow(one.id, "r-1", n, 1000.0) for n, one in enumerate(records, 1)]
    bounds = TargetBounds(low=1.0)
    Reviews(database).add(records, rows, bounds, actor="ana", file="homes.csv")
    return [one.id for one in records]


def test_a_review_is_recorded_beside_the_valuations(database: Database, made) -> None:
    found = Reviews(database).rows("r-1")
    assert list(found) == made
    records = RecordStore(database).get(made[:3])
    assert found[made[0]].value == records[made[0]].prediction
    assert math.isnan(found[made[1]].value)
    assert all(math.isnan(row.override) and row.reason == "" for row in found.values())
    assert Reviews(database).rows("r-2") == {}
    assert Reviews(database).bounds("homes-0123456789ab") == TargetBounds(low=1.0)
    (entry,) = AuditTrail(database).read(action="write review")
    assert (entry.actor, entry.to_value, entry.details["rows"]) == ("ana", "r-1", 1200)


def test_an_override_follows_another_and_both_stay(database: Database, made) -> None:
    reviews = Reviews(database)
    decisions = [Decision(one, 500.0 + n, "seen") for n, one in enumerate(made[:700])]
    first = reviews.record("r-1", decisions, actor="ana", file="x")
    assert first == ReviewResult(700, 0, 0, 0)
    again = [decisions[0]._replace(value=7.5), decisions[1], Decision(made[700], 3.0, "new")]
    assert reviews.record("r-1", again, actor="eva", file="y") == ReviewResult(1, 1, 1, 698)
    known = reviews.rows("r-1")
    assert (known[made[0]].override, known[made[0]].reason) == (7.5, "seen")
    assert known[made[1]].override == 501.0
    found = {(one.prediction_id, one.value): one for one in reviews.overrides(0, 1e12)}
    assert len(found) == 702
    changed = found[made[0], 7.5]
    assert (changed.actor, changed.before) == ("eva", 500.0)
    assert math.isnan(found[made[0], 500.0].before)
    assert len(AuditTrail(database).read(action="review")) == 2


def test_a_review_is_recorded_as_a_whole_or_not_at_all(database: Database, made) -> None:
    reviews = Reviews(database)
    decisions = [Decision(one, 1.0, "seen") for one in made[:600]]
    wrong = decisions[-1]._replace(reason=None)  # type: ignore[arg-type]
    with pytest.raises(RejectedValuesError, match="does not take these values"):
        reviews.record("r-1", [*decisions[:-1], wrong], actor="ana", file="x")
    assert reviews.overrides(0, 1e12) == []
    assert AuditTrail(database).read(action="review") == []


def test_overrides_go_with_the_predictions(database: Database, made) -> None:
    Reviews(database).record("r-1", [Decision(made[0], 1.0, "seen")], actor="ana", file="x")
    Retention(database, RecordSettings(), older_than=-10.0).delete()
    assert Reviews(database).rows("r-1") == {}
    assert Reviews(database).overrides(0, 1e12) == []
