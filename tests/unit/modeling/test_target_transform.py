import json

import numpy as np
import pytest

from tasador.core.errors import BundleError, ValidationError
from tasador.modeling.target_transform import TargetTransform
from tasador.modeling.trend import Trend


def test_a_log_target_comes_back():
    y = np.array([1.0, 250_000.0, 1e-3])
    log = TargetTransform("log")
    assert log.inverse(log.forward(y)) == pytest.approx(y, rel=1e-14)


def test_no_transform_keeps_numbers_and_does_not_share_memory():
    y = np.array([-1.0, 0.0, 5.0])
    scores = TargetTransform("none").forward(y)
    assert (scores == y).all()
    assert not np.shares_memory(scores, y)
    assert (TargetTransform("none").inverse(scores) == y).all()


def test_smearing_multiplies_the_inverse_transform():
    assert TargetTransform("log", 1.1).inverse(np.zeros(1)) == [1.1]
    assert TargetTransform("none", 2.0).inverse(np.array([3.0])) == [6.0]


def test_a_huge_score_becomes_infinite_without_a_warning():
    assert TargetTransform("log").inverse(np.array([1000.0])) == [np.inf]


@pytest.mark.parametrize("bad", [0.0, -3.0, np.nan, np.inf])
def test_a_log_of_a_target_that_is_not_positive_is_refused_with_its_row(bad):
    with pytest.raises(ValidationError, match=r"numbers above zero, got .* in row 1.*transform"):
        TargetTransform("log").forward(np.array([1.0, bad]))


def test_a_missing_target_is_refused_without_a_transform_too():
    with pytest.raises(ValidationError, match="finite numbers, got nan in row 0"):
        TargetTransform("none").forward(np.array([np.nan]))


def test_unknown_kinds_and_factors_are_refused():
    with pytest.raises(ValidationError, match="unknown target transform 'sqrt'"):
        TargetTransform("sqrt")
    with pytest.raises(ValidationError, match="smearing"):
        TargetTransform("log", 0.0)


def test_it_is_written_and_read_as_plain_values():
    log = TargetTransform("log", 1.02)
    assert TargetTransform.from_dict(log.to_dict()) == log


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"kind": "log"},
        {"kind": "sqrt", "smearing": 1.0},
        {"kind": "log", "smearing": "x"},
        {"kind": "log", "smearing": 1.0, "more": 1},
        {"kind": "log", "smearing": None},
    ],
    ids=str,
)
def test_plain_values_that_are_no_transform_are_refused(plain):
    with pytest.raises(BundleError, match="target transform cannot be read"):
        TargetTransform.from_dict(plain)


@pytest.fixture
def waving_trend() -> Trend:
    rng = np.random.default_rng(4)
    seconds = 1.26e9 + rng.uniform(0, 48, 2000) * 2.63e6
    area = rng.uniform(30, 300, 2000)
    z = 10.0 + np.log(area) + 0.2 * np.sin((seconds - 1.26e9) / 2e7) + rng.normal(0, 0.1, 2000)
    trend = Trend.fit(seconds, z, area[:, None])
    assert trend is not None
    return trend


def test_a_trend_brings_targets_to_its_newest_level_and_estimates_back(waving_trend: Trend) -> None:
    transform = TargetTransform("log", trend=waving_trend)
    dates = np.array([1.27e9, 1.3e9, np.nan, 1.5e9])
    y = np.array([100.0, 250.0, 40.0, 1000.0])
    newest = transform.at_newest_level(y, dates)
    assert newest[2] == pytest.approx(40.0)  # no date: the newest
    assert np.allclose(transform.inverse(np.log(newest), dates), y)
    assert np.allclose(newest, y * np.exp(-waving_trend.at(dates)))
    assert np.array_equal(TargetTransform("log").at_newest_level(y, dates), y)
    again = TargetTransform.from_dict(json.loads(json.dumps(transform.to_dict())))
    estimates = [one.inverse(np.log(newest), dates) for one in (again, transform)]
    assert np.array_equal(*estimates)


@pytest.mark.parametrize("wrong", [
    {}, {"level": 3}, {"level": [0.0], "error": [0.1], "sales": [1]}, [], None,
    {"level": ["x"], "error": [0.1], "sales": [1]},
])  # fmt: skip
def test_a_forged_trend_is_refused(wrong: object) -> None:
    with pytest.raises(BundleError):
        TargetTransform.from_dict({"kind": "log", "smearing": 1.0, "trend": wrong})
