"""The refresher over real folders and stores: what is taken, what is refused, and for how long."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.process import unmeasured
from tasador.core import clock as wall
from tasador.core.errors import StorageError
from tasador.registry.bundle_stores import publish_bundle
from tasador.registry.model_bundle import load_bundle
from tasador.registry.writer import write_bundle
from tasador.serving.cascade import Cascade
from tasador.serving.model_slot import ModelSlot
from tasador.serving.refresher import Refresher, RefreshEvents
from tasador.settings.serving import SourceSettings


def made(events: RefreshEvents | None = None, **values) -> Refresher:
    settings = SourceSettings(**{"attempts": 1, "poll_s": 0.05, "breaker_reset_s": 0.2, **values})
    return Refresher(Cascade.of(settings), ModelSlot(), events)


def version_of(folder: Path) -> str:
    return load_bundle(folder, check_golden=False).version


def spoil(folder: Path, target: Path) -> Path:
    """Copy a bundle and change one byte of its model."""
    shutil.copytree(folder, target)
    model = target / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(bytes(content))
    return target


def until(condition, seconds: float = 30.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def test_a_newly_published_bundle_serves_from_the_next_round_on(store, real_bundle, newer_bundle):
    told = []
    events = RefreshEvents(
        on_swap=lambda new, old: told.append((new.version, old and old.version)),
        on_poll=lambda seconds, error: told.append((seconds >= 0.0, error)),
    )
    refresher = made(events, object_store=str(store))
    publish_bundle(real_bundle, str(store))
    assert refresher.refresh()
    assert not refresher.refresh()
    publish_bundle(newer_bundle, str(store))
    assert refresher.refresh()
    old, new = version_of(real_bundle), version_of(newer_bundle)
    assert refresher.slot.current.version == new
    assert refresher.slot.previous.version == old
    assert told == [(old, None), (True, None), (True, None), (new, old), (True, None)]
    report = refresher.report()
    assert (report.polls, report.swaps, report.refused, report.errors) == (3, 2, 0, 0)
    assert report.last_error is None


def test_nothing_loadable_at_the_start_heals_by_itself_and_keeps_a_copy(
    tmp_path, store, real_bundle
):
    refresher = made(object_store=str(store), last_good=str(tmp_path / "good"))
    refresher.start()
    refresher.start()
    until(lambda: refresher.report().polls == 1)
    assert refresher.slot.current is None
    assert "no source can give a model" in refresher.report().last_error
    publish_bundle(real_bundle, str(store))
    refresher.poll_soon()
    until(lambda: refresher.slot.current is not None)
    until(lambda: (tmp_path / "good" / "latest.json").exists())
    assert refresher.stop(10)
    assert not refresher.report().running
    shutil.rmtree(store)
    again = made(object_store=str(store), last_good=str(tmp_path / "good"))
    assert again.refresh()
    assert again.slot.current.source == "last_good"
    publish_bundle(real_bundle, str(store))
    assert not again.refresh()  # the same version: no swap
    assert again.slot.current.source == "object_store"


def test_a_corrupt_bundle_is_refused_once_and_not_fetched_again(
    tmp_path, store, real_bundle, newer_bundle
):
    refused = []
    refresher = made(
        RefreshEvents(on_refused=lambda *what: refused.append(what)), object_store=str(store)
    )
    pointer = publish_bundle(real_bundle, str(store))
    refresher.refresh()
    pointer = publish_bundle(newer_bundle, str(store))
    published = store / pointer.folder
    healthy = published.with_name("healthy")
    published.rename(healthy)
    spoil(healthy, published)
    for _ in range(3):
        assert not refresher.refresh()
    assert refresher.slot.current.version == version_of(real_bundle)
    ((source, identity, reason),) = refused
    assert (source, identity) == ("object_store", pointer.content_hash)
    assert "model.onnx" in reason
    assert refresher.report().refused == 1
    assert "was refused before" in refresher.report().last_error
    (source,) = refresher.cascade.report()
    assert (source.outcome, source.action) == ("ok", "identity")  # only asked, not fetched
    assert source.breaker.failures == 0
    shutil.rmtree(published)
    healthy.rename(published)
    assert not refresher.refresh()
    assert refresher.refresh(force=True)


def test_a_refused_bundle_is_tried_again_after_a_while_when_there_is_no_model(
    tmp_path, store, real_bundle
):
    refresher = made(object_store=str(store), refused_again_s=0.0)
    pointer = publish_bundle(real_bundle, str(store))
    card = store / pointer.folder / "card.md"
    content = card.read_bytes()
    card.write_bytes(content[:-1] + b"!")
    assert not refresher.refresh()
    card.write_bytes(content)
    assert refresher.refresh()


def test_an_incompatible_bundle_is_refused_while_another_one_runs(
    tmp_path, store, real_bundle, changed_parts, bundle_parts
):
    contract = bundle_parts.contract
    narrow = replace(
        contract,
        columns=tuple(
            replace(c, bounds=(1.0, 500.0)) if c.name == "area" else c for c in contract.columns
        ),
    )
    write_bundle(tmp_path / "narrow", changed_parts(origin="real", contract=narrow))
    refresher = made(object_store=str(store))
    publish_bundle(real_bundle, str(store))
    refresher.refresh()
    publish_bundle(tmp_path / "narrow", str(store))
    assert not refresher.refresh()
    assert "area: its bounds were" in refresher.report().last_error
    (source,) = refresher.cascade.report()
    assert source.outcome == "refused"
    fresh = made(object_store=str(store))
    assert fresh.refresh()  # with nothing running there are no clients to break


def test_a_synthetic_bundle_does_not_replace_the_running_real_one(
    store, real_bundle, written_bundle, tmp_path
):
    refresher = made(local=str(tmp_path / "bundles"))
    shutil.copytree(real_bundle, tmp_path / "bundles" / "a")
    refresher.refresh()
    shutil.rmtree(tmp_path / "bundles" / "a")
    shutil.copytree(written_bundle, tmp_path / "bundles" / "b")
    assert not refresher.refresh()
    assert refresher.slot.current.bundle.origin == "real"
    assert "synthetic" in refresher.report().last_error


def test_a_version_rolled_back_from_is_not_taken_again_but_the_next_one_is(
    store, real_bundle, newer_bundle, changed_parts, tmp_path
):
    refresher = made(object_store=str(store))
    for folder in (real_bundle, newer_bundle):
        publish_bundle(folder, str(store))
        refresher.refresh()
    refresher.slot.rollback()
    for _ in range(2):
        assert not refresher.refresh()
    assert refresher.slot.current.version == version_of(real_bundle)
    write_bundle(tmp_path / "next", changed_parts(origin="real", card="# Next\n"))
    publish_bundle(tmp_path / "next", str(store))
    assert refresher.refresh()
    publish_bundle(newer_bundle, str(store))
    assert not refresher.refresh()
    refresher.slot.unpin()
    assert refresher.refresh()


def test_a_pinned_version_is_not_replaced(store, real_bundle, newer_bundle):
    refresher = made(object_store=str(store))
    publish_bundle(real_bundle, str(store))
    refresher.refresh()
    refresher.slot.pin(version_of(real_bundle))
    publish_bundle(newer_bundle, str(store))
    assert not refresher.refresh()
    refresher.slot.unpin()
    assert refresher.refresh()


def test_a_source_above_takes_over_again_and_one_below_does_not(
    tmp_path, store, real_bundle, newer_bundle
):
    refresher = made(object_store=str(store), local=str(tmp_path / "bundles"))
    shutil.copytree(real_bundle, tmp_path / "bundles" / "a")
    refresher.refresh()
    assert refresher.slot.current.source == "local"
    publish_bundle(newer_bundle, str(store))
    assert refresher.refresh()
    assert refresher.slot.current.source == "object_store"
    (store / "latest.json").unlink()
    assert not refresher.refresh()
    assert refresher.slot.current.version == version_of(newer_bundle)
    assert "nothing is published" in refresher.report().last_error


def test_a_damaged_last_good_copy_is_not_used_and_made_again(tmp_path, store, real_bundle):
    refresher = made(object_store=str(store), last_good=str(tmp_path / "good"))
    pointer = publish_bundle(real_bundle, str(store))
    refresher.refresh()
    card = tmp_path / "good" / pointer.folder / "card.md"
    card.write_text("# Hous3s\n")
    (store / "latest.json").rename(store / "aside")
    alone = made(object_store=str(store), last_good=str(tmp_path / "good"))
    assert not alone.refresh()
    assert "card.md" in alone.cascade.source("last_good").report().error
    (store / "aside").rename(store / "latest.json")
    assert alone.refresh()
    assert alone.report().copy_error is None
    assert load_bundle(card.parent).version == version_of(real_bundle)


def test_the_copy_of_another_model_is_not_used(tmp_path, store, real_bundle):
    good = str(tmp_path / "good")
    publish_bundle(real_bundle, str(store))
    assert made(object_store=str(store), last_good=good, model_name="one").refresh()
    other = made(last_good=good, model_name="two")
    assert not other.refresh()
    assert "of another model" in other.cascade.source("last_good").report().error


def test_a_listener_that_fails_stops_nothing(store, real_bundle):
    def broken(*_: object) -> None:
        raise RuntimeError("listener")

    refresher = made(RefreshEvents(on_swap=broken, on_poll=broken), object_store=str(store))
    publish_bundle(real_bundle, str(store))
    assert refresher.refresh()


def test_the_time_of_day_jumping_back_stops_no_polls(store, real_bundle, newer_bundle):
    refresher = made(object_store=str(store))
    publish_bundle(real_bundle, str(store))
    try:
        wall.use_source(lambda: 2e9)
        refresher.start()
        until(lambda: refresher.slot.current is not None)
        wall.use_source(lambda: 1e9)
        publish_bundle(newer_bundle, str(store))
        until(lambda: refresher.slot.current.version == version_of(newer_bundle))
    finally:
        wall.use_source(None)
        refresher.stop(10)


def test_a_source_that_hangs_delays_neither_start_nor_stop(tmp_path, real_bundle):
    refresher = made(local=str(real_bundle), object_store=str(tmp_path / "x"), answer_s=0.2)
    release = threading.Event()

    class Hanging:
        name = "object_store"

        def identity(self, _):
            release.wait(60)
            raise StorageError("late")

    refresher.cascade.sources[0].source = Hanging()
    refresher.start()
    until(lambda: refresher.slot.current is not None)
    assert refresher.slot.current.source == "local"
    assert refresher.stop(10)
    release.set()


def test_downloads_are_removed_once_they_are_not_needed(
    tmp_path, store, real_bundle, newer_bundle, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    refresher = made(object_store=str(store))
    for folder in (real_bundle, newer_bundle):
        publish_bundle(folder, str(store))
        assert refresher.refresh()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.no_cover
def test_swaps_by_the_refresher_under_load_fail_no_request_and_mix_no_versions(
    store, real_bundle, newer_bundle, house_rows
):
    X = house_rows[0][:16]
    wanted = {
        load_bundle(folder).version: load_bundle(folder).value_encoded(X)
        for folder in (real_bundle, newer_bundle)
    }
    publish_bundle(real_bundle, str(store))
    refresher = made(object_store=str(store), poll_s=0.01)
    refresher.start()
    until(lambda: refresher.slot.current is not None)
    stop, counts, wrong = threading.Event(), dict.fromkeys(wanted, 0), []

    def value() -> None:
        while not stop.is_set():
            running = refresher.slot.current
            answers = running.bundle.value_encoded(X)
            if answers != wanted[running.version]:
                wrong.append(answers)
            counts[running.version] += 1

    threads = [threading.Thread(target=value) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(6):
        folder = (newer_bundle, real_bundle)[number % 2]
        publish_bundle(folder, str(store))
        until(lambda: refresher.slot.current.version == version_of(folder), 120)  # noqa: B023
    stop.set()
    for thread in threads:
        thread.join()
    assert refresher.stop(30)
    assert wrong == []
    assert min(counts.values()) > 0
    assert refresher.report().swaps == 7


FULL_DISK = """
import resource, signal, sys
from tasador.serving.cascade import Cascade
from tasador.serving.model_slot import ModelSlot
from tasador.serving.refresher import Refresher
from tasador.settings.serving import SourceSettings

