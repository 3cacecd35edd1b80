"""Same candidates, same folds, same scores as scikit-learn's GridSearchCV."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.linear_model import Lasso, Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from tasador.contract.reader import from_dict
from tasador.core import seeds
from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families.linear import TrainingRange
from tasador.selection.folds import Fold, make_folds, random_assignment
from tasador.selection.search.grid_search import SearchResult, grid_search
from tasador.settings.run import SelectionSettings

Floats = NDArray[np.float64]
CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {
            "longitude": {"kind": "number", "role": "longitude"},
            "latitude": {"kind": "number", "role": "latitude"},
            "size": {"kind": "number", "nullable": True},
            "kind": {"kind": "category", "categories": ["a", "b"]},
        },
        "target": {"name": "y", "transform": "log"},
    }
)
FOLDS, SEED = 4, 11
TRANSFORM = TargetTransform("log")

GRIDS: dict[str, tuple[Any, dict[str, list[Any]]]] = {
    "random_forest": (
        RandomForestRegressor,
        {
            "n_estimators": [3, 7],
            "max_depth": [4, 25, 40],
            "min_samples_split": [2, 5],
            "min_samples_leaf": [1, 4],
        },
    ),
    "extra_trees": (
        ExtraTreesRegressor,
        {"n_estimators": [2, 5], "max_features": [0.5], "max_depth": [6]},
    ),
    "gradient_boosting": (
        GradientBoostingRegressor,
        {
            "n_estimators": [5, 10, 20],
            "learning_rate": [0.1, 0.2],
            "max_depth": [3],
            "subsample": [0.8, 1.0],
        },
    ),
    "hist_gradient_boosting": (
        HistGradientBoostingRegressor,
        {"max_iter": [5, 20], "max_leaf_nodes": [7, 15]},
    ),
    "decision_tree": (
        DecisionTreeRegressor,
        {
            "max_depth": [5, 20, None],
            "min_samples_split": [2, 10],
            "min_samples_leaf": [1, 8],
        },
    ),
    "ridge": (Ridge, {"alpha": [0.01, 0.1, 0.5, 1, 5, 10, 50, 100, 500]}),
    "lasso": (Lasso, {"alpha": [0.01, 0.02, 0.1, 0.5, 1, 5, 10, 50, 100, 500]}),
}


@pytest.fixture(scope="module")
def part() -> Part:
    random = np.random.default_rng(8)
    n = 420
    X = np.column_stack(
        [
            random.uniform(-3, -2, n),
            random.uniform(40, 41, n),
            random.gamma(4, 25, n),
            random.integers(0, 2, n),
        ]
    ).astype(np.float64)
    y = 900 * X[:, 2] * (1 + X[:, 3] / 4) * np.exp(np.sin(4 * X[:, 0]) + random.normal(0, 0.1, n))
    X[random.random(n) < 0.1, 2] = np.nan
    return Part(X, y, np.arange(n, dtype=np.uint64))


def pipeline(*, comparables: bool) -> FeaturePipeline:
    settings = FeatureSettings(clusters=0, comparables=comparables, cross_fit_folds=5)
    return FeaturePipeline(CONTRACT, settings)


class Features(TransformerMixin, BaseEstimator):
    """Our features as a scikit-learn transformer, so that GridSearchCV fits them inside folds."""

    def __init__(self, comparables: bool = False) -> None:
        self.comparables = comparables

    def fit(self, X: Floats, y: Floats) -> Features:
        self.fitted_ = pipeline(comparables=self.comparables).fit(X, y)
        return self

    def fit_transform(self, X: Floats, y: Floats) -> Floats:  # type: ignore[override]
        self.fitted_, Z = pipeline(comparables=self.comparables).fit_transform(X, y)
        return Z

    def transform(self, X: Floats) -> Floats:
        return self.fitted_.transform(X)


class Clipped(TrainingRange, TransformerMixin, BaseEstimator):
    """Our clipping of features as a scikit-learn transformer."""


def sklearns(name: str, part: Part, *, comparables: bool) -> GridSearchCV:
    estimator, grid = GRIDS[name]
    settings: dict[str, Any] = {}
    if name not in ("ridge", "lasso"):
        settings["random_state"] = seeds.derive_seed(SEED, name)
    if name == "hist_gradient_boosting":
        settings["early_stopping"] = False
    steps = [Clipped(), StandardScaler()] if name in ("ridge", "lasso") else []
    model = make_pipeline(Features(comparables), *steps, estimator(**settings))
    whole = TransformedTargetRegressor(
        model, func=TRANSFORM.forward, inverse_func=TRANSFORM.inverse, check_inverse=False
    )
    prefix = f"regressor__{estimator.__name__.lower()}__"
    search = GridSearchCV(
        whole,
        {prefix + key: values for key, values in grid.items()},
        scoring="neg_mean_absolute_error",
        cv=PredefinedSplit(random_assignment(len(part), FOLDS, SEED).fold),
        return_train_score=True,
        refit=False,
    )
    return search.fit(part.X, part.y)


def ours(name: str, folds: list[Fold], part: Part) -> SearchResult:
    settings = SelectionSettings({name: GRIDS[name][1]}, folds=FOLDS)
    return grid_search(settings, folds, part, TRANSFORM, SEED)


def folds_of(part: Part, *, comparables: bool) -> list[Fold]:
    assignment = random_assignment(len(part), FOLDS, SEED)
    return list(make_folds(part, assignment, pipeline(comparables=comparables), TRANSFORM))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.no_cover
def test_the_scores_and_the_winner_are_those_of_grid_search_cv(name: str, part: Part) -> None:
    theirs = sklearns(name, part, comparables=False).cv_results_
    result = ours(name, folds_of(part, comparables=False), part)
    by_params = {str(sorted(c.params.items())): c for c in result.candidates}
    assert len(by_params) == len(theirs["params"])
    for i, params in enumerate(theirs["params"]):
        own = {key.rpartition("__")[2]: value for key, value in params.items()}
        found = by_params[str(sorted(own.items()))]
        for fold in range(FOLDS):
            held, fitted = (-theirs[f"split{fold}_{part_}_score"][i] for part_ in ("test", "train"))
            assert found.held[fold]["mae"] == pytest.approx(held, rel=1e-9)
            assert found.fitted[fold]["mae"] == pytest.approx(fitted, rel=1e-9)
    best = int(np.argmax(theirs["mean_test_score"]))
    assert result.best.mean("mae") == pytest.approx(-theirs["mean_test_score"][best], rel=1e-12)


def test_with_comparables_cross_fitted_inside_the_folds_they_are_too(part: Part) -> None:
    theirs = sklearns("extra_trees", part, comparables=True).cv_results_
    result = ours("extra_trees", folds_of(part, comparables=True), part)
    expected = sorted(-theirs["mean_test_score"])
    assert [c.mean("mae") for c in result.candidates] == pytest.approx(expected, rel=1e-9)


def test_shared_work_costs_less_than_each_alone(part: Part) -> None:
    """One tree of the longest forest stands for all shorter ones: counted, not timed."""
    from tasador.selection.families import catalog
    from tasador.selection.families.trees import RandomForest
    from tasador.selection.search import shared_work

    fits: list[int] = []

    class Counting(RandomForest):
        def fit(self, params: Any, *arguments: Any) -> Any:
            fits.append(params["n_estimators"])
            return super().fit(params, *arguments)

    grid = GRIDS["random_forest"][1]
    candidates = [
        shared_work.Candidate(i, "random_forest", params)
        for i, params in enumerate(catalog.expand_grid("random_forest", grid))
    ]
    groups = shared_work.group_candidates(candidates)
    fold = folds_of(part, comparables=False)[0]
    target = TRANSFORM.forward(part.y)[fold.fit_rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_work, "family", lambda _: Counting())
        found = [
            estimates
            for group in groups
            for estimates in shared_work.estimate_group(group, fold.Z_fit, target, [fold.Z_held], 1)
        ]
    assert len(found) == len(candidates) == 24
    # leaf 4 makes split 2 and 5 the same, and 3 trees are the beginning of 7
    assert sum(fits) < sum(c.params["n_estimators"] for c in candidates) / 2
