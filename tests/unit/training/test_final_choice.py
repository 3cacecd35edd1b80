"""The final model is never worse than a plain LightGBM, by cross-validation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasador.contract.reader import from_dict
from tasador.data.table import Part, SealedPart
from tasador.selection.feature_worth import BASELINE_PARAMS
from tasador.selection.search.grid_search import CandidateResult, SearchResult
from tasador.selection.search.optuna_sweep import SweepResult
from tasador.settings.run import (
    FeatureSettings,
    ModelSettings,
    RegisterSettings,
    RunSettings,
    SelectionSettings,
    SweepSettings,
)
from tasador.training.context import (
    Evidence,
    FeatureChoice,
    Features,
    Rows,
    RunContext,
    StoredTable,
    Sweep,
)
from tasador.training.final_model import FinalChoice, choose_final, fit_final, prove
from tasador.training.model_steps import pipeline_of

CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {"a": {"kind": "number"}, "b": {"kind": "number"}},
        "target": {"name": "y"},
    }
)


GROUPED = from_dict(
    {
        "name": "t",
        "columns": {
            "a": {"kind": "number"},
            "b": {"kind": "number"},
            "kind": {"kind": "category", "categories": ["flat", "house", "boat"], "role": "group"},
        },
        "target": {"name": "y"},
    }
)
Floats = NDArray[np.float64]


def evidence(
    tmp_path: Path,
    settings: RunSettings,
    X: Floats,
    y: Floats,
    name: str,
    params: dict[str, Any],
) -> tuple[RunContext, Evidence]:
    """Return a run that has come as far as the final model, with a sweep's model on these rows."""
    run = RunContext(settings, "run", "now", tmp_path, tmp_path)
    train = Part(X, y, np.arange(len(y), dtype=np.uint64))
    result = CandidateResult(name, params, ({"mae": 1.0, "wmape": 1.0},) * 3, (), 0.0)
    choice = FeatureChoice({}, None, comparables=False)
    fitted, Z = pipeline_of(run, choice).fit_transform(X, y)
    made = Evidence(
        StoredTable("hash", "real", "here"),
        Rows(train, SealedPart(train), 0),
        Features(choice, None, fitted, Z),
        SearchResult("mae", (result,)),
        Sweep(SweepResult(name, "wmape", result, (result,), params), []),
    )
    return run, made


def chosen(
    tmp_path: Path,
    name: str,
    params: dict[str, Any],
    *,
    compared: tuple[str, ...],
    average: int = 2,
) -> FinalChoice:
    """Return what is made of a sweep's model on rows that interact, which trees find out."""
    random = np.random.default_rng(2)
    X = random.normal(size=(300, 2))
    y = 20 + 8 * np.sign(X[:, 0] * X[:, 1]) + X[:, 0] + random.normal(0, 0.3, 300)
    settings = RunSettings(
        CONTRACT,
        selection=SelectionSettings({n: {} for n in compared}, folds=3),
        sweep=SweepSettings(trials=0),
        register=RegisterSettings(average=average),
    )
    return choose_final(*evidence(tmp_path, settings, X, y, name, params))


def grouped_run(
    tmp_path: Path,
    slopes: tuple[float, float, float],
    *,
    name: str = "lightgbm",
    average: int = 1,
    model: ModelSettings = ModelSettings(),  # noqa: B008 - frozen
    features: FeatureSettings = FeatureSettings(),  # noqa: B008 - frozen
) -> tuple[RunContext, Evidence]:
    """Return a run on 2 100 rows, of which 60 are boats, with a slope for each kind."""
    random = np.random.default_rng(3)
    kind = np.repeat([0.0, 1.0, 2.0], [1140, 900, 60])
    X = np.column_stack([random.uniform(0, 10, (len(kind), 2)), kind])
    y = 60 + np.array(slopes)[kind.astype(int)] * X[:, 0] + random.normal(0, 1.0, len(kind))
    settings = RunSettings(
        GROUPED,
        selection=SelectionSettings({name: {}}, folds=3),
        sweep=SweepSettings(trials=0, family=name),
        register=RegisterSettings(average=average, parity_rows=3000),
        model=model,
        features=features,
    )
    boosted = {"n_estimators": 60, "num_leaves": 8, "min_child_samples": 10}
    return evidence(tmp_path, settings, X, y, name, boosted if name == "lightgbm" else {})


#: What is dear in one kind is cheap in the other.
APART, ALIKE = (5.0, -5.0, 5.0), (5.0, 5.0, 5.0)


