"""Drift of single columns: every distance, and a level by effect and by chance together.

A column drifts when its PSI is at least .1 (moderate) or .2 (significant) above what chance gives
on average at the window's size, *and* chance alone would hardly make one as large, however many
columns are looked at. Where even the limit of chance lies above .2, a drift that matters would go
unseen: the verdict is then "cannot tell", not "no drift".

Time passes: of a column with the role `timestamp`, nothing but missing values is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from tasador.contract.model import Column
from tasador.monitoring.checks.two_sample_tests import (
    PsiTest,
    adjusted,
    chi_square,
    jensen_shannon,
    kolmogorov_smirnov,
    psi_test,
    wasserstein,
)
from tasador.monitoring.column_summary import ColumnSummary, Counts
from tasador.monitoring.reference import Profile
from tasador.monitoring.thresholds import Thresholds
from tasador.monitoring.verdict import ColumnDrift, Level

MISSING, UNKNOWN = "(missing)", "(unknown)"


@dataclass(frozen=True)
class ColumnComparison:
    """A column's distances before they get a level.

    Attributes:
        column: The column; its name is what the finding is about.
        profile: Its reference.
        window: The window's counts.
        test: The PSI and its null; None when a side has no rows.
    """

    column: Column
    profile: Profile
    window: ColumnSummary
    test: PsiTest | None

    @property
    def is_axis(self) -> bool:
        """Whether it is the rows' time, of which only missing values are compared."""
        return self.column.role == "timestamp"

    @property
    def bins(self) -> tuple[Counts, Counts]:
        """The reference's and the window's counts that are compared, the last for missing."""
        sides = self.profile.summary, self.window
        # later rows lie in the last bin whatever happens: only missing ones say something
        if self.is_axis:
            before, now = (np.array([one.present, one.missing]) for one in sides)
        else:
            before, now = (one.bins(self.profile.grid) for one in sides)
        return before, now


def compare_column(column: Column, profile: Profile, window: ColumnSummary) -> ColumnComparison:
    """Compare a column with its reference."""
    measured = ColumnComparison(column, profile, window, None)
    if not window.n or not profile.summary.n:
        return measured
    return replace(measured, test=psi_test(*measured.bins))


def check_columns(
    measured: Sequence[ColumnComparison], thresholds: Thresholds, others: Sequence[float] = ()
) -> tuple[tuple[ColumnDrift, ...], tuple[float, ...]]:
    """Evaluate columns as one family, so that looking at many of them does not alarm by itself.

    Args:
        measured: The columns.
        thresholds: The limits.
        others: p-values of further checks of the same family.

    Returns:
        The columns' drift, and the corrected p-values of `others`.
    """
    p_values = [1.0 if m.test is None else m.test.p_value for m in measured]
    corrected = adjusted([*p_values, *others])
    family = len(corrected)
    found = tuple(
        _with_level(m, float(p), family, thresholds)
        for m, p in zip(measured, corrected, strict=False)
    )
    return found, tuple(float(p) for p in corrected[len(measured) :])


def _with_level(
    m: ColumnComparison, p_adjusted: float, family: int, thresholds: Thresholds
) -> ColumnDrift:
    drift = _described(m)
    if m.test is None:
        what = "the window has no rows" if not m.window.n else "the reference has no rows"
        return replace(drift, level="cannot_tell", reason=what)
    null = m.test.null
    # Bonferroni for the limit that is shown: what one column may have by chance among all
    limit = null.quantile(1 - thresholds.chance / family)
    drift = replace(
        drift,
        psi=m.test.psi,
        psi_chance=null.mean,
        psi_limit=max(limit, thresholds.psi_warn + null.mean),
        p_value=m.test.p_value,
        p_adjusted=p_adjusted,
    )
    level, reason = _level(m, p_adjusted, limit, thresholds)
    return replace(drift, level=level, reason=reason)


