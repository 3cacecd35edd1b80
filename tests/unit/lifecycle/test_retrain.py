"""Retrain and reproduce with the real pipeline, a real registry and a real database."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import orjson
import polars as pl
import pytest

from fixtures.command_line import run_here
from fixtures.houses import houses
from fixtures.process import coverage_paused, made_once
from tasador.cli.app import app
from tasador.core import clock
from tasador.core.errors import ConfigError, GateError, RegistryError, TrainingError
from tasador.data.sources import store_frame
from tasador.lifecycle import canary
from tasador.lifecycle import retrain as module
from tasador.lifecycle.alias_updates import Ledger
from tasador.lifecycle.api import Place, opened
from tasador.lifecycle.first_champion import train
from tasador.lifecycle.gate_evaluation import held_out_rows
from tasador.lifecycle.promote import PromotionRequest, promote
from tasador.lifecycle.reproduce import reproduce
from tasador.lifecycle.retrain import RetrainRequest, reconcile, retrain
from tasador.records.audit_log import Verdicts
from tasador.records.record import Outcome, Record
from tasador.records.shared_state import Leases
from tasador.records.store import RecordStore
from tasador.registry.model_bundle import load_bundle
from tasador.serving.experiment import Criteria, ExperimentBook
from tasador.settings.run import (
    FeatureSettings,
    GateSettings,
    ImputationSettings,
    RegisterSettings,
    RetrainSettings,
    RunSettings,
    SegregateSettings,
    SelectionSettings,
    StorageSettings,
    SweepSettings,
)
from tasador.training.context import StoredTable

N = 1500
pytestmark = pytest.mark.usefixtures("quick_pictures")
RELAXED = GateSettings(
    error_margin=0.3, within_margin=15.0, segment_limit=0.5, min_rows=50, coverage_slack=0.1,
    prb_slack=0.2, prd_slack=0.2, latency_ms=1000.0, latency_factor=1000.0, draws=500,
)  # fmt: skip


def settings(contract, workspace: Path) -> RunSettings:
    return RunSettings(
        contract=contract,
        segregate=SegregateSettings(min_rows=50),
        impute=ImputationSettings(strategy="median", min_gap_share=1.0),
        features=FeatureSettings(clusters=0, cross_fit_folds=3),
        selection=SelectionSettings(
            families={"lightgbm": {"n_estimators": [60], "num_leaves": [15]}}, folds=2
        ),
        sweep=SweepSettings(trials=0, folds=2, slowdown=1.0),
        register=RegisterSettings(spatial_folds=2, parity_rows=500, bootstrap_draws=20, average=1),
        storage=StorageSettings(str(workspace)),
    )


@pytest.fixture(scope="module")
def trained(house_contract, template_database, quick_pictures, tmp_path_factory) -> Path:
    """A workspace with one version, trained by the pipeline and promoted."""

    def make(workspace: Path) -> None:
        shutil.copy(template_database, workspace / "mlflow.db")
        table = StoredTable(store_frame(houses(N), workspace / "data"), "real", "houses")
        with coverage_paused():
            train(settings(house_contract, workspace), None, table)
        with opened(Place(workspace, actor="ana")) as lifecycle:
            promote(lifecycle, PromotionRequest("1"), settings=RELAXED)

    return made_once(tmp_path_factory, "retrained", make)


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Path:
    """A copy of it; artifacts stay where they are."""
    for name in ("mlflow.db", "tasador.db"):
        shutil.copy(trained / name, tmp_path / name)
    for name in ("data", "cache", "bundles"):
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


def record(lifecycle, frame: pl.DataFrame, clients: int = 4, name: str = "p") -> None:
    """Record estimates of half a day ago and what became of them."""
    store = RecordStore(lifecycle.ledger.database)
    rows = frame.to_dicts()
    ids = [f"{name}{i:06d}" for i in range(len(rows))]
    store.append(
        [
            Record(
                ids[i], 1e9 + i, "v", "champion", "local",
                orjson.dumps({k: v for k, v in row.items() if k != "price"}),
                1.0, 0.5, 2.0, 0.9, 1.0, f"client {i % clients}",
            )
            for i, row in enumerate(rows)
        ]
    )  # fmt: skip
    store.add_outcomes([Outcome(ids[i], row["price"], 1e9 + i) for i, row in enumerate(rows)])


def phases(lifecycle):
    return [e.details["phase"] for e in reversed(lifecycle.history(100)) if e.action == "retrain"]


def request(**changes) -> RetrainRequest:
    plain = RetrainRequest(
        manual="prices rose", alias="champion", gates=RELAXED,
        settings=RetrainSettings(max_new_share=0.8),
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


@pytest.mark.no_cover
def test_a_model_is_retrained_on_outcomes_and_is_better_on_the_new_market(workspace):
    with opened(Place(workspace, actor="ana")) as lifecycle:
        record(lifecycle, houses(3000, seed=20, inflation=1.4))
        before = lifecycle.champion()
        decided = retrain(lifecycle, request(dry_run=True))
        assert decided.decision.retrain
        assert decided.version is None
        assert lifecycle.champion() == before
        assert phases(lifecycle) == []
        done = retrain(lifecycle, request())
        assert done.usable > 2900
        after = lifecycle.champion()
        assert after is not None
        assert after.number == done.version == "2"
        assert after.tags["data_hash"] == done.table
        assert phases(lifecycle) == ["intent", "done"]
        market = houses(300, seed=21, inflation=1.4)
        errors = []
        for version in ("1", "2"):
            lifecycle.versions.fetch(version, workspace / f"fetched{version}")
            bundle = load_bundle(workspace / f"fetched{version}")
            columns = {n: market[n].to_list() for n in bundle.contract.feature_names}
            actual = market["price"].to_numpy()
            errors.append(float(np.mean(np.abs(bundle.predict_columns(columns) / actual - 1))))
        assert errors[1] < 0.6 * errors[0]
        again = reproduce(lifecycle, "2")
        assert again.identical
        assert again.rebuilt == again.version == after.bundle
        assert again.missing == ()


def test_without_a_reason_nothing_is_trained_and_nothing_is_written(workspace):
    with opened(Place(workspace, actor="ana")) as lifecycle:
        record(lifecycle, houses(300, seed=20))
        done = retrain(lifecycle, request(manual=None))
        assert not done.decision.retrain
        assert phases(lifecycle) == []


def test_a_retrain_that_fails_leaves_the_champion_and_says_why(workspace, monkeypatch):
    def broken(*_):
        raise TrainingError("nothing could be fitted")

    monkeypatch.setattr(module, "train", broken)
    with opened(Place(workspace, actor="ana")) as lifecycle:
        record(lifecycle, houses(300, seed=20))
        with pytest.raises(TrainingError, match="nothing could be fitted"):
            retrain(lifecycle, request())
        champion = lifecycle.champion()
        assert champion is not None
        assert champion.number == "1"
        newest = lifecycle.history(1)[0]
        assert (newest.action, newest.details["phase"]) == ("retrain", "failed")
        assert newest.details["note"] == "nothing could be fitted"
        held = retrain(lifecycle, request(manual=None, settings=RetrainSettings(new_outcomes=100)))
        assert not held.decision.retrain
        assert "cool-down" in held.decision.obstacles[0]


@pytest.mark.no_cover
def test_a_retrained_model_that_does_not_pass_the_gates_gets_no_place(workspace):
    strict = dataclasses.replace(RELAXED, error_margin=-0.9)
    with opened(Place(workspace, actor="ana")) as lifecycle:
        record(lifecycle, houses(300, seed=20))
        with pytest.raises(GateError, match="version 2 is not promoted to challenger"):
            retrain(lifecycle, request(alias="challenger", gates=strict))
        assert lifecycle.versions.aliases() == {"champion": "1", "staging": "2"}
        assert phases(lifecycle) == ["intent", "failed"]


def no_training(*_):
    raise AssertionError("nothing may be trained")


def gates_check(done):
    return next(one for one in done.decision.checks if one.name == "rows for the gates")


@pytest.mark.no_cover
def test_with_too_few_rows_for_the_gates_nothing_is_trained_and_nothing_cools_down(
    workspace, house_contract
):
    strict = dataclasses.replace(RELAXED, min_rows=200)
    policy = RetrainSettings(max_new_share=0.8, new_outcomes=300)
    asked = request(manual=None, alias="challenger", gates=strict, settings=policy)
    plain = dataclasses.replace(
        settings(house_contract, workspace), gates=strict, retraining=policy
    )
    with opened(Place(workspace, actor="watch")) as lifecycle:
        record(lifecycle, houses(400, seed=20, inflation=1.4))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "train", no_training)
            for _ in range(2):
                held = retrain(lifecycle, asked)
                assert held.decision.triggers
                assert held.version is None
                (obstacle,) = held.decision.obstacles
                assert "at least 200 are needed by the gates" in obstacle
        assert 40 < gates_check(held).value < 120  # new ones only: prices were brought to a level
        assert phases(lifecycle) == []
        (said,) = reconcile(lifecycle.place, plain)
        assert "not retrained although" in said
        assert "at least 200 are needed by the gates" in said
        record(lifecycle, houses(1200, seed=21, inflation=1.4), name="q")
        done = retrain(lifecycle, asked)  # at once: what was refused before was no training
        assert done.version == "2"
        assert phases(lifecycle) == ["intent", "done"]
        held = retrain(lifecycle, asked)
        assert "cool-down" in held.decision.obstacles[0]


@pytest.mark.no_cover
def test_what_is_counted_before_a_training_is_what_the_gates_get_after_it(workspace):
    with opened(Place(workspace, actor="ana")) as lifecycle:
        record(lifecycle, houses(700, seed=20))
        done = retrain(lifecycle, request(alias="challenger"))
        assert done.version is not None
        counted = gates_check(done).value
        bundles = []
        for number in (done.version, "1"):
            lifecycle.versions.fetch(number, workspace / f"fetched{number}")
            bundles.append(load_bundle(workspace / f"fetched{number}"))
        rows = held_out_rows(*bundles, workspace / "data")
        assert not isinstance(rows, str)
        assert len(rows.actual) == counted
        assert counted > 300 + 100  # all of the champion's test rows, and the new ones'
        assert "0 of them among the champion's training rows" in rows.note


@pytest.mark.no_cover
def test_a_champion_of_a_random_split_leaves_rows_to_compare_its_successor_on(
    house_contract, tmp_path
):
    plain = settings(house_contract, tmp_path)
    content_hash = store_frame(houses(N), tmp_path / "data")
    split = dataclasses.replace(plain.segregate, method="random")
    given = StoredTable(content_hash, "real", "houses")
    train(dataclasses.replace(plain, segregate=split), None, given)
    with opened(Place(tmp_path, actor="ana")) as lifecycle:
        promote(lifecycle, PromotionRequest("1"), settings=RELAXED)
        record(lifecycle, houses(400, seed=20))
        done = retrain(lifecycle, request(alias="challenger"))
        assert gates_check(done).value > 100
        assert lifecycle.versions.aliases()["challenger"] == done.version
        lifecycle.versions.fetch("2", tmp_path / "fetched")
        lineage = load_bundle(tmp_path / "fetched").manifest.lineage
        assert lineage["config"]["segregate"]["method"] == "row_hash"


def test_an_interrupted_training_may_be_begun_again_at_once(workspace, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    policy = RetrainSettings(max_new_share=0.8, new_outcomes=100)
    asked = request(manual=None, settings=policy)
    with opened(Place(workspace, actor="watch")) as lifecycle:
        record(lifecycle, houses(400, seed=20))
        monkeypatch.setattr(module, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            retrain(lifecycle, asked)
        assert phases(lifecycle) == ["intent", "interrupted"]
        assert retrain(lifecycle, dataclasses.replace(asked, dry_run=True)).decision.retrain


class Killed(BaseException):
    """Ends the work before anything more is noted or given back, as kill -9 does."""


def killed(patch: pytest.MonkeyPatch) -> NoReturn:
    patch.setattr(Ledger, "note", lambda *_, **__: None)
    patch.setattr(Leases, "release", lambda *_: None)
    raise Killed


def die(work: Callable[[], object], where: object, name: str, first=lambda *_, **__: None) -> None:
    """Do `work` up to the call of `name`, in place of which `first` is done and the work killed."""
    with pytest.MonkeyPatch.context() as patch:

        def last(*args: Any, **more: Any) -> None:
            first(*args, **more)
            killed(patch)

        patch.setattr(where, name, last)
        with pytest.raises(Killed):
            work()


def test_a_training_that_was_killed_costs_no_cool_down_but_budget(workspace):
    policy = RetrainSettings(max_new_share=0.8, new_outcomes=100, budget=2)
    asked = request(manual=None, settings=policy)
    look = dataclasses.replace(asked, dry_run=True)
    with opened(Place(workspace, actor="watch")) as lifecycle:
        record(lifecycle, houses(400, seed=20))

        def cut_off() -> None:
            die(lambda: retrain(lifecycle, asked), module, "train")
            lifecycle.ledger.database.execute("UPDATE leases SET expires = expires - 3600")

        cut_off()
        assert phases(lifecycle) == ["intent"]
        assert retrain(lifecycle, look).decision.retrain
        assert phases(lifecycle) == ["intent"]  # a dry run notes nothing
        with lifecycle.ledger.busy("retrain", "eva"):  # one is under way, for all that is known
            assert "cool-down" in retrain(lifecycle, look).decision.obstacles[0]
        cut_off()
        assert phases(lifecycle) == ["intent", "aborted", "intent"]
        (obstacle,) = retrain(lifecycle, look).decision.obstacles
        assert obstacle == "2 attempts in 30 days (budget 2)"  # no loop of trainings that die


@pytest.mark.parametrize("last", ["the promotion", "the end"])
def test_a_challenger_whose_watcher_was_killed_gets_its_canary_from_the_next_one(
    workspace, house_contract, last
):
    plain = dataclasses.replace(
        settings(house_contract, workspace),
        gates=RELAXED,
        retraining=RetrainSettings(new_outcomes=250, max_new_share=0.8),
    )
    place = Place(workspace, actor="watch")
    with opened(place) as lifecycle:
        record(lifecycle, houses(300, seed=20))

        def work() -> list[str]:
            return reconcile(place, plain)

        if last == "the end":
            die(work, canary, "start")
        else:
            die(work, module, "promote", promote)
        lifecycle.ledger.database.execute("UPDATE leases SET expires = expires - 3600")
        noted = ["intent", "done"]
        assert phases(lifecycle) == (noted if last == "the end" else noted[:1])
        assert canary.status(lifecycle) is None
        # the challenger of another is not hers to begin with, and the cool-down runs
        assert reconcile(dataclasses.replace(place, actor="ana"), plain) == []
        assert canary.status(lifecycle) is None
        (said,) = reconcile(place, plain)
        assert said == "version 2 was retrained before: canary begun"
        assert phases(lifecycle) == noted
        running = canary.status(lifecycle)
        assert running is not None
        assert running.experiment.number == "2"
        canary.stop(lifecycle, "a person looks at it")
        assert reconcile(place, plain) == []  # and is not begun against their will
        assert canary.status(lifecycle).experiment.status == "stopped"


def test_a_watcher_that_is_stopped_while_it_trains_ends_at_once_and_notes_it(workspace):
    with opened(Place(workspace, actor="ana")) as lifecycle:
        record(lifecycle, houses(400, seed=20))
        command = [
            sys.executable, "-m", "tasador.cli.app", "watch", "--retrain", "--interval", "1",
            "--workspace", str(workspace), "--set", "retraining.new_outcomes=250",
            "--set", "retraining.max_new_share=0.8",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            end = time.monotonic() + 90
            while phases(lifecycle) != ["intent"]:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < end
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
        assert process.returncode == 0, said
        assert "interrupted: the champion is as it was" in said
        assert "Traceback" not in said
        assert phases(lifecycle) == ["intent", "interrupted"]
        assert lifecycle.versions.aliases()["champion"] == "1"


@pytest.mark.no_cover
def test_looks_at_the_same_rows_are_one_window_and_the_exit_code_says_what_would_happen(
    workspace,
):
    words = ("retrain", "--dry-run", "--workspace", str(workspace), "--set", "gates.min_rows=50")

    def dry_run(*more: str) -> tuple[int, str]:
        code, out, err = run_here(workspace, *words, *more)
        assert err == ""
        return code, out

    body = {"drift": [{"name": name, "psi": 0.9, "level": "alert"} for name in ("area", "income")]}
    with opened(Place(workspace, actor="ana")) as lifecycle:
        record(lifecycle, houses(300, seed=20))
        verdicts, now = Verdicts(lifecycle.ledger.database), clock.seconds()
        for end in (-60, -30, 0):
            verdicts.add("houses_model", now + end - 600, now + end, "alert", body)
        command = [sys.executable, "-m", "tasador.cli.app", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (14, "")
        code, said = dry_run()
        assert (code, said) == (14, done.stdout)
        assert "area: PSI 0.90 in the newest windows, drift from 0.2 in 3 in a row" in said
        assert "(lacks 2 more in a row, none overlapping)" in said
        assert "decision: leave the champion as it is" in said
        for end in (-700, -1400):
            verdicts.add("houses_model", now + end - 600, now + end, "alert", body)
        code, said = dry_run()
        assert code == 0
        assert "trigger: area drifted in 3 windows in a row (PSI 0.90, 0.90, 0.90)" in said
        assert "held-out rows are known to neither model, at least 50 are needed" in said
        assert "decision: retrain" in said
        code, said = dry_run("--set", "gates.min_rows=5000")
        assert code == 15
        assert "obstacle: " in said
        assert "at least 5000 are needed by the gates" in said
        assert phases(lifecycle) == []


def test_of_two_retrainings_at_once_one_is_refused(workspace):
    with opened(Place(workspace, actor="ana")) as lifecycle:
        with (
            lifecycle.ledger.busy("retrain", "eva"),
            pytest.raises(RegistryError, match=r"retrain of houses_model is under way: eva"),
        ):
            retrain(lifecycle, request())
        with lifecycle.ledger.busy("retrain", "eva"):
            assert retrain(lifecycle, request(dry_run=True)).version is None


def test_a_retraining_that_was_taken_over_meanwhile_promotes_nothing(workspace):
    with opened(Place(workspace, actor="ana")) as lifecycle:
        leases = Leases(lifecycle.ledger.database)
        with lifecycle.ledger.busy("retrain", "eva") as check:
            check()
            # the clock of the database was set forward, and somebody else came
            lifecycle.ledger.database.execute("UPDATE leases SET expires = expires - 86400")
            assert leases.acquire("retrain/houses_model", "ben", 60.0) is not None
            with pytest.raises(RegistryError, match="somebody else took over houses_model"):
                check()


def test_the_commands_say_what_they_would_do(workspace, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> str:
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(workspace)
            app([*words, "--workspace", str(workspace)], standalone_mode=False)
        return capsys.readouterr().out

    said = call("retrain", "--dry-run")
    assert "0 usable new rows" in said
    assert "decision: leave the champion as it is" in said
    said = call("retrain", "--dry-run", "--now", "--reason", "x", "--set",
                "retraining.min_new_rows=1")  # fmt: skip
    assert "obstacle: 0 usable new rows, at least 1 are needed" in said
    assert "identical on" in call("reproduce", "champion")
    assert json.loads(call("history", "--json"))[0]["action"] == "promote"


def test_a_version_whose_table_is_gone_cannot_be_reproduced_and_names_it(workspace):
    with opened(Place(workspace, actor="ana")) as lifecycle:
        for table in (workspace / "data").glob("*.parquet"):
            table.unlink()
        found = reproduce(lifecycle, "1")
        assert not found.identical
        assert found.rebuilt is None
        assert "the table" in found.missing[0]
        assert "was not found" in found.missing[0]


def test_a_watched_model_is_retrained_canaried_and_promoted_step_by_step(workspace, house_contract):
    place = Place(workspace, actor="watch")
    plain = dataclasses.replace(
        settings(house_contract, workspace),
        gates=RELAXED,
        retraining=RetrainSettings(new_outcomes=250, max_new_share=0.8),
    )
    with opened(place) as lifecycle:
        assert reconcile(place, plain) == []
        record(lifecycle, houses(300, seed=20))
        said = reconcile(place, plain)
        assert "version 2 passed the gates, canary begun" in said[0]
        assert lifecycle.versions.aliases()["challenger"] == "2"
        assert "canary of version 2: 0%" in reconcile(place, plain)[0]
        book = ExperimentBook(lifecycle.ledger.database, "houses_model")
        running, seen = book.read()
        assert running is not None
        with pytest.raises(ConfigError, match="a canary of version 2 is running"):
            canary.start(lifecycle, Criteria())
        assert book.write(dataclasses.replace(running, status="passed"), seen, "canary")
        said = reconcile(place, plain)
        assert "promote of version 2" in said[0]
        assert len(said) == 1  # its rows are known now: nothing asks for another
        champion = lifecycle.champion()
        assert champion is not None
        assert champion.number == "2"
        with pytest.raises(ConfigError, match="has no challenger"):
            canary.start(lifecycle, Criteria())
        with pytest.raises(ConfigError, match="no canary is running"):
            canary.stop(lifecycle, "")
    bad = dataclasses.replace(place, model="flats")
    assert "the model is left as it is: no model 'flats'" in reconcile(bad, plain)[0]


def test_a_challenger_that_was_rolled_back_is_rejected_and_stages_are_checked(workspace):
    with opened(Place(workspace, actor="ana")) as lifecycle:
        for stages in ((), (0.5, 0.1), (0.0,), (0.0, 2.0)):
            with pytest.raises(ConfigError, match="these stages are invalid"):
                canary.start(lifecycle, Criteria(stages=stages))
        lifecycle.versions.point("challenger", "1")
        with pytest.raises(ConfigError, match="are the same bundle"):
            canary.start(lifecycle, Criteria())
        assert canary.status(lifecycle) is None
        assert canary.settle(lifecycle) is None


def test_without_a_champion_there_is_nothing_to_retrain(workspace):
    with opened(Place(workspace, actor="ana")) as lifecycle:
        lifecycle.versions.drop("champion")
        with pytest.raises(ConfigError, match="has no champion to retrain"):
            retrain(lifecycle)
