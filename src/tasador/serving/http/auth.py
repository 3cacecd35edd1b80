"""Who may do what: hosts, API keys and the file that holds them, rate limits.

Keys are 256 random bits, so a plain SHA-256 of them can be neither reversed nor guessed; only the
hash is configured. Several keys of one name may be valid at once, which is how one is rotated.

`SharedBuckets`: token buckets that the workers of one service share, in a file in memory.

A table of fixed size: each client belongs to one row of a few places, found by a hash of its name.
The place not used for longest is taken for a new client, so the file never grows. A lock on the
row's bytes, which the system gives back when its holder is killed, keeps two workers apart.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import ipaddress
import logging
import math
import mmap
import os
import re
import secrets
import struct
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

from tasador.core.errors import ConfigError, StorageError
from tasador.core.storage import storage_error
from tasador.serving.errors import PAGE, Problem
from tasador.serving.http.middleware import ADMIN, PROBES
from tasador.serving.http.request import Role
from tasador.settings.serving import LimitSettings, SecuritySettings

_PLACE = struct.Struct("<Qdd")  # hash of the client, tokens, when by the machine's own clock
_PLACES = 8
_ROW = _PLACE.size * _PLACES
_ROWS = 4096


class SharedBuckets:
    """Buckets by client, shared by all processes that open the same file.

    Args:
        path: The file; made when missing.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, _ROW * _ROWS)
        self._map = mmap.mmap(self._file, _ROW * _ROWS)

    def take(self, client: str, now: float, per_s: float, burst: int) -> float:
        """Take one request from a client's share; returns the tokens that were there before."""
        digest = hashlib.blake2b(client.encode("utf-8", "replace"), digest_size=8).digest()
        key = int.from_bytes(digest, "little") | 1  # 0 marks an empty place
        start = (key >> 1) % _ROWS * _ROW
        fcntl.lockf(self._file, fcntl.LOCK_EX, _ROW, start)
        try:
            places = [
                _PLACE.unpack_from(self._map, start + i * _PLACE.size) for i in range(_PLACES)
            ]
            found = [i for i, place in enumerate(places) if place[0] == key]
            at = found[0] if found else min(range(_PLACES), key=lambda i: places[i][2])
            _, tokens, last = places[at] if found else (key, float(burst), now)
            if not (0.0 <= tokens <= burst and last <= now):  # torn by a kill, or of another boot
                tokens, last = float(burst), now
            tokens = min(float(burst), tokens + (now - last) * per_s)
            left = tokens - 1.0 if tokens >= 1.0 else tokens
            _PLACE.pack_into(self._map, start + at * _PLACE.size, key, left, now)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _ROW, start)
        return tokens if math.isfinite(tokens) else 0.0


log = logging.getLogger(__name__)

#: The files of Swagger UI that its page loads.
SwaggerFile = Literal["swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"]
#: Read without a key: what the service is, and how to ask it.
PUBLIC = frozenset(
    {"/", "/openapi.json", "/version", "/v2", PAGE, "/docs", "/docs/start.js"}
    | {f"/docs/{name}" for name in get_args(SwaggerFile)}
)
KEY_ROLES: tuple[Role, ...] = ("client", "importer", "admin")
_LINE = re.compile(rf"([A-Za-z0-9._-]{{1,64}}):({'|'.join(KEY_ROLES)}):([0-9a-f]{{64}})")
#: A name, an IPv4 or bracketed IPv6 address, with a port or without; a bare IPv6 in settings.
_HOST = re.compile(
    r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._*-]+))(?::[0-9]{0,5})?|([0-9a-f:.]*:[0-9a-f:.]*)"
)
_RELOAD_S = 5.0
#: Peers that may send as many wrong keys as one may, before every wrong key has to wait.
_MOST_PEERS = 100
_ANONYMOUS: Role = "anonymous"
#: Clients whose rate is remembered; the one not seen for longest is forgotten first.
_MOST_CLIENTS = 10_000


@dataclass(frozen=True, slots=True)
class Key:
    """An API key's name, what it may do, and the SHA-256 of it."""

    name: str
    role: Role
    digest: str

    def line(self) -> str:
        """Return the key as it is configured."""
        return f"{self.name}:{self.role}:{self.digest}"


def new_key(name: str, role: Role) -> tuple[str, Key]:
    """Make a key; returns what its holder sends, which is kept nowhere, and what is configured.

    Raises:
        ConfigError: `name` or `role` is invalid.
    """
    text = f"tsd_{secrets.token_urlsafe(32)}"
    return text, parse_key(f"{name}:{role}:{_digest(text.encode())}")


