"""Peers of `tables.py` and `valuation_peers.py`, in environments of their own without tasador.

    python tables_methods.py METHOD TABLE TRAIN TEST ESTIMATES SECONDS

Reads a training file and a test file without its target, writes one estimate a line; a method that
levels prices by month writes that beside it. All estimate
the logarithm of the target, but for openavmkit (`openavmkit_steps.py`), and take categories as they
are. `lightgbm` is what fits in ten lines: 500 trees at a learning rate of 0.05, whatever the time;
CatBoost has its defaults (1000 trees), AutoGluon its preset for such times; both end when SECONDS
are over.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isolation import isolate
from tables_data import SALES, TABLES, Table, read_table

STARTED = time.perf_counter()
SEED = 42
CORES = os.cpu_count() or 1
Found = tuple[Any, dict[str, Any]]  # logarithms of the estimates, and what to tell


def texts(X: pd.DataFrame) -> list[str]:
    """Return the columns that are not numbers."""
    return [name for name in X.columns if not pd.api.types.is_numeric_dtype(X[name])]


def lightgbm(X: pd.DataFrame, y: Any, test: pd.DataFrame, _: float, table: Table) -> Found:
    """A plain LightGBM with native categories."""
    import lightgbm as library

    for name in texts(X):
        X[name] = X[name].astype("string").astype("category")
        test[name] = test[name].astype("string").astype(X[name].dtype)
    settings = {"objective": table.objective, "learning_rate": 0.05, "verbosity": -1, "seed": SEED,
                "num_threads": CORES}  # fmt: skip
    model = library.train(settings, library.Dataset(X, y), 500)
    return model.predict(test), {"trees": model.num_trees()}


def catboost(X: pd.DataFrame, y: Any, test: pd.DataFrame, seconds: float, _: Table) -> Found:
    """CatBoost as it is; texts are categories."""
    import catboost as library

    class StopInTime:
        def after_iteration(self, _: Any) -> bool:
            return time.perf_counter() - STARTED < seconds

    names = texts(X)
    for frame in (X, test):
        frame[names] = frame[names].astype("string").fillna("missing").astype(object)
    model = library.CatBoostRegressor(
        random_seed=SEED, verbose=False, thread_count=CORES, allow_writing_files=False,
        cat_features=names,
    )  # fmt: skip
    model.fit(X, y, callbacks=[StopInTime()])
    return model.predict(test), {"trees": model.tree_count_}


def autogluon(X: pd.DataFrame, y: Any, test: pd.DataFrame, seconds: float, _: Table) -> Found:
    """AutoGluon with its best quality that is meant for such times."""
    from autogluon.tabular import TabularPredictor

    target = "target of the league"
    with tempfile.TemporaryDirectory() as folder:
        predictor = TabularPredictor(
            target, problem_type="regression", eval_metric="root_mean_squared_error",
            path=folder, verbosity=0,
        )  # fmt: skip
        left = max(seconds - (time.perf_counter() - STARTED) - 5.0, 5.0)
        predictor.fit(X.assign(**{target: y}), presets="best_quality", num_cpus=CORES,
                      time_limit=left, dynamic_stacking=False,
                      ag_args_ensemble={"fold_fitting_strategy": "sequential_local"})  # fmt: skip
        found = predictor.predict(test).to_numpy()
        told = {"models": len(predictor.model_names()), "best": predictor.model_best}
    return found, told


def openavmkit(X: pd.DataFrame, y: Any, test: pd.DataFrame, seconds: float, table: Table) -> Found:
    """The steps of openavmkit's notebooks."""
    from openavmkit_steps import value

    estimates, told = value(X, np.exp(y), test, table, seconds)
    # its linear models may estimate less than nothing
    return np.log(np.maximum(estimates, 1.0)), told


METHODS = {"lightgbm": lightgbm, "catboost": catboost, "autogluon": autogluon,
           "openavmkit": openavmkit}  # fmt: skip


def main() -> None:
    """Run one method."""
    method, name, train_path, test_path, target_path, seconds = sys.argv[1:]
    table = (TABLES | SALES)[name]
    train, test = (read_table(Path(path), table) for path in (train_path, test_path))
    train = train[train[table.target] > 0].reset_index(drop=True)
    X, y = train.drop(columns=table.target), np.log(train[table.target].to_numpy(float))
    found, told = METHODS[method](X, y, test[X.columns].copy(), float(seconds), table)
    np.savetxt(target_path, np.exp(np.asarray(found, dtype=float)), fmt="%.17g")
    if levels := told.pop("levels", None):
        Path(target_path).with_suffix(".levels.json").write_text(json.dumps(levels))
    print(json.dumps(told))


if __name__ == "__main__":
    isolate()
    main()
