"""The methods of `accuracy_peers.py`, each run in an environment of its own, without tasador.

    python accuracy_methods.py METHOD TRAIN.csv TEST.csv PREDICTIONS.csv SECONDS

Reads the training part, and the test part without its prices; uses at most SECONDS of wall time
from its start; writes one estimate a line. All get what tasador's contract says: which column is
a category, and that prices are to be modelled on a logarithmic scale. The boosters are tuned by
seeded random search on three-fold cross-validation of the training part, with early stopping, for
as long as there is time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from isolation import isolate

STARTED = time.perf_counter()
SEED, FOLDS, MOST_TREES = 42, 3, 4000
CORES = os.cpu_count() or 1
Found = tuple[Any, dict[str, Any]]  # estimates, and what to tell


def left(seconds: float) -> float:
    """Return what is left of the budget."""
    return seconds - (time.perf_counter() - STARTED)


def search(
    draw: Callable[[np.random.Generator], dict[str, Any]],
    fit: Callable[..., Any],
    X: pd.DataFrame,
    y: Any,
    seconds: float,
) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """Return the best parameters, their number of trees, and what was tried.

    Goes on for as long as another candidate and the final fit, reckoned from the longest
    candidate so far, have time.
    """
    random = np.random.default_rng(SEED)
    fold_of = random.permutation(len(y)) % FOLDS
    best: tuple[float, dict[str, Any], int] | None = None
    tried, longest = 0, 0.0
    reserve = 0.3 * seconds
    while best is None or left(seconds) - longest > reserve:
        begun, params, errors, trees = time.perf_counter(), draw(random), [], []
        for fold in range(FOLDS):
            held = fold_of == fold
            most = left(seconds) - (reserve if best else (0.5 + 0.1 * (FOLDS - 1 - fold)) * seconds)
            fitting = X[~held], y[~held], (X[held], y[held]), MOST_TREES
            model, count = fit(params, *fitting, time.perf_counter() + max(most, 1.0))
            estimate = np.exp(model.predict(X[held]))
            errors.append(np.abs(estimate - np.exp(y[held])).mean())
            trees.append(count)
            if best is not None and left(seconds) < reserve:
                break  # cut short: it does not compare
        else:
            tried += 1
            if best is None or np.mean(errors) < best[0]:
                best = float(np.mean(errors)), params, int(np.mean(trees))
        longest = max(longest, time.perf_counter() - begun)
        reserve = 0.05 * seconds + 2.5 * longest / FOLDS
    return best[1], best[2], {"candidates": tried, "cross-validated MAE": round(best[0])}


def lightgbm(X: pd.DataFrame, y: Any, test: pd.DataFrame, seconds: float) -> Found:
    """LightGBM, tuned."""
    import lightgbm as library

    def draw(random: np.random.Generator) -> dict[str, Any]:
        return {
            "objective": str(random.choice(["l1", "l2"])),
            "learning_rate": float(np.exp(random.uniform(np.log(0.03), np.log(0.15)))),
            "num_leaves": int(np.exp(random.uniform(np.log(15), np.log(127)))),
            "min_child_samples": int(np.exp(random.uniform(np.log(5), np.log(60)))),
            "feature_fraction": float(random.uniform(0.4, 1.0)),
            "bagging_fraction": float(random.uniform(0.5, 1.0)),
            "lambda_l2": float(np.exp(random.uniform(np.log(1e-3), np.log(10)))),
        }

    def fit(params: Any, X: Any, y: Any, held: Any, trees: int, end: float) -> tuple[Any, int]:
        def stop_in_time(state: Any) -> None:
            if time.perf_counter() > end:
                raise library.callback.EarlyStopException(state.iteration, [])

        settings = {**params, "bagging_freq": 1, "seed": SEED, "verbosity": -1,
                    "num_threads": CORES}  # fmt: skip
        data, more = library.Dataset(X, y), {"callbacks": [stop_in_time]}
        if held is not None:
            more["valid_sets"] = [library.Dataset(*held, reference=data)]
            more["callbacks"].append(library.early_stopping(50, verbose=False))
        model = library.train(settings, data, trees, **more)
        return model, max(model.best_iteration, 1) if held is not None else model.num_trees()

    params, trees, told = search(draw, fit, X, y, seconds)
    end = STARTED + 0.97 * seconds
    model, count = fit(params, X, y, None, round(trees * 1.1), end)
    return np.exp(model.predict(test)), {**told, "trees": count, **params}


def catboost(X: pd.DataFrame, y: Any, test: pd.DataFrame, seconds: float) -> Found:
    """CatBoost, tuned."""
    import catboost as library

    def draw(random: np.random.Generator) -> dict[str, Any]:
        return {
            "loss_function": str(random.choice(["MAE", "RMSE"])),
            "learning_rate": float(np.exp(random.uniform(np.log(0.06), np.log(0.25)))),
            "depth": int(random.integers(5, 9)),
            "l2_leaf_reg": float(np.exp(random.uniform(np.log(0.5), np.log(10)))),
        }

    names = [name for name in X.columns if str(X[name].dtype) == "category"]

    def fit(params: Any, X: Any, y: Any, held: Any, trees: int, end: float) -> tuple[Any, int]:
        class StopInTime:
            def after_iteration(self, _: Any) -> bool:
                return time.perf_counter() < end

        model = library.CatBoostRegressor(
            iterations=min(trees, 1500), random_seed=SEED, verbose=False, thread_count=CORES,
            cat_features=names, allow_writing_files=False,
            early_stopping_rounds=None if held is None else 50, **params,
        )  # fmt: skip
        model.fit(X, y, eval_set=held, callbacks=[StopInTime()])
        return model, model.tree_count_

    params, trees, told = search(draw, fit, X, y, seconds)
    end = STARTED + 0.97 * seconds
    model, count = fit(params, X, y, None, round(trees * 1.1), end)
    return np.exp(model.predict(test)), {**told, "trees": count, **params}


def flaml(X: pd.DataFrame, y: Any, test: pd.DataFrame, seconds: float) -> Found:
    """FLAML's AutoML with its own choice of learners."""
    import flaml as library

    model = library.AutoML()
    model.fit(X, y, task="regression", metric="mae", time_budget=left(seconds) - 5, seed=SEED,
              n_jobs=CORES, verbose=0)  # fmt: skip
    return np.exp(model.predict(test)), {"learner": model.best_estimator}


