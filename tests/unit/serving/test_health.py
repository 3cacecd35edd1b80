"""Health: what probes are told, and what they cost."""

from __future__ import annotations

import threading

import pytest

from tasador.core.errors import StorageError
from tasador.registry.bundle_stores import publish_bundle
from tasador.registry.model_bundle import load_bundle
from tasador.serving.api.health import (
    DegradedError,
    HealthChecks,
    disk_check,
    refresher_check,
    source_check,
)
from tasador.serving.cascade import Cascade
from tasador.serving.model_slot import LoadedModel, ModelSlot
from tasador.serving.refresher import Refresher, RefreshEvents
from tasador.settings.serving import SourceSettings


@pytest.fixture(scope="module")
def slot(written_bundle) -> ModelSlot:
    slot = ModelSlot()
    slot.swap(LoadedModel(load_bundle(written_bundle), "mlflow", "models:/h/1#r", 0.0))
    return slot


def failing(_):
    raise StorageError("the database is down")


def degraded(_):
    raise DegradedError("little space")


def test_without_a_model_the_service_is_alive_but_not_ready():
    health = HealthChecks(ModelSlot(), {"disk": lambda _: "fine"})
    assert (health.live(), health.ready()) == (True, False)
    report = health.deep()
    assert report.status == "unhealthy"
    assert [(d.name, d.status) for d in report.dependencies] == [
        ("model", "unhealthy"),
        ("disk", "healthy"),
    ]


def test_a_dead_dependency_degrades_a_service_that_has_a_model(slot):
    for check, status in ((failing, "unhealthy"), (degraded, "degraded")):
        report = HealthChecks(slot, {"registry": check}).deep()
        assert report.status == "degraded"
        assert report.dependencies[1].status == status
    assert report.dependencies[1].detail == "little space"
    assert HealthChecks(slot, {}).deep().status == "healthy"
    assert HealthChecks(slot, {}).ready()


def test_a_model_from_the_last_good_copy_is_a_degraded_service(written_bundle):
    slot = ModelSlot()
    slot.swap(LoadedModel(load_bundle(written_bundle), "last_good", "x", 0.0))
    report = HealthChecks(slot, {}).deep()
    assert (report.status, report.dependencies[0].status) == ("degraded", "degraded")


def test_checks_are_made_once_in_a_while_and_their_answers_shared(slot):
    now, calls = [0.0], []

    def check(_):
        calls.append(1)
        return "fine"

    health = HealthChecks(slot, {"x": check}, ttl_s=5.0, clock=lambda: now[0])
    for _ in range(10):
        health.deep()
    assert len(calls) == 1
    now[0] = 5.0
    health.deep()
    assert len(calls) == 2


def test_probes_at_the_same_moment_share_one_check(slot):
    release, calls = threading.Event(), []

    def check(_):
        calls.append(1)
        release.wait(10)
        return "fine"

    health = HealthChecks(slot, {"x": check}, timeout_s=10.0)
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(health.deep())) for _ in range(20)]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert {report.dependencies[1].detail for report in reports} == {"fine"}


def test_a_check_that_hangs_is_unhealthy_in_time_and_is_not_piled_up(slot):
    release, calls = threading.Event(), []

    def check(_):
        calls.append(1)
        release.wait(60)
        return "late"

    health = HealthChecks(slot, {"x": check}, ttl_s=0.0, timeout_s=0.1)
    for _ in range(5):
        answer = health.deep().dependencies[1]
        assert answer.status == "unhealthy"
    assert "did not answer" in answer.detail or "still hang" in answer.detail
    assert len(calls) == 1
    release.set()


def test_a_source_s_check_says_what_it_offers_and_spares_it_when_it_failed_often(
    tmp_path, written_bundle, slot
):
    settings = SourceSettings(
        object_store=str(tmp_path), breaker_failures=1, breaker_reset_s=60.0, attempts=1
    )
    (source,) = Cascade.of(settings).sources
    health = HealthChecks(slot, {"object_store": source_check(source)}, ttl_s=0.0)
    assert health.deep().dependencies[1].status == "degraded"  # it answers: nothing there
    pointer = publish_bundle(written_bundle, str(tmp_path))
    answer = health.deep().dependencies[1]
    assert (answer.status, answer.detail) == ("healthy", f"offers {pointer.content_hash}")
    source.breaker.fail()
    answer = health.deep().dependencies[1]
    assert answer.status == "unhealthy"
    assert "left alone for" in answer.detail


def test_impatient_probes_do_not_open_a_source_s_breaker(tmp_path, slot):
    settings = SourceSettings(object_store=str(tmp_path), breaker_failures=1, attempts=1)
    (source,) = Cascade.of(settings).sources
    release = threading.Event()

    class Slow:
        name = "object_store"

        def identity(self, _):
            release.wait(30)
            return "x"

    source.source = Slow()
    health = HealthChecks(slot, {"object_store": source_check(source)}, ttl_s=0.0, timeout_s=0.05)
    for _ in range(3):
        assert health.deep().dependencies[1].status == "unhealthy"
    assert source.report().breaker.status == "closed"
    release.set()


def test_the_refresher_s_check_shows_whether_new_models_are_noticed(tmp_path, slot, real_bundle):
    polled = threading.Event()
    refresher = Refresher(
        Cascade.of(SourceSettings(local=str(real_bundle), poll_s=0.05)),
        ModelSlot(),
        RefreshEvents(on_poll=lambda *_: polled.set()),
    )
    health = HealthChecks(slot, {"refresher": refresher_check(refresher)}, ttl_s=0.0)
    assert "does not run" in health.deep().dependencies[1].detail
    refresher.start()
    assert polled.wait(30)
    assert health.deep().dependencies[1].status == "healthy"
    refresher.stop(10)


def test_the_disk_s_check_looks_where_the_folder_will_be(tmp_path, slot):
    absent = tmp_path / "not" / "yet"
    report = HealthChecks(
        slot, {"disk": disk_check(absent, 1), "full": disk_check(absent, 2**60)}
    ).deep()
    assert [one.status for one in report.dependencies] == ["healthy", "healthy", "degraded"]
    assert str(tmp_path) in report.dependencies[1].detail
