"""The time-dummy regression: what attributes explain of prices, within months.

Eurostat, Handbook on Residential Property Prices Indices, 2013, ch. 5; robust, by Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.metrics.regression import robust_spread

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Knots of numbers in all, and of one; levels of a category; ridge in rows.
_KNOTS, _MOST_KNOTS, _MOST_LEVELS, _RIDGE = 160, 12, 96, 1.0
_ROUNDS = 3
MOST_ROWS = 60_000
_FREEDOM = 4.0  # of Student's t


def ordered(seconds: Floats, target: Floats, X: Floats) -> NDArray[np.intp]:
    """Return an order of rows by their content: sums round alike however rows are shuffled."""
    key = np.zeros(len(target))
    for j in range(X.shape[1]):
        key += np.nan_to_num(X[:, j], nan=-1.0) * math.sqrt(j + 2.0)
    order: NDArray[np.intp] = np.lexsort((key, target, seconds))
    return order


def sample(rows: int, codes: NDArray[Any] | None, seed: int) -> NDArray[np.intp]:
    """Return the positions of at most `MOST_ROWS` rows, of whole properties."""
    if rows <= MOST_ROWS:
        return np.arange(rows)
    names, place = (
        (np.arange(rows), np.arange(rows))
        if codes is None
        else np.unique(codes, return_inverse=True)
    )
    drawn = seeds.generator(seed, "trend").random(len(names))[place]
    kept: NDArray[np.intp] = np.flatnonzero(drawn <= np.partition(drawn, MOST_ROWS)[MOST_ROWS])
    return kept


def basis_of(X: Floats, target: Floats, categories: Collection[int]) -> Floats:
    """Return attributes as columns of a linear model: broken lines of numbers, 0/1 of categories.

    A number's knots are its quantiles; one that is unknown has a column of its own.
    """
    numbers = [j for j in range(X.shape[1]) if j not in categories]
    knots = int(np.clip(_KNOTS // max(1, len(numbers)), 1, _MOST_KNOTS))
    columns = (
        _levels_of(X[:, j], target) if j in categories else _broken_line(X[:, j], knots)
        for j in range(X.shape[1])
    )
    found = np.hstack([np.zeros((len(X), 0)), *columns])
    centred: Floats = found - found.mean(axis=0)
    return centred


def _broken_line(values: Floats, knots: int) -> Floats:
    known = np.isfinite(values)
    unknown = [(~known).astype(np.float64)[:, None]] if 0 < known.sum() < len(values) else []
    edges = np.unique(
        np.quantile(values[known], np.linspace(0, 1, knots + 1)) if known.any() else 0
    )
    if len(edges) < 2:
        return np.hstack([np.zeros((len(values), 0)), *unknown])
    filled = np.where(known, values, edges[0])
    at = np.clip(np.searchsorted(edges, filled, side="right") - 1, 0, len(edges) - 2)
    share = (filled - edges[at]) / (edges[at + 1] - edges[at])
    hats = np.zeros((len(values), len(edges)))
    rows = np.arange(len(values))
    hats[rows, at] = 1.0 - share
    hats[rows, at + 1] = share
    return np.hstack([hats[:, 1:], *unknown])


def _levels_of(codes: Floats, target: Floats) -> Floats:
    """Return a 0/1 column a level; where levels are too many, a group of similar targets."""
    names, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
    if len(names) > _MOST_LEVELS:
        centred = target - target.mean()
        mean = np.bincount(place, centred) / (counts + 10.0)
        order = np.argsort(mean, kind="stable")
        group = np.empty(len(names), np.intp)
        before = np.cumsum(counts[order]) - counts[order]
        group[order] = before * _MOST_LEVELS // len(codes)
        _, place = np.unique(group[place], return_inverse=True)
    found = np.zeros((len(codes), int(place.max()) + 1))
    found[np.arange(len(codes)), place] = 1.0
    return found[:, 1:]


def student_weights(residual: Floats, variance: Floats | float) -> Floats:
    """Return the weights of residuals under Student's t."""
    weights: Floats = (_FREEDOM + 1.0) / (_FREEDOM + residual**2 / variance)
    return weights


def without_attributes(target: Floats, basis: Floats, place: Integers) -> Floats:
    """Return targets less what the attributes explain within months, shape (n,)."""
    from scipy.linalg import cho_factor, cho_solve

    weight, residual = np.ones(len(target)), target - np.median(target)
    for _ in range(_ROUNDS):
        total = np.maximum(np.bincount(place, weight), 1e-12)
        # one level a month, taken out of both sides (Frisch, Waugh and Lovell)
        y = target - (np.bincount(place, weight * target) / total)[place]
        means = np.zeros((len(total), basis.shape[1]))
        np.add.at(means, place, basis * weight[:, None])
        Z = basis - (means / total[:, None])[place]
        weighed = Z * weight[:, None]
        normal = weighed.T @ Z + _RIDGE * np.eye(Z.shape[1])
        coefficients = cho_solve(cho_factor(normal), weighed.T @ y)
        residual = target - basis @ coefficients
        inside = y - Z @ coefficients
        weight = student_weights(inside, max(robust_spread(inside, 0.0), 1e-9) ** 2)
    centred: Floats = residual - np.median(residual)
    return centred
