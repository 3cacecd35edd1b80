"""`CompactIndex`: comparables found and summed by `neighbours_kernel.c`.

The code in `comparables.py` stays the definition: this gives the same bits.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasador.core.kernels import MISFIT, Library

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

    from tasador.features.comparables import ComparablesIndex

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

#: Numbers of neighbours over which means are taken.
STEPS = (1, 2, 4, 8, 16, 32, 64)
#: The larger ones, used where one or two neighbours say nothing.
WIDE_STEPS = (8, 16, 32, 64)
#: The neighbours whose distances are features.
DISTANCES = (1, 4, 16)

_NEIGHBOURS = STEPS[-1]
_MOST_SERIES = 64
_NOT_FINITE = 2
#: Rows searched at a time: their work arrays stay in the processor's second cache.
_KERNEL_CHUNK = 256
_LEAF = 24
_CELL = np.dtype(
    [("split", "f8"), ("axis", "i4"), ("less", "u4"), ("greater", "u4"), ("earliest", "u4")]
)


class Asked(NamedTuple):
    """Rows that are asked about, as they are searched.

    Attributes:
        places: Shape (n, d), or (n, d + 1) with dates: where they lie.
        similar: Shape (n,): their own attribute of resemblance, or None.
        limits: Shape (n,): only training rows before this position inform them; None is all.
        context: Shape (n, c) where a row is not to inform itself, else None.
    """

    places: Floats
    similar: Floats | None
    limits: Positions | None
    context: Floats | None

    def take(self, rows: slice | Positions) -> Asked:
        """Return some of the rows."""
        return Asked(*(None if values is None else values[rows] for values in self))  # type: ignore[arg-type]


class Found(NamedTuple):
    """The neighbours of rows.

    Attributes:
        places: Shape (n, d), or (n, d + 1) with dates: where the rows lie.
        positions: Shape (n, 64) at most: the nearest training rows that inform them; the last is
            repeated where there are fewer.
        distances: Of the same shape: their distances; infinite where none informs a row.
    """

    places: Floats
    positions: Positions
    distances: Floats


class _Index(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "cells", "points", "indices", "low", "high", "target", "similar", "context", "factors",
            "prior",
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
        factors: Shape (b,): of the squared gap, in the exponents of the resemblance kernels.
        library: The compiled kernels.

    Raises:
        ValueError: The arrays do not fit together, or are too many.
    """

    def __init__(self, source: ComparablesIndex, factors: Floats, library: Library) -> None:
        size, dimensions = source._places.shape
        cells, order = halved(source._places)
        has_similar = len(source.similar) > 0
        contexts = source.context.shape[1]
        likes = len(factors) if has_similar else 0
        wide = (likes + bool(likes)) * len(WIDE_STEPS)
        self.width = len(STEPS) + wide + contexts + 1 + len(DISTANCES)
        if 2 * (1 + likes) + contexts + 3 > _MOST_SERIES:
            raise ValueError(f"{contexts} context columns are too many for the kernel")
        self._likes, self._contexts = likes, contexts
        arrays = {
            "cells": cells,
            "points": np.ascontiguousarray(source._places[order], dtype=np.float64),
            "indices": order.astype(np.int64, copy=False),
            "low": source._places.min(axis=0),
            "high": source._places.max(axis=0),
            "target": np.ascontiguousarray(source.target, dtype=np.float64),
            "similar": np.ascontiguousarray(source.similar, dtype=np.float64),
            "context": np.ascontiguousarray(source.context, dtype=np.float64),
            "factors": np.ascontiguousarray(factors, dtype=np.float64),
            "prior": source._prior,
        }
        _check(arrays, size, dimensions, has_similar)
        self._arrays = arrays
        addresses = {name: array.ctypes.data for name, array in arrays.items()}
        self._index = _Index(
            **addresses,
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
        self,
        points: Floats,
        similar: Floats | None,
        limits: Positions | None = None,
        context: Floats | None = None,
        out: Floats | None = None,
        found: list[Found] | None = None,
    ) -> Floats | None:
        """Return the features (n, q) of rows; None when that is left to numpy.

        It is for points that are not finite, and where only the rows or only the training rows
        have an attribute of resemblance.

        Args:
            points: Shape (n, d), where the rows lie.
            similar: Shape (n,): the rows' own attribute of resemblance, or None.
            limits: Shape (n,): only training rows before this position inform them; None is all.
            context: Shape (n, c) where a row is not to inform itself, else None.
            out: Shape (n, q), a row's numbers side by side: where to write them; else a new array.
            found: Gets the neighbours, where the rows are few enough to be searched at once.

        Raises:
            ValueError: The rows, or `out`, have another shape than the index.
            MemoryError: No memory for the search.
        """
        if (similar is not None) != (self._likes > 0):
            return None
        n = len(points)
        result = np.empty((n, self.width)) if out is None else out
        work: Floats | None = None
        if len(result) != n:
            raise ValueError("one row of features is needed for each point")
        asked = self._prepared(points, similar, limits, context)
        for start in range(0, n, _KERNEL_CHUNK):
            rows = slice(start, start + _KERNEL_CHUNK)
            work = self._find(asked.take(rows), result[rows], work)
            if work is None:
                return None
        if found is not None and work is not None and n <= _KERNEL_CHUNK:
            found.append(Found(points, *_neighbours_in(work, n)))
        return result

    def neighbours(
        self,
        points: Floats,
        similar: Floats | None = None,
        limits: Positions | None = None,
        context: Floats | None = None,
    ) -> tuple[NDArray[np.int64], Floats] | None:
        """Return the 64 nearest rows that inform `points` (n, d): positions, distances (n, 64)."""
        work = self._find(self._prepared(points, similar, limits, context), None)
        return None if work is None else _neighbours_in(work, len(points))

    def _prepared(
        self,
        points: Floats,
        similar: Floats | None,
        limits: Positions | None,
        context: Floats | None,
    ) -> Asked:
        """Return the rows as the kernel reads them, a row's numbers side by side."""
        n = len(points)
        if similar is not None and similar.shape != (n,):
            raise ValueError("one attribute is needed for each point")
        if limits is not None and limits.shape != (n,):
            raise ValueError("one limit is needed for each point")
        if context is not None and context.shape != (n, self._contexts):
            raise ValueError(f"{self._contexts} context columns are needed for each point")
        return Asked(
            np.ascontiguousarray(points, dtype=np.float64),
            None if similar is None else np.ascontiguousarray(similar, dtype=np.float64),
            None if limits is None else np.ascontiguousarray(limits, dtype=np.int64),
            None if context is None else np.ascontiguousarray(context, dtype=np.float64),
        )

    def _find(self, asked: Asked, out: Floats | None, used: Floats | None = None) -> Floats | None:
        """Search for a chunk of rows and write their features to `out`; return the work array.

        It holds positions, distances, gaps and kernels, one after the other: asking numpy for an
        array's address costs as much as valuing a row. Without `out` there are no kernels yet. The
        array of a chunk before, `used`, is taken again: new pages cost a tenth of the search.
        """
        points, similar, limits, context = asked
        n, block = len(points), len(points) * _NEIGHBOURS
        likes = 0 if similar is None else self._likes
        size = (2 + bool(likes) + likes) * block
        work = np.empty(size) if used is None or len(used) < size else used
        index = work.ctypes.data
        distances, gaps = index + 8 * block, index + 16 * block if likes else 0
        kernels = index + 24 * block if likes else 0
        failed = self._library.nearest(
            self._pointer, points.ctypes.data, points.shape[1],
            0 if similar is None else similar.ctypes.data,
            0 if limits is None else limits.ctypes.data,
            0 if context is None else context.ctypes.data,
            n, index, distances, gaps, kernels,
        )  # fmt: skip
        if failed == _NOT_FINITE:
            return None
        if failed == MISFIT:
            raise ValueError(f"points of shape {points.shape} do not fit the comparables")
        if failed:
            raise MemoryError
        if likes and out is not None:
            exponents = work[3 * block : size]
            np.exp(exponents, out=exponents)
        if out is not None and self._library.comparables(
            self._pointer, index, distances, gaps, kernels, n,
            out.ctypes.data, out.shape[1], out.strides[0] // out.itemsize,
        ):  # fmt: skip
            raise ValueError(f"{out.shape[1]} features asked for, there are {self.width}")
        return work


