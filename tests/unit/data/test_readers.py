"""From bytes to a table, or a clear reason why not."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import polars as pl
import pytest

from fixtures.workbooks import workbook
from tasador.contract.model import Source
from tasador.core.errors import SourceError
from tasador.data import archives, readers
from tasador.data.readers import parse_table, read_table

CSV = b"a,b\n1,x\n2,y\n"


def tgz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_dot_", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_dot_", "."), content)
    return buffer.getvalue()


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


TOO_WIDE = (",".join(f"c{i}" for i in range(60_000)) + 2 * ("\n" + "1," * 59_999)).encode()


@pytest.mark.parametrize(
    "data",
    [
        CSV,
        b"\xef\xbb\xbf" + CSV,
        CSV.replace(b"\n", b"\r\n"),
        CSV.replace(b"\n", b"\r"),
        CSV.rstrip(b"\n"),
        b"\n" + CSV.replace(b"\n", b"\n\n"),
        b' a , b\n"1",x\n2,"y"\n',
        gzip.compress(CSV, mtime=0),
        tgz(t_dot_csv=CSV),
        gzip.decompress(tgz(t_dot_csv=CSV)),
        zipped(t_dot_csv=CSV),
        zipped(readme_dot_md=b"hello", t_dot_csv=CSV),
        zipped(t_dot_parquet=parquet(pl.DataFrame({"a": ["1", "2"], "b": ["x", "y"]}))),
    ],
)
def test_the_same_table_comes_out_of_every_wrapping(data):
    frame = parse_table(data, "table")
    assert frame.to_dict(as_series=False) == {"a": ["1", "2"], "b": ["x", "y"]}


def test_cells_stay_text_and_words_for_missing_become_null():
    frame = parse_table(b'n,t\n1.50,NA\nabc,nan\n , NULL \nNone,ok\n"",x y\n', "t")
    assert frame["n"].to_list() == ["1.50", "abc", None, None, None]
    assert frame["t"].to_list() == [None, None, None, "ok", "x y"]


def test_a_column_may_keep_the_word_none_as_a_value():
    frame = parse_table(b"a,b\nNone,None\n,x\n", "t", keep_text=["a"])
    assert frame.rows() == [("None", None), (None, "x")]


def test_quoted_cells_may_hold_separators_quotes_and_line_ends():
    frame = parse_table(b'"a","b,c"\n"1,5","say ""hi"""\n"x\ny",2\n', "t")
    assert frame.columns == ["a", "b,c"]
    assert frame.rows() == [("1,5", 'say "hi"'), ("x\ny", "2")]


def test_parquet_keeps_its_types():
    frame = pl.DataFrame({"a": [1, None], "b": [1.5, 2.5], "c": ["x", "NA"]})
    read = parse_table(parquet(frame), "t.parquet")
    assert read.dtypes == frame.dtypes
    assert read["c"].to_list() == ["x", None]


def test_a_column_without_a_name_gets_one():
    assert parse_table(b",b\n1,2\n", "t").columns == ["unnamed_1", "b"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "table.csv is empty"),
        (b"\xef\xbb\xbf \n", "is empty"),
        (b"a,b\n", "a header but no rows"),
        (b"a,b\n\n\n", "a header but no rows"),
        (parquet(pl.DataFrame({"a": []})), "a header but no rows"),
        (b"a,b\n1,2\n1,2,3\n", r"1 ragged row.*expected 2 cells.*got 3 in row 2"),
        (b"a,b\n1\n1,2\n", r"ragged.*got 1 in row 1"),
        (b'a,b\n"1,2\n3,4\n', "a quote is opened and never closed"),
        ("a,b\n1,é\n2,ü".encode() + b"\xe9\n", r"not UTF-8 text.*got byte 0xe9 in line 3"),
        (b'a,b\n"5" pipe,3\n6" pipe,4\n', "quotes|split into"),
        (b"\x00\x01\x02garbage", "binary data"),
        (b"\x7fELF\x00\x00", "binary data"),
        (tgz(t_dot_csv=CSV * 5000)[:-40], "damaged or cut short"),
        (zipped(t_dot_csv=CSV * 5000)[:-40], "damaged or cut short"),
        (parquet(pl.DataFrame({"a": [1]}))[:-10], "cut short"),
        (b"PAR1" + b"x" * 40 + b"PAR1", "Parquet file table.csv is damaged"),
        (zipped(), "an empty archive"),
        (zipped(a_dot_csv=CSV, b_dot_csv=CSV), r"exactly one table.*a.csv, b.csv.*source.member"),
        (
            (",".join(f"c{i}" for i in range(60_000)) + 2 * ("\n" + "1," * 59_999)).encode(),
            "at most 50000, got 60000",
        ),
    ],
)
def test_what_is_not_a_table_is_refused_with_the_reason(data, words):
    with pytest.raises(SourceError, match=words):
        parse_table(data, "table.csv")


