"""Linear families: ridge and lasso on standardised columns."""

from __future__ import annotations

from typing import Any

from tasador.selection.families.base import Family, Floats, Params, Trial, check_estimator, predict
from tasador.trees import importers


def _estimator(name: str, params: Params) -> Any:
    from sklearn import linear_model

    return getattr(linear_model, name)(**params)


def _fit(name: str, params: Params, Z: Floats, target: Floats) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), _estimator(name, params)).fit(Z, target)


def _fit_ridge(params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0) -> Any:  # noqa: ARG001
    return _fit("Ridge", params, Z, target)


def _fit_lasso(params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0) -> Any:  # noqa: ARG001
    return _fit("Lasso", params, Z, target)


def _ridge_space(trial: Trial) -> dict[str, Any]:
    return {"alpha": trial.suggest_float("alpha", 1e-3, 1e3, log=True)}


def _lasso_space(trial: Trial) -> dict[str, Any]:
    return {"alpha": trial.suggest_float("alpha", 1e-3, 10.0, log=True)}


def _canonical(params: Params) -> dict[str, Any]:
    return {"alpha": 1.0, **params}


RIDGE = Family(
    name="ridge",
    title="Ridge regression",
    parameters=frozenset({"alpha"}),
    fit=_fit_ridge,
    predict=predict,
    export=importers.from_linear,
    space=_ridge_space,
    check=lambda params: check_estimator(_estimator("Ridge", params)),
    canonical=_canonical,
    linear=True,
)
LASSO = Family(
    name="lasso",
    title="Lasso",
    parameters=frozenset({"alpha"}),
    fit=_fit_lasso,
    predict=predict,
    export=importers.from_linear,
    space=_lasso_space,
    check=lambda params: check_estimator(_estimator("Lasso", params)),
    canonical=_canonical,
    linear=True,
)
