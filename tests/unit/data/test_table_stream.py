"""Files read piece by piece."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasador.contract.model import Column, TableContract, Target
from tasador.data.table_stream import open_table

CONTRACT = TableContract("t", "T", "t", (Column("a", "number"),), Target("y"))


@pytest.mark.parametrize("rows", [1, 10, 100_000])
def test_a_row_longer_than_a_block_is_read_and_no_other_is_lost_or_read_twice(
    tmp_path: Path, rows: int
) -> None:
    lines = [f"{i},x" for i in range(60_000)]
    lines[50_000] = '50000,"' + "y" * (1 << 20) + '"'
    lines[20_000] = lines[59_999] = "torn"
    file = tmp_path / "rows.csv"
    file.write_text("a,note\n" + "\n".join(lines) + "\n")
    seen: list[int] = []
    torn: list[int] = []
    with open_table(file, CONTRACT) as table:
        for piece in table.pieces(["a"], rows):
            numbers = range(piece.start, piece.start + len(piece))
            whole = [number for number in numbers if number not in piece.torn]
            assert piece.batch.column("a").to_pylist() == [str(number) for number in whole]
            seen += numbers
            torn += piece.torn
    assert seen == list(range(60_000))
    assert torn == [20_000, 59_999]


def test_names_of_columns_are_compared_composed(tmp_path: Path) -> None:
    contract = TableContract("t", "T", "t", (Column("café", "number"),), Target("y"))
    file = tmp_path / "rows.csv"
    file.write_text("cafe\N{COMBINING ACUTE ACCENT};x\n1;2\n", encoding="utf-8")
    with open_table(file, contract) as table:
        assert table.names == ["café", "x"]
        (piece,) = table.pieces(["café"], 10)
    assert piece.batch.to_pylist() == [{"café": "1"}]
