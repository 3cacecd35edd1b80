from __future__ import annotations

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.features.pipeline import FeaturePipeline, FeatureSettings, FittedFeatures

CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {
            "lon": {"kind": "number", "role": "longitude"},
            "lat": {"kind": "number", "role": "latitude"},
            "rooms": {"kind": "number"},
        },
        "target": {"name": "y"},
    }
)


@pytest.mark.parametrize("clusters", [0, 3])
def test_features_without_comparables_are_the_same_when_read_back(clusters: int) -> None:
    random = np.random.default_rng(0)
    X = random.uniform(1, 9, (80, 3))
    pipeline = FeaturePipeline(CONTRACT, FeatureSettings(clusters=clusters, comparables=False))
    fitted, Z = pipeline.fit_transform(X, X[:, 2])
    again = FittedFeatures.from_state(CONTRACT, *fitted.state())
    assert again.names == fitted.names
    assert ("cluster" in again.names) == bool(clusters)
    assert np.array_equal(again.transform(X), Z)
    places = again.points(X)
    assert places is not None
    assert np.array_equal(places, fitted.points(X))
    assert again.nearest(X[:1], 3) == []
