"""How comparables are searched: the columns, their scale, and what is said of their distances."""

from __future__ import annotations

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.features.comparables import ComparablesIndex
from tasador.features.fitted import FittedFeatures
from tasador.features.pipeline import FeaturePipeline
from tasador.features.plan import kilometres, plan_comparables, rank_correlations
from tasador.settings.run import FeatureSettings

N = 120
RANDOM = np.random.default_rng(2)
COLUMNS = {
    "noise": RANDOM.normal(size=N),
    "weak": RANDOM.normal(50.0, 4.0, N),
    "strong": RANDOM.uniform(2.0, 9.0, N),
    "lon": RANDOM.uniform(-4.0, -3.0, N),
    "lat": RANDOM.uniform(59.0, 61.0, N),
    "flat": np.full(N, 7.0),
}
TARGET = COLUMNS["strong"] + 0.1 * (COLUMNS["weak"] - 50.0) + 0.01 * COLUMNS["noise"]


def table(names: str, **sections: object):
    roles = {"lon": {"role": "longitude"}, "lat": {"role": "latitude"}}
    columns = {n: {"kind": "number"} | roles.get(n, {}) for n in names.split()}
    contract = from_dict({"name": "t", "columns": columns, "target": {"name": "y"}} | sections)
    return contract, np.column_stack([COLUMNS[n] for n in names.split()])


def plan_of(names: str, most: int = 5, apart: frozenset[str] = frozenset(), **sections: object):
    contract, X = table(names, **sections)
    frame = FeaturePipeline(contract).fit(X, TARGET).frame(X)
    return plan_comparables(contract, frame, TARGET, FeatureSettings(max_near=most), apart)


def test_distances_on_the_earth_are_those_of_a_great_circle() -> None:
    here = np.array([[0.0, 0.0], [-3.7038, 40.4168], [0.0, 90.0], [179.5, 0.0]])
    there = np.array([[0.0, 1.0], [2.1734, 41.3851], [0.0, -90.0], [-179.5, 0.0]])
    # a degree; Madrid to Barcelona; pole to pole; over the date line
    expected = [111.195, 505.0, 20_015.1, 111.195]
    assert kilometres(here, there) == pytest.approx(expected, rel=2e-3)
    assert kilometres(here, here) == pytest.approx(0.0, abs=1e-9)


def test_ranks_are_correlated_as_scipy_does() -> None:
    from scipy.stats import spearmanr

    X = np.column_stack([np.exp(COLUMNS["strong"]), -COLUMNS["weak"], np.ones(N)])
    found = rank_correlations(X, TARGET)
    expected = [spearmanr(X[:, i], TARGET).statistic for i in (0, 1)]
    assert found == pytest.approx([*expected, 0.0])
    assert rank_correlations(X, np.ones(N)).tolist() == [0.0, 0.0, 0.0]


def test_without_places_the_columns_that_tell_the_most_span_the_space() -> None:
    plan = plan_of("noise weak strong flat", most=2)
    assert plan is not None
    assert plan.near == ("strong", "weak")
    told = np.abs(rank_correlations(np.column_stack([COLUMNS[n] for n in plan.near]), TARGET))
    spread = [np.std(COLUMNS[n]) for n in plan.near]
    assert plan.scale == pytest.approx(told / spread)
    assert (plan.similar_by, plan.similar_floor) == ("strong", COLUMNS["strong"].min())
    assert plan.context == ("strong", "weak", "noise", "flat")


def test_columns_that_tell_nothing_still_span_a_little() -> None:
    shuffled = np.random.default_rng(1).permutation(TARGET)
    contract, X = table("noise flat", comparables={"near": ["noise", "flat"]})
    frame = FeaturePipeline(contract).fit(X, shuffled).frame(X)
    told = abs(rank_correlations(X, shuffled)[0])
    plan = plan_comparables(contract, frame, shuffled, FeatureSettings())
    assert plan is not None
    assert plan.near == ("noise", "flat")
    assert plan.scale == pytest.approx([max(told, 0.05) / np.std(COLUMNS["noise"]), 0.0])
    assert plan_of("flat") is None


