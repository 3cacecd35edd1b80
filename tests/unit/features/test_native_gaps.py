from __future__ import annotations

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.data.table import Part
from tasador.features.imputers import Imputer
from tasador.features.pipeline import FeaturePipeline, FeatureSettings, FittedFeatures
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families.catalog import FAMILIES, family
from tasador.selection.folds import make_folds, random_assignment
from tasador.selection.search.grid_search import grid_search
from tasador.settings.run import SelectionSettings
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor
from tasador.trees.tree_shap import TreeContributions

CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {
            "longitude": {"kind": "number", "role": "longitude"},
            "latitude": {"kind": "number", "role": "latitude"},
            "rooms": {"kind": "number", "nullable": True},
            "age": {"kind": "number", "nullable": True},
        },
        "target": {"name": "y"},
        "ratios": {"rooms_per_year": {"numerator": "rooms", "denominator": "age"}},
    }
)
RANDOM = np.random.default_rng(9)
N = 400
X = np.column_stack(
    [
        RANDOM.uniform(0, 1, N),
        RANDOM.uniform(0, 1, N),
        RANDOM.gamma(3, 2, N),
        RANDOM.uniform(1, 50, N),
    ]
)
Y = 3 * X[:, 2] + X[:, 0] + RANDOM.normal(0, 0.1, N)
X[RANDOM.random(N) < 0.2, 2] = np.nan
PIPELINE = FeaturePipeline(
    CONTRACT, FeatureSettings(clusters=3), 1, {"rooms": "native", "age": "native"}
)


def test_gaps_stay_in_the_columns_own_feature_and_nowhere_else() -> None:
    fitted, Z = PIPELINE.fit_transform(X, Y)
    rows = X.copy()
    rows[:5, 3] = np.nan  # no training row lacked it: its median stands in
    for values, source in ((Z, X), (fitted.transform(rows), rows)):
        gaps = np.isnan(values)
        column = fitted.names.index("rooms")
        assert np.array_equal(gaps[:, column], np.isnan(source[:, 2]))
        assert gaps.sum() == gaps[:, column].sum()


def test_one_row_with_gaps_is_the_same_alone_and_the_state_comes_back() -> None:
    fitted, _ = PIPELINE.fit_transform(X, Y)
    spec, arrays = fitted.state()
    again = FittedFeatures.from_state(CONTRACT, spec, arrays)
    together = fitted.transform(X)
    alone = np.vstack([again.transform(X[i : i + 1]) for i in range(60)])
    assert np.array_equal(together[:60], alone, equal_nan=True)
    imputer, values = fitted.imputer.state()
    with pytest.raises(ValueError, match="lies outside the 4 columns"):
        Imputer.from_state({**imputer, "native": [7]}, values)


def test_models_that_take_gaps_are_exported_and_explained_with_them() -> None:
    _, Z = PIPELINE.fit_transform(X, Y)
    for name in ("lightgbm", "hist_gradient_boosting"):
        chosen = family(name)
        model = chosen.fit({chosen.prefix: 30}, Z, Y, 1)
        exported = chosen.export(model)
        expected = chosen.predict(model, Z)
        onnx = OnnxRegressor(to_onnx(exported))
        np.testing.assert_allclose(onnx.predict(Z), expected, rtol=0, atol=1e-9)
        explained = TreeContributions(exported)
        for row in np.flatnonzero(np.isnan(Z).any(axis=1))[:5]:
            base, parts = explained.expected, explained.of(Z[row])
            assert base + float(np.sum(parts)) == pytest.approx(expected[row], abs=1e-9)


def test_families_that_take_no_gaps_fail_by_name_and_the_others_go_on() -> None:
    part = Part(X, Y, np.arange(N, dtype=np.uint64))
    transform = TargetTransform("none")
    folds = list(make_folds(part, random_assignment(N, 3, 1), PIPELINE, transform))
    settings = SelectionSettings(
        {"lightgbm": {"n_estimators": [20]}, "ridge": {"alpha": [1.0]}}, folds=3
    )
    result = grid_search(settings, folds, part, transform, 1, gaps=True)
    assert result.best.family == "lightgbm"
    assert result.candidates[-1].error is not None
    assert "ridge takes no missing values" in result.candidates[-1].error
    takers = {name for name, found in FAMILIES.items() if found.takes_missing}
    assert takers == {"lightgbm", "hist_gradient_boosting", "xgboost", "catboost"}
