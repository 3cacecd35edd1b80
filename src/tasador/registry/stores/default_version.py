"""Which registered version answers: the one that is asked for, else the champion.

The one place where this is decided; services, the watcher and every command that values rows use
it. Nothing here imports MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasador.core.deadlines import Deadline
from tasador.core.errors import ConfigError, NothingOfferedError
from tasador.core.storage import write_text
from tasador.registry.stores.resolver import OfferedVersion, RegistryReader
from tasador.registry.stores.versions import (
    CHAMPION,
    REJECTED,
    RETIRED,
    ROLLED_BACK,
    ModelVersion,
    pick_version,
)

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
            except ConfigError as error:
                raise NothingOfferedError(
                    error.message, expected=error.expected, got=error.got
                ) from None
            return reader.version(name, number, deadline)
        try:
            return reader.resolve(name, self.alias or CHAMPION, deadline)
        except NothingOfferedError:
            if self.alias:
                raise
        return self._newest(reader, name, deadline)

    def _newest(self, reader: RegistryReader, name: str, deadline: Deadline) -> OfferedVersion:
        listed = reader.listed(name, deadline)
        left = [one for one in listed if one.status not in (REJECTED, ROLLED_BACK)]
        if not left:
            raise NothingOfferedError(
                f"no version of the model {name!r} can be used",
                got=f"{len(listed)} versions, all rejected or rolled back" if listed else "none",
                remedy="train one with `tasador run`, or promote one: tasador promote VERSION",
            )
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
        raise ConfigError(
            f"{len(found)} models are registered and none is chosen",
            expected=f"one of {', '.join(found[:10])}",
            remedy="choose one with `tasador use NAME`, or name it with --model",
        )
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
