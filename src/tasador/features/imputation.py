"""Fit imputers on training rows; LightGBM and scikit-learn only grow their trees."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column, TableContract
from tasador.core import seeds
from tasador.features.encoders import levels_of
from tasador.features.imputers import (
    ROUNDS,
    ColumnFiller,
    Filler,
    FillerInputs,
    Imputer,
    LinearFiller,
    NeighboursFiller,
    TreesFiller,
)
from tasador.trees import importers

Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]

#: How a column may be filled, the cheapest to fit, keep and apply first.
Strategy = Literal[
    "median", "mean", "iterative_linear", "knn", "boosting", "iterative_rf", "native"
]
#: Those that put a number in the gap; ``native`` leaves it to models that take NaN.
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)[:-1]
#: Categories with more levels are no input.
MAX_LEVELS = 12
#: Most columns that a predictor sees: those that tell the most about its own one by one. Among many
#: more, all rows are about equally far from one another, and every fit and gap pays for all.
MAX_INPUTS = 50
#: With fewer known values than this a column keeps its one number.
FEWEST_KNOWN = 20
#: Most training rows that a predictor is fitted on, a seeded sample of them: neighbours are kept
#: in the bundle, and a forest is fitted again in every fold.
MOST_ROWS: Mapping[Strategy, int] = {
    "iterative_linear": 100_000,
    "knn": 5_000,
    "boosting": 20_000,
    "iterative_rf": 5_000,
}
_RIDGE = 1.0  # rows' worth: keeps columns that are multiples of each other from blowing up
_FOREST_TREES, _FOREST_DEPTH = 50, 8
_BOOSTING_TREES, _BOOSTING_DEPTH = 100, 6


def fit_imputer(
    contract: TableContract,
    X: Floats,
    imputation: Mapping[str, Strategy],
    seed: int,
    apart: Collection[str] = (),
) -> Imputer:
    """Fit on encoded training rows.

    Args:
        contract: Names and kinds of the columns.
        X: Shape (n, p); NaN is missing.
        imputation: Strategy by column name; columns not named get their median, and so do
            ``native`` ones that lack nothing in `X`. Categories are not filled; the date of the
            sale gets the newest one.
        seed: Seed of samples and trees.
        apart: Columns by which no other one is filled.
    """
    missing = np.isnan(X)
    wanted = {contract.position(name): strategy for name, strategy in imputation.items()}
    fills = np.zeros(X.shape[1])
    for i, column in enumerate(contract.features):
        seen = X[~missing[:, i], i]
        if column.kind != "category" and len(seen):
            fills[i] = np.mean(seen) if wanted.get(i) == "mean" else np.median(seen)
        if i == contract.timestamp_position and len(seen):
            fills[i] = np.max(seen)  # who names no date asks for today's value
    indicated = [int(i) for i in np.flatnonzero(missing.any(axis=0))]
    hidden = frozenset(i for i, c in enumerate(contract.features) if c.name in apart)
    fitted = _fit_fillers(contract, X, missing, fills, wanted, seed, hidden)
    # where no training row lacks a value, a model learns nothing of what a gap means
    native = [i for i in indicated if wanted.get(i) == "native"]
    return Imputer(fills, indicated, fitted, native)


def _fit_fillers(
    contract: TableContract,
    X: Floats,
    missing: NDArray[np.bool_],
    fills: Floats,
    wanted: Mapping[int, Strategy],
    seed: int,
    hidden: frozenset[int],
) -> tuple[ColumnFiller, ...]:
    """Fit the predictors in the order of missing share, iterative ones in several rounds."""
    order = [
        i
        for i in sorted(wanted, key=lambda i: (missing[:, i].sum(), i))
        if wanted[i] in MOST_ROWS
        and (~missing[:, i]).sum() >= FEWEST_KNOWN
        and np.ptp(X[~missing[:, i], i]) > 0
    ]
    chained = [i for i in order if wanted[i].startswith("iterative")]
    plain = np.where(missing, fills, X)
    filled = plain.copy()
    fitted: dict[int, ColumnFiller] = {}
    again = (ROUNDS - 1) * chained if len(chained) > 1 and missing[:, chained].any() else []
    for i in (*order, *again):
        source = filled if i in chained else plain
        filler = _fit_filler(contract, i, X, source, missing, wanted[i], seed, hidden)
        if filler is None:
            continue
        fitted[i] = filler
        rows = missing[:, i]
        # only predictors that are chained see what the others fill in
        if rows.any() and any(other != i for other in chained):
            filled[rows, i] = filler.values(X[rows], source[rows])
    return tuple(fitted.values())


def _fit_filler(
    contract: TableContract,
    column: int,
    X: Floats,
    filled: Floats,
    missing: NDArray[np.bool_],
    strategy: Strategy,
    seed: int,
    hidden: frozenset[int],
) -> ColumnFiller | None:
    """Fit one column's predictor; None where no other column says anything."""
    known = np.flatnonzero(~missing[:, column])
    known = known[seeds.sample_places(len(known), MOST_ROWS[strategy], seed, "impute", column)]
    y = X[known, column]
    inputs = _fit_inputs(contract, column, X[known], filled[known], y, hidden)
    scale = np.array([np.mean(y), np.std(y), np.min(y), np.max(y)])
    if not inputs.size or not np.isfinite(scale).all() or scale[1] == 0:
        return None
    Z, target = inputs.of(X[known], filled[known]), (y - scale[0]) / scale[1]
    model = _fit_model(strategy, Z, target, seeds.derive_seed(seed, "impute", strategy, column))
    return ColumnFiller(column, strategy.startswith("iterative"), inputs, model, scale)


