"""Pipes and devices where files are expected, given to the commands: refused, never waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def tasador(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", *map(str, words)], cwd=folder,
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("what", ["pipe", "/dev/zero"])
def test_rows_bundles_and_contracts_are_plain_files(
    bundle_folder: Path, tmp_path: Path, what: str
) -> None:
    place = tmp_path / "pipe"
    if what == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(what)
    (bundle_folder / "manifest.json").rename(tmp_path / "kept.json")
    (bundle_folder / "manifest.json").symlink_to(place)
    (tmp_path / "kept").mkdir()
    for words in (
        ("predict", place, "--bundle", bundle_folder),
        ("score", place, "--output", tmp_path / "out.csv", "--bundle", bundle_folder),
        ("verify", bundle_folder),
        ("init", place, "--target", "price"),
        ("publish", "store", "--bundle", bundle_folder),
    ):
        done = tasador(tmp_path, *words)
        assert done.returncode in (2, 3, 5, 7), (words, done)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "Traceback" not in done.stderr
