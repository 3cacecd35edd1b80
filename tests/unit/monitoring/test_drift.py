"""Distances of two samples, and the PSI when nothing has changed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import spatial, stats

from tasador.contract.model import Column
from tasador.monitoring.checks import drift
from tasador.monitoring.checks.drift import adjusted, psi_null, psi_test
from tasador.monitoring.column_summary import ColumnSummary, Grid
from tasador.monitoring.reference import Profile
from tasador.monitoring.settings import Thresholds

counts = arrays(np.int64, 7, elements=st.integers(0, 10_000)).filter(lambda c: c.sum() > 0)


def counted(reference, window):
    grid = Grid.of_numbers(reference)
    return ColumnSummary.of(reference, grid), ColumnSummary.of(window, grid), grid


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
    assert drift.psi(a.bins(grid), b.bins(grid)) == pytest.approx(total, abs=1e-12)


@given(counts, counts)
def test_the_psi_is_symmetric_not_negative_and_zero_for_the_same_shares(a, b):
    assert drift.psi(a, b) >= 0
    if (a > 0).all() and (b > 0).all():
        assert drift.psi(a, b) == pytest.approx(drift.psi(b, a), rel=1e-9)
    assert drift.psi(a, a) == 0


def test_an_empty_bin_counts_as_half_a_row():
    got = drift.psi(np.array([50, 50]), np.array([100, 0]))
    want = 0.5 * math.log(2) + (0.005 - 0.5) * math.log(0.005 / 0.5)
    assert got == pytest.approx(want)
    assert drift.psi(np.array([1, 0]), np.array([3, 0])) == 0


@given(counts, counts)
def test_the_jensen_shannon_distance_is_scipys(a, b):
    want = spatial.distance.jensenshannon(a / a.sum(), b / b.sum(), base=2)
    assert drift.jensen_shannon(a, b) == pytest.approx(0 if np.isnan(want) else want, abs=1e-7)


def test_chi_square_is_that_of_the_contingency_table():
    a, b = np.array([120, 80, 0, 40]), np.array([30, 45, 0, 25])
    statistic, p_value, v = drift.chi_square(a, b)
    want = stats.chi2_contingency(np.array([a, b])[:, [0, 1, 3]], correction=False)
    assert (statistic, p_value) == pytest.approx((want.statistic, want.pvalue))
    assert v == pytest.approx(stats.contingency.association(np.array([a, b])[:, [0, 1, 3]]))
    assert drift.chi_square(np.array([5, 0]), np.array([9, 0])) == (0.0, 1.0, 0.0)


def test_kolmogorov_smirnov_is_scipys_where_the_grid_resolves_the_column():
    random = np.random.default_rng(3)
    reference, window = random.normal(size=900), random.normal(0.1, 1, size=800)
    a, b, _ = counted(reference, window)
    d, p_value = drift.kolmogorov_smirnov(a, b)
    want = stats.ks_2samp(reference, window)
    assert d == pytest.approx(want.statistic, abs=1 / 900)
    assert p_value == pytest.approx(want.pvalue, rel=0.2)


def test_kolmogorov_smirnov_of_long_columns_is_right_up_to_the_grids_step():
    random = np.random.default_rng(4)
    reference, window = random.gamma(2.0, size=30_000), random.gamma(2.2, size=20_000)
    a, b, _ = counted(reference, window)
    want = stats.ks_2samp(reference, window).statistic
    assert drift.kolmogorov_smirnov(a, b)[0] == pytest.approx(want, abs=1e-3)


def test_the_wasserstein_distance_is_scipys_over_the_references_spread():
    random = np.random.default_rng(5)
    for reference, window in (
        (random.normal(size=900), random.normal(0.5, 2, size=700)),
        (random.lognormal(size=30_000), 1000 * random.lognormal(size=5_000)),
        (random.integers(0, 9, 4000).astype(float), random.integers(2, 14, 300).astype(float)),
    ):
        a, b, grid = counted(reference, window)
        want = stats.wasserstein_distance(reference, window) / reference.std()
        assert drift.wasserstein(a, b, grid) == pytest.approx(want, rel=2e-3)


def test_the_wasserstein_distance_needs_values_and_a_spread():
    constant, varied = np.full(50, 2.0), np.arange(50.0)
    a, b, grid = counted(constant, varied)
    assert drift.wasserstein(a, b, grid) is None
    a, b, grid = counted(varied, np.full(50, np.nan))
    assert drift.wasserstein(a, b, grid) is None


def test_an_event_is_more_frequent_only_when_chance_does_not_make_it_so():
    assert drift.more_often(0, 100, 5, 1000) == 1.0
    assert drift.more_often(5, 0, 5, 1000) == 1.0
    assert drift.more_often(50, 1000, 500, 10_000) > 0.3
    assert drift.more_often(100, 1000, 500, 10_000) < 1e-6
    want = stats.binom.sf(2, 3 + 7, 100 / 1100)
    assert drift.more_often(3, 100, 7, 1000) == pytest.approx(want)


@pytest.mark.parametrize(("m", "n"), [(16_000, 200), (500, 5000), (300, 300)])
def test_p_values_are_uniform_when_nothing_has_changed(m, n):
    random = np.random.default_rng(m + n)
    p_values = []
    for _ in range(400):
        reference, window = random.normal(size=m), random.normal(size=n)
        grid = Grid.of_numbers(reference)
        counts = ColumnSummary.of(reference, grid).bins(grid)
        p_values.append(psi_test(counts, ColumnSummary.of(window, grid).bins(grid)).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert np.mean(np.array(p_values) < 0.05) < 0.09


def test_chance_alone_passes_one_tenth_as_often_as_it_should():
    reference = np.append(np.full(10, 1651), 0)
    for n, often in ((50, 0.84), (100, 0.42), (200, 0.03)):
        draws = psi_null(reference, n).draws
        assert np.mean(draws > 0.1) == pytest.approx(often, abs=0.06)


def test_large_samples_follow_the_chi_square():
    reference = np.full(10, 10**9)
    null = psi_null(reference, 100_000)
    assert null.mean == pytest.approx(9 / 100_000, rel=0.03)
    far = stats.chi2.isf(1e-9, 9) / 100_000
    assert -11 < np.log10(null.p_value(far)) < -7
    assert null.quantile(1 - 1e-6) == pytest.approx(stats.chi2.isf(1e-6, 9) / 100_000, rel=0.1)
    assert null.quantile(0.5) == pytest.approx(np.median(null.draws))


def test_a_single_bin_never_differs():
    null = psi_null(np.array([100]), 50)
    assert null.p_value(0.0) == 1.0
    assert null.quantile(0.999) == 0.0


def test_corrected_p_values_are_benjamini_and_hochbergs():
    p = [0.01, 0.04, 0.03, 0.005, 0.9]
    assert adjusted(p) == pytest.approx(stats.false_discovery_control(p))
    assert len(adjusted([])) == 0


def test_rows_in_a_bin_that_the_reference_has_never_filled_are_distinguished_from_chance():
    reference = np.array([500, 500, 0])
    assert psi_test(reference, np.array([100, 100, 0])).p_value == 1.0
    assert psi_test(reference, np.array([60, 60, 80])).p_value < 1e-6
    assert psi_test(reference, np.array([100, 99, 1])).p_value > 0.01


def test_among_many_categories_chance_is_known_as_well_from_fewer_draws(monkeypatch):
    from tasador.monitoring.checks import drift

    levels, n = 6000, 20_000
    random = np.random.default_rng(7)
    shares = 1 / np.arange(1, levels + 1)
    counts = random.multinomial(n, shares / shares.sum())
    few = psi_null(counts, n)
    assert len(few.draws) < drift.DRAWS
    monkeypatch.setattr(drift, "FEWEST_DRAWS", drift.DRAWS)
    drift._psi_null.cache_clear()
    many = psi_null(counts, n)
    drift._psi_null.cache_clear()
    assert len(many.draws) == drift.DRAWS
    assert few.mean == pytest.approx(many.mean, rel=0.005)
    assert few.variance == pytest.approx(many.variance, rel=0.2)
    for q in (0.9, 0.99, 0.999):  # the last ones from the fitted tail
        assert few.quantile(q) == pytest.approx(many.quantile(q), rel=0.01)


def test_no_more_than_the_draws_of_a_block_are_in_memory():
    import tracemalloc

    counts = np.random.default_rng(3).poisson(2.0, 40_000)
    tracemalloc.start()
    psi_null(counts, 80_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6  # 400 draws at once would take five times as much: 128 MB an array


def test_a_bin_of_one_row_is_compared_like_any_other():
    reference, window = np.array([500, 499, 1, 0]), np.array([100, 99, 0, 1])
    found = psi_test(reference, window)
    assert found.psi == drift.psi(reference, window)
    assert found.null is psi_null(reference, 200)
    # what is empty on both sides is no bin
    assert psi_test(np.append(reference, 0), np.append(window, 0)) == found


def test_a_classifier_separates_what_differs_and_says_by_which_column():
    random = np.random.default_rng(9)
    reference, window = random.normal(size=(300, 3)), random.normal(size=(260, 3))
    same = drift.classify_domain(reference, window)
    assert 0.4 < same.auc < 0.6
    # the standard deviation of an area (Mann and Whitney 1947), of two halves
    z = (same.auc - 0.5) / math.sqrt((150 + 130 + 1) / (12 * 150 * 130) / 2)
    assert same.p_value == pytest.approx(stats.norm.sf(z))
    assert same.importance.sum() == pytest.approx(1.0)
    other = drift.classify_domain(reference, window + np.array([0.0, 2.0, 0.0]))
    assert other.auc > 0.85
    assert other.p_value < 1e-12
    assert other.importance.argmax() == 1
    assert other.importance[1] > 0.6
    again = drift.classify_domain(reference, window)
    assert (again.auc, again.p_value) == (same.auc, same.p_value)


def test_a_classifier_without_differences_has_no_important_column():
    found = drift.classify_domain(np.zeros((100, 2)), np.zeros((100, 2)))
    assert (found.auc, found.p_value, found.importance.tolist()) == (0.5, 0.5, [0.0, 0.0])
    for sizes in ((99, 200), (200, 99)):
        with pytest.raises(ValueError, match="at least 100 rows"):
            drift.classify_domain(*(np.zeros((size, 2)) for size in sizes))


def test_the_area_under_the_curve_counts_ties_as_half():
    assert drift.area_under_curve(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == 0.875


def test_the_limits_of_a_drift_hold_to_their_last_bit():
    random = np.random.default_rng(11)
    column, rows = Column("x", "number"), 200
    profile = Profile.of(random.normal(size=5000), column)
    window = ColumnSummary.of(random.normal(0.45, 1.0, size=rows), profile.grid)
    moved = drift.compare_column(column, profile, window)
    excess = moved.test.psi - moved.test.null.mean
    above, less = math.nextafter(excess, 9.0), math.nextafter(moved.test.p_value, 0.0)
    for level, limits in (
        ("alert", {"psi_warn": excess, "psi_alert": excess}),
        ("warn", {"psi_warn": excess, "psi_alert": above}),
        ("ok", {"psi_warn": above, "psi_alert": 9.0}),
        ("alert", {"chance": moved.test.p_value, "psi_alert": excess}),
        ("ok", {"chance": less, "psi_alert": 9.0}),
        ("alert", {"min_rows": rows, "psi_alert": excess}),
        ("cannot_tell", {"min_rows": rows + 1}),
    ):
        (found,), _ = drift.check_columns([moved], Thresholds(**limits))
        assert found.level == level, limits
        assert found.p_value == found.p_adjusted == moved.test.p_value


def test_a_column_without_rows_is_one_of_the_family_and_cannot_tell():
    random = np.random.default_rng(12)
    column = Column("x", "number")
    profile = Profile.of(random.normal(size=1000), column)
    windows = [random.normal(0.5, 1.0, size=100), np.array([])]
    measured = [
        drift.compare_column(column, profile, ColumnSummary.of(rows, profile.grid))
        for rows in windows
    ]
    (moved, empty), (other,) = drift.check_columns(measured, Thresholds(), [0.5])
    assert moved.p_adjusted == pytest.approx(3 * moved.p_value)
    assert other == pytest.approx(0.75)
    assert (empty.level, empty.n, empty.psi) == ("cannot_tell", 0, None)


def judged(column, before, now, **limits):
    """Return the drift of a column between two samples, each an array of encoded values."""
    profile = Profile.of(np.asarray(before, dtype=float), column)
    window = ColumnSummary.of(np.asarray(now, dtype=float), profile.grid)
    measured = drift.compare_column(column, profile, window)
    ((found,), _) = drift.check_columns([measured], Thresholds(**limits))
    return found


def with_gaps(values, gaps):
    return np.append(values, np.full(gaps, np.nan))


def test_a_change_is_described_by_what_a_reader_would_see_first():
    number, values = Column("x", "number"), np.linspace(0.0, 1.0, 950)
    half = values * 0.5
    for before, now, text in (
        (with_gaps(values, 50), with_gaps(half, 50), "mean down by 0.87 standard deviations"),
        (with_gaps(values, 50), with_gaps(values, 200), "17% of the values are missing"),
        (values, values + 2.0, "all values lie outside what the reference spans"),
        (values, values - 2.0, "all values lie outside what the reference spans"),
        (values, np.full(400, 0.25), "constant at 0.25"),
        (values, np.abs(values - 0.5) + 0.25, "distributed differently around the same mean"),
        (np.full(400, np.nan), values, "has values, the reference has none"),
        (values, np.full(400, np.nan), "every value is missing"),
    ):
        found = judged(number, before, now, psi_warn=0.05, psi_alert=0.05)
        assert found.level == "alert", text
        assert found.reason.startswith(f"{text}: PSI {found.psi:.3g}, chance gives"), found.reason


def test_of_the_rows_time_only_the_missing_are_compared_and_named():
    time = Column("sold", "datetime", role="timestamp")
    values = np.linspace(1.0e9, 1.1e9, 950)
    found = judged(time, with_gaps(values, 50), with_gaps(values + 9e8, 50))
    assert found.level == "ok"
    assert found.reason == "the rows' time: only missing values are compared"
    assert found.bins == ("any value", "(missing)")
    assert found.window_share == pytest.approx((0.95, 0.05))
    assert found.ks is found.wasserstein is None
    found = judged(time, with_gaps(values, 50), with_gaps(values, 160), psi_warn=0.01)
    assert found.reason.startswith("14.4% of the values are missing, was 5.0%: PSI")


def test_categories_that_nobody_knows_come_before_those_that_became_more():
    kind = Column("kind", "category", categories=("flat", "house"))
    before = np.repeat([0.0, 1.0], [600, 400])
    found = judged(kind, before, np.repeat([0.0, 1.0], [300, 700]))
    assert found.reason.startswith("'flat' is now 30.0% of the rows, was 60.0%: PSI")
    assert found.bins == ("flat", "house", "(unknown)", "(missing)")
    found = judged(kind, before, np.repeat([0.0, 1.0, 2.0], [600, 350, 50]))
    assert found.reason.startswith(
        "5% of the values are categories that the reference does not know: PSI"
    )


def test_bins_are_named_by_their_edges_in_the_columns_own_form():
    days = np.repeat(np.arange(4) * 86_400.0, 50)
    found = judged(Column("seen", "datetime"), days, days)
    assert found.bins[0] == "up to 1970-01-01 00:00:00"
    assert found.bins[-2:] == ("above 1970-01-04 00:00:00", "(missing)")
    assert "1970-01-01 00:00:00 to 1970-01-02 00:00:00" in found.bins
    never = np.full(50, np.nan)
    assert judged(Column("x", "number"), never, days).bins == ("any value", "(missing)")
    assert found.psi == found.wasserstein == found.ks == 0.0


@given(st.floats(1e-6, 1e6))
def test_the_wasserstein_distance_does_not_depend_on_the_unit(unit):
    values = np.linspace(0.0, 1.0, 101)
    a, b, grid = counted(values * unit, (values + 0.5) * unit)
    assert drift.wasserstein(a, b, grid) == pytest.approx(0.5 / values.std(), rel=1e-6)


def test_beyond_the_draws_chance_is_a_gamma_distribution_of_their_mean_and_variance():
    draws = np.sort(np.random.default_rng(3).gamma(3.0, 0.02, 4000))
    null = drift.Null(draws, float(draws.mean()), float(draws.var()))
    fitted = stats.gamma(null.mean**2 / null.variance, scale=null.variance / null.mean)
    for q in (1 - 1e-5, 1 - 1e-8):
        assert null.quantile(q) == pytest.approx(fitted.ppf(q))
        assert null.p_value(null.quantile(q)) == pytest.approx(1 - q, rel=1e-3)
    # ten of the draws are enough to count them
    assert null.quantile(1 - 11 / 4000) == np.quantile(draws, 1 - 11 / 4000)
    assert null.p_value(draws[-10]) == 11 / 4001
    assert null.p_value(draws[-9]) == pytest.approx(min(10 / 4001, fitted.sf(draws[-9])))
    assert null.p_value(0.0) == 1.0
