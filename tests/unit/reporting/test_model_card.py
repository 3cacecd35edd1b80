"""The model card: honest about figures, limits and what nobody checked."""

from __future__ import annotations

from dataclasses import replace

from fixtures.model_facts import FACTS
from tasador.contract.reader import from_dict
from tasador.metrics.ratio_study import RatioFigure
from tasador.reporting.card_markdown import to_markdown
from tasador.reporting.model_card import Decision, ModelDocument
from tasador.reporting.reports import Comparison, Headline
from tasador.selection.test_metrics import Group

CONTRACT = from_dict(
    {
        "name": "houses",
        "title": "Houses | <b>all</b>",
        "model_name": "house_price",
        "columns": {
            "income": {"kind": "number", "unit": "kUSD", "bounds": [0, None]},
            "place": {"kind": "category", "role": "segment", "categories": ["a", "b"]},
        },
        "target": {"name": "price", "unit": "USD", "cap": 500001},
    }
)
HEADLINE = (Headline("RMSE", 39541.0, 37900.0, 41200.0, "USD", "lower"),)
STANDARDS = (
    "A high level of confidence in the estimates",
    "Protection against the manipulation of data",
    "Avoidance of conflicts of interest",
    "Random sample testing and reviews",
    "Compliance with nondiscrimination laws",
)


def test_the_card_holds_figures_data_limits_and_lineage() -> None:
    segments = (Group("a", 2000, 13.0, 58.0, 0.99, 0.9), Group("b", 4, 30.0, 20.0, 1.1, 0.75))
    segments += (Group("c", 30, 9.0, 70.0, 1.067, 0.9),)
    document = ModelDocument(
        CONTRACT,
        replace(FACTS, left_out=(("a gift", 12),)),
        HEADLINE,
        comparison=(Comparison("RMSE", 39541.0, 43600.0, 61100.0),),
        groups={"segment": segments},
        ratio_study=(
            RatioFigure("median_ratio", 1.0, 0.99, 1.01, 1.0, (0.9, 1.1), True, True),
            RatioFigure("cod", 11.5, 10.5, 12.5, 10.0, (5.0, 15.0), True, True),
            RatioFigure("prd", 1.036, 1.02, 1.05, 1.01, (0.98, 1.03), False, True),
            RatioFigure("vei", -12.25, -15.0, -9.0, -11.0),
        ),
        decisions=(Decision("family", "LightGBM", "MAE 24,000", "train, 5 folds"),),
    )
    card = to_markdown(document)
    for part in (
        "# Model card: Houses \\| &lt;b>all&lt;/b>",
        "| RMSE | 39,541 USD | 37,900 – 41,200 | lower |",
        "| RMSE | 39,541 | 43,600 | – | – | 61,100 |",
        "| a | 2,000 | 13 | 58 | 90 | 0.990 | met |",
        "| b (few rows) | 4 | 30 | 20 | 75 | 1.100 |  |",
        "| c | 30 | 9 | 70 | 90 | 1.067 | not met |",
        "| COD | 11.50 | 10.50 | 12.50 | 10.00 | 5 to 15 | met |",
        "| PRD | 1.036 | 1.020 | 1.050 | 1.010 | 0.98 to 1.03 | not met |",
        "| family | LightGBM | MAE 24,000 | train, 5 folds |",
        "| train rows | 16,512 |",
        "| rows left out: a gift | 12 |",
        "| `income` | number | kUSD | 0 to … |",
        "cut off at 500,001 USD: 4.7% of train",
        "Intervals promise 90% and held 89.7%",
        "opened: registration.",
        "| code | `abc123` |",
    ):
        assert part in card
    assert "SYNTHETIC" not in card


def test_every_standard_of_the_rule_says_what_was_not_checked() -> None:
    card = to_markdown(ModelDocument(CONTRACT, FACTS, HEADLINE))
    for standard in STANDARDS:
        row = next(line for line in card.splitlines() if line.startswith(f"| {standard} |"))
        _, _, checked, unchecked, _ = row.split("|")
        assert checked.strip() not in ("", "nothing.")
        assert unchecked.strip()
    assert "Software alone does not comply" in card


def test_what_was_not_measured_is_not_claimed() -> None:
    bare = replace(FACTS, interval_coverage=None, capped_share=None, test_openings=())
    card = to_markdown(ModelDocument(CONTRACT, bare))
    assert "nothing is known about the errors" in card
    assert "nothing yet: the test part is unopened" in card
    assert "opened: never." in card
    assert "no errors by segment were computed" in card
    assert "Intervals promise" not in card
    assert "cut off" not in card


def test_a_synthetic_model_says_so_first() -> None:
    card = to_markdown(ModelDocument(CONTRACT, replace(FACTS, origin="synthetic"), HEADLINE))
    assert card.index("SYNTHETIC DATA") < card.index("## Intended use")
