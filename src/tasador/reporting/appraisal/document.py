"""What an appraisal report says, from an answer of ``/api/v1/explain`` and a bundle's manifest.

Every part is drawn where the answer has its fields and is left out where it has not: older bundles
name no date, adjustment or group. `Page` holds texts only, so that HTML and PDF say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tasador.contract.model import Column, TableContract, people_label
from tasador.core.hashing import canonical_json, sha256_bytes
from tasador.core.languages import Language, amount, digits_of, number
from tasador.reporting.appraisal import pictures
from tasador.reporting.appraisal.pictures import Picture
from tasador.reporting.appraisal.texts import (
    TEXTS,
    km_text,
    percent,
    plain_number,
    reach_text,
    share_text,
    text,
    value_text,
    warning,
)

#: Comparables in the table, at most.
MOST_COMPARABLES = 5
_MOST_FACTS = 18
_MOST_ATTRIBUTES = 4
_MOST_ADJUSTMENTS = 6
_FEW_ROWS = 30
#: The name of adjustments that share a line.
_OTHER = "other"


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What a report says about the model.

    Attributes:
        contract: The table's.
        version: Name and content hash of the bundle.
        content_hash: The whole hash.
        release: For people, e.g. ``1.2.0``; empty where there is none.
        created: When it was trained, ISO 8601.
        origin: ``real`` or ``synthetic``.
        metrics: The manifest's: what was measured at training time.
        lineage: The manifest's: what it was made from.
    """

    contract: TableContract
    version: str
    content_hash: str
    release: str
    created: str
    origin: str
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]


@dataclass(frozen=True)
class Appraisal:
    """One property, valued and explained.

    Attributes:
        model: What valued it.
        name: What people call it: its label or identifier; None where it has neither.
        number: Its row, from 1.
        facts: The columns of the contract as the model read them: texts, numbers, None for missing.
        as_of: Day of the value, ISO 8601; None where the row had no date.
        explanation: One item of what ``/api/v1/explain`` answers.
    """

    model: ModelSummary
    name: str | None
    number: int
    facts: Mapping[str, str | float | None]
    as_of: str | None
    explanation: Mapping[str, Any]

    @cached_property
    def data(self) -> str:
        """What the report is made from, as canonical JSON: equal data give equal text.

        Characters that mean something in HTML are escaped as JSON does, so that a page can hold it.
        """
        found = canonical_json(
            {
                "name": self.name,
                "row": self.number,
                "facts": dict(self.facts),
                "as_of": self.as_of,
                "explanation": self.explanation,
                "model_version": self.model.version,
                "model_hash": self.model.content_hash,
            }
        )
        return re.sub("[<>&]", lambda one: f"\\u{ord(one[0]):04x}", found)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `data` in UTF-8."""
        return sha256_bytes(self.data.encode())

    @property
    def valuation(self) -> Mapping[str, Any]:
        """The value, its interval and what is unusual."""
        found: Mapping[str, Any] = self.explanation["valuation"]
        return found

    @property
    def value(self) -> float | None:
        """The estimate; None where the service gave none."""
        found: float | None = self.valuation[self.model.contract.target.prediction_name]
        return found

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval; None where there is no estimate."""
        interval = self.valuation.get("interval") or {}
        low, high = interval.get("lower"), interval.get("upper")
        return None if low is None or high is None else (float(low), float(high))

    def title(self, language: Language) -> str:
        """Return what the property is called in a heading."""
        return self.name or text("row", language, number=self.number)


Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts.

    Attributes:
        header: Names of the columns.
        rows: As long as the header each.
        right: Places of the columns that are aligned to the right.
        note: Small print below it.
        even: Whether all columns but the first have the same width.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int]
    note: str = ""
    even: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """What the page of one property says, in one language; None and empty parts are left out."""

    language: Language
    anchor: str
    banner: str
    kind: str
    title: str
    subtitle: str
    meta: Pairs
    headline: tuple[str, str]
    tiles: Pairs
    reason: str
    range: Picture | None
    facts: Pairs
    map: Picture | None
    comparables: Grid | None
    reconciled: str
    parts: Picture | None
    unusual: tuple[str, ...]
    accuracy: Grid | None
    provenance: Pairs
    limits: tuple[str, ...]
    data: str
    digest: str

    def say(self, key: str) -> str:
        """Return a text of the catalogue in the page's language."""
        return text(key, self.language)

    @property
    def map_note(self) -> str:
        """What is said below the map."""
        outlined = self.map is not None and self.map.outlined
        return self.say("map_note") + (f" {self.say('outline_note')}" if outlined else "")


