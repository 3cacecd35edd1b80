"""The model card as Markdown, as a page for reviewers and as JSON, with a sample of rows to review.

What a card says is written once, as `sections` of plain texts and tables. The Markdown lies in the
bundle, where it cannot name the bundle's own hash, and without the rows to review: test rows with
their estimates, drawn by chance, for the random sample testing that the US rule on AVMs asks for.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tasador.contract.model import Column, TableContract
from tasador.core.escape import cell
from tasador.core.hashing import to_plain
from tasador.core.storage import write_text
from tasador.metrics.ratio_study import RatioFigure, RatioGroup, RivalFigures
from tasador.reporting.cards import CardTable, Figure, number, render
from tasador.reporting.evaluation_tables import (
    fairness_tables,
    group_table,
    plain_groups,
    ratio_table,
    rival_tables,
    weakest_table,
)
from tasador.reporting.reports import Check, Comparison, Headline
from tasador.reporting.spanish import in_language
from tasador.selection.test_metrics import Group
from tasador.selection.weakest_segments import WeakestSegments

#: The rule's five standards, and what software cannot check about each.
_AVM_STANDARDS = (
    (
        "A high level of confidence in the estimates",
        "whether these errors are small enough for a given use; the operator sets that limit.",
    ),
    (
        "Protection against the manipulation of data",
        "whether the values in the source were true when they were recorded.",
    ),
    (
        "Avoidance of conflicts of interest",
        "who chose the data and who gains from an estimate: this needs people and rules.",
    ),
    (
        "Random sample testing and reviews",
        "later estimates against later sales, until the operator feeds outcomes back.",
    ),
    (
        "Compliance with nondiscrimination laws",
        "disparate impact on protected groups. tasador does not know which columns, such as "
        "location or income, stand in for them. A fair-lending review is needed.",
    ),
)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the card says beyond the contract and the figures.

    Attributes:
        model: Name and settings of the model, e.g. ``LightGBM, 2500 trees``.
        version: The bundle's version.
        trained: ISO 8601 in UTC.
        origin: ``real`` or ``synthetic``.
        source: Where the table came from.
        data_hash: The table's content hash.
        code_commit: Commit or hash of the code.
        bundle_hash: Hash of the bundle's content.
        train_rows: Rows that the model was fitted on.
        test_rows: Rows in the held-out test set.
        refused_rows: Rows that did not meet the contract.
        train_range: Lowest and highest target in train.
        capped_share: Share of train rows at or above the contract's cap, or None without a cap.
        interval_coverage: Share of test rows within their interval, and the share promised.
        test_openings: How often the held-out test set was opened, and why.
        left_out: Reasons for which rows were left out as no market sales, and how many.
        kept: What estimates were asked to keep to, a sentence each, with what was measured.
        refitted: Whether the model was fitted again on all rows after the figures were measured.
    """

    model: str
    version: str
    trained: str
    origin: Literal["real", "synthetic"]
    source: str
    data_hash: str
    code_commit: str
    bundle_hash: str
    train_rows: int
    test_rows: int
    refused_rows: int
    train_range: tuple[float, float]
    capped_share: float | None = None
    interval_coverage: tuple[float, float] | None = None
    test_openings: tuple[str, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    kept: tuple[str, ...] = ()
    refitted: bool = False

    @property
    def refit_note(self) -> str:
        """Which model the figures are about, where it is not the one in the bundle."""
        if not self.refitted:
            return ""
        return (
            f"Measured by a model that had not seen the {number(self.test_rows)} rows of the test "
            "part; the model in the bundle learned from them too."
        )


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
    """Everything that a card says.

    Attributes:
        contract: The table's contract.
        facts: Data, lineage and limits.
        headline: Test metrics with 95% intervals; empty while the test part is unopened.
        comparison: The same under random and spatially blocked cross-validation.
        groups, tables: Figures of test rows by heading (segments, tenths...), and others.
        ratio_study: The figures of the ratio study on the test rows.
        decisions: How the model was chosen, in order.
        review: Test rows drawn by chance.
        fairness: Figures by the columns of the contract's ``fairness``.
        weakest: Where the model errs most; None where nobody looked.
        rivals: Other people's estimates of the test rows beside the model's.
        sentence, checks, figures: The result in words, what the model was held against, and the
            pictures; on the page and in the JSON only, for they are made with the bundle.
    """

    contract: TableContract
    facts: ModelFacts
    headline: tuple[Headline, ...] = ()
    comparison: tuple[Comparison, ...] = ()
    groups: Mapping[str, tuple[Group, ...]] = field(default_factory=dict)
    ratio_study: tuple[RatioFigure, ...] = ()
    decisions: tuple[Decision, ...] = ()
    review: tuple[ReviewRow, ...] = ()
    tables: tuple[CardTable, ...] = ()
    fairness: tuple[RatioGroup, ...] = ()
    weakest: WeakestSegments | None = None
    rivals: tuple[RivalFigures, ...] = ()
    sentence: str = ""
    checks: tuple[Check, ...] = ()
    figures: tuple[Figure, ...] = ()

    def limits(self) -> list[str]:
        """Return what estimates cannot do, a sentence each."""
        contract, facts = self.contract, self.facts
        unit = f" {contract.target.unit}" if contract.target.unit else ""
        low, high = (number(value) for value in facts.train_range)
        between = f"Train holds values from {low} to {high}{unit}"
        lines = [f"{between}; tree models do not estimate beyond that."]
        if contract.target.cap is not None and facts.capped_share is not None:
            lines.append(
                f"The target is cut off at {number(contract.target.cap)}{unit}: "
                f"{facts.capped_share:.1%} of train stands at the cap, so values near it are "
                "underestimated by an unknown amount, and the test figures cannot show it."
            )
        if facts.interval_coverage is not None:
            measured, promised = facts.interval_coverage
            lines.append(
                f"Intervals promise {promised:.0%} and held {measured:.1%} of the test rows, on "
                "average over all rows; a single segment may fare worse."
            )
        lines.append("Values drift with time; figures hold for the period of the table only.")
        return [*lines, *self.facts.kept]

    def standards(self) -> list[tuple[str, str, str]]:
        """Return each standard of the rule with what was checked for it and what was not."""
        checks = _avm_checks(self)
        return [
            (title, checked, unchecked)
            for (title, unchecked), checked in zip(_AVM_STANDARDS, checks, strict=True)
        ]


def _avm_checks(document: ModelDocument) -> tuple[str, ...]:
    """Return what was checked for each of `_AVM_STANDARDS`."""
    facts, segments = document.facts, document.groups.get("segment", ())
    confidence = (
        "errors on a held-out test set, with 95% intervals (above)"
        if document.headline
        else "nothing yet: the test part is unopened"
    )
    if facts.interval_coverage is not None:
        confidence += "; how often the estimates' own intervals hold (see limits)"
    openings = "; ".join(facts.test_openings) or "never"
    groups = (
        f"errors are compared across {len(segments)} segments of the table (above)"
        if segments
        else "nothing: no errors by segment were computed"
    )
    if document.fairness:
        by = ", ".join(dict.fromkeys(group.by for group in document.fairness))
        groups += f"; errors and ratios across {len(document.fairness)} groups by {by} (above)"
    return (
        f"{confidence}.",
        "the rows against the contract; the SHA-256 of table and bundle, recorded in the lineage "
        "and verified whenever the bundle is loaded.",
        "that the lineage names the code and the data, so that a review can follow them.",
        f"a test part of {number(facts.test_rows)} rows set aside before anything was fitted; "
        f"opened: {openings}.",
        f"{groups}.",
    )


FILES = ("model_card.html", "model_card.json", "review_sample.csv")
_REVIEW_COLUMNS = 5
_FIGURES = ("recorded", "estimated", "lower", "upper", "percent_error", "inside")


#: What stands first on a card of generated rows.
SYNTHETIC = (
    "The rows were generated, not observed. No figure on this card says anything about real "
    "values, and no estimate may be used."
)


class Code(str):
    """A text that is shown as code: a name or a hash."""

    __slots__ = ()

    def __html__(self) -> str:
        return f"<code>{html.escape(self)}</code>"


class Block(NamedTuple):
    """A piece of a section, by the kind of its content.

    ``text``: parts of a paragraph, each a str or `Code`; ``list``: texts; ``figures``: `Headline`s;
    ``checks``: `Check`s; ``table``: a `CardTable`; ``pictures``: `Figure`s, which Markdown lacks.
    """

    kind: Literal["text", "list", "figures", "checks", "table", "pictures"]
    content: Any


class Section(NamedTuple):
    """A heading and what follows it."""

    title: str
    blocks: list[Block]


def write_model_card(folder: Path, document: ModelDocument) -> None:
    """Write the page, the JSON and the rows to review into `folder`, under the names in `FILES`.

    Raises:
        StorageError: The disk refuses.
    """
    page, plain, review = (folder / name for name in FILES)
    parts = {"document": document, "sections": sections(document), "synthetic": SYNTHETIC}
    write_text(page, in_language(render("model_card.html.j2", **parts), "en"))
    write_text(plain, json.dumps(_plain(document), ensure_ascii=False, indent=1))
    write_text(review, _csv(document))


def _plain(document: ModelDocument) -> dict[str, Any]:
    contract, facts = document.contract, document.facts
    return {
        "title": contract.title,
        "model_name": contract.model_name,
        "target": {"name": contract.target.name, "unit": contract.target.unit},
        "facts": to_plain(facts),
        "limits": document.limits(),
        "sentence": document.sentence,
        "checks": to_plain(document.checks),
        "figures": to_plain(document.headline),
        "cross_validation": to_plain(document.comparison),
        "ratio_study": to_plain(document.ratio_study),
        "groups": to_plain(document.groups),
        **plain_groups(document.fairness, document.weakest, document.rivals),
        "decisions": to_plain(document.decisions),
        "standards": [
            dict(zip(("standard", "checked", "not_checked"), row, strict=True))
            for row in document.standards()
        ],
        "review": [
            {**to_plain(row), "percent_error": row.percent_error, "inside": row.inside}
            for row in document.review
        ],
    }


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


def sections(document: ModelDocument) -> list[Section]:
    """Return what the card says; sections without content are left out."""
    decided = []
    if document.decisions:
        decided = [Block("table", decision_table(document, "How this model was chosen"))]
    found = [
        Section("Result", _result(document)),
        Section("Intended use", _intended_use(document.contract)),
        Section("Data", _data(document.contract, document.facts)),
        _figures(document),
        Section("Cross-validated", _comparison(document.comparison)),
        Section("Figures by group", [Block("table", one) for one in figure_tables(document)]),
        Section("Limits", [Block("list", document.limits())]),
        Section("How it was made", decided),
        Section(
            "Quality control standards for automated valuation models (89 FR 64538)",
            list(_avm_rule(document)),
        ),
        Section("Random sample for review", _review(document)),
        Section("Lineage", _lineage(document.facts)),
    ]
    return [section for section in found if section.blocks]


def _result(document: ModelDocument) -> list[Block]:
    blocks = []
    if document.sentence:
        blocks.append(Block("text", (document.sentence,)))
    if document.checks:
        blocks.append(Block("checks", document.checks))
    return blocks


def _intended_use(contract: TableContract) -> list[Block]:
    unit = f" in {contract.target.unit}" if contract.target.unit else ""
    what = contract.target.description or contract.target.name
    use = (
        "Estimates ",
        Code(contract.target.name),
        f"{unit} ({what}) for rows that meet the contract ",
        Code(contract.name),
        ". An estimate supports a decision made by a person; it is no appraisal, and it is not "
        "meant to decide alone about credit, tax or insurance.",
    )
    not_for = (
        "Not intended for rows outside the contract's bounds (they are refused), for places or "
        "times that the table does not cover, or for explaining what causes a value."
    )
    return [Block("text", use), Block("text", (not_for,))]


def _data(contract: TableContract, facts: ModelFacts) -> list[Block]:
    rows = CardTable(
        "Rows",
        ("fact", "value"),
        (
            ("origin", facts.origin),
            ("source", facts.source),
            ("train rows", facts.train_rows),
            ("test rows (held out)", facts.test_rows),
            ("rows refused by the contract", facts.refused_rows),
            *((f"rows left out: {reason}", rows) for reason, rows in facts.left_out),
        ),
    )
    columns = CardTable(
        "Columns",
        ("column", "kind", "unit", "bounds"),
        tuple((Code(c.name), c.kind, c.unit, _bounds(c)) for c in contract.features),
    )
    return [Block("table", rows), Block("table", columns)]


def _figures(document: ModelDocument) -> Section:
    headline, note = document.headline, document.facts.refit_note
    if not headline:
        unknown = "The test part was not opened; nothing is known about the errors."
        return Section("Figures", [Block("text", (unknown,))])
    said = [Block("text", (note,))] if note else []
    pictures = [Block("pictures", document.figures)] if document.figures else []
    return Section(
        "Figures on the held-out test set", [Block("figures", headline), *said, *pictures]
    )


def _comparison(comparison: Sequence[Comparison]) -> list[Block]:
    if not comparison:
        return []
    by_time = any(c.random_cv is not None for c in comparison)
    spatial = any(c.spatial_cv is not None for c in comparison)
    cv = "CV forward in time" if by_time else "random CV"
    names = ["metric", "test", cv, "spread", f"plain LightGBM, {cv}"]
    text = "Random cross-validation tests rows among their neighbours."
    if spatial:
        names.append("spatial CV")
        text = (
            "Random cross-validation tests rows among their neighbours; spatially blocked "
            "cross-validation holds back whole areas. Expect the latter where nothing near is "
            "known."
        )
    if by_time:
        names += ["random CV", "optimism"]
        text += (
            " Cross-validation forward in time fits on older sales and tests on newer ones, as in "
            "use; optimism is by how much random folds make the errors look smaller or larger."
        )
    rows = [
        (c.metric, c.test, c.cv, c.spread, c.baseline)
        + ((c.spatial_cv,) if spatial else ())
        + ((c.random_cv, c.optimism) if by_time else ())
        for c in comparison
    ]
    title = "Near known values, and in places never seen" if spatial else "Near known values"
    table = CardTable(
        title,
        tuple(names),
        tuple(rows),
        note="Spread: the standard deviation between the folds. The plain LightGBM sees the "
        "table's own columns and nothing derived, in the same folds.",
    )
    return [Block("text", (text,)), Block("table", table)]


def figure_tables(document: ModelDocument) -> list[CardTable]:
    """Return the figures beyond the headline: the ratio study, and the errors of some rows."""
    overall = next((f.value for f in document.ratio_study if f.name == "median_ratio"), math.nan)
    tables = [group_table(name, found, overall) for name, found in document.groups.items() if found]
    if document.ratio_study:
        study = ratio_table("Ratio study", document.ratio_study)
        tables = [study, *rival_tables(document.rivals), *tables]
    groups = (*fairness_tables(document.fairness), *weakest_table(document.weakest))
    return [*tables, *groups, *document.tables]


def decision_table(document: ModelDocument, title: str) -> CardTable:
    """Return every decision on the way to the model."""
    openings = document.facts.test_openings
    times = f"{len(openings)} time{'s' * (len(openings) != 1)}: {'; '.join(openings)}"
    return CardTable(
        title,
        ("decision", "chosen", "evidence", "rows looked at"),
        tuple((d.what, d.chosen, d.evidence, d.rows) for d in document.decisions),
        note=f"In this order; the test part was opened after the last of them, {times}.",
    )


def _avm_rule(document: ModelDocument) -> Iterator[Block]:
    yield Block(
        "text",
        (
            "The US rule, in force since 1 October 2025, asks those who use an AVM for a mortgage "
            "secured by a home for policies on five matters. Software alone does not comply with "
            "it. This is what tasador checked for ",
            Code(document.contract.model_name),
            ", and what it did not:",
        ),
    )
    yield Block(
        "table",
        CardTable("The five standards", ("standard", "checked", "not checked"),
                  tuple(document.standards())),
    )  # fmt: skip


def _review(document: ModelDocument) -> list[Block]:
    review, unit = document.review, document.contract.target.unit
    if not review:
        return []
    columns = list(review[0].values)[:_REVIEW_COLUMNS]
    rows = tuple(
        (
            row.row,
            *(_cell(document.contract.column(name), row.values[name]) for name in columns),
            round(row.actual, 2),
            round(row.estimate, 2),
            row.percent_error,
            "yes" if row.inside else "no",
        )
        for row in review
    )
    table = CardTable(
        "Rows to review, drawn by chance from the test part",
        ("row", *columns, "recorded", "estimated", "error %", "in its interval"),
        rows,
        note=f"Values in {unit or 'the unit of the table'}. All columns, and space for the "
        "reviewer's finding, are in review_sample.csv. The draw is seeded: an equal run draws the "
        "same rows.",
    )
    return [Block("table", table)]


def _cell(column: Column, value: Any) -> Any:
    """Return a value of a column; one of a place keeps the decimals that tell where it is."""
    if column.role in ("longitude", "latitude") and isinstance(value, float):
        return number(value, 4)
    return value


def _lineage(facts: ModelFacts) -> list[Block]:
    hashes = (("data", facts.data_hash), ("code", facts.code_commit), ("bundle", facts.bundle_hash))
    rows = tuple((name, Code(value)) for name, value in hashes)
    return [Block("table", CardTable("What it was made from", ("fact", "value"), rows))]


def _bounds(column: Column) -> str:
    low, high = column.bounds
    if low is None and high is None:
        return "–"
    shown = column.text_of if column.kind == "datetime" else number
    return f"{shown(low) if low is not None else '…'} to {shown(high) if high is not None else '…'}"
