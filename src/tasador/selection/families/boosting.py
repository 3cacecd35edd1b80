"""Boosting on binned values: LightGBM and scikit-learn's histogram gradient boosting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from tasador.modeling.parity import lightgbm_predictor
from tasador.selection.families.base import (
    Booster,
    Family,
    Floats,
    Params,
    Ranges,
    Trial,
    check_estimator,
    staged_by_sklearn,
)
from tasador.selection.families.inputs import CATEGORICAL, HIDDEN, INPUTS
from tasador.trees.ensemble import TreeEnsemble
from tasador.trees.importers import from_lightgbm, from_sklearn

#: From which error on the loss of constrained trees is about absolute, in standard deviations of
#: the target; .05 to .2 are alike on the default table.
_FAIR_SCALE = 0.2


class LightGBM(Booster):
    """LightGBM."""

    name, title = "lightgbm", "LightGBM"
    defaults: ClassVar[Params] = {
        "n_estimators": 400,
        "learning_rate": 0.1,
        "num_leaves": 31,
        "max_depth": -1,
        "min_child_samples": 20,
        "feature_fraction": 1.0,
        "feature_fraction_bynode": 1.0,
        "bagging_fraction": 1.0,
        "lambda_l1": 0.0,
        "lambda_l2": 0.0,
        "cat_smooth": 10.0,
        "objective": "l1",
        INPUTS: "both",
    }
    ranges: ClassVar[Ranges] = {
        "n_estimators": (int, 1, 1_000_000),
        "learning_rate": (float, 1e-6, 1e6),
        "num_leaves": (int, 2, 131_072),
        "max_depth": (int, -1, 1_000_000),
        "min_child_samples": (int, 0, 1_000_000_000),
        "feature_fraction": (float, 1e-6, 1.0),
        "feature_fraction_bynode": (float, 1e-6, 1.0),
        "bagging_fraction": (float, 1e-6, 1.0),
        "lambda_l1": (float, 0.0, 1e300),
        "lambda_l2": (float, 0.0, 1e300),
        "cat_smooth": (float, 0.0, 1e300),
    }
    choices: ClassVar = {
        # those whose prediction is the sum of the leaves, which is what can be exported
        "objective": ("l1", "l2", "huber", "fair", "quantile", "mape", "regression"),
        INPUTS: tuple(HIDDEN),
    }
    prefix = "n_estimators"
    takes_codes = True
    seconds_a_step = 0.004

    def _grow(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        steps: Sequence[int],
        threads: int,
        weight: Floats | None = None,
    ) -> Iterator[Any]:
        import lightgbm

        params = dict(params)
        codes = params.pop(CATEGORICAL, "auto")
        settings = {
            "objective": "l1",
            "learning_rate": 0.1,
            "bagging_freq": 1,
            "seed": seed,
            "deterministic": True,
            "force_col_wise": True,  # together with `deterministic`: the same trees on every run
            "num_threads": threads,
            "verbosity": -1,
            **{key: value for key, value in params.items() if key != "n_estimators"},
        }
        absolute = None
        if "monotone_constraints" in settings and settings["objective"] == "l1":
            # LightGBM takes no constraint with absolute loss; its own fair loss is unsteady where
            # it is near that one
            settings["objective"], absolute = "l2", _near_absolute_loss(target, weight)
        data = lightgbm.Dataset(
            Z,
            target,
            weight=weight,
            categorical_feature=codes,
            params={"verbosity": -1, "num_threads": threads},
        )
        model = lightgbm.Booster(settings, data)
        for step in range(1, steps[-1] + 1):
            # the first tree brings the mean
            if model.update(fobj=absolute if step > 1 else None):
                break  # no split is worth it any more: the model is as it would stay
            if step in steps[:-1]:
                yield model
                _silence_lightgbm()
        yield model

    def predict(self, model: Any, Z: Floats, threads: int = 1) -> Floats:
        """Add up blocks of trees.

        On one thread: several would have to be taken back from a model that is still growing.
        """
        return lightgbm_predictor(model, threads=threads)(Z)

    def fitted(self, model: Any) -> Floats:
        """Take the scores that LightGBM keeps of its training rows."""
        kept: list[Floats] = []

        def take(scores: Floats, _: Any) -> tuple[str, float, bool]:
            kept.append(np.array(scores, dtype=np.float64))
            return "taken", 0.0, True

        model.eval_train(take)
        return kept[0]

    def staged(self, model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
        """Add up the trees from one cut to the next, as LightGBM itself does."""
        total, done, found = np.zeros(len(Z)), 0, dict[int, Floats]()
        for step in sorted(set(steps)):
            part = model.predict(Z, start_iteration=done, num_iteration=step - done, num_threads=1)
            total, done = total + part, step
            found[step] = total
        return [found[step] for step in steps]

    def export(self, model: Any) -> TreeEnsemble:
        return from_lightgbm(model)

    def space(self, trial: Trial) -> dict[str, Any]:
        return {
            "n_estimators": trial.suggest_int("n_estimators", 250, 550),
            "num_leaves": trial.suggest_int("num_leaves", 15, 47, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 5, 60, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.15, 1.0),
            "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
            "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 10.0, log=True),
        }

    def wide_space(self, trial: Trial) -> dict[str, Any]:
        return {
            "n_estimators": trial.suggest_int("n_estimators", 300, 900),
            "num_leaves": trial.suggest_int("num_leaves", 15, 95, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 5, 60, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.1, 1.0),
            "feature_fraction_bynode": trial.suggest_float("feature_fraction_bynode", 0.2, 1.0),
            "bagging_fraction": trial.suggest_float("bagging_fraction", 0.4, 1.0),
            "lambda_l1": trial.suggest_float("lambda_l1", 1e-3, 10.0, log=True),
            "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 10.0, log=True),
        }

    def constrained(self, params: Params, signs: Sequence[int]) -> dict[str, Any] | None:
        """Refuse losses after which LightGBM sets leaves again; `fit` has another absolute one."""
        if params.get("objective") in ("quantile", "mape"):
            return None
        # "basic" costs twice as much accuracy, .5% of the default table's MAPE instead of .25%
        method = {"monotone_constraints_method": "intermediate"}
        return {**params, "monotone_constraints": list(signs), **method}

    def vary(self, params: Params) -> dict[str, Any]:
        """Exchange absolute and squared loss."""
        absolute = params.get("objective", "l1") in ("l1", "mape", "quantile")
        return {**params, "objective": "l2" if absolute else "l1"}

    def canonical(self, params: Params) -> dict[str, Any]:
        """Know LightGBM's second names for no limit and for squared loss."""
        filled = super().canonical(params)
        filled["max_depth"] = filled["max_depth"] if filled["max_depth"] > 0 else -1
        filled["objective"] = {"regression": "l2"}.get(filled["objective"], filled["objective"])
        return filled


