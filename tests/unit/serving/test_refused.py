"""Refused rows are evidence: on every route they are counted, recorded, logged, and judged."""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from typing import Any

import pytest

from tasador.monitoring.checks.service_levels import check_refused
from tasador.monitoring.settings import Thresholds
from tasador.records.database import Database
from tasador.records.maintenance import Retention
from tasador.records.refused import (
    RefusedBuffer,
    RefusedCounts,
    RefusedRequest,
    kept_rows,
    read_refused,
)
from tasador.settings.serving import RecordSettings

CSV = {"content-type": "text/csv"}
NAMES = ["lon", "lat", "income", "rooms", "area", "kind"]


def in_database(service: Any, rows: int) -> RefusedCounts:
    """Return what is recorded as refused, once that many rows are."""
    with Database(service.writer.settings.url) as database:
        end = time.monotonic() + 20
        while True:
            found = read_refused(database, time.time() - 600, time.time() + 1)
            if found.refused >= rows or time.monotonic() > end:
                return found
            time.sleep(0.05)


def counted(service: Any, name: str) -> dict[str, float]:
    text = service.client().get("/metrics").text
    found = re.findall(rf"^{name}(\{{.*\}}) ([0-9.e+]+)$", text, re.M)
    return {labels: float(value) for labels, value in found}


def as_csv(rows: list[dict[str, Any]]) -> str:
    lines = [",".join(str(row.get(name, "")) for name in NAMES) for row in rows]
    return "\n".join([",".join(NAMES), *lines])


@pytest.mark.parametrize("route", ["predict", "explain", "score", "csv", "records", "v2"])
def test_whatever_the_route_a_bad_row_is_counted_and_recorded_by_field_and_cause(
    serve, house, route
) -> None:
    service = serve()
    rows = [house | {"kind": "castle"}, house | {"area": -5.0}, house | {"income": "much"}, house]
    with service.client() as client:
        if route in ("predict", "explain"):
            client.post(f"/api/v1/{route}", json={"instances": rows})
        elif route == "score":
            assert (
                client.post("/api/v1/score", content=as_csv(rows), headers=CSV).status_code == 200
            )
        elif route == "csv":
            client.post("/invocations", content=as_csv(rows), headers=CSV)
        elif route == "records":
            client.post("/invocations", json={"dataframe_records": rows})
        else:
            inputs = [
                {"name": n, "shape": [4], "datatype": "BYTES", "data": [row[n] for row in rows]}
                for n in NAMES
            ]
            client.post("/v2/models/houses_model/infer", json={"inputs": inputs})
    found = in_database(service, 3)
    assert (found.refused, found.withheld) == (3, 0 if route == "score" else 1)
    assert dict(found.causes) == {
        ("kind", "unknown_level"): 1, ("area", "out_of_bounds"): 1, ("income", "wrong_kind"): 1,
    }  # fmt: skip
    assert found.examples["kind", "unknown_level"] == "'castle'"
    values = counted(service, "tasador_refused_values_total")
    assert values['{cause="unknown_level",field="kind"}'] == 1.0
    assert counted(service, "tasador_refused_rows_total")['{result="refused"}'] == 3.0
    with Database(service.writer.settings.url) as database:
        kept = list(kept_rows(database, 0.0, time.time() + 1, 10))
    assert len(kept) == 3
    assert any(b"castle" in row.features for row in kept)


