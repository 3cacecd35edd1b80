"""The generated table looks and behaves like the one it stands in for."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tasador.core.errors import SourceError
from tasador.data.synthetic import generate
from tasador.data.validation import validate_table


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return generate("california_housing", None, 42)


def test_the_same_seed_gives_the_same_rows_and_another_one_others(frame):
    assert generate("california_housing", None, 42).equals(frame)
    assert not generate("california_housing", None, 43).equals(frame)


def test_the_schema_the_gaps_and_the_cap_are_those_of_the_real_table(frame, shipped, as_table):
    valid = validate_table(as_table(frame), shipped("california_housing"))
    assert len(valid.y) == 20640
    assert frame["total_bedrooms"].null_count() == 207
    assert (frame["median_house_value"] == 500001).sum() == pytest.approx(965, abs=2)
    assert dict(frame["ocean_proximity"].value_counts().rows()) == {
        "<1H OCEAN": 9136, "INLAND": 6551, "NEAR OCEAN": 2658, "NEAR BAY": 2290, "ISLAND": 5,
    }  # fmt: skip
    for name in ("longitude", "latitude"):
        assert (frame[name].round(2) == frame[name]).all()
    assert (frame["total_bedrooms"] <= frame["total_rooms"]).all()


def test_the_distributions_are_close_to_the_real_ones(frame, real_data):
    real = pl.read_csv(real_data / "housing.csv")
    for name in frame.columns[:-1]:
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):
            ours, theirs = frame[name].quantile(share), real[name].quantile(share)
            spread = real[name].quantile(0.75) - real[name].quantile(0.25)
            assert abs(ours - theirs) < 0.2 * max(spread, abs(theirs)), (name, share, ours, theirs)


def test_prices_follow_income_and_the_coast_and_counts_rise_together(frame):
    logs = frame.select(
        pl.col("median_income", "median_house_value", "total_rooms", "households").log()
    )
    correlation = np.corrcoef(logs.to_numpy().T)
    assert 0.55 < correlation[0, 1] < 0.85
    assert correlation[2, 3] > 0.85
    medians = dict(frame.group_by("ocean_proximity").agg(pl.median("median_house_value")).rows())
    assert medians["INLAND"] < 0.7 * medians["<1H OCEAN"]


def test_neighbours_cost_about_the_same(frame):
    from scipy.spatial import cKDTree

    points = frame.select("longitude", "latitude").to_numpy()
    price = frame["median_house_value"].log().to_numpy()
    _, near = cKDTree(points).query(points, k=9)
    explained = np.corrcoef(price, price[near[:, 1:]].mean(axis=1))[0, 1]
    assert explained > 0.6


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_any_number_of_rows_can_be_had(rows):
    assert generate("california_housing", rows, 1).height == rows


def test_unknown_generators_and_no_rows_are_refused():
    with pytest.raises(SourceError, match=r"no generator 'mars'.*california_housing"):
        generate("mars", 10, 1)
    with pytest.raises(SourceError, match="at least 1 row, got 0"):
        generate("california_housing", 0, 1)
