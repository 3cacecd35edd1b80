"""From values as people write them to the matrix, and back."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from tasador.contract.encoding import Encoder
from tasador.contract.model import Column, TableContract, Target
from tasador.core.errors import ValidationError

GOOD = {"area": 55.5, "rooms": 3, "kind": "flat", "sold": "2024-01-02", "note": "ignored"}
SECONDS = dt.datetime(2024, 1, 2, tzinfo=dt.UTC).timestamp()


def one_column(kind: str, **options) -> Encoder:
    column = Column("c", kind, **options)
    return Encoder(TableContract("t", "T", "m", (column,), Target("y")))


def test_a_row_becomes_one_line_of_the_matrix(flats):
    X = Encoder(flats).row(GOOD)
    assert X.shape == (1, 4)
    assert X.dtype == np.float64
    assert X.tolist() == [[55.5, 3.0, 0.0, SECONDS]]


@pytest.mark.parametrize(
    ("value", "code"),
    [(5, 5.0), (5.5, 5.5), (np.float32(1.5), 1.5), (np.int64(7), 7.0), (Decimal("2.5"), 2.5),
     (" 1e3 ", 1000.0), ("-.5", -0.5), ("+1.", 1.0), ("inf", math.inf), (-math.inf, -math.inf),
     (np.float64(0.1), 0.1)],
)  # fmt: skip
def test_numbers_are_taken_as_they_are_also_from_text(value, code):
    encoder = one_column("number")
    assert encoder.row({"c": value})[0, 0] == code
    assert encoder.columns({"c": [value]})[0, 0] == code


@pytest.mark.parametrize("kind", ["number", "integer", "category", "datetime"])
@pytest.mark.parametrize("value", [None, math.nan, "", "  ", "NA", "NaN", "null", "None"])
def test_missing_values_become_nan(kind, value):
    encoder = one_column(kind, categories=("a", "b") if kind == "category" else ())
    assert math.isnan(encoder.row({"c": value})[0, 0])
    assert math.isnan(encoder.columns({"c": [value]})[0, 0])
    assert math.isnan(encoder.columns({"c": pl.Series([value], strict=False)})[0, 0])


@pytest.mark.parametrize(
    "value",
    ["twelve", "1_000", "1,5", "0x10", "１", "x" * 100, True, np.bool_(True), [1], {"a": 1},
     dt.date(2024, 1, 1), 10**400],
)  # fmt: skip
def test_what_is_no_number_is_refused_with_column_and_value(value):
    encoder = one_column("number")
    with pytest.raises(ValidationError, match=r"'c' is not valid: expected a number, got"):
        encoder.row({"c": value})
    with pytest.raises(ValidationError, match=r"'c' in row 2 is not valid"):
        encoder.columns({"c": [1.0, value]})


@pytest.mark.parametrize("values", [pl.Series([True, False]), np.array([True, False])])
def test_columns_of_true_and_false_are_no_numbers(values):
    with pytest.raises(ValidationError, match="'c' in row 1"):
        one_column("integer").columns({"c": values})


@pytest.mark.parametrize(
    ("value", "code"),
    [("Flat", 0), (" flat ", 0), ("HOUSE", 1), ("castle", 2), ("", math.nan), (7, 2)],
)
def test_categories_are_found_in_any_case_and_unknown_ones_have_a_code(flats, value, code):
    encoder = Encoder(flats)
    np.testing.assert_equal(encoder.row({**GOOD, "kind": value})[0, 2], code)
    assert encoder.unknown_codes == {"kind": 2}


def test_case_matters_where_the_contract_says_so():
    encoder = one_column("category", categories=("a", "A"))
    assert encoder.columns({"c": ["A", "a", "b"]})[:, 0].tolist() == [1, 0, 2]


def test_numbers_and_flags_as_categories_are_found_however_they_are_typed():
    encoder = one_column("category", categories=("1", "2.0", "true"))
    values = ["1", 1, 1.0, "1.0", "2", 2, "01", True, np.float64(2), 1.5]
    expected = [0, 0, 0, 0, 1, 1, 3, 2, 1, 3]
    assert encoder.columns({"c": values})[:, 0].tolist() == expected
    assert [encoder.row({"c": value})[0, 0] for value in values] == expected
    with pytest.raises(ValidationError, match="expected a text"):
        encoder.row({"c": ["1"]})


def test_a_category_called_none_is_a_value():
    assert one_column("category", categories=("None", "x")).row({"c": "None"})[0, 0] == 0


@pytest.mark.parametrize(
    "value",
    ["2024-01-02", "2024-01-02T00:00:00", "2024-01-02T00:00:00Z", "2024-01-02 02:00:00+02:00",
     dt.date(2024, 1, 2), dt.datetime(2024, 1, 2), dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
     np.datetime64("2024-01-02T00:00:00", "ns")],
)  # fmt: skip
def test_datetimes_of_every_sort_are_seconds_since_1970_in_utc(value):
    encoder = one_column("datetime")
    assert encoder.row({"c": value})[0, 0] == SECONDS
    assert encoder.columns({"c": [value]})[0, 0] == SECONDS


def test_typed_datetime_columns_give_the_same_seconds():
    encoder = one_column("datetime")
    naive = [dt.datetime(2024, 1, 2), None]
    for values in (
        pl.Series(naive),
        pl.Series(naive).cast(pl.Datetime("ns")),
        pl.Series(naive).dt.replace_time_zone("UTC").dt.convert_time_zone("America/Lima"),
        pl.Series([dt.date(2024, 1, 2), None]),
        np.array(["2024-01-02", "NaT"], dtype="datetime64[ns]"),
    ):
        np.testing.assert_equal(encoder.columns({"c": values})[:, 0], [SECONDS, np.nan])
    assert math.isnan(encoder.row({"c": np.datetime64("NaT")})[0, 0])


@pytest.mark.parametrize("value", ["31/12/2024", "soon", 5])
def test_other_dates_are_refused(value):
    with pytest.raises(ValidationError, match="ISO 8601"):
        one_column("datetime").row({"c": value})


def test_a_missing_field_is_missing_only_where_it_may_be(flats):
    encoder = Encoder(flats)
    row = encoder.row({"area": 20.0, "kind": "Flat"})
    assert np.isnan(row[0, [1, 3]]).all()
    with pytest.raises(ValidationError, match=r"the field 'area' is missing.*'kind'"):
        encoder.row({"kind": "Flat"})
    with pytest.raises(ValidationError, match="the field 'kind' is missing"):
        encoder.columns({"area": [1.0]})
    assert np.isnan(encoder.columns({"area": [20.0], "kind": ["x"]})[0, 1])


def test_columns_of_different_lengths_are_refused(flats):
    with pytest.raises(ValidationError, match="area 1, kind 2"):
        Encoder(flats).columns({"area": [1.0], "kind": ["a", "b"]})
    with pytest.raises(ValidationError, match="none of the columns is there"):
        Encoder(flats).columns({"other": [1]})


def test_rows_equal_the_stacked_single_rows_and_name_the_wrong_one(flats):
    encoder = Encoder(flats)
    rows = [GOOD, {**GOOD, "rooms": None}, {**GOOD, "kind": "?"}]
    np.testing.assert_equal(encoder.rows(rows), np.vstack([encoder.row(row) for row in rows]))
    assert encoder.rows([]).shape == (0, 4)
    with pytest.raises(ValidationError, match="row 2: 'area' is not valid"):
        encoder.rows([GOOD, {**GOOD, "area": "big"}])


def test_text_with_odd_words_takes_the_slow_way_to_the_same_numbers():
    values = ["1.5", " 2 ", "n/a", "nan"]
    with pytest.raises(ValidationError, match=r"in row 3 .*got 'n/a'"):
        one_column("number").columns({"c": pl.Series(values)})
    np.testing.assert_equal(
        one_column("number").columns({"c": pl.Series([*values[:2], "nan"])})[:, 0], [1.5, 2, np.nan]
    )
    assert np.isnan(one_column("number").columns({"c": pl.Series([None, None])})).all()


def test_decoding_gives_the_values_back_for_people(flats):
    encoder = Encoder(flats)
    X = encoder.rows([GOOD, {**GOOD, "kind": "castle", "rooms": None, "sold": None}])
    assert encoder.decode(X) == {
        "area": [55.5, 55.5],
        "rooms": [3, None],
        "kind": ["Flat", "(unknown)"],
        "sold": [dt.datetime(2024, 1, 2, tzinfo=dt.UTC), None],
    }
    assert one_column("datetime").decode(np.array([[1e20]])) == {"c": [1e20]}
