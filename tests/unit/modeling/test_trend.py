from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.modeling.trend import Trend

DAY = 86_400.0
MONTH = 365.25 / 12 * DAY
START = np.datetime64("2010-01-01", "s").astype(np.float64)


def sales(n=3000, months=48, slope=0.0, wave=0.0, noise=0.15, seed=0):
    """Dates, log prices, attributes (area, kind, one with gaps) and the level at each date."""
    rng = np.random.default_rng(seed)
    at = rng.uniform(0.0, months, n)
    level = slope * at + wave * np.sin(at / 8.0)
    area, kind = rng.uniform(30.0, 300.0, n), rng.integers(0, 4, n).astype(float)
    rooms = np.where(rng.random(n) < 0.1, np.nan, rng.integers(1, 9, n).astype(float))
    z = 10.0 + np.log(area) + 0.2 * kind + level + noise * rng.normal(size=n)
    return START + at * MONTH, z, np.column_stack([area, kind, rooms]), level


def months_middle(trend):
    edges = np.arange(trend.first, trend.first + len(trend.level) + 1).astype("datetime64[M]")
    edges = edges.astype("datetime64[s]").astype(np.float64)
    return (edges[:-1] + edges[1:]) / 2.0


@pytest.fixture(scope="module")
def waving():
    seconds, z, X, _ = sales(wave=0.2)
    return Trend.fit(seconds, z, X, [1])


@pytest.mark.parametrize(("slope", "wave"), [(0.01, 0.0), (0.0, 0.2), (-0.005, 0.1)])
def test_a_planted_trend_is_found_within_its_interval(slope, wave):
    seconds, z, X, _ = sales(slope=slope, wave=wave)
    trend = Trend.fit(seconds, z, X, [1])
    at = (months_middle(trend) - START) / MONTH
    truth = slope * at + wave * np.sin(at / 8.0)
    share = trend.sales / trend.sales.sum()
    off = (trend.level - share @ trend.level) - (truth - share @ truth)
    assert np.abs(off).max() < 0.04
    assert np.mean(np.abs(off) <= 2.0 * trend.error) >= 0.9
    assert trend.level[-1] == 0.0
    assert trend.sales.sum() == len(z)


def seasonal(months, drop=0.0):
    """Sales that are dearest in July, by 4% over the mean of the year, until `months` are over."""
    seconds, z, X, _ = sales(n=90 * months, months=months, slope=drop)
    year = (seconds - START) / (12 * MONTH)
    return seconds, z + 0.04 * np.cos(2 * np.pi * (year - 6.5 / 12)), X


def test_seasons_are_separated_from_a_turn_of_the_market():
    seconds, z, X = seasonal(60, drop=-0.004)
    trend = Trend.fit(seconds, z, X, [1], carry="drift")
    assert trend.season.argmax() == 6
    assert trend.season.argmin() == 0
    assert np.ptp(trend.season) == pytest.approx(0.08, abs=0.015)
    # at the end of December, when prices have fallen for half a year and will rise again
    ahead = trend.at(months_middle(trend)[-1] + np.array([6.0, 12.0]) * MONTH)
    assert ahead[0] - ahead[1] == pytest.approx(0.08, abs=0.02)
    assert -12 * 0.004 < ahead[1] < -0.01
    assert Trend.from_state(*trend.state()).at(seconds).tolist() == trend.at(seconds).tolist()


@pytest.mark.parametrize(("months", "wave"), [(30, 0.04), (60, 0.0)])
def test_seasons_take_three_years_and_a_pattern(months, wave):
    seconds, z, X = seasonal(months) if wave else sales(n=5400, months=months)[:3]
    assert Trend.fit(seconds, z, X, [1]).season is None


def test_other_attributes_sold_later_are_no_trend():
    rng = np.random.default_rng(3)
    seconds, z, X, _ = sales(n=4000)
    smaller = (X[:, 0] < 150.0) & (seconds < START + 24 * MONTH) & (rng.random(len(z)) < 0.8)
    trend = Trend.fit(seconds[~smaller], z[~smaller], X[~smaller], [1])
    assert np.abs(trend.level).max() < 0.05


