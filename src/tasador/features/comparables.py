"""Comparables: what the nearest known sales say about a row.

The strongest features there are for a valuation. A k-d tree over the training rows answers, for
each row, its 64 nearest neighbours; their transformed targets become distance-weighted means over
the first k of them, the same weighted by resemblance in one attribute (for houses: income),
means of the targets with that attribute's effect taken out, their spread and their distances.

In training the features are cross-fitted: a row's neighbours come from the other folds only, so
that no row ever sees its own target. At predict time the index holds all training rows.

Where sales have dates, only earlier ones inform a row, in training as later on, so that it needs no
folds. Age counts as distance does: a date is one more axis of the space. Where sales have none, a
training row with the row's own place and attributes does not inform it: a training row that is
valued would find its own target.
`CompactIndex` searches and sums them in `neighbours_kernel.c`, with the bits of the code here. The
exponential alone is left to numpy, whose vectors round it in their own way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.kernels import native
from tasador.features.neighbours_kernel import (
    DISTANCES,
    STEPS,
    WIDE_STEPS,
    Asked,
    CompactIndex,
    Found,
    tree_of,
)

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

#: Bandwidths of the resemblance kernel, in log units of the attribute.
BANDWIDTHS = (0.1, 0.3)
_NEAREST = 16
_STEP_COLUMNS = np.array(STEPS) - 1
_DISTANCE_COLUMNS = np.array(DISTANCES) - 1
_WIDE = slice(STEPS.index(WIDE_STEPS[0]), None)
_NEAREST_STEP = STEPS.index(_NEAREST)
_KERNEL_FACTORS = np.array([[-0.5 / bandwidth**2] for bandwidth in BANDWIDTHS])
PROOF_ROWS = 128
#: The comparable whose distance says how much is known about a place (one alone may be misplaced),
#: the share of the training rows that have it within reach, and how many of them are asked.
FAR_NEIGHBOUR = 4
REACH_QUANTILE = 0.999
_REACH_ROWS = 20_000
#: How many rows tell what a year of age counts as.
_AGE_ROWS = 2_000
_YEAR = 365.25 * 86_400.0

_logger = logging.getLogger(__name__)

#: Pairs of a row and a training row that are looked at at a time.
_MOST_PAIRS = 2**21
#: So many are compared one by one, without a tree; those that fit in a cache at a time.
_FEW_PAIRS, _BLOCK = 2**23, 2**16
_CHUNK = 4096  # rows valued at a time: bounds the (rows, 64) work arrays to a few MB each


@dataclass(frozen=True)
class Neighbours:
    """The nearest training rows of some rows.

    Attributes:
        index: Shape (n, k): their positions in the training part.
        distance: Shape (n, k): their distances in the index's scaled space, ascending.
    """

    index: NDArray[np.intp]
    distance: Floats


@dataclass(frozen=True)
class ComparablesIndex:
    """Training rows, searchable by nearness.

    Attributes:
        points: Shape (m, d): where the training rows lie, scaled.
        target: Shape (m,): their transformed targets.
        similar: Shape (m,): log of the attribute in which comparables should resemble the row;
            empty when there is none.
        context: Shape (m, c): attributes whose neighbourhood means become features.
        slope: Change of the transformed target per log unit of `similar`.
        softening: Distance added before inverting, so that a neighbour at the same spot has a
            finite weight.
        times: Shape (m,), ascending: when they were sold, in seconds since 1970; None when only
            places are known.
        age_scale: Distance that a second of age counts as.
        excludes_own: Whether a training row with a row's place, `similar` and `context` does not
            inform that row.
        in_order: Whether of equally near training rows the first are taken. Those of an index from
            before this was so are taken as scipy's tree gives them, without the compiled kernel.
        proof_rows: On how many of its rows the compiled kernel is compared with the code here.
    """

    points: Floats
    target: Floats
    similar: Floats
    context: Floats
    slope: float
    softening: float
    times: Floats | None = None
    age_scale: float = 0.0
    excludes_own: bool = False
    in_order: bool = True
    proof_rows: int = PROOF_ROWS

    @classmethod
    def fit(
        cls,
        points: Floats,
        target: Floats,
        similar: Floats | None,
        context: Floats,
        times: Floats | None = None,
        *,
        excludes_own: bool = False,
        proof_rows: int = PROOF_ROWS,
    ) -> ComparablesIndex:
        """Build the index over m training rows; nothing may be NaN, and their order is nothing."""
        empty = np.empty(0)
        order = cls.sorted_rows(points, target, similar, context, times)
        points, target, context = points[order], target[order], context[order]
        similar = None if similar is None else similar[order]
        times = None if times is None else times[order]
        slope = 0.0
        if similar is not None:
            centred = similar - similar.mean()
            variance = float(np.mean(centred * centred))
            if variance > 0:
                slope = float(np.mean(centred * (target - target.mean()))) / variance
        return cls(
            points=np.ascontiguousarray(points),
            target=np.ascontiguousarray(target),
            similar=empty if similar is None else np.ascontiguousarray(similar),
            context=np.ascontiguousarray(context),
            slope=slope,
            softening=_typical_spacing(points),
            times=times,
            age_scale=0.0 if times is None else _age_scale(points),
            excludes_own=excludes_own,
            proof_rows=proof_rows,
        )

    @staticmethod
    def sorted_rows(
        points: Floats,
        target: Floats,
        similar: Floats | None,
        context: Floats,
        times: Floats | None,
    ) -> Positions:
        """Return which row stands where in an index that `fit` makes of these rows, shape (m,)."""
        by = [target, *context.T, *([] if similar is None else [similar]), *points.T]
        if times is not None:
            by.append(times)
        # what `np.lexsort(by)` gives; it would sort all rows by each column in turn
        order = np.argsort(by[-1], kind="stable")
        first = by[-1][order]
        same = ~(first[1:] > first[:-1])
        tied = np.zeros(len(order), dtype=np.bool_)
        tied[1:] = same
        tied[:-1] |= same
        rows = np.sort(order[tied])
        order[tied] = rows[np.lexsort([column[rows] for column in by])]
        return order

    @cached_property
    def _places(self) -> Floats:
        """Where the training rows lie in the space that is searched: with dates, (m, d + 1)."""
        return self._dated(self.points, self.times)[0]

    @cached_property
    def _tree(self) -> cKDTree:
        return tree_of(self._places)

    @cached_property
    def _prior(self) -> Floats:
        """The features (q,) of a row that nothing informs: as far away as a training row can be."""
        wide = (len(BANDWIDTHS) + 1) * len(WIDE_STEPS) if len(self.similar) else 0
        farthest = self.softening + float(np.sqrt(np.square(np.ptp(self._places, axis=0)).sum()))
        return np.concatenate(
            [
                np.full(len(STEPS) + wide, self.target.mean()),
                self.context.mean(axis=0),
                [self.target.std()],
                np.full(len(DISTANCES), farthest),
            ]
        )

    def _dated(self, points: Floats, times: Floats | None) -> tuple[Floats, Positions | None]:
        """Return rows' places as they are searched, and how many training rows are earlier.

        A row without a date, or with one after the newest training row's, is as old as that one.
        """
        if self.times is None:
            return points, None
        places = np.empty((len(points), points.shape[1] + 1))
        places[:, :-1] = points
        age = places[:, -1]
        if times is None:
            age[:] = 0.0
            return places, None
        newest = self.times[-1]
        np.fmin(times, newest, out=age)
        age -= newest
        age *= self.age_scale
        return places, self.times.searchsorted(times)  # NaN comes after all

    @cached_property
    def _compact(self) -> CompactIndex | None:
        """The compiled search and sums, once they gave the same bits as those written here."""
        library = native().library
        if library is None or not self.size or not self.in_order:
            return None
        try:
            compact = CompactIndex(self, _KERNEL_FACTORS[:, 0], library)
        except ValueError as error:
            _logger.warning("comparables are found by scipy, not by the kernel: %s", error)
            return None
        rows = self._proof_rows()
        asked = self.asked(*rows)
        found = compact.features(*asked)
        if found is not None and np.array_equal(found, self._features(*asked), equal_nan=True):
            return compact
        _logger.warning(
            "comparables are found by scipy, not by the compiled kernel: their answers differ on"
            " this machine; please report the processor and the versions of numpy and scipy"
        )
        return None

    def _proof_rows(self) -> tuple[Floats, Floats | None, Floats | None, Floats]:
        """Return places among the training rows, where distances tie, and beside them."""
        at = np.linspace(0, self.size - 1, self.proof_rows).astype(np.intp)
        beside = (self.points[at] + self.points[at[::-1]]) / 2.0
        twice = np.concatenate([at, at])
        similar = self.similar[twice] if len(self.similar) else None
        times = None if self.times is None else self.times[np.concatenate([at, at[::-1]])]
        return np.concatenate([self.points[at], beside]), similar, times, self.context[twice]

    def asked(
        self,
        points: Floats,
        similar: Floats | None,
        times: Floats | None,
        context: Floats | None,
    ) -> Asked:
        """Return rows as they are searched; the arguments are those of `features`."""
        places, limits = self._dated(points, times)
        return Asked(places, similar, limits, context if self.excludes_own else None)

    @cached_property
    def reach(self) -> float:
        """How far away the `FAR_NEIGHBOUR`-th other row is of nearly all training rows.

        A row whose own is farther away is like none of them. Infinite where rows cannot be told
        apart by place.
        """
        # of dated ones the newer half tells
        first = 0 if self.times is None else self.size // 2
        rows = np.linspace(first, self.size - 1, min(self.size, _REACH_ROWS)).astype(np.intp)
        finds_itself = self.times is None and not self.excludes_own
        near = self.neighbours(
            self.points[rows],
            FAR_NEIGHBOUR + finds_itself,
            self.similar[rows] if len(self.similar) else None,
            None if self.times is None else self.times[rows],
            self.context[rows],
        )
        known = near.distance[np.isfinite(near.distance[:, -1]), -1]
        usual = float(np.quantile(known, REACH_QUANTILE)) if len(known) else 0.0
        return usual if usual > 0.0 else np.inf

    def search(self, asked: Asked) -> Found:
        """Return the neighbours of rows: what `features` makes its features of."""
        found = None if self._compact is None else self._compact.neighbours(*asked)
        if found is not None:
            return Found(asked.places, *found)
        near = self._neighbours(asked)
        return Found(asked.places, near.index, near.distance)

    def within_reach(self, found: Found) -> tuple[Positions, Positions]:
        """Return how many rows within `reach` inform each row, 64 at most, and the nearest.

        The nearest is a position among the training rows; -1 where none informs the row.
        """
        index, distance = found.positions, found.distances.copy()
        distance[:, 1:][index[:, 1:] == index[:, :-1]] = np.inf  # repeated where too few are there
        within = np.isfinite(distance) & (distance <= self.reach)
        return within.sum(axis=1), np.where(np.isfinite(distance[:, 0]), index[:, 0], -1)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kernel's addresses to this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_compact"}

    @property
    def size(self) -> int:
        """Number of training rows in the index."""
        return len(self.target)

    def names(self, context_names: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the features, in the order of `features`."""
        names = [f"comparables_mean_{k}" for k in STEPS]
        if len(self.similar):
            names += [f"comparables_like_{b:g}_{k}" for b in BANDWIDTHS for k in WIDE_STEPS]
            names += [f"comparables_adjusted_{k}" for k in WIDE_STEPS]
        names += [f"comparables_{name}" for name in context_names]
        return (*names, "comparables_spread", *(f"comparables_distance_{k}" for k in DISTANCES))

    def neighbours(
        self,
        points: Floats,
        k: int = STEPS[-1],
        similar: Floats | None = None,
        times: Floats | None = None,
        context: Floats | None = None,
    ) -> Neighbours:
        """Return the `k` nearest training rows that inform each row, nearest first.

        With fewer than `k` of them the farthest is repeated; without any, distances are infinite.

        Args:
            points: Shape (n, d): where the rows lie.
            k: How many.
            similar: Shape (n,): their own attribute; None when the index has none.
            times: Shape (n,): when they are valued, in seconds; NaN, or None, is after all sales.
            context: Shape (n, c): their own; without it a row may find itself.
        """
        asked = self.asked(points, similar, times, context)
        if self._compact is not None and k <= STEPS[-1]:
            found = self._compact.neighbours(*asked)
            if found is not None:
                return Neighbours(found[0][:, :k], found[1][:, :k])
        return self._neighbours(asked, k)

    def _neighbours(self, asked: Asked, k: int = STEPS[-1]) -> Neighbours:
        if self.in_order:
            return self._in_order(asked, k)
        points, found = asked.places, min(k, self.size)
        distance, index = self._tree.query(points, k=found)
        if found == 1:
            distance, index = distance[:, None], index[:, None]
        if found < k:
            pad = ((0, 0), (0, k - found))
            distance, index = np.pad(distance, pad, mode="edge"), np.pad(index, pad, mode="edge")
        return Neighbours(index, distance)

    def _in_order(self, asked: Asked, k: int) -> Neighbours:
        """Search among those that inform each row; of equally near ones the first are taken.

        Ever more of the nearest are asked for until `k` of them may inform the row, and the last of
        these is nearer than the last asked for, by more than a distance may have been rounded.
        """
        n, ask = len(asked.places), min(k + 1, self.size)
        index, distance = np.zeros((n, k), np.intp), np.full((n, k), np.inf)
        waiting = np.arange(n)
        while len(waiting):
            left = []
            for rows in np.array_split(waiting, -(-len(waiting) * ask // _MOST_PAIRS)):
                found = self._nearest(asked.places[rows], ask)
                squared, farthest = self._squared(asked, rows, found)
                order = np.lexsort((found, squared), axis=-1)[:, :k]
                squared = np.take_along_axis(squared, order, axis=1)
                width = squared.shape[1]
                index[rows, :width] = np.take_along_axis(found, order, axis=1)
                distance[rows, :width] = np.sqrt(squared)
                if ask < self.size:
                    left.append(rows[~(squared[:, -1] < farthest * (1.0 - 1e-9))])
            waiting = np.concatenate(left) if left else waiting[:0]
            ask = min(4 * ask, self.size)
        known = np.isfinite(distance).sum(axis=1)
        index[known == 0] = 0
        last = np.minimum(np.arange(k), np.maximum(known - 1, 0)[:, None])
        return Neighbours(
            np.take_along_axis(index, last, axis=1), np.take_along_axis(distance, last, axis=1)
        )

    def _nearest(self, places: Floats, k: int) -> Positions:
        """Return the k nearest training rows (n, k) of places (n, d), in any order.

        The few rows by which the kernel is checked are compared with all: that takes less time than
        to import what makes a tree, for which there is no other use where the kernel searches.
        """
        checked = "_compact" in self.__dict__
        if checked or len(places) * self.size > _FEW_PAIRS:
            nearest: Positions = self._tree.query(places, k=np.arange(1, k + 1))[1]
            return nearest
        if not np.isfinite(places).all():
            raise ValueError("the places of rows are to be finite")
        found = []
        for part in np.array_split(places, -(-len(places) * self.size // _BLOCK) or 1):
            squared = np.zeros((len(part), self.size))
            for axis, own in zip(self._places.T, part.T, strict=True):
                squared += np.square(axis - own[:, None])
            found.append(np.argpartition(squared, k - 1, axis=1)[:, :k])
        return np.concatenate(found)

    def _squared(self, asked: Asked, rows: Positions, found: Positions) -> tuple[Floats, Floats]:
        """Return squared distances, infinite where one does not inform, and the farthest of all."""
        squared = np.zeros(found.shape)
        for axis, own in enumerate(asked.places[rows].T):
            gap = self._places[:, axis].take(found) - own[:, None]
            squared += gap * gap
        farthest = squared.max(axis=1)
        if asked.limits is not None:
            squared[found >= asked.limits[rows, None]] = np.inf
        if asked.context is not None:
            i, j = np.nonzero(squared == 0.0)
            row, other = rows[i], found[i, j]
            own = (self._places[other] == asked.places[row]).all(axis=1)
            own &= (self.context[other] == asked.context[row]).all(axis=1)
            if asked.similar is not None and len(self.similar):
                own &= self.similar[other] == asked.similar[row]
            squared[i[own], j[own]] = np.inf
        return squared, farthest

    def features(
        self,
        points: Floats,
        similar: Floats | None,
        times: Floats | None = None,
        context: Floats | None = None,
        out: Floats | None = None,
        found: list[Found] | None = None,
    ) -> Floats:
        """Return the comparables' features (n, q) of rows at `points` (n, d).

        Where nothing informs a row they are the training rows' means, as far away as can be.

        Args:
            points: Where the rows lie, in the index's scaled space.
            similar: Shape (n,): log of the rows' own attribute; None when the index has none.
            times: Shape (n,): when they are valued, in seconds; NaN, or None, is after all sales.
            context: Shape (n, c): their own; without it a row may find itself.
            out: Shape (n, q), a row's numbers side by side: where to write them; else a new array.
            found: Gets the neighbours of few rows, where the kernel searches.
        """
        asked = self.asked(points, similar, times, context)
        if self._compact is not None:
            made = self._compact.features(*asked, out, found)
            if made is not None:
                return made
        blocks = [self._features(*asked.take(rows)) for rows in _chunks(len(points))]
        return np.concatenate(blocks, out=out)

    def _features(
        self,
        places: Floats,
        similar: Floats | None,
        limits: Positions | None = None,
        context: Floats | None = None,
    ) -> Floats:
        """Value up to `_CHUNK` rows without the kernel.

        Everything that is summed over neighbours goes into one array, one row of 64 numbers per
        sum, and through one `cumsum`: a call per feature would cost a single row ten times as
        much, and the order of additions does not depend on the number of rows.
        """
        near = self._neighbours(Asked(places, similar, limits, context))
        nothing = np.isinf(near.distance[:, 0])
        if nothing.any():  # any number: these rows get the prior
            near.distance[nothing] = 0.0
        target = self.target.take(near.index)
        likes = len(BANDWIDTHS) if similar is not None and len(self.similar) else 0
        contexts = self.context.shape[1]
        means = 1 + likes  # the plain mean, and one per bandwidth
        gap_row, context_row = 2 * means, 2 * means + 1
        spread_row = context_row + contexts
        sums = np.empty((len(places), spread_row + 2, STEPS[-1]))
        sums[:, 0] = 1.0 / (near.distance + self.softening)
        sums[:, gap_row] = 0.0
        if similar is not None and likes:
            gap = self.similar.take(near.index) - similar[:, None]
            # The added constant keeps a mean defined when no neighbour resembles the row.
            kernels = np.exp((gap * gap)[:, None, :] * _KERNEL_FACTORS) + 1e-6
            np.multiply(sums[:, :1], kernels, out=sums[:, 1:means])
            np.multiply(sums[:, 0], gap, out=sums[:, gap_row])
        np.multiply(sums[:, :means], target[:, None, :], out=sums[:, means:gap_row])
        if contexts:
            sums[:, context_row:spread_row] = self.context.take(near.index, axis=0).transpose(
                0, 2, 1
            )
        # Centred on the nearest neighbour, so that squares do not cancel.
        deviation = target - target[:, :1]
        sums[:, spread_row] = deviation
        sums[:, spread_row + 1] = deviation * deviation

        sums.cumsum(axis=2, out=sums)
        at = sums.take(_STEP_COLUMNS, axis=2)
        mean = at[:, means:gap_row] / at[:, :means]
        blocks = [mean[:, 0]]
        if likes:
            blocks.append(mean[:, 1:, _WIDE].reshape(len(places), -1))
            effect = at[:, gap_row, _WIDE] / at[:, 0, _WIDE]
            blocks.append(mean[:, 0, _WIDE] - self.slope * effect)
        nearest = at[:, context_row:, _NEAREST_STEP] / _NEAREST
        blocks.append(nearest[:, :contexts])
        offset = nearest[:, contexts]
        variance = np.maximum(nearest[:, contexts + 1] - offset * offset, 0.0)
        blocks.append(np.sqrt(variance)[:, None])
        blocks.append(near.distance.take(_DISTANCE_COLUMNS, axis=1))
        result = np.concatenate(blocks, axis=1)
        if nothing.any():
            result[nothing] = self._prior
        return result

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return the fitted state as JSON values and arrays."""
        spec: dict[str, Any] = {"slope": self.slope, "softening": self.softening}
        arrays = {name: getattr(self, name) for name in ("points", "target", "similar", "context")}
        if self.times is not None:
            spec["age_scale"], arrays["times"] = self.age_scale, self.times
        if self.excludes_own:
            spec["excludes_own"] = True
        if self.in_order:
            spec["in_order"] = True
        # asking thousands of rows for it would be an eighth of the time of loading a bundle
        spec["reach"] = self.reach if np.isfinite(self.reach) else None
        return spec, arrays

    @classmethod
    def from_state(cls, spec: Mapping[str, Any], arrays: Mapping[str, Floats]) -> ComparablesIndex:
        """Rebuild from `state`; the tree is built again, which gives the same tree.

        Raises:
            KeyError, ValueError: The state is incomplete, or its arrays do not fit together.
        """
        index = cls(
            points=arrays["points"],
            target=arrays["target"],
            similar=arrays["similar"],
            context=arrays["context"],
            slope=float(spec["slope"]),
            softening=float(spec["softening"]),
            times=arrays.get("times"),
            age_scale=float(spec.get("age_scale", 0.0)),
            excludes_own=bool(spec.get("excludes_own", False)),
            in_order=bool(spec.get("in_order", spec.get("excludes_own", "times" in arrays))),
        )
        m = len(index.target)
        if index.times is not None and (
            index.times.shape != (m,) or (np.diff(index.times) < 0).any()
        ):
            raise ValueError("the comparables' dates do not ascend, or are not one for each")
        lengths = {len(index.points), len(index.context), len(index.similar) or m}
        if lengths != {m} or {index.points.ndim, index.context.ndim} != {2}:
            raise ValueError("the comparables' arrays do not fit together")
        if "reach" in spec:  # as `cached_property` would have kept it
            reach = spec["reach"]
            index.__dict__["reach"] = np.inf if reach is None else float(reach)
        # built on loading rather than inside the first valuation
        _ = index._compact, index.reach
        return index


def _age_scale(points: Floats) -> float:
    """Return the distance that a second of age counts as.

    A year counts as the way to the 16th neighbour: means are taken over so many and more, and a
    sale of last year ousts one of today only where it is nearer by as much as these differ. Neither
    a quarter of it, nor four times as much, nor none at all was better out of time on King County.
    """
    rows = np.linspace(0, len(points) - 1, min(len(points), _AGE_ROWS)).astype(np.intp)
    distance, _ = tree_of(points).query(points[rows], k=[min(_NEAREST, len(points))])
    way = float(np.median(distance))
    return (way if way > 0.0 else 10.0 * _typical_spacing(points)) / _YEAR


def _typical_spacing(points: Floats) -> float:
    """Return a tenth of the median side of the box that one point would have to itself."""
    if len(points) < 2:
        return 1e-9
    span = np.ptp(points, axis=0)
    span = span[span > 0]
    if not len(span):
        return 1e-9
    side = float(np.exp(np.mean(np.log(span)))) / len(points) ** (1 / len(span))
    return float(max(0.1 * side, 1e-9))


def _chunks(n: int) -> Iterator[slice]:
    yield from (slice(start, start + _CHUNK) for start in range(0, max(n, 1), _CHUNK))
