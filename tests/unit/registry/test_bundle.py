import dataclasses
import json
import os
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import orjson
import pytest

from tasador.core.errors import BundleError, StorageError, ValidationError
from tasador.core.hashing import sha256_bytes, sha256_file
from tasador.core.input_checks import write_arrays
from tasador.core.kernels import native
from tasador.modeling.conformal import ConformalInterval
from tasador.registry.manifest import CARD_HASH, CARD_TIME, CARD_VERSION, _read, read_verified
from tasador.registry.model_bundle import BundleLimits, load_bundle
from tasador.registry.writer import write_bundle
from tasador.trees.ensemble import LinearModel
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor

ROW = {"lon": -3.5, "lat": 40.4, "income": 3.0, "rooms": 4, "area": 90.0, "kind": "house"}


def edit_manifest(folder, change):
    """Change the manifest and its own hash, as somebody who knows the format would."""
    path = folder / "manifest.json"
    plain = json.loads(path.read_bytes())
    change(plain)
    content = {k: plain[k] for k in sorted(plain) if k not in ("created", "content_hash")}
    plain["content_hash"] = sha256_bytes(orjson.dumps(content))
    path.write_bytes(orjson.dumps(plain))


def replace_file(folder, name, data):
    """Replace a file and its checksum in the manifest."""
    (folder / name).write_bytes(data)
    entry = {"sha256": sha256_file(folder / name), "bytes": len(data)}
    edit_manifest(folder, lambda plain: plain["files"].update({name: entry}))


def test_a_loaded_bundle_answers_as_the_parts_it_was_made_of(
    written_bundle, bundle_parts, house_rows
):
    X, _ = house_rows
    bundle = load_bundle(written_bundle)
    parts = bundle_parts
    score = OnnxRegressor(parts.model).predict(parts.features.transform(X))
    assert (bundle.predict(X) == parts.target.inverse(score)).all()
    assert bundle.contract.schema_fingerprint == parts.contract.schema_fingerprint
    assert (bundle.origin, bundle.card, bundle.profile) == ("synthetic", parts.card, parts.profile)
    assert bundle.manifest.metrics == parts.metrics
    assert bundle.version == f"houses_model-{bundle.manifest.content_hash[:12]}"


@pytest.mark.skipif(native().library is None, reason=native().reason)
def test_a_card_names_the_version_time_and_hash_of_its_bundle(bundle_parts, tmp_path):
    card = f"Version {CARD_VERSION}, trained {CARD_TIME}, bundle {CARD_HASH}."
    write_bundle(tmp_path / "named", dataclasses.replace(bundle_parts, card=card))
    bundle = load_bundle(tmp_path / "named")
    made = bundle.manifest
    assert bundle.card == (
        f"Version {bundle.version}, trained {made.created}, bundle {made.content_hash}."
    )


def test_a_bundle_of_trees_is_valued_by_the_compiled_kernel(written_bundle):
    assert load_bundle(written_bundle).model.engine == "kernel"


def test_a_valuation_has_an_interval_around_it_and_says_who_answered(written_bundle):
    bundle = load_bundle(written_bundle)
    value = bundle.value(ROW)
    assert value.lower < value.prediction < value.upper
    assert (value.coverage, value.unit, value.version) == (0.9, "USD", bundle.version)


def test_rows_and_columns_get_the_same_answers_as_single_rows(written_bundle):
    bundle = load_bundle(written_bundle, threads=2)
    rows = [
        ROW | {"area": 40.0 + i, "rooms": None if i % 7 == 0 else i % 5 + 1} for i in range(200)
    ]
    columns = {name: [row[name] for row in rows] for name in ROW}
    single = [bundle.value(row) for row in rows]
    assert bundle.value_rows(rows) == single
    assert bundle.predict_columns(columns).tolist() == [v.prediction for v in single]
    assert bundle.value_rows([]) == []


def test_a_row_that_does_not_meet_the_contract_is_refused(written_bundle):
    bundle = load_bundle(written_bundle)
    with pytest.raises(ValidationError, match="area"):
        bundle.value({name: value for name, value in ROW.items() if name != "area"})


def test_the_same_parts_give_the_same_bundle(bundle_parts, written_bundle, tmp_path):
    again = write_bundle(tmp_path / "again", bundle_parts)
    assert again.version == load_bundle(written_bundle).version
    assert [entry.sha256 for entry in again.manifest.files.values()] == [
        entry.sha256 for entry in load_bundle(written_bundle).manifest.files.values()
    ]


