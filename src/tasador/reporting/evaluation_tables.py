"""Tables of figures measured on held-out rows: the ratio study, the errors of groups.

The fairness table, that of the weakest segments and that of other estimates know both languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasador.contract.formats import date_text
from tasador.core.hashing import to_plain, without_nan
from tasador.core.languages import LANGUAGES, Language, digits_in, number, text_of
from tasador.metrics.ratio_study import (
    FEWEST_OF_GROUP,
    LEVEL_GAP,
    MISSING,
    OTHERS,
    PRICE,
    RatioFigure,
    RatioGroup,
    RivalFigures,
    meets_level,
)
from tasador.metrics.regression import label
from tasador.reporting.cards import Align, CardTable, verdict_text
from tasador.reporting.plots import short

if TYPE_CHECKING:  # their modules load what fits models, and `tasador ratio` fits none
    from tasador.selection.test_metrics import Group
    from tasador.selection.weakest_segments import Condition, WeakestSegments

#: Name of the groups of rows below the cap and at it.
CAP = "cap"


#: Digits behind the decimal point of a figure, 3 of others; those whose sign is always shown.
_DIGITS = {"cod": 2, "vei": 1, "fsd": 1, "mape": 1, "median_ape": 1, "within_10": 1}
_SIGNED = frozenset({"prb", "ki", "vei"})
_PERCENT = frozenset({"cod", "vei", "fsd", "mape"})
_MOST_GROUPS, _MOST_SENTENCES, _MOST_LEVELS = 40, 5, 4
#: A group of numbers, by its upper end or by both.
_SPAN = re.compile(r"(?:up|(-?[\d.,e+-]+)) to (-?[\d.,e+-]+)")
TEXTS: Mapping[str, tuple[str, str]] = {
    "fairness": ("Fairness: by {by}", "Equidad: por {by}"),
    "group": ("group", "grupo"),
    "rows": ("rows", "filas"),
    "interval": ("95%", "95 %"),
    "verdict": ("verdict", "veredicto"),
    "median_ratio": ("median ratio", "razón mediana"),
    "ratio": ("ratio", "razón"),
    "median_ape": ("median", "mediana"),
    "within_10": ("in 10%", "en 10%"),
    "coverage": ("held", "dentro"),
    "level": ("level", "nivel"),
    MISSING: ("(missing)", "(sin valor)"),
    OTHERS: ("(others)", "(otros)"),
    "up_to": ("up to {high}", "hasta {high}"),
    "span": ("{low} to {high}", "{low} a {high}"),
    "high": (
        "{by} {name} is valued {percent}% too high (median ratio {ratio}, 95% {low} to {high}; of "
        "all rows {overall}).",
        "{by} {name} se valora un {percent} % por encima (razón mediana {ratio}, 95 % de {low} a "
        "{high}; de todas las filas {overall}).",
    ),
    "low": (
        "{by} {name} is valued {percent}% too low (median ratio {ratio}, 95% {low} to {high}; of "
        "all rows {overall}).",
        "{by} {name} se valora un {percent} % por debajo (razón mediana {ratio}, 95 % de {low} a "
        "{high}; de todas las filas {overall}).",
    ),
    "others_off": (
        "{groups} more groups of {by} are off.",
        "Otros {groups} grupos de {by} se apartan.",
    ),
    "fair": (
        "No group is off its level: further than {gap} from that of all rows, and not by chance.",
        "Ningún grupo se aparta de su nivel: a más de {gap} del de todas las filas, y no por azar.",
    ),
    "fairness_note": (
        "Ratio: median of estimate over actual value; in percent: COD, MAPE, the median of the "
        "absolute percentage errors, in 10% (rows valued within 10%), held (rows inside their "
        "interval). "
        "A verdict needs {least} rows. Level: the median ratio within {gap} of that of all rows. "
        "The interval is not met where it surely holds fewer rows than it promises. By chance "
        "alone about one group in 20 has a median ratio whose interval leaves out its true level.",
        "Razón: mediana de la estimación entre el valor real; en porcentaje: COD, MAPE, la mediana "
        "de los errores porcentuales absolutos, en 10% (filas valoradas a menos del 10 %), dentro "
        "(filas dentro de su intervalo). "
        "El veredicto necesita {least} filas. Nivel: la razón mediana a no más de {gap} de la de "
        "todas las filas. El intervalo no cumple si con seguridad contiene menos filas de las que "
        "promete. Por puro azar, en cerca de un grupo de cada 20 el intervalo de la razón mediana "
        "no contiene su nivel verdadero.",
    ),
    "not_shown": (
        "{groups} more groups are in the JSON only.",
        "Otros {groups} grupos están solo en el JSON.",
    ),
    "weakest": ("Weakest segments", "Segmentos más débiles"),
    "segment": ("rows with", "filas con"),
    "worse": ("times all", "veces el total"),
    "all": ("all rows", "todas las filas"),
    "weakest_note": (
        "Found by a shallow tree on the errors of training rows, out of fold; figures are of "
        "held-out rows. Segments whose errors are not larger there too, beyond chance, are left "
        "out.",
        "Hallados por un árbol poco profundo en los errores de las filas de entrenamiento, fuera "
        "de muestra; las medidas son de filas apartadas. Se omiten los segmentos cuyos errores no "
        "son también ahí mayores, más allá del azar.",
    ),
    "rivals": ("Beside other estimates", "Junto a otras estimaciones"),
    "estimates": ("estimates", "estimaciones"),
    "without": ("without", "sin valor"),
    "model": ("this model", "este modelo"),
    "model_there": ("this model, rows with {name}", "este modelo, filas con {name}"),
    "levelled": ("{name}, levelled", "{name}, nivelado"),
    "rivals_note": (
        "The same held-out rows. Without: rows that have no such estimate, which are left out of "
        "its figures. Levelled: divided by their median ratio on these rows, which leaves how even "
        "they are. Nobody's estimate is known to the model.",
        "Las mismas filas apartadas. Sin valor: filas que no tienen esa estimación y no entran en "
        "sus medidas. Nivelado: dividido entre su razón mediana en estas filas, de modo que queda "
        "solo lo parejas que son. El modelo no conoce ninguna de estas estimaciones.",
    ),
    "and": (" and ", " y "),
    "or": (" or ", " o "),
    "is": ("{column} is {levels}", "{column} es {levels}"),
    "is_not": ("{column} is not {levels}", "{column} no es {levels}"),
    "more": ("{levels} or {count} others", "{levels} u otros {count}"),
    "missing": ("{column} missing", "{column} sin valor"),
    "known": ("{column} known", "{column} con valor"),
    "or_missing": ("({rule} or missing)", "({rule} o sin valor)"),
}


def figure_text(name: str, value: float) -> str:
    """Return a figure of the ratio study with the digits that it deserves, a dash for NaN."""
    sign = "+" if name in _SIGNED else ""
    return f"{value:{sign}.{_DIGITS.get(name, 3)}f}" if value == value else "–"


def ratio_table(title: str, figures: Sequence[RatioFigure]) -> CardTable:
    """Return the figures of a ratio study with what is accepted, and whether it is met."""
    return CardTable(
        title,
        ("figure", "value", "95% from", "to", "trimmed", "accepted", "verdict"),
        tuple(
            (
                label(f.name),
                *(figure_text(f.name, value) for value in (f.value, f.low, f.high, f.trimmed)),
                "" if f.accepted is None else "{:g} to {:g}".format(*f.accepted),
                verdict_text(f.met),
            )
            for f in figures
        ),
        note="Ratio: estimate over actual value. Accepted ranges: IAAO Standard on Ratio Studies, "
        "residential property. PRD above 1, PRB and VEI below 0 and MKI below 1 mean that dear "
        "things are estimated low. COD, VEI and FSD, the standard deviation of the percentage "
        "errors, are in percent. Trimmed: without ratios beyond 3 interquartile ranges.",
        align=("left", "right", "right", "right", "right", "left", "left"),
    )


def figure_title(name: str, language: Language = "en") -> str:
    """Return a figure's name as the head of a column."""
    if name in TEXTS:
        return text_of(TEXTS, name, language)
    return name.upper() + (" %" if name in _PERCENT else "")


