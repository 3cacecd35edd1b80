"""`Verdict`: what was found about a window, with the numbers and a reason for each level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from tasador.core.errors import ValidationError
from tasador.core.hashing import to_plain, without_nan
from tasador.metrics.ratio_study import is_met

Level = Literal["ok", "warn", "alert", "cannot_tell"]
Number = float | int | str | None

LEVELS: tuple[Level, ...] = ("ok", "cannot_tell", "warn", "alert")
#: Checks without which a window as a whole cannot be called ok.
_ESSENTIAL = frozenset({"input", "drift"})
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: Which check: input, refused, quality, drift, together, performance, estimate,
            concept, prediction, latency.
        subject: What it looked at: a column, a metric, a segment, a version.
        level: Its level.
        reason: One sentence with the numbers that decided.
        numbers: The numbers themselves, by name; None where there is none.
    """

    check: str
    subject: str
    level: Level
    reason: str
    numbers: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """How one column of the window differs from the reference.

    Attributes:
        name: The column; ``(prediction)``, ``(target)`` and ``(error)`` for what is not one.
        kind: number, integer, category or datetime.
        level: Its level.
        reason: Why.
        n: Rows of the window.
        missing: How many of them have no value.
        psi: Population stability index; None without rows.
        psi_chance: What it is on average when nothing has changed, at this n.
        psi_limit: What chance alone passes with the rate of false alarms that is allowed.
        p_value: Chance of a PSI as large when nothing has changed.
        p_adjusted: The same, corrected for the number of columns looked at.
        ks: Kolmogorov-Smirnov's D, and its p-value; None for categories.
        ks_p: See `ks`.
        chi2_p: p-value of the chi-square test of homogeneity on the bins.
        cramers_v: Its effect size, in [0, 1].
        wasserstein: Wasserstein-1 distance in standard deviations of the reference.
        jensen_shannon: Jensen-Shannon distance of the bins, in [0, 1].
        bins: What each bin is, for people; the last one is missing values.
        reference_share: Share of the reference's rows in each bin.
        window_share: Share of the window's.
    """

    name: str
    kind: str
    level: Level
    reason: str
    n: int
    missing: int
    psi: float | None = None
    psi_chance: float | None = None
    psi_limit: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    ks: float | None = None
    ks_p: float | None = None
    chi2_p: float | None = None
    cramers_v: float | None = None
    wasserstein: float | None = None
    jensen_shannon: float | None = None
    bins: tuple[str, ...] = ()
    reference_share: tuple[float, ...] = ()
    window_share: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric with its interval; value None where it is undefined.

    Attributes:
        name: As in `tasador.metrics`, or ``coverage``.
        value: What it is in the window.
        low: Lower end of its confidence interval.
        high: Upper end.
        reference: What it is on the reference's rows, out of fold.
        limit: The value past which it is a breach, if there is a rule.
        estimated: Whether it was estimated without outcomes.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    limit: float | None = None
    estimated: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it lies in the range that the IAAO accepts; None where there is none."""
        return None if self.value is None else is_met(self.name, self.value)


@dataclass(frozen=True, slots=True)
class Group:
    """Some rows of the window: a segment, a span of time, or a version.

    Attributes:
        name: What they have in common; for a span its start, ISO 8601 in UTC.
        rows: How many.
        outcomes: For how many of them the actual value is known.
        prediction: Their mean estimate.
        mape: Mean absolute percentage error, with its interval.
        mape_low: See `mape`.
        mape_high: See `mape`.
        within_10: Share in percent within 10%.
        ratio: Median of estimate over actual value.
        coverage: Share inside their intervals.
        latency_p95: Milliseconds.
        failures: Share of the requests that failed.
    """

    name: str
    rows: int
    outcomes: int = 0
    prediction: float | None = None
    mape: float | None = None
    mape_low: float | None = None
    mape_high: float | None = None
    within_10: float | None = None
    ratio: float | None = None
    coverage: float | None = None
    latency_p95: float | None = None
    failures: float | None = None


@dataclass(frozen=True, slots=True)
class Indicator:
    """One of the numbers that sum up the model's health; see `monitoring.metrics`.

    Attributes:
        name: ``within_10``, ``within_20``, ``mape``, ``psi``, ``latency_p50`` and the like.
        value: What it is in the window; None when it is not known.
        level: Its level.
        limit: The value past which it is a breach, if there is one.
        unit: ``%``, ``ms`` or empty.
        column: The column that it is about, if it is about one.
        estimated: Whether it was estimated without outcomes.
    """

    name: str
    value: float | None
    level: Level
    limit: float | None = None
    unit: str = ""
    column: str = ""
    estimated: bool = False


@dataclass(frozen=True)
class Verdict:
    """What was found about a window.

    Attributes:
        level: The worst of the findings; `cannot_tell` when none is bad but an essential check
            (can the input be read, does it drift) could not be made.
        rows: Rows of the window.
        reference: Name of what it was compared with, e.g. the model's version.
        reference_rows: How many rows that has.
        made: When, ISO 8601 in UTC.
        begins: Time of the first row, if rows have times.
        ends: Time of the last.
        findings: Everything looked at, worst first.
        drift: One entry per column.
        figures: Metrics, measured and estimated.
        segments: Figures by segment.
        timeline: Figures by span of time.
        versions: Figures by the version that answered.
        indicators: The model's health at a glance.
    """

    level: Level
    rows: int
    reference: str
    reference_rows: int
    made: str
    begins: str | None = None
    ends: str | None = None
    findings: tuple[Finding, ...] = ()
    drift: tuple[ColumnDrift, ...] = ()
    figures: tuple[Figure, ...] = ()
    segments: tuple[Group, ...] = ()
    timeline: tuple[Group, ...] = ()
    versions: tuple[Group, ...] = ()
    indicators: tuple[Indicator, ...] = ()

    @property
    def by_check(self) -> dict[str, Level]:
        """The worst level of each check."""
        checks = dict.fromkeys(finding.check for finding in self.findings)
        return {check: worst(self.of_check(check)) for check in checks}

    def of_check(self, check: str) -> tuple[Finding, ...]:
        """Return the findings of one check."""
        return tuple(finding for finding in self.findings if finding.check == check)

    @property
    def trouble(self) -> tuple[Finding, ...]:
        """The findings that warn or alert."""
        return tuple(f for f in self.findings if f.level in ("warn", "alert"))

    def to_json(self) -> str:
        """Return everything as JSON; what is not finite becomes null."""
        plain = {"format": _FORMAT, **without_nan(to_plain(self)), "by_check": self.by_check}
        return orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Verdict:
        """Read what `to_json` wrote.

        Raises:
            ValidationError: It is something else.
        """
        try:
            plain = orjson.loads(text)
            if plain.pop("format") != _FORMAT:
                raise ValueError("another format")
            # made from the findings again: a file that was edited must not contradict itself
            plain.pop("by_check")
            plain.setdefault("indicators", [])  # an older tasador wrote none
            for name, kind in _PARTS.items():
                plain[name] = tuple(kind(**_tuples(entry)) for entry in plain[name])
            return cls(**plain)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValidationError(
                f"this is no verdict: {error}", expected="what `tasador monitor --json` writes"
            ) from None


def shorten_verdict(plain: dict[str, Any]) -> dict[str, Any]:
    """Return what of a verdict's JSON is still asked for once a later one is there.

    That is its levels and figures, the columns' PSI, what was wrong, and how many outcomes were
    known; a twentieth of the whole.
    """
    timeline = plain.get("timeline") or ()
    latencies = [one["latency_p95"] for one in timeline if one.get("latency_p95") is not None]
    whole = ("format", "level", "rows", "reference", "made", "begins", "ends", "by_check")
    return {
        **{key: plain[key] for key in whole if key in plain},
        "short": True,
        "figures": [
            {"name": one["name"], "value": _digits(one["value"]), "estimated": one["estimated"]}
            for one in plain.get("figures") or ()
        ],
        "drift": [
            {"name": one["name"], "psi": _digits(one["psi"]), "level": one["level"]}
            for one in plain.get("drift") or ()
            if one.get("psi") is not None
        ],
        "findings": [
            {key: one[key] for key in ("check", "subject", "level", "reason")}
            for one in plain.get("findings") or ()
            if one["level"] in ("warn", "alert")
        ],
        "timeline": [
            {
                "outcomes": sum(int(one.get("outcomes", 0)) for one in timeline),
                "latency_p95": max(latencies, default=None),
            }
        ],
    }


def _digits(value: float | None) -> float | None:
    # five digits are all that charts show
    return None if value is None else float(f"{value:.5g}")


_PARTS: dict[str, Any] = {
    "findings": Finding,
    "drift": ColumnDrift,
    "figures": Figure,
    "segments": Group,
    "timeline": Group,
    "versions": Group,
    "indicators": Indicator,
}


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level among `findings`; ok without any."""
    levels = [finding.level for finding in findings]
    return max(levels, key=LEVELS.index) if levels else "ok"


def overall(findings: Iterable[Finding]) -> Level:
    """Return the level of a window: see `Verdict.level`."""
    # outcomes that are not there yet are the usual state of a window, not a problem
    counted = [f for f in findings if f.level != "cannot_tell" or f.check in _ESSENTIAL]
    bad = worst(counted)
    if bad != "cannot_tell":
        return bad
    # one undecided column among many is no reason to leave the rest undecided
    drift = [f for f in counted if f.check == "drift"]
    known = [f for f in drift if f.level == "ok"]
    blind = any(f.check == "input" and f.level == "cannot_tell" for f in counted)
    return "cannot_tell" if blind or len(known) < len(drift) / 2 else "ok"


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