def test_loading_and_valuing_imports_no_training_library(written_bundle):
    code = (
        "import sys, json; from pathlib import Path\n"
        "from tasador.registry.model_bundle import load_bundle\n"
        f"bundle = load_bundle(Path({str(written_bundle)!r}))\n"
        f"bundle.value({ROW!r}); bundle.value_rows([{ROW!r}] * 3)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert {"numpy", "onnxruntime", "orjson"} <= loaded
    assert ("scipy" in loaded) == (native().library is None)
    assert not loaded & {
        "pandas", "polars", "pyarrow", "sklearn", "lightgbm", "onnx", "mlflow", "hydra", "optuna",
        "joblib", "matplotlib", "fsspec", "pickle5", "cloudpickle", "skops", "rich", "typer",
    }  # fmt: skip
    assert done.stderr == ""


def test_valuing_a_file_by_command_does_not_import_pandas(written_bundle, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(",".join(map(str, line)) for line in (ROW, ROW.values())))
    code = (
        "import sys, tasador.cli.scoring as cli; from pathlib import Path\n"
        f"out = Path({str(tmp_path / 'out.csv')!r})\n"
        f"cli.predict({str(rows)!r}, out, bundle={str(written_bundle)!r})\n"
        "assert 'pyarrow.compute' in sys.modules and 'pandas' not in sys.modules\n"
        "import pandas, pyarrow\n"
        "assert len(pyarrow.table({'a': [1, 2]}).to_pandas()) == 2"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_bundle_without_proof_of_parity_is_not_written(changed_parts, bundle_parts, tmp_path):
    with pytest.raises(BundleError, match=r"not proven equal.*got no parity check"):
        write_bundle(tmp_path / "b", changed_parts(parity=None))
    for worst in (1e-6, float("nan")):
        bad = dataclasses.replace(bundle_parts.parity, max_relative=worst)
        with pytest.raises(BundleError, match="not proven equal"):
            write_bundle(tmp_path / "b", changed_parts(parity=bad))
    assert not list(tmp_path.iterdir())


def test_parts_that_do_not_fit_leave_nothing_behind(changed_parts, bundle_parts, tmp_path):
    other = to_onnx(LinearModel(np.zeros(2), 0.0))
    with pytest.raises((BundleError, ValidationError), match="do not fit"):
        write_bundle(tmp_path / "b", changed_parts(model=other))
    far = ConformalInterval(0.9, 1.0, scale_index=999)
    with pytest.raises(BundleError, match="do not fit together"):
        write_bundle(tmp_path / "b", changed_parts(interval=far))
    with pytest.raises(BundleError, match="name cannot be read"):
        write_bundle(tmp_path / "b", changed_parts(name="a b"))
    assert not list(tmp_path.iterdir())


def test_an_older_bundle_is_replaced_and_anything_else_is_not(
    bundle_folder, bundle_parts, tmp_path
):
    write_bundle(bundle_folder, bundle_parts)
    mine = tmp_path / "mine"
    mine.mkdir()
    write_bundle(mine, bundle_parts)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match="is not replaced"):
        write_bundle(precious, bundle_parts)
    assert (precious / "letter.txt").read_text() == "dear"
    link = tmp_path / "link"
    link.symlink_to(bundle_folder)
    for other in (link, precious / "letter.txt"):
        with pytest.raises(StorageError, match="is not replaced"):
            write_bundle(other, bundle_parts)


@pytest.mark.parametrize(
    "name", ["features.npz", "model.onnx", "profile.json", "card.md", "golden.npz"]
)
def test_a_changed_truncated_or_missing_file_is_refused_by_name(bundle_folder, name):
    path = bundle_folder / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=f"{name} is truncated"):
        load_bundle(bundle_folder)
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(BundleError, match=f"{name} in .* was changed"):
        load_bundle(bundle_folder)
    path.unlink()
    with pytest.raises(BundleError, match=f"lacks files: {name}"):
        load_bundle(bundle_folder)


def test_a_file_that_the_manifest_does_not_list_is_refused(bundle_folder):
    (bundle_folder / "evil.py").write_text("raise SystemExit")
    with pytest.raises(BundleError, match=r"does not list: evil\.py"):
        load_bundle(bundle_folder)
    replace_file(bundle_folder, "evil.py", b"raise SystemExit")
    with pytest.raises(BundleError, match=r"format 1 does not have: evil\.py"):
        load_bundle(bundle_folder)


def test_links_and_folders_are_refused_even_with_the_right_content(bundle_folder, tmp_path):
    card = bundle_folder / "card.md"
    card.rename(tmp_path / "card.md")
    card.symlink_to(tmp_path / "card.md")
    with pytest.raises(BundleError, match=r"card\.md in .* is refused: .* got a link"):
        load_bundle(bundle_folder)
    card.unlink()
    card.mkdir()
    with pytest.raises(BundleError, match="got a folder or device"):
        load_bundle(bundle_folder)
    card.rmdir()
    os.mkfifo(card)
    with pytest.raises(BundleError, match="got a folder or device"):
        load_bundle(bundle_folder)


def test_a_path_out_of_the_folder_in_the_manifest_is_refused(bundle_folder):
    entry = {"sha256": "0" * 64, "bytes": 1}
    edit_manifest(bundle_folder, lambda plain: plain["files"].update({"../../etc/passwd": entry}))
    with pytest.raises(BundleError, match="passwd' is refused"):
        load_bundle(bundle_folder)


