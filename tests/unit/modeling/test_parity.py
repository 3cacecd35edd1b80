import dataclasses

import lightgbm as lgb
import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from fixtures.category_boosters import category_booster, category_table
from tasador.core.errors import TrainingError
from tasador.modeling.parity import check_parity, lightgbm_predictor
from tasador.trees.ensemble import LinearModel
from tasador.trees.importers import from_lightgbm, from_sklearn
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(500, 4))
    X[::9, 1] = np.nan
    y = X[:, 0] + np.nan_to_num(X[:, 1])
    return X, y, DecisionTreeRegressor(max_depth=8, random_state=0).fit(X, y)


def test_a_right_export_passes_and_says_how_close_it_is(fitted):
    X, _, model = fitted
    trees = from_sklearn(model)
    parity = check_parity(
        model.predict, OnnxRegressor(to_onnx(trees)), X, 20_000, thresholds=trees.thresholds()
    )
    assert parity.rows == 20_000
    assert parity.max_relative <= parity.max_abs_difference <= 1e-12


def test_an_export_of_category_sets_passes_on_every_kind_of_code():
    X, y = category_table(4, gaps=True)
    model = category_booster(X, y)
    trees = from_lightgbm(model)
    parity = check_parity(
        model.predict, OnnxRegressor(to_onnx(trees)), X, 20_000, thresholds=trees.thresholds()
    )
    assert parity.max_abs_difference <= 1e-12


@pytest.mark.parametrize(
    "change",
    [
        {"float32_inputs": False},
        {"missing_left": None},
        {"threshold": None},
        {"base": 1e-8},
    ],
    ids=str,
)
def test_a_subtly_wrong_export_is_caught(fitted, change):
    X, _, model = fitted
    trees = from_sklearn(model)
    if "missing_left" in change:
        change = {"missing_left": ~trees.missing_left}
    if "threshold" in change:  # x < threshold instead of x <= threshold, in the library's float32
        below = np.nextafter(trees.threshold.astype(np.float32), np.float32(-np.inf))
        change = {"threshold": np.where(trees.feature >= 0, below.astype(float), 0.0)}
    wrong = OnnxRegressor(to_onnx(dataclasses.replace(trees, **change)))
    with pytest.raises(TrainingError, match=r"answers differently.*up to 1e-09"):
        check_parity(model.predict, wrong, X, 20_000, thresholds=trees.thresholds())


def test_a_missing_answer_in_one_of_them_only_is_caught(fitted):
    X, _, _ = fitted
    linear = OnnxRegressor(to_onnx(LinearModel(np.zeros(4), 0.0)))
    with pytest.raises(TrainingError, match="got inf"):
        check_parity(lambda Z: np.zeros(len(Z)), linear, X, 1000)


def test_columns_of_one_value_or_none_can_be_generated():
    X = np.column_stack([np.full(50, np.nan), np.full(50, 3.0)])
    linear = LinearModel(np.array([0.0, 2.0]), 0.0)
    assert check_parity(linear.predict, OnnxRegressor(to_onnx(linear)), X, 500).rows == 500


def test_lightgbm_by_blocks_of_trees_is_lightgbm(fitted):
    X, y, _ = fitted
    params = {"objective": "l1", "num_leaves": 5, "verbose": -1, "num_threads": 1}
    booster = lgb.train(params, lgb.Dataset(X, y), 150)
    assert lightgbm_predictor(booster)(X) == pytest.approx(booster.predict(X), rel=1e-12)
    assert lightgbm_predictor(booster, 70)(X) == pytest.approx(
        booster.predict(X, num_iteration=70), rel=1e-12
    )
    trees = from_lightgbm(booster)
    check_parity(lightgbm_predictor(booster), OnnxRegressor(to_onnx(trees)), X, 5000)
