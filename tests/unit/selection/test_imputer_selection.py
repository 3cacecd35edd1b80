"""The choice of an imputer: the rule on constructed scores, and evidence from a small table."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasador.contract.model import Column, TableContract, Target
from tasador.data.table import Part
from tasador.features.imputation import STRATEGIES
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.imputer_selection import (
    ImputerScore,
    choose_cheapest,
    columns_to_impute,
    compare_imputers,
)
from tasador.settings.run import ImputationSettings

CONTRACT = TableContract(
    name="flats",
    title="Flats",
    model_name="flats",
    columns=(
        Column("rooms", "number"),
        Column("beds", "number", nullable=True),
        Column("noise", "number", nullable=True),
        Column("kind", "category", categories=("a", "b"), nullable=True),
    ),
    target=Target("price", unit="EUR"),
)
QUICK = ImputationSettings(folds=3, repeats=1)


def part(n: int = 240) -> Part:
    random = np.random.default_rng(0)
    rooms, kind = random.uniform(10, 100, n), random.integers(0, 2, n).astype(float)
    beds = 0.5 * rooms + random.normal(0, 0.1, n)
    X = np.column_stack([rooms, beds, random.normal(0, 1, n), kind])
    return Part(X, 1000.0 * beds + random.normal(0, 10, n), np.arange(n).astype(np.uint64))


def score(strategy: str, *errors: float) -> ImputerScore:
    return ImputerScore(strategy, errors, 0.0)


def test_the_cheapest_within_one_standard_error_of_the_best_is_taken():
    scores = [
        score("median", 30.0, 31.0, 32.0),
        score("iterative_linear", 10.5, 11.0, 11.5),
        score("knn", 9.5, 10.5, 11.5),
        score("iterative_rf", 9.0, 10.0, 11.0),  # mean 10, spread 1
    ]
    chosen, best, limit = choose_cheapest(scores, folds=3)
    assert best.strategy == "iterative_rf"
    assert limit == pytest.approx(10.0 + np.sqrt(1 / 3 + 1 / 2))
    assert chosen.strategy == "knn"  # 10.5 is within 10.91, the linear one's 11 is not
    worse = [scores[0], scores[1], score("knn", 10.0, 11.0, 12.0), scores[3]]
    assert choose_cheapest(worse, folds=3)[0].strategy == "iterative_rf"


def test_without_spread_only_the_best_will_do_and_of_equals_the_cheapest():
    scores = [score("median", 3.0, 3.0), score("mean", 2.0, 2.0), score("knn", 2.0, 2.0)]
    chosen, best, limit = choose_cheapest(scores, folds=2)
    assert (chosen.strategy, best.strategy, limit) == ("mean", "mean", 2.0)


def test_columns_that_may_lack_or_do_lack_are_compared_and_categories_are_not():
    X = part().X
    assert columns_to_impute(CONTRACT, X) == ["beds", "noise"]
    X[0, 0] = np.nan
    assert columns_to_impute(CONTRACT, X) == ["rooms", "beds", "noise"]


def test_each_column_gets_what_restores_it_and_noise_gets_the_cheapest():
    found = compare_imputers(QUICK, CONTRACT, part(), TargetTransform("none"), seed=1)
    beds, noise = found
    assert [s.strategy for s in beds.scores] == [*STRATEGIES, "native"]
    assert beds.scores[-1].errors == ()  # it restores nothing, but has an effect on the model
    assert beds.scores[-1].downstream is not None
    assert (beds.best, beds.chosen) == ("iterative_linear", "iterative_linear")
    assert noise.chosen in ("median", "mean")
    by_name = {s.strategy: s for s in beds.scores}
    assert len(by_name["knn"].errors) == 3
    # what restores the column that decides the price also values masked rows better
    assert by_name["iterative_linear"].downstream < 0.8 * by_name["median"].downstream
    assert beds.unmasked is not None


@pytest.mark.no_cover
def test_the_comparison_is_the_same_for_the_same_seed_and_never_changes_the_rows():
    rows = part()
    before = rows.X.copy()
    one, two = (
        compare_imputers(QUICK, CONTRACT, rows, TargetTransform("none"), seed=4) for _ in range(2)
    )
    assert np.array_equal(rows.X, before)
    for first, second in zip(one, two, strict=True):
        for a, b in zip(first.scores, second.scores, strict=True):
            assert dataclasses.replace(a, seconds=0.0) == dataclasses.replace(b, seconds=0.0)


def test_a_strategy_that_was_named_is_taken_whatever_the_evidence_says():
    settings = dataclasses.replace(QUICK, strategy="median", max_rows=150)
    beds, noise = compare_imputers(settings, CONTRACT, part(), TargetTransform("none"), seed=1)
    assert (beds.chosen, noise.chosen) == ("median", "median")
    assert beds.best == "iterative_linear"


def test_columns_beyond_the_most_get_their_median_or_what_was_named():
    rows = part()
    rows.X[:40, 1] = np.nan  # beds lacks most and is the one compared
    settings = dataclasses.replace(QUICK, max_columns=1)
    beds, noise = compare_imputers(settings, CONTRACT, rows, TargetTransform("none"), seed=1)
    assert beds.scores
    assert noise.scores == ()
    assert (beds.chosen, noise.chosen) == ("iterative_linear", "median")
    named = dataclasses.replace(settings, strategy="mean")
    assert compare_imputers(named, CONTRACT, rows, TargetTransform("none"), 1)[1].chosen == "mean"


def test_imputers_are_compared_only_on_columns_with_enough_gaps():
    rows = part()
    rows.X[:40, 1] = np.nan
    rows.X[:2, 2] = np.nan
    settings = dataclasses.replace(QUICK, min_gap_share=0.05)
    beds, noise = compare_imputers(settings, CONTRACT, rows, TargetTransform("none"), seed=1)
    assert beds.scores
    assert (noise.chosen, noise.scores) == ("median", ())


def test_too_few_known_values_leave_the_median():
    rows = part()
    rows.X[30:, 1] = np.nan
    beds, _ = compare_imputers(QUICK, CONTRACT, rows, TargetTransform("none"), seed=1)
    assert (beds.chosen, beds.best, beds.scores) == ("median", None, ())


def test_on_a_wide_table_the_evidence_still_tells_what_a_column_is_worth():
    random = np.random.default_rng(3)
    n, numbers = 200, 130
    X = random.normal(0, 1, (n, numbers))
    X[:, 1] = X[:, 0] + random.normal(0, 0.1, n)
    y = 100.0 + 20.0 * X[:, 1] + random.normal(0, 1, n)
    wide = TableContract(
        name="wide",
        title="Wide",
        model_name="wide",
        columns=tuple(Column(f"x{i}", "number", nullable=i in (1, 9)) for i in range(numbers)),
        target=Target("price"),
    )
    rows = Part(X, y, np.arange(n).astype(np.uint64))
    useful, useless = compare_imputers(QUICK, wide, rows, TargetTransform("none"), seed=1)
    assert (useful.column, useless.column) == ("x1", "x9")
    by_name = {s.strategy: s.downstream for s in useful.scores}
    assert by_name["iterative_linear"] < 0.8 * by_name["median"]
    assert useful.unmasked < 0.8 * by_name["median"]
    by_name = {s.strategy: s.downstream for s in useless.scores}
    assert by_name["iterative_linear"] == pytest.approx(by_name["median"], rel=0.1)
