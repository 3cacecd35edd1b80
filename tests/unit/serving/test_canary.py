"""The canary in a server: who answers, what is shadowed, and that a bad one leaves by itself."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fixtures.houses import Recipe, houses, train_bundle
from tasador.core import clock
from tasador.core.errors import RegistryError, StorageError
from tasador.records.audit_log import AuditTrail
from tasador.records.batch_writer import RecordWriter
from tasador.records.database import Database
from tasador.records.record import Outcome
from tasador.records.store import RecordStore
from tasador.registry.model_bundle import load_bundle
from tasador.serving.batcher import Batcher
from tasador.serving.canary import Canary, _chosen
from tasador.serving.cascade import LoadedModel
from tasador.serving.experiment import Criteria, Experiment, ExperimentBook
from tasador.serving.http.request import Exchange
from tasador.serving.metrics import Metrics
from tasador.serving.model_slot import ModelSlot
from tasador.serving.service import Service
from tasador.settings.serving import CanarySettings, LimitSettings, RecordSettings

ROWS = houses(60, seed=40)
INPUTS = [{k: v for k, v in row.items() if k != "price"} for row in ROWS.to_dicts()]
PRICES = ROWS["price"].to_list()
FAST = CanarySettings(poll_s=0.02, idle_factor=0.0, queue=5000)


@pytest.fixture(scope="module")
def bundles(house_contract, tmp_path_factory):
    folder = tmp_path_factory.mktemp("canary")
    return {
        name: train_bundle(folder / name, house_contract, houses(1500), folder / "data", recipe)
        for name, recipe in {
            "champion": Recipe(), "good": Recipe(seed=1), "bad": Recipe(factor=1.6),
        }.items()
    }  # fmt: skip


class Breaks:
    """A model that fails after a number of calls."""

    def __init__(self, model, calls: int) -> None:
        self._model, self._left = model, calls

    def predict(self, Z):
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("out of order")
        return self._model.predict(Z)


class Server:
    """One server's service with its canary, on a database that several may share."""

    def __init__(self, url: str, champion, challenger, settings=FAST) -> None:
        self.url = url
        self.slot = ModelSlot()
        self.slot.swap(LoadedModel(champion, "local", "a", 0.0))
        self.writer = RecordWriter(RecordSettings(url=url, spool=None))
        metrics = Metrics()
        self.service = Service(self.slot, Batcher(self.writer, metrics), metrics, LimitSettings())
        self.loads = 0

        def load() -> LoadedModel:
            self.loads += 1
            if challenger is None:
                raise RegistryError("the registry is down")
            bundle = challenger() if callable(challenger) else challenger
            return LoadedModel(bundle, "mlflow", "b", 0.0)

        self.canary = Canary(self.service, settings, Database(url), load, self.writer)

    def ask(self, count: int, start: int = 0, **changes) -> list[str]:
        """Send requests one after the other; return the version that answered each."""

        async def send() -> list[str]:
            answered = []
            for i in range(start, start + count):
                exchange = Exchange("POST", "/api/v1/predict", {}, f"r{i}", time.perf_counter(),
                                    client="me")  # fmt: skip
                for name, value in changes.items():
                    setattr(exchange, name, value)
                predictor = self.service.predictor()
                rows = predictor.encode([INPUTS[i % len(INPUTS)]])
                answer = await self.service.value(exchange, predictor, rows)
                self.ids.append((answer.ids[0], PRICES[i % len(INPUTS)]))
                answered.append(answer.predictor.version)
            return answered

        self.ids: list[tuple[str, float]] = []
        return asyncio.run(send())

    def tell_outcomes(self) -> None:
        with Database.open(self.url) as database:
            RecordStore(database).add_outcomes(
                [Outcome(key, price, clock.seconds()) for key, price in self.ids]
            )


