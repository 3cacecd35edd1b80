"""Which rows and tables meet a contract, and what is said about the others."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import polars as pl
import pytest

from tasador.contract.model import Column, Target
from tasador.core.errors import ConfigError, ValidationError
from tasador.data.readers import parse_table
from tasador.data.validation import validate_table


def with_cell(frame: pl.DataFrame, column: str, row: int, value: object) -> pl.DataFrame:
    """Return the frame as text with one cell replaced."""
    texts = frame.select(pl.all().cast(pl.String))
    cells = texts[column].to_list()
    cells[row] = value
    return texts.with_columns(pl.Series(column, cells, dtype=pl.String))


def test_a_good_table_passes_whole(flats, flats_frame, as_table):
    valid = validate_table(as_table(flats_frame), flats)
    assert valid.X.shape == (200, 4)
    assert valid.refused == ()
    assert valid.warnings == ()
    assert valid.row.tolist() == list(range(200))
    assert valid.y[:3].tolist() == [100.0, 101.0, 102.0]
    assert valid.X.flags.c_contiguous


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("area", "big", r"expected a number in \[10, 500\] \(m2\), got 'big'"),
        ("area", "inf", r"expected a finite number, got 'inf'"),
        ("area", None, r"expected a value, got nothing"),
        ("area", "9", r"expected a number in \[10, 500\] \(m2\), got '9'"),
        ("area", "501", r"expected a number in \[10, 500\]"),
        ("rooms", "2.5", r"expected a whole number in \[1, 20\] or null, got '2.5'"),
        ("rooms", "21", r"expected a whole number in \[1, 20\]"),
        ("kind", "castle", r"expected one of Flat, House, got 'castle'"),
        ("kind", "x" * 90, r"got 'xxxxx.*\.\.\.$"),
        ("sold", "yesterday", r"expected a date and time in ISO 8601 or null, got 'yesterday'"),
        ("id", None, r"expected a value, got nothing"),
        ("price", "cheap", r"expected a number"),
        ("price", "-inf", r"expected a finite number"),
        ("price", "0", r"expected a number above 0 .*logarithm"),
        ("price", "-5", r"expected a number above 0"),
        ("price", "2e9", r"expected a number in \[-1000000000, 1000000000\]"),
    ],
)
def test_a_row_that_breaks_the_contract_is_refused_with_its_number(
    flats, flats_frame, as_table, column, value, reason
):
    valid = validate_table(as_table(with_cell(flats_frame, column, 7, value)), flats)
    assert len(valid.refused) == 1
    refused = valid.refused[0]
    assert (refused.row, refused.column) == (7, column)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(refused.reason)
    assert 7 not in valid.row
    assert len(valid.y) == 199


def test_rows_without_a_target_are_left_out_and_are_no_fault(flats, flats_frame, as_table):
    frame = flats_frame
    for row in range(0, 200, 4):  # a quarter, where one in twenty may be refused
        frame = with_cell(frame, "price", row, None)
    valid = validate_table(as_table(frame), flats)
    assert (len(valid.y), valid.refused) == (150, ())
    assert any("50 row(s) have no 'price'" in text for text in valid.warnings)


def test_only_the_first_fault_of_a_row_is_reported(flats, flats_frame, as_table):
    frame = with_cell(with_cell(flats_frame, "price", 3, "x"), "area", 3, "y")
    assert [r.column for r in validate_table(as_table(frame), flats).refused] == ["area"]


def test_text_and_typed_tables_give_identical_results(flats, flats_frame, as_table):
    typed = flats_frame.with_columns(pl.col("sold").str.to_datetime(), pl.col("id").cast(float))
    text = parse_table(flats_frame.write_csv().encode(), "t")
    results = [validate_table(as_table(frame), flats) for frame in (typed, text, flats_frame)]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].X, other.X)
        np.testing.assert_array_equal(results[0].y, other.y)
        np.testing.assert_array_equal(results[0].row_hash, other.row_hash)


def test_a_typed_flag_column_is_no_number(flats, flats_frame, as_table):
    frame = flats_frame.with_columns(pl.lit(True).alias("rooms"))
    with pytest.raises(ValidationError, match=r"200 of 200 rows.*'rooms': 200 row\(s\)"):
        validate_table(as_table(frame), flats)


def test_too_many_refused_rows_stop_with_the_most_frequent_reasons(flats, flats_frame, as_table):
    frame = flats_frame
    for row in range(9):
        frame = with_cell(frame, "area", row, "n/a")
    for row in range(9, 12):
        frame = with_cell(frame, "kind", row, "castle")
    with pytest.raises(ValidationError, match="12 of 200 rows do not meet") as caught:
        validate_table(as_table(frame), flats)
    text = str(caught.value)
    assert "expected at most 5.0% of the rows refused, got 6.0%" in text
    assert "'area': 9 row(s) without a number in [10, 500] (m2), e.g. row 1: 'n/a'" in text
    assert text.index("'area'") < text.index("'kind'")
    assert len(validate_table(as_table(frame), flats, max_refused_share=0.1).refused) == 12


def test_a_renamed_column_is_found_and_suggested(flats, flats_frame, as_table):
    frame = flats_frame.rename({"area": "Area_m2", "price": "prices"})
    with pytest.raises(ValidationError, match=r"lacks 2 column\(s\): 'area', 'price'") as caught:
        validate_table(as_table(frame), flats)
    assert "'Area_m2', 'prices'" in str(caught.value)
    assert "'prices' may be 'price'" in str(caught.value)


def test_a_column_that_is_simply_gone_is_named(flats, flats_frame, as_table):
    with pytest.raises(ValidationError, match=r"'kind'.*no other column.*add the columns"):
        validate_table(as_table(flats_frame.drop("kind")), flats)


def test_an_ignored_text_column_may_be_absent(flats, flats_frame, as_table):
    assert validate_table(as_table(flats_frame.drop("note")), flats).refused == ()


@pytest.mark.parametrize("column", ["rooms", "kind", "price", "sold"])
def test_a_column_without_any_value_is_refused_even_when_nullable(
    flats, flats_frame, as_table, column
):
    frame = flats_frame.with_columns(pl.lit(None).alias(column))
    with pytest.raises(ValidationError, match=f"the column '{column}' has no value in any row"):
        validate_table(as_table(frame), flats)


def test_tables_that_nothing_can_be_learned_from_are_refused(flats, flats_frame, as_table):
    with pytest.raises(ValidationError, match="no rows"):
        validate_table(as_table(flats_frame.head(0)), flats)
    with pytest.raises(
        ValidationError, match=r"too few usable rows: expected at least 100, got 50"
    ):
        validate_table(as_table(flats_frame.head(50)), flats)
    constant = flats_frame.with_columns(pl.lit(7.0).alias("price"))
    with pytest.raises(ValidationError, match=r"target 'price' is constant.*got 7 in all 200"):
        validate_table(as_table(constant), flats)


def test_a_negative_target_is_fine_without_a_logarithm(flats, flats_frame, as_table):
    contract = dataclasses.replace(flats, target=Target("price"))
    frame = flats_frame.with_columns(pl.col("price") - 150)
    assert validate_table(as_table(frame), contract).y.min() == -50


def test_suspicious_but_acceptable_things_are_warnings(flats, flats_frame, as_table):
    frame = flats_frame.with_columns(
        area=pl.lit(50.0),
        kind=pl.lit("flat"),
        price=pl.col("price").clip(None, 250)
        + pl.when(pl.col("price") > 250).then(650).otherwise(0),
        colour=pl.lit("red"),
    )
    frame = pl.concat([frame, frame.head(4)])
    warnings = validate_table(as_table(frame), flats).warnings
    for words in (
        "1 column(s) that the contract does not name are ignored: 'colour'",
        "'area' is constant",
        "'kind' has a single category",
        "4 row(s) repeat an earlier row exactly",
        "24.0% of the rows have a target at its cap of 900",
    ):
        assert any(words in warning for warning in warnings), (words, warnings)


def test_row_hashes_depend_on_the_rows_content_alone(flats, flats_frame, as_table):
    valid = validate_table(as_table(flats_frame), flats)
    assert len(set(valid.row_hash.tolist())) == 200
    shuffled = flats_frame.sample(fraction=1, shuffle=True, seed=3)
    other = validate_table(as_table(pl.concat([shuffled, shuffled.head(2)])), flats)
    assert dict(zip(other.y.tolist(), other.row_hash.tolist(), strict=True)) == dict(
        zip(valid.y.tolist(), valid.row_hash.tolist(), strict=True)
    )
    for column in ("id", "area", "price"):
        changed = validate_table(as_table(with_cell(flats_frame, column, 0, "123.25")), flats)
        assert changed.row_hash[0] != valid.row_hash[0]
        assert (changed.row_hash[1:] == valid.row_hash[1:]).all()


def test_a_row_hash_is_the_same_in_every_release(flats, flats_frame, as_table):
    assert validate_table(as_table(flats_frame), flats).row_hash[0] == 10577475903647217721


def test_the_real_table_passes(real_data, shipped, as_table):
    contract = shipped("california_housing")
    table = as_table(parse_table((real_data / "housing.csv").read_bytes(), "housing.csv"))
    valid = validate_table(table, contract)
    assert (valid.X.shape, valid.refused) == ((20640, 9), ())
    assert np.isnan(valid.X).sum() == 207
    assert any("4.7%" in warning for warning in valid.warnings)


def with_weights(flats, flats_frame, as_table, weights):
    contract = dataclasses.replace(
        flats, columns=(*flats.columns, Column("weight", "number", role="weight"))
    )
    frame = flats_frame.with_columns(weight=pl.Series(weights, dtype=pl.String))
    return validate_table(as_table(frame), contract), contract


def test_a_weight_is_no_feature_and_1_where_there_is_none(flats, flats_frame, as_table):
    weights = ["2.5", None, *["0.5"] * 198]
    valid, contract = with_weights(flats, flats_frame, as_table, weights)
    plain = validate_table(as_table(flats_frame), flats)
    assert valid.weight.tolist() == [2.5, 1.0, *[0.5] * 198]
    assert contract.feature_names == flats.feature_names
    assert np.array_equal(valid.X, plain.X, equal_nan=True)
    assert np.array_equal(valid.row_hash, plain.row_hash)
    assert plain.weight is None


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("-1", "expected a number.*0.*, got '-1'"),
        ("heavy", "expected a number.*, got 'heavy'"),
        ("inf", "expected a finite number, got 'inf'"),
    ],
)
def test_a_row_whose_weight_is_no_positive_number_is_refused(
    flats, flats_frame, as_table, cell, reason
):
    valid, _ = with_weights(flats, flats_frame, as_table, ["1", cell, *["2"] * 198])
    ((refused),) = valid.refused
    assert (refused.row, refused.column) == (1, "weight")
    assert re.search(reason, refused.reason)
    assert len(valid.weight) == 199


def test_rows_of_weight_0_are_left_out_as_if_they_were_not_there(flats, flats_frame, as_table):
    weights = ["0" if i % 4 == 1 else f"{1 + i % 3}" for i in range(200)]
    valid, _ = with_weights(flats, flats_frame, as_table, weights)
    there = np.flatnonzero([w != "0" for w in weights])
    others, _ = with_weights(
        flats, flats_frame[there.tolist()], as_table, [weights[i] for i in there]
    )
    ((reason, rows),) = valid.excluded.items()
    assert reason == "the weight 'weight' is 0"
    assert rows.tolist() == list(range(1, 200, 4))
    assert not valid.refused
    assert np.array_equal(valid.X, others.X, equal_nan=True)
    assert np.array_equal(valid.row_hash, others.row_hash)
    assert np.array_equal(valid.part.fit_weight(), others.part.fit_weight())


def test_a_table_of_a_contract_with_weights_has_them(flats, flats_frame, as_table):
    contract = dataclasses.replace(
        flats, columns=(*flats.columns, Column("weight", "number", role="weight"))
    )
    with pytest.raises(ValidationError, match=r"lacks 1 column.*'weight'"):
        validate_table(as_table(flats_frame), contract)


def test_ages_are_days_before_the_newest_sale_and_unknown_ones_the_oldest(
    flats, flats_frame, as_table
):
    days = [None if i == 3 else f"2020-{1 + i % 2:02d}-01" for i in range(200)]
    frame = flats_frame.with_columns(sold=pl.Series(days, dtype=pl.String))
    columns = [
        dataclasses.replace(c, role="timestamp") if c.name == "sold" else c for c in flats.columns
    ]
    valid = validate_table(as_table(frame), dataclasses.replace(flats, columns=tuple(columns)))
    assert valid.aged(None) is valid
    assert valid.aged(15.5).age[:4].tolist() == [2.0, 0.0, 2.0, 2.0]
    with pytest.raises(ConfigError, match=r"model\.half_life needs the dates.*role timestamp"):
        validate_table(as_table(flats_frame), flats).aged(15.5)
