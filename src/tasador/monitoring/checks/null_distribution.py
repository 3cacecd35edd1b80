"""What chance alone does: the null distribution of the PSI at any sample size, and many tests.

A PSI of .1 means little among 50 rows, where chance alone exceeds it in 84% of windows, and much
among 100 000. The null here is drawn from the reference itself: the shares of its bins are known
only as well as m rows tell, so they are drawn from a Dirichlet distribution over the reference's
counts (Rubin's Bayesian bootstrap, 1981), and a window's counts from a multinomial of n rows with
those shares. Both samples' noise is in it, whatever m and n are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tasador.core import seeds
from tasador.monitoring.checks.distances import EMPTY, psi, psi_rows

Floats = NDArray[np.float64]

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


def judge_psi(reference: NDArray[np.generic], window: NDArray[np.generic]) -> PsiTest:
    """Compare two vectors of bin counts (b,), each with at least one row.

    Bins that are empty on both sides are left out of the null, too: it is that of windows that
    have no row in them.
    """
    some = (np.asarray(reference) > 0) | (np.asarray(window) > 0)
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
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)[::-1]
    ranks = np.arange(len(p), 0, -1)
    result = np.empty(len(p))
    result[order] = np.minimum(np.minimum.accumulate(p[order] * len(p) / ranks), 1.0)
    return result
