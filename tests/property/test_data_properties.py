"""Properties of the data room that hold for any rows."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.contract.encoding import Encoder
from tasador.contract.model import Column, TableContract, Target
from tasador.data.readers import parse_table
from tasador.data.table import Table
from tasador.data.validation import validate_table

CONTRACT = TableContract(
    name="t",
    title="T",
    model_name="m",
    columns=(
        Column("number", "number", nullable=True),
        Column("whole", "integer", nullable=True),
        Column(
            "kind", "category", categories=("a", "B c", "ß"), case_sensitive=False, nullable=True
        ),
        Column("when", "datetime", nullable=True),
        Column("id", "identifier", nullable=True),
    ),
    target=Target("y"),
)
ENCODER = Encoder(CONTRACT)
numbers = st.floats(allow_nan=False, allow_infinity=False)
moments = st.datetimes(
    min_value=dt.datetime(1800, 1, 1), max_value=dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC)
)
rows = st.fixed_dictionaries(
    {
        "number": st.none() | numbers,
        "whole": st.none() | st.integers(-(2**53), 2**53),
        "kind": st.none() | st.sampled_from(["a", "B c", "ß"]),
        "when": st.none() | moments,
    }
)
some = settings(max_examples=60)


@some
@given(st.lists(rows, min_size=1, max_size=8))
def test_decoding_gives_back_what_was_encoded(given_rows):
    decoded = ENCODER.decode(ENCODER.rows(given_rows))
    assert decoded == {name: [row[name] for row in given_rows] for name in decoded}


@some
@given(st.lists(rows, min_size=1, max_size=8))
def test_columns_equal_rows_however_they_are_held(given_rows):
    expected = ENCODER.rows(given_rows)
    lists = {name: [row[name] for row in given_rows] for name in CONTRACT.feature_names}
    series = {name: pl.Series(name, values, strict=False) for name, values in lists.items()}
    arrays = {name: np.array(values, dtype=object) for name, values in lists.items()}
    texts = {n: pl.Series([None if v is None else str(v) for v in vs]) for n, vs in lists.items()}
    for columns in (lists, series, arrays, texts):
        np.testing.assert_array_equal(ENCODER.columns(columns), expected)


@some
@given(st.text(max_size=12) | numbers.map(repr))
def test_text_is_a_number_for_a_row_exactly_when_it_is_for_a_column(text):
    def outcome(encode):
        try:
            return encode()
        except Exception as error:
            return type(error)

    row = {"number": text, "whole": 1, "kind": "a", "when": None}
    one = outcome(lambda: ENCODER.row(row)[0, 0])
    many = outcome(lambda: ENCODER.columns({k: pl.Series([v]) for k, v in row.items()})[0, 0])
    assert one == many or (math.isnan(one) and math.isnan(many))


@settings(max_examples=25)
@given(
    st.lists(st.tuples(rows, st.integers(0, 99), numbers), min_size=2, max_size=12).filter(
        lambda items: len({y for _, _, y in items}) > 1
    ),
    st.randoms(use_true_random=False),
)
def test_validation_is_blind_to_the_files_format_and_to_the_order_of_rows(items, random):
    base = {"number": 1.0, "whole": 1, "kind": "a", "when": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}
    records = [{**row, "id": number, "y": y} for row, number, y in items] + [
        {**base, "id": 1, "y": items[0][2]}
    ]
    schema = {"number": pl.Float64, "whole": pl.Int64, "kind": pl.String,
              "when": pl.Datetime("us", "UTC"), "id": pl.Int64, "y": pl.Float64}  # fmt: skip
    typed = pl.DataFrame(records, schema=schema)
    csv = typed.with_columns(pl.col("when").dt.to_string("iso:strict")).write_csv(
        float_precision=None
    )
    text = parse_table(csv.encode(), "t")
    shuffled = list(range(len(records)))
    random.shuffle(shuffled)
    first, second, third = (
        validate_table(Table(frame, "h", "real", "s"), CONTRACT, min_rows=2)
        for frame in (typed, text, typed[shuffled])
    )
    np.testing.assert_array_equal(first.X, second.X)
    np.testing.assert_array_equal(first.row_hash, second.row_hash)
    np.testing.assert_array_equal(first.row_hash[shuffled], third.row_hash)
