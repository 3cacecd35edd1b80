"""`Sample`: an even sample of rows, the same one however the rows are cut into parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

_SEED = 20_240_816


class Sample:
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

    def changed(self, change: Callable[[Floats], Floats]) -> Sample:
        """Return the same sample with its rows (k, width) as `change` makes them."""
        found = self.merge(Sample(self.width, self.most, self.name))
        found._kept = [change(found._kept[0].copy())]
        return found

    def merge(self, other: Sample) -> Sample:
        """Return the sample of both parts' rows; neither is changed.

        Raises:
            ValueError: They are samples of different things.
        """
        kind, others = (self.width, self.most, self.name), (other.width, other.most, other.name)
        if kind != others:
            raise ValueError(f"a sample {others} cannot be added to one {kind}")
        found = Sample(*kind)
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
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], name: str) -> Sample:
        """Rebuild from `state`."""
        found = cls(arrays["rows"].shape[1], int(arrays["most"][0]), name)
        found.seen = int(arrays["seen"][0])
        found._kept, found._keys = [arrays["rows"]], [arrays["keys"]]
        found._places = [arrays["places"]]
        if len(arrays["keys"]) == found.most:
            found._limit = float(arrays["keys"].max(initial=0.0))
        return found
