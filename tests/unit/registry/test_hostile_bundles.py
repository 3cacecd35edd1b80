"""Bundles made by somebody who knows the format: every checksum is right, the content is not."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fixtures.forgery import arrays_of, forge, forged_array, reseal, with_arrays
from fixtures.process import Server, free_port
from tasador.core.errors import BundleError, TasadorError
from tasador.core.kernels import native
from tasador.registry.arrays import write_arrays
from tasador.registry.model_bundle import load_bundle
from tasador.registry.signature import TrustedKeys
from tasador.registry.writer import write_bundle
from tasador.serving.api.health import DegradedError, refresher_check
from tasador.serving.cascade import Cascade
from tasador.serving.model_slot import ModelSlot
from tasador.serving.refresher import Refresher
from tasador.settings.serving import SourceSettings

Craft = Callable[[Path], Any]
FEATURES, EXPLAIN, GOLDEN = "features.npz", "explain.npz", "golden.npz"
ROW = {"lon": -3.5, "lat": 40.4, "income": 3.0, "rooms": 4, "area": 90.0, "kind": "house"}


def doubled(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, array], axis=array.ndim - 1)


def first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.reshape(-1)[0] = value
        return array

    return change


def of_features(**changed: Any) -> Craft:
    return lambda folder: with_arrays(folder, FEATURES, **changed)


def of_explain(**changed: Any) -> Craft:
    return lambda folder: with_arrays(folder, EXPLAIN, **changed)


def of_manifest(change: Callable[[dict[str, Any]], Any]) -> Craft:
    return lambda folder: reseal(folder, manifest=change)


def of_graph(change: Callable[[onnx.ModelProto], Any]) -> Craft:
    def craft(folder: Path) -> None:
        model = onnx.load_from_string((folder / "model.onnx").read_bytes())
        changed = change(model)
        model = changed if isinstance(changed, onnx.ModelProto) else model
        reseal(folder, {"model.onnx": model.SerializeToString()})

    return craft


def graph_of(nodes: list[Any], constants: list[Any], q: int) -> onnx.ModelProto:
    """A graph with the right interface, of other operators."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "tasador", [value("X", TensorProto.DOUBLE, [None, q])],
        [value("score", TensorProto.DOUBLE, [None, 1])], constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 5)]
    return helper.make_model(graph, producer_name="tasador", ir_version=10, opset_imports=opsets)


def width_of(model: onnx.ModelProto) -> int:
    return int(model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)


def constant(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def reads_a_file(model: onnx.ModelProto) -> None:
    """The scale is kept in a file beside the graph, as ONNX allows."""
    tensor = next(one for one in model.graph.initializer if one.name == "scale")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "secret.bin"), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)


def loops_for_ever(model: onnx.ModelProto) -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["s"], ["t"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.DOUBLE, [None, 1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", TensorProto.DOUBLE, [None, 1]),
        ],
    )
    nodes = [
        helper.make_node("ReduceSum", ["X", "axis"], ["start"]),
        helper.make_node("Loop", ["", "yes", "start"], ["score"], body=body),
    ]
    constants = [constant("axis", np.array([1])), constant("yes", np.array(True))]
    return graph_of(nodes, constants, width_of(model))


def takes_a_gigabyte(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["none"], keepdims=0),
        helper.make_node("Cast", ["none"], ["zero"], to=TensorProto.DOUBLE),
        helper.make_node("Gather", ["X", "column"], ["picked"], axis=1),
        helper.make_node("Add", ["picked", "zero"], ["score"]),
    ]
    constants = [
        constant("size", np.array([300_000_000])), constant("column", np.array([0])),
    ]  # fmt: skip
    return graph_of(nodes, constants, width_of(model))


