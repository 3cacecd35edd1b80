"""The shipped model learns from the newest sales too, and is still measured fairly on them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fixtures.houses import houses
from tasador.contract.model import Column, TableContract
from tasador.core.errors import ConfigError
from tasador.data.sources import store_frame
from tasador.lifecycle.api import Place, opened
from tasador.lifecycle.first_champion import train
from tasador.lifecycle.gate_evaluation import held_out_rows, measure, split_again
from tasador.lifecycle.gates import evaluate_gates
from tasador.lifecycle.reproduce import reproduce, settings_of
from tasador.metrics.regression import mape
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.settings.run import (
    FeatureSettings,
    GateSettings,
    ImputationSettings,
    RegisterSettings,
    RunSettings,
    SegregateSettings,
    SelectionSettings,
    StorageSettings,
    SweepSettings,
    TrackingSettings,
)
from tasador.training.context import StoredTable

N, DAYS = 700, 900
pytestmark = pytest.mark.usefixtures("quick_pictures")


def dated(contract: TableContract) -> TableContract:
    """The contract of houses with a date of sale and a flat that is sold again now and then."""
    more = (
        Column("sold", "datetime", role="timestamp", nullable=True),
        Column("flat", "text", role="property"),
    )
    return dataclasses.replace(contract, columns=(*contract.columns, *more))


def sales(n: int = N) -> pl.DataFrame:
    frame, random = houses(n), np.random.default_rng(4)
    days = random.integers(0, DAYS, n)
    start = dt.datetime(2021, 1, 1, tzinfo=dt.UTC)
    level = np.exp(0.2 * days / DAYS)
    return frame.with_columns(
        pl.Series("sold", [(start + dt.timedelta(days=int(day))).isoformat() for day in days]),
        pl.Series("flat", [f"f{i}" for i in random.integers(0, 4 * n, n)]),
        price=frame["price"] * level,
    )


def trained(contract: TableContract, folder: Path, **register) -> tuple[ModelBundle, str | None]:
    """Train on the sales in a workspace; the bundle and its version."""
    settings = RunSettings(
        contract=contract,
        segregate=SegregateSettings(min_rows=50),
        impute=ImputationSettings(strategy="median", min_gap_share=1.0),
        features=FeatureSettings(clusters=0, cross_fit_folds=3, comparables=True),
        selection=SelectionSettings(
            families={"lightgbm": {"n_estimators": [60], "num_leaves": [15]}}, folds=3
        ),
        sweep=SweepSettings(trials=0, folds=2, slowdown=1.0),
        register=RegisterSettings(
            spatial_folds=2, parity_rows=500, bootstrap_draws=20, average=1, **register
        ),
        storage=StorageSettings(str(folder)),
        tracking=TrackingSettings(enabled="refit" not in register),
    )
    content_hash = store_frame(sales(), folder / "data")
    done = train(settings, None, StoredTable(content_hash, "real", "sales"))
    assert done.outcome is not None
    return load_bundle(folder / "bundles" / done.outcome["folder"]), done.registered


@pytest.fixture(scope="module")
def workspace(template_database, quick_pictures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("refit") / "workspace"
    folder.mkdir()
    shutil.copy(template_database, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def refitted(house_contract, workspace) -> ModelBundle:
    """By the defaults: split by time, and fitted again on all rows."""
    return trained(dated(house_contract), workspace)[0]


@pytest.fixture(scope="module")
def plain(house_contract, workspace, refitted) -> ModelBundle:
    """The model that was evaluated; its earlier steps come from the cache."""
    return trained(dated(house_contract), workspace, refit="never")[0]


def test_all_usable_rows_are_learned_from_and_the_figures_stay_those_of_the_model_before(
    workspace, refitted, plain
):
    rows, splits = refitted.manifest.lineage["rows"], split_again(refitted, workspace / "data")
    assert splits.method == "time"
    assert splits.earlier is not None
    assert rows["refit"] == rows["train"] + rows["test"] + len(splits.earlier) == N
    assert refitted.features.index.size == N
    assert plain.features.index.size == rows["train"]
    metrics = dict(refitted.manifest.metrics)
    assert metrics.pop("measured") in refitted.card
    assert f"had not seen the {rows['test']} rows of the test part" in refitted.card
    assert metrics == plain.manifest.metrics
    assert refitted.interval.quantile == plain.interval.quantile
    newest = split_again(plain, workspace / "data").sealed.open("test").time.max()
    assert plain.target.level_error(np.array([newest]))[0] > 0.0
    assert refitted.target.level_error(np.array([newest])) < plain.target.level_error(
        np.array([newest])
    )


def test_a_held_out_row_is_valued_as_the_evaluation_valued_it(workspace, refitted, plain):
    splits = split_again(refitted, workspace / "data")
    for part in (splits.sealed.open("test"), splits.earlier):
        for found, want in zip(
            refitted.value_arrays(part.X), plain.value_arrays(part.X), strict=True
        ):
            assert found == pytest.approx(want, rel=1e-9)
        one = refitted.value_encoded(part.X[:1])[0]
        assert one.lower == pytest.approx(plain.value_arrays(part.X[:1])[1][0], rel=1e-9)
    train = splits.train.X
    assert refitted.predict(train) == pytest.approx(plain.predict(train), rel=1e-9)
    others = train.copy()
    others[:, 2] += 0.01  # not in any table: valued by the model that knows the newest sales
    assert not np.allclose(refitted.predict(others), plain.predict(others), rtol=1e-3)


def test_the_gates_measure_a_refitted_champion_by_its_evaluation(workspace, refitted, plain):
    want = refitted.manifest.metrics["test"]["mape"]
    rows = held_out_rows(plain, refitted, workspace / "data")
    assert not isinstance(rows, str)
    assert len(rows.actual) == refitted.manifest.lineage["rows"]["test"]
    for bundle in (refitted, plain):
        assert mape(rows.actual, bundle.value_arrays(rows.X)[0]) == pytest.approx(want, rel=1e-9)
    costs = measure(plain, refitted)
    report = evaluate_gates(plain, refitted, rows, costs, GateSettings(min_rows=50))
    gates = {gate.name: gate for gate in report.gates}
    assert gates["MAPE"].state == "pass"
    held = refitted.manifest.metrics["interval"]["coverage"]
    assert gates["interval coverage"].figures["coverage"] == held
    # what it would have looked like had the rows been valued by the model that learned from them
    blind = dataclasses.replace(refitted, training_rows=None)
    assert mape(rows.actual, blind.value_arrays(rows.X)[0]) < 0.8 * want


@pytest.mark.no_cover
def test_a_refitted_version_is_reproduced_bit_by_bit(workspace, refitted):
    with opened(Place(workspace, actor="ana")) as lifecycle:
        found = reproduce(lifecycle, "1")
    assert (found.identical, found.missing) == (True, ())
    assert found.rebuilt == refitted.version


def test_a_bundle_from_before_the_setting_was_not_refitted(refitted):
    assert settings_of(refitted)[0].register.refit == "auto"
    lineage = dict(refitted.manifest.lineage)
    register = {k: v for k, v in lineage["config"]["register"].items() if k != "refit"}
    lineage["config"] = {**lineage["config"], "register": register}
    older = dataclasses.replace(
        refitted, manifest=dataclasses.replace(refitted.manifest, lineage=lineage)
    )
    assert settings_of(older)[0].register.refit == "never"


def test_rows_that_would_not_be_known_again_are_not_learned_from(house_contract, tmp_path):
    with pytest.raises(ConfigError, match="would not be known again"):
        trained(dated(house_contract), tmp_path, refit="always", out_of_fold=False)
    plain = tuple(dataclasses.replace(c, role=None) for c in house_contract.columns)
    contract = dataclasses.replace(house_contract, columns=plain)
    with pytest.raises(ConfigError, match="expected a contract with coordinates"):
        trained(contract, tmp_path, refit="always")
