"""Registered versions as plain values, and what a registry of them must be able to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from tasador.core.errors import ConfigError, RegistryError
from tasador.registry.format.manifest import RELEASE_PATTERN

#: Tags that tell where a version stands; written by the lifecycle only.
STATUS_TAG = "tasador.status"
REASON_TAG = "tasador.status_reason"
RELEASE_TAG = "release"
REJECTED, ROLLED_BACK, RETIRED = "rejected", "rolled back", "retired"
#: The alias that is served unless another one is asked for.
CHAMPION = "champion"


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
        return known.get(aliases[wanted]) or refuse_dangling(wanted, aliases[wanted], known)
    digits = wanted.removeprefix(f"{name}-")
    found = [
        version
        for version in known.values()
        if (wanted and version.release == wanted)
        or (len(digits) >= 7 and version.tags.get("content_hash", "").startswith(digits))
    ]
    if found:  # the same bundle may have been registered twice
        return max(found, key=lambda version: int(version.number))
    raise ConfigError(
        f"{name} has no version {wanted!r}",
        expected="a number, a release such as 1.2.0, an alias, a bundle's version or 7 digits of "
        "its content hash",
        got=f"versions {', '.join(sorted(known, key=int)) or 'none'}; "
        f"aliases {', '.join(sorted(aliases)) or 'none'}",
    )


def refuse_dangling(alias: str, number: str, known: Iterable[str] = ()) -> NoReturn:
    """Refuse an alias whose version is gone.

    Raises:
        RegistryError: Always.
    """
    left = ", ".join(sorted(known, key=int))
    raise RegistryError(
        f"the alias {alias!r} points at version {number}, which was deleted",
        expected=f"one of the versions {left}" if left else "a version that exists",
        remedy=f"point it at another one: tasador promote VERSION --to {alias}",
    )
