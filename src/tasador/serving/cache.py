"""Predictions remembered for rows that come again, exactly as they came.

A row's key is the model's version and the bytes of its encoded values, so that another version
never answers from memory, and neither does a row that differs in the last bit. Requests answered
from memory get their own prediction id and record like any other.

Off by default: `benchmarks/serving_cache.py` measures what it brings.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from tasador.core.deadlines import Deadline
from tasador.core.errors import ConfigError, MissingExtraError, StorageError
from tasador.modeling.prediction import Support
from tasador.serving.circuit_breaker import Breaker, OpenCircuitError
from tasador.serving.request_parsing import Predictions
from tasador.settings.serving import CacheSettings

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
#: Estimate, lower end, upper end, notes, forecast standard deviation, support.
Entry = tuple[float, float, float, tuple[str, ...], float | None, Support | None]
#: Called with how many rows were a hit, a miss, or not looked up because of an error.
Count = Callable[[str, int], None]

_NUMBERS = struct.Struct("<3d")
_PREFIX = b"tasador:2:"
_CONNECTIONS = 16
_WRITERS = 4


class Cache(Protocol):
    """What remembers predictions."""

    async def fetch(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return what is remembered for each key; never raises."""

    def store(self, entries: Sequence[tuple[bytes, Entry]]) -> None:
        """Remember entries; returns at once and never raises."""

    async def close(self) -> None:
        """Let go of connections."""


def keys_of(version: str, X: Floats) -> list[bytes]:
    """Return a key for each encoded row (n, p)."""
    prefix = version.encode() + b"\0"
    return [prefix + row.tobytes() for row in np.ascontiguousarray(X)]


