"""Linear families: ridge and lasso on standardised columns, within their training range."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from tasador.selection.families.base import Family, Floats, Params, Trial, check_estimator
from tasador.trees.ensemble import LinearModel
from tasador.trees.importers import from_linear

#: What counts as a column's tails, and how far beyond them its values count as they are: of the
#: rules tried in cross-validation the least RMSE on ames, where the whole training range leaves
#: 18% more, and about that range's errors on insurance and car_features.
_TAIL, _WIDENED_BY = 0.05, 0.5
#: Columns of so few values have no tails: rare categories would be clipped away.
_FEW_VALUES = 20


class TrainingRange:
    """A step of a scikit-learn pipeline: winsorises columns by the rows it was fitted on.

    Outside of their range a linear model extrapolates without limit, and on the log scale
    exponentially. Within it a few far rows stretch the range: columns of many values end half the
    distance of their 5% and 95% quantiles beyond these, unless the two are equal.

    Attributes:
        low_: Shape (q,): the least value of each column that counts as it is.
        high_: Shape (q,): the greatest.
    """

    low_: Floats
    high_: Floats

    def fit(self, Z: Floats, _target: Floats | None = None) -> Self:
        """Keep the range of the rows `Z` (n, q), which have no NaN."""
        least, most = Z.min(axis=0), Z.max(axis=0)
        low, high = np.quantile(Z, [_TAIL, 1.0 - _TAIL], axis=0)
        margin = _WIDENED_BY * (high - low)
        many = np.array([len(np.unique(column)) > _FEW_VALUES for column in Z.T])
        tails = many & (margin > 0.0)
        self.low_ = np.where(tails, np.maximum(least, low - margin), least)
        self.high_ = np.where(tails, np.minimum(most, high + margin), most)
        return self

    def transform(self, Z: Floats) -> Floats:
        """Return `Z` (n, q) within the range; NaN stays NaN."""
        result: Floats = np.clip(Z, self.low_, self.high_)
        return result


class Linear(Family):
    """A linear model of scikit-learn: its estimator's name, and the largest penalty searched."""

    defaults: ClassVar[Params] = {"alpha": 1.0}
    linear = True
    takes_weights = True
    estimator: ClassVar[str]
    largest: ClassVar[float]

    def _estimator(self, params: Params) -> Any:
        from sklearn import linear_model

        return getattr(linear_model, self.estimator)(**params)

    def fit(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,  # noqa: ARG002
        threads: int = 0,  # noqa: ARG002
        weight: Floats | None = None,
    ) -> Any:
        """Keep the range, standardise, then fit; nothing is drawn, and one thread does it."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        made = make_pipeline(TrainingRange(), StandardScaler(), self._estimator(params))
        last = made.steps[-1][0]
        weights = {f"{step}__sample_weight": weight for step in ("standardscaler", last)}
        return made.fit(Z, target, **({} if weight is None else weights))

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