@contextmanager
def served(tmp_path: Path, champion, challenger, settings=FAST) -> Iterator[Server]:
    server = Server(f"sqlite:///{tmp_path}/tasador.db", champion, challenger, settings)
    server.writer.start()
    server.canary.start()
    try:
        yield server
    finally:
        server.canary.stop()
        server.writer.close()


def begin(server: Server, champion, challenger, stage: int = 0, **rules) -> ExperimentBook:
    database = Database.open(server.url)
    book = ExperimentBook(database, "houses_model")
    now = time.time()
    plain = {"stages": (0.0, 0.5, 1.0), "min_rows": 40, "min_outcomes": 30, **rules}
    experiment = Experiment("e", champion.version, challenger.version, "2", "running", stage, now,
                            now, "", Criteria(**plain))  # fmt: skip
    assert book.write(experiment, 0, "ana")
    return book


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def standing(book: ExperimentBook) -> Experiment:
    found, _ = book.read()
    assert found is not None
    return found


def records(url: str, variant: str):
    with Database.open(url) as database:
        store = RecordStore(database)
        return [
            (batch.id[i], batch.version[i])
            for batch in store.read(0, 1e12, variant=variant)
            for i in range(len(batch))
        ]


def test_without_an_experiment_the_champion_answers_and_nothing_is_in_the_way(bundles, tmp_path):
    with served(tmp_path, bundles["champion"], bundles["good"]) as server:
        time.sleep(0.1)
        assert server.service.canary is None
        assert set(server.ask(5)) == {bundles["champion"].version}
        assert server.loads == 0


def test_a_shadow_changes_no_answer_and_is_recorded_beside_it(bundles, tmp_path):
    champion, good = bundles["champion"], bundles["good"]
    with served(tmp_path, champion, good) as server:
        begin(server, champion, good, min_rows=10_000)
        wait_for(lambda: server.service.canary is not None)
        assert set(server.ask(30)) == {champion.version}
        wait_for(lambda: len(records(server.url, "shadow")) == 30)
        shadow = records(server.url, "shadow")
        assert {version for _, version in shadow} == {good.version}
        assert {key for key, _ in shadow} == {f"{key}-s" for key, _ in server.ids}


def test_a_good_challenger_passes_every_stage_on_outcomes(bundles, tmp_path):
    champion, good = bundles["champion"], bundles["good"]
    with served(tmp_path, champion, good) as server:
        book = begin(server, champion, good, require_outcomes=True, error_margin=0.05)
        wait_for(lambda: server.service.canary is not None)
        sent, shares = 0, set()
        while standing(book).status == "running" and sent < 5000:
            answered = server.ask(60, start=sent)
            shares.add(round(answered.count(good.version) / 60, 1))
            server.tell_outcomes()
            sent += 60
            time.sleep(0.05)
        assert standing(book).status == "passed", standing(book)
        assert min(shares) == 0.0
        wait_for(lambda: server.canary.running is not None and server.canary.running.share == 1)
        assert set(server.ask(20, start=sent)) == {good.version}
        assert ("challenger", good.version) in {
            (variant, version)
            for variant in ("challenger",)
            for _, version in records(server.url, variant)
        }


@pytest.fixture
def move_clock() -> Iterator[Callable[[float], None]]:
    """Set the clock forward or back by seconds."""
    yield lambda jump: clock.use_source(lambda: time.time() + jump)
    clock.use_source(None)


@pytest.mark.parametrize("jump", [0.0, -3600.0, 86_400.0])
def test_a_bad_challenger_rolls_back_by_itself_on_outcomes_whatever_the_clock_does(
    bundles, tmp_path, move_clock, jump
):
    champion, bad = bundles["champion"], bundles["bad"]
    with served(tmp_path, champion, bad) as server:
        book = begin(server, champion, bad, stage=1, min_rows=10_000)
        wait_for(lambda: server.service.canary is not None)
        move_clock(jump)
        sent = 0
        while standing(book).status == "running":
            assert sent < 2000
            server.ask(60, start=sent)
            server.tell_outcomes()
            sent += 60
            time.sleep(0.05)
        ended = standing(book)
        assert ended.status == "rolled back"
        assert "its relative error is larger by" in ended.reason
        wait_for(lambda: server.service.canary is None)
        assert set(server.ask(20, start=sent)) == {champion.version}


