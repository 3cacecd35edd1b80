"""How good the estimates are, measured or estimated: of a window, its segments, spans of time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tasador.core.clock import show_moment
from tasador.metrics.regression import (
    HIGHER_IS_BETTER,
    METRICS,
    RATIO_STUDY,
    bootstrap_metrics,
    label,
    mape,
    share_interval,
    within_10,
)
from tasador.monitoring.error_estimation import WITHIN, error_inputs, residuals
from tasador.monitoring.reference import Reference
from tasador.monitoring.settings import ABSOLUTE, Thresholds
from tasador.monitoring.verdict import Figure, Finding, Group, Level
from tasador.monitoring.window_summary import FIGURES, WindowSummary

Floats = NDArray[np.float64]

_DRAWS = 200
#: Rows that are resampled; of more, an even part, whose interval is narrowed accordingly.
_RESAMPLED = 5000
_SEED = 20_240_816
_Z95, _Z99 = 1.959964, 2.575829


@dataclass(frozen=True)
class Pairs:
    """Rows whose actual value and estimate are known, each (n,)."""

    actual: Floats
    predicted: Floats
    lower: Floats
    upper: Floats

    @classmethod
    def of(cls, rows: Floats) -> Pairs:
        """Take them from rows of `tally.FIGURES`; those without either are left out."""
        predicted, lower, upper, actual = (
            rows[:, FIGURES.index(name)] for name in ("prediction", "lower", "upper", "actual")
        )
        both = np.isfinite(actual) & np.isfinite(predicted)
        return cls(actual[both], predicted[both], lower[both], upper[both])

    def __len__(self) -> int:
        return len(self.actual)

    def coverage(self) -> tuple[float, int]:
        """Return the share inside their intervals, and of how many that have one."""
        some = np.isfinite(self.lower) & np.isfinite(self.upper)
        inside = (self.lower <= self.actual) & (self.actual <= self.upper)
        return (float(inside[some].mean()) if some.any() else math.nan), int(some.sum())


def mape_interval(actual: Floats, predicted: Floats, z: float = _Z95) -> tuple[float, float, float]:
    """Return the MAPE in percent and its normal interval; NaN where it has none."""
    some = actual != 0
    errors = np.abs((predicted[some] - actual[some]) / actual[some]) * 100
    if len(errors) < 2:
        return mape(actual, predicted) if len(actual) else math.nan, math.nan, math.nan
    mean, half = float(errors.mean()), z * float(errors.std(ddof=1)) / math.sqrt(len(errors))
    return mean, max(mean - half, 0.0), mean + half


def measured_figures(
    tally: WindowSummary, thresholds: Thresholds
) -> tuple[tuple[Figure, ...], list[Finding]]:
    """Return every metric of the rows with outcomes, and what breaks a rule."""
    pairs = Pairs.of(tally.known.rows())
    if len(pairs) < thresholds.min_outcomes:
        text = f"{len(pairs)} rows have an outcome, at least {thresholds.min_outcomes} are needed"
        return (), [Finding("performance", "outcomes", "cannot_tell", text, {"rows": len(pairs)})]
    before = _reference_figures(tally.reference)
    figures = [
        replace(figure, reference=before.get(figure.name)) for figure in _with_intervals(pairs)
    ]
    limited = _limited(figures, tally.reference, thresholds)
    findings = [
        _breach(figure, len(pairs), limit) for figure, limit in limited if limit is not None
    ]
    return tuple(figure for figure, _ in limited), findings


def _with_intervals(pairs: Pairs) -> list[Figure]:
    n = len(pairs)
    places = np.linspace(0, n - 1, min(n, _RESAMPLED)).astype(np.intp)
    # an interval shrinks with the root of the rows: resampling all of them would take minutes
    narrower = math.sqrt(len(places) / n)
    drawn = bootstrap_metrics(
        pairs.actual[places], pairs.predicted[places], draws=_DRAWS, seed=_SEED
    )
    figures = []
    for name, metric in {**METRICS, **RATIO_STUDY}.items():
        value, one = metric(pairs.actual, pairs.predicted), drawn[name]
        low = value - (one.value - one.low) * narrower
        figures.append(Figure(name, value, low, value + (one.high - one.value) * narrower))
    covered, some = pairs.coverage()
    if some:
        low, high = share_interval(covered, some)
        figures.append(Figure("coverage", covered * 100, low * 100, high * 100))
    return figures


def _reference_figures(reference: Reference) -> dict[str, float]:
    """Return the metrics of the reference's own rows, out of fold."""
    if reference.actual is None or reference.predicted is None:
        return {}
    known = np.isfinite(reference.actual) & np.isfinite(reference.predicted)
    if not known.any():
        return {}
    actual, predicted = reference.actual[known], reference.predicted[known]
    figures = {n: m(actual, predicted) for n, m in {**METRICS, **RATIO_STUDY}.items()}
    if reference.coverage is not None:
        figures["coverage"] = reference.coverage * 100
    return figures