def page(one: Appraisal, language: Language, issued: str) -> Page:
    """Return the page of one property.

    Args:
        one: The property, valued and explained.
        language: Of the page.
        issued: Day on which the report is made, ISO 8601.
    """
    write = _Writer(one, language)
    return Page(
        language=language,
        anchor=f"row-{one.number}",
        banner=text("synthetic", language) if one.model.origin == "synthetic" else "",
        kind=text("report", language),
        title=one.title(language),
        subtitle=write.contract.title,
        meta=write.meta(issued),
        headline=write.headline(),
        tiles=write.tiles(),
        reason=warning(one.valuation.get("no_value") or "", language),
        range=write.range(),
        facts=write.facts(),
        map=write.map(),
        comparables=write.comparables(),
        reconciled=write.reconciled(),
        parts=write.parts(),
        unusual=write.unusual(),
        accuracy=write.accuracy(),
        provenance=write.provenance(),
        limits=write.limits(),
        data=one.data,
        digest=one.digest,
    )


class _Writer:
    """Writes the parts of a page."""

    def __init__(self, one: Appraisal, language: Language) -> None:
        self.one, self.language = one, language
        self.contract, self.model = one.model.contract.in_language(language), one.model
        self.unit = self.contract.target.unit
        near: Sequence[Mapping[str, Any]] = one.explanation.get("comparables") or ()
        self.near = near[:MOST_COMPARABLES]
        self.support: Mapping[str, Any] = one.valuation.get("support") or {}

    def say(self, key: str, **values: object) -> str:
        return text(key, self.language, **values)

    def money(self, value: float | None, *, unit: bool = True) -> str:
        return amount(value, self.unit if unit else None, self.language)

    def change(self, value: float, digits: int) -> str:
        shown = number(value, digits, self.language)
        return shown if shown.startswith("-") else f"+{shown}"

    def meta(self, issued: str) -> Pairs:
        dated = self.contract.with_role("timestamp") is not None
        day = self.one.as_of or self.say("newest" if dated else "undated")
        return (
            (self.say("as_of"), day),
            (self.say("issued"), issued),
            (self.say("model"), self.model.version),
        )

    def headline(self) -> tuple[str, str]:
        if self.one.value is None:
            return self.say("estimate"), self.say("no_value")
        return self.say("estimate"), self.money(self.one.value)

    def tiles(self) -> Pairs:
        found, valuation = [], self.one.valuation
        if self.one.ends is not None:
            share = percent(100 * valuation["interval"]["coverage"], 0, self.language)
            low, high = (self.money(end, unit=False) for end in self.one.ends)
            range_text = self.say("range", low=low, high=high)
            found.append((self.say("range_label", share=share), range_text))
        if valuation.get("confidence") is not None:
            shown = number(valuation["confidence"], 0, self.language)
            grade = valuation.get("confidence_class")
            if grade is not None:
                shown = f"{grade} · {self.say(f'class.{grade}')} · {shown} / 100"
            found.append((self.say("confidence"), shown))
        if valuation.get("fsd") is not None:
            found.append((self.say("fsd"), percent(100 * valuation["fsd"], 1, self.language)))
        return tuple(found)

    def range(self) -> Picture | None:
        if self.one.value is None or self.one.ends is None:
            return None
        low, high = self.one.ends
        first, middle, last = (self.money(v, unit=False) for v in (low, self.one.value, high))
        texts, title = (first, middle, last), f"{first} – {middle} – {last}"
        return pictures.range_picture((low, high), self.one.value, texts, title)

    def facts(self) -> Pairs:
        shown = [
            (self.contract.label_of(name), self.cell(name, value))
            for name, value in self.one.facts.items()
        ]
        rest = len(shown) - _MOST_FACTS
        if rest > 0:
            return (*shown[:_MOST_FACTS], ("…", self.say("more", count=rest)))
        return tuple(shown)

    def cell(self, name: str, value: str | float | None) -> str:
        """Return a value of a column with its unit."""
        if value is None:
            return "–"
        if isinstance(value, str):
            return value
        if name in self.places:
            return number(value, 5, self.language)  # about a metre
        unit = next((c.unit for c in self.contract.columns if c.name == name), None)
        if unit == "year":  # of the calendar: "1991", not "1991 year"
            unit = None
        return f"{plain_number(value, self.language)} {unit or ''}".rstrip()

    @cached_property
    def places(self) -> frozenset[str]:
        """Names of the columns that hold coordinates."""
        return frozenset(column.name for column in self.contract.coordinates or ())

    def map(self) -> Picture | None:
        if self.contract.coordinates is None:
            return None
        lon, lat = (column.name for column in self.contract.coordinates)
        here = _place(self.one.facts, lon, lat)
        there = []
        for at, one in enumerate(self.near, 1):
            place = _place(one.get("attributes") or {}, lon, lat)
            if place is not None:
                there.append((int(one.get("n") or at), *place))
        if here is None or not there:
            return None
        return pictures.map_picture(here, there, self.say("map"), self.say("north"))

    def comparables(self) -> Grid | None:
        """Return the grid: a column for what is valued and one a comparable, a row a property."""
        if not self.near:
            return None
        rows = [row for row in (*self._sale_rows(), *self._worth_rows()) if any(row[2:])]
        numbers = (str(one.get("n") or at) for at, one in enumerate(self.near, 1))
        header = ("", self.say("this"), *numbers)
        if not any(row[1] for row in rows):
            header, rows = (header[0], *header[2:]), [(row[0], *row[2:]) for row in rows]
        levelled = "price" not in self.near[0] and self.contract.with_role("timestamp") is not None
        notes = [self.say("levelled_note" if levelled else "comparables_note")]
        if any(one.get("adjustments") for one in self.near):
            notes.append(self.say("adjustments_note"))
        if self.support.get("nearest_km") is not None:
            notes.append(reach_text(self.support, self.language))
        return Grid(
            header, tuple(rows), frozenset(range(1, len(header))), " ".join(notes), even=True
        )

    def _sale_rows(self) -> Iterable[tuple[str, ...]]:
        """Yield what says which sales they are and how like they are; empty where not known."""
        near, lang = self.near, self.language
        yield self.say("sale"), "", *(self._sale(one) for one in near)
        yield self.say("date"), self.one.as_of or "", *(str(one.get("date") or "") for one in near)
        yield self.say("age"), "", *(_whole(one.get("age_months"), lang) for one in near)
        yield self.say("distance"), "", *(km_text(one.get("distance_km"), lang) for one in near)
        yield self.say("similarity"), "", *(_whole(one.get("similarity"), lang) for one in near)
        for column in self._attributes():
            name = self.contract.heading_of(column.name)
            values = [(one.get("attributes") or {}).get(column.name) for one in near]
            yield name, *(value_text(v, lang) for v in (self.one.facts.get(column.name), *values))

    def _sale(self, one: Mapping[str, Any]) -> str:
        names = [str(one[key]) for key in ("label", "id") if one.get(key)]
        found = names[0] if names else ""
        if one.get("own_earlier_sale"):
            return f"{found} ({self.say('own_sale')})".strip()
        return found

    def _attributes(self) -> list[Column]:
        """Return which of the comparables' own columns are shown; the map shows the places."""
        known = {name for one in self.near for name in one.get("attributes") or {}}
        shown = [
            column for column in self.contract.columns
            if column.name in known and column.name not in self.places
        ]  # fmt: skip
        return shown[:_MOST_ATTRIBUTES]

    def _worth_rows(self) -> Iterable[tuple[str, ...]]:
        """Yield prices, adjustments and what comes of them; the rows add up, rounding apart."""
        near = self.near
        price = f"{self.say('price')}, {self.unit}" if self.unit else self.say("price")
        yield price, "", *(self.money(_price(one), unit=False) for one in near)
        yield from self._adjustments()
        adjusted = [one.get("adjusted_price") for one in near]
        yield self.say("adjusted"), "", *("" if v is None else self.money(v, unit=False)
                                          for v in adjusted)  # fmt: skip
        weights = [one.get("weight") for one in near]
        yield self.say("weight"), "", *("" if w is None else percent(100 * w, 0, self.language)
                                        for w in weights)  # fmt: skip

    def _adjustments(self) -> Iterable[tuple[str, ...]]:
        """Yield a row an adjustment; small ones share the last, so that columns add up."""
        found: list[dict[str, float]] = []
        size: dict[str, float] = {}
        for one in self.near:
            amounts: dict[str, float] = {}
            for item in one.get("adjustments") or ():
                name, value = str(item["name"]), float(item["amount"])
                amounts[name] = amounts.get(name, 0.0) + value
                size[name] = size.get(name, 0.0) + abs(value)
            found.append(amounts)
        kept = sorted((n for n in size if n != _OTHER), key=lambda n: -size[n])
        kept = kept[:_MOST_ADJUSTMENTS]
        digits = digits_of(max((abs(_price(one) or 0.0) for one in self.near), default=0.0))
        for name in (name for name in size if name in kept):
            changes = (self.change(a[name], digits) if name in a else "" for a in found)
            yield self.adjustment(name), "", *changes
        if len(kept) < len(size):
            rest = [sum(v for name, v in amounts.items() if name not in kept) for amounts in found]
            changes = (self.change(value, digits) for value in rest)
            yield self.adjustment(_OTHER), "", *changes

    def named(self, name: str, shown: str | None = None) -> str:
        """Return what people call a group of features."""
        key = f"group.{name}"
        if key in TEXTS:
            return self.say(key)
        own = any(column.name == name for column in self.contract.columns)
        return self.contract.label_of(name) if own else people_label(shown or name)

    def adjustment(self, name: str) -> str:
        """Return what people call an adjustment."""
        key = f"adjustment.{name}"
        shown = self.say(key) if key in TEXTS else self.named(name).lower()
        return self.say("adjustment", name=shown)

    def reconciled(self) -> str:
        found = self.one.explanation.get("reconciled")
        if not found or found.get("value") is None:
            return ""
        return self.say(
            "reconciled",
            value=self.money(found["value"]),
            raw=share_text(found.get("spread_raw"), self.language),
            adjusted=share_text(found.get("spread_adjusted"), self.language),
        )

    def parts(self) -> Picture | None:
        groups, base = self.one.explanation.get("groups"), self.one.explanation.get("base")
        if not groups or base is None or self.one.value is None:
            return None
        digits = digits_of(self.one.value)
        parts = [
            (
                self.named(str(one["name"]), one.get("label")),
                float(one["amount"]),
                self.change(float(one["amount"]), digits),
            )
            for one in groups
        ]
        ends = (
            (self.say("base"), number(base, digits, self.language)),
            (self.say("end"), self.money(self.one.value)),
        )
        return pictures.parts_picture(parts, ends, float(base), self.say("parts"))

    def unusual(self) -> tuple[str, ...]:
        found = [warning(str(one), self.language) for one in self.one.valuation.get("warnings", ())]
        if self.support.get("outside"):
            names = ", ".join(self.contract.label_of(str(name)) for name in self.support["outside"])
            found.append(self.say("outside", names=names))
        return tuple(found) or (self.say("usual"),)

    def accuracy(self) -> Grid | None:
        metrics, lang = self.model.metrics, self.language
        test = metrics.get("test")
        if not test:
            return None
        groups = [
            {
                **test,
                "name": self.say("accuracy.all"),
                "rows": (self.model.lineage.get("rows") or {}).get("test"),
                "ratio": test.get("median_ratio"),
                "coverage": (metrics.get("interval") or {}).get("coverage"),
            },
            *self._groups(),
        ]
        names = {"mape": "mape", "median_ape": "median", "within_10": "within", "ratio": "ratio"}
        known = [
            (key, name) for key, name in (names | {"coverage": "coverage"}).items()
            if any(group.get(key) is not None for group in groups)
        ]  # fmt: skip
        header = (
            self.say("accuracy.group"),
            self.say("accuracy.rows"),
            *(self.say(f"accuracy.{name}") for _, name in known),
        )
        cells = tuple(
            (
                str(group["name"]),
                number(group.get("rows"), 0, lang),
                *(_figure(key, group.get(key), lang) for key, _ in known),
            )
            for group in groups
        )
        note = self.say("accuracy_note")
        few = [str(g["name"]) for g in groups if (g.get("rows") or _FEW_ROWS) < _FEW_ROWS]
        if few:
            note += " " + self.say("few_rows", least=_FEW_ROWS, names="; ".join(few))
        return Grid(header, cells, frozenset(range(1, len(header))), note)

    def _groups(self) -> Iterable[dict[str, Any]]:
        """Yield the figures of the held-out rows that are most like this one."""
        metrics = self.model.metrics
        segment = self.contract.with_role("segment")
        if segment is not None:
            mine = self.one.facts.get(segment.name)
            name = f"{mine:g}" if isinstance(mine, float) else mine
            own = (group for group in metrics.get("segments") or () if group["name"] == name)
            yield from ({**one, "name": self.say("accuracy.segment", name=name)} for one in own)
        for group in (metrics.get("confidence") or {}).get("classes", ()):
            if (grade := group["class"]) == self.one.valuation.get("confidence_class"):
                yield {**group, "name": self.say(f"accuracy.class.{grade}")}
        tenth = price_band(metrics.get("deciles") or (), self.one.value)
        if tenth is not None:
            low, group = tenth
            high = self.money(_edge(group), unit=False)
            span = (
                self.say("accuracy.up_to", high=high) if low is None
                else self.say("accuracy.between", low=self.money(low, unit=False), high=high)
            )  # fmt: skip
            yield {**group, "name": self.say("accuracy.decile", name=span)}

    def provenance(self) -> Pairs:
        model, lineage = self.model, self.model.lineage
        rows = (lineage.get("rows") or {}).get("train")
        source = str(lineage.get("source") or "")
        found = (
            ("version", model.version),
            ("release", model.release),
            ("trained", model.created.replace("T", " ").replace("Z", " UTC")),
            ("training_rows", "" if rows is None else number(rows, 0, self.language)),
            ("source", source.rsplit("/", 1)[-1]),
            ("data_hash", str(lineage.get("data_hash") or "")),
            ("bundle_hash", model.content_hash),
            ("prediction_id", str(self.one.valuation.get("prediction_id") or "")),
            ("page_hash", self.one.digest),
        )
        return tuple((self.say(key), value) for key, value in found if value)

    def limits(self) -> tuple[str, ...]:
        found = [self.say("limit.automated"), self.say("limit.person"), self.say("limit.date")]
        if self.one.ends is not None:
            outside = 100 * (1 - self.one.valuation["interval"]["coverage"])
            found.append(self.say("limit.range", share=percent(outside, 0, self.language)))
        if self.near:
            found.append(self.say("limit.prices"))
        return tuple(found)


