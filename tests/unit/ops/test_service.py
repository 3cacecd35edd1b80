"""The lifecycle through the API: a real service over a real registry."""

from __future__ import annotations

import time

import httpx
import pytest

from fixtures.process import Server, free_port
from tasador.core.deadlines import Deadline
from tasador.core.errors import MissingExtraError
from tasador.registry.mlflow.registry import MlflowVersions
from tasador.registry.mlflow_reader import registry_reader
from tasador.serving.http.auth import new_key

pytestmark = pytest.mark.slow

MODEL = "served_houses"
#: None of them names a version, and none must become an option of a command.
NO_VERSIONS = ("--help", "-h", "--force", "", " 1", "1 --force", "1\n", "../1", "a\0b", "é")


def test_versions_are_listed_alike_by_server_database_and_mlflow(
    registry_server, real_bundle, newer_bundle
) -> None:
    first = registry_server.register(real_bundle, "listed_houses", "champion", origin="real")
    second = registry_server.register(newer_bundle, "listed_houses", "staging")
    expected = MlflowVersions(registry_server.database, "listed_houses").all()
    assert [one.number for one in expected] == [second, first]
    assert expected[1].aliases == ("champion",)
    for uri in (registry_server.uri, registry_server.database):
        found = registry_reader(uri).listed("listed_houses", Deadline.after(20))
        assert found == expected


def test_a_version_is_promoted_through_the_gates_recorded_and_served(
    registry_server, real_bundle, tmp_path
) -> None:
    number = registry_server.register(real_bundle, MODEL, "staging")
    text, key = new_key("ana", "admin")
    server = Server(
        tmp_path,
        real_bundle,
        free_port(),
        TASADOR_SOURCE__TRACKING_URI=registry_server.uri,
        TASADOR_SOURCE__MODEL_NAME=MODEL,
        TASADOR_SOURCE__ALIAS="champion",
        TASADOR_SECURITY__KEYS=key.line(),
    )
    server.start()
    try:
        server.wait()
        with httpx.Client(base_url=server.url, headers={"x-api-key": text}, timeout=120) as client:
            listed = client.get("/api/v1/models/versions").json()
            assert (listed["model"], listed["follows"]) == (MODEL, "champion")
            assert [one["number"] for one in listed["versions"]] == [number]
            promote = "/api/v1/admin/models/promote"
            refused = client.post(promote, json={"version": number})
            assert (refused.status_code, refused.json()["error"]) == (409, "gates_refuse")
            assert "is not promoted to champion" in refused.json()["detail"]
            request = {"version": number, "force": True, "reason": "its rows are elsewhere"}
            assert client.post(promote, json=request).json() == {
                "action": "promote", "version": number, "before": "", "after": number,
            }  # fmt: skip
            info = client.get("/api/v1/model/info").json()
            end = time.monotonic() + 30
            while info["source"] != "mlflow" and time.monotonic() < end:
                time.sleep(0.1)
                info = client.get("/api/v1/model/info").json()
            assert info["source"] == "mlflow"
            done = client.get("/api/v1/models/history").json()["entries"][0]
            assert done["actor"] == "api key ana"
            assert done["reason"] == "its rows are elsewhere"
            assert client.post(promote, json={"version": number}).json() == {
                "action": "promote", "version": number, "before": number, "after": number,
            }  # fmt: skip
            back = "/api/v1/admin/models/rollback"
            for path, request in (
                *((promote, {"version": text}) for text in NO_VERSIONS),
                *((back, {"to": text}) for text in NO_VERSIONS),
                (promote, {"version": number, "alias": "--force"}),
                (promote, {"version": number, "alias": "prod"}),
                (promote, {"version": number, "reason": "a\0b"}),
                (promote, {"version": number, "forse": True}),
                (back, {"reason": "two\nlines"}),
            ):
                refused = client.post(path, json=request)
                assert refused.status_code == 422, (request, refused.text)
            options = client.post(back, json={"reason": "--to=1 --help"})
            assert options.status_code == 422  # taken as a reason: there is nothing to return to
            assert "has had no champion before" in options.json()["detail"]
            assert client.get("/api/v1/models/history").json()["entries"][0] == done
    finally:
        server.end()


def test_the_report_is_of_the_run_that_made_the_version_and_not_of_a_later_one(tmp_path) -> None:
    from tasador.ops.service import ServedLifecycle
    from tasador.serving.app import assembled

    for run in ("20261102-1", "20261101-1", "20261031-1"):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        version = "other-1" if run.startswith("20261031") else "houses-1"
        (folder / "run.json").write_text(f'{{"version": "{version}"}}', encoding="utf-8")
        (folder / "report.html").write_text(run, encoding="utf-8")
    assembly = assembled({"TASADOR_SOURCE__LOCAL": str(tmp_path), "TASADOR_RECORDS__MODE": "off"})
    served = ServedLifecycle(assembly, tmp_path)
    assert served.report("houses-1") == "20261101-1"
    assert served.report("houses-2") is None


def test_without_the_training_extra_a_change_says_what_is_missing(monkeypatch, tmp_path) -> None:
    import importlib.util

    from tasador.ops.service import ServedLifecycle
    from tasador.serving.api.models import Return
    from tasador.serving.app import assembled

    assembly = assembled({"TASADOR_SOURCE__LOCAL": str(tmp_path), "TASADOR_RECORDS__MODE": "off"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="'mlflow' is not installed"):
        ServedLifecycle(assembly, tmp_path).roll_back(Return(to=None, reason=""), "ana")
