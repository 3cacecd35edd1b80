"""A service in use: rows replayed, the world changed, outcomes late, and what is made of it."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import hmac
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fixtures.process import Server, free_port
from fixtures.receiver import Receiver
from fixtures.wandb_files import runs_of
from tasador.cli.app import app
from tasador.contract.encoding import Encoder
from tasador.core.errors import ConfigError, ServingError
from tasador.monitoring.alerts import AlertRule
from tasador.monitoring.notifications import RouteSettings
from tasador.monitoring.reference import build_reference
from tasador.monitoring.settings import WatchSettings
from tasador.ops.api_client import ApiClient
from tasador.ops.monitor_daemon import Watcher
from tasador.ops.simulate import SCENARIOS, Simulation, scenario, simulate
from tasador.records.audit_log import Verdicts
from tasador.records.database import Database
from tasador.registry.model_bundle import load_bundle
from tasador.registry.writer import write_bundle
from tasador.settings.serving import SourceSettings

ROWS = 400


@pytest.fixture(scope="module")
def watched(bundle_parts, house_rows, tmp_path_factory) -> Path:
    """A bundle that ships what monitoring compares with."""
    import dataclasses

    X, price = house_rows
    folder = tmp_path_factory.mktemp("watched") / "houses"
    first = write_bundle(folder, bundle_parts)
    reference = build_reference(
        first.contract.features, X, prediction=first.predict(X), actual=price, log=True
    )
    write_bundle(folder, dataclasses.replace(bundle_parts, reference=reference.state()))
    return folder


@pytest.fixture(scope="module")
def table(house_contract, house_rows, tmp_path_factory) -> str:
    """The houses as a CSV file."""
    X, price = house_rows
    file = tmp_path_factory.mktemp("table") / "houses.csv"
    columns = Encoder(house_contract).decode(X)
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow([*columns, "price"])
        writer.writerows(zip(*columns.values(), price.tolist(), strict=True))
    return str(file)


@pytest.fixture(scope="module")
def server(watched, tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("service"), watched, free_port())
    found.start()
    found.wait()
    yield found
    found.end()


def watcher(server: Server, **changes: object) -> Watcher:
    rules = (
        AlertRule("performance", ("performance",), after=1, clear_after=1),
        AlertRule("drift", ("drift",), after=1, clear_after=1),
    )
    settings = WatchSettings(**{"window_s": 3600.0, "alerts": rules, **changes})  # type: ignore[arg-type]
    return Watcher(settings, SourceSettings(local=str(server.bundle)), server.records_url)


@pytest.mark.no_cover
def test_drift_and_worse_answers_raise_alerts_that_end_when_the_world_is_back(
    server, table
) -> None:
    from tasador.core import clock

    client = ApiClient(server.url)
    watching = watcher(server)
    try:
        (usual,) = simulate(
            Simulation("inflation", rows=ROWS, phases=("usual",)), client, table=table
        )
        assert (usual.asked, usual.outcomes) == (ROWS, ROWS)
        first = watching.round()
        assert first.verdict is not None
        assert first.verdict.rows == ROWS
        assert not [key for key, state in first.changes if state == "firing"]

        after = clock.seconds()
        (changed,) = simulate(
            Simulation("inflation", rows=ROWS, phases=("changed",)), client, table=table
        )
        assert changed.mape > 1.5 * usual.mape
        watching.settings = narrowed(watching.settings, clock.seconds() - after)
        second = watching.round()
        assert second.verdict is not None
        assert second.verdict.level == "alert"
        firing = [key for key, state in second.changes if state == "firing"]
        assert "houses_model/performance/performance:mape" in firing

        after = clock.seconds()
        (back,) = simulate(
            Simulation("inflation", rows=ROWS, phases=("recovered",)), client, table=table
        )
        watching.settings = narrowed(watching.settings, clock.seconds() - after)
        third = watching.round()
        assert ("houses_model/performance/performance:mape", "ok") in third.changes
        assert back.mape == pytest.approx(usual.mape, rel=0.2)
    finally:
        watching.close()
    with Database.open(server.records_url) as database:
        kept = Verdicts(database).read("houses_model")
    assert [one.level == "alert" for one in kept] == [False, True, False]


def narrowed(settings: WatchSettings, seconds: float) -> WatchSettings:
    from dataclasses import replace

    return replace(settings, window_s=seconds)


@pytest.mark.no_cover
def test_a_second_watcher_waits_and_takes_over(server) -> None:
    first, second = watcher(server), watcher(server)
    try:
        assert first.round().leads
        assert not second.round().leads
        first.close()
        assert second.round().leads
    finally:
        first.close()
        second.close()


def test_a_watcher_goes_on_after_a_round_that_failed(server, tmp_path) -> None:
    watching = watcher(server, interval_s=0.05)
    watching._database = Database(f"sqlite:///{tmp_path}/missing/folder/x.db")
    seen = []

    def tell(found) -> None:
        seen.append(found)
        if len(seen) == 2:
            watching.stop()

    (tmp_path / "missing").write_text("a file where a folder should be")
    thread = threading.Thread(target=watching.run, args=(tell,))
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert len(seen) == 2
    assert seen[0].verdict is None
    assert "cannot be used" in seen[0].problems[0]


def test_prometheus_reads_the_last_verdict(server, table) -> None:
    import httpx

    client, port = ApiClient(server.url), free_port()
    simulate(Simulation("missing-feed", rows=ROWS, phases=("changed",)), client, table=table)
    watching = watcher(server, metrics_port=port, interval_s=3600.0)
    done = threading.Event()
    thread = threading.Thread(target=watching.run, args=(lambda _: done.set(),))
    thread.start()
    assert done.wait(60)
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    watching._stop.set()
    thread.join(10)
    assert 'tasador_verdict_level{check="all"}' in text
    assert 'tasador_drift_psi{column="rooms"}' in text
    assert "tasador_alert_firing" in text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    for name in ("within_10", "within_20", "mape", "psi", "latency_p50", "latency_p99"):
        assert float(values[f'tasador_indicator{{name="{name}"}}']) >= 0
        assert values[f'tasador_indicator_level{{name="{name}"}}'] in ("0.0", "2.0", "3.0")
    low, middle, high = (
        float(values[f"tasador_prediction_{name}"]) for name in ("min", "median", "max")
    )
    assert low < middle < high
    assert 0 < float(values["tasador_prediction_std"]) < high - low
    low, mean, high = (
        float(values[f'tasador_input_{name}{{column="area"}}']) for name in ("p05", "mean", "p95")
    )
    assert low < mean < high
    assert values["tasador_alert_routes"] == "0.0"


@pytest.mark.no_cover
def test_the_service_says_whom_the_watchers_notices_reach(server) -> None:
    client = ApiClient(server.url)
    for routes, reach in (
        ({}, []),
        ({"ops": RouteSettings("webhook", "http://127.0.0.1:1/secret-path")}, ["ops"]),
    ):
        watching = watcher(server, routes=routes)
        watching.round()
        watching.close()
        found = client.get("/api/v1/monitoring/alerts")
        assert found["reach"] == reach
        assert "secret-path" not in json.dumps(found)


def test_each_round_is_recorded_in_w_and_b_offline_with_drift_errors_and_latency(
    server, table, tmp_path, monkeypatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    simulate(
        Simulation("inflation", rows=ROWS, phases=("changed",)), ApiClient(server.url), table=table
    )
    rules = (AlertRule("performance", ("performance",), after=1, clear_after=1),)
    settings = WatchSettings(
        window_s=60.0, alerts=rules, routes={"w": RouteSettings("wandb", project="houses")}
    )
    source = SourceSettings(local=str(server.bundle))
    watching = Watcher(settings, source, server.records_url, folder=tmp_path)
    rounds = [watching.round() for _ in range(2)]
    watching.close()
    assert all(one.problems == () for one in rounds)
    (run,) = runs_of(tmp_path)
    assert (run["project"], run["job_type"]) == ("houses", "monitor")
    assert len(run["history"]) == 2
    verdict, line = rounds[0].verdict, run["history"][0]
    assert verdict is not None
    assert line["predictions/count"] == verdict.rows
    mape = next(f.value for f in verdict.figures if f.name == "mape" and not f.estimated)
    assert line["business/mape"] == pytest.approx(mape)
    for column in verdict.drift:
        assert line[f"drift/{column.name}"] == pytest.approx(column.psi)
    assert {"predictions/mean", "predictions/std", "latency/p50_ms", "latency/p95_ms",
            "latency/p99_ms", "business/within_10"} <= set(line)  # fmt: skip


def test_a_watcher_with_nothing_but_a_variable_tells_a_webhook_what_went_wrong(
    server, table, tmp_path
) -> None:
    simulate(
        Simulation("inflation", rows=ROWS, phases=("changed",)), ApiClient(server.url), table=table
    )
    with Receiver() as receiver:
        environment = {
            **os.environ,
            "TASADOR_SOURCE__LOCAL": str(server.bundle),
            "TASADOR_RECORDS__URL": f"sqlite:///{tmp_path}/own.db",
            "TASADOR_ALERTS__WEBHOOK_URL": receiver.url,
            "TASADOR_ALERTS__WEBHOOK_SECRET": "s3cret",
            "PYTHONUNBUFFERED": "1",
        }
        copied(server.records_url, tmp_path / "own.db")
        command = [sys.executable, "-m", "tasador.cli.app", "watch", "--interval", "1",
                   "--window", "60", "--workspace", str(tmp_path)]  # fmt: skip
        process = subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        end = time.monotonic() + 50
        while not any(b"performance:mape" in body for _, body in receiver.got):
            if process.poll() is not None or time.monotonic() > end:
                break
            time.sleep(0.1)
        process.terminate()
        said, _ = process.communicate(timeout=30)
    assert any(b"performance:mape" in body for _, body in receiver.got), said
    assert "alerts reach webhook" in said
    assert "secret-path" not in said
    assert "s3cret" not in said
    headers, body = next(one for one in receiver.got if b"performance:mape" in one[1])
    moment, digest = headers["x-tasador-signature"].split(",")
    signed = f"{moment.removeprefix('t=')}.".encode() + body
    assert digest == f"v1={hmac.new(b's3cret', signed, hashlib.sha256).hexdigest()}"
    assert json.loads(body)["event"] == "firing"


def copied(url: str, file: Path) -> None:
    """Copy a service's records, without what other watchers of these tests left there."""
    with (
        contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as before,
        contextlib.closing(sqlite3.connect(file)) as after,
    ):
        before.backup(after)
        for name in ("leases", "alerts"):
            after.execute(f"DELETE FROM {name}")
        after.commit()


