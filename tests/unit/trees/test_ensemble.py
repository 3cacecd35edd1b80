import numpy as np
import pytest

from tasador.core.errors import TrainingError
from tasador.trees.ensemble import CategorySets, LinearModel, TreeEnsemble


def stump(threshold=1.5, missing_left=True, **changes):
    arrays = {
        "feature": np.array([0, -1, -1], np.int32),
        "threshold": np.array([threshold, 0.0, 0.0]),
        "left": np.array([1, -1, -1], np.int32),
        "right": np.array([2, -1, -1], np.int32),
        "value": np.array([0.0, 10.0, 20.0]),
        "missing_left": np.array([missing_left, False, False]),
        "cover": np.array([3.0, 2.0, 1.0]),
        "roots": np.array([0], np.int32),
        "n_features": 1,
    }
    return TreeEnsemble(**(arrays | changes))


def test_a_row_on_the_threshold_goes_left_and_just_above_it_right():
    rows = np.array([[1.5], [np.nextafter(1.5, 2)], [-np.inf], [np.inf]])
    assert stump().predict(rows).tolist() == [10.0, 20.0, 10.0, 20.0]


@pytest.mark.parametrize(("missing_left", "want"), [(True, 10.0), (False, 20.0)])
def test_a_missing_value_follows_the_node(missing_left, want):
    assert stump(missing_left=missing_left).predict(np.array([[np.nan]])) == [want]


def test_float32_inputs_are_rounded_before_they_are_compared():
    above = np.array([[1.5 + 1e-12]])
    assert stump().predict(above) == [20.0]
    assert stump(float32_inputs=True).predict(above) == [10.0]


def test_base_and_scale_apply_to_the_sum_of_two_trees():
    trees = stump(roots=np.array([0, 1], np.int32), base=1.0, scale=0.5)
    assert trees.predict(np.array([[0.0]])) == [1.0 + 0.5 * (10.0 + 10.0)]
    assert (trees.n_trees, trees.n_nodes) == (2, 3)


def test_thresholds_are_listed_by_column():
    assert stump().thresholds()[0].tolist() == [1.5]


def test_no_rows_have_no_scores():
    assert stump().predict(np.empty((0, 1))).shape == (0,)


def test_rows_of_another_width_are_refused():
    with pytest.raises(TrainingError, match=r"expected shape \(n, 1\), got shape \(2, 3\)"):
        stump().predict(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cover": np.zeros(2)}, "cannot be read"),
        ({"roots": np.array([], np.int32)}, "at least one root"),
        ({"n_features": 0}, "column that does not exist"),
        ({"threshold": np.nan}, "not a number"),
        ({"value": np.array([0.0, np.inf, 0.0])}, "not a number"),
    ],
)
def test_arrays_that_make_no_trees_are_refused(changes, message):
    with pytest.raises(TrainingError, match=message):
        stump(**changes)


def with_set(codes, **changes):
    sets = CategorySets(np.array([0, -1, -1], np.int32), np.array([0, len(codes)], np.int32),
                        np.array(codes, np.int32))  # fmt: skip
    return stump(**({"sets": sets} | changes))


def test_a_category_in_the_set_goes_left_without_its_fraction():
    rows = np.array([2, 5.9, 0, -0.9, 3, -1, 6, 1e9, np.inf, -np.inf], float)[:, None]
    wanted = [10, 10, 10, 10, 20, 20, 20, 20, 20, 20]
    assert with_set([0, 2, 5]).predict(rows).tolist() == wanted


@pytest.mark.parametrize(("missing_left", "want"), [(True, 10.0), (False, 20.0)])
def test_a_missing_category_follows_the_node(missing_left, want):
    assert with_set([2], missing_left=missing_left).predict(np.array([[np.nan]])) == [want]


def test_the_split_values_of_a_set_lie_next_below_its_codes_and_the_numbers_behind():
    found = with_set([0, 2, 3]).thresholds()[0]
    wanted = [-1.0, *(np.nextafter(k, 0.0) for k in (1.0, 2.0, 3.0, 4.0))]
    assert found.tolist() == wanted


@pytest.mark.parametrize(
    ("codes", "changes", "message"),
    [
        ([3, 2], {}, "not ascending"),
        ([2, 2], {}, "not ascending"),
        ([-1, 2], {}, r"category codes in \[0, 1048575\]"),
        ([2**20], {}, r"category codes in \[0, 1048575\]"),
        ([], {}, "none empty"),
        ([1], {"float32_inputs": True}, "inputs in double precision"),
    ],
)
def test_sets_that_are_none_are_refused(codes, changes, message):
    with pytest.raises(TrainingError, match=message):
        with_set(codes, **changes)


def test_a_linear_model_adds_its_terms_and_passes_nan_on():
    model = LinearModel(np.array([2.0, -1.0]), 0.5)
    assert model.predict(np.array([[1.0, 3.0]])) == [-0.5]
    assert np.isnan(model.predict(np.array([[np.nan, 3.0]])))[0]


@pytest.mark.parametrize(
    ("low", "high"),
    [([0.0, 2.0], [1.0, 1.0]), ([0.0], [1.0]), ([0.0, np.nan], [1.0, 1.0]),
     ([0.0, 0.0], [1.0, np.inf]), ([0.0, 0.0], None)],
)  # fmt: skip
def test_a_linear_range_that_is_none_is_refused(low, high):
    ends = [None if end is None else np.array(end) for end in (low, high)]
    with pytest.raises(TrainingError, match="a finite low and high for each column"):
        LinearModel(np.ones(2), 0.0, *ends)
