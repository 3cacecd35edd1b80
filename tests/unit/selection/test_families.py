from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from tasador.core.errors import ConfigError, MissingExtraError, TrainingError
from tasador.core.hashing import fingerprint
from tasador.data.table import Part
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families import catalog
from tasador.selection.families.base import Family
from tasador.selection.families.catalog import FAMILIES, expand_grid, family
from tasador.selection.families.inputs import fit_model, keeps_monotone
from tasador.selection.folds import FoldRows
from tasador.selection.search.grid_search import grid_search
from tasador.selection.search.trial import SpaceRecorder
from tasador.settings.run import SelectionSettings
from tasador.trees.ensemble import LinearModel, TreeEnsemble
from tasador.trees.importers import from_catboost
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor

Floats = NDArray[np.float64]
SMALL: dict[str, dict[str, Any]] = {
    "lightgbm": {
        "n_estimators": 24,
        "bagging_fraction": 0.7,
        "feature_fraction": 0.5,
        "feature_fraction_bynode": 0.7,
    },
    "hist_gradient_boosting": {"max_iter": 24, "max_features": 0.5},
    "gradient_boosting": {"n_estimators": 24, "subsample": 0.7, "max_features": 0.5},
    "random_forest": {"n_estimators": 12, "max_features": 0.5},
    "extra_trees": {"n_estimators": 12, "max_features": 0.5},
    "decision_tree": {"min_samples_leaf": 3},
    "ridge": {"alpha": 2.0},
    "lasso": {"alpha": 0.01},
    "xgboost": {"n_estimators": 24, "subsample": 0.7, "colsample_bytree": 0.5},
    "catboost": {"iterations": 24, "depth": 4},
}
GROWING = [name for name in SMALL if FAMILIES[name].prefix is not None]


@pytest.fixture(scope="module")
def table() -> tuple[Floats, Floats]:
    random = np.random.default_rng(5)
    Z = random.normal(size=(500, 5))
    Z[:, 3] = random.integers(0, 4, 500)
    target = Z[:, 0] + np.sin(3 * Z[:, 1]) + 0.3 * Z[:, 3] + random.normal(0, 0.2, 500)
    return Z, target


def with_steps(name: str, steps: int) -> dict[str, Any]:
    return {**SMALL[name], FAMILIES[name].prefix: steps}  # type: ignore[dict-item]


def test_every_family_is_tested_here() -> None:
    assert SMALL.keys() == FAMILIES.keys()


@pytest.mark.parametrize("name", SMALL)
def test_a_fit_is_the_same_on_one_thread_and_on_two(
    name: str, table: tuple[Floats, Floats]
) -> None:
    Z, target = table
    chosen = family(name)
    one, two = (chosen.predict(chosen.fit(SMALL[name], Z, target, 7, n), Z) for n in (1, 2))
    assert np.array_equal(one, two)
    assert one.dtype == np.float64


@pytest.mark.parametrize("name", GROWING)
def test_a_smaller_model_is_the_beginning_of_a_larger_one(
    name: str, table: tuple[Floats, Floats]
) -> None:
    Z, target = table
    chosen = family(name)
    whole = chosen.fit(with_steps(name, 12), Z, target, 7, 1)
    staged = chosen.staged(whole, Z, [3, 8, 12])
    for steps, found in zip([3, 8, 12], staged, strict=True):
        alone = chosen.predict(chosen.fit(with_steps(name, steps), Z, target, 7, 1), Z)
        if name in ("random_forest", "extra_trees", "gradient_boosting", "hist_gradient_boosting"):
            assert np.array_equal(found, alone)
        else:
            np.testing.assert_allclose(found, alone, rtol=0, atol=1e-12)


