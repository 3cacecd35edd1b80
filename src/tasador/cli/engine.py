"""Options of commands that can work on a cluster."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class EngineChoice(StrEnum):
    """Where work is done."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[
    EngineChoice,
    typer.Option(help="This machine's cores, or a Ray cluster; the results are the same."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Of the cluster: auto, host:6379, ray://host:10001; by default one is started here."
    ),
]
