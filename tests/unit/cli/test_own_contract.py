"""Which table `tasador run` and `doctor` mean where no ``dataset=`` says it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures.command_line import run_here
from fixtures.houses import houses

STEPS = ("steps=[download]", "download.offline=true")


@pytest.fixture(scope="module")
def contract(tmp_path_factory) -> str:
    """The contract that `tasador init` writes for a small table."""
    folder = tmp_path_factory.mktemp("own")
    houses(60).write_csv(folder / "towers.csv")
    code, out, err = run_here(folder, "init", "towers.csv", "--target", "price", "--yes")
    assert code == 0, out + err
    return (folder / "conf/dataset/towers.yaml").read_text()


def project(folder: Path, contract: str, *names: str) -> Path:
    (folder / "conf/dataset").mkdir(parents=True)
    for name in names:
        text = re.sub(r"(?m)^name: .*$", f"name: {name}", contract)
        (folder / f"conf/dataset/{name}.yaml").write_text(text)
    return folder


@pytest.mark.no_cover
def test_a_run_takes_the_only_contract_of_the_project(tmp_path, contract):
    code, out, err = run_here(project(tmp_path, contract, "towers"), "run", *STEPS)
    assert code == 0, out + err
    assert "price of towers" in out
    code, out, err = run_here(tmp_path, "doctor", "tracking=none")
    assert "towers.csv" in out
    assert "california" not in (out + err).lower()


def test_with_several_contracts_a_run_asks_which_and_lists_them(tmp_path, contract):
    folder = project(tmp_path, contract, "towers", "flats")
    for command in ("run", "doctor"):
        code, _, err = run_here(folder, command, *STEPS)
        assert (code, "dataset= with one of flats, towers" in err) == (2, True), err
        assert not (folder / "workspace").exists()
    code, out, err = run_here(folder, "run", *STEPS, "dataset=flats")
    assert code == 0, out + err


def test_a_shipped_table_is_still_run_by_its_name(tmp_path, contract):
    folder = project(tmp_path, contract, "towers")
    code, out, err = run_here(folder, "run", "dataset=diamonds", "steps=[download]", *STEPS[1:])
    assert (code, "diamonds" in out) == (0, True), out + err
