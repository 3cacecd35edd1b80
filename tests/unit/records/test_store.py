"""What every record store promises, asked of SQLite and of a real PostgreSQL."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasador.core import clock
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.records.errors import RejectedValuesError
from tasador.records.record import Outcome
from tasador.records.store import RecordStore


@pytest.fixture
def store(database) -> RecordStore:
    return RecordStore(database)


def everything(store, **asked) -> list:
    return list(store.read(0.0, 1e12, **asked))


def test_what_was_appended_is_read_back_as_it_was(store, make_records) -> None:
    records = make_records(5)
    store.append(records)
    (batch,) = everything(store)
    for name in records[0]._fields:
        found, wanted = getattr(batch, name), [getattr(record, name) for record in records]
        np.testing.assert_array_equal(found, wanted, err_msg=name)
    assert len(batch) == 5
    assert batch.time.dtype == batch.actual.dtype == np.float64
    assert np.isnan(batch.actual).all()
    assert np.isnan(batch.outcome_time).all()


@pytest.mark.parametrize("size", [1, 64, 65, 512, 513, 2000])
def test_groups_of_any_size_are_written_whole(store, make_records, size) -> None:
    store.append(make_records(size))
    assert store.count(0.0, 1e12) == size


def test_appending_nothing_is_allowed(store) -> None:
    store.append([])
    assert everything(store) == []


def test_appending_the_same_id_again_keeps_the_first(store, make_records) -> None:
    records = make_records(100)
    store.append(records[:60])
    store.append([record._replace(prediction=-1.0) for record in records])
    (batch,) = everything(store)
    assert list(batch.prediction[:60]) == [record.prediction for record in records[:60]]
    assert list(batch.prediction[60:]) == [-1.0] * 40


def test_numbers_that_are_missing_or_infinite_come_back_as_such(store, make_records) -> None:
    (record,) = make_records(1, lower=math.nan, upper=math.inf, coverage=math.nan)
    store.append([record])
    (batch,) = everything(store)
    assert np.isnan(batch.lower[0])
    assert batch.upper[0] == math.inf
    found = store.get([record.id])[record.id]
    assert math.isnan(found.coverage)
    assert found.prediction == record.prediction


def test_features_are_bytes_that_nobody_interprets(store, make_records) -> None:
    raw = b'{"a": "\\u0000", "b": 1e400}\xff'
    store.append(make_records(1, features=raw))
    assert everything(store)[0].features == [raw]


def test_a_value_the_database_cannot_hold_is_refused_and_nothing_of_its_group_is_kept(
    store, make_records
) -> None:
    good, bad = make_records(2)
    with pytest.raises(RejectedValuesError, match="does not take these values"):
        store.append([good, bad._replace(client="\ud800")])
    assert store.count(0.0, 1e12) == 0
    store.append([good])
    assert store.count(0.0, 1e12) == 1


def test_reading_gives_the_window_in_order_and_in_bounded_batches(store, make_records) -> None:
    records = make_records(25)
    store.append(records[::-1])
    batches = list(store.read(1003.0, 1020.0, batch=5))
    assert [len(batch) for batch in batches] == [5, 5, 5, 2]
    assert [i for batch in batches for i in batch.id] == [record.id for record in records[3:20]]


def test_records_of_the_same_moment_are_neither_skipped_nor_repeated(store, make_records) -> None:
    records = [record._replace(time=1000.0) for record in make_records(23)]
    store.append(records)
    read = [i for batch in store.read(1000.0, 1000.5, batch=4) for i in batch.id]
    assert read == sorted(record.id for record in records)


def test_reading_keeps_to_a_version_and_a_variant(store, make_records) -> None:
    store.append(make_records(3))
    store.append(make_records(4, version="houses@2"))
    store.append(make_records(5, version="houses@2", variant="shadow"))
    assert sum(map(len, everything(store, version="houses@2"))) == 9
    assert sum(map(len, everything(store, version="houses@2", variant="shadow"))) == 5
    assert store.count(0.0, 1e12, version="houses@2", variant="champion") == 4


def test_an_outcome_is_joined_to_its_record(store, make_records) -> None:
    records = make_records(3)
    store.append(records)
    (answer,) = store.add_outcomes([Outcome(records[1].id, 123.5, 5000.0, "agent")])
    assert answer.status == "accepted"
    (batch,) = everything(store)
    assert list(np.nan_to_num(batch.actual)) == [0.0, 123.5, 0.0]
    assert batch.outcome_time[1] == 5000.0
    (judged,) = everything(store, with_outcome=True)
    assert list(judged.id) == [records[1].id]


def test_the_same_outcome_again_changes_nothing(store, make_records) -> None:
    (record,) = make_records(1)
    store.append([record])
    first = Outcome(record.id, 123.5, 5000.0)
    store.add_outcomes([first])
    (again,) = store.add_outcomes([first._replace(time=6000.0)])
    assert (again.status, again.known) == ("repeated", 123.5)
    assert store.count_outcomes(0.0, 5500.0) == 1
    assert store.count_outcomes(5500.0, 1e12) == 0


def test_an_outcome_that_contradicts_is_kept_apart_and_the_first_stays(store, make_records) -> None:
    (record,) = make_records(1)
    store.append([record])
    store.add_outcomes([Outcome(record.id, 100.0, 5000.0)])
    other = Outcome(record.id, 900.0, 6000.0, "mallory")
    for _ in range(2):
        (answer,) = store.add_outcomes([other])
        assert (answer.status, answer.known) == ("conflict", 100.0)
    assert store.conflicts(0.0, 1e12) == [other]
    assert everything(store)[0].actual[0] == 100.0


def test_a_deliberate_correction_replaces_the_outcome_and_both_are_audited(
    store, make_records
) -> None:
    (record,) = make_records(1)
    store.append([record])
    sent = Outcome(record.id, 100.0, 5000.0, "tests")
    wrong = sent._replace(actual=900.0)
    for own in (True, False):
        assert store.add_outcomes([sent], own=own)[0].status != "unknown"
        (answer,) = store.add_outcomes([wrong], own=own)
        assert (answer.status, answer.known) == ("conflict", 100.0)
    stranger = wrong._replace(client="mallory")
    (answer,) = store.add_outcomes([stranger], own=True, replace=[record.id])
    assert answer.status == "unknown"
    for status in ("replaced", "repeated"):
        (answer,) = store.add_outcomes([wrong], own=True, replace=[record.id])
        assert (answer.status, everything(store)[0].actual[0]) == (status, 900.0)
    assert store.conflicts(0.0, 1e12) == []
    (entry,) = AuditTrail(store.database).read(action="replace outcome")
    assert (entry.from_value, entry.to_value) == ("100.0", "900.0")


@pytest.mark.parametrize(("time", "right"), [(99_000.0, False), (99_800.0, True), (86_400.0, True)])
def test_an_outcome_is_not_known_before_its_prediction(store, make_records, time, right) -> None:
    (record,) = make_records(1, start=100_000.0)
    store.append([record])
    (answer,) = store.add_outcomes([Outcome(record.id, 5.0, time)])
    assert (answer.status == "accepted") == right
    assert right or "expected a time after the prediction of 1970-01-02T03:46:40Z" in answer.reason


def test_an_outcome_of_now_is_taken_when_the_clock_was_set_back_since_the_prediction(
    store, make_records
) -> None:
    (record,) = make_records(1, start=100_000.0)
    store.append([record])
    clock.use_source(lambda: 96_400.0)
    try:
        (long_ago,) = store.add_outcomes([Outcome(record.id, 5.0, 90_000.0)])
        (answer,) = store.add_outcomes([Outcome(record.id, 5.0, clock.seconds())])
    finally:
        clock.use_source(None)
    assert long_ago.status == "invalid"
    assert answer.status == "accepted"


def test_each_outcome_gets_its_own_answer(store, make_records) -> None:
    one, two = make_records(2)
    store.append([one, two])
    answers = store.add_outcomes(
        [
            Outcome(one.id, 1.0, 5000.0),
            Outcome("nobody", 1.0, 5000.0),
            Outcome(two.id, math.nan, 5000.0),
            Outcome(one.id, 1.0, 5000.0),
            Outcome(one.id, 2.0, 5000.0),
            Outcome(two.id, math.inf, 5000.0),
            Outcome(two.id, 7.0, 5000.0),
        ]
    )
    assert [answer.status for answer in answers] == [
        "accepted", "unknown", "invalid", "repeated", "conflict", "invalid", "accepted",
    ]  # fmt: skip
    assert answers[1].prediction_id == "nobody"


def test_many_outcomes_at_once_are_all_answered(store, make_records) -> None:
    records = make_records(1200)
    store.append(records)
    answers = store.add_outcomes([Outcome(r.id, r.prediction, 5000.0) for r in records])
    assert {answer.status for answer in answers} == {"accepted"}
    assert store.count_outcomes(0.0, 1e12) == 1200


def test_counts_tell_each_version_and_variant(store, make_records) -> None:
    records = make_records(3)
    store.append(records)
    store.append(make_records(2, start=9000.0, version="houses@2", variant="shadow"))
    store.add_outcomes([Outcome(records[0].id, 1.0, 5000.0)])
    newest, oldest = store.counts()
    assert (newest.version, newest.variant, newest.records, newest.outcomes) == (
        "houses@2", "shadow", 2, 0,
    )  # fmt: skip
    assert (oldest.records, oldest.outcomes, oldest.first, oldest.last) == (3, 1, 1000.0, 1002.0)


def test_pruning_deletes_what_is_older_with_its_outcomes_in_chunks(store, make_records) -> None:
    records = make_records(25)
    store.append(records)
    store.add_outcomes([Outcome(r.id, 1.0, 5000.0) for r in records])
    store.add_outcomes([Outcome(r.id, 2.0, 5000.0) for r in records])
    assert list(store.prune(1017.0, chunk=7)) == [7, 14, 17]
    assert store.count(0.0, 1e12) == 8
    assert store.count_outcomes(0.0, 1e12) == 8
    assert len(store.conflicts(0.0, 1e12)) == 8
    assert list(store.prune(1017.0)) == []


def test_a_store_is_opened_by_its_url_alone(url, make_records) -> None:
    store = RecordStore(Database.open(url))
    store.append(make_records(2))
    store.close()
    store.append(make_records(2))  # a closed store connects again
    assert store.count(0.0, 1e12) == 4
    store.close()
