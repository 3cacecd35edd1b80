"""The versions of one model in MLflow: list, alias, tag, fetch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasador.core.deadlines import Deadline
from tasador.core.errors import ConfigError, NothingOfferedError, RegistryError
from tasador.registry.format.signature import Trusted
from tasador.registry.mlflow.client import BRISK, open_client, sqlite_file, without_password
from tasador.registry.mlflow.registry import add_to_bundle, fetch_bundle
from tasador.registry.stores.default_version import only_model
from tasador.registry.stores.reader import registry_reader
from tasador.registry.stores.versions import ModelVersion

_PAGE = 100
_READ_S = 10.0


@dataclass(frozen=True)
class MlflowVersions:
    """See `tasador.registry.stores.versions.Versions` for what each method promises.

    Attributes:
        uri: The registry.
        name: The registered model.
    """

    uri: str
    name: str

    def all(self) -> list[ModelVersion]:
        with self._client() as client:
            aliases = _aliases(client, self.name)
            found = _pages(client.search_model_versions, f"name = '{self.name}'")
            versions = [_plain(one, aliases) for one in found]
        return sorted(versions, key=lambda version: -int(version.number))

    def aliases(self) -> dict[str, str]:
        with self._client() as client:
            return _aliases(client, self.name)

    def point(self, alias: str, number: str) -> None:
        with self._client() as client:
            client.set_registered_model_alias(self.name, alias, number)

    def drop(self, alias: str) -> None:
        with self._client() as client:
            client.delete_registered_model_alias(self.name, alias)

    def tag(self, number: str, key: str, value: str) -> None:
        with self._client() as client:
            client.set_model_version_tag(self.name, number, key, value)

    def fetch(self, number: str, destination: Path, trusted: Trusted = "configured") -> None:
        with open_client(self.uri) as client:
            source = str(client.get_model_version(self.name, number).source)
            fetch_bundle(source, self.uri, destination, trusted)

    def add(self, number: str, file: Path) -> None:
        """Put a file beside those of a version's bundle."""
        with open_client(self.uri) as client:
            add_to_bundle(str(client.get_model_version(self.name, number).source), self.uri, file)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        with open_client(self.uri, BRISK) as client:
            yield client


def versions_of(uri: str, name: str | None) -> MlflowVersions:
    """Return the versions of the model `name`; None takes the only one that is registered.

    Raises:
        RegistryError: The registry cannot be reached, is not there, or holds no such model.
        ConfigError: No name was given and several models are registered.
    """
    found = registered_models(uri)
    if name is None and found:
        return MlflowVersions(uri, only_model(found))
    if name not in found:
        raise RegistryError(
            f"no model {name!r} is registered" if name else "no model is registered",
            expected=f"one of {', '.join(found[:10])}" if found else None,
            remedy="register one with tasador run",
        )
    return MlflowVersions(uri, str(name))


def registered_models(uri: str) -> list[str]:
    """Return the names of the registered models, in order.

    Raises:
        RegistryError: The registry cannot be reached, or is not there.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise RegistryError(
            f"there is no model registry at {without_password(uri)}",
            remedy="train and register a model with tasador run, or name the registry: --registry",
        )
    with open_client(uri, BRISK) as client:
        return sorted(str(one.name) for one in _pages(client.search_registered_models, None))


def list_registered(uri: str) -> list[str]:
    """Return what `registered_models` does, without MLflow's packages where they are not needed."""
    try:
        return registry_reader(uri).models(Deadline.after(_READ_S))
    except NothingOfferedError:
        return []
    except ConfigError:  # of a kind that only MLflow reads
        return registered_models(uri)


def list_versions(uri: str, name: str) -> list[ModelVersion]:
    """Return a model's versions, the newest first; none when there is no such model or registry.

    Raises:
        RegistryError: The registry cannot be reached.
    """
    try:
        return registry_reader(uri).listed(name, Deadline.after(_READ_S))
    except NothingOfferedError:
        return []
    except ConfigError:  # of a kind that only MLflow reads
        return MlflowVersions(uri, name).all() if name in registered_models(uri) else []


def _pages(search: Any, query: str | None) -> Iterator[Any]:
    token = None
    while True:
        page = search(query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _aliases(client: Any, name: str) -> dict[str, str]:
    held = client.get_registered_model(name).aliases
    return {str(alias): str(number) for alias, number in held.items()}


def _plain(found: Any, aliases: dict[str, str]) -> ModelVersion:
    number = str(found.version)
    return ModelVersion(
        name=str(found.name),
        number=number,
        created=found.creation_timestamp / 1000.0,
        source=str(found.source),
        tags={str(key): str(value) for key, value in found.tags.items()},
        aliases=tuple(sorted(alias for alias, held in aliases.items() if held == number)),
    )
