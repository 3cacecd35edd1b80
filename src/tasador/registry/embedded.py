"""A model registry in a SQLite file, followed without MLflow by the snapshot file beside it.

MLflow's own store needs SQLAlchemy, Alembic and pandas and takes 3 s to import, and its tables are
its own affair. So every command of ours that opened the registry with MLflow leaves a file with all
models, versions and aliases (`mlflow.client`), and services and commands read that. The database's
change counter tells when somebody else has changed it, MLflow's user interface for instance: a
process with MLflow then writes the file again.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from tasador.core import storage
from tasador.core.deadlines import Deadline
from tasador.core.errors import BundleError, NothingOfferedError, RegistryError, StorageError
from tasador.core.storage import is_plain, read_limited
from tasador.registry.errors import (
    NotRegisteredError,
    RegistryAddressError,
    UnreadableRegistryError,
)
from tasador.registry.versions import DeletedVersionError, ModelVersion, OfferedVersion

_log = logging.getLogger(__name__)
_FORMAT = 1
_SNAPSHOT_BYTES = 256 << 20
_SQLITE = b"SQLite format 3\0"
_RENEW_S = 120.0
_AGAIN_S = 60.0


@dataclass(frozen=True)
class StoredVersion:
    """A version as the snapshot file has it: `ModelVersion`, its run and its files' address."""

    number: str
    created: float
    source: str
    location: str
    run_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class StoredModel:
    """A registered model as the snapshot file has it; its versions are the newest first."""

    aliases: Mapping[str, str]
    versions: Sequence[StoredVersion]

    def version(self, number: str) -> StoredVersion | None:
        """Return the version of that number; None when there is none."""
        return next((one for one in self.versions if one.number == number), None)


def snapshot_file(database: Path) -> Path:
    """Return where the snapshot file of a registry in a SQLite file is."""
    return database.with_name(f"{database.name}.json")


def change_stamp(database: Path) -> list[int]:
    """Return numbers that differ whenever a SQLite file was written to.

    They are its header's change counter (bytes 24 to 27 of SQLite's documented file format) and the
    sizes of the file and of its write-ahead log; a copy of the file has the same.

    Raises:
        RegistryRejectedError: It is no SQLite file.
        StorageError: It cannot be read.
    """
    try:
        with database.open("rb") as file:
            header = file.read(100)
        log = database.with_name(f"{database.name}-wal")
        logged = [log.stat().st_size, log.stat().st_mtime_ns] if log.exists() else [0, 0]
        size = database.stat().st_size
    except OSError as error:
        raise StorageError(f"{database} cannot be read", got=error.strerror) from error
    if not header.startswith(_SQLITE):
        raise UnreadableRegistryError.of_layout(database, "no SQLite file")
    return [int.from_bytes(header[24:28], "big"), size, *logged]


def write_snapshot(database: Path, stamp: list[int], models: Mapping[str, StoredModel]) -> None:
    """Write the snapshot file of a registry.

    Args:
        database: The registry's SQLite file.
        stamp: Its `change_stamp` before `models` were read from it.
        models: Every registered model by its name.

    Raises:
        StorageError: The disk refuses.
    """
    plain = {
        "format": _FORMAT,
        "stamp": stamp,
        "models": {name: asdict(model) for name, model in models.items()},
    }
    storage.write_bytes(snapshot_file(database), orjson.dumps(plain, option=orjson.OPT_INDENT_2))


def read_snapshot(database: Path) -> tuple[list[int], dict[str, StoredModel]] | None:
    """Return the stamp and the models of a snapshot file; None without one that can be used."""
    file = snapshot_file(database)
    if not is_plain(file):
        return None
    try:
        plain = orjson.loads(read_limited(file, _SNAPSHOT_BYTES, deadline=Deadline.after(_RENEW_S)))
        if plain["format"] != _FORMAT:
            return None
        models = {
            name: StoredModel(
                dict(one["aliases"]), [StoredVersion(**version) for version in one["versions"]]
            )
            for name, one in plain["models"].items()
        }
        return list(plain["stamp"]), models
    except (StorageError, ValueError, KeyError, TypeError, AttributeError):
        return None


def local_path(artifact_uri: str) -> storage.Location:
    """Return the path of a ``file:`` address; paths and object stores' addresses as they are.

    Raises:
        RegistryRejectedError: The address is of a kind that is not read here.
    """
    if storage.is_remote(artifact_uri):
        return artifact_uri
    parts = urllib.parse.urlsplit(artifact_uri)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    if parts.scheme:
        raise UnreadableRegistryError.of_scheme(parts.scheme)
    return Path(artifact_uri)


def read_file(
    artifact_uri: str, limit: int, deadline: Deadline, patience: storage.Patience | None = None
) -> bytes:
    """Return a file's content, wherever but at a server of MLflow it is.

    Raises:
        NothingOfferedError: There is no such file.
        BundleError: It is longer than `limit`.
        RegistryRejectedError: Its address is of a kind that is not read here.
        StorageError: The store or the disk cannot be read, or the deadline passed.
    """
    place = local_path(artifact_uri)
    try:
        content = read_limited(place, limit, deadline=deadline, patience=patience)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise NothingOfferedError(f"there is no {artifact_uri}") from None
        raise
    return checked_size(artifact_uri, content, limit)


