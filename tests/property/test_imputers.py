"""Imputers: a row is filled the same alone and among others, and from the bundle as when fitted."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.contract.model import TableContract
from tasador.contract.reader import from_dict
from tasador.core.input_checks import read_arrays, write_arrays
from tasador.features.imputation import STRATEGIES, Imputer, Strategy, fit_imputer

NAN = float("nan")
CONTRACT: TableContract = from_dict(
    {
        "name": "houses",
        "columns": {
            "rooms": {"kind": "number", "nullable": True},
            "beds": {"kind": "number", "nullable": True},
            "people": {"kind": "integer"},
            "kind": {"kind": "category", "categories": ["a", "b", "c"], "nullable": True},
            "built": {"kind": "datetime", "nullable": True},
        },
        "target": {"name": "price"},
    }
)
NAMES = ("rooms", "beds", "built")


def rows(n: int = 300, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    people = random.integers(1, 500, n).astype(float)
    kind = random.integers(0, 3, n).astype(float)
    rooms = 2.0 * people + 50.0 * kind + random.normal(0, 5, n)
    built = 1e9 + 1e6 * people + random.normal(0, 1e6, n)
    X = np.column_stack([rooms, 0.2 * rooms + random.normal(0, 1, n), people, kind, built])
    for column, share in ((0, 0.1), (1, 0.3), (3, 0.05), (4, 0.02)):
        X[random.random(n) < share, column] = np.nan
    return X


@functools.cache
def fitted(strategy: Strategy) -> Imputer:
    return fit_imputer(CONTRACT, rows(), dict.fromkeys(NAMES, strategy), seed=3)


def again(imputer: Imputer) -> Imputer:
    spec, arrays = imputer.state()
    kept = read_arrays(write_arrays(arrays), "features.npz", 10**8)
    return Imputer.from_state(json.loads(json.dumps(spec)), kept)


NUMBER = st.floats(-1e300, 1e300) | st.just(NAN) | st.floats(0, 1000)
ROW = st.tuples(
    NUMBER,
    NUMBER,
    st.floats(0, 1e6),
    st.sampled_from([0.0, 1.0, 2.0, 3.0, NAN]),
    st.floats(0, 2e9) | st.just(NAN),
)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=40)
@given(drawn=st.lists(ROW, min_size=1, max_size=9))
def test_a_row_is_filled_bit_for_bit_the_same_alone_among_others_and_from_its_state(
    strategy: Strategy, drawn: list[tuple[float, ...]]
) -> None:
    imputer, X = fitted(strategy), np.array(drawn)
    together = imputer.fill(X)
    known = ~np.isnan(X)
    assert np.isfinite(together).all()
    assert np.array_equal(together[known], X[known])
    alone = np.concatenate([imputer.fill(X[i : i + 1]) for i in range(len(X))])
    assert np.array_equal(together, alone)
    assert np.array_equal(together, again(imputer).fill(X))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_many_rows_are_filled_as_few_are(strategy: Strategy) -> None:
    X = np.tile(rows(600, seed=4), (9, 1))  # more than one chunk
    filled = fitted(strategy).fill(X)
    assert np.array_equal(filled[:600], filled[-600:])
    assert np.array_equal(filled[:600], fitted(strategy).fill(X[:600]))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_seeds_give_equal_imputers(strategy: Strategy) -> None:
    one, two = (fit_imputer(CONTRACT, rows(), dict.fromkeys(NAMES, strategy), 3) for _ in "ab")
    assert write_arrays(one.state()[1]) == write_arrays(two.state()[1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_that_lacks_nothing_is_handed_back_untouched(strategy: Strategy) -> None:
    X = rows()
    whole = X[~np.isnan(X).any(axis=1)]
    assert fitted(strategy).fill(whole) is whole