def group_name(name: str, language: Language = "en") -> str:
    """Return the name of a group of levels, numbers, rows without a value or with a rare one."""
    if name in (MISSING, OTHERS):
        return text_of(TEXTS, name, language)
    if span := _SPAN.fullmatch(name):
        low, high = (digits_in(end, language) for end in span.groups(""))
        return text_of(TEXTS, "span" if low else "up_to", language, low=low, high=high)
    return name


def group_verdict(group: RatioGroup, language: Language = "en") -> str:
    """Return whether all figures of a group are met, or those that are not."""
    bad = [name for name, met in group.met.items() if met is False]
    titles = [figure_title(name, language).removesuffix(" %") for name in bad]
    return verdict_text(not bad, language) + (f": {', '.join(titles)}" if bad else "")


def off_sentences(groups: Sequence[RatioGroup], language: Language = "en") -> list[str]:
    """Return a sentence for each group whose level is off, the farthest first, the rest counted.

    Groups of prices have none: even fair estimates are high for the cheap and low for the dear.
    """
    off = sorted((g for g in groups if g.off and g.by != PRICE), key=lambda g: -abs(g.gap))
    found = []
    for group in off[:_MOST_SENTENCES]:
        ratio = group.figures["median_ratio"]
        values = {"ratio": ratio, "low": group.low, "high": group.high}
        shown = {
            name: digits_in(f"{value:.2f}", language)
            for name, value in {**values, "overall": ratio / (1.0 + group.gap)}.items()
        }
        key = "high" if group.gap > 0 else "low"
        percent = number(abs(group.gap) * 100, 0, language)
        name = short(group_name(group.name, language), 60)
        found.append(
            text_of(TEXTS, key, language, by=group.by, name=name, percent=percent, **shown)
        )
    for by in dict.fromkeys(group.by for group in off[_MOST_SENTENCES:]):
        count = sum(group.by == by for group in off[_MOST_SENTENCES:])
        found.append(text_of(TEXTS, "others_off", language, groups=count, by=by))
    return found


