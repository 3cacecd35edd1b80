import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import spatial, stats

from tasador.monitoring.checks import distances
from tasador.monitoring.summaries.column_summary import Grid, Summary

counts = arrays(np.int64, 7, elements=st.integers(0, 10_000)).filter(lambda c: c.sum() > 0)


def counted(reference, window):
    grid = Grid.of_numbers(reference)
    return Summary.of(reference, grid), Summary.of(window, grid), grid


def test_the_psi_is_the_textbooks_on_the_same_bins():
    random = np.random.default_rng(0)
    reference, window = random.normal(size=4000), random.normal(0.3, 1.2, size=3000)
    a, b, grid = counted(reference, window)
    edges = [-math.inf, *np.quantile(reference, np.arange(1, 10) / 10).tolist(), math.inf]
    total = 0.0
    for low, high in itertools.pairwise(edges):
        r = sum(low < x <= high for x in reference.tolist()) / len(reference)
        w = sum(low < x <= high for x in window.tolist()) / len(window)
        total += (w - r) * math.log(w / r)
    assert distances.psi(a.bins(grid), b.bins(grid)) == pytest.approx(total, abs=1e-12)


@given(counts, counts)
def test_the_psi_is_symmetric_not_negative_and_zero_for_the_same_shares(a, b):
    assert distances.psi(a, b) >= 0
    if (a > 0).all() and (b > 0).all():
        assert distances.psi(a, b) == pytest.approx(distances.psi(b, a), rel=1e-9)
    assert distances.psi(a, a) == 0


def test_an_empty_bin_counts_as_half_a_row():
    got = distances.psi(np.array([50, 50]), np.array([100, 0]))
    want = 0.5 * math.log(2) + (0.005 - 0.5) * math.log(0.005 / 0.5)
    assert got == pytest.approx(want)
    assert distances.psi(np.array([1, 0]), np.array([3, 0])) == 0


@given(counts, counts)
def test_the_jensen_shannon_distance_is_scipys(a, b):
    want = spatial.distance.jensenshannon(a / a.sum(), b / b.sum(), base=2)
    assert distances.jensen_shannon(a, b) == pytest.approx(0 if np.isnan(want) else want, abs=1e-7)


def test_chi_square_is_that_of_the_contingency_table():
    a, b = np.array([120, 80, 0, 40]), np.array([30, 45, 0, 25])
    statistic, p_value, v = distances.chi_square(a, b)
    want = stats.chi2_contingency(np.array([a, b])[:, [0, 1, 3]], correction=False)
    assert (statistic, p_value) == pytest.approx((want.statistic, want.pvalue))
    assert v == pytest.approx(stats.contingency.association(np.array([a, b])[:, [0, 1, 3]]))
    assert distances.chi_square(np.array([5, 0]), np.array([9, 0])) == (0.0, 1.0, 0.0)


def test_kolmogorov_smirnov_is_scipys_where_the_grid_resolves_the_column():
    random = np.random.default_rng(3)
    reference, window = random.normal(size=900), random.normal(0.1, 1, size=800)
    a, b, _ = counted(reference, window)
    d, p_value = distances.kolmogorov_smirnov(a, b)
    want = stats.ks_2samp(reference, window)
    assert d == pytest.approx(want.statistic, abs=1 / 900)
    assert p_value == pytest.approx(want.pvalue, rel=0.2)


def test_kolmogorov_smirnov_of_long_columns_is_right_up_to_the_grids_step():
    random = np.random.default_rng(4)
    reference, window = random.gamma(2.0, size=30_000), random.gamma(2.2, size=20_000)
    a, b, _ = counted(reference, window)
    want = stats.ks_2samp(reference, window).statistic
    assert distances.kolmogorov_smirnov(a, b)[0] == pytest.approx(want, abs=1e-3)


def test_the_wasserstein_distance_is_scipys_over_the_references_spread():
    random = np.random.default_rng(5)
    for reference, window in (
        (random.normal(size=900), random.normal(0.5, 2, size=700)),
        (random.lognormal(size=30_000), 1000 * random.lognormal(size=5_000)),
        (random.integers(0, 9, 4000).astype(float), random.integers(2, 14, 300).astype(float)),
    ):
        a, b, grid = counted(reference, window)
        want = stats.wasserstein_distance(reference, window) / reference.std()
        assert distances.wasserstein(a, b, grid) == pytest.approx(want, rel=2e-3)


def test_the_wasserstein_distance_needs_values_and_a_spread():
    constant, varied = np.full(50, 2.0), np.arange(50.0)
    a, b, grid = counted(constant, varied)
    assert distances.wasserstein(a, b, grid) is None
    a, b, grid = counted(varied, np.full(50, np.nan))
    assert distances.wasserstein(a, b, grid) is None


def test_an_event_is_more_frequent_only_when_chance_does_not_make_it_so():
    assert distances.more_often(0, 100, 5, 1000) == 1.0
    assert distances.more_often(5, 0, 5, 1000) == 1.0
    assert distances.more_often(50, 1000, 500, 10_000) > 0.3
    assert distances.more_often(100, 1000, 500, 10_000) < 1e-6
    want = stats.binom.sf(2, 3 + 7, 100 / 1100)
    assert distances.more_often(3, 100, 7, 1000) == pytest.approx(want)