def test_places_span_the_space_in_degrees_of_latitude() -> None:
    plan = plan_of("noise weak strong lon lat flat")
    assert plan is not None
    assert plan.near == ("lon", "lat")
    assert plan.scale == pytest.approx([np.cos(np.deg2rad(np.median(COLUMNS["lat"]))), 1.0])
    assert plan.similar_by == "strong"
    assert plan.context[:2] == ("strong", "weak")
    assert {"lon", "lat"}.isdisjoint(plan.context)


def test_what_the_contract_names_comes_first_and_columns_apart_never() -> None:
    names = "noise weak strong lon lat"
    declared = {"similar_by": "weak", "near": ["weak", "strong"], "context": ["noise"]}
    plan = plan_of(names, comparables=declared)
    assert plan is not None
    assert (plan.near, plan.similar_by, plan.context) == (("weak", "strong"), "weak", ("noise",))
    plan = plan_of(names, apart=frozenset({"weak"}), comparables=declared)
    assert plan is not None
    assert (plan.near, plan.similar_by, plan.context) == (("strong",), "lat", ("noise",))
    plan = plan_of(names, apart=frozenset({"lat", "noise"}), comparables={"context": ["noise"]})
    assert plan is not None
    assert plan.near == ("strong", "weak", "lon")
    assert {"lat", "noise"}.isdisjoint({*plan.context, *plan.near})


def test_an_attribute_that_is_not_above_0_is_none_of_resemblance() -> None:
    plan = plan_of("noise lon lat")
    assert plan is not None
    assert (plan.similar_by, plan.similar_floor) == (None, 1.0)
    plan = plan_of("noise lon lat", comparables={"similar_by": "noise"})
    assert plan is not None
    positive = COLUMNS["noise"][COLUMNS["noise"] > 0]
    assert (plan.similar_by, plan.similar_floor) == ("noise", positive.min())
    contract, X = table("noise lon lat")
    frame = FeaturePipeline(contract).fit(X, TARGET).frame(X)
    similar = plan.similar(frame)
    assert similar is not None
    assert np.allclose(similar, np.log(np.maximum(COLUMNS["noise"], positive.min())))


def test_an_attribute_that_a_twentieth_of_the_rows_lacks_is_none_of_resemblance() -> None:
    contract, X = table("strong lon lat")
    X[:6, 0] = 0.0  # of 120
    frame = FeaturePipeline(contract).fit(X, TARGET).frame(X)
    found = plan_comparables(contract, frame, TARGET, FeatureSettings())
    assert found is not None
    assert found.similar_by is None
    X[0, 0] = 1.0
    frame = FeaturePipeline(contract).fit(X, TARGET).frame(X)
    found = plan_comparables(contract, frame, TARGET, FeatureSettings())
    assert found is not None
    assert (found.similar_by, found.similar_floor) == ("strong", 1.0)


def fitted(names: str) -> tuple[FittedFeatures, np.ndarray]:
    contract, X = table(names)
    return FeaturePipeline(contract).fit(X, TARGET), X


@pytest.mark.parametrize("move", [0.0, 0.01, 3.0])
def test_an_estimate_rests_on_the_comparables_within_reach_the_nearest_in_km(move: float) -> None:
    features, X = fitted("strong lon lat")
    index, plan = features.index, features.plan
    assert index is not None
    assert plan is not None
    rows = X[:9] + np.array([0.5, move, move])
    found = features.neighbours(rows)
    assert found is not None
    count, distance, unit = plan.support(index, found, features.contract.coordinates)
    km = np.array([[kilometres(a[None, 1:], b[None, 1:])[0] for b in X] for a in rows])
    near = np.sqrt(np.square((rows[:, None, 1:] - X[:, 1:]) * plan.scale).sum(axis=2))
    assert unit == "km"
    assert distance == pytest.approx(km[range(9), near.argmin(axis=1)], rel=0.02, abs=1e-6)
    assert count.tolist() == np.minimum((near <= index.reach).sum(axis=1), 64).tolist()


