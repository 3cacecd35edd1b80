"""Contributions add up to the score and are the libraries' own."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

from fixtures.category_boosters import category_booster, category_table, odd_rows
from fixtures.random_trees import grown
from tasador.core.errors import TrainingError
from tasador.core.kernels import native
from tasador.trees.ensemble import LinearModel, TreeEnsemble
from tasador.trees.importers import from_lightgbm, from_sklearn
from tasador.trees.tree_shap import LinearContributions, TreeContributions, contributions_from_state


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.normal(size=(800, 6))
    return X, X[:, 0] + X[:, 1] * X[:, 2] + np.sin(2 * X[:, 3])


def test_they_equal_lightgbms_own(table: Any) -> None:
    X, y = table
    settings = {
        "num_leaves": 40,
        "bagging_fraction": 0.6,
        "bagging_freq": 1,
        "verbosity": -1,
        "num_threads": 1,
    }
    model = lightgbm.train(settings, lightgbm.Dataset(X, y), 60)
    found = TreeContributions(from_lightgbm(model))
    wanted = model.predict(X[:50], pred_contrib=True)
    got = np.array([found.of(x) for x in X[:50]])
    assert np.allclose(got, wanted[:, :-1], rtol=0, atol=1e-12)
    assert found.expected == pytest.approx(wanted[0, -1], abs=1e-12)


def test_missing_values_go_the_way_that_lightgbm_learned(table: Any) -> None:
    X, y = table
    gaps = np.random.default_rng(1).random(X.shape) < 0.3
    y = y + 2.0 * gaps[:, 0] - 3.0 * gaps[:, 1]  # a gap says something: it goes left or right
    X = np.where(gaps, np.nan, X)
    settings = {"num_leaves": 30, "verbosity": -1, "num_threads": 1, "use_missing": True}
    model = lightgbm.train(settings, lightgbm.Dataset(X, y), 40)
    found = TreeContributions(from_lightgbm(model))
    wanted = model.predict(X[:50], pred_contrib=True)
    assert np.allclose([found.of(x) for x in X[:50]], wanted[:, :-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("gaps", [False, True])
def test_categories_have_lightgbms_own_contributions(gaps: bool) -> None:
    X, y = category_table(2, gaps=gaps)
    model = category_booster(X, y, num_leaves=40)
    trees = from_lightgbm(model)
    rows = odd_rows(X, 2, 60)
    wanted = model.predict(rows, pred_contrib=True)
    state = {name: array.copy() for name, array in TreeContributions(trees).state().items()}
    for found in (TreeContributions(trees), contributions_from_state(state, X.shape[1])):
        got = np.array([found.of(row) for row in rows])
        assert np.allclose(got, wanted[:, :-1], rtol=0, atol=1e-12)
        assert found.expected == pytest.approx(wanted[0, -1], abs=1e-12)
        assert np.allclose(got.sum(axis=1) + found.expected, model.predict(rows), atol=1e-12)


def test_a_column_of_sets_and_thresholds_adds_up_too() -> None:
    trees = grown(5, 20, 30, 3, False, 50)
    covers = trees.cover.copy()
    for node in np.flatnonzero(trees.feature >= 0)[::-1]:  # children stand behind their parents
        covers[node] = covers[trees.left[node]] + covers[trees.right[node]]
    trees = dataclasses.replace(trees, cover=covers)
    found = TreeContributions(trees)
    rows = np.random.default_rng(0).integers(-2, 55, (60, 3)) + np.resize([0.0, 0.5], (60, 3))
    rows[::7, 0] = np.nan
    for row, score in zip(rows, trees.predict(rows), strict=True):
        assert found.expected + found.of(row).sum() == pytest.approx(score, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("set_of_node", lambda a: a[:-1], "set_of_node has shape"),
        ("set_of_node", lambda a: np.where(a >= 0, 10**6, a).astype(np.int32), "set_of_node holds"),
        ("set_of_node", lambda a: np.where(a == a.max(), a.max() + 1, a), "sets below"),
        ("set_of_node", lambda a: np.maximum(a, 0), "sets at inner nodes only"),
        ("set_start", lambda a: a[::-1].copy(), "not in ascending order"),
        ("set_start", lambda a: np.append(a[:-1], np.int32(2**30)), "bounds of the sets"),
        ("set_start", lambda a: a[:1], "bounds of the sets"),
        ("set_codes", lambda a: a - 1, "set_codes holds values outside"),
        ("set_codes", lambda a: a + 2**20, "set_codes holds values outside"),
        ("set_codes", lambda a: a * 0, "not ascending"),
        ("set_codes", lambda a: a.astype(np.float64), "set_codes holds float64"),
        ("set_codes", None, "missing"),
    ],
)
def test_forged_category_sets_are_refused(name: str, change: Any, message: str) -> None:
    state = TreeContributions(grown(5, 9, 9, 3, False, 50)).state()
    if change is None:
        del state[name]
    else:
        state[name] = change(state[name])
    with pytest.raises((ValueError, TrainingError), match=message):
        contributions_from_state(state, 3)


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(20, random_state=0),
        GradientBoostingRegressor(n_estimators=40, max_depth=4, random_state=0),
    ],
)
def test_they_add_up_to_scikit_learns_prediction(table: Any, model: Any) -> None:
    X, y = table
    found = TreeContributions(from_sklearn(model.fit(X, y)))
    for x in X[:30]:
        score = found.expected + found.of(x).sum()
        assert score == pytest.approx(model.predict(x[None])[0], abs=1e-10)


def _expected(trees: TreeEnsemble, node: int, x: np.ndarray, known: set[int]) -> float:
    column = int(trees.feature[node])
    if column < 0:
        return float(trees.value[node])
    left, right = int(trees.left[node]), int(trees.right[node])
    if column in known:
        goes_left = x[column] <= trees.threshold[node]
        return _expected(trees, left if goes_left else right, x, known)
    sides = [trees.cover[side] * _expected(trees, side, x, known) for side in (left, right)]
    return float(sum(sides) / trees.cover[node])


def test_they_equal_the_definition_by_every_subset_of_features(table: Any) -> None:
    X, y = table
    model = GradientBoostingRegressor(n_estimators=3, max_depth=6, random_state=1).fit(X, y)
    trees = from_sklearn(model)
    found, q, x = TreeContributions(trees), X.shape[1], X[3].astype(np.float32).astype(float)
    wanted = np.zeros(q)
    for j in range(q):
        others = [i for i in range(q) if i != j]
        for size in range(q):
            weight = math.factorial(size) * math.factorial(q - size - 1) / math.factorial(q)
            for known in itertools.combinations(others, size):
                for root in trees.roots.tolist():
                    gain = _expected(trees, root, x, {*known, j})
                    gain -= _expected(trees, root, x, set(known))
                    wanted[j] += weight * gain * trees.scale
    assert np.allclose(found.of(X[3]), wanted, rtol=0, atol=1e-12)


def test_a_tree_of_one_leaf_has_nothing_to_tell() -> None:
    model = GradientBoostingRegressor(n_estimators=2).fit(np.ones((9, 2)), np.arange(9.0))
    found = TreeContributions(from_sklearn(model))
    assert found.of(np.ones(2)).tolist() == [0, 0]
    assert found.expected == pytest.approx(4)


def test_linear_parts_are_against_the_center() -> None:
    found = LinearContributions.of_model(
        LinearModel(np.array([2.0, -1.0]), 3.0), np.array([1.0, 1.0])
    )
    assert found.expected == 4
    assert found.of(np.array([2.0, 5.0])).tolist() == [2, -4]


def test_linear_parts_of_a_row_out_of_range_add_up_to_its_score() -> None:
    model = LinearModel(np.array([2.0, -1.0]), 3.0, np.array([0.0, 1.0]), np.array([4.0, 2.0]))
    found = LinearContributions.of_model(model, np.array([1.0, 1.5]))
    row = np.array([1e6, -1e6])
    assert found.of(row).tolist() == [6, 0.5]
    assert found.expected + found.of(row).sum() == model.predict(row[None])[0] == 10.0


def test_the_state_of_an_empty_range_is_refused() -> None:
    model = LinearModel(np.ones(2), 0.0, np.zeros(2), np.ones(2))
    state = LinearContributions.of_model(model, np.zeros(2)).state()
    with pytest.raises(TrainingError, match="low <= high"):
        contributions_from_state(state | {"high": -np.ones(2)})
    with pytest.raises(ValueError, match="missing \\['high'\\]"):
        contributions_from_state({name: array for name, array in state.items() if name != "high"})


def test_the_state_gives_the_same_answers(table: Any) -> None:
    X, y = table
    trees = TreeContributions(from_sklearn(RandomForestRegressor(3, random_state=0).fit(X, y)))
    linear = LinearContributions(LinearModel(np.ones(6), 0.0), np.zeros(6), 1.0)
    clipped = LinearModel(np.ones(6), 0.0, np.zeros(6), np.full(6, 1e-3))
    for first in (trees, linear, LinearContributions(clipped, np.zeros(6), 1.0)):
        again = contributions_from_state(first.state())
        assert np.array_equal(again.of(X[0]), first.of(X[0]))
        assert again.expected == first.expected


def _both(trees: TreeEnsemble, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the compiled kernel and what numpy says of each row."""
    compiled, plain = TreeContributions(trees), TreeContributions(trees)
    assert compiled._paths._kernel is not None
    plain._paths.__dict__["_kernel"] = None
    return tuple(np.array([found.of(x) for x in rows]) for found in (compiled, plain))  # type: ignore[return-value]


