"""Where bundles come from: a model registry, an object store, a folder, the last good copy."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tasador.core.deadlines import Deadline
from tasador.core.errors import BundleError, NothingOfferedError, RegistryError, StorageError
from tasador.core.hashing import fingerprint
from tasador.core.storage import Patience, local_folder, require_driver
from tasador.registry.bundle.model_bundle import ModelBundle
from tasador.registry.format.integrity import BundleLimits, read_verified
from tasador.registry.format.manifest import MANIFEST_NAME
from tasador.registry.stores.local import newest_bundle
from tasador.registry.stores.mlflow_reader import registry_reader
from tasador.registry.stores.published import (
    Pointer,
    fetch_published,
    prune_published,
    publish_bundle,
    read_pointer,
)
from tasador.registry.stores.versions import Choice, RegistryReader, fetch_offered
from tasador.settings.serving import SourceSettings


class BundleSource(Protocol):
    """Something that offers one bundle at a time."""

    @property
    def name(self) -> str:
        """One of `source_settings.SOURCE_NAMES`."""
        ...

    def identity(self, deadline: Deadline) -> str:
        """Return a text that changes whenever another bundle is offered; cheap.

        Raises:
            NothingOfferedError: The source answered, and has nothing.
            TasadorError: It cannot be reached, refuses, or took too long.
        """
        ...

    def fetch(self, destination: Path, deadline: Deadline) -> tuple[Path, str]:
        """Return the folder of the bundle offered now, and its identity.

        Nothing is parsed; `load_bundle` verifies every file of the folder first.

        Args:
            destination: A folder that does not exist yet, for what must be downloaded.
            deadline: When to stop.

        Raises:
            BundleError: What is offered is damaged, too large or no bundle.
            TasadorError: As `identity`.
        """
        ...


@dataclass(frozen=True)
class MlflowSource:
    """The version that a model registry says is to answer.

    Attributes:
        reader: The registry.
        choice: Which version of which model is asked for.
    """

    reader: RegistryReader
    choice: Choice
    name: str = field(default="mlflow", init=False)

    def identity(self, deadline: Deadline) -> str:
        """Return the model, the version's number and its run."""
        return self.choice.find(self.reader, deadline).identity

    def fetch(self, destination: Path, deadline: Deadline) -> tuple[Path, str]:
        """Download the bundle; see `BundleSource`."""
        offered = self.choice.find(self.reader, deadline)
        folder = fetch_offered(self.reader, offered, destination, deadline=deadline)
        return folder, offered.identity

    def content_hash(self, deadline: Deadline) -> str | None:
        """Return the content hash of the version offered; None when no model is registered.

        Raises:
            NothingOfferedError: Models are registered, and none of their versions is offered.
            RegistryError: The registry cannot be read.
        """
        try:
            names = self.reader.models(deadline)
        except NothingOfferedError:
            return None
        if not names or self.choice.model_name not in ("", *names):
            return None
        return self.choice.find(self.reader, deadline).tags.get("content_hash", "")


@dataclass(frozen=True)
class PublishedSource:
    """What is published under a location, see `registry.stores.published`.

    Attributes:
        location: ``gs://``, ``s3://`` or a folder.
        patience: How long a store may keep us waiting.
    """

    location: str
    patience: Patience | None = None
    name: str = field(default="object_store", init=False)

    def identity(self, deadline: Deadline) -> str:
        """Return the content hash that the pointer names."""
        return self._pointer(deadline).content_hash

    def fetch(self, destination: Path, deadline: Deadline) -> tuple[Path, str]:
        """Download the bundle; see `BundleSource`."""
        pointer = self._pointer(deadline)
        folder = fetch_published(
            self.location, pointer, destination, deadline=deadline, patience=self.patience
        )
        return folder, pointer.content_hash

    def _pointer(self, deadline: Deadline) -> Pointer:
        return read_pointer(self.location, deadline=deadline, patience=self.patience)


@dataclass(frozen=True)
class FolderSource:
    """A bundle's folder, or the newest real bundle in a folder of them.

    Attributes:
        folder: Either of them.
        model_name: Which model to take from a folder of bundles; empty takes any.
        registry: The registry on the same disk. Of a model that it knows, no other bundle is taken
            from a folder of them than the one it offers.
    """

    folder: Path
    model_name: str = ""
    registry: MlflowSource | None = None
    name: str = field(default="local", init=False)

    def identity(self, deadline: Deadline) -> str:
        """Return the folder's name and a hash of its files' names, sizes and times."""
        return self._identity(self._newest(deadline))

    def fetch(self, _: Path, deadline: Deadline) -> tuple[Path, str]:
        """Return the folder itself; nothing is copied."""
        found = self._newest(deadline)
        return found, self._identity(found)

    def _newest(self, deadline: Deadline) -> Path:
        if (self.folder / MANIFEST_NAME).is_file():
            return self.folder
        wanted = None if self.registry is None else self.registry.content_hash(deadline)
        return newest_bundle(self.folder, self.model_name or None, content_hash=wanted)

    def _identity(self, folder: Path) -> str:
        try:
            files = sorted(
                (entry.name, status.st_size, status.st_mtime_ns)
                for entry in os.scandir(folder)
                if stat.S_ISREG((status := entry.stat(follow_symlinks=False)).st_mode)
            )
        except OSError as error:
            raise StorageError(f"{folder} cannot be read", got=str(error)) from error
        return f"{folder.name}#{fingerprint(files)[:16]}"


