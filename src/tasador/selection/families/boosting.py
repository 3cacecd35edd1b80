"""Boosting on binned values: LightGBM and scikit-learn's histogram gradient boosting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from tasador.modeling.parity import lightgbm_predictor
from tasador.selection.families.base import (
    Family,
    Floats,
    Params,
    Trial,
    check_estimator,
    check_ranges,
    fill_in,
    predict,
)
from tasador.selection.families.inputs import CATEGORICAL, HIDDEN, INPUTS
from tasador.selection.families.trees import slow_steps
from tasador.trees import importers

_LIGHTGBM_STEPS = 400
_LIGHTGBM_DEFAULTS = {
    "n_estimators": _LIGHTGBM_STEPS,
    "learning_rate": 0.1,
    "num_leaves": 31,
    "max_depth": -1,
    "min_child_samples": 20,
    "feature_fraction": 1.0,
    "bagging_fraction": 1.0,
    "lambda_l1": 0.0,
    "lambda_l2": 0.0,
    "objective": "l1",
    INPUTS: "both",
}
_LIGHTGBM_RANGES = {
    "n_estimators": (int, 1, 1_000_000),
    "learning_rate": (float, 1e-6, 1e6),
    "num_leaves": (int, 2, 131_072),
    "max_depth": (int, -1, 1_000_000),
    "min_child_samples": (int, 0, 1_000_000_000),
    "feature_fraction": (float, 1e-6, 1.0),
    "bagging_fraction": (float, 1e-6, 1.0),
    "lambda_l1": (float, 0.0, 1e300),
    "lambda_l2": (float, 0.0, 1e300),
}
# those whose prediction is the sum of the leaves, which is what can be exported
_LIGHTGBM_OBJECTIVES = ("l1", "l2", "huber", "fair", "quantile", "mape", "regression")
_HISTOGRAM_DEFAULTS = {
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
_HISTOGRAM_LOSSES = ("squared_error", "absolute_error")


def _grow_lightgbm(
    params: Params, Z: Floats, target: Floats, seed: int, steps: Sequence[int], threads: int = 1
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
    data = lightgbm.Dataset(
        Z, target, categorical_feature=codes, params={"verbosity": -1, "num_threads": threads}
    )
    model = lightgbm.Booster(settings, data)
    for step in range(1, steps[-1] + 1):
        if model.update():
            break  # no split is worth it any more: the model is as it would stay
        if step in steps[:-1]:
            yield model
            _silence_lightgbm()
    yield model


def _silence_lightgbm() -> None:
    """Keep LightGBM's warnings, such as that no split is left, from going to standard output.

    It keeps its verbosity for each thread by itself, and takes that of the last call: between two
    steps of a model other calls were made, or another thread goes on with it.
    """
    import lightgbm

    lightgbm.Dataset(np.zeros((1, 1)), np.zeros(1), params={"verbosity": -1}).construct()


def _fit_lightgbm(params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0) -> Any:
    steps = int(params.get("n_estimators", 400))
    (model,) = _grow_lightgbm(params, Z, target, seed, [steps], threads)
    return model


def _predict_lightgbm(model: Any, Z: Floats) -> Floats:
    # several threads would have to be taken back from a model that is still growing
    return lightgbm_predictor(model, threads=1)(Z)


def _fitted_lightgbm(model: Any) -> Floats:
    """Take the scores that LightGBM keeps of its training rows."""
    kept: list[Floats] = []

    def take(scores: Floats, _: Any) -> tuple[str, float, bool]:
        kept.append(np.array(scores, dtype=np.float64))
        return "taken", 0.0, True

    model.eval_train(take)
    return kept[0]


def _staged_lightgbm(model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
    """Add up the trees from one cut to the next, as LightGBM itself does."""
    total, done, found = np.zeros(len(Z)), 0, dict[int, Floats]()
    for step in sorted(set(steps)):
        part = model.predict(Z, start_iteration=done, num_iteration=step - done, num_threads=1)
        total, done = total + part, step
        found[step] = total
    return [found[step] for step in steps]


def _slow_lightgbm(params: Params, factor: float) -> dict[str, Any]:
    return slow_steps({"n_estimators": _LIGHTGBM_STEPS, **params}, factor)


def _lightgbm_space(trial: Trial) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 250, 550),
        "num_leaves": trial.suggest_int("num_leaves", 15, 47, log=True),
        "min_child_samples": trial.suggest_int("min_child_samples", 5, 60, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.15, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 10.0, log=True),
    }


def _lightgbm_wide_space(trial: Trial) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 300, 900),
        "num_leaves": trial.suggest_int("num_leaves", 15, 95, log=True),
        "min_child_samples": trial.suggest_int("min_child_samples", 5, 60, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.1, 0.8),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.4, 1.0),
        "lambda_l1": trial.suggest_float("lambda_l1", 1e-3, 10.0, log=True),
        "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 10.0, log=True),
    }


def _vary_lightgbm(params: Params) -> dict[str, Any]:
    absolute = params.get("objective", "l1") in ("l1", "mape", "quantile")
    return {**params, "objective": "l2" if absolute else "l1"}


def _check_lightgbm(params: Params) -> None:
    check_ranges(
        params, _LIGHTGBM_RANGES, {"objective": _LIGHTGBM_OBJECTIVES, INPUTS: tuple(HIDDEN)}
    )


def _canonical_lightgbm(params: Params) -> dict[str, Any]:
    filled = fill_in(_LIGHTGBM_DEFAULTS, params)
    filled["max_depth"] = filled["max_depth"] if filled["max_depth"] > 0 else -1  # no limit
    filled["objective"] = {"regression": "l2"}.get(filled["objective"], filled["objective"])
    return filled


def _histogram(params: Params, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    # stopping early would set rows aside by chance and make the number of steps a guess
    return HistGradientBoostingRegressor(random_state=seed, early_stopping=False, **params)


def _fit_histogram(params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0) -> Any:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=threads or None, user_api="openmp"):
        return _histogram(params, seed).fit(Z, target)


def _grow_histogram(
    params: Params, Z: Floats, target: Floats, seed: int, steps: Sequence[int]
) -> Iterator[Any]:
    from threadpoolctl import threadpool_limits

    model = _histogram(params, seed).set_params(warm_start=True)
    for step in steps:
        with threadpool_limits(limits=1, user_api="openmp"):
            model.set_params(max_iter=step).fit(Z, target)
        yield model


def _staged_histogram(model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
    found = {}
    for number, estimate in enumerate(model.staged_predict(Z), start=1):
        if number in steps:
            found[number] = np.array(estimate, dtype=np.float64)
    return [found[step] for step in steps]


def _slow_histogram(params: Params, factor: float) -> dict[str, Any]:
    slowed = slow_steps({"n_estimators": params.get("max_iter", 100), **params}, factor)
    steps = slowed.pop("n_estimators")
    return {**slowed, "max_iter": steps}


def _histogram_space(trial: Trial) -> dict[str, Any]:
    return {
        "max_iter": trial.suggest_int("max_iter", 150, 500),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 15, 63, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 5, 60, log=True),
        "l2_regularization": trial.suggest_float("l2_regularization", 1e-3, 10.0, log=True),
        "max_features": trial.suggest_float("max_features", 0.15, 1.0),
    }


def _histogram_wide_space(trial: Trial) -> dict[str, Any]:
    return {
        "max_iter": trial.suggest_int("max_iter", 200, 600),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 15, 95, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 5, 60, log=True),
        "l2_regularization": trial.suggest_float("l2_regularization", 1e-3, 10.0, log=True),
        "max_features": trial.suggest_float("max_features", 0.1, 1.0),
    }


def _vary_histogram(params: Params) -> dict[str, Any]:
    absolute = params.get("loss", "squared_error") == "absolute_error"
    return {**params, "loss": "squared_error" if absolute else "absolute_error"}


def _check_histogram(params: Params) -> None:
    check_ranges(params, {}, {"loss": _HISTOGRAM_LOSSES})
    check_estimator(_histogram(params, 0))


LIGHTGBM = Family(
    name="lightgbm",
    title="LightGBM",
    parameters=frozenset((*_LIGHTGBM_RANGES, "objective", INPUTS)),
    fit=_fit_lightgbm,
    predict=_predict_lightgbm,
    fitted=_fitted_lightgbm,
    export=importers.from_lightgbm,
    space=_lightgbm_space,
    wide_space=_lightgbm_wide_space,
    vary=_vary_lightgbm,
    check=_check_lightgbm,
    slow=_slow_lightgbm,
    prefix="n_estimators",
    staged=_staged_lightgbm,
    grow=_grow_lightgbm,
    canonical=_canonical_lightgbm,
    takes_missing=True,
    takes_codes=True,
)
HIST_GRADIENT_BOOSTING = Family(
    name="hist_gradient_boosting",
    title="Histogram gradient boosting",
    parameters=frozenset(_HISTOGRAM_DEFAULTS),
    fit=_fit_histogram,
    predict=predict,
    export=importers.from_sklearn,
    space=_histogram_space,
    wide_space=_histogram_wide_space,
    vary=_vary_histogram,
    check=_check_histogram,
    slow=_slow_histogram,
    prefix="max_iter",
    staged=_staged_histogram,
    grow=_grow_histogram,
    canonical=partial(fill_in, _HISTOGRAM_DEFAULTS),
    takes_missing=True,
)
