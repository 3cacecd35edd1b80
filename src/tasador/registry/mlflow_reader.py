"""A few questions to an MLflow registry, asked without MLflow: which version, where, its files.

`MlflowServer` asks a server's REST API. Why not `mlflow-skinny`: importing its client takes 2-3 s
and 85 MB in a service that has 2 s to be ready, it cannot be given a deadline, its timeouts and
retries are environment variables of the whole process, and it brings 25 packages.

`EmbeddedRegistry` reads the SQLite file of one machine without a server. MLflow's own store
migrates databases, needs SQLAlchemy, Alembic and pandas, and takes 3 s to import. Three columns of
three tables are read; a database that looks different is refused with a remedy.

A test compares every answer of both with MLflow's own client.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import sqlite3
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tasador.core import storage
from tasador.core.deadlines import Deadline
from tasador.core.errors import (
    BundleError,
    ConfigError,
    NothingOfferedError,
    RegistryError,
    RegistryRejectedError,
    StorageError,
)
from tasador.core.http import Patience, UnsafeAddressError, opened, read_body
from tasador.core.storage import is_plain, read_limited
from tasador.registry.versions import (
    DeletedVersionError,
    ModelVersion,
    OfferedVersion,
    RegistryReader,
)

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_ANSWER_BYTES = 4 << 20
_CHUNK = 1 << 16
#: What MLflow answers when there is no such model, alias, version or file.
_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class UnreadableRegistryError(RegistryRejectedError):
    """A registry that answered, or a database that was read, and is of no use."""

    @classmethod
    def not_mlflow(cls, shown: str, got: str) -> UnreadableRegistryError:
        """Return the error of a server that answers as no MLflow does."""
        return cls(
            f"the server at {shown} does not answer as MLflow does",
            got=got,
            remedy="check the address",
        )

    @classmethod
    def refused(cls, shown: str, got: str) -> UnreadableRegistryError:
        """Return the error of a server that wants other credentials, or another request."""
        return cls(
            f"the model registry at {shown} refused",
            got=got,
            remedy="check the address, the credentials, and that the server accepts this host "
            "(mlflow server --allowed-hosts)",
        )

    @classmethod
    def of_layout(cls, file: Path, error: sqlite3.Error) -> UnreadableRegistryError:
        """Return the error of a database that is not MLflow's, or another version's."""
        return cls(
            f"{file} is no MLflow registry of a known layout",
            got=str(error),
            remedy="start `mlflow server` on it and give the server's address",
        )

    @classmethod
    def unsafe_address(cls, shown: str, error: UnsafeAddressError) -> UnreadableRegistryError:
        """Return the error of a server that sends us into its own network, or ours."""
        return cls(
            f"the model registry at {shown} names an address that is not fetched from",
            got=str(error),
            remedy="let the server hand files out: mlflow server --artifacts-destination",
        )

    @classmethod
    def of_scheme(cls, scheme: str) -> UnreadableRegistryError:
        """Return the error of artifacts in a store that is not read here."""
        return cls(
            f"artifacts at {scheme}: cannot be read",
            expected="mlflow-artifacts:, http(s)://, gs://, s3:// or file:",
            remedy="let the server hand them out: mlflow server --artifacts-destination",
        )


class RegistryAwayError(RegistryError):
    """A registry that may answer later."""

    @classmethod
    def unreachable(cls, shown: str, reason: object) -> RegistryAwayError:
        """Return the error of a server that gave no answer."""
        return cls(
            f"the model registry at {shown} cannot be reached",
            got=f"{type(reason).__name__}: {reason}"[:200],
            remedy="check the address and that the server runs",
        )


class NotRegisteredError(NothingOfferedError):
    """A registry that has no such model, alias, version or file."""

    @classmethod
    def at_server(cls, shown: str, got: str) -> NotRegisteredError:
        """Return the error of a server that answers so."""
        return cls(
            f"the model registry at {shown} has nothing to offer",
            got=got,
            remedy="register a model with tasador run, or name another model or alias",
        )

    @classmethod
    def of(cls, what: str) -> NotRegisteredError:
        """Return the error of what a database does not hold."""
        return cls(
            f"there is {what}",
            remedy="register one with tasador run, or name another model or alias",
        )


class RegistryAddressError(ConfigError):
    """An address of a registry that is not read here."""

    @classmethod
    def of(cls, uri: str) -> RegistryAddressError:
        """Return the error of `uri`, whose password is left out."""
        return cls(
            "the model registry's address is of a kind that a service cannot read",
            expected="http://, https:// or sqlite:///",
            got=re.sub(r"://[^/@\s]+@", "://***@", uri),
            remedy="start `mlflow server` on that store and give its address",
        )


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

    def listed(self, model_name: str, deadline: Deadline) -> list[ModelVersion]:
        """Return every version of a model, the newest first; none when there is no such model.

        Errors as in `resolve`.
        """
        try:
            found = self._ask("/registered-models/get", {"name": model_name}, deadline)
        except NothingOfferedError:
            return []
        held = found.get("registered_model", {}).get("aliases", [])
        aliases = {one["alias"]: str(one["version"]) for one in held}
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
        else:
            content = self._read_file(artifact_uri, limit, deadline)
        if len(content) > limit:
            raise BundleError(f"{artifact_uri} is too large", expected=f"at most {limit} bytes")
        return content

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

    def _read_file(self, artifact_uri: str, limit: int, deadline: Deadline) -> bytes:
        location = local_path(artifact_uri)
        patience = storage.Patience(self.connect_s, self.read_s)
        try:
            return storage.read_limited(location, limit, deadline=deadline, patience=patience)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NothingOfferedError(f"there is no {artifact_uri}") from None
            raise

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


_VERSION = """
    SELECT name, version, run_id, storage_location, source FROM model_versions
    WHERE name = ? AND version = ? AND current_stage <> 'Deleted_Internal'
