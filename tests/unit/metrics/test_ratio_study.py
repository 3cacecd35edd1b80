from __future__ import annotations

import dataclasses
import math
import re

import assesspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasador.metrics.ratio_study import (
    MISSING,
    OTHERS,
    RatioGroup,
    is_met,
    level_groups,
    median_interval,
    meets_level,
    quantile_groups,
    ratio_groups,
    ratio_study,
    rival_figures,
    sales_chasing,
    within_quartiles,
)
from tasador.metrics.regression import (
    ACCEPTED,
    RATIO_STUDY,
    cod,
    fsd,
    ki,
    mape,
    mki,
    prb,
    prd,
    vei,
)
from tasador.reporting.evaluation_tables import fairness_tables, group_name, off_sentences

Floats = NDArray[np.float64]


def ccao() -> tuple[Floats, Floats]:
    sample = assesspy.ccao_sample()
    return sample["sale_price"].to_numpy(np.float64), sample["estimate"].to_numpy(np.float64)


def test_the_published_figures_of_cook_county() -> None:
    actual, estimate = ccao()
    assert cod(actual, estimate) == pytest.approx(17.81456901196891)
    assert prd(actual, estimate) == pytest.approx(1.0484192615223522)
    assert prb(actual, estimate) == pytest.approx(0.0024757, abs=1e-7)


# assesspy sorts in a way that pandas 3.1 deprecates
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")
def test_mki_and_ki_equal_assesspy_and_are_the_middle_of_its_orders_among_equal_prices() -> None:
    random = np.random.default_rng(3)
    actual = random.lognormal(12, 0.5, 300)
    estimate = actual**0.95 * random.lognormal(0.5, 0.1, 300)
    for own, theirs in ((mki, assesspy.mki), (ki, assesspy.ki)):
        assert own(actual, estimate) == pytest.approx(theirs(estimate, actual), rel=1e-9)
        rounded = np.ceil(actual / 5e4) * 5e4
        orders = [np.lexsort((sign * estimate, rounded)) for sign in (1, -1)]
        both = [theirs(estimate[rows], rounded[rows]) for rows in orders]
        assert both[0] != both[1]
        assert own(rounded, estimate) == pytest.approx(np.mean(both), rel=1e-9)


def test_vei_compares_the_highest_values_with_the_lowest() -> None:
    price = np.linspace(100.0, 200.0, 12)
    ratio = np.array([1.07] * 4 + [0.97] * 4 + [0.91] * 4)
    cheap, dear = np.median(ratio[:6]), np.median(ratio[6:])
    assert vei(price, price * ratio) == pytest.approx((dear - cheap) / np.median(ratio) * 100)
    assert math.isnan(vei(price[:9], price[:9]))


prices = st.lists(st.floats(1e3, 1e7), min_size=12, max_size=60)


@given(prices, st.randoms(use_true_random=False), st.sampled_from([1e-3, 0.5, 7.0]))
def test_figures_depend_on_neither_the_order_nor_the_currency(
    values: list[float], random: object, factor: float
) -> None:
    price = np.array(values)
    estimate = price * np.array([0.7 + 0.6 * random.random() for _ in values])  # type: ignore[attr-defined]
    order = np.array(sorted(range(len(values)), key=lambda _: random.random()))  # type: ignore[attr-defined]
    for metric in RATIO_STUDY.values():
        value = metric(price, estimate)
        same = metric(factor * price[order], factor * estimate[order])
        assert same == pytest.approx(value, rel=1e-6, abs=1e-7, nan_ok=True)


def test_outliers_are_those_of_assesspy() -> None:
    actual, estimate = ccao()
    far = assesspy.is_outlier(estimate / actual, method="iqr").to_numpy()
    assert (~within_quartiles(estimate / actual) == far).all()
    study = ratio_study(actual, estimate)
    assert study.outliers == far.sum() > 0
    assert study["cod"].trimmed == pytest.approx(cod(actual[~far], estimate[~far]))


def test_sales_chasing_is_seen_both_ways_as_assesspy_sees_it() -> None:
    random = np.random.default_rng(42)
    normal = random.normal(1, 0.15, 900)
    chased = np.append(normal, np.ones(100))
    actual, estimate = ccao()
    for ratio in (normal, chased, estimate / actual):
        found = sales_chasing(ratio)
        assert found.jumps == assesspy.is_sales_chased(ratio.tolist(), method="cdf")
        assert found.bunched == assesspy.is_sales_chased(ratio.tolist(), method="dist")
    assert sales_chasing(chased).suspected
    assert not sales_chasing(normal).suspected


