"""Where bundles come from: registry, object store, folder, last good copy; and the defaults."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tasador.core.deadlines import Deadline
from tasador.core.errors import (
    BundleError,
    ConfigError,
    NothingOfferedError,
    RegistryError,
    StorageError,
)
from tasador.core.hashing import fingerprint
from tasador.core.storage import Patience, local_folder, require_driver
from tasador.registry.bundle_stores import (
    Pointer,
    bundle_names,
    fetch_published,
    newest_bundle,
    prune_published,
    publish_bundle,
    read_pointer,
)
from tasador.registry.manifest import MANIFEST_NAME, BundleLimits, read_verified
from tasador.registry.mlflow.client import without_password
from tasador.registry.mlflow_reader import registry_reader
from tasador.registry.signature import VARIABLE as TRUSTED_KEYS
from tasador.registry.signature import trusted_files
from tasador.registry.versions import (
    Choice,
    OfferedVersion,
    RegistryReader,
    fetch_offered,
    only_model,
    used_model,
)
from tasador.settings.serving import SourceSettings, variable

if TYPE_CHECKING:
    from tasador.registry.model_bundle import ModelBundle


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
    """What is published under a location, see `registry.bundle_stores`.

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
        # names, sizes and times: reading every file at each poll would cost a disk
        return f"{folder.name}#{fingerprint(files)[:16]}"


@dataclass(frozen=True)
class LastGoodSource:
    """A copy of the bundle that last served, on this machine's disk.

    Attributes:
        folder: Where it is; the layout is that of `registry.bundle_stores`.
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
        # nothing is written when the same bundle is served again after a restart
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
        ConfigError: An address has an unknown scheme.
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
    # a registry elsewhere may be unreachable, which is what these two are for
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
        ConfigError: Its address has an unknown scheme.
    """
    if not settings.tracking_uri:
        return None
    reader = registry_reader(
        settings.tracking_uri, connect_s=settings.connect_s, read_s=settings.read_s
    )
    return MlflowSource(reader, Choice(settings.model_name, settings.alias, settings.version))


_READ_S = 5.0
TRACKING_URI = variable("source", "tracking_uri")
MODEL_NAME = variable("source", "model_name")
LOCAL, OBJECT_STORE = variable("source", "local"), variable("source", "object_store")


def with_defaults(environment: Mapping[str, str], workspace: Path) -> dict[str, str]:
    """Return what to add to the environment so that a laptop needs no setting at all.

    With no source named, what the workspace's registry says is served, or its newest bundle while
    nothing is registered; records and the copy of the last good model lie there too, and the
    public key that `tasador up` makes is trusted.

    Raises:
        ConfigError: Several models are registered and none is chosen.
    """
    added = {
        variable("records", "url"): f"sqlite:///{workspace / 'tasador.db'}",
        variable("source", "last_good"): str(workspace / "last_good"),
        **_own_sources(environment, workspace),
    }
    if trusted := trusted_files(workspace, environment):
        added[TRUSTED_KEYS] = ",".join(trusted)
    added = {name: value for name, value in added.items() if name not in environment}
    found = {**environment, **added}
    if found.get(TRACKING_URI) and not found.get(MODEL_NAME):
        added[MODEL_NAME] = used_model(workspace) or _only(environment, workspace)
    return added


def workspace_registry(workspace: Path) -> str:
    """Return the address of the registry in a workspace."""
    return f"sqlite:///{workspace.resolve() / 'mlflow.db'}"


def known_models(environment: Mapping[str, str], workspace: Path) -> list[str]:
    """Return the models of the registry and, unless sources are named, of the workspace's bundles.

    Raises:
        RegistryError: The registry cannot be read.
    """
    own = _own_sources(environment, workspace)
    found, names = {**own, **environment}, set[str]()
    if found.get(TRACKING_URI):
        with suppress(NothingOfferedError):
            names |= set(registry_reader(found[TRACKING_URI]).models(Deadline.after(_READ_S)))
    if own and found.get(LOCAL):
        names |= set(bundle_names(Path(found[LOCAL])))
    return sorted(names)


def _own_sources(environment: Mapping[str, str], workspace: Path) -> dict[str, str]:
    if any(environment.get(name) for name in (TRACKING_URI, OBJECT_STORE, LOCAL)):
        return {}
    # only where no source is named: a setting must not be mixed with a laptop's defaults
    return {TRACKING_URI: workspace_registry(workspace), LOCAL: str(workspace / "bundles")}


def _only(environment: Mapping[str, str], workspace: Path) -> str:
    try:
        names = known_models(environment, workspace)
    except RegistryError:  # unreachable: which one it is shows when it answers
        return ""
    return only_model(names) if names else ""


def check_choice(source: SourceSettings) -> None:
    """Refuse an alias or a version that cannot be resolved, before anything else is tried.

    Raises:
        ConfigError: No registry is asked, or it has no such alias or version.
        RegistryError: There is no registry where it should be.
    """
    asked = f"version {source.version!r}" if source.version else f"alias {source.alias!r}"
    if not source.tracking_uri:
        raise ConfigError(
            f"the {asked} belongs to a model registry, and none is asked",
            remedy="leave out --bundle and --object-store, or name a registry with --registry",
        )
    try:
        registry_reader(source.tracking_uri).models(Deadline.after(_READ_S))
    except NothingOfferedError as error:
        raise RegistryError(
            f"the {asked} cannot be resolved: there is no model registry at "
            f"{without_password(source.tracking_uri)}",
            remedy=error.remedy,
        ) from None
    except RegistryError:  # unreachable: what is asked for may be there when it answers
        return
    try:
        offered(source)
    except NothingOfferedError as error:
        raise ConfigError(
            f"the {asked} cannot be resolved: {error.message}",
            expected=error.expected,
            got=error.got,
            remedy="see `tasador models`",
        ) from None
    except RegistryError:  # unreachable: what is asked for may be there when it answers
        return


def unasked(source: SourceSettings) -> str:
    """Return a line about the model where it is not the champion and nobody asked for it.

    Empty when it is, or when the registry cannot be read.
    """
    registry = registry_source(source)
    try:
        if registry is None:
            return ""
        if registry.content_hash(Deadline.after(_READ_S)) is None:
            return "no version is registered: the newest bundle is used"
        found = offered(source)
    except (NothingOfferedError, ConfigError, RegistryError):  # reported where it is used
        return ""
    return f"{found.name}: version {found.version} is used ({found.why})" if found.why else ""


def offered(source: SourceSettings) -> OfferedVersion:
    """Return the version that the configured registry says is to answer.

    Raises:
        NothingOfferedError: It has none.
        ConfigError: No model is named and there are several.
        RegistryError: It cannot be read.
    """
    reader = registry_reader(source.tracking_uri or "")
    choice = Choice(source.model_name, source.alias, source.version)
    return choice.find(reader, Deadline.after(_READ_S))
