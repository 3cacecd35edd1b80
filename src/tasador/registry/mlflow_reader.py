"""A few questions to an MLflow registry, asked without MLflow: which version, where, its files.

`MlflowServer` asks a server's REST API. Why not `mlflow-skinny`: importing its client takes 2-3 s
and 85 MB in a service that has 2 s to be ready, it cannot be given a deadline, its timeouts and
retries are environment variables of the whole process, and it brings 25 packages.

`embedded.EmbeddedRegistry` answers the same from a file, for a registry without a server.
A test compares every answer of both with MLflow's own client.
"""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from tasador.core import storage
from tasador.core.deadlines import Deadline
from tasador.core.errors import NothingOfferedError
from tasador.core.http import Patience, UnsafeAddressError, opened, read_body
from tasador.registry.embedded import EmbeddedRegistry, checked_size, read_file
from tasador.registry.errors import NotRegisteredError, RegistryAwayError, UnreadableRegistryError
from tasador.registry.versions import ModelVersion, OfferedVersion, RegistryReader

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_ANSWER_BYTES = 4 << 20
_CHUNK = 1 << 16
#: What MLflow answers when there is no such model, alias, version or file.
_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


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


def registry_reader(uri: str, *, connect_s: float = 2.0, read_s: float = 5.0) -> RegistryReader:
    """Return what reads the registry at `uri`: a server, or the embedded one's database.

    Raises:
        ConfigError: The address has an unknown scheme.
    """
    if uri.startswith(("http://", "https://")):
        return MlflowServer(uri, connect_s, read_s)
    return EmbeddedRegistry.at(uri)
