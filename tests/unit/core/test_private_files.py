"""What holds secrets or rows is readable by its owner only, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fixtures.command_line import run_here
from fixtures.process import Server, free_port
from tasador.core.storage import make_private, tighten
from tasador.records.record import Record
from tasador.records.spool import Spool


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("open_umask")
def test_a_server_keeps_its_database_and_spool_to_itself(
    written_bundle: Path, tmp_path: Path, house: dict[str, object]
) -> None:
    (tmp_path / "tasador.db").touch(0o666)  # as an earlier version left it
    (tmp_path / "spool").mkdir(mode=0o777)
    server = Server(tmp_path, written_bundle, free_port())
    server.start()
    try:
        server.wait()
        answer = httpx.post(f"{server.url}/api/v1/predict", json={"instances": [house]})
        assert answer.status_code == 200
        found = {path.name: mode(path) for path in tmp_path.iterdir() if path.is_file()}
        assert {"tasador.db", "tasador.db-wal", "tasador.db-shm"} <= set(found)
        assert {name: one for name, one in found.items() if one & 0o077} == {}
        spools = [path for path in tmp_path.rglob("*.spool.db*") if path.is_file()]
        assert spools
        assert {mode(path) for path in spools} == {0o600}
        assert {mode(path.parent) for path in spools} == {0o700}
    finally:
        server.end()


@pytest.mark.usefixtures("open_umask")
def test_an_adopted_spool_file_is_tightened(tmp_path: Path) -> None:
    from tasador.records.spool import adopt

    spool = Spool(tmp_path / "spool", "normal", 1 << 20)
    spool.append([Record("a", 1.0, "v-1", "champion", "local", b"{}", 1.0, 0.0, 2.0, 0.9, 1.0)])
    spool.close()
    (file,) = (tmp_path / "spool").iterdir()
    file.chmod(0o666)
    chunks = adopt(tmp_path / "spool")
    assert next(chunks)[0].id == "a"
    assert mode(file) == 0o600
    chunks.close()


@pytest.mark.usefixtures("open_umask")
def test_a_keys_file_that_everybody_can_read_is_tightened_when_it_is_written(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys.txt"
    for before, after in ((None, 0o600), (0o644, 0o600), (0o640, 0o640)):
        if before is not None:
            file.chmod(before)
        assert run_here(tmp_path, "keys", "new", "app", "--file", str(file))[0] == 0
        assert mode(file) == after


@pytest.mark.usefixtures("open_umask")
def test_folders_and_files_are_made_private_and_those_of_others_are_left(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b", folder=True)
    make_private(tmp_path / "a" / "b" / "c")
    assert (mode(tmp_path / "a" / "b"), mode(tmp_path / "a" / "b" / "c")) == (0o700, 0o600)
    (tmp_path / "a" / "b" / "c").write_text("kept")
    make_private(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").read_text() == "kept"
    tighten(tmp_path / "nothing")
    if os.geteuid() == 0:
        other = tmp_path / "other"
        other.touch(0o666)
        os.chown(other, 12345, -1)
        tighten(other)
        assert mode(other) == 0o666
