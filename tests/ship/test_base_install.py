"""`pip install .` without extras, as somebody does who has read no page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = {"lon": -3.5, "lat": 40.4, "income": 3.0, "rooms": 4, "area": 90.0, "kind": "flat"}


@pytest.mark.slow
def test_a_base_install_has_its_command_line_and_names_what_is_missing(
    written_bundle: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, str(ROOT)], check=True)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(environment / "bin" / "tasador"), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert run("--version").returncode == 0
    assert run().returncode == 0
    valued = run("predict", json.dumps(ROW), "--bundle", str(written_bundle))
    assert valued.returncode == 0, valued.stderr
    assert json.loads(valued.stdout)
    assert run("verify", str(written_bundle)).returncode == 0
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    for words in (
        ("init", "rows.csv", "--target", "b"), ("run",), ("doctor",), ("up",), ("ui",), ("serve",),
        ("monitor",), ("predict", "rows.csv", "--bundle", str(written_bundle)),
    ):  # fmt: skip
        done = run(*words)
        assert done.returncode == 8, (words, done.stderr)
        (line,) = done.stderr.splitlines()
        assert "is not installed. To do: pip install " in line
