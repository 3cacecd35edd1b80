"""Small Parquet files that stand for gigabytes cost no command of ours its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fixtures.parquet_files import FILES, one_value, written

MOST_MB = 200.0
#: Runs commands after each other in one process, and says what each took at most above idle.
RUNNER = """
import contextlib, gc, io, json, re, sys
from pathlib import Path
from tasador.cli.app import main

def kb(name):
    return int(re.findall(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[0])

def run(arguments):
    sys.argv = ["tasador", *arguments]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, text = kb("VmRSS"), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return {"mb": (kb("VmHWM") - before) / 1024, "code": code, "text": text.getvalue()[-2000:]}

commands = json.loads(Path("commands.json").read_text())
found = [run(arguments) for arguments in commands]
Path("found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def crafted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("crafted")
    makers = {**FILES, "a column of many rows": lambda: one_value(10_000_000)}
    found = {}
    for name, make in makers.items():
        found[name] = folder / f"{name.replace(' ', '_')}.parquet"
        found[name].write_bytes(make())
    return found


def measured(tmp_path: Path, commands: list[list[str]]) -> list[dict]:
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    arguments = [sys.executable, "-c", RUNNER]
    ended = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: list[dict] = json.loads((tmp_path / "found.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", ["init", "predict", "score", "monitor", "monitor --outcomes"])
def test_a_small_parquet_file_that_stands_for_gigabytes_costs_a_command_no_memory(
    command: str, crafted: dict[str, Path], written_bundle: Path, tmp_path: Path
) -> None:
    honest = tmp_path / "honest.parquet"
    rng = np.random.default_rng(3)
    income = pa.array(rng.lognormal(1.0, 0.4, 600))
    honest.write_bytes(written(600, {"income": income}))

    def arguments(file: Path, number: int) -> list[str]:
        if command == "init":
            return ["init", str(file), "--target", "income", "--name", f"t{number}"]
        if command == "predict":
            return ["predict", "--bundle", str(written_bundle), "--with", "inputs", str(file)]
        if command == "score":
            return ["score", "--bundle", str(written_bundle), "--columns", "*", "--force",
                    "--out", "out.parquet", str(file)]  # fmt: skip
        more = [] if command == "monitor" else [
            "--outcomes", str(file), "--id", "kind", "--target", "income"
        ]  # fmt: skip
        return ["monitor", "--reference", str(file), "--current", str(file), *more]

    names = [name for name in crafted if command != "score" or name != "a column of many rows"]
    runs = [
        arguments(honest, 0),
        *(arguments(crafted[name], i + 1) for i, name in enumerate(names)),
    ]
    first, *found = measured(tmp_path, runs)
    for name, one in zip(names, found, strict=True):
        print(command, name, round(one["mb"]), one["code"], one["text"][-300:].replace("\n", " | "))
    for name, one in zip(names, found, strict=True):
        assert one["mb"] < MOST_MB, f"{name}: {one['mb']:.0f} MB"
        assert "Traceback" not in one["text"]
