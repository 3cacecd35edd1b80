"""Whatever a user gets wrong ends with a clear message and a documented exit code."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import http.server
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fixtures.command_line import run_here
from fixtures.process import coverage_paused, unmeasured
from tasador.data.synthetic import generate
from tasador.registry.bundle_stores import newest_bundle

N = 200
pytestmark = pytest.mark.usefixtures("quick_pictures")
SEGREGATE = ["steps=[segregate]", "tracking=none"]
HOUSING = [
    "dataset.source.sha256=[]",
    "download.offline=true",
    "download.synthetic_rows=300",
    "impute.min_gap_share=1",
    "selection.folds=2",
    "selection.families={ridge:{alpha:[1.0]},lightgbm:{n_estimators:[10,20,400],num_leaves:[7]},"
    "random_forest:{n_estimators:[5]}}",
    *(
        f"~selection.families.{name}"
        for name in (
            "hist_gradient_boosting",
            "gradient_boosting",
            "extra_trees",
            "decision_tree",
            "lasso",
        )
    ),
    "sweep.trials=0",
    "sweep.slowdown=1.0",
    "features.cross_fit_folds=3",
    "register.parity_rows=500",
    "register.bootstrap_draws=20",
    "register.spatial_folds=2",
    "register.average=1",
]
REAL = [*HOUSING, "dataset.source.paths=[housing.csv]"]

Columns = dict[str, list[object]]
Said = tuple[int, str, str]
Run = Callable[..., Said]


@pytest.fixture
def tasador(tmp_path: Path) -> Run:
    """Run the command line in a folder of its own."""
    return lambda *words, folder=tmp_path: run_here(folder, *words)


def start(folder: Path, *words: str, file_limit: int | None = None) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, with a largest file size if asked for."""

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))

    return subprocess.Popen(
        [sys.executable, "-m", "tasador.cli.app", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
        env=unmeasured(),
    )


def columns(rows: int = N) -> Columns:
    random = np.random.default_rng(7)
    size = random.uniform(20, 200, rows).round(1)
    return {
        "size": size.tolist(),
        "year": random.integers(1950, 2020, rows).tolist(),
        "town": random.choice(["Avila", "Lugo", "Rio"], rows).tolist(),
        "price": (1000 * size * random.lognormal(0, 0.2, rows)).round().tolist(),
    }


def as_csv(table: Columns, mark: str = ",") -> str:
    rows = zip(*table.values(), strict=True)
    return "".join(mark.join(map(str, row)) + "\n" for row in (tuple(table), *rows))


def changed(column: str, cell: Callable[[int, object], object]) -> str:
    """Return the usual table with the cells of one column changed."""
    table = columns()
    table[column] = [cell(i, value) for i, value in enumerate(table.get(column, [None] * N))]
    return as_csv(table)


CONTRACT = """
name: flats
columns:
  size: {kind: number, bounds: [1, 1000]}
  year: {kind: integer}
  town: {kind: category, categories: [Avila, Lugo, Rio]}
  note: {kind: number, nullable: true}
target: {name: price, transform: log}
source: {paths: [flats.csv]}
"""


def describe(folder: Path, contract: str = CONTRACT) -> None:
    path = folder / "conf" / "dataset" / "flats.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(contract, encoding="utf-8")


TABLE = as_csv({**columns(), "note": [i % 7 for i in range(N)]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no file"),
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("size,price\n", "has a header but no rows"),
        (as_csv(columns()).replace("price", "prise", 1), "did you mean 'prise'"),
        (changed("price", lambda *_: 5), "is constant"),
        (changed("price", lambda *_: ""), "has no value in any row"),
        (changed("price", lambda *_: "dear"), "is not a number"),
        (changed("price", lambda *_: "inf"), "is not finite in any row"),
        (changed("price", lambda i, _: "-inf" if i % 2 else "inf"), "is not finite in any row"),
        (as_csv({"price": columns()["price"]}), "nothing is left"),
        (as_csv(columns()) + "1,2,3\n" * 50, "ragged"),
        (as_csv(columns()) + '"1,2,3,4\n', "never closed"),
        (",".join(f"c{i}" for i in range(60_000)) + "\n" + "1," * 60_000, "too many columns"),
    ],
)
def test_a_file_that_nothing_can_be_learned_from_gets_no_contract(
    tasador: Run, tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "flats.csv").write_text(text)
    code, _, err = tasador("init", "flats.csv", "--target", "price")
    assert code == 3, err
    assert said in err
    assert not (tmp_path / "conf").exists()


@pytest.mark.parametrize("cell", ["", "nan", "inf", 3])
def test_a_column_without_information_is_set_aside(
    tasador: Run, tmp_path: Path, cell: object
) -> None:
    (tmp_path / "flats.csv").write_text(changed("void", lambda *_: cell))
    code, out, err = tasador("init", "flats.csv", "--target", "price")
    assert code == 0, err
    assert "'void' is set aside" in out


def test_infinities_of_both_signs_are_set_aside(tasador: Run, tmp_path: Path) -> None:
    (tmp_path / "flats.csv").write_text(changed("z", lambda i, _: "inf" if i % 2 else "-inf"))
    code, out, err = tasador("init", "flats.csv", "--target", "price")
    assert code == 0, err
    assert "'z' is set aside: no finite number" in out


@pytest.mark.parametrize("name", ["../../x", "a/b", "a=b", "2024", "null", "a b"])
def test_a_name_that_no_command_line_could_carry_is_refused(
    tasador: Run, tmp_path: Path, name: str
) -> None:
    (tmp_path / "flats.csv").write_text(as_csv(columns()))
    code, _, err = tasador("init", "flats.csv", "--target", "price", "--name", name)
    assert code == 2
    assert "--name" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flats.csv"]


@pytest.mark.no_cover
def test_a_file_named_like_a_number_gets_a_name_that_runs(tasador: Run, tmp_path: Path) -> None:
    (tmp_path / "2024.csv").write_text(as_csv(columns()))
    code, out, _ = tasador("init", "2024.csv", "--target", "price")
    assert code == 0
    assert "tasador run dataset=table_2024" in out
    assert tasador("run", "dataset=table_2024", "steps=[download]", "tracking=none")[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "was not found"),
        ("", "is empty"),
        ("size,year,town,note,price\n", "has a header but no rows"),
        (TABLE.replace("size", "Size_", 1), "'Size_' may be 'size'"),
        (TABLE.replace("price", "worth", 1), "lacks 1 column(s): 'price'"),
        (TABLE.replace("year", "size", 1), "duplicate column names"),
        (changed("note", lambda *_: "word"), "'note': 200 row(s) without a number"),
        (changed("note", lambda *_: ""), "'note' has no value in any row"),
        (TABLE.replace("Rio", "Mars"), "without one of Avila, Lugo, Rio"),
        ("\n".join(TABLE.splitlines()[:51]), "at least 100, got 50"),
    ],
)
def test_a_table_that_does_not_meet_its_contract_is_refused(
    tasador: Run, tmp_path: Path, text: str | None, said: str
) -> None:
    describe(tmp_path)
    if text is not None:
        (tmp_path / "flats.csv").write_text(text)
    code, _, err = tasador("run", "dataset=flats", *SEGREGATE)
    assert code == 3, err
    assert said in err