def test_prices_that_never_change_have_no_trend():
    seconds, z, X, _ = sales(n=500)
    trend = Trend.fit(seconds, np.full(len(z), 12.5), X, [1])
    assert not trend.level.any()
    assert not trend.at(seconds).any()
    later = seconds.max() + np.array([0.0, 400.0 * DAY])
    assert trend.at(later).tolist() == [0.0, 0.0]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_order_of_the_rows_changes_nothing(seed, known):
    seconds, z, X, _ = sales(n=1500, months=30, wave=0.1)
    owner = np.arange(len(z)) % 900 if known else None
    order = np.random.default_rng(seed).permutation(len(z))
    straight = Trend.fit(seconds, z, X, [1], owner)
    shuffled = Trend.fit(
        seconds[order], z[order], X[order], [1], None if owner is None else owner[order]
    )
    assert straight.state()[0] == shuffled.state()[0]
    for name, array in straight.state()[1].items():
        assert array.tobytes() == shuffled.state()[1][name].tobytes()


def test_a_sample_of_many_sales_depends_on_no_order():
    seconds, z, X, _ = sales(n=70_000, months=24, slope=0.01)
    order = np.random.default_rng(1).permutation(len(z))
    straight, shuffled = (
        Trend.fit(seconds[rows], z[rows], X[rows, :1]) for rows in (np.arange(len(z)), order)
    )
    assert 50_000 < straight.sales.sum() < 70_000
    assert straight.level.tobytes() == shuffled.level.tobytes()


@settings(max_examples=50, deadline=None)
@given(st.floats(-2000.0, 4000.0), st.sampled_from(["flat", "drift"]))
def test_the_level_is_continuous_and_its_error_never_zero(waving, day, carry):
    trend = replace(waving, carry=carry)
    seconds = START + np.array([day, day + 1.0 / 24.0]) * DAY
    level, error = trend.at(seconds), trend.error_at(seconds)
    assert abs(level[1] - level[0]) <= np.abs(np.diff(trend.level)).max() / 24.0 + 1e-12
    assert (error > 0.0).all()


def test_a_date_that_is_unknown_is_the_newest_one(waving):
    assert waving.at(np.array([np.nan])).tolist() == [0.0]
    assert waving.error_at(np.array([np.nan])).tolist() == [waving.error[-1]]


def test_beyond_the_last_month_the_level_is_carried_and_its_error_grows():
    seconds, z, X, _ = sales(slope=0.01, months=60)
    drift = Trend.fit(seconds, z, X, [1], carry="drift")
    flat = Trend.fit(seconds, z, X, [1], carry="flat")
    ahead = months_middle(drift)[-1] + np.arange(0, 61) * MONTH
    assert not flat.at(ahead).any()
    assert (np.diff(drift.at(ahead)) > 0.0).all()
    assert 0.001 < drift.at(ahead)[1] < 0.0101
    assert (np.diff(flat.error_at(ahead)) > 0.0).all()
    # prices went on rising within the table: who carried them flat missed by more
    assert flat.growth > drift.growth


@pytest.mark.parametrize("persistence", [0.0, 0.5, 0.8, 0.95])
def test_after_a_year_the_error_grows_as_that_of_changes_that_pass_on_in_part(waving, persistence):
    trend = replace(waving, persistence=persistence)
    ahead = months_middle(trend)[-1] + np.arange(0, 121) * MONTH
    error = np.sqrt(trend.error_at(ahead) ** 2 - trend.error[-1] ** 2)
    assert error[1:13] == pytest.approx(trend.growth * np.arange(1, 13))
    sums = np.cumsum(np.cumsum(persistence ** np.arange(120.0)) ** 2)
    slower = error[12] * np.sqrt(sums[12:] / sums[11])
    assert error[13:] == pytest.approx(np.minimum(slower, trend.growth * np.arange(13, 121)))
    assert (error[13:] < trend.growth * np.arange(13, 121)).any()
    older = replace(trend, horizon=None)
    assert older.error_at(ahead[:12]).tobytes() == trend.error_at(ahead[:12]).tobytes()
    assert (older.error_at(ahead[1:]) >= trend.error_at(ahead[1:])).all()


