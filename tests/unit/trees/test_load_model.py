import dataclasses
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.ensemble import RandomForestRegressor

from fixtures.random_trees import grown
from fixtures.sanitizer import sanitized_kernels
from tasador.core.errors import BundleError, TrainingError, ValidationError
from tasador.core.kernels import ABI, Library, Native, native
from tasador.trees import onnx_model as module
from tasador.trees.ensemble import LinearModel, TreeEnsemble
from tasador.trees.importers import from_sklearn
from tasador.trees.kernels import CompactTrees
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import (
    KernelRegressor,
    OnnxRegressor,
    load_model,
    proof_rows,
    read_model,
)

compiled = pytest.mark.skipif(native().library is None, reason=native().reason)
compiler = shutil.which("cc")


@pytest.fixture(scope="module")
def forest():
    rng = np.random.default_rng(4)
    X = rng.normal(size=(400, 5))
    X[rng.random(X.shape) < 0.1] = np.nan
    return from_sklearn(
        RandomForestRegressor(8, max_leaf_nodes=60, random_state=0).fit(X, np.nansum(X, axis=1))
    )


@pytest.fixture(scope="module")
def exported(forest):
    return to_onnx(forest)


@compiled
def test_trees_are_run_by_the_kernel_where_it_is_compiled(exported, forest):
    model = load_model(exported)
    assert model.engine == "kernel"
    rows = proof_rows(forest, 300)
    assert (model.predict(rows) == OnnxRegressor(exported).predict(rows)).all()
    assert model.predict(rows[:0]).shape == (0,)


@compiled
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_kernel_gives_a_row_the_same_bits_for_any_number_of_threads(exported, forest, threads):
    rows = proof_rows(forest, 700)
    want = np.concatenate([load_model(exported).predict(row[None]) for row in rows[:40]])
    got = load_model(exported, threads).predict(np.asfortranarray(rows))
    assert (got[:40] == want).all()


@compiled
def test_several_threads_may_share_the_kernel(exported, forest):
    model, rows = load_model(exported), proof_rows(forest, 200)
    want = model.predict(rows)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: model.predict(rows[i : i + 3]), range(190)))
    assert all((answer == want[i : i + 3]).all() for i, answer in enumerate(answers))


@compiled
def test_rows_that_do_not_fit_never_reach_the_kernel(exported):
    with pytest.raises(ValidationError, match=r"expected shape \(n, 5\), got shape"):
        load_model(exported).predict(np.zeros((3, 4)))


def test_a_linear_model_is_left_to_onnxruntime():
    model = load_model(to_onnx(LinearModel(np.array([2.0, 1.0]), 1.0)))
    assert model.engine == "onnxruntime"
    assert model.predict(np.ones((1, 2))).tolist() == [4.0]


def test_without_the_kernels_onnxruntime_answers_the_same(exported, forest, monkeypatch):
    rows = proof_rows(forest, 100)
    want = load_model(exported).predict(rows)
    monkeypatch.setattr(module, "native", lambda: Native(None, "not compiled"))
    model = load_model(exported)
    assert model.engine == "onnxruntime"
    assert (model.predict(rows) == want).all()


@compiled
def test_a_kernel_that_answers_differently_is_not_used(exported, monkeypatch, caplog):
    good = module.KernelRegressor

    class Wrong(good):
        def _run(self, Z):
            return np.nextafter(super()._run(Z), np.inf)

    monkeypatch.setattr(module, "KernelRegressor", Wrong)
    with caplog.at_level(logging.WARNING, logger="tasador"):
        assert load_model(exported).engine == "onnxruntime"
    assert "answers differ on this machine" in caplog.text


