"""Changing aliases and tags so that nothing stays half done.

Order: intent into the database, the deciding write into the registry, its other writes, result
into the database. Whatever dies between two of these leaves a pending intent. The next command
asks the registry whether the deciding write was made: if so the rest is finished, if not the
intent is given up. Both are what the audit trail then says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tasador.core.errors import ConfigError, RegistryError, StorageError
from tasador.lifecycle.promotion_log import Ledger, Operation, Standing, Write, new_operation_id
from tasador.records.shared_state import Lease
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

CHALLENGER, STAGING = "challenger", "staging"
ALIASES = (STAGING, CHALLENGER, CHAMPION)

#: Makes the operation once the standing can no longer change; refuses by raising.
Plan = Callable[[Standing], Operation]


@dataclass(frozen=True)
class OperationResult:
    """What was done.

    Attributes:
        operation: The operation, as the audit trail has it.
        notes: What was found and put in order before it.
        changed: Whether anything was; the history does not have an operation that changed nothing.
    """

    operation: Operation
    notes: tuple[str, ...]
    changed: bool = True


def carry_out(versions: Versions, ledger: Ledger, actor: str, plan: Plan) -> OperationResult:
    """Do what `plan` says while nobody else can change this model.

    Raises:
        RegistryError: Somebody else is at it, or the registry cannot be reached; says whether
            anything has changed.
        StorageError: The database cannot be reached.
    """
    with ledger.lease(actor) as lease:
        standing, notes = settle(versions, ledger, lease)
        operation = plan(standing)
        ledger.renew(lease)
        standing = ledger.begin(lease, standing, operation)
        _decide(versions, ledger, lease, standing, operation)
        try:
            _finish(versions, ledger, lease, operation)
        except RegistryError as error:
            raise RegistryError(
                f"{operation.action} of version {operation.version} is in force, but the registry "
                f"failed before its tags and other aliases were set: {error.message}",
                got=error.got,
                remedy="the next command finishes it",
            ) from error
        try:
            ledger.end(lease, standing, operation, "done")
        except StorageError as error:
            raise StorageError(
                f"{operation.action} of version {operation.version} is in force, but its result "
                f"could not be noted: {error.message}",
                remedy="the next command notes it",
            ) from error
    return OperationResult(operation, notes)


def settle(versions: Versions, ledger: Ledger, lease: Lease) -> tuple[Standing, tuple[str, ...]]:
    """End what was left pending, and note what was changed without tasador.

    Returns:
        The standing, which now agrees with the registry, and what had to be done for it.
    """
    standing, notes = ledger.standing(), []
    if standing.pending is not None:
        operation = standing.pending
        if in_force(versions, operation.writes[0]):
            _finish(versions, ledger, lease, operation)
            phase, note = "repaired", "it died half way and was finished"
        else:
            phase, note = "abandoned", "it died before the registry was changed"
        standing = ledger.end(lease, standing, operation, phase, note)
        notes.append(f"{operation.action} of version {operation.version}: {note}")
    champion = versions.aliases().get(CHAMPION, "")
    if champion != standing.champion:
        known = {version.number for version in versions.all()}
        deleted = standing.champion not in known and standing.champion != ""
        reason = (
            f"version {standing.champion} was deleted from the registry"
            if deleted
            else f"the alias {CHAMPION!r} was moved by something other than tasador"
        )
        seen = Operation(
            new_operation_id(), "observe", champion, standing.champion, champion, (),
            "outside tasador", reason, {"deleted": deleted},
        )  # fmt: skip
        standing = ledger.end(lease, standing, seen, "seen")
        notes.append(f"champion {seen.before or 'none'} -> {seen.after or 'none'}: {reason}")
    return standing, tuple(notes)


def in_force(versions: Versions, write: Write) -> bool:
    """Tell whether the registry has this change."""
    if write.kind == "alias":
        return versions.aliases().get(write.name, "") == write.value
    return any(
        version.tags.get(write.name) == write.value
        for version in versions.all()
        if version.number == write.version
    )


def _decide(
    versions: Versions, ledger: Ledger, lease: Lease, standing: Standing, operation: Operation
) -> None:
    """Make the deciding write, and find out what became of it when that fails."""
    try:
        _make(versions, operation.writes[0])
        return
    except RegistryError as error:
        try:
            if in_force(versions, operation.writes[0]):
                return
        except RegistryError:
            raise RegistryError(
                f"the registry failed during {operation.action} of version {operation.version}; "
                "whether it took the change is not known",
                got=error.got or error.message,
                remedy="the next command finds out and finishes it or gives it up; "
                "servers go on with what they have",
            ) from error
        ledger.end(lease, standing, operation, "failed", str(error))
        raise RegistryError(
            f"the registry refused {operation.action} of version {operation.version}; nothing has "
            f"changed: {error.message}",
            got=error.got,
            remedy=error.remedy,
        ) from error


def _finish(versions: Versions, ledger: Ledger, lease: Lease, operation: Operation) -> None:
    """Make every write after the first, as long as nobody else took over."""
    for write in operation.writes[1:]:
        ledger.renew(lease)
        _make(versions, write)
    ledger.renew(lease)


def _make(versions: Versions, write: Write) -> None:
    if write.kind == "tag":
        versions.tag(write.version, write.name, write.value)
    elif write.value:
        versions.point(write.name, write.value)
    else:
        versions.drop(write.name)


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
