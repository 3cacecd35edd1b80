"""PostgreSQL under two services, watchers and a canary, all processes of their own.

Whatever dies or stops, every acknowledged valuation is one record, every outcome is joined once,
everybody sees one state of alerts and canary, and only one watcher acts.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from fixtures.command_line import run_here
from fixtures.houses import Recipe, houses, register_houses, train_bundle
from fixtures.postgresql import PostgresServer
from fixtures.process import Server, Watching, free_port
from fixtures.receiver import Receiver
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.registry.model_bundle import load_bundle
from tasador.serving.experiment import SHADOW_SUFFIX, ExperimentBook

MODEL = "houses_model"
ALERTS = """
interval_s: 1
window_s: 3600
alerts:
  - {name: performance, checks: [performance], after: 1, clear_after: 1}
"""


def wait_for(condition: Callable[[], object], what: str, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.1)


class Traffic:
    """Clients of several services, who remember what they were promised.

    Each outcome is told to services drawn at random until one answers that it knows it already. One
    whose record waits in a spool is `unknown` at first.
    """

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.inflation = 1.0
        self.acknowledged: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self.versions: dict[str, str] = {}
        self.answers: Counter[str] = Counter()
        self._untold: list[tuple[str, float]] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [
            *(threading.Thread(target=self._ask, args=(i,)) for i in range(len(urls))),
            threading.Thread(target=self._tell),
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not self._untold, self.answers

    def wait_for(self, more: int = 60) -> None:
        """Wait until so many more valuations were acknowledged and as many outcomes taken."""
        asked, told = len(self.acknowledged) + more, len(self.told) + more
        wait_for(
            lambda: len(self.acknowledged) >= asked and len(self.told) >= told,
            f"{more} valuations with outcomes ({self.answers})",
        )

    def _ask(self, number: int) -> None:
        rows = houses(400, seed=100 + number).to_dicts()
        url, i = self.urls[number], 0
        with httpx.Client(base_url=url, timeout=15) as client:
            while not self._stop.is_set():
                i += 1
                row = dict(rows[i % len(rows)])
                price = row.pop("price") * self.inflation
                try:
                    answer = client.post("/api/v1/predict", json={"instances": [row]})
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                if answer.status_code != 200:
                    self.answers[f"predict {answer.status_code}"] += 1
                    time.sleep(0.05)
                    continue
                found = answer.json()
                key = found["predictions"][0]["prediction_id"]
                with self._lock:
                    self.versions[url] = found["model_version"]
                    self.acknowledged[key] = price
                    self._untold.append((key, price))
                time.sleep(0.02)  # the machine is shared with what is tested

    def _tell(self) -> None:
        rng = random.Random(3)
        with httpx.Client(timeout=15) as client:
            while not self._stop.is_set() or self._untold:
                with self._lock:
                    some, self._untold = self._untold[:50], self._untold[50:]
                if not some:
                    time.sleep(0.02)
                    continue
                some = self._told_at(client, rng.choice(self.urls), some)
                with self._lock:
                    self._untold += some

    def _told_at(
        self, client: httpx.Client, url: str, some: list[tuple[str, float]]
    ) -> list[tuple[str, float]]:
        """Tell outcomes; return those to tell again."""
        told = [{"prediction_id": key, "actual": price} for key, price in some]
        try:
            answer = client.post(url + "/api/v1/outcomes", json={"outcomes": told})
        except httpx.TransportError:
            time.sleep(0.05)
            return some
        if answer.status_code != 200:
            time.sleep(0.05)
            return some
        again = []
        for (key, price), one in zip(some, answer.json()["results"], strict=True):
            self.answers[one["status"]] += 1
            if one["status"] in ("accepted", "repeated"):
                self.told[key] = price
            if one["status"] != "repeated":
                again.append((key, price))
        return again


@dataclass
class Town:
    """Two services, whose records lie in one database.

    Attributes:
        folder: Where they work.
        url: Of the database.
        services: The two.
    """

    folder: Path
    url: str
    services: list[Server]

    @property
    def urls(self) -> list[str]:
        return [service.url for service in self.services]

    def start(self) -> None:
        for service in self.services:
            service.start()
        for service in self.services:
            service.wait()

    def stop(self) -> None:
        for service in self.services:
            if service.process is not None and service.process.poll() is None:
                code, _, err = service.stop()
                assert code == 0, err

    def kill(self, service: Server) -> None:
        service.stop(signal.SIGKILL)
        service.start()
        service.wait()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with Database.open(self.url) as database:
            return database.execute(sql)

    def check_nothing_lost_or_twice(self, traffic: Traffic) -> None:
        """Stop, and compare what the clients were promised with what the one store has."""
        self.stop()
        records = dict(self.rows("SELECT id, variant FROM records"))
        answers = {key for key, variant in records.items() if variant != "shadow"}
        assert traffic.acknowledged.keys() <= answers
        # the others were under way when a service was killed: written, and never answered
        assert len(answers - traffic.acknowledged.keys()) <= 20
        shadows = [key for key, variant in records.items() if variant == "shadow"]
        assert {key.removesuffix(SHADOW_SUFFIX) for key in shadows} <= answers
        kept = self.rows("SELECT prediction_id, actual FROM outcomes")
        assert len(kept) == len(dict(kept))
        assert dict(kept) == pytest.approx(traffic.told)
        assert traffic.told == traffic.acknowledged
        # who tells it first is `accepted`, whoever else and however often `repeated`
        assert traffic.answers["accepted"] <= len(kept)
        assert traffic.answers["repeated"] > 0
        assert self.rows("SELECT count(*) FROM outcome_conflicts") == [(0,)]
        assert not list(self.folder.rglob("*.spool.db"))


def town_of(folder: Path, url: str, bundle: Path, **variables: str) -> Town:
    services = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        services.append(
            Server(
                folder / name, bundle, free_port(), TASADOR_RECORDS__URL=url,
                TASADOR_CANARY__POLL_S="0.2", TASADOR_CANARY__IDLE_FACTOR="0", **variables,
            )
        )  # fmt: skip
    return Town(folder, url, services)


def test_two_services_on_one_postgresql_lose_and_double_nothing(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, written_bundle: Path
) -> None:
    town = town_of(tmp_path, postgres_url, written_bundle)
    try:
        town.start()
        with Traffic(town.urls) as traffic:
            traffic.wait_for()
            postgres_server.stop("immediate")
            before = len(traffic.acknowledged)
            wait_for(lambda: len(traffic.acknowledged) > before + 40, "valuing without a database")
            # what this one has in its spool is the next one's to bring in
            town.services[0].stop(signal.SIGKILL)
            postgres_server.start()
            town.services[0].start()
            town.services[0].wait()
            traffic.wait_for()
        town.check_nothing_lost_or_twice(traffic)
    finally:
        for service in town.services:
            service.end()


def watch(town: Town, workspace: Path, receiver: Receiver) -> Watching:
    """Start a watcher that settles canaries and never trains."""
    (town.folder / "watch.yaml").write_text(ALERTS)
    return Watching(
        town.folder, "--set", "retraining.budget=0", "--workspace", str(workspace),
        **town.services[0].variables, TASADOR_ALERTS__WEBHOOK_URL=receiver.url,
    )  # fmt: skip


@pytest.fixture
def registry(house_contract, template_database: Path, tmp_path: Path) -> Path:
    """A workspace with a champion and a challenger as good."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    shutil.copy(template_database, workspace / "mlflow.db")
    for number, seed in enumerate((0, 1), start=1):
        bundle = train_bundle(
            tmp_path / f"b{number}", house_contract, houses(1500), workspace / "data",
            Recipe(trees=30, seed=seed, watched=True),
        )  # fmt: skip
        register_houses(bundle, workspace / "mlflow.db", number, MODEL)
    return workspace


