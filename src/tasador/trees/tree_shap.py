"""Exact contributions of features to one estimate: Shapley values that add up to it.

For trees these are the path-dependent values of TreeSHAP (Lundberg et al. 2020), the same that
LightGBM's ``pred_contrib`` and the shap library give. Per leaf the value of feature j is

    v * (o_j - z_j) * integral over t in [0, 1] of prod_{i != j} (z_i (1 - t) + o_i t)

with v the leaf's value, o_i whether the row meets every condition on feature i along the leaf's
path, and z_i the share of training rows that do where they are asked. The integrand is a polynomial
of degree m - 1 for m features on the path, which Gauss-Legendre quadrature with ceil(m / 2) points
integrates exactly (as in linear TreeSHAP, Yu et al. 2022). All conditions on one feature along a
path are one interval, so that a row is compared twice per (leaf, feature) and no tree is walked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.input_checks import FLAG, Expected, check_arrays
from tasador.core.kernels import Kernel, native
from tasador.trees.ensemble import LEAF, LinearModel, TreeEnsemble, breadth_first

Floats = NDArray[np.float64]

_NODE_ARRAYS = ("feature", "threshold", "left", "right", "value", "missing_left", "cover", "roots")
#: Elements worked on at a time: keeps the arrays of one pass in the processor's cache.
_CHUNK = 16_384
#: Leaves turned into arrays at a time.
_AT_ONCE = 256
#: Most features on a path that the kernel has room for.
_LONGEST = 32
_MOST_FEATURES = 2**20


@dataclass(frozen=True)
class LinearContributions:
    """``coef * (x - center)``: what differs from a training row of mean features.

    Attributes:
        coef: Shape (q,).
        center: Shape (q,): means of the training rows' features.
        expected: The score at `center`.
    """

    coef: Floats
    center: Floats
    expected: float

    @classmethod
    def of_model(cls, model: LinearModel, center: Floats) -> LinearContributions:
        """Explain `model` as against the features `center` (q,)."""
        return cls(model.coef, center, float(model.predict(center[None])[0]))

    def of(self, z: Floats) -> Floats:
        """Return the contributions (q,) of one row's features `z` (q,), without NaN."""
        result: Floats = self.coef * (z - self.center)
        return result

    def state(self) -> dict[str, Floats]:
        """Return the arrays that `from_state` takes."""
        return {"coef": self.coef, "center": self.center, "expected": np.array([self.expected])}


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

    def state(self) -> dict[str, Floats]:
        """Return the arrays that `from_state` takes."""
        arrays: dict[str, Any] = {name: getattr(self.trees, name) for name in _NODE_ARRAYS}
        numbers = [self.trees.n_features, self.trees.base, self.trees.scale]
        arrays["numbers"] = np.array([*numbers, float(self.trees.float32_inputs)])
        return arrays


Contributions = LinearContributions | TreeContributions


def contributions_from_state(
    arrays: Mapping[str, NDArray[Any]], n_features: int | None = None
) -> Contributions:
    """Rebuild from `state`, once every array was checked.

    Args:
        arrays: As `state` gives them.
        n_features: How many features the model takes, where that is known.

    Raises:
        KeyError, ValueError: The state is incomplete, or not what it should be.
        TrainingError: The trees are invalid.
    """
    if "coef" in arrays:
        q = len(arrays["coef"]) if n_features is None else n_features
        check_arrays(
            arrays, {"coef": Expected((q,)), "center": Expected((q,)), "expected": Expected((1,))}
        )
        return LinearContributions(arrays["coef"], arrays["center"], float(arrays["expected"][0]))
    k, numbers = arrays["feature"].size, arrays["numbers"]
    Expected((4,)).check("numbers", numbers)
    features, base, scale, float32_inputs = numbers.tolist()
    if n_features not in (None, features) or not 0 < features < _MOST_FEATURES:
        raise ValueError(f"an explanation of {features:g} features, expected {n_features}")
    if not features.is_integer() or float32_inputs not in (0.0, 1.0):
        raise ValueError("the numbers of the explanation's trees are invalid")
    node, pointer = Expected((k,)), Expected((k,), ("int32",), LEAF, k - 1)
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
        },
    )
    trees = TreeEnsemble(
        **{name: arrays[name] for name in _NODE_ARRAYS},
        n_features=int(features),
        base=base,
        scale=scale,
        float32_inputs=bool(float32_inputs),
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
        for path, value in _leaves(trees):
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
        return cls(tuple(groups), mean, trees.scale, trees.float32_inputs)

    def contributions(self, z: Floats) -> Floats:
        x = z.astype(np.float32).astype(np.float64) if self.float32_inputs else z
        total = np.zeros(len(z))
        if self._kernel is not None:
            self._kernel.add_to(total, np.ascontiguousarray(x, dtype=np.float64))
        else:
            for group in self.groups:
                group.add_to(total, x)
        result: Floats = total * self.scale
        return result


#: (low, high, share of the training rows, whether NaN passes) of one feature along a path.
_Condition = tuple[float, float, float, bool]


def _leaves(trees: TreeEnsemble) -> Any:
    """Yield (conditions by feature, value) of every leaf, tree by tree."""
    feature, threshold = trees.feature.tolist(), trees.threshold.tolist()
    left, right = trees.left.tolist(), trees.right.tolist()
    value, cover = trees.value.tolist(), trees.cover.tolist()
    gap_left = trees.missing_left.tolist()
    everything: _Condition = (-np.inf, np.inf, 1.0, True)
    for root in trees.roots.tolist():
        waiting: list[tuple[int, dict[int, _Condition]]] = [(root, {})]
        while waiting:
            node, path = waiting.pop()
            column = feature[node]
            if column < 0:
                yield path, value[node]
                continue
            low, high, share, gap = path.get(column, everything)
            split = threshold[node]
            # A side that no training row took has share 0; a tiny one keeps factors divisible.
            part = max(cover[left[node]] / cover[node], 1e-12) if cover[node] > 0 else 0.5
            rest = max(cover[right[node]] / cover[node], 1e-12) if cover[node] > 0 else 0.5
            above = (max(low, split), high, share * rest, gap and not gap_left[node])
            below = (low, min(high, split), share * part, gap and gap_left[node])
            waiting.append((right[node], {**path, column: above}))
            waiting.append((left[node], {**path, column: below}))


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
