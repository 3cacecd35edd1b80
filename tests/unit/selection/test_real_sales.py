"""Suspicious sales of the real tables; a column of the truth is hidden, or errors are planted."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasador.contract.model import TableContract
from tasador.contract.reader import read_contract
from tasador.data.readers import read_table
from tasador.data.table import Table, ValidatedTable
from tasador.data.validation import validate_table
from tasador.ops.init_contract import infer_contract
from tasador.selection.suspicious_sales import suspect_sales
from tasador.settings.compose import conf_folder

pytestmark = pytest.mark.slow


def real_table(name: str) -> Path:
    path = Path(os.environ.get("TASADOR_REAL_DATA", "no folder")) / "tables" / name
    if not path.is_file():
        pytest.skip(f"the real table {name} is not there")
    return path


def valid(frame: pl.DataFrame, contract: TableContract) -> ValidatedTable:
    return validate_table(Table(frame, "0", "real", "a file"), contract, max_refused_share=0.2)


@pytest.fixture(scope="module")
def ames() -> tuple[pl.DataFrame, ValidatedTable]:
    path = real_table("ames.csv")
    contract, frame = infer_contract(path, "Sale_Price").contract, read_table(path)
    columns = tuple(c for c in contract.columns if c.name != "Sale_Condition")
    return frame, valid(frame, replace(contract, columns=columns))


def test_what_is_flagged_in_ames_is_unusual_at_least_twice_as_often(ames):
    frame, table = ames
    unusual = (frame["Sale_Condition"] != "Normal").to_numpy()[table.row]
    flagged = suspect_sales(table.contract, table.part, threshold=5.0, seed=42).flagged
    assert flagged.sum() >= 20
    assert unusual[flagged].mean() >= 2 * unusual.mean()


@pytest.mark.parametrize("name", ["ames", "king_county"])
def test_prices_wrong_by_a_factor_of_ten_are_found(name: str, request: pytest.FixtureRequest):
    if name == "ames":
        table: ValidatedTable = request.getfixturevalue("ames")[1]
    else:
        path = real_table("king_county_sales.tsv")
        contract = read_contract(conf_folder() / "dataset" / "king_county_sales.yaml")
        table = valid(read_table(path, source=contract.source), contract)
    rng = np.random.default_rng(1)
    wrong = rng.choice(len(table.y), len(table.y) // 100, replace=False)
    y = table.y.copy()
    y[wrong] *= np.where(rng.random(len(wrong)) < 0.5, 10.0, 0.1)
    found = suspect_sales(table.contract, replace(table.part, y=y), threshold=5.0, seed=42)
    assert found.flagged[wrong].mean() >= 0.95
    assert found.flagged.sum() <= 0.025 * len(y)
