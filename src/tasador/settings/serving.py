"""Settings of the service, of the sources it gets its model from, and of its records.

Each section is a frozen dataclass; `DatabaseUrl` is a database's address with its secrets hidden.
``TASADOR_RECORDS__URL`` sets ``records.url``, ``TASADOR_SERVER__PORT`` sets ``server.port``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from annotated_types import Ge, Interval, Predicate

from tasador.core.errors import ConfigError, closest
from tasador.settings.validation import Matches, UnusedVariableError, fields_of, from_texts

#: Seconds that something may take: at once would be never, and a day is a mistake.
Seconds = Annotated[float, Interval(gt=0, lt=86_400)]

_EXPECTED = "sqlite:///path/to/file.db or postgresql://user:password@host:port/database"
_SECRETS = frozenset({"password", "sslpassword", "passfile", "sslkey"})


@dataclass(frozen=True)
class DatabaseUrl:
    """One database.

    Attributes:
        dialect: Which engine it speaks to.
        text: The URL as given, password included: for the driver only.
        shown: The same without secrets, for logs and messages.
        path: The file of an SQLite database; None for PostgreSQL.
    """

    dialect: Literal["sqlite", "postgresql"]
    text: str
    shown: str
    path: Path | None = None

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.shown!r})"

    __str__ = __repr__


class DatabaseUrlError(ConfigError):
    """A database URL that cannot be used; its text may hold a password and is not in messages."""

    @classmethod
    def unknown_kind(cls, scheme: str | None) -> DatabaseUrlError:
        """Return the error of another scheme, or of none."""
        got = "a text without ://" if scheme is None else repr(scheme)
        return cls("the database URL is of an unknown kind", expected=_EXPECTED, got=got)

    @classmethod
    def no_file(cls, text: str) -> DatabaseUrlError:
        """Return the error of an SQLite URL, which has no password, without a path."""
        return cls(
            "the SQLite URL names no file",
            expected="sqlite:///relative/file.db or sqlite:////absolute/file.db",
            got=repr(text),
        )

    @classmethod
    def of_postgresql(cls, problem: str) -> DatabaseUrlError:
        """Return the error of a PostgreSQL URL."""
        return cls(f"the PostgreSQL URL {problem}", expected=_EXPECTED)


def parse_url(text: str) -> DatabaseUrl:
    """Read a database URL.

    ``sqlite:///a/b.db`` is relative to the working directory, ``sqlite:////a/b.db`` absolute.

    Raises:
        ConfigError: Another scheme, no path, or not a URL. The message never holds the password.
    """
    scheme = text.partition("://")[0].lower()
    if scheme == "sqlite":
        return _sqlite(text)
    if scheme in {"postgresql", "postgres"}:
        return _postgresql(text)
    raise DatabaseUrlError.unknown_kind(scheme if "://" in text else None)


def _sqlite(text: str) -> DatabaseUrl:
    rest = text.partition("://")[2]
    path = unquote(rest.removeprefix("/"))
    if not rest.startswith("/") or not path or path.startswith(":"):
        raise DatabaseUrlError.no_file(text)
    return DatabaseUrl("sqlite", text, text, Path(path))


def _postgresql(text: str) -> DatabaseUrl:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise DatabaseUrlError.of_postgresql("cannot be read") from None
    query = parse_qsl(parts.query, keep_blank_values=True)
    if not parts.path.strip("/") and not any(key == "dbname" for key, _ in query):
        raise DatabaseUrlError.of_postgresql("names no database")
    user = f"{quote(unquote(parts.username))}@" if parts.username else ""
    host = parts.hostname or ""
    address = f"[{host}]" if ":" in host else host
    shown = f"postgresql://{user}{address}{'' if port is None else f':{port}'}{parts.path}"
    kept = [(key, value) for key, value in query if key.lower() not in _SECRETS]
    if kept:
        shown += "?" + urlencode(kept, safe="/")
    return DatabaseUrl("postgresql", text, shown)


Mode = Literal["durable", "async", "off"]
Synchronous = Literal["normal", "full"]

DEFAULT_URL = "sqlite:///workspace/tasador.db"


@dataclass(frozen=True)
class RecordSettings:
    """How valuations are recorded.

    Attributes:
        url: ``sqlite:///path`` or ``postgresql://user:password@host:port/name``.
        mode: ``durable`` answers after the commit, ``async`` before it with a bounded queue,
            ``off`` writes nothing. What a power cut may take is said at `synchronous`.
        synchronous: SQLite and the spool only. With ``normal`` a power cut may take what was
            answered in the last half minute, in ``durable`` mode too; the death of the process
            takes nothing. ``full`` loses nothing in either, at the price of a disk flush a group.
        queue: Most records that wait in memory. In ``async`` mode what comes above is lost and
            counted; in ``durable`` mode it is refused.
        group: Most records committed at once.
        spool: Folder of the spool files; null puts it beside an SQLite database, or under
            ``workspace/spool``.
        spool_bytes: Most bytes of a process's spool.
        bound_s: Longest time a valuation waits for the database before the spool takes over.
        retry_s: How often the database is tried again while it is away.
        keep_predictions_days: Age at which predictions and their outcomes are deleted; null keeps
            them, since models are retrained on them.
        keep_verdicts_days: Age at which a watcher's verdicts are deleted; the newest one stays.
        keep_alerts_days: How long alerts are kept after they are over.
        keep_refused_days: Age at which refused rows, and their numbers by field and cause, are
            deleted.
        keep_leftovers_days: Age at which damaged spool files, set aside, are deleted.
        keep_logs_days: Age at which log files of `tasador up` that nobody writes are deleted.
        refused_per_day: Most refused rows of a day that are kept with their values; 0 keeps none.
            Their numbers by field and cause are kept in any case.
    """

    url: str = DEFAULT_URL
    mode: Mode = "durable"
    synchronous: Synchronous = "normal"
    queue: Annotated[int, Ge(1)] = 20_000
    group: Annotated[int, Ge(1)] = 512
    spool: str | None = None
    spool_bytes: Annotated[int, Ge(0)] = 1 << 30
    bound_s: Annotated[float, Interval(gt=0, le=3600)] = 0.25
    retry_s: Annotated[float, Interval(gt=0, le=3600)] = 0.5
    keep_predictions_days: Annotated[float, Ge(0)] | None = None
    keep_verdicts_days: Annotated[float, Ge(0)] | None = 30.0
    keep_alerts_days: Annotated[float, Ge(0)] | None = 90.0
    keep_refused_days: Annotated[float, Ge(0)] | None = 30.0
    keep_leftovers_days: Annotated[float, Ge(0)] | None = 90.0
    keep_logs_days: Annotated[float, Ge(0)] | None = 30.0
    refused_per_day: Annotated[int, Ge(0)] = 1000

    def spool_folder(self) -> Path:
        """Return where the spool files lie."""
        if self.spool is not None:
            return Path(self.spool)
        location = parse_url(self.url)
        if location.path is not None:
            return location.path.with_name(location.path.name + ".spool")
        return Path("workspace") / "spool"

    def log_folder(self) -> Path:
        """Return where `tasador up` writes what its processes print."""
        path = parse_url(self.url).path
        return (Path("workspace") if path is None else path.parent) / "logs"


SOURCE_NAMES = ("mlflow", "object_store", "local", "last_good")


class SourceSettingsError(ConfigError):
    """Settings of the sources that contradict themselves, or are out of range."""

    @classmethod
    def of_order(cls, order: tuple[str, ...]) -> SourceSettingsError:
        """Return the error of a source that is unknown or named twice."""
        return cls(
            "the order of the sources is invalid",
            expected=f"each of {', '.join(SOURCE_NAMES)} at most once",
            got=", ".join(order),
        )


@dataclass(frozen=True)
class SourceSettings:
    """Where bundles come from; a source that is not configured is skipped.

    Attributes:
        model_name: The model's name in the registry; also picks one out of a folder of bundles.
            Empty: the only model of the registry, and a folder's newest bundle.
        alias: The registry's alias to follow. Empty: the champion; before there is one, the newest
            version that was neither rejected nor rolled back.
        version: A registered version to use instead of an alias: its number, the bundle's version
            or 7 digits of its content hash; null follows the alias.
        order: The sources, in the order in which they are tried.
        tracking_uri: The registry: ``http(s)://`` of an MLflow server, or ``sqlite:///`` of the
            embedded one.
        object_store: Where bundles are published: ``gs://bucket/prefix``, ``s3://bucket/prefix``
            or a folder.
        local: A bundle's folder, or a folder of them.
        last_good: Folder for a copy of the bundle that last served; null keeps none.
        poll_s: Seconds between two looks at what the sources offer.
        poll_jitter: Share of `poll_s` by which each pause is made longer or shorter by chance.
        answer_s: Seconds in which a source must say what it offers, with all retries.
        hop_deadline_s: Seconds in which a bundle must be fetched and loaded, with all retries.
        connect_s: Seconds for one connection.
        read_s: Seconds of silence on one connection.
        attempts: Most attempts of one question or download.
        breaker_failures: Failures in a row after which a source is skipped: its circuit is open.
        breaker_reset_s: Seconds for which it is.
        refused_again_s: Most seconds until a refused bundle is tried again (first after
            2 s, then each time after twice as long), while there is no
            model at all. With a model it is not, until the source offers another one.
        threads: Threads that share a batch of rows.
        trusted_keys: PEM files of public keys; when there are any, a bundle that none of them
            signed is refused, wherever it comes from, by the service and by every command. Empty:
            the workspace's ``keys/signing.pub`` if it exists. Needs the extra ``signing``.
    """

    model_name: str = ""
    alias: str = ""
    version: str | None = None
    order: tuple[str, ...] = SOURCE_NAMES
    tracking_uri: str | None = None
    object_store: str | None = None
    local: str | None = None
    last_good: str | None = None
    poll_s: Seconds = 8.0
    poll_jitter: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    answer_s: Seconds = 5.0
    hop_deadline_s: Seconds = 30.0
    connect_s: Seconds = 2.0
    read_s: Seconds = 5.0
    attempts: Annotated[int, Ge(1)] = 3
    breaker_failures: Annotated[int, Ge(1)] = 5
    breaker_reset_s: Seconds = 60.0
    refused_again_s: Seconds = 900.0
    threads: Annotated[int, Interval(ge=1, le=1024)] = 1
    trusted_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.order if name not in SOURCE_NAMES]
        if unknown or len(set(self.order)) != len(self.order):
            raise SourceSettingsError.of_order(self.order)


PREFIX = "TASADOR_"
#: Sections of variables that the monitor and the web app read.
_READ_ELSEWHERE = frozenset({"alerts", "watch", "ui"})
MIB = 2**20


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the service listens.

    Attributes:
        host: Address to listen on; the default is reached from this machine only.
        port: Port to listen on; 0 takes a free one.
        workers: Processes that share the port.
        log_level: Least level that is logged.
        log_format: ``json``, ``text``, or ``auto``: text on a terminal, JSON elsewhere.
        access_log: Whether every request is logged; refused and failed ones always are.
        drain_s: Seconds that requests under way get to finish on SIGTERM.
        keep_alive_s: Seconds after which an idle connection is closed.
        header_timeout_s: Seconds that a connection may take to send a request's first line and
            headers.
        metrics_folder: Where workers share their counters; null takes a temporary folder.
        root_path: The path under which a proxy offers the service, such as ``/valuations``. The
            proxy may take it away before it passes a request on, or not.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Interval(ge=0, le=65_535)] = 8000
    workers: Annotated[int, Interval(ge=1, le=1024)] = 1
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "text"] = "auto"
    access_log: bool = False
    drain_s: Annotated[float, Interval(ge=0, le=86_400)] = 10.0
    keep_alive_s: Annotated[int, Interval(ge=1, le=86_400)] = 15
    header_timeout_s: Seconds = 10.0
    metrics_folder: str | None = None
    root_path: Annotated[
        str, Predicate(Matches(r"(/[\w.~-]+)*", "a path such as /valuations, or nothing"))
    ] = ""


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

    batch: Annotated[int, Ge(1)] = 1000
    body_bytes: Annotated[int, Ge(1)] = 4 * MIB
    upload_bytes: Annotated[int, Ge(1)] = 1024 * MIB
    in_flight: Annotated[int, Ge(1)] = 512
    request_s: Seconds = 10.0
    upload_s: Seconds = 600.0
    rate_per_s: Annotated[float, Ge(0)] = 0.0
    burst: Annotated[int, Ge(1)] = 50


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """Who is let in.

    Attributes:
        trusted_proxies: Addresses and networks, such as ``10.0.0.0/8``, of the proxies before the
            service. Only from these is ``X-Forwarded-For`` believed, for the rates of clients and
            the limit of wrong keys; ``socket`` believes it from a Unix socket. None by default.
        keys: API keys as ``name:role:sha256``; `tasador keys new` makes them. Roles are ``client``,
            ``importer`` (may also report outcomes of other clients' predictions) and ``admin``.
            With none, everybody may value rows and nobody may use the admin routes.
        keys_file: A file with one such line each; read again within seconds of a change.
        allowed_hosts: Names under which the service may be called, ``*.example.org`` for all below;
            empty accepts any. Probes are exempt.
        cors_origins: Origins whose pages may call the service; none by default.
        metrics_public: Whether ``/metrics`` is read without a key.
        failures_per_minute: Wrong keys that one peer may send, before it has to wait; a right
            key is let in all the same.
    """

    keys: tuple[str, ...] = ()
    keys_file: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    metrics_public: bool = True
    failures_per_minute: Annotated[int, Ge(0)] = 30


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Whether predictions are remembered for rows that come again, bit for bit.

    Attributes:
        kind: ``off``, ``memory`` (each process its own) or ``redis`` (shared).
        size: Rows that a process remembers.
        url: Of Redis, e.g. ``redis://localhost:6379/0``.
        timeout_s: Longest time a request waits for Redis.
        keep_s: Seconds that Redis keeps a row.
        reset_s: Seconds for which a Redis that failed repeatedly is skipped: its circuit is open.
    """

    kind: Literal["off", "memory", "redis"] = "off"
    size: Annotated[int, Ge(1)] = 100_000
    url: str | None = None
    timeout_s: Seconds = 0.005
    keep_s: Annotated[float, Ge(1)] = 86_400.0
    reset_s: Seconds = 10.0


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """How a server takes part in experiments that `tasador canary start` begins.

    Attributes:
        enabled: Whether it does; needs a registry and records.
        poll_s: Seconds between two looks at the experiment's state.
        deaf_s: Seconds without the database after which the challenger gets no traffic here.
        queue: Requests that wait to be valued in shadow; more are not shadowed, and counted.
        idle_factor: How much longer the shadow's thread rests than it works.
    """

    enabled: bool = True
    poll_s: Seconds = 2.0
    deaf_s: Seconds = 15.0
    queue: Annotated[int, Ge(1)] = 256
    idle_factor: Annotated[float, Ge(0)] = 4.0


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """When a row gets no value, but the reason; null and 0 always give one.

    Attributes:
        max_fsd: Largest forecast standard deviation of the relative error, such as 0.25.
        min_support: Fewest comparables within reach, at most 64.
    """

    max_fsd: Annotated[float, Interval(gt=0)] | None = None
    min_support: Annotated[int, Interval(ge=0, le=64)] = 0


@dataclass(frozen=True)
class ServeSettings:
    """Everything that configures the service.

    Attributes:
        server: Where it listens.
        limits: What a request may ask for.
        security: Who is let in.
        source: Where its model comes from.
        records: Where valuations are written.
        cache: Whether predictions are remembered.
        canary: How it takes part in experiments.
        serve: When a row gets no value.
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    source: SourceSettings = field(default_factory=SourceSettings)
    records: RecordSettings = field(default_factory=RecordSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    canary: CanarySettings = field(default_factory=CanarySettings)
    serve: ServeLimits = field(default_factory=ServeLimits)


def variable(section: str, key: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{section.upper()}__{key.upper()}"


def read_settings(environment: Mapping[str, str]) -> ServeSettings:
    """Read the settings from environment variables.

    ``TASADOR_RECORDS__URL`` sets ``records.url``; lists are separated by commas; an empty text
    means null where a setting may be null.

    Raises:
        ConfigError: A variable names no setting, or its value is invalid.
    """
    sections = fields_of(ServeSettings)
    given: dict[str, dict[str, str]] = {name: {} for name in sections}
    for name, text in environment.items():
        section, separator, key = name.removeprefix(PREFIX).lower().partition("__")
        if not name.startswith(PREFIX) or not separator or section in _READ_ELSEWHERE:
            continue
        if section not in given:
            meant = closest(section, given)
            raise UnusedVariableError.of(
                name,
                [f"{PREFIX}{one.upper()}__..." for one in given],
                variable(meant, key) if meant else None,
            )
        given[section][key] = text
    return ServeSettings(
        **{
            name: from_texts(sections[name], texts, partial(variable, name))
            for name, texts in given.items()
            if texts
        }
    )