def test_verdicts_are_those_of_assesspy_and_ranges_can_be_changed() -> None:
    actual, estimate = ccao()
    study = ratio_study(actual, estimate)
    assert study["cod"].met is assesspy.cod_met(study["cod"].value) is False
    assert study["prd"].met is assesspy.prd_met(study["prd"].value) is False
    assert study["prb"].met is assesspy.prb_met(study["prb"].value) is True
    assert study["median_ratio"].met is assesspy.med_ratio_met(study["median_ratio"].value) is True
    assert [figure.name for figure in study.not_met()] == ["cod", "prd"]
    wider = ratio_study(actual, estimate, ranges={**ACCEPTED, "cod": (5, 20), "prd": (0.9, 1.1)})
    assert not wider.not_met()
    assert is_met("cod", math.nan) is None
    assert is_met("fsd", 1.0) is None


def test_a_cheapest_tenth_at_another_level_is_not_met() -> None:
    random = np.random.default_rng(0)
    price = np.sort(random.lognormal(12, 0.5, 600))
    ratio = random.normal(1.0, 0.06, 600)
    ratio[:60] += 0.067
    groups = ratio_study(price, price * ratio).groups
    assert [group.met["level"] for group in groups] == [False] + [True] * 9
    assert sum(group.rows for group in groups) == 600


def test_small_groups_get_no_verdict() -> None:
    price = np.linspace(1e5, 5e5, 60)
    by = {"class": {"few": np.arange(60) < 29, "many": np.arange(60) >= 29}}
    few, many = ratio_study(price, price * 2.0, by=by).groups[-2:]
    assert (few.rows, set(few.met.values())) == (29, {None})
    assert (many.rows, many.met["median_ratio"], many.met["level"]) == (31, False, True)


def test_a_group_that_is_off_has_its_error_its_coverage_and_a_sentence_in_both_languages() -> None:
    random = np.random.default_rng(1)
    price = random.lognormal(12, 0.4, 600)
    ratio = random.normal(1.0, 0.05, 600)
    far, few = np.arange(600) < 120, np.arange(600) >= 580
    ratio[far] *= 1.08
    inside = np.abs(ratio - 1) < np.where(far, 0.06, 0.2)
    by = {"district": {"Far": far, "Near": ~far & ~few, "Few": few, "Nobody": far & few}}
    groups = ratio_groups(price, price * ratio, by, inside=inside, promised=0.9)
    assert [group.name for group in groups] == ["Far", "Near", "Few"]
    assert [group.off for group in groups] == [True, False, False]
    assert [group.met["coverage"] for group in groups] == [False, True, None]
    one = groups[0]
    assert one.figures["coverage"] == np.mean(inside[far])
    assert one.figures["mape"] == pytest.approx(100 * np.mean(np.abs(ratio[far] - 1)))
    assert one.gap == pytest.approx(np.median(ratio[far]) / np.median(ratio) - 1)
    (said,), (dicho,) = (off_sentences(groups, language) for language in ("en", "es"))
    assert re.fullmatch(
        r"district Far is valued [67]% too high \(median ratio 1\.0\d, 95% 1\.0\d to 1\.\d\d; of "
        r"all rows 1\.01\)\.",
        said,
    ), said
    assert dicho.startswith("district Far se valora un")
    assert "razón mediana 1,0" in dicho
    (table,) = fairness_tables(groups, "es")
    assert table.title == "Equidad: por district"
    assert table.rows[0][-1] == "no cumple: COD, nivel, dentro"
    assert table.rows[2][-1] == ""
    assert group_name("1,200 to 3.5", "es") == "1.200 a 3,5"
    assert group_name("up to 1950", "es") == "hasta 1950"
    assert [group_name(MISSING, language) for language in ("en", "es")] == [MISSING, "(sin valor)"]


def test_a_difference_that_chance_explains_is_no_group_that_is_off() -> None:
    random = np.random.default_rng(2)
    off = 0
    for _ in range(100):
        price = random.lognormal(12, 0.4, 400)
        estimate = price * random.normal(1.0, 0.15, 400)
        by = {"part": {"a": np.arange(400) < 40, "b": np.arange(400) >= 40}}
        off += ratio_groups(price, estimate, by)[0].off
    assert off <= 10


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    for n in (20, 31, 200):
        held = 0
        for _ in range(400):
            low, high = median_interval(random.exponential(1.0, n))
            held += low <= math.log(2) <= high
        assert 0.93 <= held / 400 <= 1.0
    assert median_interval(np.array([2.0])) == (2.0, 2.0)


