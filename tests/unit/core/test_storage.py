"""One interface over local paths, gs:// and s3://."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from tasador.core import storage
from tasador.core.deadlines import Deadline
from tasador.core.errors import MissingExtraError, StorageError


@pytest.fixture(scope="module")
def s3_bucket():
    """An empty bucket in a real moto server."""
    moto = pytest.importorskip("moto.server")
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    with pytest.MonkeyPatch.context() as patch:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(key, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3").mkdir("tables")
        yield "s3://tables"
        server.stop()


@pytest.fixture(scope="module")
def gs_bucket():
    """An empty bucket in a real emulator of Google's object store."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    with pytest.MonkeyPatch.context() as patch:
        # set before the first import of gcsfs, which reads it once
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        pytest.importorskip("gcsfs")
        server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="tables")
        server.start()
        port = server._api._httpd.server_address[1]
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        yield "gs://tables"
        with contextlib.suppress(Exception):
            server.stop()


@pytest.fixture(params=["local", "s3", "gs"])
def base(request, tmp_path) -> str:
    """A place for files, of every sort there is."""
    if request.param == "local":
        return str(tmp_path / "tables")
    return request.getfixturevalue(f"{request.param}_bucket")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# moto's and the emulator's threads may leave a socket to the garbage collector
quiet = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@quiet
def test_what_is_written_is_read_back_anywhere(base, tmp_path):
    location = storage.join(base, "2026", "table.csv")
    assert not storage.exists(location)
    storage.write_bytes(location, b"one")
    storage.write_text(location, "zwölf")
    assert storage.exists(location)
    assert storage.read_bytes(location).decode() == "zwölf"
    with storage.open_read(location) as file:
        assert file.read(2) == b"zw"
    copy = storage.copy_to_local(location, tmp_path / "deep" / "copy.csv")
    assert copy.read_text(encoding="utf-8") == "zwölf"
    assert sorted(p.name for p in copy.parent.iterdir()) == ["copy.csv"]


@quiet
def test_reading_what_is_not_there_says_so_anywhere(base):
    with pytest.raises(StorageError, match=r"cannot read .*absent.* does not exist"):
        storage.read_bytes(storage.join(base, "absent"))


@quiet
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_writing_to_a_bucket_that_does_not_exist_is_a_storage_error(request, scheme):
    request.getfixturevalue(f"{scheme}_bucket")
    with pytest.raises(StorageError, match="cannot write"):
        storage.write_bytes(f"{scheme}://no-such-bucket-here/x", b"1")


def test_an_unreachable_store_is_a_storage_error(monkeypatch, s3_bucket):
    class Refusing:
        def exists(self, _):
            raise type("ClientError", (Exception,), {"__module__": "botocore.exceptions"})("403")

    monkeypatch.setattr(storage, "_filesystem", lambda _: Refusing())
    with pytest.raises(StorageError, match=r"ClientError: 403.*credentials"):
        storage.exists("s3://tables/x")


def test_a_mistake_in_our_own_code_is_not_blamed_on_the_store(monkeypatch):
    monkeypatch.setattr(storage, "_filesystem", lambda _: None)
    with pytest.raises(AttributeError, match="exists"):
        storage.exists("s3://tables/x")


@pytest.mark.parametrize(
    ("scheme", "driver", "extra"), [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")]
)
def test_a_missing_driver_names_the_extra_to_install(monkeypatch, scheme, driver, extra):
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(MissingExtraError, match=rf"'{driver}'.*{extra}"):
        storage.read_bytes(f"{scheme}://bucket/key")


def test_locations_are_told_apart_and_joined():
    assert storage.is_remote("gs://b/k")
    assert storage.is_remote("s3://b/k")
    assert not storage.is_remote("/tmp/gs:/x")
    assert not storage.is_remote(Path("data.csv"))
    assert storage.join("s3://b/", "/a/", "c") == "s3://b/a/c"
    assert storage.join(Path("a"), "b", "c") == str(Path("a/b/c"))


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "denied")],
)
def test_a_refusing_disk_is_explained_and_leaves_the_old_file(tmp_path, monkeypatch, code, words):
    path = tmp_path / "kept.txt"
    storage.write_text(path, "old")

    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=words):
        storage.write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["kept.txt"]


