"""Learn and calibrate how large errors are where; needs LightGBM and onnx (the training extra)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.modeling.confidence import (
    FEWEST_BEYOND,
    FSD_COVERAGE,
    ConfidenceModel,
    JointRange,
    conformal_quantile,
)
from tasador.modeling.errors import ConfidenceError
from tasador.trees.onnx_model import OnnxRegressor

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

#: Coverages that are calibrated, beside the usual one.
_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
_TENTHS = np.linspace(0.1, 0.9, 9)
_PASSES = 25
_FEWEST_ROWS = 500

_FOLDS = 5
_FEWEST = 200
#: Rows that small trees learn as much from as from any more.
_MOST_FITTED = 50_000
_FLOOR = 0.05
_SETTINGS = {
    "objective": "l2",
    "learning_rate": 0.05,
    "num_leaves": 7,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
    "num_threads": 1,
}
#: Numbers of trees to choose from, and by how much the fewest may miss the best: rows unlike the
#: training rows are served better by too few than by too many.
_ROUNDS = (25, 50, 100, 150, 200, 300)
_TOLERANCE = 1.005


def grow_sizes(rows: Floats, size: Floats, seed: int) -> tuple[Floats, bytes]:
    """Learn the size of errors; needs LightGBM and onnx (the training extra).

    Args:
        rows: Shape (n, q): what tells them apart.
        size: Shape (n,): finite and not negative.
        seed: Of the folds and the trees.

    Returns:
        The logarithm of each row's size (n,), by trees that have not seen it, and the graph of
        the trees that have seen all of them.

    Raises:
        TrainingError: Fewer than 200 rows, or all errors are zero.
    """
    from tasador.trees.importers import from_lightgbm
    from tasador.trees.onnx_export import to_onnx

    if len(size) < _FEWEST or not size.max() > 0:
        raise ConfidenceError.nothing_to_learn(_FEWEST, size)
    # the smallest errors are luck: their logarithms would otherwise outweigh all others
    target = np.log(np.maximum(size, max(float(np.quantile(size, _FLOOR)), 1e-9 * size.max())))
    expected = np.empty((len(_ROUNDS), len(size)))
    order = seeds.generator(seed, "error folds").permutation(len(size)) % _FOLDS
    for fold in range(_FOLDS):
        held = order == fold
        model = _grow(rows[~held], target[~held], seed, _ROUNDS[-1])
        for i, rounds in enumerate(_ROUNDS):
            expected[i, held] = model.predict(rows[held], num_iteration=rounds, num_threads=1)
    losses = np.mean(np.square(expected - target), axis=1)
    # the fewest trees that are nearly as good, see `_TOLERANCE`
    chosen = int(np.argmax(losses <= losses.min() * _TOLERANCE))
    return expected[chosen], to_onnx(from_lightgbm(_grow(rows, target, seed, _ROUNDS[chosen])))


def _grow(rows: Floats, target: Floats, seed: int, rounds: int) -> Any:
    import lightgbm

    some = seeds.sample_places(len(rows), _MOST_FITTED, seed, "error rows")
    rows, target = rows[some], target[some]
    data = lightgbm.Dataset(rows, target, params={"verbosity": -1, "num_threads": 1})
    fewest = max(5, min(100, len(rows) // 20))
    settings = {**_SETTINGS, "seed": seed, "min_child_samples": fewest}
    return lightgbm.train(settings, data, num_boost_round=rounds)


def fit_confidence(
    Z: Floats,
    score: Floats,
    target: Floats,
    segment: Floats | None,
    joint: JointRange,
    *,
    log: bool,
    coverage: float,
    cuts: tuple[float, float],
    seed: int,
) -> tuple[ConfidenceModel, bytes]:
    """Learn the size of errors and calibrate it; needs LightGBM and onnx (the training extra).

    The trees that a row's size is calibrated by have not seen its error. Each factor is the
    quantile of split conformal prediction in its group (Mondrian; Vovk et al. 2003), the groups of
    one kind after those of another until all hold.

    Args:
        Z: Features (n, q) of rows whose scores are of models that did not see them.
        score: The scores (n,).
        target: What they should have been (n,), on the same scale.
        segment: Codes (n,) of the segment column; None without one.
        joint: Which values are unusual beside the others.
        log: Whether scores are logarithms.
        coverage: Of the usual interval, in (0, 1).
        cuts: Least confidence of the classes H and M.
        seed: Of the folds and the trees.

    Returns:
        The model, and the graph that holds its trees.

    Raises:
        TrainingError: Too few rows have an error, or all errors are zero.
    """
    errors = np.abs(target - score)
    known = np.isfinite(errors) & np.isfinite(score)
    if known.sum() < _FEWEST_ROWS:
        raise ConfidenceError.too_few(int(known.sum()), _FEWEST_ROWS)
    Z, score, target, errors = Z[known], score[known], target[known], errors[known]
    segment = None if segment is None else segment[known]
    size, graph = grow_sizes(np.column_stack([Z, score]), errors, seed)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        relative = np.abs(np.expm1(score - target)) if log else errors / np.abs(target)
        unit = size if log else size - np.log(np.abs(score))
        ratios = np.log(errors) - size, np.log(relative) - unit
    levels = np.array(sorted({*_LEVELS, coverage}))
    segments = 0
    if segment is not None and np.isfinite(segment).any():
        segments = int(np.nanmax(segment)) + 1
    size_edges, score_edges = (np.unique(np.quantile(v, _TENTHS)) for v in (size, score))
    width = 1 + len(size_edges) + 1 + len(score_edges) + 1 + segments + 1
    model = ConfidenceModel(
        OnnxRegressor(graph), levels, np.zeros((len(levels) + 1, width)), size_edges, score_edges,
        segments, coverage, 1.0, cuts, log, joint,
    )  # fmt: skip
    groups = model.groups(size, score, segment)
    rows = [_calibrated(ratios[0], groups, width, level) for level in levels.tolist()]
    rows.append(_calibrated(ratios[1], groups, width, FSD_COVERAGE))
    return replace(model, factors=np.array(rows)), graph


def _calibrated(ratio: Floats, groups: list[Positions], width: int, coverage: float) -> Floats:
    """Return logarithms of factors (g,) that hold `coverage` of the rows in every group.

    Args:
        ratio: Shape (n,): logarithms of errors over expected sizes.
        groups: Columns of the factors (n,) that apply to each row, one array a kind.
        width: How many factors.
        coverage: What to hold.
    """
    usable = ~np.isnan(ratio) & (ratio < np.inf)
    ratio, groups = ratio[usable], [kind[usable] for kind in groups]
    factors = np.zeros(width)
    factors[0] = conformal_quantile(ratio, coverage)
    fewest = FEWEST_BEYOND / (1.0 - coverage)
    members = [
        [
            (column, rows)
            for column in np.unique(kind).tolist()
            if column >= 0 and len(rows := np.flatnonzero(kind == column)) >= fewest
        ]
        for kind in groups
    ]
    rest = ratio - factors[0]
    for _ in range(_PASSES):
        for kind in members:
            for column, rows in kind:
                change = conformal_quantile(rest[rows], coverage)
                factors[column] += change
                rest[rows] -= change
    return factors
