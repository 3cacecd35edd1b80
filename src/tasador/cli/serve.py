"""`tasador serve`: the valuation API."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from tasador.core.logs import JsonFormatter


def serve(
    host: Annotated[str | None, typer.Option(help="Address; by default this machine only.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes sharing the port.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle's folder, or a folder of bundles.")
    ] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow's address.")] = None,
    model: Annotated[str | None, typer.Option(help="Name in the registry.")] = None,
    alias: Annotated[
        str | None, typer.Option(help="Alias in the registry; by default the champion.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version in the registry: its number, or the bundle's.")
    ] = None,
    object_store: Annotated[
        str | None, typer.Option(help="gs://, s3:// or a folder of published bundles.")
    ] = None,
    records: Annotated[str | None, typer.Option(help="URL of the records' database.")] = None,
    workspace: Annotated[Path, typer.Option(help="Folder of bundles and databases.")] = Path(
        "workspace"
    ),
) -> None:
    """Serve valuations over HTTP; settings come from TASADOR_* variables and these options.

    The champion of the workspace's registry answers; before there is one, the newest version that
    was not rejected.
    """
    from tasador.core.errors import ConfigError
    from tasador.flows.served import from_environment
    from tasador.serving.defaults import check_choice, with_defaults
    from tasador.serving.run import address, bind, set_up_logs
    from tasador.serving.run import serve as run
    from tasador.serving.settings import read_settings, variable

    given = {
        ("server", "host"): host,
        ("server", "port"): port,
        ("server", "workers"): workers,
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
    # workers are processes of their own: what they are told goes through the environment
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
    typer.echo(_announced(set_up_logs(settings.server), url))
    code = run(settings.server, bound, "tasador.flows.served:from_environment", app)
    if code:
        raise typer.Exit(code)


def _announced(lines: logging.Formatter, url: str) -> str:
    text = f"tasador serves on {url}  (routes: {url}/docs, health: {url}/health/deep)"
    if isinstance(lines, JsonFormatter):
        record = logging.LogRecord("tasador", logging.INFO, __file__, 0, text, None, None)
        return lines.format(record)
    return text