def test_a_really_full_device_is_a_storage_error(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(storage, "_sibling", lambda _: tmp_path / "link")
    real_open = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r": real_open(Path("/dev/full"), mode.replace("x", "w"))
    )
    with pytest.raises(StorageError, match="disk is full"):
        storage.write_bytes(tmp_path / "table", b"x" * 100_000)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_nothing_behind(tmp_path, interruption):
    def write_half_a_file():
        with storage.atomic_file(tmp_path / "new.bin") as file:
            file.write(b"half")
            raise interruption("stop")

    def fill_half_a_folder():
        with storage.atomic_folder(tmp_path / "folder") as folder:
            (folder / "half").write_text("x")
            raise interruption("stop")

    for interrupted in (write_half_a_file, fill_half_a_folder):
        with pytest.raises(interruption, match="stop"):
            interrupted()
    assert names_in(tmp_path) == []


def test_writing_onto_a_folder_is_refused(tmp_path):
    with pytest.raises(StorageError, match="it is a folder"):
        storage.write_text(tmp_path, "x")
    with pytest.raises(StorageError, match="it is a folder"):
        storage.read_bytes(tmp_path)


def test_a_folder_appears_at_once_and_replaces_the_older_one(tmp_path):
    path = tmp_path / "bundle"
    for content in ("first", "second"):
        with storage.atomic_folder(path) as folder:
            (folder / content).write_text(content)
            assert folder.parent == path.parent
            assert folder != path
    assert names_in(path) == ["second"]
    assert names_in(tmp_path) == ["bundle"]


def test_an_older_folder_survives_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").touch()
    rename = Path.rename

    def refuse(source: Path, target: Path):
        if source != path and target == path and (source / "new").exists():
            raise OSError(errno.ENOSPC, "full")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match="disk is full"), storage.atomic_folder(path) as folder:
        (folder / "new").touch()
    assert names_in(path) == ["old"]
    assert names_in(tmp_path) == ["bundle"]


def test_a_callers_own_missing_file_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), storage.atomic_folder(tmp_path / "x"):
        (tmp_path / "nowhere").read_text()


def test_an_unnamed_system_error_keeps_its_text(monkeypatch, tmp_path):
    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        storage.write_text(tmp_path / "x", "y")


def test_patterns_find_files_anywhere_and_a_change_shows(base):
    for name in ("b.csv", "a.csv", "c.txt"):
        storage.write_text(storage.join(base, "in", name), name)
    found = storage.find(storage.join(base, "in", "*.csv"))
    assert found == [storage.join(base, "in", name) for name in ("a.csv", "b.csv")]
    assert storage.find(storage.join(base, "in", "gone.csv")) == [
        storage.join(base, "in", "gone.csv")
    ]
    assert storage.find(storage.join(base, "in", "gone*")) == []
    before = storage.stamp(found[0])
    assert before.size == len("a.csv")
    assert storage.stamp(found[0]) == before
    storage.write_text(found[0], "A.csv")
    assert storage.stamp(found[0]) != before
    with pytest.raises(StorageError, match="does not exist"):
        storage.stamp(storage.join(base, "in", "gone.csv"))


def test_a_name_with_brackets_is_a_name(tmp_path):
    (tmp_path / "a[1].csv").write_text("")
    assert storage.find(tmp_path / "a[1].csv") == [str(tmp_path / "a[1].csv")]


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "link to a pipe"])
def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "thing"
    if kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "socket":
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(place))
        bound.close()
    else:
        os.mkfifo(tmp_path / "pipe")
        place.symlink_to("pipe")
    found = place if kind != "pipe" else tmp_path / "pipe"
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"a pipe, a device or a socket.*plain file"):
        storage.read_bytes(found)
    with pytest.raises(StorageError, match="a pipe, a device or a socket"):
        storage.read_limited(found, 10, deadline=Deadline.after(5.0))
    assert time.monotonic() - started < 1.0
