"""Make the bundles and tables under `references`, of generated rows, by the command line only.

The stored bundles are of manifest format 1 and stay as they are: every later version of tasador has
to read them and to give their answers. This script says how they were made; to run it again is to
give up that promise, and changes every reference that is made from them:

    python tests/net/make_fixtures.py homes cars cars_native tables && pytest tests/net --rewrite
"""

from __future__ import annotations

import csv
import math
import random
import shutil
import subprocess
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

REFERENCES = Path(__file__).with_name("references")
STREETS = [f"street {letter}" for letter in "ABCDEFGHIJKLMNO"]
QUICK = [
    "tracking=none",
    "selection.folds=3",
    "sweep.trials=0",
    "sweep.slowdown=1.0",
    "features.cross_fit_folds=5",
    "register.parity_rows=2000",
    "register.bootstrap_draws=50",
    "register.spatial_folds=2",
    "register.fold_rows=300",
]
FAMILIES = ("lightgbm", "hist_gradient_boosting", "gradient_boosting", "random_forest",
            "extra_trees", "decision_tree", "ridge", "lasso")  # fmt: skip

HOMES = f"""
name: homes
title: Homes that were never sold
model_name: homes_model
columns:
  ref: {{kind: identifier}}
  note: {{kind: text}}
  lon: {{kind: number, role: longitude, bounds: [-10, 0]}}
  lat: {{kind: number, role: latitude, bounds: [35, 45]}}
  area: {{kind: number, unit: m2, bounds: [5, 2000]}}
  rooms: {{kind: integer, bounds: [0, 40], nullable: true}}
  age: {{kind: number, unit: years, nullable: true}}
  quality: {{kind: number, bounds: [0, 100], nullable: true}}
  floor: {{kind: integer, nullable: true}}
  kind: {{kind: category, categories: [flat, house, villa], case_sensitive: false, role: segment}}
  street: {{kind: category, categories: [{", ".join(STREETS)}], open: true, nullable: true}}
  sold: {{kind: datetime, role: timestamp, bounds: [2020-01-01, 2030-12-31]}}
target: {{name: price, unit: EUR, bounds: [1, null], transform: log, prediction_name: predicted_price}}
ratios:
  area_per_room: {{numerator: area, denominator: rooms}}
  age_per_floor: {{numerator: age, denominator: floor}}
source: {{paths: [homes.csv]}}
comparables: {{similar_by: area, context: [area, area_per_room]}}
"""  # noqa: E501

CARS = """
name: cars
title: Cars that were never built
model_name: cars_model
columns:
  mass: {kind: number, unit: kg, bounds: [100, 5000]}
  power: {kind: number, unit: kW, bounds: [1, 2000], nullable: true}
  doors: {kind: integer, bounds: [2, 5]}
  built: {kind: datetime, nullable: true}
  fuel: {kind: category, categories: [petrol, diesel, none]}
target: {name: cost, transform: none, bounds: [null, null]}
ratios:
  power_to_mass: {numerator: power, denominator: mass}
source: {paths: [cars.csv]}
"""


def homes(n: int, seed: int) -> list[dict[str, object]]:
    """Return n homes, some with gaps; rooms follow the area, quality the rooms, age the place."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        lon, lat = rng.uniform(-4, -3), rng.uniform(40, 41)
        area, kind, street = rng.uniform(30, 300), rng.randrange(3), rng.randrange(len(STREETS))
        rooms = max(1, round(area / 30 + rng.gauss(0, 0.4)))
        age = 25 + 40 * (lon > -3.4) + 15 * (lat > 40.5) + rng.gauss(0, 1)
        quality = 30 + 5 * rooms + rng.gauss(0, 1.5)
        day = date(2022, 1, 1) + timedelta(days=rng.randrange(1000))
        price = 900 * area * math.exp(
            0.3 * kind + 0.02 * street - 0.006 * age + 0.006 * quality
            + 0.4 * math.sin(3 * lon + 2 * lat) + 0.08 * rng.gauss(0, 1)
        )  # fmt: skip
        rows.append({
            "ref": f"H{i}", "note": "a, \"quoted\" note" if i % 7 == 0 else "",
            "lon": round(lon, 5), "lat": round(lat, 5), "area": round(area, 1),
            "rooms": "" if rng.random() < 0.08 else rooms,
            "age": "" if rng.random() < 0.08 else round(age, 1),
            "quality": "" if rng.random() < 0.08 else round(quality, 1),
            "floor": "" if rng.random() < 0.08 else rng.randrange(6),
            "kind": ("flat", "house", "villa")[kind],
            "street": "" if rng.random() < 0.04 else STREETS[street],
            "sold": day.isoformat(), "price": round(price, 2),
        })  # fmt: skip
    return rows


def cars(n: int, seed: int) -> list[dict[str, object]]:
    """Return n cars; the cost may be below zero."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        mass, fuel, doors = rng.uniform(600, 2500), rng.randrange(3), rng.randrange(2, 6)
        power = mass / 15 + rng.gauss(0, 20)
        cost = 12 * (mass - 1500) + 90 * power + 800 * fuel + rng.gauss(0, 900)
        day = date(2015, 1, 1) + timedelta(days=rng.randrange(3000))
        rows.append({
            "mass": round(mass, 1), "power": "" if rng.random() < 0.1 else round(power, 1),
            "doors": doors, "built": "" if rng.random() < 0.05 else day.isoformat(),
            "fuel": ("petrol", "diesel", "none")[fuel], "cost": round(cost, 2),
        })  # fmt: skip
    return rows


