"""Models of which each values one level of a category: which levels, rows, and what is said."""

from __future__ import annotations

import numpy as np
import pytest

from tasador.contract.model import Column
from tasador.selection.ensembling import Member, Pick
from tasador.selection.families.catalog import family
from tasador.selection.grouped import (
    LEAST_ROWS,
    MOST_LEVELS,
    GroupComparison,
    fit_member,
    own_levels,
    threads_of_fits,
)
from tasador.trees.ensemble import TreeEnsemble
from tasador.trees.routing import Level

KIND = Column("kind", "category", categories=("a", "b", "c", "d"))
NAMES = ("x", "kind=a", "kind=b", "kind=c", "kind=d")
KINDS = ("number", "one_hot", "one_hot", "one_hot", "one_hot")
PARAMS = {"n_estimators": 6, "num_leaves": 6}


def rows_of(*counts: int) -> np.ndarray:
    code = np.repeat(np.arange(len(counts)), counts)
    random = np.random.default_rng(5)
    return np.column_stack([random.uniform(size=len(code)), np.eye(len(counts))[code]])


@pytest.mark.parametrize(
    ("cores", "fits", "rows", "threads"),
    [
        (2, 3, 60_000, [1, 1, 2]),
        (2, 4, 60_000, [1, 1, 1, 1]),
        (8, 3, 60_000, [2, 2, 2]),
        (4, 5, 60_000, [1, 1, 1, 1, 4]),
        (2, 3, 5_000, [1, 1, 1]),  # threads would wait for one another
        (4, 3, 800_000, [4, 4, 4]),  # one at a time, for their memory
        (1, 3, 60_000, [1, 1, 1]),
    ],
)
def test_fits_use_all_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, fits: int, rows: int, threads: list[int]
) -> None:
    monkeypatch.setattr("tasador.selection.grouped.usable_cores", lambda: cores)
    assert threads_of_fits(fits, rows) == threads


def test_the_largest_levels_with_rows_enough_get_models_of_their_own() -> None:
    Z = rows_of(LEAST_ROWS, LEAST_ROWS + 1, LEAST_ROWS - 1, 0)
    assert own_levels(KIND, NAMES, KINDS, Z) == [Level("b", 2), Level("a", 1)]
    assert own_levels(KIND, NAMES, KINDS, rows_of(600, 0, 0, 0)) == []  # one has all rows
    hidden = ("number",) * 5
    assert own_levels(KIND, NAMES, hidden, Z) == []  # no feature says the level


def test_of_many_levels_the_first_of_the_largest_are_taken_by_their_codes() -> None:
    names = tuple(f"t{i}" for i in range(MOST_LEVELS + 2))
    town = Column("town", "category", categories=names)
    sizes = [LEAST_ROWS] * len(names)
    sizes[3] += 9
    code = np.repeat(np.arange(float(len(names))), sizes)
    found = own_levels(town, ("x", "town_code"), ("number", "code"), np.column_stack([code, code]))
    order = [3, *(i for i in range(len(names)) if i != 3)][:MOST_LEVELS]
    assert found == [Level(names[i], 1, i) for i in order]


@pytest.mark.parametrize("weighted", [False, True])
def test_each_level_is_valued_by_the_model_of_its_own_rows_and_others_by_that_of_all(
    weighted: bool,
) -> None:
    Z = rows_of(520, 530, 60, 40)
    random = np.random.default_rng(1)
    target = Z[:, 0] * (Z[:, 1] - Z[:, 2]) * 9 + random.normal(0, 0.1, len(Z))
    weight = random.uniform(0.5, 2.0, len(Z)) if weighted else None
    member = Member("lightgbm", PARAMS, 7, grouped=True)
    fitted = fit_member(member, Z, NAMES, KINDS, target, KIND, 1, weight)
    assert fitted.counts == (530, 520, 100)
    chosen, want = family("lightgbm"), np.empty(len(Z))
    for fit_rows, rows in (
        (Z[:, 1] == 1, Z[:, 1] == 1),
        (Z[:, 2] == 1, Z[:, 2] == 1),
        (np.ones(len(Z), bool), Z[:, 1] + Z[:, 2] == 0),
    ):
        own = {} if weight is None else {"weight": weight[fit_rows]}
        model = chosen.fit(PARAMS, Z[fit_rows], target[fit_rows], 7, 1, **own)
        want[rows] = chosen.predict(model, Z[rows])
    assert np.array_equal(fitted.predict(Z, 1), want)
    exported = fitted.export()
    assert isinstance(exported, TreeEnsemble)
    assert np.allclose(exported.predict(Z), want, rtol=1e-9)
    plain = fit_member(Member("lightgbm", PARAMS, 7), Z, NAMES, KINDS, target, KIND, 1, weight)
    assert (plain.own, plain.counts) == ((), ())
    assert np.array_equal(plain.predict(Z, 1)[1050:], want[1050:])
    assert not np.array_equal(plain.predict(Z, 1)[:1050], want[:1050])


@pytest.mark.parametrize(
    ("taken", "grouped", "outcome", "error", "sentence"),
    [
        (
            [True], 0.09, "used", 0.08,
            "models per kind are used: wMAPE 0.08 against 0.1 of the pooled model; levels with "
            "their own: a, b; pooled for the rest",
        ),
        (
            [False, True], 0.09, "averaged", 0.08,
            "models per kind are averaged with others: wMAPE 0.08 against 0.1 of the pooled model; "
            "levels with their own: a, b; pooled for the rest",
        ),
        (
            [False], 0.09, "pooled", 0.09,
            "models per kind: the pooled model is kept (wMAPE 0.09 against 0.1: the gain is too "
            "small)",
        ),
        (
            [], 0.12, "pooled", 0.12,
            "models per kind: the pooled model wins (wMAPE 0.1 against 0.12)",
        ),
    ],
)  # fmt: skip
def test_the_decision_is_reported_with_both_errors(taken, grouped, outcome, error, sentence):
    picks = [Pick(Member("lightgbm", {}, 1, grouped=own), 0.08, 0.2, True) for own in taken]
    picks.append(Pick(Member("lightgbm", {}, 1, grouped=True), 0.07, 0.0, False))
    found = GroupComparison("kind", levels=("a", "b")).decided("wmape", 0.1, grouped, picks)
    assert (found.outcome, found.pooled, found.grouped) == (outcome, 0.1, error)
    assert found.sentence == sentence