@pytest.mark.parametrize(
    ("price", "said"),
    [(5, "is constant"), (0, "above 0"), (-3, "above 0"), ("inf", "finite"), ("", "no value")],
)
def test_a_target_that_cannot_be_fitted_is_refused(
    tasador: Run, tmp_path: Path, price: object, said: str
) -> None:
    describe(tmp_path, CONTRACT.replace("  note: {kind: number, nullable: true}\n", ""))
    (tmp_path / "flats.csv").write_text(changed("price", lambda *_: price))
    code, _, err = tasador("run", "dataset=flats", *SEGREGATE)
    assert code == 3, err
    assert said in err


def test_single_bad_cells_cost_their_rows_and_are_reported(tasador: Run, tmp_path: Path) -> None:
    describe(tmp_path)
    rows = TABLE.splitlines()
    for line, column, cell in ((4, 0, "big"), (6, 0, "inf"), (8, 4, "nan"), (9, 4, "-inf")):
        cells = rows[line].split(",")
        cells[[0, 1, 2, 4, 3][column]] = cell  # the target stands before the note
        rows[line] = ",".join(cells)
    (tmp_path / "flats.csv").write_text("\n".join(rows) + "\n")
    code, _, err = tasador("run", "dataset=flats", *SEGREGATE)
    assert code == 0, err
    assert "3 of 200 rows were refused" in err
    assert "1 row(s) have no 'price': left out of training" in err
    assert "the first is row 4: 'size': expected a number" in err
    assert ", got 'big'" in err


