"""What the product is made of, and what the security page promises about it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LOCK = ROOT / "requirements" / "lock.txt"
INSTALLER = ROOT / "requirements" / "uv.txt"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def packages(requirements: str) -> set[str]:
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==", requirements, re.M)
    return {canonicalize_name(name) for name in found}


def needed(*extras: str) -> set[str]:
    """Every distribution that an installation of tasador with `extras` draws in on this machine."""
    found: set[str] = set()
    waiting = [("tasador", extra) for extra in ("", *extras)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        found.add(name)
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": extra}):
                child = canonicalize_name(requirement.name)
                new = {(child, one) for one in ("", *requirement.extras)} - seen
                seen |= new
                waiting.extend(new)
    return found - {"tasador"}


@pytest.mark.parametrize("file", [LOCK, INSTALLER], ids=lambda file: file.name)
def test_every_locked_package_has_its_checksums_and_no_address(file: Path) -> None:
    text = file.read_text()
    entries = [entry for entry in re.split(r"\n(?=[a-z0-9])", text) if "==" in entry]
    assert entries
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "://" not in text


def test_the_lock_holds_what_every_extra_draws_in_with_the_extras_that_are_asked_for() -> None:
    assert needed(*EXTRAS) <= packages(LOCK.read_text())
    # without it the pip that comes with Python 3.11 refuses the lock when a newer coverage is out
    assert "\ncoverage[toml]==" in LOCK.read_text()


def test_the_service_needs_neither_pandas_nor_scikit_learn_nor_mlflow() -> None:
    unwanted = {"pandas", "polars", "scikit-learn", "lightgbm", "optuna", "mlflow", "mlflow-skinny"}
    serving = needed("serve", "signing", "gcs")
    assert {"fastapi", "onnxruntime", "gcsfs"} <= serving
    assert not serving & unwanted


@pytest.mark.slow
def test_the_bill_of_materials_names_every_locked_package(tmp_path: Path) -> None:
    command = ["cyclonedx-py", "requirements", str(LOCK), "--output-reproducible"]
    output = tmp_path / "lock.json"
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:], "-o", str(output)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    bill = json.loads(output.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    named = {canonicalize_name(component["name"]) for component in bill["components"]}
    assert named == packages(LOCK.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("pip", ["22.3", "23.0.1"])  # Python 3.11.0's own, and Debian 12's
def test_an_old_pip_installs_the_installer_and_that_resolves_every_extra(
    pip: str, tmp_path: Path
) -> None:
    folder = tmp_path / "venv"
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    quiet = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    subprocess.run([*map(str, quiet), f"pip=={pip}"], check=True)
    subprocess.run([*map(str, quiet), "--require-hashes", "-r", str(INSTALLER)], check=True)
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    done = subprocess.run(
        [
            str(folder / "bin" / "uv"), "pip", "install", "--dry-run", "--python", str(python),
            "--require-hashes", "-c", str(LOCK), "-r", str(ROOT / "pyproject.toml"), *extras,
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " + coverage==" in done.stderr


@pytest.mark.slow
def test_no_secret_has_come_into_the_repository() -> None:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--", ".", ":!requirements", ":!.secrets.history"],
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


HISTORY = ROOT / ".github" / "scripts" / "secrets_in_history.py"


def test_a_secret_that_was_removed_again_is_found_in_the_history(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    def scan(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(HISTORY), str(tmp_path), *words]
        return subprocess.run(command, capture_output=True, text=True)

    git("init", "-q")
    (tmp_path / "settings.py").write_text("debug = True\n")
    git("add", ".")
    git("commit", "-qm", "one")
    assert scan().returncode == 0, scan().stderr
    planted = "AKIA" + "IOSFODNN7QWERTYU"
    (tmp_path / "settings.py").write_text(f'debug = True\nkey = "{planted}"\n')
    git("commit", "-qam", "two")
    (tmp_path / "settings.py").write_text("debug = True\n")
    git("commit", "-qam", "three")
    done = scan()
    assert done.returncode == 1
    assert "settings.py: AWS Access Key" in done.stdout
    assert planted not in done.stdout + done.stderr
    assert scan("--note").returncode == 0
    assert scan().returncode == 0


@pytest.mark.slow
def test_no_secret_was_ever_committed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no repository")
    done = subprocess.run([sys.executable, str(HISTORY), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.slow
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
