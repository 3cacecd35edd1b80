"""`RetrainDecision`: whether to train again, why, and what speaks against it.

A pure function of settings and situation, so that `--dry-run` says exactly what would happen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tasador.settings.run import RetrainSettings

#: Exit codes of `tasador retrain`: nothing asks for a training; one is asked for and cannot be.
NO_TRIGGER, CONDITION_NOT_MET = 14, 15
_HOUR, _DAY = 3600.0, 86_400.0


@dataclass(frozen=True)
class HeldOut:
    """The rows on which the gates would compare the new model with the champion.

    Attributes:
        rows: Rows that would be held out of the new training table.
        unseen: How many of them the champion was not trained on either.
        share: Share of new rows that is held out, so that more can be asked for.
        least: Fewest rows that each gate needs, by the gate's name.
        problem: Why they cannot be counted; empty when they can.
    """

    rows: int = 0
    unseen: int = 0
    share: float = 0.2
    least: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Situation:
    """What is known when the decision is made.

    Attributes:
        now: Seconds since the epoch.
        verdicts: Bodies of the champion's verdicts on windows that do not overlap, newest first.
        important: The columns that matter.
        usable: New rows that may be trained on.
        champion_since: When the champion's present reign began; None when that is not known.
        attempts: When trainings began before, the newest first.
        manual: Why somebody asks for it; None when nobody does.
        minutes: Minutes of training in the budget's days.
        held_out: What the gates could be decided on; None before that was counted.
        aborted: When trainings began whose process died: for the budget, which ends a loop of
            them, and not for the cool-down.
    """

    now: float
    verdicts: Sequence[Mapping[str, Any]]
    important: frozenset[str]
    usable: int
    champion_since: float | None
    attempts: Sequence[float]
    manual: str | None = None
    minutes: float = 0.0
    held_out: HeldOut | None = None
    aborted: Sequence[float] = ()


@dataclass(frozen=True)
class Check:
    """One trigger or condition, and how far it is from being met.

    Attributes:
        kind: A ``trigger`` asks for a training; a ``condition`` must be met for it.
        name: What is looked at, e.g. ``drift of income``.
        met: Whether it is met.
        value: What it is now; None when there is nothing to compare.
        limit: From where on, or up to where, it is met; None when it is switched off.
        text: One sentence with both.
        lacks: What is missing; empty when it is met or switched off.
    """

    kind: Literal["trigger", "condition"]
    name: str
    met: bool
    value: float | None
    limit: float | None
    text: str
    lacks: str = ""


@dataclass(frozen=True)
class RetrainDecision:
    """What to do, and why.

    Attributes:
        triggers: What asks for it.
        obstacles: What speaks against it; with any the answer is no.
        notes: What was overruled by asking by hand.
        checks: Every trigger and condition with its value and limit.
    """

    triggers: tuple[str, ...]
    obstacles: tuple[str, ...]
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def retrain(self) -> bool:
        """Whether to train."""
        return bool(self.triggers) and not self.obstacles


def decide(settings: RetrainSettings, situation: Situation) -> RetrainDecision:
    """Weigh triggers against conditions; asking by hand overrules cool-down and budget only."""
    triggers = [
        *_drift(settings, situation),
        *_performance(settings, situation),
        *_age(settings, situation),
    ]
    if situation.manual is not None:
        text = f"asked for by hand: {situation.manual}"
        triggers.append(Check("trigger", "by hand", True, None, None, text))
    waits = [*_cooldown(settings, situation), *_budget(settings, situation)]
    # without these a training cannot succeed, whoever asks for it
    rows = [_usable(settings, situation), *_held_out(situation)]
    overruled = waits if situation.manual is not None else []
    required = rows if situation.manual is not None else [*waits, *rows]
    return RetrainDecision(
        tuple(one.text for one in triggers if one.met),
        tuple(one.text for one in required if not one.met),
        tuple(one.text for one in overruled if not one.met),
        (*triggers, *waits, *rows),
    )


def _drift(settings: RetrainSettings, situation: Situation) -> Iterator[Check]:
    needed = settings.psi_windows
    windows = situation.verdicts[:needed]
    for column in sorted(situation.important):
        values = [_psi(window, column) for window in windows]
        row = 0
        for value in values:
            # in a row: a window that could not be evaluated is no evidence of drift
            if value is None or value < settings.psi:
                break
            row += 1
        met = row >= needed
        shown = ", ".join("unknown" if value is None else f"{value:.2f}" for value in values)
        if met:
            text = f"{column} drifted in {needed} windows in a row (PSI {shown})"
        else:
            seen = (
                f"PSI {shown} in the newest windows" if windows else "no window was evaluated yet"
            )
            text = f"{column}: {seen}, drift from {settings.psi:g} in {needed} in a row"
        newest = values[0] if values else None
        lacks = "" if met else f"{needed - row} more in a row, none overlapping"
        yield Check("trigger", f"drift of {column}", met, newest, settings.psi, text, lacks)


def _psi(verdict: Mapping[str, Any], column: str) -> float | None:
    """Return a column's PSI; None where it was not evaluated, as with too few rows."""
    for entry in verdict.get("drift") or ():
        if entry.get("name") == column and isinstance(entry.get("psi"), (int, float)):
            return None if entry.get("level") == "cannot_tell" else float(entry["psi"])
    return None