def test_a_ratio_that_moves_with_time_is_measured() -> None:
    months = np.arange(48.0).repeat(5)
    price = np.full(240, 1e5)
    study = ratio_study(price, price * 0.99**months, months=months)
    assert study.drift is not None
    assert study.drift.value == pytest.approx(-1.0)
    flat = ratio_study(price, price, months=np.full(240, np.nan))
    assert flat.drift is None


def test_they_equal_assesspy_on_its_published_sample_and_on_skewed_numbers() -> None:
    random = np.random.default_rng(1)
    skewed = random.lognormal(12, 1, 500)
    for actual, estimate in (
        ccao(),
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
        defined = name in ("prd", "median_ratio", "weighted_mean_ratio")
        assert np.isnan(value) or (defined and np.isfinite(value))


def test_the_accepted_ranges_are_the_iaaos() -> None:
    assert ACCEPTED["cod"] == (5, 15)
    assert ACCEPTED["median_ratio"] == (0.9, 1.1)
    assert set(ACCEPTED) < set(RATIO_STUDY)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10.0))
def test_levelled_rivals_do_not_depend_on_their_level(seed: int, factor: float) -> None:
    random = np.random.default_rng(seed)
    price, noise = random.lognormal(12, 0.5, (2, 40))
    price[::13] = 0.0
    estimate, roll = price * random.lognormal(0, 0.1, 40), noise.copy()
    roll[5:9] = np.nan, np.inf, 0.0, -1.0
    one, other, itself = rival_figures(
        price, estimate, {"roll": roll, "moved": roll * factor, "itself": estimate}
    )
    paid = int((price > 0).sum())
    assert one.rows + one.left_out == itself.rows == paid
    assert one.levelled["median_ratio"] == pytest.approx(1.0)
    assert one.levelled == pytest.approx(other.levelled, rel=1e-6, abs=1e-9)
    assert other.figures["median_ratio"] == pytest.approx(factor * one.figures["median_ratio"])
    assert itself.figures == itself.model
    some = (price > 0) & np.isfinite(roll) & (roll > 0)
    assert one.model["mape"] == pytest.approx(mape(price[some], estimate[some]))


def test_a_rival_of_few_rows_is_counted_without_figures() -> None:
    price = np.arange(1.0, 11.0)
    roll = np.where(price > 4, np.nan, price)
    (found,) = rival_figures(price, price, {"roll": roll})
    assert (found.rows, found.left_out, found.figures, found.model) == (4, 6, {}, {})


def test_the_bounds_of_a_range_are_accepted_and_a_wider_one_has_the_same_middle() -> None:
    assert [is_met("prb", value) for value in (-0.05, 0.05, 0.0501, -0.0501)] == [
        True, True, False, False,
    ]  # fmt: skip
    wide = {"x": (1.0, 3.0)}
    found = [is_met("x", value, wide, times=2.0) for value in (0.0, 4.0, -0.01, 4.01)]
    assert found == [True, True, False, False]
    assert is_met("x", 0.5, wide) is False


def test_a_level_is_evaluated_relatively_to_that_of_all() -> None:
    assert [meets_level(ratio, 2.0, 0.5) for ratio in (1.0, 3.0, 0.99, 3.01)] == [
        True, True, False, False,
    ]  # fmt: skip
    assert meets_level(math.nan, 1.0) is None
    assert meets_level(1.0, math.nan) is None


def test_ratios_are_outliers_beyond_their_quartiles_only() -> None:
    ratio = np.array([1.0, 2.0, 3.0, 4.0, 5.0])  # quartiles 2 and 4
    assert within_quartiles(ratio, 0.5).all()
    assert within_quartiles(ratio, 0.49).tolist() == [False, True, True, True, False]
    assert within_quartiles(np.array([])).shape == (0,)


