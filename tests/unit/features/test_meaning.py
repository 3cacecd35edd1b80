"""Groups of features for people: each feature in exactly one, by what its column is about."""

from __future__ import annotations

import numpy as np
import pytest

from tasador.contract.model import Column
from tasador.contract.reader import from_dict
from tasador.features.meaning import Meaning, column_weights, meaning_of, meanings, sums
from tasador.features.pipeline import FeaturePipeline
from tasador.settings.run import FeatureSettings


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("ZipCode", "location"),
        ("ocean_proximity", "location"),
        ("SqFtTotLiving", "size"),
        ("NbrBedrooms", "size"),
        ("YrBuilt", "age_and_condition"),
        ("OverallQual", "age_and_condition"),
        ("median_income", "median_income"),
        ("living_area", "size"),
        ("LotArea", "size"),
        ("GrLivArea", "size"),
        ("YearBuilt", "age_and_condition"),
        ("year_of_the_district", "location"),
        ("area_of_district", "location"),
        ("year_of_the_garage", "size"),
        ("colour", "colour"),
    ],
)
def test_a_name_says_what_a_column_is_about(name: str, about: str) -> None:
    assert meaning_of(Column(name, "number")) == about


def table():
    columns = {
        "lon": {"kind": "number", "role": "longitude"},
        "lat": {"kind": "number", "role": "latitude"},
        "area": {"kind": "number", "nullable": True},
        "rooms": {"kind": "integer"},
        "age": {"kind": "number"},
        "colour": {"kind": "category", "categories": ["red", "blue", "green"]},
        "town": {"kind": "category", "categories": [f"t{i}" for i in range(15)]},
        "sold": {"kind": "datetime", "role": "timestamp"},
    }
    contract = from_dict(
        {
            "name": "t",
            "columns": columns,
            "derive": {"to_centre": {"distance_to": ["lon", "lat"], "points": [[-3.5, 40.5]]}},
            "target": {"name": "y"},
            "ratios": {"area_per_room": {"numerator": "area", "denominator": "rooms"}},
        }
    )
    random = np.random.default_rng(3)
    values = {
        "lon": random.uniform(-4, -3, 90), "lat": random.uniform(40, 41, 90),
        "area": random.uniform(20, 200, 90), "rooms": random.integers(1, 6, 90),
        "age": random.uniform(0, 90, 90), "colour": random.integers(0, 3, 90),
        "town": random.integers(0, 15, 90), "sold": random.uniform(1e9, 1.1e9, 90),
        "to_centre": random.uniform(0, 50, 90),
    }  # fmt: skip
    X = np.column_stack([values[name] for name in contract.feature_names]).astype(np.float64)
    X[:5, contract.position("area")] = np.nan
    return contract, X, random.normal(size=90)


def groups_of(pipeline: FeaturePipeline, X, target) -> dict[str, tuple[set[str], set[str]]]:
    fitted = pipeline.fit(X, target)
    found = meanings(fitted)
    every = sorted(place for group in found for place in group.features)
    assert every == list(range(len(fitted.names)))
    return {g.name: ({fitted.names[i] for i in g.features}, set(g.columns)) for g in found}


def test_every_feature_is_in_the_group_of_its_column() -> None:
    contract, X, target = table()
    pipeline = FeaturePipeline(contract, FeatureSettings(clusters=2))
    found = groups_of(pipeline, X, target)
    names, columns = found.pop("location")
    town = {f"town_{one}" for one in ("mean", "mean_strong", "count", "spread", "code")}
    assert {"lon", "lat", "to_centre", "cluster", "comparables_mean_1", *town} <= names
    assert columns == {"lon", "lat", "to_centre", "town"}
    assert found == {
        "size": (
            {"area", "rooms", "area_per_room", "area_missing"},
            {"area", "rooms", "area_per_room"},
        ),
        "age_and_condition": ({"age"}, {"age"}),
        "time": ({"sold_year", "sold_month", "sold_weekday"}, {"sold"}),
        "colour": (
            {"colour=red", "colour=blue", "colour=green", "colour_target_mean"},
            {"colour"},
        ),
    }
    labels = {g.name: g.label for g in meanings(pipeline.fit(X, target))}
    assert (labels["time"], labels["colour"]) == ("Time of sale", "Colour")


def test_comparables_that_are_not_found_by_place_are_a_group_of_their_own() -> None:
    contract = from_dict(
        {
            "name": "t",
            "columns": {"area": {"kind": "number"}, "age": {"kind": "number"}},
            "target": {"name": "y"},
        }
    )
    X = np.random.default_rng(1).uniform(1, 9, (60, 2))
    found = groups_of(FeaturePipeline(contract), X, X[:, 0])
    names, columns = found["similar_sales"]
    assert "comparables_spread" in names
    assert columns == {"area", "age"}
    assert (found["size"], found["age_and_condition"]) == (
        ({"area"}, {"area"}), ({"age"}, {"age"}),
    )  # fmt: skip


def test_what_follows_from_a_monotone_column_stays_with_it() -> None:
    contract, X, target = table()
    pipeline = FeaturePipeline(contract, monotone={"area": "up"})
    found = groups_of(pipeline, X, target)
    assert found["size"][0] == {"area", "rooms", "area_per_room", "area_missing"}


def test_parts_are_summed_by_group_and_columns_count_as_much_as_theirs_move() -> None:
    contract, *_ = table()
    groups = (
        Meaning("size", "Size", ("area", "rooms", "area_per_room"), (0, 2)),
        Meaning("time", "Time of sale", ("sold",), (3,)),
        Meaning("colour", "Colour", ("colour",), (1,)),
    )
    parts = np.array([[1.0, 5.0, 2.0, 9.0], [3.0, 1.0, -4.0, 0.0]])
    found = sums(parts, groups)
    assert found.tolist() == [[3.0, 9.0, 5.0], [-1.0, 0.0, 1.0]]
    # on average the groups are 2, 4.5 and 2 away from their means; the date counts nothing
    weights = dict(
        zip(contract.feature_names, column_weights(contract, groups, found), strict=True)
    )
    assert weights == pytest.approx(
        dict.fromkeys(contract.feature_names, 0.0) | {"area": 0.25, "rooms": 0.25, "colour": 0.5}
    )
    nothing = column_weights(contract, groups, np.ones((2, 3)))
    assert nothing == pytest.approx(np.full(len(contract.feature_names), 1 / 9))