def fairness_tables(groups: Sequence[RatioGroup], language: Language = "en") -> list[CardTable]:
    """Return the figures of declared groups, a table for each column, with what is off in words.

    The first table's note explains the figures of all.
    """
    by: dict[str, list[RatioGroup]] = {}
    for group in groups:
        by.setdefault(group.by, []).append(group)
    return [
        _fairness_table(title, some, language, explained=place == 0)
        for place, (title, some) in enumerate(by.items())
    ]


def _fairness_table(
    title: str, groups: Sequence[RatioGroup], language: Language, *, explained: bool
) -> CardTable:
    def say(key: str, **values: object) -> str:
        return text_of(TEXTS, key, language, **values)

    # those that are off are never among the ones that are not shown
    order = sorted(range(len(groups)), key=lambda i: (not groups[i].off, -groups[i].rows))
    shown = [groups[i] for i in sorted(order[:_MOST_GROUPS])]
    names = list(shown[0].figures)
    rows = [
        (
            short(group_name(group.name, language), 40),
            number(group.rows, 0, language),
            *_figures(group, names, language),
            group_verdict(group, language) if group.rows >= FEWEST_OF_GROUP else "",
        )
        for group in shown
    ]
    gap = digits_in(f"{LEVEL_GAP:.0%}", language)
    notes = off_sentences(groups, language) or [say("fair", gap=gap)]
    if explained:
        notes.append(say("fairness_note", least=FEWEST_OF_GROUP, gap=gap))
    if more := len(groups) - len(shown):
        notes.append(say("not_shown", groups=more))
    heads = [figure_title(name, language).removesuffix(" %") for name in names[1:]]
    head = (say("group"), say("rows"), say("ratio"), say("interval"), *heads, say("verdict"))
    right: list[Align] = ["right"] * (len(head) - 2)
    note, align = " ".join(notes), ("left", *right, "left")
    return CardTable(say("fairness", by=title), head, tuple(rows), note, align, language)


