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

from tasador.core.input_checks import FLAG, Expected
from tasador.metrics.regression import relative_errors
from tasador.modeling.expected_errors import grow_sizes
from tasador.trees.onnx_model import OnnxRegressor

Floats = NDArray[np.float64]

WITHIN = (5, 10, 15, 20)
#: What is averaged per bucket. Absolute errors are relative to the estimate when errors are.
TERMS = ("size", "size2", "ape", "ape2", "absolute", "absolute2", *(f"within_{k}" for k in WITHIN))
_CUTS = np.concatenate((np.linspace(0.0, 0.9, 19), [0.95, 0.975, 0.99, 1.0]))


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
    ape = relative_errors(actual, predicted)
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
    terms = error_terms(actual, predicted, log=log)
    known = np.isfinite(terms).all(axis=1)
    rows, terms = rows[known], terms[known]
    size = terms[:, 0]
    expected, graph = grow_sizes(rows, size, seed)
    places, means = _buckets(np.exp(expected), terms)
    return ErrorModel(OnnxRegressor(graph), places, means, log), graph


def _buckets(size: Floats, terms: Floats) -> tuple[Floats, Floats]:
    """Return the mean size (b,) and the mean terms (b, t) of rows of like predicted size."""
    edges = np.unique(np.quantile(size, _CUTS))
    place = np.clip(np.searchsorted(edges, size, side="right") - 1, 0, max(len(edges) - 2, 0))
    rows = np.bincount(place)
    some = rows > 0
    sums = np.column_stack([np.bincount(place, weights=column) for column in (size, *terms.T)])
    means = sums[some] / rows[some, None]
    return means[:, 0], means[:, 1:]
