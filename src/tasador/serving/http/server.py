"""Run the service: bind the port, start the workers, stop them gracefully.

`GuardedProtocol`: uvicorn's HTTP protocol with bounds on a request's first line and headers.

uvicorn waits for ever for headers that come a byte at a time, and keeps headers of any length in
memory. Neither reaches an application, so this is the only place to stop it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tasador.core.errors import ServingError
from tasador.core.logging import configure_logs, formatter
from tasador.serving.errors import MEDIA_TYPE, Problem
from tasador.serving.http.request import request_id
from tasador.settings.serving import ServerSettings

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from tasador.serving.http.request import App

log = logging.getLogger(__name__)

MOST_HEAD_BYTES = 64 * 1024
MOST_URL_BYTES = 8 * 1024


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        header_timeout_s: Seconds within which a request's headers must be complete.
        prefix: What a proxy puts before the service's paths.
    """

    header_timeout_s: ClassVar[float] = 10.0
    prefix: ClassVar[str] = ""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0
        self._refusal: Problem | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; whole headers, the usual case, cost one comparison."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(_too_long("headers", 431, MOST_HEAD_BYTES))
                return
        if self._timer is None and (self._in_head or self._is_idle()):
            self._start_timer()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand a request over."""
        self._in_head = False
        if self._timer is not None:
            self._stop_timer()
        if len(self.url) > MOST_URL_BYTES:
            self._refusal = _too_long("URL", 414, MOST_URL_BYTES)
            raise ValueError("URL too long")  # makes the parser stop, see send_400_response
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed."""
        self._refuse(self._refusal or Problem("malformed_request", msg))

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        self._stop_timer()
        super().timeout_keep_alive_handler()

    def _is_idle(self) -> bool:
        return self.timeout_keep_alive_task is None and (
            self.cycle is None or self.cycle.response_complete
        )

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout_s, self._on_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        if self.transport is None or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_timer()  # an answer is under way: the next request's headers can wait
        elif self._in_head:
            within = f"the headers within {self.header_timeout_s:g} s"
            self._refuse(Problem("slow_headers", expected=within))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer outside of any application, and close."""
        self._in_head = False
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else it would cut into an answer
            own_id = request_id(None)
            body = problem.body(own_id, self.prefix)
            head = (
                f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
                "connection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[problem.status] + head.encode() + body)
            peer = self.client[0] if self.client else "local"
            log.info(
                "a request without a route %d %s", problem.status, problem.error,
                extra={"fields": {"request_id": own_id, "client": peer}},
            )  # fmt: skip
        self.transport.close()


def _too_long(what: str, status: int, limit: int) -> Problem:
    return Problem(
        "head_too_large", f"the {what} of the request is too long", status=status,
        expected=f"at most {limit} bytes",
    )  # fmt: skip


#: Makes each worker's application.
FACTORY = "tasador.serving.app:from_environment"


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
        "http": "tasador.serving.http.server:GuardedProtocol",
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
