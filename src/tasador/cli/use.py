"""`tasador use`: the model that the commands in a workspace mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasador.cli.model_choice import Registry, Workspace


def use(
    name: Annotated[
        str | None, typer.Argument(help="A model's name; without it, say which is in use.")
    ] = None,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
) -> None:
    """Choose the model that the commands in a workspace mean, where it holds several."""
    from tasador.flows.lifecycle import Place, choose_model

    place = Place(workspace, registry)
    if name is None:
        typer.echo(place.model_name or "no model was chosen: tasador use NAME")
        return
    choose_model(place, name)
    typer.echo(f"{workspace} uses {name}")
