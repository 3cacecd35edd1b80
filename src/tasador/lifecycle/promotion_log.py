"""`Ledger`: which version is champion, which ones were, and what is under way, in the database.

The registry's alias decides what is served. The ledger says what tasador meant, so that a step
which died half way can be finished or given up, and so that history has no gaps: an intent is
written before the registry is touched, the result after.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tasador.core.errors import RegistryError, StorageError
from tasador.records.audit_log import AuditEntry, AuditTrail
from tasador.records.database import Database
from tasador.records.record import new_id
from tasador.records.shared_state import Lease, Leases, SharedState

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
            raise RegistryError(
                f"{self.model} is being changed by {other}",
                remedy=f"try again when that has ended; what died ends within {LEASE_S:.0f} s",
            )
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
            raise RegistryError(f"{work} of {self.model} is under way: {other}")
        ended = threading.Event()

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
            raise self._overtaken()

    def begin(self, lease: Lease, standing: Standing, operation: Operation) -> Standing:
        """Note the intent, in the state and in the audit trail at once."""
        return self._write(lease, replace(standing, pending=operation), operation, "intent")

    def end(
        self, lease: Lease, standing: Standing, operation: Operation, phase: str, note: str = ""
    ) -> Standing:
        """Note the result: ``done``, ``repaired``, ``abandoned``, ``failed`` or ``seen``."""
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
        with self.database.transaction():
            if not self._leases.holds(lease):
                raise self._overtaken()
            entry = self._state.put(self._key, value, new.seen)
            if entry is None:
                raise self._overtaken()
            self.note(operation, phase, note)
        return replace(new, seen=entry.version)

    def _overtaken(self) -> RegistryError:
        return RegistryError(
            f"somebody else took over {self.model} meanwhile, since this took too long",
            remedy="see tasador history, then try again",
        )


def _holder(actor: str) -> str:
    return f"{actor} (process {os.getpid()} on {socket.gethostname()})"


def new_operation_id() -> str:
    """Return a name for an operation; later ones are greater."""
    return new_id()
