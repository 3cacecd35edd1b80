"""How far two samples lie apart: plain functions of counts.

Sources: PSI as in Siddiqi, *Credit Risk Scorecards* (2006), also Jeffreys' divergence; Jensen-
Shannon distance of Lin (1991), base 2; two-sample Kolmogorov-Smirnov with Stephens' correction
(1970) for its p-value; Pearson's chi-square of homogeneity with Cramér's V; Wasserstein-1 over the
reference's standard deviation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tasador.monitoring.summaries.column_summary import Counts, Grid, Summary

Floats = NDArray[np.float64]

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


def kolmogorov_smirnov(reference: Summary, window: Summary) -> tuple[float, float]:
    """Return (D, p-value) of the values present; D is exact up to the grid's resolution.

    Both summaries need a value. With ties the p-value is conservative.
    """
    m, n = reference.present, window.present
    gap = np.cumsum(reference.counts) / m - np.cumsum(window.counts) / n
    d = float(np.abs(gap).max())
    size = np.sqrt(m * n / (m + n))
    return d, float(special.kolmogorov((size + 0.12 + 0.11 / size) * d))


def wasserstein(reference: Summary, window: Summary, grid: Grid) -> float | None:
    """Return the Wasserstein-1 distance in standard deviations of the reference.

    Cells stand for their mean, which is exact for columns that the grid resolves. None without
    finite values, or when the reference does not vary.
    """
    spread = reference.std(grid)
    if not reference.finite or not window.finite or not spread > 0:
        return None
    (a, weight_a), (b, weight_b) = _atoms(reference), _atoms(window)
    places = np.concatenate((a, b))
    weights = np.concatenate((weight_a, -weight_b))
    order = np.argsort(places)
    gap = np.abs(np.cumsum(weights[order]))[:-1]
    return float((gap * np.diff(places[order])).sum() / spread)


def _atoms(summary: Summary) -> tuple[Floats, Floats]:
    """Return the means of the non-empty cells, and their shares."""
    counts = summary.finite_counts.astype(np.float64)
    some = counts > 0
    return summary.sums[some] / counts[some], counts[some] / counts[some].sum()


def more_often(window: float, n: int, reference: float, m: int) -> float:
    """Return the p-value of an event being more frequent among `n` rows than among `m`.

    The conditional test of two Poisson rates (Przyborowski and Wilenski 1940), one-sided;
    conservative for frequent events. 1.0 when either side has no rows.
    """
    if n == 0 or m == 0 or window <= 0:
        return 1.0
    total = window + reference
    return float(special.betainc(window, total - window + 1, n / (n + m)))