def test_without_places_the_nearest_comparable_is_so_far_in_the_scaled_space() -> None:
    features, X = fitted("strong weak")
    index, plan = features.index, features.plan
    assert index is not None
    assert plan is not None
    rows = X[:5] + np.array([0.2, 0.3])
    found = features.neighbours(rows)
    assert found is not None
    _, distance, unit = plan.support(index, found, None)
    here, there = rows[:, [0, 1]], X[:, [0, 1]]
    scale = [plan.scale[plan.near.index(name)] for name in ("strong", "weak")]
    near = np.sqrt(np.square((here[:, None] - there) * scale).sum(axis=2))
    assert unit is None
    assert distance == pytest.approx(near.min(axis=1))


def test_a_note_says_how_far_away_the_comparables_of_a_far_row_are() -> None:
    features, X = fitted("strong lon lat")
    far = X[:2].copy()
    far[1, 1:] = (10.0, 50.0)
    (note,) = features.far_notes(far, np.array([1])).values()
    km = np.sort(kilometres(np.repeat(far[1:, 1:], N, axis=0), X[:, 1:]))
    assert note.startswith(f"nearest comparable is {km[0]:,.0f} km away, the 4th {km[3]:,.0f} km")
    assert features.index is not None
    reach = features.index.reach * np.pi / 180 * 6371.0088
    assert note.endswith(f"(99.9% of the training rows have 4 within {reach:,.0f} km)")
    features, X = fitted("strong weak")
    far = X[:1] + 1000.0
    assert features.plan is not None
    assert features.index is not None
    here = far[:, [0, 1]] if features.plan.near == ("strong", "weak") else far[:, [1, 0]]
    near = np.sort(np.sqrt(np.square(here * features.plan.scale - features.index.points).sum(1)))
    (note,) = features.far_notes(far, np.array([0])).values()
    by = ", ".join(features.plan.near)
    assert note == (
        f"no known row is like this one: its comparables (by {by}) are "
        f"{near[3] / features.index.reach:.3g} times as far away as those of 99.9% of the training "
        "rows at most"
    )


def test_comparables_are_kept_beside_features_that_use_none_and_nowhere_else() -> None:
    contract, X = table("strong lon lat")
    pipeline = FeaturePipeline(contract, FeatureSettings(comparables=False))
    plain = pipeline.fit(X, TARGET)
    full = pipeline.with_index(plain, X, TARGET)
    assert (plain.index, plain.nearest(X[:1], 3)) == (None, [])
    assert full.index is not None
    assert pipeline.with_index(full, X, TARGET) is full
    again = plain.index_from_state(*full.index.state())
    assert np.array_equal(again.points, full.index.points)
    with pytest.raises(ValueError, match="beside those of the features"):
        full.index_from_state(*full.index.state())
    with pytest.raises(ValueError, match="without comparables"):
        pipeline.comparables_rows(plain, X, TARGET)
    order = pipeline.comparables_rows(full, X, TARGET)
    assert np.array_equal(full.index.target, TARGET[order])
    wrong = full.index.state()
    with pytest.raises(ValueError, match="context has shape"):
        plain.index_from_state(wrong[0], wrong[1] | {"context": np.ones((N, 9))})


def test_the_nearest_rows_come_with_their_attributes() -> None:
    features, X = fitted("strong weak lon lat")
    assert isinstance(features.index, ComparablesIndex)
    row = X[:1] + np.array([0.0, 0.5, 0.02, 0.0])
    near = features.nearest(row, 6)
    gaps = (X[:, 2:] - row[0, 2:]) * features.plan.scale  # type: ignore[union-attr]
    distance = np.sqrt(np.square(gaps).sum(axis=1))
    order = np.argsort(distance)[:6]
    assert [one.distance for one in near] == pytest.approx(distance[order])
    assert [one.target for one in near] == pytest.approx(TARGET[order])
    for one, at in zip(near, order, strict=True):
        names = ("strong", "weak", "lon", "lat")
        assert one.attributes == pytest.approx(dict(zip(names, X[at], strict=True)))
        assert features.index.target[one.position] == one.target
    assert features.nearest_of_rows(X[:2], 0) == [[], []]