@compiled
def test_a_wide_kernel_that_answers_differently_is_not_used(exported, forest, monkeypatch, caplog):
    if load_model(exported).wide is None:
        pytest.skip("the processor lacks AVX-512")

    class Wrong(module.WideTrees):
        def predict(self, Z):
            return np.nextafter(super().predict(Z), np.inf)

    monkeypatch.setattr(module, "WideTrees", Wrong)
    with caplog.at_level(logging.WARNING, logger="tasador"):
        model = load_model(exported)
    assert (model.engine, model.wide) == ("kernel", None)
    assert "batches are valued row by row" in caplog.text
    rows = proof_rows(forest, 300)
    assert (model.predict(rows) == OnnxRegressor(exported).predict(rows)).all()


@compiled
def test_trees_too_wide_for_the_kernel_are_left_to_onnxruntime(forest, monkeypatch, caplog):
    monkeypatch.setattr("tasador.trees.kernels._MOST_COLUMNS", 3)
    with caplog.at_level(logging.WARNING, logger="tasador"):
        assert load_model(to_onnx(forest)).engine == "onnxruntime"
    assert "too wide for the kernel" in caplog.text


def test_the_kernels_can_be_switched_off():
    script = "from tasador.core.kernels import native; print(native().library, native().reason)"
    environment = os.environ | {"TASADOR_NATIVE": "0"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "None switched off by TASADOR_NATIVE=0\n"


@pytest.mark.skipif(compiler is None, reason="no C compiler")
def test_a_library_of_other_sources_is_refused(tmp_path):
    cases = (
        (f"int tasador_abi(void) {{ return {ABI + 1}; }}", "undefined symbol"),
        (
            f"int tasador_abi(void) {{ return {ABI + 1}; }} int tasador_trees_predict,"
            " tasador_plain, tasador_nearest, tasador_comparables;",
            f"interface {ABI + 1}, not {ABI}",
        ),
        (
            f"int tasador_abi(void) {{ return {ABI}; }} int tasador_trees_predict,"
            " tasador_plain, tasador_nearest, tasador_comparables;",
            "undefined symbol",
        ),
    )
    for number, (code, message) in enumerate(cases):
        source, library = tmp_path / "a.c", tmp_path / f"{number}.so"
        source.write_text(code)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
        with pytest.raises(OSError, match=message):
            Library.open(library)


@compiled
@pytest.mark.parametrize(
    ("array", "value"),
    [("left", 0), ("right", 0), ("left", 1 << 30), ("right", -7), ("roots", 1 << 30)],
)
def test_circles_and_branches_outside_the_trees_are_refused(forest, array, value):
    changed = getattr(forest, array).copy()
    changed[0] = value
    broken = dataclasses.replace(forest, **{array: changed})
    with pytest.raises(TrainingError, match="the trees are no trees"):
        CompactTrees(broken, native().library)


def test_a_circle_in_a_model_file_is_refused_before_onnxruntime_sees_it(forest, monkeypatch):
    inner = forest.feature >= 0
    left = forest.left.copy()
    parent = int(np.flatnonzero(inner)[1])
    left[parent] = 0
    monkeypatch.setattr("onnx.checker.check_model", lambda proto: None)
    model = to_onnx(dataclasses.replace(forest, left=left))
    with pytest.raises(BundleError, match="the trees are no trees"):
        load_model(model)


@pytest.mark.parametrize(
    "name", ["nodes_missing_value_tracks_true", "nodes_trueleafs", "nodes_falseleafs"]
)
def test_a_flag_that_is_neither_0_nor_1_is_refused(exported, name):
    """onnxruntime reads it as no, where any other number than 0 might be taken for yes."""
    model = onnx.load_from_string(exported)
    trees = next(node for node in model.graph.node if node.op_type == "TreeEnsemble")
    flags = next(attribute for attribute in trees.attribute if attribute.name == name)
    flags.ints[0] = 2
    with pytest.raises(BundleError, match=f"{name} holds other numbers than 0 and 1"):
        load_model(model.SerializeToString())


@compiled
def test_trees_with_category_sets_are_run_by_the_kernel():
    trees = grown(2, 9, 20, 5, False, 40)
    model = load_model(to_onnx(trees))
    assert model.engine == "kernel"
    assert np.array_equal(model.predict(proof_rows(trees)), trees.predict(proof_rows(trees)))


def tensor(name):
    """Write another tensor into an attribute of the trees."""

    def change(model, value):
        node = next(node for node in model.graph.node if node.op_type == "TreeEnsemble")
        found = next(attribute for attribute in node.attribute if attribute.name == name)
        array = value(onnx.numpy_helper.to_array(found.t).copy())
        found.t.CopyFrom(onnx.numpy_helper.from_array(array, name))

    return change


def zero(model, value):
    constant = next(one for one in model.graph.initializer if one.name == "zero")
    constant.CopyFrom(onnx.numpy_helper.from_array(value(np.float64(0.0)), "zero"))


def operator(model, value):
    node = next(node for node in model.graph.node if node.op_type == "Floor")
    node.op_type = value("Floor")


def at_first_code(number):
    return lambda values: np.concatenate([[number], values[1:]])


@pytest.mark.parametrize(
    ("change", "value", "message"),
    [
        (tensor("nodes_modes"), lambda a: np.where(a == 6, 4, a).astype(np.uint8), "another mode"),
        (tensor("nodes_modes"), lambda a: a * 0, "another mode"),
        (tensor("nodes_modes"), lambda a: (a * 0 + 6).astype(np.uint8), "another mode"),
        (tensor("membership_values"), at_first_code(0.5), "no whole numbers"),
        (tensor("membership_values"), at_first_code(-1.0), "category codes"),
        (tensor("membership_values"), at_first_code(2.0**20), "category codes"),
        (tensor("membership_values"), at_first_code(np.inf), "category codes"),
        (tensor("membership_values"), at_first_code(np.nan), "sets for"),
        (tensor("membership_values"), lambda a: np.append(np.nan, a[1:]), "sets"),
        (tensor("membership_values"), lambda a: a[:-1], "sets for"),
        (tensor("membership_values"), lambda a: a[:0], "sets for"),
        (tensor("membership_values"), lambda a: np.zeros(len(a), np.int64), "no list of doubles"),
        (tensor("membership_values"), lambda a: a[None], "field 1 twice"),
        (tensor("nodes_splits"), lambda a: a + 1.0, "beside a split value"),
        (zero, lambda _: np.float64(1.0), "fractions are dropped in another way"),
        (zero, lambda _: np.zeros(3), "fractions are dropped in another way"),
        (operator, lambda _: "Round", "operators"),
    ],
)
def test_a_model_file_of_other_category_sets_than_tasador_writes_is_refused(change, value, message):
    model = onnx.load_from_string(to_onnx(grown(2, 9, 20, 5, False, 40)))
    change(model, value)
    with pytest.raises(BundleError, match=message):
        load_model(model.SerializeToString())


@compiled
@pytest.mark.parametrize("sets", [False, True])
def test_damaged_model_files_are_refused_or_read_but_never_crash(exported, sets):
    """Damage that leaves a valid file of other trees is run by the kernel: on these, in bounds."""
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(20, 5))
    exported = to_onnx(grown(2, 9, 20, 5, False, 40)) if sets else exported
    outcomes = {"refused": 0, "run": 0}
    for _ in range(150):
        data = bytearray(exported)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        if rng.random() < 0.1:
            del data[rng.integers(0, len(data)) :]
        try:
            trees = read_model(bytes(data))
            if isinstance(trees, TreeEnsemble) and trees.n_features == 5:
                KernelRegressor(trees, native().library).predict(rows)
                outcomes["run"] += 1
        except (BundleError, TrainingError):
            outcomes["refused"] += 1
    assert min(outcomes.values()) > (3 if sets else 10), outcomes


