"""Changing a model's aliases, and the history of these changes.

The registry's alias is the commit point: once it is moved, the change has happened. A row of the
audit trail and the versions' status tags follow it. Whatever dies in between leaves an alias that
the audit trail does not know, or tags that do not fit it: the next change reads the aliases, notes
a champion that was moved without a row, and sets the tags that the aliases imply (`repair`).
That an alias moved this way lost who moved it and why is the price of having no log of intents.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tasador.core.errors import RegistryError, StorageError
from tasador.lifecycle.errors import AliasUpdateError, NotAllowedError, ResultNotNotedError
from tasador.records.audit_log import AuditEntry, AuditTrail
from tasador.records.database import Database
from tasador.records.record import new_id
from tasador.records.shared_state import Lease, Leases
from tasador.registry.versions import (
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
#: Longer than the slowest single answer of a registry, shorter than anybody's patience.
LEASE_S = 30.0
#: Actions that may move the champion, and the phases of those that did.
_MOVING = ("promote", "rollback", "observe")
IN_FORCE = frozenset({"done", "repaired", "seen"})


@dataclass(frozen=True)
class Write:
    """One change in the registry that may be made again without harm.

    Attributes:
        kind: ``alias`` or ``tag``.
        name: The alias, or the tag's key.
        value: The version's number the alias shall point to (empty: none), or the tag's value.
        version: The tagged version; empty for an alias.
    """

    kind: str
    name: str
    value: str
    version: str = ""


@dataclass(frozen=True)
class Operation:
    """Something done to a model's versions.

    Attributes:
        id: Its name in the audit trail.
        action: ``promote``, ``rollback``, ``reject``...
        version: The version it is about.
        before: The champion before it; empty for none.
        after: The champion after it.
        writes: What is changed in the registry, in this order.
        actor: Who.
        reason: Why.
        details: More, e.g. the gates' results; JSON's own types.
    """

    id: str
    action: str
    version: str
    before: str
    after: str
    writes: tuple[Write, ...]
    actor: str
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What it does, for messages."""
        return f"{self.action} of version {self.version}"

    @property
    def summary(self) -> dict[str, str]:
        """What it does, for programs."""
        return {name: getattr(self, name) for name in ("action", "version", "before", "after")}

    @property
    def deciding(self) -> int:
        """Place of the write that commits it: the alias that moves, else the first write."""
        moves = (n for n, one in enumerate(self.writes) if one.kind == "alias" and one.value)
        return next(moves, 0)


@dataclass(frozen=True)
class Standing:
    """Who is champion and who was, as the audit trail has it.

    Attributes:
        champion: The champion's number; empty for none.
        previous: Earlier champions, the latest last.
        noted: Whether the audit trail has any change of the champion.
    """

    champion: str = ""
    previous: tuple[str, ...] = ()
    noted: bool = False

    def after(self, entry: AuditEntry) -> Standing:
        """Return the standing after a change that the audit trail holds."""
        champion = entry.to_value
        if champion == self.champion:
            return self
        new = replace(self, champion=champion, noted=True)
        if entry.details.get("deleted"):
            return new  # nothing to go back to
        if entry.action == "rollback" and champion in self.previous:
            place = len(self.previous) - 1 - self.previous[::-1].index(champion)
            return replace(new, previous=self.previous[:place])
        before = (*self.previous, self.champion) if self.champion else self.previous
        return replace(new, previous=before)


