"""A registry in a SQLite file, followed without MLflow by the snapshot file beside it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from tasador.core.deadlines import Deadline
from tasador.core.errors import NothingOfferedError, RegistryError, RegistryRejectedError
from tasador.registry import mlflow_reader
from tasador.registry.mlflow.registry import MlflowVersions, registered_models
from tasador.registry.mlflow_reader import EmbeddedRegistry, snapshot_file

MODEL = "houses"


@pytest.fixture
def database(template_database: Path, tmp_path: Path) -> Path:
    """A registry with two versions that nobody has told tasador of."""
    file = tmp_path / "mlflow.db"
    shutil.copy(template_database, file)
    change(file, "create_registered_model", MODEL)
    for number in (1, 2):
        client_of(file).create_model_version(MODEL, f"{tmp_path}/{number}", tags={"n": str(number)})
    change(file, "set_registered_model_alias", MODEL, "champion", "1")
    return file


def client_of(file: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{file}", f"sqlite:///{file}")


def change(file: Path, what: str, *arguments: str) -> None:
    """Change the registry with MLflow itself, as its user interface does."""
    getattr(client_of(file), what)(*arguments)


def champion(file: Path) -> str:
    return EmbeddedRegistry(file).resolve(MODEL, "champion", Deadline.after(60)).version


def without_mlflow(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_an_alias_moved_with_mlflow_itself_is_followed(database):
    registered_models(f"sqlite:///{database}")
    assert champion(database) == "1"
    change(database, "set_registered_model_alias", MODEL, "champion", "2")
    assert champion(database) == "2"


def test_every_command_with_mlflow_leaves_a_file_that_needs_no_mlflow(database, monkeypatch):
    without_mlflow(monkeypatch)
    with pytest.raises(RegistryRejectedError, match=r"MLflow.*not installed.*`tasador models`"):
        champion(database)
    versions = MlflowVersions(f"sqlite:///{database}", MODEL)
    versions.aliases()
    assert champion(database) == "1"
    versions.point("champion", "2")
    versions.tag("2", "note", "moved")
    found = EmbeddedRegistry(database).listed(MODEL, Deadline.after(60))
    assert found == versions.all()
    assert found[0].aliases == ("champion",)
    assert found[0].tags == {"n": "2", "note": "moved"}
    moved = database.parent / "elsewhere" / "mlflow.db"
    shutil.copytree(database.parent, moved.parent)
    assert champion(moved) == "2"
    snapshot_file(database).write_text("{half a file")
    with pytest.raises(RegistryRejectedError, match="not installed"):
        champion(database)


def test_without_mlflow_a_change_by_others_leaves_the_known_state_and_a_warning(
    database, monkeypatch, caplog
):
    registered_models(f"sqlite:///{database}")
    change(database, "set_registered_model_alias", MODEL, "champion", "2")
    without_mlflow(monkeypatch)
    assert champion(database) == champion(database) == "1"
    assert caplog.text.count("an older state") == 1
    assert "run `tasador models`" in caplog.text


def test_what_mlflow_cannot_read_is_not_tried_again_at_every_poll(tmp_path, monkeypatch):
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE sales (price REAL)")
    before = file.read_bytes()
    with pytest.raises(RegistryRejectedError, match=r"no tables of MLflow.*got sales"):
        champion(file)
    monkeypatch.setattr(mlflow_reader.subprocess, "run", None)  # would be called in vain
    with pytest.raises(RegistryRejectedError, match="no tables of MLflow"):
        champion(file)
    with pytest.raises(RegistryError, match="no tables of MLflow"):
        registered_models(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_a_registry_that_is_gone_offers_nothing_although_its_snapshot_file_is_there(database):
    registered_models(f"sqlite:///{database}")
    database.unlink()
    with pytest.raises(NothingOfferedError, match="no registry at"):
        champion(database)
