"""The model card as page, JSON and rows to review."""

from __future__ import annotations

import csv
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.model_facts import FACTS as CAPPED
from tasador.contract.reader import from_dict
from tasador.metrics.ratio_study import RatioFigure
from tasador.reporting.card_markdown import to_markdown
from tasador.reporting.model_card import (
    FILES,
    Decision,
    ModelDocument,
    ReviewRow,
    write_model_card,
)
from tasador.reporting.reports import Comparison, Headline
from tasador.selection.test_metrics import Group

CONTRACT = from_dict(
    {
        "name": "houses",
        "title": "Houses <b>all</b>",
        "model_name": "house_price",
        "columns": {
            "income": {"kind": "number"},
            "place": {"kind": "category", "role": "segment", "categories": ["a", "b"]},
        },
        "target": {"name": "price", "unit": "USD"},
    }
)
FACTS = replace(CAPPED, capped_share=None)
DOCUMENT = ModelDocument(
    contract=CONTRACT,
    facts=FACTS,
    headline=(Headline("RMSE", 39541.0, 37900.0, 41200.0, "USD", "lower"),),
    comparison=(Comparison("RMSE", 39541.0, 43600.0, 61100.0),),
    groups={"segment": (Group("a", 4, 12.5, 60.0, 0.99, 0.75),), "cap": ()},
    ratio_study=(RatioFigure("prd", 1.036, 1.02, 1.05, 1.01, (0.98, 1.03), False, True),),
    decisions=(Decision("family", "LightGBM", "MAE 24,000", "train, 5 folds"),),
    review=(
        ReviewRow("ab12", {"income": 3.5, "place": "a"}, 100.0, 110.0, 90.0, 130.0),
        ReviewRow("cd34", {"income": None, "place": "b"}, 0.0, 5.0, 1.0, 9.0),
    ),
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_model_card(tmp_path, DOCUMENT)
    return tmp_path


def test_the_json_holds_figures_groups_decisions_standards_and_rows(written: Path) -> None:
    plain = json.loads((written / "model_card.json").read_text())
    assert plain["figures"][0]["value"] == 39541.0
    assert plain["groups"]["segment"][0]["coverage"] == 0.75
    assert plain["decisions"][0]["rows"] == "train, 5 folds"
    assert len(plain["standards"]) == 5
    assert all(entry["checked"] and entry["not_checked"] for entry in plain["standards"])
    assert "registration" in plain["standards"][3]["checked"]
    first, zero = plain["review"]
    assert (round(first["percent_error"], 9), first["inside"]) == (10.0, True)
    assert (zero["percent_error"], zero["inside"]) == (None, False)
    assert any("90% and held 89.7%" in line for line in plain["limits"])


def test_the_page_says_it_all_to_people_and_escapes_what_came_from_the_table(written: Path) -> None:
    page = (written / "model_card.html").read_text()
    assert "Houses &lt;b&gt;all&lt;/b&gt;" in page
    for text in (
        "89 FR 64538",
        "Random sample for review",
        "How this model was chosen",
        "not checked",
        "Groups of fewer than 30 rows prove little.",
        "ab12",
        "house_price-3f9a",
    ):
        assert text in page, text
    assert "SYNTHETIC" not in page
    assert "http" not in page.replace("http-equiv", "")  # it loads nothing


def test_the_rows_to_review_have_space_for_the_reviewers_finding(written: Path) -> None:
    with (written / "review_sample.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["ab12", "cd34"]
    assert rows[0]["estimated"] == "110.00"
    assert (rows[1]["income"], rows[1]["percent_error"]) == ("", "")
    assert {"reviewer", "reviewed_on", "agrees", "remark"} <= rows[0].keys()


def test_generated_rows_are_said_first_and_a_model_without_rows_has_a_card(tmp_path: Path) -> None:
    facts = replace(FACTS, origin="synthetic")
    write_model_card(tmp_path, replace(DOCUMENT, facts=facts, review=(), groups={}))
    assert "SYNTHETIC DATA" in (tmp_path / "model_card.html").read_text()
    assert all((tmp_path / name).stat().st_size for name in FILES)


def test_page_and_markdown_say_the_same_but_for_the_rows_to_review(written: Path) -> None:
    page = html.unescape((written / "model_card.html").read_text())
    text = to_markdown(DOCUMENT).replace("\\", "")
    headings = re.findall(r"^##+ (.+)$", text, re.M)
    assert len(headings) > 12
    titles = re.findall(r"<h[23][^>]*>(.+?)</h[23]>", page)
    assert titles == [
        *headings[: headings.index("Lineage")],
        "Random sample for review",
        "Rows to review, drawn by chance from the test part",
        *headings[headings.index("Lineage") :],
    ]
    lines = [one for one in text.splitlines() if one.startswith("| ")]
    cells = {cell.strip(" `") for one in lines for cell in one.strip("|").split("|")}
    plain = re.sub(r"<[^>]+>", "", page)
    figures = {"39,541 USD", "37,900 – 41,200", "value", "95% interval", "better"}
    assert {cell for cell in cells - figures if cell not in plain} == set()
    assert "ab12" not in text


def test_the_reason_for_opening_the_test_part_is_shown_as_it_is(tmp_path: Path) -> None:
    facts = replace(FACTS, test_openings=("a*b [c]",))
    write_model_card(tmp_path, replace(DOCUMENT, facts=facts))
    assert "opened: a*b [c]." in (tmp_path / "model_card.html").read_text()
    assert "opened: a\\*b \\[c\\]." in to_markdown(replace(DOCUMENT, facts=facts))