def of_another_maker(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def has_a_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(
        helper.make_function("mine", "F", ["a"], ["b"], [node], [helper.make_opsetid("", 21)])
    )


def has_a_sub_graph(model: onnx.ModelProto) -> None:
    node = model.graph.node[-1]
    node.attribute.append(helper.make_attribute("then_branch", model.graph.__class__(name="g")))


def is_named_twice(model: onnx.ModelProto) -> onnx.ModelProto:
    """Protocol buffers keep the last of two names, a reader may see the first."""
    attribute = next(
        one for node in model.graph.node for one in node.attribute if one.name == "tree_roots"
    )
    extra = onnx.AttributeProto.FromString(attribute.SerializeToString())
    model.graph.node[-1].attribute.append(extra)
    return model


def a_deep_chain(folder: Path) -> None:
    from tasador.trees.ensemble import TreeEnsemble
    from tasador.trees.onnx_export import to_onnx

    n = 20_000
    inner = np.arange(n)
    q = json.loads((folder / "manifest.json").read_bytes())["model"]["n_features"]
    trees = TreeEnsemble(
        feature=np.r_[np.zeros(n), np.full(n + 1, -1)].astype(np.int32),
        threshold=np.zeros(2 * n + 1),
        left=np.r_[inner + 1, np.full(n + 1, -1)].astype(np.int32),
        right=np.r_[inner + n + 1, np.full(n + 1, -1)].astype(np.int32),
        value=np.zeros(2 * n + 1),
        missing_left=np.zeros(2 * n + 1, np.bool_),
        cover=np.ones(2 * n + 1),
        roots=np.zeros(1, np.int32),
        n_features=q,
    )
    reseal(folder, {"model.onnx": to_onnx(trees)})


def of_golden(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Craft:
    return lambda folder: reseal(folder, {GOLDEN: write_arrays(change(arrays_of(folder, GOLDEN)))})


def npz(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(header: bytes, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


def a_header_of(text: bytes) -> Craft:
    return lambda folder: reseal(folder, {FEATURES: npz(ratio_fill=npy(text))})


def cut_at(share: float, name: str) -> Craft:
    def craft(folder: Path) -> None:
        content = (folder / name).read_bytes()
        reseal(folder, {name: content[: int(len(content) * share)]})

    return craft


def a_deep_manifest(levels: int) -> Craft:
    def craft(folder: Path) -> None:
        text = (folder / "manifest.json").read_text()
        deep = '{"a":' * levels + "1" + "}" * levels
        (folder / "manifest.json").write_text(
            text.replace('"lineage": {', f'"lineage": {{"d": {deep},')
        )

    return craft


def a_name_twice(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"origin"', '"name": "other", "origin"', 1))


def set_in(*path: str, to: Any) -> Craft:
    def change(plain: dict[str, Any]) -> None:
        for key in path[:-1]:
            plain = plain[key]
        plain[path[-1]] = to

    return of_manifest(change)


ARRAYS: dict[str, Craft] = {
    "context twice as wide": of_features(comparables__context=doubled),
    "points twice as wide": of_features(comparables__points=doubled),
    "points of single precision": of_features(comparables__points=lambda a: a.astype("f4")),
    "points not finite": of_features(comparables__points=first(np.inf)),
    "points too large": of_features(comparables__points=first(1e300)),
    "target too long": of_features(comparables__target=doubled),
    "target of numbers beyond all": of_features(comparables__target=first(1e308)),
    "target not a number": of_features(comparables__target=first(np.nan)),
    "similar dropped": of_features(comparables__similar=lambda a: a[:0]),
    "no comparables at all": of_features(
        comparables__points=lambda a: a[:0], comparables__target=lambda a: a[:0],
        comparables__similar=lambda a: a[:0], comparables__context=lambda a: a[:0],
    ),
    "scale too long": of_features(comparables__scale=doubled),
    "scale of no width": of_features(comparables__scale=lambda a: a[:, None][:, :0]),
    "ratio_fill of no width": of_features(ratio_fill=lambda a: a[:, None][:, :0]),
    "fills too short": of_features(imputer__fills=lambda a: a[:2]),
    "fills not numbers": of_features(imputer__fills=first(np.nan)),
    "ratio_fill too long": of_features(ratio_fill=doubled),
    "target means too long": of_features(target_means__5=doubled),
    "target means too short": of_features(target_means__5=lambda a: a[:1]),
    "an array missing": of_features(ratio_fill=None),
    "an array unknown": of_features(more=np.zeros(1)),
}  # fmt: skip
CRAFTED: dict[str, Craft] = {
    **ARRAYS,
    "an explanation's branch outside": of_explain(left=first(2**31 - 1)),
    "an explanation's branch backwards": of_explain(right=first(-7)),
    "an explanation's circle": of_explain(left=first(0)),
    "an explanation's root outside": of_explain(roots=first(2**30)),
    "an explanation's column outside": of_explain(feature=first(10_000)),
    "an explanation of longer columns": of_explain(feature=lambda a: a.astype(np.int64)),
    "an explanation's cover not a number": of_explain(cover=first(np.nan)),
    "an explanation of more features": of_explain(numbers=first(10**6)),
    "an explanation of half a feature": of_explain(numbers=first(2.5)),
    "a graph that reads a file": of_graph(reads_a_file),
    "a graph that loops for ever": of_graph(loops_for_ever),
    "a graph that takes a gigabyte": of_graph(takes_a_gigabyte),
    "a graph with another maker's operators": of_graph(of_another_maker),
    "a graph with a function": of_graph(has_a_function),
    "a graph with a sub-graph": of_graph(has_a_sub_graph),
    "a graph with an attribute too many": of_graph(is_named_twice),
    "a graph with metadata": of_graph(lambda m: m.metadata_props.add(key="a", value="b") and None),
    "a graph with a training part": of_graph(lambda m: m.training_info.add() and None),
    "a graph with a description": of_graph(lambda m: setattr(m, "doc_string", "x")),
    "a graph of another width": of_graph(
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2**40)
    ),
    "a graph whose tree is a chain": a_deep_chain,
    "two graphs in one": lambda f: reseal(
        f, {"model.onnx": (f / "model.onnx").read_bytes() * 2}
    ),
    "no golden rows": of_golden(lambda a: {k: v[:0] for k, v in a.items()}),
    "golden rows too few": of_golden(lambda a: {k: v[:19] for k, v in a.items()}),
    "golden rows too wide": of_golden(lambda a: a | {"X": doubled(a["X"])}),
    "golden answers in a matrix": of_golden(lambda a: a | {"prediction": a["prediction"][:, None]}),
    "golden answers not numbers": of_golden(lambda a: a | {"prediction": a["prediction"] * np.nan}),
    "golden rows of single precision": of_golden(lambda a: a | {"X": a["X"].astype("f4")}),
    "golden rows and more": of_golden(lambda a: a | {"Y": a["X"]}),
    "a manifest 300 levels deep": a_deep_manifest(300),
    "a manifest 900 levels deep": a_deep_manifest(900),
    "a manifest 100 000 levels deep": a_deep_manifest(100_000),
    "a manifest with a name twice": a_name_twice,
    "a manifest that is a list": lambda f: (f / "manifest.json").write_text("[]"),
    "a manifest of half a character": lambda f: (f / "manifest.json").write_bytes(b'{"a":"\xff"}'),
    "a manifest that is empty": lambda f: (f / "manifest.json").write_bytes(b""),
    "clusters without number": set_in("features", "clusters", to=10**9),
    "names that are none": set_in("features", "names", to=7),
    "too many names": set_in("features", "names", to=["x"] * 100_000),
    "a floor of nothing": set_in("features", "comparables", "similar_floor", to=0.0),
    "a softening of nothing": set_in("features", "comparables", "softening", to=0.0),
    "a slope as a list": set_in("features", "comparables", "slope", to=[1]),
    "the context named otherwise": set_in("features", "comparables", "context", to=["lon"]),
    "nothing near": set_in("features", "comparables", "near", to=[]),
    "an interval without end": set_in("interval", "far_factor", to=1e308),
    "an imputer as a number": set_in("features", "imputer", to=3),
    "fillers as an object": set_in("features", "imputer", "fillers", to={"column": 3}),
    "indicated outside": set_in("features", "imputer", "indicated", to=[10**9]),
    "a header of dashes": a_header_of(b"-" * 9000 + b"1\n"),
    "a header of brackets": a_header_of(b"(" * 9000 + b"\n"),
    "a header of a huge shape": a_header_of(
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"9" * 400 + b",), }\n"
    ),
    "a header with code": a_header_of(
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (__import__('os').getpid(),), }\n"
    ),
    "a header of objects": a_header_of(
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    ),
    "arrays cut in half": cut_at(0.5, FEATURES),
    "arrays cut at the end": cut_at(0.999, FEATURES),
    "an explanation cut in half": cut_at(0.5, EXPLAIN),
    "golden rows cut in half": cut_at(0.5, GOLDEN),
    "a graph cut in half": cut_at(0.5, "model.onnx"),
    "a profile of many levels": lambda f: reseal(
        f, {"profile.json": b'{"columns":' + b"[" * 900 + b"]" * 900 + b"}"}
    ),
    "a profile of columns in a list": lambda f: reseal(f, {"profile.json": b'{"columns": [1]}'}),
    "a profile of words": lambda f: reseal(
        f, {"profile.json": b'{"columns": {"income": {"min": "a"}}}'}
    ),
    "a card of half a character": lambda f: reseal(f, {"card.md": b"\xff\xfe"}),
    "too many files": lambda f: [(f / f"{i}.txt").write_text("") for i in range(100)],
}  # fmt: skip


@pytest.mark.parametrize("what", CRAFTED)
def test_a_resealed_bundle_is_refused_before_anything_is_built_from_it(
    bundle_folder: Path, what: str
) -> None:
    CRAFTED[what](bundle_folder)
    with pytest.raises(BundleError):
        load_bundle(bundle_folder)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a manifest 300 levels deep", "nested more than 64 levels"),
        ("a manifest with a name twice", "'name' is given twice"),
        ("a header of dashes", "no header of a plain array"),
        ("context twice as wide", r"comparables\.context has shape"),
        ("points of single precision", r"comparables\.points holds float32"),
        ("an explanation's circle", "the trees are no trees"),
        ("no golden rows", r"golden\.npz is damaged: .*got 0 rows"),
        ("golden rows too few", "at least 20 golden rows, got 19"),
        ("a graph whose tree is a chain", "more than 4096 levels"),
        ("an interval without end", "answers are no numbers"),
    ],
)
def test_a_refusal_says_what_is_wrong(bundle_folder: Path, what: str, message: str) -> None:
    CRAFTED[what](bundle_folder)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle_folder)


