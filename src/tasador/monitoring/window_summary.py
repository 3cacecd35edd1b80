"""`Tally`: a window counted batch by batch, in memory that does not grow with its rows.

Parts of a window that were counted apart (files, hours, machines) add up by `merge`, in any order,
to the tally of one pass over all rows: counts, extremes and samples exactly, sums of values up to
the last bits. `state` is what travels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.target_check import TargetBounds
from tasador.monitoring.column_summary import ColumnSummary, RowSample
from tasador.monitoring.error_estimation import residuals
from tasador.monitoring.reference import Profile, Reference
from tasador.monitoring.verdict import Finding
from tasador.monitoring.window import Window

Floats = NDArray[np.float64]

#: Rows kept whole for checks that need them; of more, an even sample.
MOST_ROWS = 20_000
MOST_FIGURES = 200_000
#: Columns of `Tally.figures`.
FIGURES = ("prediction", "lower", "upper", "actual", "latency_ms", "time", "failed", "version",
           "segment")  # fmt: skip


@dataclass
class OutsideCounts:
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

    def __add__(self, other: OutsideCounts) -> OutsideCounts:
        return OutsideCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


#: Place of the window that a finding was made in, its number there, the finding.
_Noted = tuple[int, int, Finding]
_COUNTS = ("n", "failures", "answered", "estimates_outside", "not_finite", "negative_latencies",
           "impossible_outcomes")  # fmt: skip
_SUMMARIES = ("prediction", "target", "residual")
_SAMPLES = ("rows", "figures", "known", "with_outcomes")


@dataclass
class WindowSummary:
    """A window in counts; feed it batches with `add`, then evaluate it.

    Attributes:
        reference: What it will be compared with; its grids are those of the counts.
        first: Place of its first row among all rows of the window; not 0 for a later part of it.
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
        impossible_outcomes: How many known values the target cannot have; they are left out.
        not_finite: How many answers are NaN or infinite, though the request did not fail.
    """

    reference: Reference
    first: int = 0
    n: int = 0
    failures: int = 0
    answered: int = 0
    estimates_outside: int = 0
    not_finite: int = 0
    negative_latencies: int = 0
    impossible_outcomes: int = 0
    begins: float = np.inf
    ends: float = -np.inf
    _noted: list[_Noted] = field(default_factory=list)
    _versions: dict[str, tuple[int, int]] = field(default_factory=dict)  # where each was first seen

    @property
    def problems(self) -> list[Finding]:
        """What was found wrong on the way, in the order of the rows."""
        return [finding for _, _, finding in self._noted]

    @property
    def versions(self) -> list[str]:
        """Names of the versions seen, in the order of the rows."""
        return list(self._versions)

    def __post_init__(self) -> None:
        reference = self.reference
        self.columns = [ColumnSummary.empty(profile.grid) for profile in reference.profiles]
        self.outside = [OutsideCounts() for _ in reference.profiles]
        self.prediction, self.target, self.residual = (
            None if profile is None else ColumnSummary.empty(profile.grid)
            for profile in (reference.prediction, reference.target, reference.residual)
        )
        p = len(reference.columns)
        self.rows = RowSample(p + 3, MOST_ROWS, "rows")
        self.figures = RowSample(len(FIGURES), MOST_FIGURES, "figures")
        self.known = RowSample(len(FIGURES), MOST_FIGURES, "known")
        self.with_outcomes = RowSample(p + 4, MOST_ROWS, "with outcomes")
        segment = reference.segment
        self._segment = None if segment is None else reference.names.index(segment.name)

    def add(self, window: Window) -> None:
        """Count a batch.

        Raises:
            ValueError: Its columns are not the reference's.
        """
        if window.columns != self.reference.names:
            raise ValueError(f"columns {window.columns}, expected {self.reference.names}")
        window = self._in_double(self._with_possible_outcomes(window))
        place = self.first + self.n
        self.note(window.problems)
        self.n += len(window)
        self.failures += int(window.failed.sum())
        ok = ~window.failed
        # without a copy in the usual case that no request failed
        X = window.X if ok.all() else window.X[ok]
        for i, profile in enumerate(self.reference.profiles):
            part = ColumnSummary.of(X[:, i], profile.grid)
            self._count_outside(i, X[:, i], part, profile)
            self.columns[i] += part
        self._add_answers(window, ok)
        self._add_samples(window, place, ok)

    def _in_double(self, window: Window) -> Window:
        """Restore values of the reference that went through float32: see `Grid.in_double`."""
        changed: Floats | None = None
        for i, profile in enumerate(self.reference.profiles):
            given = window.X[:, i]
            values = profile.grid.in_double(given)
            if values is not given:
                changed = window.X.copy(order="F") if changed is None else changed
                changed[:, i] = values
        return window if changed is None else replace(window, X=changed)

    def note(self, problems: Sequence[Finding]) -> None:
        """Add what was found wrong with all rows so far."""
        place = self.first + self.n
        self._noted += [(place, i, found) for i, found in enumerate(problems)]

    def _with_possible_outcomes(self, window: Window) -> Window:
        """Leave out known values such as -1, which mean that there is none."""
        # a -1 that means "unknown" would be an error of hundreds of percent
        possible = self.target_bounds.accepts(window.actual) | np.isnan(window.actual)
        if possible.all():
            return window
        self.impossible_outcomes += int((~possible).sum())
        return replace(window, actual=np.where(possible, window.actual, np.nan))

    @property
    def target_bounds(self) -> TargetBounds:
        """What known values may be; without a contract what the reference's errors allow."""
        return self.reference.target_bounds or TargetBounds(positive=self.reference.log)

    def _count_outside(self, i: int, values: Floats, part: ColumnSummary, profile: Profile) -> None:
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
        X = window.X[ok]
        finite = np.isfinite(prediction)
        if finite.any():
            self.answered += int(finite.sum())
            self.not_finite += int((~finite).sum())
        if reference.prediction is not None and finite.any():
            seen = reference.prediction.summary
            given = reference.prediction.grid.in_double(
                reference.at_newest_level(prediction[finite], X[finite])
            )
            self.prediction = _plus(self.prediction, given, reference.prediction)
            self.estimates_outside += int(((given < seen.low) | (given > seen.high)).sum())
        known = np.isfinite(actual)
        if not known.any():
            return
        if reference.target is not None:
            # else a rising market, which the model knows, would be a shift of the target
            outcomes = reference.at_newest_level(actual[known], X[known])
            self.target = _plus(self.target, outcomes, reference.target)
        both = known & finite
        if reference.residual is not None and both.any():
            errors = residuals(actual[both], prediction[both], log=reference.log)
            self.residual = _plus(self.residual, errors, reference.residual)

    def _add_samples(self, window: Window, place: int, ok: NDArray[np.bool_]) -> None:
        answers = (window.prediction, window.lower, window.upper)
        self.rows.offer(
            place,
            ok,
            lambda some: np.column_stack([window.X[some], *(values[some] for values in answers)]),
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
                self._version_codes(window, place),
                np.full(len(window), np.nan) if segment is None else segment,
            ]
        )
        self.figures.add(place, rows)
        known = np.isfinite(window.actual)
        if known.any():
            self.known.offer(place, known, lambda some: rows[some])
            parts = (*answers, window.actual)
            self.with_outcomes.offer(
                place,
                known,
                lambda some: np.column_stack([window.X[some], *(part[some] for part in parts)]),
            )

    @staticmethod
    def _has_figures(window: Window) -> bool:
        parts = (window.prediction, window.actual, window.latency_ms, window.time)
        return bool(window.failed.any()) or any(np.isfinite(part).any() for part in parts)

    def _version_codes(self, window: Window, place: int) -> NDArray[np.int64]:
        """Return the versions' places in `versions`, -1 for unknown."""
        for i, name in enumerate(window.versions):
            self._versions.setdefault(name, (place, i))
        order = self.versions
        places = np.array([*(order.index(name) for name in window.versions), -1])
        return places[window.version]  # -1 is the last one

    def merge(self, other: WindowSummary) -> WindowSummary:
        """Return the tally of both parts' rows; neither is changed.

        Parts must not overlap. The order in which they are merged does not matter.

        Raises:
            ValueError: They are compared with different references.
        """
        names, others = self.reference.names, other.reference.names
        if names != others or self.reference.version != other.reference.version:
            raise ValueError(f"a tally of {others} cannot be added to one of {names}")
        found = WindowSummary(self.reference, min(self.first, other.first))
        for name in _COUNTS:
            setattr(found, name, getattr(self, name) + getattr(other, name))
        found.begins, found.ends = min(self.begins, other.begins), max(self.ends, other.ends)
        found.columns = [a + b for a, b in zip(self.columns, other.columns, strict=True)]
        found.outside = [a + b for a, b in zip(self.outside, other.outside, strict=True)]
        for name in _SUMMARIES:
            mine, more = getattr(self, name), getattr(other, name)
            setattr(found, name, None if mine is None or more is None else mine + more)
        # by place: the order in which parts were merged must not show in the verdict
        found._noted = sorted([*self._noted, *other._noted], key=_noted_at)
        seen = [*self._versions.items(), *other._versions.items()]
        for name, where in sorted(seen, key=lambda entry: (entry[1], entry[0])):
            found._versions.setdefault(name, where)
        for name in _SAMPLES:
            mine, more = (one._sample(name, found.versions) for one in (self, other))
            setattr(found, name, mine.merge(more))
        return found

    def _sample(self, name: str, versions: list[str]) -> RowSample:
        """Return a sample of which the version's places are those in `versions`."""
        sample: RowSample = getattr(self, name)
        if name not in ("figures", "known") or self.versions == versions[: len(self.versions)]:
            return sample
        column = FIGURES.index("version")
        places = np.array([*(versions.index(own) for own in self.versions), -1], dtype=np.float64)

        def renumber(rows: Floats) -> Floats:
            rows[:, column] = places[rows[:, column].astype(np.intp)]
            return rows

        return sample.changed(renumber)

    def state(self) -> dict[str, Any]:
        """Return plain values and arrays that `from_state` takes."""
        return {
            "reference": self.reference.version,
            "counts": {name: getattr(self, name) for name in ("first", *_COUNTS)},
            "span": [self.begins, self.ends],
            "outside": [asdict(one) for one in self.outside],
            "columns": [one.state() for one in self.columns],
            "summaries": {
                name: one.state() for name in _SUMMARIES if (one := getattr(self, name)) is not None
            },
            "samples": {name: getattr(self, name).state() for name in _SAMPLES},
            "versions": {name: list(where) for name, where in self._versions.items()},
            "noted": [[place, i, asdict(finding)] for place, i, finding in self._noted],
        }

    @classmethod
    def from_state(cls, reference: Reference, state: Mapping[str, Any]) -> WindowSummary:
        """Rebuild from `state`.

        Raises:
            ValueError: It was counted on another reference's grids.
        """
        if state["reference"] != reference.version:
            raise ValueError(f"counted for {state['reference']}, not for {reference.version}")
        found = cls(reference)
        for name, value in state["counts"].items():
            setattr(found, name, value)
        found.begins, found.ends = state["span"]
        found.outside = [OutsideCounts(**one) for one in state["outside"]]
        found.columns = [ColumnSummary.from_state(one) for one in state["columns"]]
        for name, one in state["summaries"].items():
            setattr(found, name, ColumnSummary.from_state(one))
        for name, one in state["samples"].items():
            setattr(found, name, RowSample.from_state(one, getattr(found, name).name))
        found._versions = {name: (place, i) for name, (place, i) in state["versions"].items()}
        found._noted = [(place, i, Finding(**one)) for place, i, one in state["noted"]]
        return found


def _noted_at(noted: _Noted) -> tuple[int, int, str, str, str]:
    place, number, finding = noted
    return place, number, finding.check, finding.subject, finding.reason


def _plus(summary: ColumnSummary | None, values: Floats, profile: Profile) -> ColumnSummary:
    part = ColumnSummary.of(values, profile.grid)
    return part if summary is None else summary + part