@pytest.mark.parametrize("most_one_hot", [12, 2])
def test_kinds_with_slopes_of_their_own_get_models_of_their_own(
    tmp_path: Path, most_one_hot: int
) -> None:
    features = FeatureSettings(max_one_hot=most_one_hot)
    run, made = grouped_run(tmp_path, APART, features=features)
    choice = choose_final(run, made)
    assert [member.grouped for member in choice.members] == [True]
    groups = choice.groups
    assert groups is not None
    assert groups.outcome == "used"
    assert groups.grouped < 0.995 * groups.pooled
    assert "models per kind are used: wMAPE" in groups.sentence
    assert groups.sentence.endswith("levels with their own: flat, house; pooled for the rest")
    # the few boats, and a kind that nobody knows, are valued by the model of all rows
    fitted = fit_final(run, made, choice)
    final = prove(run, fitted, made.features.Z, 1)
    assert final.parity.rows >= 3000
    X = made.train.X[::10].copy()
    X[:50, 2] = np.resize([np.nan, 3.0, 2.0], 50)
    Z = made.features.fitted.transform(X)
    score = fitted.onnx.predict(Z)
    np.testing.assert_allclose(score, fitted.library(Z), rtol=1e-9)
    pooled = replace(choice, members=(replace(choice.members[0], grouped=False),))
    of_all = fit_final(run, made, pooled).onnx.predict(Z)
    np.testing.assert_allclose(score[:50], of_all[:50], rtol=1e-9)
    assert np.abs(score[50:] - of_all[50:]).max() > 0.5


def test_the_pooled_model_wins_where_kinds_are_alike_and_says_so(tmp_path: Path) -> None:
    run, made = grouped_run(tmp_path, ALIKE)
    choice = choose_final(run, made)
    assert not any(member.grouped for member in choice.members)
    assert choice.groups is not None
    assert choice.groups.outcome == "pooled"
    assert choice.groups.pooled < choice.groups.grouped
    assert choice.groups.sentence.startswith("models per kind: the pooled model wins (wMAPE ")
    never = choose_final(*grouped_run(tmp_path, ALIKE, model=ModelSettings(group="never")))
    assert never.groups is None
    assert never.members == choice.members
    np.testing.assert_array_equal(never.cv.score, choice.cv.score)


def test_models_per_kind_may_be_averaged_with_others(tmp_path: Path) -> None:
    choice = choose_final(*grouped_run(tmp_path, APART, average=3))
    assert choice.members[0].grouped
    assert choice.groups is not None
    assert choice.groups.outcome == ("averaged" if len(choice.members) > 1 else "used")
    assert choice.groups.grouped == [p for p in choice.picks if p.taken][-1].error


def test_models_per_kind_are_not_tried_where_there_are_none(tmp_path: Path) -> None:
    ridge = choose_final(*grouped_run(tmp_path, APART, name="ridge")).groups
    assert ridge is not None
    assert "not tried, Ridge regression is one model for all rows" in ridge.sentence
    run, made = grouped_run(tmp_path, APART)
    few = evidence(
        tmp_path, run.settings, made.train.X[1000:1300], made.train.y[1000:1300],
        "lightgbm", {"n_estimators": 5},
    )  # fmt: skip
    found = choose_final(*few)
    assert found.groups is not None
    assert (
        found.groups.sentence == "models per kind: not tried, none of several levels has 500 rows"
    )


def test_a_model_worse_than_the_baseline_gives_way_to_it(tmp_path: Path) -> None:
    found = chosen(tmp_path, "ridge", {"alpha": 1.0}, compared=("ridge", "lightgbm"))
    assert [m.params for m in found.members] == [BASELINE_PARAMS]
    assert found.baseline.outcome == "final model"
    assert found.baseline.error < found.baseline.error_before
    assert found.cv.metrics["wmape"] <= found.baseline.error * 1.0001
    assert "the plain LightGBM is the final model" in found.baseline.sentence


def test_a_family_that_was_not_compared_is_not_taken_but_the_card_says_so(tmp_path: Path) -> None:
    found = chosen(tmp_path, "ridge", {"alpha": 1.0}, compared=("ridge",))
    assert [m.family for m in found.members] == ["ridge"]
    assert found.baseline.outcome == "better, but not compared"
    assert "lightgbm is not among selection.families" in found.baseline.sentence


def test_a_model_that_is_no_worse_stays_and_may_be_averaged_with_the_baseline(
    tmp_path: Path,
) -> None:
    params = {"n_estimators": 200, "min_child_samples": 5, "objective": "l2"}
    found = chosen(tmp_path, "lightgbm", params, compared=("lightgbm",))
    assert params in [m.params for m in found.members]
    assert found.baseline.error_final <= min(found.baseline.error, found.baseline.error_before)
    alone = chosen(tmp_path, "lightgbm", params, compared=("lightgbm",), average=1)
    assert len(alone.members) == 1
    assert alone.groups is None  # the contract has no group


@pytest.mark.parametrize("metric", ["wmape", "mae", "r2"])
def test_the_spread_between_folds_stands_beside_each_figure(tmp_path: Path, metric: str) -> None:
    found = chosen(tmp_path, "ridge", {"alpha": 1.0}, compared=("ridge",))
    assert 0 < found.cv.spread[metric] < abs(found.cv.metrics[metric]) + 1
