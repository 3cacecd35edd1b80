"""Drift: how far columns lie apart, what chance alone does, and a level by both together.

A column drifts when its PSI is at least .1 (moderate) or .2 (significant) above what chance gives
on average at the window's size, *and* chance alone would hardly make one as large, however many
columns are looked at. Where even the limit of chance lies above .2, a drift that matters would go
unseen: the verdict is then "cannot tell", not "no drift".

Time passes: of a column with the role `timestamp`, nothing but missing values is compared.

**Distances** are plain functions of counts. Sources: PSI as in Siddiqi, *Credit Risk Scorecards*
(2006), also Jeffreys' divergence; Jensen-Shannon distance of Lin (1991), base 2; two-sample
Kolmogorov-Smirnov with Stephens' correction (1970) for its p-value; Pearson's chi-square of
homogeneity with Cramér's V; Wasserstein-1 over the reference's standard deviation.

**The null distribution** of the PSI at any sample size: a PSI of .1 means little among 50 rows,
where chance alone exceeds it in 84% of windows, and much among 100 000. The null here is drawn from
the reference itself: the shares of its bins are known only as well as m rows tell, so they are
drawn from a Dirichlet distribution over the reference's counts (Rubin's Bayesian bootstrap, 1981),
and a window's counts from a multinomial of n rows with those shares. Both samples' noise is in it,
whatever m and n are.

**The domain classifier** (classifier two-sample test, Lopez-Paz and Oquab 2017): boosted trees
learn on one half of the rows to tell window from reference and are scored on the other, by the area
under the ROC curve, and the other way round. When nothing has changed, the area on rows that were
not learnt from is that of the Mann-Whitney statistic: mean one half, variance (m + n + 1) /
(12 m n). It sees what no column shows alone, such as two columns that no longer go together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from tasador.contract.model import Column
from tasador.core import seeds
from tasador.monitoring.column_summary import ColumnSummary, Counts, Grid
from tasador.monitoring.reference import Profile
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.verdict import ColumnDrift, Level

Floats = NDArray[np.float64]

MISSING, UNKNOWN = "(missing)", "(unknown)"

#: What an empty bin counts as, so that its logarithm exists: half a row, however many there are.
EMPTY = 0.5


def psi(reference: NDArray[np.generic], window: NDArray[np.generic]) -> float:
    """Return the population stability index of two vectors of bin counts.

    ``sum((w - r) * ln(w / r))`` over shares r and w; an empty bin counts as `EMPTY` rows, a bin
    that is empty on both sides not at all.

    Args:
        reference: Shape (b,), with at least one row in all.
        window: Shape (b,), likewise.
    """
    return float(psi_rows(reference, np.asarray(window)[None])[0])


def psi_rows(reference: NDArray[np.generic], windows: NDArray[np.generic]) -> Floats:
    """Return the PSI of each row of `windows` (k, b) or (k, b) against (k, b), shape (k,)."""
    r, w = np.asarray(reference, dtype=np.float64), np.asarray(windows, dtype=np.float64)
    r_share = np.maximum(r, EMPTY) / r.sum(axis=-1, keepdims=True)
    w_share = np.maximum(w, EMPTY) / w.sum(axis=-1, keepdims=True)
    terms = (w_share - r_share) * np.log(w_share / r_share)
    result: Floats = np.where((r == 0) & (w == 0), 0.0, terms).sum(axis=-1)
    return result


def jensen_shannon(reference: Counts, window: Counts) -> float:
    """Return the Jensen-Shannon distance (square root of the divergence, base 2), in [0, 1]."""
    r, w = reference / reference.sum(), window / window.sum()
    middle = (r + w) / 2
    divergence = (special.rel_entr(r, middle) + special.rel_entr(w, middle)).sum() / 2
    return float(np.sqrt(max(divergence / np.log(2), 0.0)))


def chi_square(reference: Counts, window: Counts) -> tuple[float, float, float]:
    """Return (statistic, p-value, Cramér's V) of homogeneity; bins empty on both sides drop out."""
    r, w = reference.astype(np.float64), window.astype(np.float64)
    some = r + w > 0
    r, w = r[some], w[some]
    m, n = r.sum(), w.sum()
    terms = np.square(np.sqrt(n / m) * r - np.sqrt(m / n) * w) / (r + w)
    statistic = float(terms.sum())
    p_value = float(special.chdtrc(len(r) - 1, statistic)) if len(r) > 1 else 1.0
    return statistic, p_value, float(np.sqrt(statistic / (m + n)))


def kolmogorov_smirnov(reference: ColumnSummary, window: ColumnSummary) -> tuple[float, float]:
    """Return (D, p-value) of the values present; D is exact up to the grid's resolution.

    Both summaries need a value. With ties the p-value is conservative.
    """
    m, n = reference.present, window.present
    gap = np.cumsum(reference.counts) / m - np.cumsum(window.counts) / n
    d = float(np.abs(gap).max())
    size = np.sqrt(m * n / (m + n))
    return d, float(special.kolmogorov((size + 0.12 + 0.11 / size) * d))


def wasserstein(reference: ColumnSummary, window: ColumnSummary, grid: Grid) -> float | None:
    """Return the Wasserstein-1 distance in standard deviations of the reference.

    Cells count as their mean, which is exact for columns that the grid resolves. None without
    finite values, or when the reference does not vary.
    """
    spread = reference.std(grid)
    if not reference.finite or not window.finite or not spread > 0:
        return None
    (a, rows_a), (b, rows_b) = _cells(reference), _cells(window)
    return float(stats.wasserstein_distance(a, b, rows_a, rows_b) / spread)


def _cells(summary: ColumnSummary) -> tuple[Floats, Floats]:
    """Return the means of the non-empty cells, and their rows."""
    counts = summary.finite_counts.astype(np.float64)
    some = counts > 0
    return summary.sums[some] / counts[some], counts[some]


def more_often(window: float, n: int, reference: float, m: int) -> float:
    """Return the p-value of an event being more frequent among `n` rows than among `m`.

    The conditional test of two Poisson rates (Przyborowski and Wilenski 1940), one-sided;
    conservative for frequent events. 1.0 when either side has no rows.
    """
    if n == 0 or m == 0 or window <= 0:
        return 1.0
    total = window + reference
    return float(special.betainc(window, total - window + 1, n / (n + m)))


DRAWS = 4000
#: Among more bins than `MANY` fewer draws are made, so that a column of many categories takes
#: seconds and not minutes: the PSI is then a sum of so many small terms that the fitted tail is
#: close, and the mean of 400 draws is known to a twentieth of its own spread.
MANY, FEWEST_DRAWS = 1024, 400
#: Numbers that are drawn at a time, which bounds the memory: 32 MB an array.
_BLOCK = DRAWS * MANY
#: Exceedances below which the p-value is read off the fitted tail and not counted.
_COUNTED = 10
_SEED = 20_240_816


@dataclass(frozen=True)
class Null:
    """Values of a statistic when nothing has changed, ascending, with their mean and variance."""

    draws: Floats
    mean: float
    variance: float

    def p_value(self, value: float) -> float:
        """Return the chance of a value at least this large.

        Counted among the draws; beyond them, the tail of a gamma distribution with the draws' mean
        and variance (the PSI is asymptotically a multiple of a chi-square).
        """
        above = len(self.draws) - int(np.searchsorted(self.draws, value, side="left"))
        counted = (1 + above) / (1 + len(self.draws))
        if above >= _COUNTED or self.variance <= 0 or value <= self.mean:
            return counted
        shape, scale = self.mean**2 / self.variance, self.variance / self.mean
        return min(counted, max(float(special.gammaincc(shape, value / scale)), 1e-300))

    def quantile(self, q: float) -> float:
        """Return the `q`-quantile, from the fitted tail where the draws are too few to tell."""
        if (1 - q) * len(self.draws) >= _COUNTED or self.variance <= 0:
            return float(np.quantile(self.draws, q))
        shape, scale = self.mean**2 / self.variance, self.variance / self.mean
        return max(float(self.draws[-_COUNTED]), scale * float(special.gammainccinv(shape, 1 - q)))


@dataclass(frozen=True)
class PsiTest:
    """A PSI, and what chance alone makes of it.

    Attributes:
        psi: The index itself.
        null: Its distribution when nothing has changed.
        p_value: Chance of one at least as large.
    """

    psi: float
    null: Null
    p_value: float


def psi_test(reference: NDArray[np.generic], window: NDArray[np.generic]) -> PsiTest:
    """Compare two vectors of bin counts (b,), each with at least one row.

    Bins that are empty on both sides are left out of the null, too: it is that of windows that
    have no row in them.
    """
    some = (np.asarray(reference) > 0) | (np.asarray(window) > 0)
    # a category that nobody has would widen the null for all the others
    kept, seen = np.asarray(reference)[some], np.asarray(window)[some]
    value = psi(kept, seen)
    null = psi_null(kept, int(seen.sum()))
    return PsiTest(value, null, null.p_value(value))


def psi_null(reference: NDArray[np.generic], n: int) -> Null:
    """Return what the PSI of `n` unchanged rows against these reference counts looks like.

    The same counts and n give the same draws; results are kept for the next window.
    """
    return _psi_null(tuple(int(count) for count in reference), int(n))


@lru_cache(maxsize=512)
def _psi_null(counts: tuple[int, ...], n: int) -> Null:
    random = seeds.generator(_SEED, "psi")
    reference = np.array(counts, dtype=np.float64)
    # a bin that the reference has never filled stays possible, as half a row
    shape = np.maximum(reference, EMPTY)
    bins = max(len(counts), 1)
    draws = min(max(DRAWS * MANY // bins, FEWEST_DRAWS), DRAWS)
    drawn = np.empty(draws)
    at_once = max(_BLOCK // bins, 1)
    for start in range(0, draws, at_once):
        part = drawn[start : start + at_once]
        shares = random.standard_gamma(shape, size=(len(part), len(counts)))
        shares /= shares.sum(axis=1, keepdims=True)
        part[:] = psi_rows(reference, random.multinomial(n, shares))
    drawn.sort()
    return Null(drawn, float(drawn.mean()), float(drawn.var()))


def adjusted(p_values: Sequence[float]) -> Floats:
    """Return p-values corrected for their number by Benjamini and Hochberg (1995).

    Calling everything at or below q a discovery keeps the expected share of false ones below q,
    and, where nothing has changed at all, the chance of any below q.
    """
    result: Floats = stats.false_discovery_control(np.asarray(p_values, dtype=np.float64))
    return result


#: Rows taken from each side; more would show differences that do not matter.
MOST_ROWS = 4000
FEWEST_ROWS = 100
_ROUNDS = 40
_SETTINGS = {
    "objective": "binary",
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_child_samples": 20,
    "feature_fraction": 0.8,
    "feature_fraction_seed": 1,
    "lambda_l2": 1.0,
    "max_bin": 63,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


@dataclass(frozen=True)
class DomainClassifierResult:
    """How well the classifier separates the two.

    Attributes:
        auc: Area under the ROC curve; one half: it cannot.
        p_value: Chance of one as large when nothing has changed.
        importance: Shape (p,): each column's share in separating them; sums to one.
    """

    auc: float
    p_value: float
    importance: Floats


def classify_domain(reference: Floats, window: Floats) -> DomainClassifierResult:
    """Train a classifier of `window` (n, p) against `reference` (m, p).

    NaN is a value like any other.

    Raises:
        ImportError: LightGBM is not installed.
        ValueError: Fewer than `FEWEST_ROWS` rows on a side.
    """
    import lightgbm

    if min(len(reference), len(window)) < FEWEST_ROWS:
        raise ValueError(f"at least {FEWEST_ROWS} rows are needed on each side")
    random = seeds.generator(_SEED, "together", len(reference), len(window))
    sides = [_halves(rows[:MOST_ROWS], random) for rows in (reference, window)]
    areas, variances = [], []
    importance = np.zeros(reference.shape[1])
    for half in (0, 1):
        X = np.concatenate([side[half] for side in sides])
        label = np.repeat([0.0, 1.0], [len(side[half]) for side in sides])
        data = lightgbm.Dataset(X, label, params={"verbosity": -1, "max_bin": 63})
        model = lightgbm.train(_SETTINGS, data, num_boost_round=_ROUNDS)
        scores = [model.predict(side[1 - half], num_threads=1) for side in sides]
        areas.append(area_under_curve(*scores))
        m, n = len(scores[0]), len(scores[1])
        variances.append((m + n + 1) / (12 * m * n))
        importance += model.feature_importance("gain")
    auc = sum(areas) / 2
    # the halves are scored by models of each other's rows: taken as independent
    z = (auc - 0.5) / math.sqrt(sum(variances) / 4)
    total = importance.sum()
    shares = importance / total if total > 0 else importance
    return DomainClassifierResult(auc, float(special.ndtr(-z)), shares)


def _halves(rows: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    order = random.permutation(len(rows))
    return rows[order[::2]], rows[order[1::2]]


def area_under_curve(negative: Floats, positive: Floats) -> float:
    """Return the chance that a positive scores above a negative; ties count half."""
    u = stats.mannwhitneyu(positive, negative, method="asymptotic").statistic
    return float(u / (len(positive) * len(negative)))


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