@pytest.mark.parametrize(
    ("path", "options", "cause"),
    [
        ("/api/v1/predict", {"content": b"{"}, ("(request)", "malformed_json")),
        ("/api/v1/predict", {"json": {"rows": []}}, ("(request)", "invalid_request")),
        ("/api/v1/predict", {"json": {"instances": [7]}}, ("(row)", "unreadable")),
        ("/api/v1/predict", {"json": {"instances": [{}]}}, ("area", "missing")),
        ("/api/v1/predict", {"content": b"x", "headers": {"content-type": "text/plain"}},
         ("(request)", "unsupported_media_type")),
        ("/api/v1/score", {"content": "lon,lat\n1,2\n", "headers": CSV}, ("area", "missing")),
        ("/api/v1/score", {"content": "", "headers": CSV}, ("(request)", "malformed_file")),
        ("/invocations", {"json": {"columns": []}}, ("(request)", "invalid_request")),
        ("/v2/models/houses_model/infer", {"json": {}}, ("(request)", "invalid_tensors")),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_read_is_refused_evidence_too(serve, path, options, cause) -> None:
    service = serve()
    with service.client() as client:
        assert client.post(path, **options).status_code in (415, 422)
    found = in_database(service, 1)
    assert found.refused == 1
    assert cause in found.causes


def test_each_refused_request_has_a_line_in_the_log_without_its_values(
    running, client, house, caplog
) -> None:
    with caplog.at_level(logging.INFO, logger="tasador.serving.http.middleware"):
        client.post("/api/v1/predict", json={"instances": [house | {"kind": "castle"}]})
        client.post("/api/v1/predict", json={"instances": [house]})
        client.get("/nowhere")
        end = time.monotonic() + 10
        while len(caplog.records) < 2 and time.monotonic() < end:  # written after the answer
            time.sleep(0.01)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("middleware")]
    assert said == [
        "POST /api/v1/predict 422 invalid_rows: kind unknown level",
        "GET (other) 404 unknown_path",
    ]


def test_only_what_was_sent_counts_as_refused_not_who_sent_it_or_when(serve, house) -> None:
    service = serve(bundle=None)
    with service.client() as client:
        assert client.post("/api/v1/predict", json={"instances": [house]}).status_code == 503
        client.post("/api/v1/outcomes", json={"outcomes": []})
        client.get("/nowhere")
    assert counted(service, "tasador_refused_rows_total") == {
        '{result="refused"}': 0.0, '{result="withheld"}': 0.0,
    }  # fmt: skip


def test_refusals_wait_for_a_database_that_is_locked_and_accepted_rows_do_not_wait_for_them(
    serve, house
) -> None:
    service = serve()
    path = service.writer.settings.url.removeprefix("sqlite:///")
    with service.client() as client:
        client.post("/api/v1/predict", json={"instances": [house]})
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        try:
            for _ in range(50):
                client.post("/api/v1/predict", json={"instances": [house | {"area": 0.0}]})
            started = time.monotonic()
            assert client.post("/api/v1/predict", json={"instances": [house]}).status_code == 200
            assert time.monotonic() - started < 5.0
        finally:
            lock.execute("ROLLBACK")
            lock.close()
    assert in_database(service, 50).causes == {("area", "out_of_bounds"): 50}


def refusal(number: int, cause: str = "out_of_bounds", rows: int = 1) -> RefusedRequest:
    fault = (("area", cause, str(number)),)
    kinds = {("area", cause): rows}
    return RefusedRequest(
        "m-1", "/p", "c", rows, 0, kinds, {("area", cause): str(number)}, [(fault, b"{}")] * rows
    )


def test_a_flood_of_one_cause_is_kept_bounded_and_leaves_space_for_another(tmp_path) -> None:
    buffer = RefusedBuffer(RecordSettings(refused_per_day=60))
    with Database(f"sqlite:///{tmp_path}/r.db") as database:
        for i in range(5000):
            buffer.add(refusal(i))
            if i % 1000 == 0:
                buffer.flush(database)
        buffer.add(refusal(1, "missing"))
        buffer.flush(database)
        found = read_refused(database, 0.0, time.time() + 1)
        assert found.refused == 5001  # all are counted
        kept = list(kept_rows(database, 0.0, time.time() + 1, 10_000))
        assert len(kept) <= 21  # two spans at most
        assert "missing" in {row.causes[0][1] for row in kept}


def test_no_more_rows_a_day_are_kept_than_the_setting_says(tmp_path, monkeypatch) -> None:
    now = 86_400.0 * 20_000
    monkeypatch.setattr("tasador.core.clock.seconds", lambda: now)
    settings = RecordSettings(refused_per_day=25, keep_refused_days=2)
    buffer = RefusedBuffer(settings)
    with Database(f"sqlite:///{tmp_path}/r.db") as database:
        for _ in range(8):
            buffer.add(refusal(1, rows=10))
            buffer.flush(database)
            now += 60.0
        assert len(list(kept_rows(database, 0.0, now, 1000))) == 25
        now += 3 * 86_400.0
        buffer.add(refusal(1))
        buffer.flush(database)
        Retention(database, settings).delete()
        assert len(list(kept_rows(database, 0.0, now + 1, 1000))) == 1  # the old ones are gone
        assert read_refused(database, 0.0, now + 1).refused == 1


def test_what_cannot_be_written_waits_for_the_next_try(tmp_path) -> None:
    buffer = RefusedBuffer(RecordSettings())
    buffer.add(refusal(1))
    (tmp_path / "r.db").mkdir()
    with pytest.raises(Exception, match="cannot be used"):
        buffer.flush(Database(f"sqlite:///{tmp_path}/r.db"))
    buffer.add(refusal(2))
    with Database(f"sqlite:///{tmp_path}/other.db") as database:
        buffer.flush(database)
        buffer.flush(database)
        found = read_refused(database, 0.0, time.time() + 1)
        assert (found.refused, found.causes) == (2, {("area", "out_of_bounds"): 2})


def test_workers_add_up_and_another_models_refusals_are_left_out(tmp_path) -> None:
    with Database(f"sqlite:///{tmp_path}/r.db") as database:
        for _ in range(3):
            one = RefusedBuffer(RecordSettings())
            one.add(refusal(1))
            one.flush(database)
        assert read_refused(database, 0.0, time.time() + 1, "m").refused == 3
        assert read_refused(database, 0.0, time.time() + 1, "other").refused == 0


@pytest.mark.parametrize(
    ("refused", "valued", "level"),
    [(0, 1000, "ok"), (1, 1000, "ok"), (20, 980, "warn"), (300, 700, "alert"), (40, 0, "alert")],
)
def test_the_share_of_refused_rows_is_a_finding(refused, valued, level) -> None:
    causes = {("kind", "unknown_level"): refused} if refused else {}
    counts = RefusedCounts(refused, 0, causes, {("kind", "unknown_level"): "'castle'"})
    found = check_refused(counts, valued, Thresholds())
    assert found.level == level
    if refused:
        assert "kind: unknown level 'castle'" in found.reason
        assert f"{refused / (refused + valued):.2%}" in found.reason
