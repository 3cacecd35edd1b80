"""A reference of houses with estimates, and windows of the same kind."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasador.contract.model import Column
from tasador.monitoring.error_estimation import error_inputs, fit_error_model
from tasador.monitoring.reference import build_reference
from tasador.monitoring.window import Window

COLUMNS = (
    Column("area", "number", bounds=(0.0, 1e5)),
    Column("rooms", "integer", nullable=True),
    Column("built", "datetime", nullable=True),
    Column("kind", "category", role="segment", categories=("flat", "house", "villa", "castle")),
)


def houses(n, seed, *, noise=0.1):
    """Return encoded rows, their prices and estimates that are off by `noise`."""
    random = np.random.default_rng(seed)
    area = random.lognormal(4.5, 0.5, n)
    rooms = np.round(area / 30 + random.uniform(0, 2, n))
    rooms[random.random(n) < 0.05] = np.nan
    kind = random.choice(3, n, p=[0.6, 0.3, 0.1]).astype(float)
    built = random.uniform(0, 1.5e9, n)
    price = 1000 * area * np.exp(0.4 * kind)
    predicted = price * np.exp(random.normal(0, noise, n) * np.where(kind == 1, 2, 1))
    return np.column_stack([area, rooms, built, kind]), price, predicted


@pytest.fixture(scope="session")
def reference():
    X, price, predicted = houses(6000, 1)
    inputs = error_inputs(X, predicted, predicted * 0.8, predicted * 1.25, log=True)
    model, _ = fit_error_model(inputs, price, predicted, log=True, seed=1)
    return build_reference(
        COLUMNS, X, prediction=predicted, actual=price, log=True, error_model=model,
        coverage=0.9, version="houses-1",
    )  # fmt: skip


@pytest.fixture
def window(reference):
    """Make a window; parts may be replaced."""

    def make(n=1000, seed=2, *, noise=0.1, outcomes=True, **parts):
        X, price, predicted = houses(n, seed, noise=noise)
        values = {
            "prediction": predicted,
            "lower": predicted * 0.8,
            "upper": predicted * 1.25,
            "actual": price if outcomes else np.full(n, np.nan),
        }
        return Window.of(reference.names, parts.pop("X", X), **(values | parts))

    return make


@pytest.fixture
def changed(window):
    """Make a window of which one column is changed."""

    def make(name, change, n=1000):
        made = window(n, outcomes=False)
        X = made.X.copy()
        i = made.columns.index(name)
        X[:, i] = change(X[:, i])
        return dataclasses.replace(made, X=X)

    return make