class Ledger:
    """The history of one model, and the lease under which it is changed.

    Args:
        database: Where the audit trail and the leases are.
        model: The registered model's name.
    """

    def __init__(self, database: Database, model: str) -> None:
        self.model = model
        self.database = database
        self.audit = AuditTrail(database)
        self._leases = Leases(database)
        self._key = f"lifecycle/{model}"

    def standing(self) -> Standing:
        """Return where the model stands after every noted change."""
        read = self.audit.read
        entries = [one for action in _MOVING for one in read(subject=self.model, action=action)]
        standing = Standing()
        for entry in sorted(entries, key=lambda one: (one.time, one.id)):
            if entry.details.get("phase") in IN_FORCE:
                standing = standing.after(entry)
        return standing

    def unsettled(self, champion: str) -> list[str]:
        """Return what is under way or not yet noted, in words.

        Args:
            champion: The champion's number by the registry's alias; empty for none.
        """
        if other := self._leases.holder(self._key):
            return [f"{self.model} is being changed by {other}"]
        standing = self.standing()
        if standing.champion == champion or not standing.noted:
            return []
        return [
            "the champion was changed without tasador: "
            f"{standing.champion or 'none'} -> {champion or 'none'}; the next change notes it"
        ]

    @contextmanager
    def lease(self, actor: str) -> Iterator[Lease]:
        """Be the only one who changes this model while the body runs.

        Raises:
            RegistryError: Somebody else is at it; says who.
        """
        lease = self._leases.acquire(self._key, _holder(actor), LEASE_S)
        if lease is None:
            raise AliasUpdateError.being_changed(self.model, self._who(self._key), LEASE_S)
        try:
            yield lease
        finally:
            self._leases.release(lease)

    @contextmanager
    def busy(self, work: str, actor: str) -> Iterator[Callable[[], None]]:
        """Be the only one at some long work on this model; the lease is renewed by a thread.

        Gives a function to call before the work takes effect: it raises when somebody else took
        over, e.g. while this machine was suspended or the database's clock was set.

        Raises:
            RegistryError: Somebody else is at it; says who.
        """
        name = f"{work}/{self.model}"
        lease = self._leases.acquire(name, _holder(actor), LEASE_S)
        if lease is None:
            raise AliasUpdateError(f"{work} of {self.model} is under way: {self._who(name)}")
        ended = threading.Event()

        # no lease is as long as a training and ends soon after one that died
        def keep() -> None:
            while not ended.wait(LEASE_S / 3):
                with suppress(StorageError):  # an outage may pass before the lease ends
                    self._leases.renew(lease, LEASE_S)

        thread = threading.Thread(target=keep, name=f"lease of {work}", daemon=True)
        thread.start()

        def check() -> None:
            if not self._leases.holds(lease):
                raise AliasUpdateError.overtaken(self.model)

        try:
            yield check
        finally:
            ended.set()
            thread.join()
            with suppress(StorageError):
                self._leases.release(lease)

    def silent(self, work: str) -> float | None:
        """Return the seconds since somebody at some long work renewed the lease of `busy`.

        None when nobody is at it, unless one died: then they are more than `LEASE_S`.
        """
        found = self._leases.left(f"{work}/{self.model}")
        return None if found is None else LEASE_S - found[1]

    def _who(self, name: str) -> str:
        return self._leases.holder(name) or "somebody"

    def renew(self, lease: Lease) -> None:
        """Hold the lease for another while; what is done meanwhile must be shorter than that.

        Raises:
            RegistryError: It changed hands.
        """
        if self._leases.renew(lease, LEASE_S) is None:
            raise AliasUpdateError.overtaken(self.model)

    def record(self, lease: Lease, operation: Operation, phase: str, note: str = "") -> AuditEntry:
        """Note the result: ``done``, ``failed`` or ``seen``.

        Raises:
            RegistryError: The lease changed hands.
        """
        # one transaction: whoever took over has noted the alias as it found it
        with self.database.transaction():
            if not self._leases.holds(lease):
                raise AliasUpdateError.overtaken(self.model)
            return self.note(operation, phase, note)

    def note(self, operation: Operation, phase: str, note: str = "") -> AuditEntry:
        """Write to the audit trail without a lease: for what was refused, or changes no version."""
        return self.audit.add(
            operation.actor,
            operation.action,
            self.model,
            from_value=operation.before,
            to_value=operation.after,
            reason=operation.reason,
            details={
                "operation": operation.id,
                "phase": phase,
                "version": operation.version,
                "note": note,
                **operation.details,
            },
        )


def _holder(actor: str) -> str:
    return f"{actor} (process {os.getpid()} on {socket.gethostname()})"


def new_operation_id() -> str:
    """Return a name for an operation; later ones are greater."""
    return new_id()


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
        standing, notes = repair(versions, ledger, lease)
        operation = plan(standing)
        # planning may have asked the registry for long: from here on the lease must hold
        ledger.renew(lease)
        _commit(versions, ledger, lease, operation)
        try:
            ledger.record(lease, operation, "done")
        except StorageError as error:
            raise ResultNotNotedError.of(operation.shown, error) from error
        try:
            for write in operation.writes[operation.deciding + 1 :]:
                ledger.renew(lease)
                _make(versions, write)
        except RegistryError as error:
            raise AliasUpdateError.unfinished(operation.shown, error) from error
    return OperationResult(operation, notes)


def repair(versions: Versions, ledger: Ledger, lease: Lease) -> tuple[Standing, tuple[str, ...]]:
    """Bring the audit trail and the tags to what the aliases say.

    Returns:
        The standing, which now agrees with the registry, and what had to be done for it.
    """
    standing, aliases, listed = ledger.standing(), versions.aliases(), versions.all()
    champion, notes = aliases.get(CHAMPION, ""), []
    if champion != standing.champion:
        known = {version.number for version in listed}
        deleted = standing.champion not in known and standing.champion != ""
        reason = (
            f"version {standing.champion} was deleted from the registry"
            if deleted
            else f"the alias {CHAMPION!r} was moved by something other than tasador, or by a "
            "command that died before it could note it"
        )
        seen = Operation(
            new_operation_id(), "observe", champion, standing.champion, champion, (),
            "outside tasador", reason, {"deleted": deleted},
        )  # fmt: skip
        standing = standing.after(ledger.record(lease, seen, "seen"))
        notes.append(f"champion {seen.before or 'none'} -> {seen.after or 'none'}: {reason}")
    for write in _implied(aliases, listed):
        ledger.renew(lease)
        _make(versions, write)
    return standing, tuple(notes)


