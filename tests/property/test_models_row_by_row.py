"""n rows at once equal n times one row, and the exported model equals its library."""

import dataclasses

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)

from tasador.modeling.conformal import ConformalInterval
from tasador.modeling.target_transform import TargetTransform
from tasador.registry.model_bundle import load_bundle
from tasador.selection.families.catalog import family
from tasador.trees.ensemble import LinearModel
from tasador.trees.importers import from_lightgbm, from_sklearn
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor
from tasador.trees.tree_shap import LinearContributions

Q = 4
FLOAT32_MAX = 3.4e38
numbers = st.one_of(
    st.floats(-5, 5),
    st.floats(-FLOAT32_MAX, FLOAT32_MAX),
    st.sampled_from([0.0, -0.0, 1e-36, -1e-36, 1e-300, FLOAT32_MAX, -FLOAT32_MAX, 1 + 1e-9]),
)
rows = st.integers(1, 70).flatmap(
    lambda n: arrays(np.float64, (n, Q), elements=st.one_of(numbers, st.just(np.nan)))
)


def training(missing=True):
    rng = np.random.default_rng(8)
    X = rng.normal(size=(600, Q)) * [1, 1, 10, 1]
    X[:, 3] = np.round(X[:, 3])
    if missing:
        X[rng.random(600) < 0.1, 0] = np.nan
        X[rng.random(600) < 0.1, 2] = np.nan
    return X, np.nan_to_num(X[:, 0]) * 3 + np.sin(X[:, 1]) + X[:, 3] + rng.normal(size=600) * 0.1


@pytest.fixture(scope="module")
def libraries():
    """Name -> (the library's prediction, trees, whether it accepts NaN)."""
    X, y = training()
    params = {"objective": "regression_l1", "num_leaves": 15, "verbose": -1, "num_threads": 1}
    booster = lgb.train(params, lgb.Dataset(X, y), 120)
    models = {
        "forest": RandomForestRegressor(15, random_state=0).fit(X, y),
        "extra": ExtraTreesRegressor(15, random_state=0).fit(X, y),
        "histogram": HistGradientBoostingRegressor(max_iter=40, random_state=0).fit(X, y),
    }
    boosted = GradientBoostingRegressor(n_estimators=40, random_state=0).fit(*training(False))
    found = {name: (m.predict, from_sklearn(m), True) for name, m in models.items()}
    found["boosted"] = (boosted.predict, from_sklearn(boosted), False)
    found["lightgbm"] = (booster.predict, from_lightgbm(booster), True)
    return found


@pytest.fixture(scope="module")
def exported(libraries):
    found = {name: OnnxRegressor(to_onnx(trees)) for name, (_, trees, _) in libraries.items()}
    coef = np.array([1.1, -2.3, 0.7, 3.9])
    found["clipped"] = OnnxRegressor(to_onnx(LinearModel(coef, 0.3, -np.ones(Q), np.ones(Q))))
    return found | {"linear": OnnxRegressor(to_onnx(LinearModel(coef, 0.3)))}


def same_bits(one, many):
    return np.array_equal(one.view(np.uint64), many.view(np.uint64))


@pytest.mark.parametrize(
    "name", ["forest", "extra", "histogram", "boosted", "lightgbm", "linear", "clipped"]
)
@settings(max_examples=40)
@given(Z=rows)
def test_many_rows_get_the_bits_of_single_rows(exported, name, Z):
    model = exported[name]
    one = np.concatenate([model.predict(Z[i : i + 1]) for i in range(len(Z))])
    many = model.predict(Z)
    assert same_bits(one[~np.isnan(one)], many[~np.isnan(one)])
    assert (np.isnan(one) == np.isnan(many)).all()


@pytest.mark.parametrize("name", ["forest", "extra", "histogram", "boosted", "lightgbm"])
@settings(max_examples=40)
@given(Z=rows, hits=st.randoms(use_true_random=False))
def test_the_exported_model_answers_as_its_library(libraries, exported, name, Z, hits):
    library, trees, takes_nan = libraries[name]
    Z = Z.copy() if takes_nan else np.nan_to_num(Z)
    for column, values in trees.thresholds().items():  # half of the cells lie on a split value
        for i in range(len(Z)):
            if hits.random() < 0.5:
                Z[i, column] = hits.choice(values[np.isfinite(values)])
    want = library(Z)
    assert exported[name].predict(Z) == pytest.approx(want, rel=1e-12, abs=1e-12)
    assert trees.predict(Z) == pytest.approx(want, rel=1e-12, abs=1e-12)


