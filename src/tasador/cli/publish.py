"""`tasador publish`: put a bundle where services look for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def publish(
    location: Annotated[
        str, typer.Argument(help="gs://bucket/prefix, s3://bucket/prefix or a folder.")
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle folder; by default the newest real one.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Publish what this registered model's alias stands for.")
    ] = None,
    alias: Annotated[str, typer.Option(help="The alias, with --model.")] = "staging",
    registry: Annotated[
        str | None, typer.Option(help="MLflow tracking URI; by default the workspace's.")
    ] = None,
    workspace: Annotated[Path, typer.Option(help="Folder of runs, bundles and databases.")] = Path(
        "workspace"
    ),
) -> None:
    """Publish a bundle; services that follow the location take it at their next look."""
    from tasador.core.errors import ConfigError
    from tasador.flows.deliver import deliver_bundle, deliver_registered

    if model is None:
        pointer = deliver_bundle(location, bundle=bundle, workspace=workspace)
    elif bundle is not None:
        raise ConfigError("either a bundle or a registered model is published, not both")
    else:
        uri = registry or f"sqlite:///{workspace.resolve() / 'mlflow.db'}"
        pointer = deliver_registered(location, tracking_uri=uri, model_name=model, alias=alias)
    size = sum(pointer.files.values()) / 2**20
    typer.echo(f"published {pointer.version} ({size:.1f} MiB, {pointer.origin}) at {location}")
