import numpy as np
import pytest
from scipy import stats

from tasador.monitoring.checks.null_distribution import adjusted, judge_psi, psi_null
from tasador.monitoring.summaries.column_summary import Grid, Summary


@pytest.mark.parametrize(("m", "n"), [(16_000, 200), (500, 5000), (300, 300)])
def test_p_values_are_uniform_when_nothing_has_changed(m, n):
    random = np.random.default_rng(m + n)
    p_values = []
    for _ in range(400):
        reference, window = random.normal(size=m), random.normal(size=n)
        grid = Grid.of_numbers(reference)
        counts = Summary.of(reference, grid).bins(grid)
        p_values.append(judge_psi(counts, Summary.of(window, grid).bins(grid)).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert np.mean(np.array(p_values) < 0.05) < 0.09


def test_chance_alone_passes_one_tenth_as_often_as_it_is_said_to():
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


def test_rows_in_a_bin_that_the_reference_has_never_filled_are_told_from_chance():
    reference = np.array([500, 500, 0])
    assert judge_psi(reference, np.array([100, 100, 0])).p_value == 1.0
    assert judge_psi(reference, np.array([60, 60, 80])).p_value < 1e-6
    assert judge_psi(reference, np.array([100, 99, 1])).p_value > 0.01


def test_among_many_categories_chance_is_known_as_well_from_fewer_draws(monkeypatch):
    from tasador.monitoring.checks import null_distribution

    levels, n = 6000, 20_000
    random = np.random.default_rng(7)
    shares = 1 / np.arange(1, levels + 1)
    counts = random.multinomial(n, shares / shares.sum())
    few = psi_null(counts, n)
    assert len(few.draws) < null_distribution.DRAWS
    monkeypatch.setattr(null_distribution, "FEWEST_DRAWS", null_distribution.DRAWS)
    null_distribution._psi_null.cache_clear()
    many = psi_null(counts, n)
    null_distribution._psi_null.cache_clear()
    assert len(many.draws) == null_distribution.DRAWS
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
