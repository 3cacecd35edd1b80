"""`/api/v1/monitoring` and `/api/v1/models`: what the web app reads."""

from __future__ import annotations

import httpx
import pytest

from fixtures.service import RunningService
from tasador.core import clock
from tasador.core.errors import ConfigError, GateError, RegistryError
from tasador.ops.service import alert_actions
from tasador.records.audit_log import AuditTrail, Verdicts
from tasador.records.database import Database
from tasador.records.shared_state import AlertState, AlertStates
from tasador.serving.api.models import Lifecycle, card_router, lifecycle_router
from tasador.serving.api.monitoring import (
    MonitoringReader,
    alerts_router,
    monitoring_router,
)
from tasador.serving.http.auth import new_key
from tasador.settings.serving import RecordSettings, SecuritySettings

VERDICT = {
    "rows": 40,
    "by_check": {"drift": "warn"},
    "figures": [
        {"name": "mape", "value": 12.0, "estimated": False},
        {"name": "mape", "value": 11.0, "estimated": True},
    ],
    "timeline": [
        {"outcomes": 7, "latency_p95": 2.0},
        {"outcomes": 1, "latency_p95": 3.0},
        {"outcomes": 0, "latency_p95": None},
    ],
}


@pytest.fixture
def watched_service(serve, tmp_path) -> tuple[RunningService, Database]:
    url = f"sqlite:///{tmp_path}/watched.db"
    watching = MonitoringReader(RecordSettings(url=url))
    found = serve(routers=lambda service: [monitoring_router(service, watching)])
    return found, Database.open(url)


def test_verdicts_are_listed_newest_first_in_short_and_the_last_one_whole(watched_service) -> None:
    service, database = watched_service
    with httpx.Client(base_url=f"{service.url}/api/v1/monitoring") as client:
        assert client.get("/verdicts").json() == {"verdicts": []}
        absent = client.get("/verdicts/latest")
        assert (absent.status_code, absent.json()["error"]) == (404, "no_verdict")
        Verdicts(database).add("houses_model", 0.0, 10.0, "ok", {"rows": 3})
        Verdicts(database).add("houses_model", 10.0, 20.0, "warn", VERDICT)
        Verdicts(database).add("another_model", 10.0, 20.0, "alert", VERDICT)
        first, second = client.get("/verdicts").json()["verdicts"]
        assert (first["level"], first["rows"], first["outcomes"]) == ("warn", 40, 8)
        assert (first["figures"], first["estimated"]) == ({"mape": 12.0}, {"mape": 11.0})
        assert first["latency_p95"] == 3.0
        assert (second["level"], second["rows"], second["latency_p95"]) == ("ok", 3, None)
        assert len(client.get("/verdicts", params={"limit": 1}).json()["verdicts"]) == 1
        latest = client.get("/verdicts/latest").json()
        assert latest["verdict"] == VERDICT
        assert latest["until"] == "1970-01-01T00:00:20+00:00"
        refused = client.get("/verdicts", params={"limit": 0})
        assert (refused.status_code, refused.json()["error"]) == (422, "invalid_request")


def test_alerts_are_listed_firing_ones_first(watched_service) -> None:
    service, database = watched_service
    states = AlertStates(database)
    states.put(AlertState("m/a", "ok", 1.0, 9.0, {}))
    states.put(
        AlertState("m/b", "firing", 5.0, 9.0, {"severity": "page", "reason": "worse",
                   "acknowledged_by": "ana", "silent_until": 60.0})
    )  # fmt: skip
    states.put(AlertState("m/c", "pending", 5.0, 9.0, {}))
    found = httpx.get(f"{service.url}/api/v1/monitoring/alerts").json()["alerts"]
    assert [one["key"] for one in found] == ["m/b", "m/c", "m/a"]
    assert found[0]["acknowledged_by"] == "ana"
    assert found[0]["silent_until"] == "1970-01-01T00:01:00+00:00"
    assert found[2]["silent_until"] is None


