"""The model card as a page for reviewers and as JSON, with a random sample of rows to review.

The bundle's own card is Markdown (`flows.model_card`); this one is the run's: it has the same
facts, every figure by group, how the model was chosen, and test rows with their estimates, drawn by
chance, for the random sample testing that the US rule on automated valuation models asks for.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasador.core.escape import cell
from tasador.core.files import write_text
from tasador.core.fingerprints import to_plain
from tasador.data.contract import TableContract
from tasador.flows.cards import CardTable
from tasador.flows.model_card import ModelFacts, SegmentFigure, limits, standards
from tasador.flows.pages import render
from tasador.flows.report import Comparison, Headline
from tasador.selection.evaluate import Group

FILES = ("model_card.html", "model_card.json", "review_sample.csv")
_SHOWN = 5
_FIGURES = ("recorded", "estimated", "lower", "upper", "percent_error", "inside")


@dataclass(frozen=True, slots=True)
class Decision:
    """One step of the way to the model.

    Attributes:
        what: What was decided.
        chosen: What was chosen.
        evidence: By what, with its figure.
        rows: Which rows were looked at.
    """

    what: str
    chosen: str
    evidence: str
    rows: str


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """A test row to review.

    Attributes:
        row: First digits of the hash of its content, which name it in every split.
        values: Its columns.
        actual: Its recorded value.
        estimate: What the model says.
        lower: Lower end of the interval.
        upper: Upper end.
    """

    row: str
    values: dict[str, Any]
    actual: float
    estimate: float
    lower: float
    upper: float

    @property
    def percent_error(self) -> float | None:
        """(estimate - actual) / actual, in percent; None for an actual value of zero."""
        return (self.estimate / self.actual - 1.0) * 100.0 if self.actual else None

    @property
    def inside(self) -> bool:
        """Whether the interval holds the recorded value."""
        return self.lower <= self.actual <= self.upper


@dataclass(frozen=True, slots=True)
class ModelDocument:
    """Everything that the page and the JSON show.

    Attributes:
        contract: The table's contract.
        facts: Data, lineage and limits.
        headline: Test metrics with 95% intervals.
        comparison: The same under random and spatially blocked cross-validation.
        groups: Figures of test rows by heading: segments, tenths, capped values.
        ratio_study: (figure, value, low, high, accepted from, to).
        decisions: How the model was chosen, in order.
        review: Test rows drawn by chance.
    """

    contract: TableContract
    facts: ModelFacts
    headline: tuple[Headline, ...]
    comparison: tuple[Comparison, ...]
    groups: dict[str, tuple[Group, ...]]
    ratio_study: tuple[tuple[str, float, float, float, float | None, float | None], ...]
    decisions: tuple[Decision, ...]
    review: tuple[ReviewRow, ...]

    @property
    def segments(self) -> list[SegmentFigure]:
        """Figures by segment."""
        found = self.groups.get("segment", ())
        return [SegmentFigure(g.name, g.rows, g.mape, g.within_10) for g in found]


def write_model_card(folder: Path, document: ModelDocument) -> None:
    """Write the page, the JSON and the rows to review into `folder`, under the names in `FILES`.

    Raises:
        StorageError: The disk refuses.
    """
    page, plain, review = (folder / name for name in FILES)
    write_text(page, render("model_card.html.j2", **_view(document)))
    write_text(plain, json.dumps(_plain(document), ensure_ascii=False, indent=1))
    write_text(review, _csv(document))


def _plain(document: ModelDocument) -> dict[str, Any]:
    contract, facts = document.contract, document.facts
    return {
        "title": contract.title,
        "model_name": contract.model_name,
        "target": {"name": contract.target.name, "unit": contract.target.unit},
        "facts": to_plain(facts),
        "limits": limits(contract, facts),
        "figures": to_plain(document.headline),
        "cross_validation": to_plain(document.comparison),
        "ratio_study": [
            dict(zip(("figure", "value", "low", "high", "from", "to"), row, strict=True))
            for row in document.ratio_study
        ],
        "groups": to_plain(document.groups),
        "decisions": to_plain(document.decisions),
        "standards": [
            dict(zip(("standard", "checked", "not_checked"), row, strict=True))
            for row in standards(facts, document.headline, document.segments)
        ],
        "review": [
            {**to_plain(row), "percent_error": row.percent_error, "inside": row.inside}
            for row in document.review
        ],
    }


def _view(document: ModelDocument) -> dict[str, Any]:
    facts, unit = document.facts, document.contract.target.unit
    return {
        "contract": document.contract,
        "facts": facts,
        "limits": limits(document.contract, facts),
        "headline": document.headline,
        "standards": standards(facts, document.headline, document.segments),
        "comparison": CardTable(
            "Near known values, and in places never seen",
            ("metric", "test", "random CV", "spatial CV"),
            tuple((c.metric, c.test, c.random_cv, c.spatial_cv) for c in document.comparison),
        ),
        "ratio_study": CardTable(
            "Ratio study",
            ("figure", "value", "95% from", "to", "accepted from", "to "),
            document.ratio_study,
            note="Accepted ranges: IAAO Standard on Ratio Studies, residential property.",
        ),
        "groups": [_group_table(name, found) for name, found in document.groups.items() if found],
        "decisions": CardTable(
            "How this model was chosen",
            ("decision", "chosen", "evidence", "rows looked at"),
            tuple((d.what, d.chosen, d.evidence, d.rows) for d in document.decisions),
            note="In this order; the test part was opened after the last of them.",
        ),
        "review": _review_table(document.review, unit),
    }


def _group_table(name: str, groups: Sequence[Group]) -> CardTable:
    return CardTable(
        f"By {name}",
        ("rows of", "number", "MAPE", "within 10%", "median ratio", "interval holds (%)"),
        tuple((g.name, g.rows, g.mape, g.within_10, g.ratio, g.coverage * 100) for g in groups),
        note="Groups of fewer than 30 rows prove little."
        if any(g.rows < 30 for g in groups)
        else "",
    )


def _review_table(review: Sequence[ReviewRow], unit: str | None) -> CardTable:
    columns = list(review[0].values)[:_SHOWN] if review else []
    rows = tuple(
        (
            row.row,
            *(_cell(row.values[name]) for name in columns),
            round(row.actual, 2),
            round(row.estimate, 2),
            row.percent_error,
            "yes" if row.inside else "no",
        )
        for row in review
    )
    return CardTable(
        "Rows to review, drawn by chance from the test part",
        ("row", *columns, "recorded", "estimated", "error %", "in its interval"),
        rows,
        note=f"Values in {unit or 'the unit of the table'}. All columns, and room for the "
        "reviewer's finding, are in review_sample.csv. The draw is seeded: an equal run draws the "
        "same rows.",
    )


def _cell(value: Any) -> str | float | None:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _csv(document: ModelDocument) -> str:
    file = io.StringIO()
    names = list(document.review[0].values) if document.review else []
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["row", *map(cell, names), *_FIGURES, "reviewer", "reviewed_on", "agrees", "remark"]
    )
    for row in document.review:
        error = "" if row.percent_error is None else f"{row.percent_error:.2f}"
        figures = [row.actual, *(f"{v:.2f}" for v in (row.estimate, row.lower, row.upper)), error]
        values = ["" if value is None else value for value in row.values.values()]
        writer.writerow([row.row, *map(cell, values), *figures, row.inside, "", "", "", ""])
    return file.getvalue()