def _figures(group: RatioGroup, names: Sequence[str], language: Language) -> Iterator[str]:
    for name in names:
        value = group.figures[name]
        if name == "coverage":
            yield number(value * 100, 1, language)
            continue
        yield digits_in(figure_text(name, value), language)
        if name == "median_ratio":
            yield digits_in(f"{group.low:.2f}–{group.high:.2f}", language)


def rival_tables(rivals: Sequence[RivalFigures], language: Language = "en") -> list[CardTable]:
    """Return other people's estimates beside the model's; none without them."""
    some = [one for one in rivals if one.figures]
    return [_rival_table(some, language)] if some else []


def _rival_table(rivals: Sequence[RivalFigures], language: Language) -> CardTable:
    def say(key: str, **values: object) -> str:
        return text_of(TEXTS, key, language, **values)

    names = ("median_ratio", "cod", "prd", "prb", "mape", "median_ape")
    rows: list[tuple[str, ...]] = []

    def show(title: str, one: RivalFigures, figures: Mapping[str, float], out: int | None) -> None:
        shown = (digits_in(figure_text(name, figures[name]), language) for name in names)
        left = "" if out is None else number(out, 0, language)
        rows.append((title, number(one.rows, 0, language), left, *shown))

    # the model has one pair of lines for each set of rows that it is compared on
    for at, one in enumerate(rivals):
        same = any(other.rows == one.rows and not one.left_out for other in rivals[:at])
        if not same:
            key = "model_there" if one.left_out else "model"
            own = say(key, name=short(one.name, 40))
            show(own, one, one.model, None)
            show(say("levelled", name=own), one, one.model_levelled, None)
        show(short(one.name, 40), one, one.figures, one.left_out)
        show(say("levelled", name=short(one.name, 40)), one, one.levelled, one.left_out)
    heads = (figure_title(name, language) for name in names)
    head = (say("estimates"), say("rows"), say("without"), *heads)
    right: list[Align] = ["right"] * (len(head) - 1)
    title, note = say("rivals"), say("rivals_note")
    return CardTable(title, head, tuple(rows), note, ("left", *right), language)


def weakest_table(found: WeakestSegments | None, language: Language = "en") -> list[CardTable]:
    """Return the table of the weakest segments; none where there are none."""
    if found is None or not found.segments:
        return []

    def row(rule: str, rows: int, mape: float, ratio: float) -> tuple[str, ...]:
        times = digits_in(f"{mape / found.mape:.2f}", language)
        figures = (("mape", mape), ("median_ratio", ratio))
        shown = [digits_in(figure_text(name, value), language) for name, value in figures]
        return rule, number(rows, 0, language), shown[0], times, shown[1]

    rows = [
        row(rule_text(one.rule, language), one.rows, one.mape, one.median_ratio)
        for one in found.segments
    ]
    every = text_of(TEXTS, "all", language)
    rows.append(row(every, found.rows, found.mape, found.median_ratio))
    keys = ("segment", "rows", "mape", "worse", "median_ratio")
    head = tuple(figure_title(key, language) for key in keys)
    title, note = (text_of(TEXTS, key, language) for key in ("weakest", "weakest_note"))
    align: tuple[Align, ...] = ("left", "right", "right", "right", "right")
    return [CardTable(title, head, tuple(rows), note, align, language)]


