"""Two equal runs give equal bytes, in their bundles, cached results and figures.

`tests/flow/test_pipeline.py` compares the metrics and some answers of two runs of the default
table; here every file of the bundles is compared. Nothing is stored: a trained model's arrays may
differ between processors. The lifecycle commands that need a registered model are ended here too.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fixtures.net import REFERENCES, References, first_line, tasador
from fixtures.net_bundles import prepare

#: What says when a bundle was made and under which release it was registered.
NOT_CONTENT = ("created", "release")

#: In this order, in the workspace of the first run.
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


def test_equal_runs_give_equal_bytes_and_lifecycle_commands_the_stored_exit_codes(
    tmp_path: Path, references: References
) -> None:
    words = prepare("cars_native", tmp_path)
    runs = [("workspace", ()), ("other", ("tracking=none",))]

    def run(workspace: str, more: tuple[str, ...]) -> Path:
        done = tasador(tmp_path, *words, f"storage.workspace={workspace}", *more, limit_s=600)
        assert done.returncode == 0, done.stderr
        (manifest,) = (tmp_path / workspace / "bundles").glob("*/manifest.json")
        return manifest.parent

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda case: run(*case), runs)
    assert one.name == other.name
    assert contents(one) == contents(other)
    names = {path.name for path in (REFERENCES / "bundles" / "cars_native").iterdir()}
    assert set(contents(one)) == names
    figures = [next((tmp_path / name / "runs").glob("*/metrics.json")) for name, _ in runs]
    assert figures[0].read_bytes() == figures[1].read_bytes()

    codes, lines = {}, {}
    for what, command in LIFECYCLE.items():
        done = tasador(tmp_path, *command)
        assert "Traceback" not in done.stderr, done.stderr
        codes[what] = done.returncode
        if done.returncode and (line := first_line(done.stderr, tmp_path)):
            lines[what] = line
    references.check("lifecycle", {"codes": codes, "messages": lines})
    assert set(codes.values()) >= {0, 2, 10, 14, 15}
