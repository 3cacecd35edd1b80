"""Features: a row's numbers do not depend on the rows beside it, nor on its own target."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.contract.model import TableContract
from tasador.contract.reader import from_dict
from tasador.core.kernels import Native, native
from tasador.features import columns_kernel, comparables
from tasador.features.comparables import ComparablesIndex
from tasador.features.encoders import Clusters, TargetMeans, date_parts, ratios
from tasador.features.pipeline import FeaturePipeline, FeatureSettings, FittedFeatures

CATEGORIES = ["a", "b", "c"]


def contract(coordinates: bool) -> TableContract:
    columns: dict[str, object] = {
        "size": {"kind": "number", "nullable": True},
        "rooms": {"kind": "integer"},
        "kind": {"kind": "category", "categories": CATEGORIES},
        "sold": {"kind": "datetime"},
    }
    if coordinates:
        columns |= {
            "lon": {"kind": "number", "role": "longitude"},
            "lat": {"kind": "number", "role": "latitude"},
        }
    return from_dict(
        {
            "name": "houses",
            "columns": columns,
            "target": {"name": "price"},
            "ratios": {"per_room": {"numerator": "size", "denominator": "rooms"}},
        }
    )


def rows(n: int, coordinates: bool, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    size = random.uniform(20, 200, n)
    size[random.random(n) < 0.1] = np.nan
    columns = [size, random.integers(0, 6, n), random.integers(0, 4, n), random.uniform(0, 1e9, n)]
    if coordinates:
        columns += [random.uniform(-1, 1, n).round(1), random.uniform(40, 41, n).round(1)]
    return np.column_stack(columns).astype(np.float64)


@functools.cache
def fitted(coordinates: bool, n: int = 300) -> tuple[FittedFeatures, np.ndarray, np.ndarray]:
    X = rows(n, coordinates)
    target = np.nan_to_num(X[:, 0], nan=50) / 100 + np.random.default_rng(1).normal(0, 0.1, n)
    pipeline = FeaturePipeline(contract(coordinates), FeatureSettings(clusters=4))
    return pipeline.fit(X, target), X, target


@pytest.fixture(scope="module", params=[True, False], ids=["coordinates", "no coordinates"])
def features(request: pytest.FixtureRequest) -> FittedFeatures:
    return fitted(request.param)[0]


VALUE = st.floats(-1e6, 1e6) | st.just(0.0)


ROW = st.tuples(
    VALUE | st.just(float("nan")),
    VALUE,
    st.sampled_from([0.0, 1.0, 2.0, 3.0, float("nan")]),
    st.floats(0, 2e9),
    st.floats(-180, 180),
    st.floats(-90, 90),
)


@pytest.mark.parametrize("coordinates", [True, False])
@settings(max_examples=60, deadline=None)
@given(drawn=st.lists(ROW, min_size=1, max_size=9))
def test_n_rows_at_once_equal_n_times_one_row_bit_for_bit(
    coordinates: bool, drawn: list[tuple[float, ...]]
) -> None:
    features, _, _ = fitted(coordinates)
    X = np.array(drawn)[:, : len(features.contract.features)]
    together = features.transform(X)
    assert np.isfinite(together).all()
    assert together.shape == (len(X), len(features.names))
    alone = np.concatenate([features.transform(X[i : i + 1]) for i in range(len(X))])
    assert np.array_equal(together, alone)


@pytest.mark.skipif(native().library is None, reason=native().reason)
@pytest.mark.parametrize("coordinates", [True, False])
@settings(max_examples=60, deadline=None)
@given(drawn=st.lists(ROW, min_size=1, max_size=9))
def test_the_compiled_pass_gives_the_bits_of_numpy(
    coordinates: bool, drawn: list[tuple[float, ...]]
) -> None:
    features, _, _ = fitted(coordinates)
    X = np.array(drawn)[:, : len(features.contract.features)]
    assert features._compact is not None
    want = features._transform(X, features.imputer.fill(X))
    assert features.transform(np.asfortranarray(X)).tobytes() == want.tobytes()


COLUMNS: dict[str, dict[str, object]] = {
    "size": {"kind": "number", "nullable": True},
    "rooms": {"kind": "integer", "nullable": True},
    "kind": {"kind": "category", "categories": CATEGORIES, "nullable": True},
    "town": {"kind": "category", "categories": [f"t{i}" for i in range(30)], "nullable": True},
    "built": {"kind": "datetime", "nullable": True},
    "sold": {"kind": "datetime", "role": "timestamp", "nullable": True},
    "lon": {"kind": "number", "role": "longitude"},
    "lat": {"kind": "number", "role": "latitude"},
}


@pytest.mark.skipif(native().library is None, reason=native().reason)
@pytest.mark.parametrize("gaps", ["median", "native"])
@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("size rooms", FeatureSettings(comparables=False)),
        ("size rooms", FeatureSettings()),
        ("kind town", FeatureSettings()),
        ("town kind built", FeatureSettings(max_one_hot=2)),
        ("size rooms kind sold", FeatureSettings()),
        ("rooms size town lon lat", FeatureSettings(clusters=3)),
        ("lon lat size rooms kind", FeatureSettings(clusters=3, comparables=False)),
        ("kind town built rooms sold size lon lat", FeatureSettings(clusters=2)),
    ],
)
def test_the_compiled_pass_is_used_for_every_kind_of_table(
    names: str, chosen: FeatureSettings, gaps: str
) -> None:
    columns = {name: COLUMNS[name] for name in names.split()}
    table: dict[str, object] = {"name": "t", "columns": columns, "target": {"name": "price"}}
    if "size" in columns:
        table["ratios"] = {
            "per_room": {"numerator": "size", "denominator": "rooms"},
            "rooms_per_size": {"numerator": "rooms", "denominator": "size"},
        }
    random = np.random.default_rng(8)
    values = {
        "size": random.uniform(20, 200, 200), "rooms": random.integers(0, 6, 200),
        "kind": random.integers(0, 4, 200), "town": random.integers(0, 31, 200),
        "built": random.uniform(0, 1e9, 200), "sold": random.uniform(1e9, 1.1e9, 200),
        "lon": random.uniform(-1, 1, 200), "lat": random.uniform(40, 41, 200),
    }  # fmt: skip
    X = np.column_stack([values[name] for name in columns]).astype(np.float64)
    for place, column in enumerate(columns.values()):
        if column.get("nullable"):
            X[random.random(200) < 0.1, place] = np.nan
    numbers = {name: gaps for name in columns if name in ("size", "rooms")}
    pipeline = FeaturePipeline(from_dict(table), chosen, imputation=numbers)  # type: ignore[arg-type]
    features = pipeline.fit(X, random.normal(size=200))
    assert features._compact is not None
    want = features._transform(X, features.imputer.fill(X))
    assert features.transform(X).tobytes() == want.tobytes()
    assert want.shape == (200, len(features.names)) == (200, len(features.kinds))


@pytest.mark.skipif(native().library is None, reason=native().reason)
def test_a_table_of_a_thousand_columns_goes_through_the_compiled_pass() -> None:
    columns = {f"x{i}": {"kind": "number"} for i in range(1000)}
    wide = from_dict({"name": "wide", "columns": columns, "target": {"name": "price"}})
    X = np.random.default_rng(2).normal(0, 1, (40, 1000))
    features = FeaturePipeline(wide, FeatureSettings()).fit(X, X[:, 0])
    assert features._compact is not None
    want = features._transform(X, features.imputer.fill(X))
    assert features.transform(X).tobytes() == want.tobytes()


@pytest.mark.skipif(native().library is None, reason=native().reason)
@pytest.mark.parametrize("change", ["last bit", "target means", "centroids"])
def test_a_pass_that_would_answer_differently_is_not_used(
    change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    features = dataclasses.replace(fitted(True)[0])
    if change == "last bit":
        plain = columns_kernel.CompactPlain.transform
        monkeypatch.setattr(
            columns_kernel.CompactPlain,
            "transform",
            lambda self, X, filled: np.nextafter(plain(self, X, filled), np.inf),
        )
    elif change == "target means":
        monkeypatch.setitem(features.target_means, "kind", TargetMeans(np.zeros(9)))
    else:
        features = dataclasses.replace(features, clusters=Clusters(np.zeros((3, 5))))
    caplog.set_level("WARNING", logger="tasador")
    assert columns_kernel.proven(features) is None
    assert "features are made by numpy" in caplog.text


def test_without_the_kernels_the_features_have_the_same_bits(
    features: FittedFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = rows(60, features.contract.coordinates is not None, seed=9)
    want = features.transform(X)
    for module in (columns_kernel, comparables):
        monkeypatch.setattr(module, "native", lambda: Native(None, "not compiled"))
    plain = FittedFeatures.from_state(features.contract, *features.state())
    assert plain._compact is None
    assert plain.transform(X).tobytes() == want.tobytes()


def test_fitted_features_can_be_sent_to_another_process(features: FittedFeatures) -> None:
    X = rows(30, features.contract.coordinates is not None, seed=3)
    want = features.transform(X)
    again = pickle.loads(pickle.dumps(features))
    assert again.transform(X).tobytes() == want.tobytes()


@pytest.mark.skipif(native().library is None, reason=native().reason)
def test_rows_of_another_width_never_reach_the_kernel(features: FittedFeatures) -> None:
    with pytest.raises(ValueError, match="columns, got shape"):
        features.transform(np.zeros((2, 3)))


def test_the_state_survives_json_and_npz_bit_for_bit(features: FittedFeatures) -> None:
    spec, arrays = features.state()
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        again = FittedFeatures.from_state(
            features.contract, json.loads(json.dumps(spec)), dict(loaded)
        )
    X = rows(50, features.contract.coordinates is not None, seed=5)
    assert np.array_equal(again.transform(X), features.transform(X))
    assert again.names == features.names
    with pytest.raises(ValueError, match="feature format"):
        FittedFeatures.from_state(features.contract, {**spec, "format": 99}, arrays)


@pytest.mark.parametrize("coordinates", [True, False])
def test_a_row_never_sees_its_own_target_in_training(coordinates: bool) -> None:
    _, X, target = fitted(coordinates)
    pipeline = FeaturePipeline(
        contract(coordinates), FeatureSettings(clusters=0, cross_fit_folds=5)
    )
    _, before = pipeline.fit_transform(X, target)
    changed = target.copy()
    changed[7] += 1e-6
    plan = pipeline.fit(X, target).plan
    assert plan is not None
    _, after = pipeline.fit_transform(X, changed)
    fold = pipeline._folds(len(X))
    others = (fold != fold[7]) & (np.abs(before - after).max(axis=1) > 0)
    assert others.any()
    if coordinates:  # without them the space's scale itself is fitted to all targets
        assert np.array_equal(before[7], after[7])


def test_fewer_rows_than_neighbours_and_a_constant_column_are_no_trouble() -> None:
    X = rows(12, coordinates=True)
    X[:, 1] = 3
    pipeline = FeaturePipeline(contract(True), FeatureSettings(clusters=20, cross_fit_folds=3))
    ready, Z = pipeline.fit_transform(X, np.arange(12.0))
    assert np.isfinite(Z).all()
    assert np.isfinite(ready.transform(X)).all()


def test_comparables_equal_a_plain_computation() -> None:
    random = np.random.default_rng(3)
    points, target = random.uniform(0, 1, (200, 2)), random.normal(10, 1, 200)
    similar, context = random.normal(0, 0.5, 200), random.normal(0, 1, (200, 2))
    index = ComparablesIndex.fit(points, target, similar, context)
    at, own = np.array([[0.4, 0.6]]), np.array([0.1])
    found = dict(zip(index.names(("a", "b")), index.features(at, own)[0], strict=True))
    distance = np.sqrt(((points - at) ** 2).sum(axis=1))
    order = np.argsort(distance)
    weight = 1 / (distance[order] + index.softening)
    t, gap = target[order], similar[order] - own[0]
    for k in (1, 4, 64):
        assert found[f"comparables_mean_{k}"] == pytest.approx(
            np.average(t[:k], weights=weight[:k])
        )
    kernel = weight * (np.exp(-0.5 * (gap / 0.3) ** 2) + 1e-6)
    expected = np.average(t[:16], weights=kernel[:16])
    assert found["comparables_like_0.3_16"] == pytest.approx(expected)
    adjusted = np.average((t - index.slope * gap)[:32], weights=weight[:32])
    assert found["comparables_adjusted_32"] == pytest.approx(adjusted)
    assert found["comparables_a"] == pytest.approx(context[order[:16], 0].mean())
    assert found["comparables_spread"] == pytest.approx(t[:16].std())
    assert found["comparables_distance_4"] == pytest.approx(distance[order[3]])


def test_cluster_labels_are_the_nearest_centroid() -> None:
    points = np.random.default_rng(2).uniform(0, 1, (300, 2))
    clusters = Clusters.fit(points, 5, seed=1)
    expected = np.linalg.norm(points[:, None] - clusters.centroids[None], axis=2)
    assert np.allclose(clusters.distances(points), expected)
    assert np.array_equal(clusters.labels(points), expected.argmin(axis=1))
    assert (np.diff(clusters.centroids[:, 0]) > 0).all()  # whatever order KMeans found them in


def test_many_points_are_clustered_by_some_of_them_and_labelled_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(3)
    centres = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    points = centres[random.integers(3, size=2000)] + random.normal(0, 0.3, (2000, 2))
    whole = Clusters.fit(points, 3, seed=1)
    monkeypatch.setattr("tasador.features.encoders._MOST_POINTS", 500)
    monkeypatch.setattr("tasador.features.encoders._CHUNK", 300)
    some = Clusters.fit(points, 3, seed=1)
    assert np.array_equal(some.centroids, Clusters.fit(points, 3, seed=1).centroids)
    assert np.array_equal(some.labels(points), whole.labels(points))
    assert some.labels(points[:0]).shape == (0,)


def test_ratios_are_missing_where_the_denominator_is_zero_and_dates_have_parts() -> None:
    assert np.isnan(ratios(np.array([[1.0]]), np.array([[0.0]])))[0, 0]
    year, month, weekday = date_parts(np.array([1_700_000_000.0]))[0]  # Tuesday 14 November 2023
    assert (int(year), month, weekday) == (2023, 11, 1)


@pytest.mark.parametrize("coordinates", [True, False])
def test_absurdly_large_and_small_numbers_stay_finite(coordinates: bool) -> None:
    features, X, _ = fitted(coordinates)
    absurd = np.repeat(X[:1], 3, axis=0)
    absurd[0, 1] = 2e-309
    absurd[1, :2] = (1e300, 1e-300)
    absurd[2, -1] = 1e200
    assert np.isfinite(features.transform(absurd)).all()


FEW = st.sampled_from([0.0, -0.0, 1.5, -2.0, float("inf"), float("nan")])


@given(
    table=st.integers(0, 30).flatmap(
        lambda n: st.lists(
            st.lists(FEW | st.floats(), min_size=n, max_size=n), min_size=6, max_size=6
        )
    ),
    dated=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_rows_of_an_index_stand_as_numpy_sorts_them_by_all_columns(table, dated) -> None:
    target, similar, *rest = np.array(table, dtype=float).reshape(6, -1)
    context, points, times = np.array(rest[:1]).T, np.array(rest[1:3]).T, rest[3]
    by = [target, context[:, 0], similar, *points.T, *([times] if dated else [])]
    found = ComparablesIndex.sorted_rows(points, target, similar, context, times if dated else None)
    assert found.tolist() == np.lexsort(by).tolist()
