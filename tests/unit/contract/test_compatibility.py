"""Which contract may take the place of which."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tasador.contract.compatibility import incompatibilities
from tasador.contract.model import Column


def changed(contract, name, **values):
    columns = tuple(replace(c, **values) if c.name == name else c for c in contract.columns)
    return replace(contract, columns=columns)


@pytest.fixture
def contract(house_contract):
    """The houses, with a unit, and a category in which case does not matter."""
    with_unit = changed(house_contract, "area", unit="m2")
    return changed(with_unit, "kind", case_sensitive=False)


def test_a_contract_may_take_its_own_place(contract):
    assert incompatibilities(contract, contract) == ()


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("income", {"kind": "integer"}, "its kind was number and would be integer"),
        ("rooms", {"kind": "category", "bounds": (None, None)}, "integer and would be category"),
        ("area", {"unit": "sq ft"}, "its unit was m2 and would be sq ft"),
        ("area", {"unit": None}, "its unit was m2 and would be None"),
        ("rooms", {"nullable": False}, "would be required"),
        ("area", {"bounds": (2.0, 1e4)}, r"\[1, 10000\] and would be \[2, 10000\]"),
        ("area", {"bounds": (1.0, 9e3)}, r"would be \[1, 9000\]"),
        ("kind", {"categories": ("flat", "house")}, "categories would be gone: villa"),
        ("kind", {"case_sensitive": True}, "upper and lower case"),
    ],
)
def test_what_would_break_a_client_is_named(contract, column, values, reason):
    (found,) = incompatibilities(contract, changed(contract, column, **values))
    assert found.startswith(f"{column}: ")
    assert re.search(reason, found)


def test_an_open_bound_may_not_be_closed(contract):
    wide = changed(contract, "area", bounds=(None, None))
    assert incompatibilities(contract, wide) == ()
    assert incompatibilities(wide, contract) == (
        "area: its bounds were [open, open] and would be [1, 10000]",
    )


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("rooms", {"kind": "number"}),
        ("income", {"nullable": True}),
        ("income", {"unit": "kUSD"}),
        ("income", {"description": "Income"}),
        ("income", {"role": None}),
        ("area", {"bounds": (0.5, 2e4)}),
        ("kind", {"categories": ("villa", "house", "flat", "castle")}),
        ("kind", {"categories": ("Villa", "HOUSE", "flat")}),
    ],
)
def test_what_no_client_notices_is_compatible(contract, column, values):
    assert incompatibilities(contract, changed(contract, column, **values)) == ()


def test_a_new_column_must_be_one_that_may_be_left_out(contract):
    for nullable, reasons in ((True, ()), (False, ("pool: a new column that must be sent",))):
        new = replace(
            contract, columns=(*contract.columns, Column("pool", "number", nullable=nullable))
        )
        assert incompatibilities(contract, new) == reasons


def test_a_column_that_goes_is_named(contract):
    fewer = replace(contract, columns=contract.columns[:-1])
    assert incompatibilities(contract, fewer) == ("kind: the column is gone",)


def test_the_order_of_columns_does_not_matter(contract):
    turned = replace(contract, columns=contract.columns[::-1])
    assert incompatibilities(contract, turned) == ()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"name": "rent"}, "target: its name was 'price' and would be 'rent'"),
        ({"prediction_name": "rent"}, "target: its prediction_name was 'prediction'"),
        ({"unit": "EUR"}, "target: its unit was USD and would be EUR"),
    ],
)
def test_another_target_is_incompatible(contract, values, reason):
    (found,) = incompatibilities(
        contract, replace(contract, target=replace(contract.target, **values))
    )
    assert found.startswith(reason)


def test_the_scale_of_the_model_is_its_own_business(contract):
    inner = replace(contract, target=replace(contract.target, transform="none", cap=5.0))
    assert incompatibilities(contract, inner) == ()
