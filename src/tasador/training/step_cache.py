"""The steps' results, kept by content key and verified before they are used again."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasador.core import clock
from tasador.core.hashing import sha256_file
from tasador.core.storage import atomic_folder

_log = logging.getLogger(__name__)
_SHOWN = 120


@contextmanager
def one_at_a_time(path: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock on `path` while the body runs; wait for it while somebody else has it.

    Who holds it is written in the file, for people: the lock itself is the system's, so that a
    holder that was killed leaves none behind. Where the file cannot be made, or its file system
    knows no locks, the body runs without one and a warning says so.

    Args:
        path: A file, made when missing and kept.
        on_wait: Called with who holds it, before waiting.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        _log.warning("%s cannot be locked (%s): start nothing else there", path, error.strerror)
        yield
        return
    try:
        _acquire(file, path, on_wait)
        yield
    finally:
        os.close(file)  # which also releases the lock


def _acquire(file: int, path: Path, on_wait: Callable[[str], None]) -> None:
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            on_wait(_holder(file))
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        _log.warning("%s cannot be locked (%s): start nothing else there", path, error.strerror)
        return
    with suppress(OSError):  # a full disk: only the message of who waits suffers
        os.ftruncate(file, 0)
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:_SHOWN]
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": clock.timestamp()}
        os.pwrite(file, json.dumps(me | {"command": command}).encode(), 0)


def _holder(file: int) -> str:
    """Return who holds the lock, as far as the file says."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
        place = "" if found["host"] == socket.gethostname() else f" on {found['host']}"
        return f"process {found['pid']}{place} ({found['command']}, since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


_SEAL = "artifact.json"


class StepCache:
    """Results under ``<root>/<step>/<key>``, each with the hashes of its files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, step: str, key: str) -> Path | None:
        """Return the folder of an intact result, or None when it must be made (again)."""
        folder = self._root / step / key
        if not folder.exists():
            return None
        try:
            files = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
            for name, digest in files.items():
                if sha256_file(folder / name) != digest:
                    raise ValueError(f"{name} has changed")
        except (OSError, ValueError, AttributeError) as error:
            _log.warning("the cached result of %s is damaged (%s): made again", step, error)
            return None
        return folder

    @contextmanager
    def create(self, step: str, key: str) -> Iterator[Path]:
        """Give a folder to fill; it becomes the result only when the body ends well."""
        target = self._root / step / key
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as folder:
            yield folder
            files = {
                path.relative_to(folder).as_posix(): sha256_file(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            (folder / _SEAL).write_text(json.dumps(files, indent=1), encoding="utf-8")

    def journal(self, step: str, key: str) -> Path:
        """Return the file in which a step notes what it has finished, to resume from."""
        return self._root / step / f"{key}.journal.jsonl"
