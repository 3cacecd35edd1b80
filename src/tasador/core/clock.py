"""The one place where the time of day is read, so that tests can hold it still."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

_source: Callable[[], float] = time.time


def seconds() -> float:
    """Return the current time as seconds since the epoch, UTC."""
    return _source()


def now() -> dt.datetime:
    """Return the current time, timezone-aware, in UTC."""
    return dt.datetime.fromtimestamp(_source(), tz=dt.UTC)


def timestamp() -> str:
    """Return the current time as ISO 8601 in UTC with seconds, e.g. ``2026-11-23T10:00:00Z``."""
    return now().strftime("%Y-%m-%dT%H:%M:%SZ")


def use_source(source: Callable[[], float] | None) -> None:
    """Replace the source of seconds since the epoch; None puts the real clock back."""
    global _source
    _source = source or time.time
