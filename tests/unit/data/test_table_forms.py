"""Files as people send them: every form of text, workbooks, several files, queries."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import sqlite3
import zipfile

import polars as pl
import pytest

from fixtures.workbooks import workbook
from tasador.contract.model import Column, Source, SqlQuery, TableContract, Target
from tasador.contract.reader import from_dict
from tasador.core.errors import ConfigError, ContractError, SourceError
from tasador.data import workbook as workbook_reader
from tasador.data.readers import parse_file, read_source
from tasador.data.table_stream import open_table

ROWS = [("54", "North", "165165"), ("61", "South", "116903"), ("83", "East", "178269"),
        ("118", "North", "280351"), ("94", "South", "187155"), ("49", "East", "97382")]  # fmt: skip
BODY = "".join(",".join(row) + "\n" for row in ROWS)
TABLE = "area,zone,price\n" + BODY


def read(data, **options):
    return parse_file(data.encode() if isinstance(data, str) else data, "t", Source(**options))


def cells(table):
    return table.frame.rows()


@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"],
)
def test_a_text_is_read_in_the_encoding_it_has(encoding):
    table = read("Fläche,Ort\n1,Köln\n2,Düren\n".encode(encoding))
    assert table.frame.columns == ["Fläche", "Ort"]
    assert table.frame["Ort"].to_list() == ["Köln", "Düren"]
    again = parse_file("Fläche,Ort\n1,Köln\n2,Düren\n".encode(encoding), "t", table.source)
    assert again.frame.equals(table.frame)
    assert again.notes == ()  # what the contract says needs no sentence


def test_a_text_that_is_not_utf_8_is_read_as_windows_text_with_a_note():
    table = read("a,b\n1,5 €\n".encode("cp1252"))
    assert cells(table) == [("1", "5 €")]
    assert "read as Windows-1252 (cp1252)" in table.notes[0]
    assert table.source.encoding == "cp1252"


def test_the_contract_s_encoding_is_taken_for_what_is_not_utf_8():
    assert cells(read("a,b\n1,Łódź\n".encode("cp1250"), encoding="cp1250")) == [("1", "Łódź")]
    assert cells(read("a,b\n1,Łódź\n", encoding="cp1250")) == [("1", "Łódź")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_delimiter_and_line_end_is_found(delimiter, end):
    table = read(TABLE.replace(",", delimiter).replace("\n", end))
    assert cells(table) == ROWS
    assert table.source.delimiter == delimiter
    assert table.notes == ()


def test_lines_may_end_in_different_ways_and_quoted_cells_keep_theirs():
    table = read('a,b\r1,"x\ry"\n2,z\r\n3,w\r')
    assert cells(table) == [("1", "x\ry"), ("2", "z"), ("3", "w")]


@pytest.mark.parametrize(
    "text",
    [
        "a;b\n1,5;2,5\n3,5;4,5\n",
        "a;b;c\n1,5;x;2,5\n3,5;y;4,5\n",
        '"a, in m";b;c\n1,5;x, y;2,5\n3,5;y;4,5\n',
        "a|b\n1,5|2,5\n3,5|4,5\n",
    ],
)
def test_decimal_commas_do_not_hide_the_delimiter(text):
    table = read(text)
    assert table.frame.row(0)[0] == "1,5"
    assert table.frame.row(1)[-1] == "4,5"


def test_the_line_in_which_excel_names_the_delimiter_is_followed():
    table = read("sep=;\r\na;b\r\n1;2,5\r\n")
    assert table.frame.columns == ["a", "b"]
    assert cells(table) == [("1", "2,5")]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ('a;b\n"0,5";"x, y"\n"1,5";"x, z"\n', ("0,5", "x, y")),
        ("price\n1,5\n2,5\n", ("1,5",)),
        ('size,zone\n5",a\n6" x 4",b\n7",c\n', ('5"', "a")),
        ("a,b\n  \n1,2\n  \n", ("1", "2")),
        ("Home,,Sale\narea,zone,price\n" + BODY, ROWS[0]),
        (TABLE + "\nSource: A, B\n", ROWS[0]),
    ],
)
def test_what_a_cell_holds_does_not_change_how_rows_are_split(text, first):
    assert cells(read(text))[0] == first


@pytest.mark.parametrize(
    "above",
    [
        "Sales of 2022,,\n,,\n",
        "Sales of 2022\n\n",
        "Sales of 2022\nas of May\n\n",
        '"Sales, by zone"\n',
        "# made by a machine\n# on 1 May 2022, at night\n",
        "Report,,\nall zones,,\n\n\n",
    ],
)
def test_lines_above_the_header_are_left_out_and_named(above):
    table = read(above + TABLE)
    assert cells(table) == ROWS
    line = above.count("\n") + 1
    assert f"the header is in line {line}" in table.notes[0]
    assert table.source.header_row == line
    assert parse_file((above + TABLE).encode(), "t", table.source).frame.equals(table.frame)


@pytest.mark.parametrize(
    "text",
    [
        ",price\n0,5\n1,6\n2,7\n",
        "id,,\n4,9,3\n1,2,8\n",
        "zone,2019,2020,2021\nEast,1,2,3\nWest,4,5,6\n",
        "0,1,2\n5.5,6.5,7.5\n8.5,9.5,7.5\n",
        "name\nAnn\nBob\n",
        "zone,kind\nEast,flat\nWest,house\nEast,house\n",
    ],
)
def test_an_ordinary_header_is_taken_without_a_word(text):
    table = read(text)
    assert table.frame.height == text.count("\n") - 1
    assert not [note for note in table.notes if "header" in note or "first row" in note]


@pytest.mark.parametrize(
    "row",
    ["74,East,153048", "74.5,East,$153,048".replace("$153,048", "$153048"), "74,North,61"],
)
def test_a_header_that_looks_like_data_is_said_to(row):
    table = read(row + "\n" + BODY)
    assert "first row looks like data" in table.notes[0]
    assert "--no-header" in table.notes[0]
    assert table.frame.height == len(ROWS)


def test_a_first_row_of_words_that_repeat_below_looks_like_data():
    table = read("East,flat\nWest,house\nEast,house\nWest,flat\nEast,flat\n")
    assert "first row looks like data (East, flat)" in table.notes[0]


def test_a_table_without_a_header_has_numbered_columns():
    table = read("74,East,153048\n" + BODY, has_header=False)
    assert table.frame.columns == ["column_1", "column_2", "column_3"]
    assert cells(table) == [("74", "East", "153048"), *ROWS]
    assert table.source.has_header is False


def test_repeated_and_empty_names_of_columns_are_told_apart():
    table = read("zone,zone,,zone\na,b,1,c\nd,e,2,f\n")
    assert table.frame.columns == ["zone", "zone_2", "unnamed_3", "zone_3"]
    assert any("one is called 'zone_2'" in note for note in table.notes)


def test_of_two_equal_columns_of_one_name_one_is_kept():
    table = read("zone,zone,area\na,a,1\nb,b,2\n")
    assert table.frame.columns == ["zone", "area"]
    assert table.notes == ("the column 'zone' is there twice with the same values: one is kept",)


def test_two_columns_of_one_known_name_are_refused_unless_they_hold_the_same():
    with pytest.raises(SourceError, match="duplicate column names: got 'zone'"):
        parse_file(b"zone,zone,y\na,b,1\nc,d,2\n", "t", known=["zone", "y"])
    known = parse_file(b"zone,zone,y\na,b,1\nc,d,2\n", "t", known=["zone", "zone_2", "y"])
    assert known.frame.columns == ["zone", "zone_2", "y"]
    same = parse_file(b"zone,zone,y\na,a,1\nc,c,2\n", "t", known=["zone", "y"])
    assert same.frame.columns == ["zone", "y"]


def test_a_header_in_the_middle_is_left_out_and_counted():
    table = read(TABLE + TABLE + TABLE)
    assert cells(table) == ROWS * 3
    assert table.notes == ("2 rows that repeat the header left out",)


@pytest.mark.parametrize("header", ["area,zone,price", "area,zone,price,"])
def test_an_empty_cell_at_the_end_of_every_row_is_left_out(header):
    table = read(header + "\n" + BODY.replace("\n", ",\n"))
    assert table.frame.columns == ["area", "zone", "price"]
    assert cells(table) == ROWS
    assert table.notes == ("1 empty column without a name left out",)


def test_a_delimiter_at_the_end_of_the_header_alone_is_no_column():
    assert cells(read(TABLE.replace("price", "price,"))) == ROWS


def test_names_of_rows_as_r_writes_them_are_a_column():
    text = TABLE.splitlines()
    table = read("\n".join([text[0], *(f"r{i},{row}" for i, row in enumerate(text[1:]))]))
    assert table.frame.columns == ["unnamed_1", "area", "zone", "price"]
    assert table.frame["unnamed_1"][0] == "r0"


@pytest.mark.parametrize(
    ("foot", "left_out"),
    [
        ("459,Total,1025225\n", 1),
        ("Gesamtsumme,,1025225\n", 1),
        ("459,,1025225\n", 1),
        ('"459,00",Summe:,"1.025.225,00"\n', 1),
        ("76.5,Average,170870.83\n", 1),
        ("459,Total,1025225\n76.5,Mean,170870.83\n", 2),
        ("459,TOTAL,1025225\nSource: the land registry,,\n", 2),
        ("Source: the land registry\n", 0),
        (",,\n,,\nNote: prices in USD,,\n", 3),
        ("60,Total Park,190000\n", 0),
        ("90,South,200000\n", 0),
        ("49,Minimum,97382\n", 1),
    ],
)
def test_totals_and_footnotes_are_left_out_and_rows_are_not(foot, left_out):
    table = read(TABLE + foot)
    kept = len(ROWS) + sum(1 for line in foot.splitlines() if line.count(",") > 1) - left_out
    assert table.frame.height == kept
    assert cells(table)[: len(ROWS)] == ROWS
    assert bool(table.notes) == (kept == len(ROWS))


def test_a_value_that_is_also_a_word_for_a_total_stays():
    rows = "area,quality,price\n1,Average,10\n2,Good,20\n1.5,Average,15\n"
    assert read(rows).frame.height == 3


GROUPS = """50,N,100.5
70,N,300
Subtotal,,400.5
60,S,200
80,S,250
90,S,1250.25
230,Sub-total South,"1,700.25"
40,W,90
,Total,90
30,E,10
"""


@pytest.mark.parametrize(
    ("rows", "foot", "total"),
    [
        (GROUPS, "", 3),
        (GROUPS, ",Grand total,2200.75\n", 3),
        (GROUPS.replace("400.5", "399"), "", 2),
        (GROUPS.replace("Subtotal", "Subtle"), "", 0),
        ("1,N,10\n2,N,20\n3,Total,30\n4,S,5\n5,S,6\n,Summe,11\n,Total,41\n9,S,1\n", "", 3),
        ("1,Total,10\n2,N,20\n3,Total,31\n4,S,5\n5,Total,6\n9,S,1\n", "", 0),
    ],
)
def test_totals_of_groups_within_a_table_are_left_out_and_counted(tmp_path, rows, foot, total):
    text = "area,zone,price\n" + rows + foot
    table = read(text)
    assert table.frame.height == rows.count("\n") - total
    said = [note for note in table.notes if "of rows above left out" in note]
    assert [note.partition(" row")[0] for note in said] == [str(total)] * (total > 0)
    (tmp_path / "rows.csv").write_text(text)
    contract = TableContract("t", "T", "t", (Column("area", "number"),), Target("price"))
    with open_table(tmp_path / "rows.csv", contract) as stream:
        pieces = list(stream.pieces(["area", "zone", "price"], 2))
    found = [row for piece in pieces for row in piece.batch.to_pylist()]
    assert [row["zone"] for row in found] == [zone or "" for zone in table.frame["zone"]]
    assert stream.notes == list(table.notes)


def test_few_ragged_rows_are_left_out_and_counted_and_many_are_an_error():
    text = TABLE + BODY * 40
    table = read(text.replace("54,North,165165", "54,North", 1))
    assert table.frame.height == 41 * len(ROWS) - 1
    assert "1 row left out for having more or fewer cells" in table.notes[0]
    with pytest.raises(SourceError, match=r"41 ragged row\(s\).*expected 3 cells.*got 2 in row 1"):
        read(text.replace("54,North,165165", "54,North"))


BOOK = {
    "About": [["A workbook of sales"]],
    "Sales": [
        [None, "Sales of 2022"],
        [],
        [None, "area", "zone", "sold", "price"],
        [None, 54, "North", dt.datetime(2022, 1, 31), 165165.5],
        [None, 61, "South", dt.datetime(2022, 2, 1), 116903.25],
        [None, None, "East", dt.datetime(2022, 3, 1), 178269.0],
        [None, 115, "Total", None, 460337.75],
        ["Source: the land registry"],
    ],
    "More": [["a", "b"], [1, 2]],
}


def test_the_first_sheet_that_holds_a_table_is_read_with_its_types():
    table = parse_file(workbook(BOOK), "t.xlsx")
    assert table.frame.columns == ["area", "zone", "sold", "price"]
    assert table.frame["area"].to_list() == [54, 61, None]
    assert table.frame["price"].to_list() == [165165.5, 116903.25, 178269.0]
    assert table.frame["sold"].dtype.is_temporal()
    assert (table.source.sheet, table.source.header_row) == ("Sales", 3)
    said = " ".join(table.notes)
    for words in ("sheet 'Sales' was read", "header is in line 3", "a total", "Source: the land"):
        assert words in said
    again = parse_file(workbook(BOOK), "t.xlsx", table.source)
    assert again.frame.equals(table.frame)


@pytest.mark.parametrize("sheet", ["More", "more", 3, "3"])
def test_a_sheet_is_chosen_by_name_or_number(sheet):
    assert parse_file(workbook(BOOK), "t.xlsx", Source(sheet=sheet)).frame.rows() == [(1, 2)]


def test_a_sheet_that_is_not_there_is_an_error_that_names_the_others():
    with pytest.raises(SourceError, match=r"no sheet 'X'.*'About', 'Sales', 'More'.*--sheet"):
        parse_file(workbook(BOOK), "t.xlsx", Source(sheet="X"))


def test_a_repeated_header_in_a_sheet_leaves_the_numbers_numbers():
    rows = [["area", "zone"], [1, "a"], [2, "b"], ["area", "zone"], [3, "c"]]
    table = parse_file(workbook({"s": rows}), "t.xlsx")
    assert table.frame.rows() == [(1, "a"), (2, "b"), (3, "c")]


def test_a_workbook_within_an_archive_is_read():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("sales.xlsx", workbook(BOOK))
    assert read(buffer.getvalue()).frame.height == 3


def test_a_workbook_that_would_fill_the_memory_is_refused(monkeypatch):
    far = [["a", "b"], [1, 2], *[[]] * 2000, [None] * 200 + [1]]
    monkeypatch.setattr(workbook_reader, "MAX_CELLS", 100_000)
    with pytest.raises(SourceError, match="expected at most 100000 cells, got 2003 rows of 201"):
        parse_file(workbook({"s": far}), "t.xlsx")
    monkeypatch.setattr(workbook_reader.archives, "MAX_UNPACKED_BYTES", 10_000)
    with pytest.raises(SourceError, match="too large once unpacked"):
        parse_file(workbook({"s": [["a"]] * 1000}), "t.xlsx")


def test_a_damaged_or_protected_workbook_is_an_error_of_one_line():
    whole = workbook(BOOK)
    with pytest.raises(SourceError, match="damaged or cut short"):
        parse_file(whole[:-200], "t.xlsx")
    protected = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le")
    with pytest.raises(SourceError, match="protected by a password"):
        parse_file(protected, "t.xlsx")
    with pytest.raises(SourceError, match=r"workbook t.xls cannot be read.*save it again"):
        parse_file(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "t.xls")


@pytest.mark.parametrize(
    "data",
    [
        json.dumps([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]).encode(),
        b'{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n',
        b'{"count": 2, "rows": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]}',
    ],
)
def test_json_objects_are_rows(data):
    assert cells(read(data)) == [(1, "x"), (2, "y")]


def test_an_arrow_file_keeps_its_types():
    buffer = io.BytesIO()
    frame = pl.DataFrame({"a": [1, 2], "b": [dt.date(2022, 1, 1), None]})
    frame.write_ipc(buffer)
    assert read(buffer.getvalue()).frame.equals(frame)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html><table><tr><td>1</td></tr></table>", "a web page.*save it as .xlsx or CSV"),
        (b"%PDF-1.7", "a PDF document"),
        (b"SQLite format 3\x00" + bytes(100), "SQLite database.*--sql"),
        (b"<stata_dta><header>", "a Stata file"),
        (b"$FL2@(#) SPSS", "an SPSS file"),
        (b"\x80\x04\x95", "a Python pickle"),
        (gzip.compress(b"RDX3\nX\n", mtime=0), "an R data file"),
        (b'[{"a": {"b": 1}}]', "objects within objects.*json_normalize"),
        (b"[1, 2]", "JSON, but no table"),
        (b'{"a": 1', "not valid JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_other_kinds_of_files_are_named_with_a_way_out(data, words):
    with pytest.raises(SourceError, match=words):
        read(data)


def test_files_of_one_pattern_are_one_table(tmp_path):
    (tmp_path / "sales_1.csv").write_text("area,zone\n1,a\n")
    (tmp_path / "sales_2.csv").write_text("zone;area;pool\nb;2;yes\n")
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    pattern = str(tmp_path / "sales_*.csv")
    table = read_source(pattern)
    assert cells(table) == [("1", "a", None), ("2", "b", "yes")]
    assert "2 files were read as one table: sales_1.csv, sales_2.csv" in table.notes
    assert "the column 'pool' is missing in sales_1.csv: empty there" in table.notes
    assert table.source.paths == (pattern,)
    with pytest.raises(SourceError, match=r"no file matches .*nothing_\*"):
        read_source(str(tmp_path / "nothing_*.csv"))
    with pytest.raises(SourceError, match=r"sales_1.csv has no column of .*other.csv"):
        read_source(str(tmp_path / "*.csv"))


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "sales.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE sales (area REAL, zone TEXT, price INTEGER, at TEXT)")
        connection.executemany(
            "INSERT INTO sales VALUES (?, ?, ?, '10:30')",
            [(1.5, "a", 100), (2.5, None, 200), (3, "c:d", 2**40)],
        )
    connection.close()
    return f"sqlite:///{path}"


def test_a_query_s_rows_are_a_typed_table(database):
    query = "SELECT area, zone, price, at FROM sales WHERE at = '10:30' ORDER BY price;"
    table = read_source(Source(sql=SqlQuery(database, query)))
    assert table.frame["price"].to_list() == [100, 200, 2**40]
    assert table.frame["zone"].to_list() == ["a", None, "c:d"]
    assert table.source.sql == SqlQuery(database, query)


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        ("SELECT nowhere FROM sales", SourceError, "no such column: nowhere"),
        ("DELETE FROM sales", ConfigError, "does not read rows"),
        ("WITH a AS (SELECT 1) DELETE FROM sales", SourceError, "readonly|query_only"),
        ("SELECT * FROM sales WHERE price < 0", SourceError, "gives no rows"),
    ],
)
def test_a_query_that_fails_or_writes_is_an_error_of_one_line(database, query, error, words):
    with pytest.raises(error, match=words) as caught:
        read_source(Source(sql=SqlQuery(database, query)))
    assert "\n" not in str(caught.value)
    assert read_source(Source(sql=SqlQuery(database, "SELECT * FROM sales"))).frame.height == 3


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///nowhere.db", "there is no database"),
        ("postgresql://u:geheim@127.0.0.1:1/d", "postgresql://u@127.0.0.1:1/d failed"),
        ("nonsense://u:geheim@h/d", "knows no database 'nonsense'"),
        ("no address geheim", "address cannot be read"),
    ],
)
def test_a_database_that_cannot_be_reached_is_named_without_its_password(url, words):
    with pytest.raises((SourceError, ConfigError), match=words) as caught:
        read_source(Source(sql=SqlQuery(url, "SELECT 1")))
    assert "geheim" not in str(caught.value)


def test_a_password_does_not_get_into_a_contract(database):
    table = {"name": "t", "target": {"name": "y"}, "columns": {"x": {"kind": "number"}}}
    for url in ("postgresql://u:geheim@h/d", "postgresql://h/d?user=u&password=geheim"):
        sql = {"url": url, "query": "SELECT 1"}
        with pytest.raises(ContractError, match="TASADOR_SQL_PASSWORD") as caught:
            from_dict({**table, "source": {"sql": sql}})
        assert "geheim" not in str(caught.value)
    sql = {"url": "postgresql://u@h/d", "query": "SELECT 1"}
    source = {"sql": sql, "encoding": "cp1252", "header_row": 3, "has_header": False, "sheet": 2}
    contract = from_dict({**table, "source": source})
    assert from_dict(contract.to_dict()) == contract
    assert contract.source.sql == SqlQuery(**sql)


def test_cells_kept_as_texts_by_a_spreadsheet_lose_its_marks() -> None:
    text = "zip,a\n" + "".join(f'="0{i}",\'0{i}\n' for i in range(1000, 1009))
    frame = parse_file(text.encode(), "t").frame
    assert frame.row(0) == ("01000", "01000")
    quoted = 'zip;a\n"=""01000""";x\n"=""01001""";y\n'
    assert parse_file(quoted.encode(), "t").frame["zip"].to_list() == ["01000", "01001"]


