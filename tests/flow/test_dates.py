"""A table with dates, from the first command to the last."""

from __future__ import annotations

import csv
import datetime as dt
import json
import random
from pathlib import Path

import pytest

from fixtures.command_line import QUICK, output_of
from tasador.registry.model_bundle import load_bundle


@pytest.fixture(scope="module")
def project(quick_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dates")
    rng = random.Random(1)
    with (folder / "homes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["area", "sold", "price"])
        for _ in range(300):
            area = round(rng.uniform(30, 200), 1)
            sold = dt.date(2024, 1, 1) + dt.timedelta(days=rng.randrange(700))
            writer.writerow([area, sold.isoformat(), round(area * 1500 * rng.uniform(0.6, 1.4))])
    output_of(folder, "init", "homes.csv", "--target", "price")
    return folder


def test_a_table_with_dates_is_trained_reviewed_and_valued(project: Path) -> None:
    out = output_of(project, "run", "dataset=homes", *QUICK, "tracking=none")
    assert "sold=202" in out
    assert "00:00:00" not in out
    (card,) = (project / "workspace" / "runs").glob("*/model_card.json")
    reviewed = json.loads(card.read_text())["review"][0]["values"]["sold"]
    assert dt.datetime.fromisoformat(reviewed).year in (2024, 2025)
    row = {"area": 80, "sold": "2031-05-01"}
    answer = json.loads(output_of(project, "predict", json.dumps(row)))
    told = answer["predictions"][0]["warnings"][0]
    assert told.startswith("sold 2031-05-01 lies outside the training range [2024-01-")
    explained = json.loads(output_of(project, "explain", json.dumps(row), "--json"))
    assert explained["valuation"]["warnings"][0] == told
    (project / "new.csv").write_text("area,sold\n80,2031-05-01\n")
    assert told in output_of(project, "predict", "new.csv", "--with", "inputs")
    output_of(project, "score", "new.csv", "-o", "valued.csv", "--columns", "*")
    assert told in (project / "valued.csv").read_text()


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.no_cover
def test_a_training_row_is_known_again_where_its_date_says_which_thing_it_is(
    project: Path, dated: bool
) -> None:
    name = "homes" if dated else "plain"
    if not dated:
        with (project / "homes.csv").open() as file, (project / "plain.csv").open("w") as out:
            out.writelines(",".join(line.split(",")[::2]) for line in file)
        output_of(project, "init", "plain.csv", "--target", "price")
    output_of(project, "run", f"dataset={name}", *QUICK, "tracking=none")
    (folder,) = (project / "workspace" / "bundles").glob(f"{name}*")
    assert (load_bundle(folder).training_rows is not None) == dated
