"""`Tally`: a window counted batch by batch, in memory that does not grow with its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.monitoring.error_model import residuals
from tasador.monitoring.reference import Profile, Reference
from tasador.monitoring.summary import Summary
from tasador.monitoring.verdict import Finding
from tasador.monitoring.windows import Window

Floats = NDArray[np.float64]

#: Rows kept whole for checks that need them; of more, an even sample.
MOST_ROWS = 20_000
MOST_FIGURES = 200_000
_SEED = 20_240_816
#: Columns of `Tally.figures`.
FIGURES = ("prediction", "lower", "upper", "actual", "latency_ms", "time", "failed", "version",
           "segment")  # fmt: skip


class Sample:
    """An even sample of rows that come in batches: those of the lowest random number are kept.

    Args:
        width: Columns of a row.
        most: How many rows are kept.
        name: Of the random numbers' stream.
    """

    def __init__(self, width: int, most: int, name: str) -> None:
        self.most = most
        self.seen = 0
        self._random = seeds.generator(_SEED, name)
        self._kept: list[Floats] = [np.empty((0, width))]
        self._keys: list[Floats] = [np.empty(0)]
        self._limit = np.inf

    def add(self, rows: Floats) -> None:
        """Offer rows (n, width)."""
        self.offer(len(rows), lambda chosen: rows[chosen])

    def offer(self, n: int, take: Callable[[NDArray[np.intp]], Floats]) -> None:
        """Offer `n` rows, of which only those at the places that `take` is called with are made."""
        keys = self._random.random(n)
        self.seen += n
        chosen = np.flatnonzero(keys < self._limit)
        if len(chosen) > self.most:  # more than can stay: the others need not be made
            chosen = chosen[np.argpartition(keys[chosen], self.most - 1)[: self.most]]
            chosen.sort()
        self._kept.append(np.ascontiguousarray(take(chosen)))
        self._keys.append(keys[chosen])
        if sum(map(len, self._keys)) > 2 * self.most:
            self._shrink()

    def _shrink(self) -> None:
        rows, keys = np.concatenate(self._kept), np.concatenate(self._keys)
        if len(keys) > self.most:
            chosen = np.sort(np.argpartition(keys, self.most - 1)[: self.most])
            rows, keys = rows[chosen], keys[chosen]
            self._limit = float(keys.max())
        self._kept, self._keys = [rows], [keys]

    def rows(self) -> Floats:
        """Return the rows kept, in the order in which they came; all of them when they are few."""
        self._shrink()
        return self._kept[0]


@dataclass
class Outside:
    """How many values of a column lie where none should.

    Attributes:
        below, above: Beyond the contract's bounds.
        under, over: Beyond what the reference spans.
        twice: Beyond twice the reference's extreme.
    """

    below: int = 0
    above: int = 0
    under: int = 0
    over: int = 0
    twice: int = 0


@dataclass
class Tally:
    """A window in counts; feed it batches with `add`, then judge it.

    Attributes:
        reference: What it will be compared with; its grids are those of the counts.
        n: Rows so far.
        failures: Requests that failed.
        columns: One summary per column of the reference, of the rows that did not fail.
        prediction, target, residual: Summaries of what the reference has profiles of.
        outside: One entry per column.
        rows: Sample of (X, prediction, lower, upper).
        figures: Sample of `FIGURES`.
        known: The same of rows whose actual value is known.
        with_outcomes: Sample of (X, prediction, lower, upper, actual) of those.
        negative_latencies: How many latencies are below zero; they are left out.
        answered: How many rows have a finite estimate.
        estimates_outside: How many of those lie beyond what the reference spans.
        not_finite: How many answers are NaN or infinite, though the request did not fail.
        problems: What was found wrong on the way.
        versions: Names of the versions seen.
    """

    reference: Reference
    n: int = 0
    failures: int = 0
    answered: int = 0
    estimates_outside: int = 0
    not_finite: int = 0
    negative_latencies: int = 0
    begins: float = np.inf
    ends: float = -np.inf
    problems: list[Finding] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        reference = self.reference
        self.columns = [Summary.empty(profile.grid) for profile in reference.profiles]
        self.outside = [Outside() for _ in reference.profiles]
        self.prediction, self.target, self.residual = (
            None if profile is None else Summary.empty(profile.grid)
            for profile in (reference.prediction, reference.target, reference.residual)
        )
        p = len(reference.columns)
        self.rows = Sample(p + 3, MOST_ROWS, "rows")
        self.figures = Sample(len(FIGURES), MOST_FIGURES, "figures")
        self.known = Sample(len(FIGURES), MOST_FIGURES, "known")
        self.with_outcomes = Sample(p + 4, MOST_ROWS, "with outcomes")
        segment = reference.segment
        self._segment = None if segment is None else reference.names.index(segment.name)

    def add(self, window: Window) -> None:
        """Count a batch.

        Raises:
            ValueError: Its columns are not the reference's.
        """
        if window.columns != self.reference.names:
            raise ValueError(f"columns {window.columns}, expected {self.reference.names}")
        self.problems += window.problems
        self.n += len(window)
        self.failures += int(window.failed.sum())
        ok = ~window.failed
        X = window.X if ok.all() else window.X[ok]
        for i, profile in enumerate(self.reference.profiles):
            part = Summary.of(X[:, i], profile.grid)
            self._count_outside(i, X[:, i], part, profile)
            self.columns[i] += part
        self._add_answers(window, ok)
        self._add_samples(window, X, ok)

    def _count_outside(self, i: int, values: Floats, part: Summary, profile: Profile) -> None:
        """Count what lies outside; a glance at the batch's extremes usually settles it."""
        if profile.grid.is_category:
            return
        seen, outside = profile.summary, self.outside[i]
        lowest = -np.inf if part.minus else part.low
        highest = np.inf if part.plus else part.high
        bottom, top = self.reference.columns[i].bounds
        if bottom is not None and lowest < bottom:
            outside.below += int((values < bottom).sum())
        if top is not None and highest > top:
            outside.above += int((values > top).sum())
        if not seen.finite:
            return
        if lowest < seen.low:
            outside.under += int((values < seen.low).sum())
            if seen.low < 0 and lowest < 2 * seen.low:
                outside.twice += int((values < 2 * seen.low).sum())
        if highest > seen.high:
            outside.over += int((values > seen.high).sum())
            if seen.high > 0 and highest > 2 * seen.high:
                outside.twice += int((values > 2 * seen.high).sum())

    def _add_answers(self, window: Window, ok: NDArray[np.bool_]) -> None:
        """Count estimates, known values and errors."""
        reference = self.reference
        prediction, actual = window.prediction[ok], window.actual[ok]
        finite = np.isfinite(prediction)
        if finite.any():
            self.answered += int(finite.sum())
            self.not_finite += int((~finite).sum())
        if reference.prediction is not None and finite.any():
            seen, given = reference.prediction.summary, prediction[finite]
            self.prediction = _plus(self.prediction, given, reference.prediction)
            self.estimates_outside += int(((given < seen.low) | (given > seen.high)).sum())
        known = np.isfinite(actual)
        if not known.any():
            return
        if reference.target is not None:
            self.target = _plus(self.target, actual[known], reference.target)
        both = known & finite
        if reference.residual is not None and both.any():
            errors = residuals(actual[both], prediction[both], log=reference.log)
            self.residual = _plus(self.residual, errors, reference.residual)

    def _add_samples(self, window: Window, X: Floats, ok: NDArray[np.bool_]) -> None:
        answers = (window.prediction, window.lower, window.upper)
        given = [values if ok.all() else values[ok] for values in answers]
        self.rows.offer(
            len(X), lambda rows: np.column_stack([X[rows], *(values[rows] for values in given)])
        )
        negative = window.latency_ms < 0
        self.negative_latencies += int(negative.sum())
        times = window.time[np.isfinite(window.time)]
        if len(times):
            self.begins = min(self.begins, float(times.min()))
            self.ends = max(self.ends, float(times.max()))
        if not self._has_figures(window):
            return
        segment = window.X[:, self._segment] if self._segment is not None else None
        rows = np.column_stack(
            [
                *answers,
                window.actual,
                np.where(negative, np.nan, window.latency_ms),
                window.time,
                window.failed,
                self._version_codes(window),
                np.full(len(window), np.nan) if segment is None else segment,
            ]
        )
        self.figures.add(rows)
        known = np.isfinite(window.actual)
        if known.any():
            self.known.add(rows[known])
            whole = np.column_stack([window.X, *answers, window.actual])
            self.with_outcomes.add(whole[known])

    @staticmethod
    def _has_figures(window: Window) -> bool:
        parts = (window.prediction, window.actual, window.latency_ms, window.time)
        return bool(window.failed.any()) or any(np.isfinite(part).any() for part in parts)

    def _version_codes(self, window: Window) -> NDArray[np.int64]:
        """Return the versions' places in `versions`, -1 for unknown."""
        for name in window.versions:
            if name not in self.versions:
                self.versions.append(name)
        places = np.array([*(self.versions.index(name) for name in window.versions), -1])
        return places[window.version]  # -1 is the last one


def _plus(summary: Summary | None, values: Floats, profile: Profile) -> Summary:
    part = Summary.of(values, profile.grid)
    return part if summary is None else summary + part
