"""Database URLs: parsed strictly, and shown without their password."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

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
    raise ConfigError(
        "the database URL is of an unknown kind",
        expected=_EXPECTED,
        got=repr(scheme) if "://" in text else "a text without ://",
    )


def _sqlite(text: str) -> DatabaseUrl:
    rest = text.partition("://")[2]
    path = unquote(rest.removeprefix("/"))
    if not rest.startswith("/") or not path or path.startswith(":"):
        raise ConfigError(
            "the SQLite URL names no file",
            expected="sqlite:///relative/file.db or sqlite:////absolute/file.db",
            got=repr(text),
        )
    return DatabaseUrl("sqlite", text, text, Path(path))


def _postgresql(text: str) -> DatabaseUrl:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError("the PostgreSQL URL cannot be read", expected=_EXPECTED) from None
    query = parse_qsl(parts.query, keep_blank_values=True)
    if not parts.path.strip("/") and not any(key == "dbname" for key, _ in query):
        raise ConfigError("the PostgreSQL URL names no database", expected=_EXPECTED)
    user = f"{quote(unquote(parts.username))}@" if parts.username else ""
    host = parts.hostname or ""
    address = f"[{host}]" if ":" in host else host
    shown = f"postgresql://{user}{address}{'' if port is None else f':{port}'}{parts.path}"
    kept = [(key, value) for key, value in query if key.lower() not in _SECRETS]
    if kept:
        shown += "?" + urlencode(kept, safe="/")
    return DatabaseUrl("postgresql", text, shown)
