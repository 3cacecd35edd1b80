"""`tasador publish`: put a bundle where services look for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasador.cli.model_choice import (
    Alias,
    BundleFolder,
    Model,
    Registry,
    Version,
    Workspace,
    note,
)


def publish(
    location: Annotated[
        str, typer.Argument(help="gs://bucket/prefix, s3://bucket/prefix or a folder.")
    ],
    with_: Annotated[
        str,
        typer.Option(
            "--with", help="Publish these of the version too: data, splits, cards, report."
        ),
    ] = "",
    bundle: BundleFolder = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Publish the champion's bundle; services that follow the location take it at their next look.

    Without a champion it is the newest version that was not rejected.
    """
    from tasador.flows.chosen import BundleChoice
    from tasador.flows.deliver import deliver

    choice = BundleChoice(workspace, bundle, model, alias, version, registry)
    documents = [word.strip() for word in with_.split(",") if word.strip()]
    pointer, written = deliver(location, choice, note, documents)
    size = sum(pointer.files.values()) / 2**20
    typer.echo(f"published {pointer.version} ({size:.1f} MiB, {pointer.origin}) at {location}")
    for where in written:
        typer.echo(f"  {where}")
