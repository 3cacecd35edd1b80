"""The documented model of a row and the check that is asked are of one mind."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError as ModelError

from tasador.contract.cells import MISSING_TEXTS
from tasador.contract.encoding import Encoder
from tasador.contract.model import Column, TableContract, Target
from tasador.contract.row_check import RowCheck
from tasador.core.errors import ValidationError
from tasador.serving.api.openapi import example_row, row_model

KINDS = ("flat", "House", "VILLA")
CONTRACT = TableContract(
    name="t",
    title="T",
    model_name="t",
    columns=(
        Column("bounded", "number", bounds=(-1.5, 10.0)),
        Column("above", "number", bounds=(0.0, None), nullable=True),
        Column("open", "number"),
        Column("count", "integer", bounds=(1, 50), nullable=True),
        Column("kind", "category", categories=KINDS, case_sensitive=False),
        Column("exact", "category", categories=KINDS, nullable=True),
        Column("sold", "datetime", nullable=True),
    ),
    target=Target("price"),
)
ENCODER = Encoder(CONTRACT)
CHECK = RowCheck(ENCODER)
MODEL = row_model(CONTRACT)

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8).filter(
    lambda text: text.strip().lower() not in MISSING_TEXTS
)
categories = (
    st.sampled_from([*KINDS, *map(str.upper, KINDS), *map(str.lower, KINDS), " flat "]) | texts
)
numbers = (
    st.floats(-3, 60)
    | st.integers(-3, 60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([-1.5, 10.0, 10.000001, 0.0, 50, 51])
)
wrong = st.none() | st.sampled_from([[], {}, "many", [1.0], {"a": 1}])
moments = st.datetimes().map(lambda moment: moment.isoformat()) | st.sampled_from(
    ["yesterday", "2026-13-01", [], "2026-02-30T00:00:00"]
)
VALUES = {
    "number": numbers | wrong,
    "integer": numbers | wrong,
    "category": categories | st.none() | st.sampled_from([[], {}]),
    "datetime": moments | st.none(),
}
# each column is left out now and then
rows = st.fixed_dictionaries(
    {}, optional={column.name: VALUES[column.kind] for column in CONTRACT.columns}
)
near = st.fixed_dictionaries(
    {
        "bounded": st.floats(-2, 11),
        "above": st.floats(-1, 3) | st.none(),
        "open": numbers,
        "count": st.integers(0, 52) | st.none(),
        "kind": categories,
        "exact": categories | st.none(),
        "sold": moments | st.none(),
    }
)


def accepted_by_model(row):
    try:
        MODEL.model_validate(row)
    except ModelError:
        return False
    return True


@given(rows | near)
def test_a_row_is_right_for_the_model_when_it_is_right_for_the_check(row):
    assert accepted_by_model(row) == (CHECK.faults(row) == [])


@given(rows | near)
def test_what_is_checked_at_once_is_what_is_checked_field_by_field(row):
    try:
        at_once = bool(CHECK.accepts(np.array([ENCODER.codes(row)]))[0])
    except ValidationError:
        at_once = False
    assert at_once == (CHECK.faults(row) == [])


@pytest.mark.parametrize("nullable", [True, False])
def test_the_example_is_right_for_both(nullable):
    columns = tuple(dataclasses.replace(c, nullable=nullable) for c in CONTRACT.columns)
    contract = dataclasses.replace(CONTRACT, columns=columns)
    example = example_row(contract, {})
    assert RowCheck(Encoder(contract)).faults(example) == []
    row_model(contract).model_validate(example)