def parse_key(line: str) -> Key:
    """Read a configured key.

    Raises:
        ConfigError: It is none.
    """
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise ConfigError(
            "an API key cannot be read",
            expected="name:ROLE:<64 hexadecimal digits>, ROLE one of client, importer, admin",
            got=f"a line of {len(line)} characters",  # a key pasted by mistake stays out of logs
            remedy="make one with `tasador keys new NAME`",
        )
    return Key(match.group(1), cast(Role, match.group(2)), match.group(3))


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


class Clock(Protocol):
    """Seconds that only go forward."""

    def __call__(self) -> float:
        """Return the seconds."""


@dataclass(slots=True)
class RateLimit:
    """A token bucket per client.

    Attributes:
        per_s: Requests per second; 0 limits nothing.
        burst: Requests at once.
        clock: Seconds that only go forward.
        shared: Where the workers of a service share the buckets; None keeps them in this process.
    """

    per_s: float
    burst: int
    clock: Clock = time.monotonic
    shared: SharedBuckets | None = None
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, client: str) -> float:
        """Take one request from a client's share; returns the seconds to wait, 0 when it may go."""
        if self.per_s <= 0:
            return 0.0
        now = self.clock()
        if self.shared is not None:
            tokens = self.shared.take(client, now, self.per_s, self.burst)
            return 0.0 if tokens >= 1.0 else (1.0 - tokens) / self.per_s
        tokens, last = self._buckets.pop(client, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - last) * self.per_s)
        allowed = tokens >= 1.0
        self._buckets[client] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self.per_s


class KeyAuthorizer:
    """Admits callers by host, key and rate.

    Args:
        settings: Who is admitted.
        limits: How often.
        shared: Folder that the workers of a service share; None for a service of one process.

    Raises:
        ConfigError: A key cannot be read.
    """

    def __init__(
        self, settings: SecuritySettings, limits: LimitSettings, shared: Path | None = None
    ) -> None:
        self._settings = settings
        self._fixed = tuple(parse_key(line) for line in settings.keys)
        self._file = Path(settings.keys_file) if settings.keys_file else None
        self._stamp: tuple[int, int, int] | None = None
        self._checked = time.monotonic()
        self._keys = self._fixed
        if self._file is not None:
            self._read_file(self._file)
        rates, wrong = (
            None if shared is None else SharedBuckets(shared / name) for name in ("rates", "wrong")
        )
        self._rate = RateLimit(limits.rate_per_s, limits.burst, shared=rates)
        failures = settings.failures_per_minute
        self._failures = RateLimit(failures / 60, max(1, failures), shared=wrong)
        most = failures * _MOST_PEERS
        self._all_failures = RateLimit(most / 60, max(1, most), shared=wrong)
        self._open = PUBLIC | ({"/metrics"} if settings.metrics_public else set())
        self._hosts = tuple(_plain_host(host.strip().lower()) for host in settings.allowed_hosts)
        self._locked = bool(self._keys) or self._file is not None

    def admit(self, headers: Mapping[bytes, bytes], path: str, peer: str) -> tuple[str, Role]:
        """Return a caller's name and role.

        Raises:
            Problem: 400 for a host the service does not answer to, 401 for a wrong or missing
                key, 403 for a key that may not do this, 429 for too many requests.
        """
        if self._hosts and "*" not in self._hosts and path not in PROBES:
            self._check_host(headers.get(b"host", b""))
        if not self._locked and not path.startswith(ADMIN):
            name, role = peer, _ANONYMOUS
        else:
            name, role = self._identify(headers, path, peer)
        if self._rate.per_s > 0:
            # a key may be named like an address
            wait = self._rate.take(_network(peer) if role == _ANONYMOUS else f"key {name}")
            if wait > 0:
                raise _too_fast(wait, f"at most {self._rate.per_s:g} requests a second")
        return name, role

    def _identify(self, headers: Mapping[bytes, bytes], path: str, peer: str) -> tuple[str, Role]:
        sent = _sent_key(headers)
        if sent is None and path in self._open:
            return peer, "anonymous"
        if sent is None:
            raise self._refused("no API key was sent", peer)
        self._refresh()
        digest = _digest(sent)
        found = None
        for key in self._keys:  # all of them, so that timing reveals nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise self._refused("the API key is not known", peer)
        if path.startswith(ADMIN) and found.role != "admin":
            raise Problem("forbidden", got=f"the key {found.name!r} of role {found.role}")
        return found.name, found.role

    def _refused(self, message: str, peer: str) -> Problem:
        """Return the answer to a failed attempt; a peer with too many has to wait instead."""
        # the common limit first: a caller with many addresses cannot evict the others' counts
        for limit, counted in (
            (self._all_failures, "everybody"),
            (self._failures, _network(peer)),
            (self._failures, f"site {_network(peer, 48)}"),
        ):
            wait = limit.take(counted)
            if wait > 0:
                break
        if wait > 0:
            return _too_fast(wait, "fewer requests without a valid key")
        return Problem("unauthorised", message)

    def _check_host(self, sent: bytes) -> None:
        host = _plain_host(sent.decode("latin-1").lower())
        for allowed in self._hosts:
            if host and (
                host == allowed or (allowed.startswith("*.") and host.endswith(allowed[1:]))
            ):
                return
        raise Problem("unknown_host", got=repr(host[:100]))

    def _refresh(self) -> None:
        """Read the keys' file again when it has changed; at most every few seconds."""
        now = time.monotonic()
        if self._file is None or now - self._checked < _RELOAD_S:
            return
        self._checked = now
        try:
            self._read_file(self._file)
        except ConfigError as error:  # the keys that were valid stay so
            log.error("the keys' file was not read again: %s", error)

    def _read_file(self, file: Path) -> None:
        try:
            status = file.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the keys' file {file} cannot be read: {error}") from None
        self._keys = self._fixed + tuple(_parsed(lines))
        self._stamp = stamp


