"""The rows of a CSV file as Arrow reads them, some at a time, and which of them are no data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasador.contract.arrow_encoding import plain_array
from tasador.data.text.extra_rows import (
    LABEL_COLUMNS,
    TOTAL_LABEL,
    WORDS,
    WORDS_WITHIN,
    Columns,
    GroupTotals,
    sums_of,
)

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class Block:
    """Some consecutive rows of a CSV file, with all columns.

    Attributes:
        start: How many rows of the file come before it.
        batch: The rows that could be read, as bytes.
        torn: By number: why others could not, and their text.
        extra: The numbers of rows that hold nothing, repeat the header or are totals.
        blank: How many of these hold nothing.
        repeated: How many repeat the header.
    """

    start: int
    batch: pa.RecordBatch
    torn: dict[int, tuple[str, str]] = field(default_factory=dict)
    extra: set[int] = field(default_factory=set)
    blank: int = 0
    repeated: int = 0

    def __len__(self) -> int:
        return int(self.batch.num_rows) + len(self.torn)

    @property
    def end(self) -> int:
        """How many rows come before the first one after it."""
        return self.start + len(self)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The number of each row of the batch."""
        every = np.arange(self.start, self.end)
        return every[~np.isin(every, list(self.torn))] if self.torn else every

    def take(self, torn: deque[tuple[int, str, str]]) -> None:
        """Take those torn rows that are before its last row."""
        while torn and torn[0][0] < self.end:
            number, reason, text = torn.popleft()
            self.torn[number] = reason, text

    def cells(self, delimiter: str, most: int) -> dict[int, list[str]]:
        """Return by number what is in each of the last rows."""
        numbers = {int(number): position for position, number in enumerate(self.numbers)}
        rows = {}
        for number in range(max(self.start, self.end - most), self.end):
            if number in self.torn:
                cells = self.torn[number][1].split(delimiter)
            else:
                row = self.batch.slice(numbers[number], 1).columns
                cells = [plain_array(array)[0].as_py() for array in row]
            rows[number] = [cell.strip() for cell in cells]
        return rows

    def find_extra(self, header: Sequence[str]) -> None:
        """Note the rows that hold nothing, and those that repeat the header."""
        blank = _rows_of_cells(self.batch, [""] * self.batch.num_columns)
        repeats = sum(map(bool, header)) > 1
        again = _rows_of_cells(self.batch, header) if repeats else np.empty(0, np.int64)
        self.blank, self.repeated = len(blank), len(again)
        if self.blank or self.repeated:
            self.extra = set(self.numbers[np.concatenate([blank, again])].tolist())


class BlockTotals:
    """Finds the totals of groups in a file, block by block; see `GroupTotals`.

    Args:
        width: How many columns there are.
        above: Given a number of rows and the numbers of totals among them, returns the cells of the
            other ones, some at a time; asked once, where a row first looks like a total.

    Attributes:
        found: The numbers of the rows that are totals.
    """

    def __init__(
        self, width: int, above: Callable[[int, Collection[int]], Iterable[Columns]]
    ) -> None:
        self.found: set[int] = set()
        self._width, self._above = width, above
        self._groups: GroupTotals | None = None
        self._words: list[int] | None = None

    def find(self, block: Block) -> None:
        """Note the totals in the next block."""
        numbers, keep = block.numbers, ~np.isin(block.numbers, list(block.extra))
        asked: list[int] = np.flatnonzero(self._called(block.batch) & keep).tolist()
        if not asked and self._groups is None:
            return
        if self._groups is None:
            self._groups = GroupTotals(self._width)
            for above in self._above(block.start, self.found):
                self._groups.add(len(above[0]), sums_of(above))
        start = 0
        columns = [plain_array(array).to_pylist() for array in block.batch.columns]
        for row in [*asked, len(numbers)]:
            rows = [i for i in range(start, row) if keep[i]]
            self._groups.add(len(rows), sums_of([[column[i] for i in rows] for column in columns]))
            start = row + 1
            if row < len(numbers) and self._groups.take(
                [column[row].strip() for column in columns]
            ):
                self.found.add(int(numbers[row]))
                block.extra.add(int(numbers[row]))

    def _called(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """Return which rows (n,) a cell of the first text columns calls a total."""
        import pyarrow.compute as pc

        if self._words is None:
            self._words = _columns_of_words(batch)
        called = np.zeros(batch.num_rows, bool)
        for position in self._words:
            cells = _texts(batch.column(position))
            totals = cells.unique()  # a pattern takes longer than to find equal cells
            totals = totals.filter(pc.match_substring_regex(totals, TOTAL_LABEL))
            if len(totals):
                called |= pc.is_in(cells, totals).to_numpy(zero_copy_only=False)
        return called


def _texts(array: pa.Array) -> pa.Array:
    """Return cells without spaces around them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # a view, since bytes that are no UTF-8 are as good as any here
    return pc.ascii_trim_whitespace(array.view(pa.string()))


def _columns_of_words(batch: pa.RecordBatch) -> list[int]:
    """Return the first columns that hold words."""
    import pyarrow.compute as pc

    found = (
        position
        for position, array in enumerate(batch.columns[:WORDS_WITHIN])
        if pc.any(pc.match_substring_regex(_texts(array), WORDS)).as_py()
    )
    return list(islice(found, LABEL_COLUMNS))


def _rows_of_cells(batch: pa.RecordBatch, cells: Sequence[str]) -> NDArray[np.int64]:
    """Return the positions of the rows that hold these cells, but for spaces around them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = np.arange(batch.num_rows)
    for array, cell in zip(batch.columns, cells, strict=False):
        taken = array if len(rows) == len(array) else array.take(pa.array(rows))
        trimmed = _texts(taken).view(pa.binary())
        wanted = pa.scalar(cell.encode("utf-8", errors="surrogateescape"), pa.binary())
        rows = rows[pc.equal(trimmed, wanted).to_numpy(zero_copy_only=False)]
        if not len(rows):
            break
    return rows
