"""`tasador score`: whole files, as the service answers them, each finished exactly once."""

from __future__ import annotations

import csv
import gzip
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from fixtures.process import unmeasured
from fixtures.workbooks import workbook
from tasador.cli.app import main
from tasador.registry.model_bundle import ModelBundle

Run = Callable[..., tuple[int, str, str]]
MADE = [
    "prediction", "lower", "upper", "warnings", "error", "fsd", "confidence_class", "no_value"
]  # fmt: skip


@pytest.fixture
def score(
    tmp_path: Path,
    written_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run `tasador score` in this process, in a folder of its own, with the bundle of houses."""

    def run(*words: str, bundle: str | None = None, command: str = "score") -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        chosen = bundle or str(written_bundle)
        monkeypatch.setattr(sys, "argv", ["tasador", command, *words, "--bundle", chosen])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err

    return run


def houses(n: int, seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "id": [f"h{i}" for i in range(n)],
            "lon": rng.uniform(-4.0, -3.0, n),
            "lat": rng.uniform(40.0, 41.0, n),
            "income": rng.lognormal(1.0, 0.4, n),
            "rooms": pa.array(rng.integers(1, 9, n), mask=rng.random(n) < 0.05),
            "area": rng.uniform(30.0, 300.0, n),
            "kind": rng.choice(["flat", "house", "villa"], n).tolist(),
        }
    )


def as_csv(table: pa.Table, mark: str = ",") -> str:
    lines = [mark.join(table.column_names)]
    lines += [
        mark.join("" if cell is None else str(cell) for cell in row.values())
        for row in table.to_pylist()
    ]
    return "\n".join(lines) + "\n"


def left_in(folder: Path) -> set[str]:
    """Names of the results, and of anything half written."""
    return {p.name for p in folder.rglob("*") if p.name != ".tasador-score.lock" and p.is_file()}


def test_a_csv_with_torn_lines_is_answered_as_by_a_running_service(
    score: Run, client: httpx.Client, tmp_path: Path
):
    lines = as_csv(houses(3_000), ";").splitlines()
    lines[7] = lines[7].replace("villa", "barn").replace("house", "barn").replace("flat", "barn")
    lines.insert(4, "1;2;3")
    lines.insert(5, "")
    lines.insert(900, lines[900] + ";9;9")
    lines[2_000] = lines[2_000].replace(".", "x", 1)
    lines += [lines[0], "only one", lines[2], "only one"]
    content = "\n".join(lines)
    (tmp_path / "in.csv").write_text(content)
    code, out, err = score("in.csv", "--output", "out.csv", "--batch-rows", "500")
    assert code == 0
    assert "scored 3,004 rows of 1 file to out.csv" in out
    assert "in.csv: 1 row that repeats the header left out" in err
    assert "in.csv: 1 line below the table left out ('only one')" in err
    assert "SYNTHETIC DATA" in err
    assert "refused: 5 rows" in err
    answer = client.post("/api/v1/score", content=content, headers={"content-type": "text/csv"})
    its = list(csv.DictReader(answer.text.splitlines()))
    mine = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(mine) == len(its) == 3_004
    for one, other in zip(mine, its, strict=True):
        assert (one["row"], one["error"]) == (other["row"], other["error"])
        assert one["warnings"] == other["warnings"]
        for name in ("prediction", "lower", "upper"):
            assert one[name] == other[name] == "" or float(one[name]) == float(other[name])


def test_parquet_comes_out_as_parquet_with_the_version_inside(
    score: Run, house_bundle: ModelBundle, tmp_path: Path
):
    table = houses(1_000)
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=300)
    code, out, _ = score("in.parquet", "-o", "result", "--columns", "id,kind", "--workers", "3")
    assert code == 0
    found = parquet.read_table(tmp_path / "result" / "in.parquet")
    assert found.column_names == ["row", "id", "kind", *MADE]
    assert found.column("row").to_pylist() == list(range(1, 1_001))
    assert found.column("id").to_pylist() == table.column("id").to_pylist()
    rows = [{k: v for k, v in row.items() if k != "id"} for row in table.to_pylist()]
    valued = house_bundle.value_rows(rows)
    assert found.column("prediction").to_pylist() == [one.prediction for one in valued]
    assert found.schema.metadata[b"tasador.version"].decode() == house_bundle.version
    assert found.schema.metadata[b"tasador.origin"] == b"synthetic"
    assert house_bundle.version in out


def test_all_columns_or_none_are_handed_on(score: Run, tmp_path: Path):
    parquet.write_table(houses(10), tmp_path / "in.parquet")
    assert score("in.parquet", "-o", "all.parquet", "--columns", "*")[0] == 0
    names = parquet.read_schema(tmp_path / "all.parquet").names
    assert names == ["row", *houses(1).column_names, *MADE]
    assert score("in.parquet", "-o", "none.csv", "--columns", "none")[0] == 0
    assert (tmp_path / "none.csv").read_text().splitlines()[0].count(",") == len(MADE)


def test_finished_files_are_skipped_until_something_changes(
    score: Run, tmp_path: Path, written_bundle: Path
):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.csv").write_text(as_csv(houses(50)))
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(as_csv(houses(60)).encode()))
    code, out, _ = score("*.csv*", "--output", "out", "--format", "parquet")
    assert code == 0
    assert "scored 210 rows of 4 files" in out
    results = {f"{name}.parquet" for name in "abcd"} | {"_tasador_score.json"}
    assert left_in(tmp_path / "out") == results
    ledger = json.loads((tmp_path / "out" / "_tasador_score.json").read_text())
    assert ledger["files"]["d.parquet"]["rows"] == 60

    def again(*words: str) -> tuple[str, set[str]]:
        before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
        code, out, _ = score("*.csv*", "--output", "out", "--format", "parquet", *words)
        assert code == 0
        after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
        return out, {n for n in after if after[n] != before[n]} - {"_tasador_score.json"}

    said, changed = again()
    assert "4 finished before" in said
    assert changed == set()
    (tmp_path / "a.csv").write_text(as_csv(houses(51)))
    (tmp_path / "out" / "b.parquet").write_bytes(b"damaged")
    (tmp_path / "out" / "c.parquet").unlink()
    (tmp_path / "out" / "c.parquet").write_bytes(b"")
    assert again()[1] == {"a.parquet", "b.parquet", "c.parquet"}
    assert again("--columns", "none")[1] == {f"{name}.parquet" for name in "abcd"}
    assert again("--columns", "none", "--force")[1] == {f"{name}.parquet" for name in "abcd"}
    (tmp_path / "out" / "_tasador_score.json").write_text("{]")
    assert again("--columns", "none")[1] == {f"{name}.parquet" for name in "abcd"}


def test_a_named_encoding_is_how_files_are_read(score: Run, tmp_path: Path):
    text = as_csv(houses(20))
    (tmp_path / "plain.csv").write_text(text)
    (tmp_path / "host.csv").write_bytes(text.encode("cp037"))
    to = str(tmp_path / "out")
    assert score(str(tmp_path / "plain.csv"), "-o", to)[0] == 0
    code, _, err = score(str(tmp_path / "host.csv"), "-o", to)
    assert (code, "Traceback" in err) == (3, False)
    code, _, err = score(str(tmp_path / "host.csv"), "-o", to, "--encoding", "cp037")
    assert code == 0, err
    results = [(tmp_path / "out" / name).read_text() for name in ("plain.csv", "host.csv")]
    assert results[0] == results[1]
    code, out, err = score(str(tmp_path / "plain.csv"), "-o", to, "--encoding", "cp037")
    assert "finished before" not in out + err, "read in another way it is another table"


def test_predict_and_score_read_the_sheet_that_is_named(score: Run, tmp_path: Path):
    def cells(n: int) -> list[list[object]]:
        table = houses(n)
        return [table.column_names, *(list(row.values()) for row in table.to_pylist())]

    (tmp_path / "book.xlsx").write_bytes(workbook({"Now": cells(6), "Later": cells(9)}))
    for sheet, rows in (("Now", 6), ("Later", 9), ("2", 9)):
        code, out, err = score("book.xlsx", "--sheet", sheet, command="predict")
        assert (code, len(out.splitlines())) == (0, rows + 1), err
        code, _, err = score("book.xlsx", "-o", "out.csv", "--sheet", sheet)
        assert code == 0, err
        scored = (tmp_path / "out.csv").read_text().splitlines()
        assert len(scored) == rows + 1
    for words in (["--sheet", "Sooner"], ["-o", "out.csv", "--sheet", "Sooner"]):
        command = "score" if "-o" in words else "predict"
        code, out, err = score("book.xlsx", *words, command=command)
        assert (code, "has no sheet 'Sooner'" in out + err) == (3, True)


def test_predict_reads_a_file_in_the_encoding_that_is_named(score: Run, tmp_path: Path):
    text = as_csv(houses(5))
    (tmp_path / "plain.csv").write_text(text)
    (tmp_path / "host.csv").write_bytes(text.encode("cp037"))
    asked = ("host.csv", "--encoding", "cp037")
    assert score(*asked, command="predict")[1] == score("plain.csv", command="predict")[1]


def test_inputs_of_one_name_keep_their_folders(score: Run, tmp_path: Path):
    for year in ("y=1", "y=2"):
        (tmp_path / year).mkdir()
        parquet.write_table(houses(5), tmp_path / year / "part.parquet")
    (tmp_path / "y=1" / "part.csv").write_text(as_csv(houses(7)))
    assert score("y=*/part.parquet", "-o", "one")[0] == 0
    assert (tmp_path / "one" / "y=2" / "part.parquet").exists()
    assert score("y=*/part.*", "-o", "two", "--format", "csv")[0] == 0
    found = {str(p.relative_to(tmp_path / "two")) for p in (tmp_path / "two").rglob("*.csv")}
    assert found == {"y=1/part.csv.csv", "y=1/part.parquet.csv", "y=2/part.parquet.csv"}


def test_a_bad_file_does_not_stop_the_others(score: Run, tmp_path: Path):
    (tmp_path / "a.csv").write_text(as_csv(houses(20).drop_columns(["income", "kind"])))
    (tmp_path / "b.csv").write_text(as_csv(houses(20)))
    (tmp_path / "c.csv").write_bytes(b"")
    whole = as_csv(houses(9_000)).encode()
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(whole)[:-2_000])
    code, out, err = score("*.csv*", "-o", "out", "--batch-rows", "100")
    assert code == 3
    assert "scored 20 rows of 1 file" in out
    assert "a.csv: columns of the contract are missing" in err
    assert "got no income, kind among id, lon" in err
    assert "c.csv is empty" in err
    assert "d.csv.gz cannot be read" in err
    assert "3 of 4 files were not scored: a.csv, c.csv, d.csv.gz" in err
    assert left_in(tmp_path / "out") == {"b.csv", "_tasador_score.json"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["in.csv", "-o", "out.csv", "--columns", "nobody"], 3, "'nobody' is not there to be kept"),
        (["in.csv", "-o", "out.csv", "--columns", "row"], 2, "'row' cannot be kept"),
        (["in.csv", "in.parquet", "-o", "out.csv"], 2, "2 files cannot be written to the one file"),
        (["in.csv", "./in.csv", "in.csv", "-o", "x/out.csv"], 2, "2 files cannot be written"),
        (["gone.csv", "-o", "out.csv"], 3, "there is no file gone.csv"),
        (["gone*.csv", "-o", "out.csv"], 3, "no file is called gone*.csv"),
        ([".", "-o", "out.csv"], 3, "is a folder"),
        (["words.txt", "-o", "out.csv"], 3, "columns of the contract are missing"),
        (["bytes.csv", "-o", "out.csv"], 3, "the archive bytes.csv is damaged"),
        (["in.csv", "-o", "in.csv/x.csv"], 7, "a part of its path is a file"),
        (["in.csv", "-o", "in.csv/x"], 7, "cannot write to in.csv/x"),
        (["lists.parquet", "-o", "out.csv", "--columns", "*"], 3, "holds lists or objects"),
        (["in.csv", "-o", "out.csv", "--workers", "0"], 2, "--workers"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(
    score: Run, tmp_path: Path, words: list[str], code: int, message: str
):
    (tmp_path / "in.csv").write_text(as_csv(houses(5)))
    (tmp_path / "words.txt").write_text("once upon a time\nthere was a file\n")
    (tmp_path / "bytes.csv").write_bytes(b"PK\x03\x04\x00\x00")
    parquet.write_table(houses(5), tmp_path / "in.parquet")
    lists = houses(2).append_column("seen", [[[1], [2, 3]]])
    parquet.write_table(lists, tmp_path / "lists.parquet")
    found, _, err = score(*words)
    assert message in err
    assert found == code
    assert not (tmp_path / "out.csv").exists()


def test_a_table_without_rows_gives_one(score: Run, tmp_path: Path):
    (tmp_path / "a.csv").write_text("id,lon,lat,income,rooms,area,kind")
    parquet.write_table(houses(3).slice(0, 0), tmp_path / "b.parquet")
    code, out, _ = score(
        "a.csv", "b.parquet", "-o", "out", "--format", "parquet", "--columns", "id"
    )
    assert code == 0
    assert "scored 0 rows of 2 files" in out
    for name in ("a", "b"):
        found = parquet.read_table(tmp_path / "out" / f"{name}.parquet")
        assert found.column_names == ["row", "id", *MADE]


def test_a_damaged_bundle_and_an_unknown_version_are_refused(score: Run, tmp_path: Path):
    (tmp_path / "in.csv").write_text(as_csv(houses(5)))
    assert score("in.csv", "-o", "out.csv", bundle="./nothing")[0] == 5
    code, _, err = score("in.csv", "-o", "out.csv", bundle="champion")
    assert (code, "there is no model registry" in err) == (6, True)


def test_two_runs_do_not_write_to_one_folder(score: Run, tmp_path: Path):
    import fcntl

    (tmp_path / "in.csv").write_text(as_csv(houses(5)))
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".tasador-score.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = score("in.csv", "-o", "out")
    assert (code, "another run writes to out" in err) == (7, True)
    (tmp_path / "out" / ".in.csv.0123abcd.tmp").write_text("of a killed run")
    assert score("in.csv", "-o", "out")[0] == 0
    assert left_in(tmp_path / "out") == {"in.csv", "_tasador_score.json"}


def started(
    folder: Path, bundle: Path, *words: str, file_limit: int | None = None
) -> subprocess.Popen[str]:
    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))

    return subprocess.Popen(
        [sys.executable, "-m", "tasador.cli.app", "score", *words, "--bundle", str(bundle)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=unmeasured(),
        preexec_fn=limit,
    )  # fmt: skip


def test_an_interrupted_run_leaves_no_half_file_and_goes_on(
    score: Run, tmp_path: Path, written_bundle: Path
):
    parquet.write_table(houses(50), tmp_path / "a.parquet")
    parquet.write_table(pa.concat_tables([houses(20_000)] * 8), tmp_path / "b.parquet")
    out = tmp_path / "out"
    words = ("*.parquet", "-o", "out", "--batch-rows", "500")
    process = started(tmp_path, written_bundle, *words)
    end = time.monotonic() + 60
    while not list(out.glob(".b.parquet.*.tmp")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command to go on" in err
    assert left_in(out) == {"a.parquet", "_tasador_score.json"}
    code, said, _ = score("*.parquet", "-o", "out")
    assert code == 0
    assert "scored 160,000 rows of 1 file" in said
    assert "1 finished before" in said


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, written_bundle: Path):
    parquet.write_table(houses(3_000), tmp_path / "a.parquet")
    process = started(tmp_path, written_bundle, "a.parquet", "-o", "out", file_limit=20_000)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 7, err
    assert "the file would be too large" in err
    assert left_in(tmp_path / "out") == set()
