"""Expected sizes of errors: calibrated in every group, wider beyond the support."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.core.errors import BundleError, TrainingError, ValidationError
from tasador.modeling.confidence import ConfidenceModel, JointRange
from tasador.modeling.expected_errors import fit_confidence
from tasador.modeling.prediction import CLASSES
from tasador.trees.onnx_model import OnnxRegressor

LEVELS = (0.5, 0.68, 0.75, 0.9, 0.97, 0.99)


def drawn(n, seed):
    """Rows whose errors grow with the first column, and are three times as large in segment 1."""
    random = np.random.default_rng(seed)
    Z = np.column_stack([random.uniform(0, 1, n), random.normal(size=n)])
    segment = (random.uniform(size=n) < 0.2).astype(float)
    score = 12.0 + random.normal(size=n) * 0.5
    size = (0.02 + 0.2 * Z[:, 0]) * np.where(segment == 1, 3.0, 1.0)
    return Z, score, segment, score + random.normal(size=n) * size


def fitted(log=True, seed=0):
    Z, score, segment, target = drawn(6000, seed)
    joint = JointRange.of(Z, np.arange(2))
    return fit_confidence(
        Z, score, target, segment, joint, log=log, coverage=0.9, cuts=(85.0, 70.0), seed=1
    )


@pytest.fixture(scope="module")
def made():
    return fitted()


@pytest.fixture(scope="module")
def model(made):
    return made[0]


@pytest.fixture(scope="module")
def fresh():
    return drawn(6000, 9)


def test_the_forecast_standard_deviation_holds_68_percent_of_new_relative_errors(model, fresh):
    Z, score, segment, target = fresh
    fsd = model.sizes(Z, score, segment).fsd
    held = np.abs(np.exp(score - target) - 1.0) <= fsd
    assert held.mean() == pytest.approx(0.68, abs=0.02)
    classes = np.array([name for _, name in model.graded(fsd.tolist())])
    for name in "HML":
        assert held[classes == name].mean() == pytest.approx(0.68, abs=0.04)


def test_sizes_learnt_from_some_of_the_rows_hold_as_well(monkeypatch, fresh):
    monkeypatch.setattr("tasador.modeling.expected_errors._MOST_FITTED", 2000)
    some, Z, score = fitted()[0], *fresh[:2]
    held = np.abs(np.exp(score - fresh[3]) - 1.0) <= some.sizes(Z, score, fresh[2]).fsd
    assert held.mean() == pytest.approx(0.68, abs=0.02)
    assert np.array_equal(some.factors, fitted()[0].factors)  # the same rows each time


def test_median_errors_rise_from_high_to_low_confidence(model, fresh):
    Z, score, segment, target = fresh
    graded = model.graded(model.sizes(Z, score, segment).fsd.tolist())
    classes = np.array([name for _, name in graded])
    errors = [np.median(np.abs(score - target)[classes == name]) for name in "HML"]
    assert errors[0] < errors[1] < errors[2]
    assert all(0.0 <= confidence <= 100.0 for confidence, _ in graded)
    edges = [0.15, 0.3, 0.0, 1.0, 7.0, np.inf, np.nan, *(1.0 - cut / 100.0 for cut in model.cuts)]
    nearby = np.array(edges)[:, None] + np.array([0.0, 1e-16, -1e-16, 1e-3, -1e-3])
    classes = [CLASSES[place] for place in model.classes(nearby.ravel())]
    assert classes == [name for _, name in model.graded(nearby.ravel().tolist())]


@pytest.mark.parametrize("coverage", LEVELS)
def test_any_coverage_that_is_asked_for_holds_over_all_and_in_each_segment(model, fresh, coverage):
    Z, score, segment, target = fresh
    low, high, _ = model.bounds(Z, score, segment, coverage=coverage)
    held = (low <= target) & (target <= high)
    assert held.mean() == pytest.approx(coverage, abs=0.02)
    for code in (0.0, 1.0):
        assert held[segment == code].mean() == pytest.approx(coverage, abs=0.04)


def test_a_wider_promise_never_has_a_narrower_interval(model, fresh):
    Z, score, segment, _ = fresh
    widths = [model.sizes(Z, score, segment, coverage=c).half for c in np.linspace(0.5, 0.99, 30)]
    assert (np.diff(widths, axis=0) >= -1e-12).all()


@given(rows=st.lists(st.integers(0, 5999), min_size=1, max_size=20))
def test_a_row_gets_the_same_bits_alone_and_among_others(model, fresh, rows):
    Z, score, segment, _ = (values[rows] for values in fresh)
    together = model.sizes(Z, score, segment)
    for i in range(len(rows)):
        alone = model.sizes(Z[i : i + 1], score[i : i + 1], segment[i : i + 1])
        assert (alone.half[0], alone.fsd[0]) == (together.half[i], together.fsd[i])


def test_unknown_and_missing_segments_are_of_no_group(model, fresh):
    Z, score = fresh[0][:3], fresh[1][:3]
    found = model.sizes(Z, score, np.array([7.0, np.nan, -1.0]))
    assert np.isfinite(found.half).all()
    assert (found.half == model.sizes(Z, score, None).half).all()


def test_features_in_another_order_or_missing_are_taken_by_name_again_and_again(model, fresh):
    Z, score, segment, _ = fresh
    half = model.sizes(Z, score, segment).half
    turned = model.of_features(("a", "b"), ("b", "other", "a"))
    wide = np.column_stack([Z[:, 1], np.zeros(len(Z)), Z[:, 0]])
    assert np.array_equal(turned.sizes(wide, score, segment).half, half)
    again = turned.of_features(("b", "other", "a"), ("a", "b"))
    assert np.array_equal(again.sizes(Z, score, segment).half, half)
    lacking = turned.of_features(("b", "other", "a"), ("a",)).of_features(("a",), ("b", "a"))
    unknown = np.column_stack([Z[:, 0], np.full(len(Z), np.nan)])
    assert np.array_equal(
        lacking.sizes(Z[:, ::-1], score, segment).half, model.sizes(unknown, score, segment).half
    )


def test_rows_beyond_the_support_have_larger_errors_by_the_measured_factor(model, fresh):
    Z, score, segment, target = fresh
    far = Z[:, 1] > 1.0
    wide = model.widened(Z, score, segment, np.where(far, 2.0, 1.0) * (target - score), far)
    assert wide.far_factor == pytest.approx(2.0, rel=0.1)
    plain, beyond = (wide.sizes(Z, score, segment, rows) for rows in (None, far))
    assert (beyond.fsd[far] == plain.fsd[far] * wide.far_factor).all()
    assert (beyond.fsd[~far] == plain.fsd[~far]).all()


def test_errors_that_are_no_logarithms_are_taken_relative_to_the_estimate():
    model, _ = fitted(log=False)
    Z, score, segment, target = drawn(6000, 9)
    found = model.sizes(Z, score, segment)
    held = np.abs(score - target) / target <= found.fsd
    assert held.mean() == pytest.approx(0.68, abs=0.02)


def test_what_is_written_is_read_back_to_the_same_bits(made, fresh):
    model, graph = made
    again = ConfidenceModel.from_state(OnnxRegressor(graph), model.state(), 2, 2)
    for mine, other in zip(model.sizes(*fresh[:3]), again.sizes(*fresh[:3]), strict=True):
        assert mine.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", ["levels", "factors", "numbers", "joint.precision"])
def test_a_damaged_state_is_refused(made, name):
    model, graph = made
    state = {**model.state(), name: model.state()[name][:-1]}
    with pytest.raises(BundleError, match="the confidence cannot be read"):
        ConfidenceModel.from_state(OnnxRegressor(graph), state, 2, 2)
    del state[name]
    with pytest.raises(BundleError, match="the confidence cannot be read"):
        ConfidenceModel.from_state(OnnxRegressor(graph), state, 2, 2)


@pytest.mark.parametrize("coverage", [0.49, 0.995, float("nan")])
def test_a_coverage_out_of_range_is_refused(model, fresh, coverage):
    with pytest.raises(ValidationError, match="the coverage cannot be had: expected 50% to 99%"):
        model.sizes(*fresh[:3], coverage=coverage)


def test_too_few_rows_give_no_confidence():
    Z, score, segment, target = drawn(400, 0)
    joint = JointRange.of(Z, np.arange(2))
    with pytest.raises(TrainingError, match="too few rows to calibrate the confidence"):
        fit_confidence(
            Z, score, target, segment, joint, log=True, coverage=0.9, cuts=(85, 70), seed=1
        )


def test_a_value_that_is_usual_alone_is_outside_beside_the_others():
    random = np.random.default_rng(3)
    rooms = random.uniform(1, 9, 2000)
    X = np.column_stack([rooms, 30 * rooms + random.normal(size=2000), np.full(2000, 5.0)])
    joint = JointRange.of(X, np.arange(3))
    assert joint.columns.tolist() == [0, 1]  # a constant says nothing
    assert not joint.outside(X).any()
    asked = np.array([[2.0, 250.0, 5.0], [2.0, 60.0, 5.0], [np.nan, np.nan, 5.0]])
    assert joint.outside(asked)[0].all()
    assert not joint.outside(asked)[1].any()


def test_rows_without_numbers_have_no_range_to_leave():
    joint = JointRange.of(np.array([[0.0, 1.0], [1.0, 0.0], [2.0, np.nan]]), np.empty(0, np.intp))
    assert joint.outside(np.zeros((4, 2))).shape == (4, 0)
