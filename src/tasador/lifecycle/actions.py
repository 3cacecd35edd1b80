"""What may be done to a version, and which changes in the registry that takes.

Plans only: `switch.carry_out` makes the changes. Each refuses by raising.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasador.core.errors import ConfigError, RegistryError
from tasador.lifecycle.alias_updates import CHALLENGER, Plan
from tasador.lifecycle.promotion_log import Operation, Standing, Write, new_operation_id
from tasador.registry.stores.versions import (
    CHAMPION,
    REASON_TAG,
    REJECTED,
    RETIRED,
    ROLLED_BACK,
    STATUS_TAG,
    ModelVersion,
    Versions,
)


def promotion(
    versions: Versions,
    version: ModelVersion,
    alias: str,
    *,
    actor: str,
    reason: str = "",
    expected: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Plan:
    """Point `alias` to `version`.

    Args:
        versions: The model's versions.
        version: The version.
        alias: ``champion``, ``challenger`` or ``staging``.
        actor: Who wants it.
        reason: Why.
        expected: The champion against which it was evaluated; empty for none, None when it was not.
        details: What is kept with it, e.g. the gates' results.
    """

    def plan(standing: Standing) -> Operation:
        aliases = versions.aliases()
        if aliases.get(alias) == version.number:
            raise ConfigError(f"version {version.number} is {alias} already")
        if expected is not None and standing.champion != expected:
            raise RegistryError(
                f"the champion changed from {expected or 'none'} to {standing.champion or 'none'} "
                f"while version {version.number} was compared with it",
                remedy="see tasador history; promote again to compare with the new champion",
            )
        writes = [Write("alias", alias, version.number)]
        after = standing.champion
        if alias == CHAMPION:
            after = version.number
            writes += [
                Write("alias", other, "")
                for other in (CHALLENGER,)
                if aliases.get(other) == version.number
            ]
            writes += _crowned(versions, standing.champion, version.number)
        elif version.status:
            writes += [Write("tag", STATUS_TAG, "", version.number)]
        return Operation(
            new_operation_id(), "promote", version.number, standing.champion, after,
            tuple(writes), actor, reason, {"alias": alias, **(details or {})},
        )  # fmt: skip

    return plan


def rejection(versions: Versions, version: ModelVersion, *, actor: str, reason: str) -> Plan:
    """Mark `version` as not to be used, and take its aliases away."""

    def plan(standing: Standing) -> Operation:
        if CHAMPION in version.aliases or standing.champion == version.number:
            raise ConfigError(
                f"version {version.number} is the champion",
                remedy="roll back first: tasador rollback",
            )
        held = [name for name, number in versions.aliases().items() if number == version.number]
        writes = [
            Write("tag", STATUS_TAG, REJECTED, version.number),
            *(Write("alias", name, "") for name in held),
            Write("tag", REASON_TAG, reason[:500], version.number),
        ]
        return Operation(
            new_operation_id(), "reject", version.number, standing.champion, standing.champion,
            tuple(writes), actor, reason,
        )  # fmt: skip

    return plan


def rollback(
    versions: Versions, *, to: ModelVersion | None = None, actor: str, reason: str
) -> Plan:
    """Return to the champion before the present one, or to the earlier champion `to`.

    The version left loses its other aliases too: nobody who follows one gets it.
    """

    def plan(standing: Standing) -> Operation:
        target = _earlier(versions, standing) if to is None else to.number
        if to is not None and target not in standing.previous:
            raise ConfigError(
                f"version {target} has not been champion",
                expected=f"one of {', '.join(dict.fromkeys(standing.previous)) or '(none)'}",
                remedy="let it pass the gates: tasador promote",
            )
        left = standing.champion
        writes = [Write("alias", CHAMPION, target)]
        known = {version.number for version in versions.all()}
        if left in known:
            writes += [
                Write("tag", STATUS_TAG, ROLLED_BACK, left),
                Write("tag", REASON_TAG, reason[:500], left),
                *(
                    Write("alias", name, "")
                    for name, number in versions.aliases().items()
                    if number == left and name != CHAMPION
                ),
            ]
        writes.append(Write("tag", STATUS_TAG, CHAMPION, target))
        return Operation(
            new_operation_id(), "rollback", target, left, target, tuple(writes), actor, reason
        )

    return plan


def _earlier(versions: Versions, standing: Standing) -> str:
    """Return the champion before; one that was deleted is named, not skipped."""
    if not standing.previous:
        raise ConfigError(
            f"{versions.name} has had no champion before version {standing.champion or 'none'}",
            remedy="promote another version: tasador promote",
        )
    target, known = standing.previous[-1], {version.number for version in versions.all()}
    if target not in known:
        left = [number for number in standing.previous[::-1] if number in known]
        raise RegistryError(
            f"the champion before was version {target}, which was deleted from the registry",
            remedy=f"go back further: tasador rollback --to {left[0]}"
            if left
            else "promote another version: tasador promote",
        )
    return target


def _crowned(versions: Versions, before: str, after: str) -> list[Write]:
    known = {version.number for version in versions.all()}
    writes = [Write("tag", STATUS_TAG, CHAMPION, after)]
    if before in known:
        writes.append(Write("tag", STATUS_TAG, RETIRED, before))
    return writes
