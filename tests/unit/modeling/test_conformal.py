import numpy as np
import pytest

from tasador.core.errors import BundleError, TrainingError
from tasador.modeling.conformal import ConformalInterval, calibrate


def test_a_constant_interval_has_the_same_width_everywhere():
    interval = ConformalInterval(coverage=0.9, quantile=2.0)
    low, high = interval.bounds(np.array([1.0, 5.0]), np.zeros((2, 3)))
    assert low.tolist() == [-1.0, 3.0]
    assert high.tolist() == [3.0, 7.0]


def test_a_scaled_interval_grows_with_its_column_and_takes_the_floor_for_nan():
    interval = ConformalInterval(0.9, 2.0, scale_index=1, scale_floor=0.5, scale_offset=1.0)
    Z = np.array([[9.0, 3.0], [9.0, 0.1], [9.0, np.nan]])
    assert interval.half_width(Z).tolist() == [8.0, 3.0, 3.0]


def test_the_quantile_is_the_finite_sample_one():
    residuals = np.arange(1.0, 20.0)  # 19 rows: ceil(20 * 0.9) = the 18th smallest
    assert calibrate(-residuals, np.zeros((19, 1)), 0.9, None).quantile == 18.0


def test_new_rows_are_covered_as_often_as_promised_and_hard_rows_get_more_room():
    rng = np.random.default_rng(0)
    spread = rng.lognormal(0, 0.7, 40_000)
    errors = spread * rng.normal(size=40_000)
    Z = np.column_stack([np.zeros(40_000), spread])
    for index in (None, 1):
        interval = calibrate(errors[:2000], Z[:2000], 0.9, index)
        low, high = interval.bounds(np.zeros(38_000), Z[2000:])
        covered = (low <= errors[2000:]) & (errors[2000:] <= high)
        assert covered.mean() == pytest.approx(0.9, abs=0.02)
    assert interval.half_width(np.array([[0.0, 4.0]])) > interval.half_width(np.array([[0.0, 0.5]]))


def test_a_scale_without_a_positive_value_gives_a_constant_width():
    Z = np.column_stack([np.zeros(30), np.full(30, np.nan)])
    assert calibrate(np.ones(30), Z, 0.9, 0).scale_index is None
    assert calibrate(np.ones(30), Z, 0.9, 1).scale_index is None


@pytest.mark.parametrize(
    ("residuals", "coverage", "message"),
    [
        (np.ones(5), 0.9, "too few rows.*at least 9 for 90%, got 5"),
        (np.ones(50), 1.0, "coverage is invalid"),
        (np.full(50, np.nan), 0.9, "50 not finite"),
        (np.ones((50, 1)), 0.9, "one a row"),
    ],
    ids=["few", "coverage", "nan", "shape"],
)
def test_what_cannot_be_calibrated_is_refused(residuals, coverage, message):
    with pytest.raises(TrainingError, match=message):
        calibrate(residuals, np.zeros((len(residuals), 2)), coverage, None)


def test_it_is_written_and_read_as_plain_values():
    interval = ConformalInterval(0.9, 2.0, 1, 0.5, 1.0)
    assert ConformalInterval.from_dict(interval.to_dict()) == interval


@pytest.mark.parametrize(
    "change",
    [
        {"coverage": 1.5},
        {"quantile": -1.0},
        {"quantile": None},
        {"scale_index": 1.5},
        {"scale_index": -1},
        {"scale_index": True},
        {"unknown": 1},
    ],
    ids=str,
)
def test_plain_values_that_are_no_interval_are_refused(change):
    plain = ConformalInterval(0.9, 2.0, 1, 0.5, 1.0).to_dict() | change
    with pytest.raises(BundleError, match="interval cannot be read"):
        ConformalInterval.from_dict(plain)


def test_far_from_comparables_an_interval_holds_what_it_promises_of_places_never_seen():
    rng = np.random.default_rng(1)
    far = rng.random(6000) < 0.5
    errors, Z = rng.normal(size=6000) * np.where(far, 3.0, 1.0), np.zeros((6000, 1))
    interval = calibrate(errors[~far][:1500], Z[:1500], 0.9, None)
    assert interval.far_factor == 1.0
    wider = interval.widened(errors[:3000], Z[:3000], far[:3000])
    assert wider.far_factor == pytest.approx(3.0, rel=0.1)
    low, high = wider.bounds(np.zeros(3000), Z[3000:], far[3000:])
    inside = (low <= errors[3000:]) & (errors[3000:] <= high)
    for rows in (far[3000:], ~far[3000:]):
        assert inside[rows].mean() == pytest.approx(0.9, abs=0.03)
    few = np.zeros(6000, dtype=bool)
    few[:3] = True  # too few to tell: all errors in places never seen are taken
    assert 1.0 < interval.widened(errors, Z, few).far_factor < wider.far_factor
    assert interval.widened(errors * 0.01, Z, far).far_factor == 1.0
    assert ConformalInterval.from_dict(wider.to_dict()) == wider
    assert "far_factor" not in interval.to_dict()  # and older bundles have none


def test_the_scale_s_floor_is_its_5_percent_quantile_and_its_offset_the_median():
    scale = np.arange(1.0, 102.0)
    interval = calibrate(np.ones(101), scale[:, np.newaxis], 0.9, 0)
    assert (interval.scale_floor, interval.scale_offset) == (6.0, 51.0)
    # the ratios are errors over (offset + scale); the 92nd smallest of 101 equal errors
    ratios = np.sort(1.0 / (51.0 + np.maximum(scale, 6.0)))
    assert interval.quantile == pytest.approx(ratios[91])


def test_a_row_without_spread_does_not_widen_the_intervals_of_others():
    scale = np.full((100, 1), 2.0)
    usual = calibrate(np.ones(100), scale, 0.9, 0).half_width(scale[:1])
    scale[:15] = 1e-9
    assert calibrate(np.ones(100), scale, 0.9, 0).half_width(scale[-1:]) < 2.1 * usual
