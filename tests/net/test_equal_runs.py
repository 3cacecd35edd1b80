"""Two equal runs give equal bytes, in their bundles and figures.

`tests/flow/test_pipeline.py` compares the metrics and some answers of two runs of the default
table; here every file of the bundles is compared. Nothing is stored: a trained model's arrays may
differ between processors. The exit codes of commands that need
a registered model are here too (slow).
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fixtures.net import REFERENCES, References, first_line, tasador
from fixtures.net_bundles import prepare

pytestmark = pytest.mark.slow

#: What says when a bundle was made and under which release it was registered.
NOT_CONTENT = ("created", "release")

LIMIT_S = 600

#: In this order, in a workspace with one registered version.
LIFECYCLE: dict[str, tuple[str, ...]] = {
    "a promotion that the gates refuse": ("promote", "1"),
    "a retraining without a champion": ("retrain", "--dry-run"),
    "a promotion by force": ("promote", "1", "--force", "--reason", "the first"),
    "a retraining that nothing asks for": ("retrain", "--dry-run"),
    "a retraining that may not be yet": ("retrain", "--now", "--dry-run"),
    "a version that is not there": ("promote", "7"),
    "no champion to return to": ("rollback",),
    "a rejected champion": ("reject", "1", "--reason", "why not"),
}


def contents(bundle: Path) -> dict[str, str]:
    """Return a hash of each file of a bundle."""
    found = {}
    for path in sorted(bundle.rglob("*")):
        content = path.read_bytes()
        if path.name == "manifest.json":
            manifest = json.loads(content)
            assert manifest["created"]
            kept = {k: v for k, v in manifest.items() if k not in NOT_CONTENT}
            content = json.dumps(kept).encode()
        found[path.relative_to(bundle).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def trained(folder: Path, words: list[str], workspace: str, *more: str) -> Path:
    """Train in a workspace of its own; return the folder of the only bundle."""
    done = tasador(folder, *words, f"storage.workspace={workspace}", *more, limit_s=LIMIT_S)
    assert done.returncode == 0, done.stderr
    (manifest,) = (folder / workspace / "bundles").glob("*/manifest.json")
    return manifest.parent


def test_two_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    words = prepare("cars_native", tmp_path)
    names = ("one", "other")
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda name: trained(tmp_path, words, name, "tracking=none"), names)
    assert one.name == other.name
    assert contents(one) == contents(other)
    stored = {path.name for path in (REFERENCES / "bundles" / "cars_native").iterdir()}
    # no estimates of training rows: neither place nor date says which car a row is
    assert set(contents(one)) == stored
    figures = [next((tmp_path / name / "runs").glob("*/metrics.json")) for name in names]
    assert figures[0].read_bytes() == figures[1].read_bytes()


def test_lifecycle_commands_end_with_the_stored_exit_codes(
    tmp_path: Path, references: References
) -> None:
    trained(tmp_path, prepare("cars_native", tmp_path), "workspace")
    found = ended(tmp_path)
    assert set(found["codes"].values()) >= {0, 2, 10, 14, 15}
    references.check("lifecycle", found)


def ended(folder: Path) -> dict[str, Any]:
    """Return the exit code and the first line of each lifecycle command."""
    codes, lines = {}, {}
    for what, command in LIFECYCLE.items():
        done = tasador(folder, *command, limit_s=LIMIT_S)
        assert "Traceback" not in done.stderr, done.stderr
        codes[what] = done.returncode
        if done.returncode and (line := first_line(done.stderr, folder)):
            lines[what] = line
    return {"codes": codes, "messages": lines}
