"""Comparables: what the nearest known sales say about a row.

The strongest features there are for a valuation. A k-d tree over the training rows answers, for
each row, its 64 nearest neighbours; their transformed targets become distance-weighted means over
the first k of them, the same weighted by resemblance in one attribute (for houses: income),
means of the targets with that attribute's effect taken out, their spread and their distances.

In training the features are cross-fitted: a row's neighbours come from the other folds only, so
that no row ever sees its own target. At predict time the index holds all training rows.
`CompactIndex` searches and sums them in `neighbours_kernel.c`, with the bits of numpy's. It takes
over a cKDTree's cells and the training rows' arrays. The exponential alone is left to numpy, whose
vectors round it in their own way.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tasador.core.kernels import MISFIT, Library, native
from tasador.core.parallel import in_parallel

Floats = NDArray[np.float64]

#: Numbers of neighbours over which means are taken.
STEPS = (1, 2, 4, 8, 16, 32, 64)
#: The larger ones, used where one or two neighbours say nothing.
WIDE_STEPS = (8, 16, 32, 64)
#: Bandwidths of the resemblance kernel, in log units of the attribute.
BANDWIDTHS = (0.1, 0.3)
_NEAREST = 16
_DISTANCES = (1, 4, 16)
_STEP_COLUMNS = np.array(STEPS) - 1
_DISTANCE_COLUMNS = np.array(_DISTANCES) - 1
_WIDE = slice(STEPS.index(WIDE_STEPS[0]), None)
_NEAREST_STEP = STEPS.index(_NEAREST)
_KERNEL_FACTORS = np.array([[-0.5 / bandwidth**2] for bandwidth in BANDWIDTHS])
_PROOF_ROWS = 128
#: The comparable whose distance says how much is known about a place (one alone may be misplaced),
#: the share of the training rows that have it within reach, and how many of them are asked.
FAR_NEIGHBOUR = 4
REACH_QUANTILE = 0.999
_REACH_ROWS = 20_000

_logger = logging.getLogger(__name__)

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

    @cached_property
    def _compact(self) -> CompactIndex | None:
        """The compiled search and sums, once they gave the same bits as those written here."""
        library = native().library
        if library is None or not self.size:
            return None
        try:
            compact = CompactIndex(self, self._tree, _KERNEL_FACTORS[:, 0], library)
        except ValueError as error:
            _logger.warning("comparables are found by scipy, not by the kernel: %s", error)
            return None
        rows = self._proof_rows()
        found = compact.features(*rows)
        if found is not None and np.array_equal(found, self._features(*rows), equal_nan=True):
            return compact
        _logger.warning(
            "comparables are found by scipy, not by the compiled kernel: their answers differ on"
            " this machine; please report the processor and the versions of numpy and scipy"
        )
        return None

    def _proof_rows(self) -> tuple[Floats, Floats | None]:
        """Return places among the training rows, where distances tie, and beside them."""
        at = np.linspace(0, self.size - 1, _PROOF_ROWS).astype(np.intp)
        beside = (self.points[at] + self.points[at[::-1]]) / 2.0
        similar = np.concatenate([self.similar[at]] * 2) if len(self.similar) else None
        return np.concatenate([self.points[at], beside]), similar

    @cached_property
    def reach(self) -> float:
        """How far away the `FAR_NEIGHBOUR`-th other row is of nearly all training rows.

        A row whose own is farther away is like none of them. Infinite where rows cannot be told
        apart by place.
        """
        rows = np.linspace(0, self.size - 1, min(self.size, _REACH_ROWS)).astype(np.intp)
        others = min(FAR_NEIGHBOUR + 1, self.size)  # the nearest one is the row itself
        distance, _ = self._tree.query(self.points[rows], k=[others])
        usual = float(np.quantile(distance, REACH_QUANTILE))
        return usual if usual > 0.0 else np.inf

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

    def features(self, points: Floats, similar: Floats | None, out: Floats | None = None) -> Floats:
        """Return the comparables' features (n, q) of rows at `points` (n, d).

        Args:
            points: Where the rows lie, in the index's scaled space.
            similar: Shape (n,): log of the rows' own attribute; None when the index has none.
            out: Shape (n, q), a row's numbers side by side: where to write them; else a new array.
        """
        if self._compact is not None:
            found = self._compact.features(points, similar, out)
            if found is not None:
                return found
        blocks = [
            self._features(points[rows], None if similar is None else similar[rows])
            for rows in _chunks(len(points))
        ]
        return np.concatenate(blocks, out=out)

    def _features(self, points: Floats, similar: Floats | None) -> Floats:
        """Value up to `_CHUNK` rows without the kernel.

        Everything that is summed over neighbours goes into one array, one row of 64 numbers per
        sum, and through one `cumsum`: a call per feature would cost a single row ten times as
        much, and the order of additions does not depend on the number of rows.
        """
        near = self.neighbours(points)
        target = self.target.take(near.index)
        likes = len(BANDWIDTHS) if similar is not None and len(self.similar) else 0
        contexts = self.context.shape[1]
        means = 1 + likes  # the plain mean, and one per bandwidth
        gap_row, context_row = 2 * means, 2 * means + 1
        spread_row = context_row + contexts
        sums = np.empty((len(points), spread_row + 2, STEPS[-1]))
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
            blocks.append(mean[:, 1:, _WIDE].reshape(len(points), -1))
            effect = at[:, gap_row, _WIDE] / at[:, 0, _WIDE]
            blocks.append(mean[:, 0, _WIDE] - self.slope * effect)
        nearest = at[:, context_row:, _NEAREST_STEP] / _NEAREST
        blocks.append(nearest[:, :contexts])
        offset = nearest[:, contexts]
        variance = np.maximum(nearest[:, contexts + 1] - offset * offset, 0.0)
        blocks.append(np.sqrt(variance)[:, None])
        blocks.append(near.distance.take(_DISTANCE_COLUMNS, axis=1))
        return np.concatenate(blocks, axis=1)

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return the fitted state as JSON values and arrays."""
        spec = {"slope": self.slope, "softening": self.softening}
        arrays = {name: getattr(self, name) for name in ("points", "target", "similar", "context")}
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
        )
        m = len(index.target)
        lengths = {len(index.points), len(index.context), len(index.similar) or m}
        if lengths != {m} or {index.points.ndim, index.context.ndim} != {2}:
            raise ValueError("the comparables' arrays do not fit together")
        # built on loading rather than inside the first valuation
        _ = index._tree, index._compact, index.reach
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
    numbers: list[int] = np.unique(folds).tolist()
    if not numbers:
        raise ValueError("no rows to cross-fit")

    def block(fold: int) -> Floats:
        held = folds == fold
        rest = ~held
        index = ComparablesIndex.fit(
            points[rest], target[rest], None if similar is None else similar[rest], context[rest]
        )
        return index.features(points[held], None if similar is None else similar[held])

    blocks = dict(in_parallel(block, numbers))
    result = np.empty((len(points), blocks[0].shape[1]))
    for place, fold in enumerate(numbers):
        result[folds == fold] = blocks[place]
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