def price_band(
    deciles: Sequence[Mapping[str, Any]], value: float | None
) -> tuple[float | None, Mapping[str, Any]] | None:
    """Return the group of held-out prices that holds `value`, with the upper end of the one below.

    Values above all groups belong to the last one. None where groups or value are not known.

    Args:
        deciles: Groups named ``up to 1,234``, in ascending order.
        value: The estimate.
    """
    edges = [_edge(group) for group in deciles]
    if value is None or not edges or None in edges:
        return None
    at = next((i for i, edge in enumerate(edges) if value <= edge), len(edges) - 1)  # type: ignore[operator]
    return (edges[at - 1] if at else None), deciles[at]


def _edge(group: Mapping[str, Any]) -> float | None:
    try:
        return float(str(group["name"]).removeprefix("up to ").replace(",", ""))
    except ValueError:
        return None


def _place(values: Mapping[str, Any], lon: str, lat: str) -> tuple[float, float] | None:
    x, y = values.get(lon), values.get(lat)
    return None if x is None or y is None else (float(x), float(y))


def _price(one: Mapping[str, Any]) -> float | None:
    found = one.get("price", one.get("value"))
    return None if found is None else float(found)


def _whole(value: float | None, language: Language) -> str:
    return "" if value is None else number(value, 0, language)


def _figure(key: str, value: float | None, language: Language) -> str:
    if key == "ratio":
        return number(value, 3, language)
    if key == "coverage" and value is not None:
        value *= 100
    return percent(value, 1, language)
