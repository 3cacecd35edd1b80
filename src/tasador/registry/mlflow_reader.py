"""A few questions to an MLflow registry, asked without MLflow: which version, where, its files.

`MlflowServer` asks a server's REST API. Why not `mlflow-skinny`: importing its client takes 2-3 s
and 85 MB in a service that has 2 s to be ready, it cannot be given a deadline, its timeouts and
retries are environment variables of the whole process, and it brings 25 packages.

`EmbeddedRegistry` answers the same from a file, for a registry without a server. MLflow's own store
needs SQLAlchemy, Alembic and pandas and takes 3 s to import, and its tables are its own affair. So
every command of ours that opened the registry with MLflow leaves a snapshot file beside the SQLite
database with all models, versions and aliases (`mlflow.client`), and services and commands read
that. The database's change counter tells when somebody else has changed it, MLflow's user interface
for instance: a process with MLflow then writes the file again.

A test compares every answer of both with MLflow's own client.
"""

from __future__ import annotations

import base64
import http.client
import importlib.util
import logging
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tasador.core import storage
from tasador.core.deadlines import Deadline
from tasador.core.errors import BundleError, NothingOfferedError, RegistryError, StorageError
from tasador.core.http import Patience, UnsafeAddressError, opened, read_body
from tasador.core.storage import is_plain, read_limited
from tasador.registry.versions import (
    DeletedVersionError,
    ModelVersion,
    NotRegisteredError,
    OfferedVersion,
    RegistryAddressError,
    RegistryAwayError,
    RegistryReader,
    UnreadableRegistryError,
)

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_ANSWER_BYTES = 4 << 20
_CHUNK = 1 << 16
#: What MLflow answers when there is no such model, alias, version or file.
_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

