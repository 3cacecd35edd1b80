"""Outcomes that the target cannot have are refused with the reason; the others are recorded."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.process import Server, free_port
from tasador.contract.model import Target
from tasador.contract.target_check import TargetBounds, read_number
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.records.import_export import import_outcomes
from tasador.records.record import Outcome, Record
from tasador.records.shared_state import keep_target, kept_targets
from tasador.records.store import RecordStore
from tasador.serving.app import Assembly
from tasador.serving.http.auth import new_key
from tasador.settings.serving import RecordSettings, ServeSettings, SourceSettings

BOUNDS = TargetBounds(1.0, 1e6, positive=True, unit="USD")
WRONG = [-1, 0, 1e299, 2e6, 0.5]
NO_NUMBERS = [float("nan"), float("inf"), True, False, "1_000", "12", None, [1], {}]


def record(name: str, version: str = "houses_model-0123456789ab") -> Record:
    return Record(name, 1000.0, version, "champion", "local", b"{}", 5.0, 4.0, 6.0, 0.9, 1.0)


def post(client: Any, outcomes: list[Any]) -> Any:
    body = json.dumps({"outcomes": outcomes})  # Python's own, with NaN and Infinity
    return client.post(
        "/api/v1/outcomes", content=body, headers={"content-type": "application/json"}
    )


@pytest.mark.parametrize("actual", [*NO_NUMBERS, 1e299])
def test_what_is_no_number_is_named_and_the_others_are_recorded(client, running, actual) -> None:
    right = {"prediction_id": "right", "actual": 123456.0}
    answer = post(client, [right, {"prediction_id": "wrong", "actual": actual}, right])
    assert answer.status_code == 200
    found = answer.json()
    assert (found["accepted"], found["refused"]) == (2, 1)
    assert [one["status"] for one in found["results"]] == ["accepted", "invalid", "accepted"]
    assert found["results"][1]["prediction_id"] == "wrong"
    assert "actual: expected a finite number" in found["results"][1]["message"]
    alone = post(client, [{"prediction_id": "wrong", "actual": actual}])
    assert (alone.status_code, alone.json()["error"]) == (422, "invalid_outcomes")


@pytest.mark.parametrize("moment", [4_102_444_800, -1, 1.7e12, "2026-01-01", True, float("nan")])
def test_a_time_that_has_not_come_or_is_none_is_refused(client, moment) -> None:
    wrong = {"prediction_id": "wrong", "actual": 5.0, "time": moment}
    answer = post(client, [wrong, {"prediction_id": "right", "actual": 5.0}])
    assert [one["status"] for one in answer.json()["results"]] == ["invalid", "accepted"]
    assert "time: expected" in answer.json()["results"][0]["message"]


@pytest.mark.parametrize("actual", WRONG)
def test_the_store_refuses_what_a_models_target_cannot_be_whoever_sends_it(
    tmp_path, actual
) -> None:
    with Database(f"sqlite:///{tmp_path}/r.db") as database:
        store = RecordStore(database)
        store.append([record("a"), record("b"), record("c", "other_model-0123456789ab")])
        keep_target(database, "houses_model", BOUNDS)
        keep_target(database, "houses_model", BOUNDS)
        assert kept_targets(database) == {"houses_model": BOUNDS}
        sent = [Outcome("a", actual, 5000.0), Outcome("b", 7.0, 5000.0), Outcome("c", -1.0, 5000.0)]
        answers = store.add_outcomes(sent)
        # nothing is known of the other model's target
        assert [answer.status for answer in answers] == ["invalid", "accepted", "accepted"]
        assert answers[0].reason.startswith("actual: expected a number in [1, 1000000] (USD), got")
        assert store.count_outcomes(0.0, 1e12) == 2


def test_a_file_of_outcomes_is_read_as_every_table_is_and_each_wrong_row_is_named(tmp_path) -> None:
    texts = ["-1", "0", "1e299", "nan", "inf", "true", "1_000", "\uff11\uff12", "0x10", "1,5", ""]
    right = ["12", " 12 ", "+12", "1.2e1", "12.0"]
    names = [f"id{i}" for i in range(len(texts) + len(right))]
    file = tmp_path / "late.csv"
    rows = [f'{n},"{text}",' for n, text in zip(names, texts + right, strict=True)]
    dated = ["id0,12,2999-01-01", "id1,12,20261124", "id2,12,\uff11\uff17\uff16"]
    file.write_text("\n".join(["prediction_id,actual,time", *rows, *dated]), encoding="utf-8")
    with Database(f"sqlite:///{tmp_path}/r.db") as database:
        store = RecordStore(database)
        store.append([record(name) for name in names])
        keep_target(database, "houses_model", BOUNDS)
        done = import_outcomes(store, file)
        assert done.counts == {"accepted": len(right), "invalid": len(texts) + 3}
        said = {problem.line: problem.reason for problem in done.problems}
        assert set(said) == {*range(2, len(texts) + 2), *range(len(names) + 2, len(names) + 5)}
        assert said[2] == "actual: expected a number in [1, 1000000] (USD), got -1.0"
        assert said[8] == "actual is not a number: '1_000'"
        assert "expected a time that has come, got 2999-01-01" in said[len(names) + 2]
        assert "a date with hyphens" in said[len(names) + 3]


def test_the_service_says_what_its_models_target_may_be_beside_the_records(
    written_bundle, tmp_path
) -> None:
    url = f"sqlite:///{tmp_path}/r.db"
    settings = ServeSettings(
        source=SourceSettings(local=str(written_bundle)), records=RecordSettings(url=url)
    )
    assembly = Assembly(settings)
    assembly.writer.start()
    try:
        assembly.refresher.refresh()
        end = time.monotonic() + 20
        with Database(url) as database:
            while not (found := kept_targets(database)) and time.monotonic() < end:
                time.sleep(0.05)
    finally:
        assembly.refresher.stop()
        assembly.writer.close()
    target = assembly.slot.current.bundle.contract.target  # type: ignore[union-attr]
    assert found == {"houses_model": TargetBounds.of(target)}


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers())
def test_one_value_and_many_are_evaluated_alike(value) -> None:
    for bounds in (BOUNDS, TargetBounds(), TargetBounds.of(Target("price", bounds=(0.0, None)))):
        try:
            many = bool(bounds.accepts(np.array([float(value)]))[0])
        except OverflowError:
            many = False
        assert (bounds.reason(value) is None) == many


@pytest.mark.parametrize("text", ["1_000", "\uff11", "0x10", "1,5", "", "n/a", "nan", "1 000"])
def test_what_only_python_takes_for_a_number_is_none(text) -> None:
    assert read_number(text) is None


@pytest.fixture
def keyed(written_bundle, tmp_path):
    """A real server with two clients, an importer and an administrator; and their keys."""
    names = {"one": "client", "two": "client", "batch": "importer", "root": "admin"}
    made = {name: new_key(name, role) for name, role in names.items()}
    lines = ",".join(key.line() for _, key in made.values())
    server = Server(tmp_path, written_bundle, free_port(), TASADOR_SECURITY__KEYS=lines)
    server.start()
    try:
        server.wait()
        yield server, {name: {"x-api-key": text} for name, (text, _) in made.items()}
    finally:
        server.end()


def test_only_the_client_that_was_given_a_prediction_reports_its_outcome(keyed, house) -> None:
    server, keys = keyed

    def tell(who: str, name: str, actual: float = 5.0, **more: Any) -> Any:
        body = {"outcomes": [{"prediction_id": name, "actual": actual, **more}]}
        return httpx.post(f"{server.url}/api/v1/outcomes", json=body, headers=keys[who])

    asked = httpx.post(
        f"{server.url}/api/v1/predict", json={"instances": [house] * 3}, headers=keys["one"]
    )
    first, second, third = (one["prediction_id"] for one in asked.json()["predictions"])
    for replace in (False, True):
        stranger = tell("two", first, replace=replace).json()["results"][0]
        assert stranger == tell("two", "01abc").json()["results"][0] | {"prediction_id": first}
        assert stranger["status"] == "unknown"
    for who, name in (("one", first), ("batch", second), ("root", third)):
        assert tell(who, name).json()["results"][0]["status"] == "accepted"
        again = tell(who, name)
        assert (again.status_code, again.json()["results"][0]["status"]) == (200, "repeated")
        other = tell(who, name, 6.0)
        assert (other.status_code, other.json()["error"]) == (409, "outcome_conflict")
        assert '"replace": true' in other.json()["remedy"]
    assert tell("two", first, 6.0).json()["results"][0]["status"] == "unknown"
    assert tell("one", first, 6.0, replace=True).json()["results"][0]["status"] == "replaced"
    assert tell("one", first, 6.0, replace=True).json()["results"][0]["status"] == "repeated"
    assert tell("one", first, 5.0).status_code == 409
    mixed = {"outcomes": [{"prediction_id": first, "actual": v} for v in (6.0, 5.0)]}
    answer = httpx.post(f"{server.url}/api/v1/outcomes", json=mixed, headers=keys["one"])
    assert [one["status"] for one in answer.json()["results"]] == ["repeated", "conflict"]
    early = tell("one", second, time=1000.0).json()["results"][0]
    assert early["status"] == "invalid"
    assert "after the prediction" in early["message"]
    assert tell("one", first, replace="yes").status_code == 422
    with Database(server.records_url) as database:
        assert {row[0]: row[1] for row in RecordStore(database)._by_ids(
            "SELECT prediction_id, actual FROM outcomes WHERE prediction_id IN ({ids})",
            [first, second, third],
        )} == {first: 6.0, second: 5.0, third: 5.0}  # fmt: skip
        (entry,) = AuditTrail(database).read(action="replace outcome")
        found = (entry.actor, entry.subject, entry.from_value, entry.to_value)
        assert found == ("one", first, "5.0", "6.0")
