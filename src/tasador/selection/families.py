"""Model families: how each is fitted, searched and turned into the form that is shipped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import ConfigError
from tasador.modeling import importers
from tasador.modeling.trees import LinearModel, TreeEnsemble
from tasador.selection.penalties import ridge_together

Floats = NDArray[np.float64]
Params = Mapping[str, Any]


class Fit(Protocol):
    """Fits a model: parameters, features (n, q), target (n,), seed, threads (0: all cores)."""

    def __call__(
        self, params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0, /
    ) -> Any: ...


Together = Callable[[Sequence[Params], Floats, Floats, Sequence[Floats]], list[list[Floats]]]


class Trial(Protocol):
    """The part of an Optuna trial that a search space uses."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


@dataclass(frozen=True)
class Family:
    """One way of turning features into an estimate.

    Attributes:
        name: Key of the family in configuration.
        title: Name for people.
        parameters: Names that a grid may set.
        fit: (params, Z (n, q), target (n,), seed, threads) -> the library's fitted model; the same
            whatever the number of threads, 0 for all cores.
        predict: (model, Z) -> estimates (n,) on the transformed scale.
        export: The fitted model as the arrays that are shipped.
        space: Draws the parameters of one sweep trial.
        slow: Turns parameters found at a high learning rate into the final model's: `factor`
            times more steps, each that much smaller. The same parameters for other families.
        prefix: The parameter that counts steps or trees: the model with fewer is the beginning of
            the model with more. None where there is no such parameter.
        staged: (model, Z, steps) -> estimates of the model cut to each of these numbers of steps,
            the same as fitting that smaller model gives; in one pass over the trees.
        grow: (params, Z, target, seed, steps) -> the model at each of these ascending numbers of
            steps, the last of which is the whole one; made on one thread, each from the one before.
        canonical: Parameters that make the library fit the same model become equal.
        reached_depth: The depth that a fitted model's deepest tree reaches; with it, a model that
            stays above a smaller ``max_depth`` stands for the model with that limit.
        penalty: The parameter along which `together` shares work.
        together: (parameter sets, Z, target, matrices) -> for each set its estimates on each
            matrix, the same within 1e-9 as fitting each alone gives. They differ in `penalty` only.
        takes_missing: Whether Z may hold NaN.
    """

    name: str
    title: str
    parameters: frozenset[str]
    fit: Fit
    predict: Callable[[Any, Floats], Floats]
    export: Callable[[Any], TreeEnsemble | LinearModel]
    space: Callable[[Trial], dict[str, Any]]
    slow: Callable[[Params, float], dict[str, Any]]
    prefix: str | None = None
    staged: Callable[[Any, Floats, Sequence[int]], list[Floats]] | None = None
    grow: Callable[[Params, Floats, Floats, int, Sequence[int]], Iterator[Any]] | None = None
    canonical: Callable[[Params], dict[str, Any]] = dict
    reached_depth: Callable[[Any], int] | None = None
    penalty: str | None = None
    together: Together | None = None
    takes_missing: bool = False


def _same(params: Params, factor: float) -> dict[str, Any]:  # noqa: ARG001
    return dict(params)


def _grow_lightgbm(
    params: Params, Z: Floats, target: Floats, seed: int, steps: Sequence[int], threads: int = 1
) -> Iterator[Any]:
    import lightgbm

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
    data = lightgbm.Dataset(Z, target, params={"verbosity": -1, "num_threads": threads})
    model = lightgbm.Booster(settings, data)
    for step in range(1, steps[-1] + 1):
        if model.update():
            break  # no split is worth it any more: the model is as it would stay
        if step in steps[:-1]:
            yield model
    yield model


def _fit_lightgbm(params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0) -> Any:
    steps = int(params.get("n_estimators", 400))
    (model,) = _grow_lightgbm(params, Z, target, seed, [steps], threads)
    return model


def _predict_lightgbm(model: Any, Z: Floats) -> Floats:
    # several threads would have to be taken back from a model that is still growing
    return np.asarray(model.predict(Z, num_threads=1), dtype=np.float64)


def _staged_lightgbm(model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
    """Add up the trees from one cut to the next, as LightGBM itself does."""
    total, done, found = np.zeros(len(Z)), 0, dict[int, Floats]()
    for step in sorted(set(steps)):
        part = model.predict(Z, start_iteration=done, num_iteration=step - done, num_threads=1)
        total, done = total + part, step
        found[step] = total
    return [found[step] for step in steps]


def _slow_lightgbm(params: Params, factor: float) -> dict[str, Any]:
    return {
        **params,
        "learning_rate": params.get("learning_rate", 0.1) / factor,
        "n_estimators": math.ceil(params.get("n_estimators", 400) * factor),
    }


def _lightgbm_space(trial: Trial) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 250, 550),
        "num_leaves": trial.suggest_int("num_leaves", 15, 47, log=True),
        "min_child_samples": trial.suggest_int("min_child_samples", 5, 60, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.15, 0.5),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 10.0, log=True),
    }


