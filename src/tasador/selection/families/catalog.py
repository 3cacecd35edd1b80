"""The model families by name, and their grids."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from tasador.selection.errors import GridError
from tasador.selection.families.base import Family, Trial
from tasador.selection.families.boosting import HistGradientBoosting, LightGBM
from tasador.selection.families.linear import Lasso, Ridge
from tasador.selection.families.trees import (
    DecisionTree,
    ExtraTrees,
    GradientBoosting,
    RandomForest,
)
from tasador.selection.families.xgboost_catboost import CatBoost, XGBoost

__all__ = ["FAMILIES", "Family", "Trial", "expand_grid", "family"]

FAMILIES: Mapping[str, Family] = {
    found.name: found
    for found in (
        LightGBM(),
        HistGradientBoosting(),
        GradientBoosting(),
        RandomForest(),
        ExtraTrees(),
        DecisionTree(),
        Ridge(),
        Lasso(),
        XGBoost(),
        CatBoost(),
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
        raise GridError.unknown_family(name, FAMILIES) from None


def expand_grid(name: str, grid: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a family's grid; a grid without axes is one candidate.

    Raises:
        ConfigError: The family is unknown, or has no such parameter or value; said before any
            fitting.
        MissingExtraError: The family's library is not installed.
    """
    chosen = family(name)
    for parameter, values in grid.items():
        where = f"selection.families.{name}.{parameter}"
        if parameter not in chosen.parameters:
            raise GridError.unknown_parameter(where, name, chosen.parameters)
        for value in values:
            try:
                chosen.check({parameter: value})
            except (TypeError, ValueError) as error:
                raise GridError.wrong_value(where, value, error) from None
    if not grid:
        chosen.check({})  # an absent library is said here too
    for combination in itertools.product(*grid.values()):
        yield dict(zip(grid, combination, strict=True))
