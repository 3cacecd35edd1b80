from __future__ import annotations

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.cluster_selection import ClusterChoice, choose_clusters
from tasador.selection.folds import make_folds, random_assignment

CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {
            "longitude": {"kind": "number", "role": "longitude"},
            "latitude": {"kind": "number", "role": "latitude"},
            "size": {"kind": "number"},
        },
        "target": {"name": "y"},
    }
)
TRANSFORM = TargetTransform("none")


def towns(levels: list[float], seed: int) -> Part:
    """Return 90 rows in each of some far towns, every town with its own level."""
    random = np.random.default_rng(seed)
    centres = random.permutation(len(levels))
    town = np.repeat(np.arange(len(levels)), 90)
    angle = 2 * np.pi * centres[town] / len(levels)
    places = np.column_stack([3 * np.cos(angle), 3 * np.sin(angle)])
    places += random.normal(0, 0.05, places.shape)
    size = random.uniform(1, 2, len(town))
    y = np.array(levels)[town] * size + random.normal(0, 0.1, len(town))
    return Part(np.column_stack([places, size]), y, np.arange(len(town), dtype=np.uint64))


def chosen(part: Part, most: int = 8) -> ClusterChoice | None:
    pipeline = FeaturePipeline(CONTRACT, FeatureSettings(clusters=0, comparables=False))
    folds = list(make_folds(part, random_assignment(len(part), 4, 1), pipeline, TRANSFORM))
    points = pipeline.fit(part.X, part.y).points(part.X)
    assert points is not None
    return choose_clusters(
        folds, points, part, TRANSFORM, most=most, metric="mae", held_share=0.25, seed=1
    )


def test_geometry_finds_the_towns_and_the_models_error_decides() -> None:
    choice = chosen(towns([5.0, 40.0, 11.0, 90.0, 2.0, 60.0], 1))
    assert choice is not None
    assert [found.clusters for found in choice.tried] == [0, *range(2, 9)]
    assert choice.by("silhouette") == 6
    assert choice.by("davies_bouldin") == 6
    inertia = [found.inertia for found in choice.tried[1:]]
    assert inertia == sorted(inertia, reverse=True)
    by_number = {found.clusters: found for found in choice.tried}
    best = by_number[choice.chosen]
    assert best.mean == min(found.mean for found in choice.tried)
    assert choice.chosen > 0
    for k, found in by_number.items():
        assert (found.mean - best.mean <= found.standard_error) == (k in choice.alike)


def test_where_place_says_nothing_no_clusters_are_taken() -> None:
    part = towns([7.0] * 6, 2)
    part.y[:] = 3.0
    choice = chosen(part)
    assert choice is not None
    assert choice.chosen == 0
    assert np.isnan(choice.tried[0].silhouette)


def test_the_choice_is_the_same_on_every_run() -> None:
    part = towns([5.0, 40.0, 11.0, 90.0], 3)
    first, second = chosen(part, most=4), chosen(part, most=4)
    assert first is not None
    assert second is not None
    assert [e.errors for e in first.tried] == [e.errors for e in second.tried]
    assert first.chosen == second.chosen


@pytest.mark.parametrize("places", [1, 2])
def test_too_few_places_leave_nothing_to_choose(places: int) -> None:
    part = towns([5.0] * 2, 1)
    part.X[:, :2] = np.arange(len(part))[:, None] % places
    assert chosen(part) is None