def _fit_inputs(
    contract: TableContract,
    column: int,
    X: Floats,
    filled: Floats,
    y: Floats,
    hidden: frozenset[int],
) -> FillerInputs:
    """Return what a predictor of `column` sees of rows that have values `y` in it."""
    candidates = [
        i
        for i, found in enumerate(contract.features)
        if i not in hidden
        and i != column
        and (found.kind != "category" or len(found.categories) <= MAX_LEVELS)
    ]
    if len(candidates) > MAX_INPUTS:
        told = [_explained(contract.features[i], X[:, i], filled[:, i], y) for i in candidates]
        best = np.argsort(-np.array(told), kind="stable")[:MAX_INPUTS]
        candidates = [candidates[place] for place in np.sort(best)]
    numeric, categories = [], []
    for i in candidates:
        if contract.features[i].kind == "category":
            categories.append((i, len(contract.features[i].categories)))
        else:
            numeric.append(i)
    values = filled[:, numeric]
    with np.errstate(over="ignore"):
        spread = np.std(values, axis=0)
    usable = np.isfinite(spread) & (spread > np.finfo(np.float64).tiny)
    return FillerInputs(
        numeric=np.array(numeric, np.intp),
        centre=np.where(usable, np.mean(values, axis=0), 0.0),
        factor=np.divide(1.0, spread, out=np.zeros(len(numeric)), where=usable),
        low=np.min(values, axis=0),
        high=np.max(values, axis=0),
        categories=np.array(categories, np.intp).reshape(-1, 2),
    )


def _explained(column: Column, codes: Floats, values: Floats, y: Floats) -> float:
    """Return the share of the variance of `y` that a column explains by itself, 0 if unknown.

    The squared correlation of a number; of a category Fisher's correlation ratio, whose free
    levels are taken off as in the adjusted R2 so that more of them do not tell more by themselves.
    """
    n, centred = len(y), y - y.mean()
    with np.errstate(all="ignore"):
        if column.kind == "category":
            level = levels_of(codes, len(column.categories))
            rows = np.bincount(level)
            sums = np.bincount(level, weights=centred)[rows > 0]
            between = np.sum(np.square(sums) / rows[rows > 0]) / (centred @ centred)
            told = 1.0 - (1.0 - between) * (n - 1) / max(n - len(sums), 1)
        else:
            away = values - values.mean()
            told = np.square(away @ centred) / ((away @ away) * (centred @ centred))
    return float(told) if np.isfinite(told) else 0.0


def _fit_model(strategy: Strategy, Z: Floats, target: Floats, seed: int) -> Filler:
    if strategy == "iterative_linear":
        return _fit_linear(Z, target)
    if strategy == "knn":
        return NeighboursFiller(np.ascontiguousarray(Z), target)
    if strategy == "boosting":
        return _fit_boosting(Z, target, seed)
    return _fit_forest(Z, target, seed)


def _fit_linear(Z: Floats, target: Floats) -> LinearFiller:
    centre = Z.mean(axis=0)
    centred = Z - centre
    gram = centred.T @ centred + _RIDGE * np.eye(Z.shape[1])
    coef = np.linalg.solve(gram, centred.T @ (target - target.mean()))
    return LinearFiller(coef, np.array([target.mean() - float((coef * centre).sum())]))


def _fit_forest(Z: Floats, target: Floats, seed: int) -> TreesFiller:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(
        n_estimators=_FOREST_TREES,
        max_depth=_FOREST_DEPTH,
        min_samples_leaf=2,
        max_features=0.5,
        random_state=seed,
        n_jobs=-1,
    ).fit(Z, target)
    return TreesFiller.of_model(importers.from_sklearn(forest))


def _fit_boosting(Z: Floats, target: Floats, seed: int) -> TreesFiller:
    import lightgbm

    settings = {
        "max_depth": _BOOSTING_DEPTH,
        "num_leaves": 31,
        "learning_rate": 0.1,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    quiet = {"verbosity": -1, "num_threads": 1}
    booster = lightgbm.Booster(settings, lightgbm.Dataset(Z, target, params=quiet))
    for _ in range(_BOOSTING_TREES):
        if booster.update():
            break  # no split is worth it any more
    return TreesFiller.of_model(importers.from_lightgbm(booster))
