"""Tests that may be looked at after every row: their promises hold whenever one stops.

A test made for a fixed number of rows and looked at again and again raises a false alarm sooner or
later. These do not: the chance that they *ever* do is at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Rows for which the confidence sequence is tightest.
TUNED_FOR = 500
_FASTER = (2.0, 5.0, 20.0)
_SHARES = (0.1, 0.3, 0.6, 0.9)


@dataclass(frozen=True)
class Moments:
    """Number, mean and variance (population) of some values.

    Attributes:
        n: How many.
        mean: Their mean; 0 without any.
        variance: Their variance; 0 without any.
    """

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float] | Floats) -> Moments:
        """Return the moments of finite `values`."""
        array = np.asarray(values, dtype=np.float64)
        return cls(len(array), float(array.mean()), float(array.var())) if len(array) else cls()

    def plus(self, other: Moments) -> Moments:
        """Return the moments of both together (Chan, Golub and LeVeque 1979)."""
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * other.n / n
        total = self.variance * self.n + other.variance * other.n
        return Moments(n, mean, (total + gap * gap * self.n * other.n / n) / n)

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Return two bounds between which the true mean stays at all times.

        The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas
        (2024, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
        Statistics 52(6), theorem 2.2), which is the normal mixture of Robbins (1970) and of the
        mixture SPRT (Johari, Koomen, Pekelis and Walsh 2022) with an estimated variance. Being
        asymptotic, it wants some 50 values, more when they are very skewed. Values
        must not be constant for it to mean anything: with a variance of 0 the bounds are the mean.

        Args:
            alpha: Chance that the mean is ever outside.

        Returns:
            Lower and upper bound; infinite for fewer than two values.
        """
        if self.n < 2:
            return -math.inf, math.inf
        rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / TUNED_FOR
        scaled = self.n * rho2 + 1
        wide = math.sqrt(2 * scaled / (self.n**2 * rho2) * math.log(math.sqrt(scaled) / alpha))
        half = wide * math.sqrt(self.variance)
        return self.mean - half, self.mean + half


def failure_evidence(failures: int, attempts: int, limit: float) -> float:
    """Return how strongly failures speak for a share above `limit`: an e-value.

    The mean of likelihood ratios of several larger shares against `limit`, each of which is a
    supermartingale when the true share is at most `limit`. By Ville's inequality (1939) it ever
    reaches 1/alpha with a chance of at most alpha.

    Args:
        failures: How many attempts failed.
        attempts: How many there were.
        limit: The share that is still acceptable, in (0, 1).
    """
    shares = {s for s in (*(limit * f for f in _FASTER), *_SHARES) if limit < s < 1.0}
    if not shares:
        return 1.0
    good = attempts - failures
    logs = [
        failures * math.log(share / limit) + good * math.log((1 - share) / (1 - limit))
        for share in shares
    ]
    # taken out of the sum: the exponentials of the others cannot overflow
    most = max(logs)
    value = sum(math.exp(one - most) for one in logs) / len(logs)
    # beyond 700 the exponential is more than a float holds
    return math.exp(min(most + math.log(value), 700.0))
