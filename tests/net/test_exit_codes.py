"""Command lines end with the stored exit codes, and say the stored first line of what is wrong.

Codes 1 (the reader of a pipe has gone), 130, 14 and 15 need more than one command line: 1 and 130
have tests of their own below; those of the lifecycle are in
`test_equal_runs.py`, which has a registered model.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures.net import REFERENCES, TASADOR, References, environment, first_line
from fixtures.net_bundles import FAMILIES, prepare

pytestmark = pytest.mark.slow

HOMES = REFERENCES / "tables" / "homes.csv"
ROW = json.dumps({"lon": -3.5, "lat": 40.5, "area": 90, "kind": "flat", "sold": "2024-01-31"})
BUNDLE = ("--bundle", "bundle")
COMPARED = ("monitor", "--reference", "homes.csv", "--quiet")

#: Command lines by what they show; {port} is in use, {dead} is not.
LINES: dict[str, tuple[str, ...]] = {
    "the version": ("--version",),
    "the help": ("--help",),
    "no command": (),
    "an unknown command": ("valuate",),
    "an unknown option": ("runs", "--colour"),
    "a missing argument": ("predict",),
    "an unknown setting": ("run", "dataset=homes", "sweep.trails=3"),
    "a setting of another kind": ("run", "dataset=homes", "sweep.trials=many"),
    "an unknown step": ("run", "dataset=homes", "steps=[fly]"),
    "an unknown dataset": ("run", "dataset=castles"),
    "a contract with an unknown key": ("run", "dataset=odd"),
    "a contract that is no YAML": ("run", "dataset=broken"),
    "a table without the target": ("run", "dataset=other", "storage.workspace=other"),
    "a table whose rows are refused": (
        "run", "dataset=strict", "storage.workspace=strict", "tracking=none",
    ),
    "a target that is constant": (
        "run", "dataset=constant", "storage.workspace=constant", "tracking=none",
    ),
    "no model to fit": (
        "run", "dataset=homes", "tracking=none", "storage.workspace=none",
        *(f"~selection.families.{family}" for family in FAMILIES),
    ),
    "a row that is valued": ("predict", ROW, *BUNDLE),
    "a table some of whose rows are valued": ("predict", "homes.csv", *BUNDLE, "-o", "a.csv"),
    "a table none of whose rows is valued": ("predict", "refused.csv", *BUNDLE),
    "a row that is no JSON": ("predict", "{area: 90}", *BUNDLE),
    "a table that is not there": ("predict", "nowhere.csv", *BUNDLE),
    "a table that is no text": ("predict", "zeros.csv", *BUNDLE),
    "a table without rows": ("predict", "header.csv", *BUNDLE),
    "a table without a column": ("predict", "narrow.csv", *BUNDLE),
    "a column that cannot be handed on": (
        "predict", "homes.csv", *BUNDLE, "--with", "nothing", "-o", "b.csv",
    ),
    "an output inside a file": ("predict", "homes.csv", *BUNDLE, "-o", "homes.csv/a.csv"),
    "a row that is refused": ("explain", '{"area": -1}', *BUNDLE),
    "more comparables than there may be": ("explain", ROW, *BUNDLE, "--comparables", "-1"),
    "a bundle that is not there": ("verify", "nowhere"),
    "a bundle that is whole": ("verify", "bundle"),
    "a bundle with a changed file": ("verify", "changed"),
    "a bundle without a file": ("verify", "lacking"),
    "a bundle of a later format": ("predict", ROW, "--bundle", "later"),
    "a bundle with another hash": ("predict", ROW, "--bundle", "rehashed"),
    "a file that is scored": ("score", "homes.csv", "-o", "scored.csv", *BUNDLE),
    "a pattern that names no file": ("score", "no*.csv", "-o", "c.csv", *BUNDLE),
    "a package that is not installed": (
        "score", "homes.csv", "-o", "d.csv", *BUNDLE, "--engine", "ray",
    ),
    "a workspace without a registry": ("predict", ROW),
    "a registry that is away": ("models", "--registry", "http://127.0.0.1:{dead}"),
    "a port that is in use": ("serve", *BUNDLE, "--port", "{port}"),
    "a key of an unknown role": ("keys", "new", "someone", "--role", "king", "--file", "k.json"),
    "no file of keys": ("keys", "list"),
    "a duration that is none": ("alerts", "silence", "x", "--for", "1"),
    "a database that is not there": ("records", "stats"),
    "outcomes that are not there": ("outcomes", "import", "nowhere.csv"),
    "a private key that is not there": ("sign", "bundle", "--key", "nowhere.pem"),
    "a table for a contract": ("init", "homes.csv", "--target", "price", "--name", "fresh"),
    "a target that is no column": ("init", "homes.csv", "--target", "worth", "--name", "nowhere"),
    "a report that is not there": ("report",),
    "a window like its reference": (*COMPARED, "--current", "homes.csv"),
    "a window that differs": (*COMPARED, "--current", "shifted.csv"),
    "a window of too few rows to tell": (
        "monitor", "--quiet", "--reference", "monitored.csv", "--current", "monitored.csv",
        "--contract", "conf/dataset/homes.yaml",
    ),
    "a window that differs a little": (
        *COMPARED, "--current", "warning.csv", "--fail-on-warn",
    ),
    "a window without a reference": ("monitor", "--current", "homes.csv"),
    "an unknown rule": (*COMPARED, "--current", "homes.csv", "--rule", "luck=1"),
    "a rule below zero": (*COMPARED, "--current", "homes.csv", "--rule", "psi_alert=-1"),
}  # fmt: skip

#: Packages that a command line does without, by what it shows.
WITHOUT = {"a package that is not installed": "ray"}


def lay_out(folder: Path) -> None:
    """Write the files that the command lines name."""
    prepare("homes", folder / "training")
    shutil.copytree(folder / "training" / "conf", folder / "conf")
    shutil.copy(folder / "training" / "homes.csv", folder / "trained.csv")
    shutil.copy(HOMES, folder / "homes.csv")
    shutil.copy(HOMES.with_name("monitored.csv"), folder / "monitored.csv")
    header, *lines = HOMES.read_text(encoding="utf-8").splitlines(keepends=True)
    names = header.rstrip().split(",")
    for name, table in {
        "header.csv": [header],
        "refused.csv": [header, *lines[-3:]],
        "narrow.csv": ["lon,lat\n", "-3.5,40.5\n"],
        "shifted.csv": [header, *(_with(line, names, area="999") for line in lines[:100])],
        "warning.csv": [
            header,
            *(_with(line, names, area="") for line in lines[:4]),
            *lines[4:120],
        ],
        "constant.csv": [header, *(_with(line, names, price="5") for line in lines[:155])],
    }.items():
        (folder / name).write_text("".join(table), encoding="utf-8")
    (folder / "zeros.csv").write_bytes(bytes(1000))
    conf = folder / "conf" / "dataset"
    text = (conf / "homes.yaml").read_text(encoding="utf-8").replace("[homes.csv]", "[trained.csv]")
    for name, contract in {
        "homes": text,
        "odd": text + "colour: blue\n",
        "broken": "columns: [",
        "other": text.replace("name: price", "name: worth"),
        "strict": text.replace("bounds: [5, 2000]", "bounds: [250, 2000]"),
        "constant": text.replace("[trained.csv]", "[constant.csv]"),
    }.items():
        contract = contract.replace("name: homes\n", f"name: {name}\n")
        (conf / f"{name}.yaml").write_text(contract, encoding="utf-8")
    for name in ("bundle", "changed", "lacking", "later", "rehashed"):
        shutil.copytree(REFERENCES / "bundles" / "homes", folder / name)
    (folder / "changed" / "card.md").write_text("# Another model\n")
    (folder / "lacking" / "model.onnx").unlink()
    _edit(folder / "later", lambda manifest: manifest.update(format_version=2))
    _edit(folder / "rehashed", lambda manifest: manifest["interval"].update(quantile=0.1))
    (folder / "without-ray").mkdir()
    (folder / "without-ray" / "ray.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')\n"
    )


def _with(line: str, names: list[str], **values: str) -> str:
    cells = line.rstrip("\n").rsplit(",", len(names) - 2)  # the note, the second cell, has commas
    for name, value in values.items():
        cells[names.index(name) - len(names)] = value
    return ",".join(cells) + "\n"


def _edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """The exit code and the first line of every command line."""
    folder = tmp_path_factory.mktemp("lines")
    lay_out(folder)
    with socket.socket() as taken, socket.socket() as dead:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        dead.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else's
        ports = {"port": taken.getsockname()[1], "dead": dead.getsockname()[1]}

        lines = [
            (
                [re.sub(r"\{(port|dead)\}", lambda m: str(ports[m[1]]), word) for word in words],
                {"PYTHONPATH": f"without-{WITHOUT[what]}"} if what in WITHOUT else {},
            )
            for what, words in LINES.items()
        ]
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("lines.py"), folder], env=environment(),
            input=json.dumps(lines), capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {}
    for what, (code, said) in zip(LINES, json.loads(done.stdout), strict=True):
        assert "Traceback" not in said, (what, said)
        line = first_line(said, folder)
        for name, port in ports.items():
            line = line.replace(str(port), name.upper())
        found[what] = (code, line)
    return found


def test_command_lines_end_with_the_stored_exit_codes(ended: Any, references: References) -> None:
    found = {what: code for what, (code, _) in ended.items()}
    references.check("exit_codes", found)
    assert set(found.values()) >= {0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}


def test_command_lines_say_the_stored_first_line(ended: Any, references: References) -> None:
    references.check("messages", {what: line for what, (_, line) in ended.items() if line})


def test_a_command_whose_reader_has_gone_ends_with_1_and_says_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [TASADOR, "predict", HOMES, "--bundle", REFERENCES / "bundles" / "homes"]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True,
        check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 1
    assert "error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_command_ends_with_130(tmp_path: Path) -> None:
    words = [TASADOR, *prepare("cars", tmp_path), "tracking=none"]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline()  # it has begun
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