def test_an_administrator_acknowledges_and_silences_one_alert(serve, tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/alerts.db"
    database = Database.open(url)
    states = AlertStates(database)
    for key in ("m/drift/drift:a[1]", "m/drift/drift:a1"):  # the first is no pattern here
        states.put(AlertState(key, "firing", 1.0, 9.0, {"reason": "moved"}))
    (admin, admin_line), (client_key, client_line) = (
        (text, key.line()) for text, key in (new_key("ana", "admin"), new_key("bob", "client"))
    )
    service = serve(
        security=SecuritySettings(keys=(admin_line, client_line)),
        routers=lambda service: [alerts_router(alert_actions(url))],
    )
    asked = {"key": "m/drift/drift:a[1]", "reason": "a new source"}
    with service.client(headers={"x-api-key": client_key}) as client:
        assert client.post("/api/v1/admin/alerts/acknowledge", json=asked).status_code == 403
    with service.client(headers={"x-api-key": admin}) as client:
        answer = client.post("/api/v1/admin/alerts/acknowledge", json=asked)
        assert answer.json() == {"keys": [asked["key"]]}
        answer = client.post(
            "/api/v1/admin/alerts/silence", json={**asked, "by": "Ana", "seconds": 60}
        )
        assert answer.json() == {"keys": [asked["key"]]}
        absent = client.post("/api/v1/admin/alerts/acknowledge", json={"key": "m/drift/x"})
        assert (absent.status_code, absent.json()["error"]) == (404, "no_alert")
    first, second = states.all()[::-1] if states.all()[0].key.endswith("a1") else states.all()
    assert first.body["acknowledged_by"] == "api key ana"
    assert first.body["silent_until"] > clock.seconds()
    assert second.body == {"reason": "moved"}
    entries = AuditTrail(database).read(subject=asked["key"], limit=5)
    assert {(one.action, one.actor, one.reason) for one in entries} == {
        ("acknowledge", "api key ana", "a new source"), ("silence", "Ana", "a new source"),
    }  # fmt: skip


def test_records_that_are_off_and_a_database_that_is_unreachable_are_reported(
    serve, tmp_path
) -> None:
    off = MonitoringReader(RecordSettings(url="sqlite:///x.db", mode="off"))
    (tmp_path / "file").write_text("no folder")
    away = MonitoringReader(RecordSettings(url=f"sqlite:///{tmp_path}/file/x.db"))
    for watching, word in ((off, "records_off"), (away, "database_away")):
        service = serve(routers=lambda service, w=watching: [monitoring_router(service, w)])
        answer = httpx.get(f"{service.url}/api/v1/monitoring/alerts")
        assert (answer.status_code, answer.json()["error"]) == (503, word)
    away.close()


def test_the_card_and_the_places_of_the_training_rows_are_returned(serve, house_rows) -> None:
    service = serve(routers=lambda service: [card_router(service)])
    card = httpx.get(f"{service.url}/api/v1/models/card")
    assert card.headers["content-type"].startswith("text/markdown")
    assert card.text == "# Houses\n"
    found = httpx.get(f"{service.url}/api/v1/models/density").json()
    X, price = house_rows
    assert (found["x"], found["y"]) == ("lon", "lat")
    assert sum(cell[2] for cell in found["cells"]) == len(X)
    for x, y, rows, value in found["cells"]:
        assert X[:, 0].min() <= x <= X[:, 0].max() + found["x_step"]
        assert X[:, 1].min() <= y <= X[:, 1].max() + found["y_step"]
        assert (value is None) == (rows < 5)
        assert value is None or price.min() <= value <= price.max()


def test_without_a_model_there_is_no_card(serve) -> None:
    service = serve(bundle=None, routers=lambda service: [card_router(service)])
    for path in ("card", "density"):
        answer = httpx.get(f"{service.url}/api/v1/models/{path}")
        assert (answer.status_code, answer.json()["error"]) == (503, "model_not_ready")


def test_changes_need_an_admin_key_and_refusals_keep_their_reason(serve) -> None:
    done: list[object] = []
    troubles = {
        "gate": GateError("not promoted", got="error: fail"),
        "unknown": ConfigError("no such version"),
        "away": RegistryError("the registry is away"),
    }

    def promote(wish, who):
        if wish.version in troubles:
            raise troubles[wish.version]
        done.append((wish.version, wish.alias, who))
        return {"action": "promote", "version": wish.version}

    lifecycle = Lifecycle(
        versions=lambda: {"model": "houses_model", "versions": []},
        history=lambda limit: [{"limit": limit}],
        report=lambda version: f"<p>{version}</p>" if not done else None,
        promote=promote,
        rollback=lambda wish, who: {"to": wish.to, "reason": wish.reason},
        changed=lambda: done.append("changed"),
    )
    (admin, admin_line), (client_key, client_line) = (
        (text, key.line()) for text, key in (new_key("ana", "admin"), new_key("bob", "client"))
    )
    service = serve(
        security=SecuritySettings(keys=(admin_line, client_line)),
        routers=lambda service: [lifecycle_router(service, lifecycle)],
    )
    models, admin_models = "/api/v1/models", "/api/v1/admin/models"
    with service.client(headers={"x-api-key": client_key}) as client:
        assert client.get(f"{models}/history?limit=3").json() == {"entries": [{"limit": 3}]}
        assert client.get(f"{models}/versions").json()["model"] == "houses_model"
        report = client.get(f"{models}/report")
        assert report.text.startswith("<p>houses_model-")
        assert "default-src 'none'" in report.headers["content-security-policy"]
        assert client.post(f"{admin_models}/promote", json={"version": "2"}).status_code == 403
    assert done == []
    with service.client(headers={"x-api-key": admin}) as client:
        for version, status, word in (
            ("gate", 409, "gates_refuse"),
            ("unknown", 422, "invalid_request"),
            ("away", 503, "registry_away"),
        ):
            answer = client.post(f"{admin_models}/promote", json={"version": version})
            assert (answer.status_code, answer.json()["error"]) == (status, word)
            assert troubles[version].message in answer.json()["detail"]
        answer = client.post(f"{admin_models}/promote", json={"version": "2"})
        assert answer.json() == {"action": "promote", "version": "2"}
        assert done == [("2", "champion", "api key ana"), "changed"]
        answer = client.post(f"{admin_models}/rollback", json={"reason": "worse"})
        assert answer.json() == {"to": None, "reason": "worse"}
        absent = client.get(f"{models}/report")
        assert (absent.status_code, absent.json()["error"]) == (404, "no_report")
