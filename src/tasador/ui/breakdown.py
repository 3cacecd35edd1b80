"""An estimate's parts in words and money: many features become few steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasador.contract.model import TableContract

#: Names of steps that sum several features; pages translate them.
COMPARABLES, AREA, OTHERS = "comparables", "area", "others"


def grouped(
    contributions: Sequence[Mapping[str, Any]], contract: TableContract
) -> list[tuple[str, float]]:
    """Return each source of information with the sum of its features' parts, largest first.

    Features made from comparables count together, so do those made from one column: its own value,
    its one-hot columns and its target mean.

    Args:
        contributions: What ``/api/v1/explain`` said, on the model's scale.
        contract: Names the columns and ratios.
    """
    sources = [column.name for column in contract.features]
    sources += [ratio.name for ratio in contract.ratios]
    sources.sort(key=len, reverse=True)
    sums: dict[str, float] = {}
    for one in contributions:
        source = _source(str(one["feature"]), sources)
        sums[source] = sums.get(source, 0.0) + float(one["value"])
    return sorted(sums.items(), key=lambda item: -abs(item[1]))


def _source(feature: str, sources: Sequence[str]) -> str:
    if feature.startswith("comparables"):
        return COMPARABLES
    if feature.startswith("cluster"):
        return AREA
    for source in sources:  # the longest first: one name may begin with another
        if feature == source or feature.startswith((f"{source}=", f"{source}_")):
            return source
    return feature


def in_money(
    parts: Sequence[tuple[str, float]],
    *,
    expected: float,
    estimate: float,
    scale: str,
    most: int = 8,
) -> tuple[float, list[tuple[str, float]]]:
    """Return where an estimate begins and its steps, in the target's unit; they end at it exactly.

    On a log scale each part is a factor; what it comes to in money depends on what it is applied
    to, so the parts are applied one after the other, the largest first.

    Args:
        parts: Sums on the model's scale, largest first.
        expected: The model's mean score, on that scale.
        estimate: The estimate, in the target's unit.
        scale: ``log`` or ``none``.
        most: Steps to show; the rest become one.
    """
    value = math.exp if scale == "log" else float
    start = value(expected)
    score, at = expected, start
    steps = []
    for name, part in parts[:most]:
        score += part
        steps.append((name, value(score) - at))
        at = value(score)
    rest = estimate - at
    if len(parts) > most or abs(rest) > 1e-6 * abs(estimate):
        steps.append((OTHERS, rest))
    return start, steps
