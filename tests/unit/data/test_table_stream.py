"""Files read piece by piece."""

from __future__ import annotations

import bz2
import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fixtures.workbooks import workbook
from tasador.contract.arrow_encoding import encode_arrow
from tasador.contract.model import Column, Source, TableContract, Target
from tasador.core import storage
from tasador.core.errors import SourceError
from tasador.data.readers import parse_file, read_source
from tasador.data.table_stream import open_table
from tasador.ops.init_contract import infer_contract

CONTRACT = TableContract("t", "T", "t", (Column("a", "number"),), Target("y"))


@pytest.mark.parametrize("rows", [1, 10, 100_000])
def test_a_row_longer_than_a_block_is_read_and_no_other_is_lost_or_read_twice(
    tmp_path: Path, rows: int
) -> None:
    lines = [f"{i},x" for i in range(60_000)]
    lines[50_000] = '50000,"' + "y" * (1 << 20) + '"'
    lines[20_000] = lines[59_998] = "torn"
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
    assert torn == [20_000, 59_998]


def test_names_of_columns_are_compared_composed(tmp_path: Path) -> None:
    contract = TableContract("t", "T", "t", (Column("café", "number"),), Target("y"))
    file = tmp_path / "rows.csv"
    file.write_text("cafe\N{COMBINING ACUTE ACCENT};x\n1;2\n", encoding="utf-8")
    with open_table(file, contract) as table:
        assert table.names == ["café", "x"]
        (piece,) = table.pieces(["café"], 10)
    assert piece.batch.to_pylist() == [{"café": "1"}]


def _tgz(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("rows.csv")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


TEXT = "a;Ort\n1,5;Köln\n2;Düren\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("cp1252"),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace("\n", "\r\n").encode("utf-16-le"),
        ("Sales of 2022\n\n" + TEXT).encode("cp1252"),
        ("sep=;\n" + TEXT).encode(),
        TEXT.replace(";", "\t").encode(),
        gzip.compress(TEXT.encode("cp1252"), mtime=0),
        bz2.compress(("title;\n" + TEXT).encode("utf-16")),
        _tgz(TEXT.encode("cp1252")),
        workbook({"empty": [], "s": [["a", "Ort"], ["1,5", "Köln"], ["2", "Düren"]]}),
        b'[{"a": "1,5", "Ort": "K\xc3\xb6ln"}, {"a": "2", "Ort": "D\xc3\xbcren"}]',
    ],
    ids=lambda data: type(data).__name__,  # packed files hold the time
)
def test_a_file_of_any_form_gives_the_same_rows(tmp_path: Path, data: bytes) -> None:
    contract = TableContract(
        "t", "T", "t", (Column("a", "text"), Column("Ort", "text")), Target("y")
    )
    file = tmp_path / "rows"
    file.write_bytes(data)
    with open_table(file, contract) as table:
        assert table.names == ["a", "Ort"]
        (piece,) = table.pieces(["Ort", "a"], 10)
    assert piece.batch.to_pylist() == [{"Ort": "Köln", "a": "1,5"}, {"Ort": "Düren", "a": "2"}]
    assert (piece.start, piece.torn) == (0, {})


def test_a_text_of_other_encoding_keeps_its_rows_over_many_pieces(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    lines = [f"{i},é" if i % 1000 else "torn" for i in range(60_000)]
    file.write_text("title\na,note\n" + "\n".join(lines), encoding="utf-16")
    seen, torn = [], []
    with open_table(file, CONTRACT) as table:
        for piece in table.pieces(["a"], 100):
            seen += piece.batch.column("a").to_pylist()
            torn += piece.torn
    assert seen == [str(i) for i in range(60_000) if i % 1000]
    assert torn == list(range(0, 60_000, 1000))


def test_a_file_without_a_header_is_read_by_position_where_the_contract_says_so(
    tmp_path: Path,
) -> None:
    columns = (Column("column_1", "number"),)
    contract = TableContract(
        "t", "T", "t", columns, Target("column_2"), source=Source(has_header=False)
    )
    file = tmp_path / "rows.csv"
    file.write_text("1,x\n2,y\n")
    with open_table(file, contract) as table:
        (piece,) = table.pieces(["column_1"], 10)
    assert piece.batch.to_pylist() == [{"column_1": "1"}, {"column_1": "2"}]


def test_a_file_of_a_different_type_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"<html><table></table></html>")
    with pytest.raises(SourceError, match=r"a web page.*save it as"), open_table(file, CONTRACT):
        pass