def _neighbours_in(work: Floats, n: int) -> tuple[NDArray[np.int64], Floats]:
    """Return positions and distances (n, 64) of the array that `_find` gives."""
    index, distance = work[: 2 * n * _NEIGHBOURS].reshape(2, n, _NEIGHBOURS)
    return index.view(np.int64), distance


def tree_of(points: Floats) -> cKDTree:
    """Return the k-d tree of points (n, d)."""
    # a quarter of a second to import, which commands that value nothing do without
    from scipy.spatial import cKDTree

    return cKDTree(points)


def halved(points: Floats) -> tuple[NDArray[Any], Positions]:
    """Return a k-d tree of points (m, d): its cells, and the points in the order of its leaves.

    All leaves are equally deep, so that a level is halved by one call: a cell's points in a row of
    a matrix, split at the middle of the axis along which they are spread most. A leaf has at most
    24 points; points that are missing for whole rows lie infinitely far away, behind all others.
    """
    m, d = points.shape
    levels = max(0, (m - 1) // _LEAF).bit_length()
    leaf = -(-m // 2**levels)
    order = np.arange(leaf * 2**levels).reshape(1, -1)
    coordinates = np.full((d, *order.shape), np.inf)
    coordinates[:, 0, :m] = points.T
    cells = np.zeros(2 ** (levels + 1) - 1, _CELL)
    for level in range(levels):
        axis = _widest(coordinates)
        along = coordinates[axis, np.arange(2**level)]
        half = along.shape[1] // 2
        parted = np.argpartition(along, half, axis=1)
        of_level = cells[2**level - 1 : 2 ** (level + 1) - 1]
        of_level["axis"] = axis
        of_level["split"] = along[np.arange(2**level), parted[:, half]]
        # kept in the cells' order: what is read together lies together
        for values in (order, *coordinates):
            values[:] = np.take_along_axis(values, parted, axis=1)
        order = order.reshape(2 * len(order), half)
        coordinates = coordinates.reshape(d, *order.shape)
    inner = np.arange(2**levels - 1)
    cells["less"][: len(inner)], cells["greater"][: len(inner)] = 2 * inner + 1, 2 * inner + 2
    leaves = np.sort(order, axis=1)  # equally near ones nearly in order
    of_leaves = cells[len(inner) :]
    of_leaves["axis"] = -1
    of_leaves["less"] = np.minimum(np.arange(2**levels) * leaf, m)
    of_leaves["greater"] = np.minimum(of_leaves["less"] + leaf, m)
    earliest = np.minimum(leaves[:, 0], m)
    for level in range(levels, -1, -1):
        cells["earliest"][2**level - 1 : 2 ** (level + 1) - 1] = earliest
        earliest = earliest.reshape(-1, 2).min(axis=1) if level else earliest
    return cells, leaves.ravel()[:m]


def _widest(coordinates: Floats) -> Positions:
    """Return the axis along which each cell's points are spread most, of (d, cells, points)."""
    high, low = coordinates.max(axis=2), coordinates.min(axis=2)
    endless = np.isinf(high[0])  # the cells that hold points that are missing
    for most, values in zip(high, coordinates, strict=True):
        some = values[endless]
        most[endless] = np.where(np.isfinite(some), some, -np.inf).max(axis=1)
    axis: Positions = (high - low).argmax(axis=0)
    return axis


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