def test_too_wide_a_parquet_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(readers, "MAX_COLUMNS", 2)
    data = parquet(pl.DataFrame({"a": [1], "b": [1], "c": [1]}))
    with pytest.raises(SourceError, match="at most 2, got 3"):
        parse_table(data, "t")


def test_a_member_is_chosen_by_name_whatever_folder_it_claims():
    data = zipped(**{"../../etc/a_dot_csv": b"z\n9\n", "b_dot_csv": CSV})
    assert parse_table(data, "t", Source(member="b.csv")).height == 2
    assert parse_table(data, "t", Source(member="a.csv")).rows() == [("9",)]
    with pytest.raises(SourceError, match=r"expected the member 'c.csv', got .*b.csv"):
        parse_table(data, "t", Source(member="c.csv"))


@pytest.mark.parametrize("wrap", [gzip.compress, lambda d: tgz(t=d), lambda d: zipped(t=d)])
def test_an_archive_bomb_is_stopped(monkeypatch, wrap):
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 50_000)
    with pytest.raises(SourceError, match="too large once unpacked"):
        parse_table(wrap(b"a,b\n" + b"1,2\n" * 50_000), "t")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(SourceError, match=r"there is no file .*nothing\.csv"):
        read_table(tmp_path / "nothing.csv")
    with pytest.raises(SourceError, match="is a folder"):
        read_table(tmp_path)


@pytest.mark.parametrize("file", ["housing.csv", "housing.tgz"])
def test_the_real_table_is_read_whole(real_data, file):
    frame = read_table(real_data / file)
    assert frame.shape == (20640, 10)
    assert frame["total_bedrooms"].null_count() == 207
    assert set(frame.dtypes) == {pl.String}


def arrow_of_a_negative_length() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"a": [1, 2, 3]}).write_ipc(buffer)
    data = buffer.getvalue()
    count = (3).to_bytes(8, "little")
    assert count in data
    return data.replace(count, (-3).to_bytes(8, "little", signed=True))


def with_a_name_that_is_not_utf8(kind: str) -> bytes:
    buffer = io.BytesIO()
    frame = pl.DataFrame({"naïve": [1, 2, 3]})
    frame.write_ipc(buffer) if kind == "arrow" else frame.write_parquet(buffer)
    return buffer.getvalue().replace("naïve".encode(), b"na\xe5\xe5ve")


def packed_otherwise() -> bytes:
    data = bytearray(zipped(a_dot_csv=CSV * 50))
    data[40:60] = bytes(20)
    return bytes(data)


# found by tests/fuzz/test_uploads.py
@pytest.mark.parametrize(
    "data",
    [
        arrow_of_a_negative_length(),
        packed_otherwise(),
        zipped(xl_dot_csv=CSV)[5:],
        b'{"a":' * 3000,
        b"PK\x03\x04" + zipped(a_dot_csv=CSV * 9)[70:],
        with_a_name_that_is_not_utf8("arrow"),
        with_a_name_that_is_not_utf8("parquet"),
    ],
    ids=[
        "negative length",
        "not deflated",
        "cut",
        "nested JSON",
        "a place before the beginning",
        "a name in Arrow",
        "a name in Parquet",
    ],
)
def test_damage_of_any_kind_is_a_source_error(data: bytes) -> None:
    with pytest.raises(SourceError, match=r"damaged|JSON|cannot be read|binary"):
        parse_table(data, "it")


def test_a_workbook_whose_parts_cannot_be_unpacked_is_damaged() -> None:
    data = bytearray(workbook({"s": [["a", "b"], *([n, n] for n in range(200))]}))
    start = bytes(data).index(b"sheet1.xml", bytes(data).index(b"xl/worksheets/sheet1.xml")) + 40
    data[start : start + 30] = bytes(30)
    with pytest.raises(SourceError, match="damaged"):
        parse_table(bytes(data), "it.xlsx")
