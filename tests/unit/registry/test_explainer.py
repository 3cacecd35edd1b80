"""Explanations in money, and comparables with what they are adjusted by."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.forgery import with_arrays
from tasador.contract.formats import seconds_of
from tasador.contract.model import Column, Comparables, Ratio, TableContract, Target
from tasador.core.errors import BundleError, ValidationError
from tasador.features import meaning
from tasador.features.pipeline import FeaturePipeline
from tasador.inference.batch_scorer import BatchScorer
from tasador.modeling.prediction import money_per_score
from tasador.modeling.trend import trend_of
from tasador.registry.explainer import Wanted
from tasador.registry.known_sales import KnownSales
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.registry.writer import write_bundle
from tasador.settings.run import FeatureSettings

N = 600
KINDS = ("flat", "house")
CONTRACT = TableContract(
    name="sales",
    title="Sales",
    model_name="sales_model",
    columns=(
        Column("sold", "datetime", role="timestamp", nullable=True),
        Column("parcel", "text", role="property"),
        Column("street", "text"),
        Column("lon", "number", role="longitude"),
        Column("lat", "number", role="latitude"),
        Column("area", "number"),
        Column("built", "integer", nullable=True),
        Column("kind", "category", categories=KINDS),
    ),
    target=Target("price", unit="USD", transform="log"),
    ratios=(Ratio("area_of_age", "area", "built"),),
    comparables=Comparables(identifier="parcel", label=("street", "kind")),
)
START, YEARS = seconds_of(dt.date(2020, 1, 1)), 4


def _rows(seed: int = 3) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    sold = START + np.sort(rng.integers(0, YEARS * 365, N)) * 86_400.0
    area, built = rng.uniform(40.0, 200.0, N), rng.integers(1950, 2015, N).astype(float)
    lon, lat = rng.uniform(-4.0, -3.8, N), rng.uniform(40.0, 40.2, N)
    kind = rng.integers(0, 2, N).astype(float)
    # every third sale is of a thing that is sold again
    for i in range(0, N - 300, 3):
        for column in (lon, lat, area, built, kind):
            column[i + 300] = column[i]
    parcels = [f"p{i - 300 if i >= 300 and i % 3 == 0 else i}" for i in range(N)]
    level = 0.1 * (sold - START) / (365 * 86_400.0)
    log = 7.0 + np.log(area) + 0.004 * (built - 1950) + 0.2 * kind + 2.0 * (lat - 40.0)
    price = np.exp(log + level + 0.08 * rng.normal(size=N))
    built[rng.random(N) < 0.03] = np.nan
    return np.column_stack([sold, lon, lat, area, built, kind]), price, parcels


def _bundle(bundle_parts: Any, folder: Path, settings: FeatureSettings) -> ModelBundle:
    from sklearn.ensemble import GradientBoostingRegressor

    from tasador.data.profile import reference_profile
    from tasador.modeling.conformal import calibrate
    from tasador.modeling.parity import check_parity
    from tasador.modeling.target_transform import TargetTransform
    from tasador.trees.importers import from_sklearn
    from tasador.trees.onnx_export import to_onnx
    from tasador.trees.onnx_model import OnnxRegressor
    from tasador.trees.tree_shap import TreeContributions

    X, price, parcels = _rows()
    trend = trend_of(CONTRACT, X, np.log(price), None, carry="flat", seed=1)
    assert trend is not None
    target = TargetTransform("log", trend=trend)
    y = np.log(target.at_newest_level(price, X[:, 0]))
    pipeline = FeaturePipeline(CONTRACT, settings)
    features, Z = pipeline.fit_transform(X, y)
    searched = pipeline.with_index(features, X, y)
    model = GradientBoostingRegressor(n_estimators=60, random_state=0).fit(Z, y)
    trees = from_sklearn(model)
    exported = to_onnx(trees)
    order = pipeline.comparables_rows(searched, X, y)
    known = KnownSales(
        X[order],
        tuple(parcels[i] for i in order.tolist()),
        tuple(f"{i} Elm St" if i % 10 else None for i in order.tolist()),
        searched.index if features.index is None else None,
    )
    parts = dataclasses.replace(
        bundle_parts, name="sales_model", contract=CONTRACT, features=features, model=exported,
        contributions=TreeContributions(trees), target=target,
        interval=calibrate(y - model.predict(Z), Z, 0.9, None),
        parity=check_parity(model.predict, OnnxRegressor(exported), Z, rows=200),
        golden=X[:20], profile=reference_profile(X, price, CONTRACT), known_sales=known,
    )  # fmt: skip
    return write_bundle(folder, parts)


@pytest.fixture(scope="module")
def sales(bundle_parts: Any, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """A bundle of dated sales with a trend, coordinates, identifiers and labels."""
    return _bundle(bundle_parts, tmp_path_factory.mktemp("sales") / "bundle", FeatureSettings())


@pytest.fixture(scope="module")
def evidence(bundle_parts: Any, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """The same where comparables are no features of the model."""
    settings = FeatureSettings(comparables=False)
    return _bundle(bundle_parts, tmp_path_factory.mktemp("evidence") / "bundle", settings)


ROW = {"sold": "2023-05-01", "lon": -3.9, "lat": 40.1, "area": 90.0, "built": 1980, "kind": "flat"}


def test_base_and_groups_add_up_to_the_estimate_to_the_cent(sales: ModelBundle) -> None:
    for day in ("2020-03-01", "2023-05-01", None):
        found = sales.explain({**ROW, "sold": day})
        total = found.base + sum(group.amount for group in found.groups)
        assert total == pytest.approx(found.valuation.prediction, abs=0.005)
        amounts = [abs(group.amount) for group in found.groups]
        assert amounts == sorted(amounts, reverse=True)
    names = {group.name: group for group in found.groups}
    assert names["location"].columns == ("lon", "lat")
    assert names["size"].columns == ("area", "area_of_age")
    assert names["age_and_condition"].label == "Age and condition"
    assert names["time"].columns == ("sold",)
    assert not [name for name in names if name.startswith("comparables")]


@given(start=st.floats(1.0, 1e7), parts=st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=12))
def test_parts_of_a_score_add_up_in_money(start: float, parts: list[float]) -> None:
    rate = money_per_score(start, sum(parts), log=True)
    assert start + sum(rate * part for part in parts) == pytest.approx(
        start * math.exp(sum(parts)), rel=1e-9
    )
    assert money_per_score(start, sum(parts), log=False) == 1.0


def test_adjustments_make_the_adjusted_price_to_the_cent(sales: ModelBundle) -> None:
    found = sales.explain(ROW)
    assert len(found.comparables) == 5
    for near in found.comparables:
        total = sum(step.amount for step in near.adjustments)
        assert near.adjusted_price == pytest.approx(near.price + total, abs=0.005)
        assert {step.name for step in near.adjustments} >= {"time", "size", "location"}
        assert 0.0 <= near.similarity <= 100.0
    assert [near.n for near in found.comparables] == [1, 2, 3, 4, 5]
    likeness = [near.similarity for near in found.comparables]
    assert likeness == sorted(likeness, reverse=True)
    weights = [near.weight for near in found.comparables]
    assert sum(weights) == pytest.approx(1.0)
    value = sum(near.weight * near.adjusted_price for near in found.comparables)
    assert found.reconciled.value == pytest.approx(value)


def test_adjusted_prices_agree_better_than_raw_ones_and_come_near_the_truth(
    sales: ModelBundle,
) -> None:
    X, price, _ = _rows(seed=4)
    found = [sales.reasons(X[i : i + 1], Wanted(5)) for i in range(N - 60, N)]
    spreads = [(one.reconciled.spread_adjusted, one.reconciled.spread_raw) for one in found]
    assert np.mean([adjusted < raw for adjusted, raw in spreads]) >= 0.8
    value = np.array([one.reconciled.value for one in found])
    assert np.median(np.abs(value / price[-60:] - 1.0)) < 0.12


def test_no_comparable_is_as_new_as_the_valuation_and_months_are_counted(
    sales: ModelBundle,
) -> None:
    for day in ("2020-09-01", "2022-02-01"):
        found = sales.explain({**ROW, "sold": day}, comparables=20).comparables
        assert found
        assert max(near.date for near in found) < day
        for near in found:
            days = (dt.date.fromisoformat(day) - dt.date.fromisoformat(near.date)).days
            assert near.age_months == pytest.approx(days / 30.4375, abs=0.06)


def test_a_recorded_price_is_said_as_it_was_at_its_date(sales: ModelBundle) -> None:
    _, price, parcels = _rows()
    for near in sales.explain(ROW).comparables:
        assert near.price == pytest.approx(price[_row_of(near)], rel=1e-9)
        assert near.id == parcels[_row_of(near)]


def _row_of(near: Any) -> int:
    X, _, _ = _rows()
    at = [near.attributes["lon"], near.attributes["lat"]]
    same = np.isclose(X[:, 1:3], at, rtol=1e-8).all(axis=1)
    day = X[:, 0] == seconds_of(dt.date.fromisoformat(near.date))
    return int(np.flatnonzero(same & day)[0])


def test_earlier_sales_of_the_same_thing_are_named_and_its_own_is_no_comparable(
    sales: ModelBundle,
) -> None:
    X, _, parcels = _rows()
    again = 303
    row = {name: values[0] for name, values in sales.encoder.decode(X[again : again + 1]).items()}
    found = sales.explain({**row, "parcel": parcels[again]}, comparables=10).comparables
    own = [near for near in found if near.own_earlier_sale]
    assert [near.id for near in own] == [parcels[again]]
    assert own[0].date == dt.datetime.fromtimestamp(X[3, 0], dt.UTC).date().isoformat()
    assert "an earlier sale of the same thing" in own[0].why
    assert not any(near.own_earlier_sale for near in sales.explain(row).comparables)


def test_comparables_are_filtered_by_radius_day_and_column(sales: ModelBundle) -> None:
    near = sales.explain(ROW, comparables=10, radius_km=3.0).comparables
    assert near
    assert all(one.distance_km <= 3.0 for one in near)
    since = dt.date(2023, 1, 1)
    late = sales.explain(ROW, comparables=10, since=since).comparables
    assert len(late) == 10
    assert all(one.date >= "2023-01-01" for one in late)
    same = sales.explain(ROW, comparables=64, same=["kind"]).comparables
    assert len(same) == 64
    assert {one.attributes["kind"] for one in same} == {"flat"}
    none = sales.explain(ROW, radius_km=0.0)
    assert none.comparables == ()
    assert none.reconciled is None


def test_the_kilometres_are_those_of_a_great_circle(sales: ModelBundle) -> None:
    one = sales.explain(ROW).comparables[0]
    lon, lat, lon2, lat2 = map(
        math.radians, (-3.9, 40.1, one.attributes["lon"], one.attributes["lat"])
    )
    cosine = math.sin(lat) * math.sin(lat2)
    cosine += math.cos(lat) * math.cos(lat2) * math.cos(lon2 - lon)
    assert one.distance_km == pytest.approx(6371.0088 * math.acos(cosine), abs=0.01)


def test_what_a_bundle_does_not_know_is_refused(sales: ModelBundle, written_bundle: Any) -> None:
    with pytest.raises(ValidationError, match="cannot be the same in 'parcel'"):
        sales.explain(ROW, same=["parcel"])
    old = load_bundle(written_bundle, trusted=None)
    row = {"lon": -3.5, "lat": 40.5, "income": 3.0, "rooms": 3, "area": 80.0, "kind": "flat"}
    with pytest.raises(ValidationError, match="chosen by since"):
        old.explain(row, since=dt.date(2020, 1, 1))
    with pytest.raises(ValidationError, match="chosen by same"):
        old.explain(row, same=["kind"])


def test_a_bundle_without_known_sales_names_its_nearest_rows(written_bundle: Any) -> None:
    bundle = load_bundle(written_bundle, trusted=None)
    row = {"lon": -3.5, "lat": 40.5, "income": 3.0, "rooms": 3, "area": 80.0, "kind": "flat"}
    found = bundle.explain(row)
    distances = [near.distance for near in found.comparables]
    assert distances == sorted(distances)
    assert found.reconciled is None
    for near in found.comparables:
        assert (near.adjusted_price, near.weight, near.similarity) == (None, None, None)
        assert (near.id, near.label, near.date, near.adjustments) == (None, None, None, ())
        assert near.distance_km > 0.0


def test_a_file_is_explained_as_its_rows_are(sales: ModelBundle) -> None:
    import pyarrow as pa

    X, _, _ = _rows(seed=9)
    columns = sales.encoder.decode(X[:40])
    columns["area"] = [*columns["area"][:-1], None]  # refused
    batch = pa.RecordBatch.from_pydict(columns)
    scorer = BatchScorer(sales, keep=(), explain=True)
    found = scorer.score(batch).to_pylist()
    plain = BatchScorer(sales, keep=()).score(batch).to_pylist()
    parts = [name for name in scorer.schema.names if name.startswith("part_")]
    assert found[-1]["error"]
    assert found[-1]["base"] is None
    for row, without in zip(found[:-1], plain[:-1], strict=True):
        assert row["prediction"] == without["prediction"]
        total = row["base"] + sum(row[name] for name in parts)
        assert total == pytest.approx(row["prediction"], abs=0.005)
    one = sales.explain({name: values[0] for name, values in columns.items()})
    for group in one.groups:
        assert found[0][f"part_{group.name}"] == pytest.approx(group.amount, abs=1e-6)


def test_damaged_sales_are_refused(sales: ModelBundle, tmp_path: Any) -> None:
    import shutil

    for at, change in enumerate(
        (
            {"X": lambda X: X[:-1]},
            {"texts": lambda texts: texts[:-3]},
            {"texts": lambda _: np.frombuffer(b'{"identifiers":[1],"labels":[]}', np.uint8)},
        )
    ):
        folder = shutil.copytree(sales.folder, tmp_path / str(at))
        with_arrays(folder, "comparables.npz", **change)
        with pytest.raises(BundleError, match="cannot be rebuilt"):
            load_bundle(folder, trusted=None)


def test_every_feature_means_one_thing(sales: ModelBundle) -> None:
    groups = meaning.meanings(sales.features)
    places = sorted(at for group in groups for at in group.features)
    assert places == list(range(len(sales.features.names)))


def test_names_are_written_for_people() -> None:
    assert meaning.people_label("TrafficNoise") == "Traffic noise"
    assert meaning.people_label("median_income") == "Median income"


def test_comparables_that_are_no_features_are_evidence(
    sales: ModelBundle, evidence: ModelBundle
) -> None:
    assert not [name for name in evidence.features.names if name.startswith("comparables")]
    found, other = evidence.explain(ROW), sales.explain(ROW)
    # the likeness is weighed by what moves each model's estimates, the rows to choose from are one
    prices = {near.price for near in sales.explain(ROW, comparables=64).comparables}
    assert {near.price for near in found.comparables} <= prices
    assert found.reconciled is not None
    assert found.reconciled.value == pytest.approx(found.valuation.prediction, rel=0.25)
    for near in found.comparables:
        total = sum(step.amount for step in near.adjustments)
        assert near.adjusted_price == pytest.approx(near.price + total, abs=0.005)
        assert near.date is not None
        assert near.date < "2023-05-01"
    assert len(found.comparables) == len(other.comparables) == 5
    own = evidence.explain({**ROW, "parcel": found.comparables[0].id})
    assert own.comparables[0].own_earlier_sale
    again = load_bundle(evidence.folder).explain(ROW)
    assert again == found


def test_comparables_kept_twice_are_refused(sales: ModelBundle, evidence: ModelBundle) -> None:
    assert evidence.known_sales is not None
    state = evidence.known_sales.state()
    with pytest.raises(ValueError, match="beside those of the features"):
        KnownSales.from_state(state, sales.features)
    fewer = {name: values for name, values in state.items() if name != "index.context"}
    with pytest.raises(ValueError, match="context"):
        KnownSales.from_state(fewer, evidence.features)
