"""Promote a version: through the gates, then the alias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tasador.core.errors import BundleError, ConfigError, GateError
from tasador.lifecycle.actions import promotion
from tasador.lifecycle.alias_updates import ALIASES, CHALLENGER, Carried
from tasador.lifecycle.api import Lifecycle
from tasador.lifecycle.gates.evaluate import Judged, judge_version
from tasador.lifecycle.promotion_log import Operation, new_operation_id
from tasador.registry.stores.versions import (
    CHAMPION,
    REASON_TAG,
    REJECTED,
    ROLLED_BACK,
    ModelVersion,
    find_version,
)
from tasador.settings.run import GateSettings

#: A challenger gets some of the traffic: whether it is better is what that is to show.
SAFETY = frozenset(
    {"hash and parity", "contract compatible", "real only over real", "bundle size", "latency"}
)
Tell = Callable[[Judged], None]


@dataclass(frozen=True)
class Wish:
    """What somebody wants.

    Attributes:
        version: A number, alias or bundle's version.
        alias: The place it shall have.
        reason: Why.
        force: Although a gate refuses.
        gates: Which are asked for: the place's ``usual`` ones, ``all``, those of ``safety``, or
            for the ``first`` real model those that need no predecessor.
    """

    version: str
    alias: str = CHAMPION
    reason: str = ""
    force: bool = False
    gates: Literal["usual", "all", "safety", "first"] = "usual"


def promote(
    lifecycle: Lifecycle,
    wish: Wish,
    *,
    settings: GateSettings | None = None,
    tell: Tell = lambda _: None,
) -> Carried:
    """Let an alias stand for a version that passes the gates.

    ``champion`` asks for all gates, ``challenger`` for those that keep clients safe, ``staging``
    for none. Force passes any gate, but what is damaged is never promoted. A version that has the
    alias already is left as it is, and nothing is judged or noted.

    Args:
        lifecycle: The model's.
        wish: What is wanted.
        settings: How strict the gates are.
        tell: Called with the gates' results before anything is changed.

    Raises:
        GateError: A gate refuses or cannot tell; noted in the history.
        BundleError: The version's bundle is damaged; noted in the history.
        ConfigError: No such version or alias, it was rejected, or force without a reason.
        RegistryError: See `lifecycle.alias_updates.carry_out`.
    """
    if wish.force and not wish.reason.strip():
        raise ConfigError("--force needs a reason", remedy='add --reason "..."; it is recorded')
    versions, who = lifecycle.versions, lifecycle.place.who
    version = find_version(versions, wish.version)
    if version.status in (REJECTED, ROLLED_BACK) and not wish.force:
        raise ConfigError(
            f"version {version.number} is {version.status}",
            got=version.tags.get(REASON_TAG) or None,
            remedy="take another version, or --force --reason TEXT, which is recorded",
        )
    present = versions.aliases().get(CHAMPION, "")
    details: dict[str, object] = {"forced": wish.force}
    if wish.alias not in ALIASES:
        raise ConfigError(
            f"{wish.alias!r} is no place for a version", expected=f"one of {', '.join(ALIASES)}"
        )
    if version.number == versions.aliases().get(wish.alias):
        same = Operation(
            "", "promote", version.number, present, present, (), who, "", {"alias": wish.alias}
        )
        return Carried(same, (), changed=False)
    if wish.alias in (CHAMPION, CHALLENGER):
        judged = _judged(lifecycle, version, present, wish, settings)
        tell(judged)
        details |= judged.details()
        safe = wish.gates == "safety" or (wish.alias == CHALLENGER and wish.gates == "usual")
        asked = SAFETY if safe else None
        bad = [
            gate for gate in judged.report.gates
            if gate.state != "pass" and (asked is None or gate.name in asked)
        ]  # fmt: skip
        if bad and not wish.force:
            _note_refusal(lifecycle, version, present, wish, judged.report.summary, details)
            raise GateError(
                f"version {version.number} is not promoted to {wish.alias}",
                got="; ".join(f"{gate.name}: {gate.state}, {gate.text}" for gate in bad),
                remedy="train a better one, or --force --reason TEXT, which is recorded",
            )
    plan = promotion(
        versions, version, wish.alias, actor=who, reason=wish.reason, expected=present,
        details=details,
    )  # fmt: skip
    # what was judged has just been loaded, and its signature checked
    return lifecycle.change(plan, checked=wish.alias in (CHAMPION, CHALLENGER))


def _judged(
    lifecycle: Lifecycle,
    version: ModelVersion,
    present: str,
    wish: Wish,
    settings: GateSettings | None,
) -> Judged:
    known = {one.number: one for one in lifecycle.versions.all()}
    try:
        against = None if wish.gates == "first" else known.get(present)
        return judge_version(lifecycle, version, against, settings)
    except BundleError as error:
        _note_refusal(lifecycle, version, present, wish, str(error), {})
        raise


def _note_refusal(
    lifecycle: Lifecycle,
    version: ModelVersion,
    present: str,
    wish: Wish,
    note: str,
    details: dict[str, object],
) -> None:
    operation = Operation(
        new_operation_id(), "promote", version.number, present, present, (),
        lifecycle.place.who, wish.reason, {"alias": wish.alias, **details},
    )  # fmt: skip
    lifecycle.ledger.note(operation, "refused", note)
