from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge

from fixtures.category_boosters import category_booster, category_table, odd_rows
from tasador.core.errors import TrainingError
from tasador.trees.ensemble import LEAF, LinearModel, TreeEnsemble, average, in_double_precision
from tasador.trees.importers import from_lightgbm, from_linear, from_sklearn
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(0, 50, size=(400, 4))
Y = X[:, 0] + np.abs(X[:, 1]) + RANDOM.normal(0, 1, 400)


def stump(threshold: float) -> TreeEnsemble:
    return TreeEnsemble(
        feature=np.array([0, LEAF, LEAF], np.int32),
        threshold=np.array([threshold, 0.0, 0.0]),
        left=np.array([1, LEAF, LEAF], np.int32),
        right=np.array([2, LEAF, LEAF], np.int32),
        value=np.array([0.0, -1.0, 1.0]),
        missing_left=np.array([True, False, False]),
        cover=np.ones(3),
        roots=np.array([0], np.int32),
        n_features=1,
        float32_inputs=True,
    )


def around(threshold: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        f = np.float32(threshold)
        near = [f, np.nextafter(f, np.float32(-np.inf)), np.nextafter(f, np.float32(np.inf))]
    values = []
    for value in map(np.float64, near):
        for other in map(np.float64, near):
            middle = value / 2 + other / 2
            values += [middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)]
    values += [threshold, np.inf, -np.inf, np.nan, 0.0, -0.0, 1e308, -1e308, 3.4028235677973366e38]
    values += [np.nextafter(3.4028235677973366e38, -np.inf), 3.4028234663852886e38]
    return np.array(values)[:, None]


@pytest.mark.parametrize(
    "threshold",
    [
        *RANDOM.normal(0, 10, 40).tolist(),
        *(RANDOM.normal(0, 10, 20).astype(np.float32).astype(np.float64).tolist()),
        0.0,
        1e-45,
        -1e-45,
        1e-60,
        3.4028234663852886e38,
        -3.4028234663852886e38,
        3.5e38,
        -3.5e38,
        1e300,
        np.inf,
    ],
)
def test_the_rounding_of_inputs_is_folded_into_the_thresholds(threshold: float) -> None:
    rounded = stump(threshold)
    rows = around(threshold)
    assert np.array_equal(in_double_precision(rounded).predict(rows), rounded.predict(rows))


def test_an_average_of_models_is_their_mean_in_every_form() -> None:
    fitted = [
        RandomForestRegressor(8, random_state=1).fit(X, Y),
        GradientBoostingRegressor(n_estimators=12, random_state=2).fit(X, Y),
    ]
    trees = [from_sklearn(model) for model in fitted]
    joined = average(trees, shift=0.25)
    rows = np.vstack([X, RANDOM.normal(0, 80, size=(2000, 4))])
    expected = np.mean([model.predict(rows) for model in fitted], axis=0) + 0.25
    np.testing.assert_allclose(joined.predict(rows), expected, rtol=0, atol=1e-11)
    onnx = OnnxRegressor(to_onnx(joined))
    np.testing.assert_allclose(onnx.predict(rows), expected, rtol=0, atol=1e-11)
    linear = [from_linear(Ridge(a).fit(X, Y)) for a in (1.0, 1e4)]
    mean = np.mean([model.predict(rows) for model in linear], axis=0) + 3.0
    np.testing.assert_allclose(average(linear, 3.0).predict(rows), mean, rtol=0, atol=1e-11)


def test_one_model_stays_itself_and_a_shift_is_added() -> None:
    tree = stump(1.0)
    assert average([tree]) is tree
    shifted = average([tree], 0.5)
    assert np.array_equal(shifted.predict(around(1.0)), tree.predict(around(1.0)) + 0.5)
    with pytest.raises(TrainingError, match="cannot be averaged"):
        average([tree, from_linear(Ridge().fit(X, Y))])


def test_linear_models_of_one_range_become_one_model():
    low, high = np.array([0.0, -1.0]), np.array([1.0, 1.0])
    hidden = LinearModel(np.array([3.0, 0.0]), 1.0, low * [1, 0], high * [1, 0])
    models = [LinearModel(np.array([2.0, 5.0]), 0.0, low, high), hidden]
    rows = np.array([[9.0, 9.0], [-9.0, -9.0], [0.5, 0.25]])
    for some in (models, models[::-1]):
        mean = np.mean([model.predict(rows) for model in some], axis=0)
        np.testing.assert_allclose(average(some).predict(rows), mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ends", [(), (np.zeros(2), np.ones(2))])
def test_linear_models_of_other_ranges_are_not_averaged(ends):
    first = LinearModel(np.ones(2), 0.0, np.zeros(2), np.full(2, 2.0))
    for models in ([first, LinearModel(np.ones(2), 0.0, *ends)],
                   [LinearModel(np.ones(2), 0.0, *ends), first]):  # fmt: skip
        with pytest.raises(TrainingError, match="different ranges cannot be averaged"):
            average(models)


def test_an_average_keeps_the_category_sets_of_its_models() -> None:
    table, target = category_table(1)
    fitted = [category_booster(table, target, num_leaves=leaves) for leaves in (7, 31)]
    forest = RandomForestRegressor(4, random_state=1).fit(table, target)
    joined = average([*map(from_lightgbm, fitted), from_sklearn(forest)])
    assert isinstance(joined, TreeEnsemble)
    rows = odd_rows(table, 1)
    rows = np.where(np.abs(rows) < 1e30, rows, 0.0)  # scikit-learn takes neither NaN nor infinity
    expected = np.mean([model.predict(rows) for model in (*fitted, forest)], axis=0)
    np.testing.assert_allclose(joined.predict(rows), expected, rtol=0, atol=1e-12)
    onnx = OnnxRegressor(to_onnx(joined))
    np.testing.assert_allclose(onnx.predict(rows), expected, rtol=0, atol=1e-12)
