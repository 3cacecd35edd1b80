"""Mergeable summaries: a column counted on the reference's grid, and an even sample of rows.

Everything that drift, quality and prediction checks ask of a column is answered from counts, so a
window of any length takes constant memory, and parts counted apart (files, hours, machines) add up
to what one pass over all rows gives. `RowSample` is the same sample however the rows are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

#: Number of quantile steps of a grid: cumulative shares are exact up to 1 / RESOLUTION, and wholly
#: exact for columns of fewer distinct values.
RESOLUTION = 1000
_DECILES = np.arange(1, 10) / 10


@dataclass(frozen=True)
class Grid:
    """Where a column is cut into cells, and cells are put together into the bins of the PSI.

    Attributes:
        edges: Shape (e,), ascending: the cells are ``(-inf, e0], (e0, e1], ..., (e_last, inf)``.
            Empty for categories, whose cell i is the code i, the last one for unknown.
        starts: Shape (b,), ascending, the first 0: the cell at which each bin begins.
        center: Number from which sums are taken, so that large values keep their digits.
    """

    edges: Floats
    starts: NDArray[np.int64]
    center: float

    @classmethod
    def of_numbers(cls, values: Floats) -> Grid:
        """Cut at the quantiles of reference values; NaN and infinities are left out.

        Bins are the deciles with open outer ends. A value that fills more than a tenth makes fewer
        bins; where it is the lowest one, what lies below it gets a bin of its own.
        """
        ordered = np.sort(values[np.isfinite(values)])
        if not len(ordered):
            return cls(np.empty(0), np.zeros(1, dtype=np.int64), 0.0)
        deciles = np.unique(np.quantile(ordered, _DECILES))
        if deciles[0] <= ordered[0]:
            deciles = np.concatenate(([np.nextafter(ordered[0], -np.inf)], deciles))
        places = np.unique(np.linspace(0, len(ordered) - 1, RESOLUTION + 1).astype(np.intp))
        distinct = np.unique(ordered)
        inner = distinct if len(distinct) <= RESOLUTION else ordered[places]
        edges = np.unique(np.concatenate((inner, deciles)))
        starts = np.concatenate(([0], np.searchsorted(edges, deciles) + 1))
        return cls(edges, starts.astype(np.int64), float(ordered[len(ordered) // 2]))

    @classmethod
    def of_categories(cls, categories: int) -> Grid:
        """One cell and bin per category, and one for unknown ones."""
        return cls(np.empty(0), np.arange(categories + 1, dtype=np.int64), 0.0)

    @property
    def is_category(self) -> bool:
        """Whether cells are codes."""
        return not len(self.edges) and len(self.starts) > 1

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.starts) if self.is_category else len(self.edges) + 1

    @cached_property
    def _singles(self) -> tuple[Floats, Floats, Floats]:
        """Edges that differ from their float32 form: (those forms, the edges); edges in that form.

        Only forms that show what they are count, such as 0.10000000149011612: a float32 that is a
        short decimal too, as 0.5, may be meant exactly.
        """
        all_forms = _as_single(self.edges)
        forms, first, count = np.unique(all_forms, return_index=True, return_counts=True)
        edges = self.edges[first + count - 1]  # an edge just below a value has the same form
        shown = np.array([float(f"{form:.9g}") != form for form in forms.tolist()], dtype=np.bool_)
        exact = np.isin(forms, self.edges)
        return forms[shown & ~exact], edges[shown & ~exact], forms[shown & exact]

    def in_double(self, values: Floats) -> Floats:
        """Return values with the edges' float32 forms, and what has an edge as its form, as edges.

        So that 0.1, whether it went through float32 or not, is counted in one and the same cell.
        """
        if self.is_category or not len(self.edges):
            return values
        forms, edges, singles = self._singles
        if not len(forms) and not len(singles):
            return values
        single = _as_single(values)
        result = values
        for wanted, keys, exact in (
            (single == values, forms, edges),
            (single != values, singles, singles),
        ):
            rows = np.flatnonzero(wanted) if len(keys) else np.empty(0, dtype=np.intp)
            if not len(rows):
                continue
            at = np.minimum(np.searchsorted(keys, single[rows]), len(keys) - 1)
            same = keys[at] == single[rows]
            if same.any():
                result = values.copy() if result is values else result
                result[rows[same]] = exact[at[same]]
        return result

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that `from_state` takes."""
        return {"edges": self.edges, "starts": self.starts, "center": np.array([self.center])}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]]) -> Grid:
        """Rebuild from `state`."""
        return cls(arrays["edges"], arrays["starts"], float(arrays["center"][0]))


