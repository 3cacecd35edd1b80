"""Tree families of scikit-learn: one tree, forests, gradient boosting on exact splits.

Each is the library's estimator with its defaults, the given parameters and the seed, nothing more,
so that its scores are those of scikit-learn's own GridSearchCV.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from tasador.selection.families.base import Family, Floats, Params, Trial, check_estimator, predict
from tasador.trees import importers

_SHARED = ("max_depth", "min_samples_split", "min_samples_leaf", "max_features")


def _estimator(name: str, params: Params, seed: int, threads: int = 1) -> Any:
    from sklearn import ensemble, tree

    if name == "DecisionTreeRegressor":
        return tree.DecisionTreeRegressor(random_state=seed, **params)
    if name == "GradientBoostingRegressor":
        return ensemble.GradientBoostingRegressor(random_state=seed, **params)
    _use_joblib_directly()
    return getattr(ensemble, name)(random_state=seed, n_jobs=threads or -1, **params)


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


def _fit(
    name: str, params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0, /
) -> Any:
    model = _estimator(name, params, seed, threads).fit(Z, target)
    # Threads add up the trees in the order in which they end, which changes the last bits.
    return model.set_params(n_jobs=1) if hasattr(model, "n_jobs") else model


def _check(name: str, params: Params) -> None:
    check_estimator(_estimator(name, params, 0))


def _grow(
    name: str, params: Params, Z: Floats, target: Floats, seed: int, steps: Sequence[int]
) -> Iterator[Any]:
    model = _estimator(name, params, seed).set_params(warm_start=True)
    for step in steps:
        yield model.set_params(n_estimators=step).fit(Z, target)


def _staged_forest(model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
    """Add up the trees in their order and divide, as scikit-learn does on one thread."""
    Z32, total, found = Z.astype(np.float32), np.zeros(len(Z)), dict[int, Floats]()
    for number, tree in enumerate(model.estimators_[: max(steps)], start=1):
        total += tree.tree_.predict(Z32)[:, 0]
        if number in steps:
            found[number] = total / number
    return [found[step] for step in steps]


def _staged_boosting(model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
    wanted = set(steps)
    found = {}
    for number, estimate in enumerate(model.staged_predict(Z), start=1):
        if number in wanted:
            found[number] = np.array(estimate, dtype=np.float64)
        if number >= max(wanted):
            break
    return [found[step] for step in steps]


def _canonical(defaults: Params, params: Params) -> dict[str, Any]:
    """Fill in the defaults, and what scikit-learn makes of the two limits on samples."""
    filled = {**defaults, "min_samples_leaf": 1, "min_samples_split": 2, **params}
    leaf, split = filled["min_samples_leaf"], filled["min_samples_split"]
    if isinstance(leaf, int) and isinstance(split, int):
        filled["min_samples_split"] = max(split, 2 * leaf)
    return filled


_FOREST = {"n_estimators": 100, "max_depth": None, "max_features": 1.0}
_TREE = {"max_depth": None, "max_features": None}
_BOOSTING = {
    "n_estimators": 100,
    "max_depth": 3,
    "max_features": None,
    "learning_rate": 0.1,
    "subsample": 1.0,
    "loss": "squared_error",
}


def _forest_depth(model: Any) -> int:
    return int(max(tree.tree_.max_depth for tree in model.estimators_))


def _tree_depth(model: Any) -> int:
    return int(model.tree_.max_depth)


def _forest_space(trial: Trial) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 50, 500),
        "max_depth": trial.suggest_int("max_depth", 5, 30),
        "min_samples_split": trial.suggest_int("min_samples_split", 2, 20),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 10),
        "max_features": trial.suggest_categorical("max_features", ["sqrt", "log2"]),
    }


def _extra_space(trial: Trial) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 50, 500),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 10),
        "max_features": trial.suggest_float("max_features", 0.2, 1.0),
    }


def _tree_space(trial: Trial) -> dict[str, Any]:
    return {
        "max_depth": trial.suggest_int("max_depth", 3, 30),
        "min_samples_split": trial.suggest_int("min_samples_split", 2, 40),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 40),
    }


def _boosting_space(trial: Trial) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 100, 300),
        "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.3, log=True),
        "max_depth": trial.suggest_int("max_depth", 3, 8),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "max_features": trial.suggest_float("max_features", 0.1, 1.0),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 40, log=True),
    }


def slow_steps(params: Params, factor: float) -> dict[str, Any]:
    """Return `factor` times more boosting steps, each that much smaller."""
    return {
        **params,
        "learning_rate": params.get("learning_rate", 0.1) / factor,
        "n_estimators": math.ceil(params.get("n_estimators", 100) * factor),
    }


def _forest(name: str, title: str, library: str, space: Any) -> Family:
    return Family(
        name=name,
        title=title,
        parameters=frozenset(("n_estimators", *_SHARED)),
        fit=partial(_fit, library),
        predict=predict,
        export=importers.from_sklearn,
        space=space,
        check=partial(_check, library),
        prefix="n_estimators",
        averages=True,
        staged=_staged_forest,
        grow=partial(_grow, library),
        canonical=partial(_canonical, _FOREST),
        reached_depth=_forest_depth,
    )


RANDOM_FOREST = _forest("random_forest", "Random forest", "RandomForestRegressor", _forest_space)
EXTRA_TREES = _forest("extra_trees", "Extra trees", "ExtraTreesRegressor", _extra_space)
DECISION_TREE = Family(
    name="decision_tree",
    title="Decision tree",
    parameters=frozenset(_SHARED),
    fit=partial(_fit, "DecisionTreeRegressor"),
    predict=predict,
    export=importers.from_sklearn,
    space=_tree_space,
    check=partial(_check, "DecisionTreeRegressor"),
    canonical=partial(_canonical, _TREE),
    reached_depth=_tree_depth,
)
GRADIENT_BOOSTING = Family(
    name="gradient_boosting",
    title="Gradient boosting",
    parameters=frozenset(("n_estimators", "learning_rate", "subsample", "loss", *_SHARED)),
    fit=partial(_fit, "GradientBoostingRegressor"),
    predict=predict,
    export=importers.from_sklearn,
    space=_boosting_space,
    check=partial(_check, "GradientBoostingRegressor"),
    slow=slow_steps,
    prefix="n_estimators",
    staged=_staged_boosting,
    grow=partial(_grow, "GradientBoostingRegressor"),
    canonical=partial(_canonical, _BOOSTING),
)
