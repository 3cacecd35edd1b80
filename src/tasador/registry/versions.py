"""Registered versions, what a reader of a registry offers, and which version answers.

`pick_version` and `used_model` are the one place where it is decided which version answers: the one
that is asked for, else the champion. Services, the watcher and every command that values rows use
them. Nothing here imports MLflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tasador.core.deadlines import Deadline
from tasador.core.errors import (
    BundleError,
    ConfigError,
    NothingOfferedError,
    RegistryError,
    RegistryRejectedError,
    TasadorError,
)
from tasador.core.http import UnsafeAddressError
from tasador.core.storage import atomic_folder, write_text
from tasador.registry.manifest import (
    MANIFEST_NAME,
    RELEASE_PATTERN,
    SIGNATURE,
    BundleLimits,
    Manifest,
)

#: Tags that tell where a version stands; written by the lifecycle only.
STATUS_TAG = "tasador.status"
REASON_TAG = "tasador.status_reason"
RELEASE_TAG = "release"
REJECTED, ROLLED_BACK, RETIRED = "rejected", "rolled back", "retired"
#: The alias that is served unless another one is asked for.
CHAMPION = "champion"


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
    def of_layout(cls, file: Path, got: str) -> UnreadableRegistryError:
        """Return the error of a file that is no registry, or another version's."""
        return cls(
            f"{file} cannot be read as an MLflow registry",
            got=got,
            remedy="name another one, or start `mlflow server` on it and give its address",
        )

    @classmethod
    def without_mlflow(cls, file: Path, snapshot: Path) -> UnreadableRegistryError:
        """Return the error of a registry that has no snapshot file of its present state."""
        return cls(
            f"{file} was changed since {snapshot.name} was written beside it, or has none yet, and "
            "MLflow, which reads it, is not installed here",
            remedy="run `tasador models` where MLflow is installed: that writes the file",
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


class UnknownVersionError(ConfigError):
    """A version or a model that is asked for, and is none or several."""

    @classmethod
    def of(
        cls, name: str, wanted: str, known: Iterable[str], aliases: Iterable[str]
    ) -> UnknownVersionError:
        """Return the error of a model that has no version `wanted`."""
        return cls(
            f"{name} has no version {wanted!r}",
            expected="a number, a release such as 1.2.0, an alias, a bundle's version or 7 digits "
            "of its content hash",
            got=f"versions {', '.join(sorted(known, key=int)) or 'none'}; "
            f"aliases {', '.join(sorted(aliases)) or 'none'}",
        )

    @classmethod
    def of_models(cls, names: Sequence[str]) -> UnknownVersionError:
        """Return the error of several models, of which none is chosen."""
        return cls(
            f"{len(names)} models are registered and none is chosen",
            expected=f"one of {', '.join(names[:10])}",
            remedy="choose one with `tasador use NAME`, or name it with --model",
        )


class DeletedVersionError(RegistryError):
    """An alias that points at a version which is gone."""

    @classmethod
    def of(cls, alias: str, number: str, known: Iterable[str] = ()) -> DeletedVersionError:
        """Return the error; `known` are the numbers of the versions that are there."""
        left = ", ".join(sorted(known, key=int))
        return cls(
            f"the alias {alias!r} points at version {number}, which was deleted",
            expected=f"one of the versions {left}" if left else "a version that exists",
            remedy=f"point it at another one: tasador promote VERSION --to {alias}",
        )


class OfferedBundleError(BundleError):
    """A registered version whose bundle cannot be fetched."""

    @classmethod
    def too_large(cls, identity: str, limit: int, got: int) -> OfferedBundleError:
        """Return the error of more bytes than are fetched."""
        return cls(
            f"the bundle of {identity} is too large",
            expected=f"at most {limit} bytes",
            got=str(got),
        )

    @classmethod
    def incomplete(cls, identity: str, error: TasadorError) -> OfferedBundleError:
        """Return the error of a file that the registry does not have."""
        return cls(
            f"{identity} holds no complete bundle",
            got=error.got or error.message,
            remedy="register the model again, or move the alias to another version",
        )


class NoUsableVersionError(NothingOfferedError):
    """A model whose versions were all rejected or rolled back, or that has none."""

    @classmethod
    def of(cls, name: str, listed: int) -> NoUsableVersionError:
        """Return the error of a model with so many versions."""
        return cls(
            f"no version of the model {name!r} can be used",
            got=f"{listed} versions, all rejected or rolled back" if listed else "none",
            remedy="train one with `tasador run`, or promote one: tasador promote VERSION",
        )


@dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    Attributes:
        name: The registered model's name.
        number: The version's number, as text.
        created: When it was registered, seconds since the epoch.
        source: Where its files are.
        tags: Its tags: origin, data_hash, content_hash, ``test.<metric>``...
        aliases: The aliases that point at it.
    """

    name: str
    number: str
    created: float
    source: str
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def bundle(self) -> str:
        """The bundle's own version, as the service names it; empty for a foreign model."""
        digest = self.tags.get("content_hash", "")
        return f"{self.name}-{digest[:12]}" if digest else ""

    @property
    def release(self) -> str:
        """The version people say, e.g. ``1.2.0``; empty for one registered without."""
        said = self.tags.get(RELEASE_TAG, "")
        return said if re.fullmatch(RELEASE_PATTERN, said) else ""

    @property
    def status(self) -> str:
        """Where it stands: ``champion``, ``retired``, ``rejected``, ``rolled back`` or empty."""
        return self.tags.get(STATUS_TAG, "")


class Versions(Protocol):
    """The versions of one registered model. Every method may raise `RegistryError`."""

    @property
    def name(self) -> str:
        """The registered model's name."""
        ...

    def all(self) -> list[ModelVersion]:
        """Return every version, the newest first."""
        ...

    def aliases(self) -> dict[str, str]:
        """Return the version's number by alias; the version may have been deleted."""
        ...

    def point(self, alias: str, number: str) -> None:
        """Point `alias` to a version."""
        ...

    def drop(self, alias: str) -> None:
        """Take `alias` away; nothing happens when there is none."""
        ...

    def tag(self, number: str, key: str, value: str) -> None:
        """Set a tag of a version."""
        ...

    def fetch(self, number: str, destination: Path) -> None:
        """Fetch a version's verified bundle into the new folder `destination`."""
        ...


def find_version(versions: Versions, wanted: str) -> ModelVersion:
    """Return the version that `wanted` names.

    Args:
        versions: Where to look.
        wanted: A number, a release such as ``1.2.0``, an alias, a bundle's version as the service
            names it, or at least 7 digits of its content hash.

    Raises:
        RegistryError: An alias that points at a version which was deleted.
        ConfigError: Nothing has that name, or several have.
    """
    return pick_version(versions.name, versions.all(), versions.aliases(), wanted)


def pick_version(
    name: str, listed: Iterable[ModelVersion], aliases: Mapping[str, str], wanted: str
) -> ModelVersion:
    """Return the one of a model's `listed` versions that `wanted` names; see `find_version`."""
    known = {version.number: version for version in listed}
    if wanted in known:
        return known[wanted]
    if wanted in aliases:
        # an alias may outlive its version
        if aliases[wanted] not in known:
            raise DeletedVersionError.of(wanted, aliases[wanted], known)
        return known[aliases[wanted]]
    digits = wanted.removeprefix(f"{name}-")
    found = [
        version
        for version in known.values()
        if (wanted and version.release == wanted)
        or (len(digits) >= 7 and version.tags.get("content_hash", "").startswith(digits))
    ]
    if found:  # the same bundle may have been registered twice
        return max(found, key=lambda version: int(version.number))
    raise UnknownVersionError.of(name, wanted, known, aliases)


#: Where the bundle is in a registered model.
BUNDLE_PATH = "data/bundle"
_SIGNATURE_BYTES = 1 << 20


@dataclass(frozen=True)
class OfferedVersion:
    """The version that an alias points to.

    Attributes:
        name: The registered model's name.
        version: The version's number, as text.
        run_id: The run that logged it.
        tags: The version's tags.
        why: Why it is this one, where nobody has chosen it; empty otherwise.
    """

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def identity(self) -> str:
        """Text that changes whenever another version, or another run's, is offered."""
        chosen = f" ({self.why})" if self.why else ""
        return f"models:/{self.name}/{self.version}#{self.run_id}{chosen}"


class RegistryReader(Protocol):
    """What is asked of a model registry; errors as in `mlflow_reader.MlflowServer`."""

    def resolve(self, model_name: str, alias: str, deadline: Deadline) -> OfferedVersion:
        """Return the version that holds `alias`."""
        ...

    def version(self, model_name: str, number: str, deadline: Deadline) -> OfferedVersion:
        """Return the version of that number."""
        ...

    def models(self, deadline: Deadline) -> list[str]:
        """Return the names of the registered models that have a version, in order."""
        ...

    def aliases(self, model_name: str, deadline: Deadline) -> dict[str, str]:
        """Return the version's number by alias, also of versions that were deleted."""
        ...

    def listed(self, model_name: str, deadline: Deadline) -> list[ModelVersion]:
        """Return every version of a model, the newest first; none when there is no such model."""
        ...

    def locate(self, offered: OfferedVersion, deadline: Deadline) -> str:
        """Return the address of the registered model's files."""
        ...

    def read_artifact(self, artifact_uri: str, limit: int, deadline: Deadline) -> bytes:
        """Return the content of one file, of `limit` bytes at most."""
        ...


def fetch_offered(
    reader: RegistryReader,
    offered: OfferedVersion,
    destination: Path,
    *,
    deadline: Deadline,
    limits: BundleLimits | None = None,
) -> Path:
    """Fetch the bundle of a version into the new folder `destination`.

    Only the manifest and sizes are checked here; `load_bundle` checks every checksum before it
    parses a file.

    Raises:
        BundleError: The version holds no bundle, or one that is damaged or too large.
        RegistryError: The registry cannot be reached or refuses.
        StorageError: The disk refuses, or it took too long.
    """
    limits = limits or BundleLimits()
    try:
        base = f"{reader.locate(offered, deadline).rstrip('/')}/{BUNDLE_PATH}"
        data = reader.read_artifact(f"{base}/{MANIFEST_NAME}", limits.manifest_bytes, deadline)
        manifest = Manifest.from_json(data)
        total = sum(entry.bytes for entry in manifest.files.values())
        # before anything else is fetched
        if total > limits.total_bytes:
            raise OfferedBundleError.too_large(offered.identity, limits.total_bytes, total)
        with atomic_folder(destination) as temporary:
            (temporary / MANIFEST_NAME).write_bytes(data)
            for name, entry in sorted(manifest.files.items()):
                content = reader.read_artifact(f"{base}/{name}", entry.bytes, deadline)
                (temporary / name).write_bytes(content)
            _fetch_signature(reader, base, temporary, deadline)
    except NothingOfferedError as error:
        raise OfferedBundleError.incomplete(offered.identity, error) from None
    return destination


def _fetch_signature(reader: RegistryReader, base: str, folder: Path, deadline: Deadline) -> None:
    """Fetch the signature if the bundle has one; whether it needs one is `load_bundle`'s matter."""
    with suppress(NothingOfferedError):
        content = reader.read_artifact(f"{base}/{SIGNATURE}", _SIGNATURE_BYTES, deadline)
        (folder / SIGNATURE).write_bytes(content)


#: In a workspace: the name of the model that its commands mean.
USED_MODEL = "used_model"
NO_CHAMPION = "no champion, so the newest version that was not rejected"


@dataclass(frozen=True)
class Choice:
    """Which version of which model is asked for.

    Attributes:
        model_name: The registered model; empty takes the only one there is.
        alias: Its alias; empty takes the champion, and before there is one the newest version that
            was neither rejected nor rolled back.
        version: A number, a bundle's version or 7 digits of its content hash instead of an alias.
    """

    model_name: str = ""
    alias: str = ""
    version: str | None = None

    def find(self, reader: RegistryReader, deadline: Deadline) -> OfferedVersion:
        """Return the version that is meant.

        Raises:
            NothingOfferedError: There is no such registry, model, alias or version, or every
                version was rejected or rolled back.
            ConfigError: No model is named and there are several.
            RegistryError: The registry cannot be read, or the alias points at a deleted version.
        """
        name = self.model_name or only_model(reader.models(deadline))
        if self.version is not None:
            listed = reader.listed(name, deadline)
            aliases = {alias: one.number for one in listed for alias in one.aliases}
            try:
                number = pick_version(name, listed, aliases, self.version).number
            # a source without an answer, not a wrong setting: a service asks its next source
            except ConfigError as error:
                said = error.message
                raise NothingOfferedError(said, expected=error.expected, got=error.got) from None
            return reader.version(name, number, deadline)
        try:
            return reader.resolve(name, self.alias or CHAMPION, deadline)
        # whoever names an alias means that one, and no other version
        except NothingOfferedError:
            if self.alias:
                raise
        return self._newest(reader, name, deadline)

    def _newest(self, reader: RegistryReader, name: str, deadline: Deadline) -> OfferedVersion:
        listed = reader.listed(name, deadline)
        left = [one for one in listed if one.status not in (REJECTED, ROLLED_BACK)]
        if not left:
            raise NoUsableVersionError.of(name, len(listed))
        found = reader.version(name, max(left, key=_rank).number, deadline)
        return OfferedVersion(found.name, found.version, found.run_id, found.tags, NO_CHAMPION)


def _rank(version: ModelVersion) -> tuple[bool, bool, int]:
    """Order by origin, then by whether it was champion once, then by age."""
    real = version.tags.get("origin") != "synthetic"
    return real, version.status in (CHAMPION, RETIRED), int(version.number)


def only_model(names: Iterable[str]) -> str:
    """Return the only one of the models' names.

    Raises:
        NothingOfferedError: There is none.
        ConfigError: There are several.
    """
    found = sorted(set(names))
    if not found:
        raise NothingOfferedError("no model is registered", remedy="train one with `tasador run`")
    if len(found) > 1:
        raise UnknownVersionError.of_models(found)
    return found[0]


def used_model(workspace: Path) -> str:
    """Return the model that `tasador use` chose for a workspace; empty when none was."""
    try:
        return (workspace / USED_MODEL).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def use_model(workspace: Path, name: str) -> None:
    """Let the commands in a workspace mean the model `name`.

    Raises:
        StorageError: The disk refuses.
    """
    write_text(workspace / USED_MODEL, f"{name}\n")