"""
_LISTED = """
    SELECT version, creation_time, source FROM model_versions
    WHERE name = ? AND current_stage <> 'Deleted_Internal' ORDER BY version DESC
"""
_MODELS = """
    SELECT DISTINCT name FROM model_versions
    WHERE current_stage <> 'Deleted_Internal' ORDER BY name
"""
_ALIASES = "SELECT alias, version FROM registered_model_aliases WHERE name = ?"
_Row = tuple[str, int, str | None, str | None, str | None]
_TAGS = "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?"
_ALIAS = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"


@dataclass(frozen=True)
class EmbeddedRegistry:
    """A registry in a SQLite file, such as `tasador run` makes in its workspace.

    Attributes:
        file: The database; never written, never made.
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

    def resolve(self, model_name: str, alias: str, deadline: Deadline) -> OfferedVersion:
        """Return the version that holds `alias`.

        Raises:
            NothingOfferedError: There is no such database, model or alias.
            RegistryRejectedError: The database is no registry of a known layout.
            RegistryError: It is locked, or the alias points at a version that was deleted.
        """
        with self._reading(deadline) as database:
            row = database.execute(_ALIAS, (model_name, alias)).fetchone()
            if row is None:
                what = f"no model {model_name!r} with the alias {alias!r} in {self.file}"
                raise NotRegisteredError.of(what)
            number = str(row[0])
            if database.execute(_VERSION, (model_name, number)).fetchone() is None:
                raise DeletedVersionError.of(alias, number)
            return self._offered(database, model_name, number)

    def version(self, model_name: str, number: str, deadline: Deadline) -> OfferedVersion:
        """Return the version of that number; errors as in `resolve`."""
        with self._reading(deadline) as database:
            return self._offered(database, model_name, number)

    def models(self, deadline: Deadline) -> list[str]:
        """Return the names of the models that have a version; errors as in `listed`."""
        with self._reading(deadline) as database:
            return [str(name) for (name,) in database.execute(_MODELS)]

    def listed(self, model_name: str, deadline: Deadline) -> list[ModelVersion]:
        """Return every version of a model, the newest first; none when there is no such model.

        Raises:
            NothingOfferedError: There is no such database.
            RegistryRejectedError: The database is no registry of a known layout.
            RegistryError: It is locked.
        """
        with self._reading(deadline) as database:
            aliases = dict(database.execute(_ALIASES, (model_name,)).fetchall())
            rows = database.execute(_LISTED, (model_name,)).fetchall()
            return [
                ModelVersion(
                    name=model_name,
                    number=str(number),
                    created=created / 1000.0,
                    source=source or "",
                    tags=dict(database.execute(_TAGS, (model_name, number)).fetchall()),
                    aliases=tuple(sorted(a for a, held in aliases.items() if held == number)),
                )
                for number, created, source in rows
            ]

    def locate(self, offered: OfferedVersion, deadline: Deadline) -> str:
        """Return the address of a version's files; errors as in `resolve`."""
        with self._reading(deadline) as database:
            *_, stored, source = self._row(database, offered.name, offered.version)
            return stored or source or ""

    def read_artifact(self, artifact_uri: str, limit: int, deadline: Deadline) -> bytes:
        """Return the content of one file; errors as in `MlflowServer`."""
        try:
            content = read_limited(local_path(artifact_uri), limit, deadline=deadline)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NothingOfferedError(f"there is no {artifact_uri}") from None
            raise
        if len(content) > limit:
            raise BundleError(f"{artifact_uri} is too large", expected=f"at most {limit} bytes")
        return content

    def _row(self, database: sqlite3.Connection, model_name: str, number: str) -> _Row:
        row: _Row | None = database.execute(_VERSION, (model_name, number)).fetchone()
        if row is None:
            raise NotRegisteredError.of(f"no version {number} of {model_name!r} in {self.file}")
        return row

    def _offered(
        self, database: sqlite3.Connection, model_name: str, number: str
    ) -> OfferedVersion:
        name, version, run_id, *_ = self._row(database, model_name, number)
        tags = dict(database.execute(_TAGS, (model_name, number)).fetchall())
        return OfferedVersion(name, str(version), run_id or "", tags)

    @contextmanager
    def _reading(self, deadline: Deadline) -> Iterator[sqlite3.Connection]:
        # SQLite would wait for a pipe of that name without end
        if not is_plain(self.file):
            raise NotRegisteredError.of(f"no registry at {self.file}")
        try:
            database = sqlite3.connect(
                f"{self.file.resolve().as_uri()}?mode=ro",
                uri=True,
                timeout=min(2.0, deadline.remaining()),
            )
            try:
                yield database
            finally:
                database.close()
        except sqlite3.OperationalError as error:
            if "no such" in str(error):
                raise UnreadableRegistryError.of_layout(self.file, error) from None
            raise RegistryError(f"{self.file} cannot be read", got=str(error)) from error
        except sqlite3.DatabaseError as error:
            raise UnreadableRegistryError.of_layout(self.file, error) from None


def registry_reader(uri: str, *, connect_s: float = 2.0, read_s: float = 5.0) -> RegistryReader:
    """Return what reads the registry at `uri`: a server, or the embedded one's database.

    Raises:
        ConfigError: The address has an unknown scheme.
    """
    if uri.startswith(("http://", "https://")):
        return MlflowServer(uri, connect_s, read_s)
    return EmbeddedRegistry.at(uri)
