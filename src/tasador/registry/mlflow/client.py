"""A client of MLflow that has answered once, with bounded waiting and errors of ours.

It is an explicit client, so the process's own tracking settings are neither used nor changed.

MLflow is called with bounded waiting, without telemetry and without chatter. It takes such settings
from environment variables only, and its own defaults wait for a dead server for minutes (7 retries
of 120 s). They are set while a call runs and put back afterwards, so that nothing leaks into the
process or its children.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import sqlite3
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tasador.core.errors import MissingExtraError, RegistryError, StorageError, TasadorError
from tasador.core.storage import make_private
from tasador.registry.mlflow_reader import (
    StoredModel,
    StoredVersion,
    change_stamp,
    read_snapshot,
    snapshot_file,
    write_snapshot,
)

_log = logging.getLogger(__name__)
_PAGE = 100
_LOGGERS = ("mlflow", "alembic", "urllib3.connectionpool")
#: For the first question to a server: two attempts of 3 s, so that a dead one is known in < 10 s.
PROBE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}
#: Once the server has answered: uploads may be slow, an outage is still noticed.
WORK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}
#: For what is small and must end soon: aliases and tags, under a lease of half a minute.
BRISK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",  # a server's own answers, and nobody else's
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # else files of the working folder slip into the model
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class UnusableRegistryError(RegistryError):
    """A registry that cannot be reached, or that refuses."""

    @classmethod
    def of(cls, uri: str, error: Exception) -> UnusableRegistryError:
        """Return the error of whatever MLflow raised."""
        return cls(
            f"the model registry at {without_password(uri)} cannot be used",
            got=without_password(_first_line(error)),
            remedy="check the address, that the server runs and accepts this host "
            "(mlflow server --allowed-hosts), or use the embedded registry: "
            "tracking_uri=sqlite:///workspace/mlflow.db",
        )

    @classmethod
    def foreign(cls, file: Path, tables: Sequence[str]) -> UnusableRegistryError:
        """Return the error of a SQLite file that holds something else."""
        return cls(
            f"{file} has no tables of MLflow",
            got=", ".join(tables[:5]),
            remedy="name another file: MLflow would make its tables in this one",
        )


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the body runs, then put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Keep MLflow, its migrations and its HTTP pool from writing to standard error.

    Python's warnings are off meanwhile: MLflow's are about itself and its own dependencies, or
    advise to log an input example, which the signature makes unnecessary.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with environment(_QUIET), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def open_client(tracking_uri: str, waiting: Mapping[str, str] = WORK) -> Iterator[Any]:
    """Yield a client that has answered once; turn what MLflow raises into `RegistryError`.

    Args:
        tracking_uri: The registry.
        waiting: How long its answers are waited for, as `PROBE`, `WORK` and `BRISK` say it.

    Raises:
        RegistryError: It cannot be reached, or MLflow refuses something in the body.
        MissingExtraError: MLflow is not installed.
    """
    with quiet_mlflow():
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MissingExtraError.for_package("mlflow", "train") from error
        try:
            # a question that costs nothing: a dead server is known before anything is sent
            with environment(PROBE):
                _make_database(tracking_uri)
                client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
                client.search_experiments(max_results=1)
            with environment(waiting):
                try:
                    yield client
                finally:
                    _update_snapshot(client, sqlite_file(tracking_uri))
        except TasadorError:
            raise
        except Exception as error:  # MLflow lets its stores' and transports' own errors through
            raise UnusableRegistryError.of(tracking_uri, error) from error


def _update_snapshot(client: Any, file: Path | None) -> None:
    """Bring the snapshot file of an embedded registry to its present state, if it is not.

    Services and commands without MLflow follow it. Where it cannot be written they notice that it
    is old, so nothing else fails for it.
    """
    if file is None:
        return
    try:
        stamp, known = change_stamp(file), read_snapshot(file)
        if known is None or known[0] != stamp:
            write_snapshot(file, stamp, _registered(client))
    except Exception as error:  # also MLflow's own, which are of many classes
        _log.warning("%s cannot be written: %s", snapshot_file(file), error)


def _registered(client: Any) -> dict[str, StoredModel]:
    """Return every registered model, read through MLflow."""
    versions: dict[str, list[StoredVersion]] = {}
    for one in pages(client.search_model_versions, None):
        source = str(one.source or "")
        if source.startswith(("models:", "runs:")):  # only MLflow knows where that is
            source = client.get_model_version_download_uri(one.name, one.version)
        stored = StoredVersion(
            str(one.version), one.creation_timestamp / 1000.0, str(one.source or ""), source,
            str(one.run_id or ""), {str(key): str(value) for key, value in one.tags.items()},
        )  # fmt: skip
        versions.setdefault(str(one.name), []).append(stored)
    models = {}
    for one in pages(client.search_registered_models, None):
        own = sorted(versions.get(one.name, []), key=lambda found: -int(found.number))
        held = {str(alias): str(number) for alias, number in one.aliases.items()}
        models[str(one.name)] = StoredModel(held, own)
    return models


def pages(search: Any, query: str | None) -> Iterator[Any]:
    """Yield what a search of MLflow's client finds, page by page."""
    token = None
    while True:
        page = search(query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def without_password(text: str) -> str:
    """Return an address without the user and password in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def sqlite_file(tracking_uri: str) -> Path | None:
    """Return the file of an embedded registry; None for any other."""
    match = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", tracking_uri)
    return Path(match.group(1)) if match else None


def _make_database(tracking_uri: str) -> None:
    """Make a SQLite registry that is not there yet.

    It gets its name once all tables are in it: a half-made one, as a full disk or Ctrl-C would
    leave it, could neither be used nor be completed.
    """
    from mlflow import MlflowClient

    file = sqlite_file(tracking_uri)
    if file is None:
        return
    if file.exists():
        _refuse_foreign(file)
        return
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        make_private(new)
        MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
        if not file.exists():  # another process may have been faster
            new.rename(file)
    finally:
        for rest in file.parent.glob(f"{new.name}*"):
            rest.unlink()


def _refuse_foreign(file: Path) -> None:
    """Refuse a database of something else: MLflow would make its tables in it."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(file, timeout=2.0)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        tables = sorted(str(name) for (name,) in found)
        if tables and "alembic_version" not in tables:
            raise UnusableRegistryError.foreign(file, tables)


def main(file: str) -> int:
    """Write the snapshot file of the registry in a SQLite file; return the exit code."""
    try:
        before = read_snapshot(Path(file))
        with open_client(f"sqlite:///{file}"):
            pass
        after = read_snapshot(Path(file))
        if after is None or (after == before and after[0] != change_stamp(Path(file))):
            raise StorageError(f"{snapshot_file(Path(file))} cannot be written")
    except TasadorError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
