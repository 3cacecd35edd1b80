"""The one place where the time of day is read, so that tests can hold it still.

Also points and spans of time as people write them.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable

from tasador.core.errors import ConfigError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw])")
#: Seconds by which two machines' clocks may differ.
_SKEW_S = 300.0
_DAY_S = 86_400.0
#: Seconds of a month, a twelfth of a year.
MONTH_S = 365.25 / 12 * _DAY_S
_ISO = "ISO 8601, e.g. 2026-11-24 or 2026-11-24T10:00:00Z, or a span before now: 7d"

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


class InvalidTimeError(ConfigError):
    """A time or a span of time that cannot be read."""

    @classmethod
    def of(cls, text: str, what: str, expected: str) -> InvalidTimeError:
        """Return the error of a text that was to be `what`."""
        return cls(f"{what} cannot be read", expected=expected, got=repr(text))


def parse_span(text: str) -> float:
    """Return the seconds of a span such as ``90d``, ``12h``, ``30m``, ``2w``.

    Raises:
        ConfigError: It is something else.
    """
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None:
        raise InvalidTimeError.of(text, "a span of time", "a number and s, m, h, d or w, e.g. 90d")
    return float(found[1]) * _UNITS[found[2]]


def parse_moment(text: str) -> float:
    """Return seconds since the epoch of an ISO 8601 time, or of a span before now.

    A time without a zone is UTC, a date is its first moment.

    Raises:
        ConfigError: It is neither.
    """
    if _SPAN.fullmatch(text.strip().lower()):
        return seconds() - parse_span(text)
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidTimeError.of(text, "a time", _ISO) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def time_reason(time_s: float, predicted: float | None = None) -> str | None:
    """Return why a time cannot be when an outcome became known; None when it can.

    Args:
        time_s: Seconds since the epoch. A whole day counts to its end.
        predicted: When the prediction was made, which comes first. One that is yet to come, since
            a clock was set back, counts as made now.
    """
    if not 0.0 <= time_s < 1e11:  # NaN, or milliseconds
        return f"expected ISO 8601 or seconds since the epoch, got {time_s:.15g}"
    now = seconds()
    if time_s > now + _SKEW_S:
        return f"expected a time that has come, got {show_moment(time_s)}"
    end = time_s + (_DAY_S if time_s % _DAY_S == 0 else _SKEW_S)
    if predicted is not None and end < min(predicted, now):
        return (
            f"expected a time after the prediction of {show_moment(predicted)}, "
            f"got {show_moment(time_s)}"
        )
    return None


def show_moment(time_s: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC; as they are when no calendar has them."""
    try:
        moment = dt.datetime.fromtimestamp(time_s, tz=dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_s:g} s"
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
