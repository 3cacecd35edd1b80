"""Open the engine that the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from tasador.core.parallel.base import Engine, EngineName, LocalEngine, RaySettings


def check_engine(name: EngineName, settings: RaySettings) -> None:
    """Say what is wrong before any work is done.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: Nobody listens at the cluster's address.
    """
    if name == "ray":
        from tasador.core.parallel.ray import check_ray

        check_ray(settings)


@contextmanager
def open_engine(name: EngineName, settings: RaySettings) -> Iterator[Engine]:
    """Give the engine while the body runs.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: The cluster cannot be reached.
    """
    opened: AbstractContextManager[Engine] = nullcontext(LocalEngine())
    if name == "ray":
        from tasador.core.parallel.ray import open_ray

        opened = open_ray(settings)
    with opened as engine:
        yield engine
