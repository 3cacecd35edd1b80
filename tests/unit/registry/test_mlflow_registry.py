"""Real bundles, a real SQLite registry, a real `mlflow server`: nothing of MLflow is faked."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pandas as pd
import pytest

from tasador.cli.start import version_pages
from tasador.contract.reader import from_dict
from tasador.core.errors import BundleError, RegistryError, StorageError
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.metrics.regression import Estimate
from tasador.modeling.conformal import ConformalInterval
from tasador.modeling.parity import check_parity
from tasador.modeling.target_transform import TargetTransform
from tasador.registry.mlflow.registration import (
    CandidateScore,
    MlflowRun,
    RegisteredVersion,
    StepRun,
    StepStatus,
    page_links,
)
from tasador.registry.mlflow.registry import download_bundle, register_bundle, resolve_alias
from tasador.registry.model_bundle import load_bundle
from tasador.registry.writer import BundleParts, write_bundle
from tasador.trees.importers import from_linear
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor
from tasador.trees.tree_shap import LinearContributions

pytestmark = [
    # SQLAlchemy 2.1 deprecates an option that MLflow 3.17 passes to its own tables
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
MODEL = "housing_price_model"
ALIAS = "staging"


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small real bundle: Ridge on four columns."""
    from sklearn.linear_model import Ridge

    contract = from_dict(
        {
            "name": "flats",
            "title": "Flats <of> a | town",
            "model_name": MODEL,
            "columns": {
                "size": {"kind": "number", "unit": "m2", "bounds": [1, 1000]},
                "rooms": {"kind": "integer", "nullable": True},
                "place": {"kind": "category", "categories": ["north", "south"]},
                "sold": {"kind": "datetime"},
            },
            "target": {"name": "price", "unit": "EUR", "prediction_name": "predicted_price"},
        }
    )
    random = np.random.default_rng(0)
    X = np.column_stack(
        [
            random.uniform(20, 200, 120),
            random.integers(1, 6, 120),
            random.integers(0, 2, 120),
            random.uniform(1.0e9, 1.7e9, 120),
        ]
    ).astype(float)
    X[:5, 1] = np.nan
    y = 1000 * X[:, 0] + 20_000 * X[:, 2]
    settings = FeatureSettings(clusters=0, comparables=False)
    fitted, Z = FeaturePipeline(contract, settings).fit_transform(X, y)
    ridge = Ridge(alpha=1e-3, solver="svd").fit(Z, y)
    linear = from_linear(ridge)
    model = to_onnx(linear)
    parts = BundleParts(
        name=MODEL,
        origin="real",
        contract=contract,
        features=fitted,
        model=model,
        model_kind="ridge",
        contributions=LinearContributions.of_model(linear, Z.mean(axis=0)),
        target=TargetTransform("none"),
        interval=ConformalInterval(0.9, 5000.0),
        parity=check_parity(ridge.predict, OnnxRegressor(model), Z, rows=1000),
        golden=X,
        metrics={"test": {"rmse": 1.0}},
        lineage={"data_hash": "d" * 64, "code_commit": "abc"},
        profile={},
        card="# card",
    )
    folder = tmp_path_factory.mktemp("bundles") / "flats-0001"
    write_bundle(folder, parts)
    return folder


