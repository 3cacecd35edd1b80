"""The answers: a stuck model, estimates out of range, slow, failing or refused requests."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tasador.metrics.regression import share_interval
from tasador.monitoring.checks.performance import latencies
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.verdict import LEVELS, Finding, Level, Number
from tasador.monitoring.window_summary import FIGURES, WindowSummary
from tasador.records.refused import RefusedCounts

_PERCENTILES = (50, 95, 99)


def check_predictions(tally: WindowSummary, thresholds: Thresholds) -> list[Finding]:
    """Check the estimates: their spread, their range, whether they are numbers at all."""
    findings = []
    if tally.not_finite:
        share = tally.not_finite / max(tally.n - tally.failures, 1)
        level: Level = "alert" if share >= thresholds.bounds_alert else "warn"
        text = f"{tally.not_finite} answers ({share:.2%}) are no finite number"
        findings.append(Finding("prediction", "not a number", level, text, {"share": share}))
    profile, window = tally.reference.prediction, tally.prediction
    # the spread of a few estimates says nothing about the model
    if profile is None or window is None or window.finite < thresholds.min_rows:
        return findings
    grid, seen = profile.grid, profile.summary
    # the quartiles' distance, since a single wild estimate hides a stuck model from the deviation
    spread, usual = (s.quantile(0.75, grid) - s.quantile(0.25, grid) for s in (window, seen))
    ratio = spread / usual if usual > 0 else math.nan
    stuck = ratio < thresholds.collapse
    level = "alert" if stuck else "ok"
    text = f"the middle half of the estimates spans {ratio:.2f} times what it spans out of fold"
    if window.low == window.high:
        text = f"every estimate is {window.low:.6g}: the model is stuck"
    numbers = {
        "ratio": ratio,
        **{f"p{q}": window.quantile(q / 100, grid) for q in (25, 50, 75)},
        "low": window.low,
        "high": window.high,
        "mean": window.mean(grid),
        "rows": window.finite,
    }
    findings.append(Finding("prediction", "spread", level, text, numbers))
    findings += [_std(tally, thresholds), _range(tally, thresholds)]
    return findings


def _std(tally: WindowSummary, thresholds: Thresholds) -> Finding:
    """Compare the estimates' standard deviation with its floor."""
    profile, window = tally.reference.prediction, tally.prediction
    assert profile is not None  # noqa: S101 - looked at by the caller
    assert window is not None  # noqa: S101
    std, usual = (one.std(profile.grid) for one in (window, profile.summary))
    floor, what = (
        thresholds.std_floor * usual,
        f"{thresholds.std_floor:g} of the {usual:.5g} of held-out rows",
    )
    if thresholds.std_min is not None:
        floor, what = thresholds.std_min, "as asked for"
    level: Level = "alert" if std < floor else "ok"
    text = f"standard deviation of the estimates {std:.5g}, at least {floor:.5g} ({what})"
    return Finding("prediction", "std", level, text, {"value": std, "limit": floor})


def _range(tally: WindowSummary, thresholds: Thresholds) -> Finding:
    outside = tally.estimates_outside
    share = outside / max(tally.answered, 1)
    level: Level = "ok"
    if (
        share >= thresholds.range_warn and outside > 2
    ):  # two of m unchanged rows lie beyond the others
        level = "alert" if share >= thresholds.range_alert else "warn"
    text = f"{share:.2%} of the estimates lie outside those of the reference"
    return Finding("prediction", "range", level, text, {"share": share, "rows": outside})