@pytest.mark.parametrize("above", ["Report of May\n", "# exported\n# by me\n", "A title,\n\n"])
def test_two_columns_of_numbers_below_a_title_are_two(above: str) -> None:
    frame = parse_file((above + "a,price\n98,120\n62,168\n160,271\n90,127\n").encode(), "t").frame
    assert frame.columns == ["a", "price"]


PLACES = {
    "cp1251": ("площадь", "цена", ["Центр", "Северный район", "Заречье"], "руб."),
    "cp932": ("面積", "価格", ["渋谷", "新宿区", "さくら"], "万円"),
    "euc_kr": ("면적", "가격", ["서울", "부산", "강남구"], "원"),
    "gb18030": ("面积", "价格", ["朝阳区", "海淀区", "西城"], "元"),
    "cp1253": ("εμβαδόν", "τιμή", ["Αθήνα", "Πειραιάς", "Θεσσαλονίκη"], ""),
    "cp1252": ("Fläche", "Preis", ["Köln", "Übersee", "Ñuñoa"], "€"),
}


@pytest.mark.parametrize("encoding", PLACES)
@pytest.mark.parametrize("rows", [40, 20_000])
def test_a_text_in_another_alphabet_is_read_as_such(encoding: str, rows: int) -> None:
    area, price, places, unit = PLACES[encoding]
    lines = [f"{i};{3 * i} {unit};{places[i % 3]}" for i in range(rows)]
    text = "\n".join([f"{area};{price};zone", *lines])
    read = parse_file(text.encode(encoding), "t")
    assert (read.source.encoding, read.frame.columns) == (encoding, [area, price, "zone"])
    assert read.frame["zone"][-1] == places[(rows - 1) % 3]
    assert "the text is not UTF-8: read as" in read.notes[0]


@pytest.mark.parametrize("text", ["x;ÄÖÜ", "größe;ÄÖÜÄ;naïve", "a;5 °C;½;é è à ù", "À É Ô;ÇÀ"])
def test_western_letters_beside_each_other_stay_western(text: str) -> None:
    read = parse_file(("a;b\n" + f"{text}\n" * 40).encode("cp1252"), "t", Source(delimiter="#"))
    assert read.source.encoding == "cp1252"
