"""The embedded MLflow registry (a SQLite file), read without MLflow.

For one machine without a server. A service cannot use MLflow's own store: it migrates databases,
needs SQLAlchemy, Alembic and pandas, and takes 3 s to import. Three columns of three tables are
read, and a test compares the answers with MLflow's own; a database that looks different is refused
with a remedy.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasador.core.deadlines import Deadline
from tasador.core.errors import (
    BundleError,
    ConfigError,
    NothingOfferedError,
    RegistryError,
    RegistryRejectedError,
    StorageError,
)
from tasador.core.storage import is_plain, read_limited
from tasador.registry.stores.mlflow_rest import local_path
from tasador.registry.stores.resolver import OfferedVersion
from tasador.registry.stores.versions import ModelVersion, refuse_dangling

_VERSION = """
    SELECT name, version, run_id, storage_location, source FROM model_versions
    WHERE name = ? AND version = ? AND current_stage <> 'Deleted_Internal'
"""
_LISTED = """
    SELECT version, creation_time, source FROM model_versions
    WHERE name = ? AND current_stage <> 'Deleted_Internal' ORDER BY version DESC
"""
_MODELS = """
    SELECT DISTINCT name FROM model_versions
    WHERE current_stage <> 'Deleted_Internal' ORDER BY name
"""
_ALIASES = "SELECT alias, version FROM registered_model_aliases WHERE name = ?"
_Row = tuple[str, int, str | None, str | None, str | None]
_TAGS = "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?"
_ALIAS = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"


@dataclass(frozen=True)
class EmbeddedRegistry:
    """A registry in a SQLite file, such as `tasador run` makes in its workspace.

    Attributes:
        file: The database; never written, never made.
    """

    file: Path

    @classmethod
    def at(cls, uri: str) -> EmbeddedRegistry:
        """Return the registry at ``sqlite:///path``.

        Raises:
            ConfigError: The address has an unknown scheme.
        """
        match = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", uri)
        if match is None:
            raise ConfigError(
                "the model registry's address is of a kind that a service cannot read",
                expected="http://, https:// or sqlite:///",
                got=re.sub(r"://[^/@\s]+@", "://***@", uri),
                remedy="start `mlflow server` on that store and give its address",
            )
        return cls(Path(match.group(1)))

    def resolve(self, model_name: str, alias: str, deadline: Deadline) -> OfferedVersion:
        """Return the version that holds `alias`.

        Raises:
            NothingOfferedError: There is no such database, model or alias.
            RegistryRejectedError: The database is no registry of a known layout.
            RegistryError: It is locked, or the alias points at a version that was deleted.
        """
        with self._reading(deadline) as database:
            row = database.execute(_ALIAS, (model_name, alias)).fetchone()
            if row is None:
                raise _absent(f"no model {model_name!r} with the alias {alias!r} in {self.file}")
            number = str(row[0])
            if database.execute(_VERSION, (model_name, number)).fetchone() is None:
                refuse_dangling(alias, number)
            return self._offered(database, model_name, number)

    def version(self, model_name: str, number: str, deadline: Deadline) -> OfferedVersion:
        """Return the version of that number; errors as in `resolve`."""
        with self._reading(deadline) as database:
            return self._offered(database, model_name, number)

    def models(self, deadline: Deadline) -> list[str]:
        """Return the names of the models that have a version; errors as in `listed`."""
        with self._reading(deadline) as database:
            return [str(name) for (name,) in database.execute(_MODELS)]

    def listed(self, model_name: str, deadline: Deadline) -> list[ModelVersion]:
        """Return every version of a model, the newest first; none when there is no such model.

        Raises:
            NothingOfferedError: There is no such database.
            RegistryRejectedError: The database is no registry of a known layout.
            RegistryError: It is locked.
        """
        with self._reading(deadline) as database:
            aliases = dict(database.execute(_ALIASES, (model_name,)).fetchall())
            rows = database.execute(_LISTED, (model_name,)).fetchall()
            return [
                ModelVersion(
                    name=model_name,
                    number=str(number),
                    created=created / 1000.0,
                    source=source or "",
                    tags=dict(database.execute(_TAGS, (model_name, number)).fetchall()),
                    aliases=tuple(sorted(a for a, held in aliases.items() if held == number)),
                )
                for number, created, source in rows
            ]

    def locate(self, offered: OfferedVersion, deadline: Deadline) -> str:
        """Return the address of a version's files; errors as in `resolve`."""
        with self._reading(deadline) as database:
            *_, stored, source = self._row(database, offered.name, offered.version)
            return stored or source or ""

    def read_artifact(self, artifact_uri: str, limit: int, deadline: Deadline) -> bytes:
        """Return the content of one file; errors as in `mlflow_rest.MlflowServer`."""
        try:
            content = read_limited(local_path(artifact_uri), limit, deadline=deadline)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NothingOfferedError(f"there is no {artifact_uri}") from None
            raise
        if len(content) > limit:
            raise BundleError(f"{artifact_uri} is too large", expected=f"at most {limit} bytes")
        return content

    def _row(self, database: sqlite3.Connection, model_name: str, number: str) -> _Row:
        row: _Row | None = database.execute(_VERSION, (model_name, number)).fetchone()
        if row is None:
            raise _absent(f"no version {number} of {model_name!r} in {self.file}")
        return row

    def _offered(
        self, database: sqlite3.Connection, model_name: str, number: str
    ) -> OfferedVersion:
        name, version, run_id, *_ = self._row(database, model_name, number)
        tags = dict(database.execute(_TAGS, (model_name, number)).fetchall())
        return OfferedVersion(name, str(version), run_id or "", tags)

    @contextmanager
    def _reading(self, deadline: Deadline) -> Iterator[sqlite3.Connection]:
        if not is_plain(self.file):
            raise _absent(f"no registry at {self.file}")
        try:
            database = sqlite3.connect(
                f"{self.file.resolve().as_uri()}?mode=ro",
                uri=True,
                timeout=min(2.0, deadline.remaining()),
            )
            try:
                yield database
            finally:
                database.close()
        except sqlite3.OperationalError as error:
            if "no such" in str(error):
                raise self._unknown(error) from None
            raise RegistryError(f"{self.file} cannot be read", got=str(error)) from error
        except sqlite3.DatabaseError as error:
            raise self._unknown(error) from None

    def _unknown(self, error: sqlite3.Error) -> RegistryRejectedError:
        return RegistryRejectedError(
            f"{self.file} is no MLflow registry of a known layout", got=str(error),
            remedy="start `mlflow server` on it and give the server's address",
        )  # fmt: skip


def _absent(what: str) -> NothingOfferedError:
    return NothingOfferedError(
        f"there is {what}", remedy="register one with tasador run, or name another model or alias"
    )
