"""Scenarios: how the world, or a feed, changes under a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import ConfigError
from tasador.data.contract import TableContract
from tasador.data.encode import Encoder
from tasador.data.row_check import RowCheck

Floats = NDArray[np.float64]

INFLATION = 1.3
_CONCEPT = 0.6
_FACTORS = (1e3, 1e-3, 1e2, 1e-2, 10.0, 0.1)
#: Share of the rows that must stay within the contract's bounds under a swapped unit: a service
#: refuses the others by itself, and nothing would drift.
_ACCEPTED = 0.8


@dataclass(frozen=True)
class Changed:
    """Rows under a scenario.

    Attributes:
        X: Shape (n, p): what is asked.
        y: Shape (n,): what it turns out to be worth.
        told: What was changed, for people.
    """

    X: Floats
    y: Floats
    told: str


Scenario = Callable[[TableContract, Floats, Floats], Changed]


def inflation(contract: TableContract, X: Floats, y: Floats) -> Changed:
    """Prices rise, the rows stay as they are."""
    return Changed(X, y * INFLATION, f"{contract.target.name} rises by {INFLATION - 1:.0%}")


def new_region(contract: TableContract, X: Floats, y: Floats) -> Changed:
    """Only rows from one corner of the table are asked."""
    place = contract.with_role("longitude") or contract.with_role("latitude")
    numbers = [c for c in contract.features if c.kind in ("number", "integer")]
    column = place or (numbers[0] if numbers else contract.features[0])
    values = X[:, contract.position(column.name)]
    limit = np.nanquantile(values, 0.9)
    far = np.flatnonzero(values >= limit)
    return Changed(
        X[far], y[far], f"only rows with {column.name} of at least {column.text_of(limit)}"
    )


def unit_bug(contract: TableContract, X: Floats, y: Floats) -> Changed:
    """One column arrives in another unit, within the contract's bounds as far as possible.

    Raises:
        ConfigError: No column can be swapped without the service refusing the rows.
    """
    check = RowCheck(Encoder(contract))
    for factor in _FACTORS:
        for column in contract.features:
            if column.kind != "number" or column.role in ("longitude", "latitude"):
                continue
            changed = X.copy()
            changed[:, contract.position(column.name)] *= factor
            accepted = check.accepts(changed)
            if accepted.mean() >= _ACCEPTED:
                told = f"{column.name} arrives multiplied by {factor:g}"
                return Changed(changed[accepted], y[accepted], told)
    raise ConfigError(
        "no column of this table can change its unit within the contract's bounds",
        remedy="choose another scenario: the service refuses such rows by itself",
    )


def missing_feed(contract: TableContract, X: Floats, y: Floats) -> Changed:
    """A column that may be missing is missing everywhere.

    Raises:
        ConfigError: No column may be missing.
    """
    for column in contract.features:
        if column.nullable:
            changed = X.copy()
            changed[:, contract.position(column.name)] = np.nan
            return Changed(changed, y, f"{column.name} is missing in every row")
    raise ConfigError(
        "no column of this table may be missing",
        remedy="choose another scenario: the service refuses such rows by itself",
    )


def concept(contract: TableContract, X: Floats, y: Floats) -> Changed:
    """What half of the rows are worth changes; the rows stay as they are."""
    numbers = [c for c in contract.features if c.kind in ("number", "integer") and not c.role]
    column = (numbers or contract.features)[-1]
    values = X[:, contract.position(column.name)]
    upper = values > np.nanmedian(values)
    told = f"{contract.target.name} falls by {1 - _CONCEPT:.0%} where {column.name} is high"
    return Changed(X, np.where(upper, y * _CONCEPT, y), told)


SCENARIOS: dict[str, Scenario] = {
    "inflation": inflation,
    "new-region": new_region,
    "unit-bug": unit_bug,
    "missing-feed": missing_feed,
    "concept": concept,
}


def scenario(name: str) -> Scenario:
    """Return a scenario by name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in SCENARIOS:
        raise ConfigError(f"unknown scenario {name!r}", expected=f"one of {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
