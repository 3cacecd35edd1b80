"""Weights of rows: what they are to each family, to folds and to the search."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasador.core.errors import TrainingError
from tasador.data.table import Part
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families import catalog
from tasador.selection.families.base import Family
from tasador.selection.families.catalog import FAMILIES, family
from tasador.selection.families.inputs import fit_model, grow_model
from tasador.selection.folds import FoldRows
from tasador.selection.search.grid_search import grid_search, kept_candidates
from tasador.selection.search.trial import RUNGS, Task
from tasador.settings.run import SelectionSettings
from tasador.trees.ensemble import LinearModel

Floats = NDArray[np.float64]
#: Without samples of rows, which depend on how many there are.
SMALL: dict[str, dict[str, Any]] = {
    "lightgbm": {"n_estimators": 20},
    "hist_gradient_boosting": {"max_iter": 20},
    "gradient_boosting": {"n_estimators": 20},
    "random_forest": {"n_estimators": 8},
    "extra_trees": {"n_estimators": 8},
    "decision_tree": {},
    "ridge": {"alpha": 2.0},
    "lasso": {"alpha": 0.01},
    "xgboost": {"n_estimators": 20},
    "catboost": {"iterations": 20, "depth": 4},
}
PART_WEIGHTS = st.lists(st.floats(0.01, 100.0), min_size=2, max_size=30)


def rows(n: int, seed: int = 3) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    # few values: what counts as a column's tails to linear models depends on how often a row is met
    Z = random.integers(0, 15, (n, 4)).astype(np.float64)
    return Z, Z[:, 0] + 3.0 * np.sin(Z[:, 1]) + random.normal(0, 0.3, n)


@pytest.mark.parametrize("name", SMALL)
def test_every_family_learns_more_from_heavier_rows(name: str) -> None:
    Z, target = rows(400)
    Z //= 8.0  # cells of many rows, light and heavy ones
    shifted = target + np.where(np.arange(400) % 4 < 2, 8.0, 0.0)  # not told by the features
    weight = np.where(np.arange(400) % 4 < 2, 20.0, 1.0)
    chosen = family(name)
    assert chosen.takes_weights
    even, heavy = (
        chosen.predict(fit_model(chosen, SMALL[name], Z, (), shifted, 5, 1, w), Z).mean()
        for w in (None, weight)
    )
    assert heavy > even + 0.5


@pytest.mark.parametrize("name", [n for n in SMALL if FAMILIES[n].grows])
def test_a_weighted_model_that_grows_is_the_one_that_is_fitted_at_once(name: str) -> None:
    Z, target = rows(300)
    weight = np.random.default_rng(1).uniform(0.2, 5.0, 300)
    chosen = family(name)
    prefix = str(chosen.prefix)
    grown = [
        chosen.predict(model, Z)
        for model in grow_model(chosen, SMALL[name], Z, (), target, 5, [4, 8], weight)
    ]
    for steps, found in zip((4, 8), grown, strict=True):
        params = {**SMALL[name], prefix: steps}
        whole = fit_model(chosen, params, Z, (), target, 5, 1, weight)
        np.testing.assert_allclose(found, chosen.predict(whole, Z), rtol=1e-9)


@pytest.mark.parametrize("name", ["decision_tree", "ridge", "lasso"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_weight_of_k_is_the_row_repeated_k_times(name: str, seed: int) -> None:
    Z, target = rows(60, seed)
    # one row a place: of equal rows a tree may split either way
    Z[:, 3] = np.random.default_rng(seed).permutation(60) % 20
    times = np.random.default_rng(seed).integers(1, 5, 60)
    chosen = family(name)
    weighted = fit_model(chosen, SMALL[name], Z, (), target, 5, 1, times.astype(np.float64))
    again = fit_model(
        chosen, SMALL[name], np.repeat(Z, times, axis=0), (), np.repeat(target, times), 5, 1
    )
    np.testing.assert_allclose(
        chosen.predict(weighted, Z), chosen.predict(again, Z), rtol=1e-3, atol=1e-3
    )


@given(weight=PART_WEIGHTS, factor=st.floats(1e-6, 1e6))
def test_the_scale_of_weights_does_not_matter(weight: list[float], factor: float) -> None:
    one, other = (part(np.array(weight) * f).fit_weight() for f in (1.0, factor))
    if one is None or other is None:
        assert len({w * factor for w in weight}) == 1 or one is other
        return
    np.testing.assert_allclose(one, other, rtol=1e-9)
    assert one.mean() == pytest.approx(1.0)


def part(weight: Floats | None = None, age: Floats | None = None, n: int = 0) -> Part:
    n = n or len(weight if weight is not None else age)  # type: ignore[arg-type]
    Z, target = rows(n)
    return Part(Z, target, np.arange(n, dtype=np.uint64), weight=weight, age=age)


def test_equal_weights_are_none() -> None:
    assert part(n=9).fit_weight() is None
    assert part(np.full(9, 0.3)).fit_weight() is None
    assert part(np.array([0.3, 0.3, 2.0])).fit_weight(np.array([0, 1])) is None


def test_a_half_life_counts_from_the_newest_of_the_fitting_rows() -> None:
    age = np.array([0.0, 1.0, 2.0, 5.0])
    found = part(age=age).fit_weight(np.array([1, 2, 3]))
    assert found is not None
    np.testing.assert_allclose(found / found[0], [1.0, 0.5, 0.0625])
    both = part(np.array([1.0, 1.0, 4.0, 1.0]), age).fit_weight()
    assert both is not None
    np.testing.assert_allclose(both / both[0], [1.0, 0.5, 1.0, 0.5**5])


def test_no_age_is_so_great_that_a_row_has_no_weight() -> None:
    found = part(age=np.array([0.0, 1e5])).fit_weight()
    assert found is not None
    assert (found.astype(np.float32) > 0.0).all()


def test_rows_keep_their_weights_when_parts_are_taken_and_joined() -> None:
    whole = part(np.arange(1.0, 9.0), np.arange(8.0))
    joined = whole.take(np.array([5, 1])).joined(whole.take(np.array([0])))
    assert joined.weight is not None
    assert joined.age is not None
    assert joined.weight.tolist() == [6.0, 2.0, 1.0]
    assert joined.age.tolist() == [5.0, 1.0, 0.0]


def folds_of(weight: Floats | None) -> tuple[Part, list[FoldRows]]:
    Z, target = rows(240)
    every = Part(Z, target, np.arange(240, dtype=np.uint64), weight=weight)
    place = np.arange(240)
    made = []
    for k in range(3):
        fit, held = place[place % 3 != k], place[place % 3 == k]
        made.append(FoldRows(fit, held, Z[fit], Z[held], weight=every.fit_weight(fit)))
    return every, made


GRID = {"decision_tree": {"max_depth": [2, 3]}, "lightgbm": {"n_estimators": [10, 20]}}


@pytest.mark.parametrize("racing", [False, True])
def test_a_search_fits_on_weights_and_measures_without_them(racing: bool) -> None:
    weight = np.random.default_rng(2).uniform(0.1, 10.0, 240)
    every, folds = folds_of(weight)
    asked = SelectionSettings(GRID, folds=3, racing=racing)
    found = grid_search(asked, folds, every, TargetTransform("none"), 3)
    for candidate in found.complete:
        chosen, errors = family(candidate.family), []
        for fold in folds:
            model = fit_model(
                chosen, candidate.params, fold.Z_fit, (), every.y[fold.fit_rows],
                Seed.of(candidate.family), 1, fold.weight,
            )  # fmt: skip
            held = every.y[fold.held_rows] - chosen.predict(model, fold.Z_held)
            errors.append(np.abs(held).mean())
        assert candidate.mean("mae") == pytest.approx(np.mean(errors))


class Seed:
    """The seed of a family's models in a search of seed 3."""

    @staticmethod
    def of(name: str) -> int:
        from tasador.core import seeds

        return seeds.derive_seed(3, name)


