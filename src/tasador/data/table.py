"""What the data package hands over: `Table`, `ValidatedTable`, `Splits`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.data.errors import HalfLifeError
from tasador.settings.run import SplitMethod

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
Origin = Literal["real", "synthetic"]

_DAY = 86_400.0
#: The libraries keep weights in single precision: older rows keep this share instead of none.
_MOST_HALF_LIVES = 50.0


def _taken(values: Any, rows: NDArray[np.intp] | None) -> Any:
    return values if values is None or rows is None else values[rows]


@dataclass(frozen=True)
class Table:
    """What was read, before anything is believed about it.

    Attributes:
        frame: The columns as read; text where the file was text.
        content_hash: SHA-256 of the Parquet file under which the table is stored.
        origin: ``real`` for anything read, ``synthetic`` for generated rows.
        source: The path, address or generator that it came from.
        warnings: What the reader noticed, e.g. that a source failed and the next was used.
    """

    frame: pl.DataFrame
    content_hash: str
    origin: Origin
    source: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that does not meet the contract.

    Attributes:
        row: Its position in the table's arrays.
        column: The first column found wrong.
        reason: What was expected and what was found.
    """

    row: int
    column: str
    reason: str

    @property
    def number(self) -> int:
        """The row as people count, from 1."""
        return self.row + 1


@dataclass(frozen=True)
class ValidatedTable:
    """A table that meets its contract, encoded; row i of every array is the same row.

    Attributes:
        contract: The contract that it meets.
        X: Shape (n, p) in the order of ``contract.feature_names``: numbers as they are, categories
            as codes, datetimes as seconds since 1970 UTC, missing as NaN.
        y: Shape (n,): the target, finite.
        row_hash: Shape (n,), uint64: hash of the row's content (features, identifiers, target).
        property_hash: Shape (n,), uint64: hash of the identity of what was sold, its own for a row
            without one; None where no column has that role.
        row: Shape (n,), int64: position in the table as read.
        refused: The rows refused, and why.
        content_hash: The table's content hash.
        origin: real or synthetic.
        source: Where the table came from.
        warnings: Notes for the report: suspicious but acceptable things.
        excluded: Positions in the table as read of the rows that the contract excludes, by reason.
        weight: Shape (n,): how much each row counts in training, above 0; None where all count
            alike.
        age: Shape (n,): half-lives since each sale, at the newest one; None where age does not
            matter.
    """

    contract: TableContract
    X: Floats
    y: Floats
    row_hash: NDArray[np.uint64]
    row: NDArray[np.int64]
    refused: tuple[RefusedRow, ...]
    content_hash: str
    origin: Origin
    source: str
    warnings: tuple[str, ...] = ()
    property_hash: NDArray[np.uint64] | None = None
    excluded: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    weight: Floats | None = None
    age: Floats | None = None

    @property
    def part(self) -> Part:
        """All of its rows."""
        return Part(
            self.X, self.y, self.row_hash, self.property_hash, row=self.row, weight=self.weight,
            age=self.age,
        )  # fmt: skip

    def aged(self, half_life: float | None) -> ValidatedTable:
        """Return the table with the age of its rows.

        Rows without a date are as old as the oldest.

        Args:
            half_life: Days in which the weight of a row halves; None leaves age out of account.

        Raises:
            ConfigError: There is one, and the table has no dates.
        """
        at = self.contract.timestamp_position
        if half_life is None:
            return self
        if at is None or np.isnan(self.X[:, at]).all():
            raise HalfLifeError.no_dates()
        days = (np.nanmax(self.X[:, at]) - self.X[:, at]) / _DAY
        return replace(self, age=np.where(np.isnan(days), np.nanmax(days), days) / half_life)

    def take(self, rows: NDArray[np.intp]) -> ValidatedTable:
        """Return the table with the rows at these positions alone."""
        of = None if self.property_hash is None else self.property_hash[rows]
        return replace(
            self, X=self.X[rows], y=self.y[rows], row_hash=self.row_hash[rows],
            row=self.row[rows], property_hash=of, weight=_taken(self.weight, rows),
            age=_taken(self.age, rows),
        )  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Some rows of a validated table.

    Attributes:
        X: Shape (n, p): the encoded features.
        y: Shape (n,): the target.
        row_hash: Shape (n,): hash of each row's content.
        property_hash: Shape (n,): hash of the identity of what was sold; None where no column has
            it.
        time: Shape (n,): date of each sale in seconds since 1970 UTC, NaN where it is unknown;
            None for rows that were not split by time, whose folds are dealt by chance.
        row: Shape (n,): position in the table as read; None where the rows are of none.
        weight, age: As of `ValidatedTable`.
    """

    X: Floats
    y: Floats
    row_hash: NDArray[np.uint64]
    property_hash: NDArray[np.uint64] | None = None
    time: Floats | None = None
    row: NDArray[np.int64] | None = None
    weight: Floats | None = None
    age: Floats | None = None

    def __len__(self) -> int:
        return len(self.y)

    def joined(self, other: Part) -> Part:
        """Return these rows and those of another part of the same table behind them."""
        theirs = vars(other)
        arrays: dict[str, Any] = {
            name: None if values is None else np.concatenate((values, theirs[name]))
            for name, values in vars(self).items()
        }
        return Part(**arrays)

    def take(self, rows: NDArray[np.intp]) -> Part:
        """Return the rows at these positions, in this order."""
        return Part(**{name: _taken(values, rows) for name, values in vars(self).items()})

    def fit_weight(self, rows: NDArray[np.intp] | None = None) -> Floats | None:
        """Return the weights (k,) of the rows at these positions, or all, when they are fitted on.

        A row's own weight times 0.5 for each half-life that it is older than the newest of these
        rows, divided by the mean. None where all count alike.
        """
        weight: Floats | None = _taken(self.weight, rows)
        age: Floats | None = _taken(self.age, rows)
        if age is not None:
            halved = np.exp2(-np.minimum(age - age.min(), _MOST_HALF_LIVES))
            weight = halved if weight is None else weight * halved
        if weight is None or weight.min() == weight.max():
            return None
        weight = weight / weight.max()
        scaled: Floats = weight / weight.mean()
        return scaled


class SealedPart:
    """The test part. Only `selection.test_metrics` opens it, which is counted."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self.openings: list[str] = []

    def __len__(self) -> int:
        return len(self._part)

    def store(self, write: Callable[[Part], None]) -> None:
        """Hand the rows to `write`, which puts them on disk and computes nothing from them."""
        write(self._part)

    def open(self, reason: str) -> Part:
        """Return the test rows and note why they were needed."""
        self.openings.append(reason)
        return self._part


@dataclass(frozen=True)
class Splits:
    """Train rows, and the held-out test set.

    Attributes:
        train: What everything is fitted and chosen on.
        sealed: What the final figures are measured on.
        method: How rows were assigned.
        seed: Seed of the random method; salt of the hash method.
        test_share: Share of rows asked for in the test part.
        warnings: Notes for the report.
        earlier: By time, the earlier sales of properties in the test part, which are in neither;
            None where there are none.
    """

    train: Part
    sealed: SealedPart
    method: SplitMethod
    seed: int
    test_share: float
    warnings: tuple[str, ...] = field(default=())
    earlier: Part | None = None