def test_up_watch_and_doctor_say_that_alerts_reach_nobody_or_whom(tmp_path, monkeypatch) -> None:
    from tasador.ops.processes import Stack

    def run(stack: Stack, ready, stopping) -> None:
        ready()

    monkeypatch.setattr(Stack, "run", run)
    for name in list(os.environ):
        if name.startswith("TASADOR_ALERTS__"):
            monkeypatch.delenv(name)
    nobody = "alerts reach nobody: set one of TASADOR_ALERTS__SLACK_URL"
    invoke = CliRunner().invoke
    assert nobody in invoke(app, ["up", "--workspace", str(tmp_path)]).output
    assert nobody in invoke(app, ["doctor"]).output
    monkeypatch.setenv("TASADOR_ALERTS__SLACK_URL", "https://hooks.example.org/secret-path")
    for arguments in (["up", "--workspace", str(tmp_path)], ["doctor"]):
        said = invoke(app, arguments).output
        assert "alerts reach slack" in said
        assert "secret-path" not in said


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_scenario_changes_what_it_says_and_stays_acceptable(
    name, house_contract, house_rows
) -> None:
    from tasador.contract.row_check import RowCheck

    X, price = house_rows
    before = X.copy()
    changed = scenario(name)(house_contract, X, price)
    assert np.array_equal(X, before, equal_nan=True), "a scenario works on a copy"
    assert len(changed.X) == len(changed.y) > 0
    assert RowCheck(Encoder(house_contract)).accepts(changed.X).all()
    same_rows = np.array_equal(changed.X, X, equal_nan=True)
    same_values = np.array_equal(changed.y, price)
    assert (same_rows, same_values) != (True, True)
    assert changed.description


