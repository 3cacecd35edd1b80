"""A command that has ended names the one that comes next."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fixtures.command_line import run_here
from tasador.cli.app import app
from tasador.records.database import Database

ROOT: Any = typer.main.get_command(app)
BUNDLE = Path(__file__).parents[2] / "net" / "references" / "bundles" / "cars"
CAR = {"mass": 1200, "power": 85, "doors": 5, "built": "2016-03-01", "fuel": "petrol"}
#: They run until they are stopped, or print a path for another program.
WITHOUT = {"up", "serve", "ui", "demo", "watch", "report"}


def leaves(path: str, command: Any) -> dict[str, Any]:
    children = getattr(command, "commands", None)
    if children is None:
        return {path: command}
    return {
        k: v for name, child in children.items() for k, v in leaves(f"{path} {name}", child).items()
    }


LEAVES = leaves("", ROOT)


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_names_the_next_one(path: str) -> None:
    written = inspect.getsource(inspect.unwrap(LEAVES[path].callback))
    found = re.search(r"\b(follow|print_next|_report|_summarise)\(|next: ", written)
    assert (found is None) == (path.split()[0] in WITHOUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, a table and a database without records."""
    place = tmp_path_factory.mktemp("next")
    shutil.copytree(BUNDLE, place / "cars")
    lines = [f"{900 + i},{(3, 5)[i % 2]},{2000 + 37 * i}" for i in range(200)]
    (place / "sold.csv").write_text("\n".join(["mass,doors,cost", *lines]) + "\n")
    (place / "cars.json").write_text(json.dumps([CAR]))
    (place / "workspace").mkdir()
    Database.open(f"sqlite:///{place}/workspace/tasador.db").close()
    return place


@pytest.mark.parametrize(
    "line",
    [
        "runs",
        "records stats",
        "records refused",
        "records overrides",
        "records prune",
        "records replay",
        "alerts list",
        "keys list --file keys",
        "verify cars",
        "predict cars.json --bundle cars -o valued.csv",
        f"explain {shlex.quote(json.dumps(CAR))} --bundle cars",
        "score cars.json --bundle cars -o scored/",
        "init sold.csv --target cost --yes",
        "ratio sold.csv --sale cost --estimate mass",
    ],
)
def test_what_is_named_can_be_typed(folder: Path, line: str) -> None:
    (folder / "keys").touch()
    code, said, error = run_here(folder, *shlex.split(line))
    assert code == 0, error
    last = said.splitlines()[-1]
    assert last.startswith("next: tasador ")
    words, command = shlex.split(last)[2:], ROOT
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    taken = {name for param in command.params for name in param.opts}
    assert {word for word in words if word.startswith("-")} <= taken


def test_empty_lists_say_that_nothing_is_there(folder: Path) -> None:
    for line, expected in (
        ("records stats", "nothing is recorded yet"),
        ("alerts list", "no alert fires"),
        ("keys list --file none-yet", "no key in none-yet yet"),
    ):
        assert expected in run_here(folder, *line.split())[1]
