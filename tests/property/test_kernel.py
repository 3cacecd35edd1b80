"""The compiled kernel gives onnxruntime's bits, for any trees and any number of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.random_trees import grown
from tasador.core.native import native
from tasador.modeling.compact_trees import CompactTrees
from tasador.modeling.load_model import proof_rows
from tasador.modeling.onnx_export import to_onnx
from tasador.modeling.onnx_model import OnnxRegressor
from tasador.modeling.onnx_trees import read_trees
from tasador.modeling.trees import LEAF, TreeEnsemble

pytestmark = pytest.mark.skipif(native().library is None, reason=native().reason)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(1, 5),
    st.booleans(),
    st.integers(1, 90),
)
def test_random_trees_give_the_bits_of_onnxruntime(seed, n_trees, leaves, q, float32, n):
    trees = grown(seed, n_trees, leaves, q, float32)
    model = to_onnx(trees)
    rows = proof_rows(trees)
    want = OnnxRegressor(model).predict(rows)
    read = read_trees(model)
    kernel = CompactTrees(read, native().library)
    assert kernel.predict(rows).tobytes() == want.tobytes()
    assert kernel.predict(rows[:n]).tobytes() == want[:n].tobytes()
    assert np.array_equal(read.predict(rows), trees.predict(rows))


@pytest.mark.parametrize("float32", [False, True])
def test_splits_turned_around_for_onnxruntime_are_read_back_exactly(float32):
    trees = grown(3, 520, 40, 6, float32)
    assert trees.n_nodes > 20_000
    model = to_onnx(trees)
    rows = proof_rows(trees, 600)
    want = OnnxRegressor(model).predict(rows)
    read = read_trees(model)
    kernel = CompactTrees(read, native().library)
    assert kernel.predict(rows).tobytes() == want.tobytes()
    for n in (1, 2, 3, 4, 5, 8, 9, 16, 17, 24, 25, 511, 513, 521):
        assert kernel.predict(rows[-n:]).tobytes() == want[-n:].tobytes()
    assert np.array_equal(read.predict(rows), trees.predict(rows))


def test_a_column_with_more_thresholds_than_a_rank_can_count_is_shared_out():
    edges = np.arange(70_000, dtype=np.float64)
    trees = TreeEnsemble(**counting(edges), n_features=1)
    rows = np.concatenate([edges[::7], edges[::7] + 0.5, [np.nan, -1.0, 1e9]])[:, None]
    kernel = CompactTrees(trees, native().library)
    assert (kernel.predict(rows) == trees.predict(rows)).all()


def counting(edges):
    """A balanced tree over `edges`: leaf k holds the number of edges below x."""
    n = len(edges)
    feature, threshold, left, right, value = [], [], [], [], []

    def grow(low, high):
        node = len(feature)
        for column, start in ((feature, 0), (threshold, 0.0), (left, LEAF), (right, LEAF)):
            column.append(start)
        value.append(float(low))
        if low == high:
            feature[node] = LEAF
            return node
        middle = (low + high) // 2
        threshold[node] = edges[middle]
        left[node] = grow(low, middle)
        right[node] = grow(middle + 1, high)
        value[node] = 0.0
        return node

    grow(0, n)
    return {
        "feature": np.array(feature, np.int32),
        "threshold": np.array(threshold),
        "left": np.array(left, np.int32),
        "right": np.array(right, np.int32),
        "value": np.array(value),
        "missing_left": np.zeros(len(feature), bool),
        "cover": np.zeros(len(feature)),
        "roots": np.zeros(1, np.int32),
    }
