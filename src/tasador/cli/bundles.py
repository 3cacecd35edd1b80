"""``tasador sign | verify``: who made a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tasador.cli.model_choice import Alias, Model, Registry, Version, Workspace
from tasador.cli.streams import escape

out = Console(highlight=False, soft_wrap=True)

Bundle = Annotated[
    Path | None, typer.Argument(help="Bundle folder; by default the workspace's newest.")
]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    for command in (sign, verify):
        app.command()(command)


def sign(
    bundle: Bundle = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Private key, PEM, elliptic curve; by default the workspace's."),
    ] = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    make_key: Annotated[
        bool, typer.Option(help="Only make the workspace's key, unless there is one.")
    ] = False,
    public: Annotated[
        Path | None, typer.Option(help="With --make-key: where a copy of the public key goes.")
    ] = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Sign a bundle, so that servers can tell who made it.

    With --model, --alias, --version or --registry a registered version is signed where it lies. A
    key's password is taken from TASADOR_SIGNING_PASSWORD.
    """
    from tasador.core.errors import ConfigError
    from tasador.flows.lifecycle import Place
    from tasador.flows.signing import sign_registered
    from tasador.registry.signature import sign_bundle
    from tasador.registry.trust import KeyPair, password, signing_key
    from tasador.registry.versions import CHAMPION

    if make_key:
        pair = KeyPair(workspace)
        made = "made" if pair.make(public) else "kept"
        out.print(f"{made} {escape(str(pair.private))}; public key: {escape(str(pair.public))}")
        return
    found = key or signing_key(workspace)
    if found is None:
        raise ConfigError("no key to sign with", expected="--key FILE, or the workspace's key",
                          remedy="tasador sign --make-key")  # fmt: skip
    registered = any(part is not None for part in (model, alias, version, registry))
    if registered and bundle is not None:
        raise ConfigError("a folder and a registered version contradict each other")
    if registered:
        place = Place(workspace, registry, model=model)
        name, content = sign_registered(place, version or alias or CHAMPION, found)
        out.print(f"signed version {escape(name)} (content {content[:12]})")
    else:
        out.print(
            f"wrote {escape(str(sign_bundle(_folder(bundle, workspace), found, password())))}"
        )


def verify(
    bundle: Bundle = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            help="Public key, PEM; may be given several times; by default the trusted ones."
        ),
    ] = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Check a bundle: every file, its answers on golden rows, and, given keys, its signature."""
    from tasador.registry.bundle import load_bundle
    from tasador.registry.signature import TrustedKeys
    from tasador.registry.trust import trusted_keys

    trusted = TrustedKeys.read(key) if key else trusted_keys(workspace)
    loaded = load_bundle(_folder(bundle, workspace), trusted=trusted)
    signed = "" if trusted is None else ", signed by a trusted key"
    out.print(f"{escape(loaded.version)}: whole, answers as where it was made{signed}")


def _folder(bundle: Path | None, workspace: Path) -> Path:
    from tasador.registry.folders import newest_bundle

    return bundle or newest_bundle(workspace / "bundles")
