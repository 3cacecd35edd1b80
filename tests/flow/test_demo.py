"""`tasador demo`, which `make demo` runs: the whole loop with real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "tasador.cli.app", "demo"]


def mine(folder: Path) -> list[str]:
    """Return the command lines of running processes that name a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


def test_drift_retrains_the_model_which_passes_gates_and_canary_and_is_rolled_back(
    tmp_path: Path,
) -> None:
    workspace, foreign = tmp_path / "workspace", tmp_path / "production.db"
    env = {**os.environ, "COLUMNS": "200", "TASADOR_RECORDS__URL": f"sqlite:///{foreign}"}
    env["TASADOR_SOURCE__TRACKING_URI"] = f"sqlite:///{tmp_path}/production-registry.db"
    done = subprocess.run(
        [*DEMO, "--workspace", str(workspace)], cwd=tmp_path, env=env, capture_output=True,
        text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [
        r"1\. The first champion", r"champion: version 1", r"2\. Usual traffic",
        r"no trigger: .* \(lacks 3 more in a row", r"3\. The world changes",
        r"watcher: ALERT.*PSI longitude", r"retrain intent .*drifted in 3 windows in a row",
        r"promote challenger done \(version 2\).*12 of 12 gates pass", r"MAPE: pass, ",
        r"canary of version 2: running, 0%", r"canary of version 2: running, 25%",
        r"canary of version 2: passed", r"promote champion done \(version 2\)",
        r"5\. Version 2 is champion", r"6\. Rollback", r"champion: 2 -> 1",
        r"version 1 answers again",
    ]  # fmt: skip
    place = 0
    for step in steps:
        found = re.compile(step).search(done.stdout, place)
        assert found, f"{step} is missing in\n{done.stdout}"
        place = found.end()
    usual, changed, retrained, back_s = (
        float(text)
        for text in re.findall(
            r"MAPE (\S+)% before the change, (\S+)% after it, (\S+)% retrained; the rollback took "
            r"(\S+) s",
            done.stdout,
        )[0]
    )
    assert changed > 1.3 * usual
    assert retrained < 0.8 * changed
    assert back_s < 15
    assert not foreign.exists()
    listed = subprocess.run(
        [*DEMO[:-1], "models", "--json", "--workspace", str(workspace)], capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    aliases = {one["number"]: one["aliases"] for one in json.loads(listed.stdout)["versions"]}
    assert "champion" in aliases["1"]
    assert aliases["2"] == []
    assert mine(workspace) == []


def test_ctrl_c_stops_every_process_and_takes_the_temporary_folder_away(tmp_path: Path) -> None:
    process = subprocess.Popen(
        DEMO, cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    while "The world changes" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    assert len(mine(tmp_path)) >= 2
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    said += process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert mine(tmp_path) == []
    assert list(tmp_path.glob("tasador-demo-*")) == []


def test_a_folder_with_files_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    done = subprocess.run(
        [*DEMO, "--workspace", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "the demo's folder is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_make_demo_runs_it() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "demo", "ARGS=--ui"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "tasador demo --ui" in done.stdout