def checked_size(artifact_uri: str, content: bytes, limit: int) -> bytes:
    """Return the content of a file unless it has more than `limit` bytes."""
    if len(content) > limit:
        raise BundleError(f"{artifact_uri} is too large", expected=f"at most {limit} bytes")
    return content


@dataclass(frozen=True)
class EmbeddedRegistry:
    """A registry in a SQLite file, such as `tasador run` makes in its workspace.

    Attributes:
        file: The database; neither read nor made, except for its change counter.
    """

    file: Path

    @classmethod
    def at(cls, uri: str) -> EmbeddedRegistry:
        """Return the registry at ``sqlite:///path``.

        Raises:
            ConfigError: The address has an unknown scheme.
        """
        match = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", uri)
        if match is None:
            raise RegistryAddressError.of(uri)
        return cls(Path(match.group(1)))

    def resolve(self, model_name: str, alias: str, _: Deadline) -> OfferedVersion:
        """Return the version that holds `alias`.

        Raises:
            NothingOfferedError: There is no such database, model or alias.
            RegistryRejectedError: The file is no registry, or MLflow is needed to read it.
            RegistryError: MLflow failed, or the alias points at a version that was deleted.
        """
        model = self._models().get(model_name)
        if model is None or alias not in model.aliases:
            what = f"no model {model_name!r} with the alias {alias!r} in {self.file}"
            raise NotRegisteredError.of(what)
        found = model.version(model.aliases[alias])
        if found is None:
            raise DeletedVersionError.of(alias, model.aliases[alias])
        return OfferedVersion(model_name, found.number, found.run_id, found.tags)

    def version(self, model_name: str, number: str, _: Deadline) -> OfferedVersion:
        """Return the version of that number; errors as in `resolve`."""
        found = self._stored(model_name, number)
        return OfferedVersion(model_name, found.number, found.run_id, found.tags)

    def models(self, _: Deadline) -> list[str]:
        """Return the names of the models that have a version; errors as in `resolve`."""
        return sorted(name for name, model in self._models().items() if model.versions)

    def listed(self, model_name: str, _: Deadline) -> list[ModelVersion]:
        """Return every version of a model, the newest first; errors as in `resolve`."""
        model = self._models().get(model_name)
        if model is None:
            return []
        return [
            ModelVersion(
                model_name, one.number, one.created, one.source, one.tags,
                tuple(sorted(a for a, held in model.aliases.items() if held == one.number)),
            )
            for one in model.versions
        ]  # fmt: skip

    def locate(self, offered: OfferedVersion, _: Deadline) -> str:
        """Return the address of a version's files; errors as in `resolve`."""
        return self._stored(offered.name, offered.version).location

    def read_artifact(self, artifact_uri: str, limit: int, deadline: Deadline) -> bytes:
        """Return the content of one file; errors as in `MlflowServer`."""
        return read_file(artifact_uri, limit, deadline)

    def _stored(self, model_name: str, number: str) -> StoredVersion:
        model = self._models().get(model_name)
        found = None if model is None else model.version(number)
        if found is None:
            raise NotRegisteredError.of(f"no version {number} of {model_name!r} in {self.file}")
        return found

    def _models(self) -> dict[str, StoredModel]:
        """Return what is registered; the snapshot file is renewed first when the database changed.

        A change is one made with MLflow itself, its user interface for instance: tasador's own
        commands renew the file when they end.
        """
        # a pipe of that name would keep a reader waiting without end
        if not is_plain(self.file):
            raise NotRegisteredError.of(f"no registry at {self.file}")
        with _renewing:  # of two threads the second finds what the first has renewed
            stamp, found = change_stamp(self.file), read_snapshot(self.file)
            if found is None or found[0] != stamp:
                problem = self._renew(stamp)
                found = read_snapshot(self.file) or found
                if found is None:
                    raise problem or UnreadableRegistryError.of_layout(self.file, "no snapshot")
                if problem is not None and _warned.get(self.file) != stamp:
                    _warned[self.file] = stamp
                    _log.warning("an older state of %s is used: %s", self.file, problem)
        return found[1]

    def _renew(self, stamp: list[int]) -> RegistryError | None:
        """Let a process with MLflow write the snapshot file; return why that was not possible."""
        if importlib.util.find_spec("mlflow") is None:
            return UnreadableRegistryError.without_mlflow(self.file, snapshot_file(self.file))
        failed = _failed.get(self.file)
        if failed and failed[0] == stamp and time.monotonic() - failed[1] < _AGAIN_S:
            return failed[2]
        command = [sys.executable, "-m", "tasador.registry.mlflow.client", str(self.file)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_RENEW_S, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            if done.returncode == 0:
                return None
            said = done.stderr.strip()[-500:]
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        problem = UnreadableRegistryError.of_layout(self.file, said)
        _failed[self.file] = (stamp, time.monotonic(), problem)
        return problem


#: Not tried again at every poll: what MLflow could not read it cannot read in the next second.
_failed: dict[Path, tuple[list[int], float, RegistryError]] = {}
#: The state of which was said that it is not read: once, not at every poll.
_warned: dict[Path, list[int]] = {}
_renewing = threading.Lock()
