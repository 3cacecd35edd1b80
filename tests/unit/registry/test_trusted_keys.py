"""One setting says which keys are trusted: every command asks it, as the service does."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from fixtures.houses import Recipe, houses, train_bundle
from fixtures.process import Server, free_port
from tasador.cli.start import trust_workspace
from tasador.core.errors import BundleError
from tasador.inference.model_choice import load_bundle
from tasador.metrics.regression import Estimate
from tasador.registry.mlflow.pyfunc import _load_pyfunc
from tasador.registry.mlflow.registration import MlflowRun
from tasador.registry.mlflow.registry import register_bundle
from tasador.registry.signature import SIGNATURE, VARIABLE, KeyPair

MODEL = "houses_model"
REFUSED = "not signed"


@pytest.fixture(scope="session")
def unsigned(house_contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a model, not registered."""
    folder = tmp_path_factory.mktemp("unsigned")
    place, table = folder / "bundles" / "one", houses(1500)
    train_bundle(place, house_contract, table, folder / "data", Recipe())
    return folder


@pytest.fixture
def workspace(
    unsigned: Path, template_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """One registered, unsigned model, which is champion."""
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tmp_path / "workspace"
    shutil.copytree(unsigned, folder)
    shutil.copy(template_database, folder / "mlflow.db")
    bundle = load_bundle(folder / "bundles" / "one")
    register_bundle(
        bundle.folder,
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        experiment="houses",
        model_name=MODEL,
        run=MlflowRun(
            run_id="run", started="2026-11-23T20:01:07Z", seconds=1.0, dataset="houses",
            title="Houses", origin="real", source="houses",
            data_hash=bundle.manifest.lineage["data_hash"],
            content_hash=bundle.manifest.content_hash, code_commit="abc",
            test_metrics={"mape": Estimate(12.0, 11.0, 14.0)},
        ),
        alias="champion",
    )  # fmt: skip
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    houses(5, seed=9).drop("price").write_csv(file)
    return file


def bundles(workspace: Path) -> list[Path]:
    return [file.parent for file in workspace.rglob("manifest.json")]


def loading(rows: Path, out: Path) -> list[list[str]]:
    row = json.dumps(pl.read_csv(rows).row(0, named=True))
    return [
        ["predict", str(rows)],
        ["score", str(rows), "--output", str(out / "scored.csv")],
        ["explain", row],
        ["promote", "1", "--to", "challenger"],
        ["promote", "1", "--to", "staging"],
        ["publish", str(out / "store")],
        ["verify"],
    ]


@pytest.mark.no_cover
def test_every_command_refuses_what_no_trusted_key_signed(
    tasador, workspace: Path, rows: Path, tmp_path: Path, monkeypatch
) -> None:
    ours = KeyPair(tmp_path / "ours")
    assert ours.make()
    monkeypatch.setenv(VARIABLE, str(ours.public))
    for words in loading(rows, tmp_path):
        with pytest.raises(BundleError, match=REFUSED):
            tasador(*words)
    for load in (load_bundle, lambda folder: _load_pyfunc(str(folder))):
        with pytest.raises(BundleError, match=REFUSED):
            load(bundles(workspace)[0])
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "scored.csv").exists()

    said = tasador("sign", "--alias", "champion", "--key", str(ours.private))
    assert "signed version 1" in said
    for words in loading(rows, tmp_path):
        if words != ["verify"]:  # the folder's bundle is another file than the registry's
            tasador(*words)