@dataclass(frozen=True)
class LastGoodSource:
    """A copy of the bundle that last served, on this machine's disk.

    Attributes:
        folder: Where it is; the layout is that of `registry.stores.published`.
        model_name: The model that is served; a copy of another one is not used.
        registry: The registry on the same disk. While it can be read, a copy of another version
            than the one it offers is not used.
    """

    folder: Path
    model_name: str = ""
    registry: MlflowSource | None = None
    name: str = field(default="last_good", init=False)

    def identity(self, deadline: Deadline) -> str:
        """Return the content hash of the copy."""
        return self._offered(deadline).content_hash

    def fetch(self, _: Path, deadline: Deadline) -> tuple[Path, str]:
        """Return the copy's folder; nothing is copied."""
        pointer = self._offered(deadline)
        return self.folder / pointer.folder, pointer.content_hash

    def _offered(self, deadline: Deadline) -> Pointer:
        pointer, wanted = self._pointer(deadline), None
        with suppress(RegistryError):  # what the copy is for
            wanted = None if self.registry is None else self.registry.content_hash(deadline)
        if wanted not in (None, pointer.content_hash):
            raise NothingOfferedError(
                f"the copy in {self.folder} is of another version than the registry offers",
                expected=f"content hash {wanted}",
                got=pointer.content_hash,
            )
        return pointer

    def keep(self, bundle: ModelBundle, source: str) -> None:
        """Copy a bundle's files; the older copy stays until the new one is complete.

        Raises:
            BundleError: The bundle changed since it was loaded, or it is of synthetic origin while
                the copy is of a real one.
            StorageError: The disk refuses; the older copy is as it was.
        """
        if not self._has(bundle):
            notes = {"model_name": self.model_name, "source": source}
            publish_bundle(bundle.folder, self.folder, notes)
            prune_published(self.folder)

    def _has(self, bundle: ModelBundle) -> bool:
        try:
            pointer = self._pointer(Deadline.after(10.0))
            if pointer.content_hash != bundle.manifest.content_hash:
                return False
            read_verified(self.folder / pointer.folder, BundleLimits())
        except (BundleError, StorageError):
            return False
        return True

    def _pointer(self, deadline: Deadline) -> Pointer:
        pointer = read_pointer(self.folder, deadline=deadline)
        kept_for = pointer.notes.get("model_name", "")
        if self.model_name and kept_for != self.model_name:
            raise NothingOfferedError(
                f"the copy in {self.folder} is of another model",
                expected=self.model_name,
                got=kept_for or pointer.name,
                remedy="give every service a folder of its own",
            )
        return pointer


def build_sources(settings: SourceSettings) -> tuple[BundleSource, ...]:
    """Return the configured sources in their order; nothing is contacted.

    Raises:
        ConfigError: An address is of an unknown kind.
        MissingExtraError: What reaches an object store is not installed.
    """
    made = (_build(name, settings) for name in settings.order)
    return tuple(source for source in made if source is not None)


def _build(name: str, settings: SourceSettings) -> BundleSource | None:
    patience = Patience(settings.connect_s, settings.read_s)
    if name == "mlflow":
        return registry_source(settings)
    if name == "object_store" and settings.object_store:
        require_driver(settings.object_store)
        return PublishedSource(settings.object_store, patience)
    # a registry elsewhere may be away, which is what these two are for
    beside = (settings.tracking_uri or "").startswith("sqlite:")
    registry = registry_source(settings) if beside else None
    if name == "local" and settings.local:
        return FolderSource(local_folder(settings.local), settings.model_name, registry)
    if name == "last_good" and settings.last_good:
        return LastGoodSource(local_folder(settings.last_good), settings.model_name, registry)
    return None


def registry_source(settings: SourceSettings) -> MlflowSource | None:
    """Return the configured model registry as a source; None when there is none.

    Raises:
        ConfigError: Its address is of an unknown kind.
    """
    if not settings.tracking_uri:
        return None
    reader = registry_reader(
        settings.tracking_uri, connect_s=settings.connect_s, read_s=settings.read_s
    )
    return MlflowSource(reader, Choice(settings.model_name, settings.alias, settings.version))