@pytest.fixture
def workspace(template_database: Path, tmp_path: Path) -> Path:
    shutil.copy(template_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def uri(workspace: Path) -> str:
    return f"sqlite:///{workspace / 'mlflow.db'}"


@pytest.fixture
def run(tmp_path: Path) -> MlflowRun:
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "one.svg").write_text("<svg/>")
    report = tmp_path / "report.html"
    report.write_text("<html></html>")
    return MlflowRun(
        run_id="20261123-200107-3f9a",
        started="2026-11-23T20:01:07Z",
        seconds=163.0,
        dataset="flats",
        title="Flats <of> a | town",
        origin="real",
        source="/data/flats.csv",
        data_hash="d" * 64,
        content_hash="c" * 64,
        code_commit="abc123",
        unit="EUR",
        test_metrics={
            "mape": Estimate(13.02, 12.5, 13.6),
            "median_ape": Estimate(8.24, 8.0, 8.5),
            "rmse": Estimate(39_541.0, 37_900.0, 41_200.0),
            "r2": Estimate(0.881, float("nan"), 0.89),
        },
        other_metrics={"spatial_cv.rmse": 61_100.0, "broken": float("nan")},
        candidates=(
            CandidateScore("LightGBM", {"wmape": 11.4}, chosen=True),
            CandidateScore("Ridge", {"wmape": 19.8}),
        ),
        params={"seed": 42, "weird$name": "x" * 9000, "weird%name": None},
        tags={"operator's note": "kept"},
        artifacts=(report,),
        steps=(
            StepRun(
                "select",
                params={"folds": 5},
                metrics={"wmape": 11.4},
                artifacts=(plots,),
                children=(
                    tried("LightGBM", 11.4, "done"),
                    tried("Ridge", 19.8, "done"),
                    tried("kNN", 30.0, "interrupted"),
                    StepRun("Lasso", "failed", tags={"kind": "candidate"}),
                ),
            ),
            StepRun("sweep", status="failed", seconds=3.0),
        ),
        chosen="LightGBM",
        rows={"training": 96, "test": 24},
        notes="## Limits\n\n- capped",
    )


def tried(name: str, wmape: float, status: StepStatus) -> StepRun:
    """A candidate with the metrics that it reached."""
    params, metrics, tags = {"family": name}, {"wmape": wmape}, {"kind": "candidate"}
    return StepRun(name, status, seconds=2.0, params=params, metrics=metrics, tags=tags)


def register(folder: Path, uri: str, run: MlflowRun, **changes: Any) -> RegisteredVersion:
    settings: dict[str, Any] = {"experiment": "flats", "model_name": MODEL, "alias": ALIAS}
    return register_bundle(folder, tracking_uri=uri, run=run, **{**settings, **changes})


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


ROWS = {
    "size": [50, 120],
    "rooms": [2, None],
    "place": ["north", "south"],
    "sold": ["2010-05-01", "2012-01-01"],
}


