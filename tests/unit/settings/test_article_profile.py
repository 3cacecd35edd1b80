"""`profile=article` is the article's method, number by number."""

from __future__ import annotations

import pytest

from tasador.core.errors import ConfigError
from tasador.lifecycle.first_champion import train
from tasador.selection.families.catalog import expand_grid, family
from tasador.settings.compose import compose

ALPHAS = {"alpha": [0.01, 0.1, 0.5, 1, 5, 10, 50, 100, 500]}
#: The grids as the article prints them, with the number of candidates that each comes to.
GRIDS = {
    "random_forest": (
        180,
        {
            "n_estimators": [50, 100, 200, 300],
            "max_depth": [10, 15, 20, 25, None],
            "min_samples_split": [2, 5, 10],
            "min_samples_leaf": [1, 2, 4],
        },
    ),
    "gradient_boosting": (
        300,
        {
            "n_estimators": [50, 100, 150, 200],
            "learning_rate": [0.01, 0.05, 0.1, 0.15, 0.2],
            "max_depth": [3, 4, 5, 6, 7],
            "subsample": [0.8, 0.9, 1.0],
        },
    ),
    "ridge": (9, ALPHAS),
    "lasso": (9, ALPHAS),
    "decision_tree": (
        96,
        {
            "max_depth": [5, 10, 15, 20, 25, None],
            "min_samples_split": [2, 5, 10, 20],
            "min_samples_leaf": [1, 2, 4, 8],
        },
    ),
}


def test_the_grids_are_the_articles_and_every_candidate_is_measured_on_five_folds() -> None:
    found = compose(["profile=article"]).selection
    assert found.families == {name: grid for name, (_, grid) in GRIDS.items()}
    for name, (count, _) in GRIDS.items():
        assert len(list(expand_grid(name, found.families[name]))) == count, name
    assert (found.folds, found.scoring, found.racing) == (5, "mae", False)
    assert found.max_rows is None


class Ranges:
    """Notes what a search space asks for."""

    def __init__(self) -> None:
        self.asked: dict[str, object] = {}

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.asked[name] = (low, high)
        return low

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        self.asked[name] = choices
        return choices[0]


def test_the_sweep_tunes_random_forests_on_wmape_within_the_articles_ranges() -> None:
    found = compose(["profile=article"]).sweep
    assert found.trials >= 50
    assert (found.family, found.metric, found.pruner) == ("random_forest", "wmape", "hyperband")
    assert (found.folds, found.slowdown, found.wide) == (5, 1.0, False)
    ranges = Ranges()
    family("random_forest").space(ranges)
    assert ranges.asked == {
        "n_estimators": (50, 500),
        "max_depth": (5, 30),
        "min_samples_split": (2, 20),
        "min_samples_leaf": (1, 10),
        "max_features": ["sqrt", "log2"],
    }


def test_the_features_are_kmeans_of_places_by_silhouette_and_no_comparables() -> None:
    found = compose(["profile=article"])
    assert (found.features.comparables, found.features.clusters) == (False, None)
    assert (found.features.clusters_by, found.features.most_clusters) == ("silhouette", 20)
    assert found.contract.target.transform == "none"
    assert (found.segregate.method, found.segregate.test_share) == ("random", 0.2)
    assert (found.segregate.seed, found.register.average) == (42, 1)


def test_the_profile_fits_another_table_too() -> None:
    assert compose(["profile=article", "dataset=diamonds"]).sweep.family == "random_forest"


def test_a_family_to_tune_that_is_not_compared_is_refused_before_any_work(tmp_path) -> None:
    settings = compose(["sweep.family=random_wood", f"storage.workspace={tmp_path}/w"])
    with pytest.raises(ConfigError, match=r"'random_wood' is not compared.*lightgbm"):
        train(settings)
    assert not (tmp_path / "w").exists()