def test_months_without_sales_lie_between_their_neighbours_and_are_less_certain():
    seconds, z, X, _ = sales(slope=0.01)
    at = (seconds - START) / MONTH
    seen = (at < 20.0) | (at > 28.0)
    trend = Trend.fit(seconds[seen], z[seen], X[seen], [1])
    assert (trend.sales[21:27] == 0).all()
    assert (np.diff(trend.level[19:30]) > 0.0).all()
    assert trend.error[24] > 1.3 * np.median(trend.error)


def test_odd_sales_widen_the_interval_and_hardly_move_the_level():
    seconds, z, X, _ = sales(n=5000, slope=0.01)
    at = (seconds - START) / MONTH
    odd = (at > 42.0) & (np.random.default_rng(5).random(len(z)) < 0.4)
    clean = Trend.fit(seconds, z, X, [1])
    mixed = Trend.fit(seconds, np.where(odd, z - 0.7, z), X, [1])
    moved = (mixed.level[-1] - mixed.level[:36].mean()) - (
        clean.level[-1] - clean.level[:36].mean()
    )
    assert abs(moved) < 0.1  # a mean would move by 0.28
    assert mixed.error[-1] > 1.8 * clean.error[-1]
    assert abs(moved) < 3.0 * mixed.error[-1]


def test_two_sales_of_one_property_show_what_its_attributes_do_not():
    # the quality, which no column holds, of what is sold falls by 0.3 over the four years
    rng = np.random.default_rng(4)
    seconds, z, X, _ = sales(n=4000, slope=0.01, noise=0.05)
    at = (seconds - START) / MONTH
    quality = -0.3 * at / 48.0 + 0.3 * rng.normal(size=len(z))
    owner = np.arange(len(z))
    again = owner[at < 24.0]
    later = seconds[again] + rng.uniform(7.0, 24.0, len(again)) * MONTH
    z2 = z[again] + 0.01 * (later - seconds[again]) / MONTH + 0.05 * rng.normal(size=len(again))
    rows = np.concatenate([owner, again])
    seconds, z = np.concatenate([seconds, later]), np.concatenate([z, z2]) + quality[rows]
    slopes = []
    for codes in (rows, None):
        trend = Trend.fit(seconds, z, X[rows], [1], codes)
        slopes.append((trend.level[45] - trend.level[3]) / 42.0)
    assert abs(slopes[0] - 0.01) < 0.5 * abs(slopes[1] - 0.01)


def test_the_scale_of_the_target_is_that_of_the_levels():
    seconds, z, X, _ = sales(n=1500, wave=0.2)
    small, large = Trend.fit(seconds, z, X, [1]), Trend.fit(seconds, 1e6 * z - 5.0, X, [1])
    assert large.level == pytest.approx(1e6 * small.level, abs=1.0)
    assert large.error == pytest.approx(1e6 * small.error, rel=1e-3)


@pytest.mark.parametrize(("n", "months"), [(0, 24), (40, 24), (3000, 9)])
def test_too_few_months_with_sales_have_no_trend(n, months):
    seconds, z, X, _ = sales(n=n, months=months)
    assert Trend.fit(seconds, z, X, [1]) is None


def test_rows_without_a_date_or_a_price_are_left_out():
    seconds, z, X, _ = sales(n=1500)
    gaps = np.arange(len(z)) % 10 == 0
    trend = Trend.fit(np.where(gaps, np.nan, seconds), z, X, [1])
    assert trend.sales.sum() == (~gaps).sum()
    same = Trend.fit(seconds, np.where(gaps, np.nan, z), X, [1])
    assert same.level.tobytes() == trend.level.tobytes()