def test_an_unknown_scenario_and_one_that_is_impossible_are_named(house_contract) -> None:
    import dataclasses

    with pytest.raises(ConfigError, match=r"unknown scenario 'flood'.*inflation"):
        scenario("flood")
    full = dataclasses.replace(
        house_contract,
        columns=tuple(dataclasses.replace(c, nullable=False) for c in house_contract.columns),
    )
    with pytest.raises(ConfigError, match="may be missing"):
        scenario("missing-feed")(full, np.zeros((3, 6)), np.ones(3))


def test_a_service_that_does_not_answer_is_named() -> None:
    client = ApiClient(f"http://127.0.0.1:{free_port()}", timeout_s=2)
    with pytest.raises(ServingError, match=r"does not answer.*tasador serve"):
        client.model_info()
    with pytest.raises(ServingError, match="no address of a service"):
        ApiClient("file:///etc/passwd").model_info()


@pytest.mark.no_cover
def test_the_command_monitors_what_was_recorded(server, table, tmp_path, monkeypatch) -> None:
    simulate(
        Simulation("inflation", rows=ROWS, phases=("usual",)), ApiClient(server.url), table=table
    )
    monkeypatch.setenv("TASADOR_SOURCE__LOCAL", str(server.bundle))
    monkeypatch.setenv("TASADOR_RECORDS__URL", server.records_url)
    verdict = tmp_path / "verdict.json"
    result = CliRunner().invoke(
        app, ["monitor", "--window", "1h", "--json", str(verdict), "--quiet"]
    )
    assert result.exit_code in (0, 10), result.output
    plain = json.loads(verdict.read_text())
    assert plain["rows"] >= ROWS
    assert plain["reference"] == load_bundle(server.bundle).version


