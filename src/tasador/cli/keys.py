"""`tasador keys`: API keys made, listed, revoked. Only hashes are ever written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tasador.cli.streams import escape
from tasador.core.errors import ConfigError

keys = typer.Typer(help="API keys of the service.", no_args_is_help=True)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

KeysFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar="TASADOR_SECURITY__KEYS_FILE",
        help="The keys' file, which the service reads; changes count within seconds.",
    ),
]


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="Who holds it: letters, digits, . _ -")],
    role: Annotated[
        str,
        typer.Option(
            help="client; importer, who may also report outcomes of others' predictions; or admin."
        ),
    ] = "client",
    file: KeysFile = None,
) -> None:
    """Make a key and print it, once; others of the same name stay valid."""
    from tasador.serving.access import KEY_ROLES, new_key
    from tasador.serving.key_file import add_key

    if role not in KEY_ROLES:
        raise ConfigError("there is no such role", expected=", ".join(KEY_ROLES), got=role)
    text, key = new_key(name, role)
    if file is None:
        err.print("the key, shown this once; then the line for security.keys or a keys' file:")
        sys.stdout.write(f"{text}\n{key.line()}\n")
        return
    add_key(file, key)
    err.print(f"wrote its hash to {escape(str(file))}; the key, shown this once:")
    sys.stdout.write(f"{text}\n")


@keys.command(name="list")
def list_(file: KeysFile = None) -> None:
    """List the names and roles of the keys in a file."""
    from rich.table import Table

    from tasador.serving.key_file import read_keys

    table = Table("name", "role", "sha256 begins")
    for key in read_keys(_needed(file)):
        table.add_row(escape(key.name), key.role, key.digest[:8])
    out.print(table)


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Whose keys.")],
    keep_newest: Annotated[
        bool, typer.Option(help="Keep the one made last: the end of a rotation.")
    ] = False,
    file: KeysFile = None,
) -> None:
    """Remove the keys of a name."""
    from tasador.serving.key_file import revoke_keys

    count = revoke_keys(_needed(file), name, keep_newest=keep_newest)
    out.print(f"removed {count} key{'' if count == 1 else 's'} of {escape(name)}")


def _needed(file: Path | None) -> Path:
    if file is None:
        raise ConfigError(
            "no keys' file is named",
            remedy="give --file, or set TASADOR_SECURITY__KEYS_FILE",
        )
    return file