def test_a_stored_trend_is_the_same_trend(waving):
    again = Trend.from_state(*waving.state())
    seconds = START + np.arange(-100.0, 3000.0, 7.0) * DAY
    assert again.at(seconds).tobytes() == waving.at(seconds).tobytes()
    assert again.error_at(seconds).tobytes() == waving.error_at(seconds).tobytes()
    assert again.table() == waving.table()
    assert waving.table()[0]["month"] == "2010-01"
    older = replace(waving, horizon=None)
    assert Trend.from_state(*older.state()).error_at(seconds).tobytes() == (
        older.error_at(seconds).tobytes()
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("first", 1.5, "first month"),
        ("first", 10**9, "first month"),
        ("carry", "up", "carried 'up'"),
        ("drift", float("nan"), "numbers are"),
        ("drift", 1, "numbers are"),
        ("persistence", 1.0, "persistence and growth"),
        ("growth", -0.1, "persistence and growth"),
        ("horizon", 0, "horizon"),
        ("horizon", 1.5, "horizon"),
        ("level", np.ones(48), "last level"),
        ("level", np.zeros(47), "shape"),
        ("level", np.full(48, np.nan), "NaN"),
        ("level", np.zeros((48, 2)), "shape"),
        ("error", np.full(48, -1.0), "outside"),
        ("sales", np.zeros(48), "int64"),
        ("season", np.zeros(11), "shape"),
        ("season", np.full(12, np.nan), "NaN"),
    ],
)
def test_a_forged_state_is_refused(waving, name, value, message):
    spec, arrays = waving.state()
    (arrays if isinstance(value, np.ndarray) else spec)[name] = value
    with pytest.raises(ValueError, match=message):
        Trend.from_state(spec, arrays)


@pytest.mark.parametrize("name", ["first", "carry", "growth", "level", "sales"])
def test_an_incomplete_state_is_refused(waving, name):
    spec, arrays = waving.state()
    (arrays if name in arrays else spec).pop(name)
    with pytest.raises(KeyError, match=name):
        Trend.from_state(spec, arrays)


def test_the_market_of_king_county_is_found_without_its_index(real_data):
    file = real_data / "tables" / "king_county_sales.tsv"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    names = file.read_text(encoding="utf-8").split("\n", 1)[0].replace('"', "").split("\t")
    frame = pl.read_csv(
        file,
        separator="\t",
        has_header=False,
        skip_rows=1,
        new_columns=["row", *names],
        infer_schema_length=None,
    )
    texts = ("PropertyType", "ZipCode", "NewConstruction")
    attributes = [
        *texts, "NbrLivingUnits", "SqFtLot", "SqFtTotLiving", "SqFtFinBasement", "Bathrooms",
        "Bedrooms", "BldgGrade", "YrBuilt", "YrRenovated", "TrafficNoise",
    ]  # fmt: skip
    X = np.column_stack([
        np.unique(frame[name].to_numpy(), return_inverse=True)[1] if name in texts
        else frame[name].to_numpy().astype(float)
        for name in attributes
    ]).astype(float)  # fmt: skip
    seconds = frame["DocumentDate"].str.to_date().to_numpy().astype("datetime64[s]").astype(float)
    z = np.log(frame["SalePrice"].to_numpy())
    trend = Trend.fit(seconds, z, X, range(3), frame["PropertyID"].to_numpy())
    months = np.array([row["month"] for row in trend.table()])
    index = dict(zip(frame["ym"].str.slice(0, 7), frame["zhvi_idx"], strict=True))
    market = np.array([index[month] for month in months])
    level = np.exp(trend.level)
    known = (trend.sales >= 30) & (months <= "2014-06")
    assert np.corrcoef(level[known], market[known])[0, 1] >= 0.975
    scaled = level[known] * market[known].mean() / level[known].mean()
    assert np.abs(scaled - market[known]).max() <= 0.09
    assert "2011-10" <= months[level[months <= "2014-06"].argmin()] <= "2012-02"
    # few, small and cheap: they say little of the market
    assert trend.error[months >= "2015-01"].min() > 3.0 * np.median(trend.error)
