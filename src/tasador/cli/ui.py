"""`tasador ui`: the web app over the API."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import tasador


def ui(
    api: Annotated[
        str | None,
        typer.Option(envvar="TASADOR_UI__API_URL", help="Address of the service."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8501,
    host: Annotated[str, typer.Option(help="Address; by default this machine only.")] = "127.0.0.1",
) -> None:
    """Show the web app: value, score files, watch health, manage models, read reports.

    It talks to the service only. Where that wants a key, TASADOR_API_KEY is sent.
    """
    from tasador.core.errors import ConfigError, MissingExtraError

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
    app = Path(tasador.__file__).parent / "ui" / "app.py"  # a path: this room may not import it
    options = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "theme.primaryColor": "#2b6cb0",
    }
    told = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(app), *told]


def _check_free(host: str, port: int) -> None:
    """Refuse a port that is taken, by name; Streamlit itself would say less."""
    import socket

    from tasador.core.errors import ServingError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                f"cannot listen on {host}:{port}", got=str(error),
                remedy="stop what listens there, or choose another --port",
            ) from None  # fmt: skip
