"""`RetrainDecision`: whether to train again, why, and what speaks against it.

A pure function of settings and situation, so that `--dry-run` says exactly what would happen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HOUR, _DAY = 3600.0, 86_400.0


@dataclass(frozen=True)
class RetrainSettings:
    """When a model is trained again, and on what.

    Attributes:
        psi: Population stability index from which a column has drifted.
        psi_windows: How many windows in a row it must have, in the same column.
        importance: Share of the estimates' movement from which a column counts as important.
        performance: Whether a broken performance rule is a reason.
        performance_windows: How many windows in a row it must be broken.
        schedule_days: Age of the champion that is a reason; 0 switches it off.
        new_outcomes: Number of usable new outcomes that is a reason; 0 switches it off.
        cooldown_hours: Least time between two attempts, whatever became of the first.
        min_new_rows: Fewest usable new rows.
        budget: Most attempts in `budget_days`.
        budget_days: See `budget`.
        max_new_share: Largest share of new rows in the training table.
        max_client_share: Largest share of the training table that one client's rows may make up.
        outlier_spreads: Robust standard deviations, from what new rows have in common, beyond which
            a new row is set aside.
        client_spreads: The same for a client's rows as a whole.
        level_from: Shift, as a share, that all new outcomes have in common and from which the
            reference's values are brought to the new level; 0 never does. On a log scale only.
    """

    psi: float = 0.2
    psi_windows: int = 3
    importance: float = 0.05
    performance: bool = True
    performance_windows: int = 2
    schedule_days: float = 0.0
    new_outcomes: int = 0
    cooldown_hours: float = 24.0
    min_new_rows: int = 200
    budget: int = 4
    budget_days: float = 30.0
    max_new_share: float = 0.5
    max_client_share: float = 0.25
    outlier_spreads: float = 6.0
    client_spreads: float = 6.0
    level_from: float = 0.05


@dataclass(frozen=True)
class Situation:
    """What is known when the decision is made.

    Attributes:
        now: Seconds since the epoch.
        verdicts: Bodies of the champion's verdicts, the newest first.
        important: The columns that matter.
        usable: New rows that may be trained on.
        champion_since: When the champion's present reign began; None when that is not known.
        attempts: When it was tried before, the newest first.
        manual: Why somebody asks for it; None when nobody does.
    """

    now: float
    verdicts: Sequence[Mapping[str, Any]]
    important: frozenset[str]
    usable: int
    champion_since: float | None
    attempts: Sequence[float]
    manual: str | None = None


@dataclass(frozen=True)
class RetrainDecision:
    """What to do, and why.

    Attributes:
        triggers: What asks for it.
        obstacles: What speaks against it; with any the answer is no.
        notes: What was passed over.
    """

    triggers: tuple[str, ...]
    obstacles: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def retrain(self) -> bool:
        """Whether to train."""
        return bool(self.triggers) and not self.obstacles


def decide(settings: RetrainSettings, situation: Situation) -> RetrainDecision:
    """Weigh triggers against obstacles; asking by hand passes over cool-down and budget only."""
    triggers = [
        *_drift(settings, situation),
        *_performance(settings, situation),
        *_age(settings, situation),
    ]
    if situation.manual is not None:
        triggers.append(f"asked for by hand: {situation.manual}")
    obstacles: list[str] = []
    notes: list[str] = []
    waits = _waits(settings, situation)
    (notes if situation.manual is not None else obstacles).extend(waits)
    if situation.usable < settings.min_new_rows:
        obstacles.append(
            f"{situation.usable} usable new rows, at least {settings.min_new_rows} are needed"
        )
    return RetrainDecision(tuple(triggers), tuple(obstacles), tuple(notes))


def _drift(settings: RetrainSettings, situation: Situation) -> list[str]:
    windows = situation.verdicts[: settings.psi_windows]
    if len(windows) < settings.psi_windows:
        return []
    found = []
    for column in sorted(situation.important):
        values = [_psi(window, column) for window in windows]
        known = [value for value in values if value is not None]
        if len(known) == len(windows) and min(known) >= settings.psi:
            shown = ", ".join(f"{value:.2f}" for value in known)
            found.append(f"{column} drifted in {len(windows)} windows in a row (PSI {shown})")
    return found


def _psi(verdict: Mapping[str, Any], column: str) -> float | None:
    for entry in verdict.get("drift") or ():
        if entry.get("name") == column and isinstance(entry.get("psi"), (int, float)):
            return float(entry["psi"])
    return None


def _performance(settings: RetrainSettings, situation: Situation) -> list[str]:
    windows = situation.verdicts[: settings.performance_windows]
    if not settings.performance or len(windows) < settings.performance_windows:
        return []
    broken = [
        {
            str(finding.get("subject")): str(finding.get("reason", ""))
            for finding in window.get("findings") or ()
            if finding.get("check") == "performance" and finding.get("level") == "alert"
        }
        for window in windows
    ]
    always = set(broken[0]).intersection(*broken[1:])
    return [
        f"{subject} broke its rule in {len(windows)} windows in a row: {broken[0][subject]}"
        for subject in sorted(always)
    ]


def _age(settings: RetrainSettings, situation: Situation) -> list[str]:
    found = []
    if settings.schedule_days > 0 and situation.champion_since is not None:
        days = (situation.now - situation.champion_since) / _DAY
        if days >= settings.schedule_days:
            found.append(f"the champion is {days:.1f} days old (every {settings.schedule_days:g})")
    if 0 < settings.new_outcomes <= situation.usable:
        found.append(f"{situation.usable} new outcomes (every {settings.new_outcomes})")
    return found


def _waits(settings: RetrainSettings, situation: Situation) -> list[str]:
    found = []
    past = [time for time in situation.attempts if time <= situation.now]
    if past:
        hours = (situation.now - past[0]) / _HOUR
        if hours < settings.cooldown_hours:
            found.append(
                f"the last attempt was {hours:.1f} hours ago (cool-down "
                f"{settings.cooldown_hours:g} hours)"
            )
    since = situation.now - settings.budget_days * _DAY
    used = sum(time >= since for time in past)
    if used >= settings.budget:
        found.append(f"{used} attempts in {settings.budget_days:g} days (budget {settings.budget})")
    return found