@settings(max_examples=40)
@given(Z=rows, seed=st.integers(0, 2**32 - 1), far=st.sampled_from([0.0, np.inf, -np.inf]))
def test_a_linear_model_stays_within_what_its_training_range_allows(Z, seed, far):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, Q)) * 10.0 ** rng.integers(-3, 4, Q) + rng.normal(size=Q)
    ridge = family("ridge")
    fitted = ridge.fit({"alpha": 0.1}, X, X @ rng.normal(size=Q) + rng.normal(size=30), 0)
    model = ridge.export(fitted)
    Z = np.where(Z == 0.0, far, Z)
    gaps = np.isnan(Z).any(axis=1)
    scores = model.predict(Z)
    assert (np.isnan(scores) == gaps).all()
    assert model.low is not None
    assert model.high is not None
    assert ((X.min(axis=0) <= model.low) & (model.high <= X.max(axis=0))).all()
    ends = np.sort(model.coef * np.stack([model.low, model.high]), axis=0)
    low, high = model.intercept + ends.sum(axis=1)
    slack = 1e-9 * (1.0 + abs(model.intercept) + np.abs(ends).sum())
    assert ((low - slack <= scores) & (scores <= high + slack))[~gaps].all()
    assert OnnxRegressor(to_onnx(model)).predict(Z) == pytest.approx(scores, nan_ok=True, rel=1e-15)
    # scikit-learn's own steps refuse infinities
    library = ridge.predict(fitted, np.nan_to_num(Z[~gaps])) if (~gaps).any() else np.empty(0)
    assert library == pytest.approx(scores[~gaps], rel=1e-9, abs=slack)
    explained = LinearContributions.of_model(model, model.clip(X).mean(axis=0))
    sums = [explained.expected + explained.of(row).sum() for row in Z[~gaps]]
    assert sums == pytest.approx(scores[~gaps], rel=1e-9, abs=slack)


@given(scores=arrays(np.float64, st.integers(1, 70), elements=st.floats(-800, 800)))
def test_the_way_back_from_the_log_has_the_same_bits_for_one_row(scores):
    log = TargetTransform("log", 1.01)
    one = np.concatenate([log.inverse(scores[i : i + 1]) for i in range(len(scores))])
    assert same_bits(one, log.inverse(scores))
    assert same_bits(one, log.inverse(np.repeat(scores, 3)[::3]))


@given(Z=rows, quantile=st.floats(0, 10))
def test_intervals_have_the_same_bits_for_one_row_and_hold_the_score(Z, quantile):
    interval = ConformalInterval(0.9, quantile, scale_index=1, scale_floor=0.1, scale_offset=0.2)
    score = np.linspace(-1, 1, len(Z))
    low, high = interval.bounds(score, Z)
    assert ((low <= score) & (score <= high)).all()
    one = [interval.bounds(score[i : i + 1], Z[i : i + 1]) for i in range(len(Z))]
    assert same_bits(np.concatenate([pair[0] for pair in one]), low)
    assert same_bits(np.concatenate([pair[1] for pair in one]), high)


kinds = st.sampled_from(["flat", "house", " villa"])
house = st.fixed_dictionaries(
    {
        "lon": st.floats(-180, 180),
        "lat": st.floats(-90, 90),
        "income": st.floats(0, 100),
        "rooms": st.one_of(st.none(), st.integers(1, 50)),
        "area": st.floats(1, 1e4),
        "kind": kinds,
    }
)


@pytest.fixture(scope="module")
def bundle(written_bundle):
    return load_bundle(written_bundle)


@settings(max_examples=40)
@given(houses=st.lists(house, min_size=1, max_size=30))
def test_a_bundle_values_many_rows_as_it_values_each(bundle, houses):
    single = [dataclasses.astuple(bundle.value(row)) for row in houses]
    assert [dataclasses.astuple(value) for value in bundle.value_rows(houses)] == single