SANITIZED = """
import sys
import numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from fixtures.random_trees import grown
from tasador.core.kernels import Library
from tasador.features.comparables import _KERNEL_FACTORS, ComparablesIndex
from tasador.contract.model import Column, Ratio, TableContract, Target
from tasador.features.comparables import CompactIndex
from tasador.features.columns_kernel import CompactPlain
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.trees.kernels import CompactTrees
from tasador.trees.onnx_model import proof_rows
from tasador.trees.kernels import WideTrees
library = Library.open(Path(sys.argv[1]))
wide = library.wide_trees_predict(None, None, 0, None, 0) == 0
for seed in range(0, 40, 3):
    categories = 70 * (seed % 4 == 0)
    trees = grown(seed, 1 + 3 * seed, 1 + seed, 1 + seed % 5, bool(seed % 2), categories)
    kernel, rows = CompactTrees(trees, library), proof_rows(trees, 560)
    want = kernel.predict(rows)
    assert np.allclose(want, trees.predict(rows), rtol=1e-9, equal_nan=True)
    for n in (*range(1, 20), 24, 25, 521):
        assert (kernel.predict(rows[:n].copy()) == want[:n]).all()
    if wide:
        kernel = WideTrees(trees, library)
        for n in (1, 63, 64, 65, 128, 129, 513, 560):
            assert (kernel.predict(rows[:n].copy()) == want[:n]).all()
    m, d, context = 2 + 9 * seed, 1 + seed % 4, seed % 6
    rng = np.random.default_rng(seed)
    index = ComparablesIndex.fit(
        np.round(rng.normal(size=(m, d)), 1), rng.normal(size=m),
        rng.normal(size=m) if seed % 2 else None, rng.normal(size=(m, context)),
    )
    compact = CompactIndex(index, _KERNEL_FACTORS[:, 0], library)
    similar = rng.normal(size=300) if seed % 2 else None
    compact.features(rng.normal(size=(300, d)), similar)
    for times in (None, rng.integers(0, 9, m) * 1.0):  # only some training rows inform a row
        index = ComparablesIndex.fit(
            np.round(rng.normal(size=(m, d)), 1), rng.normal(size=m),
            rng.normal(size=m) if seed % 2 else None, rng.normal(size=(m, context)), times,
            excludes_own=times is None,
        )
        compact = CompactIndex(index, _KERNEL_FACTORS[:, 0], library)
        at = rng.integers(0, m, 300)
        own = index.similar[at] if seed % 2 else None
        when = rng.integers(0, 9, 300) * 1.0
        asked = index.asked(index.points[at], own, when, index.context[at])
        compact.features(*asked)
        compact.features(*asked.take(np.lexsort(asked.places.T)))  # each row near the one before
columns = (
    Column("lon", "number", role="longitude"), Column("lat", "number", role="latitude"),
    Column("rooms", "integer", nullable=True), Column("sold", "datetime"),
    Column("kind", "category", role="segment", categories=("flat", "house", "villa")),
)
contract = TableContract("houses", "Houses", "houses", columns, Target("price"),
                         ratios=(Ratio("r", "lat", "rooms"),))
X = np.round(np.random.default_rng(0).normal(size=(200, 5)), 1)
X[:, 4] = np.abs(X[:, 4] * 2 // 1)
X[X[:, 2] > 1, 2] = np.nan
features = FeaturePipeline(contract, FeatureSettings(clusters=3)).fit(X, X[:, 0])
plain = CompactPlain(features, library)
filled = features.imputer.fill(X)
assert (plain.transform(X, filled) == features._transform(X, filled)).all()
print("clean")
"""


@pytest.mark.skipif(compiler is None, reason="no C compiler")
def test_the_kernels_stay_inside_their_memory(tmp_path):
    """Runs them under the address and undefined-behaviour sanitizers."""
    library, runtime = sanitized_kernels(tmp_path)
    environment = os.environ | {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
    tests = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(library), str(tests)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "clean\n"), result.stderr[-2000:]
