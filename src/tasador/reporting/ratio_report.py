"""A ratio study as tables of texts, in English and Spanish, and as one HTML page.

Terminal and page show the same tables; a cell that begins with a verdict is coloured by both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasador.core import storage
from tasador.core.languages import Language, digits_in, number, text_of
from tasador.metrics.ratio_study import (
    FEWEST_OF_GROUP,
    PRICE,
    RatioFigure,
    RatioStudy,
)
from tasador.metrics.regression import RATIO_STUDY
from tasador.reporting.cards import Align, CardTable, Figure, render, verdict_text
from tasador.reporting.evaluation_tables import (
    figure_text,
    figure_title,
    group_name,
    group_verdict,
    off_sentences,
)
from tasador.reporting.plots import ACCENT, MUTED, SECOND, SOFT, drawn, format_axes, short

#: Why a row is in no study: a value is missing, or is 0 or less.
Missing = Literal["without", "not_positive"]

_MOST_GROUPS = 40

_TEXTS: Mapping[str, tuple[str, str]] = {
    "title": ("Ratio study", "Estudio de razones"),
    "made": ("tasador · ratio study", "tasador · estudio de razones"),
    "all_met": (
        "{name}: every figure is inside its accepted range.",
        "{name}: todas las medidas están dentro de su rango aceptado.",
    ),
    "some_not_met": ("{name}: not met: {figures}.", "{name}: no cumple: {figures}."),
    "figures": ("Figures: {name}", "Medidas: {name}"),
    "both": ("Two rolls side by side", "Dos padrones, uno junto al otro"),
    "by": ("By {name}", "Por {name}"),
    PRICE: ("price", "precio"),
    "figure": ("figure", "medida"),
    "value": ("value", "valor"),
    "from": ("95% from", "95% desde"),
    "to": ("to", "hasta"),
    "trimmed": ("trimmed", "sin extremos"),
    "accepted": ("accepted", "aceptado"),
    "range": ("{low} to {high}", "{low} a {high}"),
    "without": ("without {name}", "sin {name}"),
    "not_positive": ("with {name} of 0 or less", "con {name} de 0 o menos"),
    "verdict": ("verdict", "veredicto"),
    "group": ("group", "grupo"),
    "sales": ("sales", "ventas"),
    "ratio": ("ratio", "razón"),
    "weighted_mean_ratio": ("weighted mean", "media ponderada"),
    "few": (
        "{groups} groups of fewer than {least} sales are left out.",
        "Se omiten {groups} grupos con menos de {least} ventas.",
    ),
    "more": ("{groups} more groups are not shown.", "{groups} grupos más no se muestran."),
    "studied": (
        "{sales} sales of {rows} rows; {outliers} outliers, beyond 3 interquartile ranges, are in "
        "no trimmed figure.",
        "{sales} ventas de {rows} filas; {outliers} valores extremos, a más de 3 rangos "
        "intercuartílicos, no entran en las medidas sin extremos.",
    ),
    "left_out": ("Left out: {reasons}.", "Omitidas: {reasons}."),
    "chasing_none": (
        "{name}: no sign of sales chasing.",
        "{name}: sin indicios de ajuste a las ventas.",
    ),
    "chasing_some": (
        "{name}: {signs} of 2 signs of sales chasing: {share} of the ratios lie from 0.98 to 1.02 "
        "({expected} expected of a normal distribution), {jump} at one ratio near 1.",
        "{name}: {signs} de 2 indicios de ajuste a las ventas: {share} de las razones están entre "
        "0,98 y 1,02 ({expected} en una distribución normal), {jump} en una sola razón cercana "
        "a 1.",
    ),
    "drift": (
        "{name}: the ratio changes by {value}% a month (95%: {low} to {high}).",
        "{name}: la razón cambia {value}% al mes (95%: {low} a {high}).",
    ),
    "note": (
        "Ratio: estimate over price. PRD above 1, PRB below 0, MKI below 1, KI and VEI below 0: "
        "dear properties are estimated low. Ranges: IAAO Standard on Ratio Studies (2013), "
        "residential property, or as asked; 95% intervals by bootstrap.",
        "Razón: estimación entre precio. PRD mayor que 1, PRB menor que 0, MKI menor que 1, KI y "
        "VEI menores que 0: lo caro se estima por debajo. Rangos: IAAO Standard on Ratio Studies "
        "(2013), vivienda, o los pedidos; intervalos del 95% por remuestreo.",
    ),
    "group_note": (
        "A verdict needs {least} sales. Level: the median ratio within {gap} of that of all sales.",
        "El veredicto necesita {least} ventas. Nivel: la razón mediana a no más de {gap} de la de "
        "todas las ventas.",
    ),
    "picture": ("Median ratio by price", "Razón mediana por precio"),
    "caption": (
        "Median ratio of each group of prices with its 95% interval; the band is {gap} around the "
        "median of all.",
        "Razón mediana de cada grupo de precios con su intervalo del 95%; la banda es {gap} "
        "alrededor de la mediana de todas.",
    ),
    "complete": (
        "this page is complete in itself and loads nothing",
        "esta página está completa y no carga nada",
    ),
}


@dataclass(frozen=True)
class RatioDocument:
    """What a page, or a terminal, shows of the studies of one file.

    Attributes:
        file: Its name.
        rows: Its rows.
        left_out: Rows in no study, by what is wrong with which column.
        studies: By column of estimates; one or two, of the same sales.
        gap: By how much, relatively, a group's median ratio may differ.
        trimmed: Whether the verdicts are those of the trimmed figures.
        language: Of the texts.
    """

    file: str
    rows: int
    left_out: Mapping[tuple[Missing, str], int]
    studies: Mapping[str, RatioStudy]
    gap: float
    trimmed: bool = False
    language: Language = "en"

    @property
    def _first(self) -> RatioStudy:
        return next(iter(self.studies.values()))

    def say(self, key: str, **values: object) -> str:
        """Return a text in the document's language."""
        return text_of(_TEXTS, key, self.language, **values)

    def shown(self, name: str, value: float) -> str:
        """Return a figure with the digits that it deserves, a dash for NaN."""
        return self._in_language(figure_text(name, value))

    def _in_language(self, written: str) -> str:
        return digits_in(written, self.language)

    def count(self, rows: int) -> str:
        """Return a whole number with its thousands parted."""
        return number(rows, 0, self.language)

    def title_of(self, name: str) -> str:
        """Return a figure's name for people."""
        return self.say(name) if name in _TEXTS else figure_title(name, self.language)

    def verdict(self, figure: RatioFigure) -> str:
        """Return whether a figure is met, in words; empty where it has no range."""
        return verdict_text(figure.met_trimmed if self.trimmed else figure.met, self.language)

    def conclusions(self) -> list[str]:
        """Return what is met and what is not, by study, a sentence each."""
        found = []
        for name, study in self.studies.items():
            bad = study.not_met(trimmed=self.trimmed)
            figures = ", ".join(
                f"{self.title_of(f.name)} "
                f"{self.shown(f.name, f.trimmed if self.trimmed else f.value)}"
                for f in bad
            )
            key = "some_not_met" if bad else "all_met"
            found.append(self.say(key, name=name, figures=figures))
        return found

    def notes(self) -> list[str]:
        """Return what was studied, and what else was seen, a sentence each."""
        count = self.count
        found = [
            self.say(
                "studied",
                sales=count(self._first.rows),
                rows=count(self.rows),
                outliers=count(self._first.outliers),
            )
        ]
        if self.left_out:
            reasons = "; ".join(
                f"{count(n)} {self.say(key, name=name)}" for (key, name), n in self.left_out.items()
            )
            found.append(self.say("left_out", reasons=reasons))
        for name, study in self.studies.items():
            if (seen := study.chasing) is not None:
                parts = {
                    key: self._in_language(f"{getattr(seen, key):.1%}")
                    for key in ("share", "expected", "jump")
                }
                key = "chasing_some" if seen.signs else "chasing_none"
                found.append(self.say(key, name=name, signs=seen.signs, **parts))
            found += [f"{name}: {said}" for said in off_sentences(study.groups, self.language)]
            if (drift := study.drift) is not None:
                ends = {
                    key: self._in_language(f"{getattr(drift, key):+.2f}")
                    for key in ("value", "low", "high")
                }
                found.append(self.say("drift", name=name, **ends))
        return found

    def tables(self) -> list[CardTable]:
        """Return the figures, then the groups, as texts."""
        return [self._figures(), *self._groups()]

    def _figures(self) -> CardTable:
        rows: list[tuple[str, ...]] = []
        several = len(self.studies) > 1
        for figure in self._first.figures:
            name = figure.name
            low, high = figure.accepted or (float("nan"), float("nan"))
            spread = [self._in_language(f"{end:g}") for end in (low, high)]
            shown = self.say("range", low=spread[0], high=spread[1]) if figure.accepted else ""
            cells = [self.title_of(name), shown]
            for study in self.studies.values():
                one = study[name]
                values = (one.value, one.trimmed) if several else (
                    one.value, one.low, one.high, one.trimmed
                )  # fmt: skip
                cells += [*(self.shown(name, value) for value in values), self.verdict(one)]
            rows.append(tuple(cells))
        keys = ("value", "trimmed") if several else ("value", "from", "to", "trimmed")
        header = [self.say("figure"), self.say("accepted")]
        for name in self.studies:
            first = [name] if several else [self.say(keys[0])]
            header += [*first, *map(self.say, keys[1:]), self.say("verdict")]
        title = self.say("both") if several else self.say("figures", name=next(iter(self.studies)))
        align: list[Align] = ["left", "left"]
        align += [*["right"] * len(keys), "left"] * len(self.studies)  # type: ignore[list-item]
        return CardTable(title, tuple(header), tuple(rows), self.say("note"), tuple(align))

    def _groups(self) -> list[CardTable]:
        by: dict[str, list[int]] = {}
        for place, group in enumerate(self._first.groups):
            by.setdefault(group.by, []).append(place)
        return [self._group_table(title, places) for title, places in by.items()]

    def _group_table(self, by: str, places: Sequence[int]) -> CardTable:
        first, several = self._first.groups, len(self.studies) > 1
        large = [i for i in places if first[i].rows >= FEWEST_OF_GROUP]
        shown = sorted(sorted(large, key=lambda i: -first[i].rows)[:_MOST_GROUPS])
        figures = first[places[0]].figures
        names = [name for name in RATIO_STUDY if name in figures and name != "median_ratio"]
        names = names[:1] if several else names
        rows = []
        for place in shown:
            name = group_name(first[place].name, self.language)
            cells = [short(name, 24), self.count(first[place].rows)]
            for study in self.studies.values():
                group = study.groups[place]
                cells.append(self.shown("median_ratio", group.figures["median_ratio"]))
                if not several:
                    cells += [self.shown("median_ratio", end) for end in (group.low, group.high)]
                cells += [self.shown(name, group.figures[name]) for name in names]
                cells.append(group_verdict(group, self.language))
            rows.append(tuple(cells))
        header = [self.say("group"), self.say("sales")]
        for name in self.studies:
            ends = () if several else (self.say("from"), self.say("to"))
            header += [name if several else self.say("ratio"), *ends]
            header += [*map(self.title_of, names), self.say("verdict")]
        align: list[Align] = ["left", "right"]
        numbers = 1 + 2 * (not several) + len(names)
        align += [*["right"] * numbers, "left"] * len(self.studies)  # type: ignore[list-item]
        gap = self._in_language(f"{self.gap:.3g}")
        notes = [self.say("group_note", least=FEWEST_OF_GROUP, gap=gap)]
        if few := len(places) - len(large):
            notes.append(self.say("few", groups=few, least=FEWEST_OF_GROUP))
        if more := len(large) - len(shown):
            notes.append(self.say("more", groups=more))
        title = self.say("by", name=self.say(PRICE) if by == PRICE else by)
        return CardTable(title, tuple(header), tuple(rows), " ".join(notes), tuple(align))

    def picture(self) -> Figure:
        """Return the median ratios by price.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        groups = [group for group in self._first.groups if group.by == PRICE]
        at = np.arange(len(groups))
        middle = self._first["median_ratio"].value

        def draw(axes: Any) -> None:
            axes.axhspan(middle * (1 - self.gap), middle * (1 + self.gap), color=SOFT, alpha=0.3)
            axes.axhline(1.0, color=MUTED, linewidth=1)
            for (name, study), colour in zip(self.studies.items(), (ACCENT, SECOND), strict=False):
                some = [group for group in study.groups if group.by == PRICE]
                value = np.array([group.figures["median_ratio"] for group in some])
                ends = np.array([[g.low, g.high] for g in some]).T
                axes.errorbar(at, value, np.abs(ends - value), color=colour, marker="o",
                              markersize=4, linewidth=1.2, label=short(name, 24))  # fmt: skip
            names = [group.name for group in groups]
            axes.set_xticks(at, names, rotation=40, ha="right")
            format_axes(axes)
            if len(self.studies) > 1:
                axes.legend()

        gap = self._in_language(f"{self.gap:.3g}")
        return drawn(self.say("picture"), self.say("caption", gap=gap), draw)


def write_ratio_report(path: Path, document: RatioDocument) -> Path:
    """Write the studies as one HTML page that loads nothing, and return its path.

    Raises:
        StorageError: The file cannot be written.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    page = render("ratio.html.j2", document=document, picture=document.picture())
    storage.write_text(path, page)
    return path
