"""What a cluster finds is what one machine finds, to the last bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.core.ray_engine import RayEngine
from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.folds import Fold, make_folds, random_assignment
from tasador.selection.search.grid_search import SearchResult, grid_search
from tasador.selection.search.optuna_sweep import SweepResult, sweep
from tasador.settings.run import SelectionSettings, SweepSettings

pytestmark = pytest.mark.slow

CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {"a": {"kind": "number"}, "b": {"kind": "number"}, "c": {"kind": "number"}},
        "target": {"name": "y"},
    }
)
TRANSFORM = TargetTransform("log")
GRIDS = {
    "gradient_boosting": {"n_estimators": [40, 120], "max_depth": [2, 4], "learning_rate": [0.1]},
    "random_forest": {"n_estimators": [10, 30], "max_depth": [4, None]},
    "lightgbm": {"n_estimators": [30, 90], "num_leaves": [7, 15]},
    "hist_gradient_boosting": {"max_iter": [20, 40]},
    "ridge": {"alpha": [0.1, 1.0, 10.0]},
    "lasso": {"alpha": [0.001, 0.01]},
}
ENDLESS = {"gradient_boosting": {"learning_rate": [1e300], "n_estimators": [3]}}


@pytest.fixture(scope="module")
def part() -> Part:
    random = np.random.default_rng(0)
    X = random.uniform(1, 9, (1500, 3))
    y = np.exp(1 + 0.3 * X[:, 0] + np.sin(X[:, 1]) + 0.1 * random.normal(size=1500))
    return Part(X, y, np.arange(1500, dtype=np.uint64))


@pytest.fixture(scope="module")
def folds(part: Part) -> list[Fold]:
    pipeline = FeaturePipeline(CONTRACT, FeatureSettings(comparables=False))
    return list(make_folds(part, random_assignment(len(part), 4, 1), pipeline, TRANSFORM))


def untimed(result: SearchResult | SweepResult) -> object:
    """Return a result without the seconds that it took."""
    if isinstance(result, SearchResult):
        some = tuple(dataclasses.replace(c, seconds=0.0) for c in result.candidates)
        return dataclasses.replace(result, candidates=some)
    some = tuple(dataclasses.replace(c, seconds=0.0) for c in result.trials)
    best = dataclasses.replace(result.best, seconds=0.0)
    return dataclasses.replace(result, trials=some, best=best)


@pytest.mark.parametrize("racing", [False, True])
def test_a_search_on_a_cluster_whose_workers_are_killed_finds_the_same(
    racing: bool, part: Part, folds: list[Fold], ray_cluster, tmp_path: Path
) -> None:
    settings = SelectionSettings(GRIDS, folds=4, racing=racing)
    local = grid_search(settings, folds, part, TRANSFORM, 1)
    journal = tmp_path / "journal.jsonl"
    with ray_cluster.killing("ray::_run", times=2) as killed:
        away = grid_search(settings, folds, part, TRANSFORM, 1, journal, engine=RayEngine(9))
    assert len(killed) == 2
    assert untimed(away) == untimed(local)
    # and what is in its journal is all that there is to know
    again = grid_search(settings, folds, part, TRANSFORM, 1, journal)
    assert again == away
    lines = journal.read_text().split("\n\n")
    journal.write_text("\n\n".join(lines[: len(lines) // 2]))
    resumed = grid_search(settings, folds, part, TRANSFORM, 1, journal, engine=RayEngine(9))
    assert untimed(resumed) == untimed(local)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
def test_a_failing_candidate_is_recorded_alike(part: Part, folds: list[Fold], ray_cluster) -> None:
    settings = SelectionSettings({**ENDLESS, "ridge": {"alpha": [1.0]}}, folds=4)
    local = grid_search(settings, folds, part, TRANSFORM, 1)
    away = grid_search(settings, folds, part, TRANSFORM, 1, engine=RayEngine(0))
    assert local.candidates[-1].error is not None
    assert untimed(away) == untimed(local)


@pytest.mark.parametrize("name", ["lightgbm", "random_forest"])
def test_a_sweep_on_a_cluster_whose_workers_are_killed_tries_the_same(
    name: str, part: Part, folds: list[Fold], ray_cluster, tmp_path: Path
) -> None:
    settings = SweepSettings(trials=6, folds=3)
    start = {"n_estimators": 60}
    local = sweep(name, start, settings, folds, part, TRANSFORM, 1, journal=tmp_path / "local")
    with (
        ray_cluster.killing("ray::_Actor.call", times=1, after_s=0.05) as first,
        ray_cluster.killing("ray::_run", times=1, after_s=0.05) as second,
    ):
        away = sweep(
            name, start, settings, folds, part, TRANSFORM, 1,
            journal=tmp_path / "away", engine=RayEngine(9),
        )  # fmt: skip
    assert len(first) + len(second) >= 1
    assert any(trial.dropped for trial in local.trials)
    assert untimed(away) == untimed(local)
    written = [(tmp_path / name).read_text().splitlines() for name in ("local", "away")]
    kinds = [[json.loads(line)["op_code"] for line in lines] for lines in written]
    assert kinds[0] == kinds[1]
