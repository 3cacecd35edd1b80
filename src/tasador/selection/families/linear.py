"""Linear families: ridge and lasso on standardised columns."""

from __future__ import annotations

from typing import Any, ClassVar

from tasador.selection.families.base import Family, Floats, Params, Trial, check_estimator
from tasador.trees.ensemble import LinearModel
from tasador.trees.importers import from_linear


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
        """Standardise, then fit; nothing is drawn, and one thread does it."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), self._estimator(params)).fit(Z, target)

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
