"""What the tutorials say to type, typed: in their order, in one folder, with real processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorial"
#: Small enough for a test; the commands are the page's.
SMALL = [
    "selection.folds=3",
    "selection.families={ridge:{alpha:[1.0]},lightgbm:{n_estimators:[40],num_leaves:[7]}}",
    "sweep.trials=0",
    "features.cross_fit_folds=4",
    "register.parity_rows=1000",
    "register.bootstrap_draws=20",
    "register.average=1",
]


def blocks(page: str, language: str) -> list[str]:
    text = (TUTORIALS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def type_in(line: str, folder: Path, *extra: str) -> str:
    words = shlex.split(line, comments=True)
    command = [sys.executable, "-m", "tasador.cli.app", *words[1:]]
    if words[0] != "tasador":
        command = words
    environment = {name: value for name, value in os.environ.items() if "REAL_DATA" not in name}
    environment["COLUMNS"] = "200"  # a narrow table folds names
    done = subprocess.run(
        [*command, *extra],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


@pytest.mark.slow
def test_the_first_valuation_works_as_the_page_says(tmp_path: Path) -> None:
    """On generated rows, fewer than usual; the page says that this may happen."""
    train, value, explain, serve, ask, look = blocks("first-valuation.md", "sh")
    generated = ["download.offline=true", "download.synthetic_rows=2000"]
    assert "report" in type_in(train, tmp_path, *generated, *SMALL)
    assert json.loads(type_in(value, tmp_path))
    assert "comparable" in type_in(explain, tmp_path).lower()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        [sys.executable, "-m", "tasador.cli.app", *shlex.split(serve)[1:], "--port", port],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(f"http://127.0.0.1:{port}/health/ready")
        answers = [
            type_in(line.replace("8000", port), tmp_path) for line in ask.strip().splitlines()
        ]
    finally:
        server.terminate()
        server.wait(30)
    assert json.loads(answers[0]) == {"status": "ready"}
    assert json.loads(answers[1])["predictions"][0]["prediction_id"]
    models, report = look.strip().splitlines()
    assert "staging" in type_in(models, tmp_path)
    assert (tmp_path / type_in(report, tmp_path).strip()).is_file()


@pytest.mark.slow
def test_your_own_table_works_in_an_empty_folder_as_the_page_says(tmp_path: Path) -> None:
    shutil.copytree(TUTORIALS.parents[1] / "examples", tmp_path / "examples")
    write, train, use = blocks("your-own-table.md", "sh")
    assert "conf/dataset/flats.yaml" in type_in(write, tmp_path)
    type_in(train, tmp_path, *SMALL)
    value, report, models = use.strip().splitlines()
    assert json.loads(type_in(value, tmp_path))["model_version"].startswith("flats_model-")
    assert (tmp_path / type_in(report, tmp_path).strip()).is_file()
    assert "flats_model" in type_in(models, tmp_path)
    assert not (tmp_path / "workspace").exists()


def _wait(url: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer")
