"""Which sales inform a row, from the contract to the features and the answers about them."""

import numpy as np
import pytest

from tasador.contract.model import Column, Ratio, TableContract, Target
from tasador.features.fitted import FittedFeatures
from tasador.features.pipeline import FeaturePipeline
from tasador.settings.run import FeatureSettings

DAY = 86_400.0


def contract_of(dated, coordinates=True):
    role = ("longitude", "latitude") if coordinates else (None, None)
    return TableContract(
        "sales",
        "Sales",
        "sales",
        (
            Column("lon", "number", role=role[0]),
            Column("lat", "number", role=role[1]),
            Column("area", "number", nullable=True),
            Column("rooms", "integer"),
            Column("sold", "datetime", role="timestamp" if dated else None, nullable=True),
        ),
        Target("price"),
        ratios=(Ratio("density", "area", "rooms"),),
    )


def rows_of(n=300, gaps=True):
    rng = np.random.default_rng(5)
    X = np.column_stack(
        [
            np.round(rng.normal(size=(n, 2)), 1),
            np.round(rng.uniform(20, 200, n)),
            rng.integers(1, 6, n),
            DAY * rng.integers(15_000, 15_090, n),
        ]
    ).astype(float)
    if gaps:
        X[rng.random(n) < 0.1, 2] = np.nan
    return X, np.log(X[:, 3] * 100 + 50 * X[:, 0] + 1000) + 0.1 * rng.normal(size=n)


def comparables_of(features):
    return [i for i, kind in enumerate(features.kinds) if kind == "comparable"]


def test_a_sale_gets_the_same_comparables_in_training_and_when_it_is_valued():
    X, target = rows_of()
    features, Z = FeaturePipeline(contract_of(True)).fit_transform(X, target)
    columns = comparables_of(features)
    assert (features.transform(X)[:, columns] == Z[:, columns]).all()
    # whatever is sold later changes nothing for a sale
    later = X[:, 4] >= DAY * 15_045
    lower = target.copy()
    lower[later] -= 1.0
    again = FeaturePipeline(contract_of(True)).fit(X, lower)
    means = [features.names.index(f"comparables_mean_{k}") for k in (1, 2, 4, 8, 16, 32, 64)]
    old = X[:, 4] < X[:, 4][later].min()
    known = features.index.times.searchsorted(X[:, 4]) > 0
    assert (again.transform(X)[:, means] == Z[:, means])[old & known].all()
    assert (again.transform(X)[:, means] != Z[:, means])[later].any()


def test_a_row_without_a_date_is_informed_by_all_sales_and_an_early_one_by_none():
    X, target = rows_of(gaps=False)
    features = FeaturePipeline(contract_of(True)).fit(X, target)
    newest = int(np.argmax(X[:, 4]))
    row = X[newest : newest + 1].copy()
    row[0, 4] = np.nan
    assert features.nearest(row, 1)[0].target == target[newest]
    assert all(near.target != target[newest] for near in features.nearest(X[[newest]], 64))
    row[0, 4] = X[:, 4].min()
    assert features.nearest(row, 5) == []
    Z = features.transform(row)
    assert np.isfinite(Z).all()
    assert Z[0, features.names.index("comparables_mean_16")] == pytest.approx(target.mean())
    far = features.far(Z)
    assert far is not None
    assert "none was sold before its date" in features.far_notes(row, np.flatnonzero(far))[0]
    row[0, 4] = np.sort(np.unique(X[:, 4]))[1]
    first = features.nearest(row, 64)
    assert 0 < len(first) == (X[:, 4] == X[:, 4].min()).sum()


def test_without_dates_a_training_row_finds_all_but_itself():
    X, target = rows_of()
    features = FeaturePipeline(contract_of(False, coordinates=True)).fit(X, target)
    for i in range(0, 300, 17):
        assert all(near.target != target[i] for near in features.nearest(X[i : i + 1], 64))
        other = features.imputer.fill(X[i : i + 1])
        other[0, 2] += 0.01  # a row that was not seen may be informed by the one it resembles
        assert any(near.target == target[i] for near in features.nearest(other, 64))
    assert (
        features.transform(X).tobytes()
        == features._transform(X, features.imputer.fill(X)).tobytes()
    )


def test_without_places_an_equal_row_is_another_thing_and_tells() -> None:
    X, target = rows_of()
    features = FeaturePipeline(contract_of(False, coordinates=False)).fit(X, target)
    for i in range(0, 300, 17):
        assert any(near.target == target[i] for near in features.nearest(X[i : i + 1], 64))


@pytest.mark.parametrize("coordinates", [True, False])
@pytest.mark.parametrize("dated", [True, False])
def test_it_is_known_which_training_row_each_comparable_is(dated, coordinates) -> None:
    X, target = rows_of()
    pipeline = FeaturePipeline(contract_of(dated, coordinates=coordinates))
    features = pipeline.fit(X, target)
    order = pipeline.comparables_rows(features, X, target)
    assert features.index is not None
    assert sorted(order.tolist()) == list(range(len(X)))
    assert np.array_equal(features.index.target, target[order])
    assert np.array_equal(features.index.points, features.points(X[order]))
    other = np.random.default_rng(5).permutation(len(X))
    again = pipeline.fit(X[other], target[other])
    assert again.index is not None
    assert np.array_equal(again.index.target, features.index.target)


@pytest.mark.parametrize("dated", [True, False])
def test_the_state_is_read_back_and_one_from_before_gives_the_features_of_before(dated):
    X, target = rows_of()
    features = FeaturePipeline(contract_of(dated), FeatureSettings(clusters=3)).fit(X, target)
    spec, arrays = features.state()
    again = FittedFeatures.from_state(features.contract, spec, arrays)
    assert again.transform(X).tobytes() == features.transform(X).tobytes()
    added = ("age_scale", "excludes_own", "in_order", "reach")
    before = {k: v for k, v in spec["comparables"].items() if k not in added}
    old = {name: array for name, array in arrays.items() if name != "comparables.times"}
    former = FittedFeatures.from_state(features.contract, {**spec, "comparables": before}, old)
    assert all(former.nearest(X[i : i + 1], 1)[0].distance == 0 for i in range(20))


@pytest.mark.parametrize("dated", [True, False])
def test_how_far_comparables_reach_is_kept_and_worked_out_where_it_was_not(dated):
    X, target = rows_of()
    features = FeaturePipeline(contract_of(dated)).fit(X, target)
    assert features.index is not None
    reach = features.index.reach
    spec, arrays = features.state()
    for kept, expected in (({"reach": 2.5}, 2.5), ({"reach": None}, np.inf), ({}, reach)):
        comparables = {k: v for k, v in spec["comparables"].items() if k != "reach"} | kept
        again = FittedFeatures.from_state(
            features.contract, {**spec, "comparables": comparables}, arrays
        )
        assert again.index is not None
        assert again.index.reach == expected
    assert spec["comparables"]["reach"] == reach


@pytest.mark.parametrize("fault", ["descends", "without dates", "no flag"])
def test_a_state_that_does_not_fit_is_refused(fault):
    X, target = rows_of()
    features = FeaturePipeline(contract_of(True)).fit(X, target)
    spec, arrays = features.state()
    contract = features.contract
    if fault == "descends":
        arrays["comparables.times"] = arrays["comparables.times"][::-1].copy()
    elif fault == "without dates":
        contract = contract_of(False)
    else:
        spec["comparables"]["excludes_own"] = 1
    with pytest.raises(ValueError, match=r"ascend|without the date|neither true nor false"):
        FittedFeatures.from_state(contract, spec, arrays)
