from __future__ import annotations

import numpy as np
import pytest

from tasador.metrics.regression import (
    METRICS,
    RATIO_STUDY,
    all_metrics,
    bootstrap_metrics,
    label,
    unit_of,
)

ACTUAL = np.array([100.0, 200.0, 400.0])
PREDICTED = np.array([110.0, 180.0, 400.0])


def test_every_metric_equals_its_value_by_hand() -> None:
    got = all_metrics(ACTUAL, PREDICTED)
    assert got["mae"] == pytest.approx(10)
    assert got["rmse"] == pytest.approx(np.sqrt(500 / 3))
    assert got["mape"] == pytest.approx(20 / 3)
    assert got["wmape"] == pytest.approx(100 * 30 / 700)
    assert got["smape"] == pytest.approx(100 * (10 / 105 + 20 / 190) / 3)
    assert got["median_ape"] == pytest.approx(10)
    assert got["within_5"] == pytest.approx(100 / 3)
    assert got["within_10"] == pytest.approx(100)
    total = ((ACTUAL - ACTUAL.mean()) ** 2).sum()
    assert got["r2"] == pytest.approx(1 - 500 / total)


def test_zero_targets_have_a_defined_meaning() -> None:
    zero = np.zeros(2)
    got = all_metrics(zero, np.array([0.0, 1.0]))
    undefined = {"mape", "wmape", "median_ape", "within_10", "r2"}
    assert all(np.isnan(got[name]) for name in undefined)
    assert got["smape"] == pytest.approx(100)
    some = all_metrics(np.array([0.0, 100.0]), np.array([5.0, 110.0]))
    assert some["mape"] == pytest.approx(10)


def test_bootstrap_intervals_hold_the_value_and_repeat() -> None:
    random = np.random.default_rng(0)
    actual = random.uniform(100, 200, 300)
    predicted = actual * random.normal(1, 0.1, 300)
    first = bootstrap_metrics(actual, predicted, draws=200, seed=3)
    assert first == bootstrap_metrics(actual, predicted, draws=200, seed=3)
    assert set(first) == set(METRICS) | set(RATIO_STUDY)
    assert all(e.low <= e.value <= e.high for e in first.values())
    # a mean's interval is that of the normal distribution, at 95% and not at any other level
    size = np.abs(predicted - actual)
    many = bootstrap_metrics(actual, predicted, draws=4000, seed=3)["mae"]
    width = 2 * 1.96 * size.std() / np.sqrt(len(size))
    assert many.high - many.low == pytest.approx(width, rel=0.06)
    undefined = bootstrap_metrics(np.zeros(5), np.ones(5), draws=10, seed=1)["mape"]
    assert np.isnan(undefined.low)


def test_labels_are_for_people() -> None:
    assert [label(n) for n in ("within_10", "wmape", "r2", "rmse")] == [
        "within 10%",
        "wMAPE",
        "R²",
        "RMSE",
    ]


def test_units() -> None:
    names = ("mae", "rmse", "mape", "cod", "r2", "prd", "prb")
    assert [unit_of(n, "EUR") for n in names] == ["EUR", "EUR", "%", "%", "", "", ""]
    assert unit_of("mae", None) == ""
