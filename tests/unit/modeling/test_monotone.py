from __future__ import annotations

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.modeling.monotone import check_monotone, promise

CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {"a": {"kind": "number"}, "b": {"kind": "number"}},
        "target": {"name": "y"},
    }
)
X = np.random.default_rng(3).normal(size=(400, 2))
X[::7, 0] = np.nan


@pytest.mark.parametrize(("direction", "sign"), [("up", 1.0), ("down", -1.0)])
def test_estimates_that_keep_to_a_direction_have_no_violations(direction, sign):
    (found,) = check_monotone(
        lambda Z: sign * np.floor(Z[:, 0]) * np.exp(Z[:, 1]),
        CONTRACT,
        X,
        {"a": direction},
        pairs=3000,
        seed=1,
    )
    assert (found.pairs, found.violations, found.largest) == (3000, 0, 0.0)
    assert found.sentence.startswith(promise("a", direction))


def test_one_dip_is_found_and_measured():
    def predict(Z):
        return 100.0 + Z[:, 0] - 20.0 * ((Z[:, 0] > 0.4) & (Z[:, 0] < 0.5) & (Z[:, 1] > 0))

    (found,) = check_monotone(predict, CONTRACT, X, {"a": "up"}, pairs=4000, seed=1)
    assert 0 < found.violations < 1000
    assert found.largest == pytest.approx(0.2, abs=0.05)
    (other,) = check_monotone(predict, CONTRACT, X, {"b": "down"}, pairs=4000, seed=1)
    assert other.violations == 0
    (rising,) = check_monotone(predict, CONTRACT, X, {"a": "down"}, pairs=4000, seed=1)
    assert rising.violations > 3000


def test_a_column_of_one_value_is_not_checked():
    constant = np.column_stack([np.ones(10), np.arange(10.0)])
    assert check_monotone(lambda Z: Z[:, 1], CONTRACT, constant, {"a": "up"}, pairs=9, seed=1) == []
