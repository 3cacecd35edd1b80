"""`CompactPlain`: everything but imputing, dates and comparables in one pass of `columns_kernel.c`.

A row costs numpy some twenty calls of a microsecond each, whatever it does in them. The code in
`fitted.py` stays the definition: this gives the same bits.
"""

from __future__ import annotations

import ctypes
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.kernels import Library, native
from tasador.features.encoders import DATE_PARTS, date_parts
from tasador.features.plan import FARTHEST

if TYPE_CHECKING:
    from tasador.features.fitted import FittedFeatures
    from tasador.features.neighbours_kernel import Found

Floats = NDArray[np.float64]

_MOST_NUMBERS = 8192  # as in columns_kernel.c
_PROOF_ROWS = 64
_ARRAYS = (
    "numbers", "native", "ratios", "ratio_fill", "indicated", "one_hot", "means", "mean_values",
    "near", "scale", "centroids", "context",
)  # fmt: skip
_COUNTS = (
    "columns", "n_numbers", "n_ratios", "n_indicated", "n_one_hot", "n_means",
    "dimensions", "clusters", "cluster_place", "n_mean_values", "n_context",
)  # fmt: skip


_logger = logging.getLogger(__name__)


class _Plain(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        *((name, ctypes.c_uint64) for name in _COUNTS),
        ("similar", ctypes.c_int64),
        ("similar_floor", ctypes.c_double),
        ("farthest", ctypes.c_double),
    )


class CompactPlain:
    """Turns encoded rows into features; may be used from several threads at once.

    Args:
        features: What was fitted.
        library: The compiled kernels.

    Raises:
        ValueError: The fitted parts do not fit together, or are too many.
    """

    def __init__(self, features: FittedFeatures, library: Library) -> None:
        self._index = features.index if features.plan is not None else None
        self._library, self._width = library, len(features.names)
        self._columns = len(features.contract.features)
        arrays, place = _categories(features, _after_numbers(features))
        self._dates = list(_dates(features))
        arrays |= _numbers(features)
        similar, floor = -1, 0.0
        if features.plan is not None:
            plan, frame = features.plan, list(features._numeric_names)
            arrays["near"] = np.array([frame.index(name) for name in plan.near], np.int64)
            arrays["scale"] = np.ascontiguousarray(plan.scale, dtype=np.float64)
            if plan.similar_by is not None:
                similar, floor = frame.index(plan.similar_by), plan.similar_floor
            if self._index is not None and self._index.excludes_own:
                arrays["context"] = np.array([frame.index(n) for n in plan.context], np.int64)
        self._contexts = len(arrays["context"])
        self._time = features.time_position
        self._dimensions, self._has_similar = len(arrays["near"]), similar >= 0
        clusters = 0
        if features.clusters is not None:
            arrays["centroids"] = np.ascontiguousarray(
                features.clusters.centroids, dtype=np.float64
            )
            clusters = len(arrays["centroids"])
        self._comparables = place + (clusters + 1 if clusters else 0)
        _check(arrays, features, self._columns)
        self._arrays = arrays
        self._plain = _Plain(
            **{name: arrays[name].ctypes.data for name in _ARRAYS},
            columns=self._columns,
            n_numbers=len(arrays["numbers"]),
            n_ratios=len(arrays["ratio_fill"]),
            n_indicated=len(arrays["indicated"]),
            n_one_hot=len(arrays["one_hot"]),
            n_means=len(arrays["means"]),
            dimensions=self._dimensions,
            clusters=clusters,
            cluster_place=place,
            n_mean_values=len(arrays["mean_values"]),
            n_context=self._contexts,
            similar=similar,
            similar_floor=floor,
            farthest=FARTHEST,
        )
        self._pointer = ctypes.addressof(self._plain)

    def transform(self, X: Floats, filled: Floats, found: list[Found] | None = None) -> Floats:
        """Return the features (n, q) of encoded rows `X` (n, p), imputed in `filled` (n, p).

        `found` gets their neighbours; see `FittedFeatures.transform`.
        """
        n, d = len(X), self._dimensions
        X = np.ascontiguousarray(X, dtype=np.float64)
        filled = np.ascontiguousarray(filled, dtype=np.float64)
        if X.shape != (n, self._columns) or filled.shape != X.shape:
            raise ValueError(f"expected rows of {self._columns} columns, got shape {X.shape}")
        Z, places = np.empty((n, self._width)), np.empty((d + 1 + self._contexts) * n)
        address = places.ctypes.data
        if self._library.plain(
            self._pointer, X.ctypes.data, filled.ctypes.data, n, self._columns, Z.ctypes.data,
            self._width, address, d, address + 8 * d * n, address + 8 * (d + 1) * n,
        ):  # fmt: skip
            raise ValueError("the fitted features do not fit together")
        for column, place in self._dates:
            Z[:, place : place + len(DATE_PARTS)] = date_parts(filled[:, column])
        if self._index is not None:
            similar = places[d * n : (d + 1) * n]
            points = places[: d * n].reshape(n, d)
            log = np.log(similar) if self._has_similar else None
            times = None if self._time is None else X[:, self._time]
            context = places[(d + 1) * n :].reshape(n, self._contexts)
            self._index.features(points, log, times, context, Z[:, self._comparables :], found)
        return Z


