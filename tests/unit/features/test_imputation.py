"""Imputers: what they restore, what they leave alone, and states that cannot be right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasador.contract.model import Column, TableContract, Target
from tasador.features.imputation import MAX_INPUTS, STRATEGIES, _explained, fit_imputer
from tasador.features.imputers import Imputer, TreesFiller, filler_from_state

CONTRACT = TableContract(
    name="flats",
    title="Flats",
    model_name="flats",
    columns=(
        Column("rooms", "number"),
        Column("beds", "number", nullable=True),
        Column("kind", "category", categories=("a", "b")),
    ),
    target=Target("price"),
)


def table(n: int = 400) -> np.ndarray:
    random = np.random.default_rng(1)
    rooms, kind = random.uniform(10, 100, n), random.integers(0, 2, n).astype(float)
    return np.column_stack([rooms, 0.5 * rooms + 20 * kind, kind])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_follows_from_the_other_columns_is_restored(strategy):
    X = table()
    masked = X.copy()
    masked[::4, 1] = np.nan
    imputer = fit_imputer(CONTRACT, masked, {"beds": strategy}, seed=0)
    error = np.abs(imputer.fill(masked)[:, 1] - X[:, 1]).max()
    assert error < 3.0 if imputer.fillers else error > 20.0
    assert imputer.indicated == [1]
    assert bool(imputer.fillers) == (strategy not in ("median", "mean"))


def test_the_linear_one_is_exact_on_a_linear_column_and_stays_within_what_was_known():
    X = table()
    imputer = fit_imputer(CONTRACT, X, {"beds": "iterative_linear"}, seed=0)
    asked = np.array([[50.0, np.nan, 1.0], [1e12, np.nan, 1.0], [-1e12, np.nan, 0.0]])
    middle, high, low = imputer.fill(asked)[:, 1]
    assert middle == pytest.approx(45.0, abs=0.3)
    assert high <= X[:, 1].max()
    assert low >= X[:, 1].min()


def test_median_and_mean_are_those_of_the_known_values():
    X = np.array([[1.0, 1.0, 0.0], [1.0, 2.0, 0.0], [1.0, 9.0, 1.0], [1.0, np.nan, 1.0]])
    assert fit_imputer(CONTRACT, X, {}, 0).fill(X)[3, 1] == 2.0
    assert fit_imputer(CONTRACT, X, {"beds": "median"}, 0).fill(X)[3, 1] == 2.0
    assert fit_imputer(CONTRACT, X, {"beds": "mean"}, 0).fill(X)[3, 1] == 4.0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", ["never seen", "constant", "too few", "nothing beside it"])
def test_where_nothing_can_be_learned_the_one_number_stands_in(strategy, case):
    X = table()
    if case == "never seen":
        X[:, 1] = np.nan
    elif case == "constant":
        X[:, 1] = 7.0
    elif case == "too few":
        X[10:, 1] = np.nan
    else:
        X[:, 0], X[:, 2] = 3.0, np.nan
    imputer = fit_imputer(CONTRACT, X, {"beds": strategy}, seed=0)
    filled = imputer.fill(np.array([[5.0, np.nan, 0.0]]))
    assert np.isfinite(filled).all()
    if case != "nothing beside it":
        assert not imputer.fillers
        assert filled[0, 1] == imputer.fills[1]


def test_a_state_from_before_there_were_fillers_is_read():
    imputer = Imputer.from_state(
        {"kind": "median", "indicated": [1]}, {"medians": np.array([1.0, 2.0, 0.0])}
    )
    assert imputer.fill(np.array([[5.0, np.nan, 0.0]]))[0, 1] == 2.0


@pytest.mark.parametrize("strategy", ["iterative_linear", "knn", "boosting", "iterative_rf"])
def test_a_state_whose_parts_do_not_fit_is_refused(strategy):
    spec, arrays = fit_imputer(CONTRACT, table(), {"beds": strategy}, 0).state()
    with pytest.raises((KeyError, TypeError)):
        Imputer.from_state(spec, {k: v for k, v in arrays.items() if not k.endswith("centre")})
    with pytest.raises(KeyError, match="magic"):
        Imputer.from_state({**spec, "fillers": [{**spec["fillers"][0], "kind": "magic"}]}, arrays)
    with pytest.raises(ValueError, match=r"do not fit|outside|wrong shape"):
        Imputer.from_state(spec, {**arrays, "1.inputs.categories": np.array([[2, 3]])})
    with pytest.raises(ValueError, match="points outside the 1 columns"):
        Imputer.from_state(spec, {**arrays, "fills": np.zeros(1)})


def test_trees_that_point_outside_their_arrays_are_refused():
    imputer = fit_imputer(CONTRACT, table(), {"beds": "boosting"}, 0)
    trees = imputer.fillers[0].model
    assert isinstance(trees, TreesFiller)
    stored = trees.state()
    for name in ("feature", "children", "roots"):
        wrong = stored[name].copy()
        wrong[0] = 10**6
        with pytest.raises(ValueError, match="points outside"):
            filler_from_state("trees", {**stored, name: wrong})
    with pytest.raises(ValueError, match="do not fit"):
        filler_from_state("trees", {**stored, "shape": np.array([3, 10**6])})
    circle = stored["children"].copy()
    circle[int(circle[0]) * 2] = 0
    with pytest.raises(ValueError, match="a node with two parents, or a circle"):
        filler_from_state("trees", {**stored, "children": circle})
    with pytest.raises(ValueError, match="finite rows or more"):
        filler_from_state("neighbours", {"points": np.ones((3, 2)), "values": np.ones(3)})


@pytest.mark.parametrize("strategy", ["iterative_linear", "knn", "boosting", "iterative_rf"])
def test_an_imputer_that_sees_a_single_column_is_read_back(strategy):
    two = dataclasses.replace(CONTRACT, columns=CONTRACT.columns[:2])
    X = table(60)[:, :2]
    imputer = fit_imputer(two, X, {"beds": strategy}, 0)
    again = Imputer.from_state(*imputer.state())
    asked = np.column_stack([X[:, 0], np.full(60, np.nan)])
    assert np.array_equal(again.fill(asked), imputer.fill(asked))


@pytest.mark.parametrize("seed", [0, 5])
def test_an_imputers_trees_answer_as_the_library_and_keep_their_bits_when_stored(seed):
    from sklearn.ensemble import RandomForestRegressor

    from tasador.features.imputation import _fit_boosting, _fit_forest

    random = np.random.default_rng(seed)
    Z = random.normal(0, 1, (500, 4))
    y = Z[:, 0] * Z[:, 1] + random.normal(0, 0.1, 500)
    library = RandomForestRegressor(
        n_estimators=50, max_depth=8, min_samples_leaf=2, max_features=0.5, random_state=5
    ).fit(Z, y)
    forest = _fit_forest(Z, y, 5)
    columns = forest.trees.thresholds()
    # at the split values and beside them, where single and double precision differ
    edges = np.column_stack([random.choice(columns[i].astype(np.float32), 400) for i in range(4)])
    rows = np.vstack([Z, edges, np.nextafter(edges.astype(np.float64), np.inf)])
    assert np.allclose(forest.predict(rows), library.predict(rows), rtol=0, atol=1e-12)
    for model in (forest, _fit_boosting(Z, y, 5)):
        again = filler_from_state("trees", model.state())
        assert np.array_equal(again.predict(rows), model.predict(rows))
        alone = np.concatenate([model.predict(row[None]) for row in rows[:50]])
        assert np.array_equal(model.predict(rows)[:50], alone)


@pytest.mark.parametrize("strategy", ["iterative_linear", "knn", "boosting", "iterative_rf"])
def test_among_many_columns_a_predictor_sees_those_that_tell_the_most(strategy):
    random = np.random.default_rng(5)
    numbers, n = 300, 400
    wide = TableContract(
        name="wide",
        title="Wide",
        model_name="wide",
        columns=(
            *(Column(f"x{i}", "number", nullable=i == 7) for i in range(numbers)),
            *(Column(f"k{i}", "category", categories=("a", "b", "c")) for i in range(20)),
        ),
        target=Target("price"),
    )
    kinds = random.integers(0, 3, (n, 20)).astype(float)
    X = np.column_stack([random.normal(0, 1, (n, numbers)), kinds])
    X[:, 7] = X[:, 200] - 2.0 * (kinds[:, 11] == 1) + random.normal(0, 0.1, n)
    X[::9, 200] = np.nan
    X[::7, numbers + 11] = np.nan
    masked = X.copy()
    masked[::4, 7] = np.nan
    imputer = fit_imputer(wide, masked, {"x7": strategy}, seed=0)
    (filler,) = imputer.fillers
    inputs = filler.inputs
    assert len(inputs.numeric) + len(inputs.categories) == MAX_INPUTS
    assert 200 in inputs.numeric
    assert [numbers + 11, 3] in inputs.categories.tolist()
    assert 7 not in inputs.numeric
    plain = np.sqrt(np.mean(np.square(X[::4, 7] - np.nanmedian(masked[:, 7]))))
    error = np.sqrt(np.mean(np.square(X[::4, 7] - imputer.fill(masked)[::4, 7])))
    assert error < (0.95 if strategy == "knn" else 0.7) * plain


def test_a_column_of_noise_in_many_levels_tells_no_more_than_one_of_few():
    random = np.random.default_rng(6)
    y = random.normal(0, 1, 500)
    few, many = (Column("k", "category", categories=tuple("abcdefghijkl"[:k])) for k in (2, 12))
    told = [
        np.mean([_explained(column, random.integers(0, k, 500).astype(float), y, y)
                 for _ in range(200)])
        for column, k in ((few, 2), (many, 12))
    ]  # fmt: skip
    assert abs(told[0] - told[1]) < 0.002
    exact = _explained(few, (y > 0).astype(float), y, y)
    assert 0.5 < exact < 0.75  # 2 / pi for a normal split at its mean
    assert _explained(Column("x", "number"), y, 3.0 - 2.0 * y, y) == pytest.approx(1.0)
    assert _explained(Column("x", "number"), y, np.full(500, 3.0), y) == 0.0
