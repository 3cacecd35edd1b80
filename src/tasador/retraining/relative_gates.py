"""The gates that compare a challenger with the champion on the same sealed rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tasador.metrics.ratio_study import ACCEPTED
from tasador.metrics.regression import label
from tasador.registry.bundle import ModelBundle
from tasador.retraining.comparison import Difference, paired_bootstrap, ratio_differences
from tasador.retraining.gate import Gate, GateSettings, SealedRows, State, within_accepted

Floats = NDArray[np.float64]


def not_worse(actual: Floats, new: Floats, old: Floats, settings: GateSettings) -> Iterator[Gate]:
    """Ask whether errors are, for sure, not larger than the champion's by more than a margin."""
    found = paired_bootstrap(actual, new, old, confidence=settings.confidence, draws=settings.draws)
    for name, one in found.items():
        margin = settings.within_margin if name == "within_10" else (
            settings.error_margin * one.champion
        )  # fmt: skip
        yield Gate(
            label(name), _state(one, margin), _compared(one, margin, settings, "%"), _figures(one)
        )


def ratios_not_worse(
    actual: Floats, new: Floats, old: Floats, settings: GateSettings
) -> Iterator[Gate]:
    """Ask whether PRD and PRB are accepted, or no worse than the champion's."""
    found = ratio_differences(actual, new, old, confidence=settings.confidence, seed=0)
    for name, margin in (("prd", settings.prd_slack), ("prb", settings.prb_slack)):
        one = found[name]
        state = "pass" if within_accepted(name, one.challenger) else _state(one, margin)
        low, high = ACCEPTED[name]
        text = f"{_compared(one, margin, settings, '')}; accepted {low:g} to {high:g}"
        yield Gate(label(name), state, text, _figures(one))


def segments_not_worse(
    bundle: ModelBundle, rows: SealedRows, new: Floats, old: Floats, settings: GateSettings
) -> Gate:
    """Look for a segment that pays for what others gain.

    A segment counts as worse when it is beyond the limit and that is sure at the confidence
    divided among the segments (Bonferroni), so that many segments raise no false alarm.
    """
    column = bundle.contract.with_role("segment")
    if column is None:
        return Gate("segments", "pass", "the contract names no segment")
    codes = rows.X[:, bundle.contract.position(column.name)]
    groups = {float(code): codes == code for code in np.unique(codes[~np.isnan(codes)])}
    large = {c: chosen for c, chosen in groups.items() if chosen.sum() >= settings.min_segment_rows}
    few = len(groups) - len(large)
    confidence = 1.0 - (1.0 - settings.confidence) / max(1, len(large))
    worst, bad, figures = "", [], {}
    most = -math.inf
    for code, chosen in large.items():
        name = _named(bundle, column.name, code)
        one = paired_bootstrap(
            rows.actual[chosen], new[chosen], old[chosen],
            confidence=confidence, draws=settings.draws,
        )["mape"]  # fmt: skip
        share = one.worse / one.champion if one.champion > 0 else math.nan
        figures[name] = share
        if share > most:
            most, worst = share, f"{name}: MAPE {one.challenger:.2f}%, champion {one.champion:.2f}%"
        if share > settings.segment_limit and one.low > 0:
            bad.append(name)
    left_out = f"; {few} with fewer than {settings.min_segment_rows} rows not judged" if few else ""
    text = f"{len(large)} judged{left_out}; the worst is {worst or 'none'} (limit +"
    text += f"{settings.segment_limit:.0%})" + (f"; worse: {', '.join(bad)}" if bad else "")
    return Gate("segments", "fail" if bad else "pass", text, figures)


def _named(bundle: ModelBundle, column: str, code: float) -> str:
    categories = next(c.categories for c in bundle.contract.features if c.name == column)
    return categories[int(code)] if code < len(categories) else f"{code:g}"


def _state(one: Difference, margin: float) -> State:
    if one.high <= margin:
        return "pass"
    # worse for sure, or only not sure enough to be let in?
    return "fail" if one.low > 0 or one.worse > margin else "cannot tell"


def _compared(one: Difference, margin: float, settings: GateSettings, unit: str) -> str:
    change = "worse" if one.worse > 0 else "better"
    digits = 2 if unit else 3
    return (
        f"{one.challenger:.{digits}f}{unit}, champion {one.champion:.{digits}f}{unit}: "
        f"{abs(one.worse):.{digits}f} {change}, at most {one.high:+.{digits}f} worse at "
        f"{settings.confidence:.0%} (margin {margin:.{digits}f})"
    )


def _figures(one: Difference) -> dict[str, float]:
    return {
        "challenger": one.challenger, "champion": one.champion, "worse": one.worse,
        "low": one.low, "high": one.high,
    }  # fmt: skip
