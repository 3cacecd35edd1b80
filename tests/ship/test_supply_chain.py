"""What the product is made of, and what the security page promises about it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LOCKED = ("serve", "pipeline", "ui")


def packages(requirements: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", requirements.read_text(), re.M))


@pytest.mark.parametrize("name", LOCKED)
def test_every_locked_package_has_its_checksums(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    for entry in re.split(r"\n(?=[a-z0-9])", text):
        if "==" in entry.splitlines()[0]:
            assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "://" not in re.sub(r"^\s*#.*$", "", text, flags=re.M)


def test_what_serves_is_a_part_of_what_was_tested() -> None:
    tested = (ROOT / "requirements" / "dev.txt").read_text()
    pins = set(re.findall(r"^(\S+==[^\s;\\]+)", tested, re.M))
    for name in (*LOCKED, "serve-cloud", "train"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert set(re.findall(r"^(\S+==[^\s;\\]+)", text, re.M)) <= pins, name


def test_the_service_needs_neither_pandas_nor_scikit_learn_nor_mlflow() -> None:
    unwanted = {"pandas", "polars", "scikit-learn", "lightgbm", "optuna", "mlflow", "mlflow-skinny"}
    assert not packages(ROOT / "requirements" / "serve.txt") & unwanted


def test_the_bill_of_materials_names_every_locked_package(tmp_path: Path) -> None:
    requirements = ROOT / "requirements" / "serve.txt"
    command = ["cyclonedx-py", "requirements", str(requirements), "--output-reproducible"]
    output = tmp_path / "serve.json"
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:], "-o", str(output)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    bill = json.loads(output.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert {component["name"] for component in bill["components"]} == packages(requirements)


@pytest.mark.slow
def test_no_secret_has_come_into_the_repository() -> None:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--", ".", ":!requirements"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    baseline = ROOT / ".secrets.baseline"
    before = baseline.read_bytes()
    command = [str(BIN / "detect-secrets-hook"), "--baseline", baseline.name]
    done = subprocess.run(
        [*command, *filter(None, listed)], cwd=ROOT, capture_output=True, text=True
    )
    baseline.write_bytes(before)  # the hook notes lines that moved
    # 3: nothing new, but lines moved
    assert done.returncode in (0, 3), f"{done.stdout}\na false alarm? `make secrets` notes it"


def test_bandit_finds_nothing() -> None:
    done = subprocess.run(
        [str(BIN / "bandit"), "-q", "-ll", "-c", "pyproject.toml", "-r", "src", "docker", "deploy"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_every_test_that_the_security_page_names_exists() -> None:
    page = (ROOT / "docs" / "explanation" / "security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 25
    for file, test in named:
        path = ROOT / file
        assert path.is_file(), file
        if test:
            assert f"def {test}(" in path.read_text(), f"{file}::{test}"


def test_every_row_of_the_security_page_names_a_test() -> None:
    page = (ROOT / "docs" / "explanation" / "security.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "Promise" not in line]
    assert len(rows) > 20
    for row in rows:
        assert "`tests/" in row, row
