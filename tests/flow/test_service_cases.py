"""The reproductions of reported faults in ``TASADOR_CASES``/service, run as they are written.

They are shared beside the repository; without them these tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.process import Server, free_port
from tasador.registry.mlflow.pyfunc import BundleModel

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
ROW = {
    "longitude": -122.23, "latitude": 37.88, "housing_median_age": 41, "total_rooms": 880,
    "total_bedrooms": 129, "population": 322, "households": 126, "median_income": 8.3,
    "ocean_proximity": "NEAR BAY",
}  # fmt: skip
FAST = [
    "sweep.trials=0", "sweep.slowdown=1", "selection.folds=3", "features.cross_fit_folds=5",
    "selection.families={ridge:{alpha:[1.0]},lightgbm:{n_estimators:[200],num_leaves:[15]}}",
]  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> Path:
    folder = Path(os.environ.get("TASADOR_CASES", "missing")) / "service"
    if not folder.is_dir():
        pytest.skip("TASADOR_CASES is not set")
    return folder


def run(folder: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(part) for part in command], cwd=folder, env={**os.environ, "PATH": path, **variables},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def workspace(cases: Path, tmp_path_factory: pytest.TempPathFactory, real_table: Path) -> Path:
    """A workspace with a quickly trained model of California housing."""
    folder = tmp_path_factory.mktemp("california")
    done = run(folder, "tasador", "run", *FAST, TASADOR_REAL_DATA=str(real_table.parent))
    assert done.returncode == 0, done.stderr
    return folder / "workspace"


@pytest.fixture(scope="module")
def real_table() -> Path:
    table = Path(os.environ.get("TASADOR_REAL_DATA", "missing")) / "housing.csv"
    if not table.is_file():
        pytest.skip("TASADOR_REAL_DATA is not set")
    return table


@pytest.fixture(scope="module")
def bundle(workspace: Path) -> Path:
    (folder,) = (workspace / "bundles").iterdir()
    return folder


@pytest.fixture
def server(bundle: Path, tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path, bundle, free_port())
    one.start()
    try:
        one.wait()
        yield one
    finally:
        one.end()


def test_a_table_with_a_date_is_trained_and_registered(cases: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "bash", cases / "datetime_run.sh", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "registered: models:/homes_model/1" in done.stdout


def test_the_same_values_as_float32_are_no_drift(cases: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "python3", cases / "drift_float32.py").returncode == 0
    files = ("--reference", "ref.parquet", "--current", "same32.parquet")
    done = run(tmp_path, "tasador", "monitor", *files)
    assert done.returncode == 0, done.stdout


def test_a_repeated_column_of_invocations_is_refused(cases: Path, server: Server) -> None:
    done = run(server.workspace, "bash", cases / "invocations_duplicate_columns.sh", server.url)
    once, twice = map(json.loads, done.stdout.splitlines())
    assert once["predictions"]
    assert "median_income" in json.dumps(twice)
    assert "predictions" not in twice


def test_metrics_of_two_workers_follow_swaps_and_deaths(
    cases: Path, bundle: Path, tmp_path: Path
) -> None:
    newer = tmp_path / "newer"
    done = run(
        tmp_path, "tasador", "run", *FAST, "seed=7",
        TASADOR_REAL_DATA=os.environ["TASADOR_REAL_DATA"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "workspace" / "bundles").iterdir()
    shutil.move(made, newer)
    version = json.loads((newer / "manifest.json").read_bytes())["content_hash"][:12]
    for attempt in range(3):  # the script waits for fixed times, which a loaded machine may exceed
        folder = tmp_path / str(attempt)
        folder.mkdir()
        script = cases / "metrics_two_workers.sh"
        done = run(tmp_path, "bash", script, bundle, newer, TMPDIR=str(folder))
        wrong = wrong_metrics(done.stdout, version)
        if not wrong:
            return
    raise AssertionError(f"{wrong}: {done.stdout}")


def wrong_metrics(text: str, version: str) -> str:
    """Return what is wrong with what the script of two workers prints."""
    lines = text.splitlines()
    named = [line for line in lines if line.startswith("tasador_model_info")]
    first = next((i for i, line in enumerate(lines) if "in_flight" in line), len(lines))
    swapped = [line for line in named if lines.index(line) < first]
    if [line.rpartition(" ")[2] for line in swapped] != ["1.0"] or version not in swapped[0]:
        return "not the new model alone answers after the swap"
    in_flight = [line for line in lines if line.startswith("tasador_in_flight")]
    if len(in_flight) != 1 or float(in_flight[0].rpartition(" ")[2]) > 1.0:
        return "requests of dead workers are under way"
    loaded = [line for line in lines if line.startswith("tasador_model_loaded")]
    if not re.search(r" 503$", text, re.M) or [x.rpartition(" ")[2] for x in loaded] != ["0.0"]:
        return "workers without a model say that they have one"
    return ""


def test_sentinels_among_outcomes_are_left_out(cases: Path, server: Server) -> None:
    rows = cases / "cal_rows.csv"
    done = run(server.workspace, "python3", cases / "outcome_sentinel.py", server.url, rows)
    assert done.stdout.split() == ["360", "accepted"], done.stderr
    run(
        server.workspace, "tasador", "monitor", "--window", "1h", "--json", "verdict.json",
        TASADOR_RECORDS__URL=server.records_url, TASADOR_SOURCE__LOCAL=str(server.bundle),
    )  # fmt: skip
    assert 0 < mape(server.workspace) < 30


def mape(folder: Path) -> float:
    figures = json.loads((folder / "verdict.json").read_bytes())["figures"]
    return float(next(one["value"] for one in figures if one["name"] == "mape"))


def test_only_outcomes_with_an_id_are_joined(cases: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "python3", cases / "outcomes_null_ids.py").returncode == 0
    for late in ("late.parquet", "late_float.parquet"):
        run(
            tmp_path, "tasador", "monitor", "--reference", "ref.parquet", "--current",
            "cur.parquet", "--target", "price", "--prediction", "estimate", "--id", "house_id",
            "--outcomes", late, "--json", "verdict.json",
        )  # fmt: skip
        assert mape(tmp_path) == pytest.approx(8, abs=1)


def test_refused_rows_are_a_finding(cases: Path, bundle: Path, tmp_path: Path) -> None:
    script, rows = cases / "refused_rows_unseen.sh", cases / "cal_rows.csv"
    done = run(tmp_path, "bash", script, bundle, rows, TMPDIR=str(tmp_path))
    assert "Health: ALERT" in done.stdout
    assert "30.00% of the rows were refused" in done.stdout
    assert "LAKESIDE" in done.stdout


def test_rows_outside_the_contract_are_refused_on_every_path(
    cases: Path, workspace: Path, bundle: Path, tmp_path: Path
) -> None:
    script = tmp_path / "silent_predict.py"  # it names the module as it was called then
    written = (cases / "silent_predict.py").read_text()
    script.write_text(written.replace("tasador.registry.pyfunc", BundleModel.__module__))
    done = run(tmp_path, "python3", script, workspace, bundle)
    assert done.returncode == 0, done.stderr
    good, *bad = done.stdout.splitlines()
    assert re.match(r"good +tasador predict [\d.]+ +bundle.value [\d.]+ +pyfunc [\d.]+$", good)
    assert len(bad) == 5
    for line in bad:
        wanted = r"tasador predict exit 3 +bundle.value ValidationError +pyfunc ValidationError"
        assert re.search(wanted, line), line


def test_a_service_that_can_keep_no_records_says_so(
    cases: Path, bundle: Path, tmp_path: Path
) -> None:
    script = cases / "spool_full.sh"
    done = run(tmp_path, "bash", script, bundle, json.dumps(ROW), TMPDIR=str(tmp_path))
    assert re.search(r"\d+ 503", done.stdout)
    assert not re.search(r"\d+ 500", done.stdout)
    assert '"no_space"' in done.stdout
    for path in ("/health/ready", "/ping", "/v2/health/ready"):
        assert f"{path} 503" in done.stdout


def test_two_equal_runs_wait_for_each_other(cases: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "bash", cases / "two_runs_same_table.sh", TMPDIR=str(tmp_path))
    assert "first: 0" in done.stdout
    assert "second: 0" in done.stdout


def test_nan_in_json_is_a_missing_value_as_in_binary(cases: Path, server: Server) -> None:
    script, address = cases / "v2_json_nan.py", server.url.removeprefix("http://")
    done = run(server.workspace, "python3", script, address)
    binary, plain = done.stdout.splitlines()
    assert binary.removeprefix("binary ") == plain.removeprefix("json ")
    assert re.search(r"\[[\d.]+\]", plain)
