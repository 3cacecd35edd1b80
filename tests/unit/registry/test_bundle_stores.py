"""Bundles in a folder, and published to a folder and to real object stores."""

from __future__ import annotations

import os
import shutil
import time

import orjson
import pytest

from tasador.core.deadlines import Deadline
from tasador.core.errors import BundleError, NothingOfferedError, StorageError
from tasador.core.storage import Patience
from tasador.registry.bundle_stores import (
    POINTER_NAME,
    fetch_published,
    newest_bundle,
    prune_published,
    publish_bundle,
    read_pointer,
)
from tasador.registry.manifest import BundleLimits
from tasador.registry.model_bundle import load_bundle

# moto's and the emulator's threads may leave a socket to the garbage collector
quiet = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PATIENCE = Patience(2.0, 5.0)


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline.after(seconds)


@pytest.fixture(params=["local", "s3", "gs"])
def location(request, tmp_path) -> str:
    """A place to publish to, of every sort there is; nothing is there yet."""
    if request.param == "local":
        return str(tmp_path / "store")
    base = request.getfixturevalue(request.param)
    return f"{base if isinstance(base, str) else base[0]}/{os.urandom(4).hex()}"


@quiet
@pytest.mark.no_cover
def test_what_is_published_is_fetched_anywhere(location, real_bundle, newer_bundle, tmp_path):
    with pytest.raises(NothingOfferedError, match="nothing is published at"):
        read_pointer(location, deadline=soon(), patience=PATIENCE)
    for number, bundle in enumerate((real_bundle, newer_bundle)):
        pointer = publish_bundle(bundle, location, {"by": "a test"})
        assert read_pointer(location, deadline=soon(), patience=PATIENCE) == pointer
        target = tmp_path / str(number)
        fetch_published(location, pointer, target, deadline=soon(), patience=PATIENCE)
        assert load_bundle(target).version == pointer.version == load_bundle(bundle).version
    assert pointer.notes == {"by": "a test"}


@quiet
def test_a_store_that_is_slow_is_given_up_in_time(s3, real_bundle, tmp_path):
    location, proxy = s3
    publish_bundle(real_bundle, f"{location}/slow")
    proxy.pause_s = 0.6
    try:
        with pytest.raises(StorageError, match=r"cannot read|took too long"):
            read_pointer(f"{location}/slow", deadline=soon(20), patience=Patience(0.3, 0.3))
        with pytest.raises(StorageError, match="took too long"):
            read_pointer(f"{location}/slow", deadline=soon(0.1), patience=PATIENCE)
    finally:
        proxy.pause_s = 0.0
    pointer = read_pointer(f"{location}/slow", deadline=soon(), patience=PATIENCE)
    assert pointer.version == load_bundle(real_bundle).version


def test_a_synthetic_bundle_does_not_take_a_real_one_s_place(real_bundle, written_bundle, tmp_path):
    publish_bundle(written_bundle, tmp_path)
    publish_bundle(real_bundle, tmp_path)
    with pytest.raises(BundleError, match="synthetic rows must not take the place"):
        publish_bundle(written_bundle, tmp_path)
    assert read_pointer(tmp_path, deadline=soon()).origin == "real"


def test_a_damaged_bundle_is_not_published(bundle_folder, tmp_path):
    (bundle_folder / "card.md").write_text("# Other")
    with pytest.raises(BundleError, match=r"card\.md"):
        publish_bundle(bundle_folder, tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"content_hash": "../../etc"},
        {"files": {"../x": 1}},
        {"files": {"a/b": 1}},
        {"files": {"x": -1}},
        {"files": {f"f{n}": 1 for n in range(65)}},
        {"origin": "stolen"},
        {"name": 7},
        {"unknown": 1},
        {"notes": {"a": 1}},
        {"files": 7},
    ],
)
def test_a_pointer_that_nobody_publishes_is_refused(real_bundle, tmp_path, change):
    publish_bundle(real_bundle, tmp_path)
    plain = orjson.loads((tmp_path / POINTER_NAME).read_bytes())
    (tmp_path / POINTER_NAME).write_bytes(orjson.dumps({**plain, **change}))
    with pytest.raises(BundleError, match=r"latest\.json cannot be read|is refused"):
        read_pointer(tmp_path, deadline=soon())


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{", b"\xff" * 20, b" " * (2 << 20)])
def test_a_pointer_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / POINTER_NAME).write_bytes(content)
    with pytest.raises(BundleError, match=r"latest\.json cannot be read"):
        read_pointer(tmp_path, deadline=soon())


