"""Figures of parts of a window: its segments, its spans of time, the versions that answered."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tasador.metrics.regression import within_10
from tasador.monitoring.checks.performance import Pairs, mape_interval
from tasador.monitoring.summaries.window_summary import FIGURES, Tally
from tasador.monitoring.verdict import Group

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_HOUR = 3600
#: Lengths of a span in seconds; the first that needs no more than `_MOST_SPANS` is taken.
_SPANS = (300, _HOUR, 6 * _HOUR, 24 * _HOUR, 7 * 24 * _HOUR, 30 * 24 * _HOUR, 365 * 24 * _HOUR)
_MOST_SPANS = 48


def segments(tally: Tally) -> tuple[Group, ...]:
    """Return the figures of each segment that has rows."""
    column = tally.reference.segment
    if column is None or column.kind != "category":
        return ()
    names = (*column.categories, "(unknown)")
    return _groups(tally, "segment", dict(enumerate(names)))


def versions(tally: Tally) -> tuple[Group, ...]:
    """Return the figures of each version that answered."""
    return _groups(tally, "version", dict(enumerate(tally.versions)))


def timeline(tally: Tally) -> tuple[Group, ...]:
    """Return the figures of each span of time, the earliest first; empty without times.

    Spans are 5 minutes, an hour, 6 hours, a day, a week, 30 days or a year long, so that there are
    at most 48 of them.
    """
    if not tally.begins <= tally.ends:
        return ()
    length = tally.ends - tally.begins
    span = next((s for s in _SPANS if length / s < _MOST_SPANS - 1), _SPANS[-1])
    rows = tally.figures.rows()
    times = rows[:, FIGURES.index("time")]
    codes = np.floor(times / span)
    known = np.unique(codes[np.isfinite(codes)])[-_MOST_SPANS:]
    return tuple(
        _group(iso(float(code) * span), rows[codes == code], _share(tally)) for code in known
    )


def iso(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC; the number itself when no calendar has it."""
    try:
        moment = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _share(tally: Tally) -> float:
    """Return how many rows each row of the sample stands for."""
    kept = len(tally.figures.rows())
    return tally.figures.seen / kept if kept else 1.0


def _groups(tally: Tally, by: str, names: dict[int, str]) -> tuple[Group, ...]:
    rows = tally.figures.rows()
    codes = rows[:, FIGURES.index(by)]
    weight = _share(tally)
    return tuple(
        _group(name, rows[codes == code], weight)
        for code, name in names.items()
        if (codes == code).any()
    )


def _group(name: str, rows: Floats, weight: float) -> Group:
    pairs = Pairs.of(rows)
    error, low, high = mape_interval(pairs.actual, pairs.predicted)
    positive = pairs.actual > 0
    ratio = pairs.predicted[positive] / pairs.actual[positive]
    latency = _known(rows, "latency_ms")
    prediction = _known(rows, "prediction")
    return Group(
        name=name,
        rows=round(len(rows) * weight),
        outcomes=round(len(pairs) * weight),
        prediction=float(prediction.mean()) if len(prediction) else None,
        mape=_some(error),
        mape_low=_some(low),
        mape_high=_some(high),
        within_10=_some(within_10(pairs.actual, pairs.predicted)) if len(pairs) else None,
        ratio=float(np.median(ratio)) if len(ratio) else None,
        coverage=_some(pairs.coverage()[0]),
        latency_p95=float(np.quantile(latency, 0.95)) if len(latency) else None,
        failures=float(rows[:, FIGURES.index("failed")].mean()) if len(rows) else None,
    )


def _known(rows: Floats, name: str) -> Floats:
    values = rows[:, FIGURES.index(name)]
    return values[np.isfinite(values)]


def _some(value: float) -> float | None:
    return value if math.isfinite(value) else None


def latencies(tally: Tally) -> Iterator[tuple[str, Floats]]:
    """Yield (version, latencies in milliseconds) of all rows together and of each version."""
    rows = tally.figures.rows()
    yield "", _known(rows, "latency_ms")
    if len(tally.versions) > 1:
        codes = rows[:, FIGURES.index("version")]
        for code, name in enumerate(tally.versions):
            yield name, _known(rows[codes == code], "latency_ms")