def test_alerts_are_listed_acknowledged_and_silenced_by_command(
    server, monkeypatch, tmp_path
) -> None:
    from tasador.monitoring.alerts import AlertBook
    from tasador.monitoring.verdict import Finding, Verdict

    url = f"sqlite:///{tmp_path}/alerts.db"
    monkeypatch.setenv("TASADOR_RECORDS__URL", url)
    run = CliRunner().invoke
    assert "no alert fires" in run(app, ["alerts", "list"]).output
    with Database.open(url) as database:
        book = AlertBook(database, (AlertRule("drift", ("drift",), after=1),))
        finding = Finding("drift", "income", "alert", "PSI 0.4")
        book.observe("m", Verdict("alert", 9, "m", 9, "", findings=(finding,)))
    listed = run(app, ["alerts", "list"]).output
    assert "firing" in listed
    assert "m/drift/drift:income" in listed
    assert "PSI 0.4" in listed
    assert "acknowledged: m/drift" in run(app, ["alerts", "ack", "m/*", "--by", "ana"]).output
    assert "silenced: m/drift" in run(app, ["alerts", "silence", "*", "--for", "2h"]).output
    assert "acknowledged by ana" in run(app, ["alerts", "list"]).output
    assert "no longer silent" in run(app, ["alerts", "unsilence", "*"]).output
    assert run(app, ["alerts", "ack", "nothing"]).exit_code == 1
    wrong = run(app, ["alerts", "silence", "*", "--for", "a while"])
    assert isinstance(wrong.exception, ConfigError)


def test_following_a_simulation_shows_what_the_watcher_saw(server, table) -> None:
    import threading

    from tasador.core import clock
    from tasador.ops.simulate import Witness

    client = ApiClient(server.url)
    lines: list[str] = []
    # longer than a loaded machine takes for a phase and the verdicts on it
    watching = watcher(server, interval_s=0.5, window_s=8.0)
    thread = threading.Thread(target=watching.run)
    thread.start()
    try:
        witness = Witness(client, lines.append, wait_s=30.0)
        # on a fast machine rows of earlier tests are in the window too: the changed ones prevail
        for phase, rows in (("usual", ROWS), ("changed", 4 * ROWS)):
            began = clock.seconds()
            simulate(Simulation("inflation", rows=rows, phases=(phase,)), client, table=table)
            witness.look(phase, began)
    finally:
        watching.stop()
        thread.join()
    seen = [line for line in lines if "watcher: " in line]
    assert "MAPE" in seen[0]
    assert "watcher: ALERT" in seen[1]
    assert any("ALERT since +" in line and "performance:mape" in line for line in lines), lines
