"""The reference profile in plain JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tasador.data.profile import reference_profile


def test_numbers_are_described_by_their_finite_values(flats):
    area = np.array([10.0, 20.0, 30.0, np.nan, np.inf])
    X = np.column_stack([area, area, [0, 1, 1, 2, np.nan], np.arange(5.0)])
    y = np.arange(1.0, 6.0)
    profile = reference_profile(X, y, flats)
    column = profile["columns"]["area"]
    assert (column["n"], column["missing"]) == (5, 0.2)
    assert (column["min"], column["median"], column["max"]) == (10.0, 20.0, 30.0)
    assert column["mean"] == 20.0
    assert column["std"] == pytest.approx(np.std([10, 20, 30]))
    assert column["p05"] == pytest.approx(11.0)
    assert column["deciles"] == pytest.approx([12, 14, 16, 18, 20, 22, 24, 26, 28])
    assert profile["columns"]["kind"]["counts"] == [1, 2, 1]
    assert profile["columns"]["kind"]["categories"] == ["Flat", "House"]
    assert profile["columns"]["sold"]["kind"] == "datetime"
    assert profile["target"]["median"] == 3.0
    assert profile["rows"] == 5


@pytest.mark.parametrize("n", [0, 3])
def test_nothing_at_all_can_be_described_too(flats, n):
    profile = reference_profile(np.full((n, 4), np.nan), np.full(n, np.nan), flats)
    assert json.loads(json.dumps(profile, allow_nan=False)) == profile
    column = profile["columns"]["rooms"]
    assert column["missing"] == (1.0 if n else 0.0)
    assert column["p99"] is None
    assert column["deciles"] == []
    assert profile["columns"]["kind"]["counts"] == [0, 0, 0]


def test_the_predictions_have_a_profile_of_their_own():
    from tasador.contract.model import Column, TableContract, Target

    contract = TableContract("t", "T", "m", (Column("a", "number"),), Target("y"))
    X, y = np.arange(5.0)[:, None], np.arange(5.0)
    assert "prediction" not in reference_profile(X, y, contract)
    found = reference_profile(X, y, contract, y + 1)["prediction"]
    assert (found["name"], found["n"], found["min"], found["max"]) == ("prediction", 5, 1.0, 5.0)
