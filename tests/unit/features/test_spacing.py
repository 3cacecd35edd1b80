"""The distance below which two comparables count as equally near."""

import numpy as np
import pytest

from tasador.features.comparables import _typical_spacing


def test_it_is_a_tenth_of_the_side_of_a_point_s_own_box():
    grid = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), axis=-1).reshape(-1, 2)
    assert _typical_spacing(grid) == pytest.approx(0.1 * 9.0 / 10.0)
    flat = np.column_stack([grid, np.full(100, 7.0)])  # a column that tells nothing apart
    assert _typical_spacing(flat) == pytest.approx(0.09)
    assert _typical_spacing(grid[:1]) == _typical_spacing(np.ones((5, 2))) == 1e-9
