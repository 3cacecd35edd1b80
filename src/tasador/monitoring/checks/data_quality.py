"""Data quality: what is missing, outside its bounds, unknown, or impossibly large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasador.contract.model import Column
from tasador.monitoring.checks.drift import adjusted, more_often
from tasador.monitoring.column_summary import ColumnSummary
from tasador.monitoring.reference import Profile
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.verdict import Finding, Level, Number
from tasador.monitoring.window_summary import OutsideCounts, WindowSummary


@dataclass(frozen=True)
class _Rate:
    """A share of a column's rows beside what it is in the reference.

    Attributes:
        what: What the rows are, for people.
        count: How many of the window's rows.
        n: Of how many.
        share: Share in the reference.
        p_value: Chance of as many when nothing has changed.
        warn: Rise of the share from which on it is a warning.
        alert: And an alert.
    """

    what: str
    count: float
    n: int
    share: float
    p_value: float
    warn: float
    alert: float


def check_quality(tally: WindowSummary, thresholds: Thresholds) -> tuple[Finding, ...]:
    """Check every column; one finding for each, with the worst reason first.

    Rises of rates count when they are large enough and chance alone would hardly make them, however
    many columns are looked at. What the contract forbids and what is beyond twice the training
    maximum needs no statistics: a single row warns.
    """
    columns, profiles = tally.reference.columns, tally.reference.profiles
    parts = list(zip(columns, profiles, tally.columns, tally.outside, strict=True))
    rates = [list(_rates(*part, thresholds)) for part in parts]
    corrected = iter(adjusted([rate.p_value for some in rates for rate in some]).tolist())
    findings = []
    for part, some in zip(parts, rates, strict=True):
        reasons = [*_breaches(*part, thresholds)]
        for rate in some:
            reasons += _rises(rate, next(corrected), thresholds)
        findings.append(_finding(*part[:3], part[3], reasons))
    return tuple(findings)


def _rates(
    column: Column,
    profile: Profile,
    window: ColumnSummary,
    outside: OutsideCounts,
    thresholds: Thresholds,
) -> Iterator[_Rate]:
    seen = profile.summary
    if not window.n or not seen.n:
        return
    limits = (thresholds.missing_warn, thresholds.missing_alert)
    p = more_often(window.missing, window.n, seen.missing, seen.n)
    yield _Rate("missing", window.missing, window.n, seen.missing / seen.n, p, *limits)
    if profile.grid.is_category or not seen.finite or column.role == "timestamp":
        return
    # the reference's own extremes: as many as two unchanged rows in m lie beyond
    beyond = outside.under + outside.over
    p = more_often(beyond, window.n, 2, seen.n)
    name = "outside what the reference spans"
    yield _Rate(name, beyond, window.n, 0.0, p, thresholds.range_warn, thresholds.range_alert)


def _rises(rate: _Rate, p: float, thresholds: Thresholds) -> list[tuple[Level, str]]:
    share = rate.count / rate.n
    rise = share - rate.share
    # a rise that is certain may still be too small to matter
    if p > thresholds.chance or rise < rate.warn:
        return []
    level: Level = "alert" if rise >= rate.alert else "warn"
    was = f", was {rate.share:.2%}" if rate.share else ""
    return [(level, f"{share:.2%} {rate.what}{was}")]


def _breaches(
    column: Column,
    profile: Profile,
    window: ColumnSummary,
    outside: OutsideCounts,
    thresholds: Thresholds,
) -> Iterator[tuple[Level, str]]:
    """Yield what needs no statistics: what the contract forbids, and far too large values."""
    if not window.n:
        return
    level: Level
    # an open column takes new levels by contract
    unknown = int(window.counts[-1]) if profile.grid.is_category and not column.open else 0
    new = _new_categories(column, profile, window)
    for count, what in (
        (unknown, "of an unknown category"),
        (outside.below + outside.above, "outside the bounds of the contract"),
        (window.infinite, "infinite"),
        (new[0], f"of a category that the reference never had: {new[1]}"),
    ):
        if count:
            level = "alert" if count >= thresholds.bounds_alert * window.n else "warn"
            yield level, f"{_rows(count)} ({count / window.n:.2%}) {what}"
    share = outside.twice / window.n
    if share > thresholds.twice_warn and column.role != "timestamp":
        # one row may be a typing error, which is worth a look and not a page
        level = "alert" if outside.twice > 1 and share >= thresholds.twice_alert else "warn"
        yield level, f"{_rows(outside.twice)} ({share:.2%}) beyond twice the training maximum"
    if window.missing and not column.nullable and not profile.summary.missing:
        yield "warn", f"{window.missing} values are missing, the contract wants all of them"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _new_categories(column: Column, profile: Profile, window: ColumnSummary) -> tuple[int, str]:
    """Return how many rows have a known category that the reference's rows do not, and which."""
    if not profile.grid.is_category or not profile.summary.present:
        return 0, ""
    new = (profile.summary.counts[:-1] == 0) & (window.counts[:-1] > 0)
    names = [name for name, one in zip(column.categories, new, strict=True) if one]
    return int(window.counts[:-1][new].sum()), ", ".join(map(repr, names[:5]))


def _finding(
    column: Column,
    profile: Profile,
    window: ColumnSummary,
    outside: OutsideCounts,
    reasons: list[tuple[Level, str]],
) -> Finding:
    numbers: dict[str, Number] = {"rows": window.n, "missing": window.missing}
    if not profile.grid.is_category:
        numbers |= {
            "out_of_bounds": outside.below + outside.above,
            "out_of_range": outside.under + outside.over,
            "beyond_twice": outside.twice,
            "infinite": window.infinite,
            "mean": window.mean(profile.grid) if window.finite else None,
        }
        for name, summary in (("", window), ("reference_", profile.summary)):
            for q in (0.05, 0.95):
                key = f"{name}p{round(q * 100):02d}"
                numbers[key] = summary.quantile(q, profile.grid) if summary.finite else None
    else:
        numbers["unknown"] = int(window.counts[-1])
    if not window.n:
        return Finding("quality", column.name, "cannot_tell", "the window has no rows", numbers)
    if not reasons:
        text = f"{window.missing / window.n:.2%} missing, nothing out of place"
        return Finding("quality", column.name, "ok", text, numbers)
    order = ("alert", "warn")
    reasons = sorted(reasons, key=lambda reason: order.index(reason[0]))
    text = "; ".join(reason for _, reason in reasons)
    return Finding("quality", column.name, reasons[0][0], text, numbers)