def test_a_trial_of_the_sweep_is_fitted_on_weights() -> None:
    every, folds = folds_of(np.random.default_rng(2).uniform(0.1, 10.0, 240))
    task = Task("lightgbm", tuple(folds), every.y, TargetTransform("none"), "mae", 3)
    grown = list(task.grow({"n_estimators": 27}, folds[0]))
    assert len(grown) == len(RUNGS)
    chosen = family("lightgbm")
    whole = fit_model(
        chosen, {"n_estimators": 27}, folds[0].Z_fit, (), every.y[folds[0].fit_rows],
        Seed.of("lightgbm"), 1, folds[0].weight,
    )  # fmt: skip
    assert np.array_equal(chosen.predict(grown[-1], every.X), chosen.predict(whole, every.X))


def test_a_family_that_takes_no_weights_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Median(Family):
        name, title, defaults, linear = "median", "Median", {}, True
        ranges: ClassVar = {}

        def fit(self, params, Z, target, seed, threads=0):
            return np.median(target)

        def predict(self, model, Z, threads=1):
            return np.full(len(Z), model)

        def export(self, model):
            return LinearModel(float(model), np.zeros(4))

        def space(self, trial):
            return {}

    monkeypatch.setattr(catalog, "FAMILIES", {**FAMILIES, "median": Median()})
    asked = SelectionSettings({"median": {}, "ridge": {}}, folds=3)
    even, weighted = (folds_of(w) for w in (None, np.arange(1.0, 241.0)))
    assert len(kept_candidates(asked, even[1])[0]) == 2
    kept, left_out = kept_candidates(asked, weighted[1])
    assert [name for name, _ in kept] == ["ridge"]
    ((why, names),) = left_out.items()
    assert "weights" in why
    assert names == ["median"]
    alone = SelectionSettings({"median": {}}, folds=3)
    with pytest.raises(TrainingError, match=r"median: no family to compare takes weights"):
        grid_search(alone, weighted[1], weighted[0], TargetTransform("none"), 3)
