"""Which version answers: the same one by every command, the service and the watcher."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import polars as pl
import pytest
import typer

from fixtures.houses import Recipe, houses, train_bundle
from fixtures.process import Server, free_port
from tasador.cli.app import app
from tasador.contract.encoding import Encoder
from tasador.contract.model import Column, TableContract, Target
from tasador.core.errors import BundleError, ConfigError, NothingOfferedError, RegistryError
from tasador.lifecycle.api import Place, opened
from tasador.lifecycle.first_champion import after_run
from tasador.lifecycle.promote import PromotionRequest, promote
from tasador.monitoring.reference import build_reference
from tasador.ops.api_client import ApiClient
from tasador.records.database import Database
from tasador.registry.mlflow.registration import MlflowRun
from tasador.registry.mlflow.registry import register_bundle
from tasador.registry.model_bundle import ModelBundle
from tasador.serving.experiment import Criteria, Experiment, ExperimentBook
from tasador.settings.run import GateSettings

pytestmark = pytest.mark.slow

MODEL, OTHER = "houses_model", "shops_model"
Tasador = Callable[..., str]


def register(workspace: Path, bundle: ModelBundle, run: str) -> None:
    register_bundle(
        bundle.folder,
        tracking_uri=f"sqlite:///{workspace}/mlflow.db",
        experiment="towns",
        model_name=bundle.manifest.name,
        run=MlflowRun(
            run_id=run, started="2026-11-23T20:01:07Z", seconds=1.0, dataset="towns", title="Towns",
            origin=bundle.origin, source="towns",
            data_hash=bundle.manifest.lineage.get("data_hash", ""),
            content_hash=bundle.manifest.content_hash, code_commit="abc",
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def shops_contract(house_contract: TableContract) -> TableContract:
    """The houses' columns and one more, so that a row of shops also fits the houses."""
    columns = [
        Column("turnover", "number") if column.name == "income" else column
        for column in house_contract.columns
    ]
    return TableContract(
        "shops", "Shops", OTHER, tuple(columns), Target("price", unit="USD", transform="log")
    )


def watched(contract: TableContract, frame: pl.DataFrame, seed: int, trees: int) -> Recipe:
    """Return a recipe whose bundle ships what `monitor` compares rows with."""
    X = Encoder(contract).columns({name: frame[name] for name in contract.feature_names})
    reference = build_reference(contract.features, X).state()
    return Recipe(seed=seed, trees=trees, changes={"reference": reference})


@pytest.fixture(scope="module")
def template(house_contract, shops_contract, tmp_path_factory) -> Path:
    """A workspace with two versions of houses, and bundles of shops that nobody registered."""
    folder = tmp_path_factory.mktemp("answers")
    bundles = folder / "bundles"
    for number in (1, 2):
        recipe = watched(house_contract, houses(1500), number, 80 if number == 1 else 15)
        bundle = train_bundle(
            bundles / f"v{number}", house_contract, houses(1500), folder / "data", recipe
        )
        register(folder, bundle, f"run-{number}")
    shops = houses(1500, seed=9).rename({"income": "turnover"})
    recipe = watched(shops_contract, shops, 3, 15)
    train_bundle(folder / "shops", shops_contract, shops, folder / "data", recipe)
    return folder


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Path:
    workspace = tmp_path / "workspace"
    shutil.copytree(template / "bundles", workspace / "bundles")
    shutil.copy(template / "mlflow.db", workspace / "mlflow.db")
    (workspace / "data").symlink_to(template / "data")
    return workspace


@pytest.fixture
def tasador(workspace: Path, capsys, monkeypatch) -> Tasador:
    monkeypatch.chdir(workspace.parent)
    monkeypatch.setattr("os.environ", dict(os.environ))  # `serve` tells its workers through it
    monkeypatch.setattr("tasador.cli.output.out._width", 200)

    def call(*words: str) -> str:
        capsys.readouterr()
        app([*words, "--workspace", str(workspace)], standalone_mode=False)
        captured = capsys.readouterr()
        return str(captured.out + captured.err)

    return call


@pytest.fixture
def versions(template: Path) -> dict[str, str]:
    found = {}
    for number in ("1", "2"):
        plain = json.loads((template / "bundles" / f"v{number}" / "manifest.json").read_text())
        found[number] = f"{MODEL}-{plain['content_hash'][:12]}"
    return found


def house() -> dict[str, object]:
    return houses(1, seed=4).drop("price").to_dicts()[0]


def shop() -> dict[str, object]:
    return houses(1, seed=4).rename({"income": "turnover"}).drop("price").to_dicts()[0]


