"""Files as spreadsheets in Spanish write them: decimals by commas, cells by semicolons."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.contract.reader import from_dict
from tasador.core.languages import number
from tasador.data.table_stream import open_table
from tasador.data.text.decimal_commas import (
    array_without_commas,
    batch_with_commas,
    with_comma,
    without_commas,
)

CONTRACT = from_dict(
    {
        "name": "flats",
        "columns": {
            "area": {"kind": "number"},
            "floor": {"kind": "integer"},
            "code": {"kind": "category", "categories": ["1,5", "2"]},
            "fee": {"kind": "number", "format": {"decimal": ","}},
        },
        "target": {"name": "price"},
    }
)


def read(folder: Path, text: str) -> dict[str, list[str]]:
    file = folder / "rows.csv"
    file.write_text(text, encoding="utf-8")
    with open_table(file, CONTRACT) as table:
        (piece,) = table.pieces(["area", "floor", "code", "fee"], 100)
        found: dict[str, list[str]] = piece.batch.to_pydict()
        said = any("decimal comma" in note for note in table.notes)
    return {**found, "said": said}


def test_numbers_are_read_with_commas_and_other_columns_stay_as_they_are(tmp_path: Path) -> None:
    text = "area;floor;code;fee\n85,5;1.200;1,5;3,5\n-1.234,75; 2 ;2;\n"
    found = read(tmp_path, text)
    assert [float(cell) for cell in found["area"]] == [85.5, -1234.75]
    assert [int(cell) for cell in found["floor"]] == [1200, 2]
    assert found["code"] == ["1,5", "2"]  # levels are texts
    assert found["fee"][0] == "3,5"  # the contract says how this one is written
    assert found["said"]


@pytest.mark.parametrize(
    ("text", "areas"),
    [
        ("area;floor;code;fee\n85.5;1;2;1\n", ["85.5"]),
        ("area;floor;code;fee\n85;1;2;1\n1.234;1;2;1\n", ["85", "1.234"]),
        ("area;floor;code;fee\n85,5;1;2;1\n85.5;1;2;1\n", ["85,5", "85.5"]),
        ('area,floor,code,fee\n"1,234",1,2,1\n', ["1,234"]),
    ],
)
def test_numbers_that_may_be_meant_otherwise_are_left_alone(
    text: str, areas: list[str], tmp_path: Path
) -> None:
    found = read(tmp_path, text)
    assert found["area"] == areas
    assert not found["said"]


def test_quoted_numbers_between_commas_are_read_where_they_are_clear(tmp_path: Path) -> None:
    found = read(tmp_path, 'area,floor,code,fee\n"85,5",1,2,1\n"1,234",1,2,1\n')
    assert [float(cell) for cell in found["area"]] == [85.5, 1.234]


@given(st.floats(-1e12, 1e12, allow_nan=False), st.integers(1, 6))
def test_what_is_written_in_spanish_is_read_as_the_same_number(value: float, digits: int) -> None:
    written = number(value, digits, "es")
    assert float(without_commas(written)) == round(value, digits)
    assert array_without_commas(pa.array([written])).to_pylist() == [without_commas(written)]


@given(st.text(alphabet="0123456789.,-+ ex", max_size=12))
def test_one_cell_and_a_column_of_them_are_read_alike(cell: str) -> None:
    assert array_without_commas(pa.array([cell])).to_pylist() == [without_commas(cell)]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_what_is_written_with_commas_is_read_as_the_same_bits(values: list[float]) -> None:
    for column in (values, [repr(one) for one in values]):
        batch = pa.RecordBatch.from_pydict({"area": column, "code": ["1.5"] * len(values)})
        written = batch_with_commas(batch, frozenset({"area"}))
        assert written["code"] == batch["code"]
        read = array_without_commas(written["area"]).to_pylist()
        assert [float(one) for one in read] == values
        cells = [without_commas(str(with_comma(one))) for one in column]
        assert [float(one) for one in cells] == values