def test_a_challenger_that_fails_answers_nobody_with_an_error_and_is_gone_after_three(
    bundles, tmp_path
):
    champion = bundles["champion"]
    good = bundles["good"]
    broken = dataclasses.replace(good, model=Breaks(good.model, 200))
    with served(tmp_path, champion, broken) as server:
        # so small a chance of error that the sequential test cannot be first
        book = begin(server, champion, good, stage=2, min_rows=10_000, alpha=1e-300)
        wait_for(lambda: server.service.canary is not None)
        broken.model._left = 0
        answered = server.ask(50)
        assert set(answered) == {champion.version}  # every request was answered
        wait_for(lambda: standing(book).status == "rolled back")
        assert standing(book).reason == "3 valuations in a row failed in one server"
        with Database.open(server.url) as database:
            tallies = ExperimentBook(database, "houses_model").tallies("e")
        assert sum(t["failures"] for t in tallies) == 3


def test_a_database_that_fails_is_not_the_challenger_s_failure(bundles, tmp_path, monkeypatch):
    champion, good = bundles["champion"], bundles["good"]
    with served(tmp_path, champion, good) as server:
        begin(server, champion, good, stage=2, min_rows=10_000)
        wait_for(lambda: server.service.canary is not None)
        recorder, submit = server.service.batcher._recorder, server.writer.submit
        failed = []

        def fails_once(records):
            if not failed:
                failed.append(records)
                raise StorageError("the disk is full")
            return submit(records)

        monkeypatch.setattr(recorder, "submit", fails_once)
        assert server.ask(1) == [champion.version]
        assert server.ask(3, start=1) == [good.version] * 3
        assert len(failed) == 1
        assert server.canary._counts.to_dict()["failures"] == 0


def test_a_challenger_that_is_not_ready_gets_no_request(bundles, tmp_path):
    champion, good, bad = (bundles[name] for name in ("champion", "good", "bad"))
    with served(tmp_path, champion, None) as server:
        begin(server, champion, good, stage=2)
        wait_for(lambda: server.loads > 1)
        assert set(server.ask(10)) == {champion.version}
        assert server.service.canary is None
    other = tmp_path / "other"
    other.mkdir()
    with served(other, champion, bad) as server:  # the alias moved on meanwhile
        begin(server, champion, good, stage=2)
        wait_for(lambda: server.loads > 1)
        assert set(server.ask(10)) == {champion.version}


def test_who_asks_for_a_version_gets_it(bundles, tmp_path):
    champion, good = bundles["champion"], bundles["good"]
    with served(tmp_path, champion, good) as server:
        begin(server, champion, good, stage=2, min_rows=10_000)
        wait_for(lambda: server.service.canary is not None)
        asked = server.ask(5, query=f"model_version={champion.version}".encode())
        assert set(asked) == {champion.version}
        assert set(server.ask(5, path="/v2/models/m/versions/1/infer")) == {champion.version}
        assert set(server.ask(5)) == {good.version}


def test_the_challenger_leaves_memory_when_its_experiment_ends(bundles, tmp_path):
    champion, good = bundles["champion"], bundles["good"]
    loaded = []

    def load():
        bundle = load_bundle(good.folder)
        loaded.append(weakref.ref(bundle))
        return bundle

    with served(tmp_path, champion, load) as server:
        book = begin(server, champion, good, min_rows=10_000)
        wait_for(lambda: server.service.canary is not None)
        server.ask(5)  # valued by both, the second time in a thread
        wait_for(lambda: len(records(server.url, "shadow")) == 5)
        _, seen = book.read()
        assert book.write(dataclasses.replace(standing(book), status="stopped"), seen, "ana")
        wait_for(lambda: loaded[0]() is None)


