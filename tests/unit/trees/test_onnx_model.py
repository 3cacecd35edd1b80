from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestRegressor

from tasador.core.errors import BundleError, ValidationError
from tasador.trees.ensemble import LinearModel
from tasador.trees.importers import from_sklearn
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor, read_model


@pytest.fixture(scope="module")
def forest():
    """A forest of more than 20 000 nodes, fitted with missing values."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(1500, 6))
    X[rng.random(X.shape) < 0.1] = np.nan
    y = np.nansum(X, axis=1) + rng.normal(size=1500)
    return X, RandomForestRegressor(14, random_state=0, n_jobs=2).fit(X, y)


def test_a_large_forest_answers_as_its_library_also_at_the_edges(forest):
    X, model = forest
    trees = from_sklearn(model)
    assert trees.n_nodes > 20_000
    rows = X[:300].copy()
    for column, values in trees.thresholds().items():
        rows[column::6, column] = values[: len(rows[column::6])]
    rows[0, 0], rows[1, 0] = 3e38, -3e38
    got = OnnxRegressor(to_onnx(trees)).predict(rows)
    assert got == pytest.approx(model.predict(rows), rel=1e-13)
    assert got == pytest.approx(trees.predict(rows), rel=1e-13)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_rows_get_the_bits_of_one_row_for_any_number_of_threads(forest, threads):
    X, model = forest
    exported = to_onnx(from_sklearn(model))
    one = OnnxRegressor(exported)
    want = np.concatenate([one.predict(row[None]) for row in X[:400]])
    assert (OnnxRegressor(exported, threads).predict(X[:400]) == want).all()


def test_more_rows_than_one_call_takes_are_valued_in_chunks():
    model = OnnxRegressor(to_onnx(LinearModel(np.array([2.0, 1.0]), 1.0)))
    Z = np.arange(40_000.0).reshape(20_000, 2)
    assert (model.predict(Z) == 1.0 + (2.0 * Z[:, 0] + Z[:, 1])).all()
    assert model.predict(Z[:0]).shape == (0,)


def test_memory_layout_and_type_of_the_rows_do_not_matter(forest):
    X, model = forest
    onnx_model = OnnxRegressor(to_onnx(from_sklearn(model)))
    want = onnx_model.predict(X[:50])
    assert (onnx_model.predict(np.asfortranarray(X)[:50]) == want).all()
    assert (onnx_model.predict(np.repeat(X, 2, axis=0)[:100:2]) == want).all()


def test_several_threads_may_share_a_model(forest):
    X, model = forest
    onnx_model = OnnxRegressor(to_onnx(from_sklearn(model)))
    want = onnx_model.predict(X[:200])
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: onnx_model.predict(X[i : i + 1])[0], range(200)))
    assert (np.array(answers) == want).all()


def test_nan_goes_through_a_linear_model():
    model = OnnxRegressor(to_onnx(LinearModel(np.array([2.0, 1.0]), 1.0)))
    assert np.isnan(model.predict(np.array([[np.nan, 1.0]])))[0]


CLIPPED = LinearModel(np.array([2.0, 1.0]), 1.0, np.array([0.0, -1.0]), np.array([3.0, 1.0]))


def test_a_linear_model_is_read_back_with_its_range():
    found = read_model(to_onnx(CLIPPED))
    Z = np.array([[9.0, 9.0], [-9.0, -9.0], [np.inf, -np.inf], [1.0, 0.5], [np.nan, 9.0]])
    assert isinstance(found, LinearModel)
    wanted = [8.0, 0.0, 6.0, 3.5, np.nan]
    for model in (CLIPPED, found, OnnxRegressor(to_onnx(CLIPPED))):
        assert np.array_equal(model.predict(Z), wanted, equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": np.array([4.0, 0.0])}, "low <= high"),
        ({"high": np.array([np.nan, 1.0])}, "finite low and high"),
        ({"high": np.array([np.inf, 1.0])}, "finite low and high"),
        ({"low": np.zeros(1)}, "constants .* of other shapes"),
        ({"low": np.zeros(2, np.int64)}, "the constant low is no double"),
        ({"low": None}, "operators"),
        ({"high": None}, "constants .* of other shapes"),
    ],
)
def test_a_linear_model_with_a_forged_range_is_refused(changes, message):
    proto = onnx.load_from_string(to_onnx(CLIPPED))
    kept = [one for one in proto.graph.initializer if one.name not in changes]
    new = [numpy_helper.from_array(v, k) for k, v in changes.items() if v is not None]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, *new])
    with pytest.raises(BundleError, match=message):
        OnnxRegressor(proto.SerializeToString())


def test_a_linear_model_whose_range_is_not_used_is_refused():
    proto = onnx.load_from_string(to_onnx(CLIPPED))
    proto.graph.node[1].input[1] = "low"
    with pytest.raises(BundleError, match="operators"):
        OnnxRegressor(proto.SerializeToString())


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 1)])
def test_rows_of_another_shape_are_refused(shape):
    model = OnnxRegressor(to_onnx(LinearModel(np.array([2.0, 1.0]), 1.0)))
    with pytest.raises(ValidationError, match=r"expected shape \(n, 2\), got shape"):
        model.predict(np.zeros(shape))


@pytest.mark.parametrize("data", [b"", b"no model", b"\x00" * 100])
def test_bytes_that_are_no_model_are_refused(data):
    with pytest.raises(BundleError, match="model"):
        OnnxRegressor(data)


def test_a_graph_of_another_interface_is_refused():
    graph = helper.make_graph(
        [helper.make_node("Identity", ["in"], ["out"])],
        "other",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, 2])],
    )
    proto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    with pytest.raises(BundleError, match="another interface: expected input X"):
        OnnxRegressor(proto.SerializeToString())


def test_the_exported_graph_is_valid_onnx_and_always_the_same(forest):
    _, model = forest
    first, second = (to_onnx(from_sklearn(model)) for _ in range(2))
    assert first == second
    onnx.checker.check_model(onnx.load_from_string(first), full_check=True)