def test_a_category_of_one_level_is_a_warning(tasador: Run, tmp_path: Path) -> None:
    describe(tmp_path)
    (tmp_path / "flats.csv").write_text(TABLE.replace("Avila", "Rio").replace("Lugo", "Rio"))
    code, _, err = tasador("run", "dataset=flats", *SEGREGATE)
    assert code == 0, err
    assert "'town' has a single category" in err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("selection.folds=1", "selection.folds: out of range"),
        ("selection.scoring=r2", "selection.scoring: expected one of"),
        ("sweep.metric=foo", "sweep.metric: expected one of"),
        ("segregate.test_share=2", "segregate.test_share: out of range"),
        ("download.attempts=0", "download.attempts: out of range"),
        ("seed=-1", "seed: out of range"),
        ("register.alias='a b'", "register.alias: cannot be used"),
        ("sweep.trails=3", "did you mean 'trials'"),
        ("steps=[cook]", "steps[0]: expected one of download"),
        ("selection.families.ridge.alpha=[-1.0]", "selection.families.ridge.alpha: "),
        ("+selection.families.lightgbm.leaves=[7]", "lightgbm has no such parameter"),
        ("dataset.model_name=../x", "model_name: cannot be the name of a model"),
        ("dataset.columns.size.kind=foo", "unknown kind 'foo'"),
    ],
)
def test_an_invalid_setting_is_refused_before_anything_is_written(
    tasador: Run, tmp_path: Path, setting: str, said: str
) -> None:
    describe(tmp_path, CONTRACT + "model_name: flats_model\n")
    (tmp_path / "flats.csv").write_text(TABLE)
    code, _, err = tasador("run", "dataset=flats", setting)
    assert code == 2, err
    assert said in err
    assert not (tmp_path / "workspace").exists()


class _Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = TABLE.encode()
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Length", str(len(body) * (2 if self.path == "/cut" else 1)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.mark.parametrize(
    ("path", "checksum", "said"),
    [
        ("/table", "0" * 64, "has the wrong checksum and was not used"),
        ("/cut", None, "interrupted after"),
        ("/gone", None, "the server answers 404"),
    ],
)
def test_a_bad_download_is_refused_and_nothing_of_it_is_kept(
    tasador: Run, tmp_path: Path, server: str, path: str, checksum: str | None, said: str
) -> None:
    pin = f", sha256: ['{checksum}']" if checksum else ""
    describe(tmp_path, CONTRACT.replace("paths: [flats.csv]", f"url: '{server}{path}'{pin}"))
    code, out, err = tasador("run", "dataset=flats", *SEGREGATE)
    assert code == 3, err
    assert said in err
    assert "stamina" not in out + err
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://a..b/x", "http://localhost/größe", "ftp://x/y", "http:///x"]
)
def test_what_is_no_address_is_said_to_be_none(tasador: Run, tmp_path: Path, url: str) -> None:
    describe(tmp_path, CONTRACT.replace("paths: [flats.csv]", f"url: '{url}'"))
    code, _, err = tasador("run", "dataset=flats", *SEGREGATE)
    assert code == 3, err
    assert "expected an http:// or https:// address" in err


