"""What can go wrong while a model registry is read, with the fixed parts of the messages.

::

    RegistryError
    ├── RegistryAwayError             it may answer later
    └── RegistryRejectedError
        └── UnreadableRegistryError   it answered, or its file was read, and is of no use
    NothingOfferedError
    └── NotRegisteredError            it has no such model, alias, version or file
    ConfigError
    └── RegistryAddressError          an address that is not read here
"""

from __future__ import annotations

import re
from pathlib import Path

from tasador.core.errors import (
    ConfigError,
    NothingOfferedError,
    RegistryError,
    RegistryRejectedError,
)
from tasador.core.http import UnsafeAddressError


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
