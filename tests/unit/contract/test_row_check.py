"""Rows are checked at once, and one by one with every fault."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.contract.encoding import Encoder
from tasador.contract.model import Column, TableContract, Target
from tasador.contract.row_check import RowCheck, expectation, shown

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
