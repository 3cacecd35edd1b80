"""The report of a run, one HTML file that loads nothing: what it reached, saw and chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasador.core import storage
from tasador.reporting.cards import Card, Figure, number, render
from tasador.reporting.spanish import in_language

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

    `cv` is by folds that go forward in time where the rows were split by time, and `random_cv` then
    by random ones; else `cv` is by random folds. `spread` is the standard deviation between the
    folds of `cv`, `baseline` what a plain LightGBM reaches in them.
    """

    metric: str
    test: float | None
    cv: float | None
    spatial_cv: float | None
    unit: str = ""
    spread: float | None = None
    baseline: float | None = None
    random_cv: float | None = None

    @property
    def spatial_change(self) -> str | None:
        """How much the spatially blocked figure differs from the one by `cv`, in percent."""
        return _change(self.cv, self.spatial_cv)

    @property
    def optimism(self) -> str | None:
        """How much the figure by random folds differs from the one forward in time, in percent."""
        return _change(self.cv, self.random_cv)


def _change(before: float | None, after: float | None) -> str | None:
    if not before or after is None:
        return None
    change = (after / before - 1.0) * 100.0
    return ("+" if change >= 0 else "") + number(round(change)) + "%"


@dataclass(frozen=True, slots=True)
class Check:
    """Something that a model is held against.

    Attributes:
        name: What, e.g. ``Ratio study``.
        met: Whether the model passes; None where that is not known.
        said: By which figures.
    """

    name: str
    met: bool | None
    said: str


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
        measured: By which model, where it is not the one in the bundle.
        comparison: The same metrics under cross-validation.
        bundle: What was made, or None when the run did not get there.
        sample: Lines of one sample valuation.
        cards: The steps' cards.
        sentence: The result in words.
        checks: What the model was held against.
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
    measured: str = ""
    sentence: str = ""
    checks: tuple[Check, ...] = ()

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The pictures of the result, which the register step made."""
        return tuple(f for card in self.cards if card.step == "register" for f in card.figures)

    @property
    def steps(self) -> tuple[Card, ...]:
        """The cards in the order of the pipeline."""
        order = {step: position for position, step in enumerate(STEP_ORDER)}
        return tuple(sorted(self.cards, key=lambda card: order.get(card.step, len(order))))

    @property
    def trouble(self) -> tuple[Card, ...]:
        """The cards of steps that failed or were interrupted."""
        return tuple(card for card in self.steps if card.status in ("failed", "interrupted"))

    @property
    def by_time(self) -> bool:
        """Whether rows were split by time."""
        return any(row.random_cv is not None for row in self.comparison)

    @property
    def spatial(self) -> bool:
        """Whether whole areas were held out too."""
        return any(row.spatial_cv is not None for row in self.comparison)


def write_report(path: Path, run: RunSummary) -> Path:
    """Write the report of a run and return its path.

    Raises:
        StorageError: The file cannot be written.
    """
    storage.write_text(path, in_language(render("report.html.j2", run=run), "en"))
    return path
