"""The commands on a real registry: SQLite here, a real `mlflow server` where it dies."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tasador.cli.app import app
from tasador.core.errors import ConfigError, RegistryError
from tasador.metrics.bootstrap import Estimate
from tasador.registry.bundle import load_bundle
from tasador.registry.mlflow_registry import register_bundle
from tasador.registry.registration import MlflowRun

Tasador = Callable[..., str]
MODEL = "houses_model"


@pytest.fixture(scope="module")
def template(written_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose registry has three versions of one bundle."""
    folder = tmp_path_factory.mktemp("registered")
    for number in range(3):
        register_bundle(
            written_bundle,
            tracking_uri=f"sqlite:///{folder}/mlflow.db",
            experiment="houses",
            model_name=MODEL,
            run=MlflowRun(
                run_id=f"run-{number}",
                started="2026-11-23T20:01:07Z",
                seconds=1.0,
                dataset="houses",
                title="Houses",
                origin="synthetic",
                source="generator",
                data_hash="d" * 64,
                content_hash=load_bundle(written_bundle).manifest.content_hash,
                code_commit="abc",
                test_metrics={"mape": Estimate(12.0 + number, 11.0, 14.0)},
            ),
        )
    return folder


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Path:
    shutil.copy(template / "mlflow.db", tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def tasador(workspace: Path, capsys, monkeypatch) -> Tasador:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> str:
        capsys.readouterr()
        app([*words, "--workspace", str(workspace)], standalone_mode=False)
        captured = capsys.readouterr()
        return captured.out + captured.err

    return call


def test_a_version_is_promoted_rolled_back_and_the_history_tells_it(tasador):
    listed = tasador("models")
    assert "staging" in listed
    assert "14.00" in listed
    force = ("--force", "--reason", "first")
    assert "version 1 is champion" in tasador("promote", "1", "--by", "ana", *force)
    assert "champion: 1 -> 2" in tasador("promote", "2", "--by", "ana", *force)
    assert "champion: 2 -> 1" in tasador("rollback", "--by", "eva", "--reason", "complaints")
    listed = json.loads(tasador("models", "--json"))
    aliases = {v["number"]: v["aliases"] for v in listed["versions"]}
    assert aliases == {"1": ["champion"], "2": [], "3": ["staging"]}
    assert listed["notes"] == []
    entries = json.loads(tasador("history", "--json"))
    newest = entries[0]
    assert (newest["actor"], newest["action"], newest["reason"]) == (
        "eva", "rollback", "complaints",
    )  # fmt: skip
    assert [e["details"]["phase"] for e in entries].count("done") == 3
    told = tasador("history")
    assert "2 -> 1" in told
    assert "complaints" in told


def test_a_rejected_version_is_not_promoted_without_force(tasador):
    tasador("reject", "2", "--reason", "leaks the price")
    with pytest.raises(ConfigError, match=r"version 2 is rejected.*leaks the price.*--force"):
        tasador("promote", "2", "--to", "challenger")
    with pytest.raises(ConfigError, match="--force needs a reason"):
        tasador("promote", "2", "--to", "challenger", "--force")
    tasador("promote", "2", "--to", "challenger", "--force", "--reason", "looked again")
    assert '"forced": true' in tasador("history", "--json")


def test_a_deleted_version_behind_an_alias_is_named_everywhere(tasador, workspace):
    with sqlite3.connect(workspace / "mlflow.db") as database:
        database.execute(
            "INSERT INTO registered_model_aliases (name, alias, version) "
            "VALUES (?, 'challenger', 9)",
            (MODEL,),
        )
    assert "'challenger' points at version 9, which was deleted" in tasador("models")
    with pytest.raises(RegistryError, match="points at version 9, which was deleted"):
        tasador("promote", "challenger")


def test_a_champion_deleted_in_the_registry_is_seen(tasador, workspace):
    from mlflow import MlflowClient

    tasador("promote", "1", "--force", "--reason", "x")
    MlflowClient(f"sqlite:///{workspace}/mlflow.db").delete_model_version(MODEL, "1")
    assert "changed without tasador: 1 -> none" in tasador("models")
    told = tasador("promote", "2", "--force", "--reason", "x")
    assert "version 1 was deleted from the registry" in told


def test_what_is_not_there_is_said(tasador, workspace):
    with pytest.raises(RegistryError, match="no model 'flats' is registered"):
        tasador("models", "--model", "flats")
    with pytest.raises(ConfigError, match="has no version '7'"):
        tasador("promote", "7")
    (workspace / "mlflow.db").unlink()
    with pytest.raises(RegistryError, match=r"there is no model registry.*tasador run"):
        tasador("models")
    with pytest.raises(RegistryError, match="cannot be used"):
        tasador("models", "--registry", "http://127.0.0.1:9")
