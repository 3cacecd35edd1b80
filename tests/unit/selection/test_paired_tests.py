from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from tasador.selection.paired_tests import (
    corrected_paired_test,
    corrected_standard_error,
    median_differences,
    row_test_limit,
)


def test_without_shared_rows_the_test_is_the_plain_paired_one() -> None:
    first, second = [10.0, 11.0, 9.0, 12.0], [9.5, 10.1, 9.2, 11.0]
    assert corrected_paired_test(first, second, 1e-12) == pytest.approx(
        ttest_rel(first, second).pvalue
    )


def test_the_correction_is_that_of_nadeau_and_bengio() -> None:
    differences = [1.0, 2.0, 4.0]
    variance = np.var(differences, ddof=1)
    assert corrected_standard_error(differences, 0.2) == pytest.approx(
        np.sqrt((1 / 3 + 0.25) * variance)
    )
    assert corrected_standard_error([1.0], 0.2) == np.inf


def test_equal_scores_are_equal_and_constant_differences_are_not() -> None:
    assert corrected_paired_test([1.0, 2.0], [1.0, 2.0], 0.5) == 1.0
    assert corrected_paired_test([1.0], [2.0], 0.5) == 1.0
    assert corrected_paired_test([1.0, 2.0], [2.0, 3.0], 0.5) == 0.0
    with pytest.raises(ValueError, match="2 folds against 1"):
        corrected_paired_test([1.0, 2.0], [2.0], 0.5)


def test_a_race_seldom_drops_an_equal_and_always_a_much_worse_candidate() -> None:
    random = np.random.default_rng(3)
    dropped = 0
    for _ in range(400):
        leader, equal = random.gamma(2.0, 1.0, (2, 300))
        limit = row_test_limit(equal, leader, 1, 5, 2.326)
        dropped += equal.mean() - leader.mean() > limit
        worse = leader * 1.5 + random.normal(0, 0.1, 300)
        assert worse.mean() - leader.mean() > row_test_limit(worse, leader, 1, 5, 2.326)
    assert dropped <= 4  # 1% by design, less by the correction


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_differences_of_medians_do_not_depend_on_order_or_other_groups(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second, other = random.exponential(1.0, (3, 60))
    order = random.permutation(60)
    pairs = [(first, second), (other, second + 1)]
    each, mean = median_differences(pairs, draws=30, seed=1)
    assert each[0].value == np.median(first) - np.median(second)
    assert mean.value == pytest.approx((each[0].value + each[1].value) / 2)
    shuffled, _ = median_differences([(first[order], second[order])], draws=30, seed=1)
    assert shuffled == each[:1]


def test_the_interval_of_a_difference_is_that_of_pairs() -> None:
    random = np.random.default_rng(0)
    hard = random.exponential(10.0, 400)
    easy = hard + 0.5 + random.normal(0, 0.1, 400)
    (gap,), mean = median_differences([(hard, easy)], seed=0)
    assert gap == mean
    # rows are drawn together: what makes both large says nothing of the difference
    assert gap.high < 0
    (alike,), _ = median_differences([(hard, hard[random.permutation(400)])], seed=0)
    assert alike.low < 0 < alike.high
    assert gap.high - gap.low < 0.2 * (alike.high - alike.low)