def test_what_lightgbm_keeps_of_its_rows_is_what_it_predicts(table: tuple[Floats, Floats]) -> None:
    Z, target = table
    Z = np.where(np.random.default_rng(1).random(Z.shape) < 0.1, np.nan, Z)
    chosen = family("lightgbm")
    for loss in ("l1", "l2", "huber"):
        params = {**SMALL["lightgbm"], "objective": loss, "n_estimators": 90}
        for model in chosen.grow(params, Z, target, 7, (1, 20, 90)):
            kept = chosen.fitted(model)
            assert kept is not None
            assert kept == pytest.approx(chosen.predict(model, Z), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", [n for n in GROWING if FAMILIES[n].grows])
def test_a_model_that_grows_is_at_each_rung_the_one_fitted_at_once(
    name: str, table: tuple[Floats, Floats]
) -> None:
    Z, target = table
    chosen = family(name)
    rungs = [2, 5, 12]
    seen = 0
    for steps, model in zip(
        rungs, chosen.grow(with_steps(name, 12), Z, target, 7, rungs), strict=True
    ):
        alone = chosen.predict(chosen.fit(with_steps(name, steps), Z, target, 7, 1), Z)
        np.testing.assert_allclose(chosen.predict(model, Z), alone, rtol=0, atol=1e-12)
        seen += 1
    assert seen == 3


@pytest.mark.parametrize("name", SMALL)
def test_the_export_answers_as_the_library_does(name: str, table: tuple[Floats, Floats]) -> None:
    Z, target = table
    chosen = family(name)
    model = chosen.fit(SMALL[name], Z, target, 7, 1)
    exported = chosen.export(model)
    rows = np.vstack([Z, np.random.default_rng(1).normal(0, 3, size=(2000, 5))])
    if isinstance(exported, TreeEnsemble):
        for column, values in exported.thresholds().items():
            finite = values[np.isfinite(values)]
            picked = np.resize(finite, 200)
            at = rows[:200].copy()
            at[:, column] = picked
            above = at.copy()
            above[:, column] = np.nextafter(picked.astype(np.float32), np.float32(np.inf))
            rows = np.vstack([rows, at, above])
    expected = chosen.predict(model, rows)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(exported.predict(rows), expected, rtol=0, atol=1e-12 * scale)
    onnx = OnnxRegressor(to_onnx(exported))
    np.testing.assert_allclose(onnx.predict(rows), expected, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("name", [n for n in SMALL if FAMILIES[n].takes_missing])
def test_missing_values_go_where_the_library_sends_them(
    name: str, table: tuple[Floats, Floats]
) -> None:
    Z, target = table
    holes = np.random.default_rng(2).random(Z.shape) < 0.2
    holes[:, 4] = False  # a column that lacked nothing in training
    chosen = family(name)
    model = chosen.fit(SMALL[name], np.where(holes, np.nan, Z), target, 7, 1)
    rows = np.where(np.random.default_rng(3).random(Z.shape) < 0.4, np.nan, Z)
    expected = chosen.predict(model, rows)
    exported = chosen.export(model)
    np.testing.assert_allclose(exported.predict(rows), expected, rtol=0, atol=1e-9)
    onnx = OnnxRegressor(to_onnx(exported))
    np.testing.assert_allclose(onnx.predict(rows), expected, rtol=0, atol=1e-9)


def test_limits_on_samples_that_mean_the_same_tree_are_one_candidate(
    table: tuple[Floats, Floats],
) -> None:
    Z, target = table
    for name in ("random_forest", "extra_trees", "decision_tree", "gradient_boosting"):
        chosen = family(name)
        small = {"n_estimators": 5} if chosen.prefix else {}
        first = {**small, "min_samples_leaf": 4, "min_samples_split": 2}
        second = {**small, "min_samples_leaf": 4, "min_samples_split": 5}
        third = {**small, "min_samples_leaf": 4, "min_samples_split": 200}
        assert chosen.canonical(first) == chosen.canonical(second) != chosen.canonical(third)
        estimates = [
            chosen.predict(chosen.fit(p, Z, target, 7, 1), Z) for p in (first, second, third)
        ]
        assert np.array_equal(estimates[0], estimates[1])
        assert not np.array_equal(estimates[0], estimates[2])


SPELLED_OUT: dict[str, dict[str, Any]] = {
    "lightgbm": {
        "learning_rate": 0.1,
        "num_leaves": 31,
        "max_depth": 0,
        "min_child_samples": 20,
        "feature_fraction": 1,
        "feature_fraction_bynode": 1,
        "bagging_fraction": 1,
        "lambda_l1": 0,
        "lambda_l2": 0,
        "objective": "l1",
        "inputs": "both",
        "cat_smooth": 10,
    },
    "hist_gradient_boosting": {
        "learning_rate": 0.1,
        "max_leaf_nodes": 31,
        "max_depth": None,
        "min_samples_leaf": 20,
        "l2_regularization": 0,
        "max_features": 1.0,
        "loss": "squared_error",
    },
    "gradient_boosting": {
        "learning_rate": 0.1,
        "max_depth": 3,
        "max_features": None,
        "min_samples_leaf": 1,
        "min_samples_split": 2,
        "subsample": 1.0,
        "loss": "squared_error",
    },
    "xgboost": {
        "learning_rate": 0.1,
        "max_depth": 6,
        "min_child_weight": 1,
        "subsample": 1,
        "colsample_bytree": 1,
        "reg_alpha": 0,
        "reg_lambda": 1,
        "objective": "reg:absoluteerror",
    },
    "catboost": {
        "learning_rate": 0.1,
        "depth": 6,
        "l2_leaf_reg": 3,
        "rsm": 1,
        "random_strength": 1,
        "loss_function": "MAE",
    },
}


@pytest.mark.parametrize("name", SPELLED_OUT)
def test_a_default_that_is_spelled_out_is_the_same_candidate(
    name: str, table: tuple[Floats, Floats]
) -> None:
    Z, target = table
    chosen = family(name)
    short = {str(chosen.prefix): 5}
    long = {**short, **SPELLED_OUT[name]}
    assert long.keys() >= chosen.parameters - {"bagging_temperature"}
    assert fingerprint(chosen.canonical(long)) == fingerprint(chosen.canonical(short))
    one, other = (chosen.predict(chosen.fit(p, Z, target, 7, 1), Z) for p in (short, long))
    assert np.array_equal(one, other)
    slower = {**short, "learning_rate": 0.3}
    assert chosen.canonical(slower) != chosen.canonical(short)


@pytest.mark.parametrize("objective", ["reg:absoluteerror", "reg:squarederror"])
def test_xgboosts_own_sum_is_ours_in_single_precision(
    objective: str, table: tuple[Floats, Floats]
) -> None:
    Z, target = table
    model = family("xgboost").fit({"n_estimators": 60, "objective": objective}, Z, target, 7, 1)
    trees = model.trees
    sizes = abs(trees.base) + np.abs(trees.value[trees.leaves(Z)]).sum(axis=1)
    theirs = model.booster.predict(xgboost.DMatrix(Z))
    assert np.ptp(theirs) > 1.0
    bound = (trees.n_trees + 1) * np.finfo(np.float32).eps * sizes
    assert (np.abs(theirs - model.predict(Z)) <= bound).all()


def test_an_xgboost_model_that_has_grown_answers_with_its_new_trees(
    table: tuple[Floats, Floats],
) -> None:
    Z, target = table
    growing = family("xgboost").grow({}, Z, target, 7, [3, 6])
    model = next(growing)
    assert (model.trees.n_trees, model.trees is model.trees) == (3, True)
    before = model.predict(Z)
    later = next(growing)
    assert model.trees.n_trees == later.trees.n_trees == 6
    assert np.array_equal(model.predict(Z), later.predict(Z))
    assert not np.array_equal(before, later.predict(Z))


def test_a_depth_that_is_never_reached_is_no_limit(table: tuple[Floats, Floats]) -> None:
    Z, target = table
    for name in ("random_forest", "decision_tree", "extra_trees"):
        chosen = family(name)
        assert chosen.depth == "max_depth"
        small = {"n_estimators": 5} if chosen.prefix else {}
        params = {**small, "min_samples_leaf": 5}
        free = chosen.fit(params, Z, target, 7, 1)
        depth = chosen.reached_depth(free)
        limited = chosen.fit({**params, "max_depth": depth + 1}, Z, target, 7, 1)
        assert np.array_equal(chosen.predict(free, Z), chosen.predict(limited, Z))


@pytest.mark.parametrize("name", SMALL)
def test_the_search_space_holds_what_the_family_can_fit(
    name: str, table: tuple[Floats, Floats]
) -> None:
    Z, target = table
    chosen = family(name)
    space = SpaceRecorder()
    lowest = chosen.space(space)
    assert space.holds(lowest)
    assert lowest.keys() <= chosen.parameters
    chosen.check(lowest)
    if chosen.prefix:
        lowest[chosen.prefix] = 3
    assert np.isfinite(chosen.predict(chosen.fit(lowest, Z, target, 1), Z)).all()


def test_the_reference_space_of_the_forest_is_the_references() -> None:
    space = SpaceRecorder()
    family("random_forest").space(space)
    ranges = {
        name: (found.low, found.high)
        for name, found in space.distributions.items()
        if hasattr(found, "low")
    }
    assert ranges == {
        "n_estimators": (50, 500),
        "max_depth": (5, 30),
        "min_samples_split": (2, 20),
        "min_samples_leaf": (1, 10),
    }
    assert list(space.distributions["max_features"].choices) == ["sqrt", "log2"]


def test_a_slower_model_takes_more_and_smaller_steps() -> None:
    for name, steps in (
        ("lightgbm", "n_estimators"),
        ("gradient_boosting", "n_estimators"),
        ("hist_gradient_boosting", "max_iter"),
        ("xgboost", "n_estimators"),
        ("catboost", "iterations"),
    ):
        slow = family(name).slow({steps: 100, "learning_rate": 0.2}, 4.0)
        assert slow == {steps: 400, "learning_rate": 0.05}
        assert family(name).slow({}, 2.0)["learning_rate"] == 0.05
    assert family("ridge").slow({"alpha": 3}, 4.0) == {"alpha": 3}


@pytest.mark.parametrize(
    ("name", "grid", "match"),
    [
        (
            "random_forest",
            {"max_depth": [5, -3]},
            r"random_forest\.max_depth.*'max_depth'",
        ),
        ("random_forest", {"max_features": ["all"]}, "max_features"),
        ("ridge", {"alpha": [-1.0]}, r"ridge\.alpha.*Got -1\.0"),
        ("lasso", {"alpha": ["much"]}, r"lasso\.alpha"),
        ("decision_tree", {"min_samples_leaf": [0]}, "min_samples_leaf"),
        ("gradient_boosting", {"subsample": [1.5]}, "subsample"),
        ("hist_gradient_boosting", {"max_iter": [0]}, "max_iter"),
        ("hist_gradient_boosting", {"loss": ["poisson"]}, "loss must be one of squared_error"),
        ("hist_gradient_boosting", {"max_leaf_nodes": [1]}, "max_leaf_nodes"),
        ("lightgbm", {"num_leaves": [1]}, r"num_leaves must be a whole number in \[2"),
        ("lightgbm", {"objective": ["poisson"]}, "objective must be one of l1"),
        ("lightgbm", {"feature_fraction": [True]}, "must be a number"),
        ("xgboost", {"max_depth": [3.5]}, "max_depth must be a whole number"),
        ("catboost", {"loss_function": ["Logloss"]}, "must be one of RMSE"),
    ],
)
def test_a_value_that_is_invalid_is_named_before_anything_is_fitted(
    name: str, grid: dict[str, list[Any]], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        list(expand_grid(name, grid))


@pytest.mark.parametrize("name", ["xgboost", "catboost"])
def test_an_absent_library_is_said_before_anything_is_fitted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as Python itself marks what is not there
    for grid in ({}, {"learning_rate": [0.1]}):
        with pytest.raises(MissingExtraError, match=rf"'{name}' is not installed.*boosters"):
            list(expand_grid(name, grid))


def test_other_forms_of_the_boosters_are_refused() -> None:
    with pytest.raises(TrainingError, match="not symmetric"):
        from_catboost('{"trees": []}', 3)


def test_a_family_is_a_class_that_the_grid_search_takes_as_it_is(
    table: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One subclass, listed by name: nothing else has to know it."""

    class Median(Family):
        name, title, defaults, linear = "median", "Median", {"share": 1.0}, True
        ranges: ClassVar = {"share": (float, 0.0, 1.0)}

        def fit(self, params, Z, target, seed, threads=0):
            return self.canonical(params)["share"] * np.median(target)

        def predict(self, model, Z, threads=1):
            return np.full(len(Z), model)

        def export(self, model):
            return LinearModel(float(model), np.zeros(5))

        def space(self, trial):
            return {"share": trial.suggest_float("share", 0.5, 1.0)}

    Z, target = table
    monkeypatch.setattr(catalog, "FAMILIES", {**FAMILIES, "median": Median()})
    part = Part(Z, target, np.arange(len(Z), dtype=np.uint64))
    rows = np.arange(len(Z))
    folds = [FoldRows(rows[rows % 3 != k], rows[rows % 3 == k], Z[rows % 3 != k],
                      Z[rows % 3 == k]) for k in range(3)]  # fmt: skip
    settings = SelectionSettings({"median": {"share": [1.0, 0.5]}, "ridge": {}}, scoring="mae")
    result = grid_search(settings, folds, part, TargetTransform("none"), 3)
    errors = {(c.family, c.params.get("share")): c.mean("mae") for c in result.complete}
    assert result.best.family == "ridge"
    expected = [np.abs(target[f.held_rows] - np.median(target[f.fit_rows])).mean() for f in folds]
    assert errors["median", 1.0] == pytest.approx(np.mean(expected))
    with pytest.raises(ConfigError, match=r"share must be a number in \[0, 1\], got 2"):
        list(expand_grid("median", {"share": [2.0]}))


def test_linear_models_ignore_far_tails_and_keep_rare_categories() -> None:
    rng = np.random.default_rng(5)
    area = np.append(rng.uniform(50, 150, 399), 1e4)
    rare = np.arange(400.0) == 7
    ridge = FAMILIES["ridge"]
    model = ridge.export(ridge.fit({"alpha": 1e-6}, np.column_stack([area, rare]), area, 0))
    assert isinstance(model, LinearModel)
    assert model.low is not None
    assert model.high is not None
    low, high = np.quantile(area, [0.05, 0.95])
    assert model.high[0] == pytest.approx(high + 0.5 * (high - low))
    assert model.low[0] == area.min()
    assert (model.low[1], model.high[1]) == (0.0, 1.0)


def dips(n: int) -> tuple[Floats, Floats]:
    """Return rows whose target falls, over much of its range, with a feature that must rise."""
    random = np.random.default_rng(8)
    Z = random.normal(size=(n, 4))
    Z[:, 3] = random.integers(0, 5, n)
    wave = np.sin(3 * Z[:, 0]) + np.where(Z[:, 1] > 0, Z[:, 0], -Z[:, 0])
    return Z, wave + Z[:, 1] - np.abs(Z[:, 2]) + random.standard_t(2, n)


KEPT = {
    ("lightgbm", "l1"): {"objective": "l1"},
    ("lightgbm", "l2"): {"objective": "l2"},
    ("hist_gradient_boosting", "squared_error"): {"loss": "squared_error"},
    ("random_forest", ""): {},
    ("extra_trees", ""): {},
    ("decision_tree", ""): {},
    ("xgboost", "absolute"): {"objective": "reg:absoluteerror"},
    ("xgboost", "squared"): {"objective": "reg:squarederror"},
    ("catboost", "MAE"): {"loss_function": "MAE"},
    ("catboost", "RMSE"): {"loss_function": "RMSE"},
}


@pytest.mark.parametrize(("name", "loss"), KEPT)
def test_a_family_that_is_compared_keeps_estimates_monotone(name: str, loss: str) -> None:
    Z, target = dips(600)
    kinds = ("rising", "number", "falling", "code" if name == "lightgbm" else "number")
    params = {**SMALL[name], **KEPT[name, loss]}
    assert keeps_monotone(family(name), params, kinds)
    model = family(name).export(fit_model(family(name), params, Z, kinds, target, 3, 1))
    predict = OnnxRegressor(to_onnx(model)).predict
    random = np.random.default_rng(9)
    rows = Z[random.integers(0, len(Z), 3000)]
    assert len(np.unique(predict(rows))) > 20
    for column, sign in ((0, 1.0), (2, -1.0)):
        more = rows.copy()
        more[:, column] += random.exponential(0.4, len(rows))
        assert (sign * (predict(more) - predict(rows)) >= 0).all()
        free = family(name).fit(params, Z, target, 3, 1)
        moved = family(name).predict(free, more) - family(name).predict(free, rows)
        assert (sign * moved < 0).any(), "without the constraint it would fall"


def test_absolute_loss_under_a_constraint_hardly_heeds_outliers() -> None:
    random = np.random.default_rng(4)
    Z = random.uniform(size=(1000, 2))
    truth = 2.0 * Z[:, 0] + Z[:, 1]
    target = truth + random.normal(0, 0.05, 1000) + 5.0 * (random.random(1000) < 0.1)
    lightgbm, error = family("lightgbm"), {}
    for loss in ("l1", "l2"):
        params = {"objective": loss, "n_estimators": 60, "min_child_samples": 40}
        model = fit_model(lightgbm, params, Z, ("rising", "number"), target, 1, 1)
        error[loss] = float(np.mean(lightgbm.predict(model, Z) - truth))
    assert abs(error["l1"]) < 0.1 < 0.3 < error["l2"]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ridge", {}),
        ("lasso", {}),
        ("gradient_boosting", {}),
        ("lightgbm", {"objective": "quantile"}),
        ("hist_gradient_boosting", {"loss": "absolute_error"}),
    ],
)
def test_a_family_that_cannot_keep_estimates_monotone_is_not_fitted(
    name: str, params: dict[str, Any]
) -> None:
    Z, target = dips(60)
    assert not keeps_monotone(family(name), params, ("number", "rising", "number", "number"))
    assert keeps_monotone(family(name), params, ("number",) * 4)
    with pytest.raises(TrainingError, match=r"cannot keep estimates monotone.*model\.monotone"):
        fit_model(family(name), params, Z, ("rising",) * 4, target, 1, 1)
