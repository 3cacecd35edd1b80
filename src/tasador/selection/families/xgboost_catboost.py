"""Families whose libraries come with the extra ``boosters``: XGBoost and CatBoost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tasador.core.errors import MissingExtraError
from tasador.core.parallel import usable_cores
from tasador.selection.families.base import (
    Booster,
    Family,
    Floats,
    Params,
    Ranges,
    Trial,
)
from tasador.trees.ensemble import TreeEnsemble
from tasador.trees.importers import from_catboost, from_xgboost


def _need(library: str) -> None:
    if find_spec(library) is None:
        raise MissingExtraError.for_package(library, "boosters")


class XgboostModel:
    """An XGBoost booster whose leaves are added in double precision.

    XGBoost adds in single precision, where the order of the trees shows in the seventh digit. Which
    leaf a row reaches is the library's own answer. The library's own sum is apart by up to one
    single-precision rounding a tree, relative to the sum of the leaves' sizes.

    Attributes:
        booster: The ``xgboost.Booster``.
    """

    def __init__(self, booster: Any) -> None:
        self.booster = booster
        self._read: tuple[int, TreeEnsemble] | None = None

    @property
    def trees(self) -> TreeEnsemble:
        """The trees as they are exported; read once, and again after the booster has grown."""
        rounds = int(self.booster.num_boosted_rounds())
        if self._read is None or self._read[0] != rounds:
            self._read = rounds, from_xgboost(self.booster)
        return self._read[1]

    def staged(self, Z: Floats, steps: Sequence[int]) -> list[Floats]:
        """Return the estimates of the first trees, for each of these numbers of them."""
        import xgboost

        found = self.booster.predict(xgboost.DMatrix(Z, nthread=1), pred_leaf=True)
        leaves = np.asarray(found, dtype=np.intp).reshape(len(Z), -1)
        trees, wanted = self.trees, set(steps)
        total, estimates = np.zeros(len(Z)), dict[int, Floats]()
        for number, root in enumerate(trees.roots.tolist(), start=1):
            total += trees.value[root + leaves[:, number - 1]]
            if number in wanted:
                estimates[number] = trees.base + total
        return [estimates[step] for step in steps]

    def predict(self, Z: Floats) -> Floats:
        """Return the estimates (n,) of rows `Z` (n, q)."""
        return self.staged(Z, [self.booster.num_boosted_rounds()])[0]


class XGBoost(Booster):
    """XGBoost."""

    name, title = "xgboost", "XGBoost"
    defaults: ClassVar[Params] = {
        "n_estimators": 400,
        "learning_rate": 0.1,
        "max_depth": 6,
        "min_child_weight": 1.0,
        "subsample": 1.0,
        "colsample_bytree": 1.0,
        "reg_alpha": 0.0,
        "reg_lambda": 1.0,
        "objective": "reg:absoluteerror",
    }
    ranges: ClassVar[Ranges] = {
        "n_estimators": (int, 1, 1_000_000),
        "learning_rate": (float, 1e-6, 1.0),
        "max_depth": (int, 1, 64),
        "min_child_weight": (float, 0.0, 1e12),
        "subsample": (float, 1e-3, 1.0),
        "colsample_bytree": (float, 1e-3, 1.0),
        "reg_alpha": (float, 0.0, 1e12),
        "reg_lambda": (float, 0.0, 1e12),
    }
    choices: ClassVar = {
        "objective": ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror")
    }
    prefix = "n_estimators"
    seconds_a_step = 0.01

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
        import xgboost

        threads = threads or usable_cores()
        settings = {
            "objective": "reg:absoluteerror",
            "learning_rate": 0.1,
            "tree_method": "hist",
            "seed": seed,
            "nthread": threads,
            "verbosity": 0,
            **{key: value for key, value in params.items() if key != "n_estimators"},
        }
        if "monotone_constraints" in settings and settings["objective"] == "reg:absoluteerror":
            # after an absolute loss leaves are set again, whatever the constraint; this
            # loss is about absolute from two standard deviations on
            settings |= {
                "objective": "reg:pseudohubererror",
                "huber_slope": 2.0 * float(np.std(target)) or 1.0,
            }
        data = xgboost.DMatrix(Z, target, weight=weight, nthread=threads)
        booster = xgboost.Booster(settings, [data])
        for step in range(steps[-1]):
            booster.update(data, step)
            if step + 1 in steps:
                yield XgboostModel(booster)

    def constrained(self, params: Params, signs: Sequence[int]) -> dict[str, Any] | None:
        return {**params, "monotone_constraints": tuple(signs)}

    def staged(self, model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
        found: list[Floats] = model.staged(Z, steps)
        return found

    def export(self, model: Any) -> TreeEnsemble:
        trees: TreeEnsemble = model.trees
        return trees

    def check(self, params: Params) -> None:
        _need("xgboost")
        super().check(params)

    def space(self, trial: Trial) -> dict[str, Any]:
        return {
            "n_estimators": trial.suggest_int("n_estimators", 150, 500),
            "max_depth": trial.suggest_int("max_depth", 3, 9),
            "min_child_weight": trial.suggest_float("min_child_weight", 1.0, 30.0, log=True),
            "subsample": trial.suggest_float("subsample", 0.5, 1.0),
            "colsample_bytree": trial.suggest_float("colsample_bytree", 0.15, 0.8),
            "reg_lambda": trial.suggest_float("reg_lambda", 1e-2, 10.0, log=True),
        }


class CatBoost(Family):
    """CatBoost."""

    name, title = "catboost", "CatBoost"
    defaults: ClassVar[Params] = {
        "iterations": 400,
        "learning_rate": 0.1,
        "depth": 6,
        "l2_leaf_reg": 3.0,
        "rsm": 1.0,
        "random_strength": 1.0,
        "loss_function": "MAE",
    }
    ranges: ClassVar[Ranges] = {
        "iterations": (int, 1, 1_000_000),
        "learning_rate": (float, 1e-6, 1.0),
        "depth": (int, 1, 16),
        "l2_leaf_reg": (float, 0.0, 1e12),
        "rsm": (float, 1e-3, 1.0),
        "random_strength": (float, 0.0, 1e12),
        "bagging_temperature": (float, 0.0, 1e12),
    }
    choices: ClassVar = {"loss_function": ("RMSE", "MAE", "Huber:delta=1.0")}
    prefix = "iterations"
    takes_missing = True
    takes_weights = True
    seconds_a_step = 0.01

    @property
    def parameters(self) -> frozenset[str]:
        # how it is sampled, and with that this one's default, depends on the other parameters
        return super().parameters | {"bagging_temperature"}

    def fit(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        threads: int = 0,
        weight: Floats | None = None,
    ) -> Any:
        import catboost

        settings = {
            "iterations": self.defaults["iterations"],
            "learning_rate": 0.1,
            "loss_function": "MAE",
            "random_seed": seed,
            "thread_count": threads or usable_cores(),
            "allow_writing_files": False,
            "verbose": False,
            **params,
        }
        return catboost.CatBoostRegressor(**settings).fit(Z, target, sample_weight=weight)

    def constrained(self, params: Params, signs: Sequence[int]) -> dict[str, Any] | None:
        return {**params, "monotone_constraints": list(signs)}

    def staged(self, model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
        """Add up the trees from one cut to the next; the first part brings CatBoost's constant."""
        total, done, found = np.zeros(len(Z)), 0, dict[int, Floats]()
        kept = int(model.tree_count_)  # fewer than asked for when no split is worth it any more
        for step in sorted(set(steps)):
            end = min(step, kept)
            if end > done:
                total = total + model.predict(Z, ntree_start=done, ntree_end=end, thread_count=1)
                done = end
            found[step] = total
        return [found[step] for step in steps]

    def export(self, model: Any) -> TreeEnsemble:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.json"
            model.save_model(str(path), format="json")
            return from_catboost(path.read_text(encoding="utf-8"), int(model.n_features_in_))

    def check(self, params: Params) -> None:
        _need("catboost")
        super().check(params)

    def space(self, trial: Trial) -> dict[str, Any]:
        return {
            "iterations": trial.suggest_int("iterations", 200, 600),
            "depth": trial.suggest_int("depth", 4, 8),
            "l2_leaf_reg": trial.suggest_float("l2_leaf_reg", 0.5, 20.0, log=True),
            "rsm": trial.suggest_float("rsm", 0.2, 1.0),
        }
