from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasador.contract.reader import from_dict
from tasador.core.errors import ConfigError, StorageError, TrainingError
from tasador.data.table import Part, SealedPart
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.modeling.target_transform import TargetTransform
from tasador.reporting.cards import CardBuilder
from tasador.selection.diagnostics import Diagnostics, diagnose
from tasador.selection.ensembling import Member
from tasador.selection.errors import FoldsError
from tasador.selection.families.linear import TrainingRange
from tasador.selection.folds import (
    Fold,
    blocked_assignment,
    comparing_folds,
    forward_assignment,
    make_folds,
    random_assignment,
    sample_rows,
)
from tasador.selection.search.grid_search import CandidateResult, grid_search
from tasador.selection.search.optuna_sweep import _importance, has_settled, sweep
from tasador.selection.test_metrics import cross_validation, evaluate, out_of_fold
from tasador.settings.run import SelectionSettings, SweepSettings
from tasador.training.selection_card import show_sweep

CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {"a": {"kind": "number"}, "s": {"kind": "integer", "role": "segment"}},
        "target": {"name": "y"},
    }
)
TRANSFORM = TargetTransform("none")


@pytest.fixture(scope="module")
def part() -> Part:
    random = np.random.default_rng(0)
    X = np.column_stack([random.uniform(1, 9, 120), random.integers(0, 3, 120)]).astype(float)
    y = 10 + 3 * X[:, 0] + random.normal(0, 0.5, 120)
    return Part(X, y, np.arange(120, dtype=np.uint64))


@pytest.fixture(scope="module")
def folds(part: Part) -> list[Fold]:
    pipeline = FeaturePipeline(CONTRACT, FeatureSettings(comparables=False))
    return list(make_folds(part, random_assignment(len(part), 3, 1), pipeline, TRANSFORM))


def test_folds_hold_every_row_once_and_repeat() -> None:
    first = random_assignment(100, 5, 7).fold
    assert np.array_equal(np.bincount(first), [20] * 5)
    assert np.array_equal(first, random_assignment(100, 5, 7).fold)
    with pytest.raises(TrainingError, match="too few training rows"):
        random_assignment(5, 5, 7)


def test_a_sample_is_seeded_and_none_is_taken_of_few_rows(part: Part) -> None:
    some = sample_rows(part, 50, 3)
    assert len(some) == 50
    assert (np.diff(some.row_hash.astype(int)) > 0).all()
    assert np.array_equal(some.row_hash, sample_rows(part, 50, 3).row_hash)
    assert not np.array_equal(some.row_hash, sample_rows(part, 50, 4).row_hash)
    assert sample_rows(part, 120, 3) is sample_rows(part, None, 3) is part


def test_folds_end_when_enough_rows_are_held_out(part: Part) -> None:
    assignment = random_assignment(len(part), 4, 1)  # 30 rows each
    assert assignment.enough(30) == [0]
    assert assignment.enough(31) == [0, 1]
    assert assignment.enough(10_000) == [0, 1, 2, 3]
    pipeline = FeaturePipeline(CONTRACT, FeatureSettings(comparables=False))
    some = list(make_folds(part, assignment, pipeline, TRANSFORM, [1, 3]))
    assert [np.unique(assignment.fold[fold.held_rows]).tolist() for fold in some] == [[1], [3]]
    (scores,) = out_of_fold([Member("ridge", {"alpha": 1.0}, 1)], some, part, TRANSFORM, "")
    assert np.array_equal(np.isfinite(scores), np.isin(assignment.fold, [1, 3]))
    found = cross_validation(scores, some, part, TRANSFORM, some[0].names)
    assert np.array_equal(found.rows, np.flatnonzero(np.isin(assignment.fold, [1, 3])))
    assert found.Z.shape == (60, len(some[0].names))
    assert np.isfinite(found.Z).all()
    assert found.metrics["mae"] == pytest.approx(np.mean(np.abs(found.score - part.y[found.rows])))
    each = [np.mean(np.abs(scores - part.y)[fold.held_rows]) for fold in some]
    assert found.spread["mae"] == pytest.approx(np.std(each, ddof=1))
    assert cross_validation(scores, some[:1], part, TRANSFORM, ()).spread["mae"] == 0.0