def test_too_large_bundles_are_refused_unread(bundle_folder):
    with pytest.raises(BundleError, match=r"manifest\.json is too large"):
        load_bundle(bundle_folder, limits=BundleLimits(manifest_bytes=10))
    with pytest.raises(BundleError, match="the bundle is too large"):
        load_bundle(bundle_folder, limits=BundleLimits(total_bytes=1000))
    sizes = {file.name: file.stat().st_size for file in bundle_folder.iterdir()}
    manifest = sizes.pop("manifest.json")
    for less, refused in ((0, False), (1, True)):
        limits = BundleLimits(manifest, sum(sizes.values()) - less)
        with pytest.raises(BundleError, match="too large") if refused else nullcontext():
            read_verified(bundle_folder, limits)
        with pytest.raises(BundleError, match="too large") if refused else nullcontext():
            read_verified(bundle_folder, limits, signed=len)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="there is no bundle at"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"is no bundle.*got nothing there"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain["contract"].update(columns={}),
        lambda plain: plain["features"].pop("imputer"),
        lambda plain: plain["features"].update(format=99),
        lambda plain: plain["features"].update(comparables=3),
        lambda plain: plain["target"].update(kind="sqrt"),
        lambda plain: plain["interval"].update(quantile="wide"),
        lambda plain: plain["interval"].update(scale_index=10_000),
        lambda plain: plain["model"].update(n_features=3),
    ],
    ids=range(8),
)
def test_a_manifest_forged_with_its_checksums_is_still_refused_cleanly(bundle_folder, change):
    edit_manifest(bundle_folder, change)
    with pytest.raises(BundleError, match=r"cannot be rebuilt|do not fit|cannot be read"):
        load_bundle(bundle_folder)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("features.npz", write_arrays({})),
        ("features.npz", b"no archive"),
        ("model.onnx", b"no model"),
        ("profile.json", b"{"),
        ("profile.json", b"[]"),
        ("card.md", b"\xff\xfe"),
        ("golden.npz", write_arrays({"X": np.ones((2, 2)), "prediction": np.ones(2)})),
        ("golden.npz", write_arrays({})),
    ],
    ids=range(8),
)
def test_files_forged_with_their_checksums_are_still_refused_cleanly(bundle_folder, name, data):
    replace_file(bundle_folder, name, data)
    with pytest.raises(BundleError, match=r"bundle|damaged|model"):
        load_bundle(bundle_folder)


def test_a_machine_that_answers_differently_is_noticed(bundle_folder, bundle_parts):
    X = bundle_parts.golden[:3]
    right = load_bundle(bundle_folder).predict(X)
    wrong = write_arrays({"X": X, "prediction": right * (1 + 3e-9)})
    replace_file(bundle_folder, "golden.npz", wrong)
    with pytest.raises(BundleError, match="answers differently on this machine"):
        load_bundle(bundle_folder)
    assert load_bundle(bundle_folder, check_golden=False).version


def test_any_flipped_byte_of_the_manifest_is_noticed_or_is_the_time(bundle_folder):
    path = bundle_folder / "manifest.json"
    data = path.read_bytes()
    start = data.index(b'"created"')
    for position in range(0, len(data), 97):
        if start <= position < start + 45:
            continue
        broken = bytearray(data)
        broken[position] ^= 0x04
        path.write_bytes(bytes(broken))
        with pytest.raises(BundleError, match=r"manifest|format version"):
            load_bundle(bundle_folder)


def test_what_monitoring_needs_travels_with_the_bundle(changed_parts, bundle_parts, tmp_path):
    arrays = {"rows": np.arange(6.0).reshape(3, 2), "counts": np.arange(3)}
    graph = to_onnx(LinearModel(np.array([2.0]), 1.0))
    folder = tmp_path / "watched"
    watched = write_bundle(folder, changed_parts(reference=arrays, error_model=graph))
    assert {name: array.tolist() for name, array in watched.reference.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    assert watched.error_model.predict(np.array([[3.0]])).tolist() == [7.0]
    assert sorted(set(watched.manifest.files) - set(load_bundle(folder).manifest.files)) == []
    (folder / "error.onnx").write_bytes(graph[:-1])
    with pytest.raises(BundleError, match=r"error\.onnx is truncated"):
        load_bundle(folder)


def test_a_bundle_without_them_loads_and_says_so(written_bundle):
    bundle = load_bundle(written_bundle)
    assert (bundle.reference, bundle.error_model) == (None, None)


def test_a_file_that_became_a_link_after_the_listing_is_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "model.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match=r"model\.onnx cannot be read"):
        _read(tmp_path / "model.onnx", 100)


def test_a_pipe_that_took_a_files_place_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx is refused"):
        _read(tmp_path / "model.onnx", 100)


def test_a_folder_of_too_many_files_is_refused(bundle_folder, monkeypatch):
    files = len(list(bundle_folder.iterdir()))
    for most, refused in ((files, False), (files - 1, True)):
        monkeypatch.setattr("tasador.registry.manifest._MOST_FILES", most)
        with pytest.raises(BundleError, match="expected at most") if refused else nullcontext():
            load_bundle(bundle_folder)