store, local, good = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # what a full disk does to writers
settings = SourceSettings(object_store=store, local=local, last_good=good, attempts=1)
refresher = Refresher(Cascade.of(settings), ModelSlot())
assert refresher.refresh()
print(refresher.slot.current.source)
print(refresher.cascade.source("object_store").report().error)
print(refresher.report().copy_error)
"""


def test_a_full_disk_costs_the_download_and_the_copy_but_no_model(
    tmp_path, store, real_bundle, newer_bundle
):
    publish_bundle(newer_bundle, str(store))
    command = [sys.executable, "-c", FULL_DISK, str(store), str(real_bundle), str(tmp_path / "g")]
    done = subprocess.run(command, capture_output=True, text=True, env=unmeasured(), check=False)
    assert done.returncode == 0, done.stderr
    source, download, copy = done.stdout.splitlines()
    assert source == "local"
    assert "too large" in download
    assert "too large" in copy
    assert not (tmp_path / "g" / "latest.json").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_slow_object_store_gives_way_in_time_and_takes_over_when_it_is_quick_again(
    s3, real_bundle, newer_bundle
):
    location, proxy = s3
    publish_bundle(newer_bundle, f"{location}/served")
    refresher = made(
        object_store=f"{location}/served", local=str(real_bundle), answer_s=0.5, read_s=30.0
    )
    proxy.pause_s = 2.0
    try:
        assert refresher.refresh()
        assert refresher.slot.current.source == "local"
        assert "did not answer in time" in refresher.cascade.source("object_store").report().error
    finally:
        proxy.pause_s = 0.0
    refresher.cascade.source("object_store").settings = SourceSettings(answer_s=60.0)
    until(refresher.refresh, 120)
    assert refresher.slot.current.source == "object_store"
