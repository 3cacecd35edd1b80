"""The first page of the reports of several properties."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tasador.core.languages import Language, amount, number
from tasador.reporting.appraisal.document import Appraisal, Grid, ModelSummary, Pairs
from tasador.reporting.appraisal.texts import text


@dataclass(frozen=True, slots=True)
class Summary:
    """The first page of a portfolio, in one language.

    Attributes:
        language: Of the page.
        banner: What a reader has to know first; empty where there is nothing.
        kind: What the page is.
        title: What the table holds.
        meta: When and by what the properties were valued.
        tiles: Figures of all of them.
        table: One row a property.
        links: Where each property's page is, in the rows' order.
        refused: Rows without a page, and why.
    """

    language: Language
    banner: str
    kind: str
    title: str
    meta: Pairs
    tiles: Pairs
    table: Grid
    links: tuple[str, ...]
    refused: Grid | None

    def say(self, key: str) -> str:
        """Return a text of the catalogue in the page's language."""
        return text(key, self.language)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a summary keeps of one property."""

    number: int
    title: str
    value: float | None
    ends: tuple[float, float] | None
    grade: str
    notes: int
    link: str


def outcome(one: Appraisal, language: Language, link: str) -> Outcome:
    """Return what a summary keeps of one property, whose page is at `link`."""
    valuation = one.valuation
    grade = str(valuation.get("confidence_class") or "")
    outside = (valuation.get("support") or {}).get("outside")
    notes = len(valuation.get("warnings", ())) + bool(outside)
    return Outcome(one.number, one.title(language), one.value, one.ends, grade, notes, link)


def summary(
    model: ModelSummary,
    outcomes: Sequence[Outcome],
    refused: Sequence[tuple[int, str]],
    language: Language,
    issued: str,
) -> Summary:
    """Return the first page of a portfolio.

    Args:
        model: What valued it.
        outcomes: The properties that have a page.
        refused: Number of each row that could not be valued, and why.
        language: Of the page.
        issued: Day on which the report is made, ISO 8601.
    """

    def say(key: str, **values: object) -> str:
        return text(key, language, **values)

    unit = model.contract.target.unit
    values = [one.value for one in outcomes if one.value is not None]
    graded = any(one.grade for one in outcomes)
    tiles = [(say("valued"), number(len(values), 0, language))]
    if len(values) < len(outcomes):
        tiles.append((say("without_value"), number(len(outcomes) - len(values), 0, language)))
    if refused:
        tiles.append((say("refused"), number(len(refused), 0, language)))
    if values:
        tiles.append((say("total"), amount(sum(values), unit, language)))
        tiles.append((say("median"), amount(statistics.median(values), unit, language)))
    if graded:
        counts = [sum(one.grade == grade for one in outcomes) for grade in "HML"]
        shown = " · ".join(number(count, 0, language) for count in counts)
        tiles.append((say("by_class"), shown))
    value_name = f"{say('estimate')}, {unit}" if unit else say("estimate")
    header = [say("number"), say("property"), value_name, say("low"), say("high")]
    header += [say("confidence")] * graded + [say("notes")]
    rows = []
    for one in outcomes:
        ends: tuple[float | None, float | None] = one.ends or (None, None)
        cells = [str(one.number), one.title]
        cells += [amount(v, None, language) for v in (one.value, *ends)]
        rows.append((*cells, *[one.grade] * graded, str(one.notes or "")))
    left_out = None
    if refused:
        lines = tuple((str(at), reason) for at, reason in refused)
        left_out = Grid((say("number"), say("reason")), lines, frozenset({0}))
    return Summary(
        language=language,
        banner=say("synthetic") if model.origin == "synthetic" else "",
        kind=say("summary"),
        title=model.contract.title,
        meta=((say("issued"), issued), (say("model"), model.version)),
        tiles=tuple(tiles),
        table=Grid(tuple(header), tuple(rows), frozenset({0, 2, 3, 4, len(header) - 1})),
        links=tuple(one.link for one in outcomes),
        refused=left_out,
    )