def _implied(aliases: Mapping[str, str], listed: Iterable[ModelVersion]) -> list[Write]:
    """Return the writes after which tags and other aliases agree with the champion's alias."""
    writes = []
    for version in listed:
        held = [name for name, number in aliases.items() if number == version.number]
        if CHAMPION in held:
            if version.status != CHAMPION:
                writes.append(Write("tag", STATUS_TAG, CHAMPION, version.number))
            writes += [Write("alias", name, "") for name in held if name == CHALLENGER]
        elif version.status == CHAMPION:
            writes.append(Write("tag", STATUS_TAG, RETIRED, version.number))
        elif version.status in (REJECTED, ROLLED_BACK):
            writes += [Write("alias", name, "") for name in held]
    return writes


def _in_force(versions: Versions, write: Write) -> bool:
    """Tell whether the registry has this change."""
    if write.kind == "alias":
        return versions.aliases().get(write.name, "") == write.value
    return any(
        version.tags.get(write.name) == write.value
        for version in versions.all()
        if version.number == write.version
    )


def _commit(versions: Versions, ledger: Ledger, lease: Lease, operation: Operation) -> None:
    """Make the deciding write, and find out what became of it when that fails."""
    try:
        for write in operation.writes[: operation.deciding + 1]:
            _make(versions, write)
        return
    except RegistryError as error:
        try:
            # an answer may be lost after the change was made
            if _in_force(versions, operation.writes[operation.deciding]):
                return
        except RegistryError:
            raise AliasUpdateError.undecided(operation.shown, error) from error
        ledger.record(lease, operation, "failed", str(error))
        with suppress(RegistryError):  # tags that were set ahead; else the next change does it
            for write in _implied(versions.aliases(), versions.all()):
                _make(versions, write)
        raise AliasUpdateError.refused(operation.shown, error) from error


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
            raise NotAllowedError(f"version {version.number} is {alias} already")
        if expected is not None and standing.champion != expected:
            now = standing.champion
            raise AliasUpdateError.champion_moved(version.number, expected, now)
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
        elif version.status not in ("", CHAMPION):
            # ahead of the alias: a version that is marked as not to be used keeps no alias
            writes.insert(0, Write("tag", STATUS_TAG, "", version.number))
        return Operation(
            new_operation_id(), "promote", version.number, standing.champion, after,
            tuple(writes), actor, reason, {"alias": alias, **(details or {})},
        )  # fmt: skip

    return plan


def rejection(versions: Versions, version: ModelVersion, *, actor: str, reason: str) -> Plan:
    """Mark `version` as not to be used, and take its aliases away."""

    def plan(standing: Standing) -> Operation:
        if CHAMPION in version.aliases or standing.champion == version.number:
            raise NotAllowedError.is_champion(version.number)
        held = [name for name, number in versions.aliases().items() if number == version.number]
        # the tag first: what is rejected is not promoted again, whatever alias it still has
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
            raise NotAllowedError.never_champion(target, standing.previous)
        left = standing.champion
        writes = [Write("alias", CHAMPION, target), Write("tag", STATUS_TAG, CHAMPION, target)]
        known = {version.number for version in versions.all()}
        if left in known:
            # ahead of the alias: from that alone nobody could tell a roll-back from a promotion
            writes.insert(0, Write("tag", STATUS_TAG, ROLLED_BACK, left))
            writes.append(Write("tag", REASON_TAG, reason[:500], left))
            writes += [
                Write("alias", name, "")
                for name, number in versions.aliases().items()
                if number == left and name != CHAMPION
            ]
        return Operation(
            new_operation_id(), "rollback", target, left, target, tuple(writes), actor, reason
        )

    return plan


def _earlier(versions: Versions, standing: Standing) -> str:
    """Return the champion before; one that was deleted is named, not skipped."""
    if not standing.previous:
        raise NotAllowedError.no_earlier(versions.name, standing.champion)
    target, known = standing.previous[-1], {version.number for version in versions.all()}
    if target not in known:
        left = [number for number in standing.previous[::-1] if number in known]
        raise AliasUpdateError.earlier_deleted(target, left)
    return target


def _crowned(versions: Versions, before: str, after: str) -> list[Write]:
    known = {version.number for version in versions.all()}
    writes = [Write("tag", STATUS_TAG, CHAMPION, after)]
    if before in known:
        writes.append(Write("tag", STATUS_TAG, RETIRED, before))
    return writes
