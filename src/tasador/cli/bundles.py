"""``tasador sign | verify``: who made a bundle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

out = Console(highlight=False, soft_wrap=True)

Bundle = Annotated[
    Path | None, typer.Argument(help="Bundle folder; by default the workspace's newest.")
]
Workspace = Annotated[Path, typer.Option(help="Folder of runs, bundles and databases.")]
#: The private key's password, where a person or a process list could see an option.
PASSWORD = "TASADOR_SIGNING_PASSWORD"  # noqa: S105 - a variable's name


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    for command in (sign, verify):
        app.command()(command)


def sign(
    key: Annotated[Path, typer.Option(help="Private key, PEM, elliptic curve.")],
    bundle: Bundle = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Sign a bundle, so that servers can tell who made it.

    A key's password is taken from TASADOR_SIGNING_PASSWORD.
    """
    from tasador.registry.signature import sign_bundle

    password = os.environ.get(PASSWORD)
    file = sign_bundle(_folder(bundle, workspace), key, password.encode() if password else None)
    out.print(f"wrote {escape(str(file))}")


def verify(
    bundle: Bundle = None,
    key: Annotated[
        list[Path] | None, typer.Option(help="Public key, PEM; may be given several times.")
    ] = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Check a bundle: every file, its answers on golden rows, and, given keys, its signature."""
    from tasador.registry.bundle import load_bundle
    from tasador.registry.signature import TrustedKeys

    trusted = TrustedKeys.read(key or [])
    loaded = load_bundle(_folder(bundle, workspace), trusted=trusted)
    signed = "" if trusted is None else ", signed by a trusted key"
    out.print(f"{escape(loaded.version)}: whole, answers as where it was made{signed}")


def _folder(bundle: Path | None, workspace: Path) -> Path:
    from tasador.registry.folders import newest_bundle

    return bundle or newest_bundle(workspace / "bundles")
