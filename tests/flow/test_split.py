"""Which rows are held out, by the pipeline as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasador.data.synthetic import generate

pytestmark = pytest.mark.slow


def sides(folder: Path, frame: pl.DataFrame, *words: str) -> tuple[set[int], set[int]]:
    """Run the pipeline up to the split; return the hashes of training and held-out rows."""
    folder.mkdir()
    frame.write_csv(folder / "table.csv")
    command = [
        sys.executable, "-m", "tasador.cli.app", "run", "steps=[download,segregate]",
        "dataset.source.paths=[table.csv]", "dataset.source.sha256=[]", *words,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = []
    for name in ("train", "sealed"):
        (file,) = (folder / "workspace").rglob(f"{name}.npz")
        with np.load(file) as arrays:
            found.append(set(arrays["row_hash"].tolist()))
    return found[0], found[1]


@pytest.mark.parametrize("seed", [42, 7])
def test_a_row_of_the_default_table_keeps_its_side_when_rows_are_added_and_reordered(
    tmp_path: Path, seed: int
) -> None:
    frame = generate("california_housing", 2500, 1)
    first, longer = frame[:2000], frame.sample(fraction=1.0, shuffle=True, seed=3)
    salt = f"segregate.seed={seed}"
    train, held_out = sides(tmp_path / "first", first, salt)
    later_train, later_held_out = sides(tmp_path / "later", longer, salt)
    assert train < later_train
    assert held_out < later_held_out
    assert 0.17 < len(held_out) / 2000 < 0.23
    assert 0.17 < len(later_held_out) / 2500 < 0.23


def test_copies_of_a_row_are_on_one_side(tmp_path: Path) -> None:
    frame = generate("california_housing", 600, 1)
    train, held_out = sides(tmp_path / "copies", pl.concat([frame, frame[:300]]))
    assert not train & held_out
    assert len(train | held_out) == 600
