"""What families see of the features, the worth of features, and the plain baseline."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import CATEGORICAL, fit_model, visible
from tasador.selection.feature_worth import WAYS, choose_inputs, measure_baseline, measure_worth
from tasador.selection.folds import Fold, make_folds, random_assignment
from tasador.selection.search.grid_search import CandidateResult, SearchResult
from tasador.settings.run import SelectionSettings

LEVELS = 60
CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {
            "longitude": {"kind": "number", "role": "longitude"},
            "latitude": {"kind": "number", "role": "latitude"},
            "town": {"kind": "category", "categories": [f"t{i}" for i in range(LEVELS)]},
        },
        "target": {"name": "y"},
    }
)
TRANSFORM = TargetTransform("none")
SMALL = {"n_estimators": 20, "num_leaves": 7}


def part_of(rows: int, *, by_town: bool = False, by_place: bool = False) -> Part:
    """Return rows whose value depends on the town, on the place, or on chance alone."""
    random = np.random.default_rng(5)
    place = random.uniform(0, 8, (rows, 2))
    town = random.integers(0, LEVELS, rows).astype(float)
    whim = random.permutation(LEVELS)[town.astype(int)]
    bumps = 30 * np.sin(5 * place[:, 0]) * np.cos(5 * place[:, 1])
    y = 100 + by_town * whim + by_place * bumps + random.normal(0, 2, rows)
    return Part(np.column_stack([place, town]), y, np.arange(rows, dtype=np.uint64))


def folds_of(part: Part, *, comparables: bool = False) -> list[Fold]:
    pipeline = FeaturePipeline(CONTRACT, FeatureSettings(comparables=comparables))
    return list(make_folds(part, random_assignment(len(part), 3, 1), pipeline, TRANSFORM))


@pytest.fixture(scope="module")
def part() -> Part:
    return part_of(1500, by_town=True)


@pytest.fixture(scope="module")
def fold(part: Part) -> Fold:
    return folds_of(part)[0]


@pytest.mark.parametrize("name", ["ridge", "decision_tree"])
def test_families_that_cannot_use_codes_never_look_at_them(
    name: str, part: Part, fold: Fold
) -> None:
    chosen = family(name)
    params = {"max_depth": 4} if "alpha" not in chosen.parameters else {"alpha": 0.1}
    model = fit_model(chosen, params, fold.Z_fit, fold.kinds, part.y[fold.fit_rows], 1)
    other = fold.Z_held.copy()
    other[:, fold.kinds.index("code")] = 3.0
    assert np.array_equal(chosen.predict(model, other), chosen.predict(model, fold.Z_held))


@pytest.mark.parametrize(
    ("inputs", "seen"),
    [("native", "code"), ("statistics", "statistic"), ("plain", "code")],
)
def test_lightgbm_sees_the_codes_or_the_statistics_of_a_category(
    inputs: str, seen: str, part: Part, fold: Fold
) -> None:
    chosen = family("lightgbm")
    params = {**SMALL, "inputs": inputs, "objective": "l2"}
    model = fit_model(chosen, params, fold.Z_fit, fold.kinds, part.y[fold.fit_rows], 1, 1)
    used = {kind for kind, n in zip(fold.kinds, model.feature_importance(), strict=True) if n}
    assert used & {"code", "statistic"} == {seen}


def test_lightgbm_sees_both_by_default(fold: Fold) -> None:
    params, Z = visible(family("lightgbm"), SMALL, fold.Z_fit, fold.kinds)
    assert params == {**SMALL, CATEGORICAL: [fold.kinds.index("code")]}
    assert Z is fold.Z_fit


def test_a_model_that_splits_on_codes_is_exported_with_its_sets(part: Part, fold: Fold) -> None:
    chosen = family("lightgbm")
    params = {**SMALL, "inputs": "native"}
    model = fit_model(chosen, params, fold.Z_fit, fold.kinds, part.y[fold.fit_rows], 1, 1)
    rows = fold.Z_held.copy()
    rows[:10, fold.kinds.index("code")] = LEVELS  # unknown
    rows[10:20, fold.kinds.index("code")] = LEVELS + 1  # missing
    assert chosen.export(model).predict(rows) == pytest.approx(chosen.predict(model, rows), 1e-12)


@pytest.mark.no_cover
def test_the_baseline_sees_the_tables_own_columns_only(part: Part) -> None:
    folds = folds_of(part, comparables=True)
    chosen, fold = family("lightgbm"), folds[0]
    params = {**SMALL, "inputs": "plain"}
    model = fit_model(chosen, params, fold.Z_fit, fold.kinds, part.y[fold.fit_rows], 1, 1)
    used = {kind for kind, n in zip(fold.kinds, model.feature_importance(), strict=True) if n}
    assert used <= {"number", "code"}
    found = measure_baseline(SelectionSettings(folds=3), folds, part, TRANSFORM, 1)
    assert (len(found.held), found.params["inputs"]) == (3, "plain")
    assert found.mean("mae") < np.mean(np.abs(part.y - np.median(part.y)))


@pytest.mark.parametrize("by_place", [True, False])
@pytest.mark.no_cover
def test_comparables_are_kept_where_place_decides_and_dropped_where_it_says_nothing(
    by_place: bool,
) -> None:
    part = part_of(900, by_place=by_place)
    worth = measure_worth(
        "comparable",
        folds_of(part, comparables=True),
        part,
        TRANSFORM,
        metric="mae",
        seed=1,
    )
    assert worth is not None
    assert worth.pays == by_place
    assert (worth.error < worth.error_without) == (worth.gain > 0)


def test_without_comparables_there_is_nothing_to_measure(part: Part) -> None:
    folds = folds_of(part)
    assert measure_worth("comparable", folds, part, TRANSFORM, metric="mae", seed=1) is None


def test_categories_of_many_levels_are_seen_in_the_way_that_errs_least(
    part: Part,
) -> None:
    folds = folds_of(part)
    choice = choose_inputs(folds, part, TRANSFORM, metric="mae", seed=1)
    assert choice is not None
    assert list(choice.errors) == list(WAYS)
    assert choice.errors[choice.chosen] == min(choice.errors.values())
    # each way shows the model other columns, or smooths them otherwise
    assert len(set(choice.errors.values())) == len(WAYS)
    few = [replace(fold, kinds=("number",) * len(fold.kinds)) for fold in folds]
    assert choose_inputs(few, part, TRANSFORM, metric="mae", seed=1) is None


def test_statistics_are_taken_where_codes_add_only_noise() -> None:
    part = part_of(1500, by_town=False)
    level = np.bincount(part.X[:, 2].astype(int), minlength=LEVELS)
    # the value depends on how often a level occurs, which only a statistic says
    part = Part(part.X, 100.0 + 5.0 * level[part.X[:, 2].astype(int)], part.row_hash)
    choice = choose_inputs(folds_of(part), part, TRANSFORM, metric="mae", seed=1)
    assert choice is not None
    assert choice.chosen != "native"
    assert choice.errors["statistics"] < choice.errors["native"]


def result(name: str, scores: list[float]) -> CandidateResult:
    return CandidateResult(name, {}, tuple({"mae": s} for s in scores), (), 1.0)


def test_families_that_tie_with_the_winner_are_tuned_with_it() -> None:
    winner = result("ridge", [10.0, 11.0, 9.0])
    tied = result("lightgbm", [10.4, 10.8, 9.2])
    behind = result("random_forest", [13.0, 14.1, 12.0])
    search = SearchResult("mae", (winner, tied, behind))
    assert [c.family for c in search.contenders(None)] == ["ridge", "lightgbm"]
    assert [c.family for c in search.contenders("random_forest")] == ["random_forest"]
    alone = SearchResult("mae", (winner, behind))
    assert [c.family for c in alone.contenders(None)] == ["ridge"]


_GROWING = """
import threading
import numpy as np
from tasador.selection.families.catalog import family

chosen = family("lightgbm")
Z = np.random.default_rng(1).normal(size=(200, 3))
y = Z[:, 0] + Z[:, 1] ** 2
steps = [5, 10, 20, 40]
growing = chosen.grow({"n_estimators": 40}, Z, y, 1, steps)
def go_on():
    chosen.predict(next(growing), Z)
for _ in steps:
    thread = threading.Thread(target=go_on)
    thread.start()
    thread.join()
"""


def test_a_model_that_finds_no_more_splits_says_nothing_wherever_it_goes_on_growing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _GROWING], capture_output=True, text=True, timeout=120, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