def _level(
    m: ColumnComparison, p: float, limit: float, thresholds: Thresholds
) -> tuple[Level, str]:
    assert m.test is not None  # noqa: S101 - looked at by the caller
    n, excess = m.window.n, m.test.psi - m.test.null.mean
    if n < thresholds.min_rows:
        return "cannot_tell", f"too few rows: {n}, at least {thresholds.min_rows} are needed"
    if not m.profile.summary.present and not m.window.present:
        return "cannot_tell", "neither the reference nor the window has a value"
    # both: with many rows chance is never the reason, with few the effect is never certain
    if p <= thresholds.chance and excess >= thresholds.psi_warn:
        level: Level = "alert" if excess >= thresholds.psi_alert else "warn"
        return level, f"{_change(m)}: PSI {m.test.psi:.3g}, chance gives {m.test.null.mean:.2g}"
    # chance alone exceeds what would be an alert: a drift that matters could hide in it
    if limit - m.test.null.mean > thresholds.psi_alert:
        return "cannot_tell", (
            f"{n} rows are too few: chance alone gives a PSI of up to {limit:.2g}, "
            f"this one is {m.test.psi:.3g}"
        )
    if m.is_axis:
        return "ok", "the rows' time: only missing values are compared"
    return "ok", f"PSI {m.test.psi:.3g}, chance gives up to {limit:.2g}"


def _change(m: ColumnComparison) -> str:
    """Say in a few words what happened to the column."""
    window, reference, grid = m.window, m.profile.summary, m.profile.grid
    if not window.present:
        return "every value is missing"
    if not reference.present:
        return "has values, the reference has none"
    # first of the reasons: it moves the mean and every bin as well
    if window.missing / window.n > reference.missing / reference.n + 0.1:
        return f"{window.missing / window.n:.0%} of the values are missing"
    if m.is_axis:
        before = reference.missing / reference.n
        return f"{window.missing / window.n:.1%} of the values are missing, was {before:.1%}"
    if grid.is_category:
        return _category_change(m)
    if window.high < reference.low or window.low > reference.high:
        return "all values lie outside what the reference spans"
    if window.low == window.high and reference.low < reference.high:
        return f"constant at {_edge(m.column, window.low)}"
    spread = reference.std(grid)
    shift = (window.mean(grid) - reference.mean(grid)) / spread if spread > 0 else 0.0
    if abs(shift) < 0.1:
        return "distributed differently around the same mean"
    return f"mean {'up' if shift > 0 else 'down'} by {abs(shift):.2g} standard deviations"


def _category_change(m: ColumnComparison) -> str:
    names = _bin_names(m)
    a, b = m.profile.summary.counts / m.profile.summary.n, m.window.counts / m.window.n
    if b[-1] > 0.01:
        return f"{b[-1]:.0%} of the values are categories that the reference does not know"
    most = int(np.argmax(np.abs(b - a)))
    return f"{names[most]!r} is now {b[most]:.1%} of the rows, was {a[most]:.1%}"


def _described(m: ColumnComparison) -> ColumnDrift:
    """Return every distance that exists, without a level."""
    window, reference, grid = m.window, m.profile.summary, m.profile.grid
    drift = ColumnDrift(m.column.name, m.column.kind, "ok", "", window.n, window.missing)
    if m.test is None:
        return drift
    a, b = m.bins
    _, chi2_p, v = chi_square(a, b)
    drift = replace(
        drift,
        chi2_p=chi2_p,
        cramers_v=v,
        jensen_shannon=jensen_shannon(a, b),
        bins=_bin_names(m),
        reference_share=tuple((a / a.sum()).tolist()),
        window_share=tuple((b / b.sum()).tolist()),
    )
    if m.is_axis or grid.is_category or not reference.present or not window.present:
        return drift
    d, p = kolmogorov_smirnov(reference, window)
    return replace(drift, ks=d, ks_p=p, wasserstein=wasserstein(reference, window, grid))


def _bin_names(m: ColumnComparison) -> tuple[str, ...]:
    grid = m.profile.grid
    if grid.is_category:
        return (*m.column.categories, UNKNOWN, MISSING)
    edges = grid.edges[grid.starts[1:] - 1].tolist()
    if m.is_axis or not edges:
        return ("any value", MISSING)
    texts = [_edge(m.column, edge) for edge in edges]
    inner = [f"{low} to {high}" for low, high in pairwise(texts)]
    return (f"up to {texts[0]}", *inner, f"above {texts[-1]}", MISSING)


def _edge(column: Column, edge: float) -> str:
    if column.kind == "datetime":
        return str(np.datetime64(int(edge), "s")).replace("T", " ")
    return f"{edge:.5g}"