_FORMAT = 1
_SNAPSHOT_BYTES = 256 << 20
_SQLITE = b"SQLite format 3\0"
_RENEW_S = 120.0
_AGAIN_S = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MlflowServer:
    """An MLflow server: its address, and how long it may keep us waiting.

    Credentials are taken from the address, or from the variables that MLflow itself reads
    (``MLFLOW_TRACKING_USERNAME`` and ``_PASSWORD``, or ``_TOKEN``), and sent to no other host.
    Proxies are those of the environment; ``MLFLOW_TRACKING_SERVER_CERT_PATH`` names a certificate.

    Attributes:
        uri: ``http://`` or ``https://``, with a path where the server is behind one.
        connect_s: Seconds for a connection.
        read_s: Seconds of silence while an answer is read.
        environment: Where the variables are looked up.
    """

    uri: str
    connect_s: float = 2.0
    read_s: float = 5.0
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def resolve(self, model_name: str, alias: str, deadline: Deadline) -> OfferedVersion:
        """Return the version that holds `alias`.

        Raises:
            NothingOfferedError: There is no such model or alias.
            RegistryRejectedError: The server wants other credentials, or is none of MLflow's.
            RegistryError: It cannot be reached, or is in trouble.
        """
        query = {"name": model_name, "alias": alias}
        return self._offered(self._ask("/registered-models/alias", query, deadline))

    def version(self, model_name: str, number: str, deadline: Deadline) -> OfferedVersion:
        """Return the version of that number; errors as in `resolve`."""
        query = {"name": model_name, "version": number}
        return self._offered(self._ask("/model-versions/get", query, deadline))

    def models(self, deadline: Deadline) -> list[str]:
        """Return the names of the models that have a version; errors as in `resolve`."""
        query, names = {"max_results": "200"}, []
        for page in self._pages("/registered-models/search", query, deadline):
            found = page.get("registered_models", [])
            names += [str(one["name"]) for one in found if one.get("latest_versions")]
        return sorted(names)

    def aliases(self, model_name: str, deadline: Deadline) -> dict[str, str]:
        """Return the version's number by alias; errors as in `resolve`."""
        found = self._ask("/registered-models/get", {"name": model_name}, deadline)
        held = found.get("registered_model", {}).get("aliases", [])
        return {str(one["alias"]): str(one["version"]) for one in held}

    def listed(self, model_name: str, deadline: Deadline) -> list[ModelVersion]:
        """Return every version of a model, the newest first; none when there is no such model.

        Errors as in `resolve`.
        """
        try:
            aliases = self.aliases(model_name, deadline)
        except NothingOfferedError:
            return []
        query = {"filter": f"name='{model_name}'", "max_results": "200"}
        versions: list[ModelVersion] = []
        for page in self._pages("/model-versions/search", query, deadline):
            versions += [_plain(one, aliases) for one in page.get("model_versions", [])]
        return sorted(versions, key=lambda version: -int(version.number))

    def locate(self, offered: OfferedVersion, deadline: Deadline) -> str:
        """Return the address of a version's files; errors as in `resolve`."""
        query = {"name": offered.name, "version": offered.version}
        plain = self._ask("/model-versions/get-download-uri", query, deadline)
        address = plain.get("artifact_uri")
        if not isinstance(address, str):
            raise UnreadableRegistryError.not_mlflow(self._shown, "no artifact_uri")
        return address

    def read_artifact(self, artifact_uri: str, limit: int, deadline: Deadline) -> bytes:
        """Return the content of one file among a run's artifacts.

        Args:
            artifact_uri: ``mlflow-artifacts:`` (through the server), ``http(s)://``, ``gs://``,
                ``s3://``, ``file:`` or a path.
            limit: Most bytes; a longer file is refused.
            deadline: When to stop.

        Raises:
            NothingOfferedError: There is no such file.
            BundleError: It is longer than `limit`.
            RegistryRejectedError: The address is not one of HTTP, or credentials are refused.
            RegistryError: The server cannot be reached, or stopped half way.
            StorageError: The store or the disk cannot be read, or the deadline passed.
        """
        scheme = artifact_uri.partition(":")[0] if "://" in artifact_uri else ""
        if artifact_uri.startswith("mlflow-artifacts:") or scheme in ("http", "https"):
            with self._opened(self._artifact_address(artifact_uri), deadline) as response:
                content = read_body(response, limit, deadline, artifact_uri)
                return checked_size(artifact_uri, content, limit)
        patience = storage.Patience(self.connect_s, self.read_s)
        return read_file(artifact_uri, limit, deadline, patience)

    def _offered(self, plain: Mapping[str, Any]) -> OfferedVersion:
        try:
            found = plain["model_version"]
            return OfferedVersion(
                name=str(found["name"]),
                version=str(found["version"]),
                run_id=str(found.get("run_id", "")),
                tags={tag["key"]: tag["value"] for tag in found.get("tags", [])},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UnreadableRegistryError.not_mlflow(self._shown, f"no {error}") from None

    def _pages(
        self, path: str, query: dict[str, str], deadline: Deadline
    ) -> Iterator[dict[str, Any]]:
        while True:
            page = self._ask(path, query, deadline)
            yield page
            token = page.get("next_page_token")
            if not token:
                return
            query = {**query, "page_token": str(token)}

    def _ask(self, path: str, query: Mapping[str, str], deadline: Deadline) -> dict[str, Any]:
        address = f"{self._base}{_API}{path}?{urllib.parse.urlencode(query)}"
        with self._opened(address, deadline) as response:
            body = read_body(response, _ANSWER_BYTES, deadline, self._shown)
        try:
            plain = orjson.loads(body)
        except orjson.JSONDecodeError:
            plain = None
        if not isinstance(plain, dict):
            got = "an answer that is no JSON object"
            raise UnreadableRegistryError.not_mlflow(self._shown, got)
        return plain

    @contextmanager
    def _opened(self, address: str, deadline: Deadline) -> Iterator[http.client.HTTPResponse]:
        """Send one request; any answer but 200 is an error."""
        try:
            deadline.check(f"asking {self._shown}")
            patience = Patience(self.connect_s, self.read_s, deadline)
            # another port of the registry's host is as much on its own network as the registry
            named = urllib.parse.urlsplit(address).hostname == self._host
            request = self._request(address)
            with opened(request, patience, tls=self._tls(), named=named) as response:
                if response.status != 200:
                    raise self._error_of(response)
                yield response
        except (OSError, http.client.HTTPException) as error:
            # urllib wraps what went wrong; a refused address would otherwise pass for an outage
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, UnsafeAddressError):
                raise UnreadableRegistryError.unsafe_address(self._shown, reason) from None
            raise RegistryAwayError.unreachable(self._shown, reason) from error

    def _request(self, address: str) -> urllib.request.Request:
        headers = {"Accept": "*/*", "User-Agent": "tasador"}
        # the server may name any host for its files: only its own gets the credentials
        if _place(address) == _place(self._base):
            headers |= self._credentials()
        return urllib.request.Request(address, headers=headers)  # noqa: S310 - http(s) only

    def _credentials(self) -> dict[str, str]:
        parts = urllib.parse.urlsplit(self.uri)
        user = parts.username or self.environment.get("MLFLOW_TRACKING_USERNAME")
        password = parts.password or self.environment.get("MLFLOW_TRACKING_PASSWORD") or ""
        if user:
            plain = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
            return {"Authorization": f"Basic {base64.b64encode(plain.encode()).decode()}"}
        token = self.environment.get("MLFLOW_TRACKING_TOKEN")
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _tls(self) -> ssl.SSLContext | None:
        if not self._base.startswith("https"):
            return None
        return ssl.create_default_context(
            cafile=self.environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
        )

    @property
    def _base(self) -> str:
        """The address without credentials."""
        parts = urllib.parse.urlsplit(self.uri)
        # what follows the last @: a password may hold one
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"

    @property
    def _host(self) -> str | None:
        return urllib.parse.urlsplit(self._base).hostname

    @property
    def _shown(self) -> str:
        return self._base

    def _artifact_address(self, artifact_uri: str) -> str:
        parts = urllib.parse.urlsplit(artifact_uri)
        if parts.scheme != "mlflow-artifacts":
            return artifact_uri
        path = urllib.parse.quote(urllib.parse.unquote(parts.path).lstrip("/"))
        base = self._base
        if parts.netloc:
            base = f"{urllib.parse.urlsplit(base).scheme}://{parts.netloc}"
        return f"{base}{_ARTIFACTS}/{path}"

    def _error_of(self, response: http.client.HTTPResponse) -> Exception:
        """Return the error for an answer other than 200."""
        code, said = "", ""
        try:
            # one read at most: an error page may be of any length, or never end
            plain = orjson.loads(response.read1(_CHUNK))
            code, said = str(plain["error_code"]), str(plain["message"])
        except (ValueError, TypeError, KeyError, OSError):
            said = response.headers.get("Location") or response.reason
        got = f"{response.status} {code} {said}"[:300]
        if response.status == 404 or code in _ABSENT:
            return NotRegisteredError.at_server(self._shown, got)
        if response.status in _PASSING:
            return RegistryAwayError(f"the model registry at {self._shown} is in trouble", got=got)
        return UnreadableRegistryError.refused(self._shown, got)


