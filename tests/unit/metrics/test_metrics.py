from __future__ import annotations

import numpy as np
import pytest

from tasador.metrics.regression import (
    HIGHER_IS_BETTER,
    IN_TARGET_UNIT,
    METRICS,
    RATIO_STUDY,
    UNITLESS,
    all_metrics,
    bootstrap_metrics,
    fsd,
    ki,
    label,
    mki,
    prb,
    relative_errors,
    robust_spread,
    share_interval,
    unit_of,
    vei,
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


def test_many_rows_are_drawn_less_often_and_their_interval_is_as_wide() -> None:
    random = np.random.default_rng(0)
    actual, calls = random.uniform(100, 200, 200_000), []
    predicted = actual * random.normal(1, 0.1, len(actual))

    def mae(y, p):
        calls.append(len(y))
        return float(np.abs(y - p).mean())

    found = bootstrap_metrics(actual, predicted, seed=3, metrics={"mae": mae})["mae"]
    assert len(calls) == 200 + 1
    width = 2 * 1.96 * np.abs(predicted - actual).std() / np.sqrt(len(actual))
    assert found.high - found.low == pytest.approx(width, rel=0.2)


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
    only = {"mae": METRICS["mae"]}
    many = bootstrap_metrics(actual, predicted, draws=4000, seed=3, metrics=only)["mae"]
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


def test_every_name_in_a_set_of_metrics_is_a_metric() -> None:
    names = set(METRICS) | set(RATIO_STUDY)
    assert names > IN_TARGET_UNIT | UNITLESS | HIGHER_IS_BETTER
    assert label("median_ape") == "median APE"
    assert label("median_ratio") == "median ratio"
    assert label("weighted_mean_ratio") == "weighted mean ratio"


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_metric_does_not_depend_on_the_currency(factor: float) -> None:
    got, same = all_metrics(ACTUAL, PREDICTED), all_metrics(factor * ACTUAL, factor * PREDICTED)
    for name, value in got.items():
        expected = value * (factor if name in IN_TARGET_UNIT else 1.0)
        assert same[name] == pytest.approx(expected), name
    level = all_metrics(ACTUAL - 250.0, PREDICTED - 250.0)
    assert level["r2"] == pytest.approx(got["r2"])  # and r2 not on the origin either


def test_each_share_is_of_the_rows_within_its_own_percentage_the_bound_included() -> None:
    actual = np.full(5, 100.0)
    got = all_metrics(actual, np.array([105.0, 90.0, 115.0, 80.0, 121.0]))
    found = [got[f"within_{percent}"] for percent in (5, 10, 15, 20)]
    assert found == pytest.approx([20.0, 40.0, 60.0, 80.0])


def test_two_rows_are_enough_for_a_slope_and_a_spread_and_one_is_not() -> None:
    actual, predicted = np.array([100.0, 300.0]), np.array([110.0, 270.0])
    size = np.log2((actual + predicted) / 2)  # the median ratio is 1
    assert prb(actual, predicted) == pytest.approx(-0.2 / (size[1] - size[0]))
    assert fsd(actual, predicted) == pytest.approx(20 / np.sqrt(2))
    own, ideal = (2 * np.dot([1, 2], v) / np.sum(v) - 3 for v in (predicted, actual))
    assert mki(actual, predicted) == pytest.approx(own / ideal)
    assert ki(actual, predicted) == pytest.approx((own - ideal) / 2)
    for metric in (prb, fsd, ki, mki, vei):
        assert np.isnan(metric(actual[:1], predicted[:1]))


@pytest.mark.parametrize(
    ("rows", "groups"), [(10, 2), (50, 2), (51, 4), (500, 4), (501, 10), (1000, 10)]
)
def test_vei_has_more_groups_of_more_rows(rows: int, groups: int) -> None:
    price = 2.0 ** np.linspace(0.0, 3.0, rows)
    ratio = np.linspace(1.2, 0.8, rows)
    parts = np.array_split(ratio, groups)
    expected = (np.median(parts[-1]) - np.median(parts[0])) / np.median(ratio) * 100
    assert vei(price, price * ratio) == pytest.approx(expected)


def test_a_robust_spread_is_the_deviation_of_a_normal_distribution_and_ignores_a_far_value() -> (
    None
):
    assert robust_spread(np.array([])) == 0.0
    assert robust_spread(np.array([1.0, 2.0, 4.0, 1e9])) == pytest.approx(1.4826 * 1.5)
    assert robust_spread(np.array([1.0, 2.0, 4.0]), 0.0) == pytest.approx(1.4826 * 2.0)


def test_the_interval_of_a_share_is_wilsons_and_stays_between_0_and_1() -> None:
    low, high = share_interval(0.8, 10)
    # the two shares from which 0.8 lies 1.96 standard errors away
    for end in (low, high):
        assert abs(end - 0.8) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 10))
    assert low < 0.8 < high
    assert share_interval(0.0, 5)[0] == 0.0
    assert share_interval(1.0, 5)[1] == 1.0
    assert share_interval(1.0, 1)[0] > 0.2
    assert np.isnan(share_interval(0.0, 0)).all()


def test_an_interval_of_resamples_leaves_out_those_where_a_metric_is_undefined() -> None:
    actual, predicted = np.array([0.0, 100.0]), np.array([1.0, 110.0])
    only = {"mape": METRICS["mape"]}
    found = bootstrap_metrics(actual, predicted, draws=50, seed=1, metrics=only)["mape"]
    assert (found.low, found.value, found.high) == pytest.approx((10.0, 10.0, 10.0))
    error = {"mae": METRICS["mae"]}
    wide, narrow = (
        bootstrap_metrics(
            ACTUAL, PREDICTED, draws=300, seed=2, confidence=confidence, metrics=error
        )["mae"]
        for confidence in (0.99, 0.5)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


def test_estimates_of_zero_have_a_level_and_no_evenness() -> None:
    found = {n: metric(np.arange(1.0, 13.0), np.zeros(12)) for n, metric in RATIO_STUDY.items()}
    defined = {name for name, value in found.items() if not np.isnan(value)}
    assert defined == {"median_ratio", "weighted_mean_ratio", "fsd"}
    assert not any(found[name] for name in defined)


def test_relative_errors_are_over_the_size_of_the_actual_value() -> None:
    actual, predicted = np.array([-4.0, 0.0, 5.0]), np.array([-3.0, 1.0, 5.0])
    assert relative_errors(actual, predicted, at_zero=9.0).tolist() == [0.25, 9.0, 0.0]
