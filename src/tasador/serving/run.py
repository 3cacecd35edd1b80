"""Run the service: bind the port, start the workers, stop them gracefully."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasador.core.errors import ServingError
from tasador.core.logs import configure_logs, formatter
from tasador.serving.settings import ServerSettings

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from tasador.serving.exchange import App

#: Makes each worker's application.
FACTORY = "tasador.serving.assembly:from_environment"


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to `host` and `port`; 0 takes a free port.

    Raises:
        ServingError: The port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise ServingError(
            f"cannot listen on {host}:{port}",
            got=str(error),
            remedy="stop what listens there, or choose another --port"
            if taken
            else "choose an address of this machine with --host, and a port below 65536",
        ) from None
    bound.set_inheritable(True)
    return bound


def serve(
    settings: ServerSettings,
    bound: socket.socket,
    factory: str = FACTORY,
    app: App | None = None,
) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code.

    Each worker reads its settings from the environment. On SIGTERM no new connection is taken,
    requests under way get ``drain_s`` to finish, records are flushed.

    Args:
        settings: Where to listen, and with how many workers.
        bound: The socket, from `bind`.
        factory: Makes each worker's application, as ``module:function``.
        app: What `factory` made in this process, which a single worker then serves.
    """
    import uvicorn

    options: dict[str, Any] = {
        "loop": "uvloop",
        "http": "tasador.serving.protocol:GuardedProtocol",
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # security.trusted_proxies says whose are believed
        "timeout_keep_alive": settings.keep_alive_s,
        "timeout_graceful_shutdown": max(1, round(settings.drain_s)),
        "backlog": 2048,
        "workers": settings.workers,
    }
    for stop in (signal.SIGTERM, signal.SIGINT):
        # uvicorn drains, then raises the signal again: an ordered end is no failure
        signal.signal(stop, lambda *_: None)
    if settings.workers == 1:
        config = uvicorn.Config(app or factory, factory=app is None, **options)
        server = uvicorn.Server(config)
        server.run(sockets=[bound])
        return 0 if server.started else 1
    with tempfile.TemporaryDirectory(prefix="tasador-metrics-") as temporary:
        folder = Path(settings.metrics_folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for file in (*folder.glob("*.db"), folder / "rates", folder / "wrong"):
            file.unlink(missing_ok=True)  # of an earlier start
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        _workers(uvicorn.Config(factory, factory=True, **options), bound, folder).run()
    return 0


def _workers(config: uvicorn.Config, bound: socket.socket, folder: Path) -> Multiprocess:
    """Return what starts workers and replaces dead ones, whose gauges are then forgotten."""
    from prometheus_client.multiprocess import mark_process_dead
    from uvicorn.supervisors import Multiprocess

    class Workers(Multiprocess):
        seen: set[int | None] = set()  # noqa: RUF012 - there is one of these in a process

        def keep_subprocess_alive(self) -> None:
            super().keep_subprocess_alive()
            running = {process.pid for process in self.processes}
            for ended in self.seen - running:
                mark_process_dead(ended, str(folder))  # type: ignore[no-untyped-call]
            self.seen = running

    return Workers(config, sockets=[bound])


def address(bound: socket.socket) -> str:
    """Return the URL at which a bound socket is reached."""
    host, port = bound.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - only shown
    return f"http://{f'[{shown}]' if ':' in shown and '[' not in shown else shown}:{port}"


def set_up_logs(settings: ServerSettings) -> logging.Formatter:
    """Set up the logs of a process that serves, and return what makes its lines."""
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    configure_logs(settings.log_level, as_json=as_json, everything=True)
    return formatter(as_json=as_json)