@dataclass(frozen=True)
class _Limit:
    """Where a figure becomes a breach, whether it was configured, and why it is that one."""

    value: float
    asked: bool
    why: str


def _limit(figure: Figure, reference: Reference, thresholds: Thresholds) -> _Limit | None:
    """Choose a figure's limit: the absolute one, or one relative to the model's own figure."""
    if figure.name == "coverage" and reference.coverage is not None:
        return _Limit(100 * (reference.coverage - thresholds.coverage_slack), False, "is usual")
    if figure.name not in ABSOLUTE:
        return None
    name = ABSOLUTE[figure.name]
    asked, own = getattr(thresholds, name), figure.reference
    higher = figure.name in HIGHER_IS_BETTER
    if asked is not None and name not in thresholds.relative_when_worse:
        return _Limit(asked, True, "is asked for")
    if own is None:
        return None
    if asked is not None and (own >= asked if higher else own <= asked):
        return _Limit(asked, True, "is asked for, which the model meets on held-out rows")
    why = "is usual"
    if asked is not None:
        why += f": the model's own {own:.2f}% on held-out rows does not meet {asked:g}%"
    return _Limit(own / thresholds.worse if higher else own * thresholds.worse, False, why)


def _limited(
    figures: Sequence[Figure], reference: Reference, thresholds: Thresholds
) -> list[tuple[Figure, _Limit | None]]:
    """Return the figures with their limits."""
    limits = [_limit(figure, reference, thresholds) for figure in figures]
    return [
        (figure if limit is None else replace(figure, limit=limit.value), limit)
        for figure, limit in zip(figures, limits, strict=True)
    ]


def _breach(figure: Figure, n: int, limit: _Limit) -> Finding:
    """Compare a figure with its limit.

    Past the limit with its whole interval is an alert. With only the value past it, it warns where
    the limit is a configured promise; against the reference it may be chance.
    """
    assert figure.value is not None  # noqa: S101 - of figures with a limit
    higher = figure.name in HIGHER_IS_BETTER or figure.name == "coverage"
    sign = -1.0 if higher else 1.0
    near = figure.high if higher else figure.low
    past = sign * figure.value > sign * limit.value
    surely = past and near is not None and sign * near > sign * limit.value
    level: Level = "alert" if surely else "warn" if past and limit.asked else "ok"
    title = "coverage" if figure.name == "coverage" else label(figure.name)
    word = "at least" if higher else "at most"
    text = (
        f"{title} {figure.value:.2f}% ({figure.low:.2f} to {figure.high:.2f}, {n} outcomes), "
        f"{word} {limit.value:.2f}% {limit.why}"
    )
    numbers = {"value": figure.value, "low": figure.low, "high": figure.high}
    return Finding("performance", figure.name, level, text, {**numbers, "limit": limit.value})