def test_a_bundle_with_missing_or_other_files_is_refused(real_bundle, tmp_path):
    store, target = tmp_path / "store", tmp_path / "got"
    pointer = publish_bundle(real_bundle, store)
    card = store / pointer.folder / "card.md"
    card.write_text("longer than it was before")
    with pytest.raises(BundleError, match=r"card\.md: got .* bytes instead of"):
        fetch_published(store, pointer, target, deadline=soon())
    card.unlink()
    with pytest.raises(BundleError, match=r"card\.md: got no such file"):
        fetch_published(store, pointer, target, deadline=soon())
    with pytest.raises(BundleError, match="too large"):
        fetch_published(
            store, pointer, target, deadline=soon(),
            limits=BundleLimits(manifest_bytes=10, total_bytes=10),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == [store]


def test_old_bundles_are_pruned_but_never_the_one_offered(real_bundle, newer_bundle, tmp_path):
    offered = publish_bundle(newer_bundle, tmp_path)
    publish_bundle(real_bundle, tmp_path)
    shutil.copytree(tmp_path / offered.folder, tmp_path / "bundles" / "fresh")
    offered = publish_bundle(newer_bundle, tmp_path)
    for name, age in ((offered.content_hash, 9e4), ("fresh", 60.0)):
        then = time.time() - age
        os.utime(tmp_path / "bundles" / name, (then, then))
    old = tmp_path / read_pointer(tmp_path, deadline=soon()).folder
    for path in (tmp_path / "bundles").iterdir():
        if path.name not in (old.name, "fresh"):
            os.utime(path, (time.time() - 8e4,) * 2)
    prune_published(tmp_path, keep=1)
    assert {path.name for path in (tmp_path / "bundles").iterdir()} == {old.name, "fresh"}


@pytest.fixture
def folder(tmp_path, written_bundle, real_bundle, newer_bundle):
    """Three bundles: an old and a new real one, and a synthetic one that is newer than both."""
    for age, (name, bundle) in enumerate(
        {"synthetic": written_bundle, "new": newer_bundle, "old": real_bundle}.items()
    ):
        shutil.copytree(bundle, tmp_path / name)
        os.utime(tmp_path / name / "manifest.json", (1e9 - age, 1e9 - age))
    return tmp_path


def test_the_newest_real_bundle_is_taken(folder):
    assert newest_bundle(folder).name == "new"
    shutil.rmtree(folder / "new")
    assert newest_bundle(folder).name == "old"
    shutil.rmtree(folder / "old")
    assert newest_bundle(folder).name == "synthetic"


def test_hidden_damaged_and_unreadable_folders_are_skipped(folder):
    (folder / "new").rename(folder / "new.damaged-abc")
    (folder / "old").rename(folder / ".old.tmp")
    (folder / "synthetic" / "manifest.json").write_text("[]")
    assert newest_bundle(folder).name == "synthetic"
    with pytest.raises(NothingOfferedError, match="of the model 'houses_model'"):
        newest_bundle(folder, "houses_model")


def test_a_name_picks_one_model(folder):
    assert newest_bundle(folder, "houses_model").name == "new"
    with pytest.raises(NothingOfferedError, match=r"no bundle under .* of the model 'other'"):
        newest_bundle(folder, "other")
