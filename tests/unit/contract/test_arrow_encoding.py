"""Arrow columns are encoded as their values are, one by one."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.contract.arrow_encoding import encode_arrow, plain_values, rows_of
from tasador.contract.encoding import encode_values
from tasador.contract.model import Column

NUMBER = Column("n", "number", nullable=True)
WHOLE = Column("n", "integer", nullable=True)
KIND = Column("k", "category", categories=("Flat", "NA", "1", "true"), case_sensitive=False)
MOMENT = Column("t", "datetime", nullable=True)
COLUMNS = (NUMBER, WHOLE, KIND, MOMENT)

WORDS = (
    "", " ", "na", "NaN", "null", "None", "1", " 2.5 ", "+3", "-4e3", ".5", "5.", "1e400", "-1e400",
    "inf", "-Infinity", "-nan", "nan(1)", "1_000", "0x10", "1,5", "٣", "1e", "--1", "flat", "FLAT ",
    "1.0", "01", "TRUE", "2026-01-31", "2026-01-31T10:00:00+02:00", "31.01.2026", "4.9e-324",
    "0.1000000000000000055511151231257827", "9007199254740993", "é",  # pragma: allowlist secret
    "179769313486231580793e289",  # pragma: allowlist secret
)  # fmt: skip


def encoded_one_by_one(column: Column, array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    return encode_values(column, plain_values(array))


def assert_same(column: Column, array: pa.Array) -> None:
    codes, wrong = encode_arrow(column, array)
    want, want_wrong = encoded_one_by_one(column, array)
    assert codes.tobytes() == want.tobytes() or np.array_equal(codes, want, equal_nan=True)
    assert wrong.tolist() == want_wrong.tolist()


texts = st.lists(
    st.none()
    | st.sampled_from(WORDS)
    | st.floats().map(repr)
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda f: f"{f:.20g}")
    | st.integers(-(10**25), 10**25).map(str)
    | st.text(max_size=4),
    max_size=30,
)


@given(texts, st.sampled_from(COLUMNS), st.sampled_from((pa.string(), pa.large_string())))
def test_texts_are_encoded_as_one_by_one(values: list[str | None], column: Column, kind: Any):
    values = [None if v is None else v.encode("utf-8", "ignore").decode() for v in values]
    array = pa.array(values, kind)
    assert_same(column, array)
    assert_same(column, array.dictionary_encode())
    assert_same(column, array.cast(pa.binary()))


@given(st.lists(st.none() | st.floats(), max_size=30), st.sampled_from(COLUMNS))
def test_doubles_are_encoded_as_one_by_one(values: list[float | None], column: Column):
    assert_same(column, pa.array(values, pa.float64()))


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.kind)
@pytest.mark.parametrize(
    "array",
    [
        pa.array([1, None, -(2**63), 2**63 - 1], pa.int64()),
        pa.array([0, 2**64 - 1, 2**53 + 1], pa.uint64()),
        pa.array([0.1, None, float("nan"), float("inf")], pa.float32()),
        pa.array([True, None, False]),
        pa.array([None, None], pa.null()),
        pa.array(
            [Decimal("1.10"), None, Decimal("-12345678901234567890.12")], pa.decimal128(38, 2)
        ),
        pa.array([dt.date(2026, 1, 31), None, dt.date(1, 1, 1)]),
        pa.array([dt.date(2026, 1, 31), None], pa.date64()),
        pa.array([1, None, 1_769_853_600_123_456_789], pa.timestamp("ns")),
        pa.array([1, -1, 1_769_853_600], pa.timestamp("s", "Europe/Madrid")),
        pa.array([2**53 + 1, 2**55 + 3, -(2**55) - 1, 3], pa.timestamp("us")),
        pa.array([dt.time(1, 2)]),
        pa.array([dt.timedelta(1)]),
        pa.array([[1], None, []]),
        pa.array([{"a": 1}]),
        pa.array([b"flat", b"\xff\xfe", None]),
        pa.array([b"ab", None], pa.binary(2)),
        pa.array([], pa.string()),
    ],
    ids=lambda array: str(array.type),
)
def test_every_type_of_file_is_encoded_as_one_by_one(column: Column, array: pa.Array):
    assert_same(column, array)


def test_a_moment_that_python_has_no_object_for_is_wrong_and_named():
    array = pa.array([2**60, 5], pa.timestamp("us"))
    codes, wrong = encode_arrow(MOMENT, array)
    assert wrong.tolist() == [True, False]
    assert codes[1] == 5e-6
    batch = pa.record_batch({"t": array})
    assert "1152921504606846976" in repr(rows_of(batch, [MOMENT], [0])[0]["t"])


def test_a_slice_of_a_column_is_encoded_as_itself():
    array = pa.array([1.0, None, 3.0, 4.0]).slice(1, 2)
    codes, wrong = encode_arrow(NUMBER, array)
    assert np.isnan(codes[0])
    assert codes[1] == 3.0
    assert not wrong.any()


def test_rows_come_out_as_a_service_gets_them():
    batch = pa.record_batch({"n": [1, 2, 3], "k": ["a", None, "c"], "other": [0, 0, 0]})
    assert rows_of(batch, COLUMNS, [2, 1]) == [{"n": 3, "k": "c"}, {"n": 2, "k": None}]
    assert rows_of(batch, [MOMENT], [0, 1]) == [{}, {}]
