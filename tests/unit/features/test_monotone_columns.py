"""What features make of a column with which estimates may only rise: itself, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.contract.encoding import Encoder
from tasador.contract.reader import from_dict
from tasador.features.fitted import FittedFeatures
from tasador.features.pipeline import FeaturePipeline
from tasador.settings.run import FeatureSettings


def contract_of(*, places: bool = True):
    columns = {
        "area": {"kind": "number"},
        "rooms": {"kind": "number", "nullable": True},
        "age": {"kind": "number"},
        "kind": {"kind": "category", "categories": ["flat", "house", "villa"]},
    }
    if places:
        columns["lon"] = {"kind": "number", "role": "longitude"}
        columns["lat"] = {"kind": "number", "role": "latitude"}
    return from_dict(
        {
            "name": "homes",
            "columns": columns,
            "derive": {"log_area": {"log": "area"}},
            "target": {"name": "price"},
            "ratios": {
                "area_per_room": {"numerator": "area", "denominator": "rooms"},
                "rooms_per_year": {"numerator": "rooms", "denominator": "age"},
            },
            "comparables": {"similar_by": "area", "context": ["area", "age"]},
        }
    )


def rows_of(contract, n: int):
    random = np.random.default_rng(4)
    area = random.lognormal(4.5, 0.4, n)
    columns = {
        "area": area.tolist(),
        "rooms": [None if i % 9 == 0 else float(v) for i, v in enumerate(np.round(area / 25) + 1)],
        "age": random.uniform(1, 90, n).tolist(),
        "kind": random.choice(["flat", "house", "villa"], n).tolist(),
        "lon": random.uniform(0, 1, n).tolist(),
        "lat": random.uniform(0, 1, n).tolist(),
    }
    X = Encoder(contract).columns({k: columns[k] for k in contract.field_names})
    return columns, X, np.log(1000 * area)


@pytest.fixture(scope="module", params=[True, False], ids=["places", "no places"])
def fitted(request) -> tuple[FittedFeatures, dict, int]:
    contract = contract_of(places=request.param)
    columns, X, target = rows_of(contract, 300)
    pipeline = FeaturePipeline(
        contract, FeatureSettings(clusters=3), 1, {"rooms": "boosting"}, {"area": "up"}
    )
    return pipeline.fit(X, target), columns, len(X)


@given(st.integers(0, 299), st.floats(1.0, 5000.0))
def test_a_row_with_another_value_has_no_other_feature_that_models_see(fitted, row, value):
    features, columns, _ = fitted
    contract = features.contract
    own = {name: columns[name][row] for name in contract.field_names}
    before, after = (
        features.transform(Encoder(contract).columns({k: [v] for k, v in one.items()}))
        for one in (own, own | {"area": value})
    )
    changed = {features.kinds[i] for i in np.flatnonzero((before != after)[0])}
    assert changed <= {"rising", "unused"}
    assert after[0, features.names.index("area")] == value


def test_the_column_rises_and_what_follows_from_it_is_not_seen(fitted):
    features, *_ = fitted
    kinds = dict(zip(features.names, features.kinds, strict=True))
    assert kinds["area"] == "rising"
    assert {kinds["area_per_room"], kinds["log_area"]} == {"unused"}
    assert kinds["rooms_per_year"] == "ratio"
    assert kinds["age"] == "number"
    assert features.plan is not None
    named = {*features.plan.near, features.plan.similar_by, *features.plan.context}
    assert named.isdisjoint({"area", "area_per_room", "log_area"})


def test_a_state_keeps_the_directions_and_refuses_others(fitted):
    features, *_ = fitted
    spec, arrays = features.state()
    again = FittedFeatures.from_state(features.contract, spec, arrays)
    assert (again.monotone, again.kinds) == ({"area": "up"}, features.kinds)
    for wrong in ({"kind": "up"}, {"area": "sideways"}, {"nothing": "up"}, ["area"]):
        with pytest.raises(ValueError, match="monotone"):
            FittedFeatures.from_state(features.contract, {**spec, "monotone": wrong}, arrays)


def test_features_without_a_direction_say_nothing_of_it():
    contract = contract_of()
    _, X, target = rows_of(contract, 80)
    spec, _ = FeaturePipeline(contract).fit(X, target).state()
    assert "monotone" not in spec