#: What the kernel is compiled for.
_NEIGHBOURS = STEPS[-1]
_MOST_SERIES = 64
_NOT_FINITE = 2
#: Rows searched at a time: their work arrays stay in the processor's second cache.
_KERNEL_CHUNK = 256
_CELL = np.dtype(
    [("split", "f8"), ("axis", "i4"), ("less", "u4"), ("greater", "u4"), ("unused", "u4")]
)


class _Index(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "cells", "points", "indices", "low", "high", "target", "similar", "context", "factors",
        )),
        *((name, ctypes.c_uint64) for name in (
            "size", "dimensions", "contexts", "bandwidths", "n_cells",
        )),
        ("slope", ctypes.c_double),
        ("softening", ctypes.c_double),
    )  # fmt: skip


class CompactIndex:
    """Finds and describes comparables; may be used from several threads at once.

    Args:
        source: The training rows.
        tree: A cKDTree over their points.
        factors: Shape (b,): of the squared gap, in the exponents of the resemblance kernels.
        library: The compiled kernels.

    Raises:
        ValueError: The arrays do not fit together, or are too many.
    """

    def __init__(
        self, source: ComparablesIndex, tree: Any, factors: Floats, library: Library
    ) -> None:
        size, dimensions = source.points.shape
        order = np.array(tree.indices, dtype=np.int64)
        has_similar = len(source.similar) > 0
        contexts = source.context.shape[1]
        likes = len(factors) if has_similar else 0
        wide = (likes + bool(likes)) * len(WIDE_STEPS)
        self.width = len(STEPS) + wide + contexts + 1 + len(_DISTANCES)
        if 2 * (1 + likes) + contexts + 3 > _MOST_SERIES:
            raise ValueError(f"{contexts} context columns are too many for the kernel")
        self._likes = likes
        arrays = {
            "cells": _cells(tree),
            "points": np.ascontiguousarray(source.points[order], dtype=np.float64),
            "indices": order,
            "low": np.array(tree.mins, dtype=np.float64),
            "high": np.array(tree.maxes, dtype=np.float64),
            "target": np.ascontiguousarray(source.target, dtype=np.float64),
            "similar": np.ascontiguousarray(source.similar, dtype=np.float64),
            "context": np.ascontiguousarray(source.context, dtype=np.float64),
            "factors": np.ascontiguousarray(factors, dtype=np.float64),
        }
        _check(arrays, size, dimensions, has_similar)
        self._arrays = arrays
        self._index = _Index(
            **{name: array.ctypes.data for name, array in arrays.items()},
            size=size,
            dimensions=dimensions,
            contexts=contexts,
            bandwidths=likes,
            n_cells=len(arrays["cells"]),
            slope=source.slope,
            softening=source.softening,
        )
        self._pointer = ctypes.addressof(self._index)
        self._library = library
        if library.check_index(self._pointer):
            raise ValueError("the comparables' arrays do not fit together")

    def features(
        self, points: Floats, similar: Floats | None, out: Floats | None = None
    ) -> Floats | None:
        """Return the features (n, q) of rows; None when that is left to numpy.

        It is for points that are not finite, and where only the rows or only the training rows
        have an attribute of resemblance.

        Args:
            points: Shape (n, d), where the rows lie.
            similar: Shape (n,): the rows' own attribute of resemblance, or None.
            out: Shape (n, q), a row's numbers side by side: where to write them; else a new array.

        Raises:
            ValueError: The rows, or `out`, have another shape than the index.
            MemoryError: No memory for the search.
        """
        if (similar is not None) != (self._likes > 0):
            return None
        result = np.empty((len(points), self.width)) if out is None else out
        if len(result) != len(points) or (similar is not None and similar.shape != (len(points),)):
            raise ValueError("one row of features and one attribute are needed for each point")
        points = np.ascontiguousarray(points, dtype=np.float64)
        similar = None if similar is None else np.ascontiguousarray(similar, dtype=np.float64)
        for start in range(0, len(points), _KERNEL_CHUNK):
            rows = slice(start, start + _KERNEL_CHUNK)
            part = None if similar is None else similar[rows]
            if self._find(points[rows], part, result[rows]) is None:
                return None
        return result

    def neighbours(self, points: Floats) -> tuple[NDArray[np.int64], Floats] | None:
        """Return the 64 nearest rows of `points` (n, d): positions and distances (n, 64)."""
        points = np.ascontiguousarray(points, dtype=np.float64)
        work = self._find(points, None, None)
        if work is None:
            return None
        index, distance = work[: 2 * points.shape[0] * _NEIGHBOURS].reshape(2, -1, _NEIGHBOURS)
        return index.view(np.int64), distance

    def _find(self, points: Floats, similar: Floats | None, out: Floats | None) -> Floats | None:
        """Search for a chunk of rows and write their features to `out`; return the work array.

        It holds positions, distances, gaps and kernels, one after the other: asking numpy for an
        array's address costs as much as valuing a row.
        """
        n, block = len(points), len(points) * _NEIGHBOURS
        likes = 0 if similar is None else self._likes
        work = np.empty((2 + bool(likes) + likes) * block)
        index = work.ctypes.data
        distances, gaps = index + 8 * block, index + 16 * block if likes else 0
        kernels = index + 24 * block if likes else 0
        failed = self._library.nearest(
            self._pointer, points.ctypes.data, points.shape[1],
            0 if similar is None else similar.ctypes.data, n, index, distances, gaps, kernels,
        )  # fmt: skip
        if failed == _NOT_FINITE:
            return None
        if failed == MISFIT:
            raise ValueError(f"points of shape {points.shape} do not fit the comparables")
        if failed:
            raise MemoryError
        if likes:
            exponents = work[3 * block :]
            np.exp(exponents, out=exponents)
        if out is not None and self._library.comparables(
            self._pointer, index, distances, gaps, kernels, n,
            out.ctypes.data, out.shape[1], out.strides[0] // out.itemsize,
        ):  # fmt: skip
            raise ValueError(f"{out.shape[1]} features asked for, there are {self.width}")
        return work


