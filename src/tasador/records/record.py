"""`Record`: one valuation as it was asked and answered. `Outcome`: what it turned out to be.

`ReviewRow` and `Override` are what a desk review knows of it.

All are named tuples, not dataclasses: the serving process makes one per valuation while requests
wait, a frozen dataclass of fourteen fields costs four times as much to make, and a tuple is bound
to an INSERT statement as it is.

Prediction ids are UUIDs of version 7 (RFC 9562) from uuid-utils: the time in milliseconds, a
counter and 32 random bits each. Ids of a process only ever grow, as texts too, and a forked child
draws other random bits than its parent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import uuid_utils


class Record(NamedTuple):
    """One valuation. Its fields are the columns of the table `records`, in this order.

    Attributes:
        id: Unique name, see `new_ids`; a second record of the same id is dropped.
        time: When it was answered, seconds since the epoch, UTC.
        version: Name and content hash of the bundle that answered.
        variant: The bundle's part: ``champion``, ``challenger``, ``shadow``...
        source: The source of the cascade that the bundle came from.
        features: The row as it was asked, a JSON object in UTF-8.
        prediction: The estimate, in the target's unit.
        lower: Lower end of the interval; NaN when there is none.
        upper: Upper end of the interval; NaN when there is none.
        coverage: Share of truths that such intervals hold; NaN when there is none.
        latency_ms: Time it took to answer, in milliseconds.
        client: Who asked: a key's name or a request's own; empty when unknown.
        fsd: Forecast standard deviation of the relative error; NaN when there is none.
        no_value: Why the estimate was not answered; empty when it was.
    """

    id: str
    time: float
    version: str
    variant: str
    source: str
    features: bytes
    prediction: float
    lower: float
    upper: float
    coverage: float
    latency_ms: float
    client: str = ""
    fsd: float = math.nan
    no_value: str = ""

    @classmethod
    def from_row(cls, row: Iterable[Any]) -> Record:
        """Return the record of a database's row, where numbers that are not there are null."""
        return cls._make(with_nan(row))


class Outcome(NamedTuple):
    """The real price of what was valued, known later.

    Attributes:
        prediction_id: The record's id.
        actual: The real value, in the target's unit; finite.
        time: When it became known, seconds since the epoch, UTC.
        client: Who reported it; empty when unknown.
    """

    prediction_id: str
    actual: float
    time: float
    client: str = ""


class ReviewRow(NamedTuple):
    """A row of a workbook that was written for a desk review.

    Attributes:
        prediction_id: The record's id.
        review: The workbook's id.
        number: The row's in the file that was valued, from 1.
        time: When the workbook was written, seconds since the epoch, UTC.
    """

    prediction_id: str
    review: str
    number: float
    time: float


class Override(NamedTuple):
    """A value that a reviewer set in place of the model's.

    Later ones of a prediction take the place of earlier ones, which stay.

    Attributes:
        id: Unique name; later ones are greater.
        prediction_id: The record's id.
        review: The workbook's id.
        time: When it was recorded, seconds since the epoch, UTC.
        actor: Who recorded it.
        prediction: The model's value; NaN where it gave none.
        before: The override before; NaN where there was none.
        value: The reviewer's value, in the target's unit.
        reason: Why.
    """

    id: str
    prediction_id: str
    review: str
    time: float
    actor: str
    prediction: float
    before: float
    value: float
    reason: str


def with_nan(row: Iterable[Any]) -> Iterator[Any]:
    """Yield the values of a database's row with NaN for nulls."""
    return (math.nan if value is None else value for value in row)


def new_id() -> str:
    """Return a new id, greater than every id that this process returned before."""
    return str(uuid_utils.uuid7())


def new_ids(count: int) -> list[str]:
    """Return `count` new ids, growing."""
    make = uuid_utils.uuid7
    return [str(make()) for _ in range(count)]