@given(
    days=arrays(np.float64, st.integers(10, 80), elements=st.integers(0, 40).map(float)),
    folds=st.integers(2, 5),
    unknown=st.integers(0, 9),
    seed=st.integers(0, 9),
)
def test_folds_by_time_fit_on_older_sales_of_other_properties_only(days, folds, unknown, seed):
    assume(np.ptp(days[unknown:]) > 0)
    time = days * 86_400
    time[:unknown] = np.nan
    random = np.random.default_rng(seed)
    properties = random.integers(0, len(time) // 2 + 1, len(time)).astype(np.uint64)
    try:
        assignment = forward_assignment(time, folds, properties)
    except FoldsError:  # all of the newer half on the oldest day
        return
    assert 1 <= len(assignment.numbers) <= folds
    order = random.permutation(len(time))
    shuffled = forward_assignment(time[order], folds, properties[order])
    assert np.array_equal(shuffled.fold, assignment.fold[order])
    starts = []
    for number in assignment.numbers:
        fit, held = assignment.rows(number)
        assert len(held)
        assert not np.isnan(time[held]).any()
        known = time[fit][~np.isnan(time[fit])]
        assert not len(known) or known.max() < time[held].min()
        assert not np.isin(properties[fit], properties[held]).any()
        starts.append(time[held].min())
    assert starts == sorted(starts, reverse=True)


def test_random_folds_deal_whole_properties_whatever_the_order_of_the_rows() -> None:
    properties = np.repeat(np.arange(60, dtype=np.uint64), 3)
    found = random_assignment(180, 5, 1, properties).fold
    assert (found.reshape(60, 3) == found[::3, None]).all()
    order = np.random.default_rng(0).permutation(180)
    assert np.array_equal(random_assignment(180, 5, 1, properties[order]).fold, found[order])


@given(folds=st.integers(2, 6), seed=st.integers(0, 3))
@hypothesis_settings(max_examples=15, deadline=None)
def test_dated_rows_are_compared_by_chance_and_forward_in_time_in_turns(folds, seed):
    random = np.random.default_rng(seed)
    X = random.uniform(1, 9, (150, 2))
    part = Part(
        X,
        X[:, 0],
        np.arange(150, dtype=np.uint64),
        time=random.integers(0, 60, 150) * 86_400.0,
        property_hash=random.integers(0, 75, 150).astype(np.uint64),
    )
    found = [assignment.rows(number) for assignment, number in comparing_folds(part, folds, seed)]
    assert len(found) == folds
    for fit, held in found:
        assert not np.isin(part.property_hash[fit], part.property_hash[held]).any()
    forward = [part.time[fit].max() < part.time[held].min() for fit, held in found]
    assert forward == [place % 2 == 1 for place in range(folds)]


def test_sales_of_one_day_cannot_go_forward_in_time() -> None:
    with pytest.raises(FoldsError, match="expected sales of several days"):
        forward_assignment(np.zeros(100), 5)


def test_the_final_model_is_slowed_less_where_rows_are_many() -> None:
    settings = SweepSettings(slowdown=4.0)
    assert [settings.slowdown_for(n) for n in (500, 100_000, 200_000, 10**6)] == [4, 4, 2, 1]


def test_blocked_folds_keep_the_rows_of_a_place_together() -> None:
    places = np.random.default_rng(0).uniform(0, 1, (60, 2))
    assignment = blocked_assignment(np.repeat(places, 5, axis=0), 3, 1).fold
    assert (assignment.reshape(60, 5) == assignment.reshape(60, 5)[:, :1]).all()
    with pytest.raises(TrainingError, match="cannot be cut into blocks"):
        blocked_assignment(np.zeros((30, 2)), 3, 1)


def test_ridge_scores_equal_those_computed_by_hand(part: Part, folds: list[Fold]) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    settings = SelectionSettings({"ridge": {"alpha": [1.0, 100.0]}}, folds=3)
    result = grid_search(settings, folds, part, TRANSFORM, 1)
    expected = []
    for fold in folds:
        model = make_pipeline(TrainingRange(), StandardScaler(), Ridge(alpha=1.0))
        model.fit(fold.Z_fit, part.y[fold.fit_rows])
        expected.append(np.abs(model.predict(fold.Z_held) - part.y[fold.held_rows]).mean())
    assert result.best.params == {"alpha": 1.0}
    assert [f["mae"] for f in result.best.held] == pytest.approx(expected)
    assert result.best_of_families() == (result.best,)


def test_a_finished_candidate_is_not_computed_again(
    part: Part, folds: list[Fold], tmp_path: Path
) -> None:
    journal = tmp_path / "deep" / "journal.jsonl"
    settings = SelectionSettings({"ridge": {"alpha": [1.0, 2.0]}}, folds=3)
    first = grid_search(settings, folds, part, TRANSFORM, 1, journal)
    journal.write_text(journal.read_text() + '{"key": "cut off by a cr')
    again = grid_search(settings, folds, part, TRANSFORM, 1, journal)
    assert again == first  # seconds included: nothing was timed anew


def test_a_failing_candidate_is_recorded_and_the_rest_goes_on(
    part: Part, folds: list[Fold]
) -> None:
    endless = {"learning_rate": [1e300], "n_estimators": [3]}  # grows beyond every number
    settings = SelectionSettings({"gradient_boosting": endless, "ridge": {"alpha": [1.0]}}, folds=3)
    result = grid_search(settings, folds, part, TRANSFORM, 1)
    assert result.best.error is None
    assert result.candidates[-1].error is not None
    with pytest.raises(TrainingError, match="all 1 candidates failed"):
        grid_search(SelectionSettings({"gradient_boosting": endless}), folds, part, TRANSFORM, 1)


def test_fits_that_do_not_converge_are_reported_in_one_line(
    part: Part, folds: list[Fold], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import functools

    from sklearn import linear_model

    few = functools.partial(linear_model.Lasso, max_iter=1, tol=0.0)
    monkeypatch.setattr(linear_model, "Lasso", few)
    settings = SelectionSettings({"lasso": {"alpha": [0.0001, 0.001]}}, folds=3)
    result = grid_search(settings, folds, part, TRANSFORM, 1)
    assert len(result.complete) == 2
    lines = [record.message for record in caplog.records if "converged" in record.message]
    assert len(lines) == 1
    assert lines[0].startswith("6 linear fits stopped")


def test_a_wrong_grid_is_named_before_anything_is_fitted(part: Part) -> None:
    for grid, match in (
        ({"ridge": {"alfa": [1]}}, "no such parameter"),
        ({"rigde": {"alpha": [1]}}, "unknown model family"),
    ):
        with pytest.raises(ConfigError, match=match):
            grid_search(SelectionSettings(grid), [], part, TRANSFORM, 1)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="no candidate"):
        grid_search(SelectionSettings({}), [], part, TRANSFORM, 1)


@pytest.mark.parametrize("name", ["ridge", "lightgbm", "random_forest"])
@pytest.mark.no_cover
def test_a_sweep_starts_at_the_winner_is_never_worse_and_repeats(
    part: Part, folds: list[Fold], name: str
) -> None:
    start = {"alpha": 50.0} if name == "ridge" else {"n_estimators": 10}
    settings = SweepSettings(trials=3, folds=2)
    first = sweep(name, start, settings, folds, part, TRANSFORM, 1)
    second = sweep(name, start, settings, folds, part, TRANSFORM, 1)
    assert first.trials[0].params == start
    assert first.best.mean("wmape") <= first.trials[0].mean("wmape")
    assert [t.params for t in first.trials] == [t.params for t in second.trials]
    assert [t.held for t in first.trials] == [t.held for t in second.trials]


def test_a_sweep_begins_beside_the_winner_and_keeps_what_it_does_not_search(
    part: Part, folds: list[Fold]
) -> None:
    start = {"max_iter": 20, "loss": "absolute_error", "max_features": 1.0, "max_leaf_nodes": 31}
    settings = SweepSettings(trials=3, folds=2, pruner="none")
    result = sweep("hist_gradient_boosting", start, settings, folds, part, TRANSFORM, 1)
    assert {trial.params["loss"] for trial in result.trials} == {"absolute_error"}
    beside = result.trials[1].params  # 150 steps are the fewest of the space
    assert (beside["max_iter"], beside["max_leaf_nodes"], beside["max_features"]) == (150, 31, 1.0)
    assert result.trials[2].params != beside


def test_a_sweep_takes_what_the_selection_measured_and_tries_no_point_next_to_it(
    part: Part, folds: list[Fold]
) -> None:
    grid = {"lightgbm": {"n_estimators": [250], "num_leaves": [15], "feature_fraction": [0.5],
                         "bagging_fraction": [0.9], "min_child_samples": [20]}}  # fmt: skip
    measured = grid_search(SelectionSettings(grid), folds, part, TRANSFORM, 1).best
    settings = SweepSettings(trials=3, folds=2, pruner="none")
    start = measured.params
    given = sweep("lightgbm", start, settings, folds, part, TRANSFORM, 1, measured=measured)
    again = sweep("lightgbm", start, settings, folds, part, TRANSFORM, 1)
    assert given.trials[0].held == again.trials[0].held == measured.held[:2]
    assert given.trials[0].seconds == measured.seconds
    # lambda_l2 of 0 is no value of the space; its smallest is next to it
    assert all(trial.params["num_leaves"] != 15 for trial in given.trials[1:])
    assert [t.params for t in given.trials] == [t.params for t in again.trials]


def test_a_fold_of_many_rows_fits_on_a_sample_of_them_that_is_the_same_again() -> None:
    whole = random_assignment(1000, 5, seed=3)
    thinned = replace(whole, most=300)
    for number in whole.numbers:
        fit, held = whole.rows(number)
        some, same_held = thinned.rows(number)
        assert len(some) == 300
        assert np.isin(some, fit).all()
        assert (np.diff(some) > 0).all()
        assert (same_held == held).all()
        assert (thinned.rows(number)[0] == some).all()
        assert (replace(whole, most=len(fit)).rows(number)[0] == fit).all()
    assert whole.at_most(1000) is whole
    assert whole.at_most(300).most == 300


def test_a_sweep_that_was_interrupted_leaves_no_trial_open(
    part: Part, folds: list[Fold], tmp_path: Path
) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    journal, start = tmp_path / "sweep", {"alpha": 50.0}
    arguments = ("ridge", start, SweepSettings(trials=2, folds=2), folds, part, TRANSFORM, 1)
    first = sweep(*arguments, journal=journal)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    study.ask()
    assert sweep(*arguments, journal=journal).trials == first.trials
    states = [trial.state.name for trial in study.get_trials()]
    assert "RUNNING" not in states
    assert states[-1] == "FAIL"


def test_a_storage_of_sweeps_that_cannot_be_opened_is_named_without_its_password(
    part: Part, folds: list[Fold], tmp_path: Path
) -> None:
    settings = SweepSettings(trials=2, folds=2, storage=f"sqlite:///{tmp_path}/none/study.db")
    with pytest.raises(StorageError, match=r"the sweep's storage failed: .*none/study\.db"):
        sweep("ridge", {"alpha": 1.0}, settings, folds, part, TRANSFORM, 1)


@pytest.mark.parametrize(("errors", "told"), [([1.0, 1.0, 2.0, 2.0], True), ([1.0] * 4, False),
                                              ([1.0, 2.0, 3.0], False)])  # fmt: skip
def test_the_importance_of_parameters_needs_four_trials_that_differ(errors, told) -> None:
    import optuna

    study = optuna.create_study()
    space = {"alpha": optuna.distributions.FloatDistribution(0.0, 9.0)}
    for place, error in enumerate(errors):
        trial = optuna.trial.create_trial(
            params={"alpha": float(place)}, distributions=space, value=error
        )
        study.add_trial(trial)
    assert _importance(study, 1) == ({"alpha": 1.0} if told else {})


@pytest.mark.no_cover
def test_a_patient_sweep_is_the_beginning_of_a_longer_one(part: Part, folds: list[Fold]) -> None:
    settings = SweepSettings(trials=12, folds=3, pruner="none")
    every = sweep("ridge", {"alpha": 50.0}, settings, folds, part, TRANSFORM, 1).trials
    patient = dataclasses.replace(settings, patience=3)
    result = sweep("ridge", {"alpha": 50.0}, patient, folds, part, TRANSFORM, 1)
    some = result.trials
    assert 3 < len(some) < len(every) == 12
    assert [t.params for t in some] == [t.params for t in every[: len(some)]]
    settled = [has_settled(every[:n], "wmape", 3) for n in range(1, 13)]
    assert settled.index(True) + 1 == len(some)  # it ended as soon as it might
    assert not any(has_settled(every[:n], "wmape", None) for n in range(1, 13))
    for asked in (patient, settings):
        card = CardBuilder("sweep", "Sweep")
        show_sweep(card, result, asked)
        (note,) = (fact.note for fact in card.build().facts if fact.label == "Trials")
        assert ("the last 3 brought no more than chance" in str(note)) == (asked is patient)


@given(
    errors=st.lists(st.lists(st.floats(1, 2), min_size=4, max_size=4), min_size=2, max_size=8),
    patience=st.integers(1, 9),
    gain=st.floats(0.01, 0.5),
)
def test_a_sweep_goes_on_after_a_gain_on_every_fold_and_ends_without_any(
    errors: list[list[float]], patience: int, gain: float
) -> None:
    def trial(held: list[float], dropped: str | None = None) -> CandidateResult:
        folds = tuple({"wmape": one} for one in held)
        return CandidateResult("ridge", {}, folds, folds, 0.0, dropped=dropped)

    trials = [trial(held) for held in errors]
    best = min(trials, key=lambda one: one.mean("wmape"))
    worse = trial([fold["wmape"] + gain for fold in best.held])
    assert has_settled([*trials, *patience * [worse]], "wmape", patience)
    better = trial([fold["wmape"] - gain for fold in best.held])
    assert not has_settled([*trials, *(patience - 1) * [worse], better], "wmape", patience)
    # what was given up on the way has seen fewer folds, and says nothing
    given_up = trial([0.0, 0.0], dropped="given up")
    assert has_settled([*trials, *patience * [given_up]], "wmape", patience)


def test_without_trials_the_winner_stays(part: Part, folds: list[Fold]) -> None:
    result = sweep("ridge", {"alpha": 1.0}, SweepSettings(trials=0), folds, part, TRANSFORM, 1)
    assert result.final_params == {"alpha": 1.0}
    with pytest.raises(TrainingError, match="every trial"):
        sweep("ridge", {"alpha": -1.0}, SweepSettings(trials=1), folds, part, TRANSFORM, 1)


def test_the_held_out_test_set_counts_its_openings_and_segments_are_reported(part: Part) -> None:
    sealed = SealedPart(part)
    report = evaluate(
        lambda X: (part.y, part.y - 1, part.y + 1, None),
        sealed,
        CONTRACT,
        random_cv={},
        time_cv=None,
        spatial_cv=None,
        promised=0.9,
        draws=10,
        seed=1,
        reason="test",
        found_on=(part.X, np.zeros(len(part))),
        by=lambda _: {},
    )
    assert report.openings == ("test",)
    assert report.coverage == 1.0
    assert [s.name for s in report.segments] == ["0", "1", "2"]
    assert report.test["rmse"].value == 0.0
    assert report.test["prd"].value == 1.0
    assert sum(group.rows for group in report.deciles) == len(part)
    assert [group.ratio for group in report.deciles] == [1.0] * 10
    assert report.capped == ()


def test_prices_below_one_are_compared_by_group_and_those_of_zero_are_not(part: Part) -> None:
    y = np.linspace(0.1, 0.9, len(part))
    y[:5] = 0.0
    report = evaluate(
        lambda X: (y * 1.1, y * 0.9, y * 1.2, None),
        SealedPart(dataclasses.replace(part, y=y)), CONTRACT,
        random_cv={}, time_cv=None, spatial_cv=None, promised=0.9, draws=5, seed=1, reason="test",
        found_on=(part.X, np.zeros(len(part))),
        by=lambda rows: {"half": {"left": np.arange(len(rows)) < 60}},
    )  # fmt: skip
    (left,) = (group for group in report.fairness if group.name == "left")
    assert (left.rows, left.figures["median_ratio"]) == (55, pytest.approx(1.1))


def test_coverage_counts_truths_below_the_interval_and_above_it(part: Part) -> None:
    n = len(part)
    low, high = part.y - 1, part.y + 1
    low[: n // 10], high[: n // 10] = part.y[: n // 10] + 1, part.y[: n // 10] + 2  # truth below
    low[-n // 5 :], high[-n // 5 :] = part.y[-n // 5 :] - 2, part.y[-n // 5 :] - 1  # truth above
    report = evaluate(
        lambda X: (part.y, low, high, None), SealedPart(part), CONTRACT,
        random_cv={}, time_cv=None, spatial_cv=None, promised=0.9, draws=5,
        seed=1, reason="test", found_on=(part.X, np.zeros(len(part))), by=lambda _: {},
    )  # fmt: skip
    assert report.coverage == pytest.approx(1 - (n // 10 + len(part.y[-n // 5 :])) / n)
    assert min(segment.coverage for segment in report.segments) < 1.0


def test_rows_at_the_cap_are_reported_apart(part: Part) -> None:
    cap = float(np.quantile(part.y, 0.9, method="higher"))
    contract = dataclasses.replace(CONTRACT, target=dataclasses.replace(CONTRACT.target, cap=cap))
    y = np.minimum(part.y, cap)
    sealed = SealedPart(dataclasses.replace(part, y=y))
    report = evaluate(
        lambda X: (y * 1.2, y, y * 2, None),
        sealed,
        contract,
        random_cv={},
        time_cv=None,
        spatial_cv=None,
        promised=0.9,
        draws=5,
        seed=1,
        reason="test",
        found_on=(part.X, np.zeros(len(part))),
        by=lambda _: {},
    )
    below, at = report.capped
    assert (below.rows + at.rows, at.rows) == (len(y), int((y >= cap).sum()))
    assert at.mape == pytest.approx(20)
    assert at.ratio == pytest.approx(1.2)
    assert len(report.deciles) == 9 + (at.rows < len(y) // 10)


def test_diagnostics_credit_the_column_that_makes_the_target(part: Part) -> None:
    pipeline = FeaturePipeline(CONTRACT, FeatureSettings(comparables=False))
    rows = random_assignment(len(part), 3, 1).rows(0)

    def found() -> Diagnostics:
        return diagnose(
            "ridge", {"alpha": 1.0}, pipeline, part, rows, TRANSFORM, metric="mae", seed=4
        )

    first = found()
    assert first == found()
    assert first.sizes == (40, 80)
    assert first.columns == ("a", "s")
    assert first.importance[0] > 3 > abs(first.importance[1]) * 10
    assert len(first.held) == len(first.fitted) == 2