def test_groups_by_quantiles_are_named_by_their_ends_and_keep_equal_values_together() -> None:
    values = np.array([1.0, 2.0, 2.0, 2.0, 7.0, 9.5, math.nan])
    found = quantile_groups(values, 2)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "up to 2": [True] * 4 + [False] * 3,
        "up to 9.5": [False] * 4 + [True, True, False],
    }
    assert list(quantile_groups(values, 3, spans=True)) == ["up to 2", "2 to 7", "7 to 9.5"]
    for middle, names in (
        (999.5, ["up to 999.5", "up to 2e+05"]),
        (1000.4, ["up to 1000", "up to 200000"]),
        (10_000.0, ["up to 10,000", "up to 200,000"]),
    ):
        assert list(quantile_groups(np.array([1.0, middle, 2e5]), 2)) == names
    assert quantile_groups(np.array([math.nan]), 2) == {}


def test_levels_stand_in_the_order_of_numbers_and_rare_ones_together() -> None:
    found = level_groups(["10", "9", None, "9", "10", "200"], fewest=2)
    assert {name: np.flatnonzero(rows).tolist() for name, rows in found.items()} == {
        "9": [1, 3], "10": [0, 4], OTHERS: [5],
    }  # fmt: skip
    assert list(level_groups(["b", "10", "9"])) == ["10", "9", "b"]


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    # of 16 values: 1.96 * 4 / 2 + 0.5 = 4.42, so 5 places from the middle pair; of 25: 4.9
    assert median_interval(np.arange(16.0)) == (3.0, 12.0)
    assert median_interval(np.arange(25.0)[::-1]) == (7.0, 17.0)
    assert np.isnan(median_interval(np.array([]))).all()


def test_a_bunch_of_ratios_near_1_is_compared_with_a_normal_distribution() -> None:
    ratio = np.array([0.8, 0.9, 1.0, 1.0, 1.1, 1.2])
    found = sales_chasing(ratio)
    spread = np.std(ratio)
    normal = math.erf(0.02 / spread / math.sqrt(2.0))
    assert found.share == pytest.approx(2 / 6)
    assert found.jump == pytest.approx(2 / 6)
    assert found.expected == pytest.approx(normal)
    assert (found.signs, found.suspected) == (2, True)
    level = sales_chasing(np.full(40, 1.3))
    assert (level.jump, level.share, level.expected, level.signs) == (0.0, 0.0, 0.0, 0)
    equal = sales_chasing(np.ones(40))
    assert (equal.jump, equal.share, equal.expected) == (1.0, 1.0, 1.0)


def test_the_interval_of_a_drift_is_that_of_least_squares() -> None:
    random = np.random.default_rng(4)
    months = random.uniform(0, 24, 40)
    ratio = np.exp(0.02 * months + random.normal(0, 0.1, 40))
    price = random.lognormal(12, 0.3, 40)
    months[30:] = np.nan  # 30 are enough
    found = ratio_study(price, price * ratio, months=months).drift
    (slope, _), covariance = np.polyfit(months[:30], np.log(ratio[:30]), 1, cov=True)
    error = 1.959964 * math.sqrt(covariance[0, 0])
    assert found is not None
    assert (found.low, found.value, found.high) == pytest.approx(
        tuple(100 * math.expm1(s) for s in (slope - error, slope, slope + error))
    )
    months[29] = np.nan
    assert ratio_study(price, price * ratio, months=months).drift is None


@pytest.mark.parametrize(("rows", "groups"), [(299, 4), (300, 10)])
def test_prices_are_grouped_by_tenths_where_each_has_rows_enough(rows: int, groups: int) -> None:
    price = np.arange(1.0, rows + 1)
    assert sum(group.by == "price" for group in ratio_study(price, price).groups) == groups


def test_what_lies_at_the_bound_is_no_sign_of_chased_sales() -> None:
    for end in (0.98, 1.02):
        assert sales_chasing(np.full(40, end)).jump == 0.0
    others = np.linspace(1.1, 2.0, 95)
    for equal, jumps in ((5, False), (6, True)):
        found = sales_chasing(np.append(others[: 100 - equal], np.ones(equal)))
        assert (found.jump, found.jumps) == (equal / 100, jumps)


@pytest.mark.parametrize(("high", "off"), [(0.95, True), (1.0, False), (1.05, False)])
def test_a_group_is_off_where_its_interval_does_not_hold_the_level_of_all(
    high: float, off: bool
) -> None:
    # its own level is lower by a fifth: that of all is 1
    group = RatioGroup("kind", "flat", 40, {"median_ratio": 0.8}, 0.7, high, {"level": False}, -0.2)
    assert group.off is off
    assert not dataclasses.replace(group, met={"level": True}).off