def check_service(tally: WindowSummary, thresholds: Thresholds) -> list[Finding]:
    """Check latency and failures, for all requests and by version."""
    findings = list(_failures(tally, thresholds))
    if tally.negative_latencies:
        text = f"{tally.negative_latencies} latencies are negative: left out"
        rows = {"rows": tally.negative_latencies}
        findings.append(Finding("input", "latency", "warn", text, rows))
    limits = (thresholds.latency_p50_ms, thresholds.latency_p95_ms, thresholds.latency_p99_ms)
    for version, values in latencies(tally):
        if not len(values):
            continue
        found = np.quantile(values, [p / 100 for p in _PERCENTILES]).tolist()
        levels: dict[str, Level] = {}
        broken = []
        for p, value, limit in zip(_PERCENTILES, found, limits, strict=True):
            # near: a latency that creeps up should be seen before it breaks its limit
            past, near = (
                limit is not None and value > s * limit
                for s in (1, min(1, thresholds.latency_near))
            )
            sure = len(values) >= thresholds.min_rows
            levels[f"p{p}"] = "alert" if past and sure else "warn" if near else "ok"
            if near:
                broken.append(f"p{p} {value:.3g} ms is {'above' if past else 'near'} {limit:g} ms")
        text = "; ".join(broken) or ", ".join(
            f"p{p} {value:.3g} ms" for p, value in zip(_PERCENTILES, found, strict=True)
        )
        numbers: dict[str, Number] = {"rows": len(values)}
        for p, value, limit in zip(_PERCENTILES, found, limits, strict=True):
            numbers |= {f"p{p}_ms": value, f"p{p}_limit_ms": limit, f"p{p}_level": levels[f"p{p}"]}
        level = max(levels.values(), key=LEVELS.index)
        findings.append(Finding("latency", version or "all requests", level, text, numbers))
    return findings


def _failures(tally: WindowSummary, thresholds: Thresholds) -> Iterator[Finding]:
    if not tally.failures:
        return
    rows = tally.figures.rows()
    failed, codes = rows[:, FIGURES.index("failed")], rows[:, FIGURES.index("version")]
    parts = [("all requests", tally.failures / tally.n, tally.n)]
    if len(tally.versions) > 1:
        for code, name in enumerate(tally.versions):
            own = failed[codes == code]
            if own.any():
                parts.append((name, float(own.mean()), len(own)))
    for name, share, n in parts:
        low, _ = share_interval(share, n)
        past = share > thresholds.failures_max
        level: Level = "alert" if low > thresholds.failures_max else "warn" if past else "ok"
        text = f"{share:.2%} of the requests failed, at most {thresholds.failures_max:.2%} may"
        yield Finding("failures", name, level, text, {"share": share, "rows": n})


_NAMED = 3


def check_refused(counts: RefusedCounts, valued: int, thresholds: Thresholds) -> Finding:
    """Check the share of refused rows among all that were sent.

    Args:
        counts: What was refused in the window.
        valued: Rows that were valued in it.
        thresholds: The limits.
    """
    sent = counts.refused + counts.withheld + valued
    if not counts.refused:
        return Finding("refused", "rows", "ok", "no row was refused", {"share": 0.0, "rows": 0})
    share = counts.refused / sent
    low, _ = share_interval(share, sent)
    level: Level = "ok"
    # an alert needs the lower end: three bad rows of ten are no broken feed
    if share > thresholds.refused_warn:
        level = "alert" if low > thresholds.refused_alert else "warn"
    most = "; ".join(
        f"{name}: {cause.replace('_', ' ')}{_example(counts, name, cause)} ({number:,})"
        for (name, cause), number in list(counts.causes.items())[:_NAMED]
    )
    text = f"{share:.2%} of the rows were refused ({counts.refused:,} of {sent:,}), most by {most}"
    if counts.withheld:
        text += f"; {counts.withheld:,} right ones of the same requests were not valued either"
    numbers: dict[str, Number] = {"share": share, "rows": counts.refused, "sent": sent}
    numbers["limit"] = thresholds.refused_alert
    numbers |= {f"{name} {cause}": number for (name, cause), number in counts.causes.items()}
    return Finding("refused", "rows", level, text, numbers)


def hit_rate(counts: RefusedCounts, valued: int) -> Iterator[Finding]:
    """Say which share of the valued rows was answered with a value; nothing where all were."""
    if not counts.no_value:
        return
    share = 1.0 - counts.no_value / max(valued, counts.no_value)
    text = (
        f"{share:.1%} of the rows got a value; {counts.no_value:,} of {valued:,} got the reason "
        "why there is none, and their estimates are watched all the same"
    )
    yield Finding("answers", "hit rate", "ok", text, {"share": share, "rows": counts.no_value})


def _example(counts: RefusedCounts, name: str, cause: str) -> str:
    found = counts.examples.get((name, cause), "")
    return f" {found}" if found and cause != "missing" else ""