def check_segments(tally: WindowSummary, thresholds: Thresholds) -> list[Finding]:
    """Evaluate the error of each segment against its own on the reference, and the window's."""
    column, rows = tally.reference.segment, tally.known.rows()
    if column is None or column.kind != "category" or len(rows) < thresholds.min_outcomes:
        return []
    codes = rows[:, FIGURES.index("segment")]
    everything = Pairs.of(rows)
    whole = mape(everything.actual, everything.predicted) if len(everything) else math.nan
    findings = []
    for code, name in enumerate(column.categories):
        pairs = Pairs.of(rows[codes == code])
        if len(pairs) < thresholds.min_outcomes:
            continue
        # 99%: many segments are looked at, and each may alert
        value, low, high = mape_interval(pairs.actual, pairs.predicted, _Z99)
        before = _segment_before(tally.reference, code)
        limits = (
            [] if before is None else [(before * thresholds.worse, "of its own on the reference")]
        )
        if thresholds.segment_gap is not None:
            limits.append((whole * thresholds.segment_gap, "of the whole window's"))
        for limit, what in limits:
            level: Level = "alert" if low > limit else "ok"
            text = f"{name}: MAPE {value:.2f}% ({low:.2f} to {high:.2f}), limit {limit:.2f}% {what}"
            numbers = {"value": value, "low": low, "high": high, "limit": limit}
            findings.append(Finding("performance", f"segment {name}", level, text, numbers))
    return findings


def _segment_before(reference: Reference, code: int) -> float | None:
    """Return a segment's MAPE on the reference's rows; None with fewer than 30 of them."""
    column = reference.segment
    if column is None or reference.actual is None or reference.predicted is None:
        return None
    own = reference.rows[:, reference.names.index(column.name)] == code
    own &= np.isfinite(reference.actual) & np.isfinite(reference.predicted)
    # the error of so few rows is luck: segments without a limit are better than false alarms
    if own.sum() < 30:
        return None
    return mape(reference.actual[own], reference.predicted[own])


def estimated_figures(
    tally: WindowSummary, thresholds: Thresholds
) -> tuple[tuple[Figure, ...], list[Finding]]:
    """Return what the metrics will be once outcomes are known, from the model of the error."""
    model, reference = tally.reference.error_model, tally.reference
    if model is None:
        text = "the reference ships no model of the error"
        return (), [Finding("estimate", "error", "cannot_tell", text)]
    rows = tally.rows.rows()
    rows = rows[np.isfinite(rows[:, -3])]
    if len(rows) < thresholds.min_rows:
        text = f"{len(rows)} rows have an estimate, at least {thresholds.min_rows} are needed"
        return (), [Finding("estimate", "error", "cannot_tell", text)]
    X, prediction, lower, upper = rows[:, :-3], *rows[:, -3:].T
    terms = model.expected(error_inputs(X, prediction, lower, upper, log=reference.log))
    n, before = tally.answered, _reference_figures(reference)
    scale = np.abs(prediction) if reference.log else np.ones(len(prediction))
    figures = [
        _estimate("mape", terms["ape"] * 100, terms["ape2"] * 1e4, n, before),
        _estimate("mae", terms["absolute"] * scale, terms["absolute2"] * scale**2, n, before),
        *(_estimate(f"within_{k}", terms[f"within_{k}"] * 100,
                    terms[f"within_{k}"] * 1e4, n, before) for k in WITHIN),
    ]  # fmt: skip
    total = float(np.abs(prediction).mean())
    mae = figures[1]
    if total > 0 and mae.value is not None and mae.low is not None and mae.high is not None:
        per = 100 / total
        wmape = Figure("wmape", mae.value * per, mae.low * per, mae.high * per, estimated=True)
        figures.append(replace(wmape, reference=before.get("wmape")))
    limited = _limited(figures, reference, thresholds)
    findings = []
    for figure, limit in limited:
        if limit is not None:
            breach = _breach(figure, n, limit)
            # an estimate is no measurement: it never alerts by itself
            level: Level = "warn" if breach.level == "alert" else "ok"
            text = breach.reason.replace(f"{n} outcomes", "estimated without outcomes")
            findings.append(replace(breach, check="estimate", level=level, reason=text))
    return tuple(figure for figure, _ in limited), findings