def _performance(settings: RetrainSettings, situation: Situation) -> Iterator[Check]:
    needed = settings.performance_windows
    if not settings.performance:
        yield Check("trigger", "performance", False, None, None, "broken performance rules: off")
        return
    broken = [
        {
            str(finding.get("subject")): str(finding.get("reason", ""))
            for finding in window.get("findings") or ()
            if finding.get("check") == "performance" and finding.get("level") == "alert"
        }
        for window in situation.verdicts[:needed]
    ]
    newest = broken[0] if broken else {}
    for subject in sorted(newest):
        row = next((i for i, one in enumerate(broken) if subject not in one), len(broken))
        met = row >= needed
        said = f"in {needed} windows in a row" if met else f"in {row} of {needed} windows in a row"
        text = f"{subject} broke its rule {said}: {newest[subject]}"
        lacks = "" if met else f"{needed - row} more in a row, none overlapping"
        yield Check("trigger", f"performance: {subject}", met, row, needed, text, lacks)
    if not newest:
        text = "no performance rule is broken in the newest window"
        lacks = f"{needed} in a row, none overlapping"
        yield Check("trigger", "performance", False, 0.0, needed, text, lacks)


def _age(settings: RetrainSettings, situation: Situation) -> Iterator[Check]:
    limit, since = settings.schedule_days, situation.champion_since
    days = None if since is None else (situation.now - since) / _DAY
    if limit <= 0:
        yield Check("trigger", "age", False, days, None, "age of the champion: off")
    elif days is None:
        text = f"age of the champion: not known (every {limit:g} days)"
        yield Check("trigger", "age", False, None, limit, text, "the champion's promotion")
    else:
        text = f"the champion is {days:.1f} days old (every {limit:g})"
        lacks = "" if days >= limit else f"{limit - days:.1f} days"
        yield Check("trigger", "age", days >= limit, days, limit, text, lacks)
    most, usable = settings.new_outcomes, situation.usable
    if most <= 0:
        yield Check("trigger", "new outcomes", False, usable, None, "number of new outcomes: off")
    else:
        text = f"{usable} new outcomes (every {most})"
        lacks = "" if usable >= most else f"{most - usable} outcomes"
        yield Check("trigger", "new outcomes", usable >= most, usable, most, text, lacks)


def _cooldown(settings: RetrainSettings, situation: Situation) -> Iterator[Check]:
    limit = settings.cooldown_hours
    # a clock that was set back leaves attempts in the future: they must not block for ever
    past = [time for time in situation.attempts if time <= situation.now]
    if not past:
        text = f"no training before (cool-down {limit:g} hours)"
        yield Check("condition", "cool-down", True, None, limit, text)
        return
    hours = (situation.now - past[0]) / _HOUR
    text = f"the last attempt was {hours:.1f} hours ago (cool-down {limit:g} hours)"
    lacks = "" if hours >= limit else f"{limit - hours:.1f} hours"
    yield Check("condition", "cool-down", hours >= limit, hours, limit, text, lacks)


def _budget(settings: RetrainSettings, situation: Situation) -> Iterator[Check]:
    days = settings.budget_days
    since = situation.now - days * _DAY
    attempts = (*situation.attempts, *situation.aborted)
    used = sum(since <= time <= situation.now for time in attempts)
    text = f"{used} attempts in {days:g} days (budget {settings.budget})"
    lacks = "" if used < settings.budget else "an earlier one must be older than that"
    yield Check("condition", "budget", not lacks, used, settings.budget, text, lacks)
    if settings.budget_minutes > 0:
        limit, spent = settings.budget_minutes, situation.minutes
        text = f"{spent:.1f} minutes of training in {days:g} days (budget {limit:g})"
        lacks = "" if spent < limit else "earlier ones must be older than that"
        yield Check("condition", "budget of time", not lacks, spent, limit, text, lacks)


def _usable(settings: RetrainSettings, situation: Situation) -> Check:
    usable, least = situation.usable, settings.min_new_rows
    text = f"{usable} usable new rows, at least {least} are needed"
    lacks = "" if usable >= least else f"{least - usable} outcomes"
    return Check("condition", "new rows", usable >= least, usable, least, text, lacks)


def _held_out(situation: Situation) -> Iterator[Check]:
    """Ask before a training whether the gates could be decided after it."""
    found = situation.held_out
    if found is None:
        return
    if found.problem:
        text = f"the gates cannot be passed: {found.problem}"
        yield Check("condition", "rows for the gates", False, None, None, text, found.problem)
        return
    for least in sorted(set(found.least.values())):
        gates = ", ".join(name for name, rows in found.least.items() if rows == least)
        short = least - found.unseen
        text = (
            f"{found.unseen} of {found.rows} held-out rows are known to neither model, at least "
            f"{least} are needed by the gates: {gates}"
        )
        # of new rows only the held-out share helps the gates
        more = math.ceil(short / found.share)
        lacks = "" if short <= 0 else f"{short} rows, about {more} more outcomes of other rows"
        yield Check("condition", "rows for the gates", short <= 0, found.unseen, least, text, lacks)
