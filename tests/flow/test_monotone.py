"""What estimates are asked to keep to, and models per class, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fixtures.command_line import run_here as tasador
from fixtures.houses import houses
from tasador.lifecycle.reproduce import settings_of
from tasador.modeling.monotone import check_monotone
from tasador.registry.model_bundle import ModelBundle, load_bundle

CONTRACT = """\
name: homes
columns:
  lon: {kind: number, role: longitude}
  lat: {kind: number, role: latitude}
  income: {kind: number}
  rooms: {kind: integer, nullable: true}
  area: {kind: number}
  kind: {kind: category, categories: [flat, house, villa]}
ratios:
  area_per_room: {numerator: area, denominator: rooms}
target: {name: price, transform: log, unit: USD}
source: {paths: [homes.csv]}
"""
SMALL = [
    "dataset=homes",
    "tracking=none",
    "impute.strategy=boosting",
    "selection.folds=3",
    "selection.families={ridge:{alpha:[1.0]},lightgbm:{n_estimators:[60],num_leaves:[15]}}",
    *(
        f"~selection.families.{name}"
        for name in (
            "hist_gradient_boosting",
            "gradient_boosting",
            "random_forest",
            "extra_trees",
            "decision_tree",
            "lasso",
        )
    ),
    "sweep.trials=0",
    "features.cross_fit_folds=3",
    "register.parity_rows=500",
    "register.bootstrap_draws=20",
    "register.spatial_folds=2",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("homes")
    frame = houses(900)
    rooms = [None if i % 11 == 0 else n for i, n in enumerate(frame["rooms"].to_list())]
    # prices that fall again over a range of areas, as those of a table with errors do
    dip = np.where((frame["area"] > 150) & (frame["area"] < 200), 0.6, 1.0)
    frame = frame.with_columns(rooms=np.array(rooms, dtype=object), price=frame["price"] * dip)
    (folder / "conf" / "dataset").mkdir(parents=True)
    (folder / "conf" / "dataset" / "homes.yaml").write_text(CONTRACT)
    frame.to_pandas().to_csv(folder / "homes.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(project: Path) -> Path:
    asked = ["model.monotone={area: up, income: up}", "model.even_ratios=true"]
    code, _, err = tasador(project, "run", *SMALL, *asked)
    assert code == 0, err
    return max((project / "workspace" / "runs").iterdir())


@pytest.fixture(scope="module")
def bundle(project: Path, run: Path) -> ModelBundle:
    version = json.loads((run / "run.json").read_text())["version"]
    return load_bundle(project / "workspace" / "bundles" / version)


def test_no_estimate_of_the_bundle_falls_as_a_column_rises(bundle: ModelBundle) -> None:
    columns = houses(3000, seed=9).drop("price").to_dict(as_series=False)
    X = bundle.check.columns(columns)
    X[::5, 3] = np.nan  # filled by what is known of the row, without the columns that rise
    checks = check_monotone(
        bundle.predict, bundle.contract, X, bundle.features.monotone, pairs=10_000, seed=3
    )
    assert [(c.column, c.pairs) for c in checks] == [("area", 10_000), ("income", 10_000)]
    assert [c.violations for c in checks] == [0, 0]
    assert len(np.unique(bundle.predict(X))) > 1000


def test_the_card_counts_violations_and_shows_ratios_without_and_with(
    run: Path, bundle: ModelBundle
) -> None:
    card = json.loads((run / "cards" / "register.json").read_text())
    facts = {fact["label"]: fact["value"] for fact in card["facts"]}
    assert facts["No estimate falls when area alone rises: violations"] == 0
    (table,) = (t for t in card["tables"] if t["title"].startswith("Even ratios"))
    assert [row[0] for row in table["rows"]] == ["MAPE", "PRD", "PRB"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert [found["violations"] for found in metrics["monotone"]] == [0, 0]
    figures = {row[0]: row[1:5] for row in table["rows"]}
    assert figures["PRD"][3] == pytest.approx(metrics["test"]["prd"])
    assert figures["MAPE"][1] == pytest.approx(metrics["random_cv"]["mape"])
    assert "No estimate falls when area alone rises" in bundle.card
    search = json.loads((run / "cards" / "select.json").read_text())
    left_out = [note for note in search["notes"] if "cannot keep estimates monotone" in note]
    assert len(left_out) == 1
    assert "Ridge regression" in left_out[0]


def test_the_bundle_knows_the_settings_it_was_made_with(bundle: ModelBundle) -> None:
    settings, missing = settings_of(bundle)
    assert settings.model.monotone == {"area": "up", "income": "up"}
    assert settings.model.even_ratios
    assert not missing


def test_an_explanation_says_what_the_model_keeps_to(project: Path, bundle: ModelBundle) -> None:
    row = '{"lon": -3.5, "lat": 40.5, "income": 3, "rooms": 4, "area": 90, "kind": "flat"}'
    code, out, err = tasador(project, "explain", row, "--bundle", str(bundle.folder))
    assert code == 0, err
    assert "No estimate falls when income alone rises" in err
    assert "estimate" in out


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("{aera: up}", ["no feature 'aera'", "did you mean 'area'?"]),
        ("{kind: up}", ["'kind' cannot be kept monotone", "a column of the kind category"]),
        ("{lon: down}", ["'lon' is a coordinate"]),
        ("{area: sideways}", ["model.monotone.area", "one of up, down"]),
    ],
)
def test_a_direction_that_cannot_be_kept_is_refused_before_the_run(
    project: Path, setting: str, said: list[str]
) -> None:
    code, _, err = tasador(project, "run", *SMALL, f"model.monotone={setting}")
    assert code == 2
    for words in said:
        assert words in err


@pytest.mark.no_cover
def test_a_search_without_a_family_that_keeps_to_it_says_so(project: Path) -> None:
    words = [w for w in SMALL if not w.startswith("selection.families=")]
    words += ["selection.families={ridge:{alpha:[1.0]}}", "~selection.families.lightgbm"]
    code, _, err = tasador(project, "run", *words, "model.monotone={area: up}")
    assert code == 4
    assert "none of ridge can keep estimates monotone" in err


@pytest.mark.no_cover
def test_models_per_class_are_shipped_where_they_pay_and_keep_to_what_is_asked(
    tmp_path: Path,
) -> None:
    frame = houses(2200)
    kind = np.resize([-1.0, 1.0], len(frame))
    # what makes a flat dear makes a house cheap
    score = kind * (0.01 * frame["area"] + 0.8 * frame["lon"] + 0.8 * frame["lat"] - 31.0)
    frame = frame.with_columns(
        kind=np.where(kind < 0, "flat", "house"),
        price=10_000 * frame["income"] * np.exp(score),
    )
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    contract = CONTRACT.replace("villa]}", "villa], role: group}")
    (tmp_path / "conf" / "dataset" / "homes.yaml").write_text(contract)
    frame.to_pandas().to_csv(tmp_path / "homes.csv", index=False)
    code, out, err = tasador(
        tmp_path, "run", *SMALL, "model.monotone={income: up}", "features.comparables=false",
        "selection.families={lightgbm:{n_estimators:[150],num_leaves:[7],min_child_samples:[10]}}",
        "~selection.families.ridge", "sweep.family=lightgbm", "register.average=1",
        "sweep.slowdown=1", "model.even_ratios=true",
    )  # fmt: skip
    assert code == 0, err
    said = next(line.strip() for line in out.splitlines() if "models per kind" in line)
    assert said.startswith("models per kind are used: wMAPE ")
    assert said.endswith("levels with their own: flat, house; pooled for the rest")
    (folder,) = (tmp_path / "workspace" / "bundles").iterdir()
    bundle = load_bundle(folder)
    assert said in bundle.card
    assert [m["grouped"] for m in bundle.manifest.lineage["members"]] == [True]
    X = bundle.check.columns(houses(600, seed=9).drop("price").to_dict(as_series=False))
    (check,) = check_monotone(
        bundle.predict, bundle.contract, X, bundle.features.monotone, pairs=2000, seed=3
    )
    assert check.violations == 0
    row = '{"lon": -3.5, "lat": 40.5, "income": 3, "rooms": 4, "area": 90, "kind": "flat"}'
    code, out, err = tasador(tmp_path, "explain", row, "--bundle", str(folder))
    assert code == 0, err
