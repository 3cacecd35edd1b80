"""The commands on a real registry: SQLite here, a real `mlflow server` where it dies."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.houses import Recipe, houses, register_houses, train_bundle
from tasador.core.errors import BundleError, ConfigError, GateError, RegistryError

Tasador = Callable[..., str]
MODEL = "houses_model"


@pytest.fixture(scope="module")
def template(
    house_contract, template_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A workspace with three versions: a good one, one as good, and a bad one."""
    folder = tmp_path_factory.mktemp("registered")
    shutil.copy(template_database, folder / "mlflow.db")
    recipes = [Recipe(), Recipe(seed=1), Recipe(trees=15)]
    for number, recipe in enumerate(recipes):
        bundle = train_bundle(
            folder / f"b{number}", house_contract, houses(3000), folder / "data", recipe
        )
        register_houses(bundle, folder / "mlflow.db", number, MODEL)
    return folder


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Path:
    shutil.copy(template / "mlflow.db", tmp_path / "mlflow.db")
    (tmp_path / "data").symlink_to(template / "data")
    return tmp_path


@pytest.mark.no_cover
def test_a_version_is_promoted_rolled_back_and_the_history_tells_it(tasador):
    listed = tasador("models")
    assert "staging" in listed
    assert "14.00%" in listed
    assert max(map(len, listed.splitlines()[:-1])) <= 80  # the last is a command, not wrapped
    assert "next: tasador promote 3" in listed
    first = tasador("promote", "1", "--by", "ana")
    assert "6 of 6 gates pass" in first
    assert "version 1 is champion" in first
    second = tasador("promote", "2", "--by", "ana", "--reason", "another seed")
    assert "12 of 12 gates pass" in second
    assert "champion: 1 -> 2" in second
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
    assert sum("rollback" in line for line in told.splitlines()) == 1


def test_a_rejected_version_is_not_promoted_without_force(tasador):
    tasador("reject", "2", "--reason", "leaks the price")
    with pytest.raises(ConfigError, match=r"version 2 is rejected.*leaks the price.*--force"):
        tasador("promote", "2", "--to", "challenger")
    with pytest.raises(ConfigError, match="--force needs a reason"):
        tasador("promote", "2", "--to", "challenger", "--force")
    tasador("promote", "2", "--to", "challenger", "--force", "--reason", "looked again")
    newest = json.loads(tasador("history", "--json"))[0]
    assert newest["details"]["forced"] is True
    assert newest["reason"] == "looked again"


def test_a_worse_version_is_refused_with_its_numbers_and_forced_only_on_record(tasador):
    tasador("promote", "1")
    compared = tasador("compare", "3")
    assert "fail        MAPE:" in compared
    with pytest.raises(GateError, match=r"version 3 is not promoted to champion.*MAPE: fail"):
        tasador("promote", "3")
    entries = json.loads(tasador("history", "--json"))
    assert entries[0]["details"]["phase"] == "refused"
    gates = {g["name"]: g for g in entries[0]["details"]["gates"]["gates"]}
    assert gates["MAPE"]["figures"]["worse"] > 1
    told = tasador("promote", "3", "--to", "challenger")  # traffic is to show how it does
    assert "version 3 is challenger" in told
    assert "champion: 1 -> 3" in tasador("promote", "3", "--force", "--reason", "a drill")
    newest = json.loads(tasador("history", "--json"))[0]
    assert newest["details"]["forced"] is True
    assert newest["details"]["gates_summary"].startswith("6 of 12 gates pass; not: ")
    assert json.loads(tasador("compare", "3", "1", "--json"))["passed"] is False
    assert "version 3 is champion already: nothing was changed" in tasador("promote", "3")
    assert json.loads(tasador("history", "--json"))[0] == newest
    with pytest.raises(ConfigError, match="'prod' is no place for a version"):
        tasador("promote", "2", "--to", "prod")


def test_a_damaged_bundle_is_not_promoted_even_with_force(tasador, workspace, template):
    source = next(
        v["source"] for v in json.loads(tasador("models", "--json"))["versions"]
        if v["number"] == "2"
    )  # fmt: skip
    card = Path(source.removeprefix("file://")) / "data" / "bundle" / "card.md"
    kept = card.read_text()
    card.write_text("# housez")
    try:
        with pytest.raises(BundleError, match=r"card\.md.*was changed"):
            tasador("promote", "2", "--force", "--reason", "trust me")
    finally:
        card.write_text(kept)
    newest = json.loads(tasador("history", "--json"))[0]
    assert newest["details"]["phase"] == "refused"
    assert "card.md" in newest["details"]["note"]


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


@pytest.mark.no_cover
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
    with pytest.raises(RegistryError, match="cannot be reached"):
        tasador("models", "--registry", "http://127.0.0.1:9")


def test_files_are_scored_by_the_version_that_is_named(
    tasador: Tasador, template: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(
        "lon,lat,income,rooms,area,kind\n-3.5,40.2,3.1,4,90,flat\n-3.2,40.9,2,,70,villa\n"
    )
    tasador("promote", "2", "--force", "--reason", "the first")

    def scored(named: str) -> bytes:
        out = tmp_path / f"{Path(named).name}.csv"
        tasador("score", str(rows), "--output", str(out), "--bundle", named)
        return out.read_bytes()

    second = scored(str(template / "b1"))
    assert scored("2") == scored("champion") == second
    assert scored("1") == scored(str(template / "b0")) != second
    with pytest.raises(ConfigError, match="nobody"):
        scored("nobody")