def _cells(tree: Any) -> NDArray[Any]:
    """Return the tree's cells, each before its children."""
    cells: list[tuple[float, int, int, int, int]] = []
    waiting = [(tree.tree, -1, False)]
    while waiting:
        node, parent, is_greater = waiting.pop()
        if parent >= 0:
            split, axis, less, greater, _ = cells[parent]
            children = (less, len(cells)) if is_greater else (len(cells), greater)
            cells[parent] = (split, axis, *children, 0)
        if node.split_dim < 0:
            cells.append((0.0, -1, node.start_idx, node.end_idx, 0))
            continue
        cells.append((node.split, node.split_dim, 0, 0, 0))
        waiting.append((node.greater, len(cells) - 1, True))
        waiting.append((node.lesser, len(cells) - 1, False))
    return np.array(cells, dtype=_CELL)


def _check(arrays: dict[str, NDArray[Any]], size: int, dimensions: int, similar: bool) -> None:
    """Refuse arrays that would lead the kernel outside of them.

    Raises:
        ValueError: They do not fit together.
    """
    fits = (
        0 < size < 2**32
        and dimensions > 0
        and arrays["target"].shape == (size,)
        and arrays["context"].ndim == 2
        and len(arrays["context"]) == size
        and arrays["similar"].shape == ((size,) if similar else (0,))
        and arrays["low"].shape == arrays["high"].shape == (dimensions,)
    )
    if not fits:
        raise ValueError("the comparables' arrays do not fit together")
