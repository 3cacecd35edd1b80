"""Which recorded sales are suspicious, and what is said against them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.data.table import Part
from tasador.selection.errors import SalesError
from tasador.selection.suspicious_sales import suspect_sales

DAY = 86_400.0
CONTRACT = from_dict(
    {
        "name": "homes",
        "columns": {
            "sold": {"kind": "datetime", "role": "timestamp", "nullable": True},
            "area": {"kind": "number", "unit": "m2"},
            "zip": {"kind": "category", "categories": ["A1", "B2", "C3"]},
            "kind": {"kind": "category", "categories": ["flat", "house"], "role": "group"},
            "parcel": {"kind": "text", "role": "property"},
        },
        "target": {"name": "price", "unit": "EUR", "transform": "log"},
    }
)


def homes(n: int, seed: int = 1, *, tails: float = np.inf) -> Part:
    """Return n sales with errors of 10%; `tails` degrees of freedom make some far larger."""
    rng = np.random.default_rng(seed)
    sold = (14_000 + rng.integers(0, 1000, n)) * DAY
    area, zips, kind = rng.uniform(40, 300, n), rng.integers(0, 3, n), rng.integers(0, 2, n)
    error = rng.normal(size=n) if np.isinf(tails) else rng.standard_t(tails, n)
    price = 2000.0 * area * np.exp(0.3 * zips + 0.1 * kind + 0.1 * error)
    X = np.column_stack([sold, area, zips, kind]).astype(np.float64)
    hashes = rng.integers(0, 2**63, n).astype(np.uint64)
    return Part(X, np.round(price, 2), hashes, np.arange(n, dtype=np.uint64))


def suspects(part: Part, threshold: float = 5.0):
    return suspect_sales(CONTRACT, part, threshold=threshold, seed=7)


@pytest.fixture(scope="module")
def planted() -> tuple[Part, np.ndarray]:
    """600 sales, and the positions of those whose price was given wrong by a factor of ten."""
    part = homes(600)
    rng = np.random.default_rng(3)
    wrong = rng.choice(600, 12, replace=False)
    y = part.y.copy()
    y[wrong] *= np.where(rng.random(12) < 0.5, 10.0, 0.1)
    return replace(part, y=y), wrong


def test_wrong_decimal_points_are_found_with_reasons_and_what_they_cost(planted):
    part, wrong = planted
    found = suspects(part)
    assert found.flagged[wrong].all()
    assert found.flagged.sum() <= len(wrong) + 3
    assert set(found.reasons) == set(np.flatnonzero(found.flagged))
    text = "; ".join(reason.text for reason in found.reasons[int(wrong[0])])
    assert "times what a first model expects (" in text
    assert " EUR)" in text
    assert "times the median of" in text
    assert found.errors_without[0] < 1.1 * found.errors_with[0]
    right = np.delete(np.arange(600), wrong)
    assert np.median(np.abs(found.expected[right] / part.y[right] - 1)) < 0.12


@pytest.mark.no_cover
def test_neither_the_order_of_the_rows_nor_the_currency_changes_anything(planted):
    part, _ = planted
    found = suspects(part)
    order = np.random.default_rng(5).permutation(len(part))
    again = suspects(part.take(order))
    assert again.score.tolist() == found.score[order].tolist()
    dearer = suspects(replace(part, y=part.y * 1000.0))
    assert dearer.score == pytest.approx(found.score, rel=1e-6)
    assert dearer.flagged.tolist() == found.flagged.tolist()


def test_few_ordinary_sales_are_suspicious_even_where_errors_have_heavy_tails():
    assert suspects(homes(1500, seed=2)).flagged.mean() <= 0.001
    assert suspects(homes(1500, seed=2, tails=5.0)).flagged.mean() <= 0.004


def test_a_resale_within_days_with_a_jump_is_suspicious_and_a_slow_one_is_not():
    part = homes(400)
    X, y, of = part.X.copy(), part.y.copy(), part.property_hash.copy()
    X[1], of[1], y[1] = X[0], of[0], y[0] * 0.45  # the same house
    X[1, 0] = X[0, 0] + 20 * DAY
    X[3], of[3], y[3] = X[2], of[2], y[2] * 1.02
    X[3, 0] = X[2, 0] + 20 * DAY
    found = suspects(replace(part, X=X, y=y, property_hash=of))
    kinds = [reason.kind for reason in found.reasons.get(1, ())]
    assert "resale with a jump" in kinds
    assert any("sold 20 days before at 2.2 times this price" in r.text for r in found.reasons[1])
    assert not {2, 3} & set(found.reasons)


def test_one_deed_over_several_lots_is_suspicious_and_equal_houses_of_one_builder_are_not():
    part = homes(400)
    X, y = part.X.copy(), part.y.copy()
    X[:4] = X[0]  # four lots, the price of all on each
    X[:4, 1] = (90.0, 95.0, 100.0, 105.0)
    each = 2000.0 * 97.5 * np.exp(0.3 * X[0, 2] + 0.1 * X[0, 3])
    y[:4] = 4 * each
    X[4:8] = X[4]  # four houses, each at its own price
    X[4:8, 1] = 120.0
    y[4:8] = 2000.0 * 120.0 * np.exp(0.3 * X[4, 2] + 0.1 * X[4, 3])
    found = suspects(replace(part, X=X, y=y))
    for at in range(4):
        (deed,) = (one for one in found.reasons[at] if one.kind == "one deed over several lots")
        assert deed.z == pytest.approx(found.residual_z[:4].sum() / 2.0)  # of four, independent
    assert not set(range(4, 8)) & set(found.reasons)
    # each dearer than expected by less than is suspicious, and nobody's price for all of them
    y[4:8] *= 1.55
    of = part.property_hash.copy()
    of[4:8] = of[4]  # no model learns one of them from another
    found = suspects(replace(part, X=X, y=y, property_hash=of))
    assert found.residual_z[4:8].sum() / 2.0 > 5.0 > found.score[4:8].max()


def test_a_price_of_one_is_none_and_missing_dates_and_areas_are_no_reason():
    part = homes(300)
    X, y = part.X.copy(), part.y.copy()
    y[:2] = (1.0, 0.0)
    X[5:9, 0] = np.nan
    X[7:11, 1] = np.nan
    X[11, 1] = 0.0
    found = suspects(replace(part, X=X, y=y))
    assert [found.reasons[at][0].text for at in (0, 1)] == [
        "price is 1: no market price", "price is 0: no market price",
    ]  # fmt: skip
    assert np.isinf(found.score[:2]).all()
    assert not set(range(5, 11)) & set(found.reasons)
    assert "price per area" not in {reason.kind for reason in found.reasons.get(11, ())}
    assert np.isnan(found.area_price_z[[*range(2), *range(7, 12)]]).all()
    assert np.isfinite(found.area_price_z[12:]).all()
    assert Counter(reason[0].kind for reason in found.reasons.values())["no price"] == 2


def test_too_few_prices_are_an_error():
    with pytest.raises(SalesError, match="too few sales have a price above 0"):
        suspects(homes(40))


def test_prices_and_prices_per_area_are_as_far_from_their_median_as_it_is_usual():
    alone = from_dict(
        {
            "name": "homes",
            "columns": {"area": {"kind": "number", "unit": "m2"}, "age": {"kind": "number"}},
            "target": {"name": "price", "transform": "log"},
        }
    )
    rng = np.random.default_rng(4)
    area = rng.uniform(40, 300, 201)
    y = 2000.0 * area * np.exp(0.1 * rng.normal(size=201))
    X = np.column_stack([area, rng.uniform(0, 9, 201)])
    found = suspect_sales(alone, Part(X, y, np.arange(201, dtype=np.uint64)), threshold=5, seed=1)

    def robust_z(values):
        away = values - np.median(values)
        return away / (1.4826 * np.median(np.abs(away)))

    assert found.price_z == pytest.approx(robust_z(np.log(y)), rel=1e-4, abs=1e-6)
    assert found.area_price_z == pytest.approx(robust_z(np.log(y / area)), rel=1e-4, abs=1e-6)
    # most sales have nothing against them but what the model did not expect
    assert (found.score == np.abs(found.residual_z)).mean() > 0.5
    assert found.score.min() < 0.5


@pytest.mark.parametrize("named", ["tier", "zip", "coordinates"])
def test_the_place_is_the_segment_or_a_part_of_the_map_where_no_column_is_named_so(named):
    rng = np.random.default_rng(8)
    n = 1200
    columns = {"area": {"kind": "number", "unit": "m2"}}
    if named != "coordinates":
        columns[named] = {"kind": "category", "categories": ["low", "top"], "role": "segment"}
        place = rng.integers(0, 2, n)
        X = np.column_stack([rng.uniform(40, 300, n), place]).astype(np.float64)
        if named == "zip":  # of columns that are named as places are, the one that says the most
            columns["county"] = {"kind": "category", "categories": ["A", "B", "C"]}
            X = np.column_stack([X, rng.integers(0, 3, n)])
    else:
        columns |= {
            "lon": {"kind": "number", "role": "longitude"},
            "lat": {"kind": "number", "role": "latitude"},
        }
        X = np.column_stack([rng.uniform(40, 300, n), rng.uniform(0, 4, n), rng.uniform(0, 1, n)])
        place = X[:, 1] > np.median(X[:, 1])
    y = 2000.0 * X[:, 0] * np.exp(1.5 * place + 0.1 * rng.normal(size=n))
    y[0] *= 20.0
    contract = from_dict(
        {"name": "homes", "columns": columns, "target": {"name": "price", "transform": "log"}}
    )
    found = suspect_sales(contract, Part(X, y, np.arange(n, dtype=np.uint64)), threshold=5, seed=1)
    text = next(r.text for r in found.reasons[0] if r.kind == "price per area")
    what = ("low", "top")[int(place[0])] if named != "coordinates" else "its part of the map"
    per_area, alike = y / X[:, 0], place == place[0]
    rows, times = int(alike.sum()), float(f"{per_area[0] / np.median(per_area[alike]):.2g}")
    assert text == f"price per area is {times:g} times the median of {what} ({rows} sales)"


def test_sales_of_properties_that_nobody_names_are_compared_too(planted):
    part, wrong = planted
    found = suspects(replace(part, property_hash=None))
    assert found.flagged[wrong].all()
    assert found.flagged.sum() <= len(wrong) + 3


@pytest.mark.parametrize("times", [0.2, 5.0])
def test_a_sale_of_the_same_day_is_a_reason_at_whichever_place_the_other_is(times):
    part = homes(400)
    X, y, of = part.X.copy(), part.y.copy(), part.property_hash.copy()
    X[0, 1:], y[0] = (39.0, 0.0, 0.0), 78_000.0  # the first in order
    X[1], of[1], y[1] = X[0], of[0], y[0] / times
    found = suspects(replace(part, X=X, y=y, property_hash=of))
    texts = [reason.text for reason in found.reasons[1]]
    assert f"the property was sold again 0 days later at {times:g} times this price" in texts
