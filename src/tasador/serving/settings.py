"""The settings of the service: environment variables, or arguments of `tasador serve`.

Each section is a frozen dataclass owned by the module that reads it; here they are put together.
``TASADOR_RECORDS__URL`` sets ``records.url``, ``TASADOR_SERVER__PORT`` sets ``server.port``.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the service listens.

    Attributes:
        host: Address to listen on; the default is reached from this machine only.
        port: Port to listen on; 0 takes a free one.
        workers: Processes that share the port.
        log_level: Least level that is logged.
        access_log: Whether every request is logged; refused and failed ones always are.
        drain_s: Seconds that requests under way get to finish on SIGTERM.
        keep_alive_s: Seconds after which an idle connection is closed.
        header_timeout_s: Seconds that a connection may take to send a request's first line and
            headers.
        metrics_folder: Where workers share their counters; null takes a temporary folder.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    log_level: str = "INFO"
    access_log: bool = False
    drain_s: float = 10.0
    keep_alive_s: int = 15
    header_timeout_s: float = 10.0
    metrics_folder: str | None = None


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """How much one request, and all together, may ask for.

    Attributes:
        batch: Most rows in one request.
        body_bytes: Longest body of a request.
        upload_bytes: Longest file sent to ``/api/v1/score``.
        in_flight: Most requests under way; more are answered 503 with Retry-After.
        request_s: Seconds after which a request is given up.
        upload_s: The same for ``/api/v1/score``.
        rate_per_s: Requests per second that one client may send; 0 for any number.
        burst: Requests that a client may send at once within that rate.
    """

    batch: int = 1000
    body_bytes: int = 4 * MIB
    upload_bytes: int = 1024 * MIB
    in_flight: int = 512
    request_s: float = 10.0
    upload_s: float = 600.0
    rate_per_s: float = 0.0
    burst: int = 50
