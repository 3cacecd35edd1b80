"""`tasador demo`: the whole loop on this machine, in a few minutes."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from tasador.cli.up import stack_members

out = Console(highlight=False, soft_wrap=True)
#: Servers look often, so that nobody waits for them.
_QUICK = {"TASADOR_SOURCE__POLL_S": "2", "TASADOR_CANARY__POLL_S": "1"}


def demo(
    workspace: Annotated[
        Path | None, typer.Option(help="Empty folder to keep; by default a temporary one.")
    ] = None,
    ui: Annotated[bool, typer.Option(help="Start the web app too.")] = False,
) -> None:
    """Show drift, retraining, gates, canary, new champion and rollback, with real processes.

    Nothing of yours is touched: it has a workspace, a registry, a database and ports of its own,
    and settings in TASADOR_* variables do not reach it. Ctrl-C ends it at any moment.
    """
    from tasador.core.errors import ConfigError
    from tasador.data.sources import REAL_DATA_VARIABLE
    from tasador.flows.demo import INTERVAL_S, POLICY, WINDOW_S
    from tasador.flows.demo import demo as show

    for name in [*os.environ]:
        if name.startswith(("TASADOR_", "MLFLOW_")) and name != REAL_DATA_VARIABLE:
            del os.environ[name]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        if workspace is None:
            temporary = tempfile.TemporaryDirectory(prefix="tasador-demo-")
            folder = Path(stack.enter_context(temporary))
        else:
            folder = workspace.resolve()
            if folder.exists() and any(folder.iterdir()):
                raise ConfigError("the demo's folder is not empty", got=str(folder),
                                  remedy="name another --workspace")  # fmt: skip
        folder = folder.resolve()
        ports = {name: _free_port() for name in ("mlflow", "api", "ui")}
        words = ["--retrain", *(word for setting in POLICY for word in ("--set", setting))]
        members = [
            replace(member, environment={**member.environment, **_QUICK})
            for member in stack_members(folder, ports, INTERVAL_S, WINDOW_S, words)
            if member.name in ("api", "watcher", *(["ui"] if ui else []))
        ]
        if ui:
            out.print(f"web app, once the service is up: http://127.0.0.1:{ports['ui']}\n")
        url = f"http://127.0.0.1:{ports['api']}"
        ended = show(folder, members, url, lambda line: out.print(escape(line)))
        out.print(
            f"\nMAPE {ended.usual:.1f}% before the change, {ended.changed:.1f}% after it, "
            f"{ended.retrained:.1f}% retrained; the rollback took {ended.back_s:.1f} s"
        )
        if workspace is not None:
            out.print(f"to look around: tasador up --workspace {escape(str(workspace))}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