def _plain_host(host: str) -> str:
    """Return a host without port, brackets and the dot of a full name; empty for none."""
    match = _HOST.fullmatch(host)
    return "" if match is None else str(next(filter(None, match.groups()))).removesuffix(".")


def _network(peer: str, prefix: int = 64) -> str:
    """Return what is counted as one peer: of IPv6 the /64 of one network, or a site's /48."""
    if ":" not in peer:
        return peer
    try:
        address = ipaddress.IPv6Address(peer.partition("%")[0])
        if address.ipv4_mapped is not None:  # how a socket for both names an IPv4 client
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, prefix), strict=False))
    except ValueError:
        return peer


def _too_fast(wait: float, expected: str) -> Problem:
    return Problem("too_many_requests", expected=expected, retry_after=math.ceil(wait))


def _parsed(lines: Iterable[str]) -> Iterable[Key]:
    return [parse_key(line) for line in lines if line.strip() and not line.startswith("#")]


def _sent_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    key = headers.get(b"x-api-key")
    if key is not None:
        return key
    bearer = headers.get(b"authorization", b"")
    return bearer[7:] if bearer[:7].lower() == b"bearer " else None


_HEAD = "# API keys of tasador: name:role:sha256 of the key. Made by `tasador keys new`.\n"


def read_keys(file: Path) -> list[Key]:
    """Return the keys in `file`, none when it does not exist.

    Raises:
        ConfigError: It cannot be read, or a line is no key.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the keys' file {file} cannot be read: {error}") from None
    return [parse_key(line) for line in lines if line.strip() and not line.startswith("#")]


def add_key(file: Path, key: Key) -> None:
    """Add `key`; others of its name stay valid, so that holders can change over.

    Raises:
        ConfigError: The file cannot be read.
        StorageError: It cannot be written.
    """
    _write(file, [*read_keys(file), key])


def revoke_keys(file: Path, name: str, *, keep_newest: bool = False) -> int:
    """Remove the keys called `name`; returns how many.

    Args:
        file: The keys' file.
        name: The keys' name.
        keep_newest: Whether the one that was made last stays, at the end of a change-over.

    Raises:
        ConfigError: There is none of that name, or the file cannot be read.
        StorageError: It cannot be written.
    """
    keys = read_keys(file)
    named = [key for key in keys if key.name == name]
    if not named:
        raise ConfigError(
            f"no key is called {name!r}",
            expected=", ".join(sorted({key.name for key in keys}))
            or "no key at all is in the file",
            got=name,
        )
    gone = named[:-1] if keep_newest else named
    _write(file, [key for key in keys if not any(key is one for one in gone)])
    return len(gone)


def _write(file: Path, keys: Sequence[Key]) -> None:
    """Replace the file at once: a service that reads meanwhile sees the old one or the new."""
    text = _HEAD + "".join(f"{key.line()}\n" for key in keys)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as written:  # readable by its owner only
                written.write(text)
                written.flush()
                os.fsync(written.fileno())
            if file.exists() and not (mode := file.stat().st_mode) & 0o007:
                Path(temporary).chmod(mode & 0o770)  # a service of another user may share a group
            Path(temporary).replace(file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        text = f"the keys' file {file} cannot be written: {error}"
        error.filename = str(file)
        raise storage_error(error) or StorageError(text) from None
