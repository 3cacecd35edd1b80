"""`init` and `run` take files as they arrive, and say how they read them."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fixtures.workbooks import workbook
from tasador.cli.app import main
from tasador.contract.model import Source
from tasador.contract.reader import read_contract, write_contract
from tasador.data.table_stream import open_table
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.table_reader import Fields
from tasador.ops.init_contract import infer_contract
from tasador.ops.monitor_files import Comparison, monitor_files

Said = tuple[int, str]
Run = Callable[..., Said]


def _rows() -> list[tuple[int, str, int]]:
    rng = np.random.default_rng(7)
    areas = rng.integers(40, 200, 150)
    prices = areas * 2000 + rng.integers(0, 50_000, 150)
    return [
        (int(a), "NESW"[i % 4], int(p)) for i, (a, p) in enumerate(zip(areas, prices, strict=True))
    ]


ROWS = _rows()
LINES = [f"{a},{z},{p}" for a, z, p in ROWS]
TABLE = "\n".join(["area,zone,price", *LINES]) + "\n"
TOTAL = f"{sum(r[0] for r in ROWS)},Total,{sum(r[2] for r in ROWS)}\n"


@pytest.fixture
def tasador(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command line in this process, which spares the imports, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["tasador", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), re.sub(r"\s+", " ", said.out + said.err)

    return run


def source_of(name: str) -> dict[str, Any]:
    text = Path(f"conf/dataset/{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text)["source"])


@pytest.mark.parametrize(
    ("file", "data", "options", "said", "source"),
    [
        ("cr.csv", TABLE.replace("\n", "\r").encode(), [], "", {}),
        ("tabs.tsv", TABLE.replace(",", "\t").encode("utf-16"), [], "", {"delimiter": "\t"}),
        ("windows.csv", TABLE.replace("N", "Süd").encode("cp1252"), [], "Windows-1252",
         {"encoding": "cp1252"}),
        ("cyrillic.csv", TABLE.replace("N", "юг-2").encode("cp1251"), ["--encoding", "cp1251"],
         "юг-2", {"encoding": "cp1251"}),
        ("japan.csv", TABLE.replace("N", "南").encode("shift_jis"), ["--encoding", "Shift_JIS"],
         "南", {"encoding": "Shift_JIS"}),
        ("ascii.csv", TABLE.replace("N", "南").encode("iso2022_jp"), ["--encoding", "iso2022_jp"],
         "南", {"encoding": "iso2022_jp"}),
        ("host.csv", TABLE.encode("cp037"), ["--encoding", "cp037"], "", {"encoding": "cp037"}),
        ("wide.csv", TABLE.encode("utf-16-le"), ["--encoding", "utf-16-le"], "",
         {"encoding": "utf-16-le"}),
        ("plain.csv", TABLE.encode(), ["--encoding", "cp1251"], "", {"encoding": "cp1251"}),
        ("other.csv", TABLE.replace("N", "юг").encode(), ["--encoding", "cp1251"],
         "the text is UTF-8 and was read so, not as cp1251", {}),
        ("title.csv", ("Sales of 2022,,\n,,\n" + TABLE).encode(), [], "header is in line 3",
         {"header_row": 3}),
        ("total.csv", (TABLE + TOTAL).encode(), [], "a total at the foot", {}),
        ("again.csv", (TABLE + "area,zone,price\n").encode(), [], "1 row that repeat", {}),
        ("surplus.csv", TABLE.replace("\n", ",\n").encode(), [], "1 empty column", {}),
        ("twice.csv", TABLE.replace("area,", "area,area,", 1).replace("\n", "\n7,").encode()[:-2],
         [], "one is called 'area_2'", {}),
        ("sheet.xlsx", workbook({"About": [["x"]], "Sales": [["area", "zone", "price"], *ROWS]}),
         ["--sheet", "Sales"], "", {"sheet": "Sales"}),
    ],
)  # fmt: skip
def test_a_file_of_any_form_becomes_a_contract_that_reads_it_again(
    tasador: Run, file: str, data: bytes, options: list[str], said: str, source: dict[str, Any]
) -> None:
    Path(file).write_bytes(data)
    code, text = tasador("init", file, "--target", "price", "--name", "mine", *options)
    assert code == 0, text
    assert said in text
    assert source.items() <= source_of("mine").items()
    code, text = tasador("run", "dataset=mine", "steps=[segregate]", "tracking=none")
    assert code == 0, text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("klingon", "unknown encoding 'klingon'"),
        ("rot13", "unknown encoding 'rot13'"),
        ("", "unknown encoding ''"),
        ("cp932", "table.csv is not cp932 text"),
    ],
)
def test_an_encoding_that_does_not_fit_the_file_is_refused(
    tasador: Run, name: str, said: str
) -> None:
    Path("table.csv").write_bytes(TABLE.replace("N", "S\xfcd").encode("latin-1"))
    code, text = tasador("init", "table.csv", "--target", "price", "--encoding", name)
    assert (code in (2, 3), said in text) == (True, True), text
    assert not Path("conf").exists()


def test_a_named_encoding_holds_beyond_the_beginning_of_a_file(tmp_path: Path) -> None:
    first = TABLE.splitlines(keepends=True)[0]
    text = first + "70,N,100000\n" * 100_000 + "70,юг,100000\n"
    file = tmp_path / "long.csv"
    file.write_bytes(text.encode("cp1251"))
    (tmp_path / "short.csv").write_text(TABLE)
    contract = infer_contract(str(tmp_path / "short.csv"), "price").contract
    with open_table(str(file), contract, Source(encoding="cp1251")) as table:
        last = [
            piece.batch.column("zone").to_pylist()[-1] for piece in table.pieces(["zone"], 9999)
        ]
    assert last[-1] == "юг"


def test_a_table_without_a_header_is_said_to_be_one_and_gets_numbered_columns(tasador: Run) -> None:
    Path("bare.csv").write_text("\n".join(LINES) + "\n")
    first = str(ROWS[0][2])
    code, text = tasador("init", "bare.csv", "--target", first, "--name", "named")
    assert (code, "the first row looks like data" in text) == (0, True)
    code, text = tasador(
        "init", "bare.csv", "--target", "column_3", "--no-header", "--name", "mine"
    )
    assert code == 0, text
    assert source_of("mine")["has_header"] is False
    code, text = tasador("run", "dataset=mine", "steps=[segregate]", "tracking=none")
    assert code == 0, text


def test_files_of_one_pattern_become_one_contract(tasador: Run) -> None:
    Path("sales_1.csv").write_text("\n".join(["area,zone,price", *LINES[:70]]))
    Path("sales_2.csv").write_text("\n".join(["area,zone,price", *LINES[70:]]))
    code, text = tasador("init", "sales_*.csv", "--target", "price", "--name", "mine")
    assert code == 0, text
    assert "2 files were read as one table" in text
    assert source_of("mine")["paths"][0].endswith("sales_*.csv")
    code, text = tasador("run", "dataset=mine", "steps=[segregate]", "tracking=none")
    assert code == 0, text


def test_a_query_becomes_a_contract_without_the_password(
    tasador: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect("sales.db") as connection:
        connection.execute("CREATE TABLE sales (area REAL, zone TEXT, price REAL)")
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?)", ROWS)
    connection.close()
    query = "SELECT area, zone, price FROM sales"
    url = "sqlite:///sales.db"
    code, text = tasador("init", "--sql", url, query, "--target", "price", "--name", "mine")
    assert code == 0, text
    assert source_of("mine")["sql"] == {"url": url, "query": query}
    code, text = tasador("run", "dataset=mine", "steps=[segregate]", "tracking=none")
    assert code == 0, text
    Path("sales.db").unlink()
    code, text = tasador(
        "run", "dataset=mine", "steps=[segregate]", "tracking=none", "storage.workspace=other"
    )
    assert (code, "there is no database" in text) == (3, True)
    assert not Path("sales.db").exists()


def test_init_needs_a_file_or_a_query(tasador: Run) -> None:
    code, text = tasador("init", "--target", "price")
    assert (code, "a file, or --sql URL QUERY" in text) == (2, True)


SHEETS = {"About": [["x"], ["y"]], "Sales": [["Sales of 2022"], ["area", "zone", "price"], *ROWS]}


@pytest.mark.parametrize(
    ("file", "data", "sheet"),
    [
        ("now.xlsx", workbook(SHEETS), None),
        ("now.xlsx", workbook(SHEETS), "Sales"),
        ("now.csv", ("Sales,,\n" + TABLE + TOTAL).replace("N", "Süd").encode("cp1252"), None),
        ("now.csv", TABLE.replace(",", ";").replace("\n", "\r").encode("utf-16"), None),
        ("now_1.csv", ("area,zone,price\n" + TABLE).encode(), None),
    ],
)
def test_monitor_reads_files_as_init_does(
    tmp_path: Path, file: str, data: bytes, sheet: str | None
) -> None:
    then = tmp_path / "then.csv"
    then.write_text(TABLE)
    written = tmp_path / "mine.yaml"
    written.write_text(write_contract(infer_contract(str(then), "price").contract))
    (tmp_path / file).write_bytes(data)
    now = str(tmp_path / file.replace("_1", "_*"))
    for contract in (None, written):
        for before, after in ((str(then), now), (now, str(then))):
            asked = Source(sheet=sheet if after == now else None)
            found, _ = monitor_files(
                Comparison(before, after, Fields("price"), contract, source=asked), Thresholds()
            )
            assert (found.rows, found.reference_rows) == (len(ROWS), len(ROWS))
            assert "taken as missing" not in str(found.findings)


def test_monitor_takes_a_sheet_and_tables_without_a_header(tasador: Run) -> None:
    Path("book.xlsx").write_bytes(workbook({**SHEETS, "Later": SHEETS["Sales"][1:50]}))
    words = ("monitor", "--reference", "book.xlsx", "--current", "book.xlsx", "--json", "v.json")
    code, text = tasador(*words, "--sheet", "Later")
    assert json.loads(Path("v.json").read_text())["rows"] == 48, text
    code, text = tasador(*words, "--sheet", "Sooner")
    assert (code, "has no sheet 'Sooner'" in text) == (3, True)
    Path("bare.csv").write_text("\n".join(LINES) + "\n")
    code, text = tasador(
        "monitor", "--reference", "bare.csv", "--current", "bare.csv", "--no-header",
        "--target", "column_3", "--json", "v.json",
    )  # fmt: skip
    assert json.loads(Path("v.json").read_text())["rows"] == len(ROWS), text


def test_a_workbook_without_the_sheet_of_the_contract_is_read_by_its_columns(
    tasador: Run,
) -> None:
    Path("then.xlsx").write_bytes(workbook({"Sales 2022": SHEETS["Sales"], "Notes": [["x"]]}))
    code, text = tasador("init", "then.xlsx", "--target", "price", "--name", "mine")
    assert (code, source_of("mine")["sheet"]) == (0, "Sales 2022"), text
    Path("now.xlsx").write_bytes(workbook({"Notes": [["x"], ["y"]], "2023": SHEETS["Sales"]}))
    contract = read_contract(Path("conf/dataset/mine.yaml"))
    with open_table("now.xlsx", contract) as table:
        assert sum(len(piece) for piece in table.pieces(["area"], 1000)) == len(ROWS)
        assert table.notes[0] == "there is no sheet 'Sales 2022': '2023' was read, by its columns"