def _estimate(
    name: str, terms: Floats, squares: Floats, n: int, before: dict[str, float]
) -> Figure:
    """Return the mean of expected terms; the interval is where the measured figure would lie."""
    value = float(terms.mean())
    # within rows alike and between them: the law of total variance
    variance = float(np.maximum(squares - terms**2, 0.0).mean()) + float(terms.var())
    half = _Z95 * math.sqrt(variance / max(n, 1))
    reference = before.get(name)
    return Figure(name, value, max(value - half, 0.0), value + half, reference, estimated=True)


def check_concept(tally: WindowSummary, thresholds: Thresholds) -> list[Finding]:
    """Compare the errors of rows with outcomes with what rows like them should have."""
    model, reference = tally.reference.error_model, tally.reference
    if model is None or tally.known.seen < thresholds.min_outcomes:
        return []
    rows = tally.with_outcomes.rows()
    X, prediction, lower, upper, actual = rows[:, :-4], *rows[:, -4:].T
    size = np.abs(residuals(actual, prediction, log=reference.log))
    some = np.isfinite(size)
    if some.sum() < thresholds.min_outcomes:
        return []
    terms = model.expected(error_inputs(X, prediction, lower, upper, log=reference.log))
    expected, square = terms["size"][some], terms["size2"][some]
    ratio = float(size[some].mean() / expected.mean())
    spread = math.sqrt(float(np.maximum(square - expected**2, 0).sum())) / float(expected.sum())
    p = float(special.ndtr(-(ratio - 1) / spread)) if spread > 0 else float(ratio <= 1)
    far = p <= thresholds.chance and ratio >= thresholds.concept
    level: Level = "ok" if not far else "alert" if ratio >= thresholds.concept**2 else "warn"
    text = f"errors are {ratio:.2f} times what rows like these should have (p {p:.2g})"
    numbers = {"ratio": ratio, "p_value": p, "rows": int(some.sum())}
    return [Finding("concept", "error given the row", level, text, numbers)]


Flags = NDArray[np.bool_]

_HOUR = 3600
#: Lengths of a span in seconds; the first that needs no more than `_MOST_SPANS` is taken.
_SPANS = (300, _HOUR, 6 * _HOUR, 24 * _HOUR, 7 * 24 * _HOUR, 30 * 24 * _HOUR, 365 * 24 * _HOUR)
_MOST_SPANS = 48


def segments(tally: WindowSummary) -> tuple[Group, ...]:
    """Return the figures of each segment that has rows."""
    column = tally.reference.segment
    if column is None or column.kind != "category":
        return ()
    names = (*column.categories, "(unknown)")
    return _groups(tally, "segment", dict(enumerate(names)))


def versions(tally: WindowSummary) -> tuple[Group, ...]:
    """Return the figures of each version that answered."""
    return _groups(tally, "version", dict(enumerate(tally.versions)))


def timeline(tally: WindowSummary) -> tuple[Group, ...]:
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
    # a single wrong clock may stretch the window over years: the latest spans are kept
    known = np.unique(codes[np.isfinite(codes)])[-_MOST_SPANS:]
    return tuple(
        _group(show_moment(float(code) * span), rows[codes == code], _share(tally))
        for code in known
    )


def _share(tally: WindowSummary) -> float:
    """Return how many rows each row of the sample represents."""
    kept = len(tally.figures.rows())
    return tally.figures.seen / kept if kept else 1.0


def _groups(tally: WindowSummary, by: str, names: dict[int, str]) -> tuple[Group, ...]:
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


def latencies(tally: WindowSummary) -> Iterator[tuple[str, Floats]]:
    """Yield (version, latencies in milliseconds) of all rows together and of each version."""
    rows = tally.figures.rows()
    yield "", _known(rows, "latency_ms")
    if len(tally.versions) > 1:
        codes = rows[:, FIGURES.index("version")]
        for code, name in enumerate(tally.versions):
            yield name, _known(rows[codes == code], "latency_ms")
