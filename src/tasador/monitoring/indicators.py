"""The few numbers by which a model's health is told at a glance, each with its level."""

from __future__ import annotations

from collections.abc import Sequence

from tasador.monitoring.verdict import LEVELS, ColumnDrift, Figure, Finding, Indicator

_FIGURES = ("within_10", "within_20", "mape")
_PERCENTILES = ("p50", "p95", "p99")


def indicators(
    findings: Sequence[Finding], drift: Sequence[ColumnDrift], figures: Sequence[Figure]
) -> tuple[Indicator, ...]:
    """Return shares within 10 and 20%, MAPE, PSI, latency and the estimates' spread, in that order.

    What is not known is there too, without a value, as `cannot_tell`. Errors are measured ones, or
    estimated where no outcome is known.
    """
    by_name = {(one.check, one.subject): one for one in findings}
    found = [_of_figure(name, figures, by_name) for name in _FIGURES]
    found.append(_psi(drift))
    latency = by_name.get(("latency", "all requests"))
    for name in _PERCENTILES:
        found.append(_of_percentile(name, latency))
    found.append(_of_finding("prediction_std", "", by_name.get(("prediction", "std")), "value"))
    found.append(_of_finding("refused", "%", by_name.get(("refused", "rows")), "share", 100.0))
    return tuple(found)


def _of_figure(
    name: str, figures: Sequence[Figure], findings: dict[tuple[str, str], Finding]
) -> Indicator:
    for estimated, check in ((False, "performance"), (True, "estimate")):
        for one in figures:
            if (one.name, one.estimated) == (name, estimated) and one.value is not None:
                finding = findings.get((check, name))
                level = "ok" if finding is None else finding.level
                return Indicator(name, one.value, level, one.limit, "%", estimated=estimated)
    return Indicator(name, None, "cannot_tell", unit="%")


def _psi(drift: Sequence[ColumnDrift]) -> Indicator:
    """Return the PSI of the column that has drifted most."""
    known = [one for one in drift if one.psi is not None and not one.name.startswith("(")]
    if not known:
        return Indicator("psi", None, "cannot_tell")
    most = max(known, key=lambda one: (LEVELS.index(one.level), one.psi or 0.0))
    return Indicator("psi", most.psi, most.level, most.psi_limit, column=most.name)


def _of_percentile(name: str, finding: Finding | None) -> Indicator:
    numbers = {} if finding is None else finding.numbers
    value, limit = (_number(numbers.get(f"{name}{part}_ms")) for part in ("", "_limit"))
    level = next((one for one in LEVELS if one == numbers.get(f"{name}_level")), LEVELS[1])
    return Indicator(f"latency_{name}", value, level, limit, "ms")


def _of_finding(
    name: str, unit: str, finding: Finding | None, key: str, scale: float = 1.0
) -> Indicator:
    value = None if finding is None else _number(finding.numbers.get(key))
    if finding is None or value is None:
        return Indicator(name, None, "cannot_tell", unit=unit)
    limit = _number(finding.numbers.get("limit"))
    return Indicator(
        name, value * scale, finding.level, None if limit is None else limit * scale, unit
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
