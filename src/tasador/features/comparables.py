"""Comparables: what the nearest known sales say about a row.

The strongest features there are for a valuation. A k-d tree over the training rows answers, for
each row, its 64 nearest neighbours; their transformed targets become distance-weighted means over
the first k of them, the same weighted by resemblance in one attribute (for houses: income),
means of the targets with that attribute's effect taken out, their spread and their distances.

In training the features are cross-fitted: a row's neighbours come from the other folds only, so
that no row ever sees its own target. At predict time the index holds all training rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]

#: Numbers of neighbours over which means are taken.
STEPS = (1, 2, 4, 8, 16, 32, 64)
#: The larger ones, used where one or two neighbours say nothing.
WIDE_STEPS = (8, 16, 32, 64)
#: Bandwidths of the resemblance kernel, in log units of the attribute.
BANDWIDTHS = (0.1, 0.3)
_NEAREST = 16
_DISTANCES = (1, 4, 16)
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
    """

    points: Floats
    target: Floats
    similar: Floats
    context: Floats
    slope: float
    softening: float

    @classmethod
    def fit(
        cls, points: Floats, target: Floats, similar: Floats | None, context: Floats
    ) -> ComparablesIndex:
        """Build the index over m training rows; nothing may be NaN."""
        empty = np.empty(0)
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
        )

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.points)

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
        return (*names, "comparables_spread", *(f"comparables_distance_{k}" for k in _DISTANCES))

    def neighbours(self, points: Floats, k: int = STEPS[-1]) -> Neighbours:
        """Return the `k` nearest training rows of each of `points` (n, d), nearest first.

        With fewer than `k` training rows the farthest is repeated.
        """
        found = min(k, self.size)
        distance, index = self._tree.query(points, k=found)
        if found == 1:
            distance, index = distance[:, None], index[:, None]
        if found < k:
            pad = ((0, 0), (0, k - found))
            distance, index = np.pad(distance, pad, mode="edge"), np.pad(index, pad, mode="edge")
        return Neighbours(index, distance)

    def features(self, points: Floats, similar: Floats | None) -> Floats:
        """Return the comparables' features (n, q) of rows at `points` (n, d).

        Args:
            points: Where the rows lie, in the index's scaled space.
            similar: Shape (n,): log of the rows' own attribute; None when the index has none.
        """
        blocks = [
            self._features(points[rows], None if similar is None else similar[rows])
            for rows in _chunks(len(points))
        ]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _features(self, points: Floats, similar: Floats | None) -> Floats:
        near = self.neighbours(points)
        target = self.target[near.index]
        sums = _RunningSums(len(points), self._sums_needed(similar))
        weight = sums.add(1.0 / (near.distance + self.softening))
        weighted = sums.add_product(weight, target)
        likes: list[tuple[int, int]] = []
        weighted_gap = -1
        if similar is not None and len(self.similar):
            gap = self.similar[near.index] - similar[:, None]
            weighted_gap = sums.add_product(weight, gap)
            squared = gap * gap
            for bandwidth in BANDWIDTHS:
                # The added constant keeps a mean defined when no neighbour resembles the row.
                kernel = np.exp(squared * (-0.5 / bandwidth**2)) + 1e-6
                like = sums.add_product(weight, kernel)
                likes.append((like, sums.add_product(like, target)))
        contexts = [sums.add(column[near.index]) for column in self._context_columns]
        # Centred on the nearest neighbour, so that squares do not cancel.
        deviation = sums.add(target - target[:, :1])
        deviation_squared = sums.add_product(deviation, sums.row(deviation))

        sums.run()
        blocks = [sums.at(weighted, STEPS) / sums.at(weight, STEPS)]
        blocks += [sums.at(top, WIDE_STEPS) / sums.at(bottom, WIDE_STEPS) for bottom, top in likes]
        if likes:
            effect = sums.at(weighted_gap, WIDE_STEPS) / sums.at(weight, WIDE_STEPS)
            blocks.append(blocks[0][:, -len(WIDE_STEPS) :] - self.slope * effect)
        blocks += [sums.at(context, (_NEAREST,)) / _NEAREST for context in contexts]
        mean = sums.at(deviation, (_NEAREST,)) / _NEAREST
        square = sums.at(deviation_squared, (_NEAREST,)) / _NEAREST
        blocks.append(np.sqrt(np.maximum(square - mean * mean, 0.0)))
        blocks.append(near.distance[:, [k - 1 for k in _DISTANCES]])
        return np.concatenate(blocks, axis=1)

    def _sums_needed(self, similar: Floats | None) -> int:
        likes = 1 + 2 * len(BANDWIDTHS) if similar is not None and len(self.similar) else 0
        return 4 + likes + len(self._context_columns)

    @cached_property
    def _context_columns(self) -> list[Floats]:
        return [np.ascontiguousarray(column) for column in self.context.T]

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return the fitted state as JSON values and arrays."""
        spec = {"slope": self.slope, "softening": self.softening}
        arrays = {name: getattr(self, name) for name in ("points", "target", "similar", "context")}
        return spec, arrays

    @classmethod
    def from_state(cls, spec: Mapping[str, Any], arrays: Mapping[str, Floats]) -> ComparablesIndex:
        """Rebuild from `state`; the tree is built anew, which gives the same tree."""
        index = cls(
            points=arrays["points"],
            target=arrays["target"],
            similar=arrays["similar"],
            context=arrays["context"],
            slope=float(spec["slope"]),
            softening=float(spec["softening"]),
        )
        _ = index._tree  # built on loading rather than inside the first valuation
        return index


def cross_fitted(
    points: Floats,
    target: Floats,
    similar: Floats | None,
    context: Floats,
    folds: NDArray[np.intp],
) -> Floats:
    """Return training features (n, q) in which no row sees its own fold's targets.

    Args:
        points: Shape (n, d), scaled.
        target: Shape (n,), transformed.
        similar: Shape (n,) or None.
        context: Shape (n, c).
        folds: Shape (n,): the fold of each row.
    """
    result: Floats | None = None
    for fold in np.unique(folds):
        held = folds == fold
        rest = ~held
        index = ComparablesIndex.fit(
            points[rest], target[rest], None if similar is None else similar[rest], context[rest]
        )
        block = index.features(points[held], None if similar is None else similar[held])
        if result is None:
            result = np.empty((len(points), block.shape[1]))
        result[held] = block
    if result is None:
        raise ValueError("no rows to cross-fit")
    return result


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


class _RunningSums:
    """Several rows of numbers per valued row, summed from left to right in one pass.

    One `cumsum` over everything costs a single valuation a tenth of what a call per feature does,
    and its order of additions does not depend on the number of rows.
    """

    def __init__(self, n: int, rows: int) -> None:
        self._values = np.empty((n, rows, STEPS[-1]))
        self._used = 0

    def add(self, values: Floats) -> int:
        """Take in `values` (n, 64) and return their number."""
        self._values[:, self._used] = values
        self._used += 1
        return self._used - 1

    def add_product(self, row: int, values: Floats) -> int:
        """Take in the product of an earlier row and `values` (n, 64)."""
        np.multiply(self._values[:, row], values, out=self._values[:, self._used])
        self._used += 1
        return self._used - 1

    def row(self, row: int) -> Floats:
        """Return what was taken in as `row`."""
        return self._values[:, row]

    def run(self) -> None:
        """Replace every row by its running sums."""
        self._values.cumsum(axis=2, out=self._values)

    def at(self, row: int, steps: tuple[int, ...]) -> Floats:
        """Return the sums (n, len(steps)) over the first k numbers of `row`, for k of `steps`."""
        return self._values[:, row, _columns(steps)]


@cache
def _columns(steps: tuple[int, ...]) -> NDArray[np.intp]:
    return np.array(steps, dtype=np.intp) - 1
