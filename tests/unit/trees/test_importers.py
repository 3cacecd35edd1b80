import lightgbm as lgb
import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from fixtures.category_boosters import category_booster, category_table, odd_rows
from tasador.core.errors import TrainingError
from tasador.trees.importers import from_lightgbm, from_linear, from_sklearn


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 5))
    X[:, 3] = np.where(rng.random(400) < 0.6, 0.0, X[:, 3])
    y = X[:, 0] * 2 + np.where(X[:, 1] > 0, X[:, 2], 0) + rng.normal(size=400) * 0.1 + 7
    return X, y


@pytest.fixture(scope="module")
def gappy(data):
    X = data[0].copy()
    X[::7, 2] = np.nan
    return X, data[1]


def booster(X, y, rounds=20, **params):
    params = {"objective": "regression", "num_leaves": 7, "verbose": -1, "num_threads": 1} | params
    return lgb.train(params, lgb.Dataset(X, y), rounds)


@pytest.mark.parametrize("objective", ["regression", "regression_l1", "huber", "quantile", "mape"])
def test_a_lightgbm_model_is_read_exactly(gappy, objective):
    X, y = gappy
    model = booster(X, y, objective=objective)
    assert from_lightgbm(model).predict(X) == pytest.approx(model.predict(X), rel=1e-13)


def test_lightgbm_takes_nan_for_zero_in_columns_without_missing_values(data):
    X, y = data
    model = booster(X, y)
    holes = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    assert from_lightgbm(model).predict(holes) == pytest.approx(model.predict(holes), rel=1e-13)


def test_lightgbm_takes_tiny_numbers_for_zero(data):
    X, y = data
    X = np.where(X == 0, np.nan, X)
    X[:, 3] = np.sign(np.nan_to_num(X[:, 3]))  # thresholds right beside zero
    model = booster(X, y + 3 * X[:, 3])
    zero = float(np.float32(1e-35))
    tiny = [0.0, -0.0, zero, -zero, 1e-36, -1e-36, np.nextafter(-zero, -1), np.nextafter(zero, 1)]
    rows = np.tile(X[:1], (len(tiny), 1))
    rows[:, 3] = tiny
    assert from_lightgbm(model).predict(rows) == pytest.approx(model.predict(rows), rel=1e-13)


def test_the_number_of_trees_can_be_chosen(data):
    X, y = data
    model = booster(X, y)
    five = from_lightgbm(model, num_iteration=5)
    assert five.n_trees == 5
    assert five.predict(X) == pytest.approx(model.predict(X, num_iteration=5), rel=1e-13)


def test_the_best_iteration_of_early_stopping_is_the_default(data):
    X, y = data
    model = booster(X, y)
    model.best_iteration = 4
    assert from_lightgbm(model).n_trees == 4
    assert from_lightgbm(model, num_iteration=0).n_trees == 20


def test_a_lightgbm_random_forest_is_an_average(data):
    X, y = data
    model = booster(X, y, boosting="rf", bagging_fraction=0.5, bagging_freq=1)
    assert from_lightgbm(model).predict(X) == pytest.approx(model.predict(X), rel=1e-13)


def test_a_tree_of_a_single_leaf_is_read(data):
    X, _ = data
    model = booster(X, np.full(len(X), 3.0), rounds=2)
    assert from_lightgbm(model).predict(X[:2]) == pytest.approx(model.predict(X[:2]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"linear_tree": True}, "leaves are linear"),
        ({"zero_as_missing": True}, "zero as missing"),
        ({"objective": "poisson"}, "transforms the sum"),
        ({"reg_sqrt": True}, "transforms the sum"),
    ],
)
def test_a_lightgbm_model_that_cannot_be_exact_is_refused(data, params, message):
    X, y = data
    with pytest.raises(TrainingError, match=message):
        from_lightgbm(booster(X, y, rounds=3, **params))


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "params", [{}, {"max_cat_to_onehot": 300}, {"max_cat_threshold": 200, "num_leaves": 9}]
)
def test_categorical_splits_are_read_exactly(seed, gaps, params):
    X, y = category_table(seed, gaps=gaps)
    model = category_booster(X, y, **params)
    trees = from_lightgbm(model)
    rows = odd_rows(X, seed)
    assert trees.sets is not None
    assert trees.sets.n_sets > 20
    assert np.array_equal(trees.predict(rows), model.predict(rows))


