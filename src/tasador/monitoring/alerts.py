"""Alerts: verdicts become states that do not flap, and changes of state become notifications.

Each rule looks at the findings of some checks. Per subject (a column, a metric, a segment) its
alert goes ``ok -> pending -> firing -> ok``::

    ok       a bad finding counts one                     -> pending (or firing, when after = 1)
    pending  `after` bad windows in a row                 -> firing, a notification goes out
             a good one                                   -> ok, no notification
    firing   `clear_after` good windows in a row          -> ok, a notification says so
             every `repeat_s` while nobody acknowledged   -> a reminder

Good is a finding of level ok. One in between (a warning, where the rule fires at alert) and one
that cannot tell neither raise nor clear: that is the hysteresis. States are kept in the database
together with the notices still to be sent, so that a watcher that dies in between sends them when
it comes back, rather than never.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tasador.core import clock
from tasador.core.errors import ConfigError
from tasador.core.hashing import to_plain
from tasador.monitoring.verdict import LEVELS, Finding, Level, Verdict
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.records.record import new_id
from tasador.records.shared_state import AlertState, AlertStates

Severity = Literal["page", "ticket", "info"]
Event = Literal["firing", "resolved", "reminder"]

_ACTOR = "watch"
#: How often a change is tried again when somebody else changed the same alert meanwhile.
_TRIES = 20


@dataclass(frozen=True)
class AlertRule:
    """What becomes an alert.

    Attributes:
        name: Of the rule; letters, digits, ``-`` and ``_``.
        checks: Checks whose findings it looks at, see `Finding.check`; empty for all.
        subjects: Patterns of subjects, e.g. ``median_*``.
        level: Least level that is bad.
        after: Bad windows in a row until it fires.
        clear_after: Good windows in a row until it is over.
        severity: How urgent it is.
        routes: Names of the routes that its notices take; empty for every one there is.
        repeat_s: Seconds between reminders while it fires and nobody acknowledged it; 0 for none.
    """

    name: str
    checks: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ("*",)
    level: Level = "alert"
    after: int = 2
    clear_after: int = 2
    severity: Severity = "ticket"
    routes: tuple[str, ...] = ()
    repeat_s: float = 86_400.0

    def __post_init__(self) -> None:
        if self.level not in LEVELS[1:] or self.after < 1 or self.clear_after < 1:
            raise ConfigError(
                f"the alert rule {self.name!r} is invalid",
                expected="level warn, alert or cannot_tell, after >= 1, clear_after >= 1",
                got=f"level {self.level}, after {self.after}, clear_after {self.clear_after}",
            )

    def matches(self, finding: Finding) -> bool:
        """Tell whether the rule looks at `finding`."""
        return (not self.checks or finding.check in self.checks) and any(
            fnmatch.fnmatchcase(finding.subject, pattern) for pattern in self.subjects
        )

    def is_bad(self, finding: Finding) -> bool | None:
        """Tell whether `finding` is bad (True), good (False) or neither (None)."""
        if self.level == "cannot_tell":
            return finding.level == "cannot_tell"
        if finding.level == "cannot_tell":
            return None
        if LEVELS.index(finding.level) >= LEVELS.index(self.level):
            return True
        return False if finding.level == "ok" else None


DEFAULT_RULES = (
    AlertRule("performance", ("performance",), severity="page"),
    AlertRule("answers", ("prediction", "failures"), severity="page"),
    AlertRule("drift", ("drift", "together", "label")),
    AlertRule("concept", ("concept", "estimate")),
    AlertRule("quality", ("quality",)),
    AlertRule("refused", ("refused",)),
    AlertRule("latency", ("latency",)),
    AlertRule("blind", ("input",), level="cannot_tell", after=3, severity="info", routes=("log",)),
)


@dataclass(frozen=True)
class Notification:
    """A message about an alert.

    Attributes:
        id: Its name; receivers recognise a repetition by it.
        event: ``firing``, ``resolved`` or ``reminder``.
        key: Of the alert.
        model: The model it is about.
        rule: Its rule.
        severity: How urgent it is.
        check: See `Finding`.
        subject: See `Finding`.
        reason: See `Finding`.
        since: Since when it fires, seconds since the epoch.
        time: Of the notice.
        numbers: See `Finding`.
    """

    id: str
    event: Event
    key: str
    model: str
    rule: str
    severity: str
    check: str
    subject: str
    reason: str
    since: float
    time: float
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """One line for people."""
        word = {"firing": "ALERT", "resolved": "resolved", "reminder": "still firing"}[self.event]
        return f"[{word}] {self.model}: {self.rule} {self.subject}"

    def to_dict(self) -> dict[str, Any]:
        """Return the notice as plain JSON types."""
        plain: dict[str, Any] = to_plain(self)
        return {**plain, "title": self.title}


class AlertBook:
    """The alerts of all models in one database.

    Args:
        database: Where they are kept, with the audit trail.
        rules: What becomes an alert.
        routes: Names of all routes, for the rules that name none.
    """

    def __init__(
        self,
        database: Database,
        rules: Sequence[AlertRule] = DEFAULT_RULES,
        routes: Iterable[str] = ("log",),
    ) -> None:
        self._states = AlertStates(database)
        self._audit = AuditTrail(database)
        every = tuple(routes)
        self._rules = {rule.name: replace(rule, routes=rule.routes or every) for rule in rules}
        if len(self._rules) != len(rules):
            raise ConfigError("two alert rules have the same name", got=_names(rules))

    def observe(self, model: str, verdict: Verdict) -> list[AlertState]:
        """Take a verdict in and return the alerts that changed their state.

        What a verdict says nothing about stays as it is.
        """
        changed = []
        for rule in self._rules.values():
            for finding in _worst_by_subject(f for f in verdict.findings if rule.matches(f)):
                state = self._step(model, rule, finding)
                if state is not None:
                    changed.append(state)
        return changed

    def _step(self, model: str, rule: AlertRule, finding: Finding) -> AlertState | None:
        key = f"{model}/{rule.name}/{finding.check}:{finding.subject}"
        for _ in range(_TRIES):
            now = clock.seconds()
            before = self._states.get(key) or _fresh(key, now)
            bad = rule.is_bad(finding)
            # no row in the database for each of hundreds of columns that are fine
            if before.version == 0 and bad is not True:
                return None  # most subjects are never bad: they leave no trace
            after = _next(before, rule, finding, bad, model, now)
            kept = self._states.put(after)
            if kept is None:
                continue
            if kept.state != before.state:
                self._note(before.state, kept, finding.reason)
                return kept
            return None
        return None

    def _note(self, before: str, after: AlertState, reason: str) -> None:
        if {before, after.state} <= {"ok", "pending"}:
            return  # no notification went out
        self._audit.add(
            _ACTOR, "alert", after.key, from_value=before, to_value=after.state, reason=reason
        )

    def all(self) -> list[AlertState]:
        """Return every alert, by key."""
        return self._states.all()

    def outbox(self) -> Iterator[tuple[AlertState, str, Notification]]:
        """Give the notices that are still to be sent: the alert, the route, the notice."""
        for state in self._states.all():
            for entry in state.body.get("outbox", []):
                yield state, entry["route"], Notification(**entry["notice"])

    def sent(self, key: str, route: str, notice_id: str) -> None:
        """Note that a notice has gone out on a route."""

        def without(body: dict[str, Any]) -> dict[str, Any]:
            rest = [
                entry
                for entry in body.get("outbox", [])
                if (entry["route"], entry["notice"]["id"]) != (route, notice_id)
            ]
            return {**body, "outbox": rest}

        self._change(key, without)

    def acknowledge(self, pattern: str, who: str, reason: str = "") -> list[str]:
        """Stop the reminders of the firing alerts whose key matches; returns their keys."""
        keys = [s.key for s in self._matching(pattern) if s.state == "firing"]
        for key in keys:
            self._change(key, lambda body: {**body, "acknowledged_by": who})
            self._audit.add(who, "acknowledge", key, reason=reason)
        return keys

    def silence(self, pattern: str, seconds: float, who: str, reason: str) -> list[str]:
        """Send nothing about alerts whose key matches for a time; 0 ends a silence.

        States go on changing. Alerts that do not exist yet are not silenced.
        """
        until = clock.seconds() + seconds if seconds > 0 else 0.0
        keys = [state.key for state in self._matching(pattern)]
        for key in keys:
            # the outbox is emptied: a silence is asked for because the messages are not wanted
            self._change(key, lambda body: {**body, "silent_until": until, "outbox": []})
            action = "silence" if seconds > 0 else "unsilence"
            self._audit.add(who, action, key, reason=reason)
        return keys

    def _matching(self, pattern: str) -> list[AlertState]:
        return [s for s in self._states.all() if fnmatch.fnmatchcase(s.key, pattern)]

    def _change(self, key: str, change: Any) -> None:
        for _ in range(_TRIES):
            state = self._states.get(key)
            if state is None or self._states.put(replace(state, body=change(state.body))):
                return


def _names(rules: Sequence[AlertRule]) -> str:
    return ", ".join(rule.name for rule in rules)


def _worst_by_subject(findings: Iterable[Finding]) -> list[Finding]:
    found: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.check, finding.subject)
        known = found.get(key)
        if known is None or LEVELS.index(finding.level) > LEVELS.index(known.level):
            found[key] = finding
    return list(found.values())


def _fresh(key: str, now: float) -> AlertState:
    return AlertState(key, "ok", now, now, {"bad": 0, "good": 0, "outbox": []})


def _next(
    before: AlertState, rule: AlertRule, finding: Finding, bad: bool | None, model: str, now: float
) -> AlertState:
    """Return where an alert stands after one more finding."""
    body = dict(before.body)
    if bad is not None:
        body["bad"] = body.get("bad", 0) + 1 if bad else 0
        # undecided findings count neither way: they keep both streaks
        body["good"] = 0 if bad else body.get("good", 0) + 1
    body |= {"reason": finding.reason, "level": finding.level, "severity": rule.severity}
    state = before.state
    event: Event | None = None
    if state != "firing" and bad:
        state = "firing" if body["bad"] >= rule.after else "pending"
        event = "firing" if state == "firing" else None
    elif state == "pending" and bad is False:
        state = "ok"
    elif state == "firing" and bad is False and body["good"] >= rule.clear_after:
        state, event = "ok", "resolved"
    elif state == "firing" and _is_due(body, rule, now):
        event = "reminder"
    since = now if state != before.state else before.since
    if event is not None:
        began = before.since if before.state == "firing" else since
        notice = Notification(
            new_id(), event, before.key, model, rule.name, rule.severity, finding.check,
            finding.subject, finding.reason, began, now, dict(finding.numbers),
        )  # fmt: skip
        body = _queued(body, rule, notice, now)
    if state == "ok":
        # the next time it fires it has to be acknowledged again
        body.pop("acknowledged_by", None)
    return replace(before, state=state, since=since, time=now, body=body)


def _is_due(body: dict[str, Any], rule: AlertRule, now: float) -> bool:
    notified = body.get("notified", 0.0)
    return rule.repeat_s > 0 and "acknowledged_by" not in body and now - notified >= rule.repeat_s


def _queued(
    body: dict[str, Any], rule: AlertRule, notice: Notification, now: float
) -> dict[str, Any]:
    if body.get("silent_until", 0.0) > now:
        return {**body, "notified": now}
    waiting = [{"route": route, "notice": asdict(notice)} for route in rule.routes]
    return {**body, "notified": now, "outbox": [*body.get("outbox", []), *waiting]}
