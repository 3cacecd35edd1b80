"""Dates and times: as the encoded matrix holds them, in seconds since 1970 UTC, and as text."""

from __future__ import annotations

import datetime as dt

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def seconds_of(value: dt.date) -> float:
    """Return the seconds since 1970 UTC; a date is its midnight, a time without a zone in UTC."""
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
        return (aware - EPOCH).total_seconds()
    return float((value - EPOCH.date()).days * 86_400)


def date_text(seconds: float) -> str:
    """Return ISO 8601: ``2026-01-31`` at midnight, else ``2026-01-31T10:00:00Z``.

    What no calendar has, such as the year 12 000, is shown as the number of seconds.
    """
    try:
        moment = EPOCH + dt.timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return f"{seconds:g} s since 1970"
    if moment.time() == dt.time(0):
        return moment.date().isoformat()
    return moment.isoformat(timespec="auto").replace("+00:00", "Z")