@pytest.fixture
def served(workspace: Path) -> Iterator[Callable[..., Server]]:
    """Start `tasador serve` in the workspace with nothing configured but its port."""
    running: list[Server] = []

    def start(**variables: str) -> Server:
        server = Server(workspace, Path(), free_port(), TASADOR_SOURCE__LOCAL="", **variables)
        running.append(server)
        server.start()
        return server

    yield start
    for server in running:
        server.end()


def used_by_commands(tasador: Tasador, workspace: Path, *options: str) -> set[str]:
    """Return the versions that predict, explain and score answer with."""
    row, file = json.dumps(house()), workspace.parent / "rows.csv"
    houses(5).drop("price").write_csv(file)
    found = {
        json.loads(tasador("predict", row, *options).partition("\nnote")[0])["model_version"],
        json.loads(tasador("explain", row, "--json", *options).partition("\nnote")[0])["valuation"][
            "version"
        ],
    }
    said = tasador("score", str(file), "--output", str(workspace.parent / "scored.csv"), *options)
    return found | {said.partition(" with ")[2].split()[0]}


def test_after_a_rollback_every_way_to_a_value_answers_with_the_champion(
    tasador, workspace, versions, served
):
    tasador("promote", "1")
    tasador("promote", "2", "--force", "--reason", "a drill")
    assert used_by_commands(tasador, workspace) == {versions["2"]}
    tasador("rollback", "--reason", "complaints")
    assert used_by_commands(tasador, workspace) == {versions["1"]}
    for way in ([], ["--alias", "champion"], ["--version", "1"], ["--model", MODEL]):
        assert used_by_commands(tasador, workspace, *way) == {versions["1"]}, way
    assert used_by_commands(tasador, workspace, "--version", "2") == {versions["2"]}
    store = workspace.parent / "store"
    assert versions["1"] in tasador("publish", str(store))

    server = served()
    server.wait()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        answer = client.post("/api/v1/predict", json={"instances": [house()]}).json()
        assert answer["model_version"] == versions["1"]
        estimate = answer["predictions"][0]["prediction"]
        answer = client.post("/invocations", json={"dataframe_records": [house()]}).json()
        assert answer["predictions"][0]["prediction"] == estimate
        health = client.get("/health").json()
        assert (health["model_version"], health["source"]) == (versions["1"], "mlflow")
        assert client.get("/health/deep").json()["status"] == "healthy"
        assert f'version="{versions["1"]}"' in client.get("/metrics").text
        listed = client.get("/api/v1/models/versions").json()
        assert listed["follows"] == "champion"
        assert {one["number"]: one["status"] for one in listed["versions"]} == {
            "1": "champion", "2": "rolled back",
        }  # fmt: skip
        assert ApiClient(server.url).model_info()["model_version"] == versions["1"]  # the web app
        rows = houses(200, seed=8).drop("price").to_dicts()
        assert client.post("/api/v1/predict", json={"instances": rows}).status_code == 200
    server.stop()
    done = subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", "monitor", "--workspace", str(workspace),
         "--json", str(workspace / "verdict.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    verdict = json.loads((workspace / "verdict.json").read_text())
    assert (verdict["reference"], verdict["rows"]) == (versions["1"], 202)


def test_before_there_is_a_champion_the_newest_that_was_not_rejected_answers_and_says_so(
    tasador, workspace, versions, served
):
    said = tasador("predict", json.dumps(house()))
    assert f"note: {MODEL}: version 2 is used (no champion" in said
    assert versions["2"] in said
    tasador("reject", "2", "--reason", "leaks")
    assert used_by_commands(tasador, workspace) == {versions["1"]}
    server = served()
    server.wait()
    assert httpx.get(server.url + "/health").json()["model_version"] == versions["1"]
    deep = httpx.get(server.url + "/health/deep", timeout=30).json()
    assert deep["status"] == "healthy", deep
    assert "no champion" in json.dumps(deep)
    tasador("promote", "1")
    said = tasador("predict", json.dumps(house()))
    assert "note" not in said


def test_when_every_version_was_rejected_nothing_answers(tasador, workspace, served):
    server = served()
    server.wait()
    server.stop()  # it leaves a copy of the last good model
    for number in ("1", "2"):
        tasador("reject", number, "--reason", "leaks")
    with pytest.raises(NothingOfferedError, match="2 versions, all rejected or rolled back"):
        tasador("predict", json.dumps(house()))
    server.start()
    server.wait("/health/live")
    end = httpx.get(server.url + "/health/ready", timeout=30)
    assert end.status_code == 503


@pytest.mark.parametrize("words", [["--alias", "champoin"], ["--version", "7"]])
def test_an_alias_or_version_that_cannot_be_resolved_is_an_error(tasador, workspace, words):
    tasador("promote", "1")
    for command in (
        ["predict", json.dumps(house())], ["explain", json.dumps(house())],
        ["publish", str(workspace / "store")], ["serve", "--port", "0"],
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="cannot be resolved"):
            tasador(*command, *words)
    for other in (["--bundle", str(workspace / "bundles" / "v1")], ["--alias=a", "--version=1"]):
        with pytest.raises(ConfigError, match="contradict each other"):
            tasador("predict", json.dumps(house()), *words, *other)


def test_an_alias_beside_a_bundle_is_refused_by_the_service_too(tasador, workspace):
    with pytest.raises(ConfigError, match="belongs to a model registry, and none is asked"):
        tasador("serve", "--bundle", str(workspace / "bundles"), "--alias", "champion")


def test_a_version_left_by_a_rollback_keeps_no_alias(tasador, workspace):
    tasador("promote", "1")
    tasador("promote", "2", "--force", "--reason", "a drill")
    assert "staging" in json.loads(tasador("models", "--json"))["versions"][0]["aliases"]
    tasador("rollback", "--reason", "complaints")
    listed = json.loads(tasador("models", "--json"))["versions"]
    assert [one["aliases"] for one in listed] == [[], ["champion"]]


def test_a_workspace_without_a_registry_answers_with_its_newest_bundle_and_says_so(
    tasador, workspace, versions
):
    (workspace / "mlflow.db").unlink()
    said = tasador("predict", json.dumps(house()))
    assert versions["2"] in said
    assert "note: no version is registered: the newest bundle is used" in said
    with pytest.raises(RegistryError, match="cannot be resolved: there is no model registry"):
        tasador("predict", json.dumps(house()), "--alias", "champion")


def test_a_workspace_that_was_moved_finds_the_champion_among_its_bundles(
    tasador, workspace, versions
):
    import sqlite3

    tasador("promote", "1")
    with sqlite3.connect(workspace / "mlflow.db") as database:
        for column in ("storage_location", "source"):
            database.execute(
                f"UPDATE model_versions SET {column} = replace({column}, '/mlartifacts/', '/gone/')"
            )
    assert versions["1"] in tasador("predict", json.dumps(house()))


def test_of_two_models_the_one_in_use_or_the_one_that_fits_is_taken_never_a_mix(
    tasador, workspace, template, versions, served
):
    from tasador.registry.model_bundle import load_bundle

    shops = load_bundle(template / "shops")
    register(workspace, shops, "run-shops")
    listed = json.loads(tasador("models", "--json"))["versions"]
    assert {one["name"] for one in listed} == {MODEL, OTHER}
    assert versions["2"] in tasador("predict", json.dumps(house()))
    assert shops.version in tasador("predict", json.dumps(shop()))
    assert shops.version in tasador("explain", json.dumps(shop()))
    with pytest.raises(ConfigError, match=r"2 models .* none of their contracts fits"):
        tasador("predict", '{"area": 3}')
    both = json.dumps({**house(), **shop()})
    unclear = f"2 models .*expected one of {MODEL}, {OTHER}.*tasador use NAME"
    for command in (
        ["predict", both], ["promote", "1"], ["rollback"], ["history"], ["monitor"],
        ["compare", "1"], ["serve", "--port", "0"], ["watch"], ["retrain", "--dry-run"], ["up"],
        ["publish", str(workspace / "store")],
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=unclear):
            tasador(*command)
    with pytest.raises(ConfigError, match=f"no model 'flats'.*{MODEL}, {OTHER}"):
        tasador("use", "flats")
    tasador("use", OTHER)
    assert OTHER in tasador("use")
    assert f"in use: {OTHER}" in tasador("models")
    assert shops.version in tasador("predict", both)
    assert "version 1 is champion" in tasador("promote", "1", "--force", "--reason", "few trees")
    assert OTHER not in tasador("history", "--model", MODEL)
    server = served()
    server.wait()
    info = httpx.get(server.url + "/health").json()
    assert info["model_version"] == shops.version
    rows = [shop() for _ in range(40)]
    assert httpx.post(server.url + "/api/v1/predict", json={"instances": rows}).status_code == 200
    server.stop()
    verdict = workspace / "verdict.json"
    for model, rows in ((OTHER, 40), (MODEL, 0)):
        tasador("use", model)
        with contextlib.suppress(typer.Exit):  # whatever it makes of so few rows
            tasador("monitor", "--json", str(verdict))
        plain = json.loads(verdict.read_text())
        assert (plain["rows"], plain["reference"].rpartition("-")[0]) == (rows, model)


class Load:
    """Requests to a server, one after the other, until it is stopped."""

    def __init__(self, url: str) -> None:
        self.answered: list[str] = []
        self.failed: list[str] = []
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                answer = client.post("/api/v1/predict", json={"instances": [house()]})
                if answer.status_code == 200:
                    self.answered.append(answer.json()["model_version"])
                else:
                    self.failed.append(answer.text)
                self._stop.wait(0.005)

    def settles_on(self, version: str, seconds: float = 20.0) -> None:
        """Wait until `version` answers, then see that nothing else does for ten polls."""
        end = time.monotonic() + seconds
        while self.answered[-1:] != [version]:
            assert time.monotonic() < end, f"{set(self.answered[-20:])} instead of {version}"
            time.sleep(0.02)
        time.sleep(0.5)  # a request under way, a swap
        before = len(self.answered)
        time.sleep(2.0)
        assert set(self.answered[before:]) == {version}
        health = httpx.get(self._url + "/health", timeout=30).json()
        assert health["model_version"] == version
        metrics = httpx.get(self._url + "/metrics", timeout=30).text
        named = re.findall(r'^tasador_model_info\{.*version="([^"]*)"', metrics, re.MULTILINE)
        assert named == [version]

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def canary(workspace: Path, versions: dict[str, str]) -> Callable[[str], Experiment | None]:
    """Begin a canary of version 2 that has come to a status; without one, return it."""

    def put(status: str = "") -> Experiment | None:
        with Database.open(f"sqlite:///{workspace}/tasador.db") as database:
            book = ExperimentBook(database, MODEL)
            before, seen = book.read()
            if status:
                now, rules = time.time(), Criteria(stages=(1.0,), min_rows=10**6)
                begun = Experiment(
                    f"{now}", versions["1"], versions["2"], "2", status, 0, now, now, "", rules
                )  # type: ignore[arg-type]
                assert book.write(begun, seen, "test")
            return before

    return put


def test_no_order_of_canary_promotion_rollback_and_rejection_leaves_a_version_with_traffic(
    tasador, workspace, versions, served, canary
):
    one, two = versions["1"], versions["2"]
    tasador("promote", "1")
    server = served(TASADOR_CANARY__POLL_S="0.2", TASADOR_CANARY__IDLE_FACTOR="0")
    server.wait()
    load = Load(server.url)
    again = ("--force", "--reason", "again")

    def challenge(status: str) -> None:
        tasador("promote", "2", "--to", "challenger", *again)
        canary(status)
        end = time.monotonic() + 30
        while load.answered[-1:] != [two]:
            assert time.monotonic() < end, "the challenger was not admitted"
            time.sleep(0.02)

    try:
        challenge("passed")
        assert "version 2 is champion" in tasador("canary", "settle")
        load.settles_on(two)
        assert canary().status == "settled"
        tasador("rollback", "--reason", "complaints")
        load.settles_on(one)

        challenge("passed")
        tasador("reject", "2", "--reason", "leaks")
        load.settles_on(one)
        assert canary().status == "stopped"

        challenge("running")
        tasador("promote", "2", *again)
        load.settles_on(two)
        tasador("rollback", "--reason", "complaints")
        load.settles_on(one)

        challenge("passed")
        tasador("canary", "stop")
        load.settles_on(one)

        challenge("passed")
        tasador("promote", "2", *again)
        load.settles_on(two)
        tasador("rollback", "--reason", "complaints")
        load.stop()
        server.stop()
        server.start()
        server.wait()
        load = Load(server.url)
        load.settles_on(one)
        assert load.failed == []
    finally:
        load.stop()


def test_a_model_of_generated_rows_does_not_become_champion_by_itself(
    workspace, written_bundle, monkeypatch
):
    from tasador.registry.model_bundle import load_bundle

    monkeypatch.setattr("os.environ", dict(os.environ))
    new = workspace / "new"
    new.mkdir()
    (new / "data").symlink_to(workspace / "data")
    register(new, load_bundle(written_bundle), "run-generated")
    place = Place(new, model=MODEL)
    after = after_run(place, "1", GateSettings())
    assert "version 1 was trained on generated rows: it does not become champion" in after.lines[0]
    assert after.following == f"tasador up --workspace {new}"
    with opened(place) as lifecycle:
        promote(lifecycle, PromotionRequest("1", force=True, reason="to begin with"))
    register(new, load_bundle(workspace / "bundles" / "v1"), "run-real")
    after = after_run(place, "2", GateSettings(prb_slack=1.0))
    assert after.lines[0].startswith("champion: version 2 (the first model trained on real rows")
    register(new, load_bundle(workspace / "bundles" / "v2"), "run-later")
    after = after_run(place, "3", GateSettings())
    assert after.lines == ("version 3 is registered; version 2 is still champion",)
    assert after.following == f"tasador promote 3 --workspace {new}"


def test_a_damaged_bundle_that_is_named_is_still_said_to_be_damaged(tasador, workspace):
    folder = workspace / "bundles" / "v1"
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        tasador("predict", json.dumps(house()), "--bundle", str(folder))