@pytest.mark.skipif(getattr(native().library, "contributions", None) is None, reason="no kernel")
@pytest.mark.parametrize("leaves", [2, 5, 60])
def test_the_compiled_kernel_says_what_numpy_says(table: Any, leaves: int) -> None:
    X, y = table
    holes = np.where(np.random.default_rng(3).random(X.shape) < 0.2, np.nan, X)
    settings = {"num_leaves": leaves, "min_data_in_leaf": 2, "verbosity": -1, "num_threads": 1}
    boosted = from_lightgbm(lightgbm.train(settings, lightgbm.Dataset(holes, y), 40))
    forest = from_sklearn(RandomForestRegressor(5, random_state=0).fit(X, y))
    codes, target = category_table(leaves, gaps=True)
    categories = from_lightgbm(category_booster(codes, target, num_leaves=leaves))
    edges = np.resize(np.concatenate(list(boosted.thresholds().values())), (20, 6))
    odd = np.array([[np.inf] * 6, [-np.inf] * 6, [np.nan] * 6])
    for trees, rows in (
        (boosted, np.vstack([holes[:40], edges, odd])),
        (forest, X[:40]),
        (categories, odd_rows(codes, 4, 60)),
    ):
        fast, slow = _both(trees, rows)
        np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)


@pytest.mark.skipif(getattr(native().library, "contributions", None) is None, reason="no kernel")
def test_a_row_that_is_too_short_is_refused_and_paths_that_are_too_long_go_without_kernel() -> None:
    random = np.random.default_rng(5)
    X = random.normal(size=(3000, 40))
    y = X @ random.normal(size=40)
    boosted = from_lightgbm(
        lightgbm.train(
            {"num_leaves": 7, "verbosity": -1, "num_threads": 1}, lightgbm.Dataset(X, y), 20
        )
    )
    with pytest.raises(IndexError, match="a row of 2 features, the trees ask for"):
        TreeContributions(boosted).of(X[0, :2])
    chain = TreeContributions(_chain(40))
    assert chain._paths._kernel is None
    row = np.ones(40)
    assert chain.expected + chain.of(row).sum() == pytest.approx(chain.trees.predict(row[None])[0])


def _chain(length: int) -> TreeEnsemble:
    """One tree that asks for each of `length` features, one below the other."""
    inner = np.arange(length)
    n = 2 * length + 1  # node i's left child is the leaf length + i, its right child is i + 1
    right = np.append(inner[1:], n - 1)
    none = np.full(n - length, -1)
    return TreeEnsemble(
        feature=np.concatenate([inner, none]).astype(np.int32),
        threshold=np.zeros(n),
        left=np.concatenate([inner + length, none]).astype(np.int32),
        right=np.concatenate([right, none]).astype(np.int32),
        value=np.concatenate([np.zeros(length), np.arange(length + 1.0)]),
        missing_left=np.zeros(n, dtype=bool),
        cover=np.concatenate([2.0 * (length + 1 - inner), np.full(n - length, 2.0)]),
        roots=np.zeros(1, dtype=np.int32),
        n_features=length,
        base=1.0,
    )