def test_a_category_code_beyond_the_highest_is_refused():
    X, y = category_table(0, levels=(3,))
    X[:, 0] = np.where(X[:, 0] == 2, 2.0**20, X[:, 0])
    model = category_booster(X, y + 9 * (X[:, 0] > 2), n_codes=1, rounds=2)
    with pytest.raises(TrainingError, match=r"category codes in \[0, 1048575\], got codes in"):
        from_lightgbm(model)


def test_several_classes_are_refused(data):
    X, _ = data
    model = booster(X, np.arange(len(X)) % 3, rounds=2, objective="multiclass", num_class=3)
    with pytest.raises(TrainingError, match="several classes"):
        from_lightgbm(model)


SKLEARN = [
    DecisionTreeRegressor(max_depth=6, random_state=0),
    DecisionTreeRegressor(max_depth=6, criterion="absolute_error", random_state=0),
    RandomForestRegressor(12, random_state=0),
    ExtraTreesRegressor(12, random_state=0),
    GradientBoostingRegressor(n_estimators=20, random_state=0),
    GradientBoostingRegressor(n_estimators=20, loss="quantile", random_state=0),
    GradientBoostingRegressor(n_estimators=20, init="zero", random_state=0),
    HistGradientBoostingRegressor(max_iter=15, random_state=0),
    HistGradientBoostingRegressor(max_iter=15, loss="absolute_error", random_state=0),
]


@pytest.mark.parametrize("model", SKLEARN, ids=repr)
def test_a_scikit_learn_model_is_read_exactly(data, model):
    X, y = data
    model.fit(X, y)
    trees = from_sklearn(model)
    assert trees.predict(X) == pytest.approx(model.predict(X), rel=1e-12)
    assert trees.cover[trees.roots].min() > 0


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(8, random_state=0),
        ExtraTreesRegressor(8, random_state=0),
        HistGradientBoostingRegressor(max_iter=10, random_state=0),
    ],
    ids=repr,
)
def test_missing_values_go_where_scikit_learn_sends_them(gappy, model):
    X, y = gappy
    model.fit(X, y)
    assert from_sklearn(model).predict(X) == pytest.approx(model.predict(X), rel=1e-12)


def test_other_scikit_learn_models_are_refused(data):
    X, y = data
    with pytest.raises(TrainingError, match="KNeighborsRegressor is not"):
        from_sklearn(KNeighborsRegressor().fit(X, y))
    with pytest.raises(TrainingError, match="several outputs"):
        from_sklearn(DecisionTreeRegressor(max_depth=2).fit(X, np.column_stack([y, y])))
    with pytest.raises(TrainingError, match="starts from a fitted Ridge"):
        from_sklearn(GradientBoostingRegressor(n_estimators=2, init=Ridge()).fit(X, y))
    with pytest.raises(TrainingError, match="uses a LogLink"):
        from_sklearn(HistGradientBoostingRegressor(loss="poisson", max_iter=2).fit(X, y - y.min()))


def test_categories_of_histogram_boosting_are_refused(data):
    X, y = data
    X = np.abs(X).round()
    model = HistGradientBoostingRegressor(max_iter=2, categorical_features=[4]).fit(X, y)
    with pytest.raises(TrainingError, match="categorical"):
        from_sklearn(model)


@pytest.mark.parametrize(
    "model",
    [
        LinearRegression(),
        Ridge(2.0),
        Ridge(fit_intercept=False),
        make_pipeline(StandardScaler(), Lasso(0.01)),
        make_pipeline(StandardScaler(with_mean=False), "passthrough", Ridge()),
        make_pipeline(StandardScaler(with_std=False), Ridge()),
        make_pipeline(StandardScaler(), StandardScaler(), Ridge()),
    ],
    ids=repr,
)
def test_a_linear_model_is_read_with_its_scaling(data, model):
    X, y = data
    X = X * [1, 10, 100, 1, 1e-3] + [0, 5, 1000, 0, 1]
    model.fit(X, y)
    assert from_linear(model).predict(X) == pytest.approx(model.predict(X), rel=1e-11)


def test_other_linear_pipelines_are_refused(data):
    X, y = data
    with pytest.raises(TrainingError, match="MinMaxScaler cannot be folded"):
        from_linear(make_pipeline(MinMaxScaler(), Ridge()).fit(X, y))
    with pytest.raises(TrainingError, match="has no coefficients"):
        from_linear(DecisionTreeRegressor().fit(X, y))
    with pytest.raises(TrainingError, match="several outputs"):
        from_linear(Ridge().fit(X, np.column_stack([y, y])))
