"""The reader for a registry's address: an MLflow server, or the embedded one."""

from __future__ import annotations

from tasador.registry.stores.resolver import RegistryReader


def registry_reader(uri: str, *, connect_s: float = 2.0, read_s: float = 5.0) -> RegistryReader:
    """Return what reads the registry at `uri`: a server, or the embedded one's database.

    Raises:
        ConfigError: The address has an unknown scheme.
    """
    if uri.startswith(("http://", "https://")):
        from tasador.registry.stores.mlflow_rest import MlflowServer

        return MlflowServer(uri, connect_s, read_s)
    from tasador.registry.stores.mlflow_sqlite import EmbeddedRegistry

    return EmbeddedRegistry.at(uri)