def _place(address: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(address)
    return parts.scheme, parts.netloc


def _plain(found: Mapping[str, Any], aliases: Mapping[str, str]) -> ModelVersion:
    number = str(found["version"])
    return ModelVersion(
        name=str(found["name"]),
        number=number,
        created=float(found.get("creation_timestamp", 0)) / 1000.0,
        source=str(found.get("source", "")),
        tags={str(tag["key"]): str(tag["value"]) for tag in found.get("tags", [])},
        aliases=tuple(sorted(alias for alias, held in aliases.items() if held == number)),
    )


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

    def aliases(self, model_name: str, _: Deadline) -> dict[str, str]:
        """Return the version's number by alias; errors as in `resolve`."""
        model = self._models().get(model_name)
        if model is None:
            raise NotRegisteredError.of(f"no model {model_name!r} in {self.file}")
        return dict(model.aliases)

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


def registry_reader(uri: str, *, connect_s: float = 2.0, read_s: float = 5.0) -> RegistryReader:
    """Return what reads the registry at `uri`: a server, or the embedded one's database.

    Raises:
        ConfigError: The address has an unknown scheme.
    """
    if uri.startswith(("http://", "https://")):
        return MlflowServer(uri, connect_s, read_s)
    return EmbeddedRegistry.at(uri)
