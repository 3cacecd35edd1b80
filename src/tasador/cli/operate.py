"""A model in use: `serve`, `ui`, `publish`, `sign`, `verify`, and `keys` of the service."""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

import tasador
from tasador.cli.options import (
    WORKSPACE,
    Alias,
    Bundle,
    BundleFolder,
    DatabaseOption,
    Model,
    OptionsError,
    Registry,
    Version,
    Workspace,
)
from tasador.cli.output import err, escape, follow, note, out, table
from tasador.core.errors import ConfigError
from tasador.core.logging import JsonFormatter

KeysFile = Annotated[
    Path | None,
    typer.Option(
        "--file", metavar="FILE", envvar="TASADOR_SECURITY__KEYS_FILE", show_envvar=True,
        help="File of keys that the service reads; changes apply within seconds",
    ),
]  # fmt: skip


def serve(
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Address to listen on", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", help="Port to listen on; 0 takes a free one", show_default="8000"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Processes that share the port", show_default="1"),
    ] = None,
    root_path: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Path under which a proxy offers it, e.g. /valuations"),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A bundle, or a folder of bundles")
    ] = None,
    object_store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Published bundles: gs://, s3:// or a folder"),
    ] = None,
    tracking_uri: Registry = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    records: DatabaseOption = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Start the HTTP service.

    It uses the champion of the registry; before there is one, the newest version that was not
    rejected. All settings can be given as TASADOR_* variables; options override them.

    What was answered survives the death of the process. A power cut may take the last half minute
    of records in SQLite, unless TASADOR_RECORDS__SYNCHRONOUS=full.

    Examples:
        tasador serve
        tasador serve --port 8080 --workers 2 --alias challenger
        tasador serve --object-store gs://models/houses
    """
    from tasador.inference.sources import check_choice, with_defaults
    from tasador.ops.service import from_environment
    from tasador.serving.http.server import address, bind, set_up_logs
    from tasador.serving.http.server import serve as run
    from tasador.settings.serving import read_settings, variable

    given = {
        ("server", "host"): host,
        ("server", "port"): port,
        ("server", "workers"): workers,
        ("server", "root_path"): root_path,
        ("source", "local"): bundle,
        ("source", "tracking_uri"): tracking_uri,
        ("source", "model_name"): model,
        ("source", "alias"): alias,
        ("source", "version"): version,
        ("source", "object_store"): object_store,
        ("records", "url"): records,
    }
    if alias is not None and version is not None:
        raise ConfigError("either an alias or a version is served, not both")
    # workers are processes of their own: they are configured through the environment
    for place, value in given.items():
        if value is not None:
            os.environ[variable(*place)] = str(value)
    os.environ.update(with_defaults(os.environ, workspace))
    os.environ.setdefault("TASADOR_WORKSPACE", str(workspace))
    settings = read_settings(os.environ)
    if alias is not None or version is not None:
        check_choice(settings.source)
    # workers that cannot start would be started again for ever: what is wrong shows here, first
    app = from_environment()
    bound = bind(settings.server.host, settings.server.port)
    url = address(bound)
    offered = url + settings.server.root_path
    typer.echo(_announced(set_up_logs(settings.server), offered))
    code = run(settings.server, bound, "tasador.ops.service:from_environment", app)
    if code:
        raise typer.Exit(code)


def _announced(lines: logging.Formatter, url: str) -> str:
    text = f"tasador serves on {url}  (routes: {url}/docs, health: {url}/health/deep)"
    if isinstance(lines, JsonFormatter):
        record = logging.LogRecord("tasador", logging.INFO, __file__, 0, text, None, None)
        return lines.format(record)
    return text


def ui(
    api: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="TASADOR_UI__API_URL",
            show_envvar=True,
            help="Address of the service",
            show_default="http://127.0.0.1:8000",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port to listen on")
    ] = 8501,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on")] = "127.0.0.1",
) -> None:
    """Start the web app, which talks to a running service.

    It sends the API key in TASADOR_API_KEY, where the service needs one.
    """
    from tasador.core.errors import MissingExtraError

    for package in ("streamlit", "plotly"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError.for_package(package, "ui")
    url = api or "http://127.0.0.1:8000"
    if not url.startswith(("http://", "https://")):
        raise ConfigError("this is no address of a service", expected="http://...", got=url)
    _check_free(host, port)
    os.environ["TASADOR_UI__API_URL"] = url
    shown = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - only shown
    typer.echo(f"tasador ui on http://{shown}:{port} over {url}")
    sys.stdout.flush()
    # in place of this process, so that signals and exit codes are the app's own
    os.execv(sys.executable, command(host, port))  # noqa: S606


def command(host: str, port: int) -> list[str]:
    """Return what runs the app."""
    app = Path(tasador.__file__).parent / "ui" / "app.py"  # a path: no import of the web app
    options = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        # of each theme: one colour for both would force the light one
        "theme.light.primaryColor": "#2b6cb0",
        "theme.dark.primaryColor": "#6ea8e0",
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(app), *given]


def _check_free(host: str, port: int) -> None:
    """Refuse a port that is taken, by name; Streamlit itself would say less."""
    import socket

    from tasador.core.errors import ServingError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # connections of a server stopped a moment ago (TIME_WAIT) do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                f"cannot listen on {host}:{port}", got=str(error),
                remedy="stop what listens there, or choose another --port",
            ) from None  # fmt: skip


def publish(
    location: Annotated[
        str, typer.Argument(help="gs://bucket/prefix, s3://bucket/prefix or a folder")
    ],
    with_: Annotated[
        str,
        typer.Option(
            "--with", metavar="NAMES", help="Publish these too: data, splits, cards, report"
        ),
    ] = "",
    bundle: BundleFolder = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Copy the champion's bundle to where services look for it.

    Services take it at their next poll. Before there is a champion, it is the newest version that
    was not rejected.

    Examples:
        tasador publish gs://models/houses
        tasador publish s3://models/houses --version 3 --with cards,report
    """
    from tasador.inference.model_choice import BundleChoice
    from tasador.ops.publish_bundle import publish_registered

    choice = BundleChoice(workspace, bundle, model, alias, version, registry)
    documents = [word.strip() for word in with_.split(",") if word.strip()]
    pointer, written = publish_registered(location, choice, note, documents)
    size = sum(pointer.files.values()) / 2**20
    typer.echo(f"published {pointer.version} ({size:.1f} MiB, {pointer.origin}) at {location}")
    for where in written:
        typer.echo(f"  {where}")
    follow(f"serve --object-store {shlex.quote(location)}")


