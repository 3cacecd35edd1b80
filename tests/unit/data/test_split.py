"""The test part: sealed, stable and, on request, the published one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasador.contract.model import Column
from tasador.core.errors import ConfigError, ValidationError
from tasador.data.readers import read_table
from tasador.data.split import split_table
from tasador.data.table import ValidatedTable
from tasador.data.validation import mix, validate_table
from tasador.selection.folds import assign_folds
from tasador.settings.run import SegregateSettings


def rows(contract, numbers: np.ndarray) -> ValidatedTable:
    """Validated rows whose target tells which row it is."""
    numbers = np.asarray(numbers)
    hashes = mix(numbers.astype(np.uint64))
    y = numbers.astype(float)
    X = np.column_stack([y] * 4)
    return ValidatedTable(contract, X, y, hashes, np.arange(len(y)), (), "h", "real", "s")


def test_the_random_split_is_scikit_learns_on_the_real_table(real_data, shipped, as_table):
    from sklearn.model_selection import train_test_split

    valid = validate_table(
        as_table(read_table(real_data / "housing.csv")), shipped("california_housing")
    )
    train, test = train_test_split(np.arange(20640), test_size=0.2, random_state=42)
    splits = split_table(valid, SegregateSettings(method="random", seed=42))
    opened = splits.sealed.open("to compare")
    np.testing.assert_array_equal(splits.train.X, valid.X[train])
    np.testing.assert_array_equal(opened.X, valid.X[test])
    np.testing.assert_array_equal(opened.y, valid.y[test])
    np.testing.assert_array_equal(opened.row_hash, valid.row_hash[test])
    assert (len(splits.train), len(splits.sealed)) == (16512, 4128)


@pytest.mark.parametrize(("n", "share", "seed"), [(101, 0.2, 0), (997, 0.33, 7), (50, 0.5, 1)])
def test_the_random_split_is_scikit_learns_for_other_sizes(flats, n, share, seed):
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(n), test_size=share, random_state=seed)
    splits = split_table(
        rows(flats, np.arange(n)), SegregateSettings(method="random", seed=seed, test_share=share)
    )
    assert splits.train.y.tolist() == train.tolist()
    assert splits.sealed.open("to compare").y.tolist() == test.tolist()


def test_the_hash_split_moves_no_row_when_others_come_go_or_change_places(flats):
    def tests(numbers) -> set[float]:
        splits = split_table(rows(flats, numbers), SegregateSettings(method="row_hash"))
        return set(splits.sealed.open("to compare").y.tolist())

    before = tests(np.arange(2000))
    after = tests(np.random.default_rng(1).permutation(3000)[:2900])
    known = set(np.random.default_rng(1).permutation(3000)[:2900].tolist())
    assert before & known == {y for y in after if y < 2000}
    assert 0.17 < len(before) / 2000 < 0.23


def test_copies_of_a_row_land_on_the_same_side(flats):
    splits = split_table(
        rows(flats, np.repeat(np.arange(100), 3)), SegregateSettings(method="row_hash")
    )
    assert not set(splits.train.y) & set(splits.sealed.open("to compare").y)
    assert splits.warnings == ()


def test_the_random_split_warns_of_copies_on_both_sides(flats):
    splits = split_table(
        rows(flats, np.repeat(np.arange(100), 3)), SegregateSettings(method="random")
    )
    assert "exact copy among the training rows" in splits.warnings[0]


def test_another_seed_gives_another_test_part(flats):
    table = rows(flats, np.arange(1000))
    parts = [
        split_table(table, SegregateSettings(method="row_hash", seed=seed))
        .sealed.open("x")
        .y.tolist()
        for seed in (1, 2)
    ]
    assert parts[0] != parts[1]


@pytest.mark.parametrize("method", ["row_hash", "random"])
def test_too_small_a_part_is_refused(flats, method):
    with pytest.raises(ValidationError, match="too small to be split"):
        split_table(rows(flats, np.arange(30)), SegregateSettings(method=method))
    with pytest.raises(ValidationError, match="for training and"):
        split_table(rows(flats, np.arange(30)), SegregateSettings(method=method, test_share=0.999))


def sales(contract, days: np.ndarray, properties: np.ndarray | None = None) -> ValidatedTable:
    """Validated rows of a contract with dates, sold on these days."""
    dated = replace(
        contract,
        columns=(*contract.columns, Column("sold", "datetime", role="timestamp", nullable=True)),
    )
    valid = rows(dated, np.arange(len(days)))
    X = np.repeat(np.asarray(days, float)[:, None] * 86_400, len(dated.features), axis=1)
    return replace(valid, X=X, property_hash=properties)


def test_a_table_of_sales_is_tested_on_its_newest_ones(flats):
    days = np.random.default_rng(1).permutation(np.arange(400) // 2)
    found = split_table(sales(flats, days), SegregateSettings(method="time"))
    test = found.sealed.open("to compare")
    assert found.method == "time"
    assert found.train.time.max() < test.time.min()
    assert len(test) == pytest.approx(80, abs=2)
    since = SegregateSettings(method="time", test_since="1970-06-20")  # day 170
    assert split_table(sales(flats, days), since).sealed.open("x").time.min() == 170 * 86_400


def test_sales_without_a_date_train(flats):
    days = np.arange(200.0)
    days[:5] = np.nan
    found = split_table(sales(flats, days), SegregateSettings(method="time"))
    assert np.isnan(found.train.time).sum() == 5
    assert not np.isnan(found.sealed.open("x").time).any()


@pytest.mark.parametrize("method", ["time", "row_hash", "random"])
def test_no_property_is_on_both_sides(flats, method):
    random = np.random.default_rng(2)
    properties = random.integers(0, 150, 600).astype(np.uint64)
    table = sales(flats, random.permutation(600), properties)
    found = split_table(table, SegregateSettings(method=method))
    test = found.sealed.open("x")
    assert not np.isin(found.train.property_hash, test.property_hash).any()
    left_out = 600 - len(found.train) - len(test)
    assert (left_out > 0) == (method == "time")
    assert not left_out or f"{left_out} earlier sale(s)" in found.warnings[0]


def test_what_cannot_be_split_by_time_is_said(flats):
    with pytest.raises(ConfigError, match="expected a column with the role timestamp"):
        split_table(rows(flats, np.arange(100)), SegregateSettings(method="time"))
    with pytest.raises(ConfigError, match="test_since is no day"):
        split_table(
            sales(flats, np.arange(100)), SegregateSettings(method="time", test_since="2014-13-01")
        )


DEFAULT = SegregateSettings()


@pytest.mark.parametrize("method", [None, "row_hash", "random", "time"])
def test_sales_with_dates_are_split_by_time_unless_another_method_is_asked_for(flats, method):
    table = sales(flats, np.random.default_rng(1).permutation(200))
    found = split_table(table, SegregateSettings(method=method))
    assert found.method == (method or "time")
    assert (found.train.time is not None) == (found.method == "time")
    assert split_table(rows(flats, np.arange(200)), DEFAULT).method == "row_hash"


def with_gaps(share: float) -> np.ndarray:
    days = np.arange(400.0)
    days[np.random.default_rng(3).permutation(400)[: round(share * 400)]] = np.nan
    return days


@pytest.mark.parametrize(
    ("days", "why"),
    [
        (with_gaps(0.8), "80% of the rows have no date"),
        (with_gaps(1.0), "100% of the rows have no date"),
        (np.zeros(400), "there are too few dates"),
        (np.repeat([0, 30], 200), "there are too few dates"),
        (np.repeat([0, 30, 60], [390, 5, 5]), "there are too few dates"),
    ],
)
def test_dates_that_order_nothing_leave_the_split_to_what_rows_hold(flats, days, why):
    found = split_table(sales(flats, days), DEFAULT)
    assert found.method == "row_hash"
    assert found.train.time is None
    assert f"not by time: {why}" in found.warnings[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    seed=st.integers(0, 1000),
    different=st.sampled_from([1, 2, 3, 5, 10, 1000]),
    lacking=st.sampled_from([0.0, 0.3, 0.6]),
    skew=st.sampled_from([1, 5]),
    share=st.sampled_from([0.2, 0.5]),
)
def test_whatever_the_dates_a_default_split_by_time_makes_folds_that_go_forward(
    flats, seed, different, lacking, skew, share
):
    random = np.random.default_rng(seed)
    days = np.floor(random.random(300) ** skew * different)
    days[random.random(300) < lacking] = np.nan
    found = split_table(sales(flats, days), SegregateSettings(test_share=share))
    if found.method != "time":
        return
    folds = assign_folds(found.train, 5, 0)
    assert len(folds.numbers) >= 2
    for number in folds.numbers:
        fit, held = folds.rows(number)
        assert np.nanmax(found.train.time[fit], initial=-1.0) < found.train.time[held].min()


def test_earlier_sales_of_tested_properties_are_kept_apart(flats):
    properties = np.random.default_rng(2).integers(0, 150, 600).astype(np.uint64)
    found = split_table(sales(flats, np.arange(600), properties), DEFAULT)
    test = found.sealed.open("x")
    assert len(found.train) + len(test) + len(found.earlier) == 600
    assert np.isin(found.earlier.property_hash, test.property_hash).all()
    joined = found.train.joined(test)
    assert joined.y.tolist() == [*found.train.y, *test.y]
    assert joined.time.tolist() == [*found.train.time, *test.time]
