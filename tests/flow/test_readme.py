"""What the README says to type, typed."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fixtures.process import free_port, wait_until_ready
from tasador.contract.reader import from_dict

ROOT = Path(__file__).parents[2]
SMALL = [
    "selection.folds=3",
    "selection.families={ridge:{alpha:[1.0]},lightgbm:{n_estimators:[40],num_leaves:[7]},"
    "random_forest:{n_estimators:[5]}}",
    "sweep.trials=0",
    "features.cross_fit_folds=4",
    "register.parity_rows=1000",
    "register.bootstrap_draws=20",
]


def block(page: Path, language: str, containing: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    return next(text for text in found if containing in text)


def tasador(folder: Path, line: str, *extra: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line, comments=True)
    assert words[0] == "tasador"
    return subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", *words[1:], *extra],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "COLUMNS": "200"},  # a narrow table folds names
    )  # fmt: skip


@pytest.fixture(scope="module")
def after_make_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkout's examples and the workspace that `make run` leaves, smaller."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", folder / "examples")
    done = tasador(
        folder, "tasador run", "download.offline=true", "download.synthetic_rows=3000", *SMALL
    )
    assert done.returncode == 0, done.stderr
    assert "next: tasador " in done.stdout
    return folder


@pytest.mark.slow
def test_the_readmes_commands_work_in_its_order_after_make_run(after_make_run: Path) -> None:
    folder = after_make_run
    activate, predict, report = block(ROOT / "README.md", "sh", "tasador predict").splitlines()
    assert activate == "source .venv/bin/activate"
    valued = tasador(folder, predict)
    assert valued.returncode == 0, valued.stderr
    rows = list(csv.DictReader(io.StringIO(valued.stdout)))
    assert len(rows) == 12
    assert not any(row["error"] for row in rows)
    found = tasador(folder, report)
    assert (folder / found.stdout.strip()).is_file()

    code = block(ROOT / "README.md", "python", "load_bundle")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    prediction, lower, upper = map(float, done.stdout.split())
    assert lower < prediction < upper
    serve_and_watch(folder)

    init, train, value = block(ROOT / "README.md", "sh", "tasador init").splitlines()
    for line, extra in ((init, []), (train, SMALL), (value, [])):
        done = tasador(folder, line, *extra)
        assert done.returncode == 0, (line, done.stderr)
        if line == value:
            assert json.loads(done.stdout)["model_version"].startswith("flats_model-")
    assert "flats_model" not in tasador(folder, "tasador models").stdout


def serve_and_watch(folder: Path) -> None:
    """Serve, ask and watch as the README says, on a port that is free."""
    port = str(free_port())
    (serve,) = block(ROOT / "README.md", "sh", "tasador serve").splitlines()
    words = [*shlex.split(serve, comments=True)[1:], "--port", port]
    process = subprocess.Popen(
        [sys.executable, "-m", "tasador.cli.app", *words], cwd=folder, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        console = block(ROOT / "README.md", "console", "curl")
        asked, _, answer = console.removeprefix("$ ").partition("\n{")
        asked = asked.replace(":8000", f":{port}")
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        got, shown = json.loads(done.stdout), json.loads(("{" + answer).replace("\n", ""))
        assert list(got) == list(shown) == ["predictions", "model_version"]
        assert list(shown["predictions"][0]) == list(got["predictions"][0])
        simulate, monitor, _ = block(ROOT / "README.md", "sh", "tasador simulate").splitlines()
        small = ["--url", f"http://127.0.0.1:{port}", "--count", "100"]
        for line, extra, codes in ((simulate, small, {0}), (monitor, [], {0, 10})):
            watched = tasador(folder, line, *extra)
            assert watched.returncode in codes, watched.stderr
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


def test_every_target_that_the_readme_names_is_in_make_help() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    offered = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    named = set(re.findall(r"`make (\w+)`|^make (\w+)", (ROOT / "README.md").read_text(), re.M))
    assert {a or b for a, b in named} <= offered


def test_the_example_on_the_contracts_page_is_a_contract() -> None:
    page = ROOT / "docs" / "reference" / "contract.md"
    contract = from_dict(yaml.safe_load(block(page, "yaml", "model_name")))
    sent = ("area", "rooms", "town", "street", "sold", "rent", "engine", "lon", "lat", "built")
    assert contract.field_names == sent
    assert contract.feature_names[-2:] == ("age", "income")


def test_the_spanish_readme_shows_the_same_output_code_and_commands() -> None:
    def shown(page: str) -> list[str]:
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"```(?:sh|console|python)\n(.*?)```", text, re.S)
        return [re.sub(r" +# .*", "", block) for block in blocks]

    assert shown("README.es.md") == shown("README.md")


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target.replace("\n", "")).exists(), (page.name, target)
