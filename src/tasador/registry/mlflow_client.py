"""A client of MLflow that has answered once, with bounded waiting and errors of ours.

It is an explicit client, so the process's own tracking settings are neither used nor changed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasador.core.errors import MissingExtraError, RegistryError, TasadorError
from tasador.core.files import make_private
from tasador.registry.mlflow_environment import PROBE, WORK, environment, quiet_mlflow


@contextmanager
def open_client(tracking_uri: str, waiting: Mapping[str, str] = WORK) -> Iterator[Any]:
    """Yield a client that has answered once; turn what MLflow raises into `RegistryError`.

    Args:
        tracking_uri: The registry.
        waiting: How long its answers are waited for, as `mlflow_environment` says it.

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
            with environment(PROBE):
                _make_database(tracking_uri)
                client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
                client.search_experiments(max_results=1)
            with environment(waiting):
                yield client
        except TasadorError:
            raise
        except Exception as error:  # MLflow lets its stores' and transports' own errors through
            raise RegistryError(
                f"the model registry at {without_password(tracking_uri)} cannot be used",
                got=without_password(_first_line(error)),
                remedy="check the address, that the server runs and accepts this host "
                "(mlflow server --allowed-hosts), or use the embedded registry: "
                "tracking_uri=sqlite:///workspace/mlflow.db",
            ) from error


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
    if file is None or file.exists():
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
