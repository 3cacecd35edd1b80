import numpy as np

from tasador.selection.test_metrics import CrossValidation
from tasador.training.register.step import _out_of_fold


def test_rows_that_were_never_ahead_in_time_get_their_random_estimate():
    Z = np.arange(12.0).reshape(6, 2)

    def answers(rows, by):
        return CrossValidation(np.array(rows), by + np.array(rows, float), Z[rows], {}, {})

    forward, random = answers([3, 4, 5], 10.0), answers([0, 2, 3, 5], 20.0)
    found = _out_of_fold(forward, random)
    assert dict(zip(found.rows.tolist(), found.score.tolist(), strict=True)) == {
        0: 20.0, 2: 22.0, 3: 13.0, 4: 14.0, 5: 15.0
    }  # fmt: skip
    assert np.isnan(found.half_widths).all()
    assert _out_of_fold(forward, None).rows.tolist() == [3, 4, 5]
