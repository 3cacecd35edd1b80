"""What a run leaves in the registry, wherever that is, and what it says answers now."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fixtures.houses import houses
from tasador.cli.app import app
from tasador.core.errors import GateError
from tasador.registry.mlflow.registry import list_versions

SMALL = [
    "download.offline=true", "impute.strategy=median", "impute.min_gap_share=1",
    "features.clusters=0",
    "features.cross_fit_folds=3", "selection.folds=3",
    "selection.families={lightgbm:{n_estimators:[80],num_leaves:[15]}}",
    *(f"~selection.families.{name}" for name in (
        "hist_gradient_boosting", "gradient_boosting", "extra_trees", "decision_tree", "lasso",
        "ridge", "random_forest",
    )),
    "sweep.trials=0", "sweep.folds=2", "sweep.slowdown=1.0", "register.parity_rows=1000",
    "register.bootstrap_draws=30", "register.spatial_folds=2", "register.average=1",
]  # fmt: skip
#: For a table of 2000 rows on a busy machine.
LENIENT = ["gates.latency_ms=1000", "gates.prb_slack=0.1", "gates.coverage_slack=0.1"]
MODEL = "houses_model"
pytestmark = pytest.mark.usefixtures("quick_pictures")


@pytest.fixture(scope="module")
def project(template_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in ("elsewhere", "refused"):
        shutil.copy(template_database, folder / f"{name}.db")
    houses(2000).write_csv(folder / "houses.csv")
    return folder


@pytest.fixture
def run(project: Path, capsys, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr("os.environ", dict(os.environ))
    if not (project / "conf").exists():
        app(["init", "houses.csv", "--target", "price"], standalone_mode=False)

    def call(uri: str, *settings: str) -> str:
        capsys.readouterr()
        words = ["run", "dataset=houses", *SMALL, *LENIENT, f"tracking.uri={uri}", *settings]
        app(words, standalone_mode=False)
        return str(capsys.readouterr().out)

    return call


def check_logged(uri: str, project: Path, pages: list[str]) -> None:
    """Check what MLflow has of the run that made version 1, and that `pages` lead there."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    made = client.get_run(client.get_model_version(MODEL, "1").run_id)
    experiment, own = made.info.experiment_id, made.info.run_id
    if uri.startswith("http"):
        assert [page.partition("?")[0] for page in pages] == [
            f"{uri}/#/experiments/{experiment}/runs/{own}",
            f"{uri}/#/models/{MODEL}/versions/1",
        ]
    else:  # an embedded registry has no address
        assert not pages
    name = r"houses_model 20\d\d-\d\d-\d\d \d\d:\d\d LightGBM"
    assert re.fullmatch(name, made.info.run_name)
    note = made.data.tags["mlflow.note.content"]
    assert re.match(r"\*\*LightGBM: half of the estimates are within \d+\.\d%", note)
    files = {item.path for item in client.list_artifacts(own)}
    assert {"report.html", "model_card.html", "figures", "model"} <= files
    rows = {
        one.tags[0].value: json.loads(one.dataset.profile)["num_rows"]
        for one in made.inputs.dataset_inputs
    }
    assert set(rows) == {"training", "test"}
    assert sum(rows.values()) == 2000
    cards = project / "workspace" / "runs" / made.data.tags["tasador_run"] / "cards"
    facts = json.loads((cards / "select.json").read_text())["facts"]
    candidates = next(fact["value"] for fact in facts if fact["label"] == "Candidates")

    def nested(parent: str) -> list[Any]:
        query = f"tags.`mlflow.parentRunId` = '{parent}'"
        return list(client.search_runs([experiment], query))

    steps = {one.info.run_name: one.info.run_id for one in nested(own)}
    assert len(steps) == 7
    tried = nested(steps["select"])
    assert len(tried) == candidates
    assert all(one.data.metrics["mae"] > 0 for one in tried)
    assert [one.data.tags["kind"] for one in nested(steps["sweep"])] == ["trial"]


@pytest.mark.no_cover
def test_a_registry_gets_a_version_of_a_bundle_once_and_the_first_becomes_champion(
    run, project, registry_server
):
    others = [registry_server.uri, f"sqlite:///{project}/elsewhere.db"]
    for uri in others:
        said = run(uri)
        assert "registered: models:/houses_model/1" in said
        assert "champion: version 1 (the first model trained on real rows; passed" in said
        if uri != registry_server.uri:  # which holds models of other tests too
            assert "next: tasador up" in said
        pages = re.findall(r"in MLflow: +(\S+)", said)
        check_logged(uri, project, pages)
        again = run(uri)
        assert "champion: version 1, this very bundle" in again
        assert re.findall(r"in MLflow: +(\S+)", again) == pages[1:]
        assert [one.number for one in list_versions(uri, MODEL)] == ["1"]
        assert list_versions(uri, MODEL)[0].aliases == ("champion", "staging")
    said = run(others[1], "register.coverage=0.8")
    assert "version 2 is registered; version 1 is still champion" in said
    assert f"next: tasador promote 2 --registry {others[1]}" in said
    assert "version 2 is registered; version 1 is still champion" in run(
        others[1], "register.coverage=0.8"
    )
    assert [one.number for one in list_versions(others[1], MODEL)] == ["2", "1"]


@pytest.mark.no_cover
def test_a_first_model_that_a_gate_refuses_is_not_champion_and_the_run_says_why_and_how(
    run, project
):
    uri = f"sqlite:///{project}/refused.db"
    said = run(uri, "gates.bundle_mib=0.001")
    assert "version 1 is not champion:" in said
    assert "bundle size: fail" in said
    assert f"next: tasador promote 1 --registry {uri} --force --reason TEXT" in said
    assert list_versions(uri, MODEL)[0].aliases == ("staging",)
    with pytest.raises(GateError, match="bundle size"):
        app(["promote", "1", "--registry", uri, "--set", "gates.bundle_mib=0.001"],
            standalone_mode=False)  # fmt: skip
