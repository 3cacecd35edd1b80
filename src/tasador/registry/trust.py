"""Which keys are trusted here, and the workspace's own signing key.

One setting decides wherever a bundle is loaded: ``TASADOR_SOURCE__TRUSTED_KEYS``, paths of public
keys separated by commas. Where it is not set, the public key in the workspace counts, if there is
one; set to an empty text, no signature is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasador.core.deadlines import Deadline
from tasador.core.errors import ConfigError, NothingOfferedError, StorageError, TasadorError
from tasador.core.storage import write_bytes
from tasador.registry.integrity import SIGNATURE
from tasador.registry.signature import TrustedKeys, new_key_pair, sign_bundle

VARIABLE = "TASADOR_SOURCE__TRUSTED_KEYS"
#: Path of the private key, where no run names another one.
SIGNING_KEY = "TASADOR_SIGNING_KEY"
_READ_S = 30.0
#: The private key's password, where a person or a process list could see an option.
PASSWORD = "TASADOR_SIGNING_PASSWORD"  # noqa: S105 - a variable's name


@dataclass(frozen=True)
class KeyPair:
    """The files of a workspace's signing key.

    Attributes:
        workspace: The folder of runs, bundles and databases.
    """

    workspace: Path

    @property
    def private(self) -> Path:
        """Signs; readable by its owner only."""
        return self.workspace / "keys" / "signing.pem"

    @property
    def public(self) -> Path:
        """Checks signatures; may be given to anybody."""
        return self.workspace / "keys" / "signing.pub"

    def make(self, public: Path | None = None) -> bool:
        """Make the pair unless the private key exists; a lost public key is written again.

        Args:
            public: Where servers read a copy of the public key; None makes no copy.

        Returns:
            Whether the pair is new.

        Raises:
            StorageError: The disk refuses.
            ConfigError: The private key that exists cannot be used.
            MissingExtraError: ``cryptography`` is not installed.
        """
        new = not self.private.exists()
        pem, shown = new_key_pair(None if new else self.private, password())
        if new:
            _write_private(self.private, pem)
        for file in (self.public, *([public] if public is not None else [])):
            if not file.exists() or file.read_bytes() != shown:
                write_bytes(file, shown)
        return new


def password() -> bytes | None:
    """Return the configured password of the private key."""
    return os.environ.get(PASSWORD, "").encode() or None


def trusted_files(
    workspace: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return the files of the keys that are trusted; none when no signature is asked for."""
    found = (os.environ if environment is None else environment).get(VARIABLE)
    if found is not None:
        return tuple(part.strip() for part in found.split(",") if part.strip())
    if workspace is not None and KeyPair(workspace).public.is_file():
        return (str(KeyPair(workspace).public),)
    return ()


def trusted_keys(workspace: Path | None = None) -> TrustedKeys | None:
    """Return the keys that are trusted; None when no signature is asked for.

    Raises:
        ConfigError: A file holds no public key of a supported curve.
        StorageError: It cannot be read.
        MissingExtraError: ``cryptography`` is not installed.
    """
    return TrustedKeys.read(trusted_files(workspace))


def signing_key(workspace: Path, configured: str | None = None) -> Path | None:
    """Return the private key that new models are signed with; None when there is none.

    It is `configured`, or that of TASADOR_SIGNING_KEY, or the workspace's own.
    """
    named = configured or os.environ.get(SIGNING_KEY)
    if named:
        return Path(named)
    own = KeyPair(workspace).private
    return own if own.is_file() else None


def sign_workspace(workspace: Path) -> tuple[int, list[str]]:
    """Sign every bundle of a workspace that has no signature yet.

    For a workspace whose key was made just now: later bundles are signed as they are registered.

    Returns:
        How many were signed, and what could not be signed, in words.

    Raises:
        ConfigError: The private key cannot be used.
    """
    signed, problems = 0, []
    for folder in _bundles(workspace):
        if (folder / SIGNATURE).exists():
            continue
        if not folder.resolve().is_relative_to(workspace.resolve()):
            problems.append(f"{folder} is not in this workspace and was not signed")
            continue
        try:
            sign_bundle(folder, KeyPair(workspace).private, password())
        except ConfigError:
            raise
        except TasadorError as error:
            problems.append(f"{folder.name} was not signed: {error.message}")
        else:
            signed += 1
    return signed, problems


def _bundles(workspace: Path) -> Iterable[Path]:
    from tasador.registry.mlflow_reader import EmbeddedRegistry, local_path
    from tasador.registry.versions import BUNDLE_PATH, OfferedVersion

    found = [file.parent for file in sorted(workspace.glob("bundles/*/manifest.json"))]
    found += [file.parent for file in sorted(workspace.glob("last_good/bundles/*/manifest.json"))]
    registry = EmbeddedRegistry(workspace.resolve() / "mlflow.db")
    deadline = Deadline.after(_READ_S)
    try:
        for name in registry.models(deadline):
            for version in registry.listed(name, deadline):
                offered = OfferedVersion(name, version.number, "")
                place = Path(local_path(registry.locate(offered, deadline))) / BUNDLE_PATH
                if place.is_dir():
                    found.append(place)
    except NothingOfferedError:
        pass  # nothing is registered yet
    return found


def _write_private(file: Path, pem: bytes) -> None:
    """Write a new file that only its owner can read, from its first byte on."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(pem)
    except OSError as error:
        raise StorageError(f"cannot write {file}", got=error.strerror) from error