def _near_absolute_loss(
    target: Floats, row_weight: Floats | None
) -> Callable[[Floats, Any], tuple[Floats, Floats]]:
    """Return the gradient and the weight of errors with Fair's loss, which nears the absolute one.

    The weight is that of iteratively reweighted least squares (Holland and Welsch, 1977) and not
    the second derivative, which vanishes for large errors, so that steps are never too long.
    """
    scale = _FAIR_SCALE * float(np.std(target)) or 1.0

    def loss(score: Floats, _: Any) -> tuple[Floats, Floats]:
        error = score - target
        weight = scale / (np.abs(error) + scale)
        if row_weight is not None:  # LightGBM weights its own losses only
            weight = weight * row_weight
        return error * weight, weight

    return loss


def _silence_lightgbm() -> None:
    """Keep LightGBM's warnings, such as that no split is left, from going to standard output.

    It keeps its verbosity for each thread by itself, and takes that of the last call: between two
    steps of a model other calls were made, or another thread goes on with it.
    """
    import lightgbm

    lightgbm.Dataset(np.zeros((1, 1)), np.zeros(1), params={"verbosity": -1}).construct()


class HistGradientBoosting(Family):
    """Histogram gradient boosting of scikit-learn."""

    name, title = "hist_gradient_boosting", "Histogram gradient boosting"
    defaults: ClassVar[Params] = {
        "max_iter": 100,
        "learning_rate": 0.1,
        "max_leaf_nodes": 31,
        "max_depth": None,
        "min_samples_leaf": 20,
        "l2_regularization": 0.0,
        "max_features": 1.0,
        "loss": "squared_error",
    }
    # the others predict through an exponential, or need a quantile
    choices: ClassVar = {"loss": ("squared_error", "absolute_error")}
    prefix = "max_iter"
    grows = True
    takes_missing = True
    takes_weights = True
    seconds_a_step = 0.02

    def _estimator(self, params: Params, seed: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor

        # stopping early would set rows aside by chance and make the number of steps a guess
        return HistGradientBoostingRegressor(random_state=seed, early_stopping=False, **params)

    def fit(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        threads: int = 0,
        weight: Floats | None = None,
    ) -> Any:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=threads or None, user_api="openmp"):
            return self._estimator(params, seed).fit(Z, target, sample_weight=weight)

    def grow(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        steps: Sequence[int],
        weight: Floats | None = None,
    ) -> Iterator[Any]:
        from threadpoolctl import threadpool_limits

        model = self._estimator(params, seed).set_params(warm_start=True)
        for step in steps:
            with threadpool_limits(limits=1, user_api="openmp"):
                model.set_params(max_iter=step).fit(Z, target, sample_weight=weight)
            yield model

    def staged(self, model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
        """Take what scikit-learn adds up."""
        return staged_by_sklearn(model, Z, steps)

    def export(self, model: Any) -> TreeEnsemble:
        return from_sklearn(model)

    def check(self, params: Params) -> None:
        """Refuse what cannot be exported, then by scikit-learn's own constraints."""
        super().check(params)
        check_estimator(self._estimator(params, 0))

    def constrained(self, params: Params, signs: Sequence[int]) -> dict[str, Any] | None:
        """Refuse absolute loss, which sets leaves again after the constraint."""
        if params.get("loss", "squared_error") != "squared_error":
            return None
        return {**params, "monotonic_cst": list(signs)}

    def space(self, trial: Trial) -> dict[str, Any]:
        return {
            "max_iter": trial.suggest_int("max_iter", 150, 500),
            "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 15, 63, log=True),
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 5, 60, log=True),
            "l2_regularization": trial.suggest_float("l2_regularization", 1e-3, 10.0, log=True),
            "max_features": trial.suggest_float("max_features", 0.15, 1.0),
        }

    def wide_space(self, trial: Trial) -> dict[str, Any]:
        return {
            "max_iter": trial.suggest_int("max_iter", 200, 600),
            "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 15, 95, log=True),
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 5, 60, log=True),
            "l2_regularization": trial.suggest_float("l2_regularization", 1e-3, 10.0, log=True),
            "max_features": trial.suggest_float("max_features", 0.1, 1.0),
        }

    def vary(self, params: Params) -> dict[str, Any]:
        """Exchange absolute and squared loss."""
        absolute = params.get("loss", "squared_error") == "absolute_error"
        return {**params, "loss": "squared_error" if absolute else "absolute_error"}
