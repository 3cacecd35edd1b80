"""Which rows a contract's section ``exclude`` leaves out of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.contract.model import Column, Exclusion, TableContract, Target
from tasador.contract.reader import from_dict
from tasador.core.errors import ValidationError
from tasador.data.readers import read_table
from tasador.data.table import Table
from tasador.data.validation import validate_table
from tasador.ops.init_contract import infer_contract


def excluding(contract: TableContract, **condition: Any) -> TableContract:
    return replace(contract, exclude=(Exclusion(reason="no sale", **condition),))


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ({"column": "kind", "among": ("HOUSE",)}, list(range(0, 200, 3))),
        ({"column": "kind", "not_among": ("flat",)}, list(range(0, 200, 3))),
        ({"column": "rooms", "missing": True}, list(range(0, 200, 10))),
        ({"column": "rooms", "among": ("2.0",)}, [i for i in range(200) if i % 5 == 1]),
        ({"column": "price", "below": 103.0}, [0, 1, 2]),
        ({"column": "price", "below": 101.0, "above": 298.0}, [0, 199]),
        ({"column": "id", "among": ("7", "9")}, [7, 9]),
        ({"column": "deed", "among": ("gift",)}, [5]),
        ({"column": "deed", "not_among": ("sale",)}, [5]),
        ({"column": "deed", "missing": True}, [6]),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_rows_that_match_are_left_out_and_are_no_refused_ones(
    flats, flats_frame, as_table, condition, rows, as_text
):
    deed = ["sale"] * 200
    deed[5], deed[6] = "gift", None
    frame = flats_frame.with_columns(pl.Series("deed", deed))
    if as_text:
        frame = frame.select(pl.all().cast(pl.String))
    if condition["column"] == "rooms" and "among" in condition:
        rows = [i for i in rows if i % 10]
    valid = validate_table(as_table(frame), excluding(flats, **condition))
    assert valid.excluded["no sale"].tolist() == rows
    assert sorted([*rows, *valid.row.tolist()]) == list(range(200))
    assert not valid.refused


def test_an_excluded_row_breaks_no_contract_and_the_first_reason_counts(
    flats, flats_frame, as_table
):
    frame = flats_frame.with_columns(
        pl.when(pl.col("id") < 50).then(0.0).otherwise("price").alias("price")
    )
    contract = replace(
        flats,
        exclude=(
            Exclusion("price", "no price", below=1.0),
            Exclusion("kind", "a house", among=("House",)),
        ),
    )
    valid = validate_table(as_table(frame), contract)
    assert {reason: len(rows) for reason, rows in valid.excluded.items()} == {
        "no price": 50, "a house": 50,
    }  # fmt: skip
    assert not valid.refused
    with pytest.raises(ValidationError, match="50 of 200 rows do not meet"):
        validate_table(as_table(frame), flats)


def test_a_level_that_no_row_has_is_named_and_a_column_that_is_not_there_refused(
    flats, flats_frame, as_table
):
    valid = validate_table(
        as_table(flats_frame), excluding(flats, column="kind", among=("Hause", "house"))
    )
    (note,) = [one for one in valid.warnings if "exclude" in one]
    assert "no row has 'Hause' in 'kind' (did you mean 'House'" in note
    with pytest.raises(ValidationError, match="no column 'pricee'") as found:
        validate_table(as_table(flats_frame), excluding(flats, column="pricee", missing=True))
    assert "did you mean 'price'" in (found.value.remedy or "")


def test_a_table_of_excluded_rows_alone_says_why_it_is_too_small(flats, flats_frame, as_table):
    with pytest.raises(ValidationError, match="0, 200 others are excluded by the contract"):
        validate_table(as_table(flats_frame), excluding(flats, column="price", above=0.0))


PRICES = st.lists(st.one_of(st.none(), st.integers(-3, 9)), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None)
@given(prices=PRICES, below=st.integers(-3, 9), above=st.integers(-3, 9))
def test_every_row_is_used_excluded_refused_or_without_a_price(prices, below, above):
    prices = [*prices, 100, 101]
    contract = TableContract(
        "t", "t", "t", (Column("a", "number"),), Target("price", bounds=(0.0, None)),
        exclude=(Exclusion("price", "r", below=min(below, 50), above=max(above, 50) + 60.0),),
    )  # fmt: skip
    frame = pl.DataFrame({"a": [1.0] * len(prices), "price": prices}, strict=False)
    table = Table(frame.cast({"price": pl.Float64}), "0", "real", "x")
    valid = validate_table(table, contract, max_refused_share=1.0, min_rows=1)
    excluded, refused = valid.excluded["r"].tolist(), [one.row for one in valid.refused]
    nothing = [at for at, price in enumerate(prices) if price is None]
    assert sorted([*valid.row.tolist(), *excluded, *refused, *nothing]) == list(range(len(prices)))
    assert excluded == [at for at, p in enumerate(prices) if p is not None and p < min(below, 50)]


def test_the_declared_filter_of_melbourne_drops_what_was_not_sold(real_data):
    path = real_data / "tables" / "melbourne.csv"
    if not path.is_file():
        pytest.skip("the table is not there")
    plain = infer_contract(path, "Price").contract.to_dict()
    reason = "passed in, vendor bid: not a sale"
    plain["exclude"] = {"column": "Method", "in": ["PI", "VB"], "reason": reason}
    frame = read_table(path)
    valid = validate_table(Table(frame, "0", "real", "x"), from_dict(plain))
    (rows,) = valid.excluded.values()
    assert len(rows) == 2763
    assert set(frame["Method"][rows.tolist()]) == {"PI", "VB"}
    assert not set(frame["Method"][valid.row.tolist()]) & {"PI", "VB"}