def test_a_champion_that_changes_ends_the_experiment(bundles, tmp_path):
    champion, good, bad = (bundles[name] for name in ("champion", "good", "bad"))
    with served(tmp_path, champion, good) as server:
        book = begin(server, champion, good, stage=1, min_rows=10_000)
        wait_for(lambda: server.service.canary is not None)
        server.slot.swap(LoadedModel(bad, "local", "c", 0.0))
        wait_for(lambda: standing(book).status == "stopped")
        assert f"the champion became {bad.version}" in standing(book).reason
        assert set(server.ask(5)) == {bad.version}


def test_two_servers_share_one_experiment_and_one_rollback(bundles, tmp_path):
    champion, bad = bundles["champion"], bundles["bad"]
    with (
        served(tmp_path, champion, bad) as one,
        served(tmp_path, champion, bad) as two,
    ):
        book = begin(one, champion, bad, stage=1, min_rows=10_000)
        wait_for(lambda: one.service.canary is not None and two.service.canary is not None)
        sent = 0
        while standing(book).status == "running":
            assert sent < 2000
            for server in (one, two):
                server.ask(40, start=sent)
                server.tell_outcomes()
                sent += 40
            time.sleep(0.05)
        assert standing(book).status == "rolled back"
        wait_for(lambda: one.service.canary is None and two.service.canary is None)
        with Database.open(one.url) as database:
            entries = AuditTrail(database).read(action="canary")
        assert [e.details["phase"] for e in entries].count("rolled back") == 1


def test_a_server_whose_lease_ran_out_leads_no_longer_once_another_does(bundles, tmp_path):
    champion, good = bundles["champion"], bundles["good"]
    url = f"sqlite:///{tmp_path}/tasador.db"
    patient = dataclasses.replace(FAST, poll_s=5.0)
    slow, quick = (Server(url, champion, good, settings) for settings in (FAST, patient))
    with Database.open(url) as database:
        book = ExperimentBook(database, "houses_model")
        assert slow.canary._leads(book)
        assert not quick.canary._leads(book)
        wait_for(lambda: quick.canary._leads(book))  # a lease of 80 ms that nobody renews
        assert not slow.canary._leads(book)
        assert quick.canary._leads(book)


def test_the_share_is_stable_grows_without_changing_sides_and_may_go_by_client():
    plain = Experiment(
        "e", "a", "b", "2", "running", 1, 0.0, 0.0, "", Criteria(stages=(0.0, 0.2, 0.6))
    )
    larger = dataclasses.replace(plain, stage=2)

    def exchange(i: int, client: str = "c") -> Exchange:
        return Exchange("POST", "/", {}, f"r{i}", 0.0, client=client)

    few = {i for i in range(4000) if _chosen(plain, exchange(i))}
    many = {i for i in range(4000) if _chosen(larger, exchange(i))}
    assert few < many
    assert np.isclose(len(few) / 4000, 0.2, atol=0.03)
    assert np.isclose(len(many) / 4000, 0.6, atol=0.03)
    by_client = dataclasses.replace(
        plain, rules=dataclasses.replace(plain.rules, by="client"), stage=2
    )
    for client in ("x", "y", "z"):
        assert len({_chosen(by_client, exchange(i, client)) for i in range(20)}) == 1
    assert not _chosen(dataclasses.replace(plain, stage=0), exchange(1))


def test_a_server_that_hears_nothing_of_the_database_sends_the_challenger_nothing(
    bundles, tmp_path
):
    champion, good = bundles["champion"], bundles["good"]
    settings = dataclasses.replace(FAST, deaf_s=0.1)
    with served(tmp_path, champion, good, settings) as server:
        begin(server, champion, good, stage=2, min_rows=10_000)
        wait_for(lambda: server.service.canary is not None)

        def away(*_):
            raise RegistryError("the database is away")

        server.canary._round = away
        wait_for(lambda: server.service.canary is None)
        assert set(server.ask(5)) == {champion.version}
