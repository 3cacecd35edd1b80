"""The whole product on this machine, started and stopped as one: `up`, `demo`."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasador.cli.models import settings_with
from tasador.cli.options import WORKSPACE, OptionsError, Retrain, Set, WatchConfig, Workspace
from tasador.cli.output import escape, out
from tasador.cli.watch import budget_line

if TYPE_CHECKING:
    from tasador.ops.processes import Member

#: What each process imports first, so that one message names what is not installed.
_NEEDS = {
    "mlflow": ("mlflow",),
    "api": ("fastapi", "uvicorn"),
    "ui": ("streamlit", "plotly"),
    "watcher": ("fastapi",),
}
#: Servers of the demo look often, so that nobody waits for them.
_QUICK = {"TASADOR_SOURCE__POLL_S": "2", "TASADOR_CANARY__POLL_S": "1"}


def up(
    api_port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port of the HTTP service")
    ] = 8000,
    ui_port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port of the web app")
    ] = 8501,
    mlflow_port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port of MLflow")
    ] = 5000,
    interval: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Time between checks")
    ] = 15.0,
    window: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Time that a check looks back")
    ] = 600.0,
    config: WatchConfig = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave out mlflow, api, ui or watcher; repeatable"),
    ] = None,
    retrain: Retrain = False,
    set_: Set = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Start service, web app, watcher and MLflow on this machine.

    Ctrl-C stops them; when one of them ends, all are stopped. Their logs are in the workspace's
    `logs`. --set changes the policy and gates of --retrain.

    Examples:
        tasador up
        tasador up --ui-port 8600 --without mlflow
        tasador up --retrain --set retraining.budget=2
    """
    from tasador.core.errors import MissingExtraError
    from tasador.monitoring.settings import FILE, read_watch_settings, whom_alerts_reach
    from tasador.ops.processes import Stack

    if config is not None:
        os.environ[FILE] = str(config.resolve())  # for the watcher

    policy = budget_line(settings_with(set_)) if retrain or set_ else ""
    words = [*(["--retrain"] if retrain else []), *(w for s in set_ or () for w in ("--set", s))]
    ports = {"mlflow": mlflow_port, "api": api_port, "ui": ui_port}
    members = [
        member
        for member in stack_members(workspace.resolve(), ports, interval, window, words)
        if member.name not in (without or ())
    ]
    unknown = set(without or ()) - {"mlflow", "api", "ui", "watcher"}
    if unknown or not members:
        raise OptionsError.without(without or ())
    for member in members:
        for module in _NEEDS[member.name]:
            if find_spec(module) is None:
                raise MissingExtraError.for_package(module, "train,serve,ui")
    for line in trust_workspace(workspace):
        out.print(escape(line))
    watched = any(member.name == "watcher" for member in members)
    alerts = whom_alerts_reach(read_watch_settings().reached) if watched else ""
    stack = Stack(members, workspace / "logs")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stack.stop())

    def ready() -> None:
        shown = {"api": " (routes: /docs)", "mlflow": " (runs and registry)"}
        for member in members:
            where = member.url or "watching" + (f"; retraining: {policy}" if retrain else "")
            out.print(f"  {member.name:<8} {escape(where)}{shown.get(member.name, '')}")
        if alerts:
            out.print(escape(alerts))
        out.print(f"logs: {escape(str(workspace / 'logs'))}    stop: Ctrl-C")

    out.print(f"starting {', '.join(member.name for member in members)}")
    stack.run(ready, lambda: out.print("stopping, at most 5 seconds"))
    out.print("stopped")


def trust_workspace(workspace: Path) -> list[str]:
    """Make the workspace's signing key, sign what is there, and return what to say about it.

    Only the first time: a bundle that comes later without a signature is refused. Nothing is done
    where keys or other sources are configured.
    """
    from tasador.inference.sources import LOCAL, OBJECT_STORE, TRACKING_URI
    from tasador.registry.signature import VARIABLE, KeyPair, sign_workspace

    configured = (VARIABLE, TRACKING_URI, OBJECT_STORE, LOCAL)
    if any(os.environ.get(name) is not None for name in configured):
        return []
    pair = KeyPair(workspace)
    if not pair.make():
        return []
    signed, problems = sign_workspace(workspace)
    made = f"made {pair.private}: only models that it signed are served from this workspace"
    return [f"{made} ({signed} bundles signed)", *problems]


def stack_members(
    workspace: Path,
    ports: dict[str, int],
    interval: float,
    window: float,
    watching: Sequence[str] = (),
) -> list[Member]:
    """Return what is started, MLflow first.

    Args:
        workspace: Absolute.
        ports: Of mlflow, api and ui.
        interval: Seconds between verdicts.
        window: Seconds a verdict looks back.
        watching: More options of `tasador watch`.
    """
    from tasador.inference.sources import with_defaults
    from tasador.ops.processes import Member

    own = (sys.executable, "-m", "tasador.cli.app")
    there = ("--workspace", str(workspace))
    database = f"sqlite:///{workspace / 'mlflow.db'}"
    with_defaults(os.environ, workspace)  # refuses several models of which none is chosen
    source = {"TASADOR_SOURCE__POLL_S": os.environ.get("TASADOR_SOURCE__POLL_S", "5")}
    workspace.mkdir(parents=True, exist_ok=True)
    return [
        Member(
            "mlflow",
            (
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
                str(ports["mlflow"]), "--workers", "1", "--backend-store-uri", database,
                "--artifacts-destination", str(workspace / "mlartifacts"),
            ),
            ports["mlflow"], "/health",
            # its job workers (seven processes, 1.2 GB) run GenAI evaluations, which nobody asks for
            {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        ),
        Member(
            "api", (*own, "serve", "--host", "127.0.0.1", "--port", str(ports["api"]), *there),
            ports["api"], "/health/live", source,
        ),
        Member(
            "ui",
            (*own, "ui", "--port", str(ports["ui"]), "--api", f"http://127.0.0.1:{ports['api']}"),
            ports["ui"], "/_stcore/health",
        ),
        Member(
            "watcher",
            (
                *own, "watch", "--interval", str(interval), "--window", str(window), *there,
                *watching,
            ),
            environment={**source, "PYTHONUNBUFFERED": "1"},
        ),
    ]  # fmt: skip


def demo(
    workspace: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Empty folder to keep", show_default="a temporary one"),
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Start the web app too")] = False,
) -> None:
    """Show the whole loop: drift, retraining, canary, rollback.

    It uses a workspace, registry, database and ports of its own, and ignores TASADOR_* variables.
    Ctrl-C stops it.
    """
    from tasador.data.sources import REAL_DATA_VARIABLE
    from tasador.ops.demo import INTERVAL_S, POLICY, WINDOW_S
    from tasador.ops.demo import demo as show

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
                raise OptionsError.not_empty(folder)
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