def rule_text(rule: Sequence[Condition], language: Language = "en") -> str:
    """Return what the rows of a segment have in common: ``area ≤ 60 and year_built > 1950``."""
    return text_of(TEXTS, "and", language).join(_condition(one, language) for one in rule)


def _condition(one: Condition, language: Language) -> str:
    if one.levels or one.others:
        if not one.levels:
            return text_of(TEXTS, "missing", language, column=one.column)
        if not one.others:
            return text_of(TEXTS, "known", language, column=one.column)
        fewer = len(one.others) < len(one.levels)
        levels = _levels(one.others if fewer else one.levels, language)
        key = "is_not" if fewer else "is"
        rule = text_of(TEXTS, key, language, column=one.column, levels=levels)
    elif not one.known:
        return text_of(TEXTS, "missing", language, column=one.column)
    elif one.low is None and one.high is None:
        return text_of(TEXTS, "known", language, column=one.column)
    else:
        low, high = (
            None if limit is None else _limit(limit, one.dates, language)
            for limit in (one.low, one.high)
        )
        if low is not None and high is not None:
            rule = f"{low} < {one.column} ≤ {high}"
        else:
            rule = f"{one.column} > {low}" if high is None else f"{one.column} ≤ {high}"
    return text_of(TEXTS, "or_missing", language, rule=rule) if one.missing else rule


def _limit(value: float, dates: bool, language: Language) -> str:
    return date_text(value) if dates else digits_in(f"{value:.12g}", language)


def _levels(levels: Sequence[str], language: Language) -> str:
    shown = [short(level, 40) for level in levels[:_MOST_LEVELS]]
    rest = len(levels) - len(shown)
    if rest > 1:
        return text_of(TEXTS, "more", language, levels=", ".join(shown), count=rest)
    shown = [short(level, 40) for level in levels[: _MOST_LEVELS + 1]]
    last = text_of(TEXTS, "or", language)
    return last.join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def plain_groups(
    groups: Sequence[RatioGroup],
    weakest: WeakestSegments | None,
    rivals: Sequence[RivalFigures] = (),
) -> dict[str, Any]:
    """Return all as plain JSON types, with their words; what is not there is left out."""
    found: dict[str, Any] = {}
    if rivals:
        found["rivals"] = without_nan(to_plain(rivals))
    if groups:
        said = {language: off_sentences(groups, language) for language in LANGUAGES}
        found["fairness"] = {"groups": without_nan(to_plain(groups)), "off": said}
    if weakest is not None:
        rules = [
            {language: rule_text(one.rule, language) for language in LANGUAGES}
            for one in weakest.segments
        ]
        found["weakest_segments"] = {**without_nan(to_plain(weakest)), "rules": rules}
    return found


def group_table(name: str, groups: Sequence[Group], overall: float) -> CardTable:
    """Return the errors of groups of test rows, and whether each is at the level of all."""
    few = [g.rows < FEWEST_OF_GROUP for g in groups]
    notes = [f"Groups of fewer than {FEWEST_OF_GROUP} rows prove little."] * any(few)
    if name == CAP:
        notes.append("At the cap the true value is not known: these errors say little.")
    # at a cap, ratios are of values that were cut off
    levels = [
        None if some or name == CAP else meets_level(g.ratio, overall)
        for g, some in zip(groups, few, strict=True)
    ]
    if not all(level is None for level in levels):
        notes.append(
            f"Level: met where the median ratio is within {LEVEL_GAP:.0%} of that of all, "
            f"{overall:.3f}."
        )
    return CardTable(
        f"By {name}",
        (
            "rows of",
            "number",
            "MAPE (%)",
            "within 10% (%)",
            "interval holds (%)",
            "median ratio",
            "level",
        ),
        tuple(
            (
                g.name + " (few rows)" * some,
                g.rows,
                g.mape,
                g.within_10,
                g.coverage * 100,
                g.ratio,
                verdict_text(level),
            )
            for g, some, level in zip(groups, few, levels, strict=True)
        ),
        note=" ".join(notes),
    )
