"""Tables of figures measured on held-out rows: the ratio study, the errors of groups."""

from __future__ import annotations

from collections.abc import Sequence

from tasador.metrics.ratio_study import FEWEST_OF_GROUP, LEVEL_GAP, RatioFigure, meets_level
from tasador.metrics.regression import label
from tasador.reporting.cards import CardTable, verdict_text
from tasador.selection.test_metrics import Group

#: Name of the groups of rows below the cap and at it.
CAP = "cap"


#: Digits behind the decimal point of a figure, 3 of others; those whose sign is always shown.
_DIGITS = {"cod": 2, "vei": 1, "fsd": 1}
_SIGNED = frozenset({"prb", "ki", "vei"})


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
