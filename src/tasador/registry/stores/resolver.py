"""What a model registry offers, and how the bundle behind it is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tasador.core.deadlines import Deadline
from tasador.core.errors import BundleError, NothingOfferedError
from tasador.core.storage import atomic_folder
from tasador.registry.format.integrity import SIGNATURE, BundleLimits
from tasador.registry.format.manifest import MANIFEST_NAME, Manifest
from tasador.registry.stores.versions import ModelVersion

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
    """What is asked of a model registry; errors as in `mlflow_rest.MlflowServer`."""

    def resolve(self, model_name: str, alias: str, deadline: Deadline) -> OfferedVersion:
        """Return the version that holds `alias`."""
        ...

    def version(self, model_name: str, number: str, deadline: Deadline) -> OfferedVersion:
        """Return the version of that number."""
        ...

    def models(self, deadline: Deadline) -> list[str]:
        """Return the names of the registered models that have a version, in order."""
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
        if total > limits.total_bytes:
            raise BundleError(
                f"the bundle of {offered.identity} is too large",
                expected=f"at most {limits.total_bytes} bytes", got=str(total),
            )  # fmt: skip
        with atomic_folder(destination) as temporary:
            (temporary / MANIFEST_NAME).write_bytes(data)
            for name, entry in sorted(manifest.files.items()):
                content = reader.read_artifact(f"{base}/{name}", entry.bytes, deadline)
                (temporary / name).write_bytes(content)
            _fetch_signature(reader, base, temporary, deadline)
    except NothingOfferedError as error:
        raise BundleError(
            f"{offered.identity} holds no complete bundle", got=error.got or error.message,
            remedy="register the model again, or move the alias to another version",
        ) from None  # fmt: skip
    return destination


def _fetch_signature(reader: RegistryReader, base: str, folder: Path, deadline: Deadline) -> None:
    """Fetch the signature if the bundle has one; whether it needs one is `load_bundle`'s matter."""
    with suppress(NothingOfferedError):
        content = reader.read_artifact(f"{base}/{SIGNATURE}", _SIGNATURE_BYTES, deadline)
        (folder / SIGNATURE).write_bytes(content)
