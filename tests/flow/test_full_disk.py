"""Every command on a disk that is full: one message, no success, nothing half written.

Commands are found in the command tree, so that a new one has to say here what it writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer.main

from fixtures.command_line import run_here
from fixtures.houses import Recipe, houses, register_houses, train_bundle
from tasador.cli.app import app
from tasador.records.database import Database
from tasador.records.record import Outcome, Record, new_id
from tasador.records.store import RecordStore
from tasador.registry.model_bundle import ModelBundle

MODEL = "houses_model"
#: Words after each command that writes, and what it would have written.
WRITES: dict[str, tuple[str, ...]] = {
    "init": ("houses.csv", "--target", "price", "--name", "other"),
    "run": ("dataset=houses", "download.offline=true", "dataset.source.paths=[houses.csv]"),
    "predict": ("rows.csv", "--bundle", "b1", "-o", "old/predicted.csv"),
    "appraise": ("rows.csv", "--bundle", "b1", "-o", "old/reports"),
    "score": ("rows.csv", "--bundle", "b1", "-o", "old/scored.csv"),
    "sales": ("--dataset", "houses", "-o", "old/sales.csv"),
    "trend": ("--dataset", "sold", "-o", "old/trend.html"),
    "ratio": ("houses.csv", "--sale", "price", "--estimate", "price", "--html", "old/ratio.html"),
    "monitor": (
        "--reference", "houses.csv", "--current", "houses.csv", "--contract",
        "conf/dataset/houses.yaml", "--json", "old/verdict.json", "-q",
    ),
    "records export": ("-o", "old/records.parquet", "--since", "7d"),
    "outcomes import": ("outcomes.csv",),
    "keys new": ("shop", "--file", "old/keys.txt"),
    "promote": ("1", "--force", "--reason", "a drill"),
    "reject": ("2", "--reason", "a drill"),
    "publish": ("old/published", "--bundle", "b1"),
}  # fmt: skip
#: Commands that write what others of `WRITES` write in the same way, or go on for ever.
ELSEWHERE = {
    **dict.fromkeys(
        ("use", "rollback", "canary start", "canary stop", "canary settle", "alerts ack",
         "alerts silence", "alerts unsilence", "records prune", "records replay", "review"),
        "the database and the registry, as reject and outcomes import do",
    ),
    **dict.fromkeys(
        ("retrain", "reproduce", "backtest"), "a run: its table first, as run and sales do"
    ),
    **dict.fromkeys(("report", "sign"), "files by the writer of appraise and keys new"),
    "keys revoke": "the file of keys new",
    **dict.fromkeys(
        ("demo", "simulate", "watch", "up", "serve", "ui"),
        "services: tests/unit/serving/test_no_space.py",
    ),
}  # fmt: skip
READS = (
    "explain",
    "runs",
    "doctor",
    "models",
    "compare",
    "history",
    "verify",
    "canary status",
    "alerts list",
    "keys list",
    "records stats",
    "records overrides",
    "records refused",
)
OLD = "what was there before"


def commands() -> list[str]:
    def walk(path: tuple[str, ...], command: Any) -> list[str]:
        children = getattr(command, "commands", None)
        if children is None:
            return [" ".join(path)]
        return [name for key, one in children.items() for name in walk((*path, key), one)]

    return walk((), typer.main.get_command(app))


@pytest.fixture(scope="module")
def disk(
    house_contract, template_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A small disk with a workspace, tables, and a file wherever a command would put one."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    try:
        workspace = folder / "workspace"
        workspace.mkdir()
        shutil.copy(template_database, workspace / "mlflow.db")
        bundles = []
        for number in (1, 2):
            recipe = Recipe(trees=20, seed=number, watched=True)
            bundles.append(
                train_bundle(
                    folder / f"b{number}", house_contract, houses(600), workspace / "data", recipe
                )
            )
            register_houses(bundles[-1], workspace / "mlflow.db", number, MODEL)
        fill_workspace(folder, bundles[0])
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_workspace(folder: Path, bundle: ModelBundle) -> None:
    houses(600).write_csv(folder / "houses.csv")
    houses(40).drop("price").write_csv(folder / "rows.csv")
    sold = houses(600).with_columns(
        sold=pl.date_range(pl.date(2023, 1, 1), pl.date(2024, 8, 22), eager=True)
    )
    sold.write_csv(folder / "sold.csv")
    for name in ("houses", "sold"):
        words = ("init", f"{name}.csv", "--target", "price", "--name", name)
        assert run_here(folder, *words)[0] == 0
    rows = houses(30).drop("price").to_dicts()
    ids = [new_id() for _ in rows]
    with Database.open(f"sqlite:///{folder}/workspace/tasador.db") as database:
        store = RecordStore(database)
        store.append(
            [
                Record(key, 1.7e9, bundle.version, "champion", "local", b"{}", 1e5, 9e4, 1.1e5, 0.9,
                       1.0)
                for key in ids
            ]
        )  # fmt: skip
        store.add_outcomes([Outcome(ids[0], 1e5, 1.75e9)])
    told = "".join(f"{key},100000\n" for key in ids)
    (folder / "outcomes.csv").write_text("prediction_id,actual\n" + told)
    for words in WRITES.values():
        for word in words:
            if word.startswith("old/") and "." in word:
                path = folder / word
                path.parent.mkdir(exist_ok=True)
                path.write_text("" if path.name == "keys.txt" else OLD)


def files(folder: Path) -> dict[str, str]:
    """Return the hash of each file but locks, which are empty, and databases, see `sound`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and ".db" not in path.name
        and path.suffix != ".lock"
        and path.name != "ballast.lock"
    }


def sound(folder: Path) -> bool:
    found = []
    for path in folder.rglob("*.db"):
        with sqlite3.connect(path) as database:
            found += database.execute("PRAGMA integrity_check").fetchall()
        database.close()
    return found == [("ok",)] * len(found)


@pytest.fixture
def full(disk: Path) -> Iterator[Path]:
    """The disk, without a byte to spare."""
    ballast = disk / "ballast.lock"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield disk
    ballast.unlink()


@pytest.mark.parametrize("command", WRITES)
def test_it_says_that_the_disk_is_full_and_leaves_what_was_there(full: Path, command: str) -> None:
    before = files(full)
    code, _, err = run_here(full, *command.split(), *WRITES[command])
    assert code != 0
    assert err.count("error:") == 1, err
    assert "disk is full" in err
    assert "free some space" in err
    assert files(full) == before
    (full / "ballast.lock").write_bytes(b"")  # SQLite reads nothing either without space
    assert sound(full)


def test_every_command_says_whether_it_writes() -> None:
    """One that is added belongs to `WRITES`, or has its reason here."""
    assert sorted([*WRITES, *ELSEWHERE, *READS]) == sorted(commands())