def autogluon(X: pd.DataFrame, y: Any, test: pd.DataFrame, seconds: float) -> Found:
    """AutoGluon with its best quality that is meant for such times."""
    import tempfile

    from autogluon.tabular import TabularPredictor

    with tempfile.TemporaryDirectory() as folder:
        predictor = TabularPredictor(
            "price", problem_type="regression", eval_metric="mean_absolute_error", path=folder,
            verbosity=0,
        )  # fmt: skip
        predictor.fit(X.assign(price=y), presets="best_quality", num_cpus=CORES,
                      time_limit=max(left(seconds) - 10, 5), dynamic_stacking=False,
                      ag_args_ensemble={"fold_fitting_strategy": "sequential_local"})  # fmt: skip
        found = predictor.predict(test).to_numpy()
        told = {"models": len(predictor.model_names()), "best": predictor.model_best}
    return np.exp(found), told


METHODS = {"lightgbm": lightgbm, "catboost": catboost, "flaml": flaml, "autogluon": autogluon}


def main() -> None:
    """Run one method."""
    name, train_path, test_path, target_path, seconds = sys.argv[1:]
    train, test = pd.read_csv(train_path), pd.read_csv(test_path)
    price = train.columns[-1]
    X, y = train.drop(columns=price), np.log(train[price].to_numpy(float))
    for column in X.columns:
        if not pd.api.types.is_numeric_dtype(X[column]):
            kind = pd.CategoricalDtype(sorted({*X[column], *test[column]}))
            X[column], test[column] = X[column].astype(kind), test[column].astype(kind)
    estimates, told = METHODS[name](X, y, test, float(seconds))
    np.savetxt(target_path, estimates, fmt="%.17g")
    print(json.dumps(told))


if __name__ == "__main__":
    isolate()
    main()
