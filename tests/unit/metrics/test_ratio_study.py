from __future__ import annotations

import assesspy
import numpy as np
import pytest

from tasador.metrics.regression import ACCEPTED, RATIO_STUDY, cod, fsd, prb, prd


def test_they_equal_assesspy_on_its_published_sample_and_on_skewed_numbers() -> None:
    sample = assesspy.ccao_sample()
    random = np.random.default_rng(1)
    skewed = random.lognormal(12, 1, 500)
    for actual, estimate in (
        (sample["sale_price"].to_numpy(np.float64), sample["estimate"].to_numpy(np.float64)),
        (skewed, skewed**0.9 * random.lognormal(1, 0.3, 500)),
    ):
        assert cod(actual, estimate) == pytest.approx(assesspy.cod(estimate, actual), rel=1e-10)
        assert prd(actual, estimate) == pytest.approx(assesspy.prd(estimate, actual), rel=1e-10)
        assert prb(actual, estimate) == pytest.approx(assesspy.prb(estimate, actual), rel=1e-8)


def test_by_hand() -> None:
    actual, predicted = np.array([100.0, 200.0, 400.0]), np.array([110.0, 200.0, 320.0])
    ratio = predicted / actual  # 1.1, 1.0, 0.8
    assert cod(actual, predicted) == pytest.approx(10)
    assert prd(actual, predicted) == pytest.approx(np.mean(ratio) / (630 / 700))
    size = np.log2((actual + predicted) / 2)
    assert prb(actual, predicted) == pytest.approx(np.polyfit(size, ratio - 1, 1)[0])
    assert fsd(actual, predicted) == pytest.approx(np.std(ratio, ddof=1) * 100)


def test_estimates_that_are_level_are_even() -> None:
    actual = np.array([1.0, 5.0, 9.0])
    for factor in (0.5, 1.0, 2.0):
        assert cod(actual, factor * actual) == pytest.approx(0)
        assert prd(actual, factor * actual) == pytest.approx(1)
        assert prb(actual, factor * actual) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", RATIO_STUDY)
def test_what_has_no_meaning_is_nan_and_without_a_warning(name: str) -> None:
    for actual, predicted in (
        (np.zeros(3), np.ones(3)),
        (np.ones(1) * -1, np.ones(1)),
        (np.array([0.0, 2.0]), np.array([1.0, -3.0])),
    ):
        value = RATIO_STUDY[name](actual, predicted)
        assert np.isnan(value) or (name == "prd" and np.isfinite(value))


def test_the_accepted_ranges_are_the_iaaos() -> None:
    assert ACCEPTED["cod"] == (5, 15)
    assert set(ACCEPTED) < set(RATIO_STUDY)
