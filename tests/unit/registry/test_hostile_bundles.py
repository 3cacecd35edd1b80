"""Crafted bundles are refused before anything is built from them, and a service goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.command_line import run_here
from fixtures.crafted_bundles import ARRAYS, CRAFTED, EXPLAIN, FEATURES, GOLDEN, a_deep_manifest
from fixtures.forgery import arrays_of, forge, forged_array, reseal, with_arrays
from fixtures.process import Server, free_port
from tasador.core.errors import BundleError, TasadorError
from tasador.core.input_checks import write_arrays
from tasador.core.kernels import native
from tasador.registry.model_bundle import load_bundle
from tasador.registry.signature import TrustedKeys
from tasador.serving.api.health import DegradedError, refresher_check
from tasador.serving.cascade import Cascade
from tasador.serving.model_slot import ModelSlot
from tasador.serving.refresher import Refresher
from tasador.settings.serving import SourceSettings

ROW = {"lon": -3.5, "lat": 40.4, "income": 3.0, "rooms": 4, "area": 90.0, "kind": "house"}


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
    features = "tasador.features"
    for name in ("scipy.spatial.cKDTree", f"{features}.comparables.CompactIndex",
                 f"{features}.columns_kernel.CompactPlain"):  # fmt: skip
        monkeypatch.setattr(name, lambda *_, name=name: built.append(name))
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
    ["context twice as wide", "no golden rows", "a manifest 300 levels deep", "a header of dashes"],
)
def test_verify_refuses_it_with_an_error_and_no_traceback(bundle_folder: Path, what: str) -> None:
    CRAFTED[what](bundle_folder)
    code, out, err = run_here(bundle_folder.parent, "verify", str(bundle_folder))
    assert code == 5, out + err
    assert err.strip()


def test_verify_as_a_process_refuses_a_graph_that_loops_for_ever(bundle_folder: Path) -> None:
    CRAFTED["a graph that loops for ever"](bundle_folder)
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
    monkeypatch.setattr("tasador.registry.manifest.Manifest.from_json", parsed.append)
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


@pytest.mark.no_cover
def test_a_running_model_goes_on_and_a_refused_bundle_is_not_fetched_again(
    real_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    shutil.copytree(real_bundle, here)
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
        shutil.copytree(real_bundle, here)
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
    real_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    shutil.copytree(real_bundle, tmp_path / "good")
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
    real_bundle: Path, tmp_path: Path
) -> None:
    here, workspace = tmp_path / "here", tmp_path / "workspace"
    workspace.mkdir()
    shutil.copytree(real_bundle, here)
    variables = {"TASADOR_SOURCE__LAST_GOOD": str(tmp_path / "kept")}
    server = Server(workspace, here, free_port(), **variables)
    try:
        server.start()
        server.wait()
        before = answers_of(server)
        ends = time.monotonic() + 60
        while not (tmp_path / "kept" / "latest.json").exists():  # made once the model serves
            assert time.monotonic() < ends
            time.sleep(0.05)
        for number, what in enumerate(
            ("context twice as wide", "a graph that loops for ever", "a header of dashes"), 1
        ):
            shutil.rmtree(here)
            shutil.copytree(real_bundle, here)
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