@pytest.mark.slow
def test_canary_promotion_alert_and_rollback_are_one_story_for_all_processes(
    postgres_server: PostgresServer,
    postgres_url: str,
    tmp_path: Path,
    registry: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TASADOR_RECORDS__URL", postgres_url)

    def tasador(*words: str) -> str:
        code, out, err = run_here(registry.parent, *words, "--workspace", str(registry))
        assert code == 0, out + err
        return out

    tasador("promote", "1", "--force", "--reason", "the first")
    tasador("promote", "2", "--to", "challenger", "--force", "--reason", "as good")
    versions = [load_bundle(tmp_path / name).version for name in ("b1", "b2")]
    town = town_of(
        tmp_path, postgres_url, Path(),
        TASADOR_SOURCE__LOCAL="", TASADOR_SOURCE__MODEL_NAME=MODEL,
        TASADOR_SOURCE__TRACKING_URI=f"sqlite:///{registry}/mlflow.db",
        TASADOR_SOURCE__ALIAS="champion",
    )  # fmt: skip

    def experiment() -> str:
        with Database.open(postgres_url) as database:
            found, _ = ExperimentBook(database, MODEL).read()
        return "" if found is None else found.status

    def answered_by(version: str) -> bool:
        return set(traffic.versions.values()) == {version}

    def audited(action: str) -> list[dict[str, Any]]:
        with Database.open(postgres_url) as database:
            return [
                {"subject": e.subject, "from": e.from_value, "to": e.to_value, **e.details}
                for e in AuditTrail(database).read(action=action)
            ]

    watchers: list[Watching] = []
    try:
        town.start()
        with Receiver() as receiver, Traffic(town.urls) as traffic:
            watchers += [watch(town, registry, receiver) for _ in range(2)]
            traffic.wait_for(200)
            wait_for(lambda: any(one.leads for one in watchers), "a verdict")
            tasador("canary", "start", "--stages", "50,100", "--rows", "60", "--outcomes",
                    "--error-margin", "0.05")  # fmt: skip
            traffic.wait_for(100)
            town.kill(town.services[1])
            postgres_server.stop("immediate")
            before = len(traffic.acknowledged)
            wait_for(lambda: len(traffic.acknowledged) > before + 40, "valuing without it")
            postgres_server.start()
            # the watcher that leads draws the canary's consequence, once
            wait_for(lambda: experiment() == "settled", "the promotion")
            wait_for(lambda: answered_by(versions[1]), "the change of model")

            traffic.inflation = 2.0
            key = f"{MODEL}/performance/performance:mape"

            def states() -> list[Any]:
                found = [httpx.get(u + "/api/v1/monitoring/alerts", timeout=10) for u in town.urls]
                return [
                    next((a["state"] for a in one.json()["alerts"] if a["key"] == key), None)
                    for one in found
                ]

            wait_for(lambda: states() == ["firing", "firing"], "the alert")
            wait_for(lambda: any(key.encode() in body for _, body in receiver.got), "a notice")
            leader = next(one for one in watchers if one.leads)
            follower = next(one for one in watchers if one is not leader)
            assert any("another watcher leads" in line for line in follower.said)
            assert not follower.leads
            leader.stop(signal.SIGKILL)
            wait_for(lambda: follower.leads, "the other watcher's lead")

            # the lease of the one who was killed in the middle of a change ends by itself
            words = ("rollback", "--reason", "complaints", "--workspace", str(registry))
            wait_for(lambda: run_here(registry.parent, *words)[0] == 0, "rolling back")
            wait_for(lambda: answered_by(versions[0]), "the rollback")
            traffic.wait_for(100)
        follower.stop()
        assert states() == ["firing", "firing"]
        assert [e["phase"] for e in audited("canary")].count("passed") == 1
        moved = [e for e in audited("promote") if (e["from"], e["to"]) == ("1", "2")]
        assert [e["phase"] for e in moved].count("done") == 1
        fired = [e for e in audited("alert") if e["subject"] == key and e["to"] == "firing"]
        assert len(fired) == 1
        notices = Counter(json.loads(body)["id"] for _, body in receiver.got)
        # one that was sent and not yet noted so when the watcher was killed is sent again: its id
        # tells that it is the same
        assert sorted(notices.values())[:-1] == [1] * (len(notices) - 1)
        assert max(notices.values()) <= 2
        assert not any("Traceback" in line for one in watchers for line in one.said)
        verdict = tmp_path / "verdict.json"
        for name, value in town.services[0].variables.items():
            monkeypatch.setenv(name, value)
        run_here(tmp_path, "monitor", "--window", "1h", "--json", str(verdict), "-q",
                 "--workspace", str(registry))  # fmt: skip
        found = json.loads(verdict.read_text())
        town.check_nothing_lost_or_twice(traffic)
        counted = dict(town.rows("SELECT variant, count(*) FROM records GROUP BY variant"))
        assert found["rows"] == counted["champion"]
        assert town.rows("SELECT count(*) FROM leases WHERE name LIKE 'canary%'") == [(1,)]
    finally:
        for one in watchers:
            if one.process.poll() is None:
                one.stop(signal.SIGKILL)
            print(*one.said[-40:], sep="")
        for service in town.services:
            service.end()
