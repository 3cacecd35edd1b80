"""The run report: one self-contained HTML page that shows what a run saw, chose and reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasador.core import storage
from tasador.reporting.cards import Card, number, render

#: The order in which steps are shown; others follow in the order given.
STEP_ORDER = ("download", "segregate", "impute", "features", "select", "sweep", "register")


@dataclass(frozen=True, slots=True)
class Headline:
    """One test metric with its interval.

    Attributes:
        metric: Its label, e.g. ``RMSE``.
        value: On the held-out test set.
        low: Lower end of the 95% bootstrap interval.
        high: Upper end.
        unit: ``%``, the target's unit, or empty.
        better: Which direction is better.
    """

    metric: str
    value: float
    low: float
    high: float
    unit: str
    better: Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A metric on the test part beside its cross-validated values; None where not measured.

    `spread` is the standard deviation of the random cross-validation between its folds, `baseline`
    what a plain LightGBM reaches in the same folds.
    """

    metric: str
    test: float | None
    random_cv: float | None
    spatial_cv: float | None
    unit: str = ""
    spread: float | None = None
    baseline: float | None = None

    @property
    def spatial_change(self) -> str | None:
        """How much the spatially blocked figure differs from the random one, in percent."""
        if not self.random_cv or self.spatial_cv is None:
            return None
        change = (self.spatial_cv / self.random_cv - 1.0) * 100.0
        return ("+" if change >= 0 else "") + number(round(change)) + " %"


@dataclass(frozen=True, slots=True)
class BundleReference:
    """The bundle that a run made."""

    name: str
    version: str
    folder: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Everything that the report shows.

    Attributes:
        run_id: The run's id.
        dataset: The contract's name.
        title: What the table holds, for people.
        started: ISO 8601 in UTC.
        seconds: How long the run took.
        origin: ``real`` or ``synthetic``; None when no table was read.
        source: Where the table came from.
        content_hash: The table's content hash.
        unit: The target's unit.
        headline: Test metrics, the most important first.
        comparison: The same metrics under cross-validation.
        bundle: What was made, or None when the run did not get there.
        sample: Lines of one sample valuation.
        cards: The steps' cards.
    """

    run_id: str
    dataset: str
    title: str
    started: str
    seconds: float
    origin: Literal["real", "synthetic"] | None
    source: str | None
    content_hash: str | None
    unit: str | None
    headline: tuple[Headline, ...] = ()
    comparison: tuple[Comparison, ...] = ()
    bundle: BundleReference | None = None
    sample: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()

    @property
    def steps(self) -> tuple[Card, ...]:
        """The cards in the order of the pipeline."""
        order = {step: position for position, step in enumerate(STEP_ORDER)}
        return tuple(sorted(self.cards, key=lambda card: order.get(card.step, len(order))))

    @property
    def trouble(self) -> tuple[Card, ...]:
        """The cards of steps that failed or were interrupted."""
        return tuple(card for card in self.steps if card.status in ("failed", "interrupted"))


def write_report(path: Path, run: RunSummary) -> Path:
    """Write the report of a run and return its path.

    Raises:
        StorageError: The file cannot be written.
    """
    storage.write_text(path, render("report.html.j2", run=run))
    return path