def _forest(params: Params, seed: int, threads: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(random_state=seed, n_jobs=threads or -1, **params)


def _fit_forest(params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0) -> Any:
    forest = _forest(params, seed, threads).fit(Z, target)
    # Threads add up the trees in the order in which they end, which changes the last bits.
    return forest.set_params(n_jobs=1)


def _grow_forest(
    params: Params, Z: Floats, target: Floats, seed: int, steps: Sequence[int]
) -> Iterator[Any]:
    forest = _forest(params, seed, 1).set_params(warm_start=True)
    for step in steps:
        yield forest.set_params(n_estimators=step).fit(Z, target)


def _staged_forest(model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
    """Add up the trees in their order and divide, as scikit-learn does on one thread."""
    Z32, total, found = Z.astype(np.float32), np.zeros(len(Z)), dict[int, Floats]()
    for number, tree in enumerate(model.estimators_[: max(steps)], start=1):
        total += tree.tree_.predict(Z32)[:, 0]
        if number in steps:
            found[number] = total / number
    return [found[step] for step in steps]


def _canonical_forest(params: Params) -> dict[str, Any]:
    """Fill in what scikit-learn makes of the two limits on samples."""
    leaf = params.get("min_samples_leaf", 1)
    split = params.get("min_samples_split", 2)
    if isinstance(leaf, int) and isinstance(split, int):
        split = max(split, 2 * leaf)
    return {
        "n_estimators": 100,
        "max_depth": None,
        "max_features": 1.0,
        **params,
        "min_samples_leaf": leaf,
        "min_samples_split": split,
    }


def _forest_depth(model: Any) -> int:
    return int(max(tree.tree_.max_depth for tree in model.estimators_))


def _forest_space(trial: Trial) -> dict[str, Any]:
    return {
        "n_estimators": trial.suggest_int("n_estimators", 50, 500),
        "max_depth": trial.suggest_int("max_depth", 5, 30),
        "min_samples_split": trial.suggest_int("min_samples_split", 2, 20),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 10),
        "max_features": trial.suggest_categorical("max_features", ["sqrt", "log2"]),
    }


def _fit_ridge(params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0) -> Any:  # noqa: ARG001
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge(**params)).fit(Z, target)


def _ridge_space(trial: Trial) -> dict[str, Any]:
    return {"alpha": trial.suggest_float("alpha", 1e-3, 1e3, log=True)}


def _predict(model: Any, Z: Floats) -> Floats:
    return np.asarray(model.predict(Z), dtype=np.float64)


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="lightgbm",
            title="LightGBM",
            parameters=frozenset(
                [
                    "n_estimators",
                    "learning_rate",
                    "num_leaves",
                    "max_depth",
                    "min_child_samples",
                    "feature_fraction",
                    "bagging_fraction",
                    "lambda_l1",
                    "lambda_l2",
                    "objective",
                ]
            ),
            fit=_fit_lightgbm,
            predict=_predict_lightgbm,
            export=importers.from_lightgbm,
            space=_lightgbm_space,
            slow=_slow_lightgbm,
            prefix="n_estimators",
            canonical=lambda params: {"n_estimators": 400, **params},
            staged=_staged_lightgbm,
            grow=_grow_lightgbm,
            takes_missing=True,
        ),
        Family(
            name="random_forest",
            title="Random forest",
            parameters=frozenset(
                [
                    "n_estimators",
                    "max_depth",
                    "min_samples_split",
                    "min_samples_leaf",
                    "max_features",
                ]
            ),
            fit=_fit_forest,
            predict=_predict,
            export=importers.from_sklearn,
            space=_forest_space,
            slow=_same,
            prefix="n_estimators",
            staged=_staged_forest,
            grow=_grow_forest,
            canonical=_canonical_forest,
            reached_depth=_forest_depth,
        ),
        Family(
            name="ridge",
            title="Ridge regression",
            parameters=frozenset({"alpha"}),
            fit=_fit_ridge,
            predict=_predict,
            export=importers.from_linear,
            space=_ridge_space,
            slow=_same,
            canonical=lambda params: {"alpha": 1.0, **params},
            penalty="alpha",
            together=ridge_together,
        ),
    )
}


def family(name: str) -> Family:
    """Return the family called `name`.

    Raises:
        ConfigError: There is none.
    """
    try:
        return FAMILIES[name]
    except KeyError:
        raise ConfigError(
            f"unknown model family {name!r}", expected=f"one of {', '.join(FAMILIES)}"
        ) from None


def expand_grid(name: str, grid: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a family's grid; a grid without axes is one candidate.

    Raises:
        ConfigError: The family is unknown or has no such parameter; said before any fitting.
    """
    known = family(name).parameters
    for parameter in grid:
        if parameter not in known:
            raise ConfigError(
                f"selection.families.{name}.{parameter}: {name} has no such parameter",
                expected=f"one of {', '.join(sorted(known))}",
            )
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
