"""What a run leaves in the registry, wherever that is, and what it says answers now."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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
        assert "champion: version 1, this very bundle" in run(uri)
        assert [one.number for one in list_versions(uri, MODEL)] == ["1"]
        assert list_versions(uri, MODEL)[0].aliases == ("champion", "staging")
    said = run(others[1], "register.coverage=0.8")
    assert "version 2 is registered; version 1 is still champion" in said
    assert f"next: tasador promote 2 --registry {others[1]}" in said
    assert "version 2 is registered; version 1 is still champion" in run(
        others[1], "register.coverage=0.8"
    )
    assert [one.number for one in list_versions(others[1], MODEL)] == ["2", "1"]


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
