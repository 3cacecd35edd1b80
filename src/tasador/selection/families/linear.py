"""Linear families: ridge and lasso on standardised columns, within their training range."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from tasador.selection.families.base import Family, Floats, Params, Trial, check_estimator
from tasador.trees.ensemble import LinearModel
from tasador.trees.importers import from_linear


class TrainingRange:
    """A step of a scikit-learn pipeline: clips columns to the range of the rows it was fitted on.

    Outside of it a linear model extrapolates without limit, and on the log scale exponentially.

    Attributes:
        low_: Shape (q,): the least value of each column.
        high_: Shape (q,): the greatest.
    """

    low_: Floats
    high_: Floats

    def fit(self, Z: Floats, _target: Floats | None = None) -> Self:
        """Keep the range of the rows `Z` (n, q), which have no NaN."""
        self.low_, self.high_ = Z.min(axis=0), Z.max(axis=0)
        return self

    def transform(self, Z: Floats) -> Floats:
        """Return `Z` (n, q) within the range; NaN stays NaN."""
        result: Floats = np.clip(Z, self.low_, self.high_)
        return result


class Linear(Family):
    """A linear model of scikit-learn: its estimator's name, and the largest penalty searched."""

    defaults: ClassVar[Params] = {"alpha": 1.0}
    linear = True
    estimator: ClassVar[str]
    largest: ClassVar[float]

    def _estimator(self, params: Params) -> Any:
        from sklearn import linear_model

        return getattr(linear_model, self.estimator)(**params)

    def fit(self, params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0) -> Any:  # noqa: ARG002
        """Keep the range, standardise, then fit; nothing is drawn, and one thread does it."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(TrainingRange(), StandardScaler(), self._estimator(params)).fit(
            Z, target
        )

    def export(self, model: Any) -> LinearModel:
        return from_linear(model)

    def space(self, trial: Trial) -> dict[str, Any]:
        return {"alpha": trial.suggest_float("alpha", 1e-3, self.largest, log=True)}

    def check(self, params: Params) -> None:
        check_estimator(self._estimator(params))


class Ridge(Linear):
    """Ridge regression."""

    name, title, estimator, largest = "ridge", "Ridge regression", "Ridge", 1e3


class Lasso(Linear):
    """Lasso."""

    name, title, estimator, largest = "lasso", "Lasso", "Lasso", 10.0
