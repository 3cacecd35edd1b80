"""Rows are checked at once, and one by one with every fault."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.contract.encoding import Encoder
from tasador.contract.model import Column, TableContract, Target
from tasador.contract.row_check import (
    RowCheck,
    TrainingRange,
    described,
    expectation,
    shown,
    valid_codes,
)
from tasador.core.errors import ValidationError

CONTRACT = TableContract(
    name="t",
    title="T",
    model_name="t_model",
    columns=(
        Column("area", "number", bounds=(1.0, 500.0), unit="m2"),
        Column("rooms", "integer", bounds=(1.0, None), nullable=True),
        Column("kind", "category", categories=("flat", "house"), case_sensitive=False),
        Column("sold", "datetime", nullable=True),
        Column("free", "number"),
        Column("id", "identifier"),
    ),
    target=Target("price"),
)
GOOD = {"area": 80.0, "rooms": 3, "kind": "FLAT", "sold": "2026-01-31", "free": -1e9}


@pytest.fixture
def check() -> RowCheck:
    return RowCheck(Encoder(CONTRACT))


def test_a_row_that_meets_the_contract_has_no_fault(check) -> None:
    assert check.faults(GOOD) == []
    assert check.accepts(Encoder(CONTRACT).row(GOOD)).tolist() == [True]


def test_nullable_fields_may_be_null_or_left_out(check) -> None:
    row = {"area": 80.0, "kind": "house", "free": 0, "rooms": None}
    assert check.faults(row) == []
    assert check.accepts(Encoder(CONTRACT).row(row)).all()


@pytest.mark.parametrize(
    ("field", "value", "expected", "got"),
    [
        ("area", 0.5, "a number in [1, 500] (m2)", "0.5"),
        ("area", None, "a number in [1, 500] (m2)", "null"),
        ("area", "wide", "a number in [1, 500] (m2)", "'wide'"),
        ("area", [1], "a number in [1, 500] (m2)", "[1]"),
        ("area", True, "a number in [1, 500] (m2)", "True"),
        ("area", 10**400, "a number in [1, 500] (m2)", None),
        ("rooms", 2.5, "a whole number of at least 1 or null", "2.5"),
        ("kind", "castle", "one of flat, house", "'castle'"),
        ("kind", None, "one of flat, house", "null"),
        ("sold", "yesterday", "a date and time in ISO 8601 or null", "'yesterday'"),
        ("free", "inf", "a number", "'inf'"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected_and_came(
    check, field, value, expected, got
) -> None:
    (fault,) = check.faults({**GOOD, field: value})
    assert (fault.field, fault.expected) == (field, expected)
    assert got is None or fault.got == got


def test_every_fault_of_a_row_is_listed(check) -> None:
    faults = check.faults({"area": -1, "kind": "castle"})
    assert [fault.field for fault in faults] == ["area", "kind", "free"]
    assert faults[2].got == "nothing"


def test_fields_that_the_contract_does_not_name_are_reported(check) -> None:
    assert check.unknown_fields({**GOOD, "id": 7, "colour": "red"}) == ["colour"]


numbers = st.one_of(st.floats(), st.integers(-10, 10).map(float), st.just(math.nan))


@given(st.lists(st.tuples(*[numbers] * 5), min_size=1, max_size=5))
def test_checking_at_once_agrees_with_checking_one_by_one(rows) -> None:
    check, encoder = RowCheck(Encoder(CONTRACT)), Encoder(CONTRACT)
    values = [
        {
            "area": area,
            "rooms": rooms,
            "kind": ("flat", "house", "castle", None)[int(abs(kind)) % 4]
            if math.isfinite(kind)
            else None,
            "sold": None,
            "free": free,
        }
        for area, rooms, kind, _, free in rows
    ]
    X = encoder.rows(values)
    assert check.accepts(X).tolist() == [not check.faults(row) for row in values]


def test_a_row_is_accepted_whatever_stands_beside_it(check) -> None:
    X = Encoder(CONTRACT).rows([GOOD, {**GOOD, "area": 0.0}, GOOD])
    assert check.accepts(X).tolist() == [True, False, True]


def test_long_values_and_long_lists_are_cut() -> None:
    assert len(shown("x" * 500)) == 80
    many = Column("town", "category", categories=tuple(f"t{i}" for i in range(50)))
    assert expectation(many).endswith("and 30 more")
    assert expectation(Column("low", "number", bounds=(None, 3.0))) == "a number of at most 3"
    assert np.isnan(Encoder(CONTRACT).cell("rooms", None))


@pytest.mark.parametrize(
    ("changes", "cause", "remedy"),
    [
        ({"area": None}, "missing", "send a value"),
        ({"area": "wide"}, "wrong_kind", "kind"),
        ({"area": 501}, "out_of_bounds", "unit"),
        ({"rooms": 2.5}, "wrong_kind", "unit"),
        ({"rooms": 0.5}, "out_of_bounds", "unit"),
        ({"kind": "castle"}, "unknown_level", "categories"),
    ],
)
def test_a_fault_is_counted_by_its_cause_and_says_what_to_do(check, changes, cause, remedy) -> None:
    (fault,) = check.faults({**GOOD, **changes})
    assert fault.cause == cause
    assert remedy in fault.remedy
    (absent,) = check.faults({name: value for name, value in GOOD.items() if name != "free"})
    assert (absent.cause, absent.got) == ("missing", "nothing")
    assert "'free'" in absent.remedy


def test_the_bounds_themselves_are_accepted_in_rows_and_in_single_columns(check) -> None:
    area, rooms = CONTRACT.columns[:2]
    for low, high in ((1.0, 500.0), (1, 500)):
        assert check.faults({**GOOD, "area": low}) == check.faults({**GOOD, "area": high}) == []
        assert check.row({**GOOD, "area": low}).shape == (1, 5)
    codes = np.array([0.999, 1.0, 500.0, 500.1, 2.5, np.nan])
    assert valid_codes(area, codes).tolist() == [False, True, True, False, True, False]
    assert valid_codes(rooms, codes).tolist() == [False, True, True, False, False, True]
    kind, largest = CONTRACT.columns[2], np.finfo(float).max
    assert valid_codes(kind, np.array([-1.0, 0.0, 1.0, 2.0])).tolist() == [False, True, True, False]
    free = valid_codes(CONTRACT.columns[4], np.array([largest, -largest, np.inf, -np.inf]))
    assert free.tolist() == [True, True, False, False]


def test_a_row_is_encoded_or_refused_with_all_that_is_wrong(check) -> None:
    assert check.row(GOOD).tolist() == Encoder(CONTRACT).row(GOOD).tolist()
    no_rooms = {**GOOD, "rooms": None}
    assert np.isnan(check.row(no_rooms)[0, 1])
    for change, message in (
        ({"area": 0.5}, "'area' is not valid"),
        ({"area": None}, "'area' is not valid"),
        ({"rooms": 2.5}, "'rooms' is not valid"),
        ({"area": "wide", "kind": 1}, "2 fields are not valid: area: expected a number"),
    ):
        with pytest.raises(ValidationError, match=message):
            check.row({**GOOD, **change})
    with pytest.raises(ValidationError, match="'free' is missing") as caught:
        check.row({name: value for name, value in GOOD.items() if name != "free"})
    assert (caught.value.expected, caught.value.got) == ("a number", "nothing")
    assert "'free'" in str(caught.value.remedy)
    with pytest.raises(ValidationError, match="not an object") as caught:
        check.row([1, 2])
    assert caught.value.got == "[1, 2]"


def test_the_first_wrong_row_is_named_by_its_number_whether_rows_or_columns_came(check) -> None:
    rows = [GOOD, {**GOOD, "area": 501.0}, {**GOOD, "area": 0.0}]
    columns = {name: [row[name] for row in rows] for name in GOOD}
    for read, sent in ((check.rows, rows), (check.columns, columns)):
        with pytest.raises(ValidationError, match=r"row 2: .*'area' is not valid") as caught:
            read(sent)
        assert (caught.value.expected, caught.value.got) == ("a number in [1, 500] (m2)", "501.0")
        assert caught.value.remedy
    right = {name: [row[name] for row in (GOOD, GOOD)] for name in GOOD}
    assert check.columns(right).tolist() == check.rows([GOOD, GOOD]).tolist()


def test_columns_that_cannot_be_encoded_name_the_row_too_and_absent_ones_the_column(check) -> None:
    columns = {name: [GOOD[name]] * 3 for name in GOOD}
    with pytest.raises(ValidationError, match=r"row 3: .*'kind' is not valid"):
        check.columns({**columns, "kind": ["flat", "house", "castle"]})
    with pytest.raises(ValidationError, match="row 2: 2 fields are not valid"):
        check.columns({**columns, "area": [1.0, 0.0, "wide"], "kind": ["flat", "x", "flat"]})
    with pytest.raises(ValidationError, match=r"'free'|free") as caught:
        check.columns({name: values for name, values in columns.items() if name != "free"})
    assert "row" not in str(caught.value)
    with pytest.raises(ValidationError, match=r"row 1: .*'area'"):  # a nullable column left out
        check.columns({n: ["x"] if n == "area" else [GOOD[n]] for n in GOOD if n != "rooms"})
    with pytest.raises(ValidationError, match=r"length|rows|values"):
        check.columns({**columns, "area": ["wide"]})


def test_faults_are_one_line(check) -> None:
    row = {**GOOD, "area": 0, "kind": None}
    assert check.reasons(row) == described(check.faults(row))
    assert check.reasons(row).count("; ") == 1
    assert check.reasons(GOOD) == ""
    many = {f"x{i}": 1 for i in range(30)}
    assert check.unknown_fields(many) == list(many)[:20]


def test_what_a_column_takes_is_said_with_its_bounds() -> None:
    day = 1769817600.0  # 2026-01-31
    both = Column("when", "datetime", bounds=(day, None))
    assert expectation(both).endswith("not before 2026-01-31")
    assert expectation(Column("when", "datetime", bounds=(None, day))).endswith(
        "not after 2026-01-31"
    )
    levels = tuple(f"t{i}" for i in range(21))
    assert expectation(Column("town", "category", categories=levels)).endswith("t19 and 1 more")
    assert "more" not in expectation(Column("town", "category", categories=levels[:20]))
    opened = Column("town", "category", categories=levels, open=True, nullable=True)
    assert expectation(opened).startswith("a text such as t0")
    assert expectation(opened).endswith("t19 or null")


OPEN = TableContract(
    name="t", title="T", model_name="t_model",
    columns=(
        Column("area", "number", nullable=True),
        Column("kind", "category", categories=("flat", "house"), open=True),
        Column("sold", "datetime", role="timestamp", nullable=True),
        Column("free", "number"),
    ),
    target=Target("price"),
)  # fmt: skip


def test_what_lies_outside_the_training_range_is_noted_by_row() -> None:
    day = 1769817600.0
    profile = {"columns": {"area": {"min": 10.0, "max": 90.0}, "sold": {"min": 0.0, "max": day}}}
    known = TrainingRange(OPEN, profile)
    X = np.array(
        [
            [10.0, 0.0, day, 1e300],
            [90.0, 1.0, 0.0, -1e300],
            [9.9, 2.0, np.nan, 0.0],
            [90.1, 1.0, day, 0.0],
            [np.nan, 1.0, day, 0.0],
        ]
    )
    outside = np.zeros(X.shape, dtype=bool)
    outside[2, :2] = outside[3, 0] = True
    assert known.outside(X).tolist() == outside.tolist()
    notes = known.notes(X)
    assert {row: len(found) for row, found in notes.items()} == {2: 3, 3: 1, 4: 1}
    low, level, date = notes[2]
    assert "area 9.9" in low
    assert "[10, 90]" in low
    assert "kind" in level
    assert "2 known levels" in level
    assert "sold was not given" in date
    assert "2026-01-31" in date
    assert "area 90.1" in notes[3][0]
    assert "area was missing" in notes[4][0]
    assert known.notes(X[:2]) == {}
    assert not TrainingRange(OPEN, {}).outside(X)[:, 0].any()
