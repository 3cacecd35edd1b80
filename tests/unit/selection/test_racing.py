"""The race: what cannot win is left early, what wins is what an exact search finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasador.contract.reader import from_dict
from tasador.core.errors import ConfigError
from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.folds import Fold, make_folds, random_assignment
from tasador.selection.search import racing as race
from tasador.selection.search.checkpoint import FoldScore, Journal
from tasador.selection.search.early_stopping import Growth, grow_group
from tasador.selection.search.grid_search import SearchResult, grid_search
from tasador.selection.search.shared_work import (
    Candidate,
    Drop,
    Group,
    estimate_group,
    group_candidates,
)
from tasador.settings.run import SelectionSettings

CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {name: {"kind": "number"} for name in "abc"},
        "target": {"name": "y"},
    }
)
TRANSFORM = TargetTransform("none")
GRID: dict[str, dict[str, list[Any]]] = {
    "gradient_boosting": {
        "n_estimators": [10, 20, 80],
        "learning_rate": [0.001, 0.1, 0.2],
        "max_depth": [3],
    },
    "random_forest": {"n_estimators": [10, 40], "max_depth": [1, None]},
    "extra_trees": {"n_estimators": [10, 20], "max_depth": [1, 2]},
    "ridge": {"alpha": [0.1, 1e9]},
}


@pytest.fixture(scope="module")
def part() -> Part:
    random = np.random.default_rng(2)
    X = random.uniform(-2, 2, (900, 3))
    y = 50 + 5 * np.sin(2 * X[:, 0]) + 4 * X[:, 1] * X[:, 2] + random.normal(0, 0.5, 900)
    return Part(X, y, np.arange(900, dtype=np.uint64))


@pytest.fixture(scope="module")
def folds(part: Part) -> list[Fold]:
    pipeline = FeaturePipeline(CONTRACT, FeatureSettings(comparables=False))
    return list(make_folds(part, random_assignment(len(part), 5, 1), pipeline, TRANSFORM))


def search(
    part: Part, folds: list[Fold], journal: Path | None = None, *, racing: bool = True
) -> SearchResult:
    settings = SelectionSettings(GRID, folds=5, racing=racing)
    return grid_search(settings, folds, part, TRANSFORM, 3, journal)


@pytest.fixture(scope="module")
def raced(part: Part, folds: list[Fold]) -> SearchResult:
    return search(part, folds)


@pytest.mark.no_cover
def test_the_winner_and_its_scores_are_those_of_the_exact_search(
    part: Part, folds: list[Fold], raced: SearchResult
) -> None:
    exact = search(part, folds, racing=False)
    assert raced.best.params == exact.best.params
    measured = {str((c.family, c.params)): c for c in exact.candidates}
    for candidate in raced.candidates:
        whole = measured[str((candidate.family, candidate.params))]
        for mine, theirs in zip(candidate.held, whole.held, strict=False):
            assert mine == pytest.approx(theirs, rel=1e-9)
    assert sum(len(c.held) for c in raced.candidates) < sum(len(c.held) for c in exact.candidates)


def test_what_cannot_win_is_given_up_while_it_grows_and_the_reason_is_kept(
    raced: SearchResult,
) -> None:
    reasons = {str((c.family, c.params)): c.dropped for c in raced.candidates}
    stumps = reasons[str(("random_forest", {"n_estimators": 40, "max_depth": 1}))]
    assert str(stumps).startswith("given up with 10 of its 40 steps on the first fold")
    assert "chance explains" in str(stumps)
    ridge = next(c for c in raced.candidates if c.family == "ridge")
    assert "after fold 1 of 5" in str(ridge.dropped)
    assert all(c.seconds > 0 for c in raced.candidates if c.family == "random_forest")


@pytest.mark.no_cover
def test_an_interrupted_race_goes_on_to_the_same_end(
    part: Part, folds: list[Fold], raced: SearchResult, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    search(part, folds, journal)
    lines = journal.read_text().splitlines(keepends=True)
    random = np.random.default_rng(0)
    for share in (0.3, 0.7):
        kept = random.permutation(len(lines))[: int(share * len(lines))]  # as threads would end
        journal.write_text("".join(lines[i] for i in sorted(kept)))
        again = search(part, folds, journal)
        assert [(c.params, c.held, c.dropped) for c in again.candidates] == [
            (c.params, c.held, c.dropped) for c in raced.candidates
        ]


def test_a_group_that_grows_unwatched_gives_what_it_gives_at_once(
    part: Part, folds: list[Fold]
) -> None:
    fold = folds[0]
    target = part.y[fold.fit_rows]
    candidates = [
        Candidate(i, "random_forest", {"n_estimators": n, "max_depth": depth, "max_features": 0.5})
        for i, (n, depth) in enumerate((n, d) for n in (4, 9) for d in (3, 8, 50, None))
    ]
    (group,) = group_candidates(candidates)
    common = (group, fold.Z_fit, target, [fold.Z_held, fold.Z_fit], 5)
    grown = {e.candidate.position: e for e in grow_group(*common, lambda _: None)}
    for whole in estimate_group(*common):
        for mine, theirs in zip(grown[whole.candidate.position].values, whole.values, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)


def test_stops_between_the_grids_steps_change_nothing(part: Part, folds: list[Fold]) -> None:
    fold, seen = folds[0], []
    target = part.y[fold.fit_rows]
    candidates = [
        Candidate(i, "gradient_boosting", {"n_estimators": n, "max_depth": 2, "subsample": 0.7})
        for i, n in enumerate((20, 80))
    ]
    (group,) = group_candidates(candidates)
    common = (group, fold.Z_fit, target, [fold.Z_held, fold.Z_fit], 5)
    grown = {
        e.candidate.position: e
        for e in grow_group(*common, lambda growth: seen.append(growth.steps))
    }
    assert seen == [10, 20, 30, 40, 50, 60, 70]
    for whole in estimate_group(*common):
        for mine, theirs in zip(grown[whole.candidate.position].values, whole.values, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)


def test_what_is_given_up_at_a_stop_before_the_first_step_of_the_grid_has_no_values(
    part: Part, folds: list[Fold]
) -> None:
    fold = folds[0]
    candidates = [
        Candidate(i, "random_forest", {"n_estimators": n, "max_depth": depth})
        for i, (n, depth) in enumerate((n, d) for n in (60, 90) for d in (2, 50, None))
    ]
    (group,) = group_candidates(candidates)
    why = race.Drop(0, 1.0, 0.5, (11, 90))
    common = (group, fold.Z_fit, part.y[fold.fit_rows], [fold.Z_held], 5)
    found = list(grow_group(*common, lambda _: why))
    assert [e.given_up for e in found] == [why] * 6
    assert all(e.values == () and e.seconds > 0 for e in found)
    # of one size there is no smaller model that tells how it will end
    (alone,) = group_candidates([c for c in candidates if c.params == candidates[0].params])
    (whole,) = grow_group(alone, *common[1:], lambda _: why)
    assert (whole.given_up, [len(values) for values in whole.values]) == (None, [len(fold.Z_held)])


def test_the_dear_wait_for_a_leader_among_the_cheap() -> None:
    def group(name: str, steps: int) -> Group:
        return group_candidates([Candidate(0, name, {"n_estimators": steps})])[0]

    cheap, forest = group("lightgbm", 100), group("random_forest", 300)
    boosted = [group("gradient_boosting", 100 + i) for i in range(3)]
    rounds = race.rounds([forest, *boosted, cheap])
    assert rounds[0] == [cheap]
    assert len(rounds) > 2
    assert sum(map(len, rounds)) == 5
    assert race.rounds([forest])[0] == [forest]
    assert race.rounds([]) == []


def growth(now: NDArray[np.float64], earlier: NDArray[np.float64], *, averages: bool) -> Growth:
    return Growth(50, 200, now, 25 if averages else 40, earlier, averages)


def test_what_growing_models_may_gain_is_granted_to_them() -> None:
    leader = np.random.default_rng(1).gamma(2.0, 1.0, 4000)

    def drop(now: float, gained: float, *, averages: bool) -> race.Drop | None:
        now_, earlier = leader + now, leader + now + gained
        grown = growth(now_, earlier, averages=averages)
        return race.find_hopeless(grown, lambda losses: losses, leader, 5)

    assert drop(0.5, 0.1, averages=True) is not None  # 0.5 - 2 * 0.1
    assert drop(0.5, 0.3, averages=True) is None
    assert drop(0.5, 0.02, averages=False) is not None  # 0.5 - 15 * 0.02
    assert drop(0.5, 0.04, averages=False) is None
    found = drop(0.5, 0.0, averages=True)
    assert found is not None
    assert found.behind == pytest.approx(0.5)
    few = growth(leader[:20] + 9, leader[:20] + 9, averages=True)
    assert race.find_hopeless(few, lambda losses: losses, leader[:20], 5) is None


def test_a_metric_that_is_no_mean_over_rows_cannot_race(part: Part) -> None:
    settings = SelectionSettings(GRID, scoring="median_ape", racing=True)
    with pytest.raises(ConfigError, match="cannot compare candidates row by row by median_ape"):
        grid_search(settings, [], part, TRANSFORM, 1)


def test_equals_are_seldom_dropped_in_all_rounds_together() -> None:
    random = np.random.default_rng(7)
    dropped = 0
    for _ in range(300):
        hard = random.gamma(2.0, 1.0, (5, 200))  # both models err on the same rows
        one, two = ([fold * random.lognormal(0, 0.3, 200) for fold in hard] for _ in range(2))
        for seen in range(1, 5):
            losses = {i: [f.astype(np.float32) for f in x[:seen]] for i, x in enumerate((one, two))}
            if race.find_drops(losses, losses, 5):
                dropped += 1
                break
    assert dropped <= 15


def test_the_journal_keeps_scores_losses_and_why_a_candidate_was_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (Candidate(i, "ridge", {"alpha": float(i)}) for i in range(2))
    losses = np.array([1.5, 2.5], np.float32)
    scores = [
        FoldScore(one, 0, {"mae": 1.0}, {"mae": 0.5}, 0.25, losses),
        FoldScore(one, 3, {}, {}, 0.5, drop=Drop(0, 1.0, 0.5, (10, 40))),
        FoldScore(other, 1, {"mae": 2.0}, {"mae": 1.5}, 0.125, drop=Drop(2, 1.0, 0.5)),
    ]
    for score in scores:
        Journal(tmp_path / "journal").append(score)
    journal = Journal(tmp_path / "journal")
    found = {**journal.known(one), **journal.known(other)}
    assert list(found) == [0, 3, 1]
    for want in scores:
        got = found[want.fold]
        names = ("candidate", "held", "fitted", "seconds", "error", "drop")
        assert [getattr(got, n) for n in names] == [getattr(want, n) for n in names]
    assert np.array_equal(found[0].row_losses, losses)
    with pytest.raises(ValueError, match="kept in a race only"):
        _ = found[3].row_losses
    assert Journal(None).known(one) == {}
    assert not caplog.records
