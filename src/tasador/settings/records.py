"""`RecordSettings` (where and how safely predictions are recorded), and URLs of databases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from annotated_types import Ge, Interval

from tasador.core.errors import ConfigError

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
            ``off`` writes nothing.
        synchronous: SQLite and the spool only: ``normal`` survives the death of the process,
            ``full`` also a power cut, at the price of a disk flush a group.
        queue: Most records that wait in memory. In ``async`` mode what comes above is lost and
            counted; in ``durable`` mode it is refused.
        group: Most records committed at once.
        spool: Folder of the spool files; None puts it beside an SQLite database, or under
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
