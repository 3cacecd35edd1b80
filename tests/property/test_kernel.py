"""The compiled kernel gives onnxruntime's bits, for any trees and any number of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.random_trees import grown
from tasador.core.errors import TrainingError
from tasador.core.kernels import native
from tasador.trees.ensemble import LEAF, TreeEnsemble
from tasador.trees.kernels import CompactTrees, WideTrees
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor, proof_rows, read_model

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
    read = read_model(model)
    kernel = CompactTrees(read, native().library)
    assert kernel.predict(rows).tobytes() == want.tobytes()
    assert kernel.predict(rows[:n]).tobytes() == want[:n].tobytes()
    assert np.array_equal(read.predict(rows), trees.predict(rows))


#: Codes as no training table has them: unknown, with a fraction, negative, beyond any integer.
ODD_CODES = np.array([
    np.nan, -0.0, -0.5, np.nextafter(-1.0, 0.0), -1.0, -7.0, 2.5, np.nextafter(3.0, 0.0), 1e6,
    2.0**20, 2.0**31, 2.0**32, 1e300, -1e300, np.inf, -np.inf, 3.0, 0.0,
])  # fmt: skip


def category_rows(trees, n, seed):
    """Rows of split values, of codes, and of what should be none."""
    rng = np.random.default_rng(seed)
    rows = proof_rows(trees, max(n, 8))[:n].copy()
    kind = rng.integers(0, 3, rows.shape)
    codes = rng.integers(0, 90, rows.shape).astype(np.float64)
    return np.choose(kind, (rows, codes, rng.choice(ODD_CODES, rows.shape)))


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 50),
    st.sampled_from([1, 2, 31, 40, 63]),
    st.integers(1, 5),
    st.sampled_from([1, 2, 30, 70, 500, 100_000]),
    st.integers(1, 200),
)
def test_trees_with_category_sets_give_the_same_bits_in_every_form(
    seed, n_trees, splits, q, categories, n
):
    trees = grown(seed, n_trees, splits, q, False, categories)
    model = to_onnx(trees)
    rows = category_rows(trees, n, seed)
    want = OnnxRegressor(model).predict(rows)
    read = read_model(model)
    assert np.array_equal(read.predict(rows), trees.predict(rows))
    assert CompactTrees(read, native().library).predict(rows).tobytes() == want.tobytes()
    # onnxruntime adds in another order than numpy
    assert want == pytest.approx(trees.predict(rows), rel=1e-9, abs=1e-9)
    if categories <= 70:
        assert wide_kernel(read).predict(rows).tobytes() == want.tobytes()


def test_many_trees_with_category_sets_give_the_same_bits_alone_and_among_others():
    trees = grown(3, 900, 60, 6, False, 60)
    rows = category_rows(trees, 521, 3)
    want = OnnxRegressor(to_onnx(trees)).predict(rows)
    for kernel in (CompactTrees(trees, native().library), wide_kernel(trees)):
        for n in (1, 2, 3, 4, 5, 8, 9, 16, 17, 25, 64, 65, 129, 521):
            assert kernel.predict(rows[-n:].copy()).tobytes() == want[-n:].tobytes()


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.sampled_from([1, 9, 25]),
    st.integers(1, 3),
    st.sampled_from([130, 260, 500, 900]),
    st.sampled_from([1, 64, 200]),
)
def test_sets_of_more_categories_than_a_byte_can_count_are_asked_in_parts(
    seed, n_trees, splits, q, categories, n
):
    trees = grown(seed, n_trees, splits, q, False, categories)
    rows = category_rows(trees, n, seed)
    rows[:, 0] = np.random.default_rng(seed).integers(-1, categories + 1, n)
    want = CompactTrees(trees, native().library).predict(rows)
    assert wide_kernel(trees).predict(rows).tobytes() == want.tobytes()


def test_trees_whose_sets_need_too_many_parts_are_left_to_the_row_kernel():
    trees = grown(1, 9, 60, 1, False, 60_000)
    with pytest.raises(TrainingError, match="sets of categories are too large for the kernel"):
        wide_kernel(trees)


def wide_kernel(trees):
    """The kernel for many rows, where the processor is made for it."""
    library = native().library
    if library.wide_trees_predict(None, None, 0, None, 0):
        pytest.skip("the processor lacks AVX-512")
    return WideTrees(trees, library)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 70),
    st.sampled_from([1, 2, 31, 32, 40, 63]),
    st.integers(1, 5),
    st.booleans(),
    st.integers(1, 700),
)
def test_random_trees_give_the_bits_of_onnxruntime_for_many_rows_too(
    seed, n_trees, splits, q, float32, n
):
    trees = grown(seed, n_trees, splits, q, float32)
    model = to_onnx(trees)
    rows = proof_rows(trees, max(n, 8))[:n].copy()
    want = OnnxRegressor(model).predict(rows)
    assert wide_kernel(read_model(model)).predict(rows).tobytes() == want.tobytes()


def test_trees_of_several_segments_give_the_same_bits_for_many_rows():
    trees = grown(3, 1_500, 60, 6, False)
    kernel = wide_kernel(trees)
    assert len(kernel._arrays["segments"]) > 1
    rows = proof_rows(trees, 1_300)
    want = CompactTrees(trees, native().library).predict(rows)
    for n in (1, 63, 64, 65, 127, 128, 129, 191, 193, 511, 512, 513, 577, 1_300):
        assert kernel.predict(rows[-n:].copy()).tobytes() == want[-n:].tobytes()


def test_trees_too_large_for_many_rows_at_once_are_refused():
    with pytest.raises(TrainingError, match="too large for the kernel: expected 64 leaves"):
        wide_kernel(TreeEnsemble(**counting(np.arange(64.0)), n_features=1))
    edges = np.arange(63.0)
    rows = np.append(edges, [np.nan, 0.5, 99.0])[:, None]
    trees = TreeEnsemble(**counting(edges), n_features=1)
    assert (wide_kernel(trees).predict(rows) == trees.predict(rows)).all()


def test_a_column_with_more_thresholds_than_a_byte_can_count_is_shared_out():
    parts = [counting(np.arange(k * 40.0, k * 40.0 + 40.0)) for k in range(30)]
    sizes = np.cumsum([0, *(len(part["feature"]) for part in parts)])[:-1]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    moved = [
        np.where(part[side] == LEAF, LEAF, part[side] + size).astype(np.int32)
        for side in ("left", "right")
        for part, size in zip(parts, sizes, strict=True)
    ]
    joined["left"], joined["right"] = np.concatenate(moved[:30]), np.concatenate(moved[30:])
    joined["roots"] = sizes.astype(np.int32)
    trees = TreeEnsemble(**joined, n_features=1)
    kernel = wide_kernel(trees)
    assert len(kernel._arrays["columns"]) > 4
    rows = np.concatenate([np.arange(-2.0, 1_203.0, 0.5), [np.nan, np.inf, -np.inf]])[:, None]
    assert (kernel.predict(rows) == trees.predict(rows)).all()


@pytest.mark.parametrize("float32", [False, True])
def test_splits_turned_around_for_onnxruntime_are_read_back_exactly(float32):
    trees = grown(3, 520, 40, 6, float32)
    assert trees.n_nodes > 20_000
    model = to_onnx(trees)
    rows = proof_rows(trees, 600)
    want = OnnxRegressor(model).predict(rows)
    read = read_model(model)
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
