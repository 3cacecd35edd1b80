"""Exact contributions of features to one estimate: Shapley values that add up to it.

For trees these are the path-dependent values of TreeSHAP (Lundberg et al. 2020), the same that
LightGBM's ``pred_contrib`` and the shap library give. Per leaf the value of feature j is

    v * (o_j - z_j) * integral over t in [0, 1] of prod_{i != j} (z_i (1 - t) + o_i t)

with v the leaf's value, o_i whether the row meets every condition on feature i along the leaf's
path, and z_i the share of training rows that do where they are asked. The integrand is a polynomial
of degree m - 1 for m features on the path, which Gauss-Legendre quadrature with ceil(m / 2) points
integrates exactly (as in linear TreeSHAP, Yu et al. 2022). All conditions on one feature along a
path are one interval, so that a row is compared twice per (leaf, feature) and no tree is walked.
Where trees split a feature on sets of categories, all conditions on it along a path are one set of
ranks instead; each different one is a further column of the row, 1 where the row meets it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.input_checks import FLAG, Expected, check_arrays
from tasador.core.kernels import Kernel, native
from tasador.trees.ensemble import (
    HIGHEST_CODE,
    LEAF,
    CategorySets,
    LinearModel,
    TreeEnsemble,
    breadth_first,
)

Floats = NDArray[np.float64]

_NODE_ARRAYS = ("feature", "threshold", "left", "right", "value", "missing_left", "cover", "roots")
#: The arrays of trees with category sets, and what they are called there.
_SETS = {"set_of_node": "of_node", "set_start": "start", "set_codes": "codes"}
#: Elements worked on at a time: keeps the arrays of one pass in the processor's cache.
_CHUNK = 16_384
#: Leaves turned into arrays at a time.
_AT_ONCE = 256
#: Most features on a path that the kernel has room for.
_LONGEST = 32
_MOST_FEATURES = 2**20
_LOWEST = -float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class LinearContributions:
    """``coef * (clip(x) - center)``: what differs from a training row of mean features.

    ``expected + sum(of(z))`` is the row's score, up to rounding.

    Attributes:
        model: The linear model; of it, the coefficients and the range count.
        center: Shape (q,): means of the training rows' features, within the range.
        expected: The score at `center`.
    """

    model: LinearModel
    center: Floats
    expected: float

    @classmethod
    def of_model(cls, model: LinearModel, center: Floats) -> LinearContributions:
        """Explain `model` as against the features `center` (q,)."""
        return cls(model, model.clip(center), float(model.predict(center[None])[0]))

    def of(self, z: Floats) -> Floats:
        """Return the contributions (q,) of one row's features `z` (q,), without NaN."""
        result: Floats = self.model.coef * (self.model.clip(z) - self.center)
        return result

    def of_rows(self, Z: Floats) -> Floats:
        """Return the contributions (n, q) of rows' features `Z` (n, q), as `of` gives each."""
        return _rows(self.of, Z)

    def state(self) -> dict[str, Floats]:
        """Return the arrays that `from_state` takes."""
        arrays = {"center": self.center, "expected": np.array([self.expected])}
        found = {name: getattr(self.model, name) for name in ("coef", "low", "high")}
        return arrays | {name: array for name, array in found.items() if array is not None}


@dataclass(frozen=True)
class TreeContributions:
    """Shapley values of a tree ensemble.

    Attributes:
        trees: The ensemble, with the cover of every node.
    """

    trees: TreeEnsemble

    @property
    def expected(self) -> float:
        """The mean score of the training rows, by the trees' covers."""
        return self._paths.expected

    @cached_property
    def _paths(self) -> _Paths:
        return _Paths.of_trees(self.trees)

    def of(self, z: Floats) -> Floats:
        """Return the contributions (q,) of one row's features `z` (q,).

        NaN goes where the trees send it.
        ``expected + sum(of(z))`` is the row's score, up to rounding.
        """
        return self._paths.contributions(z)

    def of_rows(self, Z: Floats) -> Floats:
        """Return the contributions (n, q) of rows' features `Z` (n, q), as `of` gives each.

        The kernel lets other threads run meanwhile: several share the rows by calling this.
        """
        return _rows(self.of, Z)

    def state(self) -> dict[str, Floats]:
        """Return the arrays that `from_state` takes."""
        arrays: dict[str, Any] = {name: getattr(self.trees, name) for name in _NODE_ARRAYS}
        if self.trees.sets is not None:
            arrays |= {name: getattr(self.trees.sets, field) for name, field in _SETS.items()}
        numbers = [self.trees.n_features, self.trees.base, self.trees.scale]
        arrays["numbers"] = np.array([*numbers, float(self.trees.float32_inputs)])
        return arrays


