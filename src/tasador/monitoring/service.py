"""The answers themselves: a stuck model, estimates out of range, slow or failing requests."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tasador.monitoring.groups import latencies
from tasador.monitoring.performance import share_interval
from tasador.monitoring.rules import Rules
from tasador.monitoring.tally import FIGURES, Tally
from tasador.monitoring.verdict import Finding, Level

_PERCENTILES = (50, 95, 99)


def judge_answers(tally: Tally, rules: Rules) -> list[Finding]:
    """Judge the estimates: their spread, their range, whether they are numbers at all."""
    findings = []
    if tally.not_finite:
        share = tally.not_finite / max(tally.n - tally.failures, 1)
        level: Level = "alert" if share >= rules.bounds_alert else "warn"
        text = f"{tally.not_finite} answers ({share:.2%}) are no finite number"
        findings.append(Finding("prediction", "not a number", level, text, {"share": share}))
    profile, window = tally.reference.prediction, tally.prediction
    if profile is None or window is None or window.finite < rules.min_rows:
        return findings
    grid, seen = profile.grid, profile.summary
    # the quartiles' distance, since a single wild estimate hides a stuck model from the deviation
    spread, usual = (s.quantile(0.75, grid) - s.quantile(0.25, grid) for s in (window, seen))
    ratio = spread / usual if usual > 0 else math.nan
    stuck = ratio < rules.collapse
    level = "alert" if stuck else "ok"
    text = f"the middle half of the estimates spans {ratio:.2f} times what it spans out of fold"
    if window.low == window.high:
        text = f"every estimate is {window.low:.6g}: the model is stuck"
    quartiles = {f"p{q}": window.quantile(q / 100, grid) for q in (25, 75)}
    numbers = {"ratio": ratio, **quartiles, "low": window.low, "high": window.high}
    findings.append(Finding("prediction", "spread", level, text, numbers))
    findings.append(_range(tally, rules))
    return findings


def _range(tally: Tally, rules: Rules) -> Finding:
    outside = tally.estimates_outside
    share = outside / max(tally.answered, 1)
    level: Level = "ok"
    if share >= rules.range_warn and outside > 2:  # two of m unchanged rows lie beyond the others
        level = "alert" if share >= rules.range_alert else "warn"
    text = f"{share:.2%} of the estimates lie outside those of the reference"
    return Finding("prediction", "range", level, text, {"share": share, "rows": outside})


def judge_service(tally: Tally, rules: Rules) -> list[Finding]:
    """Judge latency and failures, for all requests and by version."""
    findings = list(_failures(tally, rules))
    if tally.negative_latencies:
        text = f"{tally.negative_latencies} latencies are negative: left out"
        numbers = {"rows": tally.negative_latencies}
        findings.append(Finding("input", "latency", "warn", text, numbers))
    limits = (rules.latency_p50_ms, rules.latency_p95_ms, rules.latency_p99_ms)
    for version, values in latencies(tally):
        if not len(values):
            continue
        found = np.quantile(values, [p / 100 for p in _PERCENTILES]).tolist()
        broken = [
            f"p{p} {value:.3g} ms is above {limit:g} ms"
            for p, value, limit in zip(_PERCENTILES, found, limits, strict=True)
            if limit is not None and value > limit
        ]
        text = "; ".join(broken) or ", ".join(
            f"p{p} {value:.3g} ms" for p, value in zip(_PERCENTILES, found, strict=True)
        )
        level: Level = "alert" if broken else "ok"
        numbers = {f"p{p}_ms": value for p, value in zip(_PERCENTILES, found, strict=True)}
        findings.append(Finding("latency", version or "all requests", level, text, numbers))
    return findings


def _failures(tally: Tally, rules: Rules) -> Iterator[Finding]:
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
        past = share > rules.failures_max
        level: Level = "alert" if low > rules.failures_max else "warn" if past else "ok"
        text = f"{share:.2%} of the requests failed, at most {rules.failures_max:.2%} may"
        yield Finding("failures", name, level, text, {"share": share, "rows": n})