def only(family: str, grid: str) -> list[str]:
    """Return the settings of a run that compares one family."""
    return [
        f"selection.families={{{family}:{grid}}}",
        *(f"~selection.families.{name}" for name in FAMILIES if name != family),
    ]


BUNDLES = {
    # comparables, clusters, categories of both sorts, dates, ratios, trees, and imputers by evidence
    "homes": (HOMES, homes, 200, [
        "features.clusters=4",
        *only("lightgbm", "{n_estimators:[25],num_leaves:[6],min_child_samples:[10]}"),
    ]),
    # trees that are left the gaps; no coordinates, no comparables
    "cars_native": (CARS, cars, 135, [
        "features.comparables=false", "impute.strategy=native",
        *only("lightgbm", "{n_estimators:[20],num_leaves:[6],min_child_samples:[10]}"),
    ]),
    # a linear model of a target below zero; neighbours fill the gaps
    "cars": (CARS, cars, 135, ["impute.strategy=knn", *only("ridge", "{alpha:[1.0]}")]),
}  # fmt: skip


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def make(name: str, target: Path) -> None:
    """Train one of `BUNDLES` and put its folder at `target`."""
    contract, rows_of, n, settings = BUNDLES[name]
    dataset = contract.split("name: ", 1)[1].split("\n", 1)[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "conf" / "dataset").mkdir(parents=True)
        (folder / "conf" / "dataset" / f"{dataset}.yaml").write_text(contract, encoding="utf-8")
        write_table(folder / f"{dataset}.csv", rows_of(n, 20260101))
        command = Path(sys.executable).with_name("tasador")
        subprocess.run(
            [command, "run", f"dataset={dataset}", *QUICK, *settings], cwd=folder, check=True
        )
        (found,) = (folder / "workspace" / "bundles").glob("*/manifest.json")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(found.parent, target)


def odd_homes() -> list[dict[str, object]]:
    """Return homes with everything that can be odd about a row, and some that are refused."""
    changes: list[dict[str, object]] = [
        {"rooms": 0}, {"floor": 0}, {"rooms": "", "area": 7}, {"area": 5}, {"area": 2000},
        {"rooms": "", "age": "", "quality": "", "floor": "", "street": ""}, {"rooms": 40},
        {"age": -500}, {"age": 1e9}, {"quality": 0}, {"quality": 100}, {"floor": -3},
        {"lon": -10, "lat": 35}, {"lon": 0, "lat": 45}, {"lon": -3.5, "lat": 44.9},
        {"lon": -3.25, "lat": 40.75}, {"kind": "FLAT"}, {"kind": "Villa"},
        {"street": "street Z"}, {"street": "Street A"}, {"street": "ſtreet Ä"},
        {"sold": "2020-01-01"}, {"sold": "2030-12-31"}, {"sold": "2024-02-29T23:30:00+02:00"},
        {"sold": "2023-05-01T10:00:00Z"}, {"sold": "2023-05-01 10:00:00"}, {"sold": "2025-06-30"},
        {"age": "NA"}, {"age": "1e1"}, {"rooms": "3.0"}, {"area": 123.456789012345678},
        # refused
        {"area": ""}, {"area": 2000.5}, {"area": "large"}, {"rooms": 2.5}, {"rooms": 41},
        {"kind": ""}, {"kind": "castle"}, {"sold": ""}, {"sold": "yesterday"},
        {"sold": "2019-12-31"}, {"sold": 1700000000}, {"lon": 1, "lat": 46}, {"quality": "inf"},
        {"area": -1, "rooms": "x", "kind": "hut"},
    ]  # fmt: skip
    return [{**row, **change} for row, change in zip(homes(len(changes), 3), changes, strict=True)]


def odd_cars() -> list[dict[str, object]]:
    """The same of cars."""
    changes: list[dict[str, object]] = [
        {"power": ""}, {"built": ""}, {"power": "", "built": ""}, {"mass": 100}, {"mass": 5000},
        {"power": 1}, {"power": 2000}, {"fuel": "none"}, {"built": "1900-01-01"},
        {"built": "2099-12-31T23:59:59.999Z"}, {"doors": 5},
        # refused
        {"mass": ""}, {"mass": 99}, {"doors": 6}, {"doors": 2.5}, {"fuel": ""}, {"fuel": "Diesel"},
        {"built": "31.12.2020"}, {"power": "NaNN"},
    ]  # fmt: skip
    return [{**row, **change} for row, change in zip(cars(len(changes), 3), changes, strict=True)]


def tables(folder: Path) -> None:
    """Write the rows that are valued, and those that are monitored."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "homes.csv", homes(155, 2) + odd_homes())
    write_table(folder / "cars.csv", cars(50, 2) + odd_cars())
    write_table(folder / "monitored.csv", homes(150, 4))


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        if wanted == "tables":
            tables(REFERENCES / "tables")
        else:
            make(wanted, REFERENCES / "bundles" / wanted)