def test_a_registered_model_predicts_through_mlflow_by_its_alias(
    bundle_folder: Path, uri: str, run: MlflowRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    register(bundle_folder, uri, run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}@{ALIAS}")
    frame = pd.DataFrame(ROWS, index=[7, 9])

    answer = model.predict(frame)

    expected = load_bundle(bundle_folder).predict_columns(ROWS)
    assert list(answer.columns) == ["predicted_price"]
    assert list(answer.index) == [7, 9]
    assert answer["predicted_price"].tolist() == expected.tolist()
    whole = frame.assign(size=[50, 120], sold=pd.to_datetime(frame["sold"]))
    assert model.predict(whole)["predicted_price"].tolist() == expected.tolist()
    alone = model.predict(frame.drop(columns="rooms").iloc[[1]])
    assert alone["predicted_price"].tolist() == expected[1:].tolist()


def test_the_run_has_one_nested_run_a_step_and_everything_attached(
    bundle_folder: Path, uri: str, workspace: Path, run: MlflowRun
) -> None:
    version = register(bundle_folder, uri, run)
    client = client_of(uri)
    parent = client.get_run(version.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.info.end_time - parent.info.start_time == 163_000
    assert parent.data.tags["mlflow.runName"] == f"{MODEL} 2026-11-23 20:01 LightGBM"
    assert parent.data.tags["tasador_run"] == run.run_id
    assert parent.data.metrics == {
        "test.mape": 13.02,
        "test.median_ape": 8.24,
        "test.rmse": 39_541.0,
        "test.r2": 0.881,
        "spatial_cv.rmse": 61_100.0,
    }
    # figures are said once: as metrics of the run, as tags of the version, which has none
    assert not [tag for tag in parent.data.tags if tag.startswith("test.")]
    assert parent.data.params["seed"] == "42"
    assert {len(parent.data.params[k]) for k in ("weird_name", "weird_name_2")} == {4, 6000}
    nested = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{version.run_id}'"
    )
    assert {one.info.run_name: one.info.status for one in nested} == {
        "select": "FINISHED",
        "sweep": "FAILED",
    }
    paths = {path.relative_to(workspace).parts[0] for path in workspace.rglob("one.svg")}
    assert "mlartifacts" in paths
    assert {item.path for item in client.list_artifacts(version.run_id)} == {"model", "report.html"}


def test_what_a_step_tried_is_nested_in_it_and_the_description_compares_it(
    bundle_folder: Path, uri: str, run: MlflowRun
) -> None:
    version = register(bundle_folder, uri, run)
    client = client_of(uri)
    experiment = version.experiment_id
    (select,) = client.search_runs([experiment], "attributes.run_name = 'select'")
    query = f"tags.`mlflow.parentRunId` = '{select.info.run_id}' and tags.kind = 'candidate'"
    found = {one.info.run_name: one for one in client.search_runs([experiment], query)}
    assert {name: one.info.status for name, one in found.items()} == {
        "LightGBM": "FINISHED",
        "Ridge": "FINISHED",
        "kNN": "KILLED",
        "Lasso": "FAILED",
    }
    assert found["Ridge"].data.metrics == {"wmape": 19.8}
    assert found["Ridge"].data.params == {"family": "Ridge"}
    note = client.get_run(version.run_id).data.tags["mlflow.note.content"]
    assert note.startswith(
        "**LightGBM: half of the estimates are within 8.2% of the recorded value** "
        "(95% interval 8.0 to 8.5%), on 24 held-out rows."
    )
    said = r"Compare 3 candidates in parallel coordinates \(2 on all folds, the others on fewer\)"
    (link,) = re.findall(rf"\[{said}\]\((.*?)\)", note)
    asked = parse_qs(link.removeprefix("#/compare-runs?"))
    ids = [found[name].info.run_id for name in ("LightGBM", "Ridge", "kNN")]
    assert json.loads(asked["runs"][0]) == ids
    assert f"(#/experiments/{experiment}/runs/{version.run_id}/artifacts/report.html?" in note


def test_the_rows_of_training_and_test_are_inputs_with_their_columns(
    bundle_folder: Path, uri: str, run: MlflowRun
) -> None:
    version = register(bundle_folder, uri, run)
    inputs = client_of(uri).get_run(version.run_id).inputs.dataset_inputs
    found = {one.tags[0].value: one.dataset for one in inputs}
    assert {context: one.name for context, one in found.items()} == {
        "training": "flats_training",
        "test": "flats_test",
    }
    training = found["training"]
    assert training.digest == run.data_hash[:12]
    assert json.loads(training.source) == {"uri": "/data/flats.csv"}
    assert json.loads(training.profile)["num_rows"] == 96
    columns = json.loads(training.schema)["mlflow_colspec"]
    assert {one["name"]: (one["type"], one["required"]) for one in columns} == {
        "size": ("double", True),
        "rooms": ("long", False),
        "place": ("string", True),
        "sold": ("datetime", True),
        "price": ("double", True),
    }


def test_the_pages_of_a_run_and_its_version_have_an_address_where_a_server_has_one() -> None:
    server = "http://me:secret@mlflow:5000/"
    assert page_links(server, "a model", "3", ("1", "e4c0")) == (
        "http://mlflow:5000/#/experiments/1/runs/e4c0?workflowType=machine_learning",
        "http://mlflow:5000/#/models/a%20model/versions/3?workflowType=machine_learning",
    )
    assert len(page_links("https://mlflow", MODEL, "1")) == 1
    assert page_links("sqlite:///workspace/mlflow.db", MODEL, "1", ("1", "e4c0")) == ()


@pytest.mark.no_cover
def test_up_names_the_page_of_each_models_champion_or_newest_version(
    bundle_folder: Path, uri: str, workspace: Path, run: MlflowRun
) -> None:
    assert version_pages("http://localhost:5000", workspace) == []
    for alias in ("champion", ALIAS):
        register(bundle_folder, uri, run, alias=alias)
        register(bundle_folder, uri, run, model_name="other")
    pages = version_pages("http://localhost:5000", workspace)
    assert [page.partition("?")[0] for page in pages] == [
        f"http://localhost:5000/#/models/{MODEL}/versions/1",
        "http://localhost:5000/#/models/other/versions/2",
    ]


def test_no_artifact_is_a_pickle_or_code(
    bundle_folder: Path, uri: str, workspace: Path, run: MlflowRun
) -> None:
    register(bundle_folder, uri, run)
    files = [path for path in (workspace / "mlartifacts").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".joblib", ".py")]
    assert not [path for path in files if path.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05")]


def test_the_version_is_described_and_can_be_found_by_its_tags(
    bundle_folder: Path, uri: str, run: MlflowRun
) -> None:
    register(bundle_folder, uri, run)
    (found,) = client_of(uri).search_model_versions("tags.origin = 'real'")
    assert found.tags["data_hash"] == "d" * 64
    assert found.tags["test.rmse"] == "39541"
    assert found.tags["operator_s note"] == "kept"
    for text in (
        "| RMSE | 39 541 EUR | 37 900 – 41 200 |",
        "| MAPE | 13.02 % | 12.5 – 13.6 |",
        "**LightGBM** (chosen)",
        f"models:/{MODEL}@{ALIAS}",
        "- capped",
        "abc123",
        "Flats &lt;of> a \\| town",
    ):
        assert text in found.description
    assert "SYNTHETIC" not in found.description


def test_a_description_is_shortened_to_what_the_registry_keeps(
    bundle_folder: Path, uri: str, run: MlflowRun
) -> None:
    register(bundle_folder, uri, replace(run, notes="long " * 2000))
    (found,) = client_of(uri).search_model_versions(f"name = '{MODEL}'")
    assert len(found.description) <= 5000
    assert found.description.endswith("is complete._")


def test_two_registrations_of_one_bundle_log_the_same(
    bundle_folder: Path, uri: str, run: MlflowRun
) -> None:
    first, second = (register(bundle_folder, uri, run) for _ in range(2))
    assert (first.version, second.version) == ("1", "2")
    assert first.tags == second.tags
    client = client_of(uri)
    a, b = (client.get_run(one.run_id).data for one in (first, second))
    assert (a.metrics, a.params) == (b.metrics, b.params)
    assert resolve_alias(MODEL, ALIAS, tracking_uri=uri) == second
    assert second.uri == f"models:/{MODEL}/2"


def test_a_synthetic_model_never_takes_the_place_of_a_real_one(
    bundle_folder: Path, uri: str, run: MlflowRun
) -> None:
    real = register(bundle_folder, uri, run)
    synthetic = replace(run, origin="synthetic")
    with pytest.raises(RegistryError, match=f"stays with version 1.*{MODEL}_synthetic"):
        register(bundle_folder, uri, synthetic)
    assert resolve_alias(MODEL, ALIAS, tracking_uri=uri) == real
    other = register(bundle_folder, uri, synthetic, model_name="other")
    again = register(bundle_folder, uri, synthetic, model_name="other")
    assert (other.version, again.version) == ("1", "2")
    assert register(bundle_folder, uri, run, model_name="other").version == "3"
    description = client_of(uri).get_model_version("other", "1").description
    assert "SYNTHETIC DATA" in description


def test_a_registration_that_fails_half_way_is_marked_and_leaves_the_alias_alone(
    bundle_folder: Path, uri: str, run: MlflowRun
) -> None:
    first = register(bundle_folder, uri, run)
    broken = replace(run, run_id="broken", artifacts=(Path("/nowhere/report.html"),))
    with pytest.raises(RegistryError, match=r"cannot be used.*nowhere"):
        register(bundle_folder, uri, broken)
    with pytest.raises(RegistryError, match="cannot be used"):
        register(bundle_folder, uri, replace(run, run_id="late"), alias="not an alias!")
    client = client_of(uri)
    experiment = client.get_experiment_by_name("flats").experiment_id
    runs = client.search_runs([experiment], "attributes.status = 'FAILED'")
    assert {"broken", "late"} <= {one.data.tags.get("tasador_run") for one in runs}
    assert resolve_alias(MODEL, ALIAS, tracking_uri=uri) == first
    assert [one.version for one in client.search_model_versions(f"name = '{MODEL}'")] == [1]


def test_an_interrupted_registration_is_marked_killed(
    bundle_folder: Path, uri: str, run: MlflowRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasador.registry.mlflow.registry.log_run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        register(bundle_folder, uri, run)
    client = client_of(uri)
    experiment = client.get_experiment_by_name("flats").experiment_id
    assert [one.info.status for one in client.search_runs([experiment])] == ["KILLED"]


def test_a_damaged_bundle_is_not_registered(
    bundle_folder: Path, uri: str, run: MlflowRun, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle_folder, damaged)
    (damaged / "card.md").write_text("# carD")
    with pytest.raises(BundleError, match=r"card\.md"):
        register(damaged, uri, run)
    assert client_of(uri).get_experiment_by_name("flats") is None


def test_a_deleted_experiment_is_named_with_how_to_restore_it(
    bundle_folder: Path, uri: str, run: MlflowRun
) -> None:
    client = client_of(uri)
    client.delete_experiment(client.create_experiment("flats"))
    with pytest.raises(RegistryError, match="mlflow experiments restore"):
        register(bundle_folder, uri, run)


def test_a_bundle_comes_back_as_it_was_registered(
    bundle_folder: Path, uri: str, run: MlflowRun, tmp_path: Path
) -> None:
    registered = register(bundle_folder, uri, run)
    target = tmp_path / "new" / "bundle"
    version = download_bundle(MODEL, ALIAS, tracking_uri=uri, destination=target)
    assert version == registered
    assert load_bundle(target).version == load_bundle(bundle_folder).version
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]
    with pytest.raises(StorageError, match="exists already"):
        download_bundle(MODEL, ALIAS, tracking_uri=uri, destination=target)
    with pytest.raises(RegistryError, match="no model 'housing_price_model' with the alias 'prod'"):
        download_bundle(MODEL, "prod", tracking_uri=uri, destination=tmp_path / "other")


def test_a_bundle_tampered_with_in_the_registry_is_refused_when_downloaded(
    bundle_folder: Path, uri: str, workspace: Path, run: MlflowRun
) -> None:
    register(bundle_folder, uri, run)
    (stored,) = (workspace / "mlartifacts").rglob("card.md")
    stored.write_text("# carD")
    with pytest.raises(BundleError, match=r"card\.md"):
        download_bundle(MODEL, ALIAS, tracking_uri=uri, destination=workspace / "b")
    assert not (workspace / "b").exists()
    assert not list(workspace.glob(".download-*"))


@pytest.mark.no_cover
def test_nothing_of_mlflow_reaches_the_terminal_and_no_setting_leaks(
    bundle_folder: Path, tmp_path: Path, run: MlflowRun, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    register(bundle_folder, f"sqlite:///{tmp_path / 'fresh' / 'mlflow.db'}", run)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert dict(os.environ) == before
    assert (tmp_path / "fresh" / "mlartifacts").is_dir()


def test_importing_the_registry_does_not_import_mlflow() -> None:
    code = (
        "import sys, tasador.registry;"
        "import tasador.registry.mlflow.pyfunc, tasador.registry.mlflow.registry;"
        "assert not {'mlflow', 'pandas', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_an_unreachable_server_is_known_in_bounded_time(
    bundle_folder: Path, run: MlflowRun
) -> None:
    before = dict(os.environ)
    started = time.monotonic()
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1.*mlflow server --allowed-hosts"):
        register(bundle_folder, f"http://user:secret@127.0.0.1:{free_port()}", run)
    assert time.monotonic() - started < 60  # MLflow's own defaults: 15 minutes
    assert dict(os.environ) == before


def test_a_server_that_accepts_but_never_answers_is_known_in_bounded_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(RegistryError, match="cannot be used") as caught:
            resolve_alias(
                MODEL, ALIAS, tracking_uri=f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}"
            )
        assert time.monotonic() - started < 60  # MLflow's own defaults: 15 minutes
        assert "secret" not in str(caught.value)


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(RegistryError, match="carrier-pigeon"):
        resolve_alias(MODEL, ALIAS, tracking_uri="carrier-pigeon://coop")


def test_a_real_server_takes_a_registration_and_gives_the_bundle_back(
    registry_server: Any, bundle_folder: Path, run: MlflowRun, tmp_path: Path
) -> None:
    server = registry_server.uri
    results: list[RegisteredVersion] = []
    worker = Thread(target=lambda: results.append(register(bundle_folder, server, run)))
    worker.start()  # as from a thread of a service
    worker.join()
    (version,) = results
    assert resolve_alias(MODEL, ALIAS, tracking_uri=server) == version
    download_bundle(MODEL, ALIAS, tracking_uri=server, destination=tmp_path / "back")
    assert load_bundle(tmp_path / "back").contract.name == "flats"
    stored = registry_server.folder.rglob("model.onnx")
    assert (bundle_folder / "model.onnx").read_bytes() in {file.read_bytes() for file in stored}
