"""The options by which commands that value rows say which model they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tasador.cli.streams import escape

err = Console(stderr=True, highlight=False, soft_wrap=True)

Workspace = Annotated[Path, typer.Option(help="Folder of runs, bundles and databases.")]
BundleFolder = Annotated[
    Path | None, typer.Option("--bundle", help="Bundle folder, instead of a registered model.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Registered model; by default the one that fits the rows."),
]
Alias = Annotated[
    str | None, typer.Option("--alias", help="Alias in the registry; by default the champion.")
]
Version = Annotated[
    str | None, typer.Option("--version", help="Registered version, instead of an alias.")
]
Registry = Annotated[
    str | None, typer.Option("--registry", help="MLflow's address; by default the workspace's.")
]


def note(line: str) -> None:
    """Print which model was taken, where nobody has said which."""
    err.print(f"[dim]note:[/] {escape(line)}")
