import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasador.monitoring.column_summary import ColumnSummary, Grid

SHARE = 1 / 1000
values = arrays(
    np.float64,
    st.integers(0, 60),
    elements=st.one_of(
        st.floats(-1e6, 1e6), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 5.0, 5.0])
    ),
)


@given(values, values, values)
def test_parts_counted_apart_add_up_to_the_whole(reference, first, second):
    grid = Grid.of_numbers(reference)
    whole = ColumnSummary.of(np.concatenate((first, second)), grid)
    parts = (
        ColumnSummary.of(first, grid) + ColumnSummary.of(second, grid) + ColumnSummary.empty(grid)
    )
    assert (whole.counts == parts.counts).all()
    assert (whole.n, whole.missing, whole.minus, whole.plus) == (
        parts.n, parts.missing, parts.minus, parts.plus
    )  # fmt: skip
    assert (whole.low, whole.high) == (parts.low, parts.high)
    np.testing.assert_allclose(whole.sums, parts.sums, rtol=1e-9, atol=1e-3)
    assert whole.square == pytest.approx(parts.square, rel=1e-9)


@given(values)
def test_every_row_is_counted_once_and_bins_hold_what_their_edges_say(rows):
    reference = np.random.default_rng(0).normal(size=500) * 1000
    grid = Grid.of_numbers(reference)
    summary = ColumnSummary.of(rows, grid)
    bins = summary.bins(grid)
    assert bins.sum() == summary.n == len(rows)
    edges = np.concatenate(([-np.inf], grid.edges[grid.starts[1:] - 1], [np.inf]))
    known = rows[~np.isnan(rows)]
    for i, count in enumerate(bins[:-1]):
        low = known > edges[i] if i else np.ones(len(known), dtype=bool)
        assert count == np.sum(low & (known <= edges[i + 1]))
    assert bins[-1] == np.isnan(rows).sum()


def test_the_bins_of_the_reference_are_its_deciles():
    reference = np.random.default_rng(1).lognormal(size=16_512)
    grid = Grid.of_numbers(reference)
    bins = ColumnSummary.of(reference, grid).bins(grid)
    assert len(bins) == 11
    assert bins[-1] == 0
    assert np.ptp(bins[:-1]) <= 1
    deciles = np.quantile(reference, np.arange(1, 10) / 10)
    assert (grid.edges[grid.starts[1:] - 1] == deciles).all()


def test_what_lies_below_a_column_that_stands_at_its_minimum_has_a_bin_of_its_own():
    grid = Grid.of_numbers(np.full(300, 7.0))
    assert ColumnSummary.of(np.array([6.0, 7.0, 8.0, np.nan]), grid).bins(grid).tolist() == [
        1,
        1,
        1,
        1,
    ]
    zeros = np.concatenate((np.zeros(200), np.arange(1.0, 101.0)))
    grid = Grid.of_numbers(zeros)
    assert ColumnSummary.of(zeros, grid).bins(grid)[0] == 0
    assert ColumnSummary.of(np.full(9, -1.0), grid).bins(grid)[0] == 9


def test_mean_spread_and_quantiles_are_those_of_the_rows():
    random = np.random.default_rng(2)
    reference, rows = random.normal(5e8, 3.0, 20_000), random.normal(5e8 + 1, 2.0, 5_000)
    grid = Grid.of_numbers(reference)
    summary = ColumnSummary.of(np.append(rows, [np.nan, np.inf]), grid)
    assert summary.mean(grid) == pytest.approx(rows.mean(), rel=1e-14)
    assert summary.std(grid) == pytest.approx(rows.std(), rel=1e-6)
    for q in (0.05, 0.5, 0.95):
        assert summary.quantile(q, grid) == pytest.approx(np.quantile(rows, q), abs=0.05)
    for limit in (5e8 - 2, 5e8 + 1, 5e8 + 4.5):
        want = (rows > limit).sum() + 1
        assert summary.above(limit, grid) == pytest.approx(want, abs=3 * SHARE * len(rows))


def test_codes_are_counted_one_by_one_and_unknown_ones_together():
    grid = Grid.of_categories(3)
    summary = ColumnSummary.of(np.array([0.0, 2.0, 2.0, 3.0, np.nan]), grid)
    assert summary.bins(grid).tolist() == [1, 0, 2, 1, 1]
    again = ColumnSummary.from_state(summary.state())
    assert again.bins(Grid.from_state(grid.state())).tolist() == [1, 0, 2, 1, 1]


@pytest.mark.parametrize("reference", [np.empty(0), np.full(4, np.nan), np.array([np.inf])])
def test_a_reference_without_values_still_counts_rows(reference):
    grid = Grid.of_numbers(reference)
    summary = ColumnSummary.of(np.array([1.0, np.nan]), grid)
    assert summary.bins(grid).tolist() == [1, 1]
    assert np.isnan(ColumnSummary.empty(grid).quantile(0.5, grid))
    assert np.isnan(ColumnSummary.empty(grid).mean(grid))
    assert np.isnan(ColumnSummary.empty(grid).std(grid))
