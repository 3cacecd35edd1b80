"""Trees behind splits on a category's levels score as the models do that rows are routed to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingRegressor

from fixtures.random_trees import grown
from tasador.trees.ensemble import TreeEnsemble
from tasador.trees.importers import from_sklearn
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor
from tasador.trees.routing import Level, places_of, routed
from tasador.trees.tree_shap import TreeContributions

ONE_HOT = [Level("a", 0), Level("b", 1), Level("c", 2)]
CODES = [Level("a", 3, 2), Level("b", 3, 0), Level("c", 3, 7)]


def rows(seed: int, n: int = 300) -> np.ndarray:
    """Return rows that may be of no level, of two, and of one that is missing or unknown."""
    random = np.random.default_rng(seed)
    one_hot = random.choice([0.0, 1.0, np.nan], (n, 3), p=[0.6, 0.35, 0.05])
    codes = random.choice([0, 1, 2, 7, 9, -1, 2.9, np.nan], (n, 1))
    return np.concatenate([one_hot, codes, random.normal(size=(n, 2))], axis=1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["one_hot", "codes"]), st.integers(1, 3))
def test_the_ensemble_scores_rows_as_the_model_of_their_level_does(
    seed: int, kind: str, n_levels: int
) -> None:
    levels = {"one_hot": ONE_HOT, "codes": CODES}[kind][:n_levels]
    # of libraries that round inputs, and of such that split on sets of codes
    models = [
        grown(seed + i, 1 + i, 9, 6, float32=i % 2 == 1, categories=8 * (i % 2 == 0))
        for i in range(n_levels + 1)
    ]
    Z = rows(seed)
    place = places_of(Z, levels)
    expected = np.choose(place, [model.predict(Z) for model in models])
    counts = np.bincount(place, minlength=n_levels + 1)
    trees = routed(list(zip(levels, models, strict=False)), models[-1], counts.tolist())
    assert trees.n_trees == sum(model.n_trees for model in models)
    size = max(float(np.abs(model.value).sum() * 3 + abs(model.base)) for model in models)
    found = trees.predict(Z)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * size)
    np.testing.assert_allclose(OnnxRegressor(to_onnx(trees)).predict(Z), found, rtol=1e-12)
    parts = TreeContributions(trees)
    some = Z[:20]
    total = parts.expected + parts.of_rows(some).sum(axis=1)
    np.testing.assert_allclose(total, found[:20], rtol=0, atol=1e-9 * size)


def test_covers_of_the_levels_make_the_expected_score_that_of_the_training_rows() -> None:
    random = np.random.default_rng(5)
    Z = np.concatenate(
        [np.eye(4, 3)[random.integers(0, 4, 4000)], random.random((4000, 3))], axis=1
    )
    y = Z[:, 0] * 40 + Z[:, 1] * Z[:, 4] * 9 + Z[:, 3]
    place = places_of(Z, ONE_HOT)

    def fitted(of: np.ndarray) -> TreeEnsemble:
        model = GradientBoostingRegressor(n_estimators=8, max_depth=3).fit(Z[of], y[of])
        return from_sklearn(model)

    own = [(level, fitted(place == i)) for i, level in enumerate(ONE_HOT)]
    trees = routed(own, fitted(place == 3), np.bincount(place).tolist())
    parts = TreeContributions(trees)
    assert parts.expected == pytest.approx(float(np.mean(trees.predict(Z))), rel=1e-9)
    assert parts.of_rows(Z[place == 0][:5])[:, 0].min() > 20  # most of the level's 40


def test_a_level_that_no_training_row_has_is_explained_too() -> None:
    models = [grown(seed, 2, 5, 6, float32=False) for seed in (1, 2)]
    trees = routed([(ONE_HOT[0], models[0])], models[1], [0, 0])
    assert np.isfinite(TreeContributions(trees).of_rows(rows(3, 10))).all()
