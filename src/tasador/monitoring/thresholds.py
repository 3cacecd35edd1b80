"""`Rules`: from where on a number is a warning or an alert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tasador.core.errors import ConfigError

#: Absolute limits on errors; see `Rules.relative_when_worse`.
ABSOLUTE = {"mape": "mape_max", "within_10": "within_10_min", "within_20": "within_20_min"}


@dataclass(frozen=True)
class Thresholds:
    """The limits of every check. A limit that is None is not applied.

    Attributes:
        chance: Rate of false alarms that is allowed per family of checks: a difference counts only
            when chance makes one as large less often than this, corrected for the number of checks.
        min_rows: Rows below which distributions are not evaluated.
        min_outcomes: Known values below which errors are not evaluated.
        psi_warn: PSI, beyond what chance gives on average at the window's size, that is moderate.
        psi_alert: And significant.
        auc_warn: Area under the curve of the classifier that tells reference from window.
        auc_alert: See `auc_warn`.
        missing_warn: Rise of the share of missing values.
        missing_alert: See `missing_warn`.
        bounds_alert: Share outside the contract's bounds or categories; any at all warns.
        range_warn: Share outside what the reference's rows span.
        range_alert: See `range_warn`.
        twice_warn: Share of rows beyond twice the training maximum (of negative values: minimum)
            that is still fine; the default warns of a single row.
        twice_alert: Share from which on several such rows are an alert.
        mape_max: Highest mean absolute percentage error, in percent.
        within_10_min: Lowest share within 10%, in percent.
        within_20_min: Lowest share within 20%, in percent.
        relative_when_worse: Those of `mape_max` and the `within` limits that give way where the
            model's own held-out figure (out of fold, in the reference) does not meet them: the
            limit is then that figure and `worse`, since the absolute one would alarm for as long as
            the model is in use. Where no such figure is known they are not applied.
        coverage_slack: How far the intervals' coverage may fall below what they promise.
        worse: How many times the reference's error is too much, for what has no limit of its own;
            also for segments, each against its own on the reference.
        segment_gap: How many times the whole window's error a segment's may be.
        concept: How many times the expected error, given the rows, is a change of concept.
        collapse: Share of the reference's spread of estimates below which a model is stuck.
        std_floor: Share of the held-out estimates' standard deviation below which the window's is
            an alert. The default table's estimates have one of about 100 000, so that a tenth is
            10 000 there.
        std_min: The same as a number in the target's unit, instead of the share.
        latency_p50_ms: Limits of the latency's percentiles.
        latency_p95_ms: See `latency_p50_ms`.
        latency_p99_ms: See `latency_p50_ms`.
        latency_near: Share of a latency's limit from which on it is a warning.
        failures_max: Highest share of requests that fail.
        refused_warn: Share of the rows sent to a service that it refused.
        refused_alert: See `refused_warn`.
    """

    chance: float = 0.01
    min_rows: int = 30
    min_outcomes: int = 30
    psi_warn: float = 0.1
    psi_alert: float = 0.2
    auc_warn: float = 0.6
    auc_alert: float = 0.7
    missing_warn: float = 0.01
    missing_alert: float = 0.05
    bounds_alert: float = 0.01
    range_warn: float = 0.01
    range_alert: float = 0.05
    twice_warn: float = 0.0
    twice_alert: float = 0.01
    mape_max: float | None = None
    within_10_min: float | None = None
    within_20_min: float | None = None
    relative_when_worse: tuple[str, ...] = ()
    coverage_slack: float = 0.05
    worse: float = 1.25
    segment_gap: float | None = None
    concept: float = 1.25
    collapse: float = 0.5
    std_floor: float = 0.1
    std_min: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_near: float = 0.75
    failures_max: float = 0.01
    refused_warn: float = 0.01
    refused_alert: float = 0.05

    def __post_init__(self) -> None:
        # `not value >= 0` refuses NaN too, with which every comparison would be false
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "relative_when_worse":
                continue
            if value is not None and not value >= 0:
                raise ConfigError(
                    f"the rule {field.name} is invalid", expected="0 or more", got=repr(value)
                )
        for name in self.relative_when_worse:
            if name not in ABSOLUTE.values():
                raise ConfigError(
                    "relative_when_worse names a limit that is not one of an error",
                    expected=f"some of {', '.join(ABSOLUTE.values())}",
                    got=name,
                )
        if not 0 < self.chance < 1:
            raise ConfigError(
                "the rule chance is invalid", expected="between 0 and 1", got=repr(self.chance)
            )
        for low, high in (("psi_warn", "psi_alert"), ("auc_warn", "auc_alert"),
                          ("missing_warn", "missing_alert"), ("range_warn", "range_alert"),
                          ("twice_warn", "twice_alert"),
                          ("refused_warn", "refused_alert")):  # fmt: skip
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(
                    f"the rules {low} and {high} contradict each other",
                    expected=f"{low} at most {high}",
                    got=f"{getattr(self, low)} and {getattr(self, high)}",
                )

    def changed(self, values: Mapping[str, Any]) -> Thresholds:
        """Return these limits with some of them set by a user; see `overridden`."""
        names = ("relative_when_worse",)
        return replace(self, **overridden({name: getattr(self, name) for name in names}, values))


def overridden(limits: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits by name with some of them set by a user.

    A limit that a user sets holds as it is: it leaves `relative_when_worse`, unless the user sets
    that too.
    """
    # an explicit limit must not give way to the model's own figure
    way = [name for name in limits.get("relative_when_worse", ()) if name not in values]
    return {**limits, "relative_when_worse": tuple(way), **values}