def proven(features: FittedFeatures) -> CompactPlain | None:
    """Return the compiled pass for `features` if there is one and it gives the same bits."""
    library = native().library
    if library is None:
        return None
    X = _proof_rows(features)
    with np.errstate(all="ignore"):
        filled = features.imputer.fill(X)
        try:
            compact = CompactPlain(features, library)
            found = compact.transform(X, filled)
        except ValueError as error:
            _logger.warning("features are made by numpy, not by the compiled kernel: %s", error)
            return None
        same = np.array_equal(found, features._transform(X, filled), equal_nan=True)
    if not same:
        _logger.warning(
            "features are made by numpy, not by the compiled kernel: their answers differ on this"
            " machine; please report the processor and numpy's version"
        )
    return compact if same else None


def _proof_rows(features: FittedFeatures) -> Floats:
    """Return encoded rows about the columns' fills, with gaps, zeros and unknown categories."""
    rng = seeds.generator(_PROOF_ROWS, "features")
    fills = features.imputer.fills
    X = fills * rng.uniform(0.5, 1.5, (_PROOF_ROWS, len(fills)))
    X[rng.random(X.shape) < 0.1] = 0.0
    for column, levels in features._category_sizes:
        X[:, column] = rng.integers(-1, levels + 3, _PROOF_ROWS)
    X[rng.random(X.shape) < 0.1] = np.nan
    return X


def _numbers(features: FittedFeatures) -> dict[str, NDArray[Any]]:
    positions = np.asarray(features._numeric_positions, dtype=np.int64)
    top, bottom = features._ratio_positions
    if not len(features.ratio_fill):
        top = bottom = np.empty(0, np.intp)
    return {
        "numbers": positions,
        "native": np.isin(positions, features.imputer.native).astype(np.int64),
        "ratios": np.stack((top, bottom), axis=1).astype(np.int64),
        "ratio_fill": np.ascontiguousarray(features.ratio_fill, dtype=np.float64),
        "indicated": np.array(features.imputer.indicated, dtype=np.int64),
    }


def _after_numbers(features: FittedFeatures) -> int:
    return len(features._numeric_names) + len(features.imputer.indicated)


def _dates(features: FittedFeatures) -> list[tuple[int, int]]:
    """Return each date's column and its place among the features."""
    first = _after_numbers(features)
    return [(c, first + i * len(DATE_PARTS)) for i, c in enumerate(features._date_positions)]


def _categories(features: FittedFeatures, place: int) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the arrays about categories, and the place behind their features."""
    place += len(features._date_positions) * len(DATE_PARTS)
    one_hot, means, values, first = [], [], [np.empty(0)], 0
    for column, table in features._one_hot_tables:
        one_hot.append((column, table.shape[1], place))
        place += table.shape[1]
    lookups = [(column, mean.means[:, None]) for column, mean in features._means]
    lookups += [(column, found.values) for column, found in features._statistics]
    for column, table in lookups:
        for value in table.T:  # each column of a level's row is looked up as a mean is
            means.append((column, len(value) - 2, place, first))
            values.append(value)
            first += len(value)
            place += 1
    arrays: dict[str, NDArray[Any]] = {
        "one_hot": np.array(one_hot, dtype=np.int64).reshape(-1, 3),
        "means": np.array(means, dtype=np.int64).reshape(-1, 4),
        "mean_values": np.ascontiguousarray(np.concatenate(values), dtype=np.float64),
        "near": np.empty(0, dtype=np.int64),
        "scale": np.empty(0),
        "centroids": np.empty((0, 0)),
        "context": np.empty(0, dtype=np.int64),
    }
    return arrays, place


def _check(arrays: dict[str, NDArray[Any]], features: FittedFeatures, columns: int) -> None:
    """Refuse what would lead the kernel outside of its arrays.

    Raises:
        ValueError: It would.
    """
    frames = len(arrays["numbers"]) + len(arrays["ratio_fill"])
    for name in ("numbers", "ratios", "indicated"):
        found = arrays[name]
        if found.size and not 0 <= found.min() <= found.max() < columns:
            raise ValueError(f"{name} lie outside the {columns} columns")
    levels = dict(features._category_sizes)
    if any(levels[int(m[0])] != m[1] for m in arrays["means"]):
        raise ValueError("target means do not fit their categories")
    if frames > _MOST_NUMBERS:
        raise ValueError(f"at most {_MOST_NUMBERS} numbers and ratios, there are {frames}")
    dimensions = len(arrays["near"])
    fits = (
        arrays["ratio_fill"].shape == (len(arrays["ratios"]),)
        and arrays["scale"].shape == (dimensions,)
        and arrays["centroids"].ndim == 2
        and (not len(arrays["centroids"]) or arrays["centroids"].shape[1] == dimensions)
        and frames == len(features._numeric_names)
    )
    if not fits:
        raise ValueError("the fitted features do not fit together")