def test_no_kernel_is_given_arrays_that_do_not_fit(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    for name in ("comparables.cKDTree", "comparables.CompactIndex", "columns_kernel.CompactPlain"):
        monkeypatch.setattr(f"tasador.features.{name}", lambda *_, name=name: built.append(name))
    good = (bundle_folder / FEATURES).read_bytes()
    for what in ARRAYS:
        reseal(bundle_folder, {FEATURES: good})
        ARRAYS[what](bundle_folder)
        with pytest.raises(BundleError, match="cannot be rebuilt"):
            load_bundle(bundle_folder)
    assert built == []


def test_the_helper_reseals_a_bundle_that_loads(bundle_folder: Path) -> None:
    """Otherwise every crafted bundle would be refused for its checksums."""
    before = load_bundle(bundle_folder)
    with_arrays(bundle_folder, FEATURES)
    reseal(bundle_folder, manifest=lambda plain: plain["metrics"].update(seen=1))
    after = load_bundle(bundle_folder)
    assert after.version != before.version
    assert (after.predict(after.golden) == before.predict(before.golden)).all()


def test_onnxruntime_never_sees_a_graph_that_the_exporter_does_not_write(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    monkeypatch.setattr(
        "tasador.trees.onnx_model.onnxruntime.InferenceSession",
        lambda content, *_, **__: opened.append(content),
    )
    good = (bundle_folder / "model.onnx").read_bytes()
    for what in [name for name in CRAFTED if name.startswith(("a graph", "two graphs"))]:
        reseal(bundle_folder, {"model.onnx": good})
        CRAFTED[what](bundle_folder)
        with pytest.raises(BundleError):
            load_bundle(bundle_folder)
    assert opened == []


def test_a_file_beside_the_bundle_does_not_come_out_through_the_model(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime looks for external data below the working folder: nothing is looked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(np.float64(42.0).tobytes())
    CRAFTED["a graph that reads a file"](bundle_folder)
    with pytest.raises(BundleError, match=r"the model cannot be loaded.*tasador does not write"):
        load_bundle(bundle_folder)


@pytest.mark.parametrize(
    "what",
    ["context twice as wide", "a graph that loops for ever", "no golden rows",
     "a manifest 300 levels deep", "a header of dashes"],
)  # fmt: skip
def test_verify_refuses_it_with_an_error_and_no_traceback(bundle_folder: Path, what: str) -> None:
    CRAFTED[what](bundle_folder)
    done = subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", "verify", str(bundle_folder)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 5, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


def test_the_signature_is_checked_before_anything_is_parsed(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = tmp_path / "ours.pub"
    public.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )  # fmt: skip
    trusted = TrustedKeys.read([public])
    parsed: list[bytes] = []
    monkeypatch.setattr("tasador.registry.integrity.Manifest.from_json", parsed.append)
    for craft in (a_deep_manifest(300), a_deep_manifest(100_000), lambda _: None):
        craft(bundle_folder)
        with pytest.raises(BundleError, match="is not signed"):
            load_bundle(bundle_folder, trusted=trusted)
    assert parsed == []


@pytest.mark.parametrize("error", [RecursionError, MemoryError, KeyError, OSError, ArithmeticError])
def test_whatever_goes_wrong_while_loading_is_a_refusal_with_its_cause(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error("by itself")

    monkeypatch.setattr("tasador.registry.model_bundle.load_model", fails)
    with pytest.raises(BundleError, match=f"{error.__name__}.*by itself"):
        load_bundle(bundle_folder)


@pytest.fixture(scope="module")
def real_folder(bundle_parts, tmp_path_factory) -> Path:
    import dataclasses

    folder = tmp_path_factory.mktemp("real") / "good"
    write_bundle(folder, dataclasses.replace(bundle_parts, origin="real"))
    return folder


def test_a_running_model_goes_on_and_a_refused_bundle_is_not_fetched_again(
    real_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    shutil.copytree(real_folder, here)
    source = SourceSettings(local=str(here), attempts=1, last_good=str(tmp_path / "kept"))
    refresher = Refresher(Cascade.of(source), ModelSlot())
    assert refresher.refresh()
    version, loads = refresher.slot.current.version, []
    monkeypatch.setattr(
        "tasador.serving.cascade.load_bundle",
        lambda *a, **k: loads.append(a) or load_bundle(*a, **k),
    )
    for number, craft in enumerate(CRAFTED.values(), 1):
        shutil.rmtree(here)
        shutil.copytree(real_folder, here)
        craft(here)
        for _ in range(3):
            assert not refresher.refresh()
        assert refresher.slot.current.version == version
        assert (refresher.report().refused, len(loads)) == (number, number)
        with pytest.raises(DegradedError, match=rf"^{number} refused; .*refused before"):
            refresher_of_health(refresher)
    # a restart with nothing but the forged bundle and the copy
    again = Refresher(Cascade.of(source), ModelSlot())
    assert again.refresh()
    assert (again.slot.current.source, again.slot.current.version) == ("last_good", version)


def refresher_of_health(refresher: Refresher) -> str:
    """Ask health about a refresher whose rounds are made by the test."""
    from dataclasses import replace

    report = replace(refresher.report(), running=True)

    class Reported:
        idle_s, cascade = refresher.idle_s, refresher.cascade

        def report(self) -> Any:
            return report

    return refresher_check(Reported())(None)


@pytest.mark.parametrize("error", [RecursionError, MemoryError, UnicodeError, ZeroDivisionError])
def test_a_source_that_fails_in_any_way_gives_way_to_the_next(
    real_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    shutil.copytree(real_folder, tmp_path / "good")
    settings_ = SourceSettings(
        object_store=str(tmp_path / "store"), local=str(tmp_path / "good"), attempts=1
    )

    def fails(*_: Any, **__: Any) -> None:
        raise error("by itself")

    monkeypatch.setattr("tasador.inference.sources.read_pointer", fails)
    loaded = Cascade.of(settings_).load()
    assert loaded.source == "local"


@pytest.mark.skipif(native().library is None, reason=native().reason)
def test_a_live_server_survives_its_polls_and_a_restart_uses_the_last_good_copy(
    real_folder: Path, tmp_path: Path
) -> None:
    here, workspace = tmp_path / "here", tmp_path / "workspace"
    workspace.mkdir()
    shutil.copytree(real_folder, here)
    variables = {"TASADOR_SOURCE__LAST_GOOD": str(tmp_path / "kept")}
    server = Server(workspace, here, free_port(), **variables)
    try:
        server.start()
        server.wait()
        before = answers_of(server)
        for number, what in enumerate(
            ("context twice as wide", "a graph that loops for ever", "a header of dashes"), 1
        ):
            shutil.rmtree(here)
            shutil.copytree(real_folder, here)
            CRAFTED[what](here)
            wait_for_refusal(server, number)
            assert answers_of(server) == before
        assert server.process is not None
        assert server.process.poll() is None
        server.stop()
        server.start()
        server.wait()
        assert answers_of(server) == before
        shown = httpx.get(f"{server.url}/health", timeout=30).text
        assert "last_good" in shown
    finally:
        server.end()


def answers_of(server: Server) -> list[float]:
    answer = httpx.post(f"{server.url}/api/v1/predict", json={"instances": [ROW]}, timeout=30)
    assert answer.status_code == 200, answer.text
    return [one["prediction"] for one in answer.json()["predictions"]]


def wait_for_refusal(server: Server, number: int) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        shown = httpx.get(f"{server.url}/health/deep", timeout=30)
        if shown.json()["status"] == "degraded" and f"{number} refused; " in shown.text:
            return
        time.sleep(0.2)
    pytest.fail(f"health never said degraded: {shown.text}")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_single_forgery_is_refused_or_answers_with_finite_numbers(
    written_bundle: Path, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "forged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(written_bundle, folder)
    name = data.draw(st.sampled_from([FEATURES, FEATURES, EXPLAIN, GOLDEN, "manifest.json"]))
    if name == "manifest.json":
        part = data.draw(st.sampled_from(["features", "interval", "target", "model", "contract"]))
        reseal(folder, manifest=lambda plain: plain.update({part: forge(data, plain[part])}))
    else:
        arrays = arrays_of(folder, name)
        changed = data.draw(st.sampled_from(sorted(arrays)))
        forged = forged_array(data, arrays[changed])
        if forged.dtype.isnative:
            reseal(folder, {name: write_arrays(arrays | {changed: forged})})
    try:
        with np.errstate(all="ignore"):
            bundle = load_bundle(folder)
            rows = [ROW, ROW | {"rooms": None}, ROW | {"lon": 3.0, "lat": 80.0}]
            values = [bundle.value(row) for row in rows]
            reasons = bundle.explain(ROW)
    except TasadorError:
        return
    assert np.isfinite([(v.prediction, v.lower, v.upper) for v in values]).all()
    assert np.isfinite([*reasons.contributions.values(), reasons.expected]).all()