class MemoryCache:
    """Remembers the rows seen last in this process.

    Args:
        size: How many.
        count: Called with hits and misses.
    """

    def __init__(self, size: int, count: Count) -> None:
        self._size = size
        self._count = count
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()

    async def fetch(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return what is remembered for each key."""
        found: list[Entry | None] = []
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            found.append(entry)
        hits = len(keys) - found.count(None)
        self._count("hit", hits)
        self._count("miss", len(keys) - hits)
        return found

    def store(self, entries: Sequence[tuple[bytes, Entry]]) -> None:
        """Remember entries and forget the ones not asked for longest."""
        for key, entry in entries:
            self._entries[key] = entry
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()


class RedisCache:
    """Remembers rows in Redis, for all processes that share it.

    A Redis that is slow costs a request `timeout_s` at most; after some failures in a row it is
    left alone for a while and costs nothing.

    Args:
        settings: Where it is, and how long things are kept.
        count: Called with hits, misses and errors.
    """

    def __init__(self, settings: CacheSettings, count: Count) -> None:
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise MissingExtraError.for_package("redis", "serve") from None

        if settings.url is None:
            raise ConfigError("a Redis cache needs its address", remedy="set cache.url")
        self._url = settings.url
        self._timeout_s = settings.timeout_s
        self._seconds = max(1, math.ceil(settings.keep_s))
        self._count = count
        self._breaker = Breaker("redis", failures=3, reset_s=settings.reset_s)
        self._asking = 0
        self._writing: set[asyncio.Task[None]] = set()
        try:
            self._redis: Any = Redis.from_url(
                settings.url,
                socket_timeout=settings.timeout_s * 20,  # the deadline below comes first
                socket_connect_timeout=settings.timeout_s * 20,
                retry=Retry(NoBackoff(), 0),
                max_connections=_CONNECTIONS + _WRITERS,
            )
        except ValueError:
            raise ConfigError(
                "the address of the Redis cache is invalid",
                expected="redis://host:6379/0, rediss:// or unix://",
                got=f"a text of {len(settings.url)} characters",  # it may hold a password
                remedy="correct cache.url",
            ) from None

    async def fetch(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return what is remembered for each key; nothing at all when Redis does not answer."""
        nothing: list[Entry | None] = [None] * len(keys)
        if self._asking >= _CONNECTIONS:  # it falls behind: valuing is faster than waiting
            self._count("error", len(keys))
            return nothing
        self._asking += 1
        try:
            with self._breaker.guard():
                async with asyncio.timeout(self._timeout_s):
                    values = await self._redis.mget([_redis_key(key) for key in keys])
        except OpenCircuitError:
            self._count("error", len(keys))
            return nothing
        except Exception as error:  # whatever a client library raises: it is only a cache
            log.warning("the Redis cache does not answer: %s", type(error).__name__)
            self._count("error", len(keys))
            return nothing
        finally:
            self._asking -= 1
        found = [_unpacked(value) for value in values]
        hits = len(keys) - found.count(None)
        self._count("hit", hits)
        self._count("miss", len(keys) - hits)
        return found

    def ping(self, deadline: Deadline) -> str:
        """Ask Redis whether it is there, on a connection of its own; blocks.

        Raises:
            StorageError: It does not answer in time, or refuses.
        """
        from redis import Redis, RedisError

        seconds = deadline.remaining()
        try:
            with Redis.from_url(
                self._url, socket_timeout=seconds, socket_connect_timeout=seconds
            ) as client:
                client.ping()
        except (RedisError, OSError) as error:
            raise StorageError(
                "Redis does not answer: every row is computed",
                got=type(error).__name__,
                remedy="start Redis, or correct cache.url",
            ) from None
        state = self._breaker.state
        return "answers" if state.status == "closed" else f"answers again; breaker {state.status}"

    def store(self, entries: Sequence[tuple[bytes, Entry]]) -> None:
        """Send entries to Redis in the background."""
        # no writes while reads are probed: they would queue up behind the timeout
        if self._breaker.state.status != "closed" or len(self._writing) >= _WRITERS:
            return
        task = asyncio.get_running_loop().create_task(self._store(entries))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _store(self, entries: Sequence[tuple[bytes, Entry]]) -> None:
        try:
            async with asyncio.timeout(max(1.0, self._timeout_s)):
                pipe = self._redis.pipeline(transaction=False)
                for key, entry in entries:
                    pipe.set(_redis_key(key), _packed(entry), ex=self._seconds)
                await pipe.execute()
        except Exception as error:
            log.warning("the Redis cache takes nothing: %s", type(error).__name__)

    async def close(self) -> None:
        """Close the connections."""
        for task in list(self._writing):
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._redis.aclose()


def _redis_key(key: bytes) -> bytes:
    # of fixed length, and no row can be read from the keys of a shared Redis
    return _PREFIX + hashlib.sha256(key).digest()


def _packed(entry: Entry) -> bytes:
    numbers = _NUMBERS.pack(*entry[:3])
    notes, fsd, support = entry[3:]
    if not notes and fsd is None and support is None:
        return numbers
    return numbers + orjson.dumps([notes, fsd, None if support is None else support.plain()])


def _unpacked(value: Any) -> Entry | None:
    """Read an entry; whatever is none counts as not there."""
    if not isinstance(value, bytes) or len(value) < _NUMBERS.size:
        return None
    numbers = _NUMBERS.unpack_from(value)
    # what another program wrote under the key must not become an answer
    if not all(math.isfinite(number) for number in numbers):
        return None
    if len(value) == _NUMBERS.size:
        return (*numbers, (), None, None)
    try:
        notes, fsd, plain = orjson.loads(value[_NUMBERS.size :])
        support = None if plain is None else Support.of_plain(plain)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        return None
    if not (fsd is None or isinstance(fsd, float)):
        return None
    return (*numbers, tuple(notes), fsd, support)


def make_cache(settings: CacheSettings, count: Count) -> Cache | None:
    """Return the cache that `settings` ask for; None when it is off.

    Raises:
        ConfigError: The address is missing or invalid.
    """
    if settings.kind == "off":
        return None
    if settings.kind == "memory":
        return MemoryCache(settings.size, count)
    return RedisCache(settings, count)


def entries_of(found: Predictions) -> list[Entry]:
    """Return what is remembered of each of n valued rows."""
    return [
        (
            value,
            found.lower[i],
            found.upper[i],
            tuple(found.notes.get(i, ())),
            None if found.fsd is None else found.fsd[i],
            None if found.support is None else found.support[i],
        )
        for i, value in enumerate(found.prediction)
    ]


def predictions_of(entries: Sequence[Entry]) -> Predictions:
    """Return the values of n rows from what was remembered of each."""
    return Predictions(
        [entry[0] for entry in entries],
        [entry[1] for entry in entries],
        [entry[2] for entry in entries],
        {i: list(entry[3]) for i, entry in enumerate(entries) if entry[3]},
        # a key names the version: its entries have all of a kind, or none
        [fsd for entry in entries if (fsd := entry[4]) is not None] or None,
        [support for entry in entries if (support := entry[5]) is not None] or None,
    )
