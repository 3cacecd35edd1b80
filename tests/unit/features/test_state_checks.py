"""A state of the features that is none of the contract's is refused, with what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.features.fitted import FittedFeatures
from tasador.features.imputation import STRATEGIES
from tasador.features.pipeline import FeaturePipeline
from tasador.settings.run import FeatureSettings

CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {
            "lon": {"kind": "number", "role": "longitude"},
            "lat": {"kind": "number", "role": "latitude"},
            "rooms": {"kind": "number", "nullable": True},
            "kind": {"kind": "category", "categories": ["a", "b", "c"]},
        },
        "target": {"name": "y"},
    }
)
RANDOM = np.random.default_rng(6)
X = np.column_stack([RANDOM.uniform(1, 9, (90, 3)), RANDOM.integers(0, 3, 90)])
X[::9, 2] = np.nan


def state(strategy: str = "median", clusters: int = 2) -> tuple[dict[str, Any], dict[str, Any]]:
    pipeline = FeaturePipeline(
        CONTRACT, FeatureSettings(clusters=clusters), imputation={"rooms": strategy}
    )
    return pipeline.fit(X, X[:, 0] + X[:, 3]).state()


@pytest.mark.parametrize("strategy", [*STRATEGIES, "native"])
def test_every_imputer_comes_back_with_the_same_features(strategy: str) -> None:
    spec, arrays = state(strategy)
    again = FittedFeatures.from_state(CONTRACT, spec, arrays)
    assert again.names == tuple(spec["names"])
    assert again.imputer.state()[0] == spec["imputer"]


@pytest.mark.parametrize("floor", [np.nan, np.inf, "1", True, None, 0.0, -1.0, 1e300])
def test_a_number_that_is_none_is_refused_with_its_range(floor: Any) -> None:
    spec, arrays = state()
    spec["comparables"]["similar_floor"] = floor
    with pytest.raises(
        ValueError, match=r"similar_floor is .*, expected a number from 4.9.* to 1e.150"
    ):
        FittedFeatures.from_state(CONTRACT, spec, arrays)


@pytest.mark.parametrize("name", ["indicated", "native"])
@pytest.mark.parametrize("columns", [[4], [-1], [2, 2], [True], [1.0], ["rooms"], 2])
def test_positions_outside_of_the_columns_are_refused(name: str, columns: Any) -> None:
    spec, arrays = state()
    spec["imputer"][name] = columns
    with pytest.raises(ValueError, match=f"{name} (has positions outside|is no list)"):
        FittedFeatures.from_state(CONTRACT, spec, arrays)


@pytest.mark.parametrize("clusters", [0, -2, True, 2.0, "2", 4097])
def test_a_number_of_clusters_that_is_none_is_refused(clusters: Any) -> None:
    spec, arrays = state()
    with pytest.raises(ValueError, match=f"{clusters!r} clusters"):
        FittedFeatures.from_state(CONTRACT, spec | {"clusters": clusters}, arrays)


def test_as_many_clusters_as_are_allowed_are_read() -> None:
    spec, arrays = state()
    places = np.column_stack([np.linspace(0, 9, 4096), np.ones(4096)])
    names = spec["names"][: spec["names"].index("cluster_distance_1")]
    names += [f"cluster_distance_{i}" for i in range(1, 4096)]
    names += [name for name in spec["names"] if name.startswith("comparables")]
    spec |= {"clusters": 4096, "names": names}
    again = FittedFeatures.from_state(CONTRACT, spec, arrays | {"clusters.centroids": places})
    assert again.names == tuple(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"one_hot": ["rooms"]}, "one_hot names columns of the wrong kind"),
        ({"one_hot": ["kind", "kind"]}, "one_hot names a column twice"),
        ({"target_means": "kind"}, "target_means is no list"),
        ({"comparables": None}, "clusters without the plan"),
        ({"format": 2}, "feature format 2"),
        ({"names": []}, "features, expected 0"),
    ],
)
def test_parts_that_are_none_of_the_contracts_are_refused(
    change: dict[str, Any], message: str
) -> None:
    spec, arrays = state()
    if "comparables" in change:
        arrays = {k: v for k, v in arrays.items() if not k.startswith("comparables")}
    with pytest.raises(ValueError, match=message):
        FittedFeatures.from_state(CONTRACT, spec | change, arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"near": []}, "plan names columns that are no numbers"),
        ({"near": ["lon", "kind"]}, "near names columns of the wrong kind"),
        ({"similar_by": "kind"}, "plan names columns that are no numbers"),
        ({"slope": None}, "slope is None"),
        ({"softening": 0.0}, "softening is 0.0"),
        ({"excludes_own": "yes"}, "excludes_own is neither true nor false"),
        ({"reach": -1.0}, "reach is -1.0"),
        ({"reach": "far"}, "reach is 'far'"),
        ({"age_scale": 1.0}, "comparables with dates, of a table without"),
    ],
)
def test_comparables_that_are_none_of_the_contracts_are_refused(
    change: dict[str, Any], message: str
) -> None:
    spec, arrays = state()
    spec["comparables"] |= change
    with pytest.raises(ValueError, match=message):
        FittedFeatures.from_state(CONTRACT, spec, arrays)


@pytest.mark.parametrize("strategy", ["boosting", "iterative_rf"])
def test_trees_over_other_inputs_than_there_are_are_refused(strategy: str) -> None:
    spec, arrays = state(strategy)
    inputs, depth = arrays["imputer.2.model.shape"]
    for wrong in (inputs - 1, inputs + 1):
        arrays["imputer.2.model.shape"] = np.array([wrong, depth], np.int32)
        with pytest.raises(ValueError, match=f"takes other inputs than the {inputs} there are"):
            FittedFeatures.from_state(CONTRACT, spec, arrays)
