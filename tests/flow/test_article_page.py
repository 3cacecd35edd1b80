"""docs/explanation/article.md: the commands of its tables, run, print what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.process import free_port, wait_until_ready

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "article.md").read_text(encoding="utf-8")
LINKED = ("src", "tests", "deploy", "benchmarks", "examples", "docs", ".github", "pyproject.toml")
VERDICTS = ("works", "partly", "missing")
#: A tenth of the candidates and none of the trials: every phase runs, in a minute.
SMALL = [
    "download.offline=true",
    "download.synthetic_rows=3000",
    "selection.folds=3",
    "selection.families={ridge:{alpha:[1.0]},lightgbm:{n_estimators:[40],num_leaves:[7]},"
    "random_forest:{n_estimators:[5]}}",
    "sweep.trials=0",
    "sweep.slowdown=1",
    "features.cross_fit_folds=4",
    "register.parity_rows=1000",
    "register.bootstrap_draws=20",
]


@dataclass(frozen=True)
class Row:
    """A line of the page: what the article says, the command, excerpts of its output, a verdict."""

    number: int
    says: str
    command: str
    printed: str
    verdict: str

    @property
    def code(self) -> str:
        """The command; empty where the page says why it is not run here."""
        whole = re.fullmatch(r"`([^`]+)`", self.command)
        return whole[1] if whole else ""

    @property
    def tests(self) -> list[str]:
        """The tests that the command runs, if it runs tests."""
        return self.code.split()[2:] if self.code.startswith("pytest ") else []

    @property
    def excerpts(self) -> list[str]:
        return re.findall(r"`([^`]+)`", self.printed)


def rows() -> list[Row]:
    found = []
    for line in PAGE.splitlines():
        if re.match(r"\| \d+ \|", line):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            number, *texts = [cell.replace(r"\|", "|") for cell in cells]
            found.append(Row(int(number), *texts))
    return found


ROWS = rows()
SHELL = [row for row in ROWS if row.code and not row.tests]


def pattern(excerpt: str) -> str:
    """Return what an excerpt matches: ~N is any number, … any text, spaces are any."""
    made = []
    for part in re.split(r"(~[\d.,]*\d|…|\s+)", excerpt):
        if part.startswith("~"):
            made.append(r"[\d.,]+")
        elif part == "…":
            made.append(r"[^\n]*?")
        else:
            made.append(r"\s+" if part.isspace() else re.escape(part))
    return "".join(made)


def test_an_excerpt_matches_its_numbers_and_nothing_else() -> None:
    assert re.search(pattern("MAPE ~12.5 %"), "MAPE    9.871 %")
    assert not re.search(pattern("MAPE 12.5 %"), "MAPE 12.6 %")
    assert re.search(pattern('"a":"…","b"'), '"a":"x","b"')
    assert not re.search(pattern("works (yes)"), "works yes")


def test_the_page_has_every_row_once_and_counts_its_verdicts_rightly() -> None:
    assert [row.number for row in ROWS] == list(range(1, 72))
    words = Counter(row.verdict.partition(":")[0] for row in ROWS)
    assert set(words) <= set(VERDICTS)
    works, partly, missing = (words[word] for word in VERDICTS)
    said = f"Of 71 rows {works} work, {partly} work partly, {missing} are missing."
    assert PAGE.rstrip().endswith(said), f"the page must end with: {said}"
    for row in ROWS:
        assert row.says
        assert row.excerpts or not row.code, row.number
        assert row.code or row.command, row.number
        if row.verdict == "partly":
            pytest.fail(f"row {row.number} does not say what is left")


@pytest.mark.slow
def test_the_tests_that_the_page_names_exist_and_are_at_least_as_many_as_it_says() -> None:
    named = sorted({name for row in ROWS for name in row.tests})
    assert len(named) > 30
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *named],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    collected = [line for line in done.stdout.splitlines() if "::" in line]
    for row in ROWS:
        if row.tests:
            own = {one for one in collected for name in row.tests if under(one, name)}
            said = re.fullmatch(r"(\d+) passed", *row.excerpts)
            assert said, f"row {row.number} does not say how many tests passed"
            # tests may have been added since; one that is gone no longer shows anything
            assert 0 < int(said[1]) <= len(own), f"row {row.number}: {len(own)} tests"


def under(one: str, name: str) -> bool:
    return one == name or one.startswith((f"{name}::", f"{name}["))


@dataclass(frozen=True)
class Checkout:
    """A folder with a checkout's files, a trained workspace and a service."""

    folder: Path
    port: int
    trained: str

    def run(self, command: str) -> str:
        """Return everything that a command prints."""
        done = subprocess.run(
            ["/bin/bash", "-c", command.replace("localhost:8000", f"localhost:{self.port}")],
            cwd=self.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=900,
        )  # fmt: skip
        return done.stdout


def environment() -> dict[str, str]:
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": own, "COLUMNS": "200"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """What the page says to do first, with a smaller training and a free port."""
    folder, port = tmp_path_factory.mktemp("checkout"), free_port()
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    block = re.search(
        r"## Shown by.*?```sh\n(tasador run)\n(python .*?\nEND)\n(.*?)```", PAGE, re.S
    )
    assert block is not None
    run, prepare, serve = block.groups()
    assert serve.strip() == "tasador serve 2> serve.log &"
    here = Checkout(folder, port, "")
    trained = here.run(" ".join([run, *(f"'{one}'" for one in SMALL)]))
    assert "registered: " in trained, trained
    # generated rows make no champion by themselves
    promoted = here.run("tasador promote 1 --force --reason 'as if its rows were real'")
    assert "champion" in promoted, promoted
    assert here.run(prepare) == ""
    log = folder / "serve.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasador.cli.app", "serve", "--port", str(port)],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=errors, text=True,
        )  # fmt: skip
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        here.run(
            "curl -s localhost:8000/api/v1/predict -H 'content-type: application/json' -d @row.json"
        )
        yield Checkout(folder, port, trained)
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("row", SHELL, ids=lambda row: f"row {row.number}")
def test_a_command_prints_what_the_page_says(checkout: Checkout, row: Row) -> None:
    said = checkout.trained if row.code == "tasador run" else checkout.run(row.code)
    assert "Traceback" not in said
    for excerpt in row.excerpts:
        assert re.search(pattern(excerpt), said), f"{excerpt!r} is not in:\n{said[-3000:]}"
