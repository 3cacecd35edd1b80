"""How large an error to expect where, without knowing any outcome.

Boosted trees learn, from errors of models that did not see the row, the size of the error of rows
like it: the logarithm of the absolute error, which no single outlier can bend. The expected size
cuts the rows into buckets, and each metric's term is averaged in each bucket: its percentage error,
its absolute error, whether it is within 10%. A later row gets its bucket's terms, and the mean of
those over a window is what the metric is expected to be there.

NannyML's DLE, which estimates one loss by one model of that loss, is the nearest relative. Here
one model serves all metrics, and everything that is averaged was measured out of fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import TrainingError
from tasador.core.input_checks import FLAG, Expected
from tasador.trees.onnx_model import OnnxRegressor

Floats = NDArray[np.float64]

WITHIN = (5, 10, 15, 20)
#: What is averaged per bucket. Absolute errors are relative to the estimate when errors are.
TERMS = ("size", "size2", "ape", "ape2", "absolute", "absolute2", *(f"within_{k}" for k in WITHIN))
_CUTS = np.concatenate((np.linspace(0.0, 0.9, 19), [0.95, 0.975, 0.99, 1.0]))
_FOLDS = 5
_FEWEST = 200
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
#: Numbers of trees to choose from, and by how much the fewest may miss the best: a window unlike
#: the training rows is served better by too few than by too many.
_ROUNDS = (25, 50, 100, 150, 200, 300)
_TOLERANCE = 1.005


@dataclass(frozen=True)
class ErrorModel:
    """Expected errors of rows.

    Attributes:
        model: From `error_inputs` to the logarithm of the error's size.
        places: Shape (b,), ascending: mean predicted size of each bucket.
        terms: Shape (b, len(TERMS)): means of each term in each bucket, out of fold.
        log: Whether errors are differences of logarithms.
    """

    model: OnnxRegressor
    places: Floats
    terms: Floats
    log: bool

    def expected(self, rows: Floats) -> dict[str, Floats]:
        """Return each of `TERMS` (n,) for rows (n, p + 2) from `error_inputs`; NaN stays NaN.

        Between two buckets' sizes terms are linear, beyond the outer ones constant.
        """
        size = np.exp(self.model.predict(rows))
        return {
            name: np.interp(size, self.places, self.terms[:, i]) for i, name in enumerate(TERMS)
        }

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that `from_state` takes; the model goes into a file of its own."""
        return {
            "error.places": self.places,
            "error.terms": self.terms,
            "error.log": np.array([self.log]),
        }

    @classmethod
    def from_state(cls, model: OnnxRegressor, arrays: Mapping[str, NDArray[Any]]) -> ErrorModel:
        """Rebuild from `state` and the model.

        Raises:
            KeyError, ValueError: The state is incomplete.
        """
        places, terms = arrays["error.places"], arrays["error.terms"]
        if terms.shape != (len(places), len(TERMS)):
            raise ValueError(
                f"terms of shape {terms.shape}, expected ({len(places)}, {len(TERMS)})"
            )
        Expected((len(places),), low=-np.inf, high=np.inf, ascending=True).check("places", places)
        Expected((1,), FLAG).check("log", arrays["error.log"])
        return cls(model, places, terms, bool(arrays["error.log"][0]))


def residuals(actual: Floats, predicted: Floats, *, log: bool) -> Floats:
    """Return errors (n,) on the scale on which they are compared, NaN where there is none.

    ``ln(actual / predicted)`` when errors are relative, else ``actual - predicted``. A value that
    is not positive has no logarithm: NaN.
    """
    if not log:
        return actual - predicted
    positive = (actual > 0) & (predicted > 0)
    ratio = np.divide(actual, predicted, out=np.ones(len(actual)), where=positive)
    result: Floats = np.where(positive, np.log(ratio), np.nan)
    return result


def error_inputs(
    X: Floats, prediction: Floats, lower: Floats, upper: Floats, *, log: bool
) -> Floats:
    """Return what the error model looks at: the row, its estimate, the width of its interval.

    Args:
        X: Shape (n, p), encoded.
        prediction: Shape (n,).
        lower: Shape (n,): the lower end of its interval; NaN when there is none.
        upper: Shape (n,): the upper end.
        log: Whether errors are relative.

    Returns:
        Shape (n, p + 2).
    """
    if not log:
        return np.column_stack([X, prediction, upper - lower])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.column_stack([X, np.log(prediction), np.log(upper) - np.log(lower)])


def error_terms(actual: Floats, predicted: Floats, *, log: bool) -> Floats:
    """Return the terms (n, len(TERMS)) of rows whose value is known."""
    size = np.abs(residuals(actual, predicted, log=log))
    error = np.abs(actual - predicted)
    ape = np.divide(error, np.abs(actual), out=np.full(len(error), np.nan), where=actual != 0)
    absolute = error / np.abs(predicted) if log else error
    columns = [size, size**2, ape, ape**2, absolute, absolute**2]
    return np.column_stack([*columns, *(ape <= k / 100 for k in WITHIN)])


def fit_error_model(
    rows: Floats, actual: Floats, predicted: Floats, *, log: bool, seed: int
) -> tuple[ErrorModel, bytes]:
    """Learn the size of errors; needs LightGBM and onnx (the training extra).

    Args:
        rows: Shape (n, p + 2), from `error_inputs`.
        actual: Shape (n,): known values.
        predicted: Shape (n,): estimates by models that did not see the row.
        log: Whether errors are relative.
        seed: Of the folds and the trees.

    Returns:
        The model, and the graph that holds its trees.

    Raises:
        TrainingError: Fewer than 200 rows have an error, or all errors are zero.
    """
    from tasador.trees.importers import from_lightgbm
    from tasador.trees.onnx_export import to_onnx

    terms = error_terms(actual, predicted, log=log)
    known = np.isfinite(terms).all(axis=1)
    rows, terms = rows[known], terms[known]
    size = terms[:, 0]
    if len(size) < _FEWEST or not size.max() > 0:
        raise TrainingError(
            "there is nothing to learn the size of errors from",
            expected=f"errors of at least {_FEWEST} rows, not all of them zero",
            got=f"{len(size)} rows, the largest error {size.max() if len(size) else 0:g}",
        )
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
    places, means = _buckets(np.exp(expected[chosen]), terms)
    graph = to_onnx(from_lightgbm(_grow(rows, target, seed, _ROUNDS[chosen])))
    return ErrorModel(OnnxRegressor(graph), places, means, log), graph


def _grow(rows: Floats, target: Floats, seed: int, rounds: int) -> Any:
    import lightgbm

    data = lightgbm.Dataset(rows, target, params={"verbosity": -1, "num_threads": 1})
    fewest = max(5, min(100, len(rows) // 20))
    settings = {**_SETTINGS, "seed": seed, "min_child_samples": fewest}
    return lightgbm.train(settings, data, num_boost_round=rounds)


def _buckets(size: Floats, terms: Floats) -> tuple[Floats, Floats]:
    """Return the mean size (b,) and the mean terms (b, t) of rows of like predicted size."""
    edges = np.unique(np.quantile(size, _CUTS))
    place = np.clip(np.searchsorted(edges, size, side="right") - 1, 0, max(len(edges) - 2, 0))
    rows = np.bincount(place)
    some = rows > 0
    sums = np.column_stack([np.bincount(place, weights=column) for column in (size, *terms.T)])
    means = sums[some] / rows[some, None]
    return means[:, 0], means[:, 1:]
