"""Bounds that hold at every moment, checked at every moment."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasador.serving.experiment import Moments, failure_evidence


def test_moments_of_parts_are_those_of_the_whole():
    values = np.random.default_rng(0).normal(3, 2, 101)
    parts = Moments()
    for part in (values[:1], values[1:40], values[40:40], values[40:]):
        parts = parts.plus(Moments.of(part))
    whole = Moments.of(values)
    assert parts.n == whole.n == 101
    assert parts.mean == pytest.approx(whole.mean)
    assert parts.variance == pytest.approx(values.var())
    assert Moments().plus(Moments()) == Moments()


def test_with_fewer_than_two_values_nothing_is_known():
    assert Moments.of([1.0]).bounds(0.05) == (-math.inf, math.inf)
    assert Moments.of([2.0, 2.0]).bounds(0.05) == (2.0, 2.0)


def test_the_mean_stays_inside_at_all_times_at_once():
    """Differences of skewed errors, looked at after each row from the 50th on, alpha 10%."""
    rng = np.random.default_rng(1)
    histories, rows, alpha = 400, 3000, 0.1
    values = 1.0 + rng.exponential(1.0, (histories, rows)) - rng.exponential(1.0, (histories, rows))
    n = np.arange(1, rows + 1)
    mean = np.cumsum(values, axis=1) / n
    variance = np.cumsum(values**2, axis=1) / n - mean**2
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / 500
    scaled = n * rho2 + 1
    wide = np.sqrt(2 * scaled / (n**2 * rho2) * np.log(np.sqrt(scaled) / alpha))
    one = Moments(1000, 0.0, 4.0).bounds(alpha)[1]
    assert wide[999] * 2 == pytest.approx(one)  # the same formula, all rows at once
    outside = np.abs(mean - 1.0) > wide * np.sqrt(variance)
    assert np.mean(outside[:, 49:].any(axis=1)) <= alpha
    fixed = np.abs(mean - 1.0) > 1.645 * np.sqrt(variance / n)  # a test meant for one look
    assert np.mean(fixed[:, 49:].any(axis=1)) > 4 * alpha


def test_failures_ever_raise_a_false_alarm_at_most_as_often_as_promised():
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(400):
        failed = np.cumsum(rng.random(2000) < 0.01)
        alarms += any(
            failure_evidence(int(failed[n - 1]), n, 0.01) >= 20 for n in range(1, 2001, 20)
        )
    assert alarms / 400 <= 0.05


@pytest.mark.parametrize(("share", "bound"), [(1.0, 4), (0.3, 40), (0.05, 900)])
def test_a_failing_challenger_is_known_within_a_bounded_number_of_rows(share, bound):
    rng = np.random.default_rng(3)
    needed = []
    for _ in range(50):
        failed = np.cumsum(rng.random(3000) < share)
        needed.append(
            next(n for n in range(1, 3001) if failure_evidence(int(failed[n - 1]), n, 0.005) >= 80)
        )
    assert np.quantile(needed, 0.9) <= bound


def test_evidence_is_one_without_rows_and_grows_without_overflow():
    assert failure_evidence(0, 0, 0.01) == pytest.approx(1.0)
    assert failure_evidence(0, 1000, 0.01) < 1.0
    assert math.isfinite(failure_evidence(10**6, 10**6, 0.01))
    assert failure_evidence(5, 10, 0.999) == 1.0