def _as_single(values: Floats) -> Floats:
    """Return values as float32 has them."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class ColumnSummary:
    """A column of some rows, counted on a grid. Summaries on one grid add up with ``+``.

    Attributes:
        n: Rows.
        missing: How many of them are NaN.
        minus, plus: How many are -inf and inf; they are counted in the outer cells.
        counts: Shape (cells,).
        sums: Shape (cells,): sums of ``value - center`` of the finite values; 0 for categories.
        square: Sum of their squares.
        low: The smallest finite value; inf when there is none.
        high: The largest; -inf when there is none.
        lost: Shape (cells + 1,): what `sums` and `square` lack of the exact sums of the parts that
            were added, so that the order in which they are added does not show.
    """

    n: int
    missing: int
    minus: int
    plus: int
    counts: Counts
    sums: Floats
    square: float
    low: float
    high: float
    lost: Floats | None = None

    @classmethod
    def empty(cls, grid: Grid) -> ColumnSummary:
        """Return the summary of no rows."""
        zeros = np.zeros(grid.cells)
        return cls(0, 0, 0, 0, zeros.astype(np.int64), zeros, 0.0, np.inf, -np.inf)

    @classmethod
    def of(cls, values: Floats, grid: Grid) -> ColumnSummary:
        """Count `values` (n,), NaN for missing."""
        if grid.is_category:
            return cls._of_codes(values, grid)
        ordered = np.sort(values)  # NaN last
        present = int(np.searchsorted(ordered, np.nan))
        ends = np.searchsorted(ordered[:present], grid.edges, side="right")
        bounds = np.concatenate(([0], ends, [present]))
        first = int(np.searchsorted(ordered[:present], -np.inf, side="right"))
        last = int(np.searchsorted(ordered[:present], np.inf, side="left"))
        finite = ordered[first:last] - grid.center
        running = np.concatenate(([0.0], np.cumsum(finite)))
        inside = np.clip(bounds, first, last) - first
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(finite @ finite)
            sums = np.diff(running[inside])
        return cls(
            n=len(values),
            missing=len(values) - present,
            minus=first,
            plus=present - last,
            counts=np.diff(bounds).astype(np.int64),
            sums=sums,
            square=square,
            low=float(ordered[first]) if last > first else np.inf,
            high=float(ordered[last - 1]) if last > first else -np.inf,
        )

    @classmethod
    def _of_codes(cls, values: Floats, grid: Grid) -> ColumnSummary:
        known = values[~np.isnan(values)]
        codes = np.clip(known, 0, grid.cells - 1).astype(np.int64)
        counts = np.bincount(codes, minlength=grid.cells).astype(np.int64)
        zeros = np.zeros(grid.cells)
        missing = len(values) - len(known)
        return cls(len(values), missing, 0, 0, counts, zeros, 0.0, np.inf, -np.inf)

    def __add__(self, other: ColumnSummary) -> ColumnSummary:
        mine, more = (np.append(one.sums, one.square) for one in (self, other))
        sums, lost = _sum_exactly(mine, self._lost, more, other._lost)
        return ColumnSummary(
            self.n + other.n,
            self.missing + other.missing,
            self.minus + other.minus,
            self.plus + other.plus,
            self.counts + other.counts,
            sums[:-1],
            float(sums[-1]),
            min(self.low, other.low),
            max(self.high, other.high),
            lost,
        )

    @property
    def _lost(self) -> Floats:
        return np.zeros(len(self.sums) + 1) if self.lost is None else self.lost

    @property
    def present(self) -> int:
        """Rows that have a value."""
        return self.n - self.missing

    @property
    def infinite(self) -> int:
        """Rows whose value is infinite."""
        return self.minus + self.plus

    @property
    def finite(self) -> int:
        """Rows that have a finite value."""
        return self.present - self.infinite

    @property
    def finite_counts(self) -> Counts:
        """Finite values per cell, shape (cells,)."""
        counts = self.counts.copy()
        counts[0] -= self.minus
        counts[-1] -= self.plus
        return counts

    def bins(self, grid: Grid) -> Counts:
        """Return the counts of the PSI's bins, the last one for missing, shape (b + 1,)."""
        inner = np.add.reduceat(self.counts, grid.starts)
        return np.append(inner, self.missing)

    def mean(self, grid: Grid) -> float:
        """Return the mean of the finite values; NaN without any."""
        return grid.center + float(self.sums.sum()) / self.finite if self.finite else float("nan")

    def std(self, grid: Grid) -> float:
        """Return their standard deviation; NaN without any."""
        if not self.finite:
            return float("nan")
        shift = self.mean(grid) - grid.center
        return float(np.sqrt(max(self.square / self.finite - shift * shift, 0.0)))

    def above(self, value: float, grid: Grid) -> float:
        """Return about how many values lie above `value`, exact where it is an edge."""
        return self.present - self._up_to(value, grid)

    def _up_to(self, value: float, grid: Grid) -> float:
        """Return how many values are at most `value`, taken as spread evenly within a cell."""
        running = np.concatenate(([0], np.cumsum(self.counts))).astype(np.float64)
        cell = int(np.searchsorted(grid.edges, value, side="left"))
        if cell < len(grid.edges) and grid.edges[cell] == value:
            return float(running[cell + 1])
        low, high = self._ends(cell, grid)
        if value >= high:
            return float(running[cell + 1])
        share = (value - low) / (high - low) if high > low and value > low else 0.0
        return float(running[cell] + share * self.counts[cell])

    def quantile(self, q: float, grid: Grid) -> float:
        """Return the `q`-quantile, linear within a cell; NaN without values."""
        if not self.finite:
            return float("nan")
        running = np.cumsum(self.counts)
        cell = int(np.searchsorted(running, q * self.present, side="left"))
        cell = min(cell, len(self.counts) - 1)
        while not self.counts[cell]:
            cell += 1
        before = running[cell] - self.counts[cell]
        low, high = self._ends(cell, grid)
        share = (q * self.present - before) / self.counts[cell]
        return float(low + min(max(share, 0.0), 1.0) * (high - low))

    def _ends(self, cell: int, grid: Grid) -> tuple[float, float]:
        """Return where the values of a cell lie at most: its edges, inside what was seen."""
        low = grid.edges[cell - 1] if cell > 0 else self.low
        high = grid.edges[cell] if cell < len(grid.edges) else self.high
        return max(float(low), self.low), min(float(high), self.high)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that `from_state` takes."""
        numbers = [self.n, self.missing, self.minus, self.plus, self.square, self.low, self.high]
        arrays = {
            "counts": self.counts,
            "sums": self.sums,
            "numbers": np.array(numbers, dtype=float),
        }
        return arrays if self.lost is None else {**arrays, "lost": self.lost}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]]) -> ColumnSummary:
        """Rebuild from `state`."""
        *whole, square, low, high = (float(number) for number in arrays["numbers"])
        n, missing, minus, plus = (int(number) for number in whole)
        counts, sums = arrays["counts"].astype(np.int64), arrays["sums"]
        lost = arrays.get("lost")
        return cls(n, missing, minus, plus, counts, sums, square, low, high, lost)


def _sum_exactly(a: Floats, a_lost: Floats, b: Floats, b_lost: Floats) -> tuple[Floats, Floats]:
    """Return a + b and what that lacks of the exact sum (Knuth's two-sum), twice a double's digits.

    Where the sum is not finite nothing is counted as lost.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = a + b
        part = total - a
        error = (a - (total - part)) + (b - part) + (a_lost + b_lost)
        result = total + error
        lost = error - (result - total)
    finite = np.isfinite(result) & np.isfinite(lost)
    return np.where(finite, result, total), np.where(finite, lost, 0.0)


Places = NDArray[np.int64]

_SEED = 20_240_816


class RowSample:
    """An even sample of rows that come in batches: those of the lowest random number are kept.

    A row's number is that of its place among all rows, so samples of parts that were taken apart
    (files, machines) add up to the sample of one pass over all rows.

    Args:
        width: Columns of a row.
        most: How many rows are kept.
        name: Of the random numbers' stream.
    """

    def __init__(self, width: int, most: int, name: str) -> None:
        self.width, self.most, self.name = width, most, name
        self.seen = 0
        self._random = seeds.generator(_SEED, name)
        self._next = 0  # the place whose number the generator gives next
        self._kept: list[Floats] = [np.empty((0, width))]
        self._keys: list[Floats] = [np.empty(0)]
        self._places: list[Places] = [np.empty(0, dtype=np.int64)]
        self._limit = np.inf

    def add(self, first: int, rows: Floats) -> None:
        """Offer rows (n, width), the first of them at place `first`."""
        self.offer(first, np.ones(len(rows), dtype=np.bool_), lambda chosen: rows[chosen])

    def offer(
        self, first: int, some: NDArray[np.bool_], take: Callable[[NDArray[np.intp]], Floats]
    ) -> None:
        """Offer some of the rows that begin at place `first`.

        Args:
            first: Place of the first row.
            some: Shape (n,): which of the rows are offered.
            take: Called with positions in 0..n-1, gives the rows; others need not be made.
        """
        keys = self._numbers(first, len(some))
        self.seen += int(some.sum())
        chosen = np.flatnonzero(some & (keys <= self._limit))
        if len(chosen) > self.most:  # more than can stay
            chosen = chosen[np.argpartition(keys[chosen], self.most - 1)[: self.most]]
            chosen.sort()
        self._kept.append(np.ascontiguousarray(take(chosen), dtype=np.float64))
        self._keys.append(keys[chosen])
        self._places.append(first + chosen.astype(np.int64))
        if sum(map(len, self._keys)) > 2 * self.most:
            self._shrink()

    def _numbers(self, first: int, n: int) -> Floats:
        """Return the numbers (n,) in [0, 1) of the places from `first` on."""
        if first != self._next:
            self._random = seeds.generator(_SEED, self.name)
            # one step of the generator is one number
            self._random.bit_generator.advance(first)  # type: ignore[attr-defined]
        self._next = first + n
        return self._random.random(n)

    def _shrink(self) -> None:
        rows, keys = np.concatenate(self._kept), np.concatenate(self._keys)
        places = np.concatenate(self._places)
        if len(keys) > self.most:
            # of equal numbers the earlier row stays
            lowest = np.lexsort((places, keys))[: self.most]
            self._limit = float(keys[lowest[-1]])
        else:
            lowest = np.arange(len(keys))
        lowest = lowest[np.argsort(places[lowest])]
        self._kept, self._keys, self._places = [rows[lowest]], [keys[lowest]], [places[lowest]]

    def rows(self) -> Floats:
        """Return the rows kept, in the order of their places; all of them when they are few."""
        self._shrink()
        return self._kept[0]

    def changed(self, change: Callable[[Floats], Floats]) -> RowSample:
        """Return the same sample with its rows (k, width) as `change` makes them."""
        found = self.merge(RowSample(self.width, self.most, self.name))
        found._kept = [change(found._kept[0].copy())]
        return found

    def merge(self, other: RowSample) -> RowSample:
        """Return the sample of both parts' rows; neither is changed.

        Raises:
            ValueError: They are samples of different things.
        """
        kind, others = (self.width, self.most, self.name), (other.width, other.most, other.name)
        if kind != others:
            raise ValueError(f"a sample {others} cannot be added to one {kind}")
        found = RowSample(*kind)
        found.seen = self.seen + other.seen
        found._kept = [*self._kept, *other._kept]
        found._keys = [*self._keys, *other._keys]
        found._places = [*self._places, *other._places]
        found._limit = min(self._limit, other._limit)
        found._shrink()
        return found

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that `from_state` takes."""
        self._shrink()
        return {
            "rows": self._kept[0],
            "keys": self._keys[0],
            "places": self._places[0],
            "seen": np.array([self.seen]),
            "most": np.array([self.most]),
        }

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], name: str) -> RowSample:
        """Rebuild from `state`."""
        found = cls(arrays["rows"].shape[1], int(arrays["most"][0]), name)
        found.seen = int(arrays["seen"][0])
        found._kept, found._keys = [arrays["rows"]], [arrays["keys"]]
        found._places = [arrays["places"]]
        if len(arrays["keys"]) == found.most:
            found._limit = float(arrays["keys"].max(initial=0.0))
        return found
