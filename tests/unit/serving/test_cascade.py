"""The cascade of sources, and the bundles that it rejected."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tasador.core.errors import BundleError, NothingOfferedError
from tasador.registry.bundle_stores import publish_bundle
from tasador.registry.writer import write_bundle
from tasador.serving.cascade import Cascade, RejectedBeforeError, RejectedBundles
from tasador.settings.serving import SourceSettings


@pytest.fixture
def real_bundle(changed_parts, tmp_path) -> Path:
    """A bundle of real origin."""
    folder = tmp_path / "real" / "houses-real"
    write_bundle(folder, changed_parts(origin="real"))
    return folder


def settings_of(**values) -> SourceSettings:
    return SourceSettings(**{"attempts": 1, "answer_s": 2.0, "hop_deadline_s": 20.0, **values})


def test_a_source_that_is_not_configured_is_skipped(written_bundle):
    cascade = Cascade.of(settings_of(local=str(written_bundle)))
    assert [source.name for source in cascade.sources] == ["local"]
    loaded = cascade.load()
    assert (loaded.source, loaded.version) == ("local", loaded.bundle.version)
    (report,) = cascade.report()
    assert (report.outcome, report.action, report.attempts) == ("ok", "load", 1)
    assert report.breaker.status == "closed"


def test_with_no_source_that_can_give_a_model_each_of_them_is_named(tmp_path):
    cascade = Cascade.of(
        settings_of(
            local=str(tmp_path / "none"),
            object_store=str(tmp_path / "empty"),
            last_good=str(tmp_path / "copy"),
        )
    )
    with pytest.raises(NothingOfferedError, match=r"object_store: .*; local: .*; last_good: "):
        cascade.load()
    assert [report.outcome for report in cascade.report()] == ["nothing"] * 3


def test_the_order_is_configurable(written_bundle, real_bundle, tmp_path):
    publish_bundle(real_bundle, str(tmp_path / "store"))
    shelf = settings_of(object_store=str(tmp_path / "store"), local=str(real_bundle.parent))
    assert Cascade.of(shelf).load().source == "object_store"
    other = replace(shelf, order=("local", "object_store"))
    assert Cascade.of(other).load().source == "local"


def test_a_synthetic_bundle_gives_way_to_a_real_one_further_down(
    written_bundle, real_bundle, tmp_path
):
    publish_bundle(written_bundle, str(tmp_path / "store"))
    settings = settings_of(object_store=str(tmp_path / "store"), local=str(real_bundle.parent))
    assert Cascade.of(settings).load().source == "local"
    alone = Cascade.of(settings_of(object_store=str(tmp_path / "store")))
    assert alone.load().bundle.origin == "synthetic"


def test_a_bundle_refused_after_warming_up_is_not_fetched_again(written_bundle):
    cascade = Cascade.of(settings_of(local=str(written_bundle)))
    looked_at = []

    def accept(loaded):
        looked_at.append(loaded.version)
        raise BundleError("it answers NaN")

    with pytest.raises(NothingOfferedError, match="it answers NaN"):
        cascade.load(accept)
    with pytest.raises(NothingOfferedError, match="was refused before"):
        cascade.load(accept)
    assert len(looked_at) == 1


def test_without_a_model_a_damaged_bundle_is_tried_within_seconds_and_then_ever_more_seldom() -> (
    None
):
    now = 0.0
    rejected = RejectedBundles(900.0, clock=lambda: now)
    tries = []
    while now < 4000.0:
        try:
            rejected.check("store", "v1", without_model=True)
        except RejectedBeforeError:
            now += 1.0
            continue
        tries.append(now)
        rejected.note("store", "v1", BundleError("checksum"))
    pauses = [after - before for before, after in pairwise(tries)]
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


def test_with_a_model_a_refused_bundle_is_not_fetched_again() -> None:
    now = 0.0
    rejected = RejectedBundles(900.0, clock=lambda: now)
    rejected.note("store", "v1", BundleError("checksum"))
    now = 10_000.0
    with pytest.raises(RejectedBeforeError, match="refused before"):
        rejected.check("store", "v1", without_model=False)
    rejected.check("store", "v2", without_model=False)