def sign(
    bundle: Bundle = None,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Private key: PEM, elliptic curve",
            show_default="the workspace's",
        ),
    ] = None,
    make_key: Annotated[
        bool, typer.Option("--make-key", help="Only make the workspace's key, if it has none")
    ] = False,
    public: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --make-key: copy the public key here"),
    ] = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Sign a bundle, so that services can verify who made it.

    With --model, --alias, --version or --registry, a registered version is signed where it is
    stored. The key's password is read from TASADOR_SIGNING_PASSWORD.

    Examples:
        tasador sign --make-key
        tasador sign --alias champion
    """
    from tasador.lifecycle.api import Place
    from tasador.ops.publish_bundle import sign_registered
    from tasador.registry.signature import KeyPair, password, sign_bundle, signing_key
    from tasador.registry.versions import CHAMPION

    if make_key:
        pair = KeyPair(workspace)
        made = "made" if pair.make(public) else "kept"
        out.print(f"{made} {escape(str(pair.private))}; public key: {escape(str(pair.public))}")
        follow("sign", workspace)
        return
    found = key or signing_key(workspace)
    if found is None:
        raise OptionsError.no_signing_key()
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
    follow("doctor" if registered else "verify", None if registered else workspace)


def verify(
    bundle: Bundle = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Public key, PEM; repeatable",
            show_default="the trusted keys",
        ),
    ] = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Verify a bundle: its files, its predictions and its signature."""
    from tasador.registry.model_bundle import load_bundle
    from tasador.registry.signature import TrustedKeys, trusted_keys

    trusted = TrustedKeys.read(key) if key else trusted_keys(workspace)
    loaded = load_bundle(_folder(bundle, workspace), trusted=trusted)
    signed = "" if trusted is None else ", signed by a trusted key"
    out.print(f"{escape(loaded.version)}: complete, its predictions are reproduced{signed}")
    follow("serve", workspace)


def _folder(bundle: Path | None, workspace: Path) -> Path:
    from tasador.registry.bundle_stores import newest_bundle

    return bundle or newest_bundle(workspace / "bundles")


def new_key(
    name: Annotated[str, typer.Argument(help="Owner of the key: letters, digits, . _ -")],
    role: Annotated[
        str,
        typer.Option(
            metavar="ROLE",
            help="client, importer (may report outcomes of others' predictions) or admin",
        ),
    ] = "client",
    file: KeysFile = None,
) -> None:
    """Create an API key and print it once.

    Other keys of the same owner stay valid.

    Examples:
        tasador keys new shop --file keys.txt
        tasador keys new ops --role admin --file keys.txt
    """
    from tasador.serving.http.auth import KEY_ROLES, add_key
    from tasador.serving.http.auth import new_key as make_key

    if role not in KEY_ROLES:
        raise ConfigError("there is no such role", expected=", ".join(KEY_ROLES), got=role)
    text, key = make_key(name, role)
    if file is None:
        err.print("the key, shown only once, then its line for security.keys or a keys file:")
        sys.stdout.write(f"{text}\n{key.line()}\n")
        return
    add_key(file, key)
    err.print(f"wrote its hash to {escape(str(file))}; the key, shown only once:")
    sys.stdout.write(f"{text}\n")
    follow(f"keys list --file {shlex.quote(str(file))}", to=err)


def list_keys(file: KeysFile = None) -> None:
    """List owners and roles of the keys in a file."""
    from tasador.serving.http.auth import read_keys

    rows = [(key.name, key.role, key.digest[:8]) for key in read_keys(_needed(file))]
    if rows:
        out.print(table(("name", "role", "sha256 begins"), rows, grid=False))
    else:
        out.print(f"no key in {escape(str(file))} yet")
    follow("serve" if rows else f"keys new NAME --file {shlex.quote(str(file))}")


def revoke_keys(
    name: Annotated[str, typer.Argument(help="Owner of the keys")],
    keep_newest: Annotated[
        bool, typer.Option("--keep-newest", help="Keep the newest one: the end of a rotation")
    ] = False,
    file: KeysFile = None,
) -> None:
    """Delete the keys of an owner."""
    from tasador.serving.http.auth import revoke_keys as delete_keys

    count = delete_keys(_needed(file), name, keep_newest=keep_newest)
    out.print(f"removed {count} key{'' if count == 1 else 's'} of {escape(name)}")
    follow(f"keys list --file {shlex.quote(str(file))}")


def _needed(file: Path | None) -> Path:
    if file is None:
        raise OptionsError.no_keys_file()
    return file
