"""A real MLflow server that is killed, hangs, or has its alias moved to what is not there."""

from __future__ import annotations

import shutil
import time

import pytest

from tasador.registry.model_bundle import load_bundle
from tasador.serving.api.health import HealthChecks, source_check
from tasador.serving.cascade import Cascade
from tasador.serving.model_slot import ModelSlot
from tasador.serving.refresher import Refresher
from tasador.settings.serving import SourceSettings

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def made(server, model, **values) -> Refresher:
    """Return a refresher that is patient with a busy machine unless told otherwise."""
    patient = {"answer_s": 60.0, "read_s": 60.0, "hop_deadline_s": 120.0, "poll_s": 0.1}
    settings = SourceSettings(
        **{
            "tracking_uri": server.uri, "model_name": model, "alias": "staging", "attempts": 1,
            **patient, **values,
        }
    )  # fmt: skip
    return Refresher(Cascade.of(settings), ModelSlot())


def version_of(folder) -> str:
    return load_bundle(folder, check_golden=False).version


@pytest.mark.no_cover
def test_a_hung_registry_delays_the_start_by_its_deadline_and_no_more(
    registry_server, real_bundle, tmp_path
):
    registry_server.register(real_bundle, "hung")
    refresher = made(registry_server, "hung", local=str(real_bundle), answer_s=0.5)
    with registry_server.hung():
        assert refresher.refresh()
        assert refresher.slot.current.source == "local"
        mlflow, local = refresher.cascade.report()
        assert (mlflow.outcome, local.outcome) == ("failed", "ok")
        assert "mlflow identity did not answer in time" in mlflow.error
        assert mlflow.latency_s < 10.0  # MLflow's own client would wait for 14 minutes
        assert mlflow.breaker.failures == 1


@pytest.mark.no_cover
def test_a_registry_that_hangs_costs_polls_but_no_model_and_then_recovers(
    registry_server, real_bundle, newer_bundle
):
    registry_server.register(real_bundle, "hanging")
    refresher = made(registry_server, "hanging")
    assert refresher.refresh()
    refresher.cascade.sources[0].settings = SourceSettings(answer_s=0.3, read_s=0.3)
    refresher.cascade.sources[0].breaker._reset_s = 0.5
    source = refresher.cascade.source("mlflow")
    health = HealthChecks(
        refresher.slot, {"registry": source_check(source)}, ttl_s=0.0, timeout_s=0.3
    )
    with registry_server.hung():
        for _ in range(6):
            assert not refresher.refresh()
        assert source.report().breaker.failures == 5  # the sixth was not asked
        assert source.report().outcome == "open"
        report = health.deep()
        assert (report.status, report.dependencies[0].status) == ("degraded", "healthy")
        assert refresher.slot.current.version == version_of(real_bundle)
    registry_server.register(newer_bundle, "hanging")
    source.settings = SourceSettings(answer_s=60.0, hop_deadline_s=120.0)
    until = time.monotonic() + 60
    while not refresher.refresh():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert refresher.slot.current.version == version_of(newer_bundle)
    assert source.report().breaker.status == "closed"


def test_an_alias_that_moves_is_followed_and_one_on_a_deleted_version_is_not(
    registry_server, real_bundle, newer_bundle
):
    first = registry_server.register(real_bundle, "moving")
    refresher = made(registry_server, "moving")
    assert refresher.refresh()
    assert not refresher.refresh()
    assert refresher.slot.current.identity.startswith(f"models:/moving/{first}#")
    second = registry_server.register(newer_bundle, "moving")
    assert refresher.refresh()
    client = registry_server.client()
    client.delete_model_version("moving", second)
    assert not refresher.refresh()
    assert "nothing to offer" in refresher.report().last_error
    assert refresher.slot.current.version == version_of(newer_bundle)
    client.set_registered_model_alias("moving", "staging", first)
    assert refresher.refresh()
    assert refresher.slot.current.version == version_of(real_bundle)
    pinned = made(registry_server, "moving", version=first, alias="none")
    assert pinned.refresh()


def test_a_version_whose_files_are_gone_or_spoilt_is_refused(
    registry_server, real_bundle, newer_bundle
):
    registry_server.register(real_bundle, "spoilt")
    refresher = made(registry_server, "spoilt")
    assert refresher.refresh()
    number = registry_server.register(newer_bundle, "spoilt")
    run = registry_server.client().get_model_version("spoilt", number).run_id
    stored = registry_server.folder / "served" / "0" / run / "artifacts/model/data/bundle"
    (stored / "card.md").write_text("# Hous3s\n")
    for _ in range(2):
        assert not refresher.refresh()
    assert refresher.report().refused == 1
    assert "card.md" in refresher.report().last_error
    shutil.rmtree(stored)
    assert not refresher.refresh(force=True)
    assert "holds no complete bundle" in refresher.report().last_error
    assert refresher.slot.current.version == version_of(real_bundle)
