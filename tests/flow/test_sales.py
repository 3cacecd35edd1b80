"""A table of sales in rising prices: split by time, brought to one level, valued as of a day."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fixtures.command_line import QUICK, output_of, run_here
from tasador.lifecycle.backtest import backtest
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.reporting.spanish import in_language
from tasador.training.backtest import Backtest

#: Prices grow by so much a month, on the log scale.
SLOPE = 0.01
FIRST, MONTHS = dt.date(2020, 1, 1), 60


@pytest.fixture(scope="module")
def project(quick_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sales")
    rng = random.Random(3)
    with (folder / "homes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["parcel_id", "area", "rooms", "sold", "price", "district", "roll"])
        for number in range(1800):
            area, days = round(rng.lognormvariate(4.5, 0.6), 1), rng.randrange(30 * MONTHS)
            level = math.exp(SLOPE * days / 30.44)
            price = area * 1500 * level * math.exp(rng.gauss(0, 0.1))
            parcel = f"P{rng.randrange(1200) + 1000}" if number else "P1000"
            sold = FIRST + dt.timedelta(days=days)
            # what no feature tells: one district is dearer than the others
            district = "Alta" if number % 7 == 3 else "Baja"
            price *= 1.25 if district == "Alta" else 1.0
            row = [parcel, area, rng.randint(1, 6), sold.isoformat(), round(price), district]
            # an assessor who sees the district too; some houses have no value yet
            row.append("" if number % 10 == 0 else round(price * 0.8 * math.exp((number % 7) / 99)))
            writer.writerow(row)
    output_of(folder, "init", "homes.csv", "--target", "price", "--yes")
    contract = folder / "conf" / "dataset" / "homes.yaml"
    plain = yaml.safe_load(contract.read_text())
    plain.setdefault("comparables", {})["identifier"] = "parcel_id"
    plain["columns"]["district"] = {"kind": "text"}
    plain["columns"]["roll"] = {"kind": "number", "role": "rival"}
    plain["fairness"] = ["district", "area"]
    contract.write_text(yaml.safe_dump(plain, sort_keys=False))
    output_of(
        folder,
        "run",
        "dataset=homes",
        *QUICK,
        "segregate.method=time",
        "register.backtest=2",
        "~selection.families.decision_tree",
    )
    return folder


def value(project: Path, row: dict[str, object], *more: str) -> dict[str, float]:
    found = json.loads(output_of(project, "predict", json.dumps(row), *more))
    return dict(found["predictions"][0])


ROW = {"area": 100, "rooms": 3}


def test_init_proposes_what_was_sold_and_when(project: Path) -> None:
    text = (project / "conf" / "dataset" / "homes.yaml").read_text()
    assert "role: timestamp" in text
    assert "role: property" in text
    assert "without_last" not in text  # these numbers say nothing of the place


def test_what_parcel_numbers_begin_with_informs_and_is_learned_from_the_table(
    quick_pictures: None, tmp_path: Path
) -> None:
    rng = random.Random(5)
    dear = {f"{plat:04}": rng.gauss(0, 0.4) for plat in range(60)}
    with (tmp_path / "lots.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["parcel_no", "area", "price"])
        for plat, level in dear.items():
            for lot in range(12):
                area = rng.uniform(50, 200)
                price = area * 1000 * math.exp(level + rng.gauss(0, 0.05))
                writer.writerow([f"{plat}-{lot:03}", round(area), round(price)])
        for plat in range(5000, 5120):  # of one row each: no levels, and the most frequent code
            area = rng.uniform(50, 200)
            writer.writerow([f"{plat}-001", round(area), round(area * 1000)])
    said = output_of(tmp_path, "init", "lots.csv", "--target", "price", "--yes")
    assert "'parcel_no' without their last 4 characters" in " ".join(said.split())
    contract = yaml.safe_load((tmp_path / "conf" / "dataset" / "lots.yaml").read_text())
    column = contract["columns"]["parcel_no_prefix"]
    assert column["extract"] == {"without_last": 4}
    assert column["learned"] is True
    assert "categories" not in column
    output_of(tmp_path, "run", "dataset=lots", *QUICK, "~selection.families.decision_tree")
    (bundle,) = (tmp_path / "workspace" / "bundles").glob("*/manifest.json")
    levels = json.loads(bundle.read_text())["contract"]["columns"]["parcel_no_prefix"]["categories"]
    assert levels == sorted(dear)
    high, low = (pick(dear, key=dear.__getitem__) for pick in (max, min))
    a, b = (value(tmp_path, {"parcel_no": f"{p}-900", "area": 100}) for p in (high, low))
    assert a["predicted_price"] > 1.8 * b["predicted_price"]
    unknown = value(tmp_path, {"parcel_no": "9999-001", "area": 100})
    assert b["predicted_price"] < unknown["predicted_price"] < a["predicted_price"]
    assert value(tmp_path, {"area": 100})["predicted_price"] > 0


def test_the_newest_sales_are_tested_and_the_random_figure_stands_beside(project: Path) -> None:
    (card,) = (project / "workspace" / "runs").glob("*/model_card.json")
    for row in json.loads(card.read_text())["cross_validation"]:
        assert row["cv"] is not None
        assert row["random_cv"] is not None
    (report,) = (project / "workspace" / "runs").glob("*/report.html")
    text = report.read_text()
    assert "CV forward in time" in text
    assert "the newest sales are tested" in text
    assert "Trend of prices" in text
    assert "Errors on sales that were still to come" in text
    assert re.search(
        r"Median APE on sales to come.{1,200}mean of 2 years; by random folds \d", text, re.DOTALL
    )


def test_groups_are_compared_in_report_card_and_json_in_both_languages(project: Path) -> None:
    (run,) = (project / "workspace" / "runs").iterdir()
    card = json.loads((run / "model_card.json").read_text())
    names = {group["name"]: group for group in card["fairness"]["groups"]}
    assert names["Alta"]["by"] == "district"
    assert names["Alta"]["rows"] >= 30
    assert names["Alta"]["met"]["level"] is False
    assert len([group for group in names.values() if group["by"] == "area"]) == 5
    said = card["fairness"]["off"]
    assert said["en"][0].startswith("district Alta is valued")
    assert "too low" in said["en"][0]
    assert "por debajo" in said["es"][0]
    assert set(card["weakest_segments"]) >= {"segments", "rows", "mape", "rules"}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["fairness"] == card["fairness"]["groups"]
    for name in ("report.html", "model_card.html"):
        page = (run / name).read_text()
        assert "Fairness: by district" in page
        assert "Equidad: por district" in in_language(page, "es")
        assert said["en"][0] in page
        assert said["es"][0] in in_language(page, "es").replace("\u00a0%", " %")
    version = json.loads((run / "run.json").read_text())["version"]
    markdown = (project / "workspace" / "bundles" / version / "card.md").read_text()
    assert "Fairness: by district" in markdown
    assert "Equidad" not in markdown
    assert "across 7 groups by district, area" in markdown


def test_other_peoples_estimates_stand_beside_the_model_in_both_languages(project: Path) -> None:
    (run,) = (project / "workspace" / "runs").iterdir()
    (roll,) = json.loads((run / "metrics.json").read_text())["rivals"]
    assert roll == json.loads((run / "model_card.json").read_text())["rivals"][0]
    assert roll["name"] == "roll"
    assert roll["left_out"] >= 10
    assert 0.75 < roll["figures"]["median_ratio"] < 0.9
    assert roll["levelled"]["median_ratio"] == pytest.approx(1.0)
    assert roll["levelled"]["median_ape"] < roll["model"]["median_ape"]
    for name in ("report.html", "model_card.html"):
        page = (run / name).read_text()
        assert "Beside other estimates" in page
        assert "Junto a otras estimaciones" in in_language(page, "es")
        assert "this model, rows with roll, levelled" in page
    # what others think is no feature, and nobody has to send it
    assert "roll" not in value(project, ROW)


def test_the_report_says_whether_known_sales_are_valued_too_near_their_prices(
    project: Path,
) -> None:
    (report,) = (project / "workspace" / "runs").glob("*/report.html")
    assert re.search(
        r"Training rows valued again: (no sign|1 of 2 signs) of sales chasing\. "
        r"Their median APE is \d+\.\d%, that of the test part \d+\.\d%",
        report.read_text(),
    )


def test_a_row_is_valued_at_the_level_of_the_day_asked_for(project: Path) -> None:
    early = value(project, ROW, "--as-of", "2021-01-15")["predicted_price"]
    late = value(project, ROW, "--as-of", "2023-01-15")["predicted_price"]
    assert math.log(late / early) == pytest.approx(24 * SLOPE, abs=0.04)
    dated = value(project, {**ROW, "sold": "2021-01-15"})
    assert dated["predicted_price"] == early
    newest = value(project, ROW)
    assert "sold was not given: valued as of 202" in newest["warnings"][0]
    # beyond the sales that are known the level is less sure, and the interval wider
    beyond = value(project, ROW, "--as-of", "2027-01-15")
    width = [math.log(one["upper"] / one["lower"]) for one in (newest, beyond)]
    assert width[1] > 1.2 * width[0]


def test_predict_says_which_day_a_value_is_for(project: Path) -> None:
    row = json.dumps({**ROW, "sold": "2021-01-15"})
    assert "each row is valued as of its sold" in run_here(project, "predict", row)[2]
    _, _, err = run_here(project, "predict", row, "--as-of", "2022-06-15")
    assert "all rows are valued as of 2022-06-15" in err


def test_files_are_valued_as_of_a_day_as_rows_are(project: Path) -> None:
    (project / "new.csv").write_text("area,rooms,sold\n100,3,2024-12-01\n55,2,\n")
    output_of(project, "score", "new.csv", "-o", "valued.csv", "--as-of", "2022-06-15")
    with (project / "valued.csv").open() as file:
        first = next(csv.DictReader(file))
    as_of = value(project, ROW, "--as-of", "2022-06-15")["predicted_price"]
    assert float(first["predicted_price"]) == pytest.approx(as_of, rel=1e-12)
    valued = output_of(project, "predict", "new.csv", "--as-of", "2022-06-15")
    assert next(csv.DictReader(valued.splitlines()))["predicted_price"] == first["predicted_price"]


def test_an_explanation_names_the_trend_and_adds_up(project: Path) -> None:
    text = output_of(project, "explain", json.dumps(ROW), "--json", "--as-of", "2021-06-01")
    found = json.loads(text)
    assert found["contributions"]["trend"] < -0.1
    total = found["expected"] + sum(found["contributions"].values())
    assert math.exp(total) == pytest.approx(found["valuation"]["prediction"], rel=1e-9)


def test_comparables_are_named_dated_and_adjusted(project: Path) -> None:
    with (project / "homes.csv").open() as file:
        prices = {(r["parcel_id"], r["sold"]): float(r["price"]) for r in csv.DictReader(file)}
    words = ("--as-of", "2024-01-01", "--since", "2023-01-01", "--n", "4")
    found = json.loads(output_of(project, "explain", json.dumps(ROW), "--json", *words))
    total = found["base"] + sum(group["amount"] for group in found["groups"])
    assert total == pytest.approx(found["valuation"]["prediction"], abs=0.005)
    assert len(found["comparables"]) == 4
    for near in found["comparables"]:
        assert "2023-01-01" <= near["date"] < "2024-01-01"
        assert near["price"] == pytest.approx(prices[near["id"], near["date"]], rel=1e-9)
        moved = sum(step["amount"] for step in near["adjustments"])
        assert near["adjusted_price"] == pytest.approx(near["price"] + moved, abs=0.005)
    own = found["comparables"][0]["id"]
    row = json.dumps({**ROW, "parcel_id": own})
    again = json.loads(output_of(project, "explain", row, "--json", *words))["comparables"]
    assert [near["id"] for near in again if near["own_earlier_sale"]] == [own]
    code, _, err = run_here(project, "explain", json.dumps(ROW), "--radius-km", "2")
    assert code == 3
    assert "comparables cannot be chosen by radius_km" in err


@pytest.mark.parametrize(("day", "said"), [
    ("soon", "the day to value as of cannot be read"), ("2021-13-01", "such as 2014-06-30"),
])  # fmt: skip
def test_what_is_no_day_is_said(project: Path, day: str, said: str) -> None:
    code, _, err = run_here(project, "predict", json.dumps(ROW), "--as-of", day)
    assert code == 3
    assert said in err
    assert "Traceback" not in err


def test_a_backtest_values_each_span_by_what_was_known_before(project: Path) -> None:
    found = json.loads(output_of(project, "backtest", "--json", "-o", "backtest.html"))
    names = [origin["name"] for origin in found["origins"]]
    assert names == ["2021", "2022", "2023", "2024"]
    known = [origin["known"] for origin in found["origins"]]
    assert known == sorted(set(known))
    for before, after in zip(found["origins"], found["origins"][1:], strict=False):
        assert before["known"] + before["rows"] == after["known"]
    assert 0.95 < found["mean"]["median_ratio"] < 1.05
    assert found["mean"]["median_ape"] < 10.0
    # prices rise: without the trend they are missed from below
    assert found["mean"]["median_ratio_level_kept"] < found["mean"]["median_ratio"] - 0.005
    assert found["random"]["median_ape"] > 0.0
    gaps = [origin["difference"] for origin in found["origins"]]
    for origin, gap in zip(found["origins"], gaps, strict=True):
        own = origin["metrics"]["median_ape"] - origin["baseline"]
        assert gap["value"] == pytest.approx(own, abs=1e-9)
        assert gap["low"] <= gap["value"] <= gap["high"]
    mean = found["difference"]
    assert mean["value"] == pytest.approx(sum(gap["value"] for gap in gaps) / 4)
    width = [gap["high"] - gap["low"] for gap in (mean, *gaps)]
    assert 0 < width[0] < max(width[1:])
    # somebody who knows the districts is nearer to the prices once the level is set right
    assert [set(origin["rivals"]) for origin in found["origins"]] == [{"roll"}] * 4
    assert found["rivals"]["roll"][0] < found["mean"]["median_ape"]
    assert found["rivals"]["roll"][1] == 4
    assert "<img" in (project / "backtest.html").read_text()
    listed = output_of(project, "backtest", "--by", "quarter", "--from", "2024-04-01")
    assert "2024-Q2" in listed
    assert "2024-Q1" not in listed
    assert max(map(len, listed.splitlines())) <= 80


@pytest.mark.no_cover
def test_a_backtest_counts_what_the_intervals_that_are_served_hold(project: Path) -> None:
    (folder,) = (project / "workspace" / "bundles").iterdir()
    bundle, tables = load_bundle(folder, trusted=None), project / "workspace" / "data"
    assert bundle.confidence is not None

    def held(some: ModelBundle) -> Backtest:
        return backtest(some, tables, since="2024-01-01")

    def times(factor: float) -> ModelBundle:
        assert bundle.confidence is not None
        factors = bundle.confidence.factors.copy()
        factors[:, 0] += math.log(factor)
        return replace(bundle, confidence=replace(bundle.confidence, factors=factors))

    found = held(bundle)
    usual, wide, narrow = (one.mean for one in (found, held(times(3.0)), held(times(1 / 3))))
    assert found.promised == 0.9
    assert usual["coverage"] == pytest.approx(0.9, abs=0.06)
    assert wide["coverage"] > 0.97
    assert narrow["coverage"] < 0.7
    assert usual["median_ape"] == wide["median_ape"] == narrow["median_ape"]
    # bundles of before there was a model of the errors' size have an interval of one width
    old = replace(bundle, confidence=None)
    assert held(old).mean["coverage"] == pytest.approx(0.9, abs=0.08)
    # where the model makes no error, that of the level of prices is left
    none = replace(old, interval=replace(old.interval, quantile=0.0))
    assert 0.1 < held(none).mean["coverage"] < 0.5


@pytest.mark.parametrize(("words", "said"), [
    (("--from", "later"), "the first origin cannot be read"),
    (("--from", "2031-01-01"), "no year has enough sales"),
    (("-o", "backtest.pdf"), "expected a .html file"),
])  # fmt: skip
def test_a_backtest_that_cannot_be_made_is_said(
    project: Path, words: tuple[str, ...], said: str
) -> None:
    code, _, err = run_here(project, "backtest", *words)
    assert code != 0
    assert said in err
    assert "Traceback" not in err