Contributions = LinearContributions | TreeContributions


def _rows(of: Callable[[Floats], Floats], Z: Floats) -> Floats:
    found = np.empty(Z.shape)
    for row, z in zip(found, Z, strict=True):
        row[:] = of(z)
    return found


def contributions_from_state(
    arrays: Mapping[str, NDArray[Any]], n_features: int | None = None
) -> Contributions:
    """Rebuild from `state`, once every array was checked.

    Args:
        arrays: As `state` gives them.
        n_features: How many features the model takes, where that is known.

    Raises:
        KeyError, ValueError: The state is incomplete, or not what it should be.
        TrainingError: The trees, or a linear model's range, are invalid.
    """
    if "coef" in arrays:
        q = len(arrays["coef"]) if n_features is None else n_features
        ends = ("low", "high") if "low" in arrays else ()
        wanted = dict.fromkeys(("coef", "center", *ends), Expected((q,)))
        check_arrays(arrays, {**wanted, "expected": Expected((1,))})
        # the intercept is in what is expected
        model = LinearModel(arrays["coef"], 0.0, arrays.get("low"), arrays.get("high"))
        return LinearContributions(model, arrays["center"], float(arrays["expected"][0]))
    k, numbers = arrays["feature"].size, arrays["numbers"]
    Expected((4,)).check("numbers", numbers)
    features, base, scale, float32_inputs = numbers.tolist()
    if n_features not in (None, features) or not 0 < features < _MOST_FEATURES:
        raise ValueError(f"an explanation of {features:g} features, expected {n_features}")
    if not features.is_integer() or float32_inputs not in (0.0, 1.0):
        raise ValueError("the numbers of the explanation's trees are invalid")
    node, pointer = Expected((k,)), Expected((k,), ("int32",), LEAF, k - 1)
    with_sets = not _SETS.keys().isdisjoint(arrays)
    sets = {
        "set_of_node": Expected((k,), ("int32",), -1, k - 1),
        "set_start": Expected((None,), ("int32",), 0, ascending=True),
        "set_codes": Expected((None,), ("int32",), 0, HIGHEST_CODE),
    }
    check_arrays(
        arrays,
        {
            "feature": Expected((k,), ("int32",), LEAF, features - 1),
            "threshold": Expected((k,), low=-np.inf, high=np.inf),
            "left": pointer,
            "right": pointer,
            "value": node,
            "missing_left": Expected((k,), FLAG),
            "cover": Expected((k,), low=0.0),
            "roots": Expected((None,), ("int32",), 0, k - 1),
            "numbers": Expected((4,)),
            **(sets if with_sets else {}),
        },
    )
    trees = TreeEnsemble(
        **{name: arrays[name] for name in _NODE_ARRAYS},
        n_features=int(features),
        base=base,
        scale=scale,
        float32_inputs=bool(float32_inputs),
        sets=CategorySets(*(arrays[name] for name in _SETS)) if with_sets else None,
    )
    breadth_first(trees)  # refuses circles
    return TreeContributions(trees)


@dataclass(frozen=True)
class _Group:
    """Leaves with m features on their paths; arrays are (m, number of leaves).

    Attributes:
        feature, low, high: The conditions ``low < z[feature] <= high``.
        gap: Whether NaN meets them: it goes this way wherever the path asks for the feature.
        share: z_i of the module's formula.
        value: Shape (number of leaves,).
        nodes, weights: Points and weights of the quadrature.
    """

    feature: NDArray[np.intp]
    low: Floats
    high: Floats
    gap: NDArray[np.bool_]
    share: Floats
    value: Floats
    nodes: Floats
    weights: Floats

    def add_to(self, total: Floats, z: Floats) -> None:
        """Add the group's contributions for features `z` (q,) to `total` (q,)."""
        x = z.take(self.feature)
        met = x > self.low
        met &= x <= self.high
        if np.isnan(z).any():
            met = np.where(np.isnan(x), self.gap, met)
        first = met - self.share  # o - z
        factor, sums = x, np.empty(0)  # the memory of x is free now
        for node, weight in zip(self.nodes, self.weights, strict=True):
            np.multiply(first, node, out=factor)  # z (1 - t) + o t = z + (o - z) t
            factor += self.share
            product = np.multiply.reduce(factor, axis=0)
            product *= weight
            if len(sums):
                np.divide(product, factor, out=factor)
                sums += factor
            else:
                sums = product / factor
        sums *= first
        sums *= self.value
        total += np.bincount(self.feature.ravel(), weights=sums.ravel(), minlength=len(total))