def test_a_refusal_is_one_line_with_its_own_exit_code(workspace: Path, rows: Path) -> None:
    ours = KeyPair(workspace.parent / "ours")
    ours.make()
    done = subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", "predict", str(rows),
         "--workspace", str(workspace)],
        env={**os.environ, VARIABLE: str(ours.public)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == BundleError.exit_code
    assert len(done.stderr.strip().splitlines()) == 1
    assert REFUSED in done.stderr


def test_a_window_of_records_is_not_evaluated_by_a_model_that_nobody_signed(
    tasador, workspace: Path, tmp_path: Path, monkeypatch
) -> None:
    ours = KeyPair(tmp_path / "ours")
    ours.make()
    monkeypatch.setenv(VARIABLE, str(ours.public))
    with pytest.raises(BundleError, match=REFUSED):
        tasador("monitor", "--window", "1h")


def test_up_makes_the_key_once_and_signs_what_is_there(
    tasador, workspace: Path, rows: Path, tmp_path: Path
) -> None:
    said = trust_workspace(workspace)
    assert "2 bundles signed" in said[0]
    pair = KeyPair(workspace)
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
    before = pair.private.read_bytes()
    assert trust_workspace(workspace) == []
    assert pair.private.read_bytes() == before
    for words in loading(rows, tmp_path):
        tasador(*words)

    for folder in bundles(workspace):  # a later one without a signature is refused
        (folder / SIGNATURE).unlink()
    assert trust_workspace(workspace) == []
    for words in loading(rows, tmp_path / "again"):
        if "promote" not in words:
            with pytest.raises(BundleError, match=REFUSED):
                tasador(*words)
    with pytest.raises(BundleError, match=REFUSED):
        load_bundle(workspace)
    assert load_bundle(workspace, trusted=None).version


def test_a_bundle_outside_of_the_workspace_is_not_signed_with_it(
    workspace: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    said = trust_workspace(copy)  # its registry still names the first one's files
    assert "1 bundles signed" in said[0]
    assert "not in this workspace" in said[1]
    assert not list(workspace.rglob(SIGNATURE))


@pytest.mark.parametrize("variable", [VARIABLE, "TASADOR_SOURCE__TRACKING_URI"])
def test_up_leaves_configured_keys_and_registries_alone(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "")
    assert trust_workspace(workspace) == []
    assert not KeyPair(workspace).private.exists()


def test_serve_after_up_takes_the_signed_model_and_refuses_a_stripped_signature(
    workspace: Path,
) -> None:
    trust_workspace(workspace)
    server = Server(workspace, "", free_port())  # no source is named: the workspace's registry
    server.start()
    try:
        server.wait()
        server.stop()
        shutil.rmtree(workspace / "last_good")
        for folder in bundles(workspace):
            (folder / SIGNATURE).unlink()
        server.end()
        server.start()
        server.wait("/health/live")
        server.wait("/health/ready", 503)
    finally:
        server.end()


def test_no_rollback_and_no_canary_gives_traffic_to_what_no_trusted_key_signed(
    tasador, workspace: Path, tmp_path: Path, monkeypatch
) -> None:
    bundle = next(bundle for bundle in bundles(workspace) if bundle.parent.name == "bundles")
    hashes = {"data_hash": "0" * 64, "content_hash": "0" * 64}
    register_bundle(
        bundle,
        tracking_uri=f"sqlite:///{workspace}/mlflow.db",
        experiment="houses",
        model_name=MODEL,
        run=MlflowRun(
            run_id="again", started="2026-11-23T21:01:07Z", seconds=1.0, dataset="houses",
            title="Houses", origin="real", source="houses", code_commit="abc",
            test_metrics={"mape": Estimate(12.0, 11.0, 14.0)}, **hashes,
        ),
        alias="staging",
    )  # fmt: skip
    tasador("promote", "2", "--force", "--reason", "test")
    ours = KeyPair(tmp_path / "ours")
    ours.make()
    monkeypatch.setenv(VARIABLE, str(ours.public))
    for words in (["rollback"], ["rollback", "--to", "1"]):
        with pytest.raises(BundleError, match=REFUSED):
            tasador(*words)
    assert "version 2 was champion" not in tasador("history")
    said = tasador("sign", "--version", "1", "--key", str(ours.private))
    assert "signed version 1" in said
    assert "version 1 is champion again" in tasador("rollback", "--reason", "test")
