"""The grids that are shipped: how many candidates each family has, and which."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
import yaml

from tasador.selection.families.catalog import expand_grid, family

# those of the system that tasador is compared with
REFERENCE: dict[str, dict[str, list[Any]]] = {
    "random_forest": {
        "n_estimators": [50, 100, 200, 300],
        "max_depth": [10, 15, 20, 25, None],
        "min_samples_split": [2, 5, 10],
        "min_samples_leaf": [1, 2, 4],
    },
    "gradient_boosting": {
        "n_estimators": [50, 100, 150, 200],
        "learning_rate": [0.01, 0.05, 0.1, 0.15, 0.2],
        "max_depth": [3, 4, 5, 6, 7],
        "subsample": [0.8, 0.9, 1.0],
    },
    "decision_tree": {
        "max_depth": [5, 10, 15, 20, 25, None],
        "min_samples_split": [2, 5, 10, 20],
        "min_samples_leaf": [1, 2, 4, 8],
    },
    "ridge": {"alpha": [0.01, 0.1, 0.5, 1, 5, 10, 50, 100, 500]},
    "lasso": {"alpha": [0.01, 0.1, 0.5, 1, 5, 10, 50, 100, 500]},
}
OTHERS = ("lightgbm", "hist_gradient_boosting", "extra_trees")


def grids(profile: str) -> dict[str, dict[str, list[Any]]]:
    page = files("tasador").joinpath("conf", "selection", f"{profile}.yaml")
    families: dict[str, dict[str, list[Any]]] = yaml.safe_load(page.read_text("utf-8"))["families"]
    return families


@pytest.mark.parametrize("name", REFERENCE)
def test_the_articles_profile_searches_the_references_own_grid(name: str) -> None:
    assert grids("article")[name] == REFERENCE[name]


def test_the_articles_profile_has_as_many_candidates_as_the_reference() -> None:
    grid = grids("article")
    counts = {name: len(list(expand_grid(name, grid[name]))) for name in REFERENCE}
    assert counts == {
        "random_forest": 180,
        "gradient_boosting": 300,
        "decision_tree": 96,
        "ridge": 9,
        "lasso": 9,
    }


@pytest.mark.parametrize("name", [*REFERENCE, "lightgbm"])
def test_the_quick_profile_has_a_few_candidates_of_each_family(name: str) -> None:
    assert 1 <= len(list(expand_grid(name, grids("quick")[name]))) <= 4


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_both_profiles_compare_the_same_families(profile: str) -> None:
    assert grids(profile).keys() == {*REFERENCE, *OTHERS}


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_no_two_candidates_of_the_other_families_are_one_model(
    profile: str,
) -> None:
    for name in OTHERS:
        candidates = list(expand_grid(name, grids(profile)[name]))
        chosen = family(name)
        forms = [sorted(chosen.canonical(params).items(), key=str) for params in candidates]
        assert all(form not in forms[:i] for i, form in enumerate(forms))
