"""The whole life of a model with real processes: trained, served, overtaken, replaced."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from fixtures.houses import houses
from fixtures.process import Server, Watching, free_port
from tasador.records.audit_log import AuditEntry, AuditTrail
from tasador.records.database import Database
from tasador.serving.experiment import Experiment, ExperimentBook

pytestmark = pytest.mark.slow

SMALL = [
    "download.offline=true",
    "impute.strategy=median",
    "features.clusters=0",
    "features.cross_fit_folds=3",
    "selection.folds=3",
    "selection.families={lightgbm:{n_estimators:[80],num_leaves:[15]}}",
    *(
        f"~selection.families.{name}"
        for name in (
            "hist_gradient_boosting", "gradient_boosting", "extra_trees", "decision_tree", "lasso",
            "ridge", "random_forest",
        )
    ),
    "sweep.trials=0",
    "sweep.folds=2",
    "sweep.slowdown=1.0",
    "register.parity_rows=1000",
    "register.bootstrap_draws=30",
    "register.spatial_folds=2",
]  # fmt: skip
#: Gates and limits for a table of 2000 rows on a busy machine.
LENIENT = [
    "gates.latency_ms=1000", "gates.latency_factor=1000", "gates.min_rows=50",
    "gates.prb_slack=0.1", "gates.coverage_slack=0.08",
    "retraining.performance_windows=1", "retraining.max_client_share=1.0",
    "retraining.max_new_share=0.8",
]  # fmt: skip


def sets(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


class Town:
    """A folder with a table, its models, and a server that follows the champion."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workspace = folder, folder / "workspace"
        self.model = ""
        self.env = {**os.environ, "COLUMNS": "200"}

    def tasador(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tasador.cli.app", *words], cwd=self.folder, env=self.env,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def train(self, file: str, frame: pl.DataFrame) -> None:
        frame.write_csv(self.folder / file)
        self.tasador("run", "dataset=houses", *SMALL, f"dataset.source.paths=[{file}]")

    def server(self) -> Server:
        return Server(
            self.workspace, Path(), free_port(),
            TASADOR_SOURCE__LOCAL="",
            TASADOR_SOURCE__TRACKING_URI=f"sqlite:///{self.workspace}/mlflow.db",
            TASADOR_SOURCE__MODEL_NAME=self.model,
            TASADOR_SOURCE__ALIAS="champion",
            TASADOR_RECORDS__URL=f"sqlite:///{self.workspace}/tasador.db",
            TASADOR_CANARY__POLL_S="0.2",
            TASADOR_CANARY__IDLE_FACTOR="0",
        )  # fmt: skip

    def aliases(self) -> dict[str, str]:
        with sqlite3.connect(self.workspace / "mlflow.db") as database:
            found = database.execute("SELECT alias, version FROM registered_model_aliases")
            return {alias: str(number) for alias, number in found}

    def canary(self) -> Experiment:
        with Database.open(f"sqlite:///{self.workspace}/tasador.db") as database:
            found, _ = ExperimentBook(database, self.model).read()
        assert found is not None
        return found

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with Database.open(f"sqlite:///{self.workspace}/tasador.db") as database:
            return database.execute(sql)

    def audited(self, action: str) -> list[AuditEntry]:
        with Database.open(f"sqlite:///{self.workspace}/tasador.db") as database:
            return AuditTrail(database).read(action=action)


def send(url: str, frame: pl.DataFrame, rows: int = 50, outcomes: bool = True) -> tuple[float, set]:
    """Value rows, report what they were worth; return the mean relative error and the versions."""
    name, errors, versions = "predicted_price", [], set()
    with httpx.Client(base_url=url, timeout=60) as client:
        for part in frame.iter_slices(rows):
            plain = part.to_dicts()
            prices = [row.pop("price") for row in plain]
            answer = client.post("/api/v1/predict", json={"instances": plain})
            assert answer.status_code == 200, answer.text
            found = answer.json()
            versions.add(found["model_version"])
            errors += [
                abs(one[name] - price) / price
                for one, price in zip(found["predictions"], prices, strict=True)
            ]
            if outcomes:
                told = [
                    {"prediction_id": one["prediction_id"], "actual": price}
                    for one, price in zip(found["predictions"], prices, strict=True)
                ]
                answer = client.post("/api/v1/outcomes", json={"outcomes": told})
                assert answer.status_code == 200, answer.text
    return float(np.mean(errors)), versions


def wait_for(condition, seconds: float = 60.0, every: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(every)


def version_of(server: Server) -> str:
    answer = httpx.get(server.url + "/api/v1/model/info", timeout=30).json()
    return str(answer["model_version"])


def new_town(folder: Path) -> Town:
    town = Town(folder)
    houses(2000).write_csv(town.folder / "houses.csv")
    town.tasador("init", "houses.csv", "--target", "price", "--name", "houses")
    town.tasador("run", "dataset=houses", *SMALL)
    town.model = json.loads(town.tasador("models", "--json"))["versions"][0]["name"]
    town.tasador("promote", "1", *sets(LENIENT))
    return town


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    return new_town(tmp_path_factory.mktemp("town"))


def test_the_market_moves_the_model_is_retrained_proves_itself_and_takes_over(town: Town) -> None:
    server = town.server()
    server.start()
    try:
        server.wait()
        calm, _ = send(server.url, houses(300, seed=50))
        before, versions = send(server.url, houses(2400, seed=51, inflation=1.5))
        assert before > 2 * calm
        verdict = town.folder / "verdict.json"
        env = dict(town.env)
        town.env |= {k: v for k, v in server.variables.items() if "SOURCE" in k or "URL" in k}
        town.tasador("monitor", "--rule", "mape_max=15", "--json", str(verdict), "-q", code=10)
        town.env = env
        assert json.loads(verdict.read_text())["level"] == "alert"
        said = town.tasador("retrain", *sets(LENIENT))
        assert "broke its rule" in said
        assert "is challenger" in said
        challenger = town.aliases()["challenger"]
        assert town.aliases()["champion"] == "1"

        town.tasador("canary", "start", "--stages", "0,50,100", "--rows", "60", "--outcomes")
        seed, shares = 60, set()
        while town.canary().status == "running":
            assert seed < 100
            _, seen = send(server.url, houses(150, seed=seed, inflation=1.5), rows=1)
            shares |= seen
            seed += 1
        assert town.canary().status == "passed", town.canary()
        assert len(shares) == 2  # both answered meanwhile
        town.tasador("canary", "settle")
        assert town.aliases()["champion"] == challenger
        wait_for(lambda: version_of(server) not in versions)
        after, answered = send(server.url, houses(300, seed=200, inflation=1.5))
        assert answered.isdisjoint(versions)
        assert after < 0.5 * before
        told = town.tasador("history")
        for word in ("retrain", "canary", "promote champion"):
            assert word in told
    finally:
        server.end()


def test_a_bad_challenger_rolls_back_by_itself_also_when_servers_are_killed(town: Town) -> None:
    champion = town.aliases()["champion"]
    town.train("dear.csv", houses(2000, seed=3).with_columns(pl.col("price") * 3))
    bad = town.aliases()["staging"]
    town.tasador("promote", bad, "--to", "challenger", *sets(LENIENT))
    server = town.server()
    server.start()
    try:
        server.wait()
        served = version_of(server)
        town.tasador("canary", "start", "--stages", "50,100", "--rows", "2000")
        killed = False
        for seed in range(300, 340):
            status = town.canary().status
            if status != "running":
                break
            send(server.url, houses(120, seed=seed, inflation=1.5), rows=1)
            if not killed:
                server.stop(signal.SIGKILL)
                server.start()
                server.wait()
                killed = True
        assert killed
        ended = town.canary()
        assert ended.status == "rolled back", ended
        wait_for(lambda: send(server.url, houses(20, seed=1), 1, False)[1] == {served})
        town.tasador("canary", "settle")
        assert town.aliases()["champion"] == champion
        assert "challenger" not in town.aliases()
        said = town.tasador("promote", bad, code=2)
        assert "is rejected" in said
    finally:
        server.end()


def test_a_rollback_under_load_is_effective_within_a_poll_and_fails_no_request(town: Town) -> None:
    champion = town.aliases()["champion"]
    if champion == "1":
        pytest.skip("the first test did not promote a second version")
    server = town.server()
    server.start()
    failed: list[str] = []
    answered: list[str] = []
    stop = threading.Event()
    row = houses(1).drop("price").to_dicts()[0]

    def load() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/api/v1/predict", json={"instances": [row]})
                if answer.status_code == 200:
                    answered.append(answer.json()["model_version"])
                else:
                    failed.append(answer.text)

    try:
        server.wait()
        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answered) > 100)
        left = answered[-1]
        said = town.tasador("rollback", "--reason", "a drill")
        assert f"champion: {champion} -> 1" in said
        wait_for(lambda: answered[-1] != left, seconds=10.0)
        time.sleep(1.0)
        stop.set()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(set(answered)) == 2
        switched = answered.index(next(v for v in answered if v != left))
        assert set(answered[switched + 10 :]) == {answered[-1]}
    finally:
        stop.set()
        server.end()


