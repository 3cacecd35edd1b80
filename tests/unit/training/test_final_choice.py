"""The final model is never worse than a plain LightGBM, by cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.data.table import Part, SealedPart
from tasador.selection.feature_worth import BASELINE_PARAMS
from tasador.selection.search.grid_search import CandidateResult, SearchResult
from tasador.selection.search.optuna_sweep import SweepResult
from tasador.settings.run import RegisterSettings, RunSettings, SelectionSettings, SweepSettings
from tasador.training.context import (
    Evidence,
    FeatureChoice,
    Features,
    Rows,
    RunContext,
    StoredTable,
    Sweep,
)
from tasador.training.final_model import FinalChoice, choose_final
from tasador.training.model_steps import pipeline_of

CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {"a": {"kind": "number"}, "b": {"kind": "number"}},
        "target": {"name": "y"},
    }
)


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
    run = RunContext(
        RunSettings(
            CONTRACT,
            selection=SelectionSettings({n: {} for n in compared}, folds=3),
            sweep=SweepSettings(trials=0),
            register=RegisterSettings(average=average),
        ),
        "run", "now", tmp_path, tmp_path,
    )  # fmt: skip
    train = Part(X, y, np.arange(300, dtype=np.uint64))
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
    return choose_final(run, made)


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


@pytest.mark.parametrize("metric", ["wmape", "mae", "r2"])
def test_the_spread_between_folds_stands_beside_each_figure(tmp_path: Path, metric: str) -> None:
    found = chosen(tmp_path, "ridge", {"alpha": 1.0}, compared=("ridge",))
    assert 0 < found.cv.spread[metric] < abs(found.cv.metrics[metric]) + 1