class _KernelGroup(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("feature", "low", "high", "share", "gap", "value")),
        *((name, ctypes.c_void_p) for name in ("points", "weights")),
        *((name, ctypes.c_uint32) for name in ("length", "n_leaves", "n_pairs", "width")),
    )


class _Kernel:
    """The groups laid out for `contributions.c`: the conditions of a leaf side by side."""

    def __init__(self, groups: Sequence[_Group], call: Kernel, check: Kernel) -> None:
        self._call = call
        self._arrays: list[list[NDArray[Any]]] = []
        self._groups = (_KernelGroup * len(groups))()
        self._width = max((int(group.feature.max()) + 1 for group in groups), default=0)
        for place, group in enumerate(groups):
            arrays: list[NDArray[Any]] = [
                np.ascontiguousarray(group.feature.T, dtype=np.int32),
                *(
                    np.ascontiguousarray(a.T, dtype=np.float64)
                    for a in (group.low, group.high, group.share)
                ),
                np.ascontiguousarray(group.gap.T, dtype=np.uint8),
                np.ascontiguousarray(group.value, dtype=np.float64),
                *(np.pad(a, (0, len(a) % 2)) for a in (group.nodes, group.weights)),
            ]
            self._arrays.append(arrays)  # the kernel reads them as long as it lives
            self._groups[place] = _KernelGroup(
                *(array.ctypes.data for array in arrays),
                *(len(group.feature), len(group.value), (len(group.nodes) + 1) // 2),
                self._width,
            )
        if check(ctypes.addressof(self._groups), len(self._groups)):
            raise ValueError("the trees' paths do not fit the kernel")

    def add_to(self, total: Floats, z: Floats) -> None:
        """Add all contributions for features `z` (q,), contiguous doubles, to `total` (q,).

        Raises:
            IndexError: The row has fewer features than the trees ask for.
        """
        width = min(len(z), len(total))
        if self._call(
            ctypes.addressof(self._groups), len(self._groups), z.ctypes.data, total.ctypes.data,
            width,
        ):  # fmt: skip
            raise IndexError(f"a row of {width} features, the trees ask for {self._width}")


@dataclass(frozen=True)
class _Paths:
    """The leaves of an ensemble by the number of features on their paths."""

    groups: tuple[_Group, ...]
    expected: float
    scale: float
    float32_inputs: bool
    rank_sets: _RankSets | None

    @cached_property
    def _kernel(self) -> _Kernel | None:
        library = native().library
        longest = max((len(group.feature) for group in self.groups), default=0)
        if library is None or longest > _LONGEST:
            return None
        return _Kernel(self.groups, library.contributions, library.check_paths)

    @classmethod
    def of_trees(cls, trees: TreeEnsemble) -> _Paths:
        by_length: dict[int, _Leaves] = {}
        expected = 0.0
        rank_sets = None if trees.sets is None else _RankSets(trees, trees.sets)
        for path, value in _leaves(trees, rank_sets):
            share = 1.0
            for condition in path.values():
                share *= condition[2]
            expected += share * value
            if path:
                by_length.setdefault(len(path), _Leaves(len(path))).add(path, value)
        groups = [
            group for _, leaves in sorted(by_length.items()) for group in leaves.groups(_CHUNK)
        ]
        mean = trees.base + trees.scale * expected
        if rank_sets is not None:
            rank_sets.finish()
        return cls(tuple(groups), mean, trees.scale, trees.float32_inputs, rank_sets)

    def contributions(self, z: Floats) -> Floats:
        x = z.astype(np.float32).astype(np.float64) if self.float32_inputs else z
        x = np.maximum(x, _LOWEST)  # -inf is not above the -inf from which intervals begin
        if self.rank_sets is not None:
            x = self.rank_sets.extended(x)
        total = np.zeros(len(x))
        if self._kernel is not None:
            self._kernel.add_to(total, np.ascontiguousarray(x, dtype=np.float64))
        else:
            for group in self.groups:
                group.add_to(total, x)
        if self.rank_sets is not None:
            total = self.rank_sets.folded(total)
        result: Floats = total * self.scale
        return result


#: (low, high, share of the training rows, whether NaN passes) of one feature along a path.
_Condition = tuple[float, float, float, bool]


class _RankSets:
    """Conditions on columns that are split on category sets: sets of ranks, as bits of integers.

    The rank of x is how many of the column's split values are below it; NaN has one of its own.

    Args:
        trees: The ensemble.
        sets: Its sets.
    """

    def __init__(self, trees: TreeEnsemble, sets: CategorySets) -> None:
        self._q = trees.n_features
        self._left: dict[int, int] = {}
        self._edges: dict[int, Floats] = {}
        #: for each column, its different conditions and the row's further column of each
        self._found: dict[int, dict[int, int]] = {}
        self._n_found = 0
        self._tables: list[tuple[int, Floats, NDArray[np.uint8]]] = []
        self._places: list[NDArray[np.intp]] = []
        self._owner = np.empty(0, dtype=np.intp)
        with_set = sets.of_node >= 0
        for column in np.unique(trees.feature[with_set]).tolist():
            nodes = np.flatnonzero(trees.feature == column)
            compared = nodes[~with_set[nodes]]
            numbers, at = np.unique(sets.of_node[nodes[with_set[nodes]]], return_inverse=True)
            edges = sets.edges(numbers, trees.threshold[compared])
            ranks = [_bits(row) for row in sets.by_rank(numbers, edges)]
            below = np.searchsorted(edges, trees.threshold[compared])
            self._edges[column], self._found[column] = edges, {}
            missing = 1 << len(edges) + 1
            for node, which in zip(nodes[with_set[nodes]].tolist(), at.tolist(), strict=True):
                self._left[node] = ranks[which] | (missing if trees.missing_left[node] else 0)
            for node, rank in zip(compared.tolist(), below.tolist(), strict=True):
                held = (2 << rank) - 1
                self._left[node] = held | (missing if trees.missing_left[node] else 0)

    def left(self, node: int) -> int | None:
        """Return the ranks that go left at `node`; None where its column has no sets."""
        return self._left.get(node)

    def everything(self, column: int) -> int:
        """Return all ranks of `column`."""
        return (4 << len(self._edges[column])) - 1

    def column_of(self, column: int, ranks: int) -> int:
        """Return the row's further column that says whether its `column` has one of `ranks`."""
        found = self._found[column]
        place = found.setdefault(ranks, self._q + self._n_found)
        self._n_found += place == self._q + self._n_found
        return place

    def finish(self) -> None:
        """Lay out the conditions by rank, once `column_of` was asked for all of them."""
        owners = np.zeros(self._n_found, dtype=np.intp)
        for column, found in self._found.items():
            edges = self._edges[column]
            places = np.array(list(found.values()), dtype=np.intp) - self._q
            owners[places] = column
            size = (len(edges) + 2 + 7) // 8
            data = b"".join(ranks.to_bytes(size, "little") for ranks in found)
            bits = np.frombuffer(data, np.uint8).reshape(len(found), size)
            by_rank = np.unpackbits(bits, axis=1, count=len(edges) + 2, bitorder="little").T
            self._tables.append((column, edges, np.packbits(by_rank, axis=1)))
            found.clear()
            self._places.append(places)
        self._owner = owners
        self._left.clear()

    def extended(self, z: Floats) -> Floats:
        """Return the features `z` (q,) and, behind them, 1.0 for each condition that they meet."""
        x = np.concatenate([z, np.empty(self._n_found)])
        for (column, edges, table), places in zip(self._tables, self._places, strict=True):
            value = z[column]
            rank = len(edges) + 1 if np.isnan(value) else int(np.searchsorted(edges, value))
            x[self._q + places] = np.unpackbits(table[rank], count=len(places))
        return x

    def folded(self, total: Floats) -> Floats:
        """Return the contributions (q,) with those of conditions added to their columns'."""
        result: Floats = total[: self._q] + np.bincount(
            self._owner, weights=total[self._q :], minlength=self._q
        )
        return result


def _bits(flags: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")


def _leaves(trees: TreeEnsemble, rank_sets: _RankSets | None) -> Any:
    """Yield (conditions by feature, value) of every leaf, tree by tree."""
    feature, threshold = trees.feature.tolist(), trees.threshold.tolist()
    left, right = trees.left.tolist(), trees.right.tolist()
    value, cover = trees.value.tolist(), trees.cover.tolist()
    gap_left = trees.missing_left.tolist()
    everything: _Condition = (-np.inf, np.inf, 1.0, True)
    for root in trees.roots.tolist():
        waiting: list[tuple[int, dict[int, _Condition], dict[int, int]]] = [(root, {}, {})]
        while waiting:
            node, path, ranks = waiting.pop()
            column = feature[node]
            if column < 0:
                if rank_sets is not None and ranks:
                    path = _with_rank_sets(path, ranks, rank_sets)
                yield path, value[node]
                continue
            low, high, share, gap = path.get(column, everything)
            split = threshold[node]
            # A side that no training row took has share 0; a tiny one keeps factors divisible.
            part = max(cover[left[node]] / cover[node], 1e-12) if cover[node] > 0 else 0.5
            rest = max(cover[right[node]] / cover[node], 1e-12) if cover[node] > 0 else 0.5
            above = (max(low, split), high, share * rest, gap and not gap_left[node])
            below = (low, min(high, split), share * part, gap and gap_left[node])
            goes_left = None if rank_sets is None else rank_sets.left(node)
            left_ranks = right_ranks = ranks
            if rank_sets is not None and goes_left is not None:
                met = ranks.get(column, rank_sets.everything(column))
                left_ranks = {**ranks, column: met & goes_left}
                right_ranks = {**ranks, column: met & ~goes_left}
            waiting.append((right[node], {**path, column: above}, right_ranks))
            waiting.append((left[node], {**path, column: below}, left_ranks))


def _with_rank_sets(
    path: dict[int, _Condition], ranks: dict[int, int], rank_sets: _RankSets
) -> dict[int, _Condition]:
    """Return a path whose conditions on columns with sets ask the row's further columns."""
    return {
        (rank_sets.column_of(column, ranks[column]) if column in ranks else column): (
            (0.5, np.inf, condition[2], False) if column in ranks else condition
        )
        for column, condition in path.items()
    }


class _Leaves:
    """The leaves with `length` features on their paths, turned into arrays a few at a time.

    Turning a hundred thousand of them at once would keep every other thread of a service waiting
    for a fifth of a second, and so would the garbage collector over all of their conditions.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._waiting: list[tuple[dict[int, _Condition], float]] = []
        self._done: list[tuple[NDArray[np.intp], Floats, Floats]] = []

    def add(self, path: dict[int, _Condition], value: float) -> None:
        self._waiting.append((path, value))
        if len(self._waiting) >= _AT_ONCE:
            self._convert()

    def _convert(self) -> None:
        leaves, self._waiting = self._waiting, []
        conditions = np.array([list(path.values()) for path, _ in leaves])
        self._done.append(
            (
                np.array([list(path) for path, _ in leaves], np.intp),
                conditions.reshape(-1, self._length, 4),
                np.array([value for _, value in leaves]),
            )
        )

    def groups(self, chunk: int) -> list[_Group]:
        if self._waiting:
            self._convert()
        columns, conditions, values = (
            np.concatenate([part[i] for part in self._done]) for i in range(3)
        )
        points, weights = np.polynomial.legendre.leggauss((self._length + 1) // 2)
        size = max(1, chunk // self._length)
        return [
            _Group(
                feature=np.ascontiguousarray(columns[i : i + size].T),
                low=np.ascontiguousarray(conditions[i : i + size, :, 0].T),
                high=np.ascontiguousarray(conditions[i : i + size, :, 1].T),
                gap=np.ascontiguousarray(conditions[i : i + size, :, 3].T.astype(bool)),
                share=np.ascontiguousarray(conditions[i : i + size, :, 2].T),
                value=values[i : i + size],
                nodes=(points + 1.0) / 2.0,
                weights=weights / 2.0,
            )
            for i in range(0, len(values), size)
        ]
