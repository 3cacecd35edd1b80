"""Target means against sums by hand."""

import numpy as np
import pytest

from tasador.features.encoders import TargetMeans


@pytest.mark.parametrize("weight", [0.5, 1.0, 10.0])
def test_a_level_is_shrunk_towards_the_overall_mean_by_its_weight(weight):
    codes = np.array([0.0, 0.0, 0.0, 1.0, np.nan])
    target = np.array([1.0, 2.0, 6.0, 11.0, 5.0])  # mean 5
    means = TargetMeans.fit(codes, target, 3, weight).means
    expected = [
        (9.0 + weight * 5.0) / (3 + weight),
        (11.0 + weight * 5.0) / (1 + weight),
        5.0,  # a level without rows
        5.0,  # unknown
        5.0,  # missing: its one row says 5
    ]
    assert means == pytest.approx(expected)