def test_a_file_of_another_checksum_is_refused(tasador: Run, tmp_path: Path) -> None:
    pin = hashlib.sha256(b"the published file").hexdigest()
    describe(tmp_path, CONTRACT.replace("[flats.csv]", f"[flats.csv], sha256: ['{pin}']"))
    (tmp_path / "flats.csv").write_text(TABLE)
    code, _, err = tasador("run", "dataset=flats", *SEGREGATE)
    assert code == 3
    assert "wrong checksum" in err
    assert pin in err


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_the_next_one_succeeds(tasador: Run, tmp_path: Path) -> None:
    describe(tmp_path)
    (tmp_path / "flats.csv").write_text(TABLE)
    process = start(tmp_path, "run", "dataset=flats", *SEGREGATE, file_limit=9_000)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 7, err
    assert "Traceback" not in err
    assert "too large" in err
    assert not list(tmp_path.rglob("*.tmp"))
    code, _, err = tasador("run", "dataset=flats", *SEGREGATE)
    assert code == 0, err


@pytest.fixture(scope="module")
def trained(quick_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model of a real table, which holds the alias ``staging``."""
    folder = tmp_path_factory.mktemp("trained")
    generate("california_housing", 400, 3).write_csv(folder / "housing.csv")
    with coverage_paused():
        code, out, err = run_here(folder, "run", *REAL)
    assert code == 0, err
    assert "registered: models:/housing_price_model/1" in out
    return folder


def bundle_of(project: Path) -> Path:
    manifests = (project / "workspace" / "bundles").glob("*/manifest.json")
    return min(manifests, key=lambda path: path.stat().st_mtime).parent  # the real table's


@pytest.mark.no_cover
def test_an_interrupted_run_goes_on_and_ends_like_an_uninterrupted_one(
    tasador: Run, trained: Path, tmp_path: Path
) -> None:
    shutil.copy(trained / "housing.csv", tmp_path)
    words = ["run", *REAL, "tracking=none"]
    process = start(tmp_path, *words)
    until = time.monotonic() + 300
    while time.monotonic() < until and not _journal(tmp_path):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "run the same command to go on" in err
    assert "Traceback" not in err
    before = _journal(tmp_path)
    assert before, "the journal goes when the step is done: the run was stopped within it"
    # a power cut may leave half a line; the next one must not be glued to it
    with next(tmp_path.rglob("*.journal.jsonl")).open("a") as file:
        file.write('{"key": "hal')

    code, out, err = tasador(*words)
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines()[1:5]] == ["cached"] * 4
    assert "damaged line" in err
    assert _metrics(tmp_path) == _metrics(trained)
    assert not _journal(tmp_path)


def _journal(project: Path) -> list[str]:
    found = list((project / "workspace").rglob("*.journal.jsonl"))
    return [line for path in found for line in path.read_text().splitlines() if line]


def _metrics(project: Path) -> bytes:
    return min((project / "workspace" / "runs").glob("*/metrics.json")).read_bytes()


@pytest.mark.no_cover
def test_a_synthetic_model_does_not_take_the_place_of_a_real_one(
    tasador: Run, trained: Path
) -> None:
    code, _, err = tasador(
        "run",
        *HOUSING,
        "dataset.source.paths=[gone.csv]",
        "~selection.families.lightgbm",
        "~selection.families.random_forest",
        folder=trained,
    )
    assert code == 6, err
    assert "synthetic" in err
    assert "is on disk but was not registered" in err
    assert newest_bundle(trained / "workspace" / "bundles") == bundle_of(trained)


@pytest.mark.slow
def test_truncated_results_are_made_again(tasador: Run, tmp_path: Path) -> None:
    describe(tmp_path)
    (tmp_path / "flats.csv").write_text(TABLE)
    words = ["run", "dataset=flats", "steps=[impute]", "tracking=none"]
    assert tasador(*words)[0] == 0
    files = [path for path in (tmp_path / "workspace").rglob("*") if path.is_file()]
    kept = {path: path.read_bytes() for path in files if path.suffix in (".npz", ".parquet")}
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, out, err = tasador(*words)
    assert code == 0, err
    assert "made again" in err
    assert "cached" not in out
    assert all(path.read_bytes() == content for path, content in kept.items())
    code, out, err = tasador("runs")
    assert code == 0, err
    assert "damaged" in out


@pytest.mark.parametrize("file", ["manifest.json", "*.onnx", "*.npz"])
def test_a_bundle_with_a_changed_byte_is_refused(
    tasador: Run, trained: Path, tmp_path: Path, file: str
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_of(trained), copy)
    path = next(copy.rglob(file))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, _, err = tasador("predict", "{}", "--bundle", str(copy))
    assert code == 5, err
    assert "error:" in err


def rows_of(project: Path, rows: int = 3) -> list[str]:
    return (project / "housing.csv").read_text().splitlines()[: rows + 1]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda _: "", "is empty"),
        (lambda lines: lines[0], "has a header but no rows"),
        (lambda lines: "\n".join(lines).replace("latitude", "lat", 1), "no latitude"),
        (lambda lines: "\n".join([lines[0], "1,2"]), "row 1: expected 10 values, got 2"),
        (lambda lines: "\n".join([lines[0], "east" + lines[-1][4:]]), "row 1: longitude: expected"),
        (lambda lines: lines[0].replace("latitude", "longitude"), "no latitude"),
    ],
)
def test_a_file_of_which_no_row_can_be_valued_is_refused(
    tasador: Run, trained: Path, tmp_path: Path, edit: Callable[[list[str]], str], said: str
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(edit(rows_of(trained)))
    code, out, err = tasador("predict", str(rows), "--bundle", str(bundle_of(trained)))
    assert code == 3, err
    assert said in err
    assert out == ""


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda _: "1,2", "row 4: expected 10 values, got 2"),
        (lambda line: "east" + line[4:], "row 4: longitude: expected a number in"),
        (lambda line: "," + line.partition(",")[2], "(degrees), got ''"),
    ],
)
def test_a_row_that_cannot_be_valued_is_named_and_the_others_are_valued(
    tasador: Run, trained: Path, tmp_path: Path, edit: Callable[[str], str], said: str
) -> None:
    lines, rows = rows_of(trained), tmp_path / "rows.csv"
    rows.write_text("\n".join([*lines, edit(lines[-1]), lines[1]]))
    code, out, err = tasador("predict", str(rows), "--bundle", str(bundle_of(trained)))
    assert code == 0, err
    assert said in err
    found = list(csv.DictReader(out.splitlines()))
    assert [bool(row["error"]) for row in found] == [False] * 3 + [True, False]
    assert [row["model_version"] for row in found][:1] * 5 == [r["model_version"] for r in found]
    assert found[0]["lower"] == found[4]["lower"] != ""


def test_rows_separated_otherwise_than_the_training_table_are_valued(
    tasador: Run, trained: Path, tmp_path: Path
) -> None:
    said = []
    for mark in ",;\t":
        rows = tmp_path / "rows.csv"
        rows.write_text("\n".join(rows_of(trained)).replace(",", mark))
        said.append(tasador("predict", str(rows), "--bundle", str(bundle_of(trained))))
    assert said[0][0] == 0
    assert said[0] == said[1] == said[2]


def test_an_output_that_does_not_fit_leaves_the_older_one(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("\n".join(rows_of(trained)))
    (tmp_path / "out.csv").write_text("older")
    words = ["predict", "rows.csv", "--bundle", str(bundle_of(trained)), "-o", "out.csv"]
    process = start(tmp_path, *words, file_limit=20)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 7, err
    assert "Traceback" not in err
    assert (tmp_path / "out.csv").read_text() == "older"


def test_a_pipe_stays_a_pipe_and_a_link_a_link(tasador: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("\n".join(rows_of(trained)))
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("target.csv")
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    for output in (pipe, link):
        words = ["rows.csv", "--bundle", str(bundle_of(trained)), "-o", str(output)]
        code, _, err = tasador("predict", *words)
        assert code == 0, err
    reader.join(10)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert received == [(tmp_path / "target.csv").read_text()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_a_redirection_is_not_a_success(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("\n".join(rows_of(trained)))
    words = ["predict", "rows.csv", "--bundle", str(bundle_of(trained))]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tasador.cli.app", *words],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
        )
    assert done.returncode == 7, done.stderr
    assert done.stderr.strip().startswith("error: cannot write: the disk is full")


def test_a_reader_that_has_gone_is_no_reason_for_a_traceback(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("\n".join(rows_of(trained)))
    process = start(tmp_path, "predict", "rows.csv", "--bundle", str(bundle_of(trained)))
    assert process.stdout is not None
    assert process.stderr is not None
    with contextlib.suppress(OSError):
        process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(300) == 1
