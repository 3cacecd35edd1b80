"""A run whose rows have weights and a half-life, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fixtures.command_line import run_here as tasador
from fixtures.houses import houses
from tasador.lifecycle.reproduce import settings_of
from tasador.registry.model_bundle import load_bundle
from tasador.training.context import load_part

CONTRACT = """\
name: homes
columns:
  income: {kind: number}
  area: {kind: number}
  kind: {kind: category, categories: [flat, house, villa]}
  sold: {kind: datetime, role: timestamp, nullable: true}
  sample_weight: {kind: number, role: weight}
target: {name: price, transform: log, unit: USD}
source: {paths: [homes.csv]}
"""
SMALL = [
    "dataset=homes",
    "tracking=none",
    "selection.folds=3",
    "selection.families={lightgbm:{n_estimators:[30],num_leaves:[7]}}",
    *(
        f"~selection.families.{name}"
        for name in (
            "hist_gradient_boosting",
            "gradient_boosting",
            "random_forest",
            "extra_trees",
            "decision_tree",
            "ridge",
            "lasso",
        )
    ),
    "sweep.trials=2",
    "features.cross_fit_folds=3",
    "features.comparables=false",
    "features.clusters=0",
    "register.average=1",
    "register.parity_rows=200",
    "register.bootstrap_draws=20",
]


@pytest.fixture(scope="module")
def project(quick_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("homes")
    n = 700
    days = pl.Series(np.arange(n) * 3).cast(pl.Int64)
    weights = [None if i % 9 == 0 else 0.0 if i % 50 == 7 else 1.0 + i % 3 for i in range(n)]
    frame = (
        houses(n)
        .drop("lon", "lat", "rooms")
        .with_columns(
            sold=pl.date(2015, 1, 1) + pl.duration(days=days),
            sample_weight=pl.Series(weights),
        )
    )
    (folder / "conf" / "dataset").mkdir(parents=True)
    (folder / "conf" / "dataset" / "homes.yaml").write_text(CONTRACT)
    frame.write_csv(folder / "homes.csv")
    return folder


@pytest.fixture(scope="module")
def run(project: Path) -> Path:
    code, _, err = tasador(project, "run", *SMALL, "model.half_life=365")
    assert code == 0, err
    return max((project / "workspace" / "runs").iterdir())


def test_the_card_says_what_weights_rows_and_what_it_leaves_out(run: Path) -> None:
    card = json.loads((run / "cards" / "segregate.json").read_text())
    facts = {fact["label"]: (fact["value"], fact["note"]) for fact in card["facts"]}
    assert facts["Rows left out"] == (12, "the weight 'sample_weight' is 0")
    what, spread = facts["Weights of training rows"]
    assert what == "column 'sample_weight' and half-life 365 days"
    assert "rows that count alike" in spread


def test_rows_are_split_with_their_weights(project: Path, run: Path) -> None:
    (folder,) = (project / "workspace" / "cache" / "segregate").iterdir()
    train, sealed = (load_part(next(folder.rglob(f"{n}.npz"))) for n in ("train", "sealed"))
    assert train.weight is not None
    assert train.age is not None
    assert sorted(np.unique(train.weight).tolist()) == [1.0, 2.0, 3.0]
    assert sealed.age is not None
    assert sealed.age.min() == 0.0
    whole = train.fit_weight()
    assert whole is not None
    newest = train.age.argmin()
    expected = train.weight * 0.5 ** (train.age - train.age[newest])
    np.testing.assert_allclose(whole, expected / expected.mean())


def test_the_bundle_keeps_the_half_life_and_asks_for_no_weight(project: Path, run: Path) -> None:
    version = json.loads((run / "run.json").read_text())["version"]
    bundle = load_bundle(project / "workspace" / "bundles" / version)
    settings, _ = settings_of(bundle)
    assert settings.model.half_life == 365
    row = {"income": 3.0, "area": 100.0, "kind": "flat", "sold": "2020-01-01"}
    assert bundle.value(row).prediction > 0
    assert "sample_weight" not in bundle.contract.feature_names
    decisions = json.dumps(json.loads((run / "cards" / "register.json").read_text()))
    assert "half-life of training rows" in decisions


def test_the_newest_years_are_valued_by_what_was_known_before_them(run: Path) -> None:
    card = json.loads((run / "cards" / "register.json").read_text())
    facts = {fact["label"]: fact["note"] for fact in card["facts"]}
    assert facts["Median APE on sales to come"].startswith("mean of 3 years; by random folds")
    (found,) = (one for one in card["tables"] if one["title"].startswith("Backtest: each year"))
    at, years = found["header"].index("coverage"), {row[0]: row for row in found["rows"]}
    assert list(years) == ["2018", "2019", "2020"]
    assert all(0.5 < row[at] <= 1.0 for row in years.values())


def test_a_half_life_needs_dates(project: Path) -> None:
    plain = CONTRACT.replace(", role: timestamp", "").replace("name: homes", "name: undated")
    (project / "conf" / "dataset" / "undated.yaml").write_text(plain)
    words = ["dataset=undated", *SMALL[1:], "model.half_life=365"]
    code, _, err = tasador(project, "run", *words)
    assert code == 2
    assert "model.half_life needs the dates of the rows" in err
    assert "role: timestamp" in err
