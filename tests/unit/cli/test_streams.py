"""Commands whose output goes where UTF-8 is unknown, or where nobody reads to the end."""

import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

pytestmark = pytest.mark.slow

TASADOR = (sys.executable, "-m", "tasador.cli.app")
COMMANDS = {
    "monitor": (10, ("monitor", "--reference", "a.csv", "--current", "b.csv")),
    "init": (0, ("init", "a.csv", "--target", "precio", "--force")),
    "help": (0, ("monitor", "--help")),
    "runs": (0, ("runs",)),
    "an error": (3, ("monitor", "--reference", "año.csv", "--current", "b.csv")),
    "an unknown command": (2, ("válorar",)),
    "a verbose one": (3, ("--verbose", "outcomes", "import", "日本.csv")),
}
ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp437": {"PYTHONIOENCODING": "cp437:strict"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("años")
    random = np.random.default_rng(0)
    for name, factor in (("a.csv", 1.0), ("b.csv", 3.0)):
        towns = random.choice(["Málaga", "León", "東京"], 400).tolist()
        area = factor * random.uniform(30, 200, 400)
        table = pl.DataFrame({"área": area, "ciudad": towns, "precio": 1500 * area})
        table.write_csv(folder / name)
    return folder


def tasador(folder, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **variables):
    kept = {k: v for k, v in os.environ.items() if k not in ("LC_ALL", "LANG")}
    words = (*TASADOR, *COMMANDS[command][1])
    env = kept | {"COLUMNS": "120"} | variables
    return subprocess.run(words, cwd=folder, env=env, stdout=stdout, stderr=stderr)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_command_ends_alike_whatever_its_output_can_encode(folder, command, encoding):
    done = tasador(folder, command, **ENCODINGS[encoding])
    assert b"Traceback" not in done.stderr, done.stderr
    assert done.returncode == COMMANDS[command][0], done.stderr
    assert done.stdout or done.stderr


def test_where_file_names_have_to_be_ascii_a_command_ends_too(folder):
    kept = {k: v for k, v in os.environ.items() if k not in ("LC_ALL", "LANG")}
    words = (sys.executable, "-X", "utf8=0", *TASADOR[1:], "monitor", "--help")
    env = kept | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_encoded_is_shown_in_other_characters(folder):
    text = tasador(folder, "monitor", PYTHONIOENCODING="ascii").stdout.decode("ascii")
    row = next(line for line in text.splitlines() if line.startswith("\\u00e1rea"))
    assert "#" in row  # a full bar
    whole = tasador(folder, "monitor", PYTHONIOENCODING="utf-8").stdout.decode("utf-8")
    row = next(line for line in whole.splitlines() if line.startswith("área"))
    assert "█" in row


@pytest.mark.parametrize("command", ["monitor", "init", "help", "runs"])
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(folder, command, both):
    read, write = os.pipe()
    os.close(read)
    try:
        done = tasador(folder, command, write, write if both else subprocess.PIPE)
    finally:
        os.close(write)
    assert done.returncode in (1, COMMANDS[command][0])
    for word in (b"Traceback", b"BrokenPipe", b"Exception ignored"):
        assert word not in (done.stderr or b"")


def test_a_closed_standard_output_is_no_error(folder):
    words = " ".join((*TASADOR, "runs"))
    done = subprocess.run(f"{words} >&-", shell=True, cwd=folder, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
