"""Changing aliases and tags so that nothing stays half done; `Ledger`, the log of these changes.

The registry's alias decides what is served. The ledger, in the database, says what tasador meant.
Order: intent into the database, the deciding write into the registry, its other writes, result
into the database. Whatever dies between two of these leaves a pending intent. The next command
asks the registry whether the deciding write was made: if so the rest is finished, if not the
intent is given up. Both are what the audit trail then says.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tasador.core.errors import RegistryError, StorageError
from tasador.lifecycle.errors import AliasUpdateError, NotAllowedError, ResultNotNotedError
from tasador.records.audit_log import AuditEntry, AuditTrail
from tasador.records.database import Database
from tasador.records.record import new_id
from tasador.records.shared_state import Lease, Leases, SharedState
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

#: Longer than the slowest single answer of a registry, shorter than anybody's patience.
LEASE_S = 30.0
_KEPT = 50


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
        writes: What is changed in the registry. The first one decides: once it is made the
            operation has happened.
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

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Operation:
        """Read what `asdict` made."""
        return cls(**{**plain, "writes": tuple(Write(**write) for write in plain["writes"])})


@dataclass(frozen=True)
class Standing:
    """Where a model stands.

    Attributes:
        champion: The champion's number; empty for none.
        previous: Earlier champions, the latest last.
        pending: What was begun and not ended.
        seen: Version of the database's entry; changes name it.
    """

    champion: str = ""
    previous: tuple[str, ...] = ()
    pending: Operation | None = None
    seen: int = 0

    def moved(self, champion: str, *, back: bool = False) -> Standing:
        """Return the standing with another champion; `back` takes it from the earlier ones."""
        if champion == self.champion:
            return self
        if back and champion in self.previous:
            place = len(self.previous) - 1 - self.previous[::-1].index(champion)
            return replace(self, champion=champion, previous=self.previous[:place])
        before = (*self.previous, self.champion) if self.champion else self.previous
        return replace(self, champion=champion, previous=before[-_KEPT:])


class Ledger:
    """The ledger of one model.

    Args:
        database: Where records, state and audit trail are.
        model: The registered model's name.
    """

    def __init__(self, database: Database, model: str) -> None:
        self.model = model
        self.database = database
        self.audit = AuditTrail(database)
        self._state = SharedState(database)
        self._leases = Leases(database)
        self._key = f"lifecycle/{model}"

    def standing(self) -> Standing:
        """Return where the model stands now."""
        entry = self._state.get(self._key)
        if entry.value is None:
            return Standing()
        pending = entry.value["pending"]
        return Standing(
            champion=entry.value["champion"],
            previous=tuple(entry.value["previous"]),
            pending=None if pending is None else Operation.from_plain(pending),
            seen=entry.version,
        )

    @contextmanager
    def lease(self, actor: str) -> Iterator[Lease]:
        """Be the only one who changes this model while the body runs.

        Raises:
            RegistryError: Somebody else is at it; says who.
        """
        lease = self._leases.acquire(self._key, _holder(actor), LEASE_S)
        if lease is None:
            other = self._leases.holder(self._key) or "somebody"
            raise AliasUpdateError.being_changed(self.model, other, LEASE_S)
        try:
            yield lease
        finally:
            self._leases.release(lease)

    @contextmanager
    def busy(self, work: str, actor: str) -> Iterator[None]:
        """Be the only one at some long work on this model; the lease is renewed by a thread.

        Raises:
            RegistryError: Somebody else is at it; says who.
        """
        name = f"{work}/{self.model}"
        lease = self._leases.acquire(name, _holder(actor), LEASE_S)
        if lease is None:
            other = self._leases.holder(name) or "somebody"
            raise AliasUpdateError(f"{work} of {self.model} is under way: {other}")
        ended = threading.Event()

        # no lease is as long as a training and ends soon after one that died
        def keep() -> None:
            while not ended.wait(LEASE_S / 3):
                with suppress(StorageError):  # an outage may pass before the lease ends
                    self._leases.renew(lease, LEASE_S)

        thread = threading.Thread(target=keep, name=f"lease of {work}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(StorageError):
                self._leases.release(lease)

    def renew(self, lease: Lease) -> None:
        """Hold the lease for another while; what is done meanwhile must be shorter than that.

        Raises:
            RegistryError: It changed hands.
        """
        if self._leases.renew(lease, LEASE_S) is None:
            raise AliasUpdateError.overtaken(self.model)

    def begin(self, lease: Lease, standing: Standing, operation: Operation) -> Standing:
        """Note the intent, in the state and in the audit trail at once."""
        return self._write(lease, replace(standing, pending=operation), operation, "intent")

    def end(
        self, lease: Lease, standing: Standing, operation: Operation, phase: str, note: str = ""
    ) -> Standing:
        """Note the result: ``done``, ``repaired``, ``abandoned``, ``failed`` or ``seen``."""
        # an operation that failed or was given up has moved nothing
        after = replace(standing, pending=None)
        if phase in ("done", "repaired", "seen"):
            if operation.details.get("deleted"):
                after = replace(after, champion=operation.after)  # nothing to go back to
            else:
                after = after.moved(operation.after, back=operation.action == "rollback")
        return self._write(lease, after, operation, phase, note)

    def note(self, operation: Operation, phase: str, note: str = "") -> AuditEntry:
        """Write to the audit trail alone: for what was refused, or changes no version."""
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

    def _write(
        self, lease: Lease, new: Standing, operation: Operation, phase: str, note: str = ""
    ) -> Standing:
        value = {
            "champion": new.champion,
            "previous": list(new.previous),
            "pending": None if new.pending is None else asdict(new.pending),
        }
        # one transaction: the state and its entry in the history cannot come apart
        with self.database.transaction():
            if not self._leases.holds(lease):
                raise AliasUpdateError.overtaken(self.model)
            entry = self._state.put(self._key, value, new.seen)
            if entry is None:
                raise AliasUpdateError.overtaken(self.model)
            self.note(operation, phase, note)
        return replace(new, seen=entry.version)


def _holder(actor: str) -> str:
    return f"{actor} (process {os.getpid()} on {socket.gethostname()})"


def new_operation_id() -> str:
    """Return a name for an operation; later ones are greater."""
    return new_id()


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
        # planning may have asked the registry for long: from here on the lease must hold
        ledger.renew(lease)
        standing = ledger.begin(lease, standing, operation)
        _decide(versions, ledger, lease, standing, operation)
        try:
            _finish(versions, ledger, lease, operation)
        except RegistryError as error:
            raise AliasUpdateError.unfinished(operation.shown, error) from error
        try:
            ledger.end(lease, standing, operation, "done")
        except StorageError as error:
            raise ResultNotNotedError.of(operation.shown, error) from error
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
        notes.append(f"{operation.shown}: {note}")
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
            # an answer may be lost after the change was made
            if in_force(versions, operation.writes[0]):
                return
        except RegistryError:
            raise AliasUpdateError.undecided(operation.shown, error) from error
        ledger.end(lease, standing, operation, "failed", str(error))
        raise AliasUpdateError.refused(operation.shown, error) from error


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
            raise NotAllowedError.is_champion(version.number)
        held = [name for name, number in versions.aliases().items() if number == version.number]
        # the tag first, since the first write decides: what is rejected is not promoted again,
        # whatever alias it still has
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
