"""The model card: what a model is for, how good it is, and what nobody has checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasador.core.escape import code, markdown
from tasador.data.contract import Column, TableContract
from tasador.flows.numerals import number
from tasador.flows.report import Comparison, Headline

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
class SegmentFigure:
    """How the model does on one segment of the test part."""

    segment: str
    rows: int
    mape: float
    within_10: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the card tells beyond the contract and the figures.

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
        test_rows: Rows in the sealed test part.
        refused_rows: Rows that did not meet the contract.
        train_range: Lowest and highest target in train.
        capped_share: Share of train rows at or above the contract's cap, or None without a cap.
        interval_coverage: Share of test rows within their interval, and the share promised.
        test_openings: How often the sealed test part was opened, and why.
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


def model_card(
    contract: TableContract,
    facts: ModelFacts,
    headline: Sequence[Headline],
    comparison: Sequence[Comparison] = (),
    segments: Sequence[SegmentFigure] = (),
) -> str:
    """Return the model card as Markdown.

    Args:
        contract: The table's contract.
        facts: Data, lineage and limits.
        headline: Test metrics with 95% intervals.
        comparison: The same under random and spatially blocked cross-validation.
        segments: Figures by segment of the test part.
    """
    sections = [
        _opening(contract, facts),
        _intended_use(contract),
        _data(contract, facts),
        _figures(headline),
        _comparison(comparison),
        _segments(segments),
        _limits(contract, facts),
        _avm_rule(contract, facts, headline, segments),
        _lineage(facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _opening(contract: TableContract, facts: ModelFacts) -> str:
    text = f"# Model card: {markdown(contract.title)}\n\n"
    if facts.origin == "synthetic":
        text += (
            "> **SYNTHETIC DATA.** The rows were generated, not observed. No figure on this card "
            "says anything about real values, and no estimate may be used.\n\n"
        )
    return (
        text
        + f"{markdown(facts.model)}, version {markdown(facts.version)}, trained {facts.trained}."
    )


def _intended_use(contract: TableContract) -> str:
    unit = f" in {markdown(contract.target.unit)}" if contract.target.unit else ""
    what = markdown(contract.target.description or contract.target.name)
    return (
        f"## Intended use\n\nEstimates {code(contract.target.name)}{unit} ({what}) for rows that "
        f"meet the contract {code(contract.name)}. An estimate supports a decision made by a "
        "person; it is no appraisal, and it is not meant to decide alone about credit, tax or "
        "insurance.\n\n"
        "Not intended for rows outside the contract's bounds (they are refused), for places or "
        "times that the table does not cover, or for explaining what causes a value."
    )


def _data(contract: TableContract, facts: ModelFacts) -> str:
    rows = [
        ("origin", f"**{facts.origin}**"),
        ("source", markdown(facts.source)),
        ("train rows", number(facts.train_rows)),
        ("test rows (sealed)", number(facts.test_rows)),
        ("rows refused by the contract", number(facts.refused_rows)),
    ]
    columns = [
        (code(column.name), column.kind, markdown(column.unit or "–"), _bounds(column))
        for column in contract.features
    ]
    return (
        "## Data\n\n"
        + _table(("", ""), rows)
        + "\n\n"
        + _table(("column", "kind", "unit", "bounds"), columns)
    )


def _figures(headline: Sequence[Headline]) -> str:
    if not headline:
        return "## Figures\n\nThe test part was not opened; nothing is known about the errors."
    rows = [
        (
            one.metric,
            f"{number(one.value)} {markdown(one.unit)}".strip(),
            f"{number(one.low)} – {number(one.high)}",
            one.better,
        )
        for one in headline
    ]
    return "## Figures on the sealed test part\n\n" + _table(
        ("metric", "value", "95% interval", "better"), rows
    )


def _comparison(comparison: Sequence[Comparison]) -> str:
    if not comparison:
        return ""
    rows = [
        (one.metric, number(one.test), number(one.random_cv), number(one.spatial_cv))
        for one in comparison
    ]
    return (
        "## In places never seen\n\nRandom cross-validation tests rows among their neighbours; "
        "spatially blocked cross-validation holds back whole areas. Expect the latter where "
        "nothing near is known.\n\n" + _table(("metric", "test", "random CV", "spatial CV"), rows)
    )


def _segments(segments: Sequence[SegmentFigure]) -> str:
    if not segments:
        return ""
    rows = [
        (
            markdown(one.segment) + (" (few rows)" if one.rows < 30 else ""),
            number(one.rows),
            f"{number(one.mape)} %",
            f"{number(one.within_10)} %",
        )
        for one in segments
    ]
    return "## By segment\n\n" + _table(("segment", "test rows", "MAPE", "within 10%"), rows)


def _limits(contract: TableContract, facts: ModelFacts) -> str:
    return "## Limits\n\n" + "\n".join(f"- {markdown(line)}" for line in limits(contract, facts))


def limits(contract: TableContract, facts: ModelFacts) -> list[str]:
    """Return what estimates cannot do, a sentence each."""
    unit = f" {contract.target.unit}" if contract.target.unit else ""
    low, high = (number(value) for value in facts.train_range)
    lines = [
        f"Train holds values from {low} to {high}{unit}; tree models do not estimate beyond that."
    ]
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
    return lines


def _avm_rule(
    contract: TableContract,
    facts: ModelFacts,
    headline: Sequence[Headline],
    segments: Sequence[SegmentFigure],
) -> str:
    parts = [
        "## Quality control standards for automated valuation models (89 FR 64538)",
        "The US rule, in force since 1 October 2025, asks those who use an AVM for a mortgage "
        "secured by a home for policies on five matters. Software alone does not comply with it. "
        f"This is what tasador checked for {code(contract.model_name)}, and what it did not:",
    ]
    for title, checked, unchecked in standards(facts, headline, segments):
        parts.append(f"### {title}\n\n- Checked: {checked}\n- Not checked: {unchecked}")
    return "\n\n".join(parts)


def standards(
    facts: ModelFacts, headline: Sequence[Headline], segments: Sequence[SegmentFigure]
) -> list[tuple[str, str, str]]:
    """Return each standard of the rule with what was checked for it and what was not."""
    checks = _avm_checks(facts, headline, segments)
    return [
        (title, checked, unchecked)
        for (title, unchecked), checked in zip(_AVM_STANDARDS, checks, strict=True)
    ]


def _avm_checks(
    facts: ModelFacts, headline: Sequence[Headline], segments: Sequence[SegmentFigure]
) -> tuple[str, ...]:
    """Return what was checked for each of `_AVM_STANDARDS`."""
    confidence = (
        "errors on a sealed test part, with 95% intervals (above)"
        if headline
        else "nothing yet: the test part is unopened"
    )
    if facts.interval_coverage is not None:
        confidence += "; how often the estimates' own intervals hold (see limits)"
    openings = "; ".join(markdown(reason) for reason in facts.test_openings) or "never"
    groups = (
        f"errors are compared across {len(segments)} segments of the table (above)"
        if segments
        else "nothing: no errors by segment were computed"
    )
    return (
        f"{confidence}.",
        "the rows against the contract; the SHA-256 of table and bundle, recorded in the lineage "
        "and verified whenever the bundle is loaded.",
        "nothing. The lineage names the code and the data, so that a review can follow them.",
        f"a test part of {number(facts.test_rows)} rows set aside before anything was fitted; "
        f"opened: {openings}.",
        f"{groups}.",
    )


def _lineage(facts: ModelFacts) -> str:
    return "## Lineage\n\n" + _table(
        ("", ""),
        [
            ("data", f"`{facts.data_hash}`"),
            ("code", f"`{facts.code_commit}`"),
            ("bundle", f"`{facts.bundle_hash}`"),
        ],
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _bounds(column: Column) -> str:
    low, high = column.bounds
    if low is None and high is None:
        return "–"
    shown = column.text_of if column.kind == "datetime" else number
    return f"{shown(low) if low is not None else '…'} to {shown(high) if high is not None else '…'}"
