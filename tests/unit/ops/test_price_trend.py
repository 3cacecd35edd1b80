import csv
import json
import re

import numpy as np
import pytest

from fixtures.command_line import run_here

CONTRACT = """\
name: flats
title: Flats
model_name: flats_model
columns:
  sold: {kind: datetime, role: timestamp}
  parcel: {kind: text, role: property}
  area: {kind: number, unit: m2}
  kind: {kind: category, categories: [flat, house]}
target: {name: price, unit: EUR, bounds: [1, 100000000], transform: %s}
source: {paths: [flats.csv]}
"""


@pytest.fixture
def project(tmp_path):
    """A folder with a table of sales whose level rises by 1% a month, and its contract."""
    rng = np.random.default_rng(2)
    n = 900
    month = rng.integers(0, 30, n)
    area = rng.uniform(40.0, 200.0, n)
    price = 1000.0 * area * np.exp(0.01 * month + 0.1 * rng.normal(size=n))
    with (tmp_path / "flats.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sold", "parcel", "area", "kind", "price"])
        for i in range(n):
            day = f"{2015 + month[i] // 12}-{month[i] % 12 + 1:02}-{rng.integers(1, 29):02}"
            writer.writerow([day, f"P{i % 800}", area[i], ("flat", "house")[i % 2], price[i]])
    folder = tmp_path / "conf" / "dataset"
    folder.mkdir(parents=True)
    (folder / "flats.yaml").write_text(CONTRACT % "log")
    return tmp_path


def test_the_trend_is_a_line_a_quarter_that_fits_a_terminal(project):
    code, said, _ = run_here(project, "trend")
    assert code == 0
    lines = [line for line in said.splitlines() if " Q" in line]
    assert len(lines) == 10
    assert max(map(len, said.splitlines()[1:-1])) <= 80
    first = [cell.strip() for cell in lines[0].split("│")[1:-1]]
    assert first[0] == "2015 Q1"
    # 1% a month for 28.5 months before the newest one: exp(-.285)
    assert float(first[1]) == pytest.approx(75.5, abs=4.0)
    assert float(first[2]) < float(first[1]) < float(first[3])
    assert "beyond the last month carried on by +" in said


def test_the_trend_is_written_as_the_files_name_ends(project):
    for name in ("trend.html", "trend.csv", "trend.json"):
        code, said, _ = run_here(project, "trend", "--dataset", "flats", "-o", name)
        assert code == 0
        assert f"wrote {name}" in said
    rows = list(csv.DictReader((project / "trend.csv").read_text().splitlines()))
    plain = json.loads((project / "trend.json").read_text())
    assert [row["month"] for row in rows] == [row["month"] for row in plain["months"]]
    assert len(rows) == 30
    assert rows[0]["month"] == "2015-01"
    assert float(rows[-1]["level"]) == 0.0
    assert sum(int(row["sales"]) for row in rows) == 900
    assert plain["carry"] == "drift"
    page = (project / "trend.html").read_text()
    assert "data:image/svg+xml" in page
    assert "2015 Q1" in page
    assert "<script" not in page


def test_levels_of_a_target_that_is_not_transformed_are_in_its_unit(project):
    (project / "conf" / "dataset" / "flats.yaml").write_text(CONTRACT % "none")
    code, said, _ = run_here(project, "trend")
    assert code == 0
    assert "level, EUR" in said


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ((", role: timestamp", ""), (), "no dates of sales.*role: timestamp.*give sold that role"),
        (None, ("-o", "trend.xls"), "in that format.*.html, .csv, .json, got trend.xls"),
        (("flats.csv", "short.csv"), (), "too few for a trend.*at least 12 months"),
    ],
)
def test_what_has_no_trend_is_refused_with_a_remedy(project, change, words, message):
    contract = project / "conf" / "dataset" / "flats.yaml"
    if change is not None:
        contract.write_text(contract.read_text().replace(*change))
    head, *rows = (project / "flats.csv").read_text().splitlines()
    short = [row for row in rows if row < "2015-07"]
    (project / "short.csv").write_text("\n".join([head, *short]) + "\n")
    code, _, said = run_here(project, "trend", *words)
    assert code != 0
    assert re.search(message, said, re.DOTALL)