EXTRA = {
    "the header again": ["5,6,x", "a,note,z", "7,8,y"],
    "nothing": ["5,6,x", ",,", " , ,", "7,8,y"],
    "a total with its name": ["1,6,x", "7,8,y", "8,14,Total"],
    "a total without a name": ["1,6,x", "7,8,y", "3,1,y", "1,1,y", "12,16,"],
    "a mean and a total": ["1,6,x", "7,8,y", "8,14,Total", "4,7,Average"],
    "a footnote": ["5,6,x", "7,8,y", "Source: the land registry"],
    "a footnote in a cell": ["5,6,x", "7,8,y", "Provisional figures of May,,"],
    "what is no sum": ["1,6,x", "7,8,y", "9,15,Total"],
    "a level called total": ["1,6,Total", "2,8,y", "3,9,x", "6,23,Total"],
    "a row that lacks a value": ["1,6,x", "7,8,y", "3,1,y", "1,1,y", "2,4,"],
}


@pytest.mark.parametrize("rows", EXTRA.values(), ids=EXTRA)
@pytest.mark.parametrize("packed", [False, True])
def test_rows_that_are_no_part_of_the_table_are_left_out_of_a_stream_as_of_a_whole_file(
    tmp_path: Path, rows: list[str], packed: bool
) -> None:
    contract = TableContract(
        "t", "T", "t", (Column("a", "number"), Column("z", "category")), Target("y")
    )
    text = "\n".join(["a,note,z", "0,0,x", "0,0,y", *rows])
    file = tmp_path / "rows.csv"
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    whole = read_source(file, known=["a", "note", "z"])
    with open_table(file, contract) as table:
        pieces = list(table.pieces(["a", "z"], 1000))
        assert table.notes == list(whole.notes)
    expected = whole.frame.select("a", "z").fill_null("").rows()
    found = [tuple(row.values()) for piece in pieces for row in piece.batch.to_pylist()]
    assert found == expected
    assert sum(map(len, pieces)) == text.count("\n")
    assert any(piece.left_out for piece in pieces) == bool(table.notes)


def test_a_total_below_many_pieces_is_found(tmp_path: Path) -> None:
    numbers = range(100_000)
    file = tmp_path / "rows.csv"
    lines = [f"{i},{i % 7}" for i in numbers]
    file.write_text("\n".join(["a,b", *lines, f"{sum(numbers)},Total"]))
    with open_table(file, CONTRACT) as table:
        pieces = list(table.pieces(["a"], 1000))
    assert len(pieces) > 2
    assert sum(piece.batch.num_rows for piece in pieces) == len(numbers)
    assert pieces[-1].left_out == {len(numbers)}
    assert table.notes == [f"a total at the foot of the table left out ({sum(numbers)}, Total)"]


def test_totals_in_an_object_store_do_not_disturb_what_is_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(storage._DRIVERS, "local", ("fsspec", "gcs"))  # read as remote files are
    texts = np.random.default_rng(4).bytes(12 << 20).hex()
    lines, rows, group = [], 60_000, 1000
    for i in range(rows):
        lines.append(f"{i},{texts[400 * i : 400 * i + 400]}")
        if i % group == group - 1:
            lines.append(f"{sum(range(i - group + 1, i + 1))},Total")
    text = "\n".join(["a,note", *lines, "0,end"]).encode()
    file = tmp_path / "rows.csv.gz"
    file.write_bytes(gzip.compress(text, 1))
    with open_table(f"local://{file}", CONTRACT) as table:
        found = [row for piece in table.pieces(["a"], 1000) for row in piece.batch.to_pylist()]
    assert [int(row["a"]) for row in found] == [*range(rows), 0]
    assert table.notes == [f"{rows // group} rows that are totals of rows above left out"]


FILES = Path(__file__).parents[2] / "fixtures" / "files"


@pytest.mark.parametrize("file", ["sales.xls", "sales.ods"])
def test_workbooks_of_older_and_other_programs_are_read_as_excels_are(file: str) -> None:
    """Written by xlwt and odfpy: an empty first sheet, a merged title, dates, per cent, a total."""
    data = (FILES / file).read_bytes()
    read = parse_file(data, file)
    assert read.frame.columns == ["area", "zone", "sold", "share", "price"]
    assert read.frame.height == 40
    area, zone, sold, share, price = read.frame.row(-1)
    assert (area, zone, str(sold)[:10], share, price) == (67, "W", "2021-04-12", 0.9, 192_300)
    assert read.notes[0].startswith("the sheet 'Sales' was read")
    assert [note[:21] for note in read.notes[1:]] == [
        "1 line above the tabl", "a total at the foot o"
    ]  # fmt: skip
    contract = TableContract(
        "t", "T", "t", (Column("area", "number"), Column("sold", "datetime")), Target("price")
    )
    with open_table(str(FILES / file), contract) as table:
        (piece,) = table.pieces(["area", "sold"], 100)
    assert encode_arrow(contract.columns[1], piece.batch.column("sold"))[0][-1] == 1_618_185_600.0
    report = infer_contract(str(FILES / file), "price")
    kinds = {column.name: column.kind for column in report.contract.columns}
    assert kinds == {"area": "integer", "zone": "category", "sold": "datetime", "share": "number"}
