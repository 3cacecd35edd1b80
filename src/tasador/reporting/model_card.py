"""What a model card rests on: facts, figures, limits, and what was checked or not.

`reporting.model_card_page` makes a card of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tasador.contract.model import TableContract
from tasador.reporting.cards import number
from tasador.reporting.run_report import Comparison, Headline
from tasador.selection.evaluation.test_metrics import Group

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
        groups: Figures of test rows by heading: segments, tenths, capped values.
        ratio_study: (figure, value, low, high, accepted from, to).
        decisions: How the model was chosen, in order.
        review: Test rows drawn by chance.
    """

    contract: TableContract
    facts: ModelFacts
    headline: tuple[Headline, ...] = ()
    comparison: tuple[Comparison, ...] = ()
    groups: Mapping[str, tuple[Group, ...]] = field(default_factory=dict)
    ratio_study: tuple[tuple[str, float, float, float, float | None, float | None], ...] = ()
    decisions: tuple[Decision, ...] = ()
    review: tuple[ReviewRow, ...] = ()

    def limits(self) -> list[str]:
        """Return what estimates cannot do, a sentence each."""
        return _limits(self.contract, self.facts)

    def standards(self) -> list[tuple[str, str, str]]:
        """Return each standard of the rule with what was checked for it and what was not."""
        checks = _avm_checks(self)
        return [
            (title, checked, unchecked)
            for (title, unchecked), checked in zip(_AVM_STANDARDS, checks, strict=True)
        ]


def _limits(contract: TableContract, facts: ModelFacts) -> list[str]:
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
    return (
        f"{confidence}.",
        "the rows against the contract; the SHA-256 of table and bundle, recorded in the lineage "
        "and verified whenever the bundle is loaded.",
        "nothing. The lineage names the code and the data, so that a review can follow them.",
        f"a test part of {number(facts.test_rows)} rows set aside before anything was fitted; "
        f"opened: {openings}.",
        f"{groups}.",
    )
