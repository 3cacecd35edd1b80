"""Tree families of scikit-learn: one tree, forests, gradient boosting on exact splits.

Each is the library's estimator with its defaults, the given parameters and the seed, nothing more,
so that its scores are those of scikit-learn's own GridSearchCV.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from tasador.selection.families.base import (
    Family,
    Floats,
    Params,
    Trial,
    check_estimator,
    staged_by_sklearn,
)
from tasador.trees.ensemble import TreeEnsemble
from tasador.trees.importers import from_sklearn


@cache
def _use_joblib_directly() -> None:
    """Let forests call joblib without scikit-learn's wrapper of it.

    Round each tree the wrapper empties the process's list of warning filters and fills it again,
    which goes wrong when several threads grow forests: warnings that are none, turned into errors
    where warnings are, and filters that are lost. What it is for, handing scikit-learn's global
    configuration to threads, is not used here.
    """
    import joblib
    from sklearn.ensemble import _forest

    _forest.Parallel, _forest.delayed = joblib.Parallel, joblib.delayed


class SklearnTrees(Family):
    """Trees of scikit-learn that are split on exact values."""

    takes_weights = True

    def _estimator(self, params: Params, seed: int, threads: int = 1) -> Any:
        raise NotImplementedError

    def fit(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        threads: int = 0,
        weight: Floats | None = None,
    ) -> Any:
        model = self._estimator(params, seed, threads).fit(Z, target, sample_weight=weight)
        # Threads add up the trees in the order in which they end, which changes the last bits.
        return model.set_params(n_jobs=1) if hasattr(model, "n_jobs") else model

    def grow(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        steps: Sequence[int],
        weight: Floats | None = None,
    ) -> Iterator[Any]:
        model = self._estimator(params, seed).set_params(warm_start=True)
        for step in steps:
            yield model.set_params(n_estimators=step).fit(Z, target, sample_weight=weight)

    def export(self, model: Any) -> TreeEnsemble:
        return from_sklearn(model)

    def check(self, params: Params) -> None:
        check_estimator(self._estimator(params, 0))

    def constrained(self, params: Params, signs: Sequence[int]) -> dict[str, Any] | None:
        return {**params, "monotonic_cst": list(signs)}

    def canonical(self, params: Params) -> dict[str, Any]:
        """Fill in the defaults, and what scikit-learn makes of the two limits on samples.

        Whole numbers stay: 1 sample and a share of 1.0 are different.
        """
        filled = {**self.defaults, **params}
        leaf, split = filled["min_samples_leaf"], filled["min_samples_split"]
        if isinstance(leaf, int) and isinstance(split, int):
            filled["min_samples_split"] = max(split, 2 * leaf)
        return filled


class Forest(SklearnTrees):
    """Trees grown by themselves, whose mean is the estimate."""

    defaults: ClassVar[Params] = {
        "n_estimators": 100,
        "max_depth": None,
        "max_features": 1.0,
        "min_samples_leaf": 1,
        "min_samples_split": 2,
    }
    prefix = "n_estimators"
    depth = "max_depth"
    grows = True
    averages = True
    estimator: ClassVar[str]

    def _estimator(self, params: Params, seed: int, threads: int = 1) -> Any:
        from sklearn import ensemble

        _use_joblib_directly()
        return getattr(ensemble, self.estimator)(random_state=seed, n_jobs=threads or -1, **params)

    def staged(self, model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
        """Add up the trees in their order and divide, as scikit-learn does on one thread."""
        Z32, total, found = Z.astype(np.float32), np.zeros(len(Z)), dict[int, Floats]()
        for number, tree in enumerate(model.estimators_[: max(steps)], start=1):
            total += tree.tree_.predict(Z32)[:, 0]
            if number in steps:
                found[number] = total / number
        return [found[step] for step in steps]

    def reached_depth(self, model: Any) -> int:
        return int(max(tree.tree_.max_depth for tree in model.estimators_))


class RandomForest(Forest):
    """A random forest."""

    name, title, estimator = "random_forest", "Random forest", "RandomForestRegressor"
    seconds_a_step = 0.3

    def space(self, trial: Trial) -> dict[str, Any]:
        return {
            "n_estimators": trial.suggest_int("n_estimators", 50, 500),
            "max_depth": trial.suggest_int("max_depth", 5, 30),
            "min_samples_split": trial.suggest_int("min_samples_split", 2, 20),
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 10),
            "max_features": trial.suggest_categorical("max_features", ["sqrt", "log2"]),
        }


class ExtraTrees(Forest):
    """Extremely randomised trees."""

    name, title, estimator = "extra_trees", "Extra trees", "ExtraTreesRegressor"
    seconds_a_step = 0.1

    def space(self, trial: Trial) -> dict[str, Any]:
        return {
            "n_estimators": trial.suggest_int("n_estimators", 50, 500),
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 10),
            "max_features": trial.suggest_float("max_features", 0.2, 1.0),
        }


class DecisionTree(SklearnTrees):
    """One tree."""

    name, title = "decision_tree", "Decision tree"
    defaults: ClassVar[Params] = {
        "max_depth": None,
        "max_features": None,
        "min_samples_leaf": 1,
        "min_samples_split": 2,
    }
    depth = "max_depth"
    seconds_a_step = 0.4

    def _estimator(self, params: Params, seed: int, threads: int = 1) -> Any:  # noqa: ARG002
        from sklearn.tree import DecisionTreeRegressor

        return DecisionTreeRegressor(random_state=seed, **params)

    def space(self, trial: Trial) -> dict[str, Any]:
        return {
            "max_depth": trial.suggest_int("max_depth", 3, 30),
            "min_samples_split": trial.suggest_int("min_samples_split", 2, 40),
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 40),
        }

    def reached_depth(self, model: Any) -> int:
        return int(model.tree_.max_depth)


class GradientBoosting(SklearnTrees):
    """Gradient boosting on exact splits."""

    name, title = "gradient_boosting", "Gradient boosting"
    defaults: ClassVar[Params] = {
        "n_estimators": 100,
        "max_depth": 3,
        "max_features": None,
        "learning_rate": 0.1,
        "subsample": 1.0,
        "loss": "squared_error",
        "min_samples_leaf": 1,
        "min_samples_split": 2,
    }
    prefix = "n_estimators"
    grows = True
    seconds_a_step = 0.2

    def _estimator(self, params: Params, seed: int, threads: int = 1) -> Any:  # noqa: ARG002
        from sklearn.ensemble import GradientBoostingRegressor

        return GradientBoostingRegressor(random_state=seed, **params)

    def constrained(self, params: Params, signs: Sequence[int]) -> dict[str, Any] | None:  # noqa: ARG002
        return None  # scikit-learn has no constraints for it

    def staged(self, model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
        """Take what scikit-learn adds up, as far as it is needed."""
        return staged_by_sklearn(model, Z, steps)

    def space(self, trial: Trial) -> dict[str, Any]:
        return {
            "n_estimators": trial.suggest_int("n_estimators", 100, 300),
            "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.3, log=True),
            "max_depth": trial.suggest_int("max_depth", 3, 8),
            "subsample": trial.suggest_float("subsample", 0.5, 1.0),
            "max_features": trial.suggest_float("max_features", 0.1, 1.0),
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 40, log=True),
        }
