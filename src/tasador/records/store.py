"""`RecordStore`: what every store of records can do, and the columns it hands out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tasador.data.target_check import TargetBounds
from tasador.records.record import Outcome, Record

OutcomeStatus = Literal["accepted", "repeated", "replaced", "conflict", "unknown", "invalid"]


@dataclass(frozen=True)
class RecordBatch:
    """Some records with the outcomes known so far, as columns of equal length.

    Attributes:
        id, version, variant, source, client: Arrays of texts (dtype object).
        time: Seconds since the epoch, UTC.
        features: Each row as it was asked, a JSON object in UTF-8.
        prediction, lower, upper, coverage, latency_ms: As in `Record`; NaN where there is none.
        actual: The outcome; NaN where none is known.
        outcome_time: When it became known, seconds since the epoch; NaN where none is known.
    """

    id: NDArray[np.object_]
    time: NDArray[np.float64]
    version: NDArray[np.object_]
    variant: NDArray[np.object_]
    source: NDArray[np.object_]
    features: list[bytes]
    prediction: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    coverage: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    client: NDArray[np.object_]
    actual: NDArray[np.float64]
    outcome_time: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[Any, ...]]) -> RecordBatch:
        """Build the columns from at least one row in the order of the fields."""
        made: list[Any] = []
        for name, column in zip(cls.__dataclass_fields__, zip(*rows, strict=True), strict=True):
            if name == "features":
                made.append(list(column))
            elif name in _TEXTS:
                texts = np.empty(len(column), dtype=object)
                texts[:] = column
                made.append(texts)
            else:
                made.append(np.array(column, dtype=np.float64))  # None becomes NaN
        return cls(*made)

    def of_model(self, name: str) -> RecordBatch:
        """Return the records without those that a bundle of another model than `name` answered."""
        owners = {version: _BUNDLE.fullmatch(str(version)) for version in set(self.version)}
        others = {version for version, own in owners.items() if own and own[1] != name}
        if not others:
            return self
        kept = np.flatnonzero([version not in others for version in self.version])
        columns: dict[str, Any] = {
            one: getattr(self, one)[kept] for one in self.__dataclass_fields__ if one != "features"
        }
        return RecordBatch(**columns, features=[self.features[i] for i in kept])


#: A bundle's version: the model's name and digits of the content hash.
_BUNDLE = re.compile(r"(.+)-[0-9a-f]{12}")
_TEXTS = frozenset({"id", "version", "variant", "source", "client"})


@dataclass(frozen=True)
class OutcomeAnswer:
    """What was done with one outcome.

    Attributes:
        prediction_id: As given.
        status: ``accepted``; ``repeated`` (known already, the same value); ``replaced`` (another
            value was known and was to be corrected); ``conflict`` (another value is known: that one
            stays, this one is kept apart, retraining uses neither); ``unknown`` (no record has this
            id, it is another client's, or it is still in a spool); ``invalid`` (no possible value
            of the target, or a time that has not come or is before the prediction).
        known: The value that was known before, for ``repeated``, ``replaced`` and ``conflict``.
        reason: What is wrong with an invalid one.
    """

    prediction_id: str
    status: OutcomeStatus
    known: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class VersionCounts:
    """How much is recorded of one version in one variant.

    Attributes:
        version: Name and content hash of the bundle.
        variant: Its part.
        records: Number of records.
        outcomes: How many of them have an outcome.
        first: Time of the oldest, seconds since the epoch.
        last: Time of the newest.
    """

    version: str
    variant: str
    records: int
    outcomes: int
    first: float
    last: float


class RecordStore(Protocol):
    """A store of records and outcomes; safe to share between threads.

    Every method raises `OutageError` when the store cannot be used and `RefusedError` when it does
    not take a value.
    """

    def append(self, records: Sequence[Record]) -> None:
        """Write records in one transaction; those whose id is known are passed over."""
        ...

    def add_outcomes(
        self,
        outcomes: Sequence[Outcome],
        targets: Mapping[str, TargetBounds] | None = None,
        *,
        own: bool = False,
        replace: Collection[str] = (),
    ) -> list[OutcomeAnswer]:
        """Write outcomes; one answer for each, in order. Giving them again changes nothing.

        What a service has said of its model's target (`targets.keep_target`) is checked; `targets`
        are bounds by model that are known besides.

        Args:
            outcomes: The outcomes.
            targets: Bounds by model.
            own: Whether an outcome counts only from the client that was given the prediction.
            replace: Predictions whose known outcome is to be corrected; the audit trail keeps it.
        """
        ...

    def read(
        self,
        since: float,
        until: float,
        *,
        version: str | None = None,
        variant: str | None = None,
        with_outcome: bool = False,
        batch: int = 10_000,
    ) -> Iterator[RecordBatch]:
        """Give the records of ``since <= time < until``, oldest first, `batch` at a time.

        Each batch is a query of its own: nothing is locked between them, and records written
        meanwhile appear when their time lies after what was read. `with_outcome` leaves out records
        without one.
        """
        ...

    def get(self, prediction_ids: Sequence[str]) -> dict[str, Record]:
        """Return the records of these ids; unknown ids are left out."""
        ...

    def count(
        self, since: float, until: float, *, version: str | None = None, variant: str | None = None
    ) -> int:
        """Return the number of records of ``since <= time < until``."""
        ...

    def count_outcomes(self, since: float, until: float) -> int:
        """Return the number of outcomes that became known in ``since <= time < until``."""
        ...

    def counts(self) -> list[VersionCounts]:
        """Return how much is recorded of each version and variant, the newest first."""
        ...

    def conflicts(self, since: float, until: float, limit: int = 1000) -> list[Outcome]:
        """Return outcomes given in ``since <= time < until`` that contradict a known one."""
        ...

    def prune(self, before: float, chunk: int = 2000) -> Iterator[int]:
        """Delete records older than `before` with their outcomes, `chunk` in each transaction.

        Gives the number deleted so far after each chunk; what is not drawn is not deleted.
        """
        ...

    def close(self) -> None:
        """Close the connection; the next use makes a new one."""
        ...


def open_store(url: str) -> RecordStore:
    """Return the store at `url`, connected, its tables up to date.

    Raises:
        ConfigError: The URL cannot be meant.
        OutageError: It cannot be reached.
    """
    from tasador.records.database import Database
    from tasador.records.sql_store import SqlRecordStore

    return SqlRecordStore(Database.open(url))