def test_a_promotion_killed_at_random_points_is_noted_and_repaired_by_the_next_one(
    town: Town,
) -> None:
    rng = random.Random(7)
    command = [sys.executable, "-m", "tasador.cli.app", "promote", "1", "--to", "champion",
               "--force", "--reason", "a drill", "--by", "drill"]  # fmt: skip
    town.tasador("promote", "2", "--force", "--reason", "to begin with")
    started = time.monotonic()
    town.tasador("promote", "1", "--force", "--reason", "how long does it take")
    whole = time.monotonic() - started
    for _ in range(3):
        now = town.aliases()["champion"]
        command[4] = other = "2" if now == "1" else "1"
        process = subprocess.Popen(
            command, cwd=town.folder, env=town.env, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(whole * rng.uniform(0.5, 1.0))
        process.kill()
        process.wait()
        champion = town.aliases()["champion"]
        assert champion in (now, other)
    deadline = time.monotonic() + 60  # the lease of the dead ends by itself
    target = "2" if town.aliases()["champion"] == "1" else "1"
    while True:
        done = subprocess.run(
            [*command[:4], target, *command[5:]], cwd=town.folder, env=town.env,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        if done.returncode == 0:
            break
        assert "is being changed by" in done.stderr, done.stderr
        assert time.monotonic() < deadline
        time.sleep(2)
    assert town.aliases()["champion"] == target
    assert json.loads(town.tasador("models", "--json"))["notes"] == []
    moved = [
        (e["from_value"], e["to_value"])
        for e in json.loads(town.tasador("history", "--json", "--limit", "500"))[::-1]
        if e["from_value"] != e["to_value"] and e["details"].get("phase") in ("done", "seen")
    ]
    # every move is in the history once, those of the killed ones included
    assert all(after[0] == before[1] for before, after in itertools.pairwise(moved))
    assert moved[-1][1] == target


def test_a_retrain_killed_at_random_points_leaves_the_champion_and_the_next_one_finishes(
    town: Town,
) -> None:
    rng = random.Random(11)
    champion = town.aliases()["champion"]
    server = town.server()
    server.start()
    try:
        server.wait()
        send(server.url, houses(1200, seed=70, inflation=1.5))
        served = version_of(server)
        words = ["retrain", "--now", *sets(LENIENT)]
        for _ in range(3):
            process = subprocess.Popen(
                [sys.executable, "-m", "tasador.cli.app", *words], cwd=town.folder, env=town.env,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            time.sleep(rng.uniform(3.0, 15.0))
            process.kill()
            process.wait()
            assert town.aliases()["champion"] == champion
            _, versions = send(server.url, houses(20, seed=71), outcomes=False)
            assert versions == {served}
        deadline = time.monotonic() + 120  # the lease of the dead ends by itself
        while True:
            done = subprocess.run(
                [sys.executable, "-m", "tasador.cli.app", *words], cwd=town.folder, env=town.env,
                capture_output=True, text=True, timeout=300,
            )  # fmt: skip
            assert "Traceback" not in done.stderr, done.stderr
            if done.returncode in (0, 10):  # it ended, whatever the gates say of this model
                break
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(2)
        assert town.aliases()["champion"] == champion
        assert json.loads(town.tasador("models", "--json"))["notes"] == []
    finally:
        server.end()


def test_a_watcher_killed_in_a_check_a_training_or_after_a_canary_is_replaced_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    town = new_town(tmp_path)
    (town.folder / "watch.yaml").write_text(
        "interval_s: 1\nwindow_s: 86400\nlimits: {mape_max: 15}\n"
        "alerts: [{name: performance, checks: [performance], after: 1, clear_after: 1}]\n"
    )
    server = town.server()
    sent, watchers = 0, list[Watching]()

    def begin() -> Watching:
        watchers.append(Watching(
            town.folder, *sets(LENIENT), "--workspace", str(town.workspace), **server.variables,
        ))  # fmt: skip
        return watchers[-1]

    def phases(action: str) -> list[str]:
        return sorted(one.details.get("phase", "") for one in town.audited(action))

    server.start()
    try:
        server.wait()
        served = version_of(server)
        for seed in (51, 52, 53):
            send(server.url, houses(800, seed=seed, inflation=1.5))
            sent += 800

        in_a_check = begin()
        wait_for(lambda: town.rows("SELECT count(*) FROM verdicts") != [(0,)], 240.0, every=0.005)
        in_a_check.stop(signal.SIGKILL)

        in_a_training = begin()  # leads once the lease of the dead has ended, a minute later
        wait_for(lambda: in_a_training.leads and "intent" in phases("retrain"), 240.0)
        time.sleep(1.0)
        in_a_training.stop(signal.SIGKILL)
        assert town.aliases()["champion"] == "1"
        assert "challenger" not in town.aliases()

        after_a_canary = begin()
        wait_for(lambda: any("canary begun" in line for line in after_a_canary.said), 480.0)
        after_a_canary.process.send_signal(signal.SIGSTOP)  # the servers decide it meanwhile
        for seed in range(60, 160):
            if town.canary().status != "running":
                break
            send(server.url, houses(150, seed=seed, inflation=1.5), rows=10)
            sent += 150
        assert town.canary().status == "passed", town.canary()
        challenger = town.aliases()["challenger"]
        after_a_canary.stop(signal.SIGKILL)
        assert town.aliases()["champion"] == "1"

        last = begin()
        wait_for(lambda: town.canary().status == "settled", 240.0)
        wait_for(lambda: version_of(server) != served)
        last.stop()
        assert town.aliases()["champion"] == challenger
        assert "challenger" not in town.aliases()
        ended = [phase for phase in phases("retrain") if phase != "intent"]
        assert ended in (["aborted", "done"], ["aborted", "aborted", "done"])
        assert phases("retrain").count("intent") == len(ended)
        assert phases("canary").count("passed") == 1
        moves = [one.to_value for one in town.audited("promote") if one.from_value == "1"
                 and one.to_value != "1" and one.details["phase"] == "done"]  # fmt: skip
        assert moves == [challenger]
        fired = [one.subject for one in town.audited("alert") if one.to_value == "firing"]
        assert len(fired) == len(set(fired)) > 0
        found = json.loads(town.tasador("models", "--json"))
        assert found["notes"] == []
        assert [one["number"] for one in found["versions"]] == [challenger, "1"]
        assert town.rows("SELECT count(*) FROM records WHERE variant <> 'shadow'") == [(sent,)]
        assert town.rows("SELECT count(*) FROM outcomes") == [(sent,)]
        assert not any("Traceback" in line for one in watchers for line in one.said)
    finally:
        for one in watchers:
            if one.process.poll() is None:
                one.stop(signal.SIGKILL)
            print(*one.said[-30:], sep="")
        server.end()
