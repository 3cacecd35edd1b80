"""Rows that the service refused: no verdict on the answered ones is whole without them."""

from __future__ import annotations

from tasador.monitoring.performance import share_interval
from tasador.monitoring.rules import Rules
from tasador.monitoring.verdict import Finding, Level, Number
from tasador.records.refused import RefusedCounts

_NAMED = 3


def judge_refused(counts: RefusedCounts, valued: int, rules: Rules) -> Finding:
    """Judge the share of refused rows among all that were sent.

    Args:
        counts: What was refused in the window.
        valued: Rows that were valued in it.
        rules: The limits.
    """
    sent = counts.refused + counts.withheld + valued
    if not counts.refused:
        return Finding("refused", "rows", "ok", "no row was refused", {"share": 0.0, "rows": 0})
    share = counts.refused / sent
    low, _ = share_interval(share, sent)
    level: Level = "ok"
    if share > rules.refused_warn:
        level = "alert" if low > rules.refused_alert else "warn"
    most = "; ".join(
        f"{name}: {cause.replace('_', ' ')}{_example(counts, name, cause)} ({number:,})"
        for (name, cause), number in list(counts.causes.items())[:_NAMED]
    )
    text = f"{share:.2%} of the rows were refused ({counts.refused:,} of {sent:,}), most by {most}"
    if counts.withheld:
        text += f"; {counts.withheld:,} right ones of the same requests were not valued either"
    numbers: dict[str, Number] = {"share": share, "rows": counts.refused, "sent": sent}
    numbers["limit"] = rules.refused_alert
    numbers |= {f"{name} {cause}": number for (name, cause), number in counts.causes.items()}
    return Finding("refused", "rows", level, text, numbers)


def _example(counts: RefusedCounts, name: str, cause: str) -> str:
    found = counts.examples.get((name, cause), "")
    return f" {found}" if found and cause != "missing" else ""
